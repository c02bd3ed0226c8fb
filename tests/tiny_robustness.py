"""The tiny project with perturbed sets of its images, and networks that tell their classes apart more or less."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tiny_project import CLASSES, Project, fresh, owned
from torch import nn

from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.perturbed.parts import Part, open_parts, prepare_perturbed
from lska.evaluate import measurement
from lska.evaluate.accuracy import ScoringPass
from lska.evaluate.measurement import Subject, openers, training_classes
from lska.evaluate.networks import OutsideNetwork
from lska.models.pretrained import save_weights
from lska.models.runs import Run
from lska.provenance.files import write_json
from lska.provenance.metric_files import digest, file_md5
from lska.provenance.strict import merge
from lska.settings.scale import Config
from lska.settings.tasks import MASKED, PerturbedSet
from lska.train.interrupt import StopRequest

RUNS = (Run("van_tiny", "lska", 7, 0), Run("van_tiny", "lska", 7, 1), Run("van_tiny", "lka", 23, 0))
PER_CLASS = 3
CPU = torch.device("cpu")

CELLS = {"gaussian_noise": (1, 4), "jpeg_compression": (2,)}
"""Parts of the small counterpart of ImageNet-C."""

SOME = ("blue", "green", "white")
"""Classes of the small counterparts of ImageNet-A and -R."""

SOURCES = {name: {"name": f"colours_{name}", "root": f"sets/{name}", "manifest": f"colours_{name}.yaml"}
           for name in ("c", "c_bar", "a", "r", "sketch")}  # fmt: skip
SECTION = {
    "sets": SOURCES,
    "runs": [{"model": "van_tiny", "attention": "lska", "kernel": 7, "seed": [0, 1]},
             {"model": "van_tiny", "attention": "lka", "kernel": 23, "seed": 0}],
    "evaluation": {"batch_size": 5},
    "shard": 8,
}  # fmt: skip

OTHER = {"image_size": 48, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.48, 0.45, 0.4],
         "deviation": [0.23, 0.22, 0.24]}  # fmt: skip
"""Preprocessing of another input size and normalisation."""


@dataclass(frozen=True)
class RobustProject(Project):
    """A project with perturbed sets, whose records are written, and published weights of `RUNS`."""

    def item(self, name: str, *changes: dict[str, Any]) -> PerturbedSet:
        """A perturbed set under the configuration with `changes`."""
        config = self.config(*changes)
        return owned(config, config.perturbed_set(name))


def make(project: Project) -> RobustProject:
    """Add perturbed sets, weights and the section `robustness` to a project, also to its configuration file."""
    settings = merge(project.settings, {"runs": SECTION["runs"], "robustness": SECTION})
    Path("config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    made = RobustProject(project.folder, settings)
    write_corrupted("c", CELLS)
    for name, classes in {"a": SOME[:2], "r": SOME, "sketch": CLASSES}.items():
        write_perturbed(name, classes)
    for run in RUNS:
        publish(made.config(), run)
    for name in ("c", "a", "r", "sketch"):
        prepare_perturbed(made.item(name))
    return made


def write_corrupted(family: str, cells: Mapping[str, Sequence[int]], per_class: int = PER_CLASS) -> None:
    """Noisy copies of validation images, the noise growing with severity, in the published layout."""
    root = Path(SOURCES[family]["root"])
    for number, (corruption, severities) in enumerate(cells.items()):
        for severity in severities:
            for label in CLASSES:
                folder = root / corruption / severity_folder(family, corruption, severity) / label
                folder.mkdir(parents=True)
                for file in sorted(Path(f"data/val/{label}").iterdir())[:per_class]:
                    generator = np.random.default_rng([number, severity, *file.name.encode()])
                    pixels = np.asarray(Image.open(file)) + generator.normal(0, 15 * severity, (32, 32, 3))
                    save(pixels, folder / file.name)
    content = {"kind": "corrupted", "family": family, "count": per_class * len(CLASSES)}
    _write_manifest(family, CLASSES, content | {"per_class": [per_class, per_class]})


def complete(robust: RobustProject, family: str) -> PerturbedSet:
    """The project's set of corruptions with every part, of one image per class."""
    shutil.rmtree(SOURCES[family]["root"], ignore_errors=True)
    write_corrupted(family, dict.fromkeys(FAMILIES[family], SEVERITIES), per_class=1)
    item = robust.item(family)
    prepare_perturbed(item)
    return item


def write_perturbed(name: str, classes: Sequence[str], per_class: int = PER_CLASS) -> None:
    """Darkened validation images of 40 x 36 pixels, a folder per class."""
    root = Path(SOURCES[name]["root"])
    for label in classes:
        (root / label).mkdir(parents=True)
        for file in sorted(Path(f"data/val/{label}").iterdir())[:per_class]:
            image = Image.open(file).resize((40, 36))
            save(np.asarray(image) * 0.6, root / label / file.name)
    count = per_class * len(classes)
    splits = {"test": {"count": count, "per_class": [per_class, per_class]}}
    _write_manifest(name, classes, {"kind": "perturbed", "splits": splits})


def save(pixels: np.ndarray, path: Path) -> None:
    """Save pixels (H, W, 3) as a JPEG file."""
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _write_manifest(name: str, classes: Sequence[str], content: dict[str, Any]) -> None:
    words = {"name": f"colours_{name}", "title": "Perturbed colours", "source": "made here", "terms": "none"}
    text = yaml.safe_dump({**words, "classes": list(classes), **content})
    Path(SOURCES[name]["manifest"]).write_text(text, encoding="utf-8")


def network(config: Config, run: Run, seed: int = 0) -> nn.Module:
    """An untrained network whose outputs depend on the image: the last layer is enlarged, its bias takes the mean out.
    """
    made = fresh(config, run.with_seed(100 * seed + run.seed), len(CLASSES)).eval()
    with torch.no_grad():
        made.head.weight.mul_(100)
        colours = torch.tensor([[30, 30, 200], [30, 180, 30], [200, 30, 30], [220, 220, 220]]) / 127.5 - 1
        made.head.bias.sub_(made(colours[:, :, None, None].expand(-1, -1, 32, 32)).mean(dim=0))
    return made


def publish(config: Config, run: Run, seed: int = 0) -> Path:
    """Weights and sidecar as a training leaves them."""
    path, spec = config.weights_path(run), config.classifier(run).spec()
    save_weights(network(config, run, seed), path)
    sidecar = {
        "md5": file_md5(path), "origin": "trained", "recipe": digest(spec), "spec": spec,
        "data": config.images.identity(),
    }  # fmt: skip
    write_json(path.with_suffix(".json"), sidecar)
    return path


def metrics_of(item: PerturbedSet, run: Run) -> dict[str, Any]:
    """The content of a metric file."""
    return json.loads(item.metrics(run).read_text(encoding="utf-8"))


def without_times(item: PerturbedSet, run: Run) -> dict[str, Any]:
    """The content of a metric file but for when it was made, and the seal, which covers that too."""
    content = metrics_of(item, run)
    return {name: value for name, value in content.items() if name not in ("started", "seconds", "seal")}


def members_of(config: Config, *chosen: Run | OutsideNetwork) -> list[Subject]:
    """The subjects of a pass."""
    networks = [config.classifier(one) if isinstance(one, Run) else one for one in chosen]
    return [opener(CPU) for opener in openers(networks, len(training_classes(config.data)))]


def scoring(item: PerturbedSet, *chosen: Run | OutsideNetwork, **more: Any) -> ScoringPass:
    """A pass as `measure_robustness` makes it, but for `more`."""
    evaluation = item.section.evaluation
    settings = {
        "subjects": members_of(item.config, *chosen), "parts": open_parts(item), "folder": item.predictions,
        "classes": training_classes(item.clean), "masked": item.name in MASKED,
        "as_stored": item.stored_images == "as_stored", "shard": item.section.shard,
        "batch_size": evaluation.batch_size, "workers": evaluation.workers, "device": CPU,
    }  # fmt: skip
    return ScoringPass(**{**settings, **more})


def done(one: ScoringPass) -> ScoringPass:
    """The pass after it has run."""
    one.run(StopRequest(None))
    return one


def shard_files(item: PerturbedSet) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of every file of predictions."""
    files = sorted(item.predictions.rglob("*.npz"))
    return {str(path.relative_to(item.predictions)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class StopAfter(StopRequest):
    """Asks to stop once `batches` were scored."""

    def __init__(self, batches: int) -> None:
        super().__init__(None)
        self.batches = batches

    def reason(self, longest_update: float = 0.0) -> str | None:
        """Why to stop now, or None."""
        self.batches -= 1
        return "received SIGTERM" if self.batches < 0 else None


def terminated(command: Callable[[], int], images: int) -> int:
    """Exit code of a command that gets SIGTERM when it has decoded so many images; for a process of its own."""
    original, places = measurement.decode, []

    def signalled(data: bytes, place: str) -> Any:
        places.append(place)
        if len(places) == images:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(data, place)

    measurement.decode = signalled
    return command()


def images_of(parts: list[Part]) -> list[str]:
    """Places of all images of some parts, in order."""
    return [part.split.name(part.index(position)) for part in parts for position in range(len(part))]


def kept(one: ScoringPass, subject: Subject, part: Part) -> dict[str, np.ndarray]:
    """A subject's stored predictions on a part."""
    files = [dict(np.load(path)) for path in one.files(subject, part).values()]
    return {name: np.concatenate([file[name] for file in files]) for name in files[0]}


def equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether predictions are the same to the last bit."""
    return one.keys() == other.keys() and all(np.array_equal(values, other[name]) for name, values in one.items())


def foreign(config: Config, name: str = "other", seed: int = 3, **changes: Any) -> OutsideNetwork:
    """A network that is none of `RUNS`, with weights that nothing vouches for."""
    weights, run = Path(f"elsewhere/{name}.safetensors"), RUNS[0].with_seed(9)
    save_weights(network(config, run, seed), weights)
    settings = {**config.architecture[run.model], "attention": run.attention, "kernel_size": run.kernel}
    return OutsideNetwork(name, run.model, settings, weights, changes={**OTHER, **changes})
