"""What one file says of the next, from a metric file to its origins: weights, backbone, data, and who chose the images.

`ScaleFiles` reads and checks each file once. `behind` is the only walk: `explain` prints its links for one cell,
`verify` takes the broken ones of all files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lska.audit.checked_files import (
    CheckedFile,
    Finding,
    Level,
    broken,
    check_metrics,
    check_record,
    check_weights,
    compared,
)
from lska.models.runs import Run
from lska.provenance.files import UnreadableFileError, files_in, plain, quoted
from lska.provenance.outcomes import keeps_outcomes
from lska.provenance.sidecars import changes, imported, measured_alike
from lska.settings.scale import Config
from lska.settings.tasks import CORRUPTED, INSPECTIONS, parse_task, set_of


@dataclass(frozen=True)
class Link:
    """What the file `source` says of the file `target` that it rests on, and what that rests on in turn."""

    kind: Literal["weights", "backbone", "chooser", "data"]
    source: CheckedFile
    target: CheckedFile | None
    """None where it rests on nothing of this kind."""
    recorded: Any
    """MD5 or digest of the target, as the source says."""
    found: Any
    """The same, as the target says."""
    faults: tuple[Finding, ...] = ()
    links: tuple[Link, ...] = ()

    def broken(self) -> Iterator[Finding]:
        """What is broken from here to the origins, the first first; nothing is said of what a broken file names."""
        yield from self.faults
        if self.target is not None:
            yield from self.target.faults
            for link in () if self.target.broken else self.links:
                yield from link.broken()


class ScaleFiles:
    """All files of a scale, each read and checked once, and the links between them; with `recount`, what depends on the
    code alone is counted again.
    """

    def __init__(self, config: Config, recount: bool = False) -> None:
        self.config, self.recount = config, recount
        self.metrics_folder, self.records_folder = config.results / "metrics", config.results / "data"
        self.weights_folder = config.weights_path("any").parent
        self._metrics: dict[Path, CheckedFile] = {}
        self._sidecars: dict[Path, CheckedFile] = {}
        self._records: dict[Path, CheckedFile] = {}

    # --- Files -------------------------------------------------------------------------------------------------------

    def metric(self, path: Path) -> CheckedFile:
        """A metric file by its path, also a missing one."""
        if path not in self._metrics:
            task = path.parent.relative_to(self.metrics_folder).as_posix()
            self._metrics[path] = check_metrics(path, task, path.stem, self.config, self._images, self.recount)
        return self._metrics[path]

    def sidecar(self, task: str, run: str) -> CheckedFile:
        """The sidecar of the weights that a task is measured on, also a missing one: the fine-tuned ones of a head,
        otherwise the network's."""
        weights = self.config.weights_path(f"{task}/{run}" if parse_task(task) else run)
        return self._sidecar(weights.with_suffix(".json"))

    def _sidecar(self, path: Path) -> CheckedFile:
        folder = self.weights_folder
        if not path.is_relative_to(folder) or ".." in path.parts:
            return CheckedFile(folder, {}, (broken(folder, "", f"{quoted(str(path))} is no sidecar of this scale"),))
        if path not in self._sidecars:
            name = path.relative_to(folder).with_suffix("").as_posix()
            self._sidecars[path] = check_weights(path, self.config.training_log(name))
        return self._sidecars[path]

    def record(self, name: str) -> CheckedFile:
        """The record of a data set, also a missing one."""
        folder, path = self.records_folder, self.records_folder / f"{name}.json"
        if path.parent != folder:
            return CheckedFile(folder, {}, (broken(folder, "", f"{quoted(name)} is no name of a data set"),))
        if path not in self._records:
            self._records[path] = check_record(path, self.config)
        return self._records[path]

    @cached_property
    def metrics(self) -> dict[Path, CheckedFile]:
        """Every metric file that is there or was asked for, by path."""
        for path in files_in(self.metrics_folder, "**/*.json"):
            self.metric(path)
        return self._metrics

    @cached_property
    def sidecars(self) -> dict[Path, CheckedFile]:
        """Every sidecar that is there or is named by another file."""
        for path in files_in(self.weights_folder, "**/*.json"):
            self._sidecar(path)
        for metric in self.metrics.values():
            if metric.get("weights.md5"):
                self._sidecar_of(metric)
        return self._sidecars

    @cached_property
    def records(self) -> dict[Path, CheckedFile]:
        """Every data record that is there or is named by another file."""
        for name in (*(path.stem for path in files_in(self.records_folder, "*.json")), *self._witnesses):
            self.record(name)
        return self._records

    def _sidecar_of(self, metric: CheckedFile) -> CheckedFile:
        return self.sidecar(metric.path.parent.relative_to(self.metrics_folder).as_posix(), metric.path.stem)

    def _images(self, metric: CheckedFile) -> int | None:
        """Images of the data that a metric file was measured on, by their record; None where that does not say."""
        name, task = metric.get("data.name"), str(metric.get("task"))
        record = None if name is None else self.record(name)
        if record is None or record.broken or record.get("digest") != metric.get("data.digest"):
            return None
        found = record.get("images" if set_of(task) in CORRUPTED else "splits.val")
        return found if isinstance(found, int) else None

    @cached_property
    def _witnesses(self) -> dict[str, Counter[str]]:
        """How many files name each digest of a data set, by its name."""
        found: dict[str, Counter[str]] = {}
        for checked in (*self.metrics.values(), *self.sidecars.values()):
            if checked.get("data.name") and not checked.broken and not imported(checked.content):
                found.setdefault(checked.get("data.name"), Counter())[checked.get("data.digest")] += 1
        return found

    # --- Links -------------------------------------------------------------------------------------------------------

    def behind(self, file: CheckedFile, above: tuple[Path, ...] = ()) -> tuple[Link, ...]:
        """What a file rests on, and so on to the origins; the files `above` on the way are not followed again."""
        if not file.content or file.path in above:
            return ()
        way = (*above, file.path)
        if file.path.is_relative_to(self.metrics_folder):
            return self._weights(file, way), self._data(file, way)
        if file.path.is_relative_to(self.weights_folder):
            data = () if imported(file.content) else (self._data(file, way),)
            return *self._backbone(file, way), *data
        if not file.get("reference"):
            return ()
        chooser, meaning = self.sidecar("classification", file.get("reference.run")), "other weights chose the images"
        return (self._link("chooser", file, chooser, {"reference.md5": "md5"}, meaning, way),)

    def broken_behind(self, file: CheckedFile) -> Iterator[Finding]:
        """What is broken at a file and, where it can be trusted, behind it, the first first."""
        yield from file.faults
        for link in () if file.broken else self.behind(file):
            yield from link.broken()

    def _link(
        self, kind: Any, source: CheckedFile, target: CheckedFile, fields: Mapping[str, str], meaning: str,
        way: tuple[Path, ...], *more: Finding,
    ) -> Link:  # fmt: skip
        """A link by fields of the source and the target that have to be equal, of which the first is the identity;
        `meaning` says what it means where they are not, and `more` what else is wrong between the two.
        """
        pairs = [(name, source.get(name), target.get(other)) for name, other in fields.items()]
        faults = [
            broken(source.path, name, f"is {ours}, {target.path} has {theirs}: {meaning}")
            for name, ours, theirs in pairs
            if ours != theirs
        ][:1]
        faults = () if source.broken or target.broken else tuple(faults or more)
        return Link(kind, source, target, *pairs[0][1:], faults, self.behind(target, way))

    def _weights(self, metric: CheckedFile, way: tuple[Path, ...]) -> Link:
        task, path = metric.get("task"), metric.path
        if metric.get("weights.md5") is None:
            text = f"is null, but {task} is measured on weights"
            faults = (broken(path, "weights.md5", text),) if _on_images(task) and not metric.broken else ()
            return Link("weights", metric, None, metric.get("weights.origin"), None, faults)
        more, sidecar = [], self._sidecar_of(metric)
        if imported(sidecar.content) and not measured_alike(metric.content, sidecar.content):
            stated = f"is {quoted(metric.get('detail.preprocessing'))}, {sidecar.path} has another in its field"
            more.append(broken(path, "detail.preprocessing", f"{stated} 'spec.recipe': measured otherwise"))
        if parse_task(task):
            stated, source = metric.get("detail.backbone"), f"{sidecar.path} has"
            more += compared(path, "detail.backbone", stated, source, sidecar.get("backbone"))
        same = {"weights.md5": "md5", "weights.origin": "origin", "recipe": "recipe"}
        return self._link("weights", metric, sidecar, same, "measured on other weights", way, *more)

    def _backbone(self, weights: CheckedFile, way: tuple[Path, ...]) -> tuple[Link, ...]:
        if not weights.get("backbone"):
            control = "backbone" in weights.content and not imported(weights.content)
            return (Link("backbone", weights, None, None, None),) if control else ()
        start = self.sidecar("classification", weights.get("backbone.run") or weights.get("run"))
        # No recipe of ours stands for a backbone that was imported.
        same = {"backbone.md5": "md5"} | ({} if imported(start.content) else {"spec.backbone": "recipe"})
        return (self._link("backbone", weights, start, same, "fine-tuned from another backbone", way),)

    def _data(self, user: CheckedFile, way: tuple[Path, ...]) -> Link:
        name, stated, task = user.get("data.name"), user.get("data.digest"), user.get("task")
        if name is None:
            measured = user.path.is_relative_to(self.metrics_folder) and not user.broken
            text = f"is null, but {task} is measured on images of a data set"
            faults = (broken(user.path, "data", text),) if measured and _on_images(task) else ()
            return Link("data", user, None, None, None, faults)
        record = self.record(name)
        link = self._link("data", user, record, {"data.digest": "digest"}, "other data", way)
        if link.faults and not self._witnesses.get(name, Counter())[link.found]:
            # Nothing else names the record's digest: it stands alone, and is to blame.
            text = f"is {link.found}, but what was measured or trained on these data names {stated}"
            return Link("data", user, record, stated, link.found, (broken(record.path, "digest", text),), link.links)
        return link

    # --- Beside the configuration ------------------------------------------------------------------------------------

    def outdated(self, file: CheckedFile) -> Iterator[Finding]:
        """What today's configuration would make again of a metric file or sidecar, and why."""
        if file.broken:
            return
        if file.path.is_relative_to(self.weights_folder) and file.get("origin") == "trained":
            yield from self._other_recipe(file)
        elif file.path.is_relative_to(self.metrics_folder):
            task, now = file.get("task"), self._protocols.get(file.get("task"))
            if keeps_outcomes(task) and file.get("outcomes") is None:
                yield Finding(Level.OUTDATED, file.path, "outcomes", "are not kept; today's evaluation keeps them")
            if now is not None:
                stated, source = file.get("detail.protocol"), "the configuration's way of measuring is now"
                yield from compared(file.path, "detail.protocol", stated, source, now, Level.OUTDATED)

    @cached_property
    def _protocols(self) -> dict[str, str]:
        return {item.task: item.protocol() for item in self.config.measured}

    def _other_recipe(self, sidecar: CheckedFile) -> Iterator[Finding]:
        config, task = self.config, sidecar.get("task") or "classification"
        try:
            run = Run.parse(str(sidecar.get("run")))
        except ValueError as error:
            yield broken(sidecar.path, "run", str(error))
            return
        runs = (*config.runs_of(task), *(config.references if parse_task(task) is None else ()))
        if run not in runs:
            text = f"scale {config.scale} has no {task} of {run} any more"
            yield Finding(Level.OUTDATED, sidecar.path, "", text)
            return
        try:
            job = config.classifier(run) if parse_task(task) is None else config.fine_tuning(task, run)
            spec = job.spec()
        except UnreadableFileError:
            return  # the sidecar of its backbone, which is a finding of its own
        if plain(sidecar.get("spec")) != plain(spec):
            yield Finding(Level.OUTDATED, sidecar.path, "recipe", changes(sidecar.get("spec") or {}, spec))


def _on_images(task: str) -> bool:
    """Whether a task is measured on trained weights and on images."""
    return task == "classification" or task in INSPECTIONS or set_of(task) is not None or parse_task(task) is not None
