"""A user's folder of class folders, as it lies there, described by a manifest: nothing in it is moved or written.

Where it has no validation split, one is drawn and listed in the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from lska.data.entries import DataError, is_hidden, is_image, name_problem, repeated, shown_names
from lska.data.folders import Split, check_same_classes, list_split, without_empty_class
from lska.data.manifest import Manifest, SplitManifest, describe_split
from lska.data.perturbed.corrupted_set import corrupted_name
from lska.data.preparing import Findings, decoded

logger = logging.getLogger(__name__)

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "test", "testing")
"""What folders of splits are called, in any case of letters; the first that is there is taken."""

MOST_LISTED = 50_000
"""Validation images that a manifest lists: those of ImageNet, and half of what is read of a YAML file."""


@dataclass(frozen=True)
class OwnFolder:
    """What a folder holds, and the shorter side of its images in pixels: the median of those trained on."""

    manifest: Manifest
    side: int
    remarks: tuple[str, ...]
    """What is worth knowing, one sentence each."""

    def count(self, split: str) -> int:
        """Images of `train` or `val`."""
        return self.manifest.splits[split].count


def describe_folder(folder: Path, name: str, share: float) -> OwnFolder:
    """Read every image of `folder/<class>/` or `folder/train/<class>/` (and `val`, `valid`, `validation`, `test`).

    Args:
        name: of the data set, and the seed of a validation split that is drawn.
        share: of the images of each class that go into it.

    Raises:
        DataError: names everything that could not be trained on or measured rightly: images that cannot be decoded,
            classes that are empty, alone, or in one split only, one image in both splits or in two classes.
    """
    if not folder.is_dir():
        found = "a file; unpack it" if folder.exists() else "nothing; correct the path"
        raise DataError(f"{folder}: expected a folder with a folder of images for each class, found {found}")
    try:
        train_folder, val_folder, others = _split_folders(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}); check its permissions and mount") from error
    train = _listed(folder, "train", train_folder)
    given = None if val_folder is None else _listed(folder, "val", val_folder)
    if given is not None:
        check_same_classes(train, given)
    findings, remarks = Findings(), Findings()
    hashes: dict[str, list[str]] = {}
    sides: list[int] = []
    for split in filter(None, (train, given)):
        logger.info("reading %s images of %s", f"{len(split):,}", split.source)
        seen = list(decoded([Path(split.name(index)) for index in range(len(split))], split.split, findings, remarks))
        hashes[split.split] = [one.hash for one in seen]
        sides += [min(one.size) for one in seen if one.size] if split is train else []
        remarks.add(f"entries of {split.source} that are no images, left out", *map(repr, sorted(split.ignored)))
    findings.add("the same image in two classes", *_in_two_classes((train, given), hashes))
    if given is not None:
        findings.add("the same image in both splits", *_in_both(train, given, hashes))
        findings.add("images of one name that differ in the ending alone", *_alike(given.samples.names))
    for label, count in train.counts().items():
        findings.add("classes of which no image would be left to train on", *([] if count > 1 or given else [label]))
    _refuse(folder, findings)
    remarks.add("folders that are no split, left out", *others)
    if given is None:
        train, given, hashes = _divided(train, hashes["train"], name, share)
    splits = {one.split: _described(one, train, hashes[one.split]) for one in (train, given)}
    manifest = Manifest(name, f"images of {folder.resolve().name}", "own images", "not stated", train.classes, splits)
    return OwnFolder(manifest, round(median(sides)), remarks.sentences())


def _split_folders(folder: Path) -> tuple[str, str | None, list[str]]:
    """Folders of `train` and `val` (None where there is none) from `folder` on, and what lies beside them.

    A class may be called `train`: only a folder that holds folders is one of a split.
    """
    inner = [one for one in sorted(folder.iterdir()) if _is_folder(one)]
    named = (one for one in inner if one.name.lower() in (*TRAIN_FOLDERS, *VAL_FOLDERS))
    nested = {one.name.lower(): one.name for one in named if any(map(_is_folder, one.iterdir()))}
    train, val = (next((nested[one] for one in names if one in nested), None) for names in (TRAIN_FOLDERS, VAL_FOLDERS))
    if train is None:
        return ".", None, []
    return train, val, [repr(one.name) for one in inner if one.name not in (train, val)]


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not is_hidden(entry.name)


def _listed(root: Path, split: str, folder: str) -> Split:
    """A split as it lies there; DataError where something in it cannot be a class or an image of one."""
    found = list_split(root, split, folder)
    deeper = [one for one in sorted(found.ignored) if (found.source / one).is_dir() and not is_hidden(one)]
    if deeper := [one for one in deeper if _holds_images(found.source / one)]:
        raise DataError(
            f"{found.source}: folders with images inside class folders ({len(deeper)}): {shown_names(deeper)}. "
            "Expected <class>/<image>, the images directly in the folder of their class; if these folders are the "
            "classes, give the folder around them, else move their images up, or make a folder of links to them"
        )
    without_empty_class(found)
    if len(found.classes) < 2:
        raise DataError(
            f"{found.source}: expected at least two class folders, found {shown_names(found.classes)} alone; give the "
            "folder around the class folders"
        )
    findings = Findings()
    for name in found.samples.names:
        for part in name.split("/"):
            findings.add("names that cannot be used", *filter(None, [_unusable(part)]))
    _refuse(found.source, findings)
    return found


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _unusable(name: str) -> str | None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name!r} is no UTF-8"
    return name_problem(name)


def _refuse(place: Path, findings: Findings) -> None:
    if findings:
        wrong = "\n".join(f"  {sentence}" for sentence in findings.sentences())
        raise DataError(
            f"{place} cannot be used as it is:\n{wrong}\nremove or correct these, or leave them out in a copy"
        )


# --- Images that are there twice -------------------------------------------------------------------------------------


def _in_two_classes(splits: Iterable[Split | None], hashes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Pairs of files with the same bytes and different labels."""
    first: dict[str, tuple[int, str]] = {}
    for split in filter(None, splits):
        for index, (sample, value) in enumerate(zip(split.samples, hashes[split.split], strict=True)):
            target, place = first.setdefault(value, (sample.target, split.name(index)))
            if value and target != sample.target:
                yield f"{place} and {split.name(index)}"


def _in_both(train: Split, val: Split, hashes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Pairs of files with the same bytes, one of each split."""
    there = {value: train.name(index) for index, value in enumerate(hashes["train"]) if value}
    return (f"{there[value]} and {val.name(index)}" for index, value in enumerate(hashes["val"]) if value in there)


def _alike(names: Iterable[str]) -> list[str]:
    """Names that images of `<class>/<file>` would share as corrupted copies, which are all JPEG files."""
    return repeated(map(corrupted_name, names))


# --- Splits ----------------------------------------------------------------------------------------------------------


def _divided(whole: Split, hashes: Sequence[str], name: str, share: float) -> tuple[Split, Split, dict[str, list[str]]]:
    """Training and validation images, and their hashes: of each class `share`, at least one, into the latter.

    An image's rank in the draw follows from `name` and its own bytes. So copies of one image stay together, and where
    images come to a folder, those that were there keep their side but for a few.
    """
    chosen: set[str] = set()
    shared = set(_alike(whole.samples.names))
    ranks = [hashlib.sha256(f"{name}\0{value}".encode()).digest() for value in hashes]
    members: dict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(whole.samples):
        members[sample.target].append(index)
    for indices in members.values():
        wanted = min(max(1, round(share * len(indices))), len(indices) - 1)
        groups: dict[bytes, list[str]] = defaultdict(list)
        for index in sorted(indices, key=lambda index: (ranks[index], index)):
            groups[ranks[index]].append(whole.samples[index].name)
        for group in groups.values():
            fits = len(group) <= wanted and not any(corrupted_name(one) in shared for one in group)
            chosen |= set(group) if fits else set()
            wanted -= len(group) if fits else 0
    val, train = whole.only(chosen.__contains__), whole.only(lambda one: one not in chosen)
    if missing := [label for label, count in val.counts().items() if not count]:
        raise DataError(
            f"{whole.source}: no validation image can be drawn from these classes: {shown_names(missing)}. Their "
            "images are copies of each other, or their names differ in the ending only; add images"
        )
    if len(val) > MOST_LISTED:
        raise DataError(
            f"{whole.source}: a share of {share:g} is {len(val):,} images, and a manifest lists at most "
            f"{MOST_LISTED:,}; give a validation share of at most {MOST_LISTED / len(whole):.3f}, or a folder with "
            "`train` and `val`"
        )
    values = dict(zip(whole.samples.names, hashes, strict=True))
    found = {"train": train, "val": replace(val, split="val")}
    return *found.values(), {side: [values[one] for one in split.samples.names] for side, split in found.items()}


def _described(split: Split, train: Split, hashes: Sequence[str]) -> SplitManifest:
    """What the manifest says of a split; of one that was drawn, its files."""
    folder, drawn = os.path.relpath(split.source, split.root), split is not train and split.source == train.source
    files = tuple(split.samples.names) if drawn else None
    return replace(describe_split(split, hashes), folder=None if folder == split.split else folder, files=files)
