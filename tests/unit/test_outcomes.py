"""What errors come from: bootstrap samples, entries with errors, and how files of outcomes are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lska.provenance.metric_files import file_md5, metric
from lska.provenance.outcomes import (
    Outcomes,
    has_outcomes,
    keeps_outcomes,
    mean_of,
    outcomes_path,
    read_outcomes,
    resample_columns,
    resample_counts,
    standard_error,
    with_errors,
    write_outcomes,
)


@pytest.mark.parametrize("at_once", [None, 1, 7, 100])
def test_columns_are_the_samples_however_many_are_taken_at_a_time(at_once: int | None) -> None:
    columns = list(resample_columns(30, 25, at_once))
    assert all(part.dtype == np.float64 and part.flags.c_contiguous for part in columns)
    np.testing.assert_array_equal(np.concatenate(columns, axis=1).T, list(resample_counts(30, resamples=25)))


def test_a_mean_of_images_has_the_error_of_its_bootstrap() -> None:
    images = np.random.default_rng(0).exponential(1.0, 200)
    entry = mean_of(images, "nats")
    assert (entry["value"], entry["unit"], entry["n"]) == (images.mean(), "nats", 200)
    drawn = np.concatenate([images @ counts / 200 for counts in resample_columns(200)])
    assert entry["standard_error"] == pytest.approx(standard_error(drawn), rel=0.08)


def test_samples_without_a_value_are_left_out_of_the_error() -> None:
    assert standard_error(np.array([1.0, np.nan, 3.0])) == pytest.approx(2**0.5)
    assert standard_error(np.array([1.0, np.nan])) is None


def test_entries_get_the_errors_of_their_samples() -> None:
    entries = {
        "ap": metric(50.0, "%", n=2), "ap_large": metric(None, "%"), "ap_small": metric(2.0, "%"),
        "iou": metric(1.0, "%"), "dimensions": metric(35, "1"),
    }  # fmt: skip
    missing = np.array([np.nan, np.nan])
    samples = {"ap": np.array([49.0, 51.0]), "ap_large": np.array([1.0, 2.0]), "ap_small": missing}
    samples["dimensions"] = np.array([34.0, 35.0])
    found = with_errors(entries, Outcomes(samples=samples))
    assert found["ap"] == entries["ap"] | {"standard_error": pytest.approx(2**0.5)}
    assert {name: found[name] for name in entries if name != "ap"} == {n: entries[n] for n in entries if n != "ap"}


def test_an_error_follows_from_the_samples_as_they_are_kept(tmp_path: Path) -> None:
    # Shares of 96 that differ by little: rounding them to 32 bits moves their deviation by more than a millionth.
    shares = 100 * np.random.default_rng(0).choice([46, 47], 200, p=[0.8, 0.2]) / 96
    written = Outcomes(samples={"share": shares})
    write_outcomes(tmp_path / "o.npz", written)
    kept = read_outcomes(tmp_path / "o.npz").samples["share"]
    assert abs(standard_error(kept) / standard_error(shares) - 1) > 1e-6
    assert with_errors({"share": metric(47.9, "%")}, written)["share"]["standard_error"] == standard_error(kept)


def test_equal_outcomes_give_equal_bytes_and_small_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    hits, losses = 100.0 * (generator.random(50_000) < 0.75), generator.exponential(1, 50_000)
    for name in ("a.npz", "b.npz"):
        write_outcomes(tmp_path / name, Outcomes({"top1": hits, "loss": losses}, {"miou": losses[:10]}))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    # A hit takes a bit or so, a loss its 32 bits.
    assert (tmp_path / "a.npz").stat().st_size < 50_000 / 8 * 1.6 + 50_000 * 4
    found = read_outcomes(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.images["top1"], hits)
    np.testing.assert_allclose(found.images["loss"], losses, rtol=1e-7)
    assert found.samples["miou"].dtype == np.float64


def test_outcomes_belong_to_the_metric_file_that_names_them(tmp_path: Path) -> None:
    metrics = tmp_path / "run.json"
    assert not has_outcomes(metrics, {})
    write_outcomes(outcomes_path(metrics), Outcomes({"top1": np.array([100.0])}))
    named = {"outcomes": file_md5(outcomes_path(metrics))}
    assert has_outcomes(metrics, named) and not has_outcomes(metrics, {})
    write_outcomes(outcomes_path(metrics), Outcomes({"top1": np.array([0.0])}))
    assert not has_outcomes(metrics, named)


def test_only_tasks_on_images_keep_outcomes() -> None:
    kept = ("classification", "detection/retinanet-untrained", "robustness/c", "texture_knn")
    assert [keeps_outcomes(task) for task in kept] == [True] * 4
    others = ("complexity", "complexity/retinanet", "speed", "properties")
    assert [keeps_outcomes(task) for task in others] == [False] * 4
