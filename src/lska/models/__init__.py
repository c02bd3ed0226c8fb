"""Networks: VAN with LKA and LSKA, those that it is compared with, checkpoints, cost. Importing this package imports
neither torch nor timm."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from lska.models.designs import check_attention
from lska.models.kernels import check_kernel_size
from lska.provenance.errors import InputError, alike

if TYPE_CHECKING:
    from torch import nn

_OURS = ("van", "replknet", "slak", "pvt")
"""Modules that register our networks."""

MISFITS = (TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError, AttributeError)
"""What a network, ours or timm's, makes of settings that it cannot have."""


def register_networks() -> None:
    """Import the modules of our networks, which registers these in timm; imports torch and timm."""
    for name in _OURS:
        importlib.import_module(f"lska.models.{name}")


def create(
    model: str, *, attention: str | None = None, kernel_size: int | None = None, **architecture: object
) -> nn.Module:
    """Create any network that timm knows, ours included, in training mode on the CPU with fresh weights.

    ``attention`` and ``kernel_size`` belong to VAN; further keyword arguments go to ``timm.create_model``
    (``num_classes``, ``drop_path_rate``, ``embed_dims``, ...). Raises ValueError for an unknown model, attention or
    setting, and for an impossible kernel size; each message names the possible ones; and any of ``MISFITS`` for values
    that the network cannot have.
    """
    import timm

    register_networks()
    ours = [name for module in _OURS for name in timm.list_models(module=module)]
    # A tag after the dot chooses among pretrained weights of one architecture.
    name, known = model.split(".")[0], timm.list_models()
    if name not in known:
        similar = alike(name, known, most=5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists all."
        raise InputError(f"model: unknown name {name!r}; ours are {', '.join(ours)}; {hint}")
    with_attention = timm.list_models(module="van")
    if name not in with_attention and (attention, kernel_size) != (None, None):
        raise InputError(
            f"model {model!r} has no attention or kernel_size setting; found attention={attention!r}, "
            f"kernel_size={kernel_size!r}. Remove them, or choose one of {', '.join(with_attention)}"
        )
    if attention is not None:
        check_attention(attention)
    if kernel_size is not None:
        check_kernel_size(kernel_size)
    if name in ours:
        network = inspect.get_annotations(timm.models.model_entrypoint(name), eval_str=True)["return"]
        settings = [setting for setting in inspect.signature(network.__init__).parameters if setting != "self"]
        # What timm's builder takes for itself before it calls the network's class.
        builder = {"features_only", "out_indices", "feature_cls", "pretrained", "pretrained_cfg"}
        if unknown := sorted(set(architecture) - set(settings) - builder):
            possible = f"possible: {', '.join(settings)}"
            raise InputError(f"model {model!r}: unknown setting {', '.join(unknown)}; {possible}")
    return timm.create_model(model, attention=attention, kernel_size=kernel_size, **architecture)
