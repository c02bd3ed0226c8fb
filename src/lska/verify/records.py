"""Data records: whether they agree with themselves, with their manifest and with today's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lska.config import KINDS, Config
from lska.data.manifest import SERVING, load_manifest
from lska.provenance import digest
from lska.robustness import CORRUPTED
from lska.sections import DataSource
from lska.verify.files import Checked, broken, fits, read
from lska.verify.findings import Finding, Level


def record(path: Path, config: Config) -> Checked:
    """The record of a data set by itself, and as the configuration's source of that name should have it."""
    checked = read(path, "data records", fits("record"))
    if checked.broken:
        return checked
    found = [*_itself(checked)]
    kind, source = next(((k, s) for k, s in config.sources if s.name == path.stem), (None, None))
    if kind is None:
        found.append(Finding(Level.NOTE, path, "", f"scale {config.scale} has no data set of this name any more"))
    elif not found:
        found += [*_manifest(checked, kind, source), *_inputs(checked, kind, config)]
    return Checked(path, checked.content, (*found, *checked.findings))


def _itself(checked: Checked) -> Iterator[Finding]:
    if checked.get("name") != checked.path.stem:
        yield broken(checked.path, "name", f"is {checked.get('name')!r}, but the file is {checked.path.name}")
    parts = [checked.get(name) for name in ("manifest", "parts", "names", "contents")]
    if checked.get("family") is not None and digest(parts) != checked.get("digest"):
        text = f"is {checked.get('digest')}, its manifest, parts, names and contents give {digest(parts)}"
        yield broken(checked.path, "digest", text)


def _manifest(checked: Checked, kind: str, source: DataSource) -> Iterator[Finding]:
    """Every field that follows from the manifest of published data."""
    try:
        expected = _expected(kind, source)
    except ValueError as error:
        yield Finding(Level.NOTE, checked.path, "", f"not compared with its manifest: {error}")
        return
    identity = "manifest" if kind in CORRUPTED else "digest"
    for name, value in expected.items():
        if checked.get(name) == value:
            continue
        text = f"is {checked.get(name)!r}, the manifest of {source.name} says {value!r}"
        level = Level.OUTDATED if name == identity else Level.BROKEN
        yield Finding(level, checked.path, name, text)
        if name == identity:
            return


def _expected(kind: str, source: DataSource) -> dict[str, Any]:
    """What the record of published data says with any data; the identity of the manifest comes first."""
    if source.generate is not None:
        return {}
    name = Path(source.manifest) if source.manifest else source.name
    if kind not in KINDS and kind not in SERVING:
        return {}
    manifest = load_manifest(name, SERVING.get(kind, kind))
    if kind in CORRUPTED:
        return {"manifest": manifest.digest, "classes": len(manifest.classes), "images": manifest.count}
    if kind == "texture_knn":
        return {"digest": manifest.digest}
    counts = {split: stated.count for split, stated in manifest.splits.items()}
    return {"digest": manifest.digest, "splits": counts, "classes": len(manifest.classes)}


def _inputs(checked: Checked, kind: str, config: Config) -> Iterator[Finding]:
    """Whether the pipeline would make the set again."""
    item = next((item for item in config.measured if item.name == kind), None)
    stated, now = checked.get("inputs"), None if item is None else item.inputs()
    if stated is not None and now is not None and stated != now:
        yield Finding(Level.OUTDATED, checked.path, "inputs", f"is {stated}, today's generator or manifest gives {now}")
