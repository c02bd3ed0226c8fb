"""Visual Attention Network with LKA or LSKA, registered in timm as ``van_tiny``, ``van_small`` and ``van_base``.

The layout follows the released code (protocol section 1); parameter names equal the published ones, so that the
authors' checkpoints load strictly. The sizes are those of VAN-B0, B1 and B2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath, LayerNorm2d, SelectAdaptivePool2d, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lska.models.attention import Attention, DepthwiseConv2d

__all__ = ["VAN"]


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


class Mlp(nn.Module):
    """Feed-forward part: 1x1 convolution up, 3x3 depth-wise, GELU, 1x1 convolution down; keeps the shape."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DWConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Attention half and feed-forward half, each behind BatchNorm, scaled per channel, dropped by path."""

    def __init__(self, channels: int, mlp_ratio: float, drop_path: float, attention: str, kernel_size: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels, attention, kernel_size)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        x = self._add(x, self.layer_scale_1, self.attn(self.norm1(x)))
        return self._add(x, self.layer_scale_2, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        # Dropping the scale instead of the branch is the same product and saves two passes over the map.
        scale = self.drop_path(scale.view(1, -1, 1, 1).expand(x.shape[0], -1, -1, -1))
        return torch.addcmul(x, branch, scale)


class VAN(nn.Module):
    """Visual Attention Network (paper Table II): (B, in_chans, H, W) to (B, num_classes).

    The defaults are the Tiny size. ``attention`` is one of lka_trivial, lska_trivial, lka, lska, ``kernel_size`` any
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
        super().__init__()
        _check_stages(embed_dims=embed_dims, depths=depths, mlp_ratios=mlp_ratios)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.attention, self.kernel_size = attention, kernel_size
        self.num_stages = len(embed_dims)
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, object]] = []
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        for i, channels in enumerate(embed_dims):
            kernel, stride = (stem_kernel, stem_stride) if i == 0 else (3, 2)
            blocks = (
                Block(channels, mlp_ratios[i], next(drop_paths), attention, kernel_size) for _ in range(depths[i])
            )
            self._add_stage(i + 1, OverlapPatchEmbed(in_chans, channels, kernel, stride), nn.ModuleList(blocks))
            in_chans = channels
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.apply(init_weights)

    def _add_stage(self, number: int, embed: OverlapPatchEmbed, blocks: nn.ModuleList) -> None:
        channels, stride = embed.proj.out_channels, embed.proj.stride[0]
        self.add_module(f"patch_embed{number}", embed)
        self.add_module(f"block{number}", blocks)
        self.add_module(f"norm{number}", LayerNorm2d(channels, eps=1e-6))
        reduction = stride * (self.feature_info[-1]["reduction"] if self.feature_info else 1)
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"norm{number}"})

    def _stage(self, x: Tensor, number: int) -> Tensor:
        x = getattr(self, f"patch_embed{number}")(x)
        for block in getattr(self, f"block{number}"):
            recompute = self.grad_checkpointing and not torch.jit.is_scripting()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return getattr(self, f"norm{number}")(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Last feature map after its LayerNorm: (B, C, H / reduction, W / reduction)."""
        for number in range(1, self.num_stages + 1):
            x = self._stage(x, number)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled vector (B, C) if ``pre_logits``, else logits (B, num_classes), from the last feature map."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the chosen stages, each after its LayerNorm, and the last map (timm's convention).

        ``indices`` are stages from 0: the last n if an int, all if None. ``norm`` changes nothing, as every stage ends
        with its own. Raises ValueError for a format other than NCHW.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: expected 'NCHW', found {output_fmt!r}")
        take, last = feature_take_indices(self.num_stages, indices)
        intermediates = []
        for index in range(last + 1 if stop_early else self.num_stages):
            x = self._stage(x, index + 1)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Delete what the chosen stages do not need and return their indices (timm's convention)."""
        take, last = feature_take_indices(self.num_stages, indices)
        for number in range(last + 2, self.num_stages + 1):
            for name in ("patch_embed", "block", "norm"):
                delattr(self, f"{name}{number}")
        pruned = last + 1 < self.num_stages
        self.num_stages = last + 1
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0)
        return take

    def get_classifier(self) -> nn.Module:
        """The linear classifier, or an identity where ``num_classes`` is 0."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` (0: none), and the pooling where one is given."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.apply(init_weights)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters beyond biases and norms that take no weight decay: the layer scales."""
        return {name for name, _ in self.named_parameters() if "layer_scale" in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Patterns that sort parameters by depth, for timm's layer-wise learning rates."""
        block = r"^(?:patch_embed|block|norm)(\d+)" if coarse else r"^block(\d+)\.(\d+)"
        others = [(block, None)] if coarse else [(block, None), (r"^(?:patch_embed|norm)(\d+)", (0,))]
        return {"stem": r"^patch_embed1", "blocks": others}


def _check_stages(**per_stage: Sequence[float]) -> None:
    if len({len(values) for values in per_stage.values()}) != 1 or not all(per_stage.values()):
        found = ", ".join(f"{name}={list(values)}" for name, values in per_stage.items())
        raise ValueError(f"VAN: expected one value per stage in each of embed_dims, depths, mlp_ratios; found {found}")
    if wrong := {name: list(values) for name, values in per_stage.items() if min(values) <= 0}:
        raise ValueError(f"VAN: expected positive values per stage, found {wrong}")


def init_weights(module: nn.Module) -> None:
    """Published initialisation: convolutions normal with variance 2 / (k_h k_w C_out / groups), linear layers truncated
    normal with deviation 0.02, biases zero (protocol section 1)."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _cfg(url: str = "") -> dict[str, object]:
    # The released models take timm's vision-transformer defaults, hence 0.5 and not ImageNet's statistics.
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({f"van_{size}.untrained": _cfg() for size in ("tiny", "small", "base")})


SIZES: dict[str, dict[str, Sequence[int]]] = {
    "van_tiny": {"embed_dims": (32, 64, 160, 256), "depths": (3, 3, 5, 2), "mlp_ratios": (8, 8, 4, 4)},
    "van_small": {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "mlp_ratios": (8, 8, 4, 4)},
    "van_base": {"embed_dims": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "mlp_ratios": (8, 8, 4, 4)},
}
"""Layouts of the paper's networks (paper, Table II), by model name."""


def _create_van(variant: str, pretrained: bool, **kwargs: object) -> nn.Module:
    feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(VAN, variant, pretrained, feature_cfg=feature_cfg, **(SIZES[variant] | kwargs))


@register_model
def van_tiny(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Tiny, the layout of VAN-B0; see :class:`VAN` for the keyword arguments."""
    return _create_van("van_tiny", pretrained, **kwargs)


@register_model
def van_small(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Small, the layout of VAN-B1; see :class:`VAN` for the keyword arguments."""
    return _create_van("van_small", pretrained, **kwargs)


@register_model
def van_base(pretrained: bool = False, **kwargs: object) -> VAN:
    """VAN Base, the layout of VAN-B2; see :class:`VAN` for the keyword arguments."""
    return _create_van("van_base", pretrained, **kwargs)
