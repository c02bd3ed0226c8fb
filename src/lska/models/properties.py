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

import torch
from torch import Tensor, nn

from lska.models.attention import gating_unit
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric

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


def measure_module(module: str) -> dict[str, dict]:
    """Metric entries of one of ``MODULES``: the four answers as 0 or 1, and what was measured for each.

    ``range_pixels``; ``weight_change`` and ``channel_spread``, mean and deviation over channels of the relative change
    (0 to 1) of the weights between two inputs; ``growth_k7_k65``, ratio of spatial parameters. A property that does not
    apply has the value None (see ``REASONS``). Every call gives the same result. Raises ValueError for another name.
    """
    if module not in MODULES:
        raise InputError(f"module: expected one of {', '.join(MODULES)}; found {module!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if module == "convolution":
            forward = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).double()
            weighting: Weighting = lambda guide, values: forward(values)  # noqa: E731
        elif module == "self_attention":
            weighting = _self_attention(nn.MultiheadAttention(CHANNELS, num_heads=1, batch_first=True).double())
            forward = lambda x: weighting(x, x)  # noqa: E731
        else:
            forward = gating_unit(CHANNELS, module, LARGE_KERNEL_ATTENTION_SIZE).double()
            weighting = lambda guide, values: forward.attention_map(guide) * values  # noqa: E731
        first, second = torch.randn(2, 1, CHANNELS, MAP_SIZE, MAP_SIZE, dtype=torch.double)
        # Side of the smallest square that holds every input position with a gradient at the centre.
        seen = _central_jacobian(forward, first).abs().amax(dim=(0, 1)) > 0
        rows, columns = seen.nonzero(as_tuple=True)
        extent = int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 1
        change = _relative_change(weighting, first, second)
        growth = None
        if module != "self_attention":
            convolution = module == "convolution"
            small, large = (
                _spatial_weights(nn.Conv2d(CHANNELS, CHANNELS, k) if convolution else gating_unit(CHANNELS, module, k))
                for k in KERNEL_SIZES
            )
            growth = large / small
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


def _self_attention(attention: nn.MultiheadAttention) -> Weighting:
    """Self-attention over the pixels of a map."""

    def weighting(guide: Tensor, values: Tensor) -> Tensor:
        tokens, contents = guide.flatten(2).transpose(1, 2), values.flatten(2).transpose(1, 2)
        mixed, _ = attention(tokens, tokens, contents, need_weights=False)
        return mixed.transpose(1, 2).reshape(values.shape)

    return weighting


def _central_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative of the central output position with respect to ``x``: (C, C, H, W), output channel first."""
    x = x.detach().requires_grad_()
    centre = function(x)[0, :, MAP_SIZE // 2, MAP_SIZE // 2]
    return torch.stack([torch.autograd.grad(value, x, retain_graph=True)[0][0] for value in centre])


def _relative_change(weighting: Weighting, first: Tensor, second: Tensor) -> Tensor:
    """Difference of each output channel's weights between two guides, relative to the sum of their norms: (C,)."""
    values = torch.zeros_like(first)
    a, b = (_central_jacobian(lambda v, x=x: weighting(x, v), values).flatten(1) for x in (first, second))
    return (a - b).norm(dim=1) / (a.norm(dim=1) + b.norm(dim=1))


def _spatial_weights(module: nn.Module) -> int:
    """Number of weights of kernels beyond 1x1, without biases."""
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    return sum(conv.weight.numel() for conv in convolutions if math.prod(conv.kernel_size) > 1)
