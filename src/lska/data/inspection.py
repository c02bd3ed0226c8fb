"""Make or check the data that networks are looked into with: cue-conflict images and textures; records of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lska.data.cue_conflict import CueConflictSet, Expected, check_cue_conflict, published, read_cue_conflict
from lska.data.dense_files import lines_digest
from lska.data.dtd import TextureSet, check_textures, load_texture_manifest, read_textures
from lska.data.folders import DataError
from lska.data.generators import generator_settings
from lska.data.perturbed.prepare import RENDERED
from lska.data.sources import texture_root
from lska.files import FileError, read_json
from lska.inspection import InspectionJob
from lska.provenance import digest, write_sealed

logger = logging.getLogger(__name__)


def prepare(job: InspectionJob) -> None:
    """Generate a set where the configuration says so, check it completely, and write its record.

    Raises:
        DataError: the root is not what it has to be; everything found is named.
        ValueError: a setting of the generator is unknown or out of range.
    """
    content = {"shape_texture": _cue_conflict, "texture_knn": _textures}[job.name](job)
    write_sealed(job.record, content | {"task": job.task, "inputs": job.inputs()})


def verify(job: InspectionJob, images: CueConflictSet | TextureSet) -> None:
    """Make sure that an opened set is the recorded one.

    Raises:
        DataError: the record is missing or damaged, or files were added, removed or changed in size since.
    """
    try:
        stored = read_json(job.record)["files"]
    except (FileError, KeyError) as error:
        raise DataError(
            f"{job.record} is missing or damaged ({type(error).__name__}): expected the record of the checked set "
            f"{job.data.name!r}; make it with `lska data prepare --kind {job.name}` and the same configuration"
        ) from error
    if stored != lines_digest(_listing(images)):
        raise DataError(
            f"{job.data.root} is not the set that {job.record} records: files were added, removed or changed; restore "
            "them, or remove the record and prepare the set again"
        )


def _listing(images: CueConflictSet | TextureSet) -> Sequence[str]:
    """Lines that change with every file's name and size."""
    if isinstance(images, TextureSet):
        return images.listing()
    return [f"{name} {images.place(index).stat().st_size}" for index, name in enumerate(images.names)]


def _cue_conflict(job: InspectionJob) -> dict[str, Any]:
    root, expected, about = Path(job.data.root), published(), ("published cue-conflict set", _SOURCE, _TERMS)
    if job.data.generate is not None:
        from lska.data.synthetic import write_cue_conflict_set

        settings = generator_settings(job.name, job.data)
        write_cue_conflict_set(root, settings, overwrite=True)
        expected = Expected(settings.class_names, settings.per_class)
        about = ("generated scenes", RENDERED["source"], RENDERED["terms"])
    outcome = check_cue_conflict(root, expected)
    if outcome.findings:
        raise DataError(_refusal(job, outcome.findings))
    identity = [list(expected.categories), expected.per_category, outcome.contents]
    return _record(job, about, digest(identity), read_cue_conflict(root, expected)) | {"detail": outcome.facts}


def _textures(job: InspectionJob) -> dict[str, Any]:
    root = Path(job.data.root)
    if job.data.generate is None:
        manifest = load_texture_manifest(Path(job.data.manifest) if job.data.manifest else job.data.name)
    else:
        from lska.data.synthetic import write_texture_set

        settings = generator_settings(job.name, job.data)
        write_texture_set(root, settings, overwrite=True)
        manifest = settings.manifest(job.data.name)
    place = texture_root(root, manifest.archives, job.config.work / "cache")
    report = check_textures(manifest, place)
    if not report.ok:
        raise DataError(_refusal(job, report.findings))
    textures = read_textures(place)
    about, files = (manifest.title, manifest.source, manifest.terms), lines_digest(textures.listing())
    identity = manifest.digest if job.data.generate is None else digest([manifest.digest, files])
    return _record(job, about, identity, textures) | {"classes": len(textures.classes)}


_SOURCE = "Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019; rgeirhos/texture-vs-shape"
_TERMS = "images under the terms of their sources"


def _record(
    job: InspectionJob, about: tuple[str, str, str], identity: str, images: CueConflictSet | TextureSet
) -> dict[str, Any]:
    title, source, terms = about
    logger.info("%s: %d images", job.data.name, len(images))
    return {
        "name": job.data.name, "title": title, "source": source, "terms": terms, "digest": identity,
        "images": len(images), "files": lines_digest(_listing(images)),
    }  # fmt: skip


def _refusal(job: InspectionJob, findings: Sequence[str]) -> str:
    lines = "\n".join(f"  wrong: {text}" for text in findings)
    return (
        f"{job.data.root} is not {job.data.name}:\n{lines}\nthe root is the setting {job.name}.data.root of the "
        "configuration; point it at the data with a file of your own (docs/data.md)"
    )
