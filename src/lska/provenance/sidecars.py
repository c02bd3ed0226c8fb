"""What vouches for weights: their sidecar, `<network>.json` beside them, and the pointer of published ones.

A sidecar that cannot be read, or says something of another type than it should, vouches for nothing. What nothing
vouches for is never replaced.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import (
    FileError,
    MissingFileError,
    UnreadableFileError,
    differing,
    plain,
    printable,
    quoted,
    read_json,
    read_yaml,
    write_text,
)
from lska.provenance.metric_files import digest, file_md5, seal_problem
from lska.provenance.strict import OPEN_ENDED, Positive, build

PUBLISHED = Path("weights/published")
"""Where files of published weights are looked for before anything is downloaded."""

SUFFIX = ".dvc"
"""Which DVC adds to the name of a file."""

IMPORTING = "docs/weights.md, Weights from elsewhere"
"""Where a sidecar of imported weights is described."""

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_CACHED = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30})$")

Triple = tuple[float, float, float]
PositiveTriple = tuple[Positive, Positive, Positive]

FIELDS = ("image_size", "test_crop", "test_interpolation", "mean", "deviation")
"""Fields of a recipe, and so of `spec.recipe` in a sidecar, that say how images are prepared for a network."""

DIFFERENCES = 3
"""Differences of a recipe that are named; the others are counted."""

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of the pixels per channel (RGB, 0 to 1), which are subtracted and divided by."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    mean: Triple
    deviation: PositiveTriple

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as metric files keep them."""
        return plain(dataclasses.asdict(self))


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square of `size` pixels: shorter side resized to size / crop, centre cropped.

    A `crop` of 1 leaves an image of that size as it is.
    """

    size: int
    crop: float
    interpolation: str


@dataclass(frozen=True)
class Preprocessing(Normalization):
    """What happens to an image before a network sees it; fields have the names of a recipe's."""

    image_size: Annotated[int, Field(ge=1, le=8192)]
    """Pixels."""
    test_crop: Annotated[float, Field(gt=0, le=1)]
    """Share of the resized image that the centre crop keeps."""
    test_interpolation: Interpolation

    @classmethod
    def of(cls, recipe: Mapping[str, Any], where: str) -> Preprocessing:
        """That of a recipe in plain values; ValueError names `where` and all fields that are missing or wrong."""
        return _expecting(cls, recipe, where, FIELDS)

    @property
    def geometry(self) -> Geometry:
        """How an image becomes a square."""
        return Geometry(self.image_size, self.test_crop, self.test_interpolation)


def preprocessing_text(fields: Mapping[str, Any]) -> str:
    """Fields of a preprocessing as the option --preprocessing takes them."""
    shown = {name: fields[name] for name in FIELDS if name in fields}
    texts = [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in shown.values()]
    return " ".join(f"{name}={text}" for name, text in zip(shown, texts, strict=True))


@dataclass(frozen=True)
class Spec:
    """What decided weights; of imported ones, what is known of it."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    run: str | None = None
    task: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    backbone: str | None = None


@dataclass(frozen=True)
class Data:
    """The data that weights were trained on."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    name: str
    digest: str | None = None


@dataclass(frozen=True)
class BackboneRecord:
    """The weights that a fine-tuning started from."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    md5: str
    run: str | None = None


@dataclass(frozen=True)
class WeightsSource:
    """The file that imported weights were made of."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    file: str
    """Its name."""
    sha256: str
    size: int
    """Bytes."""
    address: str | None = None
    """Where it was downloaded, http(s) or `timm:<model>.<tag>`; None for a file that was here."""
    key: str | None = None
    """Which of its mappings held the weights; None for a file of nothing else."""
    compared: str | None = None
    """What its SHA-256 was compared with; None where no publisher states one."""
    imported: str | None = None
    """The time, ISO 8601."""
    configured: str | None = None
    """The name of the file that the configuration had for the run then; another one where a person gave the file."""

    @property
    def place(self) -> Path:
        """Where the file is looked for first."""
        return PUBLISHED / self.file


@dataclass(frozen=True)
class Sidecar:
    """The fields of a sidecar that anything reads, by their types."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    md5: str
    origin: Literal["trained", "imported"]
    recipe: str | None = None
    run: str | None = None
    task: str | None = None
    scale: str | None = None
    spec: Spec | None = None
    data: Data | None = None
    backbone: BackboneRecord | None = None
    source: WeightsSource | None = None
    code: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    attempts: tuple[dict[str, Any], ...] | None = None
    processes: int = 1
    images_seen: int | None = None
    skipped_images: int | None = None
    updates: int | None = None
    final_loss: float | None = None
    finished: str | float | None = None
    seconds: float | None = None
    seal: str | None = None

    def __post_init__(self) -> None:
        if self.origin == "trained" and self.recipe is None:
            raise InputError("missing key 'recipe', the digest of how the weights were trained")
        if self.origin == "imported" and self.recipe is not None and _DIGEST.fullmatch(self.recipe) is None:
            found = quoted(self.recipe)
            raise InputError(f"recipe: expected null or a digest, sha256:<64 hexadecimal digits>, found {found}")


def check_sidecar(content: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, which names `where`, for every field of a sidecar that is missing or of another type."""
    build(Sidecar, content, where)


def load_sidecar(path: Path) -> dict[str, Any]:
    """The content of a sidecar; MissingFileError where there is none, FileError where it is damaged."""
    try:
        found = path.stat()
    except OSError:
        return _load(path)
    return _load(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _load(path: Path, *state: int) -> dict[str, Any]:
    """Planning asks for the same sidecars again and again; `state` tells whether one is as it was."""
    content = read_json(path)
    try:
        check_sidecar(content, str(path))
    except ValueError as error:
        raise FileError(str(error)) from error
    return content


def read_sidecar(path: Path) -> dict[str, Any]:
    """The content of a sidecar; an empty one where it is missing or damaged, and so vouches for nothing. One that may
    be whole and cannot be read raises UnreadableFileError, as `lska.provenance.files.vouched`.
    """
    try:
        return load_sidecar(path)
    except UnreadableFileError:
        raise
    except ValueError:
        return {}


def damage(path: Path) -> str | None:
    """What is wrong with a sidecar, in one line; None where it is sound, or where there is none."""
    try:
        load_sidecar(path)
    except ValueError as error:
        missing = isinstance(error, FileNotFoundError) and not path.is_symlink()
        return None if missing else printable(" ".join(str(error).split()), 300)
    return None


def imported(content: Mapping[str, Any]) -> bool:
    """Whether a sidecar is of weights that were brought here from elsewhere."""
    return content.get("origin") == "imported"


def source_of(content: Mapping[str, Any]) -> WeightsSource | None:
    """The file that weights with this sidecar were made of; None where they were not imported by this program."""
    return build(WeightsSource, content["source"], "source") if imported(content) and content.get("source") else None


def own_preprocessing(sidecar: Mapping[str, Any], where: str) -> Preprocessing:
    """The preprocessing of a classifier that its sidecar says; ValueError where it does not say all of it."""
    return Preprocessing.of(_recipe(sidecar), f"{where}: spec.recipe")


def own_normalization(sidecar: Mapping[str, Any], where: str) -> Normalization:
    """As `own_preprocessing`, of a detector or segmentor, whose images keep the size that the protocol gives them."""
    return _expecting(Normalization, _recipe(sidecar), f"{where}: spec.recipe", ("mean", "deviation"))


def imported_normalization(path: Path) -> Normalization | None:
    """That of the imported weights which a sidecar is of; None where it is of others, or does not say it."""
    return _of_imported(path, own_normalization)


def imported_size(path: Path) -> int | None:
    """Pixels of the input of the imported weights which a sidecar is of; None as `imported_normalization`."""
    found = _of_imported(path, own_preprocessing)
    return None if found is None else found.image_size


def _of_imported(path: Path, read: Callable[[Mapping[str, Any], str], Any]) -> Any:
    sidecar = read_sidecar(path)
    try:
        return read(sidecar, str(path)) if imported(sidecar) else None
    except ValueError:
        return None


def measured_alike(measured: Mapping[str, Any], sidecar: Mapping[str, Any]) -> bool:
    """Whether a metric file was measured on the weights of a sidecar and, where these were imported, with the
    preprocessing that it says today.

    That of weights trained here is part of their recipe, which has one digest with them.
    """
    if (measured.get("weights") or {}).get("md5", "none") != sidecar.get("md5"):
        return False
    if not imported(sidecar):
        return True
    stated, recipe = (measured.get("detail") or {}).get("preprocessing"), _recipe(sidecar)
    return isinstance(stated, Mapping) and all(recipe.get(name) == value for name, value in stated.items())


def _recipe(sidecar: Mapping[str, Any]) -> Mapping[str, Any]:
    return (sidecar.get("spec") or {}).get("recipe") or {}


def _expecting(cls: type[Any], recipe: Mapping[str, Any], where: str, fields: tuple[str, ...]) -> Any:
    try:
        return build(cls, recipe, where)
    except ValueError as error:
        raise InputError(
            f"{error}\nexpected {', '.join(fields)}: how images are prepared for these weights ({IMPORTING})"
        ) from error


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, as `name old -> new`."""
    found = []
    for place, *values in differing(plain(then), plain(now)):
        name, (before, after) = place.removeprefix("recipe."), (None if value is ... else value for value in values)
        if before == after:
            continue
        if name == "backbone" or isinstance(before, Mapping) or isinstance(after, Mapping):
            found.append(f"{name} has changed")
        else:
            found.append(f"{name} {printable(str(before), 60)} -> {printable(str(after), 60)}")
    rest = f" and {len(found) - DIFFERENCES} more" if len(found) > DIFFERENCES else ""
    return ", ".join(found[:DIFFERENCES]) + rest or "the digest of its recipe differs"


# --- DVC's pointers to published weights ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pointer:
    """What git keeps of weights that lie in DVC: `<run>.safetensors.dvc`, as this project writes it."""

    md5: str
    size: int
    """Bytes."""
    remote: str | None = None
    """Name of the remote that holds them; None for the default one."""
    sidecar: str | None = None
    """Digest of the sidecar that was published with them; None where they were added by plain `dvc add`."""

    def published(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether a sidecar's content is the published one, and not that of a training since then."""
        return self.md5 == sidecar.get("md5") and self.sidecar in (None, digest(sidecar))

    def edited(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether a sidecar is of the published weights, differs from the published one and has no seal: what a later
        training writes is sealed, so somebody edited it.
        """
        return self.md5 == sidecar.get("md5") and "seal" not in sidecar and not self.published(sidecar)


def pointer_path(weights: Path) -> Path:
    """Place of the pointer of weights."""
    return weights.with_name(f"{weights.name}{SUFFIX}")


def read_pointer(weights: Path) -> Pointer | None:
    """The pointer of weights, None where there is none; FileError where it is no pointer to one file of this name."""
    path = pointer_path(weights)
    try:
        content = read_yaml(path)
        (out,), meta = content["outs"], content.get("meta") or {}
        pointer = Pointer(out["md5"], out["size"], out.get("remote"), meta.get("sidecar"))
        texts = all(isinstance(one, str | None) for one in (pointer.remote, pointer.sidecar))
        sized = isinstance(pointer.size, int) and pointer.size >= 0
        if not (_MD5.fullmatch(pointer.md5) and texts and sized and out["path"] == weights.name):
            raise InputError(f"found {content}")
        return pointer
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, MissingFileError) and not path.is_symlink():
            return None
        told = str(error) if isinstance(error, LskaError) else f"found {content}"
        reason = printable(" ".join(told.split()).removeprefix(f"{path}: "), 200)
        raise FileError(
            f"{path}: expected DVC's pointer to {weights.name} with md5 and size ({reason}); "
            f"restore it with `git checkout -- {path}`, or delete it to train these weights here"
        ) from error


def write_pointer(weights: Path, pointer: Pointer) -> None:
    """Write the pointer as DVC reads it, the remote and the sidecar's digest included."""
    remote = {} if pointer.remote is None else {"remote": pointer.remote}
    out = {"md5": pointer.md5, "size": pointer.size, "hash": "md5", "path": weights.name, **remote}
    content = {"outs": [out]} | ({} if pointer.sidecar is None else {"meta": {"sidecar": pointer.sidecar}})
    write_text(pointer_path(weights), yaml.safe_dump(content, sort_keys=False))


# --- What lies in the place of weights and was not made by this program -----------------------------------------------
#
# Snakemake removes the outputs of a rule before its job and after a failed one. So weights of anybody else are no
# output of any rule: they are used as they are, or a message says why they cannot be used.


class ForeignWeightsError(LskaError, ValueError):
    """Weights that can neither be used nor replaced; the message says which, why, and what to do."""


def occupied(weights: Path) -> bool:
    """Whether anything lies in the place of weights, also a folder or a link that leads nowhere."""
    return os.path.lexists(weights)


def cached(weights: Path, pointer: Pointer | None) -> bool:
    """Whether weights are DVC's link to the object of a pointer in its cache, wherever that is or was."""
    found = _CACHED.search(str(weights.readlink())) if weights.is_symlink() else None
    return found is not None and pointer is not None and found[1] + found[2] == pointer.md5


def foreign(weights: Path) -> str | None:
    """Why a training must not replace what lies in the place of `weights` and their sidecar, with what to do; None
    where nothing is there, or what a training of this program left. Reads the whole file of weights.
    """
    sidecar, aside = weights.with_suffix(".json"), _aside(weights, "train these weights here")

    def problem(content: Mapping[str, Any]) -> str | None:
        if imported(content):
            return f"{weights}: its sidecar says that it was imported, so no training replaces it; {aside}"
        if (fault := seal_problem(content)) is not None:
            return f"{sidecar}: {fault}, so the origin of these weights is not known; {_restore(weights)}{aside}"
        return None

    return _in_the_way(weights, problem)


def not_importable(weights: Path) -> str | None:
    """Why weights must not be imported into the place of `weights`, with what to do; None where nothing is there, or
    what an import left.
    """
    sidecar, aside = weights.with_suffix(".json"), _aside(weights, "import these weights")

    def problem(content: Mapping[str, Any]) -> str | None:
        if not imported(content):
            return f"{sidecar}: says that the weights of this run were trained here; {aside}"
        if source_of(content) is None:
            known = "so it is not known whether a file is the one that it describes"
            return f"{sidecar}: was written by hand, {known}; {aside}"
        return None

    return _in_the_way(weights, problem)


def _in_the_way(weights: Path, problem: Callable[[Mapping[str, Any]], str | None]) -> str | None:
    """What is wrong in the place of weights: nothing vouches for what is there, or what `problem` finds in the sidecar,
    or the file is another than the sidecar's. None where nothing is there.
    """
    sidecar = weights.with_suffix(".json")
    try:
        content = load_sidecar(sidecar)
    except MissingFileError:
        return unvouched(weights) if occupied(weights) or occupied(sidecar) else None
    except ValueError:
        return unvouched(weights)
    return problem(content) or unusable(weights) or other(weights, content["md5"])


def _aside(weights: Path, purpose: str) -> str:
    return f"move {weights} and {weights.with_suffix('.json').name} away to {purpose}"


def check_replaceable(weights: Path) -> None:
    """Make sure that a training may leave its weights in a place; ForeignWeightsError as `foreign` says."""
    if (problem := foreign(weights)) is not None:
        raise ForeignWeightsError(problem)


def unvouched(weights: Path) -> str:
    """What is wrong where no sound sidecar is beside weights."""
    sidecar = weights.with_suffix(".json")
    if (problem := unusable(weights)) is not None:
        return problem
    fault = damage(sidecar)
    there = f"{weights} is there, but " if weights.is_file() else ""
    missing = f"its sidecar {sidecar} is missing" if there else f"{sidecar} is missing"
    what = f"{there}{missing}" if fault is None else f"{there}its sidecar cannot be used ({fault})"
    return (
        f"{what}, so the origin of these weights is not known; {_restore(weights)}write a sidecar for weights from "
        f"elsewhere ({IMPORTING}), or move {'both' if fault and there else 'it'} away to train them here"
    )


def unusable(weights: Path) -> str | None:
    """What is wrong with the place of weights where something that is no file lies in it; None elsewhere."""
    if not occupied(weights) or weights.is_file():
        return None
    if weights.is_symlink():
        return (
            f"{weights}: is a link to {quoted(str(weights.readlink()))}, which does not exist; bring it back (a disk, "
            "DVC's cache), or remove the link"
        )
    return f"{weights}: expected a file of weights, found a folder or a special file; move it away"


def other(weights: Path, md5: str) -> str | None:
    """What is wrong where weights are not those that `md5` of their sidecar names; None where they are, or missing."""
    if not weights.is_file() or (found := file_md5(weights)) == md5:
        return None
    return (
        f"{weights} has MD5 {found}, but its sidecar {weights.with_suffix('.json').name} is of {md5}; bring back the "
        f"file of this MD5, write a sidecar for this one ({IMPORTING}), or move it away"
    )


def _restore(weights: Path) -> str:
    sidecar = weights.with_suffix(".json")
    return f"bring it back (`git checkout -- {sidecar}`), " if pointer_path(weights).exists() else ""
