"""mmdet and mmseg: any network of timm as their backbone, and what stands in for mmcv's operators.

Importing this module is enough (docs/use.md), also by a configuration's `custom_imports`: it registers the backbone
where both libraries find it, and imports neither of them.

mmdet 3.3 and mmsegmentation 1.2 need mmcv 2.1, which has no wheel for current versions of torch. Its Python part
(mmcv-lite) runs alone if a module named `mmcv._ext` answers for the compiled operators. RetinaNet, Faster and Mask
R-CNN and Semantic FPN call five of them: `nms`, RoIAlign forward and backward (on feature maps our own configurations
have torchvision's layer) and, on CUDA, the sigmoid focal loss forward and backward. These are here, for CPU and CUDA,
by torchvision. Every other operator raises NotImplementedError when it is called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
import torchvision
from mmengine import registry
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn
from torch.nn import functional as F

from lska.models import create
from lska.models.designs import check_attention
from lska.models.kernels import MODELS, check_kernel_size
from lska.models.pretrained import load_weights
from lska.models.slak import SLaK
from lska.models.van import VAN
from lska.provenance.errors import InputError

logger = logging.getLogger(__name__)

LIBRARIES = {"detection": "mmdet", "segmentation": "mmseg"}
"""The library of each kind of dense prediction, which is also its registry scope."""


@functools.cache
def use(kind: str) -> str:
    """Import the library of `kind` without its warnings, and return its registry scope; takes seconds."""
    library = LIBRARIES[kind]
    with warnings.catch_warnings():
        # Old spellings inside the libraries, which their users cannot mend.
        warnings.simplefilter("ignore", category=(DeprecationWarning, FutureWarning, UserWarning, SyntaxWarning))
        for module in ("models", "datasets"):
            importlib.import_module(f"{library}.{module}")
    return library


_SPOKEN_WHILE_BUILDING = ("``build_loss`` would be deprecated soon", "Default ``avg_non_ignore`` is False")
"""Warnings of mmseg about its own code, and about a default that is as published."""


def build_dense_network(settings: dict[str, Any]) -> nn.Module:
    """The detector or segmentor of a model configuration, by the registry of the default scope, without the warnings
    that nobody can heed."""
    with warnings.catch_warnings():
        for message in _SPOKEN_WHILE_BUILDING:
            warnings.filterwarnings("ignore", re.escape(message), UserWarning, r"mmseg\.models\.")
        return registry.MODELS.build(settings)


def base_config(kind: str, *names: str) -> dict[str, Any]:
    """The library's own base files, merged: what the released configurations inherit from.

    Args:
        names: paths below the library's `_base_` folder without suffix, such as `models/retinanet_r50_fpn`.
    """
    from mmengine.config import Config

    spec = importlib.util.find_spec(LIBRARIES[kind])
    folder = Path(spec.submodule_search_locations[0]) / ".mim" / "configs" / "_base_"
    merged: dict[str, Any] = {}
    for name in names:
        merged |= Config.fromfile(folder / f"{name}.py").to_dict()
    return merged


# --- Backbone ---------------------------------------------------------------------------------------------------------

STAGE_NORMS = {"slak": 1e-6, "convnext": 1e-6, "swin": 1e-5}
"""Families whose published detectors and segmenters put a LayerNorm of their own behind each stage, with its eps."""
DENSE_SETTINGS = {"swin": {"strict_img_size": False, "always_partition": True}, "deit": {"dynamic_img_size": True}}
"""Settings of timm by family that let images have any size."""
NETWORK = "network.model."


@registry.MODELS.register_module(force=True)
class LSKABackbone(nn.Module):
    """VAN, or another network of timm, with the classifier's own stages and weights; gives their feature maps.

    Parameter names in files are the network's own, without its classifier. Nothing is frozen, and BatchNorm keeps
    learning its statistics (released configurations; paper/protocol.md, sections 3 and 4). VAN and PVTv2 end a stage
    with a LayerNorm that classification has trained; SLaK, ConvNeXt and Swin get new ones (`norm0` to `norm3`), as
    published; RepLKNet and PVT have none. PVT has no class token here. A plain vision transformer (DeiT) has maps
    of one size only: those of four of its blocks, evenly spaced, are resampled to strides 4 to 32. Weights of SLaK that
    are zero stay zero.

    Args:
        model: name in timm, ours included, for example `van_tiny`.
        attention, kernel_size: those of VAN, which must be given for it; None for every other network.
        architecture: settings of the network that differ from those of its name.
        drop_path_rate: largest share of blocks skipped; None for a network that has no such setting.
        layer_norm_eps: eps of the LayerNorm that ends each stage of VAN: 1e-5 in the released detection and
            segmentation code, 1e-6 in pretraining.
        out_indices: stages from 0 whose maps are returned.
        synchronize: whether BatchNorm takes its statistics over all processes (segmentation, on GPUs).
        init_cfg: the pretrained weights, as the libraries name them: `dict(type="Pretrained", checkpoint=<file>)`, a
            file of a classifier as `lska.models.pretrained.read_weights` takes it. None keeps the random
            initialisation.
        pretrained: the file alone, as mmseg hands it on from its segmentors.

    Raises:
        ValueError: unknown network, attention or kernel size, a network without four feature maps, or an `init_cfg` of
            another form.
    """

    def __init__(
        self,
        model: str,
        attention: str | None = None,
        kernel_size: int | None = None,
        architecture: dict[str, object] | None = None,
        drop_path_rate: float | None = 0.1,
        layer_norm_eps: float = 1e-5,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        synchronize: bool = False,
        init_cfg: dict[str, object] | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if model in MODELS:
            check_attention(attention)
            check_kernel_size(kernel_size)
        self.checkpoint, self.out_indices = _checkpoint(init_cfg, pretrained), tuple(out_indices)
        about = {"attention": attention, "kernel_size": kernel_size, "drop_path_rate": drop_path_rate}
        self.network = feature_network(model, **about, **(architecture or {}))
        features = self.network.feature_info
        self.strides, self.own_strides = _strides(self.network), features.reduction()
        family = model.split("_")[0]
        self.pads = family in DENSE_SETTINGS
        for index, channels in enumerate(features.channels() if family in STAGE_NORMS else ()):
            self.add_module(f"norm{index}", nn.LayerNorm(channels, eps=STAGE_NORMS[family]))
        if isinstance(self.network.model, VAN):
            for number in range(1, self.network.model.num_stages + 1):
                getattr(self.network.model, f"norm{number}").eps = layer_norm_eps
        self.register_state_dict_post_hook(_name_as_the_network)
        self.register_load_state_dict_pre_hook(_name_as_here)
        if synchronize:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def init_weights(self) -> None:
        """Load the pretrained weights, if any; mmengine calls this once, before it takes over a saved state.

        Raises:
            CheckpointError, FileNotFoundError: as `lska.models.pretrained.load_weights`.
        """
        if self.checkpoint is None:
            return
        load_weights(self.network, self.checkpoint)
        if isinstance(self.network.model, SLaK):
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.all():
                    module.weight.register_hook(lambda gradient, weight=module.weight: gradient * (weight != 0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages `out_indices` for images (B, 3, H, W): (B, C_i, H / stride_i, W / stride_i)."""
        height, width = x.shape[2:]
        if self.pads:
            side = max(self.strides)
            x = F.pad(x, (0, -width % side, 0, -height % side))
        maps = self.network(x)
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


def _checkpoint(init_cfg: dict[str, object] | None, pretrained: str | None) -> str | None:
    """The file of pretrained weights that a configuration names, if any."""
    match init_cfg:
        case None:
            return pretrained
        case {"type": "Pretrained", "checkpoint": str(file), **others} if not others and pretrained is None:
            return file
    raise InputError(
        f"backbone: expected init_cfg=dict(type='Pretrained', checkpoint='<file>') or pretrained='<file>', found "
        f"init_cfg={init_cfg!r}, pretrained={pretrained!r}"
    )


def _name_as_the_network(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + NETWORK)]:
        state[prefix + name.removeprefix(prefix + NETWORK)] = state.pop(name)


def _name_as_here(module: LSKABackbone, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    own = {name for name, _ in module.named_children()}
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(prefix + NETWORK)]:
        rest = name.removeprefix(prefix)
        if rest.split(".")[0] not in own:
            state[prefix + NETWORK + rest] = state.pop(name)


def feature_network(model: str, **settings: object) -> nn.Module:
    """timm's getter of the four feature maps of a network, whose `model` is the network without classifier.

    Raises:
        ValueError: unknown network or setting, or a network without four feature maps.
    """
    family = model.split("_")[0]
    ways = {"features_only": True, "feature_cls": "getter", "out_indices": 4}
    settings = ways | DENSE_SETTINGS.get(family, {}) | settings
    if family == "deit":
        depth = int(settings.get("depth", 12))
        settings["out_indices"] = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    features = create(model, **settings)
    if len(features.out_indices) != 4:
        raise InputError(f"{model}: expected a network with four feature maps, found {len(features.out_indices)}")
    return features


def _strides(features: nn.Module) -> tuple[int, ...]:
    """Strides of the four maps in pixels: the network's own, or 4, 8, 16 and 32 where it has one only."""
    own = features.feature_info.reduction()
    return tuple(own) if len(set(own)) > 1 else (4, 8, 16, 32)


def stages(model: str, architecture: dict[str, object] | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides in pixels of the four stages of a network: its neck's `in_channels`, and its anchors'."""
    return _stages(model, json.dumps(architecture or {}, sort_keys=True))


@functools.cache
def _stages(model: str, architecture: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `stages`, of each network once: planning asks for widths and strides of every fine-tuning."""
    with torch.device("meta"):
        features = feature_network(model, **json.loads(architecture))
    return tuple(features.feature_info.channels()), _strides(features)


# --- Operators of mmcv ------------------------------------------------------------------------------------------------

EXTENSION = "mmcv._ext"
LOG_FLOOR = torch.finfo(torch.float32).tiny


def install() -> bool:
    """Make torchvision's operators answer for mmcv's where mmcv has no compiled ones; says whether they do.

    Importing this module calls it, which has to come before anything imports `mmcv.ops`. Later calls change nothing. A
    compiled `mmcv._ext` is always left alone. Raises ModuleNotFoundError where mmcv is not installed.
    """
    if EXTENSION not in sys.modules and importlib.util.find_spec(EXTENSION) is None:
        sys.modules[EXTENSION] = _StandIn()
        logger.debug("mmcv has no compiled operators; torchvision's take their place")
    return isinstance(sys.modules.get(EXTENSION), _StandIn)


class _StandIn(ModuleType):
    """The module that mmcv's loader finds: it asks for names when mmcv.ops is imported and calls them later."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, "torchvision's operators under the names of mmcv's compiled ones")
        # mmcv and mmengine take a loader for the sign of compiled operators, so there is none.
        self.__spec__ = ModuleSpec(EXTENSION, loader=None, origin=__name__)
        vars(self).update(OPERATORS)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):
            raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")
        return functools.partial(_refuse, name)


def _refuse(operator: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(
        f"mmcv operator {operator!r}: mmcv has no compiled operators here, and the stand-in of "
        f"lska.models.openmmlab offers only {', '.join(OPERATORS)}. To use it, install a compiled mmcv 2.1 in place of "
        "mmcv-lite (`pip install --no-binary mmcv mmcv==2.1.0`)"
    )


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes (N, 4) that are kept, by falling score (N,); equal scores keep their order.

    Widths and heights are x2 - x1 + `offset`. A box goes if its IoU with a kept one is above the threshold.
    """
    boxes = _at_least_single(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in single precision: an IoU of exactly 0.6 is not above a threshold of 0.6, in double it is.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), threshold)


def _roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, *, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fill `output` (R, C, height, width) from `input` (B, C, H, W) and `rois` (R, 5): image index, x1, y1, x2, y2.

    The two argmax tensors serve max pooling only (`pool_mode` 0), which torchvision has not.
    """
    if pool_mode == 0:
        _refuse("roi_align_forward with pool_mode 'max'")
    maps, boxes, size = _at_least_single(input), _at_least_single(rois), (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(maps, boxes, size, spatial_scale, sampling_ratio, aligned))


def _roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **settings: Any
) -> None:
    """Fill `grad_input` (B, C, H, W) from `grad_output` (R, C, height, width); RoIAlign is linear in its input."""
    with torch.enable_grad():
        maps = torch.zeros_like(_at_least_single(grad_input), requires_grad=True)
        output = maps.new_empty(grad_output.shape)
        _roi_align_forward(maps, rois, output, argmax_y, argmax_x, **settings)
        output.backward(grad_output.to(output.dtype))
    grad_input.copy_(maps.grad)


def _sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with the focal loss of the logits `input` (N, C) (Lin et al. 2017, equation 5).

    `target` (N,) holds class indices; C stands for background, which is negative for every class. `weight` (C,), if
    not empty, scales each row by the weight of its target class.
    """
    positive, right, wrong = _focal_terms(input, target)
    loss = wrong.pow(gamma) * right.clamp_min(LOG_FLOOR).log()
    loss *= torch.full_like(loss, alpha - 1).masked_fill_(positive, -alpha)
    output.copy_(_weighted(loss, target, weight))


def _sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each loss by its own logit."""
    positive, right, wrong = _focal_terms(input, target)
    slope = wrong.pow(gamma) * (wrong - gamma * right * right.clamp_min(LOG_FLOOR).log())
    slope *= torch.full_like(slope, 1 - alpha).masked_fill_(positive, -alpha)
    grad_input.copy_(_weighted(slope, target, weight))


def _focal_terms(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries (N, C) are the target class, and the probabilities given to the right and to the wrong answer.

    As in mmcv, 1 - p is a difference and logarithms end at the smallest normal single-precision number.
    """
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    p = _at_least_single(input).sigmoid()
    q = 1 - p
    return positive, torch.where(positive, p, q), torch.where(positive, q, p)


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return values * weight[target, None] if weight.numel() else values


def _at_least_single(values: Tensor) -> Tensor:
    """torchvision's CPU operators lack 16-bit types, so these are computed in single precision."""
    return values if values.dtype == torch.float64 else values.float()


OPERATORS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "roi_align_forward": _roi_align_forward,
    "roi_align_backward": _roi_align_backward,
    "sigmoid_focal_loss_forward": _sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": _sigmoid_focal_loss_backward,
}

# --- Checkpoints of mmengine ------------------------------------------------------------------------------------------


def _method(owner: object, name: object) -> Callable[..., Any]:
    """What files of mmengine ask `getattr` for: a statistic of `HistoryBuffer`; anything else is refused."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"expected a statistic of mmengine's HistoryBuffer, found {name} of {owner}")
    return getattr(HistoryBuffer, name)


# They hold their record of losses beside the weights, of which torch's safe loading has to be told.
torch.serialization.add_safe_globals([
    HistoryBuffer, (_method, "builtins.getattr"), np.ndarray, np.dtype,
    *(one.__reduce__()[0] for one in (np.array(0), np.float64(0))),
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
])  # fmt: skip

install()
