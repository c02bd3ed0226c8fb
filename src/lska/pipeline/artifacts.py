"""The section `artifacts` of dvc.yaml: a name for each of the weights that are published in DVC.

Weights are published when a pointer, `checkpoints/<scale>/[<task>/]<run>.safetensors.dvc`, lies where they belong.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import atomic_path, files_in
from lska.provenance.pointers import SUFFIX
from lska.provenance.sidecars import read_sidecar

if TYPE_CHECKING:
    from ruamel.yaml import YAML

POINTER = f".safetensors{SUFFIX}"

UNBROKEN = 4096
"""Characters of the longest line that is not broken."""

Entries = dict[str, dict[str, Any]]
"""Entries of the section by their names."""


def artifact_name(scale: str, task: str, run: Run) -> str:
    """Name of the weights of a run, `small-detection-retinanet-van-tiny-lska-k23-s0`; without a task for classifiers.

    DVC's documentation allows letters, digits and hyphens between them.
    """
    parts = [scale, *([] if task == "classification" else [task]), str(run)]
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-")


def artifacts(root: Path = Path("checkpoints")) -> Entries:
    """What the section has to say of the pointers that exist under `root`, in the order of their paths.

    Raises:
        ValueError: a pointer's name is no run id, or two weights would have the same name; names the pointers.
    """
    found: Entries = {}
    for pointer in files_in(root, f"*/**/*{POINTER}"):
        scale, *task = pointer.parent.relative_to(root).parts
        name, entry = _entry(pointer, scale, "/".join(task) or "classification")
        if name in found:
            raise InputError(f"{pointer}: its name in dvc.yaml, {name}, is that of {found[name]['path']}; rename one")
        found[name] = entry
    return found


def _entry(pointer: Path, scale: str, task: str) -> tuple[str, dict[str, Any]]:
    try:
        run = Run.parse(pointer.name.removesuffix(POINTER))
    except ValueError as error:
        raise InputError(f"{pointer}: {error}; remove or rename the pointer") from error
    weights = pointer.with_suffix("")
    sidecar = read_sidecar(weights.with_suffix(".json"))
    data = (sidecar.get("data") or {}).get("name")
    network = run.model if run.kernel is None else f"{run.model} with {run.attention}, k = {run.kernel}"
    trained = f", {sidecar['origin']} on {data}" if sidecar.get("origin") and data else ""
    labels = [scale, *task.split("/"), run.model, *([] if run.attention is None else [run.attention])]
    return artifact_name(scale, task, run), {
        "path": weights.as_posix(),
        "type": "model",
        "desc": f"{task} at {scale} scale: {network}, seed {run.seed}{trained}",
        "labels": labels,
    }


def update(dvc_yaml: Path = Path("dvc.yaml"), root: Path = Path("checkpoints")) -> bool:
    """Make the section say what `artifacts(root)` says; the rest of the file, with comments and order, stays.

    Entries with paths outside of `root` are somebody else's and stay too, as do further fields of entries. Without any
    entry there is no section.

    Returns:
        Whether the file changed; it is written atomically, and only then.

    Raises:
        ValueError: `dvc_yaml` is no mapping in YAML, or as `artifacts`.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, UNBROKEN
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = _load(yaml, dvc_yaml)
    if not _merge(content, artifacts(root), root):
        return False
    with atomic_path(dvc_yaml) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return True


def _load(yaml: YAML, path: Path) -> dict[str, Any]:
    """The file's content as ruamel.yaml keeps it, with comments; an empty mapping where there is no file."""
    from ruamel.yaml import YAMLError

    try:
        content = yaml.load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}); repair it by hand") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, found {type(content).__name__}; repair it by hand")
    section = content.get("artifacts") or {}
    if not isinstance(section, dict) or not all(isinstance(entry, dict) for entry in section.values()):
        raise InputError(f"{path}: artifacts: expected a mapping of names to mappings; repair it by hand")
    return content


def _merge(content: dict[str, Any], wanted: Entries, root: Path) -> bool:
    """Change the section in place; whether anything changed."""
    section = content.get("artifacts")
    section = {} if section is None else section
    ours = [name for name, entry in section.items() if Path(str(entry.get("path"))).is_relative_to(root)]
    old = [name for name in ours if name not in wanted]
    new = {name: entry for name, entry in wanted.items() if {**section.get(name, {}), **entry} != section.get(name)}
    for name in old:
        del section[name]
    for name, entry in new.items():
        section.setdefault(name, {}).update(entry)
    if section:
        content["artifacts"] = section
    elif "artifacts" in content:
        del content["artifacts"]
    return bool(old or new)
