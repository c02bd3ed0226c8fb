"""What the commands of `lska` have in common: how they are given a configuration and runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lska import config as configuration
from lska.data.roots import Settings, require
from lska.files import FileError, parse_json, printable, quoted
from lska.runs import Run
from lska.surroundings import expanded

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace
Commands = argparse._SubParsersAction


def as_path(text: str) -> Path:
    """An argument that is a path; `~` and variables that no shell has expanded, as in `--root=~/data`, are."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def say(*texts: object) -> None:
    """Print what a command answers, a line or more each, foreign names in it harmless to a terminal."""
    print(*(printable(str(text)).rstrip("\n") for text in texts), sep="\n")


def configured(command: Parser) -> None:
    """Add the options that name configuration files and settings."""
    group = command.add_argument_group("configuration")
    group.add_argument("--config", nargs="+", type=as_path, default=[Path("config/demo.yaml")], metavar="FILE",
                       help="configuration files, later over earlier ones (default: config/demo.yaml)")  # fmt: skip
    group.add_argument("--set", type=_settings, default={}, metavar="JSON", help="settings over those of the files")


def _settings(text: str) -> dict[str, Any]:
    try:
        return parse_json(text, "settings")
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


HOURS = number(1e-9, 24 * 366)
MINUTES = number(1e-9, 60 * 24 * 366)
SECONDS = number(1e-3, 24 * 3600)
COUNT = number(1, 10**6, whole=True)
PROCESSES = number(1, 1024, whole=True)
COUNT_OR_NONE = number(0, 10**6, whole=True)


def budgeted(command: Parser) -> None:
    """Add the options that say how long a command may take before it stops itself with exit code 75."""
    command.add_argument("--budget-hours", type=HOURS, help="stop in time before this wall time is over")
    command.add_argument("--job-minutes", type=MINUTES,
                         help="the same for the wall time of a whole job, with room for starting it")  # fmt: skip


def load(arguments: Arguments) -> configuration.Config:
    """The configuration that the options name; raises ValueError as `lska.config.load`."""
    return configuration.load(arguments.config, arguments.set)


def require_data(arguments: Arguments, config: configuration.Config, *kinds: str) -> None:
    """Make sure, before anything heavy is imported, that the data that serve `kinds` are there.

    Raises:
        MissingDataError: they are not; names the root, the setting and its file, and what to do.
    """
    require(Settings(config, arguments.config, arguments.set, "--config"), kinds)


def runs_of(arguments: Arguments, config: configuration.Config) -> list[Run]:
    """The runs named on the command line, or all of the configuration."""
    return [Run.parse(text) for text in arguments.runs] or list(config.runs)
