"""Generated mmengine configurations: networks against protocol sections 3 and 4, switches, one run id, printing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import paper_jobs
import pytest
import torch
import yaml
from paper_jobs import RUN, TASKS, data_set, generated, means, network, published, rates, steps
from tiny_project import RECIPE
from torch import nn

from lska.data.entries import DataError
from lska.finetuning import FineTuningJob
from lska.openmmlab.configs import configuration
from lska.runs import Run

DETECTORS = ("retinanet", "mask_rcnn")
# Old spellings inside the library.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmseg")


def flat(values: Any, place: str = "") -> dict[str, Any]:
    """Every leaf of a nested configuration by its place."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if inner is None:
        return {place: values}
    return {key: leaf for name, value in inner for key, leaf in flat(value, f"{place}.{name}").items()}


def changed(one: Any, other: Any) -> set[str]:
    """Places at which two configurations differ, without list indices."""
    left, right = flat(one.to_dict()), flat(other.to_dict())
    places = {place for place in {**left, **right} if left.get(place) != right.get(place)}
    return {".".join(part for part in place.split(".") if part and not part.isdecimal()) for place in places}


@pytest.mark.parametrize("head", TASKS)
def test_backbone_is_not_frozen_and_drops_paths(head: str) -> None:
    values = dict(published(head).model.backbone)
    synchronize = {"synchronize": False} if head == "semantic_fpn" else {}
    assert values == {
        "type": "Backbone", "run": str(RUN), "checkpoint": f"checkpoints/test/{RUN}.safetensors",
        "architecture": {}, "drop_path_rate": 0.1, "layer_norm_eps": 1e-5, **synchronize,
    }  # fmt: skip
    assert not {"pretrained", "init_cfg"} & set(published(head).model)
    model = network(published(head)).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_retinanet_has_five_levels_from_the_second_stage_on() -> None:
    config = published("retinanet")
    assert config.model.neck.start_level == 1
    assert (config.model.neck.num_outs, config.model.neck.out_channels) == (5, 256)
    assert config.model.neck.add_extra_convs == "on_input"
    head = config.model.bbox_head
    assert (head.num_classes, head.in_channels, head.feat_channels, head.stacked_convs) == (80, 256, 256, 4)
    assert head.anchor_generator.strides == [8, 16, 32, 64, 128]
    assert (config.model.test_cfg.score_thr, config.model.test_cfg.max_per_img) == (0.05, 100)
    assert config.model.test_cfg.nms == {"type": "nms", "iou_threshold": 0.5}
    maps = network(config).extract_feat(torch.empty(1, 3, 256, 384, device="meta"))
    assert [tuple(level.shape[1:]) for level in maps] == [(256, 256 // s, 384 // s) for s in (8, 16, 32, 64, 128)]


def test_mask_rcnn_has_all_four_stages() -> None:
    config = published("mask_rcnn")
    assert config.model.neck.get("start_level", 0) == 0
    assert (config.model.neck.num_outs, config.model.neck.out_channels) == (5, 256)
    assert config.model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    regions = config.model.roi_head
    for extractor in (regions.bbox_roi_extractor, regions.mask_roi_extractor):
        assert (extractor.featmap_strides, extractor.finest_scale) == ([4, 8, 16, 32], 56)
    assert (regions.bbox_head.num_classes, regions.bbox_head.fc_out_channels) == (80, 1024)
    assert (regions.mask_head.num_classes, regions.mask_head.num_convs) == (80, 4)
    train, test = config.model.train_cfg, config.model.test_cfg
    assert (train.rpn.sampler.num, train.rcnn.sampler.num) == (256, 512)
    assert (train.rpn_proposal.nms_pre, train.rpn_proposal.max_per_img) == (2000, 1000)
    assert (test.rpn.nms_pre, test.rpn.max_per_img, test.rcnn.max_per_img, test.rcnn.score_thr) == (
        1000,
        1000,
        100,
        0.05,
    )
    maps = network(config).extract_feat(torch.empty(1, 3, 128, 192, device="meta"))
    assert [tuple(level.shape[1:]) for level in maps] == [(256, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]


def test_semantic_fpn_as_published() -> None:
    config = published("semantic_fpn")
    assert (config.model.neck.num_outs, config.model.neck.out_channels) == (4, 256)
    head = config.model.decode_head
    assert (head.in_channels, head.channels, head.dropout_ratio, head.num_classes) == ([256] * 4, 128, 0.1, 150)
    assert head.feature_strides == [4, 8, 16, 32]
    assert "auxiliary_head" not in config.model
    assert dict(config.model.test_cfg) == {"mode": "whole"}
    assert network(config).decode_head.dropout.p == 0.1
    preprocessor = config.model.data_preprocessor
    assert preprocessor.size == (512, 512)
    assert not {"size_divisor", "test_cfg"} & set(preprocessor)
    assert (preprocessor.pad_val, preprocessor.seg_pad_val) == (0, 255)


@pytest.mark.parametrize("gpus", [0, 1, 2, 4])
def test_segmentation_synchronises_statistics_over_several_gpus(gpus: int) -> None:
    model = generated("semantic_fpn", means("semantic_fpn", gpus=gpus)).model
    assert model.backbone.synchronize == (gpus > 1)
    assert model.decode_head.norm_cfg == {"type": "SyncBN" if gpus > 1 else "BN", "requires_grad": True}


def test_detectors_keep_plain_batch_norm_on_several_gpus() -> None:
    for head in DETECTORS:
        model = network(generated(head, means(head, gpus=8)))
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {nn.BatchNorm2d}


PIXELS = {"model.data_preprocessor.mean", "model.data_preprocessor.std"}


@pytest.mark.parametrize("head", TASKS)
@pytest.mark.parametrize(
    ("switch", "places"), [("normalization", PIXELS), ("layer_norm", {"model.backbone.layer_norm_eps"})]
)
def test_a_switch_changes_its_own_settings_only(head: str, switch: str, places: set[str]) -> None:
    corrected = generated(head, means(head, overrides={"switches": {switch: "corrected"}}))
    assert changed(published(head), corrected) == places
    same = generated(head, means(head, overrides={"switches": {switch: "published"}}))
    assert changed(published(head), same) == set()
    if switch == "normalization":
        preprocessor = corrected.model.data_preprocessor
        assert preprocessor.mean == preprocessor.std == [127.5] * 3
    else:
        assert corrected.model.backbone.layer_norm_eps == 1e-6


def test_corrected_pixels_follow_the_scales_own_pretraining(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**RECIPE, "mean": [0.0, 0.2, 0.4], "deviation": [0.1, 0.2, 1.0]}), encoding="utf-8")
    pretraining = {"training": {"recipe": str(own)}}
    for head in TASKS:
        corrected = means(head, overrides={"switches": {"normalization": "corrected"}})
        preprocessor = generated(head, pretraining, corrected).model.data_preprocessor
        assert preprocessor.mean == pytest.approx([0, 51, 102])
        assert preprocessor.std == pytest.approx([25.5, 51, 255])
        assert changed(published(head), generated(head, pretraining)) == set()


def test_an_unknown_switch_is_named() -> None:
    with pytest.raises(ValueError, match="unknown switch norm: corrected; switches: normalization, layer_norm"):
        generated("retinanet", means("retinanet", overrides={"switches": {"norm": "corrected"}}))


@pytest.mark.parametrize("head", TASKS)
def test_kernel_size_and_checkpoint_come_from_one_run(head: str) -> None:
    run = Run("van_small", "lka", 35, 4)
    entry = [paper_jobs.group(run)]
    config = paper_jobs.config({"runs": [paper_jobs.group(RUN), *entry]}, means(head, runs=entry, untrained=entry))
    made = configuration(FineTuningJob(config, TASKS[head], run), paper_jobs.splits(head))
    assert (made.model.backbone.run, Path(made.model.backbone.checkpoint).stem) == (str(run), str(run))
    assert made.model.neck.in_channels == [64, 128, 320, 512]
    unit = network(made).backbone.network.block1[0].attn.spatial_gating_unit
    assert (unit.conv0.kernel_size, unit.conv_spatial.kernel_size) == ((5, 5), (11, 11))
    assert made.randomness.seed == 4
    control = configuration(FineTuningJob(config, f"{TASKS[head]}-untrained", run), paper_jobs.splits(head))
    assert changed(made, control) == {"model.backbone.checkpoint"}
    assert control.model.backbone.checkpoint is None


@pytest.mark.parametrize("head", TASKS)
def test_the_printed_configuration_is_the_same_and_can_be_built(head: str) -> None:
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    config = published(head)
    again = Config.fromstring(config.pretty_text, ".py")
    assert again.to_dict() == config.to_dict()
    model = network(again)
    build_optim_wrapper(model, again.optim_wrapper.copy())
    assert len(rates(again, 7, 3)) == 3
    for loader in ("train_dataloader", "test_dataloader"):
        made = data_set(again, loader, lazy_init=True)
        named = [name.rpartition(".")[2] for name in steps(config, loader)]
        assert [type(step).__name__ for step in made.pipeline.transforms] == named
        assert made.metainfo["classes"] == paper_jobs.splits(head)["train"].classes


def test_mask_rcnn_on_a_set_of_boxes_is_refused_and_retinanet_is_not() -> None:
    boxes = {name: replace(split, masks=False) for name, split in paper_jobs.splits("retinanet").items()}
    message = r"train.json: detection/mask_rcnn needs objects with masks, and coco has boxes only"
    with pytest.raises(DataError, match=message):
        generated("mask_rcnn", data=boxes)
    assert "train_dataloader" in generated("retinanet", data=boxes)
