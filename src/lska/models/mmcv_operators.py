"""Stand-in for the compiled operators of mmcv, backed by torchvision.

mmdet 3.3 and mmsegmentation 1.2 need mmcv 2.1, which has no wheel for current versions of torch. Its Python part
(mmcv-lite) runs alone if a module named `mmcv._ext` answers for the compiled operators. RetinaNet, Mask R-CNN and
Semantic FPN call five of them: `nms`, RoIAlign forward and backward, and on CUDA the sigmoid focal loss forward and
backward. These are here, for CPU and CUDA. Every other operator raises NotImplementedError when it is called.

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
MAX_POOLING = 0
LOG_FLOOR = torch.finfo(torch.float32).tiny
REMEDY = "install a compiled mmcv 2.1 in place of mmcv-lite (`pip install --no-binary mmcv mmcv==2.1.0`)"

logger = logging.getLogger(__name__)


def install() -> bool:
    """Make torchvision's operators answer for mmcv's where mmcv has no compiled ones.

    Call it before anything imports `mmcv.ops`, hence before `mmdet` and `mmseg`, and once in each process. Later calls
    change nothing. A compiled `mmcv._ext` is always left alone.

    Returns:
        True if the stand-in is in use, False if mmcv has compiled operators.

    Raises:
        ModuleNotFoundError: mmcv is not installed.
        RuntimeError: another stand-in is in place, or an import of `mmcv.ops` came first.
    """
    present = sys.modules.get(EXTENSION)
    if isinstance(present, _StandIn):
        return True
    if present is not None:
        _require_compiled(present)
        return False
    if importlib.util.find_spec(EXTENSION) is not None:
        return False
    _require_unused()
    sys.modules[EXTENSION] = _StandIn()
    logger.info("mmcv has no compiled operators; torchvision's take their place")
    return True


def _require_compiled(module: ModuleType) -> None:
    spec = getattr(module, "__spec__", None)
    if getattr(spec, "loader", None) is None:
        raise RuntimeError(
            f"{EXTENSION} is already in sys.modules and was not loaded from a file: {module!r}, another stand-in for "
            "mmcv's operators. Remove the code that puts it there; lska.models.mmcv_operators.install() replaces it"
        )


def _require_unused() -> None:
    """An import of mmcv.ops without its operators leaves mmcv, mmdet or mmseg partly loaded and registered."""
    used = [name for name in ("mmcv.ops", "mmcv.utils.ext_loader") if name in sys.modules]
    if used:
        raise RuntimeError(
            f"mmcv.ops was imported, or its import failed, before its operators were in place: {used[0]} is loaded "
            f"and {EXTENSION} is not. Start a new process and call lska.models.mmcv_operators.install() before "
            "anything imports mmcv.ops, mmdet or mmseg"
        )


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
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (R, C, height, width) from `input` (B, C, H, W) and `rois` (R, 5): image index, x1, y1, x2, y2.

    The two argmax tensors serve max pooling only.
    """
    _require_average(pool_mode, "roi_align_forward")
    maps, boxes = _at_least_single(input), _at_least_single(rois)
    size = (aligned_height, aligned_width)
    output.copy_(torch.ops.torchvision.roi_align(maps, boxes, spatial_scale, *size, sampling_ratio, aligned))


def _roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` (B, C, H, W) from `grad_output` (R, C, height, width).

    The operator is linear in the maps, so its derivative is that at maps of zeros. Configurations of this project have
    torchvision's own layer instead, which needs no second pass.
    """
    _require_average(pool_mode, "roi_align_backward")
    gradient, boxes = _at_least_single(grad_output), _at_least_single(rois)
    maps, size = torch.zeros_like(grad_input, dtype=gradient.dtype).requires_grad_(), (aligned_height, aligned_width)
    with torch.enable_grad():
        pooled = torch.ops.torchvision.roi_align(maps, boxes, spatial_scale, *size, sampling_ratio, aligned)
    grad_input.copy_(torch.autograd.grad(pooled, maps, gradient)[0])


def _require_average(pool_mode: int, operator: str) -> None:
    if pool_mode == MAX_POOLING:
        raise NotImplementedError(
            f"mmcv operator {operator!r} with pool_mode 'max': torchvision's RoIAlign averages only. Use pool_mode "
            f"'avg', or {REMEDY}"
        )


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


def _compiler() -> str:
    return "none (torchvision's operators)"


OPERATORS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "roi_align_forward": _roi_align_forward,
    "roi_align_backward": _roi_align_backward,
    "sigmoid_focal_loss_forward": _sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": _sigmoid_focal_loss_backward,
    # mmdet and mmseg print these two with the environment at the start of a training.
    "get_compiler_version": _compiler,
    "get_compiling_cuda_version": _compiler,
}
