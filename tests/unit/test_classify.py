"""Scoring checkpoints: the numbers, what vouches for weights, and what is refused."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_project import CLASSES, RECIPE, Project
from torch import nn

from lska.data.entries import DataError
from lska.data.folders import Split
from lska.evaluate import accuracy as module
from lska.evaluate.accuracy import StaleWeightsError, classify
from lska.models.pretrained import CheckpointError, save_weights
from lska.models.runs import Run
from lska.models.scoring import Scores, hits, score
from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5
from lska.provenance.outcomes import outcomes_path, read_outcomes
from lska.settings.scale import Config
from lska.train.classifier import build_network

OWN = {"image_size": 48, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.48, 0.45, 0.4],
       "deviation": [0.23, 0.22, 0.24]}  # fmt: skip
"""Another way to prepare images than the recipe's."""


def publish(config: Config, run: Run, network: nn.Module, **changes: Any) -> Path:
    """Weights and sidecar as a training leaves them."""
    path = config.weights_path(run)
    save_weights(network, path)
    record = json.loads(Path("results/test/data/colours.json").read_text())
    sidecar = {
        "md5": file_md5(path),
        "origin": "trained",
        "recipe": config.training_digest(run),
        "data": {"name": record["name"], "digest": record["digest"]},
    }
    write_json(path.with_suffix(".json"), sidecar | changes)
    return path


def measured(config: Config, run: Run) -> dict[str, Any]:
    return json.loads(config.metric_path("classification", run).read_text(encoding="utf-8"))


class MeanColour(nn.Module):
    """Logits that are a fixed linear map of an image's mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


# Blue, green and white are told apart, red is taken for something else.
WEIGHTS = np.array([[-3.0, -3.0, 4.0], [-2.0, 5.0, -2.0], [-4.0, 3.0, 3.0], [0.2, 0.2, 0.1]])
BIASES = np.array([0.5, 0.0, -1.5, 0.6])


def fixed_network() -> MeanColour:
    network = MeanColour()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor(WEIGHTS))
        network.head.bias.copy_(torch.tensor(BIASES))
    return network


def by_hand(root: Path) -> tuple[list[bool], list[float]]:
    """Hit and cross-entropy of every validation image, in the order of the set, from their pixels."""
    right, loss = [], []
    for target, label in enumerate(CLASSES):
        for path in sorted((root / "val" / label).iterdir()):
            pixels = np.asarray(Image.open(path).convert("RGB")) / 255
            colour = ((pixels - RECIPE["mean"]) / RECIPE["deviation"]).mean((0, 1))
            logits = WEIGHTS @ colour + BIASES
            right.append(bool(logits.argmax() == target))
            loss.append(math.log(np.exp(logits).sum()) - logits[target])
    return right, loss


def test_the_metrics_are_those_counted_by_hand(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project.config()
    monkeypatch.setattr(module, "build_network", lambda *_: MeanColour())
    weights = publish(config, project.run, fixed_network())
    classify(config, [project.run])
    content, (right, loss) = measured(config, project.run), by_hand(Path("data"))
    assert sum(right) == 18
    share = 18 / 24
    assert content["metrics"]["top1"] == {
        "value": pytest.approx(100 * share),
        "unit": "%",
        "n": 24,
        "standard_error": pytest.approx(100 * math.sqrt(share * (1 - share) / 24)),
    }
    assert content["metrics"]["top5"] == {"value": 100.0, "unit": "%", "n": 24, "standard_error": 0.0}
    assert content["metrics"]["loss"] == {
        "value": pytest.approx(np.mean(loss), rel=1e-5), "unit": "nats", "n": 24,
        "standard_error": pytest.approx(np.std(loss, ddof=1) / 24**0.5, rel=1e-5),
    }  # fmt: skip
    images = read_outcomes(outcomes_path(config.metric_path("classification", project.run)), content["outcomes"]).images
    assert images["top1"].tolist() == [100.0 * hit for hit in right] and images["top5"].tolist() == [100.0] * 24
    assert images["loss"] == pytest.approx(loss, rel=1e-4)
    assert content["weights"] == {"md5": file_md5(weights), "origin": "trained"}
    assert content["recipe"] == config.training_digest(project.run)
    assert content["data"] == config.data_identity()
    assert (content["task"], content["run"], content["scale"]) == ("classification", str(project.run), "test")


LOGITS = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6], [0.0, 9, 0, 0, 0, 1], [3.0, 3, 3, 3, 3, 2]])


@pytest.mark.parametrize(
    ("k", "labels", "expected"),
    [
        (1, [0, 0, 1, 5], [True, False, True, False]),
        (5, [5, 0, 5, 5], [False, False, True, False]),
        (5, [4, 1, 1, 0], [True, True, True, True]),
        (7, [5, 0, 0, 5], [True, True, True, True]),
    ],
)
def test_hits_are_among_the_k_largest(k: int, labels: list[int], expected: list[bool]) -> None:
    assert hits(LOGITS, torch.tensor(labels), k).tolist() == expected


def test_scores_add_up_over_batches() -> None:
    scores, labels = Scores(), torch.tensor([0, 0, 5, 5])
    scores.add(LOGITS[:3], labels[:3])
    scores.add(LOGITS[3:], labels[3:])
    assert (scores.n, scores.mean("top1"), scores.mean("top5")) == (4, 25, 50)
    assert scores.images["top1"].tolist() == [100, 0, 0, 0] and scores.images["top5"].tolist() == [100, 0, 100, 0]
    assert scores.mean("loss") == pytest.approx(nn.functional.cross_entropy(LOGITS, labels).item())


def test_scoring_leaves_the_modes_and_uses_running_statistics() -> None:
    networks = [nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)) for _ in range(2)]
    networks[1].eval()
    batch = (torch.randn(2, 3, 2, 2), torch.tensor([0, 1]))
    together = score(networks, [batch, batch], torch.device("cpu"))
    assert [network.training for network in networks] == [True, False]
    assert networks[0][0].num_batches_tracked.item() == 0
    assert [scores.n for scores in together] == [4, 4]
    with pytest.raises(RuntimeError, match="shape"):
        score(networks, [(torch.randn(2, 3, 5, 5), torch.tensor([0, 1]))], torch.device("cpu"))
    assert [network.training for network in networks] == [True, False]


def test_a_trained_network_scores_what_its_training_saw(project: Project, capsys: Any) -> None:
    config = project.trained({"training": {"overrides": {"validation_interval": 1, "ema_decay": 0.5}}})
    classify(config, [project.run])
    content, last = measured(config, project.run), project.records(config)[-1]
    assert content["metrics"]["top1"]["value"] == pytest.approx(last["validation_top1"])
    assert content["metrics"]["loss"]["value"] == pytest.approx(last["validation_loss"], rel=1e-5)


def test_two_measurements_differ_in_their_times_only(project: Project) -> None:
    config = project.config()
    publish(config, project.run, build_network(config, project.run, 4))
    texts = []
    for batch_size in (7, 7):
        classify(project.config({"evaluation": {"batch_size": batch_size}}), [project.run])
        texts.append(config.metric_path("classification", project.run).read_text())
    first, second = (json.loads(text) for text in texts)
    assert list(first) == sorted(first)
    for content in (first, second):
        assert content.pop("seconds") >= 0
        assert content.pop("started") and content.pop("seal")
    assert first == second


def test_batches_and_loading_processes_leave_the_outcomes_as_they_are(project: Project) -> None:
    config = project.config()
    publish(config, project.run, build_network(config, project.run, 4))
    path, found = outcomes_path(config.metric_path("classification", project.run)), []
    for evaluation in ({"batch_size": 7}, {"batch_size": 7, "workers": 1}, {"batch_size": 24}):
        classify(project.config({"evaluation": evaluation}), [project.run])
        found.append((path.read_bytes(), read_outcomes(path).images))
    assert found[0][0] == found[1][0]
    for name, values in found[0][1].items():
        assert values == pytest.approx(found[2][1][name], rel=1e-4)


def test_a_paired_difference_has_a_smaller_error_than_that_of_two_sets(project: Project) -> None:
    config = project.config()
    networks = [build_network(config, project.run, 4) for _ in range(2)]
    # The second network is the first one, but for the bias of one class.
    networks[1].load_state_dict(networks[0].state_dict())
    with torch.no_grad():
        networks[1].get_classifier().bias[0] += 0.1
    losses = []
    for run, network in zip((project.run, project.run.with_seed(1)), networks, strict=True):
        publish(config, run, network)
        classify(config, [run])
        losses.append(read_outcomes(outcomes_path(config.metric_path("classification", run))).images["loss"])
    unpaired = np.hypot(*(values.std(ddof=1) for values in losses))
    assert 0 < (losses[1] - losses[0]).std(ddof=1) < unpaired


def test_several_checkpoints_share_one_pass_over_the_images(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project.config()
    runs = [project.run, project.run.with_seed(1), Run("van_tiny", "lka", 23, 0)]
    for run in runs:
        publish(config, run, build_network(config, run, 4))
    reads: list[int] = []
    original = Split.read
    monkeypatch.setattr(Split, "read", lambda split, index: reads.append(index) or original(split, index))
    classify(config, runs)
    assert reads == list(range(24))
    alone = measured(config, runs[2])["metrics"]
    classify(config, runs[2:])
    assert measured(config, runs[2])["metrics"] == alone
    assert len({measured(config, run)["metrics"]["loss"]["value"] for run in runs}) == 3


def test_weights_of_another_architecture_are_refused_by_their_keys(project: Project) -> None:
    config = project.config()
    other = project.config({"architecture": {"van_tiny": {"depths": [1, 2, 1, 1]}}})
    path = publish(config, project.run, build_network(other, project.run, 4))
    with pytest.raises(CheckpointError) as caught:
        classify(config, [project.run])
    message = str(caught.value)
    assert message.startswith(f"{path}: the weights do not fit the model. ")
    assert re.search(r"\d+ unknown to the model: block2\.1\.\w+", message)
    assert not config.metric_path("classification", project.run).exists()


def test_weights_of_another_attention_are_refused_by_their_keys(project: Project) -> None:
    config = project.config()
    publish(config, project.run, build_network(config, Run("van_tiny", "lka", 7, 0), 4))
    with pytest.raises(CheckpointError, match=r"missing in the file: block1\.0\.attn.*\.conv0h\.weight"):
        classify(config, [project.run])


def test_weights_of_another_number_of_classes_are_refused(project: Project) -> None:
    config = project.config()
    publish(config, project.run, build_network(config, project.run, 10))
    with pytest.raises(CheckpointError, match=r"head\.weight \(model \(4, 8\), file \(10, 8\)\).*number of classes"):
        classify(config, [project.run])


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_missing_files_are_named_with_how_to_make_them(project: Project, suffix: str) -> None:
    config = project.config()
    path = publish(config, project.run, build_network(config, project.run, 4)).with_suffix(suffix)
    path.unlink()
    weights, sidecar = path.with_suffix(".safetensors"), path.with_suffix(".json")
    told = {
        ".safetensors": f"{weights} is missing, only its sidecar {sidecar.name} is there; train the run first: `lska",
        ".json": f"{weights} is there, but its sidecar {sidecar} is missing, .*docs/weights.md.* or move it away",
    }
    with pytest.raises(StaleWeightsError, match=told[suffix]):
        classify(config, [project.run])
    weights.unlink(missing_ok=True)
    sidecar.unlink(missing_ok=True)
    with pytest.raises(StaleWeightsError, match=f"{weights} is missing; train the run first: `lska train "):
        classify(config, [project.run])


def test_weights_that_their_sidecar_does_not_vouch_for_are_refused(project: Project) -> None:
    config = project.config()
    path = publish(config, project.run, build_network(config, project.run, 4))
    vouched = file_md5(path)
    save_weights(build_network(config, project.run.with_seed(1), 4), path)
    with pytest.raises(StaleWeightsError, match=f"{path} has MD5 {file_md5(path)} but .*json vouches for {vouched}"):
        classify(config, [project.run])
    assert not config.metric_path("classification", project.run).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": f"sha256:{'0' * 64}"}, "trained otherwise than today .*; train the run again"),
        (
            {"data": {"name": "colours", "digest": "sha256:1"}},
            "trained with data .*'sha256:1'.*, the configuration now",
        ),
    ],
)
def test_weights_of_another_recipe_or_other_data_are_refused(
    project: Project, changes: dict[str, Any], message: str
) -> None:
    config = project.config()
    publish(config, project.run, build_network(config, project.run, 4), **changes)
    with pytest.raises(StaleWeightsError, match=message):
        classify(config, [project.run])
    assert not config.metric_path("classification", project.run).exists()


def test_imported_weights_need_no_recipe_of_ours(project: Project) -> None:
    config = project.config()
    publish(
        config, project.run, build_network(config, project.run, 4), origin="imported", recipe=None, data=None,
        spec={"recipe": OWN},
    )  # fmt: skip
    classify(config, [project.run])
    content = measured(config, project.run)
    assert (content["weights"]["origin"], content["recipe"]) == ("imported", None)
    assert content["detail"]["preprocessing"] == OWN
    assert content["data"] == config.data_identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"), ("3", "expected a mapping, found a number"), ('{"md5": "x"}', "missing key 'origin'"),
        ('{"md5": "x", "origin": "trained"}', "missing key 'recipe'"), ("[" * 100000, "nested more than 64 deep"),
        ('{"md5": 7, "origin": "found"}', "expected one of 'trained', 'imported'"), ('{"md5": NaN}', "finite number"),
    ],
)
def test_a_damaged_sidecar_is_named(project: Project, text: str, message: str) -> None:
    config = project.config()
    path = publish(config, project.run, build_network(config, project.run, 4)).with_suffix(".json")
    path.write_text(text)
    with pytest.raises(StaleWeightsError, match=f"sidecar cannot be used .*{path}.*{message}"):
        classify(config, [project.run])


def test_a_truncated_image_is_named_and_nothing_is_written(project: Project, image_set: Path) -> None:
    shutil.copytree(image_set, "damaged")
    path = Path("damaged/val/white/005.jpg")
    path.write_bytes(path.read_bytes()[:300])
    config = project.config({"data": {"root": "damaged"}})
    publish(config, project.run, build_network(config, project.run, 4))
    with pytest.raises(DataError, match=f"{path}: expected an image, found 300 bytes"):
        classify(config, [project.run])
    assert not config.metric_path("classification", project.run).exists()


def test_without_the_record_of_the_data_nothing_is_scored(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project.config({"scale": "unprepared"})
    publish(config, project.run, build_network(config, project.run, 4))
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("scored without a record of the data"))
    with pytest.raises(ValueError, match="colours.json is missing .*`lska data prepare --kind classification`"):
        classify(config, [project.run])


def test_a_training_on_a_truncated_image_ends_and_counts_it(
    project: Project, image_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(image_set, "damaged")
    path = Path("damaged/train/green/007.jpg")
    path.write_bytes(path.read_bytes()[:300])
    with caplog.at_level(logging.WARNING):
        config = project.trained({"data": {"root": "damaged"}, "scale": "damaged"})
    sidecar = json.loads(config.weights_path(project.run).with_suffix(".json").read_text())
    assert 1 <= sidecar["skipped_images"] <= 3
    assert caplog.text.count(f"skipped: {path}: expected an image, found 300 bytes") == sidecar["skipped_images"]
    assert f"{sidecar['skipped_images']} unreadable image(s) were skipped" in caplog.text
