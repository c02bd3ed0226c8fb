"""Reading and writing weights: safetensors, and the published ``.pth`` files without running any code in them."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["CheckpointError", "LoadReport", "load_weights", "read_weights", "save_weights"]

_LOG = logging.getLogger(__name__)
_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
# Wrappers in the order in which they are looked for; the averaged weights only come first where asked for.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
_EMA_WRAPPERS = ("state_dict_ema", "model_ema")
# Left in names by nn.DataParallel and DistributedDataParallel, and by torch.compile.
_WRAPPER_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
_SHOWN = 10


class CheckpointError(ValueError):
    """A weight file that cannot be read, or that belongs to another network; the message names the file."""


@dataclass(frozen=True)
class LoadReport:
    """Names that did not match when loading with ``strict=False``: absent from the file, or unknown to the model."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def read_weights(path: Path | str, ema: bool = False) -> dict[str, Tensor]:
    """Tensors by parameter name from a ``.safetensors``, ``.pth``, ``.pt`` or ``.tar`` file, on the CPU.

    Accepts a bare state dict, one wrapped as ``{"state_dict": ...}``, ``{"model": ...}`` or
    ``{"state_dict_ema": ...}``, and names that start with ``module.``. ``ema`` asks for the averaged weights. Raises
    FileNotFoundError for a missing file, CheckpointError for a truncated or foreign one, for other suffixes and for
    absent averaged weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file; check the path or fetch the weights first")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise CheckpointError(f"{path}: expected a weight file that ends in one of {known}; found {path.suffix!r}")
    tensors = _unwrap(content, path, ema)
    return {_WRAPPER_PREFIX.sub("", name): tensor for name, tensor in tensors.items()}


def load_weights(model: nn.Module, path: Path | str, strict: bool = True, ema: bool = False) -> LoadReport:
    """Copy the weights in ``path`` into ``model`` (also one made with ``features_only``) and return what did not match.

    With ``strict`` every name must match; without it, missing and unexpected names are logged and returned. Shapes must
    match in both cases. Raises CheckpointError that names the file and up to ten keys of each kind, and what
    :func:`read_weights` raises; the model is then unchanged.
    """
    tensors = read_weights(path, ema)
    target = _inner_model(model)
    expected = target.state_dict()
    missing = tuple(name for name in expected if name not in tensors)
    unexpected = tuple(name for name in tensors if name not in expected)
    shapes = tuple(
        f"{name} (model {tuple(expected[name].shape)}, file {tuple(tensor.shape)})"
        for name, tensor in tensors.items()
        if name in expected and expected[name].shape != tensor.shape
    )
    problems = _describe(missing, unexpected, shapes)
    if shapes or (strict and problems) or len(missing) == len(expected):
        raise CheckpointError(
            f"{path}: the weights do not fit the model. {problems} "
            f"Create the model with the attention, kernel size and number of classes that the file was trained with."
        )
    if problems:
        _LOG.warning("%s: loaded in part. %s", path, problems)
    target.load_state_dict(tensors, strict=False)
    return LoadReport(missing, unexpected)


def save_weights(
    model: nn.Module,
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Write all parameters and buffers of ``model`` to ``path`` as safetensors, complete or not at all.

    Names are written without the prefixes of wrapping modules; ``check`` is called right before the file appears, which
    it does not where that raises. Raises ValueError unless ``path`` ends in .safetensors.
    """
    from lska.files import atomic_path

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as safetensors; give a name that ends in .safetensors")
    state = _inner_model(model).state_dict()
    # A copy in standard layout: safetensors refuses channels_last strides, and tensors that share memory.
    tensors = {_WRAPPER_PREFIX.sub("", name): _plain_copy(tensor) for name, tensor in state.items()}
    with atomic_path(path, check) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata or {}))


def _plain_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _inner_model(model: nn.Module) -> nn.Module:
    """The network inside the wrappers of DistributedDataParallel, torch.compile and timm's feature getter."""
    from timm.models._features import FeatureGetterNet

    while True:
        if isinstance(model, FeatureGetterNet):
            model = model.model
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file; found a truncated or foreign one ({error}). Fetch or write it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        # The published files hold the options of their training run beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: expected a file of tensors only; found one that is foreign or would run code when read "
            f"({reason}). Convert it to safetensors where you trust it."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a PyTorch weight file; found a truncated or foreign one "
            f"({str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}). Fetch it again."
        ) from error


def _unwrap(content: object, path: Path, ema: bool) -> Mapping[str, Tensor]:
    """The name-to-tensor mapping in a loaded file, out of its wrapper if it has one."""
    wrappers = _EMA_WRAPPERS if ema else _WRAPPERS
    found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    if isinstance(content, Mapping):
        inner = next((content[name] for name in wrappers if isinstance(content.get(name), Mapping)), None)
        if inner is None and not ema:
            inner = content
        if inner and all(isinstance(tensor, Tensor) for tensor in inner.values()):
            return inner
    wanted = "averaged weights under " + " or ".join(_EMA_WRAPPERS) if ema else "a mapping of names to tensors"
    raise CheckpointError(f"{path}: expected {wanted}; found {_shorten(found)}. Is this a file of weights?")


def _shorten(names: tuple[str, ...] | list[str] | str) -> str:
    if isinstance(names, str):
        return names
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _describe(missing: tuple[str, ...], unexpected: tuple[str, ...], shapes: tuple[str, ...]) -> str:
    kinds = (("missing in the file", missing), ("unknown to the model", unexpected), ("of another shape", shapes))
    return " ".join(f"{len(names)} {kind}: {_shorten(names)}." for kind, names in kinds if names)
