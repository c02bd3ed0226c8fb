"""Each file by itself: whether it is as it was written, and agrees with itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lska.chain.checkout import committed_text
from lska.chain.recipes import changes
from lska.config import Config
from lska.files import FileError, MissingFileError, parse_json, printable, read_json, read_lines, read_text
from lska.outcomes import Outcomes, OutcomesError, outcomes_path, read_arrays, read_outcomes
from lska.provenance import digest, file_md5, seal_problem, validate
from lska.verify.findings import Finding, Level, Tally
from lska.verify.numbers import check as check_numbers
from lska.verify.recount import counted_again
from lska.weights.foreign import unusable
from lska.weights.pointers import pointer_path, read_pointer
from lska.weights.sidecars import check_sidecar

EDITS = 4
"""Fields that are named of those that differ from the commit."""

LONGEST = 240
"""Characters of a change that are shown."""

WIDEST = 2000
"""Characters of a finding's text: what is wrong with a file may be one word of a million letters."""


@dataclass(frozen=True)
class Checked:
    """A JSON file and what is wrong with it by itself; `content` is empty where it cannot be read."""

    path: Path
    content: Mapping[str, Any]
    findings: tuple[Finding, ...]
    tally: Tally = Tally()
    """Its numbers, if it is a metric file."""

    @property
    def broken(self) -> bool:
        """Whether what it says cannot be trusted."""
        return any(finding.level is Level.BROKEN for finding in self.findings)

    def get(self, name: str) -> Any:
        """The entry at a dotted name, None where there is none."""
        found: Any = self.content
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def broken(path: Path, place: str, text: str) -> Finding:
    """A finding of a file that cannot be trusted."""
    return Finding(Level.BROKEN, path, place, printable(text, WIDEST))


def read(path: Path, kind: str, check: Callable[[Any, str], None]) -> Checked:
    """A JSON file with its seal; `kind` (`metric files`) names what it is where it has none.

    Args:
        check: raises ValueError where a content, which the second argument names, is of other fields or types.
    """
    try:
        content = read_json(path)
    except MissingFileError as error:
        return Checked(path, {}, (broken(path, "", said_of(path, error) if path.is_symlink() else "is missing"),))
    except FileError as error:
        return Checked(path, {}, (broken(path, "", said_of(path, error)),))
    problem = seal_problem(content)
    if problem is not None:
        text, edited = problem.removeprefix("field 'seal': "), edited_fields(path)
        text += f"; since the commit: {edited}" if edited else ""
        return Checked(path, content, (broken(path, "seal", text),))
    try:
        check(content, str(path))
    except ValueError as error:
        return Checked(path, content, (broken(path, "", said_of(path, error)),))
    found = list(_future(path, content))
    return Checked(path, content, (*found, *(() if "seal" in content else (_unsealed(path, kind),))))


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


def fits(schema: str) -> Callable[[Any, str], None]:
    """The check of `read` by a schema of the project."""
    return lambda content, where: validate(content, schema, where)


def unreadable(paths: Iterable[Path]) -> Iterator[Finding]:
    """What is no text or no JSON, of files that are not compared because what they are made of is broken."""
    for path in paths:
        try:
            (read_json if path.suffix == ".json" else read_text)(path)
        except FileError as error:
            yield broken(path, "", said_of(path, error))


def md5_of(path: Path) -> str:
    """MD5 of a file, or in words why it cannot be read."""
    try:
        return file_md5(path)
    except FileError as error:
        return said_of(path, error)


def said_of(path: Path, error: Exception) -> str:
    """What an error says of the file that it names, in one line."""
    return " ".join(str(error).split()).removeprefix(f"{path}:").removeprefix(f"{path}").strip()


def _unsealed(path: Path, kind: str) -> Finding:
    """A file without a seal; whatever writes such a file today would seal it, so changes since the commit are edits."""
    edited = edited_fields(path)
    if edited:
        return broken(path, edited.partition(":")[0], f"was edited: the file has no seal; since the commit: {edited}")
    return Finding(Level.UNSEALED, path, "seal", kind)


def edited_fields(path: Path) -> str:
    """Which fields of a JSON file differ from the committed one; nothing where there is none."""
    try:
        committed, content = parse_json(committed_text(path) or "null", "the commit's"), read_json(path)
    except ValueError:
        return ""
    found = [_cut(change) for change in changes(committed, content)]
    more = f" and {len(found) - EDITS} more fields" if len(found) > EDITS else ""
    return "; ".join(found[:EDITS]) + more


def _cut(change: str) -> str:
    """A change without the most of long lists."""
    return change if len(change) <= LONGEST else f"{change[:LONGEST]}..."


def metric_file(
    path: Path, task: str, run: str, config: Config, images: Callable[[Checked], int | None], recount: bool = False
) -> Checked:
    """A metric file: seal, schema, name, the outcomes beside it, and whether its numbers follow from these.

    Args:
        images: how many images there are of the data that it was measured on, None where that is not known.
        recount: whether what depends on the code alone is counted again.
    """
    checked = read(path, "metric files", fits("metrics"))
    if checked.broken:
        return checked
    found: list[Finding] = []
    for name, expected in {"task": task, "run": run, "scale": config.scale}.items():
        if checked.get(name) != expected:
            found.append(broken(path, name, f"is {checked.get(name)!r}, but its place says {expected!r}"))
    if found:
        return Checked(path, checked.content, (*found, *checked.findings))
    found, outcomes = _outcomes(path, checked.content)
    numbers, tally = _numbers(checked, outcomes, config, images(checked), recount)
    return Checked(path, checked.content, (*found, *numbers, *checked.findings), tally)


def _numbers(
    checked: Checked, outcomes: Outcomes, config: Config, images: int | None, recount: bool
) -> tuple[list[Finding], Tally]:
    """Whether the numbers of a sound metric file follow from what is kept."""
    from lska.evaluate.derived import Kept

    path, task = checked.path, checked.get("task")
    drawn, stated, maps = fields_path(config, path), checked.get("detail.field"), {}
    # Where they are others, that is a finding of its own.
    if isinstance(stated, str) and drawn.is_file() and md5_of(drawn) == stated:
        try:
            maps = read_arrays(drawn)
        except OutcomesError as error:
            return [broken(drawn, "", said_of(drawn, error))], Tally()
    kept = Kept(task, checked.content["metrics"], outcomes, outcomes_path(path).name, images, maps)
    try:
        again = counted_again(config, task, checked.get("run")) if recount else None
    except ValueError as error:
        return [broken(path, "run", f"cannot be counted again: {error}")], Tally()
    return check_numbers(path, kept, again)


def fields_path(config: Config, metrics: Path) -> Path:
    """Place of the contribution maps that the metrics of a receptive field were taken from."""
    return config.results / "fields" / f"{metrics.stem}.npz"


def _outcomes(path: Path, content: Mapping[str, Any]) -> tuple[list[Finding], Outcomes]:
    """Whether the outcomes are those that were written, and belong to the metrics."""
    beside, stated = outcomes_path(path), content.get("outcomes")
    if stated is None:
        note = Finding(Level.NOTE, beside, "", f"no outcomes are named by {path}")
        return [note] if beside.is_file() else [], Outcomes()
    found = []
    if "seal" not in content:
        found.append(broken(path, "seal", "is missing, although every metric file with outcomes is written with one"))
    try:
        outcomes = read_outcomes(beside, stated)
    except (OutcomesError, FileError) as error:
        return [*found, broken(beside, "", said_of(beside, error))], Outcomes()
    for kind, arrays in vars(outcomes).items():
        foreign = sorted(set(arrays) - set(content["metrics"]))
        found += [broken(beside, f"{kind}/{name}", f"{path} has no metric of this name") for name in foreign]
    return found, outcomes


def sidecar(path: Path, log: Path) -> Checked:
    """What vouches for weights: seal, recipe against its settings, counts, the training's record, and the weights.

    Args:
        log: the training's record of losses.
    """
    checked = read(path, "sidecars of weights", check_sidecar)
    if checked.broken:
        return checked
    trained = checked.get("origin") == "trained"
    found = [*_weights(checked), *([*_recipe(checked), *_log(checked, log)] if trained else [])]
    published, pointed = _pointer(checked)
    itself = [finding for finding in checked.findings if not (published and finding.level is Level.UNSEALED)]
    return Checked(path, checked.content, (*found, *pointed, *itself))


def _pointer(checked: Checked) -> tuple[bool, list[Finding]]:
    """Whether this is the sidecar that was published with the weights, whose pointer then is its seal; and findings."""
    weights = checked.path.with_suffix(".safetensors")
    place = pointer_path(weights)
    try:
        pointer = read_pointer(weights)
    except ValueError as error:
        return False, [broken(place, "", str(error).removeprefix(f"{place}: "))]
    if pointer is None:
        return False, []
    if pointer.md5 != checked.get("md5"):
        text = f"is {checked.get('md5')}, trained here; published is {pointer.md5}"
        return False, [Finding(Level.NOTE, checked.path, "md5", text)]
    if pointer.sidecar is None or pointer.published(checked.content):
        return pointer.sidecar is not None, []
    if pointer.edited(checked.content):
        return False, [broken(checked.path, "", f"was edited: {place} keeps another digest of it")]
    return False, [Finding(Level.NOTE, checked.path, "", "is of a later training to the published weights")]


def _recipe(checked: Checked) -> Iterator[Finding]:
    if checked.get("run") != checked.path.stem:
        yield broken(checked.path, "run", f"is {checked.get('run')!r}, but the file is {checked.path.name}")
    spec, stated = checked.get("spec"), checked.get("recipe")
    if not isinstance(spec, Mapping):
        yield broken(checked.path, "spec", "is missing; nothing says how the weights were trained")
        return
    if digest(spec) != stated:
        yield broken(checked.path, "recipe", f"is {stated}, the settings in its field 'spec' give {digest(spec)}")
    for name, other in (("task", "spec.task"), ("run", "spec.run"), ("data.name", "spec.data.name")):
        if checked.get(name) != checked.get(other):
            yield broken(checked.path, name, f"is {checked.get(name)!r}, its field {other!r} {checked.get(other)!r}")
    batch, updates, seen = (checked.get(name) for name in ("spec.recipe.global_batch", "updates", "images_seen"))
    if batch and updates is not None and seen != batch * updates:
        text = f"is {seen}, but {updates} updates of {batch} images see {batch * updates}"
        yield broken(checked.path, "images_seen", text)


def _weights(checked: Checked) -> Iterator[Finding]:
    weights = checked.path.with_suffix(".safetensors")
    if (problem := unusable(weights)) is not None:
        yield broken(weights, "", problem.removeprefix(f"{weights}: "))
    if weights.is_file() and (md5 := md5_of(weights)) != checked.get("md5"):
        yield broken(checked.path, "md5", f"is {checked.get('md5')}, {weights} has {md5}")


def _log(checked: Checked, log: Path) -> Iterator[Finding]:
    """The last line of the record of losses, where the results hold it."""
    try:
        number, line = (read_lines(log) or [(1, "")])[-1]
        last = parse_json(line, f"{log}: line {number}")
        recorded = {"updates": last["step"], "final_loss": last["loss"]}
    except MissingFileError as error:
        if log.is_symlink():
            yield broken(log, "", said_of(log, error))
        return
    except (FileError, KeyError) as error:
        yield broken(log, "", f"its last line is no record of a training ({said_of(log, error)})")
        return
    for name, value in recorded.items():
        if checked.get(name) != value:
            yield broken(checked.path, name, f"is {checked.get(name)!r}, the last line of {log} has {value!r}")
