"""The attention module of VAN around the gating unit of any design, and the layers that these are made of.

All tensors are (batch, channels, height, width); every module keeps the shape of its input.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lska.models.designs import ATTENTIONS, check_attention
from lska.models.kernels import Depthwise, check_kernel_size, kernel_plan
from lska.provenance.errors import InputError


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution with zero padding that keeps the map's size, (B, C, H, W) to (B, C, H, W).

    Unless ``as_published`` is True, work is saved in two ways; output and gradients stay the same up to rounding:

    - Taps that can see nothing but padding on a given map (a 53-tap kernel on a 7-pixel map reaches 6 pixels at most)
      are left out. A tap that only meets zeros has no gradient.
    - On the CPU, dilated kernels see the map taken apart into its phases, every d-th row or column, for which they are
      plain ones, and horizontal kernels a transposed map: the libraries of CPUs have fast code for plain vertical
      kernels only.
    """

    as_published: bool = False

    def __init__(self, channels: int, kernel: tuple[int, int], dilation: int = 1, bias: bool = True) -> None:
        spec = Depthwise("", kernel, dilation)
        super().__init__(
            channels, channels, kernel, padding=spec.padding, dilation=dilation, groups=channels, bias=bias
        )

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A trace would freeze the form that suits one map size into a graph that is then used at others.
        if self.as_published or torch.jit.is_tracing() or torch.compiler.is_exporting():
            return super()._conv_forward(x, weight, bias)
        top, left = self._unseen_taps(x)
        weight = weight[:, :, top : weight.shape[2] - top, left : weight.shape[3] - left]
        dilation, (rows, columns) = self.dilation[0], weight.shape[2:]
        if x.device.type == "cpu":
            if columns == 1:
                return _vertical(x, weight, bias, dilation)
            if rows == 1 and (columns > 3 or dilation > 1):
                return _vertical(x.mT.contiguous(memory_format=_layout(x)), weight.mT, bias, dilation).mT
            if dilation > 1:
                return _square(x, weight, bias, dilation)
        padding = dilation * (rows - 1) // 2, dilation * (columns - 1) // 2
        return F.conv2d(x, weight, bias, 1, padding, dilation, self.groups)

    def _unseen_taps(self, x: Tensor) -> tuple[int, int]:
        """Number of taps on each side (vertically, horizontally) that lie beyond the map wherever the kernel is put."""
        sides = zip(self.padding, self.dilation, self.kernel_size, x.shape[-2:], strict=True)
        return tuple(min(max(0, -(-(pad - extent + 1) // d)), (taps - 1) // 2) for pad, d, taps, extent in sides)


def as_published(network: nn.Module) -> nn.Module:
    """`network`, whose depth-wise kernels from now on run in the plain form of the released code."""
    for module in network.modules():
        if isinstance(module, DepthwiseConv2d):
            module.as_published = True
    return network


def _vertical(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Depth-wise convolution with kernels of n x 1 taps. The phases of the rows lie side by side, which is a view."""
    (height, width), taps = x.shape[2:], weight.shape[2]
    # Kernels that are longer than the map of a phase get to fast code only without a padding of their own. From 33 taps
    # on that code then gives wrong gradients of the weights on some maps (oneDNN of PyTorch 2.14, from 46 rows up).
    padding, added = _padding(height, taps, dilation, explicit=taps > min(-(-height // dilation), 31))
    if any(added):
        x = F.pad(x, (0, 0, *added))
    if dilation == 1:
        return F.conv2d(x, weight, bias, padding=(padding, 0), groups=len(weight))
    phases = x.unflatten(2, (-1, dilation)).flatten(3)
    out = F.conv2d(phases, weight, bias, padding=(padding, 0), groups=len(weight))
    return out.unflatten(3, (dilation, width)).flatten(2, 3)[:, :, :height]


def _square(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Depth-wise convolution with kernels of n x m taps. The phases of rows and columns are a batch."""
    batch, channels, height, width = x.shape
    (rows, above), (columns, beside) = (
        _padding(extent, taps, dilation) for extent, taps in zip((height, width), weight.shape[2:], strict=True)
    )
    if any((*beside, *above)):
        x = F.pad(x, (*beside, *above))
    parted = x.unflatten(3, (-1, dilation)).unflatten(2, (-1, dilation))
    phases = parted.permute(0, 3, 5, 2, 4, 1).flatten(0, 2).permute(0, 3, 1, 2)
    out = F.conv2d(phases, weight, bias, padding=(rows, columns), groups=channels)
    joined = out.unflatten(0, (batch, dilation, dilation)).permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
    return joined.permute(0, 3, 1, 2)[:, :, :height, :width].contiguous(memory_format=_layout(x))


def _padding(extent: int, taps: int, dilation: int, explicit: bool = False) -> tuple[int, tuple[int, int]]:
    """The padding that a plain kernel of `taps` takes itself on each phase of `extent` pixels, and that which is added
    before and after so that phases are equally long; kernels without a centre tap take none.
    """
    explicit = explicit or taps % 2 == 0
    added = dilation * (taps - 1) // 2 if explicit else 0
    return 0 if explicit else taps // 2, (added, added + -extent % dilation)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


class SparseDepthwiseConv2d(DepthwiseConv2d):
    """Depth-wise convolution of which each channel uses 3 in 5 weights, drawn once and for all; the tensor stays dense.

    SLaK's sparsity of 40 % (Liu et al., ICLR 2023), whose training also moves the weights that are kept; here they
    stay. Raises ValueError where the number of taps is no multiple of 5.
    """

    def __init__(self, channels: int, kernel: tuple[int, int], dilation: int = 1, bias: bool = True) -> None:
        super().__init__(channels, kernel, dilation, bias)
        taps = kernel[0] * kernel[1]
        if taps % 5:
            raise InputError(f"kernel: expected a multiple of 5 taps, of which 3 in 5 are kept; found {kernel}")
        self.used_weights = channels * taps * 3 // 5
        order = torch.rand(channels, taps, generator=torch.Generator().manual_seed(0), device="cpu").argsort(dim=1)
        # Not stored with the weights: it follows from the shape.
        self.register_buffer("kept", (order < 3 * taps // 5).view_as(self.weight), persistent=False)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * self.kept, bias)


def conv_bn(conv: nn.Conv2d, relu: bool = False) -> nn.Sequential:
    """A convolution, its BatchNorm and, where wanted, a ReLU, by the names of RepLKNet and SLaK."""
    parts = {"conv": conv, "bn": nn.BatchNorm2d(conv.out_channels)} | ({"nonlinear": nn.ReLU()} if relu else {})
    return nn.Sequential(OrderedDict(parts))


class DecomposedKernel(nn.Module):
    """SLaK's large kernel: the sum of depth-wise k x 5, 5 x k and 5 x 5 convolutions of one map, each with BatchNorm.

    Parameters are named as published (``LoRA1``, ``LoRA2``, ``small_conv``). ``sparse`` uses 3 in 5 weights.
    """

    def __init__(self, channels: int, kernel_size: int, sparse: bool = False) -> None:
        super().__init__()
        convolution = SparseDepthwiseConv2d if sparse else DepthwiseConv2d
        for spec in kernel_plan("slak", kernel_size).depthwise:
            self.add_module(spec.name, conv_bn(convolution(channels, spec.kernel, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        return self.LoRA1(x) + self.LoRA2(x) + self.small_conv(x)


class GatingUnit(nn.Module):
    """What an attention is: the product of a map and the weights that it makes of it (paper Eq. 3-6, released code).

    Keeps the shape (B, C, H, W). A class of this kind is made with ``(channels, kernel_size)``.
    """

    receptive_field: int | None = None
    """Side in pixels of the square that one output depends on, for tables; None where the class does not say."""

    def attention_map(self, x: Tensor) -> Tensor:
        """The input-dependent weights that the input is multiplied by, shape of the input."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention_map(x)


def gating_unit(channels: int, attention: str, kernel_size: int) -> nn.Module:
    """The gating unit of one of ``ATTENTIONS``; raises ValueError for an unknown one, or a kernel size that is no odd
    integer from 3 up."""
    check_attention(attention)
    check_kernel_size(kernel_size)
    module, _, name = ATTENTIONS[attention].unit.rpartition(".")
    return getattr(importlib.import_module(f"lska.models.{module}"), name)(channels, kernel_size)


class Attention(nn.Module):
    """1x1 convolution, GELU, gating unit, 1x1 convolution and a shortcut around these four (released code)."""

    def __init__(self, channels: int, attention: str = "lska", kernel_size: int = 23) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = gating_unit(channels, attention, kernel_size)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
