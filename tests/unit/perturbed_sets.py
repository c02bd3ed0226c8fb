"""Small perturbed sets in the published layouts, and manifests of them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tiny_project import CLASSES, SETTINGS, Project, owned

from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.perturbed.parts import prepare_perturbed
from lska.settings.tasks import CORRUPTED, PerturbedSet

NAMES = ("000.jpg", "001.jpg")
"""Files of a class in every part; clean validation images of the tiny project too."""


def picture(shade: int, kind: str = "JPEG") -> bytes:
    """An image file of one grey."""
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_part(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """`folder/<class>/<name>` for every class of the tiny project."""
    for number, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for name in names:
            (folder / label / name).write_bytes(picture(40 * number))


def write_corrupted(root: Path, family: str) -> Path:
    """A set of corruptions with every part."""
    for corruption in FAMILIES[family]:
        for severity in SEVERITIES:
            write_part(root / corruption / severity_folder(family, corruption, severity))
    return root


def corrupted_manifest(path: Path, family: str = "c", **changes: Any) -> Path:
    """Write the manifest of a set that `write_corrupted` makes."""
    values = {
        "kind": "corrupted", "name": path.stem, "title": "A small set", "source": "here", "terms": "none",
        "family": family, "classes": list(CLASSES), "count": len(CLASSES) * len(NAMES), "per_class": [2, 2],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return path


def perturbed_manifest(path: Path, **changes: Any) -> Path:
    """Write the manifest of a set with one folder per class, as `write_part` makes it."""
    split = {"count": len(CLASSES) * len(NAMES), "per_class": [2, 2]}
    values = {
        "kind": "perturbed", "name": path.stem, "title": "A small set", "source": "here", "terms": "none",
        "classes": list(CLASSES), "splits": {"test": split},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return path


GENERATED: dict[str, dict[str, Any]] = {
    "c": {"image_size": 32, "resize": 32, "images": 5, "seed": 0},
    "c_bar": {"image_size": 32, "resize": 32, "images": 5, "seed": 0},
    "a": {"reference": "resnet18-s0", "image_size": 32, "classes": 4, "kept": 3, "per_class": 2, "candidates": 40,
          "seed": 0},
    "r": {"image_size": 32, "classes": 4, "kept": 3, "per_class": 2, "seed": 0},
    "sketch": {"image_size": 32, "classes": 4, "per_class": 2, "styles": ["sketch"], "seed": 0},
}  # fmt: skip


SHAPES = {
    "name": "shapes", "root": "made/shapes", "manifest": None,
    "generate": {"image_size": 32, "classes": 4, "train_per_class": 4, "val_per_class": 2},
}  # fmt: skip
"""Training data of the classes that the generated renditions show."""


def settings(name: str, **source: Any) -> dict[str, Any]:
    runs = SETTINGS["runs"]
    return {"robustness": {"runs": runs, "sets": {name: {"name": f"my_{name}", "root": f"my_{name}", **source}}}}


def stored(project: Project, name: str) -> PerturbedSet:
    """A set that was not generated."""
    config = project.config(settings(name, manifest=f"my_{name}.yaml"))
    return owned(config, config.perturbed_set(name))


def generated(project: Project, name: str, **changes: Any) -> PerturbedSet:
    data = {} if name in CORRUPTED else {"data": SHAPES}
    config = project.config(data, settings(name, generate={**GENERATED[name], **changes}))
    return owned(config, config.perturbed_set(name))


def record(item: PerturbedSet) -> dict[str, Any]:
    return json.loads(item.record.read_text())


def judge(images: list[Image.Image]) -> np.ndarray:
    """A classifier of four classes that looks at nothing but the mean brightness."""
    means = np.array([np.asarray(image).mean() for image in images])
    return 0.9 * np.eye(4)[(means % 4).astype(int)] + 0.025


def made(item: PerturbedSet) -> dict[str, Any]:
    """Prepare a generated set and return its record."""
    prepare_perturbed(item, *((judge, {"run": "resnet18-s0", "md5": "abc"}) if item.reference is not None else ()))
    return record(item)


def write_partial(project: Project) -> PerturbedSet:
    """A stored C that lacks a corruption and a severity and has one incomplete part."""
    corrupted_manifest(Path("my_c.yaml"))
    root = write_corrupted(Path("my_c"), "c")
    shutil.rmtree(root / "fog")
    shutil.rmtree(root / "snow" / "4")
    (root / "frost" / "2" / "red" / NAMES[0]).unlink()
    return stored(project, "c")
