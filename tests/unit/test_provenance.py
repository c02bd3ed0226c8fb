"""Digests, metric files with their seal, and the outcomes kept beside them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lska.provenance.files import FileError, write_json
from lska.provenance.metric_files import (
    digest,
    file_md5,
    has_outcomes,
    keeps_outcomes,
    metric,
    outcomes_path,
    proportion,
    seal_of,
    write_metrics,
)
from lska.provenance.outcomes import (
    Outcomes,
    mean_of,
    read_outcomes,
    resample_columns,
    resample_counts,
    standard_error,
    with_errors,
    write_outcomes,
)


def test_json_is_sorted_full_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 0.1 + 0.2, "a": "ä"})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "ä",\n  "b": 0.30000000000000004\n}\n'


def test_digests_are_those_of_other_programs(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    # sha256 of the four bytes `{"a":1}` without spaces, computed with sha256sum.
    assert digest({"a": 1}) == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    (tmp_path / "x").write_bytes(b"abc")
    assert file_md5(tmp_path / "x") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5


def test_a_proportion_has_its_binomial_standard_error() -> None:
    for hits, n, value, error in ((50, 100, 50.0, 5.0), (9, 10, 90.0, 9.486833), (4, 4, 100, 0)):
        expected = {
            "value": pytest.approx(value),
            "standard_error": pytest.approx(error, abs=1e-6),
            "unit": "%",
            "n": n,
        }
        assert proportion(hits, n) == expected
    with pytest.raises(ValueError, match="at least one observation, got n = 0"):
        proportion(0, 0)
    assert metric(1.5, "ms") == {"value": 1.5, "unit": "ms"}


# --- Metric files ----------------------------------------------------------------------------------------------------


def written(path: Path, **changes: Any) -> dict[str, Any]:
    arguments = {
        "task": "classification", "run": "van_tiny-lska-k23-s0", "scale": "demo", "started": datetime.now(UTC),
        "metrics": {"top1": proportion(1, 2)}, "weights": {"md5": "0" * 32, "origin": "trained"},
        "recipe": digest(1), "data": {"name": "shapes", "digest": digest(2)},
    }  # fmt: skip
    write_metrics(path, **{**arguments, **changes})
    return json.loads(path.read_text())


def test_a_sealed_metric_file_says_where_it_comes_from(tmp_path: Path) -> None:
    content = written(tmp_path / "m.json", started=datetime.now(UTC) - timedelta(seconds=5))
    assert content["metrics"] == {"top1": proportion(1, 2)}
    assert content["weights"] == {"md5": "0" * 32, "origin": "trained"}
    assert content["environment"]["device"] == "cpu" and content["environment"]["lock"].startswith("sha256:")
    assert 5 <= content["seconds"] < 60 and datetime.fromisoformat(content["started"]).tzinfo is not None
    assert [name for name in content if seal_of({**content, name: "edited"}) == content["seal"]] == ["seal"]
    without = written(tmp_path / "m.json", weights=None, recipe=None, data=None)
    assert (without["weights"], without["recipe"], without["data"]) == ({"md5": None, "origin": "none"}, None, None)


def test_all_violations_of_the_schema_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    metrics = {"top1": {"value": "high", "unit": "%"}, "top5": {"value": 1}, "loss": {"value": 1, "unit": "", "m": 2}}
    with pytest.raises(ValueError, match="8 problems") as caught:
        written(path, run="", metrics=metrics, weights={"md5": "short", "origin": "found"}, recipe="md5:1")
    for place in ("run", "metrics.top1.value", "metrics.top5", "metrics.loss", "metrics.loss.unit", "weights.md5",
                  "weights.origin", "recipe"):  # fmt: skip
        assert f"\n  {place}: " in str(caught.value)
    for metrics in ({}, {"loss": metric(float("nan"), "nats")}):
        with pytest.raises(ValueError, match="is not valid: metrics|not JSON compliant"):
            written(path, metrics=metrics)
    assert list(tmp_path.iterdir()) == []


# --- Outcomes --------------------------------------------------------------------------------------------------------


def test_outcomes_lie_beside_the_metric_file_that_names_their_md5(tmp_path: Path) -> None:
    path, beside = tmp_path / "m.json", tmp_path / "m.npz"
    outcomes = Outcomes(images={"top1": np.array([0.0, 100.0])}, samples={"miou": np.array([1.5, np.nan])})
    content = written(path, outcomes=outcomes)
    assert outcomes_path(path) == beside and content["outcomes"] == file_md5(beside)
    assert has_outcomes(path, content) and not has_outcomes(path, {})
    found = read_outcomes(beside, content["outcomes"])
    np.testing.assert_array_equal(found.images["top1"], [0, 100])
    np.testing.assert_array_equal(found.samples["miou"], [1.5, np.nan])
    with pytest.raises(FileError, match=r"m\.npz: MD5 [0-9a-f]{32}, but its metric file was written with 0{32}; "):
        read_outcomes(beside, "0" * 32)
    beside.write_bytes(b"PK")
    assert not has_outcomes(path, content)
    with pytest.raises(FileError, match=r"m\.npz: is damaged"):
        read_outcomes(beside)
    beside.unlink()
    with pytest.raises(FileError, match=r"m\.npz: no such file.*; measure again"):
        read_outcomes(beside)


def test_only_tasks_on_images_keep_outcomes() -> None:
    kept = ("classification", "detection/retinanet-untrained", "robustness/c", "texture_knn")
    assert all(map(keeps_outcomes, kept))
    assert not any(map(keeps_outcomes, ("complexity", "complexity/retinanet", "speed", "properties")))


def test_bootstrap_samples_are_the_same_for_every_network_however_many_are_taken_at_a_time() -> None:
    samples = np.stack(list(resample_counts(30, resamples=25)))
    assert (samples.sum(axis=1) == 30).all() and (samples[0] != samples[1]).any()
    for at_once in (None, 1, 7, 100):
        columns = list(resample_columns(30, 25, at_once))
        assert all(part.dtype == np.float64 and part.flags.c_contiguous for part in columns)
        np.testing.assert_array_equal(np.concatenate(columns, axis=1).T, samples)


def test_a_mean_of_images_has_the_error_of_its_bootstrap() -> None:
    images = np.random.default_rng(0).exponential(1.0, 200)
    entry = mean_of(images, "nats")
    assert (entry["value"], entry["unit"], entry["n"]) == (images.mean(), "nats", 200)
    drawn = np.concatenate([images @ counts / 200 for counts in resample_columns(200)])
    assert entry["standard_error"] == pytest.approx(standard_error(drawn), rel=0.08)


def test_entries_get_the_errors_of_their_samples() -> None:
    entries = {
        "ap": metric(50.0, "%", n=2), "ap_large": metric(None, "%"), "ap_small": metric(2.0, "%"),
        "iou": metric(1.0, "%"), "dimensions": metric(35, "1"),
    }  # fmt: skip
    samples = {"ap": np.array([49.0, np.nan, 51.0]), "ap_large": np.array([1.0, 2.0])}
    samples |= {"ap_small": np.array([np.nan, 1.0]), "dimensions": np.array([34.0, 35.0])}
    expected = entries | {"ap": entries["ap"] | {"standard_error": pytest.approx(2**0.5)}}
    assert with_errors(entries, Outcomes(samples=samples)) == expected


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
