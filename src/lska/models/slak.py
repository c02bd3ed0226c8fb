"""SLaK (Liu et al., ICLR 2023), registered in timm as ``slak_tiny``.

ConvNeXt with wider stages and the sum of two long strips and a small square in place of its depth-wise kernel.
Parameter names equal the published ones. Sparse training is not part of this project: weights are dense tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from lska.models.attention import DecomposedKernel
from lska.models.kernels import check_kernel_size
from lska.models.staged import StagedNetwork, build_staged, check_stages, drop_rates, dropping, published_cfg
from lska.provenance.errors import InputError


class SlakBlock(nn.Module):
    """Large kernel, LayerNorm, feed-forward part and scale per channel, added to the input; keeps the shape."""

    def __init__(self, channels: int, kernel: int, drop_path: float, scale: float) -> None:
        super().__init__()
        self.large_kernel = DecomposedKernel(channels, kernel)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), scale))
        self.drop_path = dropping(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.large_kernel(x).permute(0, 2, 3, 1))
        branch = self.gamma * self.pwconv2(self.act(self.pwconv1(branch)))
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


class SLaK(StagedNetwork):
    """Sparse large-kernel network: (B, in_chans, H, W) to (B, num_classes). The defaults are SLaK-T.

    ``embed_dims`` (times ``width_factor``, cut to whole numbers), ``depths`` and ``kernel_sizes`` (odd) hold one value
    per stage. ``layer_scale`` is the first scale of the blocks. ``drop_path_rate`` grows linearly from 0 at the first
    block. Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        width_factor: float = 1.3,
        depths: Sequence[int] = (3, 3, 9, 3),
        kernel_sizes: Sequence[int] = (51, 49, 47, 13),
        layer_scale: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, num_classes)
        check_stages("SLaK", embed_dims=embed_dims, depths=depths, kernel_sizes=kernel_sizes)
        for kernel in kernel_sizes:
            check_kernel_size(kernel)
        widths = [int(width_factor * channels) for channels in embed_dims]
        if min(widths) < 1:
            raise InputError(f"SLaK: expected width_factor times embed_dims of at least 1, found {widths}")
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        rates = drop_rates(drop_path_rate, depths)
        for i, (channels, depth, kernel) in enumerate(zip(widths, depths, kernel_sizes, strict=True)):
            stride = 2 if i else 4
            convolution = nn.Conv2d(in_chans, channels, stride, stride)
            norm = LayerNorm2d(in_chans if i else channels, eps=1e-6)
            self.downsample_layers.append(nn.Sequential(norm, convolution) if i else nn.Sequential(convolution, norm))
            blocks = [SlakBlock(channels, kernel, next(rates), layer_scale) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            self.add_stage(channels, stride, f"stages.{i}")
            in_chans = channels
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.add_classifier(global_pool, drop_rate)

    def stage(self, x: Tensor, index: int) -> Tensor:
        """Down-sampling and blocks of stage ``index``: (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return self.run(self.stages[index], self.downsample_layers[index](x))

    def pool(self, x: Tensor) -> Tensor:
        """Global average of the last map and LayerNorm, in this order: (B, C, H, W) to (B, C)."""
        return self.norm(self.global_pool(x))

    def keep_stages(self, number: int) -> None:
        """Delete the down-samplings and blocks of stages after the first ``number``."""
        self.downsample_layers, self.stages = self.downsample_layers[:number], self.stages[:number]

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Published initialisation: weights truncated normal with deviation 0.02, biases zero."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)



default_cfgs = generate_default_cfgs({"slak_tiny.untrained": published_cfg("downsample_layers.0.0")})


@register_model
def slak_tiny(pretrained: bool = False, **kwargs: object) -> SLaK:
    """SLaK-T, decomposed; see :class:`SLaK` for the keyword arguments."""
    return build_staged(SLaK, "slak_tiny", pretrained, **kwargs)
