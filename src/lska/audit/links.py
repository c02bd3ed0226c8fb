"""The evidence of a scale: each file by itself, and what one says of the next, from a metric file to its origins.

`ScaleFiles` reads and checks each file once. `behind` is the only walk over weights, backbone, data, and who chose the
images: `explain` prints its links for one cell, `verify` takes the broken ones of all files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lska.audit.named import named_metrics, named_records, named_sidecars
from lska.claims.listing import read_claims
from lska.data.manifest import SERVING, load_manifest
from lska.evaluate.derived import FIELDS, Derived, Kept, derive, fits
from lska.models.designs import other_attention
from lska.models.runs import Run, attention_of
from lska.provenance.files import (
    FileError,
    MissingFileError,
    UnreadableFileError,
    files_in,
    parse_json,
    plain,
    printable,
    quoted,
    read_json,
    read_lines,
)
from lska.provenance.metric_files import (
    changed_files,
    digest,
    file_md5,
    keeps_outcomes,
    outcomes_path,
    seal_problem,
    validate,
)
from lska.provenance.outcomes import Outcomes, read_arrays, read_outcomes
from lska.provenance.sidecars import (
    changes,
    check_sidecar,
    imported,
    measured_alike,
    occupied,
    pointer_path,
    read_pointer,
    unusable,
)
from lska.settings.scale import Config
from lska.settings.schema import DataSource
from lska.settings.tasks import CORRUPTED, INSPECTIONS, KINDS, parse_task, set_of

WIDEST = 2000
"""Characters of a finding's text: what is wrong may be one very long word."""
PRECISION = 1e-6
"""Relative; outcomes are kept in 32 bits, and their mean is taken in 64."""
LEFT_OVER = "left over: the configuration of scale {} no longer names it; `lska prune` lists all such files"
COUNTED = ("complexity", "properties")
"""Start of the tasks whose numbers depend on the code alone."""


class Level(StrEnum):
    """How much a finding matters."""

    BROKEN = "broken"
    OUTDATED = "outdated"
    MISSING = "missing"
    UNSEALED = "unsealed"
    NOTE = "note"


MEANING = {
    Level.BROKEN: "a file was edited, or does not belong to the one that names it",
    Level.OUTDATED: "of another configuration than today's; Snakemake would make it again, or ignores it",
    Level.MISSING: "today's configuration asks for it, and it is not there",
    Level.UNSEALED: "from before such files were sealed; only git or another file would show an edit",
    Level.NOTE: "worth knowing",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: Level
    file: Path
    place: str
    """The field or cell of the file that is at fault, or empty."""
    text: str
    cell: tuple[str, str] | None = None
    """Row and column of the cell that the file of a table or figure shows otherwise."""
    chains: tuple[str, ...] = ()
    """Cells whose first broken link this is, as `table_03: VAN-LSKA-Tiny / top-1`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without its cells."""
        return {"level": str(self.level), "file": self.file.as_posix(), "place": self.place, "text": self.text}


def broken(path: Path, place: str, text: str, cell: tuple[str, str] | None = None) -> Finding:
    """A finding of a file that cannot be trusted."""
    return Finding(Level.BROKEN, path, place, printable(text, WIDEST), cell)


def faulty(path: Path, error: Exception) -> Finding:
    """The finding of a file that an error is about, whose name it need not repeat."""
    return broken(path, "", " ".join(str(error).split()).removeprefix(f"{path}").lstrip(": "))


def compared(
    path: Path, place: str, found: Any, source: str, expected: Any, level: Level = Level.BROKEN
) -> list[Finding]:
    """A finding where a value is not the one that `source` gives (`the manifest says`); none where it is."""
    text = printable(f"is {found!r}, {source} {expected!r}", WIDEST)
    return [] if found == expected else [Finding(level, path, place, text)]


# --- Any file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckedFile:
    """A JSON file and what is wrong with it by itself."""

    path: Path
    content: Mapping[str, Any]
    """Empty where it cannot be read, or is not of the fields and types of such files."""
    findings: tuple[Finding, ...]
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Numbers of a metric file: how far the evidence determines them (`recomputed`, `bounded` where only a range or a
    relation to others is known, `unknown`), and which they are (`speed: value`)."""

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Its findings of a level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Why what it says cannot be trusted."""
        return self.of(Level.BROKEN)

    @property
    def broken(self) -> bool:
        """Whether what it says cannot be trusted."""
        return bool(self.faults)

    def get(self, name: str) -> Any:
        """The entry at a dotted name, None where there is none."""
        found: Any = self.content
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def having(self, *more: Finding) -> CheckedFile:
        """The same file with `more` findings before those that it has."""
        return replace(self, findings=(*more, *self.findings))


def _lacking(path: Path, error: Exception) -> Finding:
    """The finding of a file that cannot be read: nothing is wrong where there is none."""
    absent = isinstance(error, FileNotFoundError) and not path.is_symlink()
    return Finding(Level.MISSING, path, "", "is not there") if absent else faulty(path, error)


def _checked(path: Path, kind: str, check: Callable[[Any, str], None]) -> CheckedFile:
    """A JSON file with its seal, whose fields and types `check` refuses by a ValueError; `kind` says what it is."""
    try:
        content = read_json(path)
    except FileError as error:
        return CheckedFile(path, {}, (_lacking(path, error),))
    found = []
    if (problem := seal_problem(content)) is not None:
        found = [broken(path, "seal", problem.removeprefix("field 'seal': "))]
    try:
        check(content, str(path))
    except ValueError as error:
        return CheckedFile(path, {}, tuple(found or [faulty(path, error)]))
    if "seal" not in content:
        # Whatever writes such a file today, or has ever written outcomes, seals it.
        edited = broken(path, "seal", "is missing, although the file differs from the commit, or has outcomes")
        known = "outcomes" in content or changed_files(path)
        found.append(edited if known else Finding(Level.UNSEALED, path, "seal", kind))
    return CheckedFile(path, content, tuple(found))


# --- Metric files ----------------------------------------------------------------------------------------------------


def check_metrics(
    path: Path, task: str, run: str, config: Config, images: Callable[[CheckedFile], int | None], recount: bool = False
) -> CheckedFile:
    """A metric file: seal, schema, name, what is kept beside it, and whether its numbers follow from that.

    Args:
        images: how many images there are of the data that it was measured on, None where that is not known.
        recount: whether what depends on the code alone is counted again.
    """
    checked = _checked(path, "metric files", lambda content, where: validate(content, "metrics", where))
    if checked.broken or not checked.content:
        return checked
    for name, place in {"task": task, "run": run, "scale": config.scale}.items():
        if found := compared(path, name, checked.get(name), "its place says", place):
            return checked.having(*found)
    found, outcomes = _outcomes(checked)
    odd, maps = _maps(checked, fields_path(config, path))
    kept = Kept(task, checked.content["metrics"], outcomes, outcomes_path(path).name, images(checked), maps)
    wrong, derived = {}, []
    try:
        derived += derive(kept)
        again = _count_again(task, run) if recount else {}
        derived += [Derived(name, "the code's counts", {"value": entry["value"]}) for name, entry in again.items()]
    except ValueError as error:
        wrong["metrics"] = broken(path, "metrics", f"cannot be recomputed: {error}")
    for one in derived:
        for place, text in _contradictions(one, kept.metrics.get(one.metric)):
            wrong.setdefault(place, broken(path, place, text))
    return replace(checked.having(*found, *odd, *wrong.values()), tally=_tally(kept, derived))


def fields_path(config: Config, metrics: Path) -> Path:
    """Place of the contribution maps that the metrics of a receptive field were taken from."""
    return config.results / "fields" / f"{metrics.stem}.npz"


def _outcomes(metrics: CheckedFile) -> tuple[list[Finding], Outcomes]:
    """Whether the outcomes are those that were written, and belong to the metrics."""
    path, beside, stated = metrics.path, outcomes_path(metrics.path), metrics.get("outcomes")
    if stated is None:
        note = Finding(Level.NOTE, beside, "", f"no outcomes are named by {path}")
        return [note] if beside.is_file() else [], Outcomes()
    try:
        outcomes = read_outcomes(beside, stated)
    except FileError as error:
        return [_lacking(beside, error)], Outcomes()
    names = ((kind, name) for kind, arrays in vars(outcomes).items() for name in sorted(arrays))
    foreign = (f"{kind}/{name}" for kind, name in names if name not in metrics.content["metrics"])
    return [broken(beside, place, f"{path} has no metric of this name") for place in foreign], outcomes


def _maps(metrics: CheckedFile, path: Path) -> tuple[list[Finding], Mapping[str, Any]]:
    """Whether the contribution maps that figures draw are those that the metrics were taken from."""
    stated = metrics.get("detail.field")
    if stated is None:
        return [], {}
    try:
        if (found := file_md5(path)) == stated:
            return [], read_arrays(path)
        return [broken(path, "", f"expected MD5 {stated}, as {metrics.path} says, found {found}")], {}
    except FileError as error:
        return [_lacking(path, error)], {}


def _count_again(task: str, run: str) -> Mapping[str, Mapping[str, Any]]:
    """The entries of a metric file as the code gives them now, which imports torch, and mmdet or mmseg for heads; none
    for tasks that depend on more than the code.
    """
    start, _, head = task.partition("/")
    if start not in COUNTED:
        return {}
    if start == "properties":
        from lska.models.properties import measure_module

        return measure_module(run)
    from lska.evaluate.efficiency import counts, dense_counts

    return (dense_counts(head, Run.parse(run)) if head else counts(Run.parse(run)))[0]


def _contradictions(derived: Derived, entry: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Places of numbers that are not what follows, and what is wrong with them."""
    place, source = f"metrics.{derived.metric}", derived.source
    if entry is None:
        yield place, f"is missing, although {source} give it"
        return
    said = {name: "is missing" if value is None else f"is {value!r}" for name, value in entry.items()}
    for name, expected in derived.fields.items():
        if not fits(entry.get(name), expected, PRECISION):
            yield f"{place}.{name}", f"{said.get(name, 'is missing')}, {source} give {expected!r}"
    if derived.bounds is not None:
        low, high = derived.bounds
        slack = PRECISION * max(1.0, abs(low), abs(high))
        if entry["value"] is None or not low - slack <= entry["value"] <= high + slack:
            yield f"{place}.value", f"{said['value']}, {source} lie between {low!r} and {high!r}"


def _tally(kept: Kept, derived: list[Derived]) -> Counter[tuple[str, str]]:
    whole = {(one.metric, name) for one in derived if one.whole for name in one.fields}
    partly = {(one.metric, name) for one in derived for name in (*one.fields, *(("value",) if one.bounds else ()))}
    entries = kept.metrics.items()
    places = [(metric, name) for metric, entry in entries for name in FIELDS if entry.get(name) is not None]
    kinds = ("recomputed" if one in whole else "bounded" if one in partly else "unknown" for one in places)
    return Counter((kind, f"{kept.task}: {name}") for kind, (_, name) in zip(kinds, places, strict=True))


# --- Sidecars --------------------------------------------------------------------------------------------------------


def check_weights(path: Path, log: Path) -> CheckedFile:
    """A sidecar, which vouches for weights: seal, recipe against its settings, counts, the training's record of losses
    (`log`), pointer, and the weights.
    """
    checked, weights = _checked(path, "sidecars of weights", check_sidecar), path.with_suffix(".safetensors")
    if not checked.content:
        text = "is not there, so the origin of the weights beside it is not known"
        alone = checked.of(Level.MISSING) and occupied(weights)
        return CheckedFile(path, {}, (broken(path, "", text),)) if alone else checked
    if checked.broken:
        return checked
    found = []
    if (problem := unusable(weights)) is not None:
        found.append(broken(weights, "", problem.removeprefix(f"{weights}: ")))
    elif weights.is_file():
        try:
            found += compared(path, "md5", checked.get("md5"), f"{weights} has", file_md5(weights))
        except FileError as error:
            found.append(faulty(weights, error))
    if checked.get("origin") == "trained":
        found += [*_settings(checked), *_last_loss(checked, log)]
    checked = checked.having(*found)
    # What the pointer of published weights says; its digest is a seal of the sidecar published with them.
    place, stated = pointer_path(weights), checked.get("md5")
    try:
        pointer = read_pointer(weights)
    except ValueError as error:
        return checked.having(faulty(place, error))
    if pointer is not None and pointer.md5 != stated:
        return checked.having(*compared(path, "md5", stated, "published is", pointer.md5, Level.NOTE))
    if pointer is None or pointer.sidecar is None:
        return checked
    if pointer.published(checked.content):
        return replace(checked, findings=tuple(one for one in checked.findings if one.level is not Level.UNSEALED))
    if pointer.edited(checked.content):
        return checked.having(broken(path, "", f"was edited: {place} keeps another digest of it"))
    return checked.having(Finding(Level.NOTE, path, "", "is of a later training than the published weights"))


def _settings(sidecar: CheckedFile) -> Iterator[Finding]:
    """Whether run and recipe are those of the file's name and of the settings that the sidecar keeps."""
    path, spec = sidecar.path, sidecar.get("spec")
    yield from compared(path, "run", sidecar.get("run"), "the file's name is", path.stem)
    if not isinstance(spec, Mapping):
        yield broken(path, "spec", "is missing, so it is not known how the weights were trained")
        return
    yield from compared(path, "recipe", sidecar.get("recipe"), "the settings in its field 'spec' give", digest(spec))


def _last_loss(sidecar: CheckedFile, log: Path) -> Iterator[Finding]:
    """Whether the last line of the record of losses, where the results hold it, is that of the sidecar."""
    try:
        number, line = (read_lines(log) or [(1, "")])[-1]
        last = parse_json(line, f"{log}: line {number}")
        recorded = {"updates": last["step"], "final_loss": last["loss"]}
    except MissingFileError as error:
        yield from [faulty(log, error)] if log.is_symlink() else []
    except (FileError, KeyError) as error:
        yield broken(log, "", f"its last line is no record of a training ({faulty(log, error).text})")
    else:
        for name, value in recorded.items():
            yield from compared(sidecar.path, name, sidecar.get(name), f"the last line of {log} has", value)


# --- Data records ----------------------------------------------------------------------------------------------------


def check_record(path: Path, config: Config) -> CheckedFile:
    """The record of a data set by itself, and as the configuration's source of that name should have it."""
    checked = _checked(path, "data records", lambda content, where: validate(content, "record", where))
    if checked.broken or not checked.content:
        return checked
    found = compared(path, "name", checked.get("name"), "the file's name is", path.stem)
    kind, source = next(((kind, one) for kind, one in config.sources if one.name == path.stem), (None, None))
    if source is not None and not found:
        found += _unlike_manifest(checked, kind, source)
        item = next((item for item in config.measured if item.name == kind), None)
        stated, now = checked.get("inputs"), None if item is None else item.inputs()
        if None not in (stated, now):
            found += compared(path, "inputs", stated, "today's generator or manifest gives", now, Level.OUTDATED)
    return checked.having(*found)


def _unlike_manifest(record: CheckedFile, kind: str, source: DataSource) -> list[Finding]:
    """Whether the record of published data is of today's manifest."""
    if source.generate is not None or (kind not in KINDS and kind not in SERVING):
        return []
    try:
        manifest = load_manifest(source.manifest or source.name, SERVING.get(kind, kind))
    except ValueError as error:
        return [Finding(Level.NOTE, record.path, "", f"not compared with its manifest: {error}")]
    place, says = "manifest" if kind in CORRUPTED else "digest", f"the manifest of {source.name} says"
    return compared(record.path, place, record.get(place), says, manifest.digest, Level.OUTDATED)


# --- From a file to the next ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """What the file `source` says of the file `target` that it rests on, and what that rests on in turn."""

    kind: Literal["weights", "backbone", "chooser", "data"]
    source: CheckedFile
    target: CheckedFile | None
    """None where it rests on nothing of this kind."""
    recorded: Any
    """MD5 or digest of the target, as the source says."""
    found: Any
    """The same, as the target says."""
    faults: tuple[Finding, ...] = ()
    links: tuple[Link, ...] = ()
    named: bool = True
    """Whether the configuration names the target; nothing is said of what is left over."""

    def found_at(self, level: Level) -> Iterator[Finding]:
        """What is broken or missing from here to the origins, the first first; nothing is said of what a broken file
        names."""
        yield from (fault for fault in self.faults if fault.level is level)
        if self.target is not None and self.named:
            yield from self.target.of(level)
            for link in () if self.target.broken else self.links:
                yield from link.found_at(level)


class ScaleFiles:
    """All files of a scale, each read and checked once, and the links between them; with `recount`, what depends on the
    code alone is counted again.
    """

    def __init__(self, config: Config, recount: bool = False) -> None:
        self.config, self.recount = config, recount
        self.metrics_folder, self.records_folder = config.results / "metrics", config.results / "data"
        self.weights_folder = config.weights_path("any").parent
        self._metrics: dict[Path, CheckedFile] = {}
        self._sidecars: dict[Path, CheckedFile] = {}
        self._records: dict[Path, CheckedFile] = {}

    # --- Files -------------------------------------------------------------------------------------------------------

    def metric(self, path: Path) -> CheckedFile:
        """A metric file by its path, also a missing one."""
        if path not in self._metrics:
            task = path.parent.relative_to(self.metrics_folder).as_posix()
            self._metrics[path] = check_metrics(path, task, path.stem, self.config, self._images, self.recount)
        return self._metrics[path]

    def sidecar(self, task: str, run: str) -> CheckedFile:
        """The sidecar of the weights that a task is measured on, also a missing one: the fine-tuned ones of a head,
        otherwise the network's."""
        weights = self.config.weights_path(f"{task}/{run}" if parse_task(task) else run)
        return self._sidecar(weights.with_suffix(".json"))

    def _sidecar(self, path: Path) -> CheckedFile:
        folder = self.weights_folder
        if not path.is_relative_to(folder) or ".." in path.parts:
            return CheckedFile(folder, {}, (broken(folder, "", f"{quoted(str(path))} is no sidecar of this scale"),))
        if path not in self._sidecars:
            name = path.relative_to(folder).with_suffix("").as_posix()
            self._sidecars[path] = check_weights(path, self.config.training_log(name))
        return self._sidecars[path]

    def record(self, name: str) -> CheckedFile:
        """The record of a data set, also a missing one."""
        folder, path = self.records_folder, self.records_folder / f"{name}.json"
        if path.parent != folder:
            return CheckedFile(folder, {}, (broken(folder, "", f"{quoted(name)} is no name of a data set"),))
        if path not in self._records:
            self._records[path] = check_record(path, self.config)
        return self._records[path]

    @cached_property
    def named(self) -> frozenset[Path]:
        """The metric files, sidecars and records that the configuration names; where the list of claims is damaged,
        without those that only claims need."""
        try:
            claims = read_claims()
        except ValueError:
            claims = ()
        config = self.config
        return frozenset((*named_metrics(config, claims), *named_sidecars(config), *named_records(config)))

    @cached_property
    def metrics(self) -> dict[Path, CheckedFile]:
        """Every metric file that the configuration names or was asked for, by path, also missing ones."""
        for path in sorted(self.named):
            if path.is_relative_to(self.metrics_folder):
                self.metric(path)
        return self._metrics

    @cached_property
    def sidecars(self) -> dict[Path, CheckedFile]:
        """Every sidecar that the configuration names, also missing ones."""
        return {path: self._sidecar(path) for path in sorted(named_sidecars(self.config))}

    @cached_property
    def records(self) -> dict[Path, CheckedFile]:
        """Every data record that the configuration names, also missing ones."""
        return {path: self.record(path.stem) for path in sorted(named_records(self.config))}

    @cached_property
    def leftovers(self) -> tuple[Finding, ...]:
        """What lies beside all these and the configuration does not name; it is not looked into, but for whose weights
        came from elsewhere."""
        lying = [*files_in(self.metrics_folder, "**/*.json"), *files_in(self.records_folder, "*.json")]
        for path in files_in(self.weights_folder, "**/*"):
            alone = path.suffix == ".safetensors" and not occupied(path.with_suffix(".json"))
            lying += [path] if path.suffix == ".json" or (alone and path.with_suffix(".json") not in self.named) else []
        outdated = Finding(Level.OUTDATED, self.config.results, "", LEFT_OVER.format(self.config.scale))
        foreign = Finding(Level.NOTE, self.config.results, "", "imported; the configuration does not name it")
        return tuple(
            replace(foreign if _imported(path) else outdated, file=path) for path in lying if path not in self.named
        )

    def _sidecar_of(self, metric: CheckedFile) -> CheckedFile:
        return self.sidecar(metric.path.parent.relative_to(self.metrics_folder).as_posix(), metric.path.stem)

    def _images(self, metric: CheckedFile) -> int | None:
        """Images of the data that a metric file was measured on, by their record; None where that does not say."""
        name, task = metric.get("data.name"), str(metric.get("task"))
        record = None if name is None else self.record(name)
        if record is None or record.broken or record.get("digest") != metric.get("data.digest"):
            return None
        found = record.get("images" if set_of(task) in CORRUPTED else "splits.val")
        return found if isinstance(found, int) else None

    @cached_property
    def _witnesses(self) -> dict[str, Counter[str]]:
        """How many files name each digest of a data set, by its name."""
        found: dict[str, Counter[str]] = {}
        for checked in (*self.metrics.values(), *self.sidecars.values()):
            if checked.get("data.name") and not checked.broken and not imported(checked.content):
                found.setdefault(checked.get("data.name"), Counter())[checked.get("data.digest")] += 1
        return found

    # --- Links -------------------------------------------------------------------------------------------------------

    def behind(self, file: CheckedFile, above: tuple[Path, ...] = ()) -> tuple[Link, ...]:
        """What a file rests on, and so on to the origins; the files `above` on the way are not followed again."""
        if not file.content or file.path in above:
            return ()
        way = (*above, file.path)
        if file.path.is_relative_to(self.metrics_folder):
            return self._weights(file, way), self._data(file, way)
        if file.path.is_relative_to(self.weights_folder):
            data = () if imported(file.content) else (self._data(file, way),)
            return *self._backbone(file, way), *data
        if not file.get("reference"):
            return ()
        chooser, meaning = self.sidecar("classification", file.get("reference.run")), "other weights chose the images"
        return (self._link("chooser", file, chooser, {"reference.md5": "md5"}, meaning, way),)

    def broken_behind(self, file: CheckedFile) -> Iterator[Finding]:
        """What is broken at a file and, where it can be trusted, behind it, the first first."""
        return self._found_behind(file, Level.BROKEN)

    def missing_behind(self, file: CheckedFile) -> Iterator[Finding]:
        """As `broken_behind`, of what is missing."""
        return self._found_behind(file, Level.MISSING)

    def _found_behind(self, file: CheckedFile, level: Level) -> Iterator[Finding]:
        yield from file.of(level)
        for link in () if file.broken else self.behind(file):
            yield from link.found_at(level)

    def _link(
        self, kind: Any, source: CheckedFile, target: CheckedFile, fields: Mapping[str, str], meaning: str,
        way: tuple[Path, ...], *more: Finding,
    ) -> Link:  # fmt: skip
        """A link by fields of the source and the target that have to be equal, of which the first is the identity;
        `meaning` says what it means where they are not, and `more` what else is wrong between the two.
        """
        pairs = [(name, source.get(name), target.get(other)) for name, other in fields.items()]
        faults = [
            broken(source.path, name, f"is {ours}, {target.path} has {theirs}: {meaning}")
            for name, ours, theirs in pairs
            if ours != theirs
        ][:1]
        named = target.path in self.named or target.path in (self.weights_folder, self.records_folder)
        faults = () if source.broken or target.broken or not (named and target.content) else tuple(faults or more)
        return Link(kind, source, target, *pairs[0][1:], faults, self.behind(target, way), named)

    def _weights(self, metric: CheckedFile, way: tuple[Path, ...]) -> Link:
        task, path = metric.get("task"), metric.path
        if metric.get("weights.md5") is None:
            text = f"is null, but {task} is measured on weights"
            faults = (broken(path, "weights.md5", text),) if _on_images(task) and not metric.broken else ()
            return Link("weights", metric, None, metric.get("weights.origin"), None, faults)
        more, sidecar = [], self._sidecar_of(metric)
        if imported(sidecar.content) and not measured_alike(metric.content, sidecar.content):
            stated = f"is {quoted(metric.get('detail.preprocessing'))}, {sidecar.path} has another in its field"
            more.append(broken(path, "detail.preprocessing", f"{stated} 'spec.recipe': measured otherwise"))
        if parse_task(task):
            stated, source = metric.get("detail.backbone"), f"{sidecar.path} has"
            more += compared(path, "detail.backbone", stated, source, sidecar.get("backbone"))
        link = self._link("weights", metric, sidecar, {"weights.md5": "md5"}, "measured on other weights", way, *more)
        return replace(link, faults=()) if _of_other_recipe(metric, sidecar) else link

    def _backbone(self, weights: CheckedFile, way: tuple[Path, ...]) -> tuple[Link, ...]:
        if not weights.get("backbone"):
            control = "backbone" in weights.content and not imported(weights.content)
            return (Link("backbone", weights, None, None, None),) if control else ()
        start = self.sidecar("classification", weights.get("backbone.run") or weights.get("run"))
        # No recipe of ours stands for a backbone that was imported.
        same = {"backbone.md5": "md5"} | ({} if imported(start.content) else {"spec.backbone": "recipe"})
        return (self._link("backbone", weights, start, same, "fine-tuned from another backbone", way),)

    def _data(self, user: CheckedFile, way: tuple[Path, ...]) -> Link:
        name, stated, task = user.get("data.name"), user.get("data.digest"), user.get("task")
        if name is None:
            measured = user.path.is_relative_to(self.metrics_folder) and not user.broken
            text = f"is null, but {task} is measured on images of a data set"
            faults = (broken(user.path, "data", text),) if measured and _on_images(task) else ()
            return Link("data", user, None, None, None, faults)
        record = self.record(name)
        link = self._link("data", user, record, {"data.digest": "digest"}, "other data", way)
        if link.faults and not self._witnesses.get(name, Counter())[link.found]:
            # Nothing else names the record's digest: it stands alone, and is to blame.
            text = f"is {link.found}, but what was measured or trained on these data names {stated}"
            return Link("data", user, record, stated, link.found, (broken(record.path, "digest", text),), link.links)
        return link

    # --- Beside the configuration ------------------------------------------------------------------------------------

    def outdated(self, file: CheckedFile) -> Iterator[Finding]:
        """What today's configuration would make again of a metric file or sidecar, and why."""
        if file.broken or not file.content:
            return
        if file.path.is_relative_to(self.weights_folder) and file.get("origin") == "trained":
            yield from self._other_recipe(file)
        elif file.path.is_relative_to(self.metrics_folder):
            task, now, data = file.get("task"), self._protocols.get(file.get("task")), file.get("data.name")
            if data is not None and self.records_folder / f"{data}.json" not in self.named:
                text = f"is {quoted(data)}; scale {self.config.scale} has no data set of this name any more"
                yield Finding(Level.OUTDATED, file.path, "data.name", text)
            sidecar = None if file.get("weights.md5") is None else self._sidecar_of(file)
            if sidecar is not None and _of_other_recipe(file, sidecar):
                text = f"was measured on weights of another recipe or origin than {sidecar.path} is of now"
                yield Finding(Level.OUTDATED, file.path, "weights", text)
            if keeps_outcomes(task) and file.get("outcomes") is None:
                yield Finding(Level.OUTDATED, file.path, "outcomes", "are not kept; today's evaluation keeps them")
            if (other := other_attention(file.get("detail") or {}, attention_of(file.path.stem))) is not None:
                yield Finding(Level.OUTDATED, file.path, "detail.attention_version", f"was measured with {other}")
            if now is not None:
                stated, source = file.get("detail.protocol"), "the configuration's way of measuring is now"
                yield from compared(file.path, "detail.protocol", stated, source, now, Level.OUTDATED)

    @cached_property
    def _protocols(self) -> dict[str, str]:
        return {item.task: item.protocol() for item in self.config.measured}

    def _other_recipe(self, sidecar: CheckedFile) -> Iterator[Finding]:
        task, _, run = sidecar.path.relative_to(self.weights_folder).with_suffix("").as_posix().rpartition("/")
        try:
            known = Run.parse(run)
            spec = (self.config.fine_tuning(task, known) if task else self.config.classifier(known)).spec()
        except UnreadableFileError:
            return  # the sidecar of its backbone, which is a finding of its own
        if plain(sidecar.get("spec")) != plain(spec):
            yield Finding(Level.OUTDATED, sidecar.path, "recipe", changes(sidecar.get("spec") or {}, spec))


def _of_other_recipe(metric: CheckedFile, sidecar: CheckedFile) -> bool:
    """Whether a metric file was measured on weights that others replaced, of another recipe or from elsewhere."""
    then, now = (metric.get("weights.origin"), metric.get("recipe")), (sidecar.get("origin"), sidecar.get("recipe"))
    return bool(sidecar.content) and not sidecar.broken and not metric.broken and then != now


def _imported(path: Path) -> bool:
    """Whether a file is a sidecar of weights that were brought here from elsewhere."""
    try:
        return path.suffix == ".json" and imported(read_json(path))
    except FileError:
        return False


def _on_images(task: str) -> bool:
    """Whether a task is measured on trained weights and on images."""
    return task == "classification" or task in INSPECTIONS or set_of(task) is not None or parse_task(task) is not None
