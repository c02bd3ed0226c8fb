"""Manifests: what a data set has to consist of, and the digest that stands for it in every metric file."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lska.data.entries import (
    DataError,
    FileName,
    Inside,
    Label,
    content_hash,
    inside_problem,
    label_problem,
    name_problem,
    read_names,
    repeated,
)
from lska.data.folders import Split, check_same_classes, contents_digest, list_split, names_digest, open_split
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.provenance.errors import InputError
from lska.provenance.files import file_hash, quoted, read_yaml, write_text
from lska.provenance.metric_files import digest
from lska.provenance.strict import AtLeastOne, AtLeastZero, Positive, build, checked
from lska.settings.schema import MANIFESTS, DataSource
from lska.settings.tasks import place

logger = logging.getLogger(__name__)

TEST = "test"
"""Name of the only split of ImageNet-A, -R and -Sketch."""

PARTS = ("train", "val", "test")

IMAGES, LABELS = "images", "labels"
"""Folders of a texture set, as DTD has them."""

ROUNDING = 1.0
"""Pixels: annotators' coordinates round over the border by less."""

LARGEST_LABEL = 255  # label maps have 8 bits

Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None
Suffix = Annotated[str, Field(pattern=r"(?i)\.(png|jpe?g|webp)$"), checked(inside_problem)]


# --- Archives --------------------------------------------------------------------------------------------------------

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

SUFFIX = re.compile(r"(?i)\.(tar|tar\.gz|tgz|zip)$")

ArchiveName = Annotated[str, Field(pattern=SUFFIX.pattern), checked(name_problem)]


@dataclass(frozen=True)
class Archive:
    """A file that a data set, or a part of it, is distributed as; None where no source says."""

    file: ArchiveName
    url: Annotated[str, checked(label_problem)] | None = None
    """The file itself, or the page from which it can be had, perhaps after registration."""
    bytes: AtLeastOne | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    holds: str | None = None
    rename: dict[Inside, Inside] = field(default_factory=dict)
    """Folders in it by the names that the project has for them, when it is unpacked: `{test: val}`."""
    by_hand: bool = False
    """Whether it is left to a person to unpack: parts of one folder, or too large to be kept twice."""

    def __post_init__(self) -> None:
        if twice := repeated(self.rename.values()):
            raise InputError(f"rename: several folders become {twice[0]!r}, expected a name for each")

    @property
    def direct(self) -> str | None:
        """The address that it can be fetched from without registration, None where there is none."""
        return self.url if self.url is not None and is_archive(self.url) else None

    @property
    def stated(self) -> tuple[str, ...]:
        """What is stated of it by which a file can be told to be this archive: some of bytes, md5, sha256."""
        return tuple(name for name in ("bytes", "md5", "sha256") if getattr(self, name) is not None)

    def problems(self, path: Path) -> list[str]:
        """What tells the file `path` from this archive: size first, and hashes only where that is right."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return [f"expected {self.bytes:,} bytes, found {size:,}"]
        found = hashes(path, [name for name in self.stated if name != "bytes"])
        wrong = (name for name in found if found[name] != getattr(self, name))
        return [f"expected {name} {getattr(self, name)}, found {found[name]}" for name in wrong]


def is_archive(name: str) -> bool:
    """Whether a file name or an address is one of an archive that can be unpacked."""
    return SUFFIX.search(name) is not None


def stem(name: str) -> str:
    """A file name without the suffix of an archive: `dtd-r1.0.1` of `dtd-r1.0.1.tar.gz`."""
    return SUFFIX.sub("", name)


def hashes(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Hashes of a file in hexadecimal, by algorithm."""
    found = {}
    for name in algorithms:
        logger.info("computing the %s of %s", name, path)
        found[name] = file_hash(path, name)
    return found


# --- Manifests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described:
    """What every manifest says: the name of the data set, and in words what it is, its source and its terms."""

    name: FileName
    title: str
    source: str
    terms: str
    archives: tuple[Archive, ...] = field(default=(), kw_only=True)

    in_folders: ClassVar[bool] = True
    """Whether classes are folders, whose sorted order is that of the class indices."""

    def __post_init__(self) -> None:
        listed = {name: getattr(self, name, ()) for name in ("classes", "category_ids", "ignore", "severities")}
        listed["archives"] = [one.file for one in self.archives]
        problems = [f"{name}: {quoted(one)} is listed twice" for name in listed for one in repeated(listed[name])]
        empty = (name for name in ("classes", "splits", "severities") if not getattr(self, name, True))
        problems += [f"{name}: expected at least one, found none" for name in empty]
        if self.in_folders and list(listed["classes"]) != sorted(listed["classes"]):
            problems.append("classes: expected sorted order, which is the order of the class indices")
        if problems := [*problems, *self._problems()]:
            raise InputError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        """What is wrong with the fields of the kind."""
        return ()

    @property
    def about(self) -> dict[str, str]:
        """Name, title, source and terms, as records keep them."""
        return {"name": self.name, "title": self.title, "source": self.source, "terms": self.terms}


# --- Class folders ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitManifest:
    """What one split has to hold.

    `count` images in all, between the two numbers of `per_class` in each class, or exactly `counts[class]` where given.
    `names` and `contents` are the digests of `names_digest` and `contents_digest`, None where they are not prescribed.
    """

    count: int
    per_class: tuple[int, int]
    counts: dict[FileName, int] | None = None
    names: Digest = None
    contents: Digest = None
    folder: Inside | None = None
    """Where its class folders lie from the root on (`valid`, `.`); None for a folder called as the split."""
    files: tuple[Inside, ...] | None = None
    """Its images, `<class>/<file>`, of a folder that it shares: the split of the folder without such a list has the
    others."""

    def __post_init__(self) -> None:
        if not 1 <= self.per_class[0] <= self.per_class[1]:
            raise InputError(f"per_class: expected [fewest, most] from 1 up, found {list(self.per_class)}")
        if self.counts is not None and sum(self.counts.values()) != self.count:
            raise InputError(f"count: expected the sum of counts, {sum(self.counts.values())}, found {self.count}")
        if self.files is not None and len(set(self.files)) != self.count:
            raise InputError(f"files: expected {self.count} different ones, by count, found {len(set(self.files))}")

    def expected(self, label: str) -> tuple[int, int]:
        """The fewest and the most images that class `label` may have."""
        return self.per_class if self.counts is None else (self.counts[label],) * 2


@dataclass(frozen=True)
class Manifest(Described):
    """A data set for classification: `classes` in index order (sorted), and its splits."""

    classes: tuple[FileName, ...]
    splits: dict[FileName, SplitManifest]

    def _problems(self) -> Iterable[str]:
        for name, split in self.splits.items():
            fewest, most = (len(self.classes) * bound for bound in split.per_class)
            if split.counts is not None and set(split.counts) != set(self.classes):
                yield f"splits.{name}.counts: expected exactly the classes, found other keys"
            elif split.counts is None and not fewest <= split.count <= most:
                yield f"splits.{name}.count: expected {fewest} to {most} by per_class, found {split.count}"
        rests = [self.folder_of(name) for name, split in self.splits.items() if split.files is None]
        for folder in repeated(rests):
            yield f"splits: several have all images of the folder {folder!r}; expected files in all of them but one"
        listed = [(self.folder_of(name), file) for name, split in self.splits.items() for file in split.files or ()]
        for _, file in repeated(listed)[:1]:
            yield f"splits: {quoted(file)} is among the files of several; expected each in one"

    def folder_of(self, split: str) -> str:
        """Where the class folders of a split lie, from the root on."""
        return (self.splits[split].folder if split in self.splits else None) or split

    def list_images(self, root: Path, split: str) -> Split:
        """The images of a split at `root`, raising as `list_split`: its `files`, or those of its folder that no other
        split lists."""
        found, own = list_split(root, split, self.folder_of(split)), self.splits.get(split)
        if own is not None and own.files is not None:
            return found.only(set(own.files).__contains__)
        beside = (one for name, one in self.splits.items() if self.folder_of(name) == self.folder_of(split))
        others = {file for one in beside for file in one.files or ()}
        return found.only(lambda name: name not in others) if others else found

    @property
    def digest(self) -> str:
        """`sha256:...` of what identifies the data; wording (title, source, terms) and the folders of the splits may
        change without changing it."""
        splits = {name: dataclasses.asdict(split) for name, split in self.splits.items()}
        for split in splits.values():
            del split["folder"]
            if split["files"] is None:  # as of all manifests from before there were lists
                del split["files"]
        return digest({"name": self.name, "classes": self.classes, "splits": splits})


@dataclass(frozen=True)
class CorruptedManifest(Described):
    """A set of corruptions by severities, each part of which holds the same `count` images."""

    family: Literal["c", "c_bar"]
    """Whose corruptions they are, ImageNet-C's or ImageNet-C-bar's."""
    classes: tuple[FileName, ...]
    count: int
    per_class: tuple[int, int]
    """Fewest and most images of a class in each part."""
    severities: tuple[int, ...] = SEVERITIES
    """A generated set may have fewer; no mean is taken over them then."""

    def _problems(self) -> Iterable[str]:
        self.part("check")  # whose own checks are those of the count
        if not set(self.severities) <= set(SEVERITIES):
            yield f"severities: expected some of {list(SEVERITIES)}, found {list(self.severities)}"

    @property
    def digest(self) -> str:
        """As `Manifest.digest`."""
        return digest([self.name, self.family, self.classes, self.count, self.per_class, self.severities])

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Every corruption with every severity, in the published order."""
        return tuple((corruption, severity) for corruption in FAMILIES[self.family] for severity in self.severities)

    def part(self, folder: str) -> Manifest:
        """What the folder of one severity has to hold."""
        return Manifest(**self.about, classes=self.classes, splits={folder: SplitManifest(self.count, self.per_class)})


@dataclass(frozen=True)
class TextureManifest(Described):
    """What a texture set consists of: `classes` in index order (sorted) and, of each class, images in each part."""

    classes: tuple[FileName, ...]
    parts: dict[str, int]
    """Images of each class in `train`, `val` and `test` of every split; their sum is the number of images of a class.
    """
    splits: Annotated[int, Field(ge=1, le=1000)]

    def _problems(self) -> Iterable[str]:
        if sorted(self.parts) != sorted(PARTS) or min(self.parts.values(), default=0) < 1:
            yield f"parts: expected a number from 1 up for each of {', '.join(PARTS)}, found {self.parts}"

    @property
    def count(self) -> int:
        """Images in all."""
        return len(self.classes) * sum(self.parts.values())

    @property
    def images(self) -> Manifest:
        """What the folder of images has to hold."""
        split = SplitManifest(self.count, (sum(self.parts.values()),) * 2)
        return Manifest(**self.about, classes=self.classes, splits={IMAGES: split})

    @property
    def digest(self) -> str:
        """As `Manifest.digest`."""
        identity = {"name": self.name, "classes": self.classes, "parts": self.parts, "splits": self.splits}
        return digest({"kind": "textures", **identity})


# --- Detection and segmentation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectionSplitManifest:
    """One split of a detection set; paths are relative to the data set's folder.

    `images` is a folder. `annotations` is a COCO JSON file, or for `format: voc` a folder of XML files, of which
    `names` lists those of the split, one a line without ending. `contents` is the digest of all files of the split
    where it is prescribed.
    """

    images: Inside
    annotations: Inside
    count: AtLeastOne
    objects: AtLeastZero | None = None
    """Annotations, those without area included and those left out not; None where it is not prescribed."""
    names: Inside | None = None
    dropped: AtLeastZero = 0
    """Objects that the conversion from VOC leaves out (`lska.data.coco.convert`)."""
    without_area: AtLeastZero = 0
    """Most boxes of zero width or height that are known errors of the data set; the trainers leave them out."""
    contents: Digest = None


@dataclass(frozen=True)
class SegmentationSplitManifest:
    """One split of a segmentation set: folders of `count` images and label maps, relative to the data set's folder."""

    images: Inside
    labels: Inside
    count: AtLeastOne
    contents: Digest = None


@dataclass(frozen=True)
class DenseManifest(Described):
    """A detection or segmentation set: its files lie in a folder, or in an archive that is unpacked."""

    archive: ArchiveName | None = field(default=None, kw_only=True)
    folder: Inside | None = field(default=None, kw_only=True)
    """The folder in it, or in a root, that the paths of the splits start from."""

    kind: ClassVar[str]
    in_folders: ClassVar[bool] = False

    @property
    def digest(self) -> str:
        """`sha256:...` of what identifies the data: not of wording, nor of where its folder or archive lies."""
        # Results from before the two tolerances stay those of the same data.
        where = {"title", "source", "terms", "archive", "folder", "archives"}
        usual = {"overhang": ROUNDING, "short_polygons": False}
        values = dataclasses.asdict(self).items()
        said = {key: value for key, value in values if key not in where and usual.get(key, ...) != value}
        return digest({"kind": self.kind, **said})


@dataclass(frozen=True)
class DetectionManifest(DenseManifest):
    """A detection set: `classes` in label order with their `category_ids` in the annotation files."""

    classes: tuple[Label, ...]
    category_ids: tuple[int, ...]
    splits: dict[FileName, DetectionSplitManifest]
    format: Literal["coco", "voc"] = "coco"
    masks: bool = False
    overhang: Positive = ROUNDING
    """Pixels by which a box or polygon must not leave its image. pycocotools clips masks to the image, mmdet boxes."""
    short_polygons: bool = False
    """Whether polygons of one or two points may follow the first of a mask (`lska.data.coco`)."""

    kind: ClassVar[str] = "detection"

    def _problems(self) -> Iterable[str]:
        expected, found = len(self.classes), len(self.category_ids)
        if found != expected:
            yield f"category_ids: expected {expected} different numbers, one for each class, found {found}"
        for name, split in self.splits.items():
            if (split.names is not None) != (self.format == "voc"):
                yield f"splits.{name}.names: expected the file of names with format voc, and only with it"

    @property
    def tolerant(self) -> bool:
        """Whether it states more than rounding as known of the data; such cases are then counted."""
        return self.overhang > ROUNDING or self.short_polygons


@dataclass(frozen=True)
class SegmentationManifest(DenseManifest):
    """A segmentation set: `classes` in the order of their labels, from 1 on with `zero_is_unlabelled`, else from 0."""

    classes: Annotated[tuple[Label, ...], Field(max_length=LARGEST_LABEL)]
    """The last label of 8 bits stands for pixels that are not scored."""
    splits: dict[FileName, SegmentationSplitManifest]
    zero_is_unlabelled: bool = False
    ignore: tuple[int, ...] = ()
    image_suffix: Suffix = ".jpg"
    label_suffix: Suffix = ".png"

    kind: ClassVar[str] = "segmentation"

    def _problems(self) -> Iterable[str]:
        taken = range(len(self.classes) + self.zero_is_unlabelled)
        if any(value in taken or not 0 <= value <= LARGEST_LABEL for value in self.ignore):
            yield (
                f"ignore: expected values up to {LARGEST_LABEL} that are no class (not in 0 to {len(taken) - 1}), "
                f"found {list(self.ignore)}"
            )

    @property
    def allowed(self) -> frozenset[int]:
        """Every value that a label map may hold."""
        return frozenset(range(len(self.classes) + self.zero_is_unlabelled)) | frozenset(self.ignore)


# --- Files -----------------------------------------------------------------------------------------------------------

KINDS: dict[str, type[Any]] = {
    "classification": Manifest, "detection": DetectionManifest, "segmentation": SegmentationManifest,
    "textures": TextureManifest, "corrupted": CorruptedManifest, "perturbed": Manifest,
}  # fmt: skip
"""Dataclass of each kind of manifest."""

SERVING = {
    "c": "corrupted", "c_bar": "corrupted", "a": "perturbed", "r": "perturbed", "sketch": "perturbed",
    "texture_knn": "textures",
}  # fmt: skip
"""Kind of the manifests of sets by what they serve (`Config.sources`), where that is another word."""


def available(kind: str | None = "classification") -> tuple[str, ...]:
    """Names of the bundled manifests of a kind, one of `KINDS`, or of all kinds."""
    return tuple(sorted(one.stem for one in MANIFESTS.glob("*.yaml") if kind is None or manifest_kind(one) == kind))


def manifest_kind(path: Path) -> str:
    """What a manifest describes, one of `KINDS`; those of image classification need not say it. DataError otherwise."""
    kind = read_yaml(path).get("kind", "classification")
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"{path}: kind: expected one of {', '.join(KINDS)}, found {quoted(kind)}")
    return kind


def manifest_path(name: str | Path, kind: str | None = None) -> Path:
    """The file of a manifest given by name (bundled) or by path; DataError where there is none."""
    bundled = MANIFESTS / f"{name}.yaml"
    path = bundled if bundled.is_file() else Path(name)
    # A dangling link or a pipe is named by who reads it, not taken for absence.
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.lexists(path) or path.is_dir():
        raise DataError(
            f"no manifest {str(name)!r}: expected one of {', '.join(available(kind))} or the path of a .yaml file; "
            "correct the name, or make one (docs/data.md)"
        )
    return path


def load_manifest(name: str | Path, kind: str | None = "classification") -> Any:
    """Load a manifest of `kind` (None: whichever it is), bundled by name or any by its path, as a `KINDS[kind]`.

    `classes` is a list, or `<package>:<file>` for one, a class a line, that an installed package ships. Raises
    ValueError: no such manifest, one of another kind, or a wrong one; every unknown key and wrong type is named.
    """
    path = manifest_path(name, kind)
    values, found = read_yaml(path), manifest_kind(path)
    # What identifies a set is in the lines before (lska.settings.tasks.ScaleData.made_of).
    if "archives" in values and list(values)[-1] != "archives":
        raise DataError(f"{path}: expected `archives` as the last key, found {list(values)[-1]!r} there; move it down")
    if kind not in (None, found):
        raise DataError(
            f"{path} is a manifest of {found}, expected one of {kind}: {', '.join(available(kind))} or your own"
        )
    values.pop("kind", None)
    if isinstance(values.get("classes"), str):
        values["classes"] = packaged_classes(values["classes"], path)
    manifest = build(KINDS[found], values, str(path))
    if found == "perturbed" and list(manifest.splits) != [TEST]:
        raise DataError(f"{path}: splits: expected exactly {TEST!r}, found {', '.join(manifest.splits)}")
    return manifest


def manifest_for(kind: str, data: DataSource) -> Any:
    """The manifest of a data set that serves `kind` and is not generated; raises as `load_manifest`."""
    manifest = load_manifest(data.manifest or data.name, SERVING.get(kind, kind))
    if manifest.name != data.name:
        raise DataError(
            f"{place(kind)}.name is {data.name!r} but the manifest {data.manifest} describes {manifest.name!r}; "
            "correct one of the two settings"
        )
    return manifest


def packaged_classes(reference: str, where: Path) -> list[str]:
    """Read a list such as `timm:data/_info/imagenet_synsets.txt` without importing timm, which takes seconds.

    Raises ValueError, which names the manifest `where` it is asked for, or the file and the line of a wrong class.
    """
    package, _, name = reference.partition(":")
    spec = importlib.util.find_spec(package) if package.isidentifier() and not inside_problem(name) else None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / name).is_file():
            return read_names(Path(folder) / name, name_problem)
    raise DataError(
        f"{where}: classes: expected a list, or <package>:<file> of an installed package, found {quoted(reference)}; "
        f"install {quoted(package)} or correct the file name"
    )


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as YAML that `load_manifest` reads, atomically."""
    write_text(path, manifest_text(manifest))


def manifest_text(manifest: Manifest) -> str:
    """A manifest as YAML that `load_manifest` reads."""
    import yaml

    def said(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value not in (None, [], {}) and value is not False}

    values = json.loads(json.dumps(dataclasses.asdict(manifest)), object_hook=said)
    # The list of archives is the last key of a manifest.
    values |= {"archives": values.pop("archives")} if "archives" in values else {}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def make_manifest(root: Path, name: str, title: str = "", source: str = "", terms: str = "") -> Manifest:
    """Describe the data at `root`, splits train and val, as they are, with digests of file names and of all bytes."""
    train, val = (open_split(root, split) for split in ("train", "val"))
    check_same_classes(train, val)
    described = {split.split: describe_split(split) for split in (train, val)}
    return Manifest(name, title or name, source, terms, train.classes, described)


def describe_split(split: Split, hashes: Iterable[str] | None = None) -> SplitManifest:
    """What a split holds; `hashes` of its files in order are computed where they are not given."""
    counts = split.counts()
    bounds = min(counts.values()), max(counts.values())
    contents = contents_digest(split, hashes or (content_hash(split.read(index)) for index in range(len(split))))
    return SplitManifest(len(split), bounds, counts if len({*bounds}) > 1 else None, names_digest(split), contents)
