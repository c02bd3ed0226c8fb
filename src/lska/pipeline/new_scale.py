"""A scale for images of the user's own: its configuration, recipe and manifest, fitted to them.

Writes three files below `config/`, and none over another.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.manifest import manifest_text
from lska.data.own_folder import OwnFolder, describe_folder
from lska.pipeline.estimate import PlannedNetwork, Workload, published_throughputs
from lska.provenance.errors import InputError, OccupiedError
from lska.provenance.files import read_text, vouched, write_text
from lska.provenance.metric_files import committed_files
from lska.settings.schema import MANIFESTS, stem_problem

TEMPLATES = Path(__file__).with_name("templates")

KERNELS = (7, 11, 23, 53)
"""Of the paper's kernel sizes those among which a scale's are chosen."""

SMALLEST, LARGEST = 64, 224
"""Pixels that images get by default: VAN's last feature map has a 32nd of their side."""

UPDATES = 12_000


@dataclass(frozen=True)
class Fitted:
    """What is chosen by the number of training images and by their size in pixels; the template states the rule."""

    images: int
    size: int

    @property
    def kernels(self) -> list[int]:
        """The smallest and the two largest of `KERNELS` that do not reach over the whole first feature map from either
        side, which has a quarter of the image's side."""
        fit = [kernel for kernel in KERNELS if kernel < 2 * (self.size // 4)]
        return [KERNELS[0], *fit[1:][-2:]]

    @property
    def batch(self) -> int:
        """Images of an update."""
        return min(_power_of_two(self.images / 40, 8, 128), _power_of_two(self.images, 1, 128))

    @property
    def micro_batch(self) -> int:
        """Images that pass through the network at once."""
        return min(self.batch, _power_of_two(128 * 112**2 / self.size**2, 1, 128))

    @property
    def epochs(self) -> int:
        """Length of the schedule."""
        return min(300, max(30, round(UPDATES * self.batch / self.images)))

    @property
    def settings(self) -> dict[str, Any]:
        """What both templates take."""
        return {
            "size": self.size, "kernels": self.kernels, "batch": self.batch, "micro_batch": self.micro_batch,
            "epochs": self.epochs, "warmup": max(1, self.epochs // 20), "interval": max(1, self.epochs // 10),
            "rate": f"{1e-3 * math.sqrt(self.batch / 128):.1e}", "test_crop": 0.9 if self.size >= 160 else 1.0,
            "resize": round(self.size * 256 / 224) if self.size >= 160 else self.size, "duration": self.duration,
            "scored": _power_of_two(256 * 112**2 / self.size**2, 16, 256),
        }  # fmt: skip

    @property
    def duration(self) -> str:
        """How long one training takes, by published throughputs of a GPU and what was measured on a processor."""
        network = PlannedNetwork("van_tiny-lska-k23", "{}", self.size**2)
        work = Workload("training", ("classification", "speed"), self.epochs * self.images, network, devices=1)
        seconds, _ = published_throughputs().spent(work)
        time = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{math.ceil(seconds / 60)} minute(s)"
        return f"from {time} on for each training on a GPU, a hundred times as long on one processor core"


def make_scale(name: str, folder: Path, share: float, size: int | None = None) -> str:
    """Write `config/NAME.yaml`, `config/recipes/NAME.yaml` and `config/manifests/NAME.yaml`; says what to type next.

    Args:
        share: of the images of each class that becomes the validation split, where the folder has none.
        size: side in pixels that images get, None to choose it by their own.

    Raises:
        InputError: no name of a scale, or not called in the project's folder.
        OccupiedError: git has something of the scale, other files are in the places, results of other images, or these
            images where corrupted copies of them would be made.
        DataError: as `describe_folder`.
    """
    if not Path("Snakefile").is_file():
        raise InputError(f"{Path.cwd()} has no Snakefile; call this in the project's folder")
    if problem := stem_problem(name):
        raise InputError(f"the name of a scale {problem}")
    if published := [one for one in (name, f"{name}_c") if (MANIFESTS / f"{one}.yaml").is_file()]:
        raise InputError(f"{published[0]!r} is the name of a published data set; choose another name for the scale")
    config, recipe, manifest = (Path("config", place, f"{name}.yaml") for place in ("", "recipes", "manifests"))
    _refuse_committed(name, config, recipe, manifest)
    root = _root(folder)
    _refuse_shared(folder, Path("data", f"{name}_c"))
    own = describe_folder(folder, name, share)
    settings = _settings(name, root, own, size) | {"recipe": recipe.as_posix(), "manifest": manifest.as_posix()}
    texts = {
        manifest: manifest_text(own.manifest),
        recipe: _rendered("recipe.yaml", settings),
        config: _rendered("scale.yaml", settings),
    }
    _refuse_occupied(name, own, texts)
    for path, text in texts.items():
        write_text(path, text)
    return _answer(config, own, list(texts))


def _refuse_committed(name: str, *files: Path) -> None:
    if known := committed_files(*files, Path("results", name), Path("checkpoints", name)):
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        raise OccupiedError(f"the scale {name} is in git ({known[0]}{more}), and stays as it is; choose another name")


def _refuse_shared(folder: Path, copies: Path) -> None:
    images, made = folder.resolve(), copies.resolve()
    if images.is_relative_to(made) or made.is_relative_to(images):
        raise OccupiedError(
            f"{folder}: the corrupted copies of the images would go to {copies}, and nothing is written into a folder "
            "of images; choose another name for the scale, or move the images into a folder of their own"
        )


def _refuse_occupied(name: str, own: OwnFolder, texts: Mapping[Path, str]) -> None:
    """Files of the user stay, and so do results: weights do not know the images that they were trained on by more than
    the name of the set."""
    if taken := [path for path, text in texts.items() if path.exists() and read_text(path) != text]:
        raise OccupiedError(
            f"{', '.join(map(str, taken))}: there already, with other contents; nothing was written. Choose another "
            "name, or move these away. A folder to which images were added needs another name, too"
        )
    record = Path("results", name, "data", f"{name}.json")
    if record.exists() and vouched(record).get("digest") != own.manifest.digest:
        raise OccupiedError(
            f"{record} has the same name and is of other images than these {own.count('train'):,} and "
            f"{own.count('val'):,}; nothing was written. Choose another name, or remove what was made from the others: "
            f"results/{name}, checkpoints/{name}, work/{name} and data/{name}_c"
        )


def _root(folder: Path) -> str:
    """A folder as a configuration names it: from the project's folder on where it is inside."""
    here, place = Path.cwd(), Path(os.path.abspath(folder))  # noqa: PTH100  # Path keeps `..`
    if not place.is_relative_to(here):
        return str(place).replace("$", "$$")
    inside = place.relative_to(here).as_posix()
    if inside.partition("/")[0] in ("work", "results", "checkpoints", "config", "."):
        raise InputError(
            f"{folder}: a folder of images should not lie in this folder of the project; move it to data/"
        )
    return ("./" * inside.startswith("~") + inside).replace("$", "$$")


def _settings(name: str, root: str, own: OwnFolder, size: int | None) -> dict[str, Any]:
    """What the templates take."""
    train, val, classes = own.count("train"), own.count("val"), len(own.manifest.classes)
    fitted = Fitted(train, size or min(LARGEST, max(SMALLEST, own.side // 32 * 32)))
    what = f"{train:,} own images of {classes} classes, {fitted.size} pixels"
    return fitted.settings | {
        "name": name, "root": root, "caption": f"scale {name}: {what}; not ImageNet, COCO or ADE20K",
        "train": train, "val": val, "classes": classes,
        "drawn": own.manifest.splits["val"].files is not None, "corrupted": min(val, max(1000, classes)),
        "looked_into": min(50, val),
    }  # fmt: skip


def _rendered(template: str, settings: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)
    made.globals["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    return made.get_template(f"{template}.jinja").render(settings)


def _power_of_two(number: float, least: int, most: int) -> int:
    return min(most, max(least, 2 ** math.floor(math.log2(number))))


def _answer(config: Path, own: OwnFolder, files: list[Path]) -> str:
    """What was found and written, and what to type next."""
    drawn = own.manifest.splits["val"].files is not None
    lines = [
        f"{own.count('train'):,} images to train on and {own.count('val'):,} for validation"
        f"{', drawn from the same folder,' if drawn else ''} in {len(own.manifest.classes):,} classes; "
        f"median shorter side {own.side} pixels",
        *(f"note: {remark}" for remark in own.remarks),
        *(f"written: {path}" for path in files),
    ]
    snakemake = f"snakemake --cores 2 --configfile {config} --"
    steps = {
        f"lska plan --config {config}": "jobs and hours",
        f"{snakemake} table_17": "trains; top-1, parameters, FLOPs and speed by kernel size",
        f"{snakemake} all": f"also robustness and receptive fields; results/{config.stem}/report/index.html",
    }
    width = max(map(len, steps))
    return "\n".join([*lines, "next:", *(f"  {words:<{width}}  # {about}" for words, about in steps.items())])
