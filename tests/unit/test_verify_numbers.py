"""`lska verify` recomputes what its evidence determines: a forged number under a new seal is found in its place."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proven import edit

from lska.audit.links import CheckedFile, Level, ScaleFiles
from lska.evaluate.derived import FIELDS
from lska.provenance.metric_files import file_md5, outcomes_path, project_root, write_sealed
from lska.provenance.outcomes import Outcomes, read_outcomes, write_outcomes
from lska.settings.scale import Config, load

RUN = "van_tiny-lka-k23-s0"
COPIED = ("metrics", "fields", "data")

Change = Callable[[Any], Any]


def by(amount: float) -> Change:
    """A forger's hand: numbers and both ends of intervals are raised by `amount`."""
    return lambda found: [end + amount for end in found] if isinstance(found, list) else found + amount


FORGED: dict[str, dict[str, float | Change]] = {
    "classification": {
        "top1.value": 0.01, "top1.standard_error": -0.01, "top1.n": 1, "top5.value": 0.01, "loss.value": -0.001,
        "loss.standard_error": 0.001, "top1.interval": lambda _: [0.0, 99.0],
    },
    "detection/retinanet": {
        "box_ap.value": 10, "box_ap.standard_error": -0.01, "box_ap75.standard_error": 0.01, "box_ap_small.n": 1,
        "box_ap50.value": lambda found: None,
    },
    "segmentation/semantic_fpn": {"miou.value": 0.01, "miou.standard_error": 0.01, "aacc.value": 3, "macc.n": 1},
    "robustness/c": {
        "mce_15.value": -0.01, "mce_19.standard_error": -0.01, "relative_mce_15.value": 0.01, "relative_mce_19.n": 1,
        "ce_fog.value": -0.01, "relative_ce_fog.standard_error": 0.01, "top1_weather.value": 0.01,
        "top1_fog.standard_error": 0.01, "top1_fog_3.value": 0.05, "top1_fog_3.standard_error": 0.01,
        "top1_fog_3.n": 1000, "error_mean_15.value": 0.01, "top1_present.value": 0.01, "top1_clean.value": 0.1,
        "ece_mean_15.value": 0.01, "ece_mean_15.standard_error": 0.01, "ece_clean.value": 9,
    },
    "robustness/c_bar": {"error_mean_10.value": -0.01, "top1_sparkles_5.value": 1},
    "texture_knn": {
        "top1_cosine.value": 0.01, "top1_cosine.standard_error": -0.01, "top1_cosine.n": 1,
        "top1_cosine_split3.value": 0.1, "top1_cosine_split3.standard_error": 0.1,
        "top1_euclidean_deviation.value": 0.01, "top1_euclidean_deviation.n": 1,
    },
    "shape_texture": {
        "shape_dimensions_reference.value": 1, "texture_share_reference.value": 1,
        "texture_share_reference.interval": 1, "shape_score_reference.value": 0.1,
        "shape_score_reference.standard_error": 0.001, "shape_score_printed.value": 0.01, "shape_score_printed.n": 1,
        "residual_score_reference.value": 0.1, "residual_score_printed.interval": 1, "neurons.value": 1,
    },
    "receptive_field": {
        "area_ratio_20.value": 0.01, "area_ratio_50_untrained.value": 0.01, "side_99.value": -2,
        "area_ratio_30.standard_error": 0.01, "side_30.n": 1,
    },
    "speed": {"throughput.value": 100, "throughput.interval": 1000, "latency.n": 1},
}  # fmt: skip
"""What is added to numbers, or put in their place, by task and place."""


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed small scale without its tables."""
    folder, root = tmp_path_factory.mktemp("small"), project_root()
    for name in ("config", "paper"):
        shutil.copytree(root / name, folder / name)
    for name in COPIED:
        shutil.copytree(root / "results" / "small" / name, folder / "results" / "small" / name)
    return folder


@pytest.fixture
def small(committed: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(committed)
    return load([Path("config/small.yaml")])


def checked(config: Config, path: Path, recount: bool = False) -> CheckedFile:
    return ScaleFiles(config, recount).metric(path)


def places(found: CheckedFile) -> list[str]:
    return [finding.place for finding in found.findings if finding.level is Level.BROKEN]


@pytest.fixture
def restored(small: Config) -> Iterator[Callable[[Path], Path]]:
    """Metric files, which are what they were after the test."""
    former: dict[Path, bytes] = {}

    def taken(path: Path) -> Path:
        for one in (path, outcomes_path(path)):
            if one.is_file():
                former[one] = one.read_bytes()
        return path

    yield taken
    for path, content in former.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def test_forged_numbers_are_found_in_their_places(small: Config, restored: Callable[[Path], Path]) -> None:
    missed = []
    for task, place, change in ((task, *forged) for task, places in FORGED.items() for forged in places.items()):
        path = restored(small.metric_path(task, RUN))
        sound = path.read_bytes()
        edit(path, f"metrics.{place}", change if callable(change) else by(change), sealed=True)
        if f"metrics.{place}" not in (found := places(checked(small, path))):
            missed.append((task, place, found))
        path.write_bytes(sound)
    assert missed == []


def test_a_removed_error_is_found(small: Config, restored: Callable[[Path], Path]) -> None:
    path = restored(small.metric_path("robustness/c", RUN))
    content = json.loads(path.read_text())
    del content["metrics"]["mce_15"]["standard_error"], content["metrics"]["mce_19"]["n"]
    write_sealed(path, content)
    assert places(checked(small, path)) == ["metrics.mce_15.standard_error", "metrics.mce_19.n"]


def test_every_committed_number_is_recomputed_bounded_or_named_as_neither(small: Config) -> None:
    every = ScaleFiles(small).metrics
    assert [finding for one in every.values() for finding in one.findings if finding.level is Level.BROKEN] == []
    tally = sum((one.tally for one in every.values()), Counter())
    numbers = [
        name
        for one in every.values()
        for entry in one.content["metrics"].values()
        for name in FIELDS
        if entry.get(name) is not None
    ]
    assert tally.total() == len(numbers)
    unknown = {name.partition(":")[0] for kind, name in tally if kind == "unknown"}
    assert {task for task in unknown if not task.startswith(("complexity", "properties"))} == {
        "robustness/c", "robustness/c_bar", "segmentation/semantic_fpn", "shape_texture", "speed", "texture_knn",
    }  # fmt: skip
    assert sum(number for (kind, _), number in tally.items() if kind == "recomputed") > 4000


def test_parts_determine_what_samples_only_bound(small: Config, restored: Callable[[Path], Path]) -> None:
    path = restored(small.metric_path("detection/retinanet", RUN))
    content, kept = json.loads(path.read_text()), read_outcomes(outcomes_path(path))
    value = content["metrics"]["box_ap"]["value"]
    parts = {"box_ap": np.array([[value - 1, value + 1], [value, np.nan]])}
    write_outcomes(outcomes_path(path), Outcomes(samples=kept.samples, parts=parts))
    write_sealed(path, content | {"outcomes": file_md5(outcomes_path(path))})
    assert places(checked(small, path)) == []
    edit(path, "metrics.box_ap.value", by(0.01), sealed=True)
    assert places(checked(small, path)) == ["metrics.box_ap.value"]


@pytest.mark.slow
def test_counts_are_counted_again_where_that_is_asked_for(small: Config, restored: Callable[[Path], Path]) -> None:
    for task, run, name in (("complexity", RUN, "flops"), ("properties", "lska", "range_pixels")):
        path = restored(small.metric_path(task, run))
        found = checked(small, path, recount=True)
        assert places(found) == [] and "unknown" not in {kind for kind, _ in found.tally}
        edit(path, f"metrics.{name}.value", by(1), sealed=True)
        assert places(checked(small, path)) == []
        assert places(checked(small, path, recount=True)) == [f"metrics.{name}.value"]


def archive(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("images/top1.npy", content)


def saved(**arrays: Any) -> Callable[[Path], object]:
    return lambda path: np.savez(path, **{name.replace("_", "/", 1): array for name, array in arrays.items()})


HUGE = b"\x93NUMPY\x01\x00\x44\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}"
DAMAGED: tuple[tuple[Callable[[Path], object], str], ...] = (
    (lambda path: path.write_bytes(b"\0" * 50), "is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:-900]), "is damaged"),
    (saved(images_top1=np.array([{}, 1], dtype=object)), "is damaged (Object arrays cannot be loaded"),
    (saved(images_top1=np.array(["a", "b"])), "no numbers in 'images/top1'"),
    (saved(top1=np.ones(9)), "expected names like images/<metric>"),
    (saved(images_other=np.ones(9)), "has no metric of this name"),
    (saved(images_top1=np.ones((3, 3))), "expected (n,) values"),
    (saved(images_top1=np.ones(3), images_top5=np.ones(4)), "as many images for every metric"),
    (lambda path: archive(path, bytes(2**28 + 1)), "expected at most"),
    (lambda path: archive(path, HUGE), "is damaged"),
    (lambda path: (path.unlink(), path.mkdir()), "found a folder"),
)


def test_damaged_outcomes_are_a_finding_each(small: Config, restored: Callable[[Path], Path]) -> None:
    path = restored(small.metric_path("classification", RUN))
    content, beside = json.loads(path.read_text()), outcomes_path(path)
    sound = beside.read_bytes()
    for damage, text in DAMAGED:
        damage(beside)
        stated = file_md5(beside) if beside.is_file() else content["outcomes"]
        write_sealed(path, content | {"outcomes": stated})
        found = [one for one in checked(small, path).findings if one.level is Level.BROKEN]
        assert any(one.file == beside and text in one.text for one in found), (text, found)
        if beside.is_dir():
            beside.rmdir()
        beside.write_bytes(sound)
