"""Any data set compared with its manifest, for `lska data check`: nothing of a scale is asked or recorded."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from lska.data import dense_sets, sources
from lska.data.archives import check_archives
from lska.data.cue_conflict import check_cue_conflict, published
from lska.data.dtd import check_textures
from lska.data.integrity import check_class_folders
from lska.data.manifest import load_manifest, manifest_kind, manifest_path
from lska.data.perturbed.perturbed_integrity import report_corrupted, report_perturbed
from lska.data.problems import CheckReport
from lska.provenance.files import read_yaml
from lska.settings.perturbed_sets import CUE_CONFLICT
from lska.settings.sections import DataSource


def check_set(name: str | Path, root: Path, contents: bool = False, archives: bool = False) -> CheckReport:
    """Check the data at `root` against a manifest, bundled or by path, or the published cue-conflict set.

    What has to be unpacked or converted for it is thrown away.

    Args:
        contents: whether every image is decoded too, where that is not done anyway.
        archives: whether to compare the archives that lie there with what is known of them, and nothing else.

    Raises:
        ValueError: no such manifest, or its content is wrong; an archive cannot be used; nothing lies there.
    """
    if archives:
        return check_archives(manifest_path(name), root)
    if name == CUE_CONFLICT:
        return check_cue_conflict(root, published())[0]
    path = manifest_path(name)
    kind = manifest_kind(read_yaml(path), path)
    manifest = load_manifest(path, kind)
    with tempfile.TemporaryDirectory(prefix="lska-") as folder:
        cache = Path(folder)
        if kind == "corrupted":
            report = report_corrupted(manifest, root, contents)
        elif kind == "perturbed":
            report = report_perturbed(manifest, sources.class_root(root, manifest.archives, cache), contents)
        elif kind == "textures":
            report = check_textures(manifest, sources.texture_root(root, manifest.archives, cache), contents)
        elif kind == "classification":
            place = sources.split_root(root, manifest.archives, manifest.splits, cache)
            report = check_class_folders(manifest, place, contents)
        else:
            report = dense_sets.check_dense(kind, DataSource(manifest.name, str(root), str(path)), cache)
    return replace(report, root=root)
