"""Networks: VAN with LKA and LSKA, those that it is compared with, checkpoints, cost. Importing this package imports
neither torch nor timm."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lska.models.kernels import ATTENTIONS, PAPER_KERNEL_SIZES, check_attention, check_kernel_size, kernel_plan
from lska.provenance.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ATTENTIONS", "PAPER_KERNEL_SIZES", "check_attention", "check_kernel_size", "create", "kernel_plan"]


def create(
    model: str, *, attention: str | None = None, kernel_size: int | None = None, **architecture: object
) -> nn.Module:
    """Create any network that timm knows, ours included, in training mode on the CPU with fresh weights.

    ``attention`` and ``kernel_size`` belong to VAN; further keyword arguments go to ``timm.create_model``
    (``num_classes``, ``drop_path_rate``, ``embed_dims``, ...). Raises ValueError for an unknown model, attention or
    setting, and for an impossible kernel size; each message names the possible ones. ``checkpoint_path`` names a file
    of weights to start from (``lska.models.pretrained.load_weights``).
    """
    import timm

    from lska.models.registration import OURS, import_all

    import_all()  # registers ours even where the import hook could not
    ours = {module: timm.list_models(module=module.split(".")[-1]) for module in OURS}
    # A tag after the dot chooses among pretrained weights of one architecture.
    name = model.split(".")[0]
    _check_model(name, timm.list_models(), [model for models in ours.values() for model in models])
    if name not in ours["lska.models.van"] and (attention, kernel_size) != (None, None):
        raise InputError(
            f"model {model!r} has no attention or kernel_size setting; found attention={attention!r}, "
            f"kernel_size={kernel_size!r}. Remove them, or choose one of {', '.join(ours['lska.models.van'])}"
        )
    if attention is not None:
        check_attention(attention)
    if kernel_size is not None:
        check_kernel_size(kernel_size)
    if any(name in models for models in ours.values()):
        _check_settings(name, architecture)
    # Read by our own reader, which refuses what no network should take.
    weights = architecture.pop("checkpoint_path", None)
    network = timm.create_model(model, attention=attention, kernel_size=kernel_size, **architecture)
    if weights:
        from lska.models.pretrained import load_weights

        load_weights(network, str(weights), strict=not architecture.get("features_only", False))
    return network


def _check_model(model: str, known: list[str], ours: list[str]) -> None:
    if model in known:
        return
    similar = difflib.get_close_matches(model, known, n=5)
    hint = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists all."
    raise InputError(f"model: unknown name {model!r}; ours are {', '.join(ours)}; {hint}")


def _check_settings(model: str, architecture: dict[str, object]) -> None:
    import inspect

    from timm.models import model_entrypoint

    network = inspect.get_annotations(model_entrypoint(model), eval_str=True)["return"]
    settings = [name for name in inspect.signature(network.__init__).parameters if name != "self"]
    # What timm's builder takes for itself before it calls the network's class.
    builder = ("features_only", "out_indices", "feature_cls", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
    unknown = sorted(set(architecture) - set(settings) - set(builder) - {"checkpoint_path", "cache_dir"})
    if unknown:
        raise InputError(f"model {model!r}: unknown setting {', '.join(unknown)}; possible: {', '.join(settings)}")
