"""The few numbers that stand for a task where there is no room for all."""

from __future__ import annotations

from collections.abc import Mapping

from lska.settings.fine_tunings import CONTROL

HEADLINES: dict[str, dict[str, str]] = {
    "classification": {"top-1": "top1", "top-5": "top5"},
    "detection/retinanet": {"box AP": "box_ap", "box AP50": "box_ap50"},
    "detection/mask_rcnn": {"box AP": "box_ap", "box AP50": "box_ap50", "mask AP": "mask_ap"},
    "segmentation/semantic_fpn": {"mIoU": "miou"},
    "robustness/c": {"mean top-1 of 19": "top1_mean_19", "mCE of 15": "mce_15"},
    "robustness/c_bar": {"mean top-1": "top1_mean_10"},
    "robustness/a": {"top-1": "top1"},
    "robustness/r": {"top-1": "top1"},
    "robustness/sketch": {"top-1": "top1"},
    "shape_texture": {"shape score": "shape_score_reference", "texture score": "texture_score_reference"},
    "texture_knn": {"1-NN top-1, cosine": "top1_cosine"},
    "receptive_field": {"r at t=50%": "area_ratio_50", "r at t=99%": "area_ratio_99"},
    "complexity": {"parameters": "params", "FLOPs": "flops"},
}
"""Metrics by what they are called, by task; each is in every metric file of its task."""


def headlines(task: str) -> Mapping[str, str]:
    """The headline metrics of a task by what they are called; those of a control are its task's.

    Raises:
        KeyError: a task without any, such as `speed`, whose numbers are those of a machine.
    """
    return HEADLINES[task.removesuffix(CONTROL)]
