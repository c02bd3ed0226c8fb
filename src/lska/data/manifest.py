"""Manifests: what a data set has to consist of, and the digest that stands for it in every metric file."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.archives import Archive, archive_problems
from lska.data.entries import DataError, FileName, inside_problem, name_problem, read_names, repeated
from lska.data.folders import Split, check_same_classes, open_split
from lska.files import quoted, read_yaml, write_text
from lska.provenance import digest
from lska.strict import build

BUNDLED = Path(__file__).parent / "manifests"
KINDS = ("classification", "detection", "segmentation", "textures", "corrupted", "perturbed")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class SplitManifest:
    """What one split has to hold.

    `count` images in all, between the two numbers of `per_class` in each class, or exactly `counts[class]` where given.
    `names` and `contents` are the digests of `names_digest` and `contents_digest`, None where they are not prescribed.
    """

    count: int
    per_class: tuple[int, int]
    counts: dict[FileName, int] | None = None
    names: str | None = None
    contents: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.per_class[0] <= self.per_class[1]:
            problems.append(f"per_class: expected [fewest, most] from 1 up, found {list(self.per_class)}")
        if self.counts is not None and sum(self.counts.values()) != self.count:
            problems.append(f"count: expected the sum of counts, {sum(self.counts.values())}, found {self.count}")
        for name in ("names", "contents"):
            value = getattr(self, name)
            if value is not None and not DIGEST.fullmatch(value):
                problems.append(f"{name}: expected sha256: and 64 hexadecimal digits, found {value!r}")
        _refuse(problems)

    def expected(self, label: str) -> tuple[int, int]:
        """The fewest and the most images that class `label` may have."""
        return self.per_class if self.counts is None else (self.counts[label],) * 2


@dataclass(frozen=True)
class Manifest:
    """A data set: `classes` in index order (sorted), its splits, and where it comes from under which terms."""

    name: FileName
    title: str
    source: str
    terms: str
    classes: tuple[FileName, ...]
    splits: dict[FileName, SplitManifest]
    archives: tuple[Archive, ...] = ()
    """What it is distributed as."""

    def __post_init__(self) -> None:
        problems = [*class_problems(self.classes), *archive_problems(self.archives)]
        if list(self.classes) != sorted(self.classes):
            problems.append("classes: expected distinct names in sorted order, which is the order of the class indices")
        if not self.splits:
            problems.append("splits: expected at least one, found none")
        for name, split in self.splits.items():
            fewest, most = (len(self.classes) * bound for bound in split.per_class)
            if split.counts is not None and set(split.counts) != set(self.classes):
                problems.append(f"splits.{name}.counts: expected exactly the classes, found other keys")
            elif split.counts is None and not fewest <= split.count <= most:
                problems.append(f"splits.{name}.count: expected {fewest} to {most} by per_class, found {split.count}")
        _refuse(problems)

    @property
    def digest(self) -> str:
        """`sha256:...` of what identifies the data; wording (title, source, terms) may change without changing it."""
        splits = {name: dataclasses.asdict(split) for name, split in self.splits.items()}
        return digest({"name": self.name, "classes": self.classes, "splits": splits})


def class_problems(classes: Sequence[str]) -> list[str]:
    """What is wrong with a list of classes, whatever their order."""
    twice = [f"classes: {quoted(name)} is listed twice" for name in repeated(classes)]
    return twice if classes else ["classes: expected at least one, found none"]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))


def available(kind: str = "classification") -> tuple[str, ...]:
    """Names of the bundled manifests of a kind, one of `KINDS`."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.yaml") if kind_of(read_yaml(path), path) == kind))


def kind_of(values: Mapping[str, Any], path: Path) -> str:
    """What a manifest's content describes, one of `KINDS`; manifests of image classification need not say it.

    Raises:
        DataError: it is something else; names the manifest, `path`.
    """
    kind = values.get("kind", KINDS[0])
    if kind not in KINDS:
        raise DataError(f"{path}: kind: expected one of {', '.join(KINDS)}, found {quoted(kind)}")
    return kind


def load_manifest(name: str | Path) -> Manifest:
    """Load a bundled manifest by name, or any by the path of its YAML file.

    `classes` is a list, or `<package>:<file>` for a list, one class per line, that an installed package ships.

    Raises:
        ValueError: no such manifest, or its content is wrong; every unknown key and wrong type is named.
    """
    path, values = read_manifest(name, "classification")
    if isinstance(values.get("classes"), str):
        values["classes"] = packaged_classes(values["classes"], path)
    return build(Manifest, values, str(path))


def manifest_path(name: str | Path, known: Iterable[str] | None = None) -> Path:
    """The file of a manifest given by name (bundled) or by path.

    Raises:
        DataError: no such manifest; the message names those of `known`, by default all.
    """
    bundled = BUNDLED / f"{name}.yaml"
    path = bundled if bundled.is_file() else Path(name)
    # A dangling link or a pipe is named by who reads it, not taken for absence.
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.lexists(path) or path.is_dir():
        names = sorted(known if known is not None else (file.stem for file in BUNDLED.glob("*.yaml")))
        raise DataError(
            f"no manifest {str(name)!r}: expected one of {', '.join(names)} or the path of a .yaml file; "
            "correct the name, or make one (docs/data.md)"
        )
    return path


def read_manifest(name: str | Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The file and the unchecked content, without its kind, of a manifest of `kind`, given by name or by path.

    Raises:
        ValueError: no such manifest, or it is of another kind.
    """
    path = manifest_path(name, available(kind))
    values = read_yaml(path)
    # What identifies a set is in the lines before (lska.robustness.source_identity).
    if "archives" in values and list(values)[-1] != "archives":
        raise DataError(f"{path}: expected `archives` as the last key, found {list(values)[-1]!r} there; move it down")
    if (found := kind_of(values, path)) != kind:
        raise DataError(
            f"{path} is a manifest of {found}, expected one of {kind}: one of "
            f"{', '.join(available(kind))} or the path of a .yaml file; correct the name"
        )
    return path, {key: value for key, value in values.items() if key != "kind"}


def packaged_classes(reference: str, where: Path) -> list[str]:
    """Read a list such as `timm:data/_info/imagenet_synsets.txt` without importing timm, which takes seconds.

    Raises:
        DataError: no such package or file; names the manifest `where` it is asked for.
        FileError: the file is no text, or a class is there twice or cannot be a folder; names it and the line.
    """
    package, _, name = reference.partition(":")
    spec = importlib.util.find_spec(package) if package.isidentifier() and not inside_problem(name) else None
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = [path for path in (Path(folder) / name for folder in folders) if path.is_file()]
    if not found:
        raise DataError(
            f"{where}: classes: expected a list, or <package>:<file> of an installed package, found "
            f"{quoted(reference)}; install {quoted(package)} or correct the file name"
        )
    return read_names(found[0], name_problem)


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as YAML that `load_manifest` reads, atomically."""
    import yaml

    values = dataclasses.asdict(manifest)
    archives = [{key: value for key, value in one.items() if value} for one in values.pop("archives")]
    values["classes"] = list(manifest.classes)
    values["splits"] = {
        name: {key: _plain(value) for key, value in split.items() if value is not None}
        for name, split in values["splits"].items()
    }
    values |= {"archives": archives} if archives else {}
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def make_manifest(
    root: Path,
    name: str,
    *,
    title: str = "",
    source: str = "",
    terms: str = "",
    splits: Iterable[str] = ("train", "val"),
    contents: bool = True,
    cache: Path | None = None,
) -> Manifest:
    """Describe the data at `root` as it is, with the digest of its file names and, if `contents`, of its bytes.

    Raises:
        DataError: as `open_split`, or the splits differ in their classes.
        OSError: an image cannot be read.
    """
    opened = {split: open_split(root, split, cache) for split in splits}
    first, *others = opened.values()
    for other in others:
        check_same_classes(first, other)
    described = {split: _describe(data, contents) for split, data in opened.items()}
    return Manifest(name, title or name, source, terms, first.classes, described)


def _describe(split: Split, contents: bool) -> SplitManifest:
    counts = split.counts()
    bounds = min(counts.values()), max(counts.values())
    hashes = (content_hash(split.read(index)) for index in range(len(split)))
    return SplitManifest(
        count=len(split),
        per_class=bounds,
        counts=None if bounds[0] == bounds[1] else counts,
        names=names_digest(split),
        contents=contents_digest(split, hashes) if contents else None,
    )


def content_hash(data: bytes) -> str:
    """SHA-256 of one image file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def names_digest(split: Split) -> str:
    """`sha256:...` of the lines `<class>/<file>`, sorted by class, then file, so that every layout gives the same."""
    state = hashlib.sha256()
    for name in split.samples.names:
        state.update(os.fsencode(name) + b"\n")
    return f"sha256:{state.hexdigest()}"


def contents_digest(split: Split, hashes: Iterable[str]) -> str:
    """`sha256:...` of the lines `<sha256 of the file> <class>/<file>`, in the order of `names_digest`."""
    state = hashlib.sha256()
    for value, name in zip(hashes, split.samples.names, strict=True):
        state.update(f"{value} ".encode() + os.fsencode(name) + b"\n")
    return f"sha256:{state.hexdigest()}"
