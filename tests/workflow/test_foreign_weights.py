"""Snakemake, in a real run, deletes no weights that the project did not make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from tiny_project import fresh
from whole_project import SCALE, Project

from lska.provenance.files import read_json

pytestmark = pytest.mark.timeout(900)

RUN = "van_tiny-lska-k23-s0"
TINY = "tests/scale.yaml"
METRICS = f"results/tiny/metrics/classification/{RUN}.json"
OWN = {"image_size": 40, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.3, 0.4, 0.6],
       "deviation": [0.2, 0.3, 0.25]}  # fmt: skip
FORCED = ((), ("--forceall",), ("--forcerun", "train"), ("--config", f'retrain=["{RUN}"]'))

KINDS: dict[str, Callable[[bytes], str | None]] = {
    "no sidecar": lambda content: None,
    "damaged": lambda content: "{",
    "no origin": lambda content: json.dumps({"md5": hashlib.md5(content).hexdigest(), "recipe": "x"}),
    "other MD5": lambda content: json.dumps({"md5": "0" * 32, "origin": "trained", "recipe": "x"}),
}
"""Sidecars of somebody's weights, which then nobody may replace."""


@pytest.fixture
def tiny(project: Project) -> Project:
    """A fresh copy with a scale that takes seconds, and in the place of a run weights of its architecture."""
    from lska.models.pretrained import save_weights
    from lska.models.runs import Run
    from lska.settings.scale import load

    (project.root / TINY).parent.mkdir(parents=True)
    (project.root / TINY).write_bytes(SCALE.read_bytes())
    config = load([SCALE])
    save_weights(fresh(config, Run.parse(RUN), 4), project.root / config.weights_path(RUN))
    return project


def started(tiny: Project, *options: str) -> str:
    """What Snakemake, told to measure the weights, says; `error: ` before it where it failed."""
    done = tiny.run("snakemake", "--cores", "2", "--configfile", TINY, *options, "--", METRICS)
    assert "Traceback" not in done.stdout + done.stderr
    return ("" if done.returncode == 0 else "error: ") + done.stdout + done.stderr


def test_weights_that_nothing_vouches_for_stop_the_pipeline_and_stay(tiny: Project) -> None:
    weights = tiny.root / "checkpoints" / "tiny" / f"{RUN}.safetensors"
    content, sidecar = weights.read_bytes(), weights.with_suffix(".json")
    for kind, text in KINDS.items():
        sidecar.unlink(missing_ok=True)
        if (said_of_it := text(content)) is not None:
            sidecar.write_text(said_of_it)
        for options in FORCED[:2] if kind == "no sidecar" else FORCED[:1]:
            said = started(tiny, *options)
            assert said.startswith("error: ") and f"lska: error: checkpoints/tiny/{RUN}" in said, (kind, options, said)
            assert weights.read_bytes() == content
            assert (sidecar.read_text() if sidecar.exists() else None) == said_of_it


def test_imported_weights_are_measured_as_they_are_whatever_is_forced(tiny: Project) -> None:
    weights = tiny.root / "checkpoints" / "tiny" / f"{RUN}.safetensors"
    content, sidecar = weights.read_bytes(), weights.with_suffix(".json")
    about = {"md5": hashlib.md5(content).hexdigest(), "origin": "imported", "spec": {"recipe": OWN}}
    sidecar.write_text(json.dumps(about))
    for options in FORCED:
        said = started(tiny, *options)
        assert ("take" in said and "out of the setting retrain" in said) == ("--config" in options), said[-3000:]
        assert "train van_tiny" not in said
        assert weights.read_bytes() == content and json.loads(sidecar.read_text()) == about
    measured = read_json(tiny.root / METRICS)
    assert (measured["weights"]["origin"], measured["detail"]["preprocessing"]) == ("imported", OWN)
