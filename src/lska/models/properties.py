"""What convolution, self-attention, LKA and LSKA can do (paper Table I), measured on the modules by their gradients.

Each module is built with random weights in double precision and read as a weighting: weights computed from a guide x
are applied to values v; in ordinary use both are the same map. The Jacobian of the central output with respect to v,
with x held fixed, is the weights that are in force. Four questions are asked of them:

- long-range dependence: is the range (side in pixels of the square of inputs that one output depends on) above 7, the
  largest kernel of common convolutional networks?
- spatial adaptability: do the weights change when the content of the input does?
- channel adaptability: do they change by different amounts in different channels?
- scalability to extremely large kernels: do the parameters of the spatial part grow at most in proportion to the kernel
  size from k = 7 to k = 65, that is by at most 65 / 7?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lska.models.attention import GatingUnit
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric

__all__ = ["MODULES", "REASONS", "measure_module"]

MODULES = ("convolution", "self_attention", "lka", "lska")
REASONS = {"self_attention": {"scalability": "self-attention has no kernel that could be enlarged"}}

CHANNELS = 8
MAP_SIZE = 31  # pixels; odd, and wider than the kernel of 23, so that the range is not cut at the border
LARGE_KERNEL_ATTENTION_SIZE = 23
KERNEL_SIZES = (7, 65)
LONG_RANGE = 7  # pixels
LINEAR_GROWTH = KERNEL_SIZES[1] / KERNEL_SIZES[0]
# Far above the rounding of double precision (1e-15) and far below any real dependence (1e-2).
TOLERANCE = 1e-9

Weighting = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Subject:
    """A module in ordinary use, as a weighting, and rebuilt for a kernel size (None where it has no kernel)."""

    forward: Callable[[Tensor], Tensor]
    weighting: Weighting
    with_kernel: Callable[[int], nn.Module] | None


def measure_module(module: str) -> dict[str, dict]:
    """Metric entries of one of ``MODULES``: the four answers as 0 or 1, and what was measured for each.

    ``range_pixels``; ``weight_change`` and ``channel_spread``, mean and deviation over channels of the relative change
    (0 to 1) of the weights between two inputs; ``growth_k7_k65``, ratio of spatial parameters. A property that does not
    apply has the value None (see ``REASONS``). Every call gives the same result. Raises ValueError for another name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = _subject(module)
        first, second = torch.randn(2, 1, CHANNELS, MAP_SIZE, MAP_SIZE, dtype=torch.double)
        extent = _range(subject.forward, first)
        change = _relative_change(subject.weighting, first, second)
        growth = _growth(subject.with_kernel) if subject.with_kernel else None
    mean, spread = change.mean().item(), change.std().item()
    return {
        "long_range_dependence": metric(int(extent > LONG_RANGE), "1"),
        "range_pixels": metric(extent, "pixels"),
        "spatial_adaptability": metric(int(mean > TOLERANCE), "1"),
        "weight_change": metric(mean, "1"),
        "channel_adaptability": metric(int(spread > TOLERANCE), "1"),
        "channel_spread": metric(spread, "1"),
        "scalability": metric(None if growth is None else int(growth <= LINEAR_GROWTH), "1"),
        "growth_k7_k65": metric(growth, "1"),
    }


def _subject(module: str) -> _Subject:
    if module == "convolution":
        convolution = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).double()
        return _Subject(
            convolution, lambda guide, values: convolution(values), lambda k: nn.Conv2d(CHANNELS, CHANNELS, k)
        )
    if module == "self_attention":
        return _self_attention(nn.MultiheadAttention(CHANNELS, num_heads=1, batch_first=True).double())
    if module in ("lka", "lska"):
        unit = GatingUnit(CHANNELS, module, LARGE_KERNEL_ATTENTION_SIZE).double()
        return _Subject(
            unit,
            lambda guide, values: unit.attention_map(guide) * values,
            lambda k: GatingUnit(CHANNELS, module, k),
        )
    raise InputError(f"module: expected one of {', '.join(MODULES)}; found {module!r}")


def _self_attention(attention: nn.MultiheadAttention) -> _Subject:
    """One-head self-attention over the pixels of a map."""

    def weighting(guide: Tensor, values: Tensor) -> Tensor:
        tokens, contents = guide.flatten(2).transpose(1, 2), values.flatten(2).transpose(1, 2)
        mixed, _ = attention(tokens, tokens, contents, need_weights=False)
        return mixed.transpose(1, 2).reshape(values.shape)

    return _Subject(lambda x: weighting(x, x), weighting, None)


def _central_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative of the central output position with respect to ``x``: (C, C, H, W), output channel first."""
    x = x.detach().requires_grad_()
    centre = function(x)[0, :, MAP_SIZE // 2, MAP_SIZE // 2]
    return torch.stack([torch.autograd.grad(value, x, retain_graph=True)[0][0] for value in centre])


def _range(forward: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Side in pixels of the smallest square that holds every input position with a gradient at the centre."""
    seen = _central_jacobian(forward, x).abs().amax(dim=(0, 1)) > 0
    rows, columns = seen.nonzero(as_tuple=True)
    return int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 1


def _relative_change(weighting: Weighting, first: Tensor, second: Tensor) -> Tensor:
    """Difference of each output channel's weights between two guides, relative to the sum of their norms: (C,)."""
    values = torch.zeros_like(first)
    a, b = (_central_jacobian(lambda v, x=x: weighting(x, v), values).flatten(1) for x in (first, second))
    return (a - b).norm(dim=1) / (a.norm(dim=1) + b.norm(dim=1))


def _growth(with_kernel: Callable[[int], nn.Module]) -> float:
    """Ratio of the number of spatial weights (kernels beyond 1x1, without biases) at the two kernel sizes."""
    small, large = (sum(_spatial_weights(with_kernel(k))) for k in KERNEL_SIZES)
    return large / small


def _spatial_weights(module: nn.Module) -> list[int]:
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    return [conv.weight.numel() for conv in convolutions if math.prod(conv.kernel_size) > 1]
