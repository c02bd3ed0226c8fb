"""Networks: VAN with LKA and LSKA, their checkpoints, their cost. Importing this package imports neither torch nor
timm."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lska.models.kernels import ATTENTIONS, PAPER_KERNEL_SIZES, check_attention, check_kernel_size, kernel_plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ATTENTIONS", "PAPER_KERNEL_SIZES", "check_attention", "check_kernel_size", "create", "kernel_plan"]


def create(
    model: str, *, attention: str | None = None, kernel_size: int | None = None, **architecture: object
) -> nn.Module:
    """Create any network that timm knows, ours included, in training mode on the CPU with fresh weights.

    ``attention`` and ``kernel_size`` belong to our networks; further keyword arguments go to ``timm.create_model``
    (``num_classes``, ``drop_path_rate``, ``embed_dims``, ...). Raises ValueError for an unknown model, attention or
    setting, and for an impossible kernel size; each message names the possible ones. ``checkpoint_path`` names a file
    of weights to start from (``lska.models.checkpoint.load_weights``).
    """
    import timm

    import lska.models.van  # noqa: F401  registers ours even where the import hook could not

    _check_model(model, timm.list_models())
    takes_attention = model in timm.list_models(module="van")
    if takes_attention:
        _check_van_settings(model, attention, kernel_size, architecture)
    elif attention is not None or kernel_size is not None:
        raise ValueError(
            f"model {model!r} has no attention or kernel_size setting; found attention={attention!r}, "
            f"kernel_size={kernel_size!r}. Remove them, or choose one of {', '.join(timm.list_models(module='van'))}"
        )
    # Read by our own reader, which refuses what no network should take.
    weights = architecture.pop("checkpoint_path", None)
    network = timm.create_model(model, attention=attention, kernel_size=kernel_size, **architecture)
    if weights:
        from lska.models.checkpoint import load_weights

        load_weights(network, str(weights), strict=not architecture.get("features_only", False))
    return network


def _check_model(model: str, known: list[str]) -> None:
    # A tag after the dot chooses among pretrained weights of one architecture.
    name = model.split(".")[0]
    if name in known:
        return
    similar = difflib.get_close_matches(name, known, n=5)
    hint = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists all."
    raise ValueError(f"model: unknown name {model!r}; ours are van_tiny, van_small, van_base; {hint}")


def _check_van_settings(
    model: str, attention: str | None, kernel_size: int | None, architecture: dict[str, object]
) -> None:
    import inspect

    from lska.models.van import VAN

    if attention is not None:
        check_attention(attention)
    if kernel_size is not None:
        check_kernel_size(kernel_size)
    settings = [name for name in inspect.signature(VAN.__init__).parameters if name != "self"]
    # What timm's builder takes for itself before it calls the network's class.
    builder = ("features_only", "out_indices", "feature_cls", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
    unknown = sorted(set(architecture) - set(settings) - set(builder) - {"checkpoint_path", "cache_dir"})
    if unknown:
        raise ValueError(f"model {model!r}: unknown setting {', '.join(unknown)}; possible: {', '.join(settings)}")
