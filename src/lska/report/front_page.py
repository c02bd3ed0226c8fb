"""What the first page shows of a scale: five numbers, the paper's main claims in a line each, and how to cite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lska.claims.claims_page import few
from lska.claims.listing import MAIN_CLAIMS, parse
from lska.claims.summaries import headlines
from lska.claims.verdicts import MARKS, Numbers, Unavailable, Verdict, combine
from lska.models.runs import Run
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.report.gather import Results
from lska.report.network_pages import network_name
from lska.settings.scale import Config
from lska.tables.cell_text import shown
from lska.tables.specs import data_names, display_names

CITATION = project_root() / "CITATION.cff"

USUAL = 23
"""The kernel size at which the paper compares LSKA with LKA in all sizes."""

SIDES = {"A3": "dimensions of shape less those of texture, VAN-Tiny LSKA: {left} at k = 7, {right} at k = 53"}
"""What a main claim of a single comparison compares, in a reader's words."""


@dataclass(frozen=True)
class KeyNumber:
    """A number that a reader decides by, and the page that has more."""

    title: str
    value: str
    about: str
    """What it is of, or why a scale cannot have it."""
    page: str
    error: str = ""
    """Its interval, and what that rests on."""


NOT_RUN = "not run"


# Five numbers.


def key_numbers(results: Results, agreement: Mapping[str, Mapping[str, int]]) -> list[KeyNumber]:
    """Accuracy of LSKA over LKA; growth of its cost, robustness and share of shape with the kernel size; and counts
    that are those of the paper (of `agreement`). All of the first network of the scale that has both attentions.

    Raises:
        ValueError: a metric file is faulty; names it.
    """
    counted = agreement["paper"]
    counts = f"{counted['reproduced']} of {counted['compared']}" if counted["compared"] else NOT_RUN
    about = "parameters and FLOPs that the paper prints, counted on its own networks"
    return [
        _accuracy(results.config),
        _cost(results.config),
        _robustness(results.config),
        _shape(results.config),
        KeyNumber("Counts reproduced", counts, about, "reproduced.html"),
    ]


def _accuracy(config: Config) -> KeyNumber:
    title, page, runs = "Accuracy, LSKA over LKA", "figure_06.html", config.runs_of("classification")
    both = [run for run in runs if run.attention == "lska" and _like(run, attention="lka") in map(_like, runs)]
    if not both:
        return KeyNumber(title, NOT_RUN, f"scale {config.scale} has no network with both", page)
    run = next((one for one in both if (one.model, one.kernel) == (both[0].model, USUAL)), both[0])
    about = f"top-1, {_model(run)}, k = {run.kernel}"
    return _gap(config, title, "classification", "top1", run, _like(run, attention="lka"), about, page)


def _cost(config: Config) -> KeyNumber:
    """Of the paper's own architecture, which is counted at every scale."""
    title, page = "Cost, as the kernel grows", "figure_03.html"
    ends = _ends(config, "classification")
    if ends is None:
        return _without_ends(config, title, page)
    small, large = ends
    growth, numbers = {}, Numbers(config)
    for attention in ("lska", "lka", "lka_trivial"):
        sides = [_quantity("complexity", "flops", _like(run, attention=attention)) for run in (large, small)]
        try:
            growth[attention] = f"× {shown(numbers.difference(f'{sides[0]} / {sides[1]} > 0')[0].left, decimals=2)}"
        except Unavailable:
            continue
    names = display_names()["attentions"]
    others = " and ".join(f"{growth[name]} with {names[name]}" for name in ("lka", "lka_trivial") if name in growth)
    about = f"FLOPs of the paper's {_model(small)} with LSKA from k = {small.kernel} to {large.kernel}" + (
        f"; {others}" if others else ""
    )
    return KeyNumber(title, growth.get("lska", NOT_RUN), about, page)


def _robustness(config: Config) -> KeyNumber:
    title, sets = "Robustness, as the kernel grows", list(config.robustness.sets) if config.robustness else []
    if not sets:
        return KeyNumber(title, NOT_RUN, f"scale {config.scale} has no perturbed images", "figure_s1.html")
    task = f"robustness/{sets[0]}"
    label, metric = next(iter(headlines(task).items()))
    return _grown(config, title, task, metric, label, "table_10.html")


def _shape(config: Config) -> KeyNumber:
    metric, about = "shape_share_reference", "shape share of dimensions"
    return _grown(config, "Shape, as the kernel grows", "shape_texture", metric, about, "table_12.html")


def _grown(config: Config, title: str, task: str, metric: str, what: str, page: str) -> KeyNumber:
    """How much a metric gains from the smallest to the largest kernel of LSKA."""
    ends = _ends(config, task)
    if ends is None:
        return _without_ends(config, title, page)
    small, large = ends
    about = f"{what}, {_model(small)} LSKA, k = {small.kernel} to {large.kernel}"
    return _gap(config, title, task, metric, large, small, about, page)


def _gap(config: Config, title: str, task: str, metric: str, run: Run, other: Run, about: str, page: str) -> KeyNumber:
    """How much larger a metric in percent is for one network than for another, in points, with its interval."""
    try:
        sides = [_quantity(task, metric, one) for one in (run, other)]
        found, evidence = Numbers(config).difference(f"{sides[0]} - {sides[1]} > 0")
    except Unavailable:
        return KeyNumber(title, NOT_RUN, about, page)
    # With a digit more than their difference has, so that a reader who subtracts them gets it.
    ours, others = (shown(part.value, decimals=2) for part in evidence)
    data = data_names(name for part in evidence for name in part.data)
    interval = found.interval()
    limits = f"{_limits(interval)}, {found.basis}" if interval else _limits(interval)
    said = f"{ours} against {others} % {about}{f', on {data}' if data else ''}"
    value = ("+" if round(found.value, 1) > 0 else "") + shown(found.value, decimals=1)
    return KeyNumber(title, f"{value} points", said, page, limits)


def _limits(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "no error is known"
    return "95 % interval " + " to ".join(shown(end, decimals=1) for end in interval)


def _ends(config: Config, task: str) -> tuple[Run, Run] | None:
    """The smallest and the largest kernel of the first network with several of LSKA; None where there is none."""
    runs = [run for run in config.runs_of(task) if run.attention == "lska"]
    for model in dict.fromkeys(run.model for run in runs):
        sizes = sorted((run for run in runs if run.model == model), key=lambda run: run.kernel or 0)
        if sizes[0].kernel != sizes[-1].kernel:
            return sizes[0], sizes[-1]
    return None


def _without_ends(config: Config, title: str, page: str) -> KeyNumber:
    return KeyNumber(title, NOT_RUN, f"scale {config.scale} has no network of LSKA at two kernel sizes", page)


def _like(run: Run, attention: str | None = None) -> Run:
    """The network of a run, whatever its seed, or the same with another attention."""
    return Run(run.model, attention or run.attention, run.kernel, 0)


def _quantity(task: str, metric: str, run: Run) -> str:
    return f"{task}.{metric}({run.network})"


def _model(run: Run) -> str:
    return f"VAN-{display_names()['models'].get(run.model, run.model)}"


# The main claims.


def main_claims(content: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The paper's main claims, each with the verdict of our numbers, what it rests on, and the claims behind it; none
    where nothing was judged."""
    known = {claim["id"]: claim for claim in content["claims"]} if content else {}
    lines = []
    for text, names in MAIN_CLAIMS.items():
        claims = [known[name] for name in names if name in known]
        if claims:
            measured = [Verdict(claim["measured"]) for claim in claims]
            verdict = combine(measured, complete=Verdict.NOT_RUN not in measured)
            about = {"sign": MARKS[verdict], "about": _about(claims), "ids": [claim["id"] for claim in claims]}
            lines.append({"text": text, "verdict": verdict, **about})
    return lines


def _about(claims: Sequence[Mapping[str, Any]]) -> str:
    """How the comparisons of claims come out, the numbers of a single one, or what there would have to be."""
    found = [one for claim in claims for one in claim["comparisons"]]
    asserted = [one for claim in claims for one in parse(claim["predicate"])]
    if not found:
        measured = {quantity["name"] for claim in claims for quantity in claim["quantities"]}
        needed = dict.fromkeys(part for one in asserted for part in one.quantities if str(part) not in measured)
        networks = dict.fromkeys(network_name(Run.parse(f"{part.network}-s0")) for part in needed)
        reasons = [reason for claim in claims for reason in claim["missing"]]
        return f"not measured: {few(list(networks))}" if networks else few(reasons)
    if claims[0]["id"] in SIDES:
        (one,) = found
        sides = SIDES[claims[0]["id"]].format(left=shown(one["left"]), right=shown(one["right"]))
        return f"{sides}; change: {_limits(one['interval'])}"
    verdicts = Counter(one["verdict"] for one in found)
    verdicts[str(Verdict.NOT_RUN)] += len(asserted) - len(found)
    counts = [(verdicts[verdict], verdict) for verdict in Verdict if verdicts[verdict]]
    told = (f"{n} {'hold' if verdict is Verdict.HOLDS and n > 1 else verdict}" for n, verdict in counts)
    return f"of {len(asserted)} comparisons: {', '.join(told)}"


# Citing.


def citations() -> str:
    """The paper and this reproduction in BibTeX, from CITATION.cff; empty where the project's folder has none."""
    if not CITATION.is_file():
        return ""
    about = read_yaml(CITATION)
    return "\n\n".join((_bibtex(about["preferred-citation"]), _bibtex(about)))


def _bibtex(entry: Mapping[str, Any]) -> str:
    authors = [
        f"{one['family-names']}, {one['given-names']}" if "family-names" in one else f"{{{one['name']}}}"
        for one in entry["authors"]
    ]
    fields = {"title": f"{{{entry['title']}}}", "author": " and ".join(authors), **dict(_published(entry))}
    first = str(entry["authors"][0].get("family-names", "")).lower()
    key = f"{first}{entry['year']}" if first else "lska_reproduction"
    kind = "article" if entry["type"] == "article" else "misc"
    lines = [f"  {name:<7} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def _published(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for known in entry.get("identifiers", ()):
        yield "journal", str(known["value"]).replace("arXiv:", "arXiv preprint arXiv:")
    for field in ("year", "url"):
        if field in entry:
            yield field, str(entry[field])
    if "version" in entry:
        yield "note", f"Version {entry['version']}"
