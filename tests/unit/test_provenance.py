"""Digests, atomic files and the metric file's schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lska.provenance.files import write_json
from lska.provenance.metric_files import (
    digest,
    file_md5,
    metric,
    proportion,
    seal_of,
    validate,
    write_metrics,
)
from lska.provenance.outcomes import Outcomes, OutcomesError, read_outcomes, resample_counts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_is_sorted_full_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 0.1 + 0.2, "a": "ä"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "ä",\n  "b": 0.30000000000000004\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["a"] == "ä"


def test_digests_see_content_and_not_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})
    # sha256 of the four bytes `{"a":1}` without spaces, computed with sha256sum.
    assert digest({"a": 1}) == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_md5_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_md5(path) == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5


@pytest.mark.parametrize(
    ("hits", "n", "value", "error"), [(50, 100, 50.0, 5.0), (9, 10, 90.0, 9.486833), (4, 4, 100, 0)]
)
def test_a_proportion_has_its_binomial_standard_error(hits: int, n: int, value: float, error: float) -> None:
    entry = proportion(hits, n)
    assert entry["value"] == pytest.approx(value)
    assert entry["standard_error"] == pytest.approx(error, abs=1e-6)
    assert (entry["unit"], entry["n"]) == ("%", n)


def test_a_proportion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one observation, got n = 0"):
        proportion(0, 0)


def test_a_metric_keeps_only_what_it_has() -> None:
    assert metric(1.5, "ms") == {"value": 1.5, "unit": "ms"}
    assert metric(2, "1", n=3, standard_error=0.0, interval=(1, 4)) == {
        "value": 2, "unit": "1", "n": 3, "standard_error": 0.0, "interval": [1, 4],
    }  # fmt: skip


def written(path: Path, **changes: Any) -> dict[str, Any]:
    arguments = {
        "task": "classification", "run": "van_tiny-lska-k23-s0", "scale": "demo", "started": datetime.now(UTC),
        "metrics": {"top1": proportion(1, 2)}, "weights": {"md5": "0" * 32, "origin": "trained"},
        "recipe": digest(1), "data": {"name": "shapes", "digest": digest(2)},
    }  # fmt: skip
    write_metrics(path, **{**arguments, **changes})
    return json.loads(path.read_text())


def test_a_metric_file_says_where_it_comes_from(tmp_path: Path) -> None:
    content = written(tmp_path / "m.json", started=datetime.now(UTC) - timedelta(seconds=5))
    assert content["metrics"] == {
        "top1": {"value": 50.0, "unit": "%", "n": 2, "standard_error": pytest.approx(35.35534)}
    }
    assert content["weights"] == {"md5": "0" * 32, "origin": "trained"}
    assert content["environment"]["device"] == "cpu"
    assert content["environment"]["lock"].startswith("sha256:")
    assert 5 <= content["seconds"] < 60
    assert datetime.fromisoformat(content["started"]).tzinfo is not None


def test_without_weights_recipe_and_data_the_file_says_so(tmp_path: Path) -> None:
    content = written(tmp_path / "m.json", weights=None, recipe=None, data=None)
    assert content["weights"] == {"md5": None, "origin": "none"}
    assert content["recipe"] is None
    assert content["data"] is None


def test_all_violations_of_the_schema_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(ValueError) as caught:
        written(
            path,
            run="",
            metrics={
                "top1": {"value": "high", "unit": "%"},
                "top5": {"value": 1},
                "loss": {"value": 1, "unit": "", "m": 2},
            },
            weights={"md5": "short", "origin": "found"},
            recipe="md5:1",
        )
    message = str(caught.value)
    assert message.startswith(f"{path} is not valid (8 problems)")
    for place in ("run", "metrics.top1.value", "metrics.top5", "metrics.loss", "metrics.loss.unit", "weights.md5",
                  "weights.origin", "recipe"):  # fmt: skip
        assert f"\n  {place}: " in message
    assert names(tmp_path) == []


def test_a_file_without_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match=r"here is not valid (?s:.*)\n  metrics: "):
        validate({"metrics": {}}, "metrics", "here")


def test_metric_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(tmp_path / "m.json", metrics={"loss": metric(float("nan"), "nats")})
    assert names(tmp_path) == []


def test_the_seal_covers_every_field_of_a_metric_file(tmp_path: Path) -> None:
    content = written(tmp_path / "m.json")
    assert content["seal"] == seal_of(content)
    for name in set(content) - {"seal"}:
        assert seal_of({**content, name: "edited"}) != content["seal"], name


def test_outcomes_lie_beside_the_metric_file_that_names_their_md5(tmp_path: Path) -> None:
    outcomes = Outcomes(images={"top1": np.array([0.0, 100.0])}, samples={"miou": np.array([1.5, np.nan])})
    content = written(tmp_path / "m.json", outcomes=outcomes)
    assert content["outcomes"] == file_md5(tmp_path / "m.npz")
    found = read_outcomes(tmp_path / "m.npz", content["outcomes"])
    np.testing.assert_array_equal(found.images["top1"], [0, 100])
    np.testing.assert_array_equal(found.samples["miou"], [1.5, np.nan])
    again = written(tmp_path / "again.json", outcomes=outcomes)
    assert again["outcomes"] == content["outcomes"]


def test_outcomes_of_another_measurement_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "m.json", outcomes=Outcomes(images={"top1": np.array([0.0, 100.0])}))
    with pytest.raises(OutcomesError, match=r"m\.npz: MD5 [0-9a-f]{32}, but its metric file was written with 0{32}; "):
        read_outcomes(tmp_path / "m.npz", "0" * 32)
    (tmp_path / "m.npz").write_bytes(b"PK")
    with pytest.raises(OutcomesError, match=r"m\.npz: is damaged"):
        read_outcomes(tmp_path / "m.npz")
    with pytest.raises(OutcomesError, match=r"absent\.npz: the file of outcomes is missing; measure again"):
        read_outcomes(tmp_path / "absent.npz")


def test_bootstrap_samples_are_the_same_for_every_network() -> None:
    first, again = (np.stack(list(resample_counts(50, resamples=20))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (20, 50)
    assert (first.sum(axis=1) == 50).all()
    assert (first[0] != first[1]).any()
