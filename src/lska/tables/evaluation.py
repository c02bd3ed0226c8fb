"""Tables of networks from elsewhere: one of their own, and their rows beside those of the paper's tables.

They read a folder of metric files as `lska evaluate <protocol> --model ...` leaves it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lska.models.kernels import MODELS
from lska.provenance.errors import InputError
from lska.provenance.files import MissingFileError, read_json
from lska.provenance.sidecars import preprocessing_text
from lska.settings.scale import Config
from lska.settings.tasks import WITHOUT_WEIGHTS
from lska.tables.collect import Cell, State, Table, TableRow, collect, conditions, filled, lacking
from lska.tables.measurements import MetricFolder, PaperValue, measurement_of, read_paper
from lska.tables.specs import TARGETS, ColumnSpec, Row, RowSpec, TableSpec, expand, load_spec
from lska.tables.table_formats import to_markdown, write_formats

logger = logging.getLogger(__name__)

COLUMNS = {
    "table_14": ("Params", "FLOPs", "top-1"), "table_17": ("inference speed",),
    "table_10": (
        "C, mean top-1 of 19", "C, mCE of 15", "C-bar, mean top-1", "A, top-1", "R, top-1", "Sketch, top-1"
    ),
    "table_15": ("shape dimensions", "texture dimensions", "shape bias"), "table_13": ("1-NN top-1, cosine",),
    "table_07": ("r at t=50%", "r at t=99%"),
}  # fmt: skip
"""What the table of networks from elsewhere shows: columns of the paper's tables."""

HARMLESS = {"attention", "kernel_size", "num_classes", "drop_rate", "drop_path_rate"}
"""Settings with which a network still is the paper's."""

COUNTED = "Params, FLOPs: of each network as it is, for images of its own size"

PAPER_SIZE = 224
"""Side in pixels of the images that the paper's classifiers get."""

RANK = ("printed", "derived", "other-paper", "computed")
"""Sources of the paper's values, the best first."""


@dataclass(frozen=True)
class Foreign:
    """A network from elsewhere with its metric files, by task."""

    name: str
    described: Mapping[str, Any]
    """`detail.network` of its metric files."""
    files: Mapping[str, Path]

    @property
    def key(self) -> tuple[str, str | None, int | None]:
        """Model, attention and kernel size, as the rows of tables have them."""
        model, settings = self.described["model"].split(".")[0], self.described["settings"]
        if model not in MODELS:
            return model, None, None
        return model, settings.get("attention", "lska"), settings.get("kernel_size", 23)

    @property
    def as_in_the_paper(self) -> bool:
        """Whether nothing but the weights may differ from the paper's network."""
        return set(self.described["settings"]) <= HARMLESS


def foreign_networks(folder: Path, scale: str) -> list[Foreign]:
    """The networks whose metric files lie in a folder, by name. Files that are of another network or other weights than
    the last one that was measured under a name are left out, with a warning.

    Raises:
        ValueError: there are none, one is damaged or of a scale's run, or they are of another scale's protocols.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in sorted((folder / "metrics").rglob("*.json")):
        task = path.parent.relative_to(folder / "metrics").as_posix()
        files.setdefault(path.stem, {})[task] = path
    if not files:
        raise MissingFileError(f"{folder}: expected results of `lska evaluate ... --model ... --output {folder}`")
    found = []
    for name, own in sorted(files.items()):
        contents = {task: _content(path, MetricFolder(scale, folder), task) for task, path in own.items()}
        last = max(contents, key=lambda task: (task not in WITHOUT_WEIGHTS, contents[task]["started"]))
        kept = {task for task, content in contents.items() if _same_network(task, content, contents[last])}
        if others := [str(path) for task, path in own.items() if task not in kept]:
            logger.warning(
                "%s: left out %s, of another network or other weights than %s; measure it again, or give --name",
                name, ", ".join(others), own[last],
            )  # fmt: skip
        found.append(Foreign(name, contents[last]["detail"]["network"], {task: own[task] for task in sorted(kept)}))
    return found


def _content(path: Path, metrics: MetricFolder, task: str) -> dict[str, Any]:
    content = read_json(path)
    if (content.get("detail") or {}).get("network") is None:
        raise InputError(f"{path}: expected a network from elsewhere (detail.network), found a run of a scale")
    if content.get("scale") != metrics.scale:
        raise InputError(
            f"{path}: was measured by the protocols and on the data of scale {content.get('scale')}, and this is "
            f"scale {metrics.scale}; take another folder, or the configuration of that scale"
        )
    return metrics.read(task, path.stem)


def _same_network(task: str, content: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether a metric file is of the network and, where its task depends on them, of the weights of the `last` one."""
    own, other = content["detail"]["network"], last["detail"]["network"]
    alike = all(own[part] == other[part] for part in ("model", "settings", "classes", "preprocessing"))
    return alike and (task in WITHOUT_WEIGHTS or content["weights"]["md5"] == last["weights"]["md5"])


def write_evaluation(config: Config, folder: Path, paper: Path = Path("paper")) -> str:
    """Write the table of the networks in a folder as `evaluation.md`, `.csv`, `.html` and `.tex` into it; returns it as
    Markdown, with the places."""
    table = evaluation_table(config, folder, paper)
    return "\n".join([to_markdown(table), *map(str, write_formats(table, folder))])


def evaluation_table(config: Config, folder: Path, paper: Path = Path("paper")) -> Table:
    """The networks in a folder with all that was measured of them, beside the paper's values of the same networks.

    A value is compared with the paper's where network and data are the paper's; others are shown for reference.
    """
    networks = foreign_networks(folder, config.scale)
    measured = {task for network in networks for task in network.files}
    columns, notes = [], [COUNTED]
    for target, labels in COLUMNS.items():
        shown = load_spec(target)
        own = [one for one in shown.columns if one.label in labels and one.task in measured]
        # Counts are those of these networks, with digits enough for small ones.
        counted = {"measured_on": "every seed", "digits": 3}
        columns += [replace(one, **(counted if one.measured_on == "architecture" else {})) for one in own]
        heads = {note: note.partition(":")[0].split(", ") for note in shown.notes}
        notes += [note for note, head in heads.items() if any(part in one.label for part in head for one in own)]
    prepared: dict[str, list[str]] = {}
    for network in networks:
        text = preprocessing_text(network.described["preprocessing"])
        prepared.setdefault(text.replace(" ", ", ").replace("=", " ").replace("_", " "), []).append(network.name)
    notes += [f"Images for {', '.join(names)}: {text}" for text, names in prepared.items()]
    spec = TableSpec(
        "evaluation", "Networks from elsewhere by the paper's protocols", "network", (), tuple(columns), "", "none",
        notes=tuple(notes),
    )  # fmt: skip
    printed = _printed(config, paper)
    rows = [_row(network, network.name, columns, config.scale, folder, {}, printed) for network in networks]
    return Table(spec, config.scale, f"Protocols and data of {config.caption}", tuple(rows))


def with_foreign_rows(table: Table, folders: Sequence[Path]) -> Table:
    """A table with the networks of folders below its own rows; those of which no cell is measured are left out."""
    options = list(dict.fromkeys(tuple(row.source.values.items()) for row in table.rows if row.source is not None))
    added = []
    for folder in folders:
        for network in foreign_networks(folder, table.scale):
            for values in map(dict, options):
                label = ", ".join([f"yours: {network.name}", *map(str, values.values())])
                row = _row(network, label, table.spec.columns, table.scale, folder, values, {})
                added += [row] if any(cell.files for cell in row.cells) else []
    counts = {column.label for column in table.spec.columns if column.measured_on == "architecture"}
    counted = any(cell.files and cell.column in counts for row in added for cell in row.cells)
    notes = (*table.spec.notes, *([f"yours, {COUNTED}"] if counted else []))
    return replace(table, spec=replace(table.spec, notes=notes), rows=(*table.rows, *added))


def table_beside(target: str, config: Config, folders: Sequence[Path], paper: Path = Path("paper")) -> Table:
    """A table of a scale, from the metric files that are there, with the networks of folders below its rows; raises as
    `collect`."""
    return with_foreign_rows(collect(load_spec(target), config, paper, config.results, gaps=True), folders)


Printed = Mapping[tuple[Any, str, str], tuple[PaperValue, ColumnSpec]]


def _printed(config: Config, paper: Path) -> Printed:
    """The paper's values of all its networks by network, task and metric, with the columns that compare them."""
    found: dict[tuple[Any, str, str], tuple[PaperValue, ColumnSpec]] = {}
    for target in (target for target in TARGETS if target.startswith("table_")):
        spec = load_spec(target)
        values = read_paper(paper / f"{spec.paper}.csv")
        for row in expand(spec, config):
            if row.model is None or row.spec.control or row.values:
                continue
            for column in (one for one in spec.columns if row.applies(one)):
                entry = values.get((row.paper_label, column.paper_label or column.label))
                if entry is None or entry.value is None or column.label in row.spec.counted_otherwise:
                    continue
                key = ((row.model, row.attention, row.kernel), column.task, column.metric)
                if key not in found or _rank(entry) < _rank(found[key][0]):
                    found[key] = entry, column
    return found


def _rank(entry: PaperValue) -> int:
    return RANK.index(entry.source.partition(":")[0])


def _row(
    network: Foreign, label: str, columns: Sequence[ColumnSpec], scale: str, folder: Path,
    values: Mapping[str, Any], printed: Printed,
) -> TableRow:  # fmt: skip
    model, attention, kernel = network.key
    spec = RowSpec(label.replace("{", "{{").replace("}", "}}"), values={name: (one,) for name, one in values.items()})
    row = Row(label, label, spec, model, attention, kernel, None, dict(values))
    return TableRow(label, tuple(_cells(network, row, columns, MetricFolder(scale, folder), printed)), row)


def _cells(
    network: Foreign, row: Row, columns: Sequence[ColumnSpec], metrics: MetricFolder, printed: Printed
) -> Iterator[Cell]:
    for column in columns:
        task, metric = row.task(column), column.metric.format(**row.values)
        cell = Cell(row.label, column.label, State.NOT_RUN, column.unit, column.digits)
        if task not in network.files:
            yield cell
            continue
        path, content = network.files[task], metrics.read(task, network.name)
        if metric not in content["metrics"]:
            yield replace(cell, state=State.NOT_APPLICABLE)
            continue
        found = measurement_of(content, metric, path, nullable=True)
        data = () if found.data is None else (found.data,)
        cell = replace(cell, n=1, files=(path,), data=data, conditions=conditions(content, path, column))
        if found.value is None:
            yield lacking(replace(cell, state=State.NOT_APPLICABLE), column, [content])
            continue
        entry, compared = printed.get((network.key, task, metric), (None, column))
        if entry is not None:
            paper = {"paper": entry.value, "paper_source": entry.source, "paper_detail": entry.detail}
            cell = replace(cell, **paper, other_data=not _comparable(network, compared, data))
        cell = filled(cell, replace(compared, label=column.label, digits=column.digits), [found])
        yield replace(cell, state=State.FOREIGN) if entry is None else cell


def _comparable(network: Foreign, column: ColumnSpec, data: tuple[str, ...]) -> bool:
    """Whether a value is of the paper's network and, by what it was measured on, the paper's quantity."""
    counted = network.described["classes"] == 1000 or column.measured_on != "architecture"
    same_images = network.described["preprocessing"]["image_size"] == PAPER_SIZE and column.data in (None, *data)
    return network.as_in_the_paper and counted and same_images
