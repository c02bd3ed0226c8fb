"""Networks from anywhere: how images are prepared for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from timm.data import resolve_data_config
from torch import nn

from lska.provenance.errors import InputError
from lska.provenance.files import quoted, read_json
from lska.provenance.sidecars import Preprocessing, load_sidecar, own_preprocessing


def preprocessing_of(
    network: nn.Module, weights: Path | None = None, changes: Mapping[str, object] | None = None
) -> tuple[Preprocessing, str]:
    """How images are prepared for a network with a file of weights, and in words where that is said.

    It is the sidecar beside the file (the same name with `.json`), or timm's `config.json` in its folder, or the
    `pretrained_cfg` of the network, at the size that timm tests it with; `changes` (fields of `Preprocessing`) go
    over it. Raises ValueError, which names the place, where that says no square input of three channels that is cut
    from the centre of an image.
    """
    beside = () if weights is None else (weights.with_suffix(".json"), weights.with_name("config.json"))
    there = [path for path in beside if path.is_file()]
    stated, source = network.pretrained_cfg, "pretrained_cfg of the network"
    if there and there[0].name != "config.json":
        found, source = own_preprocessing(load_sidecar(there[0]), str(there[0])).to_dict(), str(there[0])
    else:
        if there and isinstance(published := read_json(there[0]).get("pretrained_cfg"), dict):
            stated, source = published, str(there[0])
        data = resolve_data_config(pretrained_cfg=dict(stated), use_test_size=True)
        channels, height, width = data["input_size"]
        if channels != 3 or height != width or data["crop_mode"] != "center":
            raise InputError(
                f"{source}: expected a square input of 3 channels from the centre of an image, found input_size "
                f"{quoted(data['input_size'])} and crop_mode {quoted(data['crop_mode'])}"
            )
        found = {
            "image_size": height, "test_crop": data["crop_pct"], "test_interpolation": data["interpolation"],
            "mean": data["mean"], "deviation": data["std"],
        }  # fmt: skip
    return Preprocessing.of(found | dict(changes or {}), source), source
