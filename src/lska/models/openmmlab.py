"""Importing mmdet and mmseg: operators first, then their registries with ours in them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

LIBRARIES = {"detection": "mmdet", "segmentation": "mmseg"}
"""The library of each kind of dense prediction, which is also its registry scope."""


@functools.cache
def use(kind: str) -> str:
    """Import the library of `kind`, register the backbone in it, and return its registry scope.

    Takes seconds the first time.
    """
    from lska.models.mmcv_operators import install

    install()
    library = LIBRARIES[kind]
    with warnings.catch_warnings():
        # Old spellings inside the libraries, which their users cannot mend.
        warnings.simplefilter("ignore", category=(DeprecationWarning, FutureWarning, UserWarning, SyntaxWarning))
        for module in ("models", "datasets"):
            importlib.import_module(f"{library}.{module}")
        registry: Any = importlib.import_module(f"{library}.registry")
    from lska.models.dense_backbone import Backbone

    registry.MODELS.register_module(name="Backbone", module=Backbone, force=True)
    return library


def base_config(kind: str, *names: str) -> dict[str, Any]:
    """The library's own base files, merged: what the released configurations inherit from.

    Args:
        names: paths below the library's `_base_` folder without suffix, such as `models/retinanet_r50_fpn`.
    """
    from mmengine.config import Config

    spec = importlib.util.find_spec(LIBRARIES[kind])
    folder = Path(spec.submodule_search_locations[0]) / ".mim" / "configs" / "_base_"
    merged: dict[str, Any] = {}
    for name in names:
        merged |= Config.fromfile(folder / f"{name}.py").to_dict()
    return merged
