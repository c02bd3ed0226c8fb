"""A clone of the small scale's results without its data: what is told, and what makes itself again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from whole_project import PROJECT

from lska.provenance.metric_files import outcomes_path
from lska.provenance.outcomes import read_outcomes

pytestmark = pytest.mark.timeout(900)

SMALL = ("--configfile", "config/small.yaml")
RUN = "van_tiny-lka-k23-s0"
METRICS = Path("results/small/metrics")

READ = {
    "classification": ("cifar10", "data.root"),
    "detection/retinanet": ("bccd", "detection.data.root"),
    "robustness/c": ("cifar10", "data.root"),
}
"""The set that is missed for a metric file of each task, and the setting of its root."""


def without(clone, task: str) -> str:
    """Remove one metric file and return its path."""
    path = METRICS / task / f"{RUN}.json"
    (clone.root / path).unlink()
    return str(path)


@pytest.mark.parametrize("task", READ)
def test_one_message_names_what_is_missing_and_what_to_do(clone, task: str) -> None:
    target = without(clone, task)
    before = sorted(path for path in (clone.root / "results").rglob("*"))
    done = clone.run("snakemake", "--cores", "1", *SMALL, "--", target)
    said, (name, setting) = done.stdout + done.stderr, READ[task]
    assert done.returncode == 1
    assert said.count("is missing:") == 1
    assert f"data set {name} is missing: {clone.root / 'data' / name} does not exist" in said
    assert f"its root, data/{name}, is the setting {setting} in config/small.yaml" in said
    assert "--configfile config/small.yaml mine.yaml" in said and "nothing was started" in said
    assert f"lska data import {name} --from https://" in said
    # No job has begun, so nothing was removed either.
    assert "FAILED" not in said and "Traceback" not in said
    assert sorted(path for path in (clone.root / "results").rglob("*")) == before


def test_with_keep_going_the_rest_is_done_and_the_log_says_the_same(clone) -> None:
    target, other = without(clone, "classification"), "results/small/metrics/properties/lka.json"
    (clone.root / other).unlink()
    done = clone.run("snakemake", "--cores", "1", "--keep-going", *SMALL, "--", target, other)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "nothing was started" not in said
    assert "data set cifar10 is missing" in said
    assert (clone.root / other).is_file() and not (clone.root / target).exists()
    log = clone.root / "work/small/logs/classification" / f"{RUN}.log"
    assert log.read_text().startswith("lska: error: data set cifar10 is missing: ")


def test_a_generated_set_that_is_gone_makes_itself_again_and_nothing_is_trained(clone) -> None:
    target = without(clone, "texture_knn")
    record = clone.root / "results/small/data/generated_textures.json"
    outcomes = outcomes_path(clone.root / target)
    before, kept = record.read_bytes(), read_outcomes(outcomes)
    clone.snakemake(*SMALL, "--", target)
    assert clone.ran() == {"fetch": 1, "data": 1, "texture_knn_0": 1}
    # Exactly the same images, so the other networks' results stay those of today's data.
    assert record.read_bytes() == before
    np.testing.assert_equal(vars(read_outcomes(outcomes)), vars(kept))
    found, committed = (json.loads((root / target).read_text()) for root in (clone.root, PROJECT))
    assert found["metrics"] == committed["metrics"] and found["weights"] == committed["weights"]
    # Nothing needs the images now; and what does finds them.
    assert "data" not in clone.planned(*SMALL, "--", "table_13")
    without(clone, "texture_knn")
    assert clone.planned(*SMALL, "--", target) == {"texture_knn_0": 1}
