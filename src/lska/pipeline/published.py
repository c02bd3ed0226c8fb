"""Published weights: from a file, an address or timm's hub into the place of a run, with a sidecar that says so.

Whatever was published under whatever names becomes a file of safetensors with the names of our network, or of timm's.
Nothing is kept of a file that is refused, and nothing of a kill.
"""

from __future__ import annotations

import http.client
import logging
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import MissingFileError, file_hash, plain, quoted, temporary_file, writing
from lska.provenance.metric_files import code_version, environment, file_md5, write_sealed
from lska.provenance.progress_bar import Bar
from lska.provenance.sidecars import (
    ForeignWeightsError,
    WeightsSource,
    changes,
    not_importable,
    read_sidecar,
    source_of,
)
from lska.settings.schema import PublishedFile, file_problem
from lska.settings.tasks import ClassifierJob

logger = logging.getLogger(__name__)

PATIENCE = 15.0
"""Seconds in which a server has to answer, and to send something."""

CHUNK = 2**20
"""Bytes that are written at a time."""

HUB = "timm:"
"""Start of the name of what timm's hub has, as `timm:convnext_tiny.fb_in1k`."""

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
"""The start of the SHA-256 in the name of a file, as torch.hub checks it."""


class PublishedError(LskaError, ValueError):
    """Published weights that cannot be had, or are others than expected; says which file, and where to put it."""


@dataclass(frozen=True)
class _Wanted:
    """A file of published weights that is to be read."""

    file: str
    address: str | None = None
    """Where it is published, if that is known."""
    here: Path | None = None
    """Where it lies; None where it has to be downloaded."""
    stated: tuple[tuple[str, str], ...] = ()
    """Starts of its SHA-256, each with who says so."""
    key: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = "download it elsewhere, and give the file: --from FILE"
    """What helps where it cannot be downloaded."""

    @property
    def named(self) -> str:
        """What messages call it."""
        return str(self.here or self.address)

    @property
    def tagged(self) -> str | None:
        """Model and tag of what is on timm's hub; None for all else."""
        return self.address.removeprefix(HUB) if self.address is not None and self.address.startswith(HUB) else None


def import_weights(
    job: ClassifierJob, source: str | None = None, *, sha256: str | None = None, key: str | None = None,
    architecture: Mapping[str, Any] | None = None, preprocessing: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Bring published weights into the place of a run, and write their sidecar; what is there already stays.

    The SHA-256 of the file is compared with `sha256`, with the configuration's, with the one that its publisher states
    (in the name of the file as torch.hub has it, or in the answer of timm's hub), and with that of the first import.

    Args:
        source: path, address (http, https), or `timm:<model>.<tag>`; None for the file that the sidecar names, or else
            the configuration.
        key: which mapping of the file holds the weights, such as `model_ema`.
        architecture: settings of the network, over those of the configuration.
        preprocessing: how images are prepared, over what the file, the network or the configuration say.

    Returns:
        For people: what was done.

    Raises:
        PublishedError: the file is not here and cannot be downloaded, or has another SHA-256; says both.
        ForeignWeightsError: something is in the place that no import left.
        CheckpointError: the file is truncated, would run code, has NaN or infinite values, or fits no such network.
        ValueError: settings are wrong, or the network has other classes than the scale's data.
    """
    if (problem := not_importable(job.weights)) is not None:
        raise ForeignWeightsError(problem)
    former = read_sidecar(job.weights.with_suffix(".json"))
    first = source_of(former)
    wanted = _wanted(job, source, first)
    wanted = replace(wanted, key=key or wanted.key, preprocessing={**wanted.preprocessing, **(preprocessing or {})})
    if sha256 is not None:
        # Who gives it knows better than a name, which may hold a date.
        stated = [one for one in wanted.stated if one[1] != _BY_NAME]
        wanted = replace(wanted, stated=(*stated, (sha256, "--sha256")))
    with _opened(wanted, job) as (path, said):
        wanted = replace(wanted, stated=(*wanted.stated, *said))
        found = file_hash(path)
        _compare(wanted, job, found)
        compared = ", ".join(who for _, who in wanted.stated if who != _FIRST) or (first and first.compared)
        origin = WeightsSource(
            wanted.file, found, path.stat().st_size, wanted.address, wanted.key, compared,
            configured=None if job.published is None else job.published.file,
        )  # fmt: skip
        return _convert(job, wanted, path, former, architecture or {}, origin)


def not_obtainable(job: ClassifierJob) -> str | None:
    """Why the published weights of a run cannot be had, as far as that is known without asking any server, with what to
    do; None where they are here or have an address.
    """
    known = source_of(read_sidecar(job.weights.with_suffix(".json"))) or job.published
    name = job.run.network
    if known is None:
        return (
            f"{job.run}: nothing says where its weights are published; import them by `lska weights import {job.run} "
            f"--from FILE` with the same configuration, name them in the setting published.{name} (docs/weights.md), "
            "or take source: imported out of its runs to train it here"
        )
    return None if known.address or known.place.is_file() else _by_hand(job, known)


# --- Which file ------------------------------------------------------------------------------------------------------

_FIRST, _BY_NAME = "the first import", "the name of the file"


def _wanted(job: ClassifierJob, source: str | None, first: WeightsSource | None) -> _Wanted:
    """The file to read: `source`, or that of the first import, or the one that the configuration names."""
    known = first or job.published
    if source is None and known is None:
        raise PublishedError(str(not_obtainable(job)))
    if source is None:
        here, remedy = known.place if known.place.is_file() else None, _by_hand(job, known)
        if here is None and known.address is None:
            raise PublishedError(remedy)
        wanted = _Wanted(known.file, known.address, here, key=known.key, remedy=remedy)
    elif source.startswith(HUB):
        wanted = _Wanted(f"{source.removeprefix(HUB)}.safetensors", source)
    elif "://" in source:
        parts = urlsplit(source)
        wanted = _Wanted(posixpath.basename(parts.path), source)
        if parts.scheme not in ("http", "https") or parts.password is not None or file_problem(wanted.file):
            raise InputError(
                "--from: expected http(s)://.../<file>.pth or .safetensors, without a password, found "
                f"{quoted(source)}; download the file by hand, and give its path"
            )
    else:
        wanted = _Wanted(Path(source).name, None, Path(source))
    stated = [] if first is None else [(first.sha256, _FIRST)]
    if job.published is not None and job.published.sha256 is not None:
        stated.append((job.published.sha256, "the configuration"))
    # What else is known of a publication counts for the file of its name.
    if job.published is not None and job.published.file == wanted.file:
        wanted = replace(
            wanted, address=wanted.address or job.published.address, key=job.published.key or wanted.key,
            preprocessing=job.published.preprocessing,
        )  # fmt: skip
    by_name, whole = _HASH_IN_NAME.search(wanted.file), [one for one, _ in stated]
    # What contradicts a hash that is known is a date.
    if by_name is not None and all(one.startswith(by_name[1]) for one in whole):
        stated.append((by_name[1], _BY_NAME))
    return replace(wanted, stated=tuple(stated))


def _by_hand(job: ClassifierJob, known: WeightsSource | PublishedFile) -> str:
    """What a person can do who has to bring a file."""
    where = known.address or getattr(known, "page", None)
    return (
        f"{known.place}: expected the published weights of {job.run} there{f', from {where}' if where else ''}; put "
        "the file there under this name and start again, or import one of another name: lska weights import "
        f"{job.run} --from FILE (with the same configuration)"
    )


def _compare(wanted: _Wanted, job: ClassifierJob, found: str) -> None:
    for expected, who in wanted.stated:
        if found.startswith(expected):
            continue
        remedy = "fetch it again, or take the one that was meant"
        if who == _FIRST:
            remedy = f"bring the former file back, or move {job.weights} and its sidecar away to import this one"
        elif who == _BY_NAME:
            remedy = f"fetch it again or, where that is a date, give the whole hash (--sha256, published): {found}"
        start = "" if len(expected) == 64 else " that begins with"
        raise PublishedError(f"{wanted.named}: expected the SHA-256{start} {expected} ({who}), found {found}; {remedy}")


# --- Bringing it -----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(wanted: _Wanted, job: ClassifierJob) -> Iterator[tuple[Path, tuple[tuple[str, str], ...]]]:
    """The file here, or downloaded as long as the block lasts; and what the server says of its SHA-256."""
    if wanted.here is not None:
        if not wanted.here.is_file():
            raise MissingFileError(f"{wanted.here}: no such weight file; check the path")
        yield wanted.here, ()
        return
    with temporary_file(job.weights.with_name(wanted.file)) as temporary:
        try:
            said = _download(_address(job, wanted), temporary)
        except LskaError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if type(error) is URLError else error
            raise PublishedError(f"{wanted.address}: cannot be downloaded ({reason})\n{wanted.remedy}") from error
        yield temporary, said


def _address(job: ClassifierJob, wanted: _Wanted) -> str:
    """Where a file is downloaded from: of timm's hub, as `pretrained_cfg` says."""
    if wanted.tagged is None:
        return wanted.address
    import timm

    tags = timm.list_pretrained(f"{job.run.model}.*")
    known = timm.get_pretrained_cfg(wanted.tagged) if wanted.tagged in tags else None
    if known is None or not known.hf_hub_id or known.custom_load:
        tags = ", ".join(f"{HUB}{one}" for one in tags) or "none"
        raise PublishedError(f"{wanted.address}: expected weights of {job.run.model} on timm's hub, which has {tags}")
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{server}/{known.hf_hub_id}/resolve/main/{known.hf_hub_filename or 'model.safetensors'}"


class _Redirects(HTTPRedirectHandler):
    """Remembers what the hub says of a file before it sends the client to its storage: its SHA-256."""

    sha256: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        stated = str(headers.get("X-Linked-ETag", "")).strip('"')
        self.sha256 = stated if re.fullmatch("[0-9a-f]{64}", stated) else self.sha256
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, path: Path) -> tuple[tuple[str, str], ...]:
    """Write what is at an address to a file, with a progress bar on a terminal; the SHA-256 that the server states."""
    logger.info("downloading %s", address)
    redirects = _Redirects()
    with build_opener(redirects).open(Request(address, headers={"User-Agent": "lska"}), timeout=PATIENCE) as answer:
        size = answer.length
        with Bar(total=size, unit="B", unit_scale=True) as bar, path.open("wb") as target:
            while chunk := answer.read(CHUNK):
                with writing(path):
                    target.write(chunk)
                bar.update(len(chunk))
    if size is not None and (found := path.stat().st_size) < size:
        raise OSError(f"it ended after {found:,} of {size:,} bytes")
    return () if redirects.sha256 is None else ((redirects.sha256, "its server"),)


# --- Converting it ---------------------------------------------------------------------------------------------------


def _convert(
    job: ClassifierJob, wanted: _Wanted, path: Path, former: Mapping[str, Any], architecture: Mapping[str, Any],
    source: WeightsSource,
) -> str:  # fmt: skip
    """Write weights and sidecar of a file; `former` is the sidecar of an earlier import, empty where there is none."""
    from lska.evaluate.measurement import training_classes
    from lska.evaluate.networks import preprocessing_of
    from lska.models.pretrained import CheckpointError, fitted_network, read_wrapped, save_weights

    run, sidecar, before = job.run, job.weights.with_suffix(".json"), former.get("spec") or {}
    if chosen := {"attention", "kernel_size", "num_classes"} & set(architecture):
        raise InputError(f"--model-args: {', '.join(sorted(chosen))}: given by run {run} and its data; leave it out")
    architecture = {**before.get("architecture", job.architecture), **architecture}
    try:
        key, tensors = read_wrapped(path, wanted.key)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), wanted.named)) from error
    # By its tag, which says how images are prepared for these weights.
    settings = {"attention": run.attention, "kernel_size": run.kernel, **architecture}
    network = fitted_network(wanted.tagged or run.model, tensors, wanted.named, **settings)
    classes = len(training_classes(job.data))
    if network.num_classes != classes:
        raise CheckpointError(
            f"{wanted.named}: expected a network of {classes} classes, as {job.data.name} has, found "
            f"{network.num_classes}; choose the scale whose data have these classes"
        )
    prepared = {**before.get("recipe", {}), **wanted.preprocessing}
    recipe = preprocessing_of(network, wanted.here, prepared)[0].to_dict()
    spec = plain({"run": str(run), "architecture": architecture, "recipe": recipe})
    same = plain(before) == spec and former["source"]["key"] == key
    known = f"SHA-256 {source.sha256}, {f'compared with {source.compared}' if source.compared else 'as first seen'}"
    if same and job.weights.is_file():
        return f"{job.weights}: here already, from {wanted.named} ({known})"

    def vouch(weights: Path) -> None:
        md5 = file_md5(weights)
        if same and md5 != former["md5"]:
            raise CheckpointError(
                f"{wanted.named}: gives weights of MD5 {md5}, but {sidecar} has {former['md5']} for the same file, "
                f"from another conversion; move {sidecar} away to import it again"
            )
        if not same:
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            content = {
                "run": str(run), "scale": job.scale, "origin": "imported", "md5": md5, "recipe": None, "spec": spec,
                "source": asdict(replace(source, key=key, imported=moment)),
                "code": code_version(), "environment": environment("cpu"),
            }  # fmt: skip
            write_sealed(sidecar, content)

    def check() -> None:
        if (problem := not_importable(job.weights)) is not None:
            raise ForeignWeightsError(problem)

    save_weights(network, job.weights, check=check, vouch=vouch)
    anew = f"; what its sidecar says is new: {changes(before, spec)}" if before and not same else ""
    return f"{job.weights}: imported from {wanted.named} ({known}){anew}"
