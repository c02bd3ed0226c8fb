"""The gating units of the paper: LKA, LSKA and their trivial forms (Section III), and SLaK's kernels (Figure 3).

Parameters are named as in the published checkpoints: ``conv0``, ``conv_spatial`` (LKA), ``conv0h``, ``conv0v``,
``conv_spatial_h``, ``conv_spatial_v`` (LSKA), the former of these for the trivial forms, and ``conv1``. SLaK's forms
have ``large_kernel`` before ``conv1``, an assumption about the paper's Figure 3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from lska.models.attention import DecomposedKernel, DepthwiseConv2d, GatingUnit
from lska.models.kernels import kernel_plan


class LKA(GatingUnit):
    """Depth-wise convolutions one after the other, as the kernel rule has them, and a 1x1 convolution."""

    attention: ClassVar[str] = "lka"

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.plan = kernel_plan(self.attention, kernel_size)
        for spec in self.plan.depthwise:
            self.add_module(spec.name, DepthwiseConv2d(channels, spec.kernel, spec.dilation))
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def attention_map(self, x: Tensor) -> Tensor:
        weights = x
        for spec in self.plan.depthwise:
            weights = getattr(self, spec.name)(weights)
        return self.conv1(weights)

    @property
    def receptive_field(self) -> int:
        convolutions = (module for module in self.modules() if isinstance(module, nn.Conv2d))
        return 1 + sum(conv.dilation[0] * (conv.kernel_size[0] - 1) for conv in convolutions)


class LSKA(LKA):
    """LKA with a horizontal and a vertical kernel in place of each square one."""

    attention = "lska"


class TrivialLKA(LKA):
    """One square kernel."""

    attention = "lka_trivial"


class TrivialLSKA(LKA):
    """One horizontal and one vertical kernel."""

    attention = "lska_trivial"


class DecomposedUnit(GatingUnit):
    """SLaK's kernel and a 1x1 convolution."""

    sparse: ClassVar[bool] = False

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.plan = kernel_plan("slak", kernel_size)
        self.large_kernel = DecomposedKernel(channels, kernel_size, sparse=self.sparse)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def attention_map(self, x: Tensor) -> Tensor:
        return self.conv1(self.large_kernel(x))

    @property
    def receptive_field(self) -> int:
        return max(conv.kernel_size[0] for conv in self.modules() if isinstance(conv, nn.Conv2d))


class SparseDecomposedUnit(DecomposedUnit):
    """The same with 3 in 5 of the kernel's weights."""

    sparse = True
