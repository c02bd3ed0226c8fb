"""Where a number comes from: everything behind a cell of a table or a point of a figure, in words (docs/provenance.md).

Nothing is computed but what `lska verify` computes, and no data or weights are needed. Imports nothing heavy.
"""

from __future__ import annotations

import functools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.audit.links import CheckedFile, Finding, Level, Link, ScaleFiles, fields_path
from lska.provenance.errors import InputError, alike
from lska.provenance.files import plain, printable
from lska.provenance.metric_files import commit_text, device_text, digest, lock_digest, outcomes_path, project_root
from lska.provenance.sidecars import imported, own_normalization, own_preprocessing, read_pointer, source_of
from lska.settings.recipes import load_recipe
from lska.settings.scale import Config
from lska.settings.schema import MANIFESTS
from lska.settings.tasks import PAPER_RECIPES, parse_task
from lska.tables.cell_text import cell_text, heading
from lska.tables.collect import MEANING, Cell, State, Table, TableRow, collect
from lska.tables.measurements import read_paper
from lska.tables.specs import DESIGN, ColumnSpec, load_spec, outputs

WIDTH = 100
SHORT = 12
"""Digits of a digest or commit that are shown on a terminal."""
LONGEST_NAME = 24
VALUE = 120
"""Characters of a recipe's value."""

HIDDEN = ("protocol", "backbone", "field")
"""Details of metric files that other origins show."""

ORIGINS = {
    "trained": "trained here",
    "imported": "imported",
    "random": "random, from the seed; what is measured does not depend on them",
    "none": "none; counted on the architecture, or measured on a module",
}
WITNESSES = {
    "weights": ("weights", "the metric file"),
    "backbone": ("backbone", "the sidecar above"),
    "chooser": ("images chosen by", "the record above"),
}
"""By kind of link to weights: what they are called, and who names them."""

_device = functools.partial(device_text, unknown="hardware not recorded")
_LONG = re.compile(r"\b(sha256:)?([0-9a-f]{64}|[0-9a-f]{40})\b")


@dataclass(frozen=True)
class Origin:
    """One thing that a number rests on, and what that rests on in turn."""

    kind: str
    """`paper`, `metric`, `weights`, `backbone`, `chooser`, `recipe`, `differences` or `data`."""
    label: str
    """Words for a reader, such as `metric file`."""
    facts: Mapping[str, str]
    """Name to text, in the order in which they are read; digests are in full. `BROKEN` has what is wrong."""
    file: Path | None = None
    """The file that says so, if there is one."""
    links: tuple[Origin, ...] = ()

    def walk(self) -> Iterator[Origin]:
        """This origin and all below it, from the number to its origins."""
        yield self
        for origin in self.links:
            yield from origin.walk()

    def to_json(self) -> dict[str, Any]:
        """Plain values, origins within origins; paths as text."""
        file, below = None if self.file is None else self.file.as_posix(), [one.to_json() for one in self.links]
        return {"kind": self.kind, "label": self.label, "file": file, "facts": dict(self.facts), "links": below}


@dataclass(frozen=True)
class Explanation:
    """Everything behind one cell. `shown` is its text in the tables, `facts` what is known of the cell itself."""

    target: str
    title: str
    """Number and title of the table or figure."""
    scale: str
    row: str
    column: str
    shown: str
    state: str
    facts: Mapping[str, str]
    links: tuple[Origin, ...]

    def walk(self) -> Iterator[Origin]:
        """Every origin, from the number to its origins."""
        for origin in self.links:
            yield from origin.walk()

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        return vars(self) | {"facts": dict(self.facts), "links": [origin.to_json() for origin in self.links]}

    def to_text(self, width: int = WIDTH) -> str:
        """A tree in lines of at most `width` characters, digests cut to twelve digits, and each file told once."""
        head = [f"{self.title} ({self.scale} scale)", f"{self.row} / {self.column}: {self.shown}"]
        lines = [line for text in head for line in textwrap.wrap(text, width)]
        lines += _fact_lines(self.facts, "  ", width)
        told: set[str] = set()
        for origin in self.links:
            lines += _tree_lines(origin, "", origin is self.links[-1], width, told)
        return "\n".join(lines) + "\n"


def filled_table(target: str, config: Config, paper: Path = Path("paper")) -> Table:
    """A table from the metric files that are there, also edited ones, whose explanations say so; raises as `collect`.
    """
    return collect(load_spec(target), config, paper, config.results, seals=False, gaps=True)


def explain_cell(table: Table, cell: Cell, files: ScaleFiles, paper: Path = Path("paper")) -> Explanation:
    """Everything behind `cell` of `table`, which was filled at the scale of `files`. What is missing, damaged or
    does not belong together is told in the facts; only a paper's file that cannot be read raises ValueError.
    """
    row = next(row for row in table.rows if cell in row.cells)
    column = next(column for column in table.spec.columns if column.label == cell.column)
    origins = [_metric(files, path, row, column) for path in cell.files]
    origins.append(_paper(paper / f"{table.spec.paper}.csv", cell, row, column))
    return Explanation(
        table.spec.target, f"{table.spec.number}. {table.spec.title}", table.scale, cell.row, heading(column),
        str(cell_text(cell)) or "nothing", str(cell.state), _cell_facts(table, cell, row, column, files.config),
        tuple(origins),
    )  # fmt: skip


def choose_cell(table: Table, row: str, column: str) -> Cell:
    """The cell at a row and column label; case does not matter where that leaves no doubt, and a column may be named
    with its unit too, as the tables head it. Raises ValueError with the closest labels where there is none.
    """
    headings = {heading(one): one.label for one in table.spec.columns}
    names = [one.label for one in table.spec.columns]
    found = _match(row, [one.label for one in table.rows], table.spec.target, "row")
    return table.cell(found, _match(headings.get(column, column), names, table.spec.target, "column"))


def _match(wanted: str, labels: list[str], target: str, kind: str) -> str:
    same = [label for label in labels if label.casefold() == wanted.casefold()]
    if wanted in labels or len(same) == 1:
        return wanted if wanted in labels else same[0]
    close = alike(wanted, labels, most=3, least=0.5)
    advice = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {labels[0]!r} and others;"
    raise InputError(f"{target} has no {kind} {wanted!r}: {advice} `lska explain {target}` without --cell lists all")


def list_cells(table: Table) -> Iterator[str]:
    """Lines that name every cell of a table with what it shows and its state."""
    yield f"{table.spec.number}. {table.spec.title} ({table.scale} scale)"
    width = max((len(column.label) for column in table.spec.columns), default=0)
    for row in table.rows:
        yield f"\n{row.label}"
        for cell in row.cells:
            yield f"  {cell.column:<{width}}  {str(cell_text(cell)) or '-':<28} {cell.state}"
    if table.rows:
        cell = table.rows[0].cells[-1]
        yield f'\nThe files behind one: lska explain {table.spec.target} --cell "{cell.row}" "{cell.column}"'


# --- The cell and the paper ------------------------------------------------------------------------------------------


def _cell_facts(table: Table, cell: Cell, row: TableRow, column: ColumnSpec, config: Config) -> dict[str, str]:
    facts = {"state": f"{cell.state}: {MEANING[cell.state]}"}
    if cell.value is not None:
        spread = {"deviation": cell.deviation, "standard error": cell.standard_error}
        known = [f"{name} {value!r}" for name, value in spread.items() if value is not None]
        runs = [f"mean of {cell.n} seeds"] if cell.n > 1 else []
        facts["value"] = ", ".join([_with_unit(cell.value, cell.unit), *known, *runs])
    if reason := _comparison(cell, row, column, config):
        facts["missing" if cell.state in (State.NOT_RUN, State.PARTIAL) else "compared"] = reason
    if column.task == DESIGN and cell.n:
        facts["computed"] = "by lska.tables.collect from the kernels of the models' own code; no file is read"
    if cell.conditions:
        facts["conditions"] = cell.conditions
    first, *rest = outputs(table.spec.target, Path("results") / table.scale)
    return facts | {"shown in": ", ".join([first.as_posix(), *(path.suffix for path in rest)])}


def _comparison(cell: Cell, row: TableRow, column: ColumnSpec, config: Config) -> str:
    """How our value was compared with the paper's, or why it was not, or why there is none."""
    if cell.state is State.OTHER_DATA:
        others = [f"measured on {name}, the paper on {column.data}" for name in cell.data if name != column.data]
        shrunken = row.source is not None and row.source.model in config.architecture
        return "no: " + "; ".join(filter(None, [*others, "the network is shrunken" if shrunken else "", cell.note]))
    if cell.state in (State.MEASURED, State.UNKNOWN):
        return "no: the paper's value is not known"
    if cell.state is State.NOT_APPLICABLE and row.source is not None and not row.source.applies(column):
        return "no: the column does not apply to this row"
    return "no: the paper has no such row" if cell.state is State.CONTROL else cell.note


def _paper(path: Path, cell: Cell, row: TableRow, column: ColumnSpec) -> Origin:
    """The paper's entry, how it is known, and what that word means (paper/README.md)."""
    label = (row.source.paper_label if row.source else None) or cell.row
    name = column.paper_label or column.label
    entry = read_paper(path).get((label, name))
    if entry is None:
        return Origin("paper", "paper", {"value": "no entry of this row and column"}, path)
    meaning = _meanings(path.parent / "README.md").get(entry.source.partition(":")[0], "")
    facts = {
        "row": label,
        "column": name,
        "value": "not known" if entry.value is None else f"{entry.value} {entry.unit}".strip(),
        "source": f"{entry.source}: {meaning}".rstrip(": "),
        "detail": entry.detail,
    }
    return Origin("paper", "paper", _stated(facts), path)


@functools.cache
def _meanings(readme: Path) -> dict[str, str]:
    """What the words of the column `source` mean, from the table in paper/README.md."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    lines = re.findall(r"^\| `([\w-]+)(?::NAME)?` \| (.+) \|$", text, flags=re.MULTILINE)
    return {word: meaning.replace("`", "") for word, meaning in lines}


# --- Files -----------------------------------------------------------------------------------------------------------


def _metric(files: ScaleFiles, path: Path, row: TableRow, column: ColumnSpec) -> Origin:
    file, name = files.metric(path), column.metric.format(**(row.source.values if row.source else {}))
    links = files.behind(file)
    below, faults = tuple(_origin_of(files, link) for link in links), (*_grave(file), *_of_missing(links))
    if not file.content:
        return Origin("metric", "metric file", {"metric": name} | _broken(faults), path, below)
    entry, environment = file.content["metrics"].get(name, {}), file.get("environment")
    unit, interval = "" if entry.get("unit") == "1" else str(entry.get("unit", "")), entry.get("interval")
    reason, value = (file.get("detail.reasons") or {}).get(name), entry.get("value")
    absent = f"no value: {reason}" if reason else "no value"
    simple = {key: text for key, text in (file.get("detail") or {}).items() if isinstance(text, int | float | str)}
    facts = {
        "metric": f"{name} = {absent if value is None else _with_unit(value, unit)}",
        "n": _number(entry["n"]) if "n" in entry else "",
        "standard error": "" if entry.get("standard_error") is None else _with_unit(entry["standard_error"], unit),
        "quartiles": f"{interval[0]!r} to {interval[1]!r}" if interval else "",
        "shown as": "" if column.factor == 1 else f"the value times {column.factor:g}, in {column.unit}",
        "measured": f"{_moment(file.get('started'))}, in {_duration(file.get('seconds'))} on {_device(environment)}",
        "settings": ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in simple.items() if key not in HIDDEN),
        "seal": _seal(file),
        "outcomes": _kept(file, outcomes_path(path), "outcomes"),
        "maps": _kept(file, fields_path(files.config, path), "detail.field"),
        "code": _code(file.get("code")),
        "environment": _versions(environment),
    }
    return Origin("metric", "metric file", _stated(facts) | _broken(faults), path, below)


def _kept(metrics: CheckedFile, beside: Path, field: str) -> str:
    """Whether what a metric file keeps beside it, by the MD5 in a field, is as it was written."""
    maps, stated = field != "outcomes", metrics.get(field)
    if stated is None and not (maps and metrics.get("task") == "receptive_field"):
        return "" if maps else "none kept image by image"
    name = beside.as_posix() if maps else beside.name
    if not beside.is_file():
        return f"{name} is MISSING"
    state = "" if metrics.broken or stated is None else ", as written"
    return f"{name}{state}" + ("" if maps else f": MD5 {stated}")


def _origin_of(files: ScaleFiles, link: Link) -> Origin:
    if link.kind == "data":
        return _data(files, link)
    label, witness = WITNESSES[link.kind]
    file, task = link.target, link.source.get("task") if link.kind == "weights" else "classification"
    if file is None:
        control = "random, as a control: the same training from scratch"
        origin = control if link.kind == "backbone" else ORIGINS.get(link.recorded, str(link.recorded))
        return Origin(link.kind, label, {"origin": origin})
    faults = _broken((*link.faults, *_grave(file), *_of_missing(link.links)))
    if not file.content:
        return Origin(link.kind, label, {"md5": str(link.recorded)} | faults, file.path)
    facts = {
        "md5": f"{link.found}" + (f", as {witness} says" if link.recorded == link.found else ""),
        "origin": ORIGINS.get(file.get("origin"), str(file.get("origin"))),
        "file": _weights_file(file),
        "seal": _seal(file),
        **(_foreign(file, task) if imported(file.content) else _training(file)),
    }
    backbone = [_origin_of(files, one) for one in link.links if one.kind == "backbone"]
    data = [_origin_of(files, one) for one in link.links if one.kind == "data"]
    return Origin(link.kind, label, facts | faults, file.path, (_recipe(files, file, task), *backbone, *data))


def _weights_file(sidecar: CheckedFile) -> str:
    weights = sidecar.path.with_suffix(".safetensors")
    if weights.is_file():
        return weights.name + ("" if sidecar.broken else ", with this MD5")
    try:
        pointer = read_pointer(weights)
    except ValueError:
        pointer = None  # a fault of the sidecar
    has = pointer is not None and pointer.md5 == sidecar.get("md5")
    place = f"; DVC has it in remote {pointer.remote or 'by default'} (`lska weights fetch`)" if has else ""
    return f"{weights.name} is not here{place}"


def _foreign(sidecar: CheckedFile, task: str) -> dict[str, str]:
    """What is known of weights from elsewhere: where they come from, and how images are prepared for them."""
    read = own_preprocessing if parse_task(task) is None else own_normalization
    try:
        known = read(sidecar.content, "sidecar").to_dict()
        images = ", ".join(f"{name} {value}" for name, value in known.items())
    except ValueError as error:
        images = f"BROKEN: {' '.join(str(error).split())}"
    if (source := source_of(sidecar.content)) is None:
        return {"images": images}
    wrapped = "" if source.key is None else f", the mapping {source.key}"
    return {
        "from": source.address or "a file that was here",
        "publication": f"{source.file}, {source.size:,} bytes{wrapped}, imported on {_moment(source.imported)}",
        "sha256": f"{source.sha256}, {f'compared with {source.compared}' if source.compared else 'as first seen'}",
        "images": images,
    }


def _training(sidecar: CheckedFile) -> dict[str, str]:
    get, processes, attempts = sidecar.get, sidecar.get("processes") or 1, len(sidecar.get("attempts") or [])
    several = f" with {processes} processes" if processes > 1 else ""
    again = f", in {attempts} attempts" if attempts > 1 else ""
    took = f"{_duration(get('seconds'))} on {_device(get('environment'))}{several}{again}"
    seen = f"{_number(get('images_seen'))} images in {_number(get('updates'))} updates"
    facts = {
        "trained": f"until {_moment(get('finished'))}, in {took}",
        "seen": f"{seen}, final loss {_number(get('final_loss'))}",
        "skipped": f"{get('skipped_images')} unreadable images" if get("skipped_images") else "",
        "code": _code(get("code")),
        "environment": _versions(get("environment")),
    }
    return _stated(facts)


def _recipe(files: ScaleFiles, sidecar: CheckedFile, task: str) -> Origin:
    """The recipe of weights, where it differs from the paper's, and whether the configuration still asks for it."""
    spec, stated = sidecar.get("spec"), str(sidecar.get("recipe"))
    if spec is None or imported(sidecar.content):
        said = "none recorded" if spec is None else "not of a training here"
        return Origin("recipe", "recipe", {"digest": stated, "settings": said})
    architecture = ", ".join(f"{name} {value}" for name, value in (spec.get("architecture") or {}).items())
    outdated = "; ".join(finding.text for finding in files.outdated(sidecar))
    facts = {
        "digest": stated + (", computed again from the settings below" if digest(spec) == stated else ""),
        "today": f"OUTDATED: {outdated}" if outdated else "what the configuration asks for",
        "network": f"{architecture} (overrides)" if architecture else "the paper's own architecture",
    }
    parsed, ours = parse_task(task), spec.get("recipe") or {}
    paper = Path("config/recipes/imagenet.yaml" if parsed is None else PAPER_RECIPES[parsed.head])
    theirs = _paper_recipe(paper, None if parsed is None else parsed.head)
    found = {
        name: f"{_as_json(ours.get(name, ...))}, not {_as_json(theirs.get(name, ...))}"
        for name in (*ours, *(set(theirs) - set(ours)))
        if ours.get(name, ...) != theirs.get(name, ...)
    }
    label = f"differs from the paper's {paper} in {len(found)} of {len(ours)} fields"
    return Origin("recipe", "recipe", facts, None, (Origin("differences", label, found, paper),))


def _as_json(value: Any) -> str:
    return "not a field of it" if value is ... else printable(json.dumps(value), VALUE)


@functools.cache
def _paper_recipe(path: Path, head: str | None) -> dict[str, Any]:
    """The paper's own recipe: recipes have no default values, each field is set in a file."""
    file = project_root() / path
    return plain(load_recipe(file, head=head).to_dict())


def _data(files: ScaleFiles, link: Link) -> Origin:
    """The data of a metric file or training, by the name and digest that it keeps."""
    file, config = link.target, files.config
    label = "measured on" if link.source.path.is_relative_to(files.metrics_folder) else "trained on"
    if file is None:
        return Origin("data", label, {"data": "none needed"})
    facts, faults = {"name": str(link.source.get("data.name"))}, _broken((*link.faults, *_grave(file)))
    if not file.content:
        return Origin("data", label, facts | {"digest": str(link.recorded)} | faults, file.path)
    splits, parts = file.get("splits") or {}, file.get("parts")
    counts = [f"{name} {_number(value)}" for name, value in splits.items()]
    counts += [f"{_number(file.get('images'))} images"] if "images" in file.content else []
    counts += [f"{sum(map(len, parts.values()))} parts"] if isinstance(parts, dict) else []
    counts += [f"{_number(file.get('classes'))} classes"] if "classes" in file.content else []
    made = f"unknown: scale {config.scale} has no data set of this name any more"
    for source in (one for _, one in config.sources if one.name == file.get("name")):
        bundled = MANIFESTS / f"{source.name}.yaml"
        own = f"src/lska/data/manifests/{bundled.name}" if bundled.is_file() else "its layout; it has no manifest"
        made = f"published data, checked against {source.manifest or own}"
        if source.generate is not None:
            made = "generated with " + ", ".join(f"{key} {value}" for key, value in source.generate.items())
    facts |= {
        "digest": f"{link.recorded}" + (", as its record says" if link.recorded == link.found else ""),
        "seal": _seal(file),
        "title": str(file.get("title")),
        "source": f"{file.get('source')}; {file.get('terms')}",
        "counts": ", ".join(counts),
        "made": made,
    }
    return Origin("data", label, facts | faults, file.path, tuple(_origin_of(files, one) for one in link.links))


# --- Words -----------------------------------------------------------------------------------------------------------


def _stated(facts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in facts.items() if text}


def _broken(faults: Iterable[Finding]) -> dict[str, str]:
    """What is wrong or missing, as facts beside the others."""
    told: dict[str, dict[str, None]] = {}
    for one in faults:
        text = f"{one.file.as_posix()}: {one.place} {one.text}".replace(":  ", ": ")
        told.setdefault(str(one.level).upper(), {})[text] = None
    return {level: "; ".join(texts) for level, texts in told.items()}


def _grave(file: CheckedFile) -> tuple[Finding, ...]:
    """What is wrong with a file, or missing."""
    return (*file.faults, *file.of(Level.MISSING))


def _of_missing(links: Iterable[Link]) -> list[Finding]:
    """What is wrong about files that are not named at all."""
    return [fault for link in links if link.target is None for fault in link.faults]


def _seal(file: CheckedFile) -> str:
    """Whether a file is as it was written."""
    if file.get("seal") is None:
        return "none; written before such files were sealed"
    return "BROKEN" if any(fault.place == "seal" for fault in file.faults) else "whole"


def _code(code: Mapping[str, Any] | None) -> str:
    """The commit of a result: whether its sources were changed, and whether it is known here."""
    commit, dirty = (code or {}).get("commit"), (code or {}).get("dirty")
    if not commit:
        return "commit not recorded: measured outside a git checkout"
    clean = {True: "with uncommitted changes", False: "clean"}.get(dirty, "changes not recorded")
    return f"commit {commit}, {clean}; {commit_text(commit)}"


def _versions(environment: Mapping[str, Any] | None) -> str:
    """Lock file, whether it is today's, and the versions that decide numbers."""
    known = environment or {}
    lock, names = known.get("lock"), {"python": "Python", "torch": "torch", "timm": "timm"}
    today = "today's" if lock == lock_digest() else f"not today's {lock_digest()}"
    versions = [f"{shown} {known[name]}" for name, shown in names.items() if known.get(name)]
    return ", ".join([f"lock {lock} ({today})" if lock else "no lock file", *versions])


def _moment(text: object) -> str:
    """`2026-11-23 03:57 UTC` of an ISO time."""
    return f"{str(text)[:16].replace('T', ' ')} UTC" if text else "an unknown time"


def _duration(seconds: object) -> str:
    """Seconds, with minutes or hours where there are many."""
    if not isinstance(seconds, int | float):
        return "an unknown time"
    more = f" ({seconds / 3600:.1f} h)" if seconds >= 7200 else f" ({seconds / 60:.0f} min)" if seconds >= 120 else ""
    return f"{seconds:,.1f} s{more}"


def _number(value: object) -> str:
    """A number with separated thousands; decimals as they are."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else "unknown"


def _with_unit(value: object, unit: str) -> str:
    return f"{value!r} {unit}".strip() if isinstance(value, float) else f"{value} {unit}".strip()


def with_short_digests(text: str) -> str:
    """The text with digests and commits cut to `SHORT` digits."""
    return _LONG.sub(lambda found: (found[1] or "") + found[2][:SHORT], text)


def _tree_lines(origin: Origin, indent: str, last: bool, width: int, told: set[str]) -> Iterator[str]:
    below, place = indent + ("   " if last else "│  "), "" if origin.file is None else origin.file.as_posix()
    content = f"{place} {list(origin.facts.items())}"
    again = bool(place) and content in told
    told.add(content)
    words = [origin.label, "" if place in origin.label else place, "(as above)" if again else ""]
    yield f"{indent}{'└─ ' if last else '├─ '}{' '.join(filter(None, words))}"
    if not again:
        yield from _fact_lines(origin.facts, below + ("│  " if origin.links else "   "), width)
        for inner in origin.links:
            yield from _tree_lines(inner, below, inner is origin.links[-1], width, told)


def _fact_lines(facts: Mapping[str, str], indent: str, width: int) -> Iterator[str]:
    """`name  text`, the texts below each other; a text without a break is not cut."""
    column = min(LONGEST_NAME, max(map(len, facts), default=0)) + 2
    room = max(30, width - len(indent) - column)
    for name, text in facts.items():
        wrapped = textwrap.wrap(with_short_digests(text), room, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(wrapped or [""]):
            yield f"{indent}{'' if number else name:<{column}}{line}".rstrip()
