"""Make or check a data set, whatever it serves, and record beside the results what it is.

A kind of set is a subclass of `DataSet` that says how it is made and checked. What is not as its manifest says is
refused with everything found; what is sound gets a record, which trainings, evaluations and tables rely on.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lska.data.entries import DataError, lines_digest
from lska.data.folders import Split, list_split
from lska.data.generators import generator_settings
from lska.data.integrity import CheckReport, changed, check_class_folders, render_report, structure_problems
from lska.data.manifest import make_manifest, manifest_for
from lska.data.sources import split_root
from lska.data.synthetic.generated import write_set
from lska.provenance.metric_files import read_record, write_sealed
from lska.settings.schema import DataSource
from lska.settings.tasks import InspectionJob, ScaleData, place

logger = logging.getLogger(__name__)

RENDERED = {"source": "lska.data.synthetic", "terms": "no restrictions"}
"""What a manifest says of generated scenes."""


@dataclass(frozen=True)
class DataSet(ABC):
    """One data set of a scale."""

    kind: str
    """What it serves, as `Config.sources` says."""
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
    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """What is wrong with it, and what its record says where nothing is."""


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


class ClassFolders(DataSet):
    """A scale's classification set."""

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and names; what was generated is described as it is."""
        if self.data.generate is not None:
            manifest = make_manifest(self.root, self.data.name, title="generated scenes", **RENDERED)
            return CheckReport(manifest.name, manifest.digest, self.root, ()), record(manifest)
        manifest = manifest_for("classification", self.data)
        return check_splits(manifest, self.root, self.cache), record(manifest)


def check_splits(manifest: Any, root: Path, cache: Path, contents: bool = False) -> CheckReport:
    """As `check_class_folders`, for splits that may lie in an archive at `root`."""

    def opened(split: str) -> Split:
        return list_split(split_root(root, manifest.archives, split, cache), split)

    return check_class_folders(manifest, root, contents, opened)


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
