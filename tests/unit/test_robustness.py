"""Robustness from checkpoints to metric files: what is decoded and kept, interruptions, published numbers."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from table_helpers import one_cell, only_cell
from tiny_project import RECIPE, networks
from tiny_robustness import (
    CELLS,
    RUNS,
    SOURCES,
    RobustProject,
    StopAfter,
    complete,
    done,
    equal,
    foreign,
    images_of,
    kept,
    metrics_of,
    publish,
    scoring,
    shard_files,
    terminated,
    without_times,
)

from lska.data.entries import DataError
from lska.data.perturbed.names import C_BAR, EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD
from lska.data.perturbed.parts import prepare_perturbed
from lska.evaluate import measurement
from lska.evaluate.accuracy import PredictionError, class_numbers, measure_robustness, predictions
from lska.evaluate.scores import (
    ALEXNET,
    ALEXNET_CLEAN,
    Outcome,
    corruption_values,
    plain_values,
)
from lska.models.designs import ATTENTIONS
from lska.provenance.files import FileError
from lska.provenance.metric_files import outcomes_path, project_root
from lska.provenance.outcomes import mean_of, read_outcomes, resample_counts, standard_error
from lska.provenance.sidecars import FIELDS
from lska.settings.tasks import PerturbedSet
from lska.settings.versions import MEASUREMENTS, Version
from lska.tables.collect import State
from lska.tables.specs import ColumnSpec
from lska.train import loading
from lska.train.interrupt import Interrupted, StopRequest


def values(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics.items()}


def errors_by_part(item: PerturbedSet, run: Any) -> dict[str, float]:
    """Errors in percent, from the stored predictions."""
    one = scoring(item, run)
    return {part.name: 100 - 100 * one.outcome(one.subjects[0], part).correct.mean() for part in one.parts}


# From predictions to metrics

# Top-1 of torchvision's ResNet-50 and its corruption errors (bethgelab/game-of-noise, Results/clean_results.txt).
RESNET_50 = {
    "brightness": (68.02, 56.64), "contrast": (39.06, 71.43), "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75), "fog": (45.83, 66.11), "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77), "glass_blur": (26.79, 88.61), "impulse_noise": (23.81, 82.58),
    "jpeg_compression": (53.41, 76.82), "motion_blur": (38.67, 78.03), "pixelate": (44.79, 76.92),
    "shot_noise": (27.03, 81.58), "snow": (32.53, 77.83), "zoom_blur": (36.24, 79.86),
}  # fmt: skip
WORDS = {
    "gaussian_noise": "Gaussian noise", "shot_noise": "shot", "impulse_noise": "impulse", "defocus_blur": "defocus",
    "glass_blur": "glass", "motion_blur": "motion", "zoom_blur": "zoom", "elastic_transform": "elastic",
    "jpeg_compression": "JPEG", "speckle_noise": "speckle", "gaussian_blur": "Gaussian blur",
}  # fmt: skip
"""What paper/protocol.md calls corruptions."""


Errors = tuple[str, dict[tuple[str, int], Outcome], Outcome | None]
"""A family, its parts, and the clean images."""


def wrong(count: int, n: int, confidence: float = 0.5) -> Outcome:
    """Predictions of which the first `count` are wrong."""
    return Outcome(np.arange(n) >= count, np.full(n, confidence, np.float32))


def everywhere(counts: Mapping[str, int], n: int) -> dict[tuple[str, int], Outcome]:
    """Every severity of a corruption with its number of errors."""
    return {(name, level): wrong(count, n) for name, count in counts.items() for level in SEVERITIES}


def found_of(family: str, cells: dict[tuple[str, int], Outcome], clean: Outcome | None = None) -> dict[str, Any]:
    return values(corruption_values(family, cells, clean, 2)[0])


def errors_of(rates: Mapping[str, float], clean: float | None = None, n: int = 10_000) -> Errors:
    """Errors in percent of every corruption of ImageNet-C, rounded to whole images."""
    cells = everywhere({name: round(rate * n / 100) for name, rate in rates.items()}, n)
    return "c", cells, None if clean is None else wrong(round(clean * n / 100), n)


def random_errors(family: str = "c", n: int = 80) -> Errors:
    """Images of different difficulty under corruptions of different strength, with confidences to match."""
    generator = np.random.default_rng(0)
    ease = generator.normal(0, 1, n)

    def outcome(strength: float) -> Outcome:
        chance = 1 / (1 + np.exp(strength - 1 - ease))
        return Outcome(generator.random(n) < chance, generator.uniform(0.1, 1, n).astype(np.float32))

    cells = {(name, level): outcome(0.3 * level) for name in FAMILIES[family] for level in SEVERITIES}
    return family, cells, outcome(0.0) if family == "c" else None


def test_published_accuracies_give_the_published_corruption_errors() -> None:
    found = found_of(*errors_of({name: 100 - top1 for name, (top1, _) in RESNET_50.items()}))
    for name, (top1, error) in RESNET_50.items():
        assert found[f"top1_{name}"] == pytest.approx(top1)
        assert found[f"ce_{name}"] == pytest.approx(error, abs=0.02), name
    assert found["mce_15"] == pytest.approx(76.70, abs=0.01)
    assert found["top1_mean_15"] == pytest.approx(np.mean([top1 for top1, _ in RESNET_50.values()]))
    assert found["mce_19"] is found["top1_mean_19"] is None
    text = (project_root() / "paper" / "protocol.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"AlexNet errors in the script: (.*?\d)\. ", text)
    printed = {name.lower(): float(rate) for name, rate in re.findall(r"([A-Za-z][A-Za-z ]*) (\d+\.\d)", listed)}
    ours = {WORDS.get(name, name).lower(): rate for name, rate in ALEXNET.items()}
    assert set(printed) == set(ours)
    assert [name for name, rate in printed.items() if abs(ours[name] - rate) > 0.05 + 1e-9] == []
    assert tuple(ALEXNET) == FAMILIES["c"] == STANDARD + EXTRA


def test_alexnet_against_itself_is_100_by_every_name_of_a_complete_set() -> None:
    found = found_of(*errors_of(ALEXNET, ALEXNET_CLEAN))
    for kind, allowed in (("ce", 0.01), ("relative_ce", 0.05)):
        assert [found[f"{kind}_{name}"] for name in ALEXNET] == pytest.approx([100] * 19, abs=allowed)
    for kind in ("mce", "relative_mce"):
        assert [found[f"{kind}_{n}"] for n in (15, 19)] == pytest.approx([100, 100], abs=0.02)
    expected = {f"top1_{name}_{level}" for name in ALEXNET for level in SEVERITIES}
    expected |= {f"{kind}_{name}" for kind in ("top1", "ece", "ce", "relative_ce") for name in ALEXNET}
    kinds = ("top1_mean", "error_mean", "ece_mean", "mce", "relative_mce")
    expected |= {f"{kind}_{n}" for kind in kinds for n in (15, 19)}
    expected |= {f"top1_{group}" for group in GROUPS} | {"top1_present", "top1_clean", "ece_clean"}
    assert set(found) == expected
    assert found["top1_noise"] == pytest.approx(100 - np.mean([ALEXNET[name] for name in STANDARD[:3]]), abs=0.01)
    assert found["top1_present"] == pytest.approx(found["top1_mean_19"])
    bar = found_of("c_bar", everywhere(dict.fromkeys(C_BAR, 30), 100))
    assert (bar["error_mean_10"], bar["top1_mean_10"], bar["top1_present"]) == pytest.approx((30, 70, 70))
    assert not any(name.startswith(("ce_", "mce", "relative")) for name in bar)


def test_relative_errors_by_hand_and_null_without_clean_images() -> None:
    # Of 10 images 2 are wrong when clean. Brightness: 1, 3, 4, 5, 7 wrong, 40 % in the mean, 20 more than clean, where
    # AlexNet has 56.4592 - 43.5 = 12.9592 more. Contrast: all wrong, 80 more, where AlexNet has 41.8204 more.
    cells = {("brightness", level): wrong(count, 10) for level, count in zip(SEVERITIES, (1, 3, 4, 5, 7), strict=True)}
    cells = everywhere(dict.fromkeys(ALEXNET, 6), 10) | cells | everywhere({"contrast": 10}, 10)
    found = found_of("c", cells, wrong(2, 10))
    assert found["ce_brightness"] == pytest.approx(4000 / 56.4592) and found["top1_clean"] == 80
    terms = {name: 4000 / (rate - 43.5) for name, rate in ALEXNET.items()}
    terms |= {"brightness": 2000 / 12.9592, "contrast": 8000 / 41.8204}
    assert {name: found[f"relative_ce_{name}"] for name in ALEXNET} == pytest.approx(terms)
    assert found["relative_mce_15"] == pytest.approx(sum(terms[name] for name in STANDARD) / 15)
    without = found_of("c", cells)
    assert {name for name, value in without.items() if value is None} == {n for n in found if n.startswith("relative")}
    assert found.keys() - without.keys() == {"top1_clean", "ece_clean"}


def test_calibration_errors_by_hand() -> None:
    # Bins are closed above: 0.2 is in the third of 15, 1.0 in the last; 0.0 in the first.
    confidence = np.array([0.2, 0.2, 1.0, 1.0, 0.95, 0.0], np.float32)
    outcome = Outcome(np.array([True, False, True, False, True, False]), confidence)
    gaps = abs(1 - 2 * np.float32(0.2)) + abs(2 - 2 - np.float32(0.95)) + 0
    assert outcome.calibration_error == pytest.approx(100 * gaps / 6, rel=1e-6)
    assert wrong(4, 4, 1.0).calibration_error == 100
    found, kept = plain_values({"": wrong(1, 4, 0.75), "_unmasked": wrong(3, 4, 0.5)}, 6)
    assert values(found) == {
        "top1": 75, "error": 25, "ece": 0, "top1_unmasked": 25, "error_unmasked": 75, "ece_unmasked": 25
    }  # fmt: skip
    assert found["error"]["standard_error"] == found["top1"]["standard_error"] == pytest.approx(100 * (3 / 64) ** 0.5)
    assert kept.images["error_unmasked"].tolist() == [100, 100, 100, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_means_of_outcomes_are_the_metrics_and_their_spread_the_error(family: str) -> None:
    _, cells, clean = random_errors(family)
    found, outcomes = corruption_values(family, cells, clean, 4)
    for name, of_each in outcomes.images.items():
        assert of_each.shape == (80,) and of_each.mean() == pytest.approx(found[name]["value"]), name
        # A share's error is the binomial one, with n in the place of n - 1.
        expected = mean_of(of_each)["standard_error"]
        assert found[name]["standard_error"] == pytest.approx(expected, rel=1e-9 if name != "top1_clean" else 0.01)
    rest = {name for name in found if not name.startswith(("ece", "ce_", "relative_ce_"))}
    assert set(outcomes.images) == rest - {f"top1_{name}_{level}" for name, level in cells}
    if family == "c":
        wrong = [np.mean([~cells[name, level].correct for level in SEVERITIES], axis=0) for name in STANDARD]
        weights = np.array([ALEXNET[name] for name in STANDARD])
        assert outcomes.images["mce_15"] == pytest.approx((1e4 * np.array(wrong) / weights[:, None]).mean(axis=0))
        plain = plain_values({"": clean}, 4)[1].samples
        for number, counts in enumerate(resample_counts(80, resamples=4)):
            images = np.repeat(np.arange(80), counts)
            parts = [clean, *(cells[name, level] for name in STANDARD for level in SEVERITIES)]
            drawn = [Outcome(one.correct[images], one.confidence[images]).calibration_error for one in parts]
            assert outcomes.samples["ece_clean"][number] == plain["ece"][number] == pytest.approx(drawn[0])
            assert outcomes.samples["ece_mean_15"][number] == pytest.approx(np.mean(drawn[1:]))
        # Another network, which is also wrong on some images in every part: a difference has a smaller error.
        lost = np.random.default_rng(1).random(80) < 0.05
        worse = {cell: Outcome(one.correct & ~lost, one.confidence) for cell, one in cells.items()}
        first, second = (
            corruption_values("c", each, None, 2)[1].images["top1_mean_19"] for each in (cells, worse)
        )
        assert 0 < (first - second).std(ddof=1) < np.hypot(first.std(ddof=1), second.std(ddof=1)) / 2


def test_a_severity_that_is_missing_leaves_no_mean_over_it() -> None:
    cells = {cell: outcome for cell, outcome in random_errors()[1].items() if cell != ("fog", 3)}
    found, outcomes = corruption_values("c", cells, None, 3)
    null = {name for name, value in values(found).items() if value is None}
    assert {"top1_fog_3", "top1_fog", "ece_fog", "ce_fog", "top1_weather", "mce_15", "top1_mean_19"} <= null
    assert not null & {"top1_fog_2", "top1_noise", "top1_snow", "ece_snow", "top1_present"}
    assert set(outcomes.images).isdisjoint(null) and "top1_noise" in outcomes.images and not outcomes.samples


# Predictions


def test_predictions_are_the_best_classes_and_probabilities() -> None:
    logits, labels = torch.tensor([[1.0, 3, 2, 0], [0, 0, 0, 400]]), torch.tensor([2, 3])
    found = predictions(logits, labels, torch.tensor([2, 3]))
    shares = np.exp([1, 3, 2, 0]) / np.exp([1, 3, 2, 0]).sum()
    assert found["full_best"].tolist() == [[1, 2, 0, 3, -1], [3, *found["full_best"][1, 1:4], -1]]
    assert found["full_label"].tolist() == found["masked_label"].tolist() == [2, 3]
    assert found["full_label_probability"] == pytest.approx([shares[2], 1], rel=1e-6)
    assert found["full_confidence"] == pytest.approx([shares[1], 1], rel=1e-6)
    assert found["masked_best"].tolist() == [[2, 3, -1, -1, -1], [3, 2, -1, -1, -1]]
    assert found["masked_confidence"][0] == pytest.approx(shares[2] / (shares[2] + shares[3]), rel=1e-6)
    assert not any(name.startswith("masked") for name in predictions(logits, labels))


def test_a_checkpoint_gets_in_company_and_from_workers_what_it_gets_alone(robust: RobustProject) -> None:
    item = robust.item("r")
    chosen = (*RUNS, foreign(item.config), foreign(item.config, "third", 4, image_size=40))
    together = done(scoring(item, *chosen))
    helped = done(scoring(item, *chosen, folder=Path("workers"), workers=2))
    large = done(scoring(item, RUNS[0], folder=Path("large"), shard=100, batch_size=9))
    (part,) = together.parts
    assert len(shard_files(item)) == 2 * 5 and len(list(Path("large").rglob("*.npz"))) == 1
    for subject, twin, one in zip(together.subjects, helped.subjects, chosen, strict=True):
        alone = done(scoring(item, one, folder=Path("alone")))
        for other in (kept(helped, twin, part), kept(alone, alone.subjects[0], part)):
            assert equal(kept(together, subject, part), other)
    first, other = kept(together, together.subjects[0], part), kept(large, large.subjects[0], part)
    assert np.array_equal(first["masked_best"], other["masked_best"])
    np.testing.assert_allclose(first["masked_confidence"], other["masked_confidence"], rtol=1e-4)


@pytest.mark.parametrize("reading", ["as_stored", "enlarged"])
def test_stored_images_are_taken_as_they_are_or_enlarged_and_cropped(
    robust: RobustProject, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    changes, seen = {"training": {"overrides": {"test_crop": 0.8}}}, []
    publish(robust.config(changes), RUNS[0])
    item, original = robust.item("c", changes, {"stored_images": reading}), measurement.normalized
    monkeypatch.setattr(measurement, "normalized", lambda images, *how: seen.append(images) or original(images, *how))
    one = done(scoring(item, RUNS[0], foreign(item.config), shard=100, batch_size=100))
    transform, own = loading.test_transform(item.config.recipes["van_tiny"]), one.subjects[0].own
    for number, part in enumerate(one.parts):
        file = Image.open(part.split.name(part.index(0)))
        pixels, larger = (each[:1] for each in seen[2 * number :][:2])
        if reading == "as_stored" and part.stored:
            assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), np.asarray(file))
            # A network of larger input sees the whole image.
            whole = np.asarray(file.resize((48, 48), Image.Resampling.BICUBIC))
            assert np.array_equal(larger[0].permute(1, 2, 0).numpy(), whole)
        else:
            assert torch.equal(original(pixels, own, False)[0], transform(file))
    other = robust.item("c", changes, {"stored_images": "enlarged" if reading == "as_stored" else "as_stored"})
    assert other.protocol() != item.protocol()
    done(scoring(other, RUNS[0]))
    assert len({name.split("/")[2] for name in shard_files(item) if name.startswith("gaussian_noise_1")}) == 3


def test_labels_are_those_of_the_networks(robust: RobustProject) -> None:
    one = done(scoring(robust.item("r"), *RUNS))
    (part,) = one.parts
    found = kept(one, one.subjects[0], part)
    assert found["full_label"].tolist() == found["masked_label"].tolist() == [0] * 3 + [1] * 3 + [3] * 3
    assert set(found["masked_best"][:, 0].tolist()) <= {0, 1, 3} and (found["masked_best"][:, 3:] == -1).all()
    with pytest.raises(ValueError, match="^sets/r has classes that the networks were not trained on: green, white; "):
        class_numbers(part, ("blue", "red"))


# What is made again


def test_an_interruption_keeps_whole_shards_and_the_rest_is_decoded_later_once_for_all_checkpoints(
    robust: RobustProject, decoded: list[str]
) -> None:
    item = robust.item("c")
    expected = scoring(item, *RUNS, folder=Path("whole"))
    assert expected.run(StopRequest(None)) == 48
    places, one = images_of(list(expected.parts)), scoring(item, *RUNS)
    assert decoded == places and [part.name for part in one.parts] == [
        "clean", "gaussian_noise/1", "gaussian_noise/4", "jpeg_compression/2"
    ]  # fmt: skip
    # Shards of 8 and 4 images in batches of 5, 3 and 4: the fifth batch is in the middle of the third shard.
    decoded.clear()
    with pytest.raises(Interrupted, match="received SIGTERM; predictions up to gaussian_noise/1, image 0, are kept"):
        one.run(StopAfter(4))
    assert decoded == places[:17]
    first = shard_files(item)
    assert len(first) == 6 and all(name.startswith("clean/") for name in first)
    decoded.clear()
    assert one.run(StopRequest(None)) == 36
    assert decoded == places[12:]
    after = shard_files(item)
    assert first.items() <= after.items()
    whole = {str(path.relative_to("whole")): path.read_bytes() for path in Path("whole").rglob("*.npz")}
    assert {name: content for name, (_, content) in after.items()} == whole
    decoded.clear()
    assert (one.run(StopRequest(None)), decoded, shard_files(item)) == (0, [], after)


def test_a_run_added_later_is_the_only_one_that_is_predicted(
    robust: RobustProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = robust.item("c")
    done(scoring(item, *RUNS[:2]))
    before, one = shard_files(item), scoring(item, *RUNS)
    for subject in one.subjects[:2]:
        monkeypatch.setattr(subject.network, "forward", lambda images: pytest.fail("predicted again"))
    done(one)
    added = shard_files(item).keys() - before.keys()
    assert before.items() <= shard_files(item).items() and 2 * len(added) == len(before)
    assert {name.split("/")[2].partition("-")[0] for name in added} == {one.subjects[2].sidecar["md5"]}


def test_what_decides_predictions_makes_them_again(
    robust: RobustProject, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = robust.item("r")
    done(scoring(item, RUNS[0]))
    before = shard_files(item)
    publish(robust.config(), RUNS[0], seed=7)
    done(scoring(item, RUNS[0]))
    # The same weights, used otherwise.
    done(scoring(item, foreign(robust.config(), seed=7)))
    done(scoring(item, foreign(robust.config(), seed=7, test_crop=0.9)))
    with monkeypatch.context() as raised:
        raised.setitem(ATTENTIONS, "lska", replace(ATTENTIONS["lska"], version=2))
        done(scoring(item, foreign(robust.config(), seed=7, test_crop=0.9)))
    Path("sets/r/white/000.jpg").rename("sets/r/white/100.jpg")
    Path("results/test/data/colours_r.json").unlink()
    prepare_perturbed(item)
    decoded.clear()
    done(scoring(item, RUNS[0]))
    assert len(decoded) == 9 and before.items() <= shard_files(item).items()
    assert len(shard_files(item)) == 6 * len(before)


def test_damaged_predictions_are_named_and_outputs_of_no_use_are_not_kept(robust: RobustProject) -> None:
    item = robust.item("r")
    one = done(scoring(item, *RUNS[:2]))
    (part,), subject = one.parts, one.subjects[1]
    expected, path = kept(one, subject, part), list(one.files(subject, part).values())[1]
    whole = path.read_bytes()
    for content in (whole[:200], whole[:-300] + b"x" * 300, b""):
        path.write_bytes(content)
        with pytest.raises(PredictionError, match=f"^{path} is damaged .*; remove it"):
            one.outcome(subject, part)
    path.unlink()
    assert one.run(StopRequest(None)) == 1 and equal(kept(one, subject, part), expected)
    broken = scoring(item, *RUNS[:2], folder=Path("broken"))
    with torch.no_grad():
        broken.subjects[1].network.head.bias[0] = math.nan
    message = f"^{RUNS[1]}: the network's outputs on test are not finite.*MD5 {subject.sidecar['md5']}"
    with pytest.raises(ValueError, match=message):
        done(broken)
    assert not any(path.exists() for path in broken.files(broken.subjects[1], part).values())


# Metric files


def test_a_complete_set_has_every_mean(robust: RobustProject) -> None:
    item = complete(robust, "c")
    measure_robustness(item, networks(item, RUNS[:1]))
    found, errors = values(metrics_of(item, RUNS[0])["metrics"]), errors_by_part(item, RUNS[0])
    assert len(errors) == 96 and None not in found.values()
    rates = {name: np.mean([errors[f"{name}/{level}"] for level in SEVERITIES]) for name in FAMILIES["c"]}
    assert found["mce_19"] == pytest.approx(np.mean([100 * rates[name] / ALEXNET[name] for name in rates]))
    assert found["top1_clean"] == pytest.approx(100 - errors["clean"])
    assert found["top1_snow_4"] == pytest.approx(100 - errors["snow/4"])
    detail = metrics_of(item, RUNS[0])["detail"]
    assert (detail["corruptions"], detail["parts"], detail["missing"]) == (19, 95, {})
    # Without the clean images only what needs them is missing.
    item = robust.item("c", {"data": {"root": "nowhere"}})
    measure_robustness(item, networks(item, RUNS[:1]))
    after = values(metrics_of(item, RUNS[0])["metrics"])
    assert found.keys() - after.keys() == {"top1_clean", "ece_clean"}
    assert after == {n: None if n.startswith("relative_") else found[n] for n in after}


def test_a_partial_set_says_so_and_gives_no_mean(robust: RobustProject, tmp_path: Path) -> None:
    item = robust.item("c")
    measure_robustness(item, networks(item, RUNS))
    content, errors = metrics_of(item, RUNS[2]), errors_by_part(item, RUNS[2])
    found, detail = values(content["metrics"]), content["detail"]
    known = {f"top1_{name}_{level}" for name, levels in CELLS.items() for level in levels}
    assert {n for n, v in found.items() if v is not None} == known | {"top1_present", "top1_clean", "ece_clean"}
    assert found["top1_present"] == pytest.approx(100 - np.mean([errors[name] for name in errors if name != "clean"]))
    whole = {name: [1, 2, 3, 4, 5] for name in FAMILIES["c"]}
    assert detail["missing"] == whole | {"gaussian_noise": [2, 3, 5], "jpeg_compression": [1, 3, 4, 5]}
    column = ColumnSpec("C, mCE", item.task, "mce_15", unit="%", digits=1, partial=True)
    cell = only_cell(one_cell(tmp_path, column, "61.0"), item.config, tmp_path)
    assert (cell.state, cell.value) == (State.PARTIAL, None)
    listed = dict(text.split(" ", 1) for text in cell.note.removeprefix("missing: ").split("; "))
    assert listed == {name: ", ".join(map(str, levels)) for name, levels in detail["missing"].items()}


def test_a_metric_file_says_what_was_measured(robust: RobustProject, monkeypatch: pytest.MonkeyPatch) -> None:
    item, kinds = robust.item("a"), {"": "masked", "_unmasked": "full"}
    measure_robustness(item, networks(item, RUNS))
    one = scoring(item, *RUNS)
    for run, subject in zip(RUNS, one.subjects, strict=True):
        content = metrics_of(item, run)
        outcomes = read_outcomes(outcomes_path(item.metrics(run)), content["outcomes"])
        for end, kind in kinds.items():
            found = one.outcome(subject, one.parts[0], kind)
            assert content["metrics"][f"top1{end}"]["value"] == pytest.approx(100 * found.correct.mean())
            assert content["metrics"][f"ece{end}"]["value"] == pytest.approx(found.calibration_error)
            assert outcomes.images[f"top1{end}"].tolist() == [100.0 * right for right in found.correct]
            error = content["metrics"][f"ece{end}"]["standard_error"]
            assert standard_error(outcomes.samples[f"ece{end}"]) == pytest.approx(error, rel=1e-5)
    assert set(content["metrics"]) == {f"{name}{end}" for name in ("ece", "error", "top1") for end in kinds}
    assert content["recipe"] == item.config.classifier(RUNS[2]).digest()
    assert content["data"] == {"name": "colours_a", "digest": json.loads(item.record.read_text())["digest"]}
    own = {name: RECIPE[name] for name in FIELDS}
    assert content["detail"] == {"protocol": item.protocol(), "classes": 2, "preprocessing": own}
    # Another protocol takes the predictions that are there, and gives the same outcomes.
    monkeypatch.setitem(MEASUREMENTS, "robustness", Version(99, ()))
    monkeypatch.setattr(measurement, "decode", lambda *_: pytest.fail("an image was decoded"))
    measure_robustness(item, networks(item, RUNS))
    again = metrics_of(item, RUNS[2])
    assert again["outcomes"] == content["outcomes"]
    assert again["detail"]["protocol"] == item.protocol() != content["detail"]["protocol"]


def test_a_terminated_command_goes_on_where_it_stopped(
    robust: RobustProject, child: Callable[[Callable[[], Any]], int], decoded: list[str]
) -> None:
    item, words = robust.item("c"), ("evaluate", "robustness", "c", "--checkpoints", *map(str, RUNS))
    assert child(lambda: terminated(lambda: robust.command(*words), 26)) == 75
    first = shard_files(item)
    assert len(first) == 3 * 4 and not any(item.metrics(run).exists() for run in RUNS)
    assert robust.command(*words) == 0
    assert len(decoded) == 24 and first.items() <= shard_files(item).items()
    resumed = [without_times(item, run) for run in RUNS]
    for folder in (item.predictions, item.metrics(RUNS[0]).parent):
        shutil.rmtree(folder)
    assert robust.command(*words) == 0
    assert len(decoded) == 24 + 48
    assert [without_times(item, run) for run in RUNS] == resumed


def test_the_command_measures_every_set_and_checkpoint(robust: RobustProject, capsys: Any) -> None:
    sets = {name: SOURCES[name] for name in ("a", "r", "sketch")}
    content = yaml.safe_load(Path("config.yaml").read_text())
    content["robustness"]["sets"] = sets
    Path("config.yaml").write_text(yaml.safe_dump(content))
    assert robust.command("evaluate", "robustness") == 0
    folder = Path("results/test/metrics/robustness")
    files = {path.relative_to(folder) for path in folder.rglob("*.json")}
    assert files == {Path(name, f"{run}.json") for name in sets for run in RUNS}
    hasty = ("evaluate", "robustness", "sketch", "--budget-hours", "1e-9")
    assert robust.command(*hasty) == 0
    shutil.rmtree(robust.item("sketch").predictions)
    assert robust.command(*hasty) == 75


def test_an_unprepared_changed_or_damaged_set_is_refused(robust: RobustProject) -> None:
    item = robust.item("c")
    Path("sets/c/jpeg_compression/2/red/000.jpg").unlink()
    with pytest.raises(DataError, match="jpeg_compression/2: its file names are not the recorded ones"):
        measure_robustness(item, networks(item, RUNS))
    with pytest.raises(FileError, match="unprepared/data/colours_r.json is missing .*lska data prepare --kind r"):
        item = robust.item("r", {"scale": "unprepared"})
        measure_robustness(item, networks(item, RUNS))
    path = Path("sets/r/green/001.jpg")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{path}: expected an image, found 300 bytes"):
        done(scoring(robust.item("r"), RUNS[0]))
