"""The names of published weights in dvc.yaml: what they follow from, and what stays of the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from lska.models.runs import Run
from lska.pipeline.artifacts import artifact_name, artifacts, update

DVC_YAML = Path("dvc.yaml")

REST = """\
# What DVC compares.
metrics:
  - results/small/summary  # one file per run

plots:
  - loss:
      title: "training loss: all runs"
      y: {results/small/plots/classification.csv: loss}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish(place: str, **sidecar: object) -> Path:
    """Leave a pointer and a sidecar, as publishing does; `place` is below checkpoints/, without suffix."""
    pointer = Path(f"checkpoints/{place}.safetensors.dvc")
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text("outs:\n- md5: " + "0" * 32 + "\n")
    pointer.with_suffix("").with_suffix(".json").write_text(json.dumps(sidecar))
    return pointer


def section() -> dict[str, dict[str, object]]:
    return yaml.safe_load(DVC_YAML.read_text()).get("artifacts")


def test_every_pointer_has_a_name_that_dvc_allows() -> None:
    publish("small/van_tiny-lska-k23-s0", md5="0" * 32, origin="trained", recipe="sha256:0", data={"name": "cifar10"})
    publish("small/detection/retinanet-untrained/van_tiny-lka_trivial-k7-s1")
    publish("small_gpu/convnext_tiny-s0")
    found = artifacts()
    assert list(found) == [
        "small-detection-retinanet-untrained-van-tiny-lka-trivial-k7-s1",
        "small-van-tiny-lska-k23-s0",
        "small-gpu-convnext-tiny-s0",
    ]
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", name) for name in found)
    assert found["small-van-tiny-lska-k23-s0"] == {
        "path": "checkpoints/small/van_tiny-lska-k23-s0.safetensors",
        "type": "model",
        "desc": "classification at small scale: van_tiny with lska, k = 23, seed 0, trained on cifar10",
        "labels": ["small", "classification", "van_tiny", "lska"],
    }
    assert found["small-gpu-convnext-tiny-s0"]["desc"] == "classification at small_gpu scale: convnext_tiny, seed 0"
    control = found["small-detection-retinanet-untrained-van-tiny-lka-trivial-k7-s1"]
    assert control["labels"] == ["small", "detection", "retinanet-untrained", "van_tiny", "lka_trivial"]


def test_weights_and_sidecars_without_a_pointer_have_none() -> None:
    publish("small/van_tiny-lska-k23-s0").unlink()
    Path("checkpoints/small/van_tiny-lska-k23-s0.safetensors").write_bytes(b"weights")
    assert artifacts() == {}


def test_the_name_is_that_of_the_pointer_that_it_is_found_by() -> None:
    publish("small/segmentation/semantic_fpn/van_base-lska-k35-s42")
    name = artifact_name("small", "segmentation/semantic_fpn", Run.parse("van_base-lska-k35-s42"))
    assert list(artifacts()) == [name]


def test_weights_of_equal_names_are_refused() -> None:
    publish("small/van_tiny-lska-k7-s0")
    DVC_YAML.write_text(REST)
    publish("small/van/tiny-s0")
    publish("small_van/tiny-s0")
    with pytest.raises(ValueError, match="small-van-tiny-s0, is that of checkpoints/small/van/tiny"):
        update()
    assert DVC_YAML.read_text() == REST


def test_a_pointer_of_no_run_is_named() -> None:
    pointer = publish("small/best")
    with pytest.raises(ValueError, match=f"{pointer}: 'best' is not a run id.* remove or rename the pointer"):
        artifacts()


def test_the_rest_of_the_file_stays_as_it_is() -> None:
    DVC_YAML.write_text(REST)
    assert not update()
    assert DVC_YAML.read_text() == REST
    publish("small/van_tiny-lska-k23-s0")
    assert update()
    text = DVC_YAML.read_text()
    assert text.startswith(REST)
    assert section() == artifacts()
    assert not update() and DVC_YAML.read_text() == text


def test_names_of_weights_that_are_no_longer_published_go_and_others_stay() -> None:
    DVC_YAML.write_text(REST + "artifacts:\n  dictionary:\n    path: words.txt  # by hand\n")
    pointer = publish("small/van_tiny-lska-k23-s0")
    publish("small/van_tiny-lska-k53-s0")
    update()
    assert list(section()) == ["dictionary", "small-van-tiny-lska-k23-s0", "small-van-tiny-lska-k53-s0"]
    pointer.unlink()
    assert update()
    assert list(section()) == ["dictionary", "small-van-tiny-lska-k53-s0"]
    assert "path: words.txt  # by hand" in DVC_YAML.read_text()


def test_without_any_name_there_is_no_section() -> None:
    DVC_YAML.write_text(REST)
    pointer = publish("small/van_tiny-lska-k23-s0")
    update()
    pointer.unlink()
    assert update()
    assert section() is None and DVC_YAML.read_text().rstrip() == REST.rstrip()


def test_an_entry_is_brought_up_to_date_and_keeps_what_was_added() -> None:
    publish("small/van_tiny-lska-k23-s0")
    update()
    mine = DVC_YAML.read_text().replace("    type: model\n", "    type: other\n    meta: {doi: none}\n")
    DVC_YAML.write_text(mine)
    assert update()
    assert section() == {
        name: {**entry, "meta": {"doi": "none"}} for name, entry in artifacts().items()
    }


def test_a_file_that_is_not_there_is_made() -> None:
    publish("small/van_tiny-lska-k23-s0")
    assert update()
    assert yaml.safe_load(DVC_YAML.read_text()) == {"artifacts": artifacts()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: [", "dvc.yaml: not valid YAML"),
        ("- metrics\n", "dvc.yaml: expected a mapping, found CommentedSeq"),
        ("artifacts: [one]\n", "dvc.yaml: artifacts: expected a mapping of names to mappings"),
        ("artifacts: {one: two}\n", "dvc.yaml: artifacts: expected a mapping of names to mappings"),
    ],
)
def test_a_faulty_file_is_left_as_it_is(text: str, message: str) -> None:
    publish("small/van_tiny-lska-k23-s0")
    DVC_YAML.write_text(text)
    with pytest.raises(ValueError, match=message):
        update()
    assert DVC_YAML.read_text() == text
    assert sorted(path.name for path in Path().iterdir()) == ["checkpoints", "dvc.yaml"]
