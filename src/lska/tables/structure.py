"""What a VAN is made of, read from its modules: stages, the operations of one block, those of its attention.

Figure 5 is drawn from this, so that another architecture gives another drawing. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import Graph, Node


@dataclass(frozen=True)
class Convolution:
    """Kernel (height, width) in taps, dilation, stride, channels (in, out), and whether it is depth-wise."""

    kernel: tuple[int, int]
    dilation: int
    stride: int
    channels: tuple[int, int]
    depthwise: bool

    @property
    def weights_per_channel(self) -> int:
        """Weights, without the bias, of one output channel."""
        return self.kernel[0] * self.kernel[1] * (1 if self.depthwise else self.channels[0])


@dataclass(frozen=True)
class Step:
    """One operation of a chain.

    ``kind`` is convolution, norm, activation, gate, scale, product or sum; ``name`` the path of the module or
    parameter, empty for products and sums; ``layer`` the class of the module, where there is one. ``bypass`` is the
    step whose output a product or sum takes beside that of the step before: 0 is the chain's input, steps count from 1.
    """

    kind: str
    name: str = ""
    layer: str = ""
    convolution: Convolution | None = None
    bypass: int | None = None


@dataclass(frozen=True)
class Stage:
    """One stage: embedding, its norm, number of blocks, closing norm.

    ``expansion`` is that of the feed-forward part, ``reduction`` the image side over the side of the stage's maps.
    """

    embedding: Convolution
    embedding_norm: str
    blocks: int
    expansion: float
    norm: str
    reduction: int

    @property
    def channels(self) -> int:
        """Channels of the stage's maps."""
        return self.embedding.channels[1]


@dataclass(frozen=True)
class Structure:
    """A network: stages, the chain of its last block, the chain of that block's attention, pooling, classes."""

    attention: str
    kernel_size: int
    stages: tuple[Stage, ...]
    block: tuple[Step, ...]
    gate: tuple[Step, ...]
    pooling: str
    classes: int


def structure(network: nn.Module) -> Structure:
    """Read a network of :class:`lska.models.van.VAN`; weights are not looked at, so that it may be on the meta device.

    Raises:
        ValueError: blocks that differ in more than their channels, or an operation that no step stands for.
    """
    numbers = range(1, network.num_stages + 1)
    blocks = [block for number in numbers for block in getattr(network, f"block{number}")]
    chains = [(steps(block), steps(_gating_unit(block))) for block in blocks]
    if len({tuple(_without_channels(chain) for chain in pair) for pair in chains}) != 1:
        raise ValueError(f"{type(network).__name__}: expected blocks that differ in nothing but channels; they do")
    stages: list[Stage] = []
    for number in numbers:
        stages.append(_stage(network, number, stages[-1].reduction if stages else 1))
    block, gate = chains[-1]
    pooling, classes = str(network.global_pool.pool_type), network.num_classes
    return Structure(network.attention, network.kernel_size, tuple(stages), block, gate, pooling, classes)


def steps(module: nn.Module) -> tuple[Step, ...]:
    """The operations of a module with one input, in the order in which its forward pass takes them.

    A gating unit inside it is one step. Raises ValueError where an operation is none of the kinds of :class:`Step`, or
    the operations are no chain with bypasses.
    """
    graph = _trace(module)
    places: dict[Node, int] = {}
    found: list[Step] = []
    for node in graph.nodes:
        inputs = [argument for argument in node.args if argument in places]
        if node.op == "placeholder":
            places[node] = 0
        elif node.op == "call_module" and inputs:
            found.append(_module_step(module, str(node.target)))
            places[node] = len(found)
        elif node.op == "call_function" and inputs and node.target is not getattr:
            found += _arithmetic_steps(module, node, [places[item] for item in inputs], len(found))
            places[node] = len(found)
    return tuple(found)


def reach(convolutions: Sequence[Convolution]) -> tuple[int, int]:
    """Extent (height, width) in pixels of what convolutions of stride 1, one after the other, see together."""
    return tuple(1 + sum(c.dilation * (c.kernel[axis] - 1) for c in convolutions) for axis in (0, 1))


def segments(chain: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Cut a chain wherever no bypass leads across; bypasses are counted anew in each piece (a block has two)."""
    spans = [(step.bypass, number) for number, step in enumerate(chain, 1) if step.bypass is not None]
    ends = {end for _, end in spans} | {len(chain)}
    cuts = [0, *(cut for cut in sorted(ends) if not any(start < cut < end for start, end in spans))]
    pieces = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        pieces.append(tuple(_moved(step, start) for step in chain[start:end]))
    return pieces


def _moved(step: Step, start: int) -> Step:
    bypass = None if step.bypass is None else step.bypass - start
    return Step(step.kind, step.name, step.layer, step.convolution, bypass)


def _trace(module: nn.Module) -> Graph:
    from torch.fx import Tracer

    from lska.models.attention import GatingUnit

    class Leaves(Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, GatingUnit) or not any(m.children())

    return Leaves().trace(module)


def _gating_unit(block: nn.Module) -> nn.Module:
    from lska.models.attention import GatingUnit

    found = [module for module in block.modules() if isinstance(module, GatingUnit)]
    if len(found) != 1:
        raise ValueError(f"{type(block).__name__}: expected one gating unit in a block, found {len(found)}")
    return found[0]


def _module_step(parent: nn.Module, name: str) -> Step:
    from torch import nn

    from lska.models.attention import GatingUnit

    module = parent.get_submodule(name)
    kinds = {
        "gate": GatingUnit,
        "convolution": nn.Conv2d,
        "norm": nn.BatchNorm2d | nn.LayerNorm,
        "activation": nn.GELU | nn.ReLU | nn.SiLU,
    }
    for kind, types in kinds.items():
        if isinstance(module, types):
            convolution = _convolution(module) if kind == "convolution" else None
            return Step(kind, name, _layer(module), convolution)
    raise ValueError(f"{type(parent).__name__}.{name}: no drawing for a {type(module).__name__}")


def _arithmetic_steps(module: nn.Module, node: Node, inputs: list[int], last: int) -> list[Step]:
    """A product or sum of the last step and an earlier one; in addcmul, the last step is scaled before the sum."""
    import operator

    import torch

    kinds: dict[Callable[..., object], str] = {operator.mul: "product", operator.add: "sum", torch.addcmul: "sum"}
    kind = kinds.get(node.target)
    if kind is None or len(inputs) != 2 or last not in inputs:
        owner = type(module).__name__
        raise ValueError(f"{owner}: no drawing for {node.target} of the steps {inputs} after step {last}")
    joined = Step(kind, bypass=min(inputs))
    return [_scale_step(module, node.args[2]), joined] if node.target is torch.addcmul else [joined]


def _scale_step(module: nn.Module, node: Node) -> Step:
    """The parameter that a scale is made from; its layer is the module, if any, that it passes on its way."""
    layer = ""
    while node.op != "get_attr":
        if node.op == "call_module":
            layer = _layer(module.get_submodule(str(node.target)))
        node = node.args[0]
    return Step("scale", str(node.target), "" if layer == "Identity" else layer)


def _stage(network: nn.Module, number: int, reduction: int) -> Stage:
    embedding, blocks = getattr(network, f"patch_embed{number}"), getattr(network, f"block{number}")
    first = _convolution(embedding.proj)
    hidden = max(step.convolution.channels[1] for step in steps(blocks[0]) if step.convolution is not None)
    return Stage(
        embedding=first,
        embedding_norm=_layer(embedding.norm),
        blocks=len(blocks),
        expansion=hidden / first.channels[1],
        norm=_layer(getattr(network, f"norm{number}")),
        reduction=reduction * first.stride,
    )


def _convolution(module: nn.Conv2d) -> Convolution:
    depthwise = module.groups == module.in_channels > 1
    channels = (module.in_channels, module.out_channels)
    return Convolution(tuple(module.kernel_size), max(module.dilation), max(module.stride), channels, depthwise)


def _layer(module: nn.Module) -> str:
    return type(module).__name__.removesuffix("2d")


def _without_channels(chain: Sequence[Step]) -> tuple[object, ...]:
    def key(step: Step) -> tuple[object, ...]:
        c = step.convolution
        # Drop-path, the layer of a scale, is an identity in a network's first block.
        layer = "" if step.kind == "scale" else step.layer
        return step.kind, step.name, layer, step.bypass, c and (c.kernel, c.dilation, c.depthwise)

    return tuple(key(step) for step in chain)
