"""Any data set compared with its manifest, for `lska data check`, and the sets of inspections prepared."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from lska.data.cue_conflict import CueConflictFolder
from lska.data.dense_sets import DenseSet
from lska.data.dtd import TextureFolder
from lska.data.entries import DataError, shown_names
from lska.data.manifest import hashes, load_manifest, manifest_kind, manifest_path
from lska.data.perturbed.parts import PerturbedFolder, report_corrupted
from lska.data.preparing import CheckReport, ClassFolders, prepare_set
from lska.provenance.metric_files import digest
from lska.settings.schema import DataSource
from lska.settings.tasks import CUE_CONFLICT, InspectionJob

CHECKED = {
    "classification": ("classification", ClassFolders), "perturbed": ("a", PerturbedFolder),
    "textures": ("texture_knn", TextureFolder), "detection": ("detection", DenseSet),
    "segmentation": ("segmentation", DenseSet), CUE_CONFLICT: ("shape_texture", CueConflictFolder),
}  # fmt: skip
"""What a set serves, and its class, by the kind of its manifest."""


def prepare_inspected(job: InspectionJob) -> None:
    """Prepare the set of an inspection; raises as `lska.data.preparing.prepare_set`."""
    kind = {"shape_texture": CueConflictFolder, "texture_knn": TextureFolder}[job.name]
    more = {"task": job.task, "inputs": job.inputs()}
    prepare_set(kind(job.name, job.data, job.data.cache), job.record, more)


def check_set(name: str | Path, root: Path, contents: bool = False, archives: bool = False) -> CheckReport:
    """Check the data at `root` against a manifest, bundled or by path, or the published cue-conflict set.

    With `contents` every image is decoded too, where that is not done anyway; with `archives` the archives that lie
    there are compared with what is known of them, and nothing else. What has to be unpacked or converted is thrown
    away. Raises ValueError: no such manifest, or a wrong one; an archive cannot be used; nothing lies there.
    """
    if name == CUE_CONFLICT and not archives:
        kind, data = CUE_CONFLICT, DataSource(CUE_CONFLICT, str(root))
    else:
        path = manifest_path(name)
        kind, manifest = manifest_kind(path), load_manifest(path, None)
        data = DataSource(manifest.name, str(root), str(path))
        if archives:
            return _check_archives(path, root)
        if kind == "corrupted":
            return report_corrupted(manifest, root, contents)
    serving, folders = CHECKED[kind]
    with tempfile.TemporaryDirectory(prefix="lska-") as cache:
        return replace(folders(serving, data, Path(cache)).check(contents)[0], root=root)


def _check_archives(manifest: Path, root: Path) -> CheckReport:
    """Compare the archives that lie at `root`, or `root` itself, with what `manifest` states of them."""
    archives = load_manifest(manifest, None).archives
    places = ((path, one) for one in archives for path in (root / one.file, root))
    there = [(path, one) for path, one in places if path.name == one.file and path.is_file()]
    if not there:
        raise DataError(
            f"{root} holds none of the archives that the manifest lists "
            f"({shown_names([one.file for one in archives])}); put them there, or check the unpacked data without "
            "--archives"
        )
    wrong, notes = [], []
    for path, one in there:
        problems = one.problems(path)
        wrong += [f"{path.name}: {problem}; it is damaged or of another version, get it again." for problem in problems]
        if not one.stated:
            found = hashes(path, ["sha256"])["sha256"]
            notes.append(f"{path.name}: no source states a size or hash of it; this one has sha256 {found}.")
        elif not problems:
            notes.append(f"{path.name}: as stated ({', '.join(one.stated)}).")
    identity = digest([[one.file, one.bytes, one.md5, one.sha256] for one in archives])
    return CheckReport(f"archives of {manifest.stem}", identity, root, tuple(wrong), tuple(notes))
