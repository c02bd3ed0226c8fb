"""Reading and writing weights: safetensors, and the published ``.pth`` files without running any code in them."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import MissingFileError, printable

__all__ = ["CheckpointError", "LoadReport", "fit_weights", "load_weights", "read_weights", "save_weights"]

_LOG = logging.getLogger(__name__)
_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
# Wrappers in the order in which they are looked for; the averaged weights only come first where asked for.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
_EMA_WRAPPERS = ("state_dict_ema", "model_ema")
# Left in names by nn.DataParallel and DistributedDataParallel, and by torch.compile.
_WRAPPER_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
_SHOWN = 10
_LONGEST = 120  # characters of a name, which foreign files choose
# What a weight may be stored as; in all, torch's own float32 is what networks compute in.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class CheckpointError(LskaError, ValueError):
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
    FileNotFoundError for a missing file, CheckpointError for a truncated or foreign one, for other suffixes, for absent
    averaged weights, and for tensors that are no plain numbers or not finite (up to ten are named).
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weight file; check the path or fetch the weights first")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise CheckpointError(f"{path}: expected a weight file that ends in one of {known}; found {path.suffix!r}")
    tensors = {_WRAPPER_PREFIX.sub("", name): tensor for name, tensor in _unwrap(content, path, ema).items()}
    _check_values(tensors, path)
    return tensors


def load_weights(model: nn.Module, path: Path | str, strict: bool = True, ema: bool = False) -> LoadReport:
    """Copy the weights in ``path`` into ``model`` (also one made with ``features_only``) and return what did not match.

    Published files of other names are read as the network's module says (timm's ``checkpoint_filter_fn``). With
    ``strict`` every name must match; without it, missing and unexpected names are logged and returned. Shapes must
    match in both cases, and kinds: any of float16, bfloat16, float32 and float64 becomes the model's own floating type,
    whole numbers fill whole numbers only (counters). Raises CheckpointError that names the file and up to ten keys of
    each kind, and what :func:`read_weights` raises; the model is then unchanged.
    """
    tensors = read_weights(path, ema)
    return fit_weights(_inner_model(model), tensors, str(path), strict)


def fit_weights(target: nn.Module, tensors: Mapping[str, Tensor], where: str, strict: bool = True) -> LoadReport:
    """Copy ``tensors``, which ``where`` names, into ``target``, as :func:`load_weights` does."""
    expected = target.state_dict()
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: own.shape for name, own in expected.items()}:
        tensors = _renamed(target, tensors, where)
    common = [(name, tensor, expected[name]) for name, tensor in tensors.items() if name in expected]
    missing = tuple(name for name in expected if name not in tensors)
    unexpected = tuple(name for name in tensors if name not in expected)
    shapes = tuple(
        f"{name} (model {tuple(own.shape)}, file {tuple(tensor.shape)})"
        for name, tensor, own in common
        if own.shape != tensor.shape
    )
    kinds = tuple(
        f"{name} (model {_type(own)}, file {_type(tensor)})" for name, tensor, own in common if not _kept(tensor, own)
    )
    problems = _describe(missing, unexpected, shapes, kinds)
    if shapes or kinds or (strict and problems) or len(missing) == len(expected):
        raise CheckpointError(
            f"{where}: the weights do not fit the model. {problems} "
            f"Create the model with the attention, kernel size and number of classes that the file was trained with."
        )
    if problems:
        _LOG.warning("%s: loaded in part. %s", where, problems)
    converted = Counter(f"{_type(tensor)} to {_type(own)}" for _, tensor, own in common if tensor.dtype != own.dtype)
    if converted:
        _LOG.info("%s: %s", where, ", ".join(f"{number} tensors from {change}" for change, number in converted.items()))
    target.load_state_dict(dict(tensors), strict=False)
    return LoadReport(missing, unexpected)


def _renamed(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    """Published tensors by the names of ``network``, or as they are where nobody knows them."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), network)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (KeyError, IndexError, AttributeError, RuntimeError, TypeError) as error:
        # timm's own take every file for one of their network.
        _LOG.debug("%s: not renamed (%s)", where, error)
        return tensors


def _kept(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor of the file can become one of the model without a change of kind."""
    if own.is_floating_point():
        return tensor.dtype in _FLOATS
    # BatchNorm's counter of batches, which no output depends on, is a float where a whole model was cast.
    whole = (*_WHOLE, *_FLOATS) if own.ndim == 0 else _WHOLE
    return tensor.dtype in (whole if own.dtype in _WHOLE else (own.dtype,))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that no network can take, whatever network it is."""
    plain = (*_FLOATS, *_WHOLE, torch.bool)
    other = [
        f"{name} ({_type(tensor)})"
        for name, tensor in tensors.items()
        if tensor.dtype not in plain or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta
    ]
    if other:
        raise CheckpointError(
            f"{path}: expected tensors of plain numbers, found {len(other)} of another kind: {_shorten(other)}. "
            "Convert them to float32 with what wrote the file."
        )
    # As networks compute with them: what 64 bits hold may be too large for 32.
    wrong = [name for name, tensor in tensors.items() if tensor.dtype in _FLOATS and not _finite(tensor)]
    if wrong:
        raise CheckpointError(
            f"{path}: expected finite weights, found NaN or infinite ones in {len(wrong)} of {len(tensors)} tensors: "
            f"{_shorten(wrong)}. The file is of no use: fetch or train these weights again."
        )


def _finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.dtype == torch.float64 else tensor).isfinite().all())


def save_weights(
    model: nn.Module,
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    check: Callable[[], None] | None = None,
    vouch: Callable[[Path], None] | None = None,
) -> None:
    """Write all parameters and buffers of ``model`` to ``path`` as safetensors, complete or not at all.

    Names are written without the prefixes of wrapping modules; ``check`` is called right before the file appears, which
    it does not where that raises. ``vouch`` is called before that with the complete file under its temporary name, to
    write the sidecar: so no moment, and no kill, leaves weights that nothing vouches for. Raises ValueError unless
    ``path`` ends in .safetensors.
    """
    from lska.provenance.files import atomic_path

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as safetensors; give a name that ends in .safetensors")
    state = _inner_model(model).state_dict()
    # A copy in standard layout: safetensors refuses channels_last strides, and tensors that share memory.
    tensors = {_WRAPPER_PREFIX.sub("", name): _plain_copy(tensor) for name, tensor in state.items()}
    with atomic_path(path, check) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata or {}))
        if vouch is not None:
            if check is not None:
                check()
            path.unlink(missing_ok=True)
            vouch(temporary)


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
    return printable(", ".join(name[:_LONGEST] for name in names[:_SHOWN])) + more


def _describe(
    missing: tuple[str, ...], unexpected: tuple[str, ...], shapes: tuple[str, ...], kinds: tuple[str, ...]
) -> str:
    found = (
        ("missing in the file", missing), ("unknown to the model", unexpected), ("of another shape", shapes),
        ("of another kind of numbers", kinds),
    )  # fmt: skip
    return " ".join(f"{len(names)} {kind}: {_shorten(names)}." for kind, names in found if names)
