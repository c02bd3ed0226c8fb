"""Small detection and segmentation sets for the tests of their data: written once, copied, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lska.data import dense_sets as dense
from lska.data.synthetic.dense_scenes import DetectionSettings, SegmentationSettings
from lska.data.synthetic.generated import write_set
from lska.settings.scale import DataSource

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

SCENES = {"image_size": 40, "classes": 3, "train_images": 6, "val_images": 3, "extent": [0.3, 0.5]}
DETECTION = DetectionSettings(**{**SCENES, "extent": (0.3, 0.5)})
SEGMENTATION = SegmentationSettings(**{**SCENES, "extent": (0.3, 0.5)})


def write_coco(folder: Path) -> DataSource:
    """The generated set as if it were somebody's own: a root and a manifest file that says what it has to hold."""
    root = folder / 'it\'s "coco"'
    write_set(root, DETECTION)
    splits = {}
    for split in ("train", "val"):
        name = f"annotations/instances_{split}2017.json"
        objects = len(json.loads((root / name).read_text())["annotations"])
        count = DETECTION.count(split)
        splits[split] = {"images": f"{split}2017", "annotations": name, "count": count, "objects": objects}
    ids = [1, 2, 3]
    values = {"kind": "detection", "category_ids": ids, "masks": True, "splits": splits}
    return _source(folder, "scenes", root, values, DETECTION.class_names)


def write_ade(folder: Path) -> DataSource:
    """As `write_coco`, in ADE20K's layout."""
    root = folder / "ade"
    write_set(root, SEGMENTATION)
    splits = {
        split: {"images": f"images/{name}", "labels": f"annotations/{name}", "count": SEGMENTATION.count(split)}
        for split, name in (("train", "training"), ("val", "validation"))
    }
    values = {"kind": "segmentation", "zero_is_unlabelled": True, "splits": splits}
    return _source(folder, "regions", root, values, SEGMENTATION.class_names)


def _source(folder: Path, name: str, root: Path, values: dict[str, Any], classes: tuple[str, ...]) -> DataSource:
    path = folder / f"{name}.yaml"
    about = {"name": name, "title": name, "source": "made here", "terms": "none", "classes": list(classes)}
    path.write_text(yaml.safe_dump(values | about))
    return DataSource(name, str(root), manifest=str(path))


def annotations(data: DataSource, split: str = "train") -> Path:
    """The COCO JSON file of a split of `write_coco`."""
    return Path(data.root) / "annotations" / f"instances_{split}2017.json"


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a JSON file, written back at the end of the block."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def findings(kind: str, data: DataSource, cache: Path) -> str:
    """All that a complete check finds, as text."""
    return "\n".join(dense.DenseSet(kind, data, cache).check()[0].findings)


def copied(data: DataSource, folder: Path) -> DataSource:
    """The same data in a folder of their own, to be damaged."""
    root = folder / "copy"
    shutil.copytree(data.root, root)
    return DataSource(data.name, str(root), data.manifest)
