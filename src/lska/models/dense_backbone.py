"""Any network of timm, ours included, as a backbone of mmdet and mmseg: the classifier's own stages and weights."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lska.models import check_attention, create
from lska.models.kernels import MODELS
from lska.models.pretrained import fit_weights, read_weights
from lska.models.runs import Run
from lska.models.slak import SLaK
from lska.models.van import VAN
from lska.provenance.errors import InputError

logger = logging.getLogger(__name__)

STAGE_NORMS = {"slak": 1e-6, "convnext": 1e-6, "swin": 1e-5}
"""Families whose published detectors and segmenters put a LayerNorm of their own behind each stage, with its eps."""
DENSE_SETTINGS = {"swin": {"strict_img_size": False, "always_partition": True}, "deit": {"dynamic_img_size": True}}
"""Settings of timm by family that let images have any size."""
NETWORK = "network."


class Backbone(nn.Module):
    """The network of a run that gives the feature maps of its four stages.

    Parameter names in files are the network's own, without its classifier. Nothing is frozen, and BatchNorm keeps
    learning its statistics (released configurations; paper/protocol.md, sections 3 and 4). VAN and PVTv2 end a stage
    with a LayerNorm that classification has trained; SLaK, ConvNeXt and Swin get new ones (`norm0` to `norm3`), as
    published; RepLKNet and PVT have none. PVT has no class token here. A plain vision transformer (DeiT) has maps
    of one size only: those of four of its blocks, evenly spaced, are resampled to strides 4 to 32. Weights of SLaK that
    are zero stay zero.

    Args:
        run: run id, which fixes model, attention and kernel size, for example `van_tiny-lska-k23-s0`.
        checkpoint: pretrained weights of that run, read by `init_weights`; the file must be named after the run, so
            that network and weights cannot be of different runs. None keeps the random initialisation.
        architecture: settings of the network that differ from the paper's.
        drop_path_rate: largest share of blocks skipped.
        layer_norm_eps: eps of the LayerNorm that ends each stage of VAN: 1e-5 in the released detection and
            segmentation code, 1e-6 in pretraining.
        out_indices: stages from 0 whose maps are returned.
        synchronize: whether BatchNorm takes its statistics over all processes (segmentation, on GPUs).

    Raises:
        ValueError: unknown network, one without four feature maps, or a checkpoint of another run.
    """

    def __init__(
        self,
        run: str,
        checkpoint: str | None = None,
        architecture: dict[str, object] | None = None,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-5,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        synchronize: bool = False,
    ) -> None:
        super().__init__()
        if checkpoint is not None and Path(checkpoint).stem != run:
            raise InputError(f"backbone {run}: expected a checkpoint of that run, found {checkpoint}")
        features = feature_network(Run.parse(run), drop_path_rate=drop_path_rate, **(architecture or {}))
        self.network, self.checkpoint, self.out_indices = features.model, checkpoint, tuple(out_indices)
        self.blocks = list(features.out_indices)
        self.strides, self.own_strides = _strides(features), features.feature_info.reduction()
        family = run.split("_")[0]
        self.pads = family in DENSE_SETTINGS
        for index, channels in enumerate(features.feature_info.channels() if family in STAGE_NORMS else ()):
            self.add_module(f"norm{index}", nn.LayerNorm(channels, eps=STAGE_NORMS[family]))
        if isinstance(self.network, VAN):
            for number in range(1, self.network.num_stages + 1):
                getattr(self.network, f"norm{number}").eps = layer_norm_eps
        self.register_state_dict_post_hook(_name_as_the_network)
        self.register_load_state_dict_pre_hook(_name_as_here)
        if synchronize:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def init_weights(self) -> None:
        """Load the pretrained weights, if any; mmengine calls this once, before it takes over a saved state.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape, the classifier's apart; the message names
                the file and the tensors.
        """
        if self.checkpoint is None:
            return
        # What comes after the stages stays behind: head, final norm, class token of PVT.
        own, after = self.network.state_dict(), ("head", "norm", "cls_token", "fc")
        found = read_weights(self.checkpoint).items()
        tensors = {name: tensor for name, tensor in found if name.split(".")[0] not in after or name in own}
        fit_weights(self.network, tensors, self.checkpoint)
        logger.info("backbone: %d tensors from %s", len(tensors), self.checkpoint)
        if isinstance(self.network, SLaK):
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.all():
                    module.weight.register_hook(lambda gradient, weight=module.weight: gradient * (weight != 0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages `out_indices` for images (B, 3, H, W): (B, C_i, H / stride_i, W / stride_i)."""
        height, width = x.shape[2:]
        if self.pads:
            side = max(self.strides)
            x = F.pad(x, (0, -width % side, 0, -height % side))
        maps = self.network.forward_intermediates(x, indices=self.blocks, intermediates_only=True)
        return tuple(self._map(maps[index], index, (height, width)) for index in self.out_indices)

    def _map(self, x: Tensor, index: int, size: tuple[int, int]) -> Tensor:
        stride, own = self.strides[index], self.own_strides[index]
        if stride != own:
            x = F.interpolate(x, scale_factor=own / stride, mode="bilinear")
        if self.pads:
            x = x[:, :, : -(-size[0] // stride), : -(-size[1] // stride)]
        if hasattr(self, f"norm{index}"):
            x = getattr(self, f"norm{index}")(x.movedim(1, -1)).movedim(-1, 1)
        return x


def _name_as_the_network(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + NETWORK)]:
        state[prefix + name.removeprefix(prefix + NETWORK)] = state.pop(name)


def _name_as_here(module: Backbone, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    own = {name for name, _ in module.named_children()}
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(prefix + NETWORK)]:
        rest = name.removeprefix(prefix)
        if rest.split(".")[0] not in own:
            state[prefix + NETWORK + rest] = state.pop(name)


def feature_network(run: Run, **settings: object) -> nn.Module:
    """timm's getter of the four feature maps of a run's network, whose `model` is the network without classifier.

    Raises:
        ValueError: unknown network, attention or kernel size, or a network without four feature maps.
    """
    if run.model in MODELS:
        check_attention(run.attention)
    family = run.model.split("_")[0]
    ways = {"features_only": True, "feature_cls": "getter", "out_indices": 4}
    settings = ways | DENSE_SETTINGS.get(family, {}) | settings
    if family == "deit":
        depth = int(settings.get("depth", 12))
        settings["out_indices"] = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    features = create(run.model, attention=run.attention, kernel_size=run.kernel, **settings)
    if len(features.out_indices) != 4:
        raise InputError(f"{run}: expected a network with four feature maps, found {len(features.out_indices)}")
    return features


def _strides(features: nn.Module) -> tuple[int, ...]:
    """Strides of the four maps in pixels: the network's own, or 4, 8, 16 and 32 where it has one only."""
    own = features.feature_info.reduction()
    return tuple(own) if len(set(own)) > 1 else (4, 8, 16, 32)


def stages(run: Run, architecture: dict[str, object] | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides in pixels of the four stages of a run's network."""
    return _stages(run, json.dumps(architecture or {}, sort_keys=True))


@functools.cache
def _stages(run: Run, architecture: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `stages`, of each network once: planning asks for widths and strides of every fine-tuning."""
    with torch.device("meta"):
        features = feature_network(run, **json.loads(architecture))
    return tuple(features.feature_info.channels()), _strides(features)
