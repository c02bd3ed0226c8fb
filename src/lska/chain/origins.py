"""What a metric file rests on: weights with their recipe and backbone, and data with their records."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lska.chain.checkout import code_text, environment_text, hardware_text
from lska.chain.model import Link
from lska.chain.recipes import changes, differences, paper_recipe, plain, todays_spec
from lska.config import Config
from lska.finetuning import parse_task
from lska.provenance import digest, file_md5, seal_problem, vouched_for
from lska.robustness import MANIFESTS
from lska.runs import Run
from lska.sections import DataSource
from lska.weights.pointers import read_pointer
from lska.weights.sidecars import imported, own_normalization, own_preprocessing, read_sidecar

ORIGINS = {
    "trained": "trained here",
    "imported": "imported",
    "random": "random, fresh from the seed; what is measured does not depend on them",
    "none": "none; counted on the architecture, or measured on a module",
}
LABELS = {"weights": "weights", "backbone": "backbone", "chooser": "images chosen by"}
UNSEALED = "none; written before such files were sealed"


def sidecar_path(config: Config, task: str, run: str) -> Path:
    """The sidecar of the weights that `task` is measured on: fine-tuned ones for heads, otherwise the network's."""
    name = f"{task}/{run}" if parse_task(task) is not None else run
    return config.weights_path(name).with_suffix(".json")


def seal_text(content: Mapping[str, Any]) -> str:
    """Whether a file is as it was written."""
    if "seal" not in content:
        return UNSEALED
    problem = seal_problem(content)
    return "whole" if problem is None else f"BROKEN: {problem}"


def weights_link(config: Config, content: Mapping[str, Any]) -> Link:
    """The weights of a metric file's content."""
    weights = content.get("weights") or {}
    if weights.get("md5") is None:
        return Link("weights", "weights", {"origin": ORIGINS.get(weights.get("origin"), str(weights.get("origin")))})
    path = sidecar_path(config, content["task"], content["run"])
    return _trained(config, path, "weights", content["task"], content["run"], weights["md5"], "the metric file")


def _trained(config: Config, path: Path, kind: str, task: str, run: str, md5: str, witness: str) -> Link:
    """The link of a sidecar; `witness` is who names its weights by `md5`."""
    sidecar, label = read_sidecar(path), LABELS[kind]
    if not sidecar:
        return Link(kind, label, {"md5": md5, "sidecar": "MISSING or damaged: nothing says how they came"}, path)
    agrees = f"as {witness} says" if sidecar.get("md5") == md5 else f"OTHERS than {witness} names, {md5}"
    facts = {
        "md5": f"{sidecar.get('md5')}, {agrees}",
        "origin": ORIGINS.get(sidecar.get("origin"), str(sidecar.get("origin"))),
        "file": _weights_file(path.with_suffix(".safetensors"), sidecar.get("md5")),
        "seal": seal_text(sidecar),
        **(_preprocessing(sidecar, task) if imported(sidecar) else _training(sidecar)),
    }
    links = [_recipe(config, sidecar, task, run)]
    backbone = sidecar.get("backbone")
    if backbone:
        start = backbone.get("run", run)
        place = sidecar_path(config, "classification", start)
        names = ("backbone", "classification", start, backbone["md5"], "the sidecar above")
        links.append(_trained(config, place, *names))
    elif "backbone" in sidecar and not imported(sidecar):
        links.append(Link("backbone", "backbone", {"origin": "random, as a control: the same training from scratch"}))
    if not imported(sidecar):
        links.append(data_link(config, sidecar.get("data"), "trained on"))
    return Link(kind, label, facts, path, tuple(links))


def _preprocessing(sidecar: Mapping[str, Any], task: str) -> dict[str, str]:
    """What is known of weights from elsewhere: how images are prepared for them."""
    read = own_preprocessing if parse_task(task) is None else own_normalization
    try:
        fields = read(sidecar, "sidecar").to_dict()
    except ValueError as error:
        return {"images": f"BROKEN: {' '.join(str(error).split())}"}
    return {"images": ", ".join(f"{name} {value}" for name, value in fields.items())}


def _training(sidecar: Mapping[str, Any]) -> dict[str, str]:
    environment, attempts = sidecar.get("environment"), sidecar.get("attempts") or []
    processes = sidecar.get("processes", 1)
    several = f" with {processes} processes" if processes > 1 else ""
    again = f", in {len(attempts)} attempts" if len(attempts) > 1 else ""
    facts = {
        "trained": f"until {moment(sidecar.get('finished'))}, in {duration(sidecar.get('seconds'))}"
        f" on {hardware_text(environment)}{several}{again}",
        "seen": f"{number(sidecar.get('images_seen'))} images in {number(sidecar.get('updates'))} updates"
        f", final loss {number(sidecar.get('final_loss'))}",
    }
    if sidecar.get("skipped_images"):
        facts["skipped"] = f"{sidecar['skipped_images']} unreadable images"
    return facts | {"code": code_text(sidecar.get("code")), "environment": environment_text(environment)}


def _weights_file(path: Path, md5: str | None) -> str:
    if not path.is_file():
        return f"{path.name} is not here{_published(path, md5)}"
    stat = path.stat()
    same = _md5(path, stat.st_size, stat.st_mtime_ns) == md5
    return f"{path.name}, {'with this MD5' if same else 'with ANOTHER MD5'}"


def _published(path: Path, md5: str | None) -> str:
    """Where DVC has these weights, if git keeps a pointer to them."""
    try:
        pointer = read_pointer(path)
    except ValueError as error:
        return f"; {error}"
    has = pointer is not None and pointer.md5 == md5
    return f"; DVC has it in remote {pointer.remote or 'by default'} (`lska weights fetch`)" if has else ""


@functools.lru_cache(maxsize=1024)
def _md5(path: Path, size: int, modified: int) -> str:
    """MD5 of a file of this size and time; the pages of a report name the same weights a hundred times."""
    return file_md5(path)


def _recipe(config: Config, sidecar: Mapping[str, Any], task: str, run: str) -> Link:
    spec, stated = sidecar.get("spec"), sidecar.get("recipe")
    if not isinstance(spec, dict):
        return Link("recipe", "recipe", {"digest": str(stated), "settings": "none recorded"})
    if imported(sidecar):
        return Link("recipe", "recipe", {"digest": str(stated), "settings": "not of a training here"})
    trained = task if parse_task(task) is not None else "classification"
    again = digest(spec)
    whole = "computed again from the settings below" if again == stated else f"BUT the settings give {again}"
    architecture = ", ".join(f"{name} {value}" for name, value in (spec.get("architecture") or {}).items())
    facts = {
        "digest": f"{stated}, {whole}",
        "today": _today(config, spec, trained, run),
        "network": f"{architecture} (overrides)" if architecture else "the paper's own architecture",
    }
    recipe = spec.get("recipe") or {}
    found, paper = differences(trained, recipe), paper_recipe(trained)
    label = f"differs from the paper's {paper} in {len(found)} of {len(recipe)} fields"
    return Link("recipe", "recipe", facts, None, (Link("differences", label, found, paper),))


def _today(config: Config, spec: dict[str, Any], task: str, run: str) -> str:
    now = todays_spec(config, task, Run.parse(run))
    if now is None:
        return f"OUTDATED: scale {config.scale} has no {task} of {run} any more"
    found = changes(plain(spec), now)
    return f"OUTDATED: {'; '.join(found)}" if found else "what the configuration asks for"


def data_link(config: Config, identity: Mapping[str, Any] | None, label: str) -> Link:
    """The data of a metric file or training, by the name and digest that it keeps."""
    if identity is None:
        return Link("data", label, {"data": "none needed"})
    path = config.results / "data" / f"{identity['name']}.json"
    facts, record = {"name": str(identity["name"])}, vouched_for(path, "record")
    stated = identity.get("digest")
    if not record:
        return Link("data", label, {**facts, "digest": str(stated), "record": "MISSING or damaged"}, path)
    recorded = record.get("digest")
    same = "as its record says" if recorded == stated else f"NOT its record's {recorded}"
    facts |= {"digest": f"{stated}, {same}", "seal": seal_text(record), **_contents(record)}
    facts |= _made(config, str(identity["name"]))
    reference, links = record.get("reference"), ()
    if reference:
        place = sidecar_path(config, "classification", reference["run"])
        names = ("chooser", "classification", reference["run"], reference["md5"], "the record above")
        links = (_trained(config, place, *names),)
    return Link("data", label, facts, path, links)


def _contents(record: Mapping[str, Any]) -> dict[str, str]:
    counts = [f"{name} {number(value)}" for name, value in (record.get("splits") or {}).items()]
    counts += [f"{number(record['images'])} images"] if "images" in record else []
    counts += [f"{sum(map(len, record['parts'].values()))} parts"] if isinstance(record.get("parts"), dict) else []
    counts += [f"{number(record['classes'])} classes"] if "classes" in record else []
    facts = {"title": str(record.get("title")), "source": f"{record.get('source')}; {record.get('terms')}"}
    return facts | {"counts": ", ".join(counts)}


def _made(config: Config, name: str) -> dict[str, str]:
    source = next((data for _, data in config.sources if data.name == name), None)
    if source is None:
        return {"made": f"unknown: scale {config.scale} has no data set of this name any more"}
    if source.generate is not None:
        return {"made": "generated with " + ", ".join(f"{key} {value}" for key, value in source.generate.items())}
    return {"made": f"published data, checked against {manifest_of(source)}"}


def manifest_of(source: DataSource) -> str:
    """The manifest's file as the project names it."""
    bundled = MANIFESTS / f"{source.name}.yaml"
    if source.manifest:
        return source.manifest
    return f"src/lska/data/manifests/{bundled.name}" if bundled.is_file() else "its layout; it has no manifest"


def moment(text: object) -> str:
    """`2026-11-23 03:57 UTC` of an ISO time."""
    return f"{str(text)[:16].replace('T', ' ')} UTC" if text else "an unknown time"


def duration(seconds: object) -> str:
    """Seconds, with minutes or hours where there are many."""
    if not isinstance(seconds, int | float):
        return "an unknown time"
    more = f" ({seconds / 3600:.1f} h)" if seconds >= 7200 else f" ({seconds / 60:.0f} min)" if seconds >= 120 else ""
    return f"{seconds:,.1f} s{more}"


def number(value: object) -> str:
    """A number with separated thousands; decimals as they are."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else "unknown"
