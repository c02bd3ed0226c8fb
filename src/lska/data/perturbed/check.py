"""Finding the parts of a perturbed set on disk, and saying exactly what is missing, down to corruption and severity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lska.data.check import Report, read_contents, structure_problems
from lska.data.check import check as check_splits
from lska.data.folders import DataError, Split, list_split
from lska.data.layouts import shown
from lska.data.manifest import Manifest, names_digest
from lska.data.perturbed.manifests import TEST, CorruptedManifest
from lska.data.perturbed.names import FAMILIES, GROUPS, severity_folder

Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True)
class CorruptedCheck:
    """What is there of a set of corruptions: complete parts by cell, and what is wrong, by cell or in general.

    `names` is the digest of the file names, the same in every complete part; None where there is none.
    """

    parts: dict[Cell, Split] = field(default_factory=dict)
    problems: dict[Cell, str] = field(default_factory=dict)
    absent: tuple[Cell, ...] = ()
    names: str | None = None
    root_problem: str | None = None

    def sentences(self) -> tuple[str, ...]:
        """What is wrong: whole corruptions and single severities that are missing, then parts that are not complete.

        Parts with the same problem share a sentence.
        """
        if self.root_problem is not None:
            return (self.root_problem,)
        missing = [_missing(name, levels) for name, levels in by_corruption(self.absent).items()]
        alike: dict[str, list[Cell]] = {}
        for cell, problem in self.problems.items():
            alike.setdefault(problem, []).append(cell)
        broken = [f"{_places(cells)}: {problem}." for problem, cells in alike.items()]
        return (*missing, *broken)


def by_corruption(cells: Iterable[Cell]) -> dict[str, list[int]]:
    """The severities of each corruption that occurs."""
    found: dict[str, list[int]] = {}
    for corruption, severity in cells:
        found.setdefault(corruption, []).append(severity)
    return found


def _places(cells: Iterable[Cell]) -> str:
    """`fog/1, 2; snow/3`."""
    return "; ".join(f"{name}/{', '.join(map(str, levels))}" for name, levels in by_corruption(cells).items())


def _missing(corruption: str, levels: list[int]) -> str:
    archive = next((f"{group}.tar" for group, members in GROUPS.items() if corruption in members), None)
    source = "" if archive is None else f" (ImageNet-C has them in {archive})"
    what = "severities" if len(levels) > 1 else "severity"
    return f"{corruption}: {what} {', '.join(map(str, levels))} missing{source}."


def check_corrupted(manifest: CorruptedManifest, root: Path) -> CorruptedCheck:
    """List every part of a set of corruptions; nothing about the data raises. No image is read."""
    if not root.is_dir():
        return CorruptedCheck(
            root_problem=f"{root} is no folder: expected <corruption>/<severity>/<class>/<image>; correct the root"
        )
    problems: dict[Cell, str] = {}
    splits = dict(_cells(manifest, root, problems))
    absent = tuple(cell for cell, split in splits.items() if split is None and cell not in problems)
    if len(absent) == len(splits):
        found = shown(sorted(path.name for path in root.iterdir()))
        return CorruptedCheck(
            absent=absent,
            root_problem=f"{root} holds no corruption of {manifest.name}: expected <corruption>/<severity>/<class>/"
            f"<image>, such as {'/'.join(_folders(manifest, absent[0]))}, found {found}; correct the root",
        )
    parts = {cell: split for cell, split in splits.items() if split is not None}
    names = _usual_names(parts, problems)
    parts = {cell: split for cell, split in parts.items() if cell not in problems}
    return CorruptedCheck(parts, problems, absent, names)


def _usual_names(parts: dict[Cell, Split], problems: dict[Cell, str]) -> str | None:
    """Digest of the file names that most parts have; the others get an entry in `problems`."""
    digests = {cell: names_digest(split) for cell, split in parts.items()}
    if not digests:
        return None
    usual, _ = Counter(digests.values()).most_common(1)[0]
    example = "/".join(map(str, next(cell for cell, found in digests.items() if found == usual)))
    for cell in (cell for cell, found in digests.items() if found != usual):
        problems[cell] = f"the file names are not those of {example}, although every part shows the same images"
    return usual


def _folders(manifest: CorruptedManifest, cell: Cell) -> tuple[str, str]:
    """Folders of a part in the published layout."""
    return cell[0], severity_folder(manifest.family, *cell)


def _cells(
    manifest: CorruptedManifest, root: Path, problems: dict[Cell, str]
) -> Iterator[tuple[Cell, Split | None]]:
    """Every cell with its split, None where it is absent or, with an entry in `problems`, not complete."""
    from tqdm import tqdm

    for cell in tqdm(manifest.cells, unit="part", disable=None, leave=False):
        corruption, severity = _folders(manifest, cell)
        folder = corruption_folder(root, manifest.family, corruption)
        if folder is None or not (folder / severity).is_dir():
            yield cell, None
            continue
        try:
            split = list_split(folder, severity)
            wrong = structure_problems(manifest.part(severity), split)
        except DataError as error:
            wrong = [str(error)]
        if wrong:
            problems[cell] = "; ".join(wrong)
        yield cell, None if wrong else split


def corruption_folder(root: Path, family: str, corruption: str) -> Path | None:
    """The folder of a corruption: `root/<corruption>`, or inside the folder of its archive (`root/blur/zoom_blur`)."""
    archives = [group for group, members in GROUPS.items() if corruption in members] if family == "c" else []
    places = [root / corruption, *(root / group / corruption for group in archives)]
    return next((place for place in places if place.is_dir()), None)


def report_corrupted(manifest: CorruptedManifest, root: Path, contents: bool = False) -> Report:
    """The check of a set of corruptions for people; with `contents`, every image is decoded too."""
    checked = check_corrupted(manifest, root)
    damaged = [text for cell, part in checked.parts.items() for text in _damaged(cell, part)] if contents else []
    note = (
        f"{len(checked.parts)} of {len(manifest.cells)} parts ({len(FAMILIES[manifest.family])} corruptions, "
        f"{len(manifest.severities)} severities) are complete, with {manifest.count:,} images each."
    )
    return Report(manifest.name, manifest.digest, root, (*checked.sentences(), *damaged), (note,))


def _damaged(cell: Cell, part: Split) -> Iterator[str]:
    for text in read_contents(part).damaged:
        yield f"{cell[0]}/{cell[1]}: {text}."


def report_perturbed(manifest: Manifest, root: Path, contents: bool = False, cache: Path | None = None) -> Report:
    """The check of a set with one folder per class, for people; `root` is that folder or a tar file of it."""
    absent = _absent(root)
    if absent is not None:
        return Report(manifest.name, manifest.digest, root, (absent,), ())
    return replace(check_splits(_renamed(manifest, root), root.parent, contents, cache), root=root)


def open_test(root: Path, cache: Path | None = None) -> Split:
    """List a set with one folder per class; `root` is that folder, or what it is packed in (`imagenet-r.tar`).

    Raises:
        DataError: it is missing, or its images are not sorted into classes.
    """
    absent = _absent(root)
    if absent is not None:
        raise DataError(absent)
    return list_split(root.parent, _split_name(root), cache)


def _absent(root: Path) -> str | None:
    """What to do where neither the folder nor its archive is there."""
    folder = root.with_name(_split_name(root))
    if folder.is_dir() or folder.with_name(f"{folder.name}.tar").is_file():
        return None
    return (
        f"{root} does not exist: expected a folder with a folder of images per class, or a tar file of it; correct the "
        "root"
    )


def perturbed_problems(manifest: Manifest, split: Split) -> list[str]:
    """What is wrong with an opened set with one folder per class; reads no image."""
    return structure_problems(_renamed(manifest, split.root / split.split), split)


def _renamed(manifest: Manifest, root: Path) -> Manifest:
    """The manifest under the name that the set's folder has, by which splits are found."""
    return replace(manifest, splits={_split_name(root): manifest.splits[TEST]})


def _split_name(root: Path) -> str:
    return root.name.removesuffix(".tar")
