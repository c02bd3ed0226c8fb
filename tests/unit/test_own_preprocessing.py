"""Networks of different preprocessing, each measured with its own: expected values come from PIL and torch alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_project import CLASSES, RECIPE, Project
from tiny_robustness import RUNS, RobustProject, metrics_of
from torch import nn

from lska.data.folders import Split
from lska.evaluate.accuracy import classify
from lska.evaluate.inspecting import _pixels
from lska.evaluate.members import open_run
from lska.evaluate.robustness import measure_robustness
from lska.models.pretrained import load_weights
from lska.models.runs import Run
from lska.provenance.files import read_json, write_json
from lska.provenance.metric_files import file_md5
from lska.provenance.outcomes import outcomes_path, read_outcomes
from lska.settings.scale import Config
from lska.train.classifier import build_network

OWN = {"image_size": 40, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.3, 0.4, 0.6],
       "deviation": [0.2, 0.3, 0.25]}  # fmt: skip
SCALES = {name: RECIPE[name] for name in OWN}
CPU = torch.device("cpu")


def import_weights(config: Config, run: Run, /, **spec: Any) -> None:
    """Turn weights that are there into imported ones."""
    path = config.weights_path(run)
    about = {"md5": file_md5(path), "origin": "imported", "spec": {"recipe": OWN, **spec}}
    write_json(path.with_suffix(".json"), about)


def prepared(file: Path, how: dict[str, Any]) -> torch.Tensor:
    """float32 (3, size, size) of an image file: shorter side resized, centre cropped, normalised."""
    image, size = Image.open(file).convert("RGB"), how["image_size"]
    scale = int(size / how["test_crop"]) / min(image.size)
    resample = getattr(Image.Resampling, how["test_interpolation"].upper())
    image = image.resize([int(scale * side) for side in image.size], resample)
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    pixels = (pixels - np.float32(how["mean"])) / np.float32(how["deviation"])
    return torch.from_numpy(pixels).permute(2, 0, 1)


@torch.inference_mode()
def expected(config: Config, run: Run, files: list[tuple[Path, int]], how: dict[str, Any]) -> tuple[Any, Any]:
    """Hits and cross-entropies of a network, image by image."""
    network = build_network(config, run, len(CLASSES)).eval()
    load_weights(network, config.weights_path(run))
    logits = network(torch.stack([prepared(file, how) for file, _ in files]))
    labels = torch.tensor([label for _, label in files])
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (100.0 * (logits.argmax(dim=1) == labels)).tolist(), losses.tolist()


def images(root: Path) -> list[tuple[Path, int]]:
    """Files of a set with their labels, in its order."""
    return [(file, label) for label, name in enumerate(CLASSES) for file in sorted((root / name).iterdir())]


def test_one_pass_scores_each_network_as_its_own_preprocessing_says(
    robust: RobustProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = robust.config()
    import_weights(config, RUNS[1])
    before = {run: config.metric_path("classification", run) for run in RUNS}
    reads: list[int] = []
    original = Split.read
    monkeypatch.setattr(Split, "read", lambda split, index: reads.append(index) or original(split, index))
    classify(config, RUNS)
    assert reads == list(range(24)), "every image is decoded once"
    for run, how in zip(RUNS, (SCALES, OWN, SCALES), strict=True):
        content, (hits, losses) = read_json(before[run]), expected(config, run, images(Path("data/val")), how)
        found = read_outcomes(outcomes_path(before[run]), content["outcomes"]).images
        assert found["top1"].tolist() == hits
        assert found["loss"] == pytest.approx(losses, rel=1e-3, abs=1e-4)
        assert content["detail"]["preprocessing"] == how
        assert content["weights"]["origin"] == ("imported" if how is OWN else "trained")
    # With the scale's preprocessing, the numbers would be others; and those of a trained network depend on no other.
    assert losses != pytest.approx(expected(config, RUNS[1], images(Path("data/val")), OWN)[1], rel=1e-3)
    together = outcomes_path(before[RUNS[0]]).read_bytes()
    classify(config, RUNS[:1])
    assert outcomes_path(before[RUNS[0]]).read_bytes() == together


def test_perturbed_sets_obey_it_and_keep_predictions_apart(robust: RobustProject) -> None:
    item, run = robust.item("sketch"), RUNS[0]
    files = images(Path("sets/sketch"))
    folders = []
    for how in (SCALES, OWN):
        if how is OWN:
            import_weights(item.config, run)
        measure_robustness(item, [run])
        hits, _ = expected(item.config, run, files, how)
        content = metrics_of(item, run)
        assert content["metrics"]["top1"]["value"] == pytest.approx(np.mean(hits))
        assert content["detail"]["preprocessing"] == how
        folders.append({path.parent for path in item.predictions.rglob("*.parquet")})
    assert len(folders[0]) == 1 and len(folders[1]) == 2


def test_whatever_looks_inside_takes_images_as_the_member_says(robust: RobustProject) -> None:
    config, run = robust.config(), RUNS[1]
    architecture = json.loads(json.dumps(config.architecture["van_tiny"]))
    import_weights(config, run, architecture=architecture, run=str(run))
    member = open_run(config, run, len(CLASSES), CPU)
    assert member.own.to_dict() == OWN and member.architecture == architecture

    class Job:
        class section:  # noqa: N801 - stands for a section of the configuration
            normalization = "recipe"

    assert _pixels(Job, member) == (tuple(OWN["mean"]), tuple(OWN["deviation"]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": None}, "missing key 'mean'"), ({"mean": [0.5, 0.5]}, "mean: expected 3 values"),
        ({"deviation": [0.0, 1.0, 1.0]}, "deviation must be positive"), ({"image_size": 0}, "from 1 to 8192 pixels"),
        ({"image_size": "224"}, "image_size: expected int"), ({"test_crop": 1.5}, r"test_crop must be in \(0, 1\]"),
        ({"test_interpolation": "cubic"}, "expected one of 'bilinear'"), ({"image_size": True}, "expected int"),
    ],
)  # fmt: skip
def test_what_a_sidecar_leaves_out_or_says_wrong_is_named(
    robust: RobustProject, change: dict[str, Any], told: str
) -> None:
    config, run = robust.config(), RUNS[0]
    recipe = {name: value for name, value in (OWN | change).items() if value is not None}
    import_weights(config, run, recipe=recipe)
    with pytest.raises(ValueError, match=rf"(?s)s0\.json: spec.recipe: .*{told}.*expected image_size, test_crop"):
        classify(config, [run])
    assert not config.metric_path("classification", run).exists()


def test_a_sidecar_of_another_run_is_refused(project: Project, robust: RobustProject) -> None:
    config = robust.config()
    import_weights(config, RUNS[0], run=str(RUNS[1]))
    with pytest.raises(ValueError, match=rf"spec.run: expected {RUNS[0]}, found '{RUNS[1]}'"):
        classify(config, [RUNS[0]])
