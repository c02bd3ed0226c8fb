"""Visual Attention Network with LKA or LSKA, registered in timm as ``van_tiny``, ``van_small`` and ``van_base``.

The layout follows the released code (protocol section 1); parameter names equal the published ones, so that the
authors' checkpoints load strictly. The sizes are those of VAN-B0, B1 and B2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from lska.models.attention import Attention, DepthwiseConv2d
from lska.models.staged import StagedNetwork, build_staged, check_stages, drop_rates, dropping, published_cfg


class OverlapPatchEmbed(nn.Module):
    """Strided convolution and BatchNorm that open a stage: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, in_chans: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class DWConv(nn.Module):
    """3x3 depth-wise convolution; a module of its own because the published name is ``mlp.dwconv.dwconv``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(channels, (3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class VanMlp(nn.Module):
    """Feed-forward part: 1x1 convolution up, 3x3 depth-wise, GELU, 1x1 convolution down; keeps the shape."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DWConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class VanBlock(nn.Module):
    """Attention half and feed-forward half, each behind BatchNorm, scaled per channel, dropped by path."""

    def __init__(self, channels: int, mlp_ratio: float, drop_path: float, attention: str, kernel_size: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels, attention, kernel_size)
        self.drop_path = dropping(drop_path)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = VanMlp(channels, int(channels * mlp_ratio))
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        x = self._add(x, self.layer_scale_1, self.attn(self.norm1(x)))
        return self._add(x, self.layer_scale_2, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        # Dropping the scale instead of the branch is the same product and saves two passes over the map.
        scale = self.drop_path(scale.view(1, -1, 1, 1).expand(x.shape[0], -1, -1, -1))
        return torch.addcmul(x, branch, scale)


class VAN(StagedNetwork):
    """Visual Attention Network (paper Table II): (B, in_chans, H, W) to (B, num_classes).

    The defaults are the Tiny size. ``attention`` is one of ``lska.models.designs.ATTENTIONS``, ``kernel_size`` any
    odd integer from 3 up. ``embed_dims``, ``depths`` and ``mlp_ratios`` hold one value per stage; ``stem_kernel`` and
    ``stem_stride`` are those of the first embedding. ``drop_rate`` acts before the classifier, ``drop_path_rate`` grows
    linearly from 0 at the first block. Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        attention: str = "lska",
        kernel_size: int = 23,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        stem_kernel: int = 7,
        stem_stride: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, num_classes)
        check_stages("VAN", embed_dims=embed_dims, depths=depths, mlp_ratios=mlp_ratios)
        self.attention, self.kernel_size = attention, kernel_size
        drop_paths = drop_rates(drop_path_rate, depths)
        for i, channels in enumerate(embed_dims):
            kernel, stride = (stem_kernel, stem_stride) if i == 0 else (3, 2)
            blocks = [
                VanBlock(channels, mlp_ratios[i], next(drop_paths), attention, kernel_size) for _ in range(depths[i])
            ]
            self.add_module(f"patch_embed{i + 1}", OverlapPatchEmbed(in_chans, channels, kernel, stride))
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", LayerNorm2d(channels, eps=1e-6))
            self.add_stage(channels, stride, f"norm{i + 1}")
            in_chans = channels
        self.add_classifier(global_pool, drop_rate)

    def stage(self, x: Tensor, index: int) -> Tensor:
        """Embedding, blocks and LayerNorm of stage ``index``: (B, C, H, W) to (B, C', H / stride, W / stride)."""
        x = getattr(self, f"patch_embed{index + 1}")(x)
        x = self.run(getattr(self, f"block{index + 1}"), x)
        return getattr(self, f"norm{index + 1}")(x)

    def keep_stages(self, number: int) -> None:
        """Delete the embeddings, blocks and norms of stages after the first ``number``."""
        for later in range(number + 1, self.num_stages + 1):
            for name in ("patch_embed", "block", "norm"):
                delattr(self, f"{name}{later}")

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Published initialisation: convolutions normal with variance 2 / (k_h k_w C_out / groups), linear layers
        truncated normal with deviation 0.02, biases zero (protocol section 1)."""
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters beyond biases and norms that take no weight decay: the layer scales."""
        return {name for name, _ in self.named_parameters() if "layer_scale" in name}



# The released models take timm's vision-transformer defaults, hence 0.5 and not ImageNet's statistics.
_CFG = published_cfg("patch_embed1.proj", crop_pct=0.9, mean=(0.5,) * 3, std=(0.5,) * 3, license="apache-2.0")

default_cfgs = generate_default_cfgs({f"van_{size}.untrained": _CFG for size in ("tiny", "small", "base")})


SIZES: dict[str, dict[str, Sequence[int]]] = {
    "van_tiny": {"embed_dims": (32, 64, 160, 256), "depths": (3, 3, 5, 2), "mlp_ratios": (8, 8, 4, 4)},
    "van_small": {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "mlp_ratios": (8, 8, 4, 4)},
    "van_base": {"embed_dims": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "mlp_ratios": (8, 8, 4, 4)},
}
"""Layouts of the paper's networks (paper, Table II), by model name."""


@register_model
def van_tiny(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Tiny, the layout of VAN-B0; see :class:`VAN` for the keyword arguments."""
    return build_staged(VAN, "van_tiny", pretrained, **(SIZES["van_tiny"] | kwargs))


@register_model
def van_small(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Small, the layout of VAN-B1; see :class:`VAN` for the keyword arguments."""
    return build_staged(VAN, "van_small", pretrained, **(SIZES["van_small"] | kwargs))


@register_model
def van_base(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Base, the layout of VAN-B2; see :class:`VAN` for the keyword arguments."""
    return build_staged(VAN, "van_base", pretrained, **(SIZES["van_base"] | kwargs))
