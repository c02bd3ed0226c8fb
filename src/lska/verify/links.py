"""What one file says of the next: metric file, weights, backbone, data, as the results of a scale hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lska.chain.origins import sidecar_path
from lska.chain.recipes import changes, todays_spec
from lska.config import Config
from lska.files import UnreadableFileError, files_in, quoted
from lska.finetuning import parse_task
from lska.inspection import TASKS as INSPECTIONS
from lska.outcomes import keeps_outcomes
from lska.robustness import CORRUPTED, set_of
from lska.runs import Run
from lska.verify.files import Checked, broken, fields_path, md5_of, metric_file, sidecar
from lska.verify.findings import Finding, Level
from lska.verify.records import record
from lska.weights.sidecars import imported, measured_alike


class Evidence:
    """All files of a scale, each read and checked once."""

    def __init__(self, config: Config, recount: bool = False) -> None:
        self.config, self.recount = config, recount
        self.folder = config.results / "metrics"
        self._metrics: dict[Path, Checked] = {}
        self._sidecars: dict[Path, Checked] = {}
        self._records: dict[Path, Checked] = {}

    @cached_property
    def metrics(self) -> dict[Path, Checked]:
        """Every metric file that is there or was asked for, by path."""
        for path in files_in(self.folder, "**/*.json"):
            self.metric(path)
        return self._metrics

    def metric(self, path: Path) -> Checked:
        """A metric file by its path, also a missing one."""
        if path not in self._metrics:
            place = path.relative_to(self.folder)
            task, run = place.parent.as_posix(), place.stem
            self._metrics[path] = metric_file(path, task, run, self.config, self._images, self.recount)
        return self._metrics[path]

    def _images(self, metric: Checked) -> int | None:
        """Images of the data that a metric file was measured on, by their record; None where that does not say."""
        name, task = metric.get("data.name"), str(metric.get("task"))
        recorded = None if name is None else self.record(name)
        if recorded is None or recorded.broken or recorded.get("digest") != metric.get("data.digest"):
            return None
        found = recorded.get("images" if set_of(task) in CORRUPTED else "splits.val")
        return found if isinstance(found, int) else None

    def sidecar(self, path: Path) -> Checked:
        """A sidecar by its path, also a missing one."""
        folder = self.config.weights_path("any").parent
        if not path.is_relative_to(folder) or ".." in path.parts:
            return Checked(folder, {}, (broken(folder, "", f"{quoted(str(path))} is no sidecar of this scale"),))
        if path not in self._sidecars:
            name = path.relative_to(folder).with_suffix("").as_posix()
            self._sidecars[path] = sidecar(path, self.config.training_log(name))
        return self._sidecars[path]

    @cached_property
    def sidecars(self) -> dict[Path, Checked]:
        """Every sidecar that is there or is named by another file."""
        for path in files_in(self.config.weights_path("any").parent, "**/*.json"):
            self.sidecar(path)
        for checked in list(self.metrics.values()):
            if checked.get("weights.md5"):
                self.sidecar(self.weights_of(checked))
        return self._sidecars

    def record(self, name: str) -> Checked:
        """The record of a data set, also a missing one."""
        folder = self.config.results / "data"
        path = folder / f"{name}.json"
        if path.parent != folder:
            return Checked(folder, {}, (broken(folder, "", f"{quoted(name)} is no name of a data set"),))
        if path not in self._records:
            self._records[path] = record(path, self.config)
        return self._records[path]

    @cached_property
    def records(self) -> dict[Path, Checked]:
        """Every data record that is there or is named by another file."""
        for path in files_in(self.config.results / "data", "*.json"):
            self.record(path.stem)
        for name in self.witnesses:
            self.record(name)
        return self._records

    @cached_property
    def witnesses(self) -> dict[str, Counter[str]]:
        """How many files name each digest of a data set, by its name."""
        found: dict[str, Counter[str]] = {}
        for checked in (*self.metrics.values(), *self.sidecars.values()):
            if checked.get("data.name") and not checked.broken and not imported(checked.content):
                found.setdefault(checked.get("data.name"), Counter())[checked.get("data.digest")] += 1
        return found

    def weights_of(self, metric: Checked) -> Path:
        """Sidecar of the weights that a metric file was measured on."""
        place = metric.path.relative_to(self.folder)
        return sidecar_path(self.config, place.parent.as_posix(), place.stem)

    def broken_links(self, path: Path) -> Iterator[Finding]:
        """What is broken behind a metric file, from it to its origins."""
        metric = self.metric(path)
        yield from _broken(metric)
        if metric.broken:
            return
        yield from self._measured_on(metric)
        yield from self._drawn(metric)
        if metric.get("weights.md5"):
            yield from self._behind(self.sidecar(self.weights_of(metric)))
        if metric.get("data") is None and _measured_on_weights(metric.get("task")):
            yield broken(metric.path, "data", f"is null, but {metric.get('task')} is measured on images of a data set")
        yield from self._data(metric)

    def unlike(self) -> Iterator[Finding]:
        """Metrics that a file has in another unit than most of its task, or that it alone has or lacks.

        Names are compared among the files of one version of the code, which may have measured more than another.
        """
        sound = [checked for checked in self.metrics.values() if not checked.broken]
        used = [(one, name, entry["unit"]) for one in sound for name, entry in one.content["metrics"].items()]
        units: dict[tuple[str, str], Counter[str]] = {}
        for checked, name, unit in used:
            units.setdefault((checked.get("task"), name), Counter())[unit] += 1
        for checked, name, unit in used:
            usual, number = units[checked.get("task"), name].most_common(1)[0]
            if unit != usual:
                text = f"is {quoted(unit)}, in {number} file(s) of {checked.get('task')} it is {quoted(usual)}"
                yield broken(checked.path, f"metrics.{name}.unit", text)
        for files in _versions(sound).values():
            having = Counter(name for checked in files for name in checked.content["metrics"])
            for checked in files:
                for name, number in having.items():
                    if name not in checked.content["metrics"] and number == len(files) - 1 > 1:
                        yield broken(checked.path, f"metrics.{name}", "is missing; all others of its task have it")
                    if name in checked.content["metrics"] and number == 1 and len(files) > 2:
                        yield broken(checked.path, f"metrics.{name}", "is there; no other of its task has it")

    def broken_behind(self, path: Path) -> Iterator[Finding]:
        """What is broken at the weights of a sidecar and behind them."""
        return self._behind(self.sidecar(path))

    def _measured_on(self, metric: Checked) -> Iterator[Finding]:
        """Whether a metric file and the sidecar of its weights name the same."""
        if metric.get("weights.md5") is None:
            if _measured_on_weights(metric.get("task")):
                yield broken(metric.path, "weights.md5", f"is null, but {metric.get('task')} is measured on weights")
            return
        beside = self.sidecar(self.weights_of(metric))
        if beside.broken:
            return
        for ours, theirs in (("weights.md5", "md5"), ("weights.origin", "origin"), ("recipe", "recipe")):
            if metric.get(ours) != beside.get(theirs):
                text = f"is {metric.get(ours)}, {beside.path} has {beside.get(theirs)}: measured on other weights"
                yield broken(metric.path, ours, text)
                return
        if imported(beside.content) and not measured_alike(metric.content, beside.content):
            stated, place = metric.get("detail.preprocessing"), "spec.recipe"
            text = f"is {quoted(stated)}, {beside.path} has another in its field {place!r}: measured otherwise"
            yield broken(metric.path, "detail.preprocessing", text)
        if parse_task(metric.get("task")) and metric.get("detail.backbone") != beside.get("backbone"):
            text = f"is {metric.get('detail.backbone')}, {beside.path} has {beside.get('backbone')}"
            yield broken(metric.path, "detail.backbone", text)

    def _drawn(self, metric: Checked) -> Iterator[Finding]:
        """Whether the contribution maps that figures draw are those that the metrics were taken from."""
        stated = metric.get("detail.field")
        if stated is None:
            return
        path = fields_path(self.config, metric.path)
        found = md5_of(path) if path.is_file() else "no such file"
        if found != stated:
            yield broken(path, "", f"expected MD5 {stated}, as {metric.path} says, found {found}")

    def _behind(self, weights: Checked) -> Iterator[Finding]:
        """What is broken at weights and behind them."""
        yield from _broken(weights)
        if weights.broken:
            return
        if parse_task(weights.get("task") or "") and weights.get("backbone"):
            started = self.sidecar(sidecar_path(self.config, "classification", weights.get("backbone.run")))
            if not started.broken:
                yield from _started_from(weights, started)
            yield from self._behind(started)
        if not imported(weights.content):
            yield from self._data(weights)

    def _data(self, user: Checked) -> Iterator[Finding]:
        """Whether the data that a file names are those of the record, and what is broken there."""
        name, digest = user.get("data.name"), user.get("data.digest")
        if name is None:
            return
        recorded = self.record(name)
        yield from _broken(recorded)
        if recorded.broken:
            return
        if digest != recorded.get("digest"):
            alone = self.witnesses.get(name, Counter())[recorded.get("digest")] > 0
            yield _other_data(user if alone else recorded, user, recorded, digest)
        if recorded.get("reference"):
            stated = recorded.get("reference.md5")
            chose = self.sidecar(sidecar_path(self.config, "classification", recorded.get("reference.run")))
            if not chose.broken and chose.get("md5") != stated:
                text = f"is {stated}, {chose.path} has {chose.get('md5')}: other weights chose the images"
                yield broken(recorded.path, "reference.md5", text)
            yield from _broken(chose)

    def outdated(self) -> Iterator[Finding]:
        """What today's configuration would make again."""
        for path, checked in self.sidecars.items():
            if not checked.broken and checked.get("origin") == "trained":
                yield from _todays_recipe(self.config, path, checked)
        protocols = {item.task: item.protocol() for item in self.config.measured}
        for path, checked in self.metrics.items():
            if checked.broken:
                continue
            now = protocols.get(checked.get("task"))
            if keeps_outcomes(checked.get("task")) and checked.get("outcomes") is None:
                yield Finding(Level.OUTDATED, path, "outcomes", "are not kept; today's evaluation keeps them")
            if now is not None and checked.get("detail.protocol") != now:
                text = f"is {checked.get('detail.protocol')}, the configuration's way of measuring is now {now}"
                yield Finding(Level.OUTDATED, path, "detail.protocol", text)


def _versions(files: Iterable[Checked]) -> dict[tuple[Any, ...], list[Checked]]:
    """Metric files by their task and the version of the code that measured them."""
    found: dict[tuple[Any, ...], list[Checked]] = {}
    for checked in files:
        version = tuple(map(checked.get, ("task", "code.commit", "code.dirty")))
        found.setdefault(version, []).append(checked)
    return found


def _broken(checked: Checked) -> Iterator[Finding]:
    return (finding for finding in checked.findings if finding.level is Level.BROKEN)


def _measured_on_weights(task: str) -> bool:
    return task == "classification" or task in INSPECTIONS or set_of(task) is not None or parse_task(task) is not None


def _started_from(weights: Checked, backbone: Checked) -> Iterable[Finding]:
    # No recipe of ours stands for a backbone that was imported.
    recipe = () if imported(backbone.content) else (("spec.backbone", "recipe"),)
    for ours, theirs in (("backbone.md5", "md5"), *recipe):
        if weights.get(ours) != backbone.get(theirs):
            text = f"is {weights.get(ours)}, {backbone.path} has {backbone.get(theirs)}"
            return [broken(weights.path, ours, f"{text}: fine-tuned from another backbone")]
    return []


def _other_data(blamed: Checked, user: Checked, recorded: Checked, digest: str) -> Finding:
    """A digest of data that its record does not have; the one is to blame that stands alone."""
    if blamed is user:
        return broken(user.path, "data.digest", f"is {digest}, {recorded.path} has {recorded.get('digest')}")
    text = f"is {recorded.get('digest')}, but what was measured or trained on these data names {digest}"
    return broken(recorded.path, "digest", text)


def _todays_recipe(config: Config, path: Path, checked: Checked) -> Iterator[Finding]:
    task = checked.get("task") or "classification"
    try:
        run = Run.parse(str(checked.get("run")))
    except ValueError as error:
        yield broken(path, "run", str(error))
        return
    try:
        now = todays_spec(config, task, run)
    except UnreadableFileError:
        return  # the sidecar of its backbone, which is a finding of its own
    if now is None:
        yield Finding(Level.OUTDATED, path, "", f"scale {config.scale} has no {task} of {run} any more")
    elif found := changes(checked.get("spec"), now):
        yield Finding(Level.OUTDATED, path, "recipe", "; ".join(found))
