"""Data sets, whatever they serve: made or checked against their manifest, and recorded beside the results.

A kind of set is a subclass of `DataSet` that says how it is made and checked. What is not as its manifest says is
refused with everything found; what is sound gets a record, which trainings, evaluations and tables rely on.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from lska.data.archives import list_classification
from lska.data.decoding import Seen, see
from lska.data.entries import SHOWN, DataError, lines_digest, shown_names
from lska.data.folders import Split, contents_digest, list_split, names_digest
from lska.data.generators import generator_settings
from lska.data.manifest import Manifest, make_manifest, manifest_for
from lska.data.synthetic.generated import write_set
from lska.provenance.files import one_line
from lska.provenance.metric_files import read_record, write_sealed
from lska.provenance.progress_bar import Bar
from lska.settings.schema import DataSource
from lska.settings.tasks import InspectionJob, ScaleData, place

T = TypeVar("T")
logger = logging.getLogger(__name__)

RENDERED = {"source": "lska.data.synthetic", "terms": "no restrictions"}
"""What a manifest says of generated scenes."""

CHUNK = 1024  # files handed to the threads at a time

# --- What a check finds ----------------------------------------------------------------------------------------------


class Findings:
    """Problems by kind; each kind keeps its number and its first examples, so that millions of them fit in memory."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, kind: str, *examples: str) -> None:
        """Count more problems of a kind, one for each example, which names the file and the annotation."""
        for example in examples:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if self._counts[kind] <= SHOWN:
                self._examples.setdefault(kind, []).append(one_line(example))

    def sentences(self) -> tuple[str, ...]:
        """One text per kind: the kind, how many there are, the first of them."""
        return tuple(
            f"{kind} ({count:,}): {'; '.join(self._examples[kind])}"
            + (f"; and {count - SHOWN:,} more" if count > SHOWN else "")
            for kind, count in self._counts.items()
        )


def differences(stated: Iterable[tuple[str, int | None, int]]) -> list[str]:
    """Sentences about counts that are not as stated, from triples (what, expected or None, found)."""
    return [
        f"{found:,} {what}, expected {expected:,} "
        f"({abs(found - expected):,} too {'many' if found > expected else 'few'})"
        for what, expected, found in stated
        if expected is not None and found != expected
    ]


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check: `findings` are what is wrong, `notes` what is worth knowing; one sentence each."""

    manifest: str
    digest: str
    root: Path
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the data are what the manifest says."""
        return not self.findings


def render_report(report: CheckReport) -> str:
    """The report for people, ending in a newline."""
    verdict = "as its manifest says" if report.ok else f"not as its manifest says ({len(report.findings)})"
    lines = [f"{report.manifest} at {report.root}: {verdict}", f"manifest digest {report.digest}"]
    lines += [f"  wrong: {one_line(text)}" for text in report.findings]
    lines += [f"  {one_line(text)}" for text in report.notes]
    return "\n".join(lines) + "\n"


def mapped(function: Callable[[int], T], count: int, description: str) -> Iterator[T]:
    """Yield `function(0)` to `function(count - 1)` in order, from threads, with a progress bar on a terminal.

    Pillow works outside the interpreter lock.
    """
    bar = Bar(total=count, desc=description, unit="images")
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, CHUNK):
            for value in threads.map(function, range(start, min(start + CHUNK, count))):
                bar.update()
                yield value


def decoded(
    paths: Sequence[Path], description: str, findings: Findings, remarks: Findings, labels: bool = False
) -> Iterator[Seen]:
    """Decode images, or with `labels` label maps.

    What cannot be used goes to `findings`, what decoding leaves out to `remarks`.
    """
    kind = "label maps that cannot be decoded" if labels else "images that cannot be decoded"
    for path, picture in zip(paths, mapped(lambda one: see(paths[one], labels), len(paths), description), strict=True):
        findings.add(kind, *([picture.problem] if picture.problem else []))
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", f"{path.parent.name}/{path.name}")
        yield picture


# --- A data set ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet(ABC):
    """One data set of a scale."""

    kind: str
    data: DataSource
    cache: Path
    """Folder for what is unpacked or converted; may be deleted at any time."""

    @property
    def root(self) -> Path:
        """Where it lies."""
        return Path(self.data.root)

    @property
    def settings(self) -> Any:
        """The settings of its generator; raises ValueError where one is wrong."""
        return generator_settings(self.kind, self.data)

    def generate(self) -> None:
        """Make it at its root, in the place of a generated set of other settings."""
        write_set(self.root, self.settings)

    @abstractmethod
    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """What is wrong with it, and what its record says where nothing is.

        With `contents` every image is decoded, where that is not done anyway. Nothing about the data raises.
        """


def prepare_set(dataset: DataSet, record: Path, more: Mapping[str, Any] | None = None) -> None:
    """Generate a set where the configuration says so, check it, and write its record, with `more` in it.

    Raises DataError, which names everything that is not as its manifest says, or ValueError: a wrong manifest or
    setting.
    """
    data = dataset.data
    if data.generate is not None:
        dataset.generate()
    report, content = dataset.check()
    for note in report.notes:
        logger.info("%s: %s", data.name, note)
    if not report.ok:
        remedy = "The set was generated and changed since; remove its folder, and it is made again"
        if data.generate is None:
            remedy = (
                f"The root is the setting {place(dataset.kind)}.root of the configuration; point it at the data with a "
                "file of your own, `--configfile <scale>.yaml <yours>.yaml` (docs/data.md)"
            )
        raise DataError(render_report(replace(report, root=dataset.root)) + remedy)
    write_sealed(record, {**content, **(more or {})})


def record(manifest: Any) -> dict[str, Any]:
    """What results keep of a manifest with splits: its name, digest, number of classes and images per split."""
    return manifest.about | {
        "digest": manifest.digest,
        "classes": len(manifest.classes),
        "splits": {name: split.count for name, split in manifest.splits.items()},
    }


def changed(root: str | Path, record: Path, problems: Iterable[str]) -> DataError:
    """The error about a set that is not the one that `record` records any more."""
    lines = "\n".join(f"  {problem}" for problem in problems)
    return DataError(
        f"{root} is not the set that {record} records:\n{lines}\nrestore the files, or remove the record and "
        "prepare the set again"
    )


def inspected_record(dataset: DataSet, images: Any, about: dict[str, str], identity: str) -> dict[str, Any]:
    """What results keep of the set of an inspection, a `CueConflictSet` or `TextureSet`."""
    words = {**about, "name": dataset.data.name}
    return words | {"digest": identity, "images": len(images), "files": lines_digest(images.listing())}


def verify_inspected(job: InspectionJob, images: Any) -> None:
    """Make sure that an opened set of an inspection is the recorded one.

    Raises FileError where the record is missing or damaged, DataError where files came, went or changed in size.
    """
    stored = read_record(job.record, job.data.name, job.name, files=str)
    if stored["files"] != lines_digest(images.listing()):
        raise changed(job.data.root, job.record, ["files were added, removed or changed"])


# --- Class folders ---------------------------------------------------------------------------------------------------


class ClassFolders(DataSet):
    """A scale's classification set."""

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and names, in folders or archives; what was generated is described as it is."""
        if self.data.generate is not None:
            manifest = make_manifest(self.root, self.data.name, title="generated scenes", **RENDERED)
            return CheckReport(manifest.name, manifest.digest, self.root, ()), record(manifest)
        manifest = manifest_for("classification", self.data)

        def opened(split: str) -> Split:
            return list_classification(manifest, self.root, split, self.cache)

        return check_class_folders(manifest, self.root, contents, opened), record(manifest)


def prepare(data: ScaleData) -> None:
    """Prepare a scale's classification set; raises as `prepare_set`."""
    prepare_set(ClassFolders(data.kind, data, data.cache), data.record)


def verify(data: ScaleData, *splits: Split) -> dict[str, str]:
    """Make sure that opened splits are those of the data record, also where the root was changed after the check.

    Returns the name and digest of the data, as results keep them; raises DataError where something differs.
    """
    identity = data.identity()
    if data.generate is not None:
        return identity
    manifest = manifest_for("classification", data)
    problems = [f"{split.split}: {text}" for split in splits for text in structure_problems(manifest, split)]
    if identity["digest"] != manifest.digest:
        problems.append("it records another version of the manifest")
    if problems:
        raise changed(data.root, data.record, problems)
    return identity


def check_class_folders(
    manifest: Manifest, root: Path, contents: bool = False, opened: Callable[[str], Split] | None = None
) -> CheckReport:
    """Check every split of `manifest` at `root`: classes, counts, empty files, names; with `contents` every image too.

    `opened` lists a split, where it does not simply lie at `root`. A missing root is a finding like any other.
    """
    findings: list[str] = []
    notes: list[str] = []
    for name, expected in manifest.splits.items():
        try:
            split = opened(name) if opened else list_split(root, name)
        except DataError as error:
            findings.append(str(error))
            continue
        notes.append(f"{name}: {len(split):,} images in {len(split.classes):,} classes at {split.source}.")
        if split.ignored:
            first = shown_names(split.ignored[:3])
            notes.append(f"{name}: other entries, ignored ({len(split.ignored):,}): {first}.")
        problems, wrong, remarks = structure_problems(manifest, split), Findings(), Findings()
        whole = not problems
        for index, file in enumerate(split.samples.names):
            try:
                wrong.add("files without bytes", *([] if split.size(index) else [repr(file)]))
            except (OSError, DataError):
                wrong.add("files that cannot be opened", repr(file))
        problems += wrong.sentences()
        if contents:
            damaged = Findings()
            hashes = read_contents(split, damaged, remarks)
            problems += damaged.sentences()
            stated = expected.contents if whole and not damaged else None
            if stated and (found := contents_digest(split, hashes)) != stated:
                problems.append(f"the contents differ, expected contents digest {stated}, found {found}")
        findings += [f"{name}: {text}." for text in problems]
        notes += [f"{name}: {text}." for text in remarks.sentences()]
    # A missing root fails every split with the same message.
    return CheckReport(manifest.name, manifest.digest, Path(root), tuple(dict.fromkeys(findings)), tuple(notes))


def structure_problems(manifest: Manifest, split: Split) -> list[str]:
    """What is wrong with classes, counts and file names of an opened split, one sentence each; reads no image."""
    expected, counts, wrong = manifest.splits[split.split], split.counts(), Findings()
    wrong.add("missing classes", *map(repr, sorted(set(manifest.classes) - set(counts))))
    wrong.add("class folders that are not in the manifest", *map(repr, sorted(set(counts) - set(manifest.classes))))
    wrong.add("class folders without images", *(repr(name) for name, count in counts.items() if not count))
    for label in (label for label, count in counts.items() if count and label in manifest.classes):
        (fewest, most), count = expected.expected(label), counts[label]
        if count < fewest:
            wrong.add("classes with too few images", f"{label} has {count:,} of {fewest:,}")
        elif count > most:
            wrong.add("classes with too many images", f"{label} has {count:,} instead of {most:,}")
    problems = [*differences([("images", expected.count, len(split))]), *wrong.sentences()]
    # Where images are missing, the names differ for that reason.
    if expected.names and not problems and (found := names_digest(split)) != expected.names:
        problems.append(
            f"the file names differ although the counts agree, expected names digest {expected.names}, found {found}"
        )
    return problems


def read_contents(split: Split, damaged: Findings, remarks: Findings) -> list[str]:
    """Decode every image; hashes of the files in order, empty where one cannot be used."""
    paths = [Path(split.name(index)) for index in range(len(split))]
    return [picture.hash for picture in decoded(paths, split.split, damaged, remarks)]
