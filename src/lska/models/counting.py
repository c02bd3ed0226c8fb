"""Parameters and operations of a network, from which the conventions of protocol section 11 are made.

Everything is counted by hooks on the modules of a copy on the meta device: no arithmetic is done, no memory needed.
Kernels count with all their taps, also those that only meet padding.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import timm.layers
import torch
from torch import Tensor, nn

from lska.models.attention import Attention
from lska.models.van import VAN
from lska.provenance.errors import InputError

_LOG = logging.getLogger(__name__)
_Conv = nn.modules.conv._ConvNd
_KINDS = {
    "linear": nn.Linear,
    "conv": _Conv,
    "batch_norm": nn.modules.batchnorm._BatchNorm,
    "layer_norm": nn.LayerNorm,
    "gelu": (nn.GELU, timm.layers.activations.GELU, timm.layers.activations.GELUTanh),
}
# Parameters that only scale their input: no convention counts them.
_FREE = (timm.layers.LayerScale, timm.layers.LayerScale2d, nn.PReLU, nn.Embedding)

Forward = Callable[[nn.Module, Tensor], object]


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass of one image, counted by kind of work; the conventions are sums of these.

    ``params``: all parameters. ``conv`` and ``linear``: multiply-adds. Of sparse weights those in use count.
    ``conv_biases`` and ``linear_biases``: one addition per biased output. ``batch_norm``, ``layer_norm`` and ``gelu``:
    elements of the outputs. ``uncounted``: names of modules with parameters whose work is in none of these.
    """

    params: int
    conv: int = 0
    linear: int = 0
    conv_biases: int = 0
    linear_biases: int = 0
    batch_norm: int = 0
    layer_norm: int = 0
    gelu: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers."""
        return self.conv + self.linear

    @property
    def biases(self) -> int:
        """Additions of biases in convolutions and linear layers."""
        return self.conv_biases + self.linear_biases

    @property
    def flops(self) -> int:
        """The paper's counting for classification (reproduces Figure 1): ``macs`` plus 2 per normalised element plus 1
        per GELU output."""
        return self.macs + 2 * (self.batch_norm + self.layer_norm) + self.gelu

    @property
    def flops_official_utility(self) -> int:
        """The released code's counter, which sees convolutions only: their multiply-adds plus half an operation per
        biased output."""
        return self.conv + self.conv_biases // 2


def count(
    model: nn.Module,
    input_size: tuple[int, ...] = (3, 224, 224),
    forward: Forward | None = None,
    elementwise: str = "",
) -> Complexity:
    """Count the cost of ``model`` for one image of ``input_size`` (channels, height, width); the model is not changed.

    Works for any timm model. Products of two inputs (attention's query times key) are in no convention. A module with
    parameters that is of unknown kind, or whose parameters are used without calling it, is named in a warning and in
    ``uncounted``.

    Args:
        forward: runs a copy of the model on an image (1, *input_size), both on the meta device; None calls the copy.
        elementwise: start of the names of the modules whose normalisations and GELUs count; all by default.

    Raises:
        ValueError: the network refuses the input size.
    """
    model, image = copy.deepcopy(model).to("meta").eval(), torch.empty(1, *input_size, device="meta")
    names = {module: name for name, module in model.named_modules()}
    tally, called = Counter(), set()

    def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        called.add(module)
        kind = _kind(module)
        if kind in ("linear", "conv"):
            # A transposed convolution spreads each input over its taps; others gather their taps for each output.
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                positions = inputs[0].numel() // module.in_channels
            else:
                positions = output.numel() // (module.out_features if kind == "linear" else module.out_channels)
            tally[kind] += positions * _weights(module)
            tally[f"{kind}_biases"] += output.numel() * (module.bias is not None)
        elif kind is not None and names[module].startswith(elementwise):
            tally[kind] += output.numel()

    for module in names:
        module.register_forward_hook(observe)
    try:
        with torch.no_grad():
            model(image) if forward is None else forward(model, image)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"cannot count {type(model).__name__} at input size {input_size}: {error}") from error
    uncounted = []
    for module, name in names.items():
        known = _kind(module) is not None
        leaf_of_unknown_kind = not known and not isinstance(module, _FREE) and not any(module.children())
        own = list(module.parameters(recurse=False))
        if own and (leaf_of_unknown_kind or (known and module not in called)):
            uncounted.append(f"{name or 'model'} ({type(module).__name__})")
    if uncounted:
        _LOG.warning("the count of %s leaves out: %s", type(model).__name__, ", ".join(uncounted))
    return Complexity(sum(map(_parameters, model.modules())), **tally, uncounted=tuple(uncounted))


def _kind(module: nn.Module) -> str | None:
    return next((name for name, kind in _KINDS.items() if isinstance(module, kind)), None)


def _weights(module: nn.Module) -> int:
    """Weights of a convolution or linear layer, of a sparse one those in use."""
    return getattr(module, "used_weights", module.weight.numel())


def _parameters(module: nn.Module) -> int:
    """Parameters of a module without those of its parts, of sparse weights those in use."""
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return own - module.weight.numel() + _weights(module) if hasattr(module, "used_weights") else own


def architecture_metrics(model: nn.Module) -> dict[str, int | float | None]:
    """Design of a VAN as read off its modules (paper Table II), by metric name; numbers without unit or in pixels.

    Per stage 1 to 4: ``channels``, ``blocks``, ``expansion`` of the feed-forward part, ``embedding_kernel``,
    ``embedding_stride``, cumulative ``stride``. ``depthwise_params`` counts weights and biases of the depth-wise
    convolutions of all attention modules; ``receptive_field`` is that of one module, in pixels, None where its class
    does not say it. For other networks these two are None and the stages are absent.
    """
    if not isinstance(model, VAN):
        return {"depthwise_params": None, "receptive_field": None}
    metrics: dict[str, int | float | None] = {}
    total = 1
    for stage in range(1, model.num_stages + 1):
        embedding, blocks = getattr(model, f"patch_embed{stage}").proj, getattr(model, f"block{stage}")
        expansion = blocks[0].mlp.fc1.out_channels / blocks[0].mlp.fc1.in_channels
        total *= embedding.stride[0]
        metrics |= {
            f"stage{stage}_channels": embedding.out_channels,
            f"stage{stage}_blocks": len(blocks),
            f"stage{stage}_expansion": int(expansion) if expansion.is_integer() else expansion,
            f"stage{stage}_embedding_kernel": embedding.kernel_size[0],
            f"stage{stage}_embedding_stride": embedding.stride[0],
            f"stage{stage}_stride": total,
        }
    units = [module.spatial_gating_unit for module in model.modules() if isinstance(module, Attention)]
    convolutions = (module for unit in units for module in unit.modules() if isinstance(module, nn.Conv2d))
    depthwise = [conv for conv in convolutions if conv.groups == conv.in_channels]
    metrics["depthwise_params"] = sum(map(_parameters, depthwise))
    metrics["receptive_field"] = getattr(units[0], "receptive_field", None)
    return metrics
