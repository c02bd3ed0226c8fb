"""What our networks have in common: stages of blocks, a classifier, and timm's conventions around both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from timm.layers import DropPath, SelectAdaptivePool2d
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lska.provenance.errors import InputError


class StagedNetwork(nn.Module, ABC):
    """A network of stages, each on a smaller map: images (B, in_chans, H, W) to logits (B, num_classes).

    A subclass calls ``add_stage`` for each stage and then ``add_classifier``, and says what a stage does (``stage``),
    which modules belong to it (``keep_stages``) and how a module is initialised (``init_module``).
    """

    def __init__(self, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, object]] = []

    def add_stage(self, channels: int, stride: int, module: str) -> None:
        """Note the width of the next stage, its stride with respect to the stage before, and its last module's name."""
        reduction = stride * (self.feature_info[-1]["reduction"] if self.feature_info else 1)
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": module})

    def add_classifier(self, global_pool: str, drop_rate: float) -> None:
        """Add pooling, dropout and the linear classifier, and initialise all modules."""
        self.num_stages = len(self.feature_info)
        self.num_features = self.head_hidden_size = self.feature_info[-1]["num_chs"]
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.num_features, self.num_classes) if self.num_classes > 0 else nn.Identity()
        self.apply(self.init_module)

    @abstractmethod
    def stage(self, x: Tensor, index: int) -> Tensor:
        """Map of stage ``index`` (from 0) from that of the stage before, or from the image."""

    @abstractmethod
    def keep_stages(self, number: int) -> None:
        """Delete the modules that stages after the first ``number`` need."""

    @staticmethod
    @abstractmethod
    def init_module(module: nn.Module) -> None:
        """Give one module the published initialisation."""

    def run(self, blocks: Iterable[nn.Module], x: Tensor, *others: object) -> Tensor:
        """Apply ``blocks`` in turn, each to the result of the one before and to ``others``."""
        for block in blocks:
            recompute = self.grad_checkpointing and not torch.jit.is_scripting()
            x = checkpoint(block, x, *others, use_reentrant=False) if recompute else block(x, *others)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Last feature map: (B, C, H / reduction, W / reduction)."""
        for index in range(self.num_stages):
            x = self.stage(x, index)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """Vector (B, C) that the classifier sees, from what ``forward_features`` returns."""
        return self.global_pool(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled vector (B, C) if ``pre_logits``, else logits (B, num_classes), from ``forward_features``."""
        x = self.head_drop(self.pool(x))
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
        """Feature maps of the chosen stages and the last map (timm's convention).

        ``indices`` are stages from 0: the last n if an int, all if None. ``norm`` changes nothing: maps are those that
        the published detectors and segmenters take. Raises ValueError for a format other than NCHW.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt: expected 'NCHW', found {output_fmt!r}")
        take, last = feature_take_indices(self.num_stages, indices)
        intermediates = []
        for index in range(last + 1 if stop_early else self.num_stages):
            x = self.stage(x, index)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Delete what the chosen stages do not need and return their indices (timm's convention)."""
        take, last = feature_take_indices(self.num_stages, indices)
        self.keep_stages(last + 1)
        pruned = last + 1 < self.num_stages
        self.num_stages = last + 1
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if hasattr(self, "norm") and (prune_norm or pruned):
            self.norm = nn.Identity()
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
        self.head.apply(self.init_module)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters beyond biases and norms that take no weight decay."""
        return set()


def build_staged(network: type[StagedNetwork], variant: str, pretrained: bool, **settings: object) -> nn.Module:
    """A network as timm builds it, also its feature maps alone (``features_only``)."""
    feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(network, variant, pretrained, feature_cfg=feature_cfg, **settings)


def drop_rates(maximum: float, depths: Sequence[int]) -> Iterator[float]:
    """Rates of stochastic depth of all blocks in order, evenly from 0 to ``maximum``."""
    return iter(torch.linspace(0, maximum, sum(depths), device="cpu").tolist())


def dropping(rate: float) -> nn.Module:
    """Stochastic depth at ``rate``, or an identity."""
    return DropPath(rate) if rate > 0.0 else nn.Identity()


def check_stages(network: str, **per_stage: Sequence[float]) -> None:
    """Raise ValueError unless each setting has one positive value per stage."""
    if len({len(values) for values in per_stage.values()}) != 1 or not all(per_stage.values()):
        found = ", ".join(f"{name}={list(values)}" for name, values in per_stage.items())
        raise InputError(f"{network}: expected one value per stage in each of {', '.join(per_stage)}; found {found}")
    if wrong := {name: list(values) for name, values in per_stage.items() if min(values) <= 0}:
        raise InputError(f"{network}: expected positive values per stage, found {wrong}")


def published_cfg(first_conv: str, **others: object) -> dict[str, object]:
    """Published evaluation settings that our comparison networks share, as timm's ``pretrained_cfg``: ImageNet's mean
    and deviation, bicubic, the centre 224 pixels of a shorter side of 256."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": "head",
    } | others
