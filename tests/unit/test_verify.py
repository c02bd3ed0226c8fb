"""`lska verify`: every edit by hand is found; the finding names the file, the place and the cells."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proven import COLUMN, FIGURE, ROW, RUN, SEGMENTATION, TABLE, Proven, edit
from small_scale import copy_small, small_changes
from syrupy.assertion import SnapshotAssertion
from table_helpers import PAPER, demo, put_required

from lska.audit.explain import choose_cell, filled_table
from lska.audit.links import Finding, Level, ScaleFiles, broken, check_record
from lska.audit.table_files import Apart, verify_table
from lska.audit.verify import Verification, first_broken, verify_claims, verify_scale, verify_summaries
from lska.claims.claims_page import write_claims
from lska.claims.listing import claim_files
from lska.claims.verdicts import judge_claims
from lska.models.designs import ATTENTIONS
from lska.provenance.files import write_json
from lska.provenance.metric_files import digest, project_root, seal_of, write_sealed
from lska.provenance.sidecars import Pointer, pointer_path, write_pointer
from lska.settings.scale import load
from lska.tables.collect import collect
from lska.tables.measurements import MetricFolder
from lska.tables.specs import load_spec, outputs
from lska.tables.table_formats import WRITERS, build_table

Edit = Callable[[Proven], object]
TABLES = ("table_02", "table_08", "table_13", "table_17")
"""With counts, in panels and on pages, of heads, with intervals."""


def told(findings: Iterable[Finding], but: Container[Finding] = ()) -> list[str]:
    """Findings without what differs from machine to machine: digests, measured numbers, commits of the checkout; and
    without those that there were before (`but`), such as what was never made."""
    lines = []
    for one in findings:
        if not one.place.startswith("code.") and replace(one, chains=()) not in but:
            chains = f" <- {len(one.chains)} cells: {'; '.join(one.chains[:2])}" if one.chains else ""
            lines.append(f"{one.level} {one.file.as_posix()}: {one.place}: {one.text}{chains}")
    masks = {r"sha256:[0-9a-f]{64}": "sha256:...", r"\b[0-9a-f]{32}\b": "MD5", r"-?\d+\.\d+(e-?\d+)?": "#"}
    for pattern, mask in masks.items():
        lines = [re.sub(pattern, mask, line) for line in lines]
    return [line.replace(os.fspath(Path.cwd()), ".") for line in lines]


def other(digits: str) -> str:
    """The same number with another last digit."""
    return digits[:-1] + str((int(digits[-1]) + 1) % 10)


def no_other(value: Any) -> Any:
    """Another value of the same type."""
    return value[:-1] + ("1" if value[-1] == "0" else "0") if isinstance(value, str) else value + 1


def json_edit(file: str, place: str, change: Callable[[Any], Any] = no_other, sealed: bool = False) -> Edit:
    """An edit of one value in `scale.<file>`."""
    return lambda scale: edit(getattr(scale, file), place, change, sealed)


def text_edit(find: Callable[[Proven], Path], old: str, new: str) -> Edit:
    """The first place of a text file that fits the regular expression `old`, replaced, as in an editor."""

    return lambda scale: replaced(find(scale), old, new)


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    edited = re.sub(old, new, text, count=1, flags=re.MULTILINE)
    assert edited != text, old
    path.write_text(edited, encoding="utf-8", newline="")


def shown_edit(suffix: str, old: str, new: str, target: str = TABLE) -> Edit:
    return text_edit(lambda scale: scale.shown(suffix, target), old, new)


def without(file: str, *places: str, sealed: bool = False) -> Edit:
    """Fields that are gone from `scale.<file>`."""

    def change(scale: Proven) -> None:
        path = getattr(scale, file)
        content = {name: value for name, value in json.loads(path.read_text()).items() if name not in places}
        write_json(path, content | {"seal": seal_of(content)} if sealed else content)

    return change


def both(*edits: Edit) -> Edit:
    return lambda scale: [one(scale) for one in edits]


def flip_outcomes(scale: Proven) -> None:
    content = bytearray(scale.outcomes.read_bytes())
    content[len(content) // 2] ^= 1
    scale.outcomes.write_bytes(content)


def drop_weights(scale: Proven) -> None:
    for path in Path("checkpoints").rglob("*.safetensors"):
        path.unlink()


def imported(scale: Proven) -> None:
    path = Path("checkpoints/test/imported.safetensors")
    path.write_bytes(b"weights")
    write_sealed(path.with_suffix(".json"), {"origin": "imported", "md5": "0" * 32, "run": "imported"})


def pointer(md5: str | None = None, sidecar: str | None = None) -> Edit:
    """A pointer of published weights: by default of those that are here, with the digest of their sidecar."""

    def change(scale: Proven) -> None:
        content, weights = json.loads(scale.sidecar.read_text()), scale.sidecar.with_suffix(".safetensors")
        write_pointer(weights, Pointer(md5 or content["md5"], 7, "store", sidecar or digest(content)))

    return change


def with_claims(change: Callable[[list[Path]], object]) -> Edit:
    """An edit of claims.json and its pages, which are written first."""

    def made(scale: Proven) -> None:
        write_claims(judge_claims(scale.config), scale.config, scale.config.results)
        change(list(claim_files(scale.config.results)))

    return made


SEALED: dict[str, Any] = {"sealed": True}
FORMATS = (".md", ".tex", ".html")
VALUE = rf"({re.escape('LSKA')}.*k=7.*?[|&>] *)(\d)"

PLANTED: dict[str, Edit] = {
    "nothing": lambda scale: None,
    "weights are not here": drop_weights,
    # Metric files and what is kept beside them.
    "a value": json_edit("metrics", "metrics.top1.value"),
    "a value, sealed": json_edit("metrics", "metrics.top1.value", lambda value: value + 0.001, **SEALED),
    "a number of images, sealed": json_edit("metrics", "metrics.top1.n", **SEALED),
    "another run, sealed": json_edit("segmentor", "run", **SEALED),
    "no data, sealed": both(*(json_edit(one, "data", lambda _: None, **SEALED) for one in ("metrics", "segmentor"))),
    "other data, sealed": json_edit("segmentor", "data.digest", lambda _: digest("other"), **SEALED),
    "metrics that are a list, sealed": json_edit("counted", "metrics", lambda _: [], **SEALED),
    "a metric file is missing": lambda scale: scale.segmentor.unlink(),
    "a number given twice": text_edit(lambda scale: scale.metrics, '"top1": {', '"top1": {\n      "value": 99.0,'),
    "a byte of the outcomes": flip_outcomes,
    "outcomes are missing": lambda scale: scale.outcomes.unlink(),
    "a seal is gone": without("metrics", "seal"),
    "outcomes are not named": both(without("metrics", "outcomes", **SEALED), lambda scale: scale.outcomes.unlink()),
    # Sidecars, weights, logs, pointers.
    "seconds of a sidecar": json_edit("sidecar", "seconds"),
    **{
        f"{place} of a sidecar, sealed": json_edit("sidecar", place, **SEALED)
        for place in ("spec.recipe.epochs", "updates", "md5")
    },
    "measured elsewhere, sealed": both(drop_weights, json_edit("sidecar", "md5", lambda _: "0" * 32, **SEALED)),
    "a sidecar of another run, sealed": json_edit("fine_tuned", "run", **SEALED),
    **{
        f"{place}, sealed": json_edit("fine_tuned", place, **SEALED)
        for place in ("backbone.run", "backbone.md5", "spec.backbone")
    },
    "other weights": lambda scale: scale.config.weights_path(RUN).write_bytes(b"other"),
    "a sidecar is missing": lambda scale: scale.fine_tuned.unlink(),
    "a log is cut": lambda scale: scale.log.write_text("".join(scale.log.read_text().splitlines(True)[:-1])),
    "no sidecar among the weights": lambda scale: shutil.copy(scale.sidecar, scale.sidecar.with_name("notes.json")),
    "seals from before there were any": both(without("sidecar", "seal"), without("record", "seal")),
    "published with a seal by its pointer": both(without("sidecar", "seal"), pointer()),
    "a published sidecar": both(without("sidecar", "seal"), pointer(), json_edit("sidecar", "seconds")),
    "published others": pointer("0" * 32, "sha256:of another sidecar"),
    "published earlier": pointer(sidecar="sha256:of another sidecar"),
    "no pointer": lambda scale: pointer_path(scale.sidecar.with_suffix(".safetensors")).write_text("<<<<<<< ours"),
    "imported weights": imported,
    "measured otherwise on imported weights": both(
        json_edit("sidecar", "origin", lambda _: "imported", **SEALED),
        json_edit("metrics", "weights.origin", lambda _: "imported", **SEALED),
        json_edit("metrics", "detail", lambda _: {"preprocessing": {"image_size": 7}}, **SEALED),
    ),
    "a backbone elsewhere": json_edit("fine_tuned", "backbone.run", lambda _: "../../elsewhere", **SEALED),
    "data elsewhere": json_edit("fine_tuned", "data.name", lambda _: "../elsewhere", **SEALED),
    "chosen by other weights": json_edit("record", "reference", lambda _: {"run": RUN, "md5": "0" * 32}, **SEALED),
    # Data records.
    "a digest of a record, sealed": json_edit("regions", "digest", lambda _: digest("other"), **SEALED),
    # Tables, figures, the paper.
    **{f"a digit in {suffix}": shown_edit(suffix, VALUE, r"\g<1>9\2") for suffix in FORMATS},
    "a digit in .csv": shown_edit(".csv", rf"({re.escape(ROW)},{COLUMN},)", r"\g<1>9"),
    **{
        f"a value of the paper in {suffix}": shown_edit(suffix, r"\((\d+)\.(\d)", r"(\g<1>9.\2")
        for suffix in FORMATS
    },
    "a point of a figure": shown_edit(".csv", r"(LSKA k=7,top-1,)", r"\g<1>9", FIGURE),
    "a value of the paper in a figure": shown_edit(".csv", "(LSKA k=7,top-1.*)73.5", r"\g<1>73.6", FIGURE),
    "the paper": text_edit(lambda _: Path("paper/figure_01.csv"), "(LSKA k=7,ImageNet-1K top-1,)73.5", r"\g<1>73.6"),
    **{f"a caption in {suffix}": shown_edit(suffix, "est scale", "oast scale") for suffix in FORMATS},
    **{f"a lost line in {suffix}": shown_edit(suffix, r"^.*\n", "") for suffix in (*FORMATS, ".csv")},
    "a lost cell in .csv": shown_edit(".csv", r"^table_11,.*mIoU.*\n", ""),
    "a row label": shown_edit(".md", r"^\| Semantic", "| Pedantic"),
    "line ends": shown_edit(".md", r"(?s)\A.*\Z", lambda found: found[0].replace("\n", "\r\n")),  # type: ignore[arg-type]
    **{f"a byte order mark in {suffix}": shown_edit(suffix, r"\A", "\ufeff") for suffix in (*FORMATS, ".csv")},
    # Claims.
    "a quantity of a claim": with_claims(lambda paths: replaced(paths[0], r'"value": \d+', '"value": 9')),
    "a page of claims": with_claims(lambda paths: replaced(paths[1], "param", "parrot")),
    "a byte order mark in claims": with_claims(lambda paths: replaced(paths[0], r"\A", "\ufeff")),
    "pages without claims": with_claims(lambda paths: paths[0].unlink()),
    "claims of an edited metric file": both(with_claims(list), json_edit("counted", "metrics.params.value")),
}  # fmt: skip
"""Edits by hand, each of results that were as they were written."""


def test_every_planted_edit_is_named(scale: Proven, snapshot: SnapshotAssertion) -> None:
    before, found = files_below(Path()), []
    sound = {replace(one, chains=()) for one in scale.verified().findings}
    for name, change in PLANTED.items():
        change(scale)
        found += [f"{name} | {line}" for line in told(scale.verified().findings, sound) or ["sound"]]
        for path in files_below(Path()).keys() - before.keys():
            path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
    assert found == snapshot


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_verification_as_text(snapshot: SnapshotAssertion) -> None:
    metrics, sidecars = ([Path(f"{kind}/run-s{seed}.json") for seed in range(7)] for kind in ("metrics", "weights"))
    cells = tuple(f"table_03: VAN-LSKA-Tiny / column {number}" for number in range(9))
    found = (
        replace(broken(metrics[0], "seal", f"expected sha256:{'0' * 64} for this content"), chains=cells),
        broken(metrics[1], "", "is missing"),
        *(Finding(Level.OUTDATED, path, "recipe", "recipe.epochs: 3, now 4") for path in sidecars),
        *(Finding(Level.UNSEALED, path, "seal", "sidecars of weights") for path in sidecars[:2]),
        Finding(Level.NOTE, Path("results"), "code.commit", "2 files name no commit"),
    )
    numbers = Counter({("recomputed", "speed: n"): 2, ("unknown", "complexity: value"): 3})
    sound = Verification("demo", "The demo scale", {"metric files": 2, "figures": 0}, 1234, (), Counter())
    report = replace(sound, findings=found, numbers=numbers)
    assert {"sound": sound.to_text().splitlines(), "broken": report.to_text().splitlines()} == snapshot


def test_untouched_results_are_sound_without_data(scale: Proven) -> None:
    report = scale.verified()
    assert not Path("data").exists() and scale.faults() == []
    assert "Nothing is broken." in report.to_text()
    assert (report.chains, report.broken_chains, report.checked["weights by their MD5"]) == (73, 0, 3)


def test_a_configuration_that_asks_for_something_else_makes_results_outdated(
    scale: Proven, snapshot: SnapshotAssertion
) -> None:
    report = scale.verified({"training": {"overrides": {"epochs": 4}}})
    fewer = scale.verified({"segmentation": {"heads": {"semantic_fpn": {"untrained": []}}}})
    assert report.sound() and not report.sound(strict=True)
    kinds = [[one for one in found.findings if one.level is not Level.MISSING] for found in (report, fewer)]
    assert [*told(kinds[0]), "a run less:", *told(kinds[1])] == snapshot


def test_a_raised_version_makes_what_was_made_with_an_attention_outdated(
    scale: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTIONS, "lska", replace(ATTENTIONS["lska"], version=2))
    report = scale.verified()
    outdated = {finding.file: finding.text for finding in report.of(Level.OUTDATED)}
    measured = dict.fromkeys((scale.metrics, scale.segmentor, scale.counted), "was measured with version 1 of lska, ")
    made = {scale.sidecar: "attention_version None -> 2", scale.fine_tuned: "attention_version None -> 2, backbone has"}
    for file, text in (measured | made).items():
        assert outdated[file].startswith(text)
    assert report.sound() and all("lska" in file.name for file in outdated)


def test_what_is_left_of_an_attention_that_is_gone_is_outdated(scale: Proven) -> None:
    name = RUN.replace("lska", "gone")
    content = {key: value for key, value in json.loads(scale.sidecar.read_text()).items() if key != "seal"}
    spec = content["spec"] | {"run": name}
    weights = shutil.copy(scale.sidecar.with_suffix(".safetensors"), scale.sidecar.with_name(f"{name}.safetensors"))
    write_sealed(Path(weights).with_suffix(".json"), content | {"run": name, "spec": spec, "recipe": digest(spec)})
    (found,) = scale.faults()
    assert (found.level, found.file.stem) == (Level.OUTDATED, name)
    assert found.text.startswith("left over")


GONE = Path("checkpoints/test/van_tiny-lska-k9-s0.json")
WITHOUT_CONTROL: dict[str, Any] = {"segmentation": {"heads": {"semantic_fpn": {"untrained": []}}}}


def leftovers() -> None:
    """Of runs that are gone: damaged, edited, alone, or of somebody else."""
    GONE.write_text("{")
    GONE.with_suffix(".safetensors").write_bytes(b"damaged")
    GONE.with_name("van_tiny-lska-k11-s0.safetensors").write_bytes(b"alone")
    GONE.with_name("notes.json").write_text("[]")
    imported(None)  # type: ignore[arg-type]
    for name in ("metrics/classification", "data"):
        folder = Path("results/test", name)
        folder.joinpath(GONE.name).write_text("{")


def test_leftovers_are_named_and_stop_nothing(
    scale: Proven, snapshot: SnapshotAssertion, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {replace(one, chains=()) for one in scale.verified().findings}
    leftovers()
    report = scale.verified()
    assert told(report.findings, before) == snapshot
    assert report.sound() and not report.sound(strict=True)
    for words in (["claims"], ["summary"], ["weights", "list"], ["explain", FIGURE], ["prune"], ["verify"]):
        assert scale.project.command(*words) == 0, (words, capsys.readouterr().err)


def test_a_file_of_another_configuration_is_outdated_and_its_edits_are_found(
    scale: Proven, snapshot: SnapshotAssertion
) -> None:
    """Without the control, its rows are of another configuration, the others are compared all the same."""

    def found() -> list[str]:
        report = scale.verified(WITHOUT_CONTROL)
        return told(one for one in report.findings if one.level in (Level.BROKEN, Level.OUTDATED))

    untouched = found()
    for name in ("a digit in .csv", "a lost cell in .csv"):
        PLANTED[name](scale)
    assert {"untouched": untouched, "edited": found()} == snapshot
    for path in Path("results/test/metrics", f"{SEGMENTATION}-untrained").iterdir():
        path.unlink()
    assert "broken" not in {line.partition(" ")[0] for line in found() if "control" in line}


def test_cells_of_other_metric_files_are_no_edits_unless_they_are_of_another_cell(tmp_path: Path) -> None:
    made = demo(tmp_path)
    put_required("table_03", made)
    table = collect(load_spec("table_03"), made, PAPER, made.results)
    named = {path for cell in table.cells for path in cell.files}
    path, text = tmp_path / "table_03.csv", WRITERS[".csv"](table)
    first, second = [cell for cell in table.cells if cell.column == "top-1" and cell.files][:2]

    def levels(*changes: tuple[str, str]) -> list[Level]:
        edited = text
        for old, new in changes:
            edited = edited.replace(old, new)
        assert edited != text
        path.write_text(edited)
        return [one.level for one in verify_table(table, path, Apart.of(table, [path], named))]

    ours, other = str(first.files[0]), str(second.files[0])
    gone = ours.replace("-s0.json", "-s7.json")
    assert levels((ours, gone)) == [Level.OUTDATED]
    assert levels((ours, f"{ours};{gone}")) == [Level.OUTDATED]
    assert levels((ours, other)) == [Level.BROKEN]
    assert levels((ours, "")) == [Level.BROKEN]
    assert levels((f"table_03,{first.row},", "table_03,Invented,")) == [Level.BROKEN, Level.OUTDATED]


def test_what_is_missing_is_counted_with_the_command_that_makes_it(
    scale: Proven, capsys: pytest.CaptureFixture[str]
) -> None:
    never = set(scale.verified().of(Level.MISSING))
    assert scale.outcomes not in {one.file for one in never}
    scale.segmentor.unlink()
    scale.outcomes.unlink()
    scale.regions.unlink()
    for path in (scale.sidecar, scale.sidecar.with_suffix(".safetensors")):
        path.unlink()
    report = scale.verified()
    found = {one.file: one.chains for one in report.of(Level.MISSING) if replace(one, chains=()) not in never}
    assert found.keys() == {scale.segmentor, scale.outcomes, scale.regions, scale.sidecar}
    assert found[scale.segmentor] == (f"{TABLE}: {ROW} / {COLUMN}",) and report.broken_chains == 0
    assert report.sound() and not report.sound(strict=True) and report.of(Level.BROKEN) == ()
    assert [one.text for one in report.of(Level.NOTE) if one.file == scale.shown(".csv")] == [
        "not compared in 1 cell(s), whose metric files are not there"
    ]
    assert scale.project.command("verify") == 0
    printed = capsys.readouterr().out
    assert f"  {scale.segmentor.as_posix()}\n" in printed and "make it: snakemake --cores 2 --configfile" in printed
    # What is shown of other cells is compared all the same.
    PLANTED["a digit in .csv"](scale)
    replaced(scale.shown(".csv"), r"(Params \(exact\),)", r"\g<1>9")
    assert {one.place.partition(",")[0] for one in scale.broken()} == {"row 'Semantic FPN / VAN-LKA-Tiny k=7'"}


def test_what_differs_from_the_commit_is_an_edit_where_there_is_no_seal(
    scale: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("sidecar", "seal")(scale)
    for changed, level in (([], Level.UNSEALED), (["a file"], Level.BROKEN)):
        monkeypatch.setattr("lska.audit.links.changed_files", lambda *paths, found=changed: found)
        (found,) = scale.faults()
        assert (found.level, found.file, found.place) == (level, scale.sidecar, "seal")


def test_records_of_published_data_are_those_of_their_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(project_root())
    config, found = load([Path("config/paper.yaml")]), []
    for name in (*(source.name for _, source in config.sources), "of no scale"):
        path = tmp_path / f"{name}.json"
        content = {"name": name.replace("imagenet_r", "other"), "digest": digest("other"), "inputs": digest("other")}
        write_sealed(path, content | ({"family": "c"} if name == "imagenet_c" else {}))
        found += [line.replace(f"{tmp_path}/", "") for line in told(check_record(path, config).findings)]
    assert found == snapshot


def test_one_cell_has_the_first_finding_of_its_own(scale: Proven) -> None:
    def first() -> Finding | None:
        table = filled_table(TABLE, scale.config)
        return first_broken(table, choose_cell(table, ROW, COLUMN), ScaleFiles(scale.config))

    assert first() is None
    edit(scale.fine_tuned, "seconds", no_other)
    assert (first().file, first().place) == (scale.fine_tuned, "seal")
    PLANTED["a digit in .csv"](scale)
    assert first().file == scale.shown(".csv")
    edit(scale.segmentor, "metrics.miou.value", no_other)
    assert first().file == scale.segmentor


def test_no_table_is_made_of_an_edited_metric_file(scale: Proven) -> None:
    folder = MetricFolder(scale.config.scale, scale.config.results)
    without("segmentor", "seal")(scale)
    assert folder.measurement(SEGMENTATION, RUN, "miou").value is not None
    edit(scale.metrics, "metrics.top1.value", no_other)
    with pytest.raises(ValueError, match=r"classification/van_tiny-lska-k7-s0\.json: field 'seal'.*edited"):
        folder.measurement("classification", RUN, "top1")


def test_a_folder_without_results_is_no_sound_scale(scale: Proven) -> None:
    Path("results").rename("elsewhere")
    with pytest.raises(ValueError, match="results/test holds no metric files"):
        scale.verified()


def test_the_command_says_it_with_its_exit_code(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"training": {"overrides": {"epochs": 4}}}
    assert [scale.project.command("verify", *strict, changes=more) for strict in ((), ("--strict",))] == [0, 1]
    edit(scale.metrics, "metrics.top1.value", lambda value: value + 1)
    capsys.readouterr()
    assert scale.project.command("verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found.pop("command") == "snakemake --cores 2 --configfile config.yaml -- all"
    assert found == scale.verified().to_json() and found["levels"]["broken"] == 1
    assert scale.project.command("verify") == 1
    assert f"{scale.metrics.as_posix()}: seal" in capsys.readouterr().out


@pytest.mark.slow
def test_drawings_are_compared_when_they_are_drawn_anew(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = [path for path in outputs(FIGURE, scale.config.results) if path.suffix not in WRITERS]
    build_table(FIGURE, scale.config, drawn)
    capsys.readouterr()
    assert scale.project.command("verify", "--drawings") == 0
    assert "glyph" not in capsys.readouterr().err
    for path in drawn:
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert scale.broken() == []
    found = verify_scale(scale.config, drawings=True).of(Level.BROKEN)
    assert [one.file for one in found] == drawn and all("drawn now" in one.text for one in found)


def test_the_last_number_of_every_table_is_watched_in_every_format(tmp_path: Path) -> None:
    made, missed = demo(tmp_path / "made"), []
    for target in TABLES:
        put_required(target, made)
        table = collect(load_spec(target), made, PAPER, made.results)
        row = [row for row in table.rows if any(isinstance(cell.value, float) for cell in row.cells)][-1]
        cell = [cell for cell in row.cells if isinstance(cell.value, float)][-1]
        for suffix, write in WRITERS.items():
            path = tmp_path / f"{target}{suffix}"
            path.write_text(write(table), encoding="utf-8")
            digits = repr(cell.value) if suffix == ".csv" else f"{cell.value:.{cell.digits}f}"
            before, number, after = path.read_text(encoding="utf-8").rpartition(digits)
            sound = list(verify_table(table, path))
            path.write_text(before + other(digits) + after, encoding="utf-8")
            found = [finding.cell for finding in verify_table(table, path)]
            if not number or sound or found != [(cell.row, cell.column)]:
                missed.append((path.name, sound, found))
    assert missed == []


def test_a_damaged_list_of_claims_is_found(scale: Proven) -> None:
    with_claims(list)(scale)
    Path("paper/claims.csv").write_text("id\n")
    assert [found.file.as_posix() for found in scale.broken()] == ["paper/claims.csv"]


# --- The committed small scale ---------------------------------------------------------------------------------------

RESULTS, WEIGHTS = Path("results/small"), Path("checkpoints/small")
METRICS = RESULTS / "metrics"
DEEP = "[" * 100_000

Damage = Callable[[Path], object]


def text(content: str | bytes) -> Damage:
    return lambda path: path.write_text(content) if isinstance(content, str) else path.write_bytes(content)


def instead(make: Callable[[Path], object]) -> Damage:
    """Something else in the place of a file."""
    return lambda path: (path.unlink(missing_ok=True), make(path))


def says(**fields: Any) -> Damage:
    """Other fields under a new seal."""
    return lambda path: write_sealed(path, json.loads(path.read_text()) | fields)


pipe, folder = instead(os.mkfifo), instead(Path.mkdir)
dangling = instead(lambda path: path.symlink_to("nowhere"))
circle = instead(lambda path: path.symlink_to(path.name))
failing = instead(lambda path: path.symlink_to("/proc/self/mem"))  # a regular file, as on a broken disk
foreign = says(data={"name": "/etc/passwd", "digest": "sha256:" + "0" * 64})

DAMAGED: dict[Path, Damage] = {
    METRICS / "classification/van_tiny-lka-k7-s0.json": text(DEEP),
    METRICS / "classification/van_tiny-lka-k23-s0.json": says(started="2026-02-31T99:00:00"),
    METRICS / "classification/van_tiny-lka-k53-s0.json": text('{"a": ' + "9" * 5000 + "}"),
    METRICS / "classification/van_tiny-lska-k7-s0.json": says(metrics=[1]),
    METRICS / "classification/van_tiny-lska-k23-s0.json": text(b'{"a": "\xff"}'),
    METRICS / "classification/van_tiny-lska-k53-s0.json": pipe,
    METRICS / "robustness/c/van_tiny-lska-k23-s0.json": foreign,
    METRICS / "speed/van_tiny-lska-k7-s0.json": text("[]"),
    METRICS / "speed/van_tiny-lska-k53-s0.json": folder,
    METRICS / "texture_knn/van_tiny-lska-k7-s0.npz": pipe,
    METRICS / "texture_knn/van_tiny-lska-k23-s0.npz": failing,
    METRICS / "texture_knn/van_tiny-lska-k53-s0.json": failing,
    RESULTS / "data/cifar10.json": text(DEEP),
    RESULTS / "data/camvid.json": says(splits=[1]),
    RESULTS / "data/generated_textures.json": pipe,
    Path("paper/table_03.csv"): text(b"table,row\xff"),
    Path("paper/table_08.csv"): pipe,
    RESULTS / "tables/table_04.csv": pipe,
    RESULTS / "tables/table_04.md": folder,
    RESULTS / "tables/table_11.csv": text('row,column\n"' + "y" * 200_000 + '",1\n'),
    RESULTS / "tables/table_12.md": text(b"\xff\x00"),
    RESULTS / "training/van_tiny-lska-k23-s0.jsonl": text(DEEP),
    RESULTS / "training/van_tiny-lska-k53-s0.jsonl": pipe,
    RESULTS / "training/segmentation/semantic_fpn/van_tiny-lska-k23-s0.jsonl": dangling,
    RESULTS / "fields/van_tiny-lska-k53-s0.npz": failing,
    WEIGHTS / "van_tiny-lka-k7-s0.json": says(updates="7", images_seen=[1], spec=5),
    WEIGHTS / "van_tiny-lka-k23-s0.json": circle,
    WEIGHTS / "van_tiny-lka-k53-s0.json": pipe,
    WEIGHTS / "van_tiny-lska-k7-s0.json": text(DEEP),
    WEIGHTS / "van_tiny-lska-k53-s0.safetensors": dangling,
    WEIGHTS / "detection/retinanet/van_tiny-lka-k23-s0.safetensors": folder,
    WEIGHTS / "detection/retinanet/van_tiny-lska-k23-s0.json": says(data=[1]),
    WEIGHTS / "segmentation/semantic_fpn/van_tiny-lka-k23-s0.json": says(backbone="x", task=5),
}


def test_every_damaged_file_is_named_and_all_others_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    ignored = shutil.ignore_patterns("*.safetensors")
    for place in (Path("config"), Path("paper"), RESULTS, WEIGHTS):
        shutil.copytree(project_root() / place, tmp_path / place, ignore=ignored)
    monkeypatch.chdir(tmp_path)
    for place in (METRICS / "classification", WEIGHTS, RESULTS / "data", RESULTS / "summary", RESULTS / "plots"):
        # What a killed process left is no result.
        for name in (".van_tiny-lka-k23-s0.json.0idvpfee.tmp.json", ".n.csv.ab1_9xyz.tmp.csv", ".x.abcd1234.tmp"):
            (place / name).write_text("{")
        (place / ".folder.abcd1234.tmp.json").mkdir()
        (place / ".folder.abcd1234.tmp.json" / "inner.json").write_text("{")
    for path, damage in DAMAGED.items():
        damage(path)
    red = METRICS / "speed/\x1b[31mred.json"
    red.write_text("{")
    report = verify_scale(load([Path("config/small.yaml")]))
    found = report.of(Level.BROKEN)
    told = [(path, sorted({one.text for one in found if one.file == path})) for path in DAMAGED]
    assert [path for path, texts in told if not texts] == []
    assert [f"{path}: {text}" for path, texts in told for text in texts] == snapshot
    assert [one.file for one in report.findings if any(part.startswith(".") for part in one.file.parts)] == []
    assert report.checked["tables"] == 17 and [one.file for one in report.of(Level.OUTDATED)] == [red]
    printed = report.to_text()
    assert "\x1b" not in printed and "\\u001b[31mred.json" in printed and max(map(len, printed.split("\n"))) < 300


def test_no_committed_result_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    report = verify_scale(load([Path("config/small.yaml")]))
    assert [(found.file.as_posix(), found.place, found.text) for found in report.of(Level.BROKEN)] == []
    assert report.chains > 2000 and report.checked["tables"] == 17


def test_verdicts_are_outdated_once_more_seeds_tell_how_trainings_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of claims whose own networks have the same seeds as before."""
    for name in ("config", "paper", "results/small/metrics"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(project_root() / name)
    monkeypatch.chdir(tmp_path)
    fewer = load([Path("config/small.yaml")], small_changes(lambda run: run.seed == 0 or run.kernel == 23))
    write_claims(judge_claims(fewer), fewer, fewer.results)
    assert list(verify_claims(fewer)) == []
    (found,) = verify_claims(load([Path("config/small.yaml")]))
    assert (found.level, found.file) == (Level.OUTDATED, RESULTS / "claims/claims.json")
    replaced(RESULTS / "claims/claims.json", r'"p": 0\.\d+', '"p": 0.04')
    assert [one.level for one in verify_claims(fewer)] == [Level.BROKEN]


def test_every_edit_of_what_dvc_compares_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    copy_small(tmp_path)
    monkeypatch.chdir(tmp_path)
    config, run = load([Path("config/small.yaml")]), RUN.replace("k7", "k23")
    summary, plots = RESULTS / f"summary/{run}.json", RESULTS / "plots"

    def seen() -> list[str]:
        return [f"{one.level} {one.file}: {one.place}: {one.text}" for one in verify_summaries(config)]

    assert seen() == []
    replaced(summary, "76.18", "77.18")
    replaced(plots / "networks.csv", r".*\n\Z", "")
    replaced(plots / "classification.csv", ",7,0,2.120561122894287,", ",7,0,2.2,")
    found = seen()
    (METRICS / f"texture_knn/{run}.json").unlink()
    (RESULTS / "summary/van_tiny-lska-k7-s0.json").unlink()
    (RESULTS / "summary/van_tiny-lka-k99-s0.json").write_text("{}")
    assert [*found, "two are missing, one is too many:", *seen()] == snapshot
    shutil.rmtree(RESULTS / "summary")
    shutil.rmtree(plots)
    assert seen() == []
