"""Make or check the data that networks are looked into with: cue-conflict images and textures; records of them."""

from __future__ import annotations

from typing import Any

from lska.data.cue_conflict import CueConflictSet, Expected, check_cue_conflict, published, read_cue_conflict
from lska.data.digests import lines_digest
from lska.data.dtd import TextureSet, check_textures, read_textures
from lska.data.manifest import manifest_for
from lska.data.preparing import RENDERED, DataSet, prepare_set
from lska.data.problems import CheckReport, changed
from lska.data.sources import texture_root
from lska.provenance.metric_files import digest, read_record
from lska.settings.inspections import InspectionJob

PUBLISHED = {
    "title": "published cue-conflict set",
    "source": "Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019; rgeirhos/texture-vs-shape",
    "terms": "images under the terms of their sources",
}
"""What is said of the published cue-conflict set, which has no manifest."""


def prepare_inspected(job: InspectionJob) -> None:
    """Prepare the set of an inspection; raises as `lska.data.preparing.prepare_set`."""
    kind = {"shape_texture": CueConflictFolder, "texture_knn": TextureFolder}[job.name]
    more = {"task": job.task, "inputs": job.inputs()}
    prepare_set(kind(job.name, job.data, job.config.work / "cache"), job.record, more)


def verify_inspected(job: InspectionJob, images: CueConflictSet | TextureSet) -> None:
    """Make sure that an opened set is the recorded one.

    Raises:
        FileError: the record is missing or damaged.
        DataError: files were added, removed or changed in size since.
    """
    stored = read_record(job.record, job.data.name, job.name, files=str)
    if stored["files"] != lines_digest(images.listing()):
        raise changed(job.data.root, job.record, ["files were added, removed or changed"])


class CueConflictFolder(DataSet):
    """Cue-conflict images: the published set, or generated ones in its layout."""

    def generate(self) -> None:
        """Write the generated scenes."""
        from lska.data.synthetic import write_cue_conflict_set

        write_cue_conflict_set(self.root, self.settings, overwrite=True)

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Every name and every image."""
        expected, about = published(), PUBLISHED
        if self.data.generate is not None:
            expected = Expected(self.settings.class_names, self.settings.per_class)
            about = {"title": "generated scenes", **RENDERED}
        report, facts, contents = check_cue_conflict(self.root, expected, self.data.name)
        if not report.ok:
            return report, {}
        images = read_cue_conflict(self.root, expected)
        identity = digest([list(expected.categories), expected.per_category, contents])
        return report, _record(self, images, about, identity) | {"detail": facts}


class TextureFolder(DataSet):
    """Textures: DTD, or generated ones in its layout."""

    def generate(self) -> None:
        """Write the generated textures."""
        from lska.data.synthetic import write_texture_set

        write_texture_set(self.root, self.settings, overwrite=True)

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and every line of every split."""
        made = self.data.generate is not None
        manifest = self.settings.manifest(self.data.name) if made else manifest_for(self.kind, self.data)
        place = texture_root(self.root, manifest.archives, self.cache)
        report = check_textures(manifest, place)
        if not report.ok:
            return report, {}
        textures = read_textures(place)
        identity = digest([manifest.digest, lines_digest(textures.listing())]) if made else manifest.digest
        return report, _record(self, textures, manifest.about, identity) | {"classes": len(textures.classes)}


def _record(
    dataset: DataSet, images: CueConflictSet | TextureSet, about: dict[str, str], identity: str
) -> dict[str, Any]:
    words = {**about, "name": dataset.data.name}
    return words | {"digest": identity, "images": len(images), "files": lines_digest(images.listing())}
