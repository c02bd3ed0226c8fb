"""`lska data`: prepare, check and show data sets."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lska.cli_options import Arguments, Commands, as_path, configured, load, require_data, say
from lska.config import KINDS
from lska.inspection import OWN_DATA, InspectionJob
from lska.robustness import CUE_CONFLICT, SETS, PerturbedSet
from lska.roots import prepared_from

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
    from lska.data.check import render

    if arguments.archives:
        report = _check_archives(arguments)
    elif arguments.name == CUE_CONFLICT:
        report = _check_cue_conflict(arguments.root)
    else:
        # What has to be unpacked or converted for the check is thrown away.
        with tempfile.TemporaryDirectory(prefix="lska-") as cache:
            report = _check_set(arguments, Path(cache))
    say(render(report))
    return 0 if report.ok else 1


def _check_set(arguments: Arguments, cache: Path) -> Report:
    """Check a set by its manifest, of whatever kind."""
    from lska.data import check, dense, dtd, sources
    from lska.data.manifest import kind_of, load_manifest, manifest_path
    from lska.files import read_yaml
    from lska.sections import DataSource

    path, root, contents = manifest_path(arguments.name), arguments.root, arguments.contents
    kind = kind_of(read_yaml(path), path)
    if kind == "classification":
        manifest = load_manifest(path)
        place = sources.split_root(root, manifest.archives, manifest.splits, cache)
        report = check.check(manifest, place, contents)
    elif kind in ("corrupted", "perturbed"):
        report = _check_perturbed(kind, path, root, contents, cache)
    elif kind == "textures":
        textures = dtd.load_texture_manifest(path)
        report = dtd.check_textures(textures, sources.texture_root(root, textures.archives, cache), contents)
    else:
        report = dense.check(kind, DataSource(dense.load_dense_manifest(kind, path).name, str(root), str(path)), cache)
    return replace(report, root=root)


def _check_archives(arguments: Arguments) -> Report:
    from lska.data.archives import check_archives, read_archives
    from lska.data.check import Report
    from lska.data.manifest import manifest_path
    from lska.provenance import digest

    path = manifest_path(arguments.name)
    archives = read_archives(path)
    wrong, notes = check_archives(arguments.root, archives)
    identity = digest([[one.file, one.bytes, one.md5, one.sha256] for one in archives])
    return Report(f"archives of {path.stem}", identity, arguments.root, tuple(wrong), tuple(notes))


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


def _check_perturbed(kind: str, manifest: Path, root: Path, contents: bool, cache: Path) -> Report:
    from lska.data.perturbed import check, manifests
    from lska.data.sources import class_root

    if kind == "corrupted":
        return check.report_corrupted(manifests.load_corrupted_manifest(manifest), root, contents)
    expected = manifests.load_perturbed_manifest(manifest)
    return check.report_perturbed(expected, class_root(root, expected.archives, cache), contents)
