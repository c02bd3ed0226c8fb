"""Each file of the evidence by itself: whether it is as it was written, and agrees with itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lska.audit.checkout import committed_text
from lska.audit.findings import Finding, Level, broken, changes_of, compared, faulty, md5_of, said_of
from lska.audit.numbers import NumberTally, check_numbers, count_again
from lska.data.manifest import SERVING, load_manifest
from lska.provenance.files import FileError, MissingFileError, parse_json, read_json, read_lines
from lska.provenance.foreign_weights import unusable
from lska.provenance.metric_files import digest, seal_problem, validate
from lska.provenance.outcomes import Outcomes, OutcomesError, outcomes_path, read_arrays, read_outcomes
from lska.provenance.pointers import pointer_path, read_pointer
from lska.provenance.sidecars import check_sidecar
from lska.settings.scale import Config
from lska.settings.sections import DataSource
from lska.settings.tasks import CORRUPTED, KINDS

EDITS = 4
"""Fields that are named of those that differ from the commit."""


@dataclass(frozen=True)
class CheckedFile:
    """A JSON file and what is wrong with it by itself."""

    path: Path
    content: Mapping[str, Any]
    """Empty where it cannot be read, or is not of the fields and types of such files."""
    findings: tuple[Finding, ...]
    tally: NumberTally = field(default_factory=NumberTally)
    """Its numbers, if it is a metric file."""

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Why what it says cannot be trusted."""
        return tuple(finding for finding in self.findings if finding.level is Level.BROKEN)

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


def check_metrics(
    path: Path, task: str, run: str, config: Config, images: Callable[[CheckedFile], int | None], recount: bool = False
) -> CheckedFile:
    """A metric file: seal, schema, name, what is kept beside it, and whether its numbers follow from that.

    Args:
        images: how many images there are of the data that it was measured on, None where that is not known.
        recount: whether what depends on the code alone is counted again.
    """
    from lska.evaluate.derived import Kept

    checked = _checked(path, "metric files", lambda content, where: validate(content, "metrics", where))
    if checked.broken:
        return checked
    places = {"task": task, "run": run, "scale": config.scale}
    found = [compared(path, name, checked.get(name), "its place says", place) for name, place in places.items()]
    if any(found):
        return checked.having(*itertools.chain(*found))
    found, outcomes = _outcomes(checked)
    odd, maps = _maps(checked, fields_path(config, path))
    kept = Kept(task, checked.content["metrics"], outcomes, outcomes_path(path).name, images(checked), maps)
    try:
        wrong, tally = check_numbers(path, kept, count_again(config, task, run) if recount else None)
    except ValueError as error:
        wrong, tally = [broken(path, "run", f"cannot be counted again: {error}")], NumberTally()
    return replace(checked.having(*found, *odd, *wrong), tally=tally)


def fields_path(config: Config, metrics: Path) -> Path:
    """Place of the contribution maps that the metrics of a receptive field were taken from."""
    return config.results / "fields" / f"{metrics.stem}.npz"


def check_weights(path: Path, log: Path) -> CheckedFile:
    """A sidecar, which vouches for weights: seal, recipe against its settings, counts, log, pointer, and the weights.

    Args:
        log: the training's record of losses.
    """
    checked = _checked(path, "sidecars of weights", check_sidecar)
    if checked.broken:
        return checked
    found, weights = [], path.with_suffix(".safetensors")
    if (problem := unusable(weights)) is not None:
        found.append(broken(weights, "", problem.removeprefix(f"{weights}: ")))
    if weights.is_file():
        found += compared(path, "md5", checked.get("md5"), f"{weights} has", md5_of(weights))
    if checked.get("origin") == "trained":
        found += [*_settings(checked), *_last_loss(checked, log)]
    return _published(checked.having(*found), weights)


def check_record(path: Path, config: Config) -> CheckedFile:
    """The record of a data set by itself, and as the configuration's source of that name should have it."""
    checked = _checked(path, "data records", lambda content, where: validate(content, "record", where))
    if checked.broken:
        return checked
    found = compared(path, "name", checked.get("name"), "the file's name is", path.stem)
    if checked.get("family") is not None:
        again = digest([checked.get(name) for name in ("manifest", "parts", "names", "contents")])
        found += compared(path, "digest", checked.get("digest"), "manifest, parts, names and contents give", again)
    kind, source = next(((kind, one) for kind, one in config.sources if one.name == path.stem), (None, None))
    if source is None:
        found.append(Finding(Level.NOTE, path, "", f"scale {config.scale} has no data set of this name any more"))
    elif not found:
        found += _unlike_manifest(checked, kind, source)
        item = next((item for item in config.measured if item.name == kind), None)
        stated, now = checked.get("inputs"), None if item is None else item.inputs()
        if None not in (stated, now):
            found += compared(path, "inputs", stated, "today's generator or manifest gives", now, Level.OUTDATED)
    return checked.having(*found)


# --- Any file --------------------------------------------------------------------------------------------------------


def _checked(path: Path, kind: str, check: Callable[[Any, str], None]) -> CheckedFile:
    """A JSON file with its seal; `kind` (`metric files`) names what it is where it has none.

    Args:
        check: raises ValueError where a content, which the second argument names, is of other fields or types.
    """
    try:
        content = read_json(path)
    except MissingFileError as error:
        return CheckedFile(path, {}, (faulty(path, error) if path.is_symlink() else broken(path, "", "is missing"),))
    except FileError as error:
        return CheckedFile(path, {}, (faulty(path, error),))
    found, problem = [], seal_problem(content)
    edited = edited_fields(path) if problem is not None or "seal" not in content else ""
    if problem is not None:
        since = f"; since the commit: {edited}" if edited else ""
        found = [broken(path, "seal", problem.removeprefix("field 'seal': ") + since)]
    try:
        check(content, str(path))
    except ValueError as error:
        return CheckedFile(path, {}, tuple(found or [faulty(path, error)]))
    if not found:
        found += _future(path, content)
    if "seal" not in content:
        # Whatever writes such a file today would seal it, so changes since the commit are edits.
        text = f"was edited: the file has no seal; since the commit: {edited}"
        place = edited.partition(":")[0]
        found.append(broken(path, place, text) if edited else Finding(Level.UNSEALED, path, "seal", kind))
    return CheckedFile(path, content, tuple(found))


def edited_fields(path: Path) -> str:
    """Which fields of a JSON file differ from the committed one; nothing where there is none."""
    try:
        committed, content = parse_json(committed_text(path) or "null", "the commit's"), read_json(path)
    except ValueError:
        return ""
    found = changes_of(committed, content)
    more = f" and {len(found) - EDITS} more fields" if len(found) > EDITS else ""
    return "; ".join(found[:EDITS]) + more


def _future(path: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    """Times that have not come; a day is left for clocks that differ."""
    for name in ("started", "finished"):
        try:
            moment = datetime.fromisoformat(content[name])
        except (KeyError, TypeError, ValueError):
            continue  # it has none, or one that the check of its fields names
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment > datetime.now(UTC) + timedelta(days=1):
            yield broken(path, name, f"is {content[name]}, which has not come yet")


# --- Metric files ----------------------------------------------------------------------------------------------------


def _outcomes(metrics: CheckedFile) -> tuple[list[Finding], Outcomes]:
    """Whether the outcomes are those that were written, and belong to the metrics."""
    path, beside, stated = metrics.path, outcomes_path(metrics.path), metrics.get("outcomes")
    if stated is None:
        note = Finding(Level.NOTE, beside, "", f"no outcomes are named by {path}")
        return [note] if beside.is_file() else [], Outcomes()
    found = []
    if metrics.get("seal") is None:
        found.append(broken(path, "seal", "is missing, although every metric file with outcomes is written with one"))
    try:
        outcomes = read_outcomes(beside, stated)
    except (OutcomesError, FileError) as error:
        return [*found, faulty(beside, error)], Outcomes()
    for kind, arrays in vars(outcomes).items():
        foreign = sorted(set(arrays) - set(metrics.content["metrics"]))
        found += [broken(beside, f"{kind}/{name}", f"{path} has no metric of this name") for name in foreign]
    return found, outcomes


def _maps(metrics: CheckedFile, path: Path) -> tuple[list[Finding], Mapping[str, Any]]:
    """Whether the contribution maps that figures draw are those that the metrics were taken from."""
    stated = metrics.get("detail.field")
    if stated is None:
        return [], {}
    found = md5_of(path) if path.is_file() else "no such file"
    try:
        text = f"expected MD5 {stated}, as {metrics.path} says, found {found}"
        wrong = [] if found == stated else [broken(path, "", text)]
        return wrong, {} if wrong else read_arrays(path)
    except OutcomesError as error:
        return [faulty(path, error)], {}


# --- Sidecars --------------------------------------------------------------------------------------------------------


def _settings(sidecar: CheckedFile) -> Iterator[Finding]:
    """Whether run, recipe, data and counts agree with the settings that the sidecar keeps."""
    path, get, spec = sidecar.path, sidecar.get, sidecar.get("spec")
    yield from compared(path, "run", get("run"), "the file's name is", path.stem)
    if not isinstance(spec, Mapping):
        yield broken(path, "spec", "is missing; nothing says how the weights were trained")
        return
    yield from compared(path, "recipe", get("recipe"), "the settings in its field 'spec' give", digest(spec))
    for name, other in (("task", "spec.task"), ("run", "spec.run"), ("data.name", "spec.data.name")):
        yield from compared(path, name, get(name), f"its field {other!r} is", get(other))
    batch, updates = get("spec.recipe.global_batch"), get("updates")
    if batch and updates is not None:
        source = f"{updates} updates of {batch} images see"
        yield from compared(path, "images_seen", get("images_seen"), source, batch * updates)


def _last_loss(sidecar: CheckedFile, log: Path) -> Iterator[Finding]:
    """Whether the last line of the record of losses, where the results hold it, is that of the sidecar."""
    try:
        number, line = (read_lines(log) or [(1, "")])[-1]
        last = parse_json(line, f"{log}: line {number}")
        recorded = {"updates": last["step"], "final_loss": last["loss"]}
    except MissingFileError as error:
        if log.is_symlink():
            yield faulty(log, error)
        return
    except (FileError, KeyError) as error:
        yield broken(log, "", f"its last line is no record of a training ({said_of(log, error)})")
        return
    for name, value in recorded.items():
        yield from compared(sidecar.path, name, sidecar.get(name), f"the last line of {log} has", value)


def _published(sidecar: CheckedFile, weights: Path) -> CheckedFile:
    """With what the pointer of published weights says; its digest is a seal of the sidecar published with them."""
    path, place = sidecar.path, pointer_path(weights)
    try:
        pointer = read_pointer(weights)
    except ValueError as error:
        return sidecar.having(faulty(place, error))
    if pointer is not None and pointer.md5 != sidecar.get("md5"):
        return sidecar.having(*compared(path, "md5", sidecar.get("md5"), "published is", pointer.md5, Level.NOTE))
    if pointer is None or pointer.sidecar is None:
        return sidecar
    if pointer.published(sidecar.content):
        return replace(sidecar, findings=tuple(one for one in sidecar.findings if one.level is not Level.UNSEALED))
    if pointer.edited(sidecar.content):
        return sidecar.having(broken(path, "", f"was edited: {place} keeps another digest of it"))
    return sidecar.having(Finding(Level.NOTE, path, "", "is of a later training to the published weights"))


# --- Data records ----------------------------------------------------------------------------------------------------


def _unlike_manifest(record: CheckedFile, kind: str, source: DataSource) -> Iterator[Finding]:
    """Whether every field that follows from the manifest of published data is as it says."""
    try:
        expected = _by_manifest(kind, source)
    except ValueError as error:
        yield Finding(Level.NOTE, record.path, "", f"not compared with its manifest: {error}")
        return
    identity = "manifest" if kind in CORRUPTED else "digest"
    for name, value in expected.items():
        level = Level.OUTDATED if name == identity else Level.BROKEN
        yield from compared(record.path, name, record.get(name), f"the manifest of {source.name} says", value, level)
        if name == identity and record.get(name) != value:
            return  # the other fields are of that manifest


def _by_manifest(kind: str, source: DataSource) -> dict[str, Any]:
    """What the record of published data says with any data; the identity of the manifest comes first."""
    if source.generate is not None or (kind not in KINDS and kind not in SERVING):
        return {}
    manifest = load_manifest(Path(source.manifest) if source.manifest else source.name, SERVING.get(kind, kind))
    if kind in CORRUPTED:
        return {"manifest": manifest.digest, "classes": len(manifest.classes), "images": manifest.count}
    if kind == "texture_knn":
        return {"digest": manifest.digest}
    counts = {split: stated.count for split, stated in manifest.splits.items()}
    return {"digest": manifest.digest, "splits": counts, "classes": len(manifest.classes)}
