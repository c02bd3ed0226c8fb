"""Robustness from checkpoints to metric files and cells of tables, partial sets and interruptions included."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from table_helpers import one_cell, only_cell
from tiny_project import RECIPE
from tiny_robustness import (
    CELLS,
    OTHER,
    RUNS,
    SOURCES,
    RobustProject,
    complete,
    foreign,
    members_of,
    metrics_of,
    publish,
    scoring,
    shard_files,
    without_times,
    write_corrupted,
)

from lska.data.entries import DataError
from lska.data.perturbed.names import EXTRA, FAMILIES, SEVERITIES, STANDARD
from lska.data.perturbed.perturbed_preparing import prepare_perturbed
from lska.evaluate import scoring_passes
from lska.evaluate.accuracy import StaleWeightsError
from lska.evaluate.robustness import measure_robustness
from lska.evaluate.scores import ALEXNET, calibration_error
from lska.models.pretrained import CheckpointError, save_weights
from lska.provenance.files import FileError, write_json
from lska.provenance.metric_files import file_md5
from lska.provenance.outcomes import outcomes_path, read_outcomes, standard_error
from lska.provenance.sidecars import FIELDS
from lska.settings.perturbed_sets import PerturbedSet
from lska.tables.cell_states import State
from lska.tables.specs import ColumnSpec
from lska.train.classifier import build_network


def values(item: PerturbedSet, run: Any) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics_of(item, run)["metrics"].items()}


def errors_by_part(item: PerturbedSet, run: Any) -> dict[str, float]:
    """Errors in percent, from the stored predictions."""
    one = scoring(item, members_of(item.config, run))
    return {part.name: 100 - 100 * one.outcomes(one.members[0], part).correct.mean() for part in one.parts}


def test_a_complete_set_has_every_mean(robust: RobustProject) -> None:
    item = complete(robust, "c")
    measure_robustness(item, RUNS[:2])
    for run in RUNS[:2]:
        found, errors = values(item, run), errors_by_part(item, run)
        assert len(errors) == 96 and None not in found.values()
        rates = {name: np.mean([errors[f"{name}/{level}"] for level in SEVERITIES]) for name in FAMILIES["c"]}
        for n, names in ((15, STANDARD), (19, STANDARD + EXTRA)):
            assert found[f"error_mean_{n}"] == pytest.approx(np.mean([rates[name] for name in names]))
            assert found[f"mce_{n}"] == pytest.approx(np.mean([100 * rates[name] / ALEXNET[name] for name in names]))
        relative = [100 * (rates[name] - errors["clean"]) / (ALEXNET[name] - 43.5) for name in STANDARD]
        assert found["relative_mce_15"] == pytest.approx(np.mean(relative))
        assert found["top1_clean"] == pytest.approx(100 - errors["clean"])
        assert found["top1_snow_4"] == pytest.approx(100 - errors["snow/4"])
    detail = metrics_of(item, RUNS[0])["detail"]
    assert (detail["corruptions"], detail["parts"], detail["missing"]) == (19, 95, {})


def test_the_other_family_has_a_mean_error(robust: RobustProject) -> None:
    item = complete(robust, "c_bar")
    measure_robustness(item, RUNS[:1])
    found, errors = values(item, RUNS[0]), errors_by_part(item, RUNS[0])
    assert len(errors) == 50
    assert found["error_mean_10"] == pytest.approx(np.mean(list(errors.values())))
    assert found["top1_mean_10"] == pytest.approx(100 - found["error_mean_10"])
    assert 0 < found["error_mean_10"] < 100


def test_a_partial_set_says_so_and_gives_no_mean(robust: RobustProject, tmp_path: Path) -> None:
    item = robust.item("c")
    measure_robustness(item, RUNS)
    found, errors = values(item, RUNS[2]), errors_by_part(item, RUNS[2])
    known = {"top1_present", "top1_clean", "ece_clean"}
    known |= {f"top1_{name}_{level}" for name, levels in CELLS.items() for level in levels}
    assert {name for name, value in found.items() if value is not None} == known
    assert {"mce_15", "mce_19", "top1_mean_15", "top1_mean_19", "ece_mean_19", "relative_mce_19"} <= set(found)
    assert found["top1_present"] == pytest.approx(100 - np.mean([errors[name] for name in errors if name != "clean"]))
    detail = metrics_of(item, RUNS[2])["detail"]
    whole = {name: [1, 2, 3, 4, 5] for name in FAMILIES["c"]}
    assert detail["missing"] == whole | {"gaussian_noise": [2, 3, 5], "jpeg_compression": [1, 3, 4, 5]}
    assert (detail["corruptions"], detail["parts"]) == (19, 3)

    column = ColumnSpec("C, mCE", item.task, "mce_15", unit="%", digits=1, partial=True)
    cell = only_cell(one_cell(tmp_path, column, "61.0"), item.config, tmp_path)
    assert (cell.state, cell.value) == (State.PARTIAL, None)
    assert cell.note.startswith("missing: ")
    listed = dict(text.split(" ", 1) for text in cell.note.removeprefix("missing: ").split("; "))
    assert listed == {name: ", ".join(map(str, levels)) for name, levels in detail["missing"].items()}


def test_severities_that_were_never_made_are_missing_from_means_too(robust: RobustProject, tmp_path: Path) -> None:
    """A generated set may promise fewer severities: it is as it should be, and there still is no mean over five."""
    shutil.rmtree("sets/c")
    write_corrupted("c", dict.fromkeys(FAMILIES["c"], (1, 3)), per_class=1)
    manifest = yaml.safe_load(Path("colours_c.yaml").read_text())
    Path("colours_c.yaml").write_text(yaml.safe_dump(manifest | {"severities": [1, 3]}))
    item = robust.item("c")
    prepare_perturbed(item)
    measure_robustness(item, RUNS)
    assert metrics_of(item, RUNS[2])["detail"]["missing"] == dict.fromkeys(FAMILIES["c"], [2, 4, 5])
    assert values(item, RUNS[2])["top1_mean_19"] is None
    column = ColumnSpec("C", item.task, "top1_mean_19", unit="%", digits=1, partial=True)
    cell = only_cell(one_cell(tmp_path, column, ""), item.config, tmp_path)
    assert cell.state is State.PARTIAL and "; gaussian_noise 2, 4, 5; " in cell.note


def test_without_the_clean_images_only_relative_errors_are_missing(robust: RobustProject) -> None:
    item = complete(robust, "c")
    measure_robustness(item, RUNS[:1])
    before = values(item, RUNS[0])
    measure_robustness(robust.item("c", {"data": {"root": "nowhere"}}), RUNS[:1])
    after = values(item, RUNS[0])
    null = {name for name, value in after.items() if value is None}
    assert null == {name for name in before if name.startswith("relative_")}
    assert before.keys() - after.keys() == {"top1_clean", "ece_clean"}
    assert {name: before[name] for name in after.keys() - null} == {name: after[name] for name in after.keys() - null}


@pytest.mark.parametrize("name", ["a", "r"])
def test_sets_of_some_classes_are_scored_with_and_without_the_others(robust: RobustProject, name: str) -> None:
    item = robust.item(name)
    measure_robustness(item, RUNS)
    one = scoring(item, members_of(item.config, *RUNS))
    for member in one.members:
        found = values(item, member.run)
        for kind, ending in (("masked", ""), ("full", "_unmasked")):
            outcome = one.outcomes(member, one.parts[0], kind)
            assert found[f"top1{ending}"] == pytest.approx(100 * outcome.correct.mean())
            assert found[f"error{ending}"] == pytest.approx(100 - found[f"top1{ending}"])
            assert found[f"ece{ending}"] == pytest.approx(calibration_error(outcome))
    assert any(values(item, run)["ece"] != values(item, run)["ece_unmasked"] for run in RUNS)
    assert "missing" not in metrics_of(item, RUNS[0])["detail"]


def test_a_metric_file_says_what_was_measured(robust: RobustProject) -> None:
    item = robust.item("sketch")
    measure_robustness(item, RUNS[:1])
    content, record = metrics_of(item, RUNS[0]), json.loads(item.record.read_text())
    sidecar = json.loads(item.config.weights_path(RUNS[0]).with_suffix(".json").read_text())
    assert content["weights"] == {"md5": sidecar["md5"], "origin": "trained"}
    assert content["recipe"] == item.config.training_digest(RUNS[0])
    assert content["data"] == {"name": "colours_sketch", "digest": record["digest"]}
    own = {name: RECIPE[name] for name in FIELDS}
    assert content["detail"] == {"protocol": item.protocol(), "classes": 4, "preprocessing": own}
    assert (content["task"], content["run"], content["environment"]["device"]) == (item.task, str(RUNS[0]), "cpu")
    assert list(content["metrics"]) == ["ece", "error", "top1"]
    assert content["metrics"]["top1"]["n"] == 12 and content["metrics"]["top1"]["standard_error"] > 0
    outcomes = read_outcomes(outcomes_path(item.metrics(RUNS[0])), content["outcomes"])
    assert outcomes.images["top1"].mean() == pytest.approx(content["metrics"]["top1"]["value"])
    error = content["metrics"]["ece"]["standard_error"]
    assert standard_error(outcomes.samples["ece"]) == pytest.approx(error, rel=1e-5)


def test_how_stored_images_are_read_is_kept_with_the_result(robust: RobustProject) -> None:
    crop = {"training": {"overrides": {"test_crop": 0.8}}}
    publish(robust.config(crop), RUNS[0])
    results = {}
    for reading in ("as_stored", "enlarged"):
        item = robust.item("c", crop, {"stored_images": reading})
        measure_robustness(item, RUNS[:1])
        results[reading] = metrics_of(item, RUNS[0])
        assert results[reading]["detail"]["stored_images"] == reading
    whole, cropped = results.values()
    assert whole["detail"]["protocol"] != cropped["detail"]["protocol"]
    assert whole["metrics"]["ece_clean"] == cropped["metrics"]["ece_clean"]
    assert len({name.split("/")[2] for name in shard_files(item) if name.startswith("gaussian_noise_1")}) == 2


def test_a_terminated_command_goes_on_where_it_stopped(
    robust: RobustProject, child: Callable[[Callable[[], Any]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes in the middle of the third part of four, in the first of its batches of 5, 3 and 4."""
    item, words = robust.item("c"), ["evaluate", "robustness", "c", "--checkpoints", *map(str, RUNS)]
    places: list[str] = []
    original = scoring_passes.decode

    def counted(data: bytes, place: str) -> Any:
        places.append(place)
        return original(data, place)

    def signalled(data: bytes, place: str) -> Any:
        if len(places) == 26:
            os.kill(os.getpid(), signal.SIGTERM)
        return counted(data, place)

    def body() -> int:
        scoring_passes.decode = signalled
        return robust.command(*words)

    assert child(body) == 75
    kept = shard_files(item)
    assert len(kept) == 3 * 4 and not any(item.metrics(run).exists() for run in RUNS)
    monkeypatch.setattr(scoring_passes, "decode", counted)
    assert robust.command(*words) == 0
    assert len(places) == 24 and kept.items() <= shard_files(item).items()
    resumed = [without_times(item, run) for run in RUNS]
    for folder in (item.predictions, item.metrics(RUNS[0]).parent):
        shutil.rmtree(folder)
    assert robust.command(*words) == 0
    assert len(places) == 24 + 48
    assert [without_times(item, run) for run in RUNS] == resumed


def test_the_command_measures_every_set_and_run_of_the_scale(robust: RobustProject) -> None:
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


def test_a_checkpoint_of_another_recipe_is_given_by_its_file(robust: RobustProject, capsys: Any) -> None:
    item, weights = robust.item("r"), foreign(robust.config())
    sidecar = json.loads(weights.with_suffix(".json").read_text())
    assert robust.command("evaluate", "robustness", "r", "--checkpoints", str(RUNS[0]), str(weights)) == 0
    other = metrics_of(item, RUNS[0].with_seed(9))
    assert (other["weights"]["md5"], other["recipe"]) == (sidecar["md5"], sidecar["recipe"])
    assert other["recipe"] != metrics_of(item, RUNS[0])["recipe"]
    twin = foreign(robust.config(), "twin", 5)
    assert robust.command("evaluate", "robustness", "r", "--checkpoints", str(weights), str(twin)) == 1
    message = f"expected one checkpoint per run, found several of the same ({RUNS[0].with_seed(9)}: {weights}, {twin})"
    assert message in capsys.readouterr().err


def test_imported_weights_say_how_images_are_prepared_or_are_refused(robust: RobustProject) -> None:
    item, path = robust.item("r"), robust.config().weights_path(RUNS[0])
    about = {"md5": file_md5(path), "origin": "imported", "recipe": None, "data": None}
    write_json(path.with_suffix(".json"), about)
    with pytest.raises(ValueError, match=r"(?s)s0\.json: spec.recipe: .*missing key 'mean'.*expected image_size"):
        measure_robustness(item, RUNS[:1])
    with pytest.raises(ValueError, match=r"s0\.json: spec: expected run and recipe, missing run, recipe"):
        measure_robustness(item, [path])
    write_json(path.with_suffix(".json"), about | {"spec": {"recipe": OTHER}})
    measure_robustness(item, RUNS[:1])
    content = metrics_of(item, RUNS[0])
    assert content["weights"]["origin"] == "imported"
    assert content["detail"]["preprocessing"] == json.loads(json.dumps(OTHER))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": {"run": "van_tiny-lska-k7-s9"}}, "spec: expected run and recipe, missing recipe; "),
        ({"spec": {"run": "x", "recipe": {"mean": [0, 0, 0]}}}, "recipe: (?s:.*)missing key 'image_size'"),
        ({"data": {"name": "flowers", "digest": "sha256:1"}}, "trained on 'flowers', whose classes .* colours; choose"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_named(robust: RobustProject, change: dict[str, Any], message: str) -> None:
    weights = foreign(robust.config())
    sidecar = json.loads(weights.with_suffix(".json").read_text())
    write_json(weights.with_suffix(".json"), sidecar | change)
    with pytest.raises(ValueError, match=f"^{weights.with_suffix('.json')}: .*{message}"):
        measure_robustness(robust.item("r"), [weights])


def test_weights_that_cannot_be_used_are_refused_before_anything_is_scored(robust: RobustProject) -> None:
    item, weights = robust.item("r"), foreign(robust.config())
    save_weights(build_network(item.config, RUNS[0], 10), weights)
    with pytest.raises(StaleWeightsError, match=f"{weights} has MD5 .* vouches for"):
        measure_robustness(item, [RUNS[0], weights])
    sidecar = json.loads(weights.with_suffix(".json").read_text())
    write_json(weights.with_suffix(".json"), sidecar | {"md5": file_md5(weights)})
    with pytest.raises(CheckpointError, match=re.escape("head.weight (model (4, 8), file (10, 8))")):
        measure_robustness(item, [RUNS[0], weights])
    assert not item.predictions.exists() and not item.metrics(RUNS[0]).exists()


def test_an_unprepared_or_changed_set_is_refused(robust: RobustProject) -> None:
    item = robust.item("c")
    Path("sets/c/jpeg_compression/2/red/000.jpg").unlink()
    with pytest.raises(DataError, match="jpeg_compression/2: its file names are not the recorded ones"):
        measure_robustness(item, RUNS)
    with pytest.raises(FileError, match="unprepared/data/colours_r.json is missing .*lska data prepare --kind r"):
        measure_robustness(robust.item("r", {"scale": "unprepared"}), RUNS)
