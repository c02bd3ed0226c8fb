"""`lska data`: prepare, check and show data sets."""

from __future__ import annotations

import shlex
from pathlib import Path

from lska.cli_options import Arguments, Commands, as_path, configured, load, require_data, say
from lska.config import KINDS
from lska.data.roots import prepared_from
from lska.inspection import OWN_DATA, InspectionJob
from lska.robustness import SETS, PerturbedSet


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
    check.add_argument("--root", type=as_path, required=True, help="folder or tar file with the data")
    check.add_argument("--contents", action="store_true", help="decode every image too")
    check.add_argument("--archives", action="store_true",
                       help="compare the archives that lie there with what is known of them, nothing else")  # fmt: skip
    check.set_defaults(command=_check)
    bring = actions.add_parser("import", help="fetch a public archive, check it and record it in DVC")
    bring.add_argument("name", help="name of a bundled manifest, or the path of one")
    bring.add_argument("--from", dest="source", required=True, type=_source, metavar="SOURCE",
                       help="address (http, https, s3, ...) or path of the archive")  # fmt: skip
    bring.add_argument("--root", type=as_path, help="folder for it inside the project (default: data/NAME)")
    bring.set_defaults(command=_import)
    examples = actions.add_parser("examples", help="draw what a perturbed set looks like")
    examples.add_argument("perturbed", choices=SETS, metavar="SET", help=f"one of {', '.join(SETS)}")
    configured(examples)
    examples.set_defaults(command=_examples, heavy=True)


def _source(text: str) -> str:
    """An address as it is, or a path."""
    return text if "://" in text else str(as_path(text))


def _prepare(arguments: Arguments) -> None:
    from lska.data.generators import check_generators

    config, kind = load(arguments), arguments.kind
    check_generators(config, " + ".join(map(str, arguments.config)))
    require_data(arguments, config, *prepared_from(config, kind))
    if kind == "classification":
        from lska.data.preparing import prepare

        prepare(config)
        return
    if kind in SETS:
        _prepare_perturbed(PerturbedSet(config, kind))
        return
    if kind in OWN_DATA:
        from lska.data.inspected_sets import prepare as prepare_inspection

        prepare_inspection(InspectionJob(config, kind))
        return
    from lska.data import dense_sets

    section = config.dense[kind]
    if section is None:
        raise ValueError(f"{' + '.join(map(str, arguments.config))}: scale {config.scale} has no section {kind!r}")
    dense_sets.prepare(kind, section.data, config.record_of(section.data), config.work / "cache")


def _prepare_perturbed(item: PerturbedSet) -> None:
    from lska.data.perturbed.perturbed_preparing import prepare

    if item.reference is None:
        prepare(item)
        return
    from lska.evaluate.robustness.reference import judge

    prepare(item, *judge(item.config, item.reference))


def _examples(arguments: Arguments) -> None:
    item = PerturbedSet(load(arguments), arguments.perturbed)
    require_data(arguments, item.config, item.name)
    from lska.evaluate.pictures import draw_examples

    draw_examples(item)


def _import(arguments: Arguments) -> None:
    from lska.data.importing import import_archive
    from lska.data.manifest import manifest_path

    manifest = manifest_path(arguments.name)
    root = Path("data", manifest.stem) if arguments.root is None else arguments.root
    found = import_archive(manifest, arguments.source, root)
    say(f"{found.path}: {'imported' if found.fetched else 'there already'}; {found.pointer} says what it is")
    if not found.known:
        say("no source states a hash of it, so what it holds is checked before it is used; to do so now:")
        say(f"  {shlex.join(['lska', 'data', 'check', arguments.name, '--root', str(root)])}")


def _check(arguments: Arguments) -> int:
    from lska.data.checking import check_set
    from lska.data.problems import render

    report = check_set(arguments.name, arguments.root, arguments.contents, arguments.archives)
    say(render(report))
    return 0 if report.ok else 1
