"""What no configuration of a scale names any more: `lska prune` lists it, and removes it where a person says so.

Never what git or DVC has, nor what nothing here can make anew, nor the states of a training that is running, nor
anything outside the scale's folders. A killed call is started again: weights go before the sidecar that vouches for
them and images before their record, so that what is left is still known for what it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lska.audit.named import named_results
from lska.pipeline.checkpoints import training_of
from lska.pipeline.dvc import DVC_YAML
from lska.pipeline.products import Plan
from lska.provenance.errors import InputError, OccupiedError
from lska.provenance.files import files_in, printable, read_yaml, vouched
from lska.provenance.metric_files import committed_files, git, project_root, seal_problem
from lska.provenance.sidecars import SUFFIX, damage, imported, other, read_sidecar
from lska.provenance.strict import SettingsError
from lska.report.site_paths import rendered_notebook
from lska.settings.scale import Folders, read_settings
from lska.tables.specs import TARGETS
from lska.train.lease import Lease, holder_of

CONFIGURATIONS = Path("config")
LOCKS = Path(".snakemake/locks")
"""Where Snakemake names the files of the jobs that it is about."""
SHOWN = 20
"""Files of a kind that are told one by one."""

_RUN, _TARGET = r"[a-z0-9_]+(-\w+-k\d+)?-s\d+", r"(table|figure)_\w+"
_PLACES: dict[str, tuple[str, str, str]] = {
    "tables and figures": ("results", "*/*", rf"(tables|figures)/{_TARGET}\.(md|tex|csv|html|png|pdf|svg)"),
    "notebooks": ("results", "notebooks/*", rf"notebooks/{_TARGET}\.(ipynb|html|yaml)"),
    "summaries": ("results", "summary/*", r"summary/.+\.json"),
    "curves of trainings": ("results", "plots/**/*", r"plots/.+\.csv"),
    "metric files": ("results", "metrics/**/*", r"metrics/.+\.json"),
    "outcomes": ("results", "metrics/**/*", r"metrics/.+\.npz"),
    "contribution maps": ("results", "fields/*", r"fields/.+\.npz"),
    "sample pictures": ("results", "samples/**/*", r"samples/.+\.png"),
    "generated images": ("results", "data/*/", r"data/[^/]+"),
    "data records": ("results", "data/*", r"data/[^/]+\.json"),
    "weights": ("checkpoints", "**/*", rf"(.+/)?{_RUN}\.safetensors"),
    "training logs": ("results", "training/**/*", rf"training/(.+/)?{_RUN}\.jsonl"),
    "sidecars": ("checkpoints", "**/*", rf"(.+/)?{_RUN}\.json"),
    "training states": ("work", "train/**/", r"train/.+/[0-9a-f]{12}(-instead-of-\w+)?"),
    "predictions": ("work", "predictions/*/*/*/*/", r"predictions/.+/[0-9a-f]{32}-\w+"),
    "logs": ("work", "logs/**/*", r"logs/.+\.(log|ipynb)"),
    "decisions": ("work", "decisions/*", r"decisions/.+\.json"),
}
"""What lies in a scale's folders, by what it is, in the order in which it may go: the folder, a pattern of names, and
the regular expression of those that this program writes."""


@dataclass(frozen=True)
class Leftover:
    """A file, or a folder that is one thing, that no configuration names."""

    kind: str
    path: Path
    files: int
    bytes: int
    kept: str = ""
    """Why it is not removed; empty where it is."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"path": self.path.as_posix()}


@dataclass(frozen=True)
class Leftovers:
    """What was found at a scale; `configurations` says what was read."""

    scale: str
    configurations: tuple[str, ...]
    found: tuple[Leftover, ...]
    removed: bool = False

    def of(self, kept: bool) -> tuple[Leftover, ...]:
        """Those that are kept, or those that are removed."""
        return tuple(one for one in self.found if bool(one.kept) is kept)

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        going = self.of(kept=False)
        return {
            "schema": 1, "scale": self.scale, "configurations": list(self.configurations), "removed": self.removed,
            "files": sum(one.files for one in going), "bytes": sum(one.bytes for one in going),
            "leftovers": [one.to_json() for one in going], "kept": [one.to_json() for one in self.of(kept=True)],
        }  # fmt: skip

    def to_text(self) -> str:
        """By kind with sizes, then what is kept and why."""
        lines = [f"{self.scale} scale; compared with {', '.join(self.configurations)}"]
        going, kept = self.of(kept=False), self.of(kept=True)
        for kind, group in _groups(going, "kind").items():
            lines += ["", f"{kind}: {_sum(group)}", *_few(f"  {one.path.as_posix()}" for one in group)]
        for reason, group in _groups(kept, "kept").items():
            lines += ["", f"kept, {reason}: {_sum(group)}", *_few(f"  {one.path.as_posix()}" for one in group)]
        if not going:
            state = "nothing is left over that could be removed" if kept else "nothing is left over"
        elif self.removed:
            state = f"removed {_sum(going)}"
        else:
            state = f"left over: {_sum(going)}. Nothing was removed; the same call with --yes removes them"
        return printable("\n".join([*lines, "", state]) + "\n")


def find_leftovers(config: Sequence[Path], overrides: Mapping[str, Any]) -> Leftovers:
    """What lies in the folders of a scale, as this program writes it, and is named neither by the given configuration
    nor by any other of the same scale in `config/`; nothing is changed.

    Raises:
        InputError: a configuration of the scale cannot be read, or nothing tells what is committed.
    """
    plans = _plans(config, overrides)
    named, kept = _Named(tuple(plans.values())), _Kept(plans[next(iter(plans))].config)
    found = []
    for kind, path in _lying(kept.folders):
        if not named.names(kind, path):
            size = [one.lstat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if not one.is_dir()]
            found.append(Leftover(kind, path, len(size), sum(size), kept.reason(kind, path)))
    return Leftovers(kept.folders.scale, tuple(plans), tuple(found))


def remove_leftovers(found: Leftovers) -> Leftovers:
    """Remove what `find_leftovers` found; returns what was removed and what was kept.

    What is gone already is no fault, and what the system refuses to remove is kept with the reason.

    Raises:
        OccupiedError: Snakemake is at work on files of this scale; nothing was removed.
    """
    folders = _ScaleFolders(found.scale)
    if (lock := _locked(folders)) is not None:
        raise OccupiedError(
            f"{lock[0]}: Snakemake is at work on {lock[1]}, so nothing of this scale is removed. Wait for its end; if "
            "it was killed, unlock the folder with `snakemake --unlock` and the same configuration"
        )
    done = []
    for one in found.found:
        reason = one.kept
        if not reason:
            try:
                reason = _remove_states(one.path) if one.kind == "training states" else _remove(one.path)
            except OSError as error:
                reason = f"cannot be removed ({os.strerror(error.errno) if error.errno else error})"
            _tidy(one.path.parent, folders)
        done.append(Leftover(one.kind, one.path, one.files, one.bytes, reason))
    return Leftovers(found.scale, found.configurations, tuple(done), removed=True)


# --- Finding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ScaleFolders(Folders):
    scale: str


def _plans(config: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Plan]:
    """The given configuration and all others of its scale, by what was read."""
    settings, plain = read_settings(config), " + ".join(map(str, config))
    given = plain + (" + --set" if overrides else "")
    found = {given: Plan(settings, config, overrides)}
    for path in files_in(CONFIGURATIONS, "*.yaml"):
        values, over = read_yaml(path), f"{plain} + {path}"
        scale = values.get("scale")
        if str(path) == given or scale not in (None, found[given].config.scale):
            continue
        # A file may be meant to be given alone, or after others; one that says no scale, after those of any.
        for name, files in {str(path): [path], over: [*config, path]}.items():
            try:
                found[name] = Plan(read_settings(files), files, {})
            except SettingsError as error:
                if name == over and scale is not None:
                    raise InputError(
                        f"{path} is of this scale and cannot be read, neither alone nor after {plain}, so it is not "
                        f"known which files it needs; correct it, or move it out of {CONFIGURATIONS}\n{error}"
                    ) from error
            else:
                break
    return found


def _lying(folders: Folders) -> Iterator[tuple[str, Path]]:
    """What lies in the folders as this program writes it, with its kind, in the order in which it may go."""
    for kind, (folder, pattern, form) in _PLACES.items():
        top = getattr(folders, folder)
        inside = top.resolve()
        for path in files_in(top, pattern):
            fits = re.fullmatch(form, path.relative_to(top).as_posix()) is not None
            # A link within these folders may lead to another place.
            ours = fits and (path if path.is_dir() else path.parent).resolve().is_relative_to(inside)
            if ours and (kind != "generated images" or _generated(path)):
                yield kind, path


@dataclass(frozen=True)
class _Named:
    """What configurations of a scale name."""

    plans: tuple[Plan, ...]

    @cached_property
    def files(self) -> set[Path]:
        found = {path for plan in self.plans for path in (*named_results(plan.config), plan.decisions)}
        for config in (plan.config for plan in self.plans):
            pages = {rendered_notebook(config.results, target) for target in TARGETS}
            found |= {page.with_suffix(suffix) for page in pages for suffix in (".html", ".ipynb", ".yaml")}
        return found

    @cached_property
    def networks(self) -> set[str]:
        return {name for plan in self.plans for name in plan.config.network_names}

    @cached_property
    def sets(self) -> set[str]:
        return {data.name for plan in self.plans for _, data in plan.config.sources}

    @cached_property
    def roots(self) -> set[Path]:
        return {Path(data.root).absolute() for plan in self.plans for _, data in plan.config.sources}

    @cached_property
    def states(self) -> set[tuple[str, str]]:
        """Network and start of the folder's name; a training that is to replace published weights has it too."""
        jobs = (training_of(plan.config, name) for plan in self.plans for name in plan.config.network_names)
        return {(job.place, job.digest().removeprefix("sha256:")[:12]) for job in jobs}

    @cached_property
    def weights(self) -> set[str]:
        """MD5 of everything that may be measured: weights of the configurations, and weights from elsewhere."""
        config = self.plans[0].config
        every = {path: read_sidecar(path) for path in files_in(config.checkpoints, "**/*.json")}
        return {one.get("md5", "") for path, one in every.items() if path in self.files or imported(one)}

    @cached_property
    def logs(self) -> dict[str, set[str]]:
        """What logs are called, by their folder; of passes without their number."""
        items = [item for plan in self.plans for item in plan.config.measured]
        by_network = dict.fromkeys(("train", "fetch", "import", "classification", "dense"), self.networks)
        return by_network | {
            "data": self.sets, "notebooks": set(TARGETS), "passes": {item.rule for item in items},
            "robustness": {f"examples_{item.name}" for item in items},
        }  # fmt: skip

    def names(self, kind: str, path: Path) -> bool:
        """Whether a configuration asks for something."""
        if kind == "generated images":
            root = path.absolute()
            return any(one.is_relative_to(root) or root.is_relative_to(one) for one in self.roots)
        if kind not in ("training states", "predictions", "logs"):
            return path in self.files
        _, first, *rest = path.relative_to(self.plans[0].config.work).parts
        if kind == "training states":
            return ("/".join([first, *rest[:-1]]), path.name[:12]) in self.states
        if kind == "predictions":
            return first in self.sets and path.name[:32] in self.weights
        name = "/".join(rest).removesuffix(path.suffix)
        return name == "" or (re.sub(r"_\d+$", "", name) if first == "passes" else name) in self.logs.get(first, {name})


@dataclass(frozen=True)
class _Kept:
    """What is left alone although no configuration names it."""

    folders: Folders

    @cached_property
    def committed(self) -> set[Path]:
        root = project_root()
        checkout = any((folder / ".git").exists() for folder in (root, *root.parents))
        if checkout and git("rev-parse", "--git-dir") is None:
            text = "so it is not known which files are committed; repair that first"
            raise InputError(f"git does not answer in {root}, {text}")
        places = (self.folders.results, self.folders.checkpoints, self.folders.work)
        return {root / name for name in committed_files(*places)}

    @cached_property
    def published(self) -> set[str]:
        """Paths that dvc.yaml names."""
        return set(_texts(read_yaml(DVC_YAML) if DVC_YAML.is_file() else {}))

    def reason(self, kind: str, path: Path) -> str:
        """Why something is kept; empty where it may go."""
        place = path.parent.resolve() / path.name
        if any(one == place or one.is_relative_to(place) for one in self.committed):
            return "in git; `git rm` removes it"
        places = (path, self._network(kind, path) or path)
        pointed = any(os.path.lexists(f"{one}{SUFFIX}") for one in (*places, *path.parents[:-1]))
        if pointed or any(one.as_posix() in self.published for one in places):
            return "published in DVC; to remove it, remove its pointer and its entry in dvc.yaml first"
        if kind in ("weights", "sidecars"):
            return foreign_reason(path.with_suffix(".safetensors"))
        if kind == "training states" and (holder := holder_of(path)) is not None:
            return f"in use by {holder}"
        return ""

    def _network(self, kind: str, path: Path) -> Path | None:
        """The weights that a sidecar or the record of a training belongs to."""
        if kind == "training logs":
            inner = path.relative_to(self.folders.results / "training").with_suffix("")
            return self.folders.weights_path(inner.as_posix())
        return path.with_suffix(".safetensors") if kind == "sidecars" else None


def foreign_reason(weights: Path) -> str:
    """Why nothing here could make weights, or their sidecar, anew; empty where a training of this program left them."""
    sidecar = weights.with_suffix(".json")
    content = read_sidecar(sidecar)
    if imported(content):
        return "imported; nothing here can make these weights again"
    if not content:
        problem = "no sidecar beside them" if damage(sidecar) is None else "the sidecar is damaged"
    elif seal_problem(content) is not None:
        problem = "the sidecar was edited"
    else:
        problem = None if other(weights, content["md5"]) is None else "the sidecar is of others"
    return "" if problem is None else f"the origin of these weights is not known: {problem}"


def _generated(images: Path) -> bool:
    """Whether the record beside a folder of images says that this program made them."""
    source = str(vouched(images.with_name(f"{images.name}.json")).get("source"))
    return source == "generated" or "lska.data." in source


def _texts(content: Any) -> Iterator[str]:
    """Every text in a file of settings, keys too."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | dict):
        for one in (*content, *content.values()) if isinstance(content, dict) else content:
            yield from _texts(one)


# --- Removing --------------------------------------------------------------------------------------------------------


def _locked(folders: Folders) -> tuple[Path, str] | None:
    """The lock of a Snakemake that is about files of a scale, and one of these."""
    ours = (folders.results, folders.checkpoints, folders.work)
    for lock in files_in(LOCKS):
        with suppress(FileNotFoundError):
            for line in lock.read_text(encoding="utf-8", errors="replace").splitlines():
                if any(Path(line).is_relative_to(folder) for folder in ours):
                    return lock, line
    return None


def _remove_states(folder: Path) -> str:
    """Remove the states of a training, as their owner; the file that says so goes last. Returns who else has them."""
    lease = Lease(folder, period=60.0)
    if not folder.exists():
        return ""
    if not lease.attempt():
        return f"in use by {lease.other or 'another training'}"
    try:
        for path in sorted(folder.iterdir(), key=lambda path: path.name.startswith("owner-")):
            _remove(path)
        return _remove(folder)
    finally:
        lease.give_back()


def _remove(path: Path) -> str:
    """Remove a file, or a folder with all that is in it; links are not followed."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            for below in sorted(path.iterdir()):
                _remove(below)
            path.rmdir()
        else:
            path.unlink()
    return ""


def _tidy(folder: Path, folders: Folders) -> None:
    """Remove a folder and those above it as long as they are empty."""
    tops = (folders.results, folders.checkpoints, folders.work)
    while folder not in tops and folder.parent not in tops:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        folder = folder.parent


# --- Words -----------------------------------------------------------------------------------------------------------


def _groups(found: Iterable[Leftover], by: str) -> dict[str, list[Leftover]]:
    groups: dict[str, list[Leftover]] = {}
    for one in found:
        groups.setdefault(getattr(one, by), []).append(one)
    return groups


def _sum(found: Sequence[Leftover]) -> str:
    count, size = sum(one.files for one in found), sum(one.bytes for one in found)
    shown = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
    return f"{count:,} file{'' if count == 1 else 's'}, {shown}"


def _few(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return [*lines[:SHOWN], *([f"  and {len(lines) - SHOWN:,} more (--json lists all)"] if len(lines) > SHOWN else [])]
