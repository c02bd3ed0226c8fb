"""Weights in DVC: what `lska weights fetch` and `publish` do, by DVC's command line, which is its contract.

Weights are published when a pointer, `checkpoints/<scale>/[<task>/]<run>.safetensors.dvc`, lies where they belong.
Publishing is never a side effect of training.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices, training_of
from lska.pipeline.published import import_weights
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import atomic_path, files_in
from lska.provenance.metric_files import digest, file_md5
from lska.provenance.sidecars import (
    SUFFIX,
    ForeignWeightsError,
    Pointer,
    cached,
    foreign,
    imported,
    other,
    pointer_path,
    read_pointer,
    read_sidecar,
    write_pointer,
)
from lska.provenance.surroundings import ask
from lska.settings.scale import Config
from lska.settings.tasks import TrainingJob

logger = logging.getLogger(__name__)

DEMO = "demo"
"""The scale whose networks are trained anew by everybody."""

DVC_YAML, LOCAL_CONFIG = Path("dvc.yaml"), Path(".dvc/config.local")
"""Names of published weights; DVC's settings that git ignores."""

LONGEST = 24 * 3600.0
"""Seconds that a call of DVC may take, to wait for others and to move data."""

STORE_LIMIT = 60_000_000
"""Bytes that a remote inside the project may hold: everybody who clones the project gets them all."""


class DvcError(LskaError, RuntimeError):
    """DVC failed; the message says what it said and what to do."""


class Remote(NamedTuple):
    """A remote of DVC, as its settings describe it."""

    name: str
    url: str
    """A whole path, or an address."""
    shared: bool
    """Whether git knows it, so that everybody who clones the project has it."""

    @property
    def inside(self) -> Path | None:
        """The remote's folder, relative to the project, where it is one inside it; else None."""
        folder = Path(self.url)
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else None

    def __str__(self) -> str:
        return f"{self.name!r} ({self.inside or self.url})"


def dvc(*arguments: str) -> str:
    """Run DVC in the current folder, waiting for other calls of it, and return what it said on standard output.

    Raises:
        DvcError: it failed, with the end of what it said.
    """
    # DVC draws its bars only on a terminal.
    complaints = None if sys.stderr.isatty() else subprocess.PIPE
    done = ask([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], LONGEST, stderr=complaints)
    if done.returncode != 0:
        said = [f"  {line.rstrip()}" for line in (done.stderr or "(see above)").splitlines() if line.strip()]
        raise DvcError("\n".join(said[-10:]) or f"  exit code {done.returncode}, no message")
    return done.stdout


def remote(name: str | None) -> Remote:
    """The remote called `name`, or the default one.

    Raises:
        DvcError: there is none; says how to name one.
    """
    known = {}
    for line in dvc("config", "--list", "--show-origin").splitlines():
        origin, _, setting = line.partition("\t")
        key, _, value = setting.partition("=")
        if key == "core.remote":
            name = name or value
        elif (found := re.fullmatch(r"remote\.(.+)\.url", key)) is not None:
            known[found[1]] = Remote(found[1], value, Path(origin) != LOCAL_CONFIG and not Path(origin).is_absolute())
    if name not in known:
        raise DvcError(
            f"DVC has no remote {name!r}; expected one of {', '.join(known) or 'none so far'}; add it with "
            f"`dvc remote add {name} <address>` (docs/weights.md)"
        )
    return known[name]


# --- Fetching --------------------------------------------------------------------------------------------------------


def fetchable(config: Config, name: str) -> bool:
    """Whether the weights of a network are published and used, or were until DVC's cache went away."""
    try:
        return _left(config.weights_path(name)) or Choices(config).of(name).fetched
    except ValueError:
        return False


def _left(weights: Path) -> bool:
    """Whether a link of DVC is all that is left of weights."""
    return not weights.exists() and cached(weights, read_pointer(weights))


def fetch(config: Config, name: str) -> None:
    """Bring the published weights of a network; those that are here already are left alone.

    Weights appear whole or not at all, and are compared with the pointer's MD5 whatever the remote says. Imported ones
    that are not in DVC are made once more of the file that they came from.

    Raises:
        PublishedError: imported weights cannot be had once more, or are others now.
        DvcError: a remote cannot be reached, lacks the object, or holds another; names the network and what to do.
        ForeignWeightsError: something is in the place that this program did not make.
        ValueError: a network has no published weights for today's configuration, or other weights are in the place.
    """
    weights = config.weights_path(name)
    if _left(weights):
        logger.info("%s: a link into a cache of DVC that is gone, removed", weights)
        weights.unlink()
    choice, pointer = Choices(config).of(name), read_pointer(weights)
    if choice.refused is not None:
        raise ForeignWeightsError(choice.refused)
    if not choice.fetched:
        raise InputError(
            f"{name} has no published weights for this configuration: {choice.reason}; Snakemake trains it"
        )
    sidecar = read_sidecar(weights.with_suffix(".json"))
    if imported(sidecar) and (pointer is None or pointer.md5 != sidecar["md5"]):
        logger.info(import_weights(training_of(config, name)))
        return
    if weights.is_file():
        if (found := file_md5(weights)) != pointer.md5:
            raise InputError(
                f"{weights} is not the published file: expected MD5 {pointer.md5}, found {found}; move it away "
                "or delete it, and fetch again"
            )
        logger.info("%s is here already", weights)
        return
    logger.info("%s: %.1f MB from remote %s", name, pointer.size / 1e6, pointer.remote or "by default")
    problem = None
    try:
        dvc("pull", str(pointer_path(weights)))
    except DvcError as error:
        problem = f"could not be fetched; DVC says\n{error}"
    if not weights.is_file() or file_md5(weights) != pointer.md5:
        weights.unlink(missing_ok=True)
        if problem is None:
            problem = "came with another MD5: the remote's object is damaged"
            # Otherwise DVC would take its own copy for whole the next time.
            kept = Path(dvc("cache", "dir").strip(), "files", "md5", pointer.md5[:2], pointer.md5[2:])
            if kept.exists() and file_md5(kept) != pointer.md5:
                kept.unlink()
    if problem is None:
        return
    shown, mend = repr(pointer.remote), f"dvc remote add {pointer.remote or '<name>'} <address>, docs/weights.md"
    # Settings that name no such remote, or that DVC cannot read: which of both, DVC has said already.
    with suppress(DvcError):
        source = remote(pointer.remote)
        shown, mend = str(source), f"dvc push --remote {source.name} {pointer_path(weights)}, where these weights are"
        if source.inside:
            mend = f"git checkout -- {source.inside}, or take that folder from the project once more"
    raise DvcError(
        f"{name}: its weights, published in remote {shown} (MD5 {pointer.md5}, {pointer.size:,} bytes), {problem}\n"
        f"Mend the remote ({mend}) and start again: what is here already is not fetched twice.\n"
        f"""Or train them here: snakemake ... --config 'retrain=["{name}"]'"""
    )


# --- Publishing ------------------------------------------------------------------------------------------------------


def publish(config: Config, names: Sequence[str], remote_name: str | None = None) -> str:
    """Add weights to DVC, push them, write their pointers and name them in dvc.yaml; everything is checked before.

    Where the push fails, the former pointers are put back, so that none names what a remote does not hold.

    Returns:
        For people: what to commit, and what else they should know.

    Raises:
        ValueError: weights or sidecars that do not fit each other or today's configuration, the demo's scale, or too
            many bytes for a remote inside the project; all are named, and nothing was written.
        DvcError: DVC failed.
    """
    jobs, choices = [training_of(config, name) for name in names], Choices(config)
    if problems := [f"  {job.place}: {problem}" for job in jobs if (problem := _unfit(job, choices)) is not None]:
        raise InputError("\n".join(["nothing was published:", *problems]))
    sidecars = {job.place: read_sidecar(job.weights.with_suffix(".json")) for job in jobs}
    target, pointers = remote(remote_name), [pointer_path(job.weights) for job in jobs]
    if target.inside is not None:
        held = {path.name: path.stat().st_size for path in target.inside.glob("files/md5/*/*")}
        held |= {sidecars[job.place]["md5"][2:]: job.weights.stat().st_size for job in jobs}
        if (total := sum(held.values())) > STORE_LIMIT:
            raise InputError(
                f"nothing was published: remote {target} lies in the project and would hold {total / 1e6:.1f} MB, "
                f"above {STORE_LIMIT / 1e6:.0f} MB; give another one, --remote NAME (docs/weights.md), or remove what "
                "no pointer names any more: dvc gc --workspace --cloud"
            )
    former = {path: path.read_bytes() if path.exists() else None for path in (*pointers, DVC_YAML)}
    try:
        dvc("add", *(str(job.weights) for job in jobs))
        for job in jobs:
            sidecar, size = sidecars[job.place], job.weights.stat().st_size
            write_pointer(job.weights, Pointer(sidecar["md5"], size, target.name, digest(sidecar)))
        update_artifacts()
        dvc("push", "--remote", target.name, *map(str, pointers))
    except BaseException as error:
        for path, content in former.items():
            if content is None:
                path.unlink(missing_ok=True)
                continue
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        if isinstance(error, DvcError):
            raise DvcError(f"nothing was published: remote {target}; DVC says\n{error}") from error
        raise
    files = [file for job in jobs for file in (pointer_path(job.weights), job.weights.with_suffix(".json"), job.log)]
    # In a remote inside the project lie files that git keeps too.
    files += [DVC_YAML, *([] if target.inside is None else [target.inside])]
    add, message = shlex.join(["git", "add", *(str(file) for file in files if file.exists())]), ", ".join(names[:3])
    told = ["Published. So that others find them:", f"  {add}", f"  git commit -m 'Publish weights of {message}'"]
    if not target.shared:
        told.append(
            f"note: remote {target} is in {LOCAL_CONFIG} only; for others, name it in .dvc/config: "
            f"dvc remote add {target.name} {target.url}"
        )
    if retrained := [job.place for job in jobs if job.retrained]:
        told.append(f"note: take these out of the setting retrain, or they are trained anew: {', '.join(retrained)}")
    if dirty := [name for name, sidecar in sidecars.items() if (sidecar.get("code") or {}).get("dirty")]:
        told.append(f"note: trained from sources with uncommitted changes, which nobody else has: {', '.join(dirty)}")
    return "\n".join(told)


def _unfit(job: TrainingJob, choices: Choices) -> str | None:
    """Why the weights of a network may not be published."""
    place = job.weights.with_suffix(".json")
    sidecar, pointer = read_sidecar(place), read_pointer(job.weights)
    if job.scale == DEMO:
        return "the demo is always trained from nothing; publish the weights of another scale"
    if not job.weights.is_file():
        return f"{job.weights} is missing; train it first"
    # Without a seal, the one that was published with the same weights tells.
    if pointer is not None and pointer.edited(sidecar):
        return f"{place}: it was edited after these weights were published; `git checkout -- {place}`"
    problem = other(job.weights, sidecar["md5"]) if imported(sidecar) else foreign(job.weights)
    if problem is None and not imported(sidecar) and sidecar.get("recipe") != digest(sidecar.get("spec")):
        problem = f"{place}: its recipe is not the digest of its spec; train it again"
    if problem is not None or job.retrained:
        return problem
    choice = choices.of(job.place)
    return choice.refused or (None if choice.vouched else choice.reason)


def artifacts(root: Path = Path("checkpoints")) -> dict[str, dict[str, Any]]:
    """The section `artifacts` of dvc.yaml: a name for each of the weights that have a pointer, such as
    `small-detection-retinanet-van-tiny-lska-k23-s0`, of letters, digits and hyphens, as DVC allows.

    Raises:
        ValueError: a pointer's name is no run id; names the pointer.
    """
    found: dict[str, dict[str, Any]] = {}
    for pointer in files_in(root, f"*/**/*.safetensors{SUFFIX}"):
        scale, *parts = pointer.parent.relative_to(root).parts
        weights, task = pointer.with_suffix(""), parts or ["classification"]
        try:
            run = Run.parse(weights.stem)
        except ValueError as error:
            raise InputError(f"{pointer}: {error}; remove or rename the pointer") from error
        sidecar = read_sidecar(weights.with_suffix(".json"))
        data = (sidecar.get("data") or {}).get("name")
        network = run.model if run.kernel is None else f"{run.model} with {run.attention}, k = {run.kernel}"
        trained = f", {sidecar['origin']} on {data}" if sidecar.get("origin") and data else ""
        found[re.sub(r"[^A-Za-z0-9]+", "-", "-".join([scale, *parts, str(run)])).strip("-")] = {
            "path": weights.as_posix(),
            "type": "model",
            "desc": f"{'/'.join(task)} at {scale} scale: {network}, seed {run.seed}{trained}",
            "labels": [scale, *task, run.model, *([] if run.attention is None else [run.attention])],
        }
    return found


def update_artifacts(root: Path = Path("checkpoints")) -> None:
    """Make dvc.yaml say what `artifacts(root)` says; the rest of the file, with comments and order, stays.

    Entries with paths outside of `root` are somebody else's and stay too, as do further fields of entries.

    Raises:
        ValueError: dvc.yaml is no mapping in YAML, or as `artifacts`.
    """
    from ruamel.yaml import YAML, YAMLError

    yaml, wanted = YAML(), artifacts(root)
    # No line is broken.
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    try:
        content = (yaml.load(DVC_YAML.read_text(encoding="utf-8")) if DVC_YAML.is_file() else None) or {}
        section = content.get("artifacts") or {}
        for name in [name for name, entry in section.items() if Path(entry["path"]).is_relative_to(root)]:
            if name not in wanted:
                del section[name]
        for name, entry in wanted.items():
            section.setdefault(name, {}).update(entry)
    except (YAMLError, AttributeError, TypeError, KeyError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"{DVC_YAML}: `artifacts` is no mapping of names to mappings ({told}); repair it") from error
    content["artifacts"] = section
    if not section:
        del content["artifacts"]
    with atomic_path(DVC_YAML) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
