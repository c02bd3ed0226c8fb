"""Reading and writing weights: safetensors, and the published ``.pth`` files without running any code in them."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import FeatureInfo
from torch import Tensor, nn

from lska.models import MISFITS, create
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import MissingFileError, atomic_path, printable, quoted

_LOG = logging.getLogger(__name__)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar")
# Wrappers in the order in which they are looked for: plain weights come before averaged ones.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
# Left in names by nn.DataParallel and DistributedDataParallel, and by torch.compile.
_WRAPPER_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
# What a pickle asks for beside tensors, in torch's words.
_NEEDED = re.compile(r"(?:GLOBAL|type|class|function) ([\w.]+\.[\w.]+)")
_SHOWN, _LONGEST = 10, 120  # names in a message, and characters of each, which foreign files choose
# What a weight may be stored as; in all, torch's own float32 is what networks compute in.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


# Names of the last linear layer in timm's and the publications' own code.
_CLASSIFIERS = ("head", "head.fc", "fc", "classifier")


class CheckpointError(LskaError, ValueError):
    """A weight file that cannot be read, or that belongs to another network; the message names the file."""


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors by parameter name from a ``.safetensors``, ``.pth``, ``.pt`` or ``.tar`` file, on the CPU.

    Accepts a bare state dict, one wrapped as ``{"state_dict": ...}``, ``{"model": ...}`` or
    ``{"state_dict_ema": ...}``, and names that start with ``module.``. Raises FileNotFoundError for a missing file,
    CheckpointError for a truncated or foreign one, for other suffixes, and for tensors that are no plain numbers or not
    finite (up to ten are named).
    """
    return read_wrapped(path)[1]


def read_wrapped(path: Path | str, key: str | None = None) -> tuple[str | None, dict[str, Tensor]]:
    """The tensors of a file as :func:`read_weights` gives them, and under which key of the file they are; None for a
    file of nothing else.

    ``key`` chooses another one, such as ``model_ema``. Raises as :func:`read_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weight file; check the path or fetch the weights first")
    if path.suffix not in _SUFFIXES:
        expected = f"expected a weight file that ends in one of {', '.join(_SUFFIXES)}"
        raise CheckpointError(f"{path}: {expected}; found {path.suffix!r}")
    content = _content(path)
    found: object = type(content).__name__
    if isinstance(content, Mapping):
        found = _shorten(sorted(map(str, content)))
        wrappers = _WRAPPERS if key is None else (key,)
        key = next((name for name in wrappers if isinstance(content.get(name), Mapping)), None)
        if key is not None:
            content = content[key]
        elif wrappers != _WRAPPERS:
            raise CheckpointError(f"{path}: expected a mapping {wrappers[0]!r} with the weights in it; found {found}")
    if not isinstance(content, Mapping) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        expected = "expected a mapping of names to tensors"
        raise CheckpointError(f"{path}: {expected}; found {found}. Is this a file of weights?")
    tensors = {_WRAPPER_PREFIX.sub("", name): tensor for name, tensor in content.items()}
    plain = (*_FLOATS, *_WHOLE, torch.bool)
    if other := [
        f"{name} ({_type(tensor)})"
        for name, tensor in tensors.items()
        if tensor.dtype not in plain or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta
    ]:
        raise CheckpointError(
            f"{path}: expected tensors of plain numbers, found {len(other)} of another kind: {_shorten(other)}. "
            "Convert them to float32 with what wrote the file."
        )
    # As networks compute with them: what 64 bits hold may be too large for 32.
    if wrong := [name for name, one in tensors.items() if one.dtype in _FLOATS and not one.float().isfinite().all()]:
        raise CheckpointError(
            f"{path}: expected finite weights, found NaN or infinite ones in {len(wrong)} of {len(tensors)} tensors: "
            f"{_shorten(wrong)}. The file is of no use: fetch or train these weights again."
        )
    return key, tensors


def _content(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path}: expected a file of weights; found a web page, as servers send it in place of a file. Open the "
            "address in a browser, and take the file that is offered there."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        # The published files hold the options of their training run beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = _NEEDED.search(str(error))
        found = "one that is foreign" if needed is None else f"one that needs {printable(needed[1], _LONGEST)}"
        raise CheckpointError(
            f"{path}: expected a file of tensors only; found {found}, and may run code when read. Convert it to "
            "safetensors where you trust it."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: expected a file of weights; found a truncated or foreign one ({reason}). Fetch or write it again."
        ) from error


def open_network(model: str, weights: Path | str | None = None, **settings: object) -> nn.Module:
    """Any network of timm, ours included, with the weights of a file, in evaluation mode on the CPU.

    Args:
        model: its name, such as `van_tiny` or `resnet50`.
        weights: as :func:`read_weights` takes them; None for random ones. Nothing is ever downloaded.
        settings: as :func:`lska.models.create` takes them, but none by which timm loads other weights. Where they do
            not say ``num_classes``, the network gets as many classes as the file's classifier has.

    Raises:
        CheckpointError, FileNotFoundError: as :func:`load_weights`.
        ValueError: unknown model or setting, or a value that the network cannot have.
    """
    if weights is None:
        return _made(model, **settings).eval()
    return fitted_network(model, read_weights(weights), str(weights), **settings)


def fitted_network(model: str, tensors: Mapping[str, Tensor], where: str, **settings: object) -> nn.Module:
    """As :func:`open_network`, with weights that were read already, which ``where`` names."""
    if "num_classes" not in settings:
        with torch.device("meta"):
            _made(model, num_classes=0, **settings)  # a wrong name or setting is told first
        own = timm.get_pretrained_cfg_value(model, "classifier") or ()
        names = (*((own,) if isinstance(own, str) else own), *_CLASSIFIERS)
        rows = [len(tensors[f"{name}.weight"]) for name in names if f"{name}.weight" in tensors]
        settings = settings | {"num_classes": rows[0]} if rows else settings
    network = _made(model, **settings)
    fit_weights(network, tensors, where)
    return network.eval()


def _made(model: str, **settings: object) -> nn.Module:
    """A network with fresh weights; raises ValueError for every setting that it cannot have."""
    if loading := sorted({"pretrained", "checkpoint_path"} & set(settings)):
        raise InputError(f"{model}: {', '.join(loading)}: would have timm load other weights; give the file as weights")
    try:
        return create(model, **settings)
    except MISFITS as error:
        told = printable(str(error), 200)
        raise InputError(f"{model}: settings {quoted(settings)} do not fit the network: {told}") from error


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the weights in ``path`` into ``model``: names and shapes must be the same, or those of published files that
    the network's module knows (timm's ``checkpoint_filter_fn``).

    A network of feature maps (timm's ``features_only``) takes what it has of the whole network's weights; the log tells
    how many others are left out, which are those of the classifier and of stages after the last one that it gives.

    Any of float16, bfloat16, float32 and float64 becomes the model's own floating type; whole numbers fill whole
    numbers only (counters). Raises CheckpointError that names the file and up to ten keys of each kind, and what
    :func:`read_weights` raises; the model is then unchanged.
    """
    fit_weights(model, read_weights(path), str(path))


def fit_weights(target: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors``, which ``where`` names, into ``target``, as :func:`load_weights` does."""
    whole, features = tensors, getattr(target, "feature_info", None)
    if isinstance(features, FeatureInfo):
        target = getattr(target, "model", target)  # what timm's getter of maps, which has no tensors of its own, calls
    expected = target.state_dict()
    shapes = {name: own.shape for name, own in expected.items()}
    convert = getattr(sys.modules[type(target).__module__], "checkpoint_filter_fn", None)
    tensors = _of_features(features, whole, expected)
    if convert is not None and shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        try:
            with warnings.catch_warnings():
                # How timm's resampling of position biases calls torch.
                warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers\.interpolate")
                whole = convert(dict(whole), target)
        except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            # timm's own take every file for one of their network; what does not fit is told below.
            _LOG.debug("%s: not renamed (%s)", where, error)
        tensors = _of_features(features, whole, expected)
    problems: dict[str, list[str]] = {
        "missing in the file": [name for name in expected if name not in tensors],
        "unknown to the model": [name for name in tensors if name not in expected],
        "of another shape": [],
        "of another kind of numbers": [],
    }
    for name in (name for name in tensors if name in expected):
        tensor, own = tensors[name], expected[name]
        # BatchNorm's counter of batches, which no output depends on, is a float where a whole model was cast.
        kinds = next((some for some in (_FLOATS, _WHOLE) if own.dtype in some), (own.dtype,))
        kinds = kinds + _FLOATS if own.ndim == 0 else kinds
        if own.shape != tensor.shape:
            problems["of another shape"].append(f"{name} (model {tuple(own.shape)}, file {tuple(tensor.shape)})")
        if tensor.dtype not in kinds:
            problems["of another kind of numbers"].append(f"{name} (model {_type(own)}, file {_type(tensor)})")
    if any(problems.values()):
        told = " ".join(f"{len(names)} {kind}: {_shorten(names)}." for kind, names in problems.items() if names)
        raise CheckpointError(f"{where}: the weights do not fit the model. {told} {_advice(target, problems)}")
    target.load_state_dict(dict(tensors), strict=False)  # what is missing was told above
    if left := len(whole) - len(tensors):
        _LOG.info("%s: %d tensors taken, %d left out, which the network of feature maps has no part for", where,
                  len(tensors), left)  # fmt: skip


def _advice(target: nn.Module, problems: Mapping[str, Sequence[str]]) -> str:
    """What may be otherwise in the model than in that which a file was trained as."""
    names = [name for some in problems.values() for name in some]
    if names == problems["of another kind of numbers"]:
        return "Save them as floating-point numbers, and counters as whole ones."
    head = (getattr(target, "pretrained_cfg", None) or {}).get("classifier")
    if isinstance(head, str) and all(name.startswith(f"{head}.") for name in names):
        differing = "number of classes"
    else:
        differing = f"{'attention, kernel size' if hasattr(target, 'attention') else 'settings'} and number of classes"
    return f"Create the model with the {differing} that the file was trained with."


def _of_features(
    features: object, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Those of a whole network's ``tensors`` that its network of feature maps has a part for, under the names that they
    have there; all of them where ``features`` is not what timm says of such maps."""
    if not isinstance(features, FeatureInfo):
        return tensors
    parts, last = {name.partition(".")[0] for name in expected}, max(features.out_indices)
    # Where stages are numbered, as in `stages.2`, those after the last one that gives a map are cut off, and so is what
    # leads to them in a list beside (`transitions.2`).
    number = features.info[last]["module"].rpartition(".")[2]
    cut = number.isdecimal() and last + 1 < len(features.info)
    numbered = re.compile(r"(\w+)\.(\d+)\.")
    ends: dict[str, int] = {}
    for found in filter(None, map(numbered.match, expected)):
        ends[found[1]] = max(int(found[2]), ends.get(found[1], 0))
    beside = {name for name, end in ends.items() if cut and end in (int(number) - 1, int(number))}
    taken = {}
    for name, tensor in tensors.items():
        joined = name.replace(".", "_", 1)  # timm's list of modules takes them out of the container around them
        if joined in expected:
            taken[joined] = tensor
        elif name in expected or parts & {name.partition(".")[0], joined.partition(".")[0]} and not (
            (later := numbered.match(name)) and later[1] in beside and int(later[2]) > ends[later[1]]
        ):
            taken[name] = tensor
    return taken


def save_weights(
    model: nn.Module,
    path: Path | str,
    check: Callable[[], None] | None = None,
    vouch: Callable[[Path], None] | None = None,
) -> None:
    """Write all parameters and buffers of ``model`` to ``path`` as safetensors, complete or not at all.

    ``check`` is called right before the file appears, which it does not where that raises. ``vouch`` is called before
    that with the complete file under its temporary name, to write the sidecar: so no moment, and no kill, leaves
    weights that nothing vouches for. Raises ValueError unless ``path`` ends in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as safetensors; give a name that ends in .safetensors")
    # A copy in standard layout: safetensors refuses channels_last strides, and tensors that share memory.
    tensors = {name: one.detach().to("cpu", copy=True).contiguous() for name, one in model.state_dict().items()}
    with atomic_path(path, check) as temporary:
        save_file(tensors, temporary, metadata={})
        if vouch is not None:
            if check is not None:
                check()
            path.unlink(missing_ok=True)
            vouch(temporary)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(name[:_LONGEST] for name in names[:_SHOWN])) + more
