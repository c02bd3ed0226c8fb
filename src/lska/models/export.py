"""Networks for use without this project: as ONNX or as a program of torch.export, compared with what they come from."""

from __future__ import annotations

import copy
import importlib.util
import logging
import operator
import re
import signal
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import atomic_path

_LOG = logging.getLogger(__name__)
Shape = tuple[int, ...]

FORMATS = {"onnx": ".onnx", "torch.export": ".pt2"}
"""Endings of files by format."""

AXES = {"batch": 0, "height": 2, "width": 3}
"""Axes of the input that may be dynamic."""

TOLERANCE = 1e-3
"""Difference of outputs, as a share of the largest, above which a file is refused. Rounding gives about 1e-6."""

TRACING_SECONDS = 600
"""Large networks take a minute or two. With dynamic sizes some, such as Swin's shifted windows, take torch too long."""

_ONNX_BYTES = 2**31 - 2**24  # of weights: a file of ONNX is one message of protobuf, which ends at 2 GiB
_SHOWN = 3  # names in a message


class ExportError(LskaError, RuntimeError):
    """A network that cannot be exported as asked; the message names it and what can be had."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with the network.

    Shapes are (batch, channels, height, width) in pixels; ``differences`` holds for each shape that was tried the
    largest absolute difference of outputs, ``largest`` the largest output of the network, and ``refused`` the shapes
    that the file does not serve, with the reason. Both are empty where nothing could run the file.
    """

    path: Path
    outputs: tuple[str, ...]
    folded: int | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    differences: Mapping[Shape, float] = field(default_factory=dict)
    refused: Mapping[Shape, str] = field(default_factory=dict)
    largest: float = 0.0

    def to_text(self) -> str:
        """Lines for a terminal."""
        size = f"{self.path.stat().st_size / 1e6:.1f} MB"
        lines = [f"{self.path}: {size}; input image (batch, channels, height, width), output {', '.join(self.outputs)}"]
        if self.folded is not None:
            lines.append(f"BatchNorm: {self.folded} folded into convolutions, {len(self.left)} left")
            for reason in dict.fromkeys(self.left.values()):
                lines.append(f"  {reason}: {_names([name for name, why in self.left.items() if why == reason])}")
        if not self.differences:
            return "\n".join([*lines, "not compared with the network: pip install onnxruntime for that"])
        worst = max(self.differences.values())
        share = f"{worst / self.largest:.1e} of the largest output" if self.largest else "all outputs are 0"
        lines.append(f"compared with the network on random images: they differ by {worst:.1e} at most ({share})")
        lines += [f"  {_sizes(shape)}: {difference:.1e}" for shape, difference in self.differences.items()]
        return "\n".join([*lines, *(f"  {_sizes(shape)}: refused, {why}" for shape, why in self.refused.items())])


def export_network(
    network: nn.Module,
    path: Path,
    form: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    dynamic: Collection[str] = (),
    fold_batch_norm: bool = False,
    notes: Mapping[str, str] | None = None,
    name: str = "the network",
) -> Exported:
    """Write ``network``, which is on the CPU and is put into evaluation mode, and compare the file with it; complete or
    not at all.

    Args:
        form: one of ``FORMATS``; ``path`` ends as that says.
        size: height and width of the images in pixels (default: those of the network's ``pretrained_cfg``).
        dynamic: which of ``AXES`` may differ from call to call. The others stay as they are: ``size``, and one image.
        fold_batch_norm: whether networks that can be re-parameterized are (RepLKNet's merged kernels, and what timm
            knows), and each BatchNorm joins the convolution before it, or those after it where none of them pads (at
            padded borders the shift is not the same). Outputs stay the same up to rounding.
        notes: texts by name that are kept in the file (metadata of ONNX, extra files of torch.export).
        name: of the network, for messages.

    Raises:
        InputError: another ending of ``path``, an unknown axis, a library that is not installed.
        ExportError: the network takes no other sizes, or torch cannot export it, or the file answers otherwise.
    """
    path = Path(path)
    _check(path, form, dynamic)
    network, size = network.eval(), size or tuple(network.pretrained_cfg["input_size"][1:])
    shapes = _shapes((channels, *size), dynamic)
    images = {shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes}
    answers = dict(_answers(network, images, name))
    if len({shape[2:] for shape in answers}) == 1 and {"height", "width"} & {*dynamic}:
        raise ExportError(
            f"{name} takes images of {_sizes(size)} pixels only: leave height and width out of --dynamic. Some "
            "networks of timm take other sizes with --model-args dynamic_img_size=true, or strict_img_size=false"
        )
    if fold_batch_norm:
        norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())
        module, left = fold_batch_norms(_program(_reparameterized(network), shapes[0], dynamic, name))
        program, folded = _program(module, shapes[0], dynamic, name), norms - len(left)
    else:
        program, folded, left = _program(network, shapes[0], dynamic, name), None, {}
    outputs = _output_names(answers[shapes[0]])
    write, run = {"onnx": (_write_onnx, _run_onnx), "torch.export": (_write_program, _run_program)}[form]
    with atomic_path(path) as temporary:
        _LOG.info("%s: writing %s", name, path)
        with _quiet():
            write(program, temporary, outputs, dynamic, dict(notes or {}))
            runner = run(temporary)
        differences, refused = {}, {}
        if runner is not None:
            _LOG.info("%s: comparing it with the network", name)
            differences, refused = _compare(runner, program, images, answers, name)
    largest = max(float(one.abs().max()) for found in answers.values() for one in found)
    return Exported(path, outputs, folded, left, differences, refused, largest)


def fold_batch_norms(program: ExportedProgram) -> tuple[GraphModule, dict[str, str]]:
    """The network of ``program`` with each BatchNorm in a convolution beside it, where that changes no output beyond
    rounding, and the names of those that are left, each with the reason.

    The one before it takes it at its output. Those after it take it at their input, if they are all that reads it and
    pad nothing: a padded border is 0 behind BatchNorm, which no bias gives.
    """
    module = program.module(check_guards=False)
    graph, left = module.graph, {}
    for norm in [node for node in graph.nodes if node.target == torch.ops.aten.batch_norm.default]:
        before, after = norm.args[0], list(norm.users)
        if norm.args[5]:
            left[_name(norm)] = "computes with the statistics of its batch"
        elif _is_convolution(before) and len(before.users) == 1:
            _set(module, before, *fuse_conv_bn_weights(*_parameters(module, before), *_statistics(module, norm)))
        elif not all(one.args[0] is norm and _is_convolution(one) for one in after):
            left[_name(norm)] = "no convolution of its own before it, and others than convolutions read it"
        elif any(any(_argument(one, 4, (0, 0))) for one in after):
            left[_name(norm)] = "no convolution of its own before it, and that after it pads"
        else:
            for one in after:
                _set(module, one, *_taken_at_input(module, one, norm))
        if _name(norm) not in left:
            norm.replace_all_uses_with(before)
            graph.erase_node(norm)
    graph.eliminate_dead_code()
    # A new module has what the graph names, and nothing else.
    return GraphModule(module, graph), left


# --- The program -----------------------------------------------------------------------------------------------------


def _check(path: Path, form: str, dynamic: Collection[str]) -> None:
    if form not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}; found {form!r}")
    if path.suffix != FORMATS[form]:
        raise InputError(f"{path}: files of {form} end in {FORMATS[form]}; give another --output or --format")
    if unknown := [axis for axis in dynamic if axis not in AXES]:
        raise InputError(f"dynamic: expected some of {', '.join(AXES)}; found {', '.join(unknown)}")
    needed = ("onnx", "onnxscript") if form == "onnx" else ()
    if missing := [library for library in needed if importlib.util.find_spec(library) is None]:
        raise InputError(f"torch writes ONNX with {' and '.join(needed)}: pip install {' '.join(missing)}")


def _shapes(size: Shape, dynamic: Collection[str]) -> list[Shape]:
    """The shape that is asked for, and others that differ from it where it is dynamic: larger ones, odd ones, and such
    that leave a pixel or two of the last map."""
    channels, height, width = size
    own = (2 if "batch" in dynamic else 1, channels, height, width)
    others = (
        (1, channels, 2 * height, width + width // 2),
        (3, channels, height // 2 | 1, 3 * width // 4 | 1),
        (1, channels, 33, 40),
        (1, channels, 32, 32),
    )
    free = [AXES[name] for name in dynamic]
    chosen = (tuple(other[i] if i in free else own[i] for i in range(4)) for other in others)
    return list(dict.fromkeys((own, *chosen)))


def _answers(network: nn.Module, images: Mapping[Shape, Tensor], name: str) -> Iterator[tuple[Shape, list[Tensor]]]:
    """Outputs for each image that the network takes; the first has to be one."""
    for number, (shape, image) in enumerate(images.items()):
        try:
            with torch.inference_mode():
                found = network(image)
        except Exception as error:  # whatever a network says of a size that it does not take
            if not number:
                raise ExportError(f"{name} fails on images of {_sizes(shape)} pixels: {_first_line(error)}") from error
            continue
        outputs = [found] if isinstance(found, Tensor) else list(found)
        if not all(one.isfinite().all() for one in outputs):
            raise ExportError(f"{name}: outputs for random images are NaN or infinite; are these its weights?")
        yield shape, outputs


def _program(network: nn.Module, shape: Shape, dynamic: Collection[str], name: str) -> ExportedProgram:
    # Traced at another size where that is dynamic: at that of its position embeddings, or on a square, a network may go
    # a way that no other size takes.
    height, width = shape[2] * (2 if "height" in dynamic else 1), shape[3] * (3 if "width" in dynamic else 1)
    example = torch.zeros(*shape[:2], height, width)
    _LOG.info("%s: tracing it", name)
    try:
        with _quiet(), _limited(TRACING_SECONDS):
            free = {AXES[axis]: Dim.DYNAMIC for axis in dynamic}
            return torch.export.export(network, (example,), dynamic_shapes=(free,) if free else None)
    except (Exception, _TooLongError) as error:  # torch has no class of its own for what it cannot export
        asked = f" with dynamic {', '.join(dynamic)}; leave out of --dynamic what it cannot be" if dynamic else ""
        raise ExportError(f"torch cannot export {name}{asked}. It says: {_first_line(error)}") from error


def _reparameterized(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    if hasattr(network, "structural_reparam"):
        network.structural_reparam()
    return timm.utils.reparameterize_model(network, inplace=True).eval()


class _TooLongError(BaseException):
    """No Exception, so that nothing that is interrupted by it takes it for one of its own."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in the block after `seconds`; signals reach the main thread alone, others have no limit."""

    def stop(*_: object) -> None:
        raise _TooLongError(f"it has taken {seconds:,.0f} s, and no end is in sight")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch and the libraries of ONNX tell of their own insides stays away; errors are raised all the same."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


# --- Folding ---------------------------------------------------------------------------------------------------------


def _is_convolution(node: Node) -> bool:
    """Whether `node` is a convolution with parameters that depend on no image and serve no other one."""
    own = [one for one in node.args[1:3] if one is not None] if node.target == torch.ops.aten.conv2d.default else []
    return bool(own) and all(_is_constant(one) and len(one.users) == 1 for one in own)


def _is_constant(node: Node) -> bool:
    inputs = node.all_input_nodes
    return node.op == "get_attr" or (node.op == "call_function" and bool(inputs) and all(map(_is_constant, inputs)))


def _value(module: GraphModule, node: Node | None) -> Tensor | None:
    """What a constant node stands for; masked kernels are computed from two parameters."""
    if node is None or node.op == "get_attr":
        return node and operator.attrgetter(node.target)(module).detach()
    return node.target(*map_arg(node.args, lambda one: _value(module, one)), **node.kwargs)


def _parameters(module: GraphModule, convolution: Node) -> tuple[Tensor, Tensor | None]:
    return _value(module, convolution.args[1]), _value(module, _argument(convolution, 2, None))


def _statistics(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor, float, Tensor | None, Tensor | None]:
    """Mean, variance, epsilon, weight and bias, as torch's functions for folding take them."""
    weight, bias, mean, variance = (_value(module, node) for node in norm.args[1:5])
    return mean, variance, norm.args[7], weight, bias


def _taken_at_input(module: GraphModule, convolution: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Weight (out, in / groups, rows, columns) and bias (out) of `convolution` as they are without `norm` before it."""
    weight, bias = _parameters(module, convolution)
    mean, variance, epsilon, gain, offset = _statistics(module, norm)
    scale = (1 if gain is None else gain) * torch.rsqrt(variance + epsilon)
    shift = (0 if offset is None else offset) - mean * scale
    groups = _argument(convolution, 6, 1)
    scale, shift = (
        one.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1, 1, 1)
        for one in (scale, shift)
    )
    return weight * scale, (weight * shift).sum(dim=(1, 2, 3)) + (0 if bias is None else bias)


def _set(module: GraphModule, convolution: Node, weight: Tensor, bias: Tensor) -> None:
    source = convolution.args[1]
    while source.op != "get_attr":
        source = source.all_input_nodes[0]
    place, nodes = source.target.rpartition(".")[0], []
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(module.get_submodule(place), name, nn.Parameter(value.detach(), requires_grad=False))
        with module.graph.inserting_before(convolution):
            nodes.append(module.graph.get_attr(f"{place}.{name}"))
    convolution.args = (convolution.args[0], *nodes, *convolution.args[3:])


def _argument(node: Node, place: int, default: object) -> object:
    return node.args[place] if len(node.args) > place else default


def _name(norm: Node) -> str:
    own = norm.args[3] or norm.args[1]
    return own.target.rpartition(".")[0] if own else norm.name


# --- Files -----------------------------------------------------------------------------------------------------------

Runner = Callable[[Tensor], list[Tensor]]


def _write_onnx(
    program: ExportedProgram, path: Path, outputs: tuple[str, ...], dynamic: Collection[str], notes: Mapping[str, str]
) -> None:
    if (weights := sum(one.nbytes for one in program.state_dict.values())) > _ONNX_BYTES:
        raise ExportError(f"{weights / 2**30:.1f} GiB of weights: a file of ONNX holds 2; choose --format torch.export")
    try:
        written = torch.onnx.export(
            program, input_names=["image"], output_names=outputs, verbose=False,
            dynamic_shapes=({AXES[axis]: axis for axis in dynamic},) if dynamic else None,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        why = _first_line(error.__cause__ or error)
        raise ExportError(f"{path.name}: torch cannot write it as ONNX: {why}; choose --format torch.export") from error
    written.model.metadata_props.update(notes)
    written.save(path, external_data=False)


def _run_onnx(path: Path) -> Runner | None:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised too
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: list(map(torch.from_numpy, session.run(None, {"image": image.numpy()})))


def _write_program(
    program: ExportedProgram, path: Path, outputs: tuple[str, ...], dynamic: Collection[str], notes: Mapping[str, str]
) -> None:
    torch.export.save(program, path, extra_files=dict(notes))


def _run_program(path: Path) -> Runner:
    return _runner(torch.export.load(path))


def _runner(program: ExportedProgram) -> Runner:
    module = program.module()

    def run(image: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            found = module(image)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


def _compare(
    run: Runner, program: ExportedProgram, images: Mapping[Shape, Tensor], answers: Mapping[Shape, list[Tensor]],
    name: str,
) -> tuple[dict[Shape, float], dict[Shape, str]]:  # fmt: skip
    """The largest difference for each shape that the network takes, and the shapes that the file refuses.

    A file of ONNX does not know which sizes it was made for; the program does.
    """
    differences, refused = {}, {shape: "by the network itself" for shape in images if shape not in answers}
    for number, (shape, expected) in enumerate(answers.items()):
        try:
            found = run(images[shape])
        except Exception as error:  # torch and onnxruntime have no class of their own for a shape that is refused
            if not number:
                raise ExportError(
                    f"{name}: the file refuses images of {_sizes(shape)}: {_first_line(error)}; nothing is written. "
                    "Try without --dynamic"
                ) from error
            refused[shape] = _first_line(error)
            continue
        pairs = list(zip(found, expected, strict=True))
        differences[shape] = max(float((one - other).abs().max()) for one, other in pairs)
        if differences[shape] <= TOLERANCE * max(float(other.abs().max()) for other in expected):
            continue
        try:
            _runner(program)(images[shape])
        except Exception as error:
            del differences[shape]
            refused[shape] = f"its answers are wrong ({_first_line(error)})"
            continue
        raise ExportError(
            f"{name}: on images of {_sizes(shape)} the file differs from the network by {differences[shape]:.1e}, "
            "which is more than rounding; nothing is written. Try without --fold-batch-norm or --dynamic"
        )
    return differences, refused


def _output_names(outputs: list[Tensor]) -> tuple[str, ...]:
    return ("logits",) if len(outputs) == 1 else tuple(f"features_{number}" for number in range(len(outputs)))


def _sizes(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    """The beginning of a message, with the axes of the input by their names."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__).partition("! For more information")[0]
    for axis, place in AXES.items():
        line = re.sub(rf"(L\['\w+'\]|\b\w+)\.size\(\)\[{place}\]", axis, line)
    return line
