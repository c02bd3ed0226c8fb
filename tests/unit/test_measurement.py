"""The frame of every measurement on classifiers: the numbers, what vouches for weights, and what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from syrupy.assertion import SnapshotAssertion
from tiny_project import CLASSES, RECIPE, Project, fresh, networks, scored
from tiny_robustness import RUNS, RobustProject, metrics_of, publish
from torch import nn

from lska.data.entries import DataError
from lska.data.folders import Split
from lska.evaluate import measurement
from lska.evaluate.accuracy import measure_robustness
from lska.evaluate.measurement import Subject, Values, measure, open_run
from lska.models.pretrained import load_weights, open_network, save_weights
from lska.models.runs import Run
from lska.models.scoring import Scores, hits, score
from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5, metric, outcomes_path, validate
from lska.provenance.outcomes import Outcomes, read_outcomes, standard_error
from lska.settings.scale import Config
from lska.settings.schema import Evaluation
from lska.settings.tasks import MeasurementJob

OWN = {"image_size": 40, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.3, 0.4, 0.6],
       "deviation": [0.2, 0.3, 0.25]}  # fmt: skip
"""Another way to prepare images than the recipe's."""
CPU = torch.device("cpu")


def measured(config: Config, run: Run) -> dict[str, Any]:
    return json.loads(config.metric_path("classification", run).read_text(encoding="utf-8"))


def kept(config: Config, run: Run) -> dict[str, np.ndarray]:
    content = measured(config, run)
    return read_outcomes(outcomes_path(config.metric_path("classification", run)), content["outcomes"]).images


def import_weights(config: Config, run: Run, /, **spec: Any) -> None:
    """Turn weights that are there into imported ones."""
    path = config.weights_path(run)
    about = {"md5": file_md5(path), "origin": "imported", "spec": {"recipe": OWN, **spec}}
    write_json(path.with_suffix(".json"), about)


# The frame


def test_any_network_with_any_file_of_weights_is_measured_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network, weights = timm.create_model("resnet18", num_classes=3), tmp_path / "downloaded.safetensors"
    save_weights(network, weights)
    sidecar = {"md5": file_md5(weights), "origin": "imported"}

    def opened(device: torch.device) -> Subject:
        return Subject("resnet18", open_network("resnet18", weights).to(device), sidecar)

    def means(subjects: list[Subject], device: torch.device) -> Any:
        assert not subjects[0].network.training
        with torch.inference_mode():
            value = float(subjects[0].network(torch.ones(1, 3, 64, 64)).mean())
        yield Values({"mean": metric(value, "1")}, Outcomes(samples={"mean": np.arange(5.0)}), {"images": 1})

    data = {"name": "ones", "digest": f"sha256:{'0' * 64}"}
    job = MeasurementJob(scale="elsewhere", task="outputs", means=Evaluation(batch_size=1, threads=1))
    measure(job, [opened], means, data)
    content = json.loads(job.metrics("resnet18").read_text())
    validate(content, "metrics", "resnet18.json")
    with torch.inference_mode():
        assert content["metrics"]["mean"]["value"] == float(network.eval()(torch.ones(1, 3, 64, 64)).mean())
    assert content["metrics"]["mean"]["standard_error"] == standard_error(np.arange(5.0))
    assert content["outcomes"] == file_md5(job.outputs("resnet18")[1])
    assert (content["task"], content["run"], content["scale"]) == ("outputs", "resnet18", "elsewhere")
    assert (content["weights"], content["recipe"], content["data"], content["detail"]) == (
        sidecar, None, data, {"images": 1}
    )  # fmt: skip
    assert datetime.fromisoformat(content["started"]) <= datetime.now(UTC) and content["seconds"] >= 0


# Accuracy

# Blue, green and white are told apart, red is taken for something else.
WEIGHTS = np.array([[-3.0, -3.0, 4.0], [-2.0, 5.0, -2.0], [-4.0, 3.0, 3.0], [0.2, 0.2, 0.1]])
BIASES = np.array([0.5, 0.0, -1.5, 0.6])


class MeanColour(nn.Module):
    """Logits that are a fixed linear map of an image's mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(WEIGHTS))
            self.head.bias.copy_(torch.tensor(BIASES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


def by_hand() -> tuple[list[bool], list[float]]:
    """Hit and cross-entropy of every validation image, in the order of the set, from their pixels."""
    right, loss = [], []
    for target, label in enumerate(CLASSES):
        for path in sorted(Path("data/val", label).iterdir()):
            pixels = np.asarray(Image.open(path).convert("RGB")) / 255
            logits = WEIGHTS @ ((pixels - RECIPE["mean"]) / RECIPE["deviation"]).mean((0, 1)) + BIASES
            right.append(bool(logits.argmax() == target))
            loss.append(math.log(np.exp(logits).sum()) - logits[target])
    return right, loss


def test_the_metrics_are_those_counted_by_hand(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project.config()
    weights = publish(config, project.run)
    save_weights(MeanColour(), weights)
    sidecar = json.loads(weights.with_suffix(".json").read_text())
    write_json(weights.with_suffix(".json"), sidecar | {"md5": file_md5(weights)})
    monkeypatch.setattr(measurement, "build_network", lambda *_: MeanColour())
    scored(config, [project.run])
    content, (right, loss) = measured(config, project.run), by_hand()
    assert sum(right) == 18
    error = 100 * math.sqrt(0.75 * 0.25 / 24)
    assert content["metrics"] == {
        "top1": {"value": 75.0, "unit": "%", "n": 24, "standard_error": pytest.approx(error)},
        "top5": {"value": 100.0, "unit": "%", "n": 24, "standard_error": 0.0},
        "loss": {"value": pytest.approx(np.mean(loss), rel=1e-5), "unit": "nats", "n": 24,
                 "standard_error": pytest.approx(np.std(loss, ddof=1) / 24**0.5, rel=1e-5)},
    }  # fmt: skip
    images = kept(config, project.run)
    assert images["top1"].tolist() == [100.0 * hit for hit in right] and images["top5"].tolist() == [100.0] * 24
    assert images["loss"] == pytest.approx(loss, rel=1e-4)
    assert content["weights"] == {"md5": file_md5(weights), "origin": "trained"}
    assert content["recipe"] == config.classifier(project.run).digest()
    assert content["data"] == config.images.identity()


LOGITS = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6], [0.0, 9, 0, 0, 0, 1], [3.0, 3, 3, 3, 3, 2]])


def test_hits_are_among_the_k_largest_and_scores_add_up() -> None:
    cases = [
        (1, [0, 0, 1, 5], [1, 0, 1, 0]), (5, [5, 0, 5, 5], [0, 0, 1, 0]), (5, [4, 1, 1, 0], [1, 1, 1, 1]),
        (7, [5, 0, 0, 5], [1, 1, 1, 1]),
    ]  # fmt: skip
    for k, labels, expected in cases:
        assert hits(LOGITS, torch.tensor(labels), k).int().tolist() == expected
    scores, labels = Scores(), torch.tensor([0, 0, 5, 5])
    scores.add(LOGITS[:3], labels[:3])
    scores.add(LOGITS[3:], labels[3:])
    assert (scores.n, scores.mean("top1"), scores.images["top5"].tolist()) == (4, 25, [100, 0, 100, 0])
    assert scores.mean("loss") == pytest.approx(nn.functional.cross_entropy(LOGITS, labels).item())


def test_scoring_leaves_the_mode_and_uses_running_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).train()
    batch = (torch.randn(2, 3, 2, 2), torch.tensor([0, 1]))
    assert score(network, [batch, batch], CPU, True).n == 4
    assert network.training and network[0].num_batches_tracked.item() == 0


def test_a_trained_network_scores_what_its_training_saw(project: Project) -> None:
    config = project.trained({"training": {"overrides": {"validation_interval": 1, "ema_decay": 0.5}}})
    scored(config, [project.run])
    content, last = measured(config, project.run), project.records(config)[-1]
    assert content["metrics"]["top1"]["value"] == pytest.approx(last["validation_top1"])
    assert content["metrics"]["loss"]["value"] == pytest.approx(last["validation_loss"], rel=1e-5)


def test_equal_measurements_differ_in_their_times_only(project: Project) -> None:
    config, run, contents, files = project.config(), project.run, [], []
    publish(config, run)
    for evaluation in ({}, {"workers": 1}, {"batch_size": 24}):
        scored(project.config({"evaluation": evaluation}), [run])
        contents.append(measured(config, run))
        files.append((outcomes_path(config.metric_path("classification", run)).read_bytes(), kept(config, run)))
    assert list(contents[0]) == sorted(contents[0])
    first, second = ({k: v for k, v in c.items() if k not in ("started", "seconds", "seal")} for c in contents[:2])
    assert first == second and files[0][0] == files[1][0]
    for name, values in files[0][1].items():
        assert values == pytest.approx(files[2][1][name], rel=1e-4)


# Networks of different preprocessing


@torch.inference_mode()
def expected(config: Config, run: Run, root: Path, how: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Hits and cross-entropies of a network, image by image, by PIL and torch alone."""
    images, labels, size = [], [], how["image_size"]
    for label, name in enumerate(CLASSES):
        for file in sorted((root / name).iterdir()):
            image = Image.open(file).convert("RGB")
            scale = int(size / how["test_crop"]) / min(image.size)
            resample = getattr(Image.Resampling, how["test_interpolation"].upper())
            image = image.resize([int(scale * side) for side in image.size], resample)
            left, top = (round((side - size) / 2) for side in image.size)
            pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
            pixels = (pixels - np.float32(how["mean"])) / np.float32(how["deviation"])
            images.append(torch.from_numpy(pixels).permute(2, 0, 1))
            labels.append(label)
    network = fresh(config, run, len(CLASSES)).eval()
    load_weights(network, config.weights_path(run))
    logits, targets = network(torch.stack(images)), torch.tensor(labels)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    return (100.0 * (logits.argmax(dim=1) == targets)).tolist(), losses.tolist()


def test_one_pass_scores_each_network_as_its_own_preprocessing_says(
    robust: RobustProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, scales = robust.config(), {name: RECIPE[name] for name in OWN}
    architecture = json.loads(json.dumps(config.architecture["van_tiny"]))
    import_weights(config, RUNS[1], architecture=architecture, run=str(RUNS[1]))
    reads, original = [], Split.read
    monkeypatch.setattr(Split, "read", lambda split, index: reads.append(index) or original(split, index))
    scored(config, RUNS)
    assert reads == list(range(24)), "every image is decoded once"
    for run, how in zip(RUNS, (scales, OWN, scales), strict=True):
        found, (right, losses) = kept(config, run), expected(config, run, Path("data/val"), how)
        assert found["top1"].tolist() == right
        assert found["loss"] == pytest.approx(losses, rel=1e-3, abs=1e-4)
        assert measured(config, run)["detail"]["preprocessing"] == how
        assert measured(config, run)["weights"]["origin"] == ("imported" if how is OWN else "trained")
    # With the scale's preprocessing, the numbers would be others; and those of a trained network depend on no other.
    _, losses = expected(config, RUNS[1], Path("data/val"), scales)
    assert kept(config, RUNS[1])["loss"] != pytest.approx(losses, rel=1e-3)
    together = outcomes_path(config.metric_path("classification", RUNS[0])).read_bytes()
    scored(config, RUNS[:1])
    assert outcomes_path(config.metric_path("classification", RUNS[0])).read_bytes() == together
    subject = open_run(config.classifier(RUNS[1]), 4, CPU)
    assert subject.own.to_dict() == OWN and subject.architecture == architecture
    item = robust.item("sketch")
    measure_robustness(item, networks(item, RUNS[1:2]))
    right, _ = expected(config, RUNS[1], Path("sets/sketch"), OWN)
    assert metrics_of(item, RUNS[1])["metrics"]["top1"]["value"] == pytest.approx(np.mean(right))


# What is refused


def sidecar_of(**changes: Any) -> Callable[[Path], None]:
    """A sidecar that says something else; None leaves a key out."""

    def change(weights: Path) -> None:
        content = {**json.loads(weights.with_suffix(".json").read_text()), **changes}
        write_json(weights.with_suffix(".json"), {name: value for name, value in content.items() if value is not None})

    return change


def own(**changes: Any) -> Callable[[Path], None]:
    recipe = {name: value for name, value in (OWN | changes).items() if value is not None}
    return sidecar_of(origin="imported", recipe=None, data=None, spec={"recipe": recipe})


def other(**architecture: Any) -> Callable[[Path], None]:
    """Weights of another network, for which their sidecar vouches."""

    def change(weights: Path) -> None:
        settings = {"attention": "lska", "kernel_size": 7, "num_classes": 4, "embed_dims": (8,) * 4,
                    "depths": (1,) * 4, "mlp_ratios": (2,) * 4}  # fmt: skip
        save_weights(timm.create_model("van_tiny", **{**settings, **architecture}), weights)
        sidecar_of(md5=file_md5(weights))(weights)

    return change


RUN_FAULTS: dict[str, Callable[[Path], Any]] = {
    "no weights": lambda weights: weights.unlink(),
    "no sidecar": lambda weights: weights.with_suffix(".json").unlink(),
    "neither": lambda weights: (weights.unlink(), weights.with_suffix(".json").unlink()),
    "other weights": lambda weights: weights.write_bytes(b"other"),
    "truncated sidecar": lambda weights: weights.with_suffix(".json").write_text("{"),
    "list as sidecar": lambda weights: weights.with_suffix(".json").write_text("3"),
    "sidecar without origin": sidecar_of(origin=None),
    "sidecar of odd types": sidecar_of(md5=7, origin="found"),
    "another recipe": sidecar_of(recipe=f"sha256:{'0' * 64}"),
    "other data": sidecar_of(data={"name": "colours", "digest": "sha256:1"}),
    "another run": sidecar_of(origin="imported", recipe=None, spec={"recipe": OWN, "run": "van_tiny-lka-k23-s0"}),
    "depths": other(depths=(1, 2, 1, 1)),
    "attention": other(attention="lka"),
    "classes": other(num_classes=10),
    **{
        f"{name} {value}": own(**{name: value})
        for name, value in [
            ("mean", None), ("mean", [0.5, 0.5]), ("deviation", [0.0, 1.0, 1.0]), ("image_size", 0),
            ("image_size", "224"), ("test_crop", 1.5), ("test_interpolation", "cubic"),
        ]
    },
}  # fmt: skip


def said(act: Callable[[], Any]) -> str:
    """The message of what is refused, digests left out."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the snapshot has the words
        act()
    text = f"{type(caught.value).__name__}: {caught.value}"
    return re.sub(r"\b[0-9a-f]{32,64}\b", "<digest>", text)


def test_weights_that_cannot_be_used_are_refused_by_name(robust: RobustProject, snapshot: SnapshotAssertion) -> None:
    config, item, found = robust.config(), robust.item("r"), {}
    for name, fault in RUN_FAULTS.items():
        fault(publish(config, RUNS[0]))
        found[name] = said(lambda: scored(config, RUNS[:1]))
    publish(config, RUNS[0])
    unprepared = robust.config({"scale": "unprepared"})
    found["no record of the data"] = said(lambda: scored(unprepared, RUNS[:1]))
    assert found == snapshot
    assert not list(Path("results").rglob("metrics/*/*.json")) and not item.predictions.exists()


def test_a_truncated_image_is_named_and_nothing_is_written(project: Project, image_set: Path) -> None:
    shutil.copytree(image_set, "damaged")
    path = Path("damaged/val/white/005.jpg")
    path.write_bytes(path.read_bytes()[:300])
    config = project.config({"data": {"root": "damaged"}})
    publish(config, project.run)
    with pytest.raises(DataError, match=f"{path}: expected an image, found 300 bytes"):
        scored(config, [project.run])
    assert not config.metric_path("classification", project.run).exists()


# Threads

SCRIPT = """
import hashlib
from threadpoolctl import threadpool_info
from lska.models.scoring import use_threads
use_threads({count})
import numpy, torch
random = numpy.random.default_rng(0)
product = random.random((200, 5281)) @ random.random((5281, 64))
blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
print(torch.get_num_threads(), *sorted(set(blas)), hashlib.md5(product.tobytes()).hexdigest())
"""


def test_products_do_not_depend_on_the_environment() -> None:
    count, said = 2, []
    for variable in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": variable, "OPENBLAS_NUM_THREADS": variable}
        words = [sys.executable, "-c", SCRIPT.format(count=count)]
        said.append(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split())
    assert said[0] == said[1]
    assert said[0][:-1] == [str(count), str(count)]
