"""Pyramid Vision Transformer, version 1 (Wang et al., ICCV 2021), registered in timm as ``pvt_tiny`` and ``pvt_small``.

timm has version 2 only. Parameter names equal the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers import trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from lska.models.staged import StagedNetwork, build_staged, check_stages, drop_rates, dropping, published_cfg
from lska.provenance.errors import InputError

Size = tuple[int, int]


class PatchEmbed(nn.Module):
    """Convolution on patches side by side, then LayerNorm: (B, C, H, W) to tokens (B, H' W', C'), and (H', W')."""

    def __init__(self, in_chans: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, channels, patch, patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[-2:]


class ReductionAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced ``reduction`` times per side; keeps (B, N, C)."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        source = x
        if self.reduction > 1:
            source = self.sr(x.transpose(1, 2).unflatten(2, size))
            source = self.norm(source.flatten(2).transpose(1, 2))
        queries = self._split(self.q(x))
        keys, values = map(self._split, self.kv(source).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class PvtMlp(nn.Module):
    """Linear layer up, GELU, linear layer down; keeps (B, N, C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PvtBlock(nn.Module):
    """Attention and feed-forward part, each behind LayerNorm and added to its input; keeps (B, N, C)."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = ReductionAttention(channels, heads, reduction)
        self.drop_path = dropping(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = PvtMlp(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PVT(StagedNetwork):
    """Pyramid Vision Transformer: (B, in_chans, H, W) to (B, num_classes). The defaults are Small.

    ``patch_sizes``, ``embed_dims``, ``num_heads``, ``depths``, ``mlp_ratios`` and ``sr_ratios`` (reduction of keys and
    values, 1 in the last stage) hold one value per stage. Position embeddings are those of ``img_size`` pixels per side
    and are resized to other maps. The class token joins the last stage and is what the classifier sees; as a backbone
    (``features_only``) the network has none, as published. ``drop_path_rate`` grows linearly from 0 at the first block.
    Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        img_size: int = 224,
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        depths: Sequence[int] = (3, 4, 6, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, num_classes)
        check_stages(
            "PVT", patch_sizes=patch_sizes, embed_dims=embed_dims, num_heads=num_heads, depths=depths,
            mlp_ratios=mlp_ratios, sr_ratios=sr_ratios,
        )  # fmt: skip
        if any(channels % heads for channels, heads in zip(embed_dims, num_heads, strict=True)):
            divided = f"{list(embed_dims)} and {list(num_heads)}"
            raise InputError(f"PVT: expected embed_dims that num_heads divide, found {divided}")
        if sr_ratios[-1] != 1:
            expected = "expected 1 for the last of sr_ratios, where the class token is"
            raise InputError(f"PVT: {expected}; found {sr_ratios[-1]}")
        rates, side, last = drop_rates(drop_path_rate, depths), img_size, len(depths)
        self.grids: list[Size] = []
        for i, channels in enumerate(embed_dims, start=1):
            side //= patch_sizes[i - 1]
            if side < 1:
                raise InputError(f"PVT: expected img_size of at least the product of patch_sizes, found {img_size}")
            self.grids.append((side, side))
            self.add_module(f"patch_embed{i}", PatchEmbed(in_chans, channels, patch_sizes[i - 1]))
            self.register_parameter(f"pos_embed{i}", nn.Parameter(torch.zeros(1, side**2 + (i == last), channels)))
            blocks = [
                PvtBlock(channels, num_heads[i - 1], mlp_ratios[i - 1], sr_ratios[i - 1], next(rates))
                for _ in range(depths[i - 1])
            ]
            self.add_module(f"block{i}", nn.ModuleList(blocks))
            self.add_stage(channels, patch_sizes[i - 1], f"block{i}")
            in_chans = channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, in_chans))
        self.norm = nn.LayerNorm(in_chans, eps=1e-6)
        for name, parameter in self.named_parameters():
            if name.startswith(("pos_embed", "cls_token")):
                trunc_normal_(parameter, std=0.02)
        self.add_classifier("avg", drop_rate)

    def _tokens(self, x: Tensor, index: int) -> tuple[Tensor, Size]:
        """Tokens of stage ``index``, in the last one behind the class token if there is one, and their map's size."""
        x, size = getattr(self, f"patch_embed{index + 1}")(x)
        positions = getattr(self, f"pos_embed{index + 1}")
        if index == len(self.grids) - 1 and self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        extra, grid = x.shape[1] - size[0] * size[1], self.grids[index]
        # A graph for sizes that are not known yet has to serve the grid's own too: resized to that, nothing changes.
        if any(isinstance(side, torch.SymInt) for side in size) or size != grid:
            own = positions[:, extra:].transpose(1, 2).unflatten(2, grid)
            own = F.interpolate(own, size, mode="bilinear").flatten(2).transpose(1, 2)
            positions = torch.cat((positions[:, :extra], own), dim=1)
        return self.run(getattr(self, f"block{index + 1}"), x + positions, size), size

    def stage(self, x: Tensor, index: int) -> Tensor:
        """Patches and blocks of stage ``index``, without class token: (B, C, H, W) to (B, C', H / patch, W / patch)."""
        tokens, size = self._tokens(x, index)
        return tokens[:, -size[0] * size[1] :].transpose(1, 2).unflatten(2, size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens of the last stage after LayerNorm, the class token first: (B, 1 + H W / 32**2, C)."""
        for index in range(self.num_stages - 1):
            x = self.stage(x, index)
        return self.norm(self._tokens(x, self.num_stages - 1)[0])

    def pool(self, x: Tensor) -> Tensor:
        """The class token, or the mean of all tokens where there is none: (B, N, C) to (B, C)."""
        return x.mean(dim=1) if self.cls_token is None else x[:, 0]

    def keep_stages(self, number: int) -> None:
        """Delete the patches, positions and blocks of stages after the first ``number``, and the class token."""
        for later in range(number + 1, self.num_stages + 1):
            for name in ("patch_embed", "pos_embed", "block"):
                delattr(self, f"{name}{later}")
        last = len(self.grids)
        if number == last and self.cls_token is not None:
            self.register_parameter(f"pos_embed{last}", nn.Parameter(getattr(self, f"pos_embed{last}").data[:, 1:]))
        self.cls_token = None

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Published initialisation: linear weights truncated normal with deviation 0.02, biases zero; convolutions
        torch's own."""
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """The class token; position embeddings do decay, as published."""
        return {"cls_token"}



def checkpoint_filter_fn(weights: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a file as ``network`` takes them: for a backbone, positions without the class token's place."""
    weights, last = dict(weights), f"pos_embed{len(network.grids)}"
    grid = network.grids[-1]
    if network.cls_token is None and last in weights and weights[last].shape[1:2] == (1 + grid[0] * grid[1],):
        weights[last] = weights[last][:, 1:]
    return weights


SIZES: dict[str, dict[str, Sequence[int]]] = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
}
"""Layouts by model name."""

default_cfgs = generate_default_cfgs({f"{name}.untrained": published_cfg("patch_embed1.proj") for name in SIZES})


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: object) -> PVT:
    """PVT-Tiny; see :class:`PVT` for the keyword arguments."""
    return build_staged(PVT, "pvt_tiny", pretrained, **(SIZES["pvt_tiny"] | kwargs))


@register_model
def pvt_small(pretrained: bool = False, **kwargs: object) -> PVT:
    """PVT-Small; see :class:`PVT` for the keyword arguments."""
    return build_staged(PVT, "pvt_small", pretrained, **(SIZES["pvt_small"] | kwargs))
