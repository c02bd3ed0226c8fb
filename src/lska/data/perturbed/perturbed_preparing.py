"""Make or check a perturbed set and write its record, the evidence that evaluation and tables rely on."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from lska.data.entries import content_hash
from lska.data.folders import contents_digest, names_digest
from lska.data.generators import Trained, unfit_images
from lska.data.integrity import CheckReport
from lska.data.manifest import TEST, CorruptedManifest, Manifest, describe_split, manifest_for
from lska.data.parallel import mapped
from lska.data.perturbed.corrupted_set import chosen_images, write_corrupted_set
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.data.perturbed.parts import by_corruption, check_corrupted, open_test, report_perturbed
from lska.data.preparing import RENDERED, DataSet, prepare_set, record
from lska.data.sources import class_root, open_classification
from lska.data.synthetic.adversarial import Judge, write_adversarial_set
from lska.provenance.errors import InputError
from lska.provenance.metric_files import digest
from lska.provenance.strict import refuse
from lska.settings.tasks import PerturbedSet

logger = logging.getLogger(__name__)

CORRUPTED = {"source": "made by lska.data.perturbed from the scale's validation images", "terms": "those of the images"}
"""What a manifest says of generated corruptions."""


def prepare_perturbed(item: PerturbedSet, judge: Judge | None = None, judged_by: dict[str, Any] | None = None) -> None:
    """Generate a perturbed set where the configuration says so, check it, and write its record.

    A set of corruptions may lack corruptions or severities: the record says which, and so will the results.

    Args:
        judge: the reference classifier of a generated counterpart of ImageNet-A.
        judged_by: what identifies the weights of `judge`.

    Raises:
        DataError: the root is not what the manifest says, or no part of it is complete.
        ValueError: a setting of the generator is unknown or out of range.
    """
    kind = CorruptedFolders if item.corrupted else PerturbedFolder
    dataset = kind(item.name, item.data, item.data.cache, item, judge, judged_by)
    chosen = {} if judged_by is None else {"reference": judged_by}
    prepare_set(dataset, item.record, chosen | {"set": item.name, "inputs": item.inputs()})


@dataclass(frozen=True)
class _Perturbed(DataSet):
    item: PerturbedSet
    judge: Judge | None
    judged_by: dict[str, Any] | None


class CorruptedFolders(_Perturbed):
    """ImageNet-C or ImageNet-C-bar, or the same corruptions of the scale's validation images."""

    @property
    def manifest(self) -> CorruptedManifest:
        """What it has to hold: as its manifest says, or as the generator's settings promise.

        Raises:
            ValueError: no such manifest, one of another family, or a wrong setting.
            DataError: the clean images, which a generated set is made of, are missing.
        """
        where = f"robustness.sets.{self.kind}"
        if self.data.generate is None:
            manifest = manifest_for(self.kind, self.data)
            if manifest.family != self.kind:
                raise InputError(
                    f"{where}: {manifest.name} is a manifest of family {manifest.family}, expected one of family "
                    f"{self.kind}; correct name or manifest"
                )
            return manifest
        settings, origin = self.settings, self.item.clean.name
        clean = open_classification(self.item.clean, "val")
        refuse(unfit_images("images", settings.images, Trained(origin, clean.classes, len(clean))), f"{where}.generate")
        chosen = chosen_images(clean, settings.images, settings.seed)
        per_class = Counter(clean.samples[index].target for index in chosen).values()
        return CorruptedManifest(
            self.data.name, f"corruptions of {origin}", **CORRUPTED, family=self.kind, classes=clean.classes,
            count=len(chosen), per_class=(min(per_class), max(per_class)), severities=settings.severities,
        )  # fmt: skip

    def generate(self) -> None:
        """Corrupt the clean images."""
        _ = self.manifest  # whose settings are refused before anything is written
        clean, origin = open_classification(self.item.clean, "val"), self.item.clean.identity()
        workers = max(1, self.item.section.evaluation.threads)
        write_corrupted_set(clean, self.root, self.settings, origin, workers)

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Every part; what is missing is only told, as long as one part is complete."""
        manifest = self.manifest
        checked = check_corrupted(manifest, self.root)
        if not checked.parts:
            findings = ("no part of it is complete.", *checked.findings)
            return CheckReport(manifest.name, manifest.digest, self.root, findings), {}
        for sentence in checked.findings:
            logger.warning("%s: %s", self.data.name, sentence)
        # Severities that a generated set does without are missing from its means too.
        whole = [(corruption, severity) for corruption in FAMILIES[manifest.family] for severity in SEVERITIES]
        contents = {}
        for (corruption, severity), part in checked.parts.items() if self.data.generate is not None else ():
            hashes = mapped(lambda index, part=part: content_hash(part.read(index)), len(part), part.source.name)
            contents[f"{corruption}/{severity}"] = contents_digest(part, hashes)
        content = manifest.about | {
            "family": manifest.family,
            "classes": len(manifest.classes),
            "images": manifest.count,
            "manifest": manifest.digest,
            "parts": by_corruption(checked.parts),
            "names": checked.names,
            "missing": by_corruption(cell for cell in whole if cell not in checked.parts),
            "contents": contents,
        }
        identity = digest([content[key] for key in ("manifest", "parts", "names", "contents")])
        return CheckReport(manifest.name, identity, self.root, ()), content | {"digest": identity}


class PerturbedFolder(_Perturbed):
    """ImageNet-A, -R or -Sketch, or a generated counterpart: one folder per class."""

    def generate(self) -> None:
        """Write the counterpart's images; those of A are chosen by the judge."""
        if self.kind != "a":
            super().generate()
        elif self.judge is None or self.judged_by is None:
            raise InputError(
                "robustness.sets.a.generate: the images of set a are chosen by its reference classifier, and none was "
                "given"
            )
        else:
            write_adversarial_set(self.root, self.settings, self.judge, self.judged_by)

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and names; what was generated is described as it is."""
        if self.data.generate is None:
            manifest = manifest_for(self.kind, self.data)
            place = class_root(self.root, manifest.archives, self.cache)
            report = report_perturbed(manifest, place)
            names = names_digest(open_test(place)) if report.ok else None
            return report, record(manifest) | {"names": names, "contents": None}
        split = open_test(self.root)
        described = replace(describe_split(split), counts=split.counts())
        words = {"title": "generated scenes", **RENDERED}
        manifest = Manifest(name=self.data.name, **words, classes=split.classes, splits={TEST: described})
        content = record(manifest) | {"names": described.names, "contents": described.contents}
        return CheckReport(manifest.name, manifest.digest, self.root, ()), content
