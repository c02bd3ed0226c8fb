"""Settings as Snakemake is given them, and as it passes them on to commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lska.provenance.files import parse_yaml


def typed(overrides: Any) -> Any:
    """`--config` values as YAML reads them: Snakemake hands over everything inside braces as text."""
    if isinstance(overrides, Mapping):
        return {key: typed(value) for key, value in overrides.items()}
    if isinstance(overrides, list | tuple):
        return [typed(value) for value in overrides]
    return parse_yaml(overrides, "--config", object) if isinstance(overrides, str) else overrides


def as_options(files: list[Path], overrides: Mapping[str, Any]) -> str:
    """The `--config` and `--set` options with which a command reads the same configuration as the Snakefile."""
    words = ["--config", *map(str, files)]
    if overrides:
        words += ["--set", json.dumps(overrides, sort_keys=True, separators=(",", ":"))]
    return shlex.join(words)
