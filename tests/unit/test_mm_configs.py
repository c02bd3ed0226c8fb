"""Configurations made from recipes: networks, data sets and schedules against protocol sections 3 and 4, switches."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paper_jobs
import pytest
import torch
from paper_jobs import RUN, TASKS, data_set, generated, means, network, published, rates, steps
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.data.coco import check_detection
from lska.data.dense_sets import DetectionSplit
from lska.data.entries import DataError
from lska.data.manifest import DetectionManifest, DetectionSplitManifest
from lska.models.runs import Run
from lska.train.mm_configs import configuration, configuration_file

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


def test_the_published_configurations(snapshot: SnapshotAssertion) -> None:
    """Everything that the recipes say, on one process, with the libraries' base files."""
    for head in TASKS:
        made = published(head).to_dict()
        for name in ("train_dataset", "val_dataset"):
            made[name]["metainfo"] = f"{len(made[name]['metainfo']['classes'])} classes"
        text = "\n".join(f"{place[1:]}: {value}" for place, value in sorted(flat(made).items()))
        assert text.replace(f"{Path.cwd()}/", "<here>/") == snapshot(name=head)


def test_networks_are_as_the_protocol_has_them() -> None:
    levels = {"retinanet": (8, 16, 32, 64, 128), "mask_rcnn": (4, 8, 16, 32, 64)}
    for head in TASKS:
        config = published(head)
        model = network(config).train()
        assert all(parameter.requires_grad for parameter in model.parameters()), "nothing is frozen"
        assert all(module.training for module in model.modules())
        assert not {"pretrained", "init_cfg"} & set(config.model)
        if head in DETECTORS:
            maps = model.extract_feat(torch.empty(1, 3, 256, 384, device="meta"))
            assert [tuple(level.shape[1:]) for level in maps] == [(256, 256 // s, 384 // s) for s in levels[head]]
    fpn = published("semantic_fpn").model
    assert "auxiliary_head" not in fpn and not {"size_divisor", "test_cfg"} & set(fpn.data_preprocessor)
    assert network(published("semantic_fpn")).decode_head.dropout.p == 0.1


PIXELS = {"model.data_preprocessor.mean", "model.data_preprocessor.std"}


def test_a_switch_changes_its_own_settings_only() -> None:
    switches = {"normalization": PIXELS, "layer_norm": {"model.backbone.layer_norm_eps"}}
    for head, (switch, places) in itertools.product(TASKS, switches.items()):
        corrected = generated(head, means(head, overrides={"switches": {switch: "corrected"}}))
        assert changed(published(head), corrected) == places
        same = generated(head, means(head, overrides={"switches": {switch: "published"}}))
        assert changed(published(head), same) == set()
        if switch == "normalization":
            preprocessor = corrected.model.data_preprocessor
            assert preprocessor.mean == preprocessor.std == [127.5] * 3
        else:
            assert corrected.model.backbone.layer_norm_eps == 1e-6


def test_kernel_size_and_checkpoint_come_from_one_run() -> None:
    run = Run("van_small", "lka", 35, 4)
    entry = [paper_jobs.group(run)]
    for head in TASKS:
        config = paper_jobs.config({"runs": [paper_jobs.group(RUN), *entry]}, means(head, runs=entry, untrained=entry))
        made = configuration(config.fine_tuning(TASKS[head], run), paper_jobs.splits(head))
        backbone = made.model.backbone
        assert (backbone.model, backbone.attention, backbone.kernel_size) == ("van_small", "lka", 35)
        assert Path(backbone.init_cfg.checkpoint).stem == str(run)
        assert made.model.neck.in_channels == [64, 128, 320, 512] and made.randomness.seed == 4
        control = configuration(config.fine_tuning(f"{TASKS[head]}-untrained", run), paper_jobs.splits(head))
        assert changed(made, control) == {"model.backbone.init_cfg.type", "model.backbone.init_cfg.checkpoint"}
        assert control.model.backbone.init_cfg is None


@pytest.mark.parametrize("head", TASKS)
def test_the_printed_configuration_is_the_same_and_can_be_built(head: str) -> None:
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    config = published(head)
    again = Config.fromstring(config.pretty_text, ".py")
    assert again.to_dict() == config.to_dict()
    model = network(again)
    # Norms and biases decay like all others, and no layer has a rate of its own.
    (group,) = build_optim_wrapper(model, again.optim_wrapper.copy()).optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4 if head == "semantic_fpn" else 0.05)
    assert len(rates(again, 7, 3)) == 3
    for name in ("train", "val"):
        made = data_set(again, name, lazy_init=True)
        named = [step.rpartition(".")[2] for step in steps(config, name)]
        assert [type(step).__name__ for step in made.pipeline.transforms] == named
        assert made.metainfo["classes"] == paper_jobs.splits(head)["train"].classes


def test_a_configuration_file_counts_in_micro_batches_as_mmengine_does(tmp_path: Path) -> None:
    """Four of them make an update on one process; the data sets are known by their manifests alone."""
    from mmengine.config import Config

    sets = {"detection": "coco2017", "segmentation": "ade20k"}
    data = {kind: {"data": {"name": name, "root": str(tmp_path / name)}} for kind, name in sets.items()}
    read, ends = {}, {}
    for head in ("retinanet", "semantic_fpn"):
        micro = {"global_batch": 16, "micro_batch": 4}
        text = configuration_file(paper_jobs.job(head, data, means(head, overrides=micro)))
        read[head] = Config.fromstring(text, ".py")
        ends[head] = [schedule.end for schedule in read[head].param_scheduler]
        missing = re.findall(r"^# NOT THERE when this was printed: (.*)$", text, re.MULTILINE)
        assert str(tmp_path) in missing[0] and missing[-1].endswith(f"{RUN}.safetensors") and len(missing) == 5
        assert (read[head].optim_wrapper.accumulative_counts, read[head].train_dataloader.batch_size) == (4, 4)
        assert read[head].model.to_dict() == generated(head, means(head, overrides=micro)).model.to_dict()
    assert ends == {"retinanet": [4 * 1000 + 1, 12], "semantic_fpn": [4 * 80000 + 1]}
    assert read["retinanet"].train_cfg.max_epochs == 12 and read["semantic_fpn"].train_cfg.max_iters == 4 * 80000
    assert read["retinanet"].val_dataloader.dataset.metainfo.classes[:2] == ("person", "bicycle")
    assert read["retinanet"].val_evaluator.ann_file == f"{tmp_path}/coco2017/annotations/instances_val2017.json"


def test_mask_rcnn_on_a_set_of_boxes_is_refused_and_retinanet_is_not() -> None:
    boxes = {name: replace(split, masks=False) for name, split in paper_jobs.splits("retinanet").items()}
    message = r"train.json: detection/mask_rcnn needs objects with masks, and coco has boxes only"
    with pytest.raises(DataError, match=message):
        generated("mask_rcnn", data=boxes)
    assert "train_dataset" in generated("retinanet", data=boxes)


def test_rates_of_a_detector() -> None:
    """Linear warm-up from a thousandth, a tenth after each milestone, also where the warm-up outlasts a milestone."""
    for warmup in (0, 2, 40):
        short = {"epochs": 5, "milestones": [3, 4], "warmup_updates": warmup}
        config = generated("retinanet", means("retinanet", overrides=short))
        ramp = [1e-3 + (1 - 1e-3) * min(1, step / warmup) if warmup else 1 for step in range(35)]
        fall = [0.1 ** ((step >= 3 * 7) + (step >= 4 * 7)) for step in range(35)]
        assert rates(config, 7, 35) == pytest.approx([1e-4 * up * down for up, down in zip(ramp, fall, strict=True)])


def test_rates_of_a_segmentor() -> None:
    for updates, least in ((1, 0.0), (30, 1e-5)):
        short = {"updates": updates, "minimum_learning_rate": least}
        config = generated("semantic_fpn", means("semantic_fpn", overrides=short))
        expected = [least + (1e-4 - least) * (1 - step / updates) ** 0.9 for step in range(updates)]
        assert rates(config, 7, updates) == pytest.approx(expected)
        assert min(expected) > 0


def test_the_check_says_what_training_keeps_as_mmdet_keeps_it(tmp_path: Path) -> None:
    """Objects and images that mmdet leaves out without a word are counted, and named by id."""
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    sizes = {"plenty": (60, 40), "thin": (60, 40), "empty": (60, 40), "small": (31, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / "train" / f"{name}.png")
    images = [
        {"id": number, "file_name": f"{name}.png", "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items(), start=1)
    ]
    outline = [[2, 2, 20, 2, 20, 12, 2, 12]]
    about = {"category_id": 7, "bbox": [2, 2, 18, 10], "area": 180, "iscrowd": 0, "segmentation": outline}
    changes = [
        {}, {}, {"iscrowd": 1}, {"bbox": [2, 2, 0.9, 10]}, {"bbox": [2, 2, 18, 0.1]}, {"image_id": 2, "area": 0},
        {"image_id": 4}, {"segmentation": [outline[0], outline[0]]}, {"bbox": [-0.5, 2, 10, 10]},
    ]  # fmt: skip
    objects = [{"id": number, "image_id": 1, **about, **change} for number, change in enumerate(changes, start=1)]

    def write() -> None:
        content = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "thing"}]}
        (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")

    write()
    split = DetectionSplit("train", folder / "train", folder / "train.json", ("thing",), (7,), 4, True)
    stated = DetectionSplitManifest("train", "train.json", 4, without_area=1)
    manifest = DetectionManifest("own", "t", "s", "t", ("thing",), (7,), {"train": stated}, masks=True)
    outcome = check_detection(manifest, split)
    assert outcome.findings == ()
    made = data_set(generated("mask_rcnn", data={"train": split}), "train")
    found = [made[index]["data_samples"].gt_instances for index in range(len(made))]
    trained = sum(map(len, found))
    assert (len(made), trained) == (2, 4)
    # The longest side 1333, or the shortest 800.
    assert tuple(made[0]["inputs"].shape) == (3, 800, 1200)
    assert found[0].labels.tolist()[0] == 0 and "masks" in found[0]
    said = "\n".join(outcome.notes)
    for text in (
        f"training keeps {len(made)} of the images, with {trained} objects.",
        "crowds (or difficult objects), neither trained on nor scored (1): annotation 3 of plenty.png.",
        "or of area 0, scored but not trained on (3): annotation 4 of plenty.png; annotation 5 of plenty.png; annot",
        "images without objects, not trained on (1): empty.png.",
        "images with a side below 32 pixels, not trained on (1): small.png.",
    ):
        assert text in said
    for entry in objects:
        entry["image_id"] = 4
    write()
    assert check_detection(manifest, split).findings == ("training would keep no object on 4 images",)


def write_labels(folder: Path, values: np.ndarray, size: tuple[int, int]) -> None:
    """An image of `size` (width, height) whose label map has columns of `values`."""
    for part in ("images", "labels"):
        (folder / part / "val").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "images" / "val" / "a.png")
    columns = np.resize(values, size[0]).astype(np.uint8)
    Image.fromarray(np.tile(columns, (size[1], 1))).save(folder / "labels" / "val" / "a.png")


def test_label_values_become_classes_and_ignored_pixels(tmp_path: Path) -> None:
    for unlabelled, stored, expected in (
        (True, [0, 1, 2, 150, 200, 255], [255, 0, 1, 149, 255, 255]),
        (False, [0, 1, 2, 149, 200, 255], [0, 1, 2, 149, 255, 255]),
    ):
        write_labels(tmp_path, np.array(stored), (100, 60))
        split = paper_jobs.segmentation_split("val", tmp_path, zero_is_unlabelled=unlabelled, ignore=(200, 255))
        config = generated("semantic_fpn", data={"val": split})
        sample = data_set(config, "val")[0]
        labels = sample["data_samples"].gt_sem_seg.data
        # Shorter side 512, the longer not rounded to a multiple of 32; labels are scored at their own size.
        assert tuple(sample["inputs"].shape) == (3, 512, 853)
        assert tuple(labels.shape) == (1, 60, 100)
        assert labels[0, 0, :6].tolist() == expected
        assert "param_scheduler" not in config
