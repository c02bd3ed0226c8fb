"""What a check finds and how it is told, and the check of class folders against their manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.data.decoding import Seen, see
from lska.data.entries import SHOWN, DataError, shown_names
from lska.data.folders import Split, contents_digest, list_split, names_digest
from lska.data.manifest import Manifest
from lska.data.parallel import mapped
from lska.provenance.files import one_line


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


def changed(root: str | Path, record: Path, problems: Iterable[str]) -> DataError:
    """The error about a set that is not the one that `record` records any more."""
    lines = "\n".join(f"  {problem}" for problem in problems)
    return DataError(
        f"{root} is not the set that {record} records:\n{lines}\nrestore the files, or remove the record and "
        "prepare the set again"
    )


# --- Class folders ---------------------------------------------------------------------------------------------------


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
        problems, remarks = structure_problems(manifest, split, name), ()
        whole = not problems
        wrong = Findings()
        for index in range(len(split)):
            try:
                if split.size(index) == 0:
                    wrong.add("files without bytes", repr(split.samples[index].name))
            except (OSError, DataError):
                wrong.add("files that cannot be opened", repr(split.samples[index].name))
        problems += wrong.sentences()
        if contents:
            hashes, damaged, remarks = read_contents(split)
            problems += damaged
            stated = expected.contents if whole and not damaged else None
            if stated and (found := contents_digest(split, hashes)) != stated:
                problems.append(f"the contents differ, expected contents digest {stated}, found {found}")
        findings += [f"{name}: {text}." for text in problems]
        notes += [f"{name}: {text}." for text in remarks]
    # A missing root fails every split with the same message.
    return CheckReport(manifest.name, manifest.digest, Path(root), tuple(dict.fromkeys(findings)), tuple(notes))


def structure_problems(manifest: Manifest, split: Split, name: str | None = None) -> list[str]:
    """What is wrong with classes, counts and file names of an opened split, one sentence each; reads no image.

    `name` is the split's in the manifest, where its folder has another.
    """
    expected, counts, wrong = manifest.splits[name or split.split], split.counts(), Findings()
    problems = [
        f"{kind.format(len(names))}): {shown_names(names)}"
        for kind, names in (
            (f"missing classes ({{}} of {len(manifest.classes):,}", sorted(set(manifest.classes) - set(counts))),
            ("class folders that are not in the manifest ({}", sorted(set(counts) - set(manifest.classes))),
            ("class folders without images ({}", [name for name, count in counts.items() if not count]),
        )
        if names
    ]
    problems += differences([("images", expected.count, len(split))])
    for label in (label for label, count in counts.items() if count and label in manifest.classes):
        (fewest, most), count = expected.expected(label), counts[label]
        if count < fewest:
            wrong.add("classes with too few images", f"{label} has {count:,} of {fewest:,}")
        elif count > most:
            wrong.add("classes with too many images", f"{label} has {count:,} instead of {most:,}")
    problems += sorted(wrong.sentences())
    # Where images are missing, the names differ for that reason.
    if expected.names and not problems and (found := names_digest(split)) != expected.names:
        problems.append(
            f"the file names differ although the counts agree, expected names digest {expected.names}, found {found}"
        )
    return problems


def read_contents(split: Split) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """Decode every image.

    Returns the hashes of the files, in order, empty where one cannot be used; sentences about images that cannot be
    used; sentences about what decoding leaves out.
    """
    damaged, remarks = Findings(), Findings()
    paths = [Path(split.name(index)) for index in range(len(split))]
    hashes = [picture.hash for picture in decoded(paths, split.split, damaged, remarks)]
    return hashes, damaged.sentences(), remarks.sentences()


def decoded(
    paths: Sequence[Path], description: str, findings: Findings, remarks: Findings, labels: bool = False
) -> Iterator[Seen]:
    """Decode images, or with `labels` label maps, with a progress bar on a terminal.

    What cannot be used goes to `findings`, what decoding leaves out to `remarks`.
    """
    kind = "label maps that cannot be decoded" if labels else "images that cannot be decoded"
    for path, picture in zip(paths, mapped(lambda one: see(paths[one], labels), len(paths), description), strict=True):
        findings.add(kind, *([picture.problem] if picture.problem else []))
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", f"{path.parent.name}/{path.name}")
        yield picture
