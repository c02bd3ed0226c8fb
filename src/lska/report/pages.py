"""Which pages a site has, with the template of each and what is put into it. Another page is one more function here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.claims.listing import parse
from lska.claims.summaries import headlines
from lska.claims.verdicts import MARKS, Verdict
from lska.claims.verdicts import MEANING as VERDICT_MEANING
from lska.provenance.files import read_table
from lska.provenance.metric_files import lock_digest, project_root
from lska.report import costs
from lska.report.front_page import citations, key_numbers, main_claims
from lska.report.gather import Results, Target, cell_details, site_copy
from lska.report.network_pages import PROTOCOLS, network_name, network_pages, network_results
from lska.report.site_paths import TabledScale, tabled_scales
from lska.settings.tasks import CONTROL
from lska.tables.cell_text import cell_text, facts, legend, shown
from lska.tables.collect import State, pool
from lska.tables.specs import TARGETS, ColumnSpec, TableSpec, data_names, display_names, load_spec

if TYPE_CHECKING:
    from markupsafe import Markup

KEY_FIGURE, DRAWING = "figure_06", "figure_02"
"""What the first page shows: accuracy and cost against the kernel size, and the designs of the attention."""

LONG = 20
"""Rows of the longest table that a figure's page shows unfolded."""

TITLE = "Large Separable Kernel Attention, reproduced"

READ_COLUMNS = ("row", "column", "state", "value", "deviation", "standard_error", "data", "paper")
"""Those of a table's file that the page of scales reads."""

LOCK = project_root() / "envs" / "requirements.txt"


@dataclass(frozen=True)
class Page:
    """A page: its file in the folder of the site, its title, its template and what that gets."""

    name: str
    title: str
    template: str
    content: dict[str, Any] = field(default_factory=dict)
    menu: str = ""
    """What the menu calls it; pages without stand below another."""
    above: str = ""
    """The page in the menu that this one belongs to; itself where empty."""

    @property
    def section(self) -> str:
        """The page that the menu marks as the current one."""
        return self.above or self.name


def all_pages(results: Results) -> Iterator[Page]:
    """All pages of a site, those in the menu in its order."""
    what = (_overview, _accounting, _networks, _claims, _tables, _figures, _notebooks, _scales)
    how = (_workflow, _costs, _environment)
    for make in (*what, *how):
        yield from make(results)


def downloads(results: Results) -> dict[Path, str]:
    """Files that are copied into the site, with their places there: tables and figures, and what numbers rest on."""
    written = [path for target in results.targets for path in target.files]
    printed = [path for target in results.targets if (path := Path("paper") / f"{target.spec.paper}.csv").is_file()]
    evidence = (*results.metrics, *results.sidecars, *results.records, *printed)
    copied = {path: site_copy(path, results.config) for path in (*written, *evidence)}
    return copied | ({LOCK: "files/requirements.txt"} if LOCK.is_file() else {})


# ------------------------------------------------------------------------------------------------------- the first page


def _overview(results: Results) -> Iterator[Page]:
    figures = {target.name: (target, _pictures(target, results)) for target in results.of("figure")}
    content = {
        "key_numbers": key_numbers(results, agreement(results)),
        "key_figure": figures[KEY_FIGURE],
        "key_facts": facts(figures[KEY_FIGURE][0].table) if figures[KEY_FIGURE][0].table else (),
        "drawing": figures[DRAWING],
        "main_claims": main_claims(results.claims),
        "networks": _network_table(results),
        "citations": citations(),
        "weights": results.config.checkpoints.as_posix(),
    }
    yield Page("index.html", TITLE, "overview.html", content, menu="Overview")


def _accounting(results: Results) -> Iterator[Page]:
    verdicts = claim_groups(results.claims)
    # Counts need no data, and have one file whatever the seeds.
    measured = {content["run"] for content in results.metrics.values() if content["data"]}
    content = {
        "agreement": agreement(results),
        "elsewhere": measured_elsewhere(results),
        "seeds": max(Counter(run.rpartition("-s")[0] for run in measured).values(), default=0),
        "verified": results.verified,
        "states": _count_states(target for target in results.of("table")),
        "tallies": _tallies(results.targets),
        "verdicts": verdicts,
        "kinds": _kinds(verdicts),
    }
    yield Page("reproduced.html", "What was reproduced", "reproduced.html", content, menu="What was reproduced")


def _networks(results: Results) -> Iterator[Page]:
    names = network_pages(results)
    for network in network_results(results):
        title, name = f"{network.name}, by every protocol", names[network.run.network]
        yield Page(name, title, "network.html", {"network": network}, above="index.html")


def agreement(results: Results) -> dict[str, dict[str, int]]:
    """How many of the cells that can be compared are reproduced: of those that follow from an architecture, with what
    the `paper` prints or states, with counts made on the official `code`, and with `others`' papers; and, apart, of
    those that were `measured` as the paper did."""
    sources = {"printed": "paper", "derived": "paper", "computed": "code"}
    found = {source: {"reproduced": 0, "compared": 0} for source in ("paper", "code", "others", "measured")}
    for target in results.of("table"):
        columns = {column.label: column for column in target.spec.columns}
        for cell in target.cells:
            if cell.state in (State.REPRODUCED, State.DEVIATES):
                counted = columns[cell.column].data is None
                source = found[sources.get(cell.paper_source or "", "others") if counted else "measured"]
                source["compared"] += 1
                source["reproduced"] += cell.state is State.REPRODUCED
    return found


def measured_elsewhere(results: Results) -> tuple[int, int]:
    """Number of cells that were measured on other data or a shrunken model, and of those with a value of the paper
    beside them; controls are no entries of the paper."""
    elsewhere = [cell for cell in results.cells if cell.other_data and cell.state is not State.CONTROL]
    found = [cell for cell in elsewhere if cell.value is not None]
    return len(found), sum(cell.paper is not None for cell in found)


def _count_states(targets: Iterable[Target]) -> dict[State, int]:
    """Number of cells in each state, in the order of `State`; zero where none is."""
    found = Counter(cell.state for target in targets for cell in target.cells)
    return {state: found[state] for state in State}


def _tallies(targets: Iterable[Target]) -> dict[str, Any]:
    """Targets with their cells by state: by those that occur, and `deviates`, whose absence says something."""
    counts = [(target, _count_states([target])) for target in targets]
    states = [state for state in State if state is State.DEVIATES or any(found[state] for _, found in counts)]
    return {"states": states, "targets": counts}


def _network_table(results: Results) -> dict[str, Any]:
    """Top-1 of every network, AP or mIoU of every fine-tuned one, in percent: a row per network that has a page, a
    column per metric with its data; over seeds, with their deviation, where there are several, else with the standard
    error."""
    config, heads, pages = results.config, display_names()["heads"], network_pages(results)
    measured = [("classification", run, {"top-1": "top1"}) for run in config.runs]
    measured += [(job.task, job.run, headlines(job.task)) for job in config.fine_tunings]
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {
        (network_name(run), pages[run.network]): {} for run in config.runs if run.network in pages
    }
    columns: dict[str, dict[str, None]] = {}
    for task, run, metrics in measured:
        content = results.metrics.get(config.metric_path(task, run), {})
        head = task.partition("/")[2].removesuffix(CONTROL)
        name = network_name(run) + (", random backbone" if task.endswith(CONTROL) else "")
        for label, metric in metrics.items():
            entry = content.get("metrics", {}).get(metric) or {}
            if entry.get("value") is not None:
                column = f"{heads.get(head, head)} {label}".strip()
                found.setdefault((name, pages[run.network]), {}).setdefault(column, []).append(entry)
                columns.setdefault(column, {})[(content.get("data") or {}).get("name", "")] = None

    def pooled(entries: list[Mapping[str, Any]]) -> str:
        if not entries:
            return ""
        over = pool([entry["value"] for entry in entries], [entry.get("standard_error") for entry in entries])
        return shown(over.mean, decimals=1, spread=over.error)

    return {
        "columns": {column: data_names(names) for column, names in columns.items()},
        "rows": {name: [pooled(cells.get(column, [])) for column in columns] for name, cells in found.items()},
    }


# ------------------------------------------------------------------------------------------------------------- claims

KINDS = {
    "counted": "from the paper's own architectures, without data",
    "measured": "on the networks and data of this scale",
    "not testable": "about networks or numbers that this project does not have",
}


def _claims(results: Results) -> Iterator[Page]:
    groups, known = claim_groups(results.claims), {p.as_posix(): site_copy(p, results.config) for p in results.metrics}
    about = {subject for group in groups for claim in group["claims"] for subject in subjects_of_claim(claim)}
    content = {"claims": results.claims, "groups": groups, "kinds": _kinds(groups), "known": known}
    content["subjects"] = [subject for subject in PROTOCOLS.values() if subject in about]
    yield Page("claims.html", "What the paper claims, and what came out", "claims.html", content, menu="Claims")


def kind_of_claim(claim: Mapping[str, Any]) -> str:
    """What a claim's verdict rests on, one of `KINDS`; ValueError where its predicate cannot be read."""
    if not claim["predicate"]:
        return "not testable"
    quantities = (quantity for one in parse(claim["predicate"]) for quantity in one.quantities)
    return "counted" if all(quantity.counted for quantity in quantities) else "measured"


def subjects_of_claim(claim: Mapping[str, Any]) -> list[str]:
    """What a claim compares, of `PROTOCOLS`; nothing where it has no predicate."""
    comparisons = parse(claim["predicate"]) if claim["predicate"] else ()
    tasks = {quantity.task.partition("/")[0] for one in comparisons for quantity in one.quantities}
    return [subject for task, subject in PROTOCOLS.items() if task in tasks]


def claim_groups(content: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Claims by verdict, with how many of each of `KINDS`; empty groups are left out."""
    claims, groups = content["claims"] if content else [], []
    for verdict in Verdict:
        members = [claim for claim in claims if claim["verdict"] == verdict]
        about = {"verdict": verdict, "sign": MARKS[verdict], "meaning": VERDICT_MEANING[verdict]}
        groups += [{**about, "claims": members, "kinds": Counter(map(kind_of_claim, members))}] if members else []
    return groups


def _kinds(groups: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The kinds of claims that occur, with their meaning."""
    return {kind: meaning for kind, meaning in KINDS.items() if any(group["kinds"][kind] for group in groups)}


# -------------------------------------------------------------------------------------- tables, figures and notebooks


def _tables(results: Results) -> Iterator[Page]:
    tables = results.of("table")
    content = {"tallies": _tallies(tables), "states": _count_states(tables)}
    yield Page("tables.html", "The tables", "tables.html", content, menu="Tables")
    yield from _targets(results, "table")


def _figures(results: Results) -> Iterator[Page]:
    content = {"targets": [(target, _pictures(target, results)) for target in results.of("figure")]}
    yield Page("figures.html", "The figures", "figures.html", content, menu="Figures")
    yield from _targets(results, "figure")


def _targets(results: Results, kind: str) -> Iterator[Page]:
    found = results.of(kind)
    for before, target, after in zip((None, *found), found, (*found[1:], None), strict=False):
        question, _, explanation = target.spec.explanation.strip().partition("\n\n")
        content = {
            "target": target,
            "question": markdown(question),
            "explanation": markdown(explanation),
            "view": _view(target, results),
            "states": _count_states([target]),
            "files": [(path.suffix[1:].upper(), site_copy(path, results.config)) for path in target.files],
            "pictures": _pictures(target, results),
            "before": before,
            "after": after,
            "long": LONG,
        }
        title = f"{target.spec.number}. {target.spec.title}"
        yield Page(f"{target.name}.html", title, f"{kind}.html", content, above=f"{kind}s.html")


def _view(target: Target, results: Results) -> dict[str, Any] | None:
    """What stands around the cells of a table: sentences of its caption without number and title, which the page itself
    has; the widest mark and value of the paper in each column, whose room its cells keep, so that numbers stand below
    each other; the details of each cell; and the page of each row's network, if it has one."""
    if target.table is None:
        return None
    networks = network_pages(results)
    columns = [list(map(cell_text, column)) for column in zip(*(row.cells for row in target.table.rows), strict=True)]
    return {
        "table": target.table,
        "facts": facts(target.table),
        "legend": legend(target.table),
        "marks": [max((text.mark for text in column), key=len) for column in columns],
        "papers": [max((text.paper for text in column), key=len) for column in columns],
        "details": cell_details(target.table, results),
        "networks": [networks.get(row.source.network) if row.source else None for row in target.table.rows],
    }


def _pictures(target: Target, results: Results) -> dict[str, str]:
    """Places of a figure's pictures by format."""
    pictures = [path for path in target.files if path.suffix in (".svg", ".png")]
    return {path.suffix[1:]: site_copy(path, results.config) for path in pictures}


def markdown(text: str) -> Markup:
    """Prose of a spec as HTML; HTML inside of it is shown as text."""
    import mistune
    from markupsafe import Markup

    return Markup(mistune.create_markdown(escape=True, plugins=["table"])(text))


def _notebooks(results: Results) -> Iterator[Page]:
    from markupsafe import Markup

    durations = {job.made: job.seconds for job in costs.recorded_notebooks(results.executed)}
    content = {"targets": results.targets, "durations": durations}
    yield Page("notebooks.html", "The notebooks", "notebooks.html", content, menu="Notebooks")
    for target in results.targets:
        if target.notebook is not None:
            # Rendered from the notebook by nbconvert, which escapes what is not HTML already.
            content = {"target": target, "cells": Markup(target.notebook.read_text(encoding="utf-8"))}
            title = f"Notebook of {target.spec.number}"
            yield Page(f"notebook_{target.name}.html", title, "notebook.html", content, above="notebooks.html")


# ------------------------------------------------------------------------------------- how, where, at what cost


def _scales(results: Results) -> Iterator[Page]:
    found = tabled_scales()
    content = {"scales": found, "comparisons": compare_scales(found)}
    yield Page("scales.html", "The same cells at several scales", "scales.html", content, menu="Scales")


def compare_scales(scales: Sequence[TabledScale]) -> list[dict[str, Any]]:
    """The tables that have cells measured at two of the scales or more: `spec`; `lines` with `row`, `column`, `paper`
    and, for each scale, value and data, or None where the cell was not measured there; and the number of cells that are
    `equal` at all of them because they depend on no data.

    Raises:
        ValueError: a table's file lacks a column.
    """
    if len(scales) < 2:
        return []
    made = [_compared(load_spec(name), scales) for name in TARGETS if name.startswith("table")]
    return [one for one in made if one["lines"] or one["equal"]]


def _compared(spec: TableSpec, scales: Sequence[TabledScale]) -> dict[str, Any]:
    tables: list[dict[tuple[str, str], Mapping[str, str]]] = []
    for path in (scale.tables / f"{spec.target}.csv" for scale in scales):
        lines = read_table(path, READ_COLUMNS, filled=()) if path.exists() else []
        tables.append({(line["row"], line["column"]): line for _, line in lines if line["state"] != "reference"})
    columns = {column.label: column for column in spec.columns}
    compared, equal = [], 0
    for row, label in dict.fromkeys(key for table in tables for key in table):
        records, column = [table.get((row, label)) for table in tables], columns[label]
        values = [record["value"] for record in records if record and record["value"]]
        if len(values) < 2:
            continue
        if column.data is None and len(set(values)) == 1:
            equal += 1
            continue
        paper = next((record["paper"] for record in records if record and record["paper"]), "")
        unit = "" if column.unit in ("", "1") else f", {column.unit}"
        cells = [_shown_record(record, column) for record in records]
        compared.append({"row": row, "column": label + unit, "cells": cells, "paper": paper})
    return {"spec": spec, "lines": compared, "equal": equal}


def _shown_record(record: Mapping[str, str] | None, column: ColumnSpec) -> tuple[str, str] | None:
    if record is None or not record["value"]:
        return None
    spread = record["deviation"] or record["standard_error"]
    try:
        value = shown(float(record["value"]), decimals=column.digits, spread=float(spread) if spread else None)
    except ValueError:
        value = record["value"]
    return value, data_names(record["data"].split(";"))


def _workflow(results: Results) -> Iterator[Page]:
    # What each stage of the workflow has made, as the records tell.
    trained = Counter(job.task for job in costs.recorded_trainings(results))
    imported = sum(content.get("origin", "trained") != "trained" for content in results.sidecars.values())
    made = {
        "data": Counter(str(record.get("name") or path.stem) for path, record in results.records.items()),
        "training": Counter({"network": trained.pop(costs.TRAINING, 0), "imported": imported}),
        "tuning": Counter({task.removeprefix(costs.TUNING).strip(): count for task, count in trained.items()}),
        "measuring": Counter(content["task"].removesuffix(CONTROL) for content in results.metrics.values()),
        "tables": Counter(target.name.partition("_")[0] for target in results.targets if target.files),
        "claims": Counter(str(claim["verdict"]) for claim in (results.claims or {"claims": ()})["claims"]),
    }
    needs = [(target, _needs(target, results)) for target in results.targets if target.cells]
    content = {"made": made, "needs": needs, "notebooks": len(results.executed), "scales": len(tabled_scales())}
    yield Page("workflow.html", "From images to tables", "workflow.html", content, menu="Workflow")


def _needs(target: Target, results: Results) -> Counter[str]:
    """What a table or figure rests on: data sets, networks, fine-tunings of these, and metric files by task."""
    files = dict.fromkeys(path for cell in target.cells for path in cell.files)
    contents = [results.metrics[path] for path in files if path in results.metrics]
    by_md5 = {content["md5"]: content for content in results.sidecars.values()}
    found = {md5 for content in contents if (md5 := content["weights"]["md5"]) in by_md5}
    tuned = {md5 for md5 in found if "backbone" in by_md5[md5]}
    # Controls start from a random backbone, which is none of the networks.
    backbones = {(by_md5[md5]["backbone"] or {}).get("md5") for md5 in tuned}
    data = {content["data"]["name"] for content in contents if content["data"]}
    counts = {"data set": len(data), "network": len((found - tuned) | (backbones & set(by_md5)))}
    counts[costs.TUNING] = len(tuned)
    return Counter(counts) + Counter(content["task"].removesuffix(CONTROL) for content in contents)


def _costs(results: Results) -> Iterator[Page]:
    content = {"tasks": costs.recorded_jobs(results), "trainings": list(costs.recorded_trainings(results))}
    yield Page("costs.html", "What it cost", "costs.html", content, menu="Costs")


def _environment(results: Results) -> Iterator[Page]:
    def commit(content: Mapping[str, Any]) -> str:
        code = content.get("code") or {}
        return f"{code['commit']}{', with changes' if code.get('dirty') else ''}" if code.get("commit") else "unknown"

    def machine(content: Mapping[str, Any]) -> str:
        known, names = content.get("environment") or {}, {"python": "Python", "torch": "PyTorch", "timm": "timm"}
        versions = [f"{name} {known[key]}" for key, name in names.items() if known.get(key)]
        return ", ".join([" on ".join(str(known[key]) for key in ("device", "hardware") if known.get(key)), *versions])

    def lock(content: Mapping[str, Any]) -> str:
        return str((content.get("environment") or {}).get("lock") or "unknown")

    groups = {"Commit": commit, "Machine and versions": machine, "Lock file": lock}
    content = {
        "groups": {heading: _by_origin(results, origin) for heading, origin in groups.items()},
        "lock": lock_digest(),
        "verified": results.verified,
        "data_sets": [(record.get("name") or path.stem, record) for path, record in results.records.items()],
    }
    yield Page("environment.html", "Where it was made", "environment.html", content, menu="Environment")


def _by_origin(results: Results, origin: Callable[[Mapping[str, Any]], str]) -> list[dict[str, Any]]:
    """Numbers of metric files and sidecars by where they come from, with the days of the first and last of them; the
    most first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, contents in (("measured", results.metrics), ("trained", results.sidecars)):
        for content in contents.values():
            day = str(content.get("started") or content.get("finished") or "")[:10]
            found.setdefault(origin(content), []).append((kind, day))
    groups = []
    for name, files in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        kinds, days = Counter(kind for kind, _ in files), sorted(day for _, day in files if day) or [""]
        groups.append({"name": name, **{kind: kinds[kind] for kind in ("measured", "trained")}, "days": days})
    return groups
