"""Where the data of a scale have to lie: whether they are there, and what to do where they are not.

Imports nothing heavy: the Snakefile asks here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lska.data.entries import is_hidden
from lska.provenance.errors import LskaError
from lska.provenance.files import read_yaml
from lska.settings.scale import as_options
from lska.settings.schema import DataSource
from lska.settings.tasks import CORRUPTED, SETS, ScaleData, place

Sources = Sequence[tuple[str, ScaleData]]
"""Data sets with what they serve, as `Config.sources` says."""

STOPPED = "nothing was started; --keep-going does what needs no missing data"
"""What is added where Snakemake stops for missing data."""


class MissingDataError(LskaError, ValueError):
    """Data that are needed are not where the configuration says."""


class PlannedJob(NamedTuple):
    """A job that Snakemake is about to run, as far as it matters here."""

    inputs: Iterable[str]
    outputs: Iterable[str]


@dataclass(frozen=True)
class Settings:
    """The data sets of a configuration with where it comes from, so that messages can name the file to change."""

    sources: Sources
    files: Sequence[Path]
    overrides: Mapping[str, Any]
    """What stands over the files."""
    option: str
    """With which the files are given: `--configfile` of Snakemake, `--config` of `lska`."""

    def source_of(self, setting: str) -> Path | None:
        """The file in which `setting` (`data.root`) stands that holds; None for the command line."""

        def holds(values: Any) -> bool:
            for key in setting.split("."):
                if not isinstance(values, Mapping) or key not in values:
                    return False
                values = values[key]
            return True

        files = () if holds(self.overrides) else reversed(self.files)
        return next((file for file in files if holds(read_yaml(file))), None)


def unmakeable(sources: Sources, updates: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is wrong with the settings of sets that are generated (lska.data.generators, which needs NumPy)."""
    if all(data.generate is None for _, data in sources):
        return []
    from lska.data.generators import generator_problems

    return generator_problems(sources, updates)


def images_gone(data: DataSource) -> bool:
    """Whether a set is generated and its images are not there, as in a clone, which has the records of them."""
    return data.generate is not None and _unreadable(Path(data.root)) is not None


def absence(kind: str, data: DataSource) -> str | None:
    """Why nothing of a data set, which serves `kind`, can be read at its root, or None. Opens no image, no archive."""
    root = Path(data.root)
    # ImageNet-A, -R and -Sketch may lie beside their folder's place, as a tar file of its name.
    beside = data.generate is None and kind in SETS and root.with_name(f"{root.name}.tar").is_file()
    return None if beside else _unreadable(root)


def _unreadable(root: Path) -> str | None:
    try:
        if not root.exists():
            return f"{root.absolute()} does not exist"
        empty = root.is_dir() and all(is_hidden(entry.name) for entry in root.iterdir())
    except OSError as error:
        return f"{root.absolute()} cannot be read ({error.strerror})"
    return f"{root.absolute()} is empty" if empty else None


def missing(sources: Sources, jobs: Sequence[PlannedJob]) -> list[ScaleData]:
    """The data sets that some of the jobs read and that are not there.

    A job reads the sets whose records are among its inputs, and one that writes a record reads the set itself, which it
    has to check, unless it generates it.
    """
    read = {str(file) for job in jobs for file in job.inputs}
    written = {str(file) for job in jobs for file in job.outputs}
    needed = [
        (kind, data)
        for kind, data in sources
        if (data.generate is None if str(data.record) in written else str(data.record) in read)
    ]
    return [data for kind, data in needed if absence(kind, data)]


def require(settings: Settings, kinds: Iterable[str]) -> None:
    """Raise MissingDataError, which says where each was looked for, which setting says so, and what to do, unless the
    data sets that serve `kinds` are there, as far as can be seen without opening any file.
    """
    kinds = set(kinds)
    if absent := [data for kind, data in settings.sources if kind in kinds and absence(kind, data)]:
        raise MissingDataError("\n".join(message(settings, data) for data in absent))


def prepared_from(sources: Sources, kind: str) -> tuple[str, ...]:
    """The sets, by what they serve, that preparing the one for `kind` reads: itself where it is not generated."""
    data = dict(sources).get(kind)
    if data is None:
        return ()
    if data.generate is None:
        return (kind,)
    return ("classification",) if kind in CORRUPTED else ()


def message(settings: Settings, data: ScaleData) -> str:
    """What is missing, where it was looked for, and what to do; several lines."""
    setting = f"{place(data.kind)}.root"
    file = settings.source_of(setting)
    lines = [
        f"data set {data.name} is missing: {absence(data.kind, data)}",
        f"its root, {data.root}, is the setting {setting} {'on the command line' if file is None else f'in {file}'}",
    ]
    if data.generate is not None:
        options = as_options(list(settings.files), settings.overrides)
        lines.append(f"it is generated; make it again: lska data prepare --kind {data.kind} {options}")
    elif file != settings.files[0]:
        lines += ["if you have it: correct it there", _offer(data)]
    else:  # a scale's own file is left as it is
        given = shlex.join([settings.option, *map(str, settings.files), "mine.yaml"])
        outer = place(data.kind).split(".")
        nested = ": {".join([*outer, "root: /path/to/it"]) + "}" * len(outer)
        lines += [f"if you have it: write `{nested}` into a file mine.yaml and give both, {given}", _offer(data)]
    return "\n  ".join(lines)


def _offer(data: DataSource) -> str:
    """How to get a data set, as far as its manifest says."""
    from lska.data.archives import archives_of

    archives = archives_of(data)
    direct = [one.direct for one in archives if one.direct is not None and not one.by_hand]
    if direct:
        words = ["lska", "data", "import", data.manifest or data.name, "--from", direct[0]]
        if not Path(data.root).is_absolute():
            return f"if not: {shlex.join([*words, '--root', data.root])}"
        return f"if not: {shlex.join(words)}, and point the setting to data/{Path(words[3]).stem}"
    pages = list(dict.fromkeys(one.url for one in archives if one.url is not None))
    if not pages:
        return "docs/data.md says where to get data sets"
    more = f" and {len(pages) - 1} more" if len(pages) > 1 else ""
    return f"if not: get it from {pages[0]}{more} (docs/data.md)"
