"""Networks that no configuration names, put through the protocols of a scale, and their tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_inspection import make as make_inspected
from tiny_project import RECIPE, Project
from tiny_robustness import OTHER, RUNS, RobustProject, foreign, terminated

from lska.evaluate.networks import OutsideNetwork, outside_network, preprocessing_of
from lska.models import create
from lska.models.designs import ATTENTIONS
from lska.models.pretrained import read_weights, save_weights
from lska.provenance.errors import InputError
from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5, metric, project_root, validate, write_metrics
from lska.provenance.strict import SettingsError
from lska.settings.scale import load
from lska.tables.collect import State
from lska.tables.evaluation import evaluation_table, table_beside
from lska.tables.table_formats import to_markdown

OWN = {name: RECIPE[name] for name in ("image_size", "test_crop", "test_interpolation", "mean", "deviation")}


@pytest.fixture(autouse=True)
def paper(request: pytest.FixtureRequest) -> None:
    """The paper's values, which tables of a project read."""
    if "project" in request.fixturenames:
        request.getfixturevalue("project")
        Path("paper").symlink_to(project_root() / "paper")


def network_words(project: Project, weights: Path, **preprocessing: Any) -> list[str]:
    """The options that name a network of the first run's kind with a file of weights."""
    settings = project.config().architecture["van_tiny"] | {"attention": "lska", "kernel_size": 7}
    pairs = [[f"{name}={json.dumps(value)}" for name, value in some.items()] for some in (settings, preprocessing)]
    words = ["--model", "van_tiny", "--model-args", *pairs[0], "--weights", str(weights)]
    return [*words, *(["--preprocessing", *pairs[1]] if preprocessing else [])]


def wrapped(project: Project, path: Path) -> Path:
    """The weights of the first run as others publish such: pickled, in an outer mapping, from several GPUs."""
    tensors = read_weights(project.config().weights_path(RUNS[0]))
    torch.save({"epoch": 3, "model": {f"module.{name}": one for name, one in tensors.items()}}, path)
    return path


def content_of(folder: Path, task: str, name: str) -> dict[str, Any]:
    return json.loads((folder / "metrics" / task / f"{name}.json").read_text(encoding="utf-8"))


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Metrics are equal but for rounding: the memory layouts differ."""
    assert found["metrics"].keys() == expected["metrics"].keys()
    for name, entry in expected["metrics"].items():
        if not name.endswith("_untrained"):
            value = found["metrics"][name]["value"]
            known = None if entry["value"] is None else pytest.approx(entry["value"], rel=2e-3, abs=1e-6)
            assert value == known, name


def test_a_file_gets_in_company_what_its_run_gets(
    robust: RobustProject, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = wrapped(robust, Path("mine.pth")), foreign(robust.config())
    words = ("evaluate", "all", *network_words(robust, mine, **OWN), *network_words(robust, other.weights, **OTHER))
    assert robust.command(*words, "--output", "out") == 0
    # 24 validation images, and of perturbed sets 12 clean and 3 x 12, 6, 9 and 12: once for both networks.
    assert len(decoded) == 24 + 48 + 6 + 9 + 12
    told, logged = capsys.readouterr()
    as_option = "image_size=32 test_crop=1.0 test_interpolation=bilinear mean=[0.5,0.5,0.5] deviation=[0.5,0.5,0.5]"
    assert f"mine: van_tiny, 4 classes; images: {as_option}" in logged
    assert "Images for mine: image size 32, test crop 1.0, " in told
    assert "| mine |" in told and "| other |" in told
    assert "robustness/c_bar: data set colours_c_bar is missing" in told and "--data c_bar=FOLDER" in told
    assert "shape_texture: scale test has no section shape_texture" in told
    tasks = ("classification", *(f"robustness/{name}" for name in ("c", "a", "r", "sketch")))
    assert not list(Path("results/test").glob("metrics"))
    assert robust.command("evaluate", "classification") == 0
    assert robust.command("evaluate", "robustness", "c", "a", "r", "sketch") == 0
    for task in tasks:
        found = content_of(Path("out"), task, "mine")
        validate(found, "metrics", task)
        assert_alike(found, content_of(Path("results/test"), task, str(RUNS[0])))
        assert content_of(Path("out"), task, "other")["metrics"] != found["metrics"]
    described = found["detail"]["network"]
    assert described["preprocessing"] == OWN and described["weights"] == "mine.pth"
    assert found["weights"]["origin"] == "imported" and described["settings"]["kernel_size"] == 7
    assert content_of(Path("out"), "complexity", "mine")["metrics"]["params"]["value"] == sum(
        one.numel() for one in create("van_tiny", attention="lska", kernel_size=7, num_classes=4,
                                      **robust.config().architecture["van_tiny"]).parameters()
    )  # fmt: skip
    for suffix in (".md", ".csv", ".html", ".tex"):
        assert "mine" in Path(f"out/evaluation{suffix}").read_text(encoding="utf-8")
    # What is there is not measured again, unless the attention or the weights are others.
    kept = [path for path in Path("out/metrics").rglob("*.json") if path.parent.name not in ("complexity", "speed")]
    files = {path: path.stat().st_mtime_ns for path in kept}
    decoded.clear()
    again = ("evaluate", "robustness", "a", *network_words(robust, mine, **OWN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTENTIONS, "lska", replace(ATTENTIONS["lska"], version=2))
        assert robust.command(*again, "--output", "out") == 0
    assert len(decoded) == 6 and content_of(Path("out"), "robustness/a", "mine")["detail"]["attention_version"] == 2
    assert robust.command(*again, "--output", "out") == 0
    files[Path("out/metrics/robustness/a/mine.json")] = Path("out/metrics/robustness/a/mine.json").stat().st_mtime_ns
    decoded.clear()
    assert robust.command(*words, "--output", "out") == 0
    assert not decoded and all(path.stat().st_mtime_ns == time for path, time in files.items())
    torch.save(read_weights(other.weights), mine)
    assert robust.command("evaluate", "robustness", "r", *network_words(robust, mine, **OWN), "--output", "out") == 0
    assert len(decoded) == 9 and content_of(Path("out"), "robustness/r", "mine")["metrics"] != found["metrics"]


def test_a_file_is_looked_into_as_its_run_is(project: Project) -> None:
    inspected = make_inspected(project)
    mine = wrapped(inspected, Path("mine.pth"))
    torch.manual_seed(0)
    # Of other classes: its features have dimensions, its decisions no bias.
    save_weights(create("resnet18", num_classes=7), Path("stranger.safetensors"))
    for name in ("shape_texture", "texture_knn", "receptive_field"):
        words = (*network_words(inspected, mine, **OWN), "--model", "resnet18", "--weights", "stranger.safetensors")
        assert inspected.command("evaluate", name, *words, "--preprocessing", "image_size=32", "--output", "out") == 0
        assert inspected.command("evaluate", name, "--checkpoints", str(RUNS[0])) == 0
        found = content_of(Path("out"), name, "mine")
        assert_alike(found, content_of(Path("results/test"), name, str(RUNS[0])))
        assert content_of(Path("out"), name, "stranger")["metrics"].keys() >= found["metrics"].keys() - {
            one for one in found["metrics"] if "bias" in one or "decisions" in one
        }
    assert content_of(Path("out"), "shape_texture", "stranger")["metrics"]["shape_bias"]["value"] is None
    assert Path("out/fields/mine.npz").is_file() and not Path("results/test/fields/mine.npz").exists()


def test_averaged_weights_of_a_file_are_another_network(robust: RobustProject) -> None:
    averaged = read_weights(foreign(robust.config()).weights)
    torch.save({"model": read_weights(robust.config().weights_path(RUNS[0])), "model_ema": averaged}, "both.pth")
    words = network_words(robust, Path("both.pth"), **OWN)
    found = {}
    for key in ([], ["--key", "model_ema"]):
        assert robust.command("evaluate", "robustness", "r", *words, *key, "--output", "out") == 0
        content = content_of(Path("out"), "robustness/r", "both")
        found[content["detail"]["network"]["key"]] = content["metrics"]["ece"]["value"]
    assert found.keys() == {"model", "model_ema"} and found["model"] != found["model_ema"]
    assert robust.command("evaluate", "robustness", "r", *words, "--key", "none", "--output", "out") == 1


def test_without_weights_and_network_what_needs_none_is_measured(
    robust: RobustProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    words = ("--model", "resnet18.a1_in1k", "--preprocessing", "image_size=32")
    assert robust.command("evaluate", "all", *words, "--output", "out") == 0
    tasks = {path.parent.name for path in Path("out/metrics").rglob("*.json")}
    assert tasks == {"complexity", "speed"}
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| resnet18.a1")]
    assert row.startswith("| resnet18.a1\\_in1k | 11.690 | 0.03")  # 11.69 M, as published
    assert content_of(Path("out"), "speed", "resnet18.a1_in1k")["weights"] == {"md5": None, "origin": "random"}


def test_other_images_at_the_same_place_are_measured_anew(robust: RobustProject) -> None:
    words, digests = network_words(robust, wrapped(robust, Path("mine.pth")), **OWN), []
    for seed in (0, 1):
        made = {"classes": 4, "image_size": 32, "train_per_class": 4, "val_per_class": 2, "seed": seed}
        changes = {"data": {"name": "shapes", "root": "made", "manifest": None, "generate": made}}
        assert robust.command("evaluate", "classification", *words, "--output", "out", changes=changes) == 0
        digests.append(content_of(Path("out"), "classification", "mine")["data"]["digest"])
    assert digests[0] != digests[1]


def test_an_interrupted_pass_goes_on(
    robust: RobustProject, child: Callable[[Callable[[], Any]], int], decoded: list[str]
) -> None:
    words = ("evaluate", "robustness", "c", *network_words(robust, wrapped(robust, Path("mine.pth")), **OWN))

    assert child(lambda: terminated(lambda: robust.command(*words, "--output", "out"), 26)) == 75
    assert not list(Path("out").glob("metrics/*/*/*.json"))
    assert robust.command(*words, "--output", "out") == 0
    assert 0 < len(decoded) < 48 and content_of(Path("out"), "robustness/c", "mine")


def test_preprocessing_is_what_file_network_and_options_say(tmp_path: Path) -> None:
    network, weights = create("resnet18", num_classes=2), tmp_path / "pytorch_model.bin.safetensors"
    found, source = preprocessing_of(network, weights)
    stated = network.pretrained_cfg
    assert (found.mean, found.image_size) == (stated["mean"], stated["test_input_size"][1])
    assert found.test_crop == stated["test_crop_pct"] and source == "pretrained_cfg of the network"
    config = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3]}}
    write_json(tmp_path / "config.json", config)
    found, source = preprocessing_of(network, weights)
    assert (found.image_size, found.mean, source) == (96, (0.1, 0.2, 0.3), str(tmp_path / "config.json"))
    write_json(tmp_path / "config.json", config | {"architecture": "resnet50"})
    assert preprocessing_of(network, weights)[1] == "pretrained_cfg of the network"
    write_json(weights.with_suffix(".json"), {"lr": 0.1})
    assert preprocessing_of(network, weights)[1] == "pretrained_cfg of the network"
    save_weights(network, weights)
    sidecar = {"md5": "0" * 32, "origin": "imported", "spec": {"recipe": OTHER}}
    write_json(weights.with_suffix(".json"), sidecar)
    with pytest.raises(InputError, match="is the sidecar of other weights"):
        preprocessing_of(network, weights)
    write_json(weights.with_suffix(".json"), sidecar | {"md5": file_md5(weights)})
    found, source = preprocessing_of(network, weights, {"test_crop": 0.5})
    assert found.to_dict() == OTHER | {"test_crop": 0.5} and source == str(weights.with_suffix(".json"))


def test_results_are_called_after_the_file() -> None:
    for file, name in (("a.pth.tar", "a"), ("a.pth", "a"), ("a.b.safetensors", "a.b"), ("a.tar", "a")):
        assert outside_network("resnet18", Path("folder") / file).name == name
    with pytest.raises(SettingsError, match="--name 'my network'"):
        outside_network("resnet18", Path("my network.pth"))


def test_results_keep_the_version_of_an_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTIONS, "lska", replace(ATTENTIONS["lska"], version=3))
    small = {"embed_dims": [8], "depths": [1], "mlp_ratios": [1], "kernel_size": 7}
    for model, settings, version in (("van_tiny", small, 3), ("van_tiny", small | {"attention": "lka"}, None),
                                     ("resnet18", {}, None)):  # fmt: skip
        subject = OutsideNetwork("mine", model, settings).open(torch.device("cpu"))
        assert subject.version.get("attention_version") == version, (model, settings)
        # The control of receptive fields is the same network whenever it is measured.
        assert all(map(torch.equal, subject.fresh().parameters(), subject.fresh().parameters()))


def test_what_cannot_be_measured_is_told_before_anything_is(
    robust: RobustProject, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    mine = network_words(robust, wrapped(robust, Path("mine.pth")), **OWN)
    save_weights(create("resnet18", num_classes=9), Path("nine.safetensors"))
    made = {"data": {"name": "shapes", "root": "made", "manifest": None, "generate": {"classes": 4, "image_size": 32}}}
    Path("taken/metrics/speed").mkdir(parents=True)
    Path("taken/metrics/speed/x.json").write_text('{"scale": "another"}')
    cases: dict[str, tuple[str, ...]] = {
        "no network": ("all",),
        "no folder": ("classification", *mine),
        "folder of a scale": ("classification", *mine, "--output", "results/test/own"),
        "folder of another scale": ("classification", *mine, "--output", "taken"),
        "folder without a network": ("classification", "--output", "out"),
        "file in place of a run": ("robustness", "c_bar", "--checkpoints", "mine.pth"),
        "no weights": ("classification", "--model", "resnet18", "--output", "out"),
        "no file": ("classification", "--model", "resnet18", "--weights", "none.pth", "--output", "out"),
        "no model": ("speed", "--model", "resnet19", "--output", "out"),
        "no setting": ("speed", "--model", "van_tiny", "--model-args", "kernel=7", "--output", "out"),
        "no setting of timm's": ("speed", "--model", "resnet18", "--model-args", "x=1", "--output", "out"),
        "other weights": ("speed", "--model", "resnet18", "--model-args", "pretrained=true", "--output", "out"),
        "no classifier": ("speed", "--model", "resnet18", "--model-args", "features_only=true", "--output", "out"),
        "no size of its": ("speed", "--model", "vit_tiny_patch16_224", "--preprocessing", "image_size=96", "--output",
                           "out"),
        "runs beside it": ("classification", str(RUNS[0]), *mine, "--output", "out"),
        "no name": ("speed", "--model", "resnet18", "--name", "a/b", "--output", "out"),
        "one name twice": ("classification", *mine, *mine, "--output", "out"),
        "other classes": ("classification", "--model", "resnet18", "--weights", "nine.safetensors", "--output", "out"),
        "preprocessing": ("classification", *network_words(robust, Path("mine.pth"), image_size=0, mean=5), "--output",
                          "out"),
        "no such data": ("classification", *mine, "--data", "c=sets/c", "x=y", "--output", "out"),
        "no section": ("texture_knn", *mine, "--output", "out"),
        "data that are not there": ("robustness", "r", *mine, "--data", "nowhere", "--output", "out"),
        "other data": ("robustness", "r", *mine, "--data", "sets/a", "--output", "out"),
    }  # fmt: skip
    found = {}
    for name, words in cases.items():
        assert robust.command("evaluate", *words) == 1, name
        found[name] = capsys.readouterr().err.replace(str(Path.cwd()), "HERE")
    assert robust.command("evaluate", "classification", *mine, "--data", "x", "--output", "out", changes=made) == 1
    found["generated data"] = capsys.readouterr().err
    with pytest.raises(SystemExit):
        robust.command("evaluate", "classification", "--weights", "mine.pth", "--model", "resnet18")
    found["weights first"] = capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        robust.command("evaluate", "classification", *mine, "--weights", "other.pth", "--output", "out")
    found["two files"] = capsys.readouterr().err.splitlines()[-1]
    assert {name: re.sub(r"\d\d:\d\d:\d\d \w+ .*\n", "", text) for name, text in found.items()} == snapshot
    assert not list(Path("out").rglob("metrics/*"))


def test_networks_without_maps_of_that_size_are_left_out_of_receptive_fields() -> None:
    from lska.evaluate.networks import _unfit

    config = load([project_root() / "config/paper.yaml"])
    network = OutsideNetwork("vit", "vit_tiny_patch16_224", weights=Path("any"))
    subject = OutsideNetwork("vit", "vit_tiny_patch16_224").open(torch.device("cpu"))
    assert "takes no images of 1024 pixels" in _unfit(config, "receptive_field", network, subject)
    dynamic = OutsideNetwork("vit", "vit_tiny_patch16_224", {"dynamic_img_size": True}, Path("any"))
    assert "keeps no feature map" in _unfit(config, "receptive_field", dynamic, subject)
    assert _unfit(config, "receptive_field", OutsideNetwork("r", "resnet18", weights=Path("any")), subject) is None


def put(folder: Path, task: str, name: str, values: dict[str, float], data: str | None, **settings: Any) -> None:
    """A metric file of a network from elsewhere."""
    size, second, md5 = (settings.pop(key, usual) for key, usual in (("size", 224), ("second", 0), ("md5", "0" * 32)))
    described = {
        "model": settings.pop("model", "van_tiny"), "settings": settings, "classes": 1000, "weights": "x.pth",
        "preprocessing": {"image_size": size}, "preprocessing_source": "x",
    }  # fmt: skip
    write_metrics(
        folder / "metrics" / task / f"{name}.json", task=task, run=name, scale="paper",
        started=datetime(2026, 1, 1, second=second, tzinfo=UTC), weights={"md5": md5, "origin": "imported"},
        metrics={key: metric(value, "%" if key.startswith("top1") else "1", n=50000, standard_error=0.2)
                 for key, value in values.items()},
        data=None if data is None else {"name": data, "digest": f"sha256:{'0' * 64}"}, extra={"network": described},
    )  # fmt: skip


def test_values_stand_beside_those_of_the_paper_where_it_has_the_network(
    tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    config = load([project_root() / "config/paper.yaml"])
    lska = {"attention": "lska", "kernel_size": 23}
    put(tmp_path, "classification", "ours", {"top1": 75.1}, "imagenet1k", **lska)
    put(tmp_path, "classification", "worse", {"top1": 60.0}, "imagenet1k", **lska)
    put(tmp_path, "classification", "narrow", {"top1": 60.0}, "imagenet1k", **lska, depths=[1, 1, 1, 1])
    put(tmp_path, "classification", "elsewhere", {"top1": 75.0}, "flowers", **lska)
    put(tmp_path, "classification", "enlarged", {"top1": 75.0}, "imagenet1k", **lska, size=288)
    put(tmp_path, "classification", "convnext", {"top1": 82.1}, "imagenet1k", model="convnext_tiny.fb_in1k")
    put(tmp_path, "classification", "resnet", {"top1": 70.0}, "imagenet1k", model="resnet18")
    corrupted = {"top1_mean_19": 40.0, "mce_15": 80.0, "mce_19": 79.0}
    put(tmp_path, "robustness/c", "resnet", corrupted, "imagenet_c", model="resnet18")
    put(tmp_path, "complexity", "ours", {"params": 4029000, "flops": 841000000}, None, **lska)
    table = evaluation_table(config, tmp_path, project_root() / "paper")
    assert {row.label: table.cell(row.label, "top-1").state for row in table.rows} == {
        "ours": State.REPRODUCED, "worse": State.DEVIATES, "narrow": State.OTHER_DATA, "elsewhere": State.OTHER_DATA,
        "enlarged": State.OTHER_DATA, "convnext": State.REPRODUCED, "resnet": State.FOREIGN,
    }  # fmt: skip
    assert table.cell("ours", "top-1").paper == "75.0" and table.cell("resnet", "top-1").paper is None
    assert table.cell("ours", "Params").state is State.REPRODUCED
    assert table.cell("ours", "C, mean top-1 of 19").state is State.NOT_RUN
    assert to_markdown(table) == snapshot(name="evaluation")


def test_a_row_is_of_one_network_with_one_file_of_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, values = load([project_root() / "config/paper.yaml"]), {"top1": 75.0}
    put(tmp_path, "classification", "mine", values, "imagenet1k", second=1)
    put(tmp_path, "robustness/r", "mine", values, "imagenet_r", second=2, md5="1" * 32)
    put(tmp_path, "robustness/sketch", "mine", values, "imagenet_sketch", second=2, md5="1" * 32)
    put(tmp_path, "complexity", "mine", {"params": 4029000}, None, second=3)
    table = evaluation_table(config, tmp_path, project_root() / "paper")
    measured = {cell.column for row in table.rows for cell in row.cells if cell.files}
    assert measured == {"Params", "R, top-1", "Sketch, top-1"}
    assert "mine: left out" in caplog.text and "metrics/classification/mine.json, of another network" in caplog.text
    put(tmp_path, "complexity", "mine", {"params": 11690000}, None, second=3, model="resnet18")
    table = evaluation_table(config, tmp_path, project_root() / "paper")
    assert {cell.column for row in table.rows for cell in row.cells if cell.files} == {"R, top-1", "Sketch, top-1"}


def test_rows_of_a_folder_stand_below_those_of_a_table(
    robust: RobustProject, capsys: pytest.CaptureFixture[str]
) -> None:
    words = network_words(robust, wrapped(robust, Path("mine.pth")), **OWN)
    assert robust.command("evaluate", "robustness", "r", *words, "--output", "out") == 0
    assert robust.command("evaluate", "robustness", "r") == 0
    capsys.readouterr()
    assert robust.command("evaluate", "complexity", *map(str, RUNS)) == 0
    section = robust.settings["robustness"]
    settings = robust.settings | {"robustness": section | {"sets": {"r": section["sets"]["r"]}}}
    Path("config.yaml").write_text(json.dumps(settings))
    assert robust.command("table", "table_10", "--beside", "out") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| yours: mine |")]
    assert row.count("not run") == 9
    assert robust.command("table", "table_10", "--beside", "out", "--output", "tables") == 0
    lines = [line for line in Path("tables/table_10.csv").read_text().splitlines() if "yours: mine" in line]
    assert any(",your network," in line for line in lines)
    # A user without results of the scale sees hers in the same table.
    Path("results").rename("gone")
    capsys.readouterr()
    assert robust.command("table", "table_10", "--beside", "out") == 0
    assert "44.4" in capsys.readouterr().out
    Path("gone").rename("results")
    assert robust.command("table", "table_10", "--beside", "nowhere") == 1
    assert robust.command("table", "table_10", "--beside", "results/test") == 1
    told = capsys.readouterr().err
    assert "nowhere: expected results of `lska evaluate" in told and "found a run of a scale" in told
    assert not table_beside("table_13", robust.config(), [Path("out")]).rows[-1].label.startswith("yours")
