"""A small project with invented results of the demo's configuration, their site, and a reader of its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from table_helpers import put_required

from lska.claims.listing import claim_files
from lska.claims.verdicts import Verdict
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import file_md5, project_root
from lska.report.site import build_site, render_notebooks
from lska.report.site_paths import site_path
from lska.settings.scale import Config, load
from lska.tables.specs import TARGETS
from lska.tables.table_formats import build_table

LINKED = ("config", "paper", "envs", "notebooks", "workflow", "src", "Snakefile")
DRAWN = ("figure_01", "figure_03")
"""Figures that are really drawn; drawing all takes ten seconds."""


def link_project(folder: Path) -> None:
    """Put what commands read of the project into `folder`."""
    for name in LINKED:
        (folder / name).symlink_to(project_root() / name)


FEW = ("table_03", "table_12", "figure_06")


def fill(config: Config, targets: Sequence[str] = FEW, drawn: Sequence[str] = ()) -> None:
    """Invent results in the working folder: metric files of `targets`, tables, figures `drawn`, sidecars, notebooks."""
    for target in targets:
        put_required(target, config)
    for target in targets:
        if target.startswith("table") or target in drawn:
            build_table(target, config)
    put_sidecars(config)
    put_records(config)
    for target in ("table_03", "figure_01"):
        put_notebook(config, target)
    render_notebooks(config)
    put_claims(config)


def put_claims(config: Config) -> None:
    """Invented claims, one of each verdict, in the form of `snakemake claims`."""
    made = [claim(f"R{number:02}", str(verdict), config) for number, verdict in enumerate(Verdict, start=1)]
    counts = {str(verdict): 1 for verdict in Verdict}
    about = {"schema": 1, "scale": config.scale, "caption": config.caption}
    content = {**about, "counts": counts, "trainings": {}, "claims": made}
    write_json(claim_files(config.results)[0], content)


def claim(name: str, verdict: str, config: Config) -> dict[str, Any]:
    measured = "holds" if verdict == Verdict.DISAGREE else verdict
    file = config.metric_path("classification", config.runs[0]).as_posix()
    comparison = {
        "text": f"top1({name}) > 0", "sign": ">", "tolerance": None, "left": 81.0, "right": 82.5, "difference": -1.5,
        "unit": "%", "standard_error": 0.75, "interval": [-3.0, 0.25], "p": 0.04, "detectable": 2.1,
        "verdict": measured, "basis": "paired over 500 images",
    }  # fmt: skip
    quantity = {
        "name": f"classification.top1 of {name}", "value": 81.0, "unit": "%", "standard_error": 1.75, "n": 1500,
        "runs": [str(config.runs[0])], "seeds": [0], "files": [file], "data": ["shapes"], "hardware": ["cpu"],
    }  # fmt: skip
    run = verdict != Verdict.NOT_RUN
    return {
        "id": name, "source": "Table III", "statement": f"Statement {name} of the paper", "verdict": verdict,
        "predicate": f"classification.top1(van_tiny-lska-k{int(name[1:])}) > 0", "measured": measured,
        "paper_numbers": "agree",
        "note": f"Note {name}.", "basis": "paired", "comparisons": [comparison] * run, "quantities": [quantity] * run,
        "missing": [] if run else ["classification of some network"],
    }  # fmt: skip


def put_sidecars(config: Config, device: str = "cpu", **more: Any) -> None:
    """Sidecars of all pretrained networks, each of 110 seconds."""
    for run in config.runs:
        environment = {"device": device, "hardware": "Some Chip", "torch": "2", "lock": None}
        content = {
            "run": str(run), "md5": f"md5 of {run}", "origin": "trained", "seconds": 110.0, "environment": environment,
            "code": {"commit": "c" * 40, "dirty": True}, "finished": "2026-01-02T00:00:00+00:00", "updates": 1234,
            "images_seen": 56789, "spec": config.classifier(run).spec(), "recipe": config.classifier(run).digest(),
            **more,
        }  # fmt: skip
        write_json(config.weights_path(run).with_suffix(".json"), content)


def put_records(config: Config) -> None:
    content = {"name": "shapes", "digest": "sha256:" + "0" * 64, "splits": {"val": 500}, "title": "shapes <b>bold</b>"}
    write_json(config.results / "data" / "shapes.json", content)


def put_notebook(config: Config, target: str, text: str = "1 < 2 & <script>alert(1)</script>") -> Path:
    """An executed notebook that printed `text`."""
    output = new_output("stream", name="stdout", text=text)
    cells = [
        new_markdown_cell(f"# Notebook of {target}", id="a"),
        new_code_cell("answer = 42\nprint(answer)", id="b", execution_count=1, outputs=[output]),
    ]
    path = config.results / "notebooks" / f"{target}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"duration": 1.5}}), path)
    return path


def full_site() -> Config:
    """Everything in the working folder, and the site; returns the configuration."""
    link_project(Path())
    # All of the demo but one network of Table XVII.
    first, *others = read_yaml(Path("config/demo.yaml"))["runs"]
    less = {**first, "attention": "lka_trivial", "kernel": first["kernel"][:-1]}
    rest = {**first, "attention": [name for name in first["attention"] if name != "lka_trivial"]}
    config = load([Path("config/demo.yaml")], {"runs": [less, rest, *others]})
    fill(config, TARGETS, DRAWN)
    build_site(config)
    return config


def read(page: Path) -> SimpleNamespace:
    """What a page links to, loads and names, and its text with single spaces."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    tags = soup(True)
    loads = [tag.get("src") or tag["href"] for tag in tags if tag.name != "a" and (tag.get("src") or tag.get("href"))]
    loads += [part.split()[0] for tag in soup(srcset=True) for part in tag["srcset"].split(",") if part.strip()]
    return SimpleNamespace(
        links=[tag["href"] for tag in soup("a", href=True)],
        loads=loads,
        ids=[tag["id"] for tag in soup(id=True)],
        scripts=len(soup("script")),
        handlers=[name for tag in tags for name in tag.attrs if name.startswith("on")],
        headings=soup("h1"),
        text=" ".join(soup.get_text(" ").split()),
    )


def pages_of(config: Config) -> dict[str, SimpleNamespace]:
    """All pages of the built site by name."""
    return {path.name: read(path) for path in sorted(folder_of(config).glob("*.html"))}


def broken(folder: Path, pages: dict[str, SimpleNamespace]) -> Iterator[str]:
    """Links and loads that lead nowhere, or out of the site but for links to other sites."""
    for name, page in pages.items():
        for address in (*page.links, *page.loads):
            parts = urlsplit(address)
            if parts.scheme == "data" or (parts.scheme in ("http", "https") and address in page.links):
                continue
            target = (folder / name if parts.path == "" else folder / unquote(parts.path)).resolve()
            inside = not parts.scheme and not parts.netloc and target.is_relative_to(folder.resolve())
            if not inside or not target.is_file():
                yield f"{name}: {address}"
            elif parts.fragment and unquote(parts.fragment) not in pages[target.name].ids:
                yield f"{name}: no place {parts.fragment} in {target.name}"


def details(page: Path) -> dict[str, Any]:
    """The details of the cells of a page."""
    text = page.read_text(encoding="utf-8").split('class="details">', 1)[1]
    return json.loads(text.split("</script>", 1)[0])


def folder_of(config: Config) -> Path:
    return site_path(config.results).parent


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_md5(path) for path in folder.rglob("*") if path.is_file()}
