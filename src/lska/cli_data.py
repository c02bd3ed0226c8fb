"""`lska data`: prepare, check and show data sets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lska.cli_options import Arguments, Commands, configured, load
from lska.config import KINDS
from lska.inspection import OWN_DATA, InspectionJob
from lska.robustness import CUE_CONFLICT, SETS, PerturbedSet

if TYPE_CHECKING:
    from lska.data.check import Report


def add_data(commands: Commands) -> None:
    """Add the command with its actions."""
    actions = commands.add_parser("data", help="prepare and check data sets").add_subparsers(required=True)
    prepare = actions.add_parser("prepare", help="generate or check the data of a scale and record their manifest")
    prepare.add_argument("--kind", choices=(*KINDS, *SETS, *OWN_DATA), default="classification",
                         help="which of the scale's data sets (default: %(default)s)")  # fmt: skip
    configured(prepare)
    prepare.set_defaults(command=_prepare, heavy=True)
    check = actions.add_parser("check", help="say what is missing or too much in a data set")
    check.add_argument("name", help="name of a bundled manifest, or the path of one; or cue_conflict")
    check.add_argument("--root", type=Path, required=True, help="folder or tar file with the data")
    check.add_argument("--contents", action="store_true", help="decode every image too")
    check.set_defaults(command=_check)
    examples = actions.add_parser("examples", help="draw what a perturbed set looks like")
    examples.add_argument("perturbed", choices=SETS, metavar="SET", help=f"one of {', '.join(SETS)}")
    configured(examples)
    examples.set_defaults(command=_examples, heavy=True)


def _prepare(arguments: Arguments) -> None:
    config, kind = load(arguments), arguments.kind
    if kind == "classification":
        from lska.data.prepare import prepare

        prepare(config)
        return
    if kind in SETS:
        _prepare_perturbed(PerturbedSet(config, kind))
        return
    if kind in OWN_DATA:
        from lska.data.inspection import prepare as prepare_inspection

        prepare_inspection(InspectionJob(config, kind))
        return
    from lska.data import dense

    section = config.dense[kind]
    if section is None:
        raise ValueError(f"{' + '.join(map(str, arguments.config))}: scale {config.scale} has no section {kind!r}")
    dense.prepare(kind, section.data, config.record_of(section.data), config.work / "cache")


def _prepare_perturbed(item: PerturbedSet) -> None:
    from lska.data.perturbed.prepare import prepare

    if item.reference is None:
        prepare(item)
        return
    from lska.evaluate.robustness.reference import judge

    prepare(item, *judge(item.config, item.reference))


def _examples(arguments: Arguments) -> None:
    item = PerturbedSet(load(arguments), arguments.perturbed)
    from lska.evaluate.robustness.examples import draw

    draw(item)


def _check(arguments: Arguments) -> int:
    from lska.data.check import check, render
    from lska.data.manifest import kind_of, load_manifest, manifest_path
    from lska.strict import read_yaml

    if arguments.name == CUE_CONFLICT:
        report = _check_cue_conflict(arguments.root)
        print(render(report), end="")
        return 0 if report.ok else 1
    path = manifest_path(arguments.name)
    kind = kind_of(read_yaml(path))
    if kind == "classification":
        report = check(load_manifest(arguments.name), arguments.root, arguments.contents)
    elif kind in ("corrupted", "perturbed"):
        report = _check_perturbed(kind, path, arguments.root, arguments.contents)
    elif kind == "textures":
        from lska.data.dtd import check_textures, load_texture_manifest

        report = check_textures(load_texture_manifest(path), arguments.root, arguments.contents)
    else:
        report = _check_dense(kind, path, arguments.root)
    print(render(report), end="")
    return 0 if report.ok else 1


def _check_cue_conflict(root: Path) -> Report:
    """The published cue-conflict set, which has no manifest; every image is decoded."""
    from lska.data.check import Report
    from lska.data.cue_conflict import check_cue_conflict, published
    from lska.provenance import digest

    expected = published()
    outcome = check_cue_conflict(root, expected)
    notes = (", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in outcome.facts.items()) + ".",)
    identity = digest([list(expected.categories), expected.per_category])
    return Report(CUE_CONFLICT, identity, root, outcome.findings, notes if outcome.facts else outcome.notes)


def _check_perturbed(kind: str, manifest: Path, root: Path, contents: bool) -> Report:
    from lska.data.perturbed import check, manifests

    if kind == "corrupted":
        return check.report_corrupted(manifests.load_corrupted_manifest(manifest), root, contents)
    return check.report_perturbed(manifests.load_perturbed_manifest(manifest), root, contents)


def _check_dense(kind: str, manifest: Path, root: Path) -> Report:
    """A set of detection or segmentation; what has to be unpacked or converted for it is thrown away."""
    from lska.data import dense
    from lska.data.dense_manifest import load_dense_manifest
    from lska.sections import DataSource

    name = load_dense_manifest(kind, manifest).name
    with tempfile.TemporaryDirectory(prefix="lska-") as cache:
        return dense.check(kind, DataSource(name, str(root), str(manifest)), Path(cache))
