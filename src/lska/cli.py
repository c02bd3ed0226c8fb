"""The `lska` command: what Snakemake's rules call, and what a person calls to look at one part.

Each command is a function with its arguments above it. What it does lives in the rooms, imported when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lska.data.roots import Settings, prepared_from, require, unmakeable
from lska.models.runs import Run
from lska.pipeline.resources import budget_seconds
from lska.pipeline.warm import delegate, run_beside_server
from lska.provenance.errors import InputError, LskaError, alike
from lska.provenance.files import FileError, parse_json, parse_yaml, printable, quoted
from lska.provenance.metric_files import version_text
from lska.provenance.strict import merge
from lska.provenance.surroundings import LONGEST, expanded, project_folder_named, require_own_code, speak_plainly
from lska.settings import scale as scales
from lska.settings.tasks import HEADS, KINDS, OWN_DATA, SETS
from lska.train.gpus import take
from lska.train.interrupt import CONTINUE_LATER, STOPPED, Interrupted, stop_request

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""

Given = argparse.Namespace
"""What was given on the command line; of a command about a scale, `scale` is its configuration."""

COMMANDS: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = []
"""Of each command its words, help, arguments, and what `main` has to know of it."""

GROUPS = {
    "data": "prepare and check data sets",
    "evaluate": "measure trained runs, or any network of yours",
    "weights": "list, import, fetch and publish weights",
}
"""Commands that have actions."""


# --- Arguments -------------------------------------------------------------------------------------------------------


def command(words: str, about: str, *arguments: Any, configured: bool = True, heavy: bool = False) -> Callable:
    """Register a function as the command `words`, such as `data check`; it may return an exit code.

    Args:
        arguments: from `argument`.
        configured: whether it is about a scale, so that files and settings can be given.
        heavy: whether it imports torch and timm, which a server may have done already (`lska warm`).
    """

    def register(run: Callable[[Given], int | None]) -> Callable[[Given], int | None]:
        defaults = {"function": run, "configured": configured, "heavy": heavy}
        COMMANDS.append((words, about, (*arguments, *(CONFIGURATION if configured else ())), defaults))
        return run

    return register


def argument(*names: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An argument of a command, as argparse takes it."""
    return names, settings


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    top = argparse.ArgumentParser(prog="lska", description=__doc__, allow_abbrev=False)
    actions = {"": top.add_subparsers(required=True, metavar="command")}
    for words, about, arguments, defaults in COMMANDS:
        group, _, name = words.rpartition(" ")
        if group not in actions:
            actions[group] = actions[""].add_parser(group, help=GROUPS[group]).add_subparsers(required=True)
        one = actions[group].add_parser(name, help=about, allow_abbrev=False)
        one.set_defaults(**defaults)
        for names, settings in arguments:
            one.add_argument(*names, **settings)
    return top


def overview(group: str = "") -> str:
    """Every command, or those of a group, with what it does."""
    chosen = sorted((words, about) for words, about, *_ in COMMANDS if words.startswith(group))
    width = max(len(words) for words, _ in chosen)
    lines = [f"  lska {words:<{width}}  {about}" for words, about in chosen]
    return "\n".join([*lines, "", "`lska COMMAND --help` lists its options; README.md says where to begin"])


def check_command(argv: Sequence[str]) -> None:
    """Raise ValueError, with what may be meant, where the words name no command."""
    group = f"{argv[0]} " if argv[0] in GROUPS and argv[1:] else ""
    wanted = argv[1] if group else argv[0]
    of = {words.removeprefix(group).split()[0] for words, *_ in COMMANDS if words.startswith(group)}
    if wanted.startswith("-") or wanted in of:
        return
    close = alike(wanted, sorted(of)) or (sorted(of) if group else [])
    advice = f"did you mean {' or '.join(f'lska {group}{one}' for one in close)}? " if close else ""
    raise InputError(f"lska {group}{wanted}: no such command; {advice}`lska` alone lists all")


def as_path(text: str) -> Path:
    """An argument that is a path; `~` and variables that no shell has expanded, as in `--root=~/data`, are."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def as_source(text: str) -> str:
    """An address, or a name on timm's hub, as it is; or a path."""
    return text if "://" in text or text.startswith("timm:") else str(as_path(text))


def as_hash(text: str) -> str:
    """A SHA-256, or its first digits, at least eight."""
    if re.fullmatch("[0-9a-fA-F]{8,64}", text) is None:
        raise argparse.ArgumentTypeError(f"expected 8 to 64 hexadecimal digits, found {quoted(text)}")
    return text.lower()


def as_settings(text: str) -> dict[str, Any]:
    """Settings as JSON."""
    try:
        return parse_json(text, "settings")
    except FileError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def as_pair(text: str) -> tuple[str, Any]:
    """A setting as NAME=VALUE, whose value is read as YAML."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as kernel_size=23, found {quoted(text)}")
    try:
        return name, parse_yaml(value, name, object)
    except FileError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def number(least: float, most: float, whole: bool = False) -> Callable[[str], float]:
    """A type of an option: a finite number from `least` to `most`; argparse names the option of any other."""

    def read(text: str) -> float:
        try:
            # Python refuses integers of thousands of digits by an error of another kind than it names.
            value = int(text) if whole and len(text) <= 20 else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (whole and not isinstance(value, int)):
            kind = "whole number" if whole else "number"
            expected = f"expected a {kind} from {least:,.9g} to {most:,.9g}"
            raise argparse.ArgumentTypeError(f"{expected}, found {quoted(text)}")
        return value

    return read


class OfNetwork(argparse.Action):
    """`--model` begins a network; what belongs to it follows."""

    def __call__(self, parser: argparse.ArgumentParser, given: Given, values: Any, option: str | None = None) -> None:
        if self.dest == "model":
            given.networks = [*given.networks, {"model": values}]
        elif not given.networks:
            parser.error(f"{option} belongs to a network: give --model NAME before it")
        elif self.dest in given.networks[-1]:
            parser.error(f"{option} is given twice for one network: each has a --model NAME of its own before it")
        else:
            given.networks[-1][self.dest] = dict(values) if isinstance(values, list) else values


COUNT, COUNT_OR_NONE = number(1, 10**6, whole=True), number(0, 10**6, whole=True)
MINUTES = number(1e-9, 60 * 24 * 366)
CONFIGURATION = (
    argument("--config", "--configfile", nargs="+", type=as_path, default=[Path("config/demo.yaml")], metavar="FILE",
             help="configuration files; later ones override earlier ones (default: config/demo.yaml)"),
    argument("--set", type=as_settings, default={}, metavar="JSON", help="settings that override those of the files"),
)  # fmt: skip
RUN = argument("run", help="run id, for example van_tiny-lska-k23-s0")
RUNS = argument("runs", nargs="*", help="run ids (default: all of the configuration)")
TASK = argument("--task", required=True, help="for example detection/retinanet")
CHECKPOINTS = argument("--checkpoints", nargs="+", default=[], metavar="RUN",
                       help="run ids (default: those of the scale's section)")  # fmt: skip
BUDGET = (
    argument("--budget-hours", type=number(1e-9, 24 * 366), help="wall time: save the state and stop in time"),
    argument("--job-minutes", type=MINUTES, help="the same in minutes, for a job together with its start"),
)
MODEL_ARGS = {"nargs": "+", "type": as_pair, "metavar": "NAME=VALUE", "help": "such as kernel_size=23 attention=lska"}
ELSEWHERE = (
    argument("--model", action=OfNetwork, metavar="NAME", help="a network of yours: any model of timm, ours included"),
    argument("--model-args", action=OfNetwork, dest="settings", **MODEL_ARGS),
    argument("--weights", action=OfNetwork, type=as_path, metavar="FILE", help="its weights (.safetensors, .pth, ...)"),
    argument("--key", action=OfNetwork, help="entry of the file that holds them, such as model_ema"),
    argument("--name", action=OfNetwork, help="what its results are called (default: the name of the file)"),
    argument("--preprocessing", action=OfNetwork, dest="changes", nargs="+", type=as_pair, metavar="FIELD=VALUE",
             help="how images are prepared: image_size, test_crop, test_interpolation, mean, deviation"),
    argument("--data", nargs="+", action="extend", default=[], metavar="[SET=]FOLDER",
             help="where the data are, such as classification=/data/imagenet c=/data/imagenet-c"),
    argument("--output", type=as_path, metavar="FOLDER", help="where results of your networks go"),
)  # fmt: skip
TARGET = argument("target", help="for example table_03 or figure_01")
JSON = argument("--json", action="store_true", help="for scripts")
NETWORKS = {"metavar": "NETWORK", "help": "such as van_tiny-lska-k23-s0 or detection/retinanet/van_tiny-lska-k23-s0"}


def rest(metavar: str, about: str) -> Any:
    """Everything that follows, for another program."""
    return argument("rest", nargs=argparse.REMAINDER, metavar=metavar, help=about)


# --- What commands have in common ------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for an error that was explained, 2 for a call that is no command or
    lacks something, 75 for "call me again"."""
    speak_plainly()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv == ["--version"] or (len(argv) == 1 and argv[0] in GROUPS):
        say(f"lska {version_text()}" if argv == ["--version"] else overview(*argv))
        return 0
    try:
        check_command(argv)
    except InputError as error:
        print(f"lska: error: {printable(str(error), LONGEST)}", file=sys.stderr)
        return 2
    given = parser().parse_args(argv)
    log = logging.StreamHandler()
    log.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[log], force=True)
    # Fonts that matplotlib puts into PDF files are told glyph by glyph, hundreds of lines for each figure.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    try:
        require_own_code(Path.cwd())
        if given.heavy and (code := delegate(argv)) is not None:
            return code
        if given.configured:
            with project_folder_named(Path.cwd(), given.config):
                given.scale = scales.load(given.config, given.set, unmakeable)
        return given.function(given) or 0
    except KeyboardInterrupt:
        print("lska: interrupted; start it again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Interrupted as error:
        print(f"{STOPPED} {printable(str(error), LONGEST)}; start it again to go on", file=sys.stderr)
        return CONTINUE_LATER
    except LskaError as error:
        if os.environ.get("LSKA_TRACEBACK"):
            raise
        print(f"lska: error: {printable(str(error), LONGEST)}", file=sys.stderr)
        return 1


class _Formatter(logging.Formatter):
    """Messages may quote foreign names."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def say(*texts: object) -> None:
    """Print what a command answers, a line or more each, foreign names in it harmless to a terminal."""
    print(*(printable(str(text)).rstrip("\n") for text in texts), sep="\n")


def require_data(given: Given, *kinds: str) -> None:
    """Make sure, before anything heavy is imported, that the data that serve `kinds` are there.

    Raises:
        MissingDataError: they are not; names the root, the setting and its file, and what to do.
    """
    require(Settings(given.scale.sources, given.config, given.set, "--config"), kinds)


def evaluation(words: str, about: str, *arguments: Any) -> Callable:
    """As `command`, for a protocol that takes runs of the scale or, with `--model`, any other networks."""

    def register(run: Callable[[Given], int | None]) -> Callable[[Given], int | None]:
        def either(given: Given) -> int | None:
            if given.networks:
                return _evaluate_elsewhere(given, words.removeprefix("evaluate "))
            if given.data or given.output is not None:
                raise InputError("--data and --output belong to networks given with --model; add it, or leave them out")
            return run(given)

        command(words, about, *arguments, *ELSEWHERE, heavy=True)(either)
        COMMANDS[-1][3]["networks"] = []
        return run

    return register


def _evaluate_elsewhere(given: Given, protocol: str) -> None:
    from lska.evaluate.networks import PROTOCOLS, evaluate_networks, left_out_text, located, outside_network
    from lska.tables.evaluation import write_evaluation

    if given.output is None:
        raise InputError("--output: expected the folder for results of the networks given with --model")
    if scales_own := [name for name in ("runs", "checkpoints", "head") if getattr(given, name, None)]:
        raise InputError(
            f"{scales_own[0]}: is for runs of the scale, not for networks given with --model; measure them in two "
            "calls. `lska table TARGET --beside FOLDER` shows both"
        )
    networks = [outside_network(**one) for one in given.networks]
    if protocol == "robustness" and not (given.sets or given.scale.perturbed):
        raise InputError(f"{' + '.join(map(str, given.config))}: scale {given.scale.scale} has no section robustness")
    sets = getattr(given, "sets", None) or [item.name for item in given.scale.perturbed]
    chosen = {"all": PROTOCOLS, "robustness": [f"robustness/{name}" for name in sets]}.get(protocol, (protocol,))
    scale = scales.load(given.config, merge(given.set, located(given.scale, given.data, chosen)), unmakeable)
    budget = budget_seconds(getattr(given, "budget_hours", None), getattr(given, "job_minutes", None))
    left = evaluate_networks(scale, networks, chosen, given.output, protocol != "all", budget)
    say(write_evaluation(scale, given.output), *(["Left out:", *left_out_text(left)] if left else []))


def runs_of(given: Given, names: Sequence[str], task: str = "classification") -> list[Run]:
    """The runs named on the command line, or all of the scale that have `task`."""
    if files := [name for name in names if Path(name).suffix]:
        raise InputError(
            f"{files[0]}: expected run ids; a network of yours goes --model NAME --weights {files[0]} --output FOLDER"
        )
    return [given.scale.run_named(text) for text in names] or list(given.scale.runs_of(task))


# --- Data ------------------------------------------------------------------------------------------------------------


@command("new-scale", "write the configuration, recipe and manifest of a scale for images of your own",
         argument("name", help="of the scale, for config/NAME.yaml and results/NAME"),
         argument("--data", type=as_path, required=True, metavar="FOLDER",
                  help="folder of class folders, or with such folders train and val"),
         argument("--validation-share", type=number(0.001, 0.9), default=0.2, metavar="SHARE",
                  help="of each class, where the folder has no validation split (default: %(default)s)"),
         argument("--image-size", type=number(32, 1024, whole=True), metavar="PIXELS",
                  help="side that images get (default: by their own, from 64 to 224)"),
         configured=False)  # fmt: skip
def _new_scale(given: Given) -> None:
    from lska.pipeline.new_scale import make_scale

    say(make_scale(given.name, given.data, given.validation_share, given.image_size))


@command("data prepare", "generate or check a data set of the scale, and write its record",
         argument("--kind", choices=(*KINDS, *SETS, *OWN_DATA), default="classification",
                  help="which of the scale's data sets (default: %(default)s)"),
         heavy=True)  # fmt: skip
def _prepare(given: Given) -> None:
    scale, kind = given.scale, given.kind
    require_data(given, *prepared_from(scale.sources, kind))
    if kind == "classification":
        from lska.data.preparing import prepare

        prepare(scale.images)
    elif kind in SETS:
        from lska.data.perturbed.parts import prepare_perturbed
        from lska.evaluate.accuracy import judge

        item = scale.perturbed_set(kind)
        prepare_perturbed(item, *(() if item.reference is None else judge(item.reference)))
    elif kind in OWN_DATA:
        from lska.data.checking import prepare_inspected

        prepare_inspected(scale.inspection(kind))
    elif kind in scale.dense:
        from lska.data.dense_sets import prepare_dense

        data = dict(scale.sources)[kind]
        prepare_dense(kind, data, data.record, data.cache)
    else:
        raise InputError(f"{' + '.join(map(str, given.config))}: scale {scale.scale} has no section {kind!r}")


@command("data check", "say what is missing or surplus in a data set",
         argument("name", help="name of a bundled manifest, or the path of one; or cue_conflict"),
         argument("--root", type=as_path, required=True, help="folder or archive with the data"),
         argument("--contents", action="store_true", help="decode every image too"),
         argument("--archives", action="store_true",
                  help="only compare the archives in the folder with their known sizes and hashes"),
         configured=False)  # fmt: skip
def _check(given: Given) -> int:
    from lska.data.checking import check_set
    from lska.data.preparing import render_report

    report = check_set(given.name, given.root, given.contents, given.archives)
    say(render_report(report))
    return 0 if report.ok else 1


@command("data import", "fetch a public archive, check it and record it in DVC",
         argument("name", help="name of a bundled manifest, or the path of one"),
         argument("--from", dest="source", required=True, type=as_source, metavar="SOURCE",
                  help="address (http, https, s3, ...) or path of the archive"),
         argument("--root", type=as_path, help="folder for it inside the project (default: data/NAME)"),
         configured=False)  # fmt: skip
def _import(given: Given) -> None:
    from lska.data.importing import import_archive
    from lska.data.manifest import manifest_path

    manifest = manifest_path(given.name)
    root = Path("data", manifest.stem) if given.root is None else given.root
    found = import_archive(manifest, given.source, root)
    say(f"{found.path}: {'imported' if found.fetched else 'there already'}; {found.pointer} says what it is")
    if not found.known:
        say("its hash is not known, so its contents are checked before they are used; to check them now:")
        say(f"  {shlex.join(['lska', 'data', 'check', given.name, '--root', str(root)])}")


@command("data examples", "draw what a perturbed set looks like",
         argument("perturbed", choices=SETS, metavar="SET", help=f"one of {', '.join(SETS)}"), heavy=True)  # fmt: skip
def _examples(given: Given) -> None:
    item = given.scale.perturbed_set(given.perturbed)
    require_data(given, item.name)
    from lska.evaluate.pictures import draw_examples

    draw_examples(item)


# --- Training --------------------------------------------------------------------------------------------------------


@command("train", "train one run, or continue its training; exit code 75: call again", RUN, *BUDGET,
         argument("--task", help="fine-tune the run for this task, for example detection/retinanet"),
         heavy=True)  # fmt: skip
def _train(given: Given) -> None:
    run, budget = given.scale.run_named(given.run), budget_seconds(given.budget_hours, given.job_minutes)
    if given.task is None:
        require_data(given, "classification")
        take(given.scale.training.gpus)
        from lska.train.classifier import train

        train(given.scale.classifier(run), budget)
        return
    job = given.scale.fine_tuning(given.task, run)
    require_data(given, job.kind)
    take(job.settings.gpus)
    from lska.evaluate.measurement import vouched_run
    from lska.train.fine_tuner import fine_tune

    backbone = None if job.backbone is None else vouched_run(job.classifier)[0]
    # The libraries talk about their reading of annotations on standard output.
    with contextlib.redirect_stdout(sys.stderr):
        fine_tune(job, backbone, budget)


@command("launch", "start a training in several processes, as torchrun does",
         argument("--processes", type=number(1, 1024, whole=True), required=True, help="on each node, one per GPU"),
         argument("--nodes", type=COUNT, default=1, help="nodes of the Slurm step; call it once on each"),
         rest("-- train RUN ...", "the command of lska"), configured=False)  # fmt: skip
def _launch(given: Given) -> int:
    from lska.train.launcher import launch

    words = [word for word in given.rest if word != "--"]
    if words[:1] != ["train"]:
        found = " ".join(words) or "nothing"
        raise InputError(f"lska launch starts trainings: expected `-- train RUN ...`, found {found}")
    return launch(words, given.processes, given.nodes)


@command("mmconfig", "print a fine-tuning as a configuration file for mmdet's or mmseg's tools", RUN, TASK,
         heavy=True)  # fmt: skip
def _mmconfig(given: Given) -> None:
    job = given.scale.fine_tuning(given.task, given.scale.run_named(given.run))
    from lska.train.mm_configs import configuration_file

    with contextlib.redirect_stdout(sys.stderr):
        text = configuration_file(job)
    say(text)


# --- Measurements ----------------------------------------------------------------------------------------------------


@evaluation("evaluate classification", "top-1 and top-5", RUNS)
def _classification(given: Given) -> None:
    runs = runs_of(given, given.runs)
    require_data(given, "classification")
    take(given.scale.evaluation.gpus)
    from lska.evaluate.accuracy import classify

    classify(given.scale.measurement("classification"), list(map(given.scale.classifier, runs)))


@evaluation("evaluate speed", "inference throughput, side by side", RUNS)
def _speed(given: Given) -> None:
    runs = runs_of(given, given.runs, "speed")
    take(given.scale.speed.gpus)
    from lska.evaluate.efficiency import measure_speed

    measure_speed(given.scale.measurement("speed"), list(map(given.scale.classifier, runs)))


@command("evaluate dense", "COCO average precision or mIoU of a fine-tuned run", RUN, TASK, heavy=True)
def _dense(given: Given) -> None:
    job = given.scale.fine_tuning(given.task, given.scale.run_named(given.run))
    require_data(given, job.kind)
    take(job.evaluation.gpus)
    from lska.evaluate.dense_scores import evaluate_dense

    with contextlib.redirect_stdout(sys.stderr):
        evaluate_dense(job)


@evaluation("evaluate robustness", "top-1, mCE and calibration on perturbed sets",
            argument("sets", nargs="*", metavar="SET", help=f"some of {', '.join(SETS)} (default: all of the scale)"),
            CHECKPOINTS, *BUDGET)  # fmt: skip
def _robustness(given: Given) -> None:
    scale, budget = given.scale, budget_seconds(given.budget_hours, given.job_minutes)
    items = [scale.perturbed_set(name) for name in given.sets] if given.sets else scale.perturbed
    if not items:
        raise InputError(f"{' + '.join(map(str, given.config))}: scale {scale.scale} has no section robustness")
    runs = [runs_of(given, given.checkpoints, item.task) for item in items]
    require_data(given, *(item.name for item in items))
    take(scale.robustness.evaluation.gpus)
    from lska.evaluate.accuracy import measure_robustness

    with stop_request(budget) as stop:
        for item, own in zip(items, runs, strict=True):
            measure_robustness(item, list(map(scale.classifier, own)), stop)


def _inspect(given: Given, name: str) -> None:
    job = given.scale.inspection(name)
    runs = runs_of(given, given.checkpoints, job.task)
    require_data(given, job.name if job.name in OWN_DATA else "classification")
    take(job.means.gpus)
    from lska.evaluate.inspecting import measure_inspection

    measure_inspection(job, list(map(given.scale.classifier, runs)))


for _name, _about in {
    "shape_texture": "shape and texture dimensions, and shape bias",
    "texture_knn": "texture of the nearest neighbour",
    "receptive_field": "effective receptive field",
}.items():
    evaluation(f"evaluate {_name}", _about, CHECKPOINTS)(functools.partial(_inspect, name=_name))


@evaluation("evaluate complexity", "parameters and FLOPs of the paper's networks",
            argument("runs", nargs="*", help="run ids; the seed does not matter"),
            argument("--head", choices=sum(HEADS.values(), ()),
                     help="count a detector or segmentor on the network"))  # fmt: skip
def _complexity(given: Given) -> None:
    from lska.evaluate.efficiency import measure_complexity

    task = "complexity" if given.head is None else f"complexity/{given.head}"
    measure_complexity(given.scale.measurement(task), runs_of(given, given.runs))


@evaluation("evaluate all", "measure a network of yours (--model) by every protocol whose data are there")
def _everything(given: Given) -> None:
    raise InputError("lska evaluate all: expected --model NAME; Snakemake measures the runs of the scale")


@command("evaluate properties", "what attention designs can do (Table I), measured on the modules",
         argument("designs", nargs="*", help="designs of Table I (default: all)"), heavy=True)  # fmt: skip
def _properties(given: Given) -> None:
    from lska.evaluate.efficiency import MODULES, measure_properties

    measure_properties(given.scale.measurement("properties"), given.designs or MODULES)


@command("export", "write a network as ONNX or torch.export program, and compare it with the original",
         argument("name", help="any network of timm, ours included, for example van_tiny or resnet50"),
         argument("--model-args", nargs="+", type=as_pair, default=[], metavar="NAME=VALUE",
                  help="settings of the network, for example attention=lska kernel_size=23"),
         argument("--weights", type=as_path, required=True, metavar="FILE", help="its weights (.safetensors, .pth)"),
         argument("--format", choices=("onnx", "torch.export"), required=True, help="what to write"),
         argument("--output", type=as_path, required=True, metavar="FILE", help="ends in .onnx, or in .pt2"),
         argument("--size", nargs=2, type=COUNT, metavar=("HEIGHT", "WIDTH"),
                  help="image size in pixels (default: that of evaluation)"),
         argument("--preprocessing", nargs="+", type=as_pair, default=[], metavar="FIELD=VALUE",
                  help="how images are prepared: image_size, test_crop, test_interpolation, mean, deviation"),
         argument("--dynamic", nargs="+", choices=("batch", "height", "width"), default=[],
                  help="what may change from call to call (default: nothing, one image)"),
         argument("--fold-batch-norm", action="store_true", help="merge BatchNorm into neighbouring convolutions"),
         configured=False, heavy=True)  # fmt: skip
def _export(given: Given) -> None:
    from lska.evaluate.networks import preprocessing_of
    from lska.models.export import export_network
    from lska.models.pretrained import open_network

    settings, size, notes = dict(given.model_args), given.size, {}
    network = open_network(given.name, given.weights, **settings)
    square = {"image_size": size[0]} if size and size[0] == size[1] else {}
    try:
        prepared, source = preprocessing_of(network, given.weights, square | dict(given.preprocessing))
    except InputError as error:
        if given.preprocessing:
            raise
        told = f"the file does not say how images are prepared: {error}"
    else:
        kept = prepared.to_dict()
        if size and not square:
            del kept["image_size"]
        size, notes = size or [prepared.image_size] * 2, {"preprocessing": json.dumps(kept)}
        told = f"the file keeps how images are prepared, from {source}: {notes['preprocessing']}"
    found = export_network(
        network, given.output, given.format, size=size, channels=settings.get("in_chans", 3), dynamic=given.dynamic,
        fold_batch_norm=given.fold_batch_norm, notes=notes, name=given.name,
    )  # fmt: skip
    say(found.to_text(), told)


# --- Tables, claims, report ------------------------------------------------------------------------------------------


@command("notebook", "make one table or figure through its notebook", TARGET,
         argument("--log", type=as_path, required=True, help="where the notebook is executed, kept on failure"),
         argument("--output", type=as_path, required=True, help="where it is copied on success"))  # fmt: skip
def _notebook(given: Given) -> None:
    from lska.tables.notebooks import execute_target

    execute_target(given.target, given.config, given.set, log=given.log, output=given.output)


@command("table", "print a table or write it in every format, also with networks of yours", TARGET,
         argument("--beside", nargs="+", type=as_path, default=[], metavar="FOLDER",
                  help="results of `lska evaluate ... --model ... --output FOLDER`"),
         argument("--output", type=as_path, metavar="FOLDER", help="where to write it"))  # fmt: skip
def _table(given: Given) -> None:
    from lska.tables.evaluation import table_beside
    from lska.tables.table_formats import to_markdown, write_formats

    table = table_beside(given.target, given.scale, given.beside)
    say(*([to_markdown(table)] if given.output is None else write_formats(table, given.output)))


@command("lab", "open the executed notebooks of a scale in JupyterLab", rest("-- OPTION", "options of JupyterLab"))
def _lab(given: Given) -> None:
    from lska.tables.notebooks import open_notebooks

    open_notebooks(given.scale, given.config, [word for word in given.rest if word != "--"])


@command("claims", "print the paper's statements with a verdict for each",
         argument("--only", nargs="+", metavar="ID", help="show these claims, for example R07"),
         argument("--json", action="store_true", help="print everything behind the verdicts, for scripts"),
         argument("--write", action="store_true", help="write them to results/<scale>/claims instead"))  # fmt: skip
def _claims(given: Given) -> None:
    from lska.claims.claims_page import claims_content, claims_text, write_claims
    from lska.claims.verdicts import judge_claims

    if given.write and (given.only or given.json):
        raise InputError("lska claims --write writes all claims; call it without --only and --json")
    results = judge_claims(given.scale)
    if given.write:
        write_claims(results, given.scale, given.scale.results)
        return
    known = [result.claim.id for result in results]
    if unknown := sorted(set(given.only or ()) - set(known)):
        raise InputError(f"--only: no claim {', '.join(unknown)} in paper/claims.csv; expected {', '.join(known)}")
    shown = tuple(result for result in results if not given.only or result.claim.id in given.only)
    content = claims_content(shown, given.scale)
    say(json.dumps(content, indent=2) if given.json else claims_text(content))


@command("report", "build the site of a scale, results/<scale>/report/index.html",
         argument("part", nargs="?", choices=("site", "notebooks"), default="site",
                  help="`notebooks` renders executed notebooks for the site (default: site)"))  # fmt: skip
def _report(given: Given) -> None:
    from lska.report.site import build_site, render_notebooks

    say(*([build_site(given.scale)] if given.part == "site" else render_notebooks(given.scale)))


@command("summary", "say what was measured, and where tables, figures and the report are",
         argument("--write", action="store_true",
                  help="write the numbers that DVC compares between commits instead"))  # fmt: skip
def _summary(given: Given) -> None:
    if given.write:
        from lska.claims.summaries import write_summaries

        say(*write_summaries(given.scale))
        return
    from lska.report.site_paths import summary

    say(summary(given.scale))


# --- Where numbers come from -----------------------------------------------------------------------------------------


@command("explain", "print where a number comes from: metric file, weights, recipe, data", TARGET,
         argument("--cell", nargs=2, metavar=("ROW", "COLUMN"), help="labels of the cell (default: list all cells)"),
         JSON)  # fmt: skip
def _explain(given: Given) -> None:
    from lska.audit.explain import choose_cell, explain_cell, filled_table, list_cells
    from lska.audit.links import ScaleFiles
    from lska.audit.verify import first_broken

    table = filled_table(given.target, given.scale)
    if given.cell is None:
        cells = [{"row": cell.row, "column": cell.column, "state": str(cell.state)} for cell in table.cells]
        say(json.dumps(cells, indent=2) if given.json else "\n".join(list_cells(table)))
        return
    cell, files = choose_cell(table, *given.cell), ScaleFiles(given.scale)
    found, broken = explain_cell(table, cell, files), first_broken(table, cell, files)
    if given.json:
        say(json.dumps(found.to_json() | {"first_broken": None if broken is None else broken.to_json()}, indent=2))
        return
    say(found.to_text())
    place = "" if broken is None else f"{broken.file.as_posix()}: {broken.place} {broken.text}".replace(":  ", ": ")
    say("Every link holds." if broken is None else f"{str(broken.level).upper()}: {place}")


@command("verify", "check where all numbers come from, offline; exit code 1: a file is broken",
         argument("--strict", action="store_true", help="also fail for outdated, missing and unsealed files"),
         argument("--drawings", action="store_true", help="also draw the figures again and compare them; slow"),
         argument("--recount", action="store_true", help="also count parameters and FLOPs again; slow"),
         JSON)  # fmt: skip
def _verify(given: Given) -> int:
    from tqdm import tqdm

    from lska.audit.verify import verify_scale

    bar = functools.partial(tqdm, unit="target", leave=False, disable=None)
    found = verify_scale(given.scale, progress=bar, drawings=given.drawings, recount=given.recount)
    command = scales.as_command(given.config, given.set)
    told = found.to_json() | {"command": command}
    say(json.dumps(told, indent=2) if given.json else found.to_text(command))
    return 0 if found.sound(given.strict) else 1


@command("prune", "list files of runs, data and recipes that no configuration names any more",
         argument("--yes", action="store_true", help="remove it"), JSON)  # fmt: skip
def _prune(given: Given) -> None:
    from lska.pipeline.prune import find_leftovers, remove_leftovers

    found = find_leftovers(given.config, given.set)
    found = remove_leftovers(found) if given.yes else found
    say(json.dumps(found.to_json(), indent=2) if given.json else found.to_text())


@command("weights list",
         "say for each network whether its weights are here, or to be fetched, imported or trained",
         argument("names", nargs="*", **NETWORKS))  # fmt: skip
def _list(given: Given) -> int:
    from lska.pipeline.checkpoints import Choices, network_names

    choices, names = Choices(given.scale), network_names(given.scale, given.names)
    found, width = {name: choices.of(name) for name in names}, max(map(len, names))
    for name, choice in found.items():
        say(f"{choice.state:<6}  {name:<{width}}  {' '.join((choice.refused or choice.reason).split())}")
    return int(any(choice.refused for choice in found.values()))


@command("weights import", "import published weights for a run", RUN,
         argument("--from", dest="source", type=as_source, metavar="SOURCE",
                  help="file, address (http, https) or timm:MODEL.TAG (default: as the configuration says)"),
         argument("--sha256", type=as_hash, metavar="HEX", help="of the file; the first eight digits are enough"),
         argument("--key", help="entry of the file that holds the weights, such as model_ema"),
         argument("--model-args", default=[],
                  **MODEL_ARGS | {"help": "settings of the network, instead of the configuration's"}),
         argument("--preprocessing", nargs="+", type=as_pair, default=[], metavar="FIELD=VALUE",
                  help="how images are prepared: image_size, test_crop, test_interpolation, mean, deviation"),
         heavy=True)  # fmt: skip
def _bring(given: Given) -> None:
    from lska.pipeline.checkpoints import network_names
    from lska.pipeline.published import import_weights

    (name,) = network_names(given.scale, [given.run])
    say(import_weights(
        given.scale.classifier(Run.parse(name)), given.source, sha256=given.sha256, key=given.key,
        architecture=dict(given.model_args), preprocessing=dict(given.preprocessing),
    ))  # fmt: skip


@command("weights fetch", "download published weights, as Snakemake does when it needs them",
         argument("names", nargs="*", **NETWORKS))  # fmt: skip
def _fetch(given: Given) -> None:
    from lska.pipeline.checkpoints import network_names
    from lska.pipeline.dvc import fetch, fetchable

    for name in network_names(given.scale, given.names):
        # All of a scale means all that are published, also where only a link of theirs is left.
        if given.names or fetchable(given.scale, name):
            fetch(given.scale, name)


@command("weights publish", "add weights to DVC, push them, and say what to commit",
         argument("names", nargs="+", **NETWORKS),
         argument("--remote", help="DVC's name of the remote (default: the project's default one)"))  # fmt: skip
def _publish(given: Given) -> None:
    from lska.pipeline.checkpoints import network_names
    from lska.pipeline.dvc import publish

    say(publish(given.scale, network_names(given.scale, given.names), given.remote))


# --- The pipeline ----------------------------------------------------------------------------------------------------


@command("plan", "say what Snakemake would run, why, and what it would cost",
         argument("targets", nargs="*", metavar="TARGET",
                  help="as for Snakemake, for example table_03 (default: all)"),
         argument("--gpus", type=COUNT, help="number of GPUs for the wall time (default: that of the largest job)"),
         argument("--throughput", nargs="+", type=as_path, default=[], metavar="FILE",
                  help="tables of your own measurements, such as config/throughput/published.yaml"),
         argument("--jobs", action="store_true", help="also print one line per job with its reason"), JSON)  # fmt: skip
def _plan(given: Given) -> None:
    from lska.pipeline.plan_report import make_report, render_plan

    report = make_report(given.config, given.set, given.targets, given.gpus, given.throughput)
    say(json.dumps(asdict(report), indent=2, sort_keys=True) if given.json else render_plan(report, given.jobs))


@command("warm", "run a command whose `lska` jobs share one start of Python",
         rest("COMMAND", "for example snakemake --cores 2"), configured=False)  # fmt: skip
def _warm(given: Given) -> int:
    if not given.rest:
        raise InputError("lska warm needs a command, for example: lska warm snakemake --cores 2")
    return run_beside_server(given.rest, main)


@command("gpus", "run a command on GPUs of this machine that no other job has",
         argument("count", type=COUNT_OR_NONE, help="how many"), rest("COMMAND", "for example torchrun ..."),
         configured=False)  # fmt: skip
def _gpus(given: Given) -> None:
    if not given.rest:
        raise InputError("lska gpus needs a number from 0 up and a command, for example: lska gpus 2 torchrun ...")
    take(given.count)
    os.execvp(given.rest[0], given.rest)


@command("supervise", "run Snakemake on a cluster, and restart it if it dies or hangs",
         argument("--restarts", type=COUNT_OR_NONE, default=10, help="how often Snakemake is restarted (default: 10)"),
         argument("--poll-seconds", type=number(1e-3, 24 * 3600), default=60.0,
                  help="seconds between two looks at the queue (default: 60)"),
         argument("--quiet-minutes", type=MINUTES, default=15.0,
                  help="how long Snakemake may wait without a job in the queue (default: 15)"),
         rest("snakemake ...", "the call of Snakemake"), configured=False)  # fmt: skip
def _supervise(given: Given) -> int:
    from lska.pipeline.supervise import Patience, supervise

    return supervise(given.rest, Patience(given.restarts, given.poll_seconds, 60 * given.quiet_minutes))
