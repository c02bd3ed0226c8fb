"""Where numbers come from: digests, seals and the metric file that every result is kept in."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.provenance.errors import InputError
from lska.provenance.files import (
    FileError,
    file_hash,
    printable,
    quoted,
    read_json,
    vouched,
    write_json,
)
from lska.provenance.surroundings import ADDRESSES, NoAnswerError, absent, ask

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

    from lska.provenance.outcomes import Outcomes

METRIC_SCHEMA = 1
PROBLEMS = 20
"""Faults of a file that are told one by one."""

WEIGHT_ORIGINS = ("trained", "imported", "random", "none")

KEEPING_OUTCOMES = (
    "classification", "detection", "segmentation", "robustness", "shape_texture", "texture_knn", "receptive_field"
)  # fmt: skip
"""Tasks that are measured on images, by the first part of their name. Throughputs have no images to compare, and counts
no errors."""


def metric_path(results: Path, task: str, run: object) -> Path:
    """Place of the metric file of a run or module, under the folder of a scale's results."""
    return results / "metrics" / task / f"{run}.json"


def outcomes_path(metrics: Path) -> Path:
    """Place of the outcomes of a metric file."""
    return metrics.with_suffix(".npz")


def keeps_outcomes(task: str) -> bool:
    """Whether metric files of a task have outcomes beside them."""
    return task.partition("/")[0] in KEEPING_OUTCOMES


def has_outcomes(metrics: Path, content: Mapping[str, Any]) -> bool:
    """Whether the outcomes that a metric file (with this content) names are beside it."""
    path = outcomes_path(metrics)
    return path.is_file() and content.get("outcomes") == file_md5(path)


def digest(obj: Any) -> str:
    """`sha256:<hex>` of the canonical JSON of `obj` (sorted keys, no spaces)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_md5(path: Path) -> str:
    """MD5 of a file's content, the identity that DVC gives weights.

    Raises:
        FileError: as `lska.provenance.files.file_hash`.
    """
    return file_hash(path, "md5")


def metric(
    value: float | int | None,
    unit: str,
    n: int | None = None,
    standard_error: float | None = None,
    interval: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """One entry of a metric file: a value with its unit and, where it has one, its sample size and uncertainty."""
    entry: dict[str, Any] = {"value": value, "unit": unit}
    if n is not None:
        entry["n"] = n
    if standard_error is not None:
        entry["standard_error"] = standard_error
    if interval is not None:
        entry["interval"] = list(interval)
    return entry


def proportion(hits: int, n: int) -> dict[str, Any]:
    """A share in percent with its binomial standard error sqrt(p (1 - p) / n).

    Raises:
        ValueError: `n` is not positive.
    """
    if n <= 0:
        raise InputError(f"a proportion needs at least one observation, got n = {n}")
    share = hits / n
    return metric(100 * share, "%", n=n, standard_error=100 * (share * (1 - share) / n) ** 0.5)


def write_metrics(
    path: Path,
    *,
    task: str,
    run: str,
    scale: str,
    metrics: Mapping[str, Mapping[str, Any]],
    started: datetime,
    weights: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    data: Mapping[str, str] | None = None,
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
    outcomes: Outcomes | None = None,
) -> dict[str, Any]:
    """Write a metric file (the one schema of all results) and return its content.

    `weights` is `{"md5": ..., "origin": ...}` (an origin of `WEIGHT_ORIGINS`), `recipe` the digest of the training that
    made them, `data` is `{"name": ..., "digest": ...}` of the manifest, `extra` holds facts that are not metrics.
    `outcomes` are written beside the file, which keeps their MD5.

    Raises:
        ValueError: the content does not fit the schema; all violations are named.
    """
    content = {
        **{"schema": METRIC_SCHEMA, "task": task, "run": run, "scale": scale, "recipe": recipe},
        "metrics": {name: dict(entry) for name, entry in metrics.items()},
        "weights": dict(weights or {"md5": None, "origin": "none"}),
        "data": dict(data) if data else None,
        "code": code_version(),
        "environment": environment(device),
        "detail": dict(extra or {}),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
    }
    validate(content, "metrics", str(path))
    if outcomes:
        from lska.provenance.outcomes import write_outcomes

        write_outcomes(outcomes_path(path), outcomes)
        content["outcomes"] = file_md5(outcomes_path(path))
    return write_sealed(path, content)


def write_sealed(path: Path, content: Mapping[str, Any], check: Callable[[], None] | None = None) -> dict[str, Any]:
    """Write `content` as JSON with a `seal`, a digest of the rest that betrays edits by hand, and return the result."""
    # Read back, mappings have text for keys and another order, and the seal has to be of what is read.
    sealed = {**content, "seal": seal_of(json.loads(json.dumps(content)))}
    write_json(path, sealed, check)
    return sealed


def read_record(path: Path, name: str, kind: str, /, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """The record of the checked data set `name`.

    Args:
        kind: what the set serves, with which `lska data prepare` makes the record.
        fields: types of the values that the record must have at least.

    Raises:
        FileError: it is missing or damaged, or a field is of another type; says how to make it.
    """
    try:
        record = read_json(path)
        wrong = [field for field, types in fields.items() if not isinstance(record.get(field), types)]
        problem = f"{', '.join(wrong)}: missing or of another type" if wrong else None
    except FileError as error:
        record, problem = {}, str(error).removeprefix(f"{path}: ")
    if problem is not None:
        raise FileError(
            f"{path} is missing or damaged ({problem}): expected the record of the checked data set {name!r}; make it "
            f"with `lska data prepare --kind {kind}` and the same configuration"
        )
    return record


def seal_of(content: Mapping[str, Any]) -> str:
    """Digest of a sealed file's content but for its `seal`."""
    return digest({name: value for name, value in content.items() if name != "seal"})


def seal_problem(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the seal of a file's content; None where it is right, or where there is none."""
    stated = content.get("seal")
    if stated is None or stated == seal_of(content):
        return None
    found = stated if isinstance(stated, str) and len(stated) < 100 else quoted(stated)
    return f"field 'seal': expected {seal_of(content)} for this content, found {found}: it was edited after writing"


def validate(content: Any, schema: str, where: str) -> None:
    """Check `content` against `lska/schemas/<schema>.schema.json`.

    Raises:
        ValueError: names `where` and the first `PROBLEMS` violations at once.
    """
    errors = sorted(_validator(schema).iter_errors(content), key=lambda e: e.json_path)
    if errors:
        places = [error.json_path.removeprefix("$").removeprefix(".") or "file" for error in errors]
        lines = [f"  {place}: {_message(error)}" for place, error in zip(places, errors, strict=True)]
        if len(lines) == 1:
            raise InputError(f"{where} is not valid: {lines[0].strip()}")
        more = [f"  and {len(lines) - PROBLEMS:,} more"] if len(lines) > PROBLEMS else []
        told = "\n".join([*lines[:PROBLEMS], *more])
        raise InputError(f"{where} is not valid ({len(lines)} problems):\n{told}")


def _message(error: ValidationError) -> str:
    """What is wrong at a place, without the most of a large value."""
    whole = repr(error.instance)
    return printable(error.message.replace(whole, quoted(error.instance)) if len(whole) > 80 else error.message, 240)


def vouched_for(path: Path, schema: str) -> dict[str, Any]:
    """A JSON file's mapping; an empty one where it is missing, damaged or does not fit the schema, and so vouches for
    nothing.
    """
    content = vouched(path)
    try:
        validate(content, schema, str(path))
    except ValueError:
        return {}
    return content


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    """Made once: hundreds of files are checked in a row."""
    with absent(ADDRESSES):
        from jsonschema import Draft202012Validator, FormatChecker

    def is_moment(value: object) -> bool:
        return not isinstance(value, str) or datetime.fromisoformat(value) is not None

    checker = FormatChecker(formats=())
    checker.checks("time in ISO 8601", raises=ValueError)(is_moment)
    rules = json.loads((Path(__file__).parents[1] / "schemas" / f"{schema}.schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(rules, format_checker=checker)


def project_root() -> Path:
    """The checkout that holds config/, paper/ and envs/."""
    return Path(__file__).resolve().parents[3]


def git(*arguments: str) -> str | None:
    """What git answers in the checkout that holds the code.

    None where there is no answer: outside a git checkout, without git, and where a command that asks for something ends
    with exit code 1, which means no. Every other failure gives None too, and is told, once for each that git names.
    """
    root = project_root()
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return None
    # Containers and shared folders belong to others, whom git does not trust. The code here runs already, so trusting
    # its own checkout adds nothing; git heeds this from 2.38 on, and before asks for it in a file of the user's.
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", "-c", "core.quotePath=false", *arguments]
    # Inside a hook of another repository these would name that one.
    variables = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        done = ask(command, _GIT_SECONDS, env=variables | {"GIT_OPTIONAL_LOCKS": "0"})
    except FileNotFoundError:
        return None
    except (OSError, NoAnswerError) as error:
        _tell_of_git(str(error))
        return None
    if done.returncode not in (0, 1):
        _tell_of_git(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout.strip() if done.returncode == 0 else None


_GIT_SECONDS = 120
"""After which git, which may have to look at every file of a slow disk, counts as failed."""
_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


@functools.cache
def _tell_of_git(words: str) -> None:
    logging.getLogger(__name__).warning(
        "git does not answer in %s, so results lack the commit of the code, and commits and changed files are not "
        "looked up; it says:\n%s\nmend that before anything is measured that is to be kept", project_root(), words,
    )  # fmt: skip


@functools.cache
def code_version() -> dict[str, Any]:
    """Commit of the checkout and whether tracked files differ from it; commit None outside a git checkout."""
    # Code that was unpacked or installed inside some other repository is none of its commits.
    tracked = git("ls-files", "--", str(Path(__file__).resolve()))
    commit = git("rev-parse", "--verify", "--quiet", "HEAD") if tracked else None
    if commit is None:
        # A container holds the sources without their history and is told the commit when it is built.
        return {"commit": os.environ.get("LSKA_COMMIT") or None, "dirty": None}
    changes = git(
        "status", "--porcelain", "--untracked-files=no", "--", "src", "workflow", "config", "envs", "Snakefile"
    )
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def version_text() -> str:
    """Version of the package and commit of the checkout, as far as they are known."""
    code = code_version()
    commit = "" if code["commit"] is None else f", commit {code['commit'][:12]}{' and changes' * bool(code['dirty'])}"
    return f"{importlib.metadata.version('lska-reproduction')}{commit}"


@functools.cache
def commit_text(commit: str) -> str:
    """Whether the checkout has a commit, and how far behind the current one it is."""
    if re.fullmatch("[0-9a-f]{7,64}", commit) is None:
        return "no name of a commit"
    if git("rev-parse", "--git-dir") is None:
        return "not looked up: the code here is no git checkout, or git does not answer"
    if git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is None:
        return "not in this checkout (a shallow clone, or a branch that was never merged)"
    if git("merge-base", "--is-ancestor", commit, "HEAD") is None:
        return "in this checkout, but not in the history of the current commit"
    later = git("rev-list", "--count", f"{commit}..HEAD")
    return "the current commit" if later == "0" else f"in this checkout, {later} commits before the current one"


def changed_files(*places: Path) -> list[str]:
    """Committed files at or below `places` that are others now, or are gone, as git names them; none without git."""
    inside = [str(place.resolve()) for place in places if place.resolve().is_relative_to(project_root())]
    answer = git("diff", "--name-only", "HEAD", "--", *inside) if inside else None
    return (answer or "").splitlines()


def committed_files(*places: Path) -> list[str]:
    """Files at or below `places` that git has, as it names them; none without git."""
    inside = [str(place.absolute()) for place in places if place.absolute().is_relative_to(project_root())]
    return (git("ls-files", "--", *inside) or "").splitlines() if inside else []


@functools.cache
def lock_digest() -> str | None:
    """`sha256:<hex>` of the checkout's lock file, None where it has none."""
    lock = project_root() / "envs" / "requirements.txt"
    return "sha256:" + hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def environment(device: str) -> dict[str, Any]:
    """Digest of the lock file, versions that decide numbers, and the hardware that `device` stands for."""
    return {
        "lock": lock_digest(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "timm": importlib.metadata.version("timm"),
        "device": device,
        "hardware": hardware(device),
    }


def hardware(device: str) -> str:
    """Name of the GPU behind a CUDA `device`, or of the processor."""
    if device.startswith("cuda") and "torch" in sys.modules:
        return sys.modules["torch"].cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    said = cpuinfo.read_text("utf-8", "replace") if cpuinfo.exists() else ""
    names = [line for line in said.splitlines() if "model name" in line]
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def device_text(environment: Any, unknown: str = "unknown device") -> str:
    """`cuda:0 (NVIDIA H100)` of what `environment` returned, as far as a file says; otherwise `unknown`."""
    if not isinstance(environment, Mapping):
        return unknown
    device, name = environment.get("device"), environment.get("hardware")
    return f"{device} ({name})" if device and name else str(device or name or unknown)
