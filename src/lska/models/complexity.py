"""Parameters and operations of a network, in the conventions that protocol section 11 tells apart.

Everything is counted by hooks on the modules of a copy on the meta device: no arithmetic is done, no memory needed.
Kernels count with all their taps, also those that only meet padding.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm.layers
import torch
from torch import Tensor, nn

from lska.models.attention import DepthwiseConv2d, GatingUnit
from lska.models.van import VAN

__all__ = ["Complexity", "architecture_metrics", "count"]

_LOG = logging.getLogger(__name__)
_Conv = nn.modules.conv._ConvNd
_Norm = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_Gelu = (nn.GELU, timm.layers.activations.GELU, timm.layers.activations.GELUTanh)
# Parameters that only scale their input: no convention counts them.
_FREE = (timm.layers.LayerScale, timm.layers.LayerScale2d, nn.PReLU, nn.Embedding)


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass of one image.

    ``params``: all parameters. ``macs``: multiply-adds of convolutions and linear layers. ``flops``: the paper's
    counting (reproduces Figure 1): ``macs`` plus 2 per element of each BatchNorm and LayerNorm output plus 1 per GELU
    output. ``flops_official_utility``: the released code's counter, which sees convolutions only: their multiply-adds
    plus half an operation per biased output. ``uncounted``: names of modules with parameters whose work is in none of
    these.
    """

    params: int
    macs: int
    flops: int
    flops_official_utility: int
    uncounted: tuple[str, ...] = ()


@dataclass
class _Tally:
    """Elements and operations seen by the hooks."""

    conv: int = 0
    linear: int = 0
    conv_biases: int = 0
    normalised: int = 0
    gelu: int = 0


def count(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> Complexity:
    """Count the cost of ``model`` for one image of ``input_size`` (channels, height, width); the model is not changed.

    Works for any timm model. Products of two inputs (attention's query times key) are in neither convention. A module
    with parameters that is of unknown kind, or whose parameters are used without calling it, is named in a warning and
    in ``uncounted``. Raises ValueError where the network refuses the input size.
    """
    model = copy.deepcopy(model).to("meta").eval()
    tally, called = _Tally(), set()
    for module in model.modules():
        module.register_forward_hook(lambda module, _, output: called.add(module))
        if (observe := _observer(module)) is not None:
            module.register_forward_hook(lambda module, _, output, observe=observe: observe(tally, module, output))
    try:
        with torch.no_grad():
            model(torch.empty(1, *input_size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot count {type(model).__name__} at input size {input_size}: {error}") from error
    uncounted = tuple(_uncounted(model, called))
    if uncounted:
        _LOG.warning("the count of %s leaves out: %s", type(model).__name__, ", ".join(uncounted))
    macs = tally.conv + tally.linear
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs,
        flops=macs + 2 * tally.normalised + tally.gelu,
        flops_official_utility=tally.conv + tally.conv_biases // 2,
        uncounted=uncounted,
    )


def _observer(module: nn.Module) -> Callable[[_Tally, nn.Module, Tensor], None] | None:
    """What to add to the tally after a call of ``module``; None for a module without work of its own."""
    kinds = ((_Conv, _observe_conv), (nn.Linear, _observe_linear), (_Norm, _observe_norm), (_Gelu, _observe_gelu))
    return next((observe for kind, observe in kinds if isinstance(module, kind)), None)


def _observe_conv(tally: _Tally, module: nn.Module, output: Tensor) -> None:
    taps = math.prod(module.kernel_size) * module.in_channels // module.groups
    tally.conv += output.numel() * taps
    tally.conv_biases += output.numel() * (module.bias is not None)


def _observe_linear(tally: _Tally, module: nn.Module, output: Tensor) -> None:
    tally.linear += output.numel() * module.in_features


def _observe_norm(tally: _Tally, module: nn.Module, output: Tensor) -> None:
    tally.normalised += output.numel()


def _observe_gelu(tally: _Tally, module: nn.Module, output: Tensor) -> None:
    tally.gelu += output.numel()


def _uncounted(model: nn.Module, called: set[nn.Module]) -> Iterator[str]:
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        known = _observer(module) is not None
        leaf_of_unknown_kind = not known and not isinstance(module, _FREE) and not any(module.children())
        if own and (leaf_of_unknown_kind or (known and module not in called)):
            yield f"{name or 'model'} ({type(module).__name__})"


def architecture_metrics(model: nn.Module) -> dict[str, int | float | None]:
    """Design of a VAN as read off its modules (paper Table II), by metric name; numbers without unit or in pixels.

    Per stage 1 to 4: ``channels``, ``blocks``, ``expansion`` of the feed-forward part, ``embedding_kernel``,
    ``embedding_stride``, cumulative ``stride``. ``depthwise_params`` counts weights and biases of the depth-wise
    convolutions of all attention modules; ``receptive_field`` is that of one module, in pixels. For other networks
    these two are None and the stages are absent.
    """
    if not isinstance(model, VAN):
        return {"depthwise_params": None, "receptive_field": None}
    metrics: dict[str, int | float | None] = {}
    stride = 1
    for stage in range(1, model.num_stages + 1):
        design = _stage_design(getattr(model, f"patch_embed{stage}").proj, getattr(model, f"block{stage}"))
        stride *= design["embedding_stride"]
        metrics |= {f"stage{stage}_{name}": value for name, value in (design | {"stride": stride}).items()}
    units = [module for module in model.modules() if isinstance(module, GatingUnit)]
    depthwise = (module for unit in units for module in unit.modules() if isinstance(module, DepthwiseConv2d))
    metrics["depthwise_params"] = sum(parameter.numel() for conv in depthwise for parameter in conv.parameters())
    metrics["receptive_field"] = max(_extent(unit) for unit in units)
    return metrics


def _stage_design(embedding: nn.Conv2d, blocks: nn.ModuleList) -> dict[str, int | float]:
    up = blocks[0].mlp.fc1
    expansion = up.out_channels / up.in_channels
    return {
        "channels": embedding.out_channels,
        "blocks": len(blocks),
        "expansion": int(expansion) if expansion.is_integer() else expansion,
        "embedding_kernel": embedding.kernel_size[0],
        "embedding_stride": embedding.stride[0],
    }


def _extent(unit: GatingUnit) -> int:
    """Height in pixels that one output of ``unit`` sees, from the kernels of its convolutions."""
    convolutions = (module for module in unit.modules() if isinstance(module, nn.Conv2d))
    return 1 + sum(conv.dilation[0] * (conv.kernel_size[0] - 1) for conv in convolutions)
