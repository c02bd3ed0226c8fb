"""RepLKNet (Ding et al., CVPR 2022), registered in timm as ``replknet_31b`` and ``replknet_31t``.

The second is the small size of the LSKA paper (Tables XIV and XVI), which has no published weights. Parameter names
equal the published ones. No module has an initialisation of its own: torch's defaults are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lska.models.attention import DepthwiseConv2d, conv_bn
from lska.models.kernels import check_kernel_size
from lska.models.staged import StagedNetwork, build_staged, check_stages, drop_rates, dropping, published_cfg
from lska.provenance.errors import InputError


def _conv(in_chans: int, out_chans: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Module:
    return conv_bn(nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, groups=groups, bias=False), relu)


class LargeKernel(nn.Module):
    """Sum of a large and a small depth-wise convolution, each with BatchNorm; one convolution once merged."""

    def __init__(self, channels: int, kernel: int, small_kernel: int) -> None:
        super().__init__()
        self.lkb_origin = conv_bn(DepthwiseConv2d(channels, (kernel, kernel), bias=False))
        self.small_conv = conv_bn(DepthwiseConv2d(channels, (small_kernel, small_kernel), bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.lkb_reparam(x) if hasattr(self, "lkb_reparam") else self.lkb_origin(x) + self.small_conv(x)

    def merge(self) -> None:
        """Fold both BatchNorms into their kernels and add the small kernel to the centre of the large one."""
        (large, large_bias), (small, small_bias) = map(_fused, (self.lkb_origin, self.small_conv))
        margin = (large.shape[-1] - small.shape[-1]) // 2
        merged = DepthwiseConv2d(len(large), large.shape[-2:]).to(large)
        merged.weight.data = large.data + F.pad(small.data, [margin] * 4)
        merged.bias.data = large_bias.data + small_bias.data
        del self.lkb_origin, self.small_conv
        self.lkb_reparam = merged.train(self.training)


def _fused(branch: nn.Sequential) -> tuple[nn.Parameter, nn.Parameter]:
    bn = branch.bn
    return fuse_conv_bn_weights(
        branch.conv.weight, None, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )  # fmt: skip


class LargeKernelBlock(nn.Module):
    """BatchNorm, 1x1 convolution, large kernel, ReLU, 1x1 convolution, added to the input; keeps the shape."""

    def __init__(self, channels: int, kernel: int, small_kernel: int, drop_path: float) -> None:
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(channels)
        self.pw1 = _conv(channels, channels, 1)
        self.large_kernel = LargeKernel(channels, kernel, small_kernel)
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = _conv(channels, channels, 1, relu=False)
        self.drop_path = dropping(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.lk_nonlinear(self.large_kernel(self.pw1(self.prelkb_bn(x))))
        return x + self.drop_path(self.pw2(branch))


class FeedForwardBlock(nn.Module):
    """BatchNorm, 1x1 convolution up, GELU, 1x1 convolution down, added to the input; keeps the shape."""

    def __init__(self, channels: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(channels)
        self.pw1 = _conv(channels, hidden, 1, relu=False)
        self.nonlinear = nn.GELU()
        self.pw2 = _conv(hidden, channels, 1, relu=False)
        self.drop_path = dropping(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x)))))


class Stage(nn.Module):
    """Large-kernel and feed-forward blocks in turns; a pair shares its rate of stochastic depth."""

    def __init__(self, channels: int, rates: Sequence[float], kernel: int, small_kernel: int, ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for rate in rates:
            self.blocks.append(LargeKernelBlock(channels, kernel, small_kernel, rate))
            self.blocks.append(FeedForwardBlock(channels, int(channels * ratio), rate))


class RepLKNet(StagedNetwork):
    """RepLKNet: (B, in_chans, H, W) to (B, num_classes). The defaults are 31B.

    ``embed_dims``, ``depths`` (pairs of blocks) and ``kernel_sizes`` (odd) hold one value per stage; ``small_kernel``
    (odd, not above these) is that of the branch beside each large kernel. ``mlp_ratio`` is the expansion of the
    feed-forward blocks. ``drop_path_rate`` grows linearly from 0 at the first pair of blocks. Raises ValueError for
    impossible settings.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (128, 256, 512, 1024),
        depths: Sequence[int] = (2, 2, 18, 2),
        kernel_sizes: Sequence[int] = (31, 29, 27, 13),
        small_kernel: int = 5,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, num_classes)
        check_stages("RepLKNet", embed_dims=embed_dims, depths=depths, kernel_sizes=kernel_sizes)
        for kernel in (*kernel_sizes, small_kernel):
            check_kernel_size(kernel)
        if small_kernel > min(kernel_sizes):
            raise InputError(
                f"RepLKNet: expected a small_kernel not above any of kernel_sizes={list(kernel_sizes)}, "
                f"found {small_kernel}"
            )
        first = embed_dims[0]
        self.stem = nn.Sequential(
            _conv(in_chans, first, 3, stride=2),
            _conv(first, first, 3, groups=first),
            _conv(first, first, 1),
            _conv(first, first, 3, stride=2, groups=first),
        )
        self.stages, self.transitions = nn.ModuleList(), nn.ModuleList()
        rates = drop_rates(drop_path_rate, depths)
        for i, (channels, depth, kernel) in enumerate(zip(embed_dims, depths, kernel_sizes, strict=True)):
            if i:
                widen, halve = _conv(embed_dims[i - 1], channels, 1), _conv(channels, channels, 3, 2, channels)
                self.transitions.append(nn.Sequential(widen, halve))
            own = [next(rates) for _ in range(depth)]
            self.stages.append(Stage(channels, own, kernel, small_kernel, mlp_ratio))
            self.add_stage(channels, 2 if i else 4, f"stages.{i}")
        self.norm = nn.BatchNorm2d(embed_dims[-1])
        self.add_classifier(global_pool, drop_rate)

    def stage(self, x: Tensor, index: int) -> Tensor:
        """Stem or transition, and blocks of stage ``index``: (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return self.run(self.stages[index].blocks, self.transitions[index - 1](x) if index else self.stem(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Last feature map after its BatchNorm: (B, C, H / 32, W / 32)."""
        return self.norm(super().forward_features(x))

    def keep_stages(self, number: int) -> None:
        """Delete the transitions and blocks of stages after the first ``number``."""
        self.stages, self.transitions = self.stages[:number], self.transitions[: number - 1]

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Torch's own initialisation stays."""

    def structural_reparam(self) -> None:
        """Merge the two kernels of each large-kernel block into one, in place; outputs stay the same.

        Raises ValueError in training mode, where BatchNorm computes with the statistics of its batch.
        """
        if self.training:
            raise InputError("RepLKNet: kernels can be merged in evaluation mode only; call eval() first")
        for module in self.modules():
            if isinstance(module, LargeKernel):
                module.merge()



SIZES: dict[str, dict[str, Sequence[int]]] = {
    "replknet_31b": {"embed_dims": (128, 256, 512, 1024)},
    "replknet_31t": {"embed_dims": (64, 128, 320, 512)},
}
"""Layouts by model name (31T: paper, Section IV)."""

default_cfgs = generate_default_cfgs({f"{name}.untrained": published_cfg("stem.0.conv") for name in SIZES})


@register_model
def replknet_31b(pretrained: bool = False, **kwargs: object) -> RepLKNet:
    """RepLKNet-31B; see :class:`RepLKNet` for the keyword arguments."""
    return build_staged(RepLKNet, "replknet_31b", pretrained, **(SIZES["replknet_31b"] | kwargs))


@register_model
def replknet_31t(pretrained: bool = False, **kwargs: object) -> RepLKNet:
    """RepLKNet-31T, the LSKA paper's; see :class:`RepLKNet` for the keyword arguments."""
    return build_staged(RepLKNet, "replknet_31t", pretrained, **(SIZES["replknet_31t"] | kwargs))
