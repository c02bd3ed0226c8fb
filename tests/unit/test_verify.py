"""`lska verify`: every edit by hand is found, and the message names the file and the place."""

from __future__ import annotations

import json
from pathlib import Path

import proven
import pytest
from proven import COLUMN, FIGURE, ROW, RUN, TABLE, Proven, edit

from lska.config import load
from lska.provenance import digest, project_root, write_sealed
from lska.tables.measurements import MetricFolder
from lska.verify import Level, to_json, to_text, verify
from lska.weights.pointers import Pointer, pointer_path, write_pointer


def only(scale: Proven) -> tuple[str, str, str, tuple[str, ...]]:
    """File, place, text and chains of the one thing that is broken."""
    (finding,) = scale.broken()
    return finding.file.as_posix(), finding.place, finding.text, finding.chains


def test_untouched_results_are_sound_and_sealed_without_data(scale: Proven) -> None:
    report = scale.verified()
    assert scale.faults() == []
    assert not Path("data").exists()
    checked = report.checked
    assert (checked["tables"], checked["figures"], checked["sidecars of weights"]) == (1, 1, 3)
    assert checked["weights by their MD5"] == 3
    assert report.chains == 73 and report.broken_chains == 0
    assert "Nothing is broken." in to_text(report)


def test_weights_need_not_be_there(scale: Proven) -> None:
    for path in Path("checkpoints").rglob("*.safetensors"):
        path.unlink()
    report = scale.verified()
    assert scale.faults() == []
    assert report.checked["weights by their MD5"] == 0


@pytest.mark.parametrize(
    "place", ["metrics.top1.value", "metrics.top1.standard_error", "metrics.loss.value", "seconds", "environment.torch"]
)
def test_an_edited_field_of_a_metric_file_is_found_by_its_seal(scale: Proven, place: str) -> None:
    edit(scale.metrics, place, lambda value: "2.0" if isinstance(value, str) else value + 0.5)
    file, field, text, chains = only(scale)
    assert (file, field) == (scale.metrics.as_posix(), "seal")
    assert "edited after writing" in text
    assert f"{FIGURE}: VAN-Tiny LSKA k=7 / top-1" in chains


def test_an_edited_metric_file_makes_no_table(scale: Proven) -> None:
    edit(scale.metrics, "metrics.top1.value", lambda value: value + 1)
    with pytest.raises(ValueError, match=r"classification/van_tiny-lska-k7-s0\.json: field 'seal'.*edited"):
        MetricFolder(scale.config.scale, scale.config.results).measurement("classification", RUN, "top1")


def test_a_metric_file_without_a_seal_still_makes_a_table(scale: Proven) -> None:
    content = json.loads(scale.segmentor.read_text())
    del content["seal"]
    scale.segmentor.write_text(json.dumps(content))
    found = MetricFolder(scale.config.scale, scale.config.results).measurement(proven.SEGMENTATION, RUN, "miou")
    assert found.value == content["metrics"]["miou"]["value"]


def test_a_value_under_a_new_seal_still_has_to_be_the_mean_over_the_images(scale: Proven) -> None:
    edit(scale.metrics, "metrics.top1.value", lambda value: value + 0.001, sealed=True)
    found = {(finding.file, finding.place): finding.text for finding in scale.broken()}
    text = found[scale.metrics, "metrics.top1.value"]
    assert "the images in van_tiny-lska-k7-s0.npz give 70.8333333333333" in text


def test_a_number_of_images_under_a_new_seal_still_has_to_be_theirs(scale: Proven) -> None:
    edit(scale.metrics, "metrics.top1.n", lambda value: value + 1, sealed=True)
    assert (scale.metrics, "metrics.top1.n") in [(found.file, found.place) for found in scale.broken()]


def test_one_byte_of_the_outcomes_is_found(scale: Proven) -> None:
    path = scale.metrics.with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    file, _, text, chains = only(scale)
    assert file == path.as_posix()
    assert "MD5" in text and chains


def test_missing_outcomes_are_found(scale: Proven) -> None:
    scale.metrics.with_suffix(".npz").unlink()
    assert only(scale)[0] == scale.metrics.with_suffix(".npz").as_posix()


def test_a_removed_seal_is_found_where_outcomes_say_that_there_was_one(scale: Proven) -> None:
    content = json.loads(scale.metrics.read_text())
    del content["seal"]
    scale.metrics.write_text(json.dumps(content))
    file, field, text, _ = only(scale)
    assert (file, field) == (scale.metrics.as_posix(), "seal") and "is missing" in text


def test_a_missing_metric_file_breaks_the_table_that_shows_it(scale: Proven) -> None:
    scale.segmentor.unlink()
    file, _, text, chains = only(scale)
    assert (file, text) == (scale.segmentor.as_posix(), "is missing")
    assert chains == (f"{TABLE}: all rows / all columns",)


def test_a_damaged_metric_file_is_named(scale: Proven) -> None:
    scale.segmentor.write_text(scale.segmentor.read_text()[:-9])
    file, _, text, _ = only(scale)
    assert file == scale.segmentor.as_posix() and "JSON" in text


def test_a_metric_file_of_another_run_is_found(scale: Proven) -> None:
    edit(scale.segmentor, "run", lambda run: run.replace("s0", "s1"), sealed=True)
    assert only(scale)[:2] == (scale.segmentor.as_posix(), "run")


@pytest.mark.parametrize("place", ["md5", "seconds", "images_seen", "final_loss", "spec.recipe.epochs"])
def test_an_edited_sidecar_breaks_what_was_measured_and_fine_tuned_on_it(scale: Proven, place: str) -> None:
    edit(scale.sidecar, place, lambda value: "0" * 32 if isinstance(value, str) else value + 1)
    file, field, _, chains = only(scale)
    assert (file, field) == (scale.sidecar.as_posix(), "seal")
    assert f"{FIGURE}: VAN-Tiny LSKA k=7 / top-1" in chains
    assert f"{TABLE}: {ROW} / {COLUMN}" in chains


@pytest.mark.parametrize(
    ("place", "at_fault"),
    [
        ("spec.recipe.epochs", "recipe"), ("images_seen", "images_seen"), ("updates", "updates"),
        ("final_loss", "final_loss"), ("md5", "md5"),
    ],
)  # fmt: skip
def test_a_sidecar_under_a_new_seal_still_has_to_agree_with_itself(scale: Proven, place: str, at_fault: str) -> None:
    edit(scale.sidecar, place, lambda value: "0" * 32 if isinstance(value, str) else value + 1, sealed=True)
    assert (scale.sidecar, at_fault) in [(found.file, found.place) for found in scale.broken()]


def test_weights_measured_elsewhere_are_named_with_both_files(scale: Proven) -> None:
    for path in Path("checkpoints").rglob("*.safetensors"):
        path.unlink()
    edit(scale.sidecar, "md5", lambda md5: "0" * 32, sealed=True)
    found = {(finding.file, finding.place): finding.text for finding in scale.broken()}
    assert set(found) == {(scale.metrics, "weights.md5"), (scale.fine_tuned, "backbone.md5")}
    assert all(scale.sidecar.as_posix() in text for text in found.values())


def test_images_without_a_data_set_are_found(scale: Proven) -> None:
    for path in (scale.metrics, scale.segmentor):
        edit(path, "data", lambda data: None, sealed=True)
    found = {(finding.file, finding.place) for finding in scale.broken()}
    assert {(scale.metrics, "data"), (scale.segmentor, "data")} <= found


def test_a_sidecar_of_another_run_is_found(scale: Proven) -> None:
    edit(scale.fine_tuned, "run", lambda run: run.replace("s0", "s1"), sealed=True)
    assert (scale.fine_tuned, "run") in [(found.file, found.place) for found in scale.broken()]


@pytest.mark.parametrize("place", ["backbone.run", "backbone.md5", "spec.backbone"])
def test_another_backbone_is_found_at_the_fine_tuned_weights(scale: Proven, place: str) -> None:
    edit(scale.fine_tuned, place, lambda value: value[:-1] + ("1" if value[-1] == "0" else "0"), sealed=True)
    assert any(f"{TABLE}: {ROW} / {COLUMN}" in found.chains for found in scale.broken())
    blamed = {found.file.as_posix() for found in scale.broken()}
    # A name of another run leads to a sidecar that is not there.
    assert blamed & {scale.fine_tuned.as_posix(), "checkpoints/test/van_tiny-lska-k7-s1.json"}


def test_other_weights_beside_a_sidecar_are_found(scale: Proven) -> None:
    scale.config.weights_path(RUN).write_bytes(b"other")
    assert only(scale)[:2] == (scale.sidecar.as_posix(), "md5")


def test_a_missing_sidecar_is_the_first_broken_link(scale: Proven) -> None:
    scale.fine_tuned.unlink()
    file, _, text, chains = only(scale)
    assert (file, text) == (scale.fine_tuned.as_posix(), "is missing")
    assert f"{TABLE}: {ROW} / {COLUMN}" in chains and not any(name.startswith(FIGURE) for name in chains)


def test_a_record_of_losses_that_was_cut_is_found(scale: Proven) -> None:
    path = scale.config.training_log(RUN)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert {(found.file, found.place) for found in scale.broken()} == {
        (scale.sidecar, "updates"), (scale.sidecar, "final_loss"),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "place"), [("colours", "digest"), ("colours", "splits.val"), ("regions", "classes")])
def test_an_edited_data_record_is_found_by_its_seal(scale: Proven, name: str, place: str) -> None:
    path = scale.config.results / "data" / f"{name}.json"
    edit(path, place, lambda value: digest("other") if isinstance(value, str) else value + 1)
    assert only(scale)[:2] == (path.as_posix(), "seal")


def test_a_count_under_a_new_seal_still_has_to_be_the_manifests(scale: Proven) -> None:
    edit(scale.config.data_record, "splits.val", lambda count: count + 1, sealed=True)
    file, field, text, _ = only(scale)
    assert (file, field) == (scale.config.data_record.as_posix(), "splits")
    assert "the manifest of colours says {'train': 76, 'val': 24}" in text


def test_a_digest_of_data_that_nothing_was_measured_on_is_found_at_the_record(scale: Proven) -> None:
    path = scale.config.results / "data" / "regions.json"
    edit(path, "digest", lambda value: digest("other"), sealed=True)
    file, field, text, _ = only(scale)
    assert (file, field) == (path.as_posix(), "digest")
    assert digest("other") in text


def test_a_metric_file_of_other_data_than_all_others_is_at_fault_itself(scale: Proven) -> None:
    edit(scale.segmentor, "data.digest", lambda value: digest("other"), sealed=True)
    assert only(scale)[:2] == (scale.segmentor.as_posix(), "data.digest")


def test_a_changed_recipe_is_outdated_and_not_broken(scale: Proven) -> None:
    report = scale.verified({"training": {"overrides": {"epochs": 4}}})
    assert report.of(Level.BROKEN) == () and report.sound() and not report.sound(strict=True)
    found = {finding.file: finding.text for finding in report.of(Level.OUTDATED)}
    assert found[scale.sidecar] == "recipe.epochs: 3, now 4"
    assert "backbone" in found[scale.fine_tuned]


def test_a_run_that_the_configuration_lost_is_outdated(scale: Proven) -> None:
    report = scale.verified({"segmentation": {"heads": {"semantic_fpn": {"untrained": []}}}})
    control = scale.config.weights_path(f"{proven.SEGMENTATION}-untrained/{RUN}").with_suffix(".json")
    assert [(finding.file, "has no" in finding.text) for finding in report.of(Level.OUTDATED)] == [(control, True)]


def test_a_metric_file_without_what_lies_behind_its_errors_is_outdated(scale: Proven) -> None:
    content = json.loads(scale.metrics.read_text())
    del content["outcomes"]
    write_sealed(scale.metrics, content)
    scale.metrics.with_suffix(".npz").unlink()
    assert [(f.level, f.file, f.place) for f in scale.faults()] == [(Level.OUTDATED, scale.metrics, "outcomes")]


def test_a_file_among_the_weights_that_is_no_sidecar_is_named(scale: Proven) -> None:
    path = scale.sidecar.with_name("notes.json")
    path.write_text(scale.sidecar.read_text().replace(RUN, "notes"))
    assert {finding.file for finding in scale.broken()} == {path}


def test_files_from_before_there_were_seals_are_counted(scale: Proven) -> None:
    for path in (scale.sidecar, scale.config.data_record):
        content = json.loads(path.read_text())
        del content["seal"]
        path.write_text(json.dumps(content))
    report = scale.verified()
    assert [finding.level for finding in scale.faults()] == [Level.UNSEALED] * 2
    assert report.sound() and not report.sound(strict=True)
    assert "1 sidecars of weights" in to_text(report)


def test_a_pointer_is_a_seal_of_the_sidecar_that_was_published_with_the_weights(scale: Proven) -> None:
    content = json.loads(scale.sidecar.read_text())
    del content["seal"]
    scale.sidecar.write_text(json.dumps(content))
    weights = scale.sidecar.with_suffix(".safetensors")
    write_pointer(weights, Pointer(content["md5"], weights.stat().st_size, "store", digest(content)))
    assert scale.faults() == []
    scale.sidecar.write_text(json.dumps(content | {"seconds": 1.0}))
    file, place, text, _ = only(scale)
    assert (file, place) == (scale.sidecar.as_posix(), "") and f"was edited: {weights}.dvc keeps another" in text


def test_weights_trained_after_others_were_published_are_no_fault(scale: Proven) -> None:
    weights = scale.sidecar.with_suffix(".safetensors")
    write_pointer(weights, Pointer("0" * 32, 7, "store", "sha256:of another sidecar"))
    assert scale.faults() == []
    assert any("trained here; published is 00000000" in found.text for found in scale.verified().findings)
    md5 = json.loads(scale.sidecar.read_text())["md5"]
    write_pointer(weights, Pointer(md5, 7, "store", "sha256:of another sidecar"))
    assert scale.faults() == []
    assert any("of a later training to the published" in found.text for found in scale.verified().findings)


def test_a_damaged_pointer_is_found(scale: Proven) -> None:
    pointer_path(scale.sidecar.with_suffix(".safetensors")).write_text("<<<<<<< ours")
    assert "expected DVC's pointer" in only(scale)[2]


def test_a_folder_without_results_is_no_sound_scale(scale: Proven) -> None:
    Path("results").rename("elsewhere")
    with pytest.raises(ValueError, match="results/test holds no metric files"):
        scale.verified()


def test_the_command_says_it_with_its_exit_code(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"training": {"overrides": {"epochs": 4}}}
    assert scale.project.command("verify") == 0
    assert scale.project.command("verify", changes=more) == 0
    assert scale.project.command("verify", "--strict", changes=more) == 1
    edit(scale.metrics, "metrics.top1.value", lambda value: value + 1)
    capsys.readouterr()
    assert scale.project.command("verify", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["sound"] is False
    assert ("broken", scale.metrics.as_posix()) in [(one["level"], one["file"]) for one in said["findings"]]
    assert said == to_json(scale.verified())
    assert scale.project.command("verify") == 1
    assert f"{scale.metrics.as_posix()}: seal" in capsys.readouterr().out


def test_no_committed_result_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    report = verify(load([Path("config/small.yaml")]))
    assert [(found.file.as_posix(), found.place, found.text) for found in report.of(Level.BROKEN)] == []
    assert report.chains > 2000 and report.checked["tables"] == 17
