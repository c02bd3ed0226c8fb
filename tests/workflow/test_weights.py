"""The small scale in a clone: its weights come from DVC, and only what is missing is made."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from whole_project import Project, work

from lska.provenance.files import read_json
from lska.provenance.metric_files import file_md5
from lska.settings.scale import load

pytestmark = pytest.mark.timeout(900)

SMALL = ("--configfile", "config/small.yaml")
RUN = "van_tiny-lska-k53-s0"
WEIGHTS = Path("checkpoints/small") / f"{RUN}.safetensors"
METRICS = Path("results/small/metrics")
PASSES = ("robustness_c", "robustness_c_bar", "shape_texture", "texture_knn", "receptive_field")


def pull(clone: Project) -> None:
    done = clone.run("dvc", "pull")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pulled", [False, True])
def test_a_clone_has_nothing_to_fetch_train_or_measure_whatever_the_times_of_its_files(
    clone: Project, pulled: bool
) -> None:
    if pulled:
        pull(clone)
        assert file_md5(clone.root / WEIGHTS) == read_json((clone.root / WEIGHTS).with_suffix(".json"))["md5"]
    assert work(clone.planned(*SMALL, "--", "all")) == {}
    generator = random.Random(1)
    for path in clone.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            moment = generator.uniform(1.7e9, 1.75e9)
            os.utime(path, (moment, moment))
    assert work(clone.planned(*SMALL, "--", "all")) == {}


def test_missing_metrics_are_measured_on_fetched_weights(clone: Project) -> None:
    tuned = "detection/retinanet/van_tiny-lka-k23-s0"
    for name in (f"classification/{RUN}", f"robustness/c/{RUN}", tuned):
        (clone.root / METRICS / f"{name}.json").unlink()
    said = clone.snakemake("--dry-run", *SMALL, "--", "all")
    assert f"fetch weights of {RUN}: published in DVC (2.2 MB)" in said
    assert f"fetch weights of {tuned}: published in DVC (4.0 MB)" in said
    planned = work(clone.planned(*SMALL, "--", "all"))
    # The clone has no corrupted images, which are made anew of the clean ones.
    assert planned == {"fetch": 2, "data": 1, "classification": 1, "robustness_c": 1, "dense": 1}
    pull(clone)
    del planned["fetch"]
    assert work(clone.planned(*SMALL, "--", "all")) == planned


def test_an_edited_recipe_trains_what_follows_it_and_nothing_else(clone: Project) -> None:
    recipe = clone.root / "config" / "recipes" / "bccd_retinanet.yaml"
    text = recipe.read_text()
    assert "learning_rate: 1.0e-3" in text
    recipe.write_text(text.replace("learning_rate: 1.0e-3", "learning_rate: 2.0e-3"))
    said = clone.snakemake("--dry-run", *SMALL, "--", "all")
    name = "fine-tune van_tiny lka k=23 seed 0 for detection/retinanet"
    assert f"{name}: trained otherwise: learning_rate 0.001 -> 0.002" in said
    # The backbones are fetched, as the detectors start from them.
    detectors = len(load([clone.root / SMALL[-1]]).runs_of("detection/retinanet"))
    assert work(clone.planned(*SMALL, "--", "all")) == dict.fromkeys(("fetch", "fine_tune", "dense"), detectors)


def test_retrain_trains_a_published_network_and_all_that_follows_it(clone: Project) -> None:
    pull(clone)
    said = clone.snakemake("--dry-run", *SMALL, "--config", f'retrain=["{RUN}"]', "--", "all")
    assert "train van_tiny lska k=53 seed 0: to be trained again (setting retrain)" in said
    planned = work(clone.planned(*SMALL, "--config", f'retrain=["{RUN}"]', "--", "all"))
    # All images but CIFAR-10 are generated, and a clone has none.
    assert planned == {"train": 1, "classification": 1, "data": 4} | dict.fromkeys(PASSES, 1)
    plan = clone.run("lska", "plan", "--config", "config/small.yaml", "--set", f'{{"retrain": ["{RUN}"]}}')
    assert "to be trained again (setting retrain)" in plan.stdout, plan.stderr


def test_snakemake_fetches_and_a_damaged_store_is_said_on_the_terminal(clone: Project) -> None:
    weights = clone.root / WEIGHTS
    md5 = read_json(weights.with_suffix(".json"))["md5"]
    stored = clone.root / "store" / "files" / "md5" / md5[:2] / md5[2:]
    whole = stored.read_bytes()
    stored.unlink()
    done = clone.run("snakemake", "--cores", "2", *SMALL, "--", str(WEIGHTS))
    assert done.returncode != 0
    assert f"{RUN}: its weights, published in remote 'store' (store) (MD5 {md5}" in done.stderr
    assert f"""--config 'retrain=["{RUN}"]'""" in done.stderr and not weights.exists()
    stored.write_bytes(whole)
    said = clone.snakemake(*SMALL, "--", str(WEIGHTS))
    assert f"fetch weights of {RUN} (published in DVC" in said and file_md5(weights) == md5
    assert "Nothing to be done" in clone.snakemake("--dry-run", *SMALL, "--", str(WEIGHTS))
    # Somebody's own file in the place of published weights survives what makes it anew or deletes it, and stops what
    # would be made of it.
    weights.unlink()
    weights.write_bytes(b"mine")
    metrics = METRICS / f"classification/{RUN}.json"
    for option in ("--delete-all-output", "--forceall"):
        clone.snakemake(*SMALL, option, "--", str(metrics))
        assert weights.read_bytes() == b"mine" and (clone.root / metrics).is_file()
    (clone.root / metrics).unlink()
    done = clone.run("snakemake", "--cores", "2", *SMALL, "--", str(metrics))
    assert done.returncode != 0 and f"lska: error: {WEIGHTS} has MD5" in done.stderr, done.stderr
    assert weights.read_bytes() == b"mine"


def test_the_store_holds_what_pointers_name_and_is_small(committed: Path) -> None:
    pointers = [path.read_text() for path in committed.rglob("*.safetensors.dvc")]
    stored = [path for path in (committed / "store/files/md5").rglob("*") if path.is_file()]
    objects = {path.parent.name + path.name: path for path in stored}
    named = {line.split()[-1] for text in pointers for line in text.splitlines() if "md5: " in line}
    assert set(objects) == named and len(pointers) == 15
    assert all(file_md5(path) == md5 for md5, path in objects.items())
    assert sum(path.stat().st_size for path in objects.values()) <= 60_000_000
