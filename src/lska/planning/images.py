"""How many images a data set has, as far as that is known without reading it. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.config import Config, DataSource
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.files import read_yaml, vouched
from lska.robustness import CORRUPTED, CUE_CONFLICT, MANIFESTS
from lska.strict import build

PUBLISHED_CUE_CONFLICT = 1280
"""Images of the cue-conflict set of Geirhos et al. (ICLR 2019): 16 categories x 80."""


def count(config: Config, kind: str, split: str) -> int | None:
    """Images of a split of the data set that serves `kind` (see `Config.sources`).

    The record of the checked data comes first, then the settings of generated data, then the manifest; None where none
    of them tells.
    """
    data = dict(config.sources)[kind]
    record = vouched(config.record_of(data))
    found = _recorded(record, kind, split)
    if found is None:
        found = _generated(config, kind, data, split) if data.generate is not None else _described(kind, data, split)
    return found


def _recorded(record: dict[str, Any], kind: str, split: str) -> int | None:
    if kind in CORRUPTED:
        each, parts = record.get("images"), len(record.get("contents") or ())
        return None if each is None or not parts else each * (parts + (kind == "c"))
    return record.get("splits", {}).get(split, record.get("images"))


def _described(kind: str, data: DataSource, split: str) -> int | None:
    if data.name == CUE_CONFLICT:
        return PUBLISHED_CUE_CONFLICT
    path = Path(data.manifest) if data.manifest else MANIFESTS / f"{data.name}.yaml"
    if not path.is_file():
        return None
    values = read_yaml(path)
    if kind in CORRUPTED:
        return _parts(kind) * values["count"]
    if kind == "texture_knn":
        return len(values["classes"]) * sum(values["parts"].values())
    return (values["splits"].get(split) or {}).get("count")


def _parts(kind: str) -> int:
    """Parts of a set of corruptions; ImageNet-C is measured on the clean images too."""
    return len(FAMILIES[kind]) * len(SEVERITIES) + (kind == "c")


def _generated(config: Config, kind: str, data: DataSource, split: str) -> int | None:
    if kind in CORRUPTED:
        chosen = data.generate.get("images")
        each = count(config, "classification", "val") if chosen is None else chosen
        return None if each is None else _parts(kind) * each
    # The classifier that chooses adversarial images is no setting of their generator.
    values = {key: value for key, value in data.generate.items() if key != "reference"}
    settings = build(_settings(kind), values, f"generate of {data.name}")
    if kind in ("a", "r", "sketch"):
        kept = getattr(settings, "kept", None)
        return settings.per_class * (len(settings.class_names) if kept is None else kept)
    if kind in ("detection", "segmentation"):
        return getattr(settings, f"{split}_images", None)
    if kind == "shape_texture":
        return len(settings.class_names) * settings.shapes_per_class * settings.textures_per_shape
    if kind == "texture_knn":
        return len(settings.class_names) * 3 * settings.per_part
    each = getattr(settings, f"{split}_per_class", None)
    return None if each is None else len(settings.class_names) * each


def _settings(kind: str) -> type:
    from lska.data import synthetic
    from lska.data.synthetic import adversarial, cue_conflict, renditions, texture_set

    return {
        "classification": synthetic.ClassificationSettings,
        "detection": synthetic.DetectionSettings,
        "segmentation": synthetic.SegmentationSettings,
        "a": adversarial.AdversarialSettings,
        "r": renditions.RenditionSettings,
        "sketch": renditions.RenditionSettings,
        "shape_texture": cue_conflict.CueConflictSettings,
        "texture_knn": texture_set.TextureSettings,
    }[kind]
