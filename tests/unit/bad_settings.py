"""Settings with one fault or several, by what they change: a scale or a recipe."""

from __future__ import annotations

from typing import Any

RUN = {"model": "van_tiny", "attention": "lska", "kernel": 23, "seed": 0}
ABSENT = {**RUN, "kernel": 17}


def a(**generate: Any) -> dict[str, Any]:
    """Changes of the demo's counterpart of ImageNet-A."""
    return sets(a={"generate": generate})


def sets(**changes: Any) -> dict[str, Any]:
    """Changes of perturbed sets."""
    return {"robustness": {"sets": changes}}


FAULTS: dict[str, list[dict[Any, Any]]] = {
    "tiny": [
        {
            "runs": [{"model": "van_tiny", "attention": "lska", "kernel": "7", "seed": 0}, {"modle": "van", "seed": 0}],
            "caption": None, "data": {"rot": "x", "root": 3}, "training": {"threads": "two"}, "colour": "red",
            "architecture": {"van_tiny": 3},
        },
        {
            "training": {"threads": True, "hours": float("nan"), "state_minutes": "1e-3", "gpus": 1.5, None: 3},
            "architecture": {"\x1b[2J": 3, 1: {}, "van_tiny": {"m": {1: 2}}}, "\x1b[31m": 1, 1: 2, "evaluation": [1],
        },
        {"training": {"hours": float("inf"), "threads": "2.5e4", "overrides": 3}, "runs": {}, "speed": 7, "data": None},
        {"runs": [{**RUN, "attention": "lksa"}]},
        {"runs": [{"model": "van_tiny", "attention": "lska", "seed": 0}, {**RUN, "kernel": [7, 24]}]},
        {"scale": "my scale", "caption": "a\x1b[31m", "data": {"name": "../x", "root": "$NOWHERE/x"}},
        {"training": {"threads": 0, "gpus": -1, "hours": 0, "attempts": 0, "heartbeat_seconds": 3601.0}},
        {"training": {"threads": 10**17, "gpus": 3, "nodes": 2, "workers": 4097, "state_minutes": -1}},
        {"training": {"gpus": 3}},
        {"training": {"nodes": 3}},
        {"evaluation": {"batch_size": 0}, "speed": {"repeats": 0, "warmup": -1, "seconds": "1e-3"}},
        {"architecture": {"van_tiny": {}, "van_huge": {}}, "training": {"recipes": {"swin_tiny": "a.yaml"}}},
        {"training": {"overrides": {"epoch": 3, "mixup": -1}, "recipes": {"van_tiny": "none.yaml"}}},
        {"training": {"recipe": "none.yaml"}, "retrain": ["van_tiny-*", "convnext-*"]},
        {"stored_images": "published"},
    ],
    "demo": [
        sets(d={"name": "d", "root": "d"}, c={"rot": "x"}),
        {"robustness": {"runs": [RUN, ABSENT, RUN], "passes": 0, "shard": 0, "attempts": 0, "hours": 0}},
        {"robustness": {"runs": [RUN, ABSENT, RUN]}, **{
            name: {"runs": [RUN, ABSENT, RUN]} for name in ("shape_texture", "texture_knn", "receptive_field")
        }},
        a(reference="van_tiny-lska-k23-s0"),
        a(reference=None),
        a(reference="resnet18"),
        sets(a=None),
        sets(r={"name": "imagenet_r"}, sketch={"name": "shapes_a"}, c={"name": "my/set"}),
        sets(r={"name": "imagenet_r"}, sketch={"name": "scenes"}, c={"root": "results/demo/data/shapes_c_bar"}),
        {"shape_texture": {"data": {"name": "shapes_c", "root": "results/demo/data/textures", "manifest": "x.yaml"}}},
        {"shape_texture": {"data": {"name": "cue_conflict"}}, "texture_knn": {"data": {"name": "dtd"}}},
        {"shape_texture": {"stage": 0, "pairs": 1, "resamples": 0, "passes": 0, "seed": -1, "hours": 3}},
        {"texture_knn": {"gallery": ["train", "val"]}},
        {"texture_knn": {"gallery": [], "query": "all", "attempts": 0}},
        {"receptive_field": {"images": 0, "size": 31, "normalization": "none"}},
        {"receptive_field": {"size": 100_000}},
        {
            "runs": [RUN, {"model": "van_tiny", "attention": ["lka", "lska"], "kernel": [11, 23], "seed": 0}],
            "detection": {"data": {"name": "shapes"}, "heads": {
                "retinanet": {"runs": [RUN, RUN], "untrained": [RUN, RUN], "overrides": {"precision": "bf16"}},
                "mask_rcnn": {"recipe": "nowhere.yaml"},
            }},
            "segmentation": {"heads": {"semantic_fpn": {"gpus": 3, "overrides": {"micro_batch": 3}}}},
        },
        {"published": {"van_tiny-lska-k23": {
            "file": "w.bin", "address": "ftp://x/w.pth", "sha256": "12", "preprocessing": {"crop": 1},
        }}},
        {
            "published": {"van_tiny-lska-k17": {"file": "w.pth"}},
            "robustness": {"runs": [{**RUN, "source": "imported"}]},
            "detection": {"heads": {"retinanet": {"untrained": [{**RUN, "source": "imported"}]}}},
        },
        {"runs": [{**RUN, "source": "published"}]},
        {"detection": {"heads": {"upernet": {"recipe": "x.yaml"}}}, "segmentation": {"heads": {"retinanet": {}}}},
    ],
    "recipe": [
        {
            "switches": {
                "batch": "big", "btach": "published", "averaging": ["corrected"], "normalization": "corrected",
            },
            "epoch": 3, "learning_rate": "1e-3", "erase_mode": "noise", "crop_scale": 0.5,
        },
        {"switches": 3, "epochs": 0, "clip_gradient": 0.0, "micro_batch": 0, "test_crop": 1.2, "ema_decay": 99.99},
        {"epochs": -1, "test_crop": 0, "micro_batch": 5, "drop_path": 1.0, "image_size": 1_000_000, "mixup": -1},
        {"micro_batch": 1, "mixup": 0.2, "mixup_probability": 1.0, "warmup_epochs": 3, "cooldown_epochs": -1},
        {"crop_ratio": [-1.0, 1.0], "crop_scale": [1.0, 0.08], "deviation": [0.5, 0.0, 0.5], "erase_probability": 2},
    ],
    "retinanet": [
        {"switches": {"layer_norm": "fixed", "eps": "published"}, "learning_rate": "1e-3", "rate": 3},
        {"micro_batch": 3, "weight_decay": -0.1, "betas": [0.9, 1.0], "image_scale": [100_000, 800]},
        {"milestones": [11, 8], "warmup_factor": 0.0, "warmup_updates": -1, "image_scale": [800, 1333]},
        {"milestones": [8, 12], "layer_norm_eps": 1e-3},
        {"switches": None, "mean": [0.1, 0.2, 0.3], "deviation": None, "layer_norm_eps": 0.1},
    ],
    "mask_rcnn": [{"epochs": 0, "milestones": [], "fc_channels": -1, "suppression_iou": 2.0, "proposals": 0}],
    "semantic_fpn": [
        {"updates": 0, "scale_range": [2.0, 0.5], "largest_class": -0.5, "minimum_learning_rate": -1.0, "crop": 16_385},
        {"precision": "fp16", "power": 0.0, "dropout": 2},
    ],
}  # fmt: skip
