"""A scale whose weights are all published: its table is filled without training, offline it stops at once."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from served_files import Server
from tiny_project import free_port, fresh
from whole_project import SCALE, Project, work

from lska.models.runs import Run
from lska.provenance.files import file_hash, read_json
from lska.settings.scale import from_dict

pytestmark = pytest.mark.timeout(900)

LKA, LSKA = "van_tiny-lka-k23-s0", "van_tiny-lska-k23-s0"
OWN = {"image_size": 32, "test_crop": 1.0, "test_interpolation": "bilinear", "mean": [0.5, 0.5, 0.5],
       "deviation": [0.5, 0.5, 0.5]}  # fmt: skip


def settings(address: str) -> dict[str, Any]:
    """The tests' scale, reduced to its classifiers, which are imported: one from an address, one from a file."""
    scale = yaml.safe_load(SCALE.read_text("utf-8"))
    kept = {name: scale[name] for name in ("data", "training", "evaluation", "speed")}
    (group,) = scale["runs"]
    return kept | {
        "scale": "brought", "caption": "tests: imported weights",
        "runs": [{**group, "source": "imported"}],
        "architecture": {"van_tiny": scale["architecture"]["van_tiny"]},
        "published": {
            "van_tiny-lka-k23": {"file": "lka.pth", "address": address, "preprocessing": OWN},
            "van_tiny-lska-k23": {"file": "lska.pth.tar", "page": "the paper's page", "preprocessing": OWN},
        },
    }  # fmt: skip


def test_a_table_is_filled_from_published_weights_without_training(project: Project, server: Server) -> None:
    root, configuration = project.root, project.root / "brought.yaml"
    networks = {name: fresh(from_dict(settings("http://x"), "test"), Run.parse(name), 4) for name in (LKA, LSKA)}
    # Offline, with nothing put there: planning stops for what only a person can bring, the job where nobody answers.
    configuration.write_text(yaml.safe_dump(settings(f"http://127.0.0.1:{free_port()}/lka.pth")), "utf-8")
    call = ("snakemake", "--cores", "2", "--configfile", "brought.yaml", "--")
    for run, told in ((LSKA, "lska: error: weights/published/lska.pth.tar: expected"), (LKA, "Connection refused")):
        done = project.run(*call, f"results/brought/metrics/classification/{run}.json")
        said = done.stdout + done.stderr
        assert done.returncode != 0 and told in said and "Traceback" not in said, said[-3000:]
        assert "train van_tiny" not in said and "put the file there under this name" in said
    assert not [path for path in (root / "checkpoints").rglob("*") if path.is_file()]

    configuration.write_text(yaml.safe_dump(settings(f"{server.address}/lka.pth")), "utf-8")
    (root / "weights/published").mkdir(parents=True)
    wrapped = {f"module.{name}": one for name, one in networks[LSKA].state_dict().items()}
    torch.save({"state_dict": wrapped, "args": argparse.Namespace(k_size=23)}, root / "weights/published/lska.pth.tar")
    torch.save({"model": networks[LKA].state_dict()}, root / "lka.pth")
    server.files["/lka.pth"] = (root / "lka.pth").read_bytes()
    project.snakemake("--configfile", "brought.yaml", "--", "table_03", "summaries")
    counts = project.ran()
    assert {"import_weights": 2, "classification": 2}.items() <= counts.items() and "train" not in counts
    table = pd.read_csv(root / "results/brought/tables/table_03.csv")
    for run, label in ((LKA, "VAN-LKA-Tiny"), (LSKA, "VAN-LSKA-Tiny")):
        measured = read_json(root / f"results/brought/metrics/classification/{run}.json")
        cell = table[(table["row"] == label) & (table["column"] == "top-1")].iloc[0]
        assert cell["value"] == pytest.approx(measured["metrics"]["top1"]["value"])
        assert measured["detail"]["preprocessing"] == OWN and measured["weights"]["origin"] == "imported"

    # No record of a training is missed.
    assert (root / "results/brought/plots/classification.csv").read_text("utf-8").count("\n") == 1

    options = ("--config", "brought.yaml")
    verified = project.run("lska", "verify", "--json", *options)
    levels = json.loads(verified.stdout)["levels"]
    # Other tables were not asked for.
    assert levels.pop("missing") and levels.pop("note") == 1 and not any(levels.values()), verified.stdout
    explained = project.run("lska", "explain", "table_03", "--cell", "VAN-LKA-Tiny", "top-1", *options).stdout
    assert f"{server.address}/lka.pth" in explained and "Every link holds." in explained
    assert file_hash(root / "lka.pth")[:12] in explained and "lka.pth, " in explained
    assert project.planned("--configfile", "brought.yaml", "--", "table_03") == {}

    # Lost weights come back where something needs them, and the sidecar stays; another file is refused.
    weights = root / f"checkpoints/brought/{LKA}.safetensors"
    before = weights.read_bytes(), weights.with_suffix(".json").read_bytes()
    weights.unlink()
    (root / f"results/brought/metrics/classification/{LKA}.json").unlink()
    assert work(project.planned("--configfile", "brought.yaml", "--", "table_03")) == {"fetch": 1, "classification": 1}
    server.files["/lka.pth"] = (root / "weights/published/lska.pth.tar").read_bytes()
    done = project.run(*call, f"results/brought/metrics/classification/{LKA}.json")
    assert done.returncode != 0 and "expected the SHA-256 " in done.stdout + done.stderr
    assert weights.with_suffix(".json").read_bytes() == before[1] and not weights.exists()
    server.files["/lka.pth"] = (root / "lka.pth").read_bytes()
    project.snakemake("--configfile", "brought.yaml", "--", "table_03")
    assert (weights.read_bytes(), weights.with_suffix(".json").read_bytes()) == before
