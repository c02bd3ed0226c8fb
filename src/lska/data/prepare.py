"""Make or check the data of a scale and record their manifest beside the results."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from lska.config import Config, DataSource
from lska.data.check import check, render, structure_problems
from lska.data.folders import DataError, Split
from lska.data.manifest import Manifest, load_manifest, make_manifest
from lska.data.sources import split_root
from lska.provenance import write_sealed

logger = logging.getLogger(__name__)


def prepare(config: Config) -> None:
    """Generate the classification set where the configuration says so, check it otherwise, and write its record.

    Raises:
        DataError: the root is not what the manifest says; everything missing or too much is listed.
        ValueError: a setting of the generator is unknown or out of range.
    """
    data = config.data
    manifest = _generated(data) if data.generate is not None else _checked(data, config.work / "cache")
    write_sealed(config.data_record, record(manifest))
    logger.info("%s: %s", data.name, ", ".join(f"{n} {s.count:,}" for n, s in manifest.splits.items()))


def record(manifest: Manifest) -> dict[str, Any]:
    """What results keep of a manifest: its name, digest, number of classes and images per split."""
    return {
        "name": manifest.name,
        "title": manifest.title,
        "source": manifest.source,
        "terms": manifest.terms,
        "digest": manifest.digest,
        "classes": len(manifest.classes),
        "splits": {name: split.count for name, split in manifest.splits.items()},
    }


def _generated(data: DataSource) -> Manifest:
    from lska.data.generators import generator_settings
    from lska.data.synthetic import write_classification_set

    write_classification_set(Path(data.root), generator_settings("classification", data), overwrite=True)
    return make_manifest(
        Path(data.root), data.name, title="generated scenes", source="lska.data.synthetic", terms="no restrictions"
    )


def verify(config: Config, *splits: Split) -> dict[str, str]:
    """Make sure that opened splits are those of the data record, also where the root was changed after the check.

    Returns the name and digest of the data, as results keep them.

    Raises:
        DataError: classes, counts or file names are not the manifest's, or the record is of another manifest.
    """
    identity = config.data_identity()
    if config.data.generate is not None:
        return identity
    manifest = _manifest(config.data)
    problems = [f"{split.split}: {text}" for split in splits for text in structure_problems(manifest, split)]
    if identity["digest"] != manifest.digest:
        problems.append(f"{config.data_record} records another version of the manifest; remove it and run again")
    if problems:
        raise DataError(f"{config.data.root} is not {manifest.name}:\n" + "\n".join(f"  {p}" for p in problems))
    return identity


def _manifest(data: DataSource) -> Manifest:
    manifest = load_manifest(Path(data.manifest) if data.manifest else data.name)
    if manifest.name != data.name:
        raise ValueError(f"data.name is {data.name!r} but the manifest {data.manifest} describes {manifest.name!r}")
    return manifest


def _checked(data: DataSource, cache: Path) -> Manifest:
    manifest = _manifest(data)
    root = split_root(Path(data.root), manifest.archives, manifest.splits, cache)
    report = replace(check(manifest, root, cache=cache), root=Path(data.root))
    if not report.ok:
        raise DataError(
            f"{render(report)}The root is the setting data.root of the configuration; point it at the data with a "
            f"file of your own, `--configfile <scale>.yaml <yours>.yaml` (docs/data.md)"
        )
    return manifest
