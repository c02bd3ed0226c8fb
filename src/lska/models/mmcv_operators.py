"""Stand-in for the compiled operators of mmcv, backed by torchvision.

mmdet 3.3 and mmsegmentation 1.2 need mmcv 2.1, which has no wheel for current versions of torch. Its Python part
(mmcv-lite) runs alone if a module named `mmcv._ext` answers for the compiled operators. RetinaNet, Mask R-CNN and
Semantic FPN call four of them: `nms`, RoIAlign forward on the masks that are learnt (on feature maps our configurations
have torchvision's own layer) and, on CUDA, the sigmoid focal loss forward and backward. These are here, for CPU and
CUDA. Every other operator raises NotImplementedError when it is called.

Argument names and the tensors filled in place are those that mmcv 2.1's Python side passes.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor

from lska.provenance.errors import InputError

EXTENSION = "mmcv._ext"
LOG_FLOOR = torch.finfo(torch.float32).tiny
REMEDY = "install a compiled mmcv 2.1 in place of mmcv-lite (`pip install --no-binary mmcv mmcv==2.1.0`)"

logger = logging.getLogger(__name__)


def install() -> bool:
    """Make torchvision's operators answer for mmcv's where mmcv has no compiled ones; says whether they do.

    Call it before anything imports `mmcv.ops`, hence before `mmdet` and `mmseg`. Later calls change nothing. A compiled
    `mmcv._ext` is always left alone. Raises ModuleNotFoundError where mmcv is not installed.
    """
    if EXTENSION not in sys.modules and importlib.util.find_spec(EXTENSION) is None:
        sys.modules[EXTENSION] = _StandIn()
        logger.info("mmcv has no compiled operators; torchvision's take their place")
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
        return partial(_refuse, name)


def _refuse(operator: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(
        f"mmcv operator {operator!r}: mmcv has no compiled operators here, and the stand-in of "
        f"lska.models.mmcv_operators offers only {', '.join(OPERATORS)}. To use it, {REMEDY}"
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
    if weight.numel() == 0:
        return values
    if target.numel() and int(target.max()) >= weight.numel():
        raise InputError(
            f"sigmoid_focal_loss: target {int(target.max())} has no class weight, expected targets below "
            f"{weight.numel()}. Leave `weight` out where there is background"
        )
    return values * weight[target, None]


def _at_least_single(values: Tensor) -> Tensor:
    """torchvision's CPU operators lack 16-bit types, so these are computed in single precision."""
    return values if values.dtype == torch.float64 else values.float()


OPERATORS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "roi_align_forward": _roi_align_forward,
    "sigmoid_focal_loss_forward": _sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": _sigmoid_focal_loss_backward,
}
