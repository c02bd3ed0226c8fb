"""Make or check a perturbed set and write its record, the evidence that evaluation and tables rely on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lska.data.check import Report, render
from lska.data.folders import DataError, Split
from lska.data.generators import Trained, generator_settings, unfit_images
from lska.data.manifest import Manifest, SplitManifest, content_hash, contents_digest, names_digest
from lska.data.parallel import mapped
from lska.data.perturbed.check import (
    CorruptedCheck,
    by_corruption,
    check_corrupted,
    open_test,
    perturbed_problems,
    report_perturbed,
)
from lska.data.perturbed.clean import chosen_images
from lska.data.perturbed.generate import write_corrupted_set
from lska.data.perturbed.manifests import (
    TEST,
    CorruptedManifest,
    load_corrupted_manifest,
    load_perturbed_manifest,
)
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.data.prepare import record
from lska.data.sources import class_root, open_classification
from lska.provenance import digest, write_sealed
from lska.robustness import PerturbedSet
from lska.strict import refuse

logger = logging.getLogger(__name__)

Judge = Callable[[list[Image.Image]], np.ndarray]
"""Probabilities (B, classes) that a classifier gives to images."""

TITLE = {"source": "made by lska.data.perturbed from the scale's validation images", "terms": "those of the images"}
RENDERED = {"source": "lska.data.synthetic", "terms": "no restrictions"}


def prepare(item: PerturbedSet, judge: Judge | None = None, judged_by: dict[str, Any] | None = None) -> None:
    """Generate a perturbed set where the configuration says so, check it, and write its record.

    A set of corruptions may lack corruptions or severities: the record says which, and so will the results.

    Args:
        judge: the reference classifier of a generated counterpart of ImageNet-A.
        judged_by: what identifies the weights of `judge`.

    Raises:
        DataError: the root is not what the manifest says, or no part of it is complete.
        ValueError: a setting of the generator is unknown or out of range.
    """
    content = _prepare_corrupted(item) if item.corrupted else _prepare_perturbed(item, judge, judged_by)
    chosen = {} if judged_by is None else {"reference": judged_by}
    write_sealed(item.record, content | chosen | {"set": item.name, "inputs": item.inputs()})


def corrupted_manifest(item: PerturbedSet) -> CorruptedManifest:
    """The manifest of a set of corruptions: a bundled or given one, or what a generator's settings promise.

    Raises:
        ValueError: no such manifest, one of another family, or a wrong setting.
        DataError: the clean images, which a generated set is made of, are missing.
    """
    if item.data.generate is None:
        manifest = load_corrupted_manifest(Path(item.data.manifest) if item.data.manifest else item.data.name)
        if manifest.family != item.name:
            raise ValueError(
                f"robustness.sets.{item.name}: {manifest.name} is a manifest of family {manifest.family}, expected one "
                f"of family {item.name}; correct name or manifest"
            )
        return _named(manifest, item)
    settings, clean = generator_settings(item.name, item.data), _clean(item)
    about = Trained(item.config.data.name, clean.classes, len(clean))
    refuse(list(unfit_images("images", settings.images, about)), f"robustness.sets.{item.name}.generate")
    chosen = chosen_images(clean, settings.images, settings.seed)
    per_class = Counter(clean.samples[index].target for index in chosen).values()
    return CorruptedManifest(
        item.data.name, f"corruptions of {item.config.data.name}", **TITLE, family=item.name, classes=clean.classes,
        count=len(chosen), per_class=(min(per_class), max(per_class)), severities=settings.severities,
    )  # fmt: skip


def _named(manifest: Any, item: PerturbedSet) -> Any:
    if manifest.name != item.data.name:
        raise ValueError(
            f"robustness.sets.{item.name}.name is {item.data.name!r} but the manifest {item.data.manifest} describes "
            f"{manifest.name!r}"
        )
    return manifest


def _clean(item: PerturbedSet) -> Split:
    return open_classification(item.config, "val")


def _prepare_corrupted(item: PerturbedSet) -> dict[str, Any]:
    made, manifest = item.data.generate is not None, corrupted_manifest(item)
    if made:
        origin, settings = item.config.data_identity(), generator_settings(item.name, item.data)
        workers = max(1, item.section.evaluation.threads)
        write_corrupted_set(_clean(item), Path(item.data.root), settings, origin, workers)
    checked = check_corrupted(manifest, Path(item.data.root))
    if not checked.parts:
        raise DataError(
            f"{item.data.root}: no part of {manifest.name} is complete:\n"
            + "\n".join(f"  {sentence}" for sentence in checked.sentences())
            + f"\nthe root is the setting robustness.sets.{item.name}.root (docs/data.md)"
        )
    for sentence in checked.sentences():
        logger.warning("%s: %s", item.data.name, sentence)
    return _corrupted_record(manifest, checked, made)


def _corrupted_record(manifest: CorruptedManifest, checked: CorruptedCheck, contents: bool) -> dict[str, Any]:
    """The record; with `contents`, the digest of each part's bytes too."""
    # Severities that a generated set does without are missing from its means too.
    whole = [(corruption, severity) for corruption in FAMILIES[manifest.family] for severity in SEVERITIES]
    content = {
        "name": manifest.name, "title": manifest.title, "source": manifest.source, "terms": manifest.terms,
        "family": manifest.family, "classes": len(manifest.classes), "images": manifest.count,
        "manifest": manifest.digest, "parts": by_corruption(checked.parts), "names": checked.names,
        "missing": by_corruption(cell for cell in whole if cell not in checked.parts),
        "contents": {f"{c}/{s}": _contents(part) for (c, s), part in checked.parts.items()} if contents else {},
    }  # fmt: skip
    return content | {"digest": digest([content[key] for key in ("manifest", "parts", "names", "contents")])}


def _contents(split: Split) -> str:
    """Digest of the bytes of all files of a split."""
    hashes = mapped(lambda index: content_hash(split.read(index)), len(split), split.source.name)
    return contents_digest(split, hashes)


def _prepare_perturbed(item: PerturbedSet, judge: Judge | None, judged_by: dict[str, Any] | None) -> dict[str, Any]:
    root, cache = Path(item.data.root), item.config.work / "cache"
    if item.data.generate is None:
        manifest = _named(load_perturbed_manifest(item.data.manifest or item.data.name), item)
        place = class_root(root, manifest.archives, cache)
        report = replace(report_perturbed(manifest, place, cache=cache), root=root)
        if not report.ok:
            raise DataError(_refusal(report, item))
        return record(manifest) | {"names": names_digest(open_test(place, cache)), "contents": None}
    _render(item, judge, judged_by)
    split = open_test(root, cache)
    manifest = _describe(item, split)
    return record(manifest) | {"names": manifest.splits[TEST].names, "contents": manifest.splits[TEST].contents}


def _refusal(report: Report, item: PerturbedSet) -> str:
    return (
        f"{render(report)}The root is the setting robustness.sets.{item.name}.root of the configuration; point it at "
        "the data with a file of your own, `--configfile <scale>.yaml <yours>.yaml` (docs/data.md)"
    )


def _render(item: PerturbedSet, judge: Judge | None, judged_by: dict[str, Any] | None) -> None:
    """Generate ImageNet-R's, -Sketch's or -A's counterpart at the set's root."""
    from lska.data.synthetic import write_adversarial_set, write_rendition_set

    root, settings = Path(item.data.root), generator_settings(item.name, item.data)
    if item.name != "a":
        write_rendition_set(root, settings, overwrite=True)
        return
    if judge is None or judged_by is None:
        raise ValueError(
            "robustness.sets.a.generate: the images of set a are chosen by its reference classifier, and none was given"
        )
    write_adversarial_set(root, settings, judge, judged_by, overwrite=True)


def _describe(item: PerturbedSet, split: Split) -> Manifest:
    counts = split.counts()
    described = SplitManifest(
        len(split), (min(counts.values()), max(counts.values())), counts, names_digest(split), _contents(split)
    )
    return Manifest(item.data.name, "generated scenes", **RENDERED, classes=split.classes, splits={TEST: described})


def verify(item: PerturbedSet, stored: dict[str, Any], split: Split) -> None:
    """Make sure that an opened set with one folder per class is the recorded one.

    Raises:
        DataError: it was changed since; says how.
    """
    problems = []
    if item.data.generate is None:
        manifest = _named(load_perturbed_manifest(item.data.manifest or item.data.name), item)
        problems = perturbed_problems(manifest, split)
    if names_digest(split) != stored["names"]:
        problems.append(f"its file names are not those that {item.record} records")
    if problems:
        raise DataError(changed(item, problems))


def changed(item: PerturbedSet, problems: list[str]) -> str:
    """The message about a set that is not as recorded any more."""
    lines = "\n".join(f"  {problem}" for problem in problems)
    return (
        f"{item.data.root} is not the set that {item.record} records:\n{lines}\nrestore the files, or remove the "
        "record and prepare the set again"
    )
