"""Generated mmengine configurations against protocol sections 3 and 4, read off them and off what they build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paper_jobs
import pytest
import torch
from paper_jobs import RUN, TASKS, means
from PIL import Image
from torch import nn

from lska.openmmlab.configs import configuration
from lska.runs import Run

DETECTORS = ("retinanet", "mask_rcnn")
# Old spellings inside the library.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmseg")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """The paper's configuration by head, on one process; imports both libraries."""
    return {head: configuration(paper_jobs.job(head), paper_jobs.splits(head)) for head in TASKS}


def generated(head: str, *changes: dict[str, Any], splits: dict[str, Any] | None = None) -> Any:
    return configuration(paper_jobs.job(head, *changes), splits or paper_jobs.splits(head))


def on_scope(config: Any, build: Callable[[], Any]) -> Any:
    """Build with the registry of the configuration's library."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(config.default_scope):
        return build()


def network(config: Any, device: str = "meta") -> nn.Module:
    from mmengine.registry import MODELS

    with torch.device(device):
        return on_scope(config, lambda: MODELS.build({**config.model, "_scope_": config.default_scope}))


def data_set(config: Any, loader: str, **settings: Any) -> Any:
    from mmengine.registry import DATASETS

    values = config[loader].dataset
    values = values.dataset if "dataset" in values else values
    return on_scope(config, lambda: DATASETS.build({**values, **settings}))


def steps(config: Any, loader: str) -> dict[str, Any]:
    """The pipeline's steps by name, in order."""
    values = config[loader].dataset
    pipeline = (values.dataset if "dataset" in values else values).pipeline
    return {step.type: step for step in pipeline}


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


@pytest.mark.parametrize(("head", "decay"), [("retinanet", 0.05), ("mask_rcnn", 0.05), ("semantic_fpn", 1e-4)])
def test_optimizer(head: str, decay: float, published: dict[str, Any]) -> None:
    from mmengine.optim import build_optim_wrapper

    wrapper = published[head].optim_wrapper
    assert wrapper.optimizer == {"type": "AdamW", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": decay}
    assert (wrapper.type, wrapper.clip_grad) == ("OptimWrapper", None)
    assert not {"paramwise_cfg", "constructor"} & set(wrapper)
    model = network(published[head])
    optimizer = build_optim_wrapper(model, wrapper.copy()).optimizer
    # One group: norms and biases decay like all others, and no layer has a rate of its own.
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["weight_decay"], type(optimizer)) == (1e-4, decay, torch.optim.AdamW)


@pytest.mark.parametrize("head", TASKS)
def test_backbone_is_not_frozen_and_drops_paths(head: str, published: dict[str, Any]) -> None:
    values = dict(published[head].model.backbone)
    synchronize = {"synchronize": False} if head == "semantic_fpn" else {}
    assert values == {
        "type": "VANBackbone", "run": str(RUN), "checkpoint": f"checkpoints/test/{RUN}.safetensors",
        "architecture": {}, "drop_path_rate": 0.1, "layer_norm_eps": 1e-5, **synchronize,
    }  # fmt: skip
    assert not {"pretrained", "init_cfg"} & set(published[head].model)
    model = network(published[head]).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("head", DETECTORS)
def test_detectors_see_coco_as_published(head: str, published: dict[str, Any]) -> None:
    config = published[head]
    train, test = steps(config, "train_dataloader"), steps(config, "test_dataloader")
    assert list(train) == ["LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs"]
    assert list(test) == ["LoadImageFromFile", "Resize", "PackDetInputs"]
    assert train["Resize"] == test["Resize"] == {"type": "Resize", "scale": (1333, 800), "keep_ratio": True}
    assert train["RandomFlip"] == {"type": "RandomFlip", "prob": 0.5}
    assert train["LoadAnnotations"].with_mask == (head == "mask_rcnn")
    assert config.train_dataloader.dataset.dataset.filter_cfg == {"filter_empty_gt": True, "min_size": 32}
    assert config.test_dataloader.dataset.filter_cfg is None
    preprocessor = config.model.data_preprocessor
    assert preprocessor.mean == pytest.approx([123.675, 116.28, 103.53])
    assert preprocessor.std == pytest.approx([58.395, 57.12, 57.375])
    assert (preprocessor.bgr_to_rgb, preprocessor.pad_size_divisor) == (True, 32)


@pytest.mark.parametrize("head", DETECTORS)
def test_detectors_train_twelve_epochs(head: str, published: dict[str, Any]) -> None:
    warmup, fall = published[head].param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.begin, warmup.start_factor) == ("LinearLR", False, 0, 1e-3)
    assert warmup.end - warmup.begin - 1 == 1000  # mmengine's own length of the ramp
    assert (fall.type, fall.by_epoch, fall.milestones, fall.gamma) == ("MultiStepLR", True, [8, 11], 0.1)
    assert fall.convert_to_iter_based
    assert (fall.begin, fall.end) == (0, 12)
    assert published[head].train_dataloader.batch_sampler.epochs == 12


def test_retinanet_has_five_levels_from_the_second_stage_on(published: dict[str, Any]) -> None:
    config = published["retinanet"]
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


def test_mask_rcnn_has_all_four_stages(published: dict[str, Any]) -> None:
    config = published["mask_rcnn"]
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


def test_semantic_fpn_as_published(published: dict[str, Any]) -> None:
    config = published["semantic_fpn"]
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


def test_semantic_fpn_trains_on_random_crops_and_is_tested_once_at_one_scale(published: dict[str, Any]) -> None:
    config = published["semantic_fpn"]
    train, test = steps(config, "train_dataloader"), steps(config, "test_dataloader")
    assert list(train) == [
        "LoadImageFromFile", "LoadAnnotations", "RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion",
        "PackSegInputs",
    ]  # fmt: skip
    assert train["RandomResize"] == {
        "type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True,
    }  # fmt: skip
    assert train["RandomCrop"] == {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75}
    assert train["RandomFlip"] == {"type": "RandomFlip", "prob": 0.5}
    assert list(test) == ["LoadImageFromFile", "Resize", "LoadAnnotations", "PackSegInputs"]
    assert test["Resize"] == {"type": "Resize", "scale": (2048, 512), "keep_ratio": True}
    assert config.test_dataloader.dataset.reduce_zero_label is True
    assert config.test_dataloader.batch_size == 1


def test_semantic_fpn_decays_over_eighty_thousand_updates(published: dict[str, Any]) -> None:
    (decay,) = published["semantic_fpn"].param_scheduler
    assert (decay.type, decay.power, decay.eta_min, decay.by_epoch, decay.begin) == ("PolyLR", 0.9, 0.0, False, 0)
    assert decay.end - decay.begin - 1 == 80000  # mmengine's own length of the decay
    sampler = published["semantic_fpn"].train_dataloader.batch_sampler
    assert sampler.updates == 80000
    assert "epochs" not in sampler


@pytest.mark.parametrize(
    ("head", "gpus", "images", "accumulated"),
    [(head, gpus, 2, 8 // max(1, gpus)) for head in DETECTORS for gpus in (0, 1, 2, 8)]
    + [("semantic_fpn", gpus, 4, 4 // max(1, gpus)) for gpus in (0, 1, 2, 4)],
)
def test_an_update_takes_sixteen_images_on_any_number_of_gpus(
    head: str, gpus: int, images: int, accumulated: int
) -> None:
    config = generated(head, means(head, gpus=gpus, workers=3))
    loader, wrapper = config.train_dataloader, config.optim_wrapper
    assert (loader.batch_size, wrapper.accumulative_counts) == (images, accumulated)
    assert loader.batch_size * max(1, gpus) * wrapper.accumulative_counts == 16
    assert loader.batch_size * loader.batch_sampler.micro_batches == 16
    assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (3, True, gpus > 0)
    assert wrapper.optimizer.lr == 1e-4


@pytest.mark.parametrize(("head", "length"), [("retinanet", 12 * 10), ("mask_rcnn", 12 * 10), ("semantic_fpn", 80000)])
def test_the_training_is_as_long_as_published(head: str, length: int, published: dict[str, Any]) -> None:
    from mmengine.registry import DATA_SAMPLERS

    class Samples(list):
        def get_data_info(self, index: int) -> dict[str, int]:
            return self[index]

    loader = published[head].train_dataloader
    images = Samples({"width": 64, "height": 48} for _ in range(165))
    sampler = SimpleNamespace(dataset=SimpleNamespace(dataset=images))
    settings = {**loader.batch_sampler, "sampler": sampler, "batch_size": loader.batch_size}
    batches = on_scope(published[head], lambda: DATA_SAMPLERS.build(settings))
    assert batches.plan.steps == length
    assert len(batches) == 10  # updates of 16 images in an epoch of 165


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
def test_a_switch_changes_its_own_settings_only(
    head: str, switch: str, places: set[str], published: dict[str, Any]
) -> None:
    corrected = generated(head, means(head, overrides={"switches": {switch: "corrected"}}))
    assert changed(published[head], corrected) == places
    same = generated(head, means(head, overrides={"switches": {switch: "published"}}))
    assert changed(published[head], same) == set()
    if switch == "normalization":
        preprocessor = corrected.model.data_preprocessor
        assert preprocessor.mean == preprocessor.std == [127.5] * 3
    else:
        assert corrected.model.backbone.layer_norm_eps == 1e-6


def test_corrected_pixels_follow_the_scales_own_pretraining() -> None:
    # A pretraining recipe that sets its pixels itself.
    recipe = {"training": {"overrides": {"switches": {"normalization": "corrected"}}}}
    preprocessor = generated("retinanet", recipe).model.data_preprocessor
    switched = means("retinanet", overrides={"switches": {"normalization": "corrected"}})
    assert generated("retinanet", recipe, switched).model.data_preprocessor == preprocessor
    plain = generated("retinanet", switched).model.data_preprocessor
    assert plain.mean == [127.5] * 3 != preprocessor.mean


def test_an_unknown_switch_is_named() -> None:
    with pytest.raises(ValueError, match="unknown switch norm: corrected; switches: normalization, layer_norm"):
        generated("retinanet", means("retinanet", overrides={"switches": {"norm": "corrected"}}))


@pytest.mark.parametrize("head", TASKS)
def test_kernel_size_and_checkpoint_come_from_one_run(head: str) -> None:
    from lska.finetuning import FineTuningJob

    run = Run("van_small", "lka", 35, 4)
    entry = [paper_jobs.group(run)]
    config = paper_jobs.config({"runs": [paper_jobs.group(RUN), *entry]}, means(head, runs=entry, untrained=entry))
    made = configuration(FineTuningJob(config, TASKS[head], run), paper_jobs.splits(head))
    assert (made.model.backbone.run, Path(made.model.backbone.checkpoint).stem) == (str(run), str(run))
    assert made.model.neck.in_channels == [64, 128, 320, 512]
    unit = network(made).backbone.block1[0].attn.spatial_gating_unit
    assert (unit.conv0.kernel_size, unit.conv_spatial.kernel_size) == ((5, 5), (11, 11))
    assert made.randomness.seed == 4
    control = configuration(FineTuningJob(config, f"{TASKS[head]}-untrained", run), paper_jobs.splits(head))
    assert changed(made, control) == {"model.backbone.checkpoint"}
    assert control.model.backbone.checkpoint is None


def rates(config: Any, epoch_length: int, updates: int) -> list[float]:
    """The rate of every update that mmengine's schedulers set, as its Runner builds and its hook steps them."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS

    wrapper = build_optim_wrapper(nn.Linear(1, 1), config.optim_wrapper.copy())
    built = {"optimizer": wrapper, "epoch_length": epoch_length}
    schedulers = [PARAM_SCHEDULERS.build(dict(values), default_args=built) for values in config.param_scheduler]
    found = []
    for _ in range(updates):
        found += wrapper.get_lr()["lr"]
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 1, 2, 9, 40])
def test_rates_of_a_detector(warmup: int) -> None:
    """Linear warm-up from a thousandth, a tenth after each milestone, also where the warm-up outlasts a milestone."""
    short = {"epochs": 5, "milestones": [3, 4], "warmup_updates": warmup}
    config = generated("retinanet", means("retinanet", overrides=short))
    ramp = [1e-3 + (1 - 1e-3) * min(1, step / warmup) if warmup else 1 for step in range(35)]
    fall = [0.1 ** ((step >= 3 * 7) + (step >= 4 * 7)) for step in range(35)]
    assert rates(config, 7, 35) == pytest.approx([1e-4 * up * down for up, down in zip(ramp, fall, strict=True)])


def test_rates_of_the_published_warmup(published: dict[str, Any]) -> None:
    found = rates(published["mask_rcnn"], 7393, 1002)
    assert [found[step] for step in (0, 500, 999, 1000, 1001)] == pytest.approx(
        [1e-7, 1e-4 * (0.001 + 0.999 / 2), 1e-4 * (1 - 0.999 / 1000), 1e-4, 1e-4]
    )


@pytest.mark.parametrize(("updates", "least"), [(1, 0.0), (2, 0.0), (30, 0.0), (30, 1e-5)])
def test_rates_of_a_segmentor(updates: int, least: float) -> None:
    short = {"updates": updates, "minimum_learning_rate": least}
    config = generated("semantic_fpn", means("semantic_fpn", overrides=short))
    expected = [least + (1e-4 - least) * (1 - step / updates) ** 0.9 for step in range(updates)]
    assert rates(config, 7, updates) == pytest.approx(expected)
    assert min(expected) > 0


@pytest.mark.parametrize("head", TASKS)
def test_the_printed_configuration_is_the_same_and_can_be_built(head: str, published: dict[str, Any]) -> None:
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    config = published[head]
    again = Config.fromstring(config.pretty_text, ".py")
    assert again.to_dict() == config.to_dict()
    model = network(again)
    build_optim_wrapper(model, again.optim_wrapper.copy())
    assert len(rates(again, 7, 3)) == 3
    for loader in ("train_dataloader", "test_dataloader"):
        made = data_set(again, loader, lazy_init=True)
        assert [type(step).__name__ for step in made.pipeline.transforms] == list(steps(config, loader))
        assert made.metainfo["classes"] == paper_jobs.splits(head)["train"].classes


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """COCO-style images: of 300x200 pixels with an object, the same without, and a tiny one."""
    folder = tmp_path / "coco"
    (folder / "train").mkdir(parents=True)
    sizes = {"with": (300, 200), "without": (300, 200), "tiny": (31, 40)}
    for name, size in sizes.items():
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "train" / f"{name}.png")
    images = [
        {"id": number, "file_name": f"{name}.png", "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items())
    ]
    shape = {"bbox": [30, 20, 60, 40], "area": 2400, "iscrowd": 0,
             "segmentation": [[30, 20, 90, 20, 90, 60, 30, 60]]}  # fmt: skip
    objects = [{"id": 1, "image_id": 0, "category_id": 3, **shape}, {"id": 2, "image_id": 2, "category_id": 1, **shape}]
    split = paper_jobs.detection_split("train", folder)
    categories = [{"id": i, "name": name} for i, name in zip(split.category_ids, split.classes, strict=True)]
    content = {"images": images, "annotations": objects, "categories": categories}
    split.annotations.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("head", DETECTORS)
def test_images_without_objects_are_left_out_and_the_others_resized(head: str, scenes: Path) -> None:
    split = paper_jobs.detection_split("train", scenes)
    unflipped = means(head, overrides={"horizontal_flip": 0.0})
    config = generated(head, unflipped, splits={"train": split, "val": split})
    made = data_set(config, "train_dataloader")
    assert [Path(made.get_data_info(index)["img_path"]).stem for index in range(len(made))] == ["with"]
    sample = made[0]
    assert tuple(sample["inputs"].shape) == (3, 800, 1200)
    found = sample["data_samples"].gt_instances
    assert found.labels.tolist() == [1]  # category 3 is the second class
    assert found.bboxes.tensor.tolist() == [[120, 80, 360, 240]]
    assert ("masks" in found) == (head == "mask_rcnn")
    assert len(data_set(config, "test_dataloader")) == 3


def write_labels(folder: Path, values: np.ndarray, size: tuple[int, int]) -> None:
    """An image of `size` (width, height) whose label map has columns of `values`."""
    for part in ("images", "labels"):
        (folder / part / "val").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "images" / "val" / "a.png")
    columns = np.resize(values, size[0]).astype(np.uint8)
    Image.fromarray(np.tile(columns, (size[1], 1))).save(folder / "labels" / "val" / "a.png")


@pytest.mark.parametrize(
    ("unlabelled", "stored", "expected"),
    [
        (True, [0, 1, 2, 150, 200, 255], [255, 0, 1, 149, 255, 255]),
        (False, [0, 1, 2, 149, 200, 255], [0, 1, 2, 149, 255, 255]),
    ],
)
def test_label_values_become_classes_and_ignored_pixels(
    unlabelled: bool, stored: list[int], expected: list[int], tmp_path: Path
) -> None:
    write_labels(tmp_path, np.array(stored), (100, 60))
    split = paper_jobs.segmentation_split("val", tmp_path, zero_is_unlabelled=unlabelled, ignore=(200, 255))
    config = generated("semantic_fpn", splits={"val": split})
    sample = data_set(config, "test_dataloader")[0]
    labels = sample["data_samples"].gt_sem_seg.data
    # Shorter side 512, the longer not rounded to a multiple of 32; labels are scored at their own size.
    assert tuple(sample["inputs"].shape) == (3, 512, 853)
    assert tuple(labels.shape) == (1, 60, 100)
    assert labels[0, 0, :6].tolist() == expected
    assert "param_scheduler" not in config
