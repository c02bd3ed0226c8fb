"""Published weights: every wrapping and naming, from files and from a server; what is refused; once more, and after a
kill."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_helpers import leave
from safetensors.torch import save_file
from served_files import Server
from syrupy.assertion import SnapshotAssertion
from test_checkpoint import RunsCode
from test_networks import SMALL, buffers_of_swin, published_pvt_v2, published_swin
from tiny_project import Project, free_port, fresh
from torch import nn

from lska.models import create
from lska.models.pretrained import read_weights
from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices
from lska.pipeline.dvc import fetch
from lska.pipeline.published import PATIENCE, PublishedError, import_weights
from lska.provenance.errors import LskaError
from lska.provenance.files import file_hash, read_json
from lska.provenance.metric_files import project_root, seal_problem, write_sealed
from lska.provenance.sidecars import PUBLISHED, Preprocessing
from lska.settings.scale import load
from lska.settings.schema import known_files
from lska.settings.tasks import ClassifierJob
from lska.train.engine import prepared

ARCHITECTURE = {"embed_dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
OWN = {"image_size": 32, "test_crop": 1.0, "test_interpolation": "bilinear", "mean": [0.5, 0.4, 0.3],
       "deviation": [0.2, 0.2, 0.2]}  # fmt: skip


def network(project: Project, seed: int = 0) -> nn.Module:
    """The network of the project's run with other weights for every seed."""
    config = project.config()
    return fresh(config, Run(project.run.model, project.run.attention, project.run.kernel, seed), 4)


def state(project: Project, seed: int = 0, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: one.contiguous() for name, one in network(project, seed).state_dict().items()}


def imported(project: Project, source: Path | str | None, changes: dict[str, Any] | None = None, **more: Any) -> str:
    config = project.config(changes or {})
    return import_weights(config.classifier(project.run), None if source is None else str(source), **more)


def weights_of(project: Project) -> Path:
    return project.config().weights_path(project.run)


def sidecar_of(project: Project) -> dict[str, Any]:
    content = read_json(weights_of(project).with_suffix(".json"))
    assert seal_problem(content) is None and "seal" in content
    return content


def choice(project: Project, changes: dict[str, Any] | None = None) -> Any:
    return Choices(project.config(changes or {})).of(str(project.run))


def published(project: Project, **entry: Any) -> dict[str, Any]:
    """Changes of the configuration: the run is imported, as the entry of its network says."""
    return {
        "runs": [{**project.settings["runs"][0], "source": "imported"}],
        "published": {"van_tiny-lska-k7": {"file": "w.pth", "preprocessing": OWN, **entry}},
    }


def beside(project: Project, model: str, architecture: dict[str, Any]) -> ClassifierJob:
    """A run of another network in the same configuration."""
    runs = [{"model": model, "seed": 0}, *project.settings["runs"]]
    config = project.config({"runs": runs, "architecture": {model: architecture}})
    return config.classifier(Run(model, None, None, 0))


WRAPPINGS: dict[str, tuple[str, Callable[[Project], Any], str | None]] = {
    "bare": ("w.pth", lambda project: state(project), None),
    "state_dict": (
        "VAN tiny.pth.tar",
        lambda project: {
            "epoch": 309, "args": argparse.Namespace(lr=1e-3), "state_dict": state(project, prefix="module."),
            "state_dict_ema": state(project, 1),
        },
        "state_dict",
    ),
    "model": (
        "slak.pt",
        lambda project: {
            "model": state(project), "model_ema": state(project, 1), "args": argparse.Namespace(), "epoch": "best",
        },
        "model",
    ),
    "state_dict_ema": ("ema.pth", lambda project: {"state_dict_ema": state(project)}, "state_dict_ema"),
    "safetensors": ("w.safetensors", lambda project: state(project), None),
}  # fmt: skip
"""Files by name, what they hold, and under which key."""


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_published_wrapping_becomes_weights_with_a_sidecar(
    project: Project, server: Server, wrapping: str
) -> None:
    name, content, key = WRAPPINGS[wrapping]
    (save_file if name.endswith(".safetensors") else torch.save)(content(project), name)
    sha256, place = file_hash(Path(name)), f"/v1/{name.replace(' ', '%20')}"
    server.files[place] = Path(name).read_bytes()
    for source in (name, None if " " in name else f"{server.address}{place}"):
        if source is None:
            continue
        told = imported(project, source)
        assert told.startswith(f"{weights_of(project)}: imported from {source} (SHA-256 {sha256}, as first seen)")
        found, wanted = read_weights(weights_of(project)), state(project)
        assert found.keys() == wanted.keys() and all(torch.equal(found[one], wanted[one]) for one in wanted)
        sidecar = sidecar_of(project)
        assert (sidecar["origin"], sidecar["recipe"], sidecar["md5"]) == (
            "imported", None, file_hash(weights_of(project), "md5")
        )  # fmt: skip
        address = source if "://" in source else None
        stated = {name: sidecar["source"][name] for name in ("file", "address", "sha256", "size", "key")}
        size = Path(name).stat().st_size
        assert stated == {"file": name, "address": address, "sha256": sha256, "size": size, "key": key}
        assert sidecar["spec"]["architecture"] == ARCHITECTURE and sidecar["spec"]["run"] == str(project.run)
        # What the network says, as its authors evaluated it.
        assert sidecar["spec"]["recipe"] == {
            "image_size": 224, "test_crop": 0.9, "test_interpolation": "bicubic", "mean": [0.5] * 3,
            "deviation": [0.5] * 3,
        }  # fmt: skip
        assert choice(project).state == "here"
        for path in list(weights_of(project).parent.iterdir()):
            path.unlink()
    if wrapping == "model":
        imported(project, name, key="model_ema")
        assert torch.equal(read_weights(weights_of(project))["head.weight"], state(project, 1)["head.weight"])
        assert sidecar_of(project)["source"]["key"] == "model_ema"


SWIN = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
NAMES: dict[str, tuple[dict[str, Any], Callable[[str], str], str | None]] = {
    "swin_tiny_patch4_window7_224": (SWIN, published_swin, "model"),
    "pvt_v2_b0": ({"depths": [1, 1, 1, 1]}, published_pvt_v2, None),
    "deit_small_patch16_224": ({"embed_dim": 24, "depth": 2, "num_heads": 2}, str, "model"),
    "convnext_tiny": (
        {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]},
        lambda name: re.sub(r"^stem\.", "downsample_layers.0.", re.sub(
            r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", re.sub(
                r"stages\.(\d)\.blocks\.", r"stages.\1.", name.replace("conv_dw", "dwconv")
                .replace("mlp.fc", "pwconv").replace("head.norm.", "norm.").replace("head.fc.", "head."),
            ),
        )),
        "model",
    ),
    "pvt_tiny": (SMALL["pvt_tiny"], str, None),
    "slak_tiny": (SMALL["slak_tiny"], str, "model"),
    "replknet_31t": (SMALL["replknet_31t"], str, "state_dict"),
}  # fmt: skip
"""Small siblings of the comparison networks: settings, the names of their publication, and its wrapping."""


def test_published_names_become_those_of_the_network(project: Project) -> None:
    for model, (architecture, renamed, key) in NAMES.items():
        architecture = json.loads(json.dumps(architecture))
        torch.manual_seed(3)
        own = create(model, num_classes=4, **architecture).state_dict()
        content = {renamed(name): tensor for name, tensor in own.items()}
        assert renamed is str or not own.keys() & {"head.fc.weight"} or "head.weight" in content
        content |= buffers_of_swin() if model.startswith("swin") else {}
        torch.save({key: content} if key else content, "w.pth")
        job = beside(project, model, architecture)
        import_weights(job, "w.pth")
        found = read_weights(job.weights)
        assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own), model


def test_a_tag_of_timms_hub_gives_address_hash_and_preprocessing(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}
    run, name = Run("convnext_tiny", None, None, 0), "timm:convnext_tiny.fb_in1k"
    job = beside(project, run.model, architecture)
    save_file(create(run.model, num_classes=4, **architecture).state_dict(), "w.safetensors")
    content = Path("w.safetensors").read_bytes()
    hub = "/timm/convnext_tiny.fb_in1k/resolve/main/model.safetensors"
    server.files["/storage"], server.moved[hub] = content, f"{server.address}/storage"
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.headers[hub] = {"X-Linked-ETag": f'"{"0" * 64}"'}
    with pytest.raises(ValueError, match=rf"{name}: expected the SHA-256 {'0' * 64} \(its server\), found "):
        import_weights(job, name)
    server.headers[hub] = {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    assert "compared with its server" in import_weights(job, name)
    sidecar = read_json(job.weights.with_suffix(".json"))
    assert (sidecar["source"]["address"], sidecar["source"]["file"]) == (name, "convnext_tiny.fb_in1k.safetensors")
    # Of this tag at timm's size for testing; the bare name stands for weights of other training data.
    assert (sidecar["spec"]["recipe"]["image_size"], sidecar["spec"]["recipe"]["test_crop"]) == (288, 1.0)
    job.weights.unlink()
    import_weights(job)
    assert job.weights.is_file() and server.asked == [hub, "/storage"] * 3
    for other in ("timm:swin_tiny_patch4_window7_224.ms_in1k", "timm:convnext_tiny.none", "timm:none"):
        with pytest.raises(ValueError, match="expected weights of convnext_tiny on timm's hub, which has timm:convn"):
            import_weights(job, other)


def bad(project: Project, server: Server) -> dict[str, tuple[str, dict[str, Any]]]:
    """Sources that are refused, with options."""
    sound = state(project)
    torch.save(sound, "sound.pth")
    content = Path("sound.pth").read_bytes()
    Path("cut.pth").write_bytes(content[: len(content) // 2])
    for suffix in ("pth", "safetensors"):
        Path(f"page.{suffix}").write_text("\n<!DOCTYPE html><title>Sign in</title>" * 20)
    torch.save({"state_dict": {"head.weight": RunsCode(Path("trace"))}}, "code.pth")
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        torch.save({**sound, "norm1.weight": torch.full_like(sound["norm1.weight"], value)}, f"{name}.pth")
    torch.save({**sound, "norm1.weight": torch.ones(9)}, "shape.pth")
    lka = create("van_tiny", attention="lka", kernel_size=7, num_classes=4, **ARCHITECTURE)
    torch.save(lka.state_dict(), "lka.pth")
    other = {**sound, "head.weight": torch.ones(5, 8), "head.bias": torch.ones(5)}
    torch.save(other, "classes.pth")
    Path("van-0badc0de.pth").write_bytes(content)
    Path("w.bin").write_bytes(content)
    server.files |= {"/page.pth": Path("page.pth").read_bytes(), "/half.pth": content[:5000]}
    server.headers["/half.pth"] = {"Content-Length": str(len(content))}
    return {
        **{name: (f"{name}.pth", {}) for name in ("cut", "page", "code", "nan", "inf", "shape", "lka", "classes")},
        "a page as safetensors": ("page.safetensors", {}),
        "another hash in the name": ("van-0badc0de.pth", {}),
        "another hash": ("sound.pth", {"sha256": "0badc0de"}),
        "another suffix": ("w.bin", {}),
        "no such file": ("none.pth", {}),
        "a folder": ("data", {}),
        "no such mapping": ("sound.pth", {"key": "model_ema"}),
        "attention of its own": ("sound.pth", {"architecture": {"attention": "lka"}}),
        "no such setting": ("sound.pth", {"architecture": {"depth": 3}}),
        "no such preparation": ("sound.pth", {"preprocessing": {"crop": 0.9}}),
        "an impossible preparation": ("sound.pth", {"preprocessing": {"test_crop": 3}}),
        "a page of a server": (f"{server.address}/page.pth", {}),
        "not there": (f"{server.address}/none.pth", {}),
        "half a download": (f"{server.address}/half.pth", {}),
        "no server": (f"http://127.0.0.1:{free_port()}/w.pth", {}),
        "no name": (f"{server.address}/download?id=3", {}),
        "a password": ("http://me:secret@127.0.0.1/w.pth", {}),
        "another scheme": ("s3://bucket/w.pth", {}),
    }


def test_a_silent_server_is_not_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PATIENCE <= 30
    monkeypatch.setattr("lska.pipeline.published.PATIENCE", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/w.pth"
        with pytest.raises(PublishedError, match="w.pth: cannot be downloaded .*timed out"):
            imported(project, address)


def test_what_is_refused_leaves_nothing(project: Project, server: Server, snapshot: SnapshotAssertion) -> None:
    told = {}
    for name, (source, options) in bad(project, server).items():
        try:
            pytest.fail(f"{name}: {imported(project, source, **options)}")
        except LskaError as error:
            caught = error
        text = str(caught).replace(server.address, "<server>")
        told[name] = re.sub("(?<=127.0.0.1:)[0-9]+", "<port>", re.sub("[0-9a-f]{64}", "<sha256>", text))
        left = list(weights_of(project).parent.iterdir()) if weights_of(project).parent.is_dir() else []
        assert left == [], name
    assert not Path("trace").exists(), "code was run"
    assert told == snapshot


def test_hashes_that_fit_are_recorded_with_who_states_them(project: Project) -> None:
    torch.save(state(project), "w.pth")
    sha256 = file_hash(Path("w.pth"))
    place = PUBLISHED / f"van-{sha256[:8]}.pth"
    place.parent.mkdir(parents=True)
    Path("w.pth").rename(place)
    changes = published(project, file=place.name, sha256=sha256)
    imported(project, None, changes)
    assert sidecar_of(project)["source"]["compared"] == "the configuration, the name of the file"
    assert sidecar_of(project)["spec"]["recipe"] == OWN
    # One that is given explicitly stands for the name's, which may be a date.
    dated = place.with_name("van-20230904.pth")
    place.rename(dated)
    for who, options in (("--sha256", {"sha256": sha256[:10]}), ("the configuration", {})):
        for path in list(weights_of(project).parent.iterdir()):
            path.unlink()
        imported(project, None, published(project, file=dated.name, sha256=None if options else sha256), **options)
        assert sidecar_of(project)["source"]["compared"] == who
        # As does that of the first import, where lost weights are made once more.
        weights_of(project).unlink()
        fetch(project.config(), str(project.run))
        assert weights_of(project).is_file()


def test_the_hash_in_the_configuration_counts_for_a_file_of_any_name(project: Project) -> None:
    for seed, name in ((0, "w (1).pth"), (1, "v.pth")):
        torch.save(state(project, seed), name)
    asked = published(project, sha256=file_hash(Path("w (1).pth")))
    with pytest.raises(PublishedError, match=r"v\.pth: expected the SHA-256 .* \(the configuration\)"):
        imported(project, "v.pth", asked)
    imported(project, "w (1).pth", asked)
    assert choice(project, asked).state == "here"
    other = published(project, file="v.pth", sha256=file_hash(Path("v.pth")))
    assert "of SHA-256" in choice(project, other).refused


def test_another_file_in_the_configuration_is_not_passed_over(project: Project) -> None:
    PUBLISHED.mkdir(parents=True)
    for seed, name in ((0, "w.pth"), (1, "v.pth")):
        torch.save(state(project, seed), PUBLISHED / name)
    asked, other = published(project), published(project, file="v.pth")
    imported(project, None, asked)
    assert choice(project, asked).state == "here"
    refused = choice(project, other).refused
    assert "for w.pth, when the configuration named w.pth" in refused and "names v.pth now; name w.pth" in refused
    for path in list(weights_of(project).parent.iterdir()):
        path.unlink()
    # One that a person gave is meant, until the configuration says something new.
    imported(project, PUBLISHED / "v.pth", asked, preprocessing=OWN)
    assert choice(project, asked).state == choice(project, other).state == "here"
    assert "named w.pth" in choice(project, published(project, file="u.pth")).refused


def test_a_second_import_is_of_the_same_file_or_refused(project: Project, server: Server) -> None:
    for seed, name in ((0, "w.pth"), (1, "v.pth")):
        torch.save(state(project, seed), name)
    server.files["/w.pth"] = Path("w.pth").read_bytes()
    weights, sidecar = weights_of(project), weights_of(project).with_suffix(".json")
    imported(project, f"{server.address}/w.pth", preprocessing=OWN)
    before, said = weights.read_bytes(), sidecar.read_bytes()
    assert "here already" in imported(project, None) and "here already" in imported(project, "w.pth")
    with pytest.raises(ValueError, match="v.pth: expected the SHA-256 ") as caught:
        imported(project, "v.pth")
    assert all(file_hash(Path(name)) in str(caught.value) for name in ("w.pth", "v.pth"))
    assert (weights.read_bytes(), sidecar.read_bytes()) == (before, said)
    # Lost ones are made as they were, of the same file.
    weights.unlink()
    assert (choice(project).state, choice(project).reason) == ("fetch", f"imported from {server.address}/w.pth")
    server.files["/w.pth"] = Path("v.pth").read_bytes()
    with pytest.raises(ValueError, match=r"the first import\), found .*bring the former file back, or move"):
        fetch(project.config(), str(project.run))
    assert not weights.exists() and sidecar.read_bytes() == said
    server.files["/w.pth"] = Path("w.pth").read_bytes()
    fetch(project.config(), str(project.run))
    assert (weights.read_bytes(), sidecar.read_bytes()) == (before, said)
    # Another preparation is another sidecar of the same weights.
    assert "test_crop 1.0 -> 0.8" in imported(project, "w.pth", preprocessing={"test_crop": 0.8})
    assert weights.read_bytes() == before and sidecar_of(project)["spec"]["recipe"] == OWN | {"test_crop": 0.8}


def test_another_mapping_of_the_same_file_is_imported_anew(project: Project) -> None:
    (PUBLISHED / "w.pth").parent.mkdir(parents=True)
    torch.save({"model": state(project), "model_ema": state(project, 1)}, PUBLISHED / "w.pth")
    imported(project, None, published(project))
    averaged = published(project, key="model_ema")
    assert choice(project, published(project)).state == "here"
    assert "differs from the configuration about w.pth (key model -> model_ema)" in choice(project, averaged).refused
    imported(project, None, averaged)
    assert torch.equal(read_weights(weights_of(project))["head.weight"], state(project, 1)["head.weight"])
    assert choice(project, averaged).state == "here" and sidecar_of(project)["source"]["key"] == "model_ema"


def test_the_configuration_says_which_runs_are_imported(project: Project, snapshot: SnapshotAssertion) -> None:
    """By what lies there: a word for the lists, and why a person has to decide."""
    weights, run, told = weights_of(project), str(project.run), {}
    address = "http://127.0.0.1:1/w.pth"
    asked, again = published(project, address=address), published(project, address=address, sha256="1" * 64)
    assert (choice(project).state, choice(project, asked).state) == ("train", "import")
    told["nothing known"] = choice(project, {"runs": asked["runs"]}).refused
    told["by hand"] = choice(project, published(project)).refused
    told["retrain"] = choice(project, {**asked, "retrain": [run]}).refused
    with pytest.raises(LskaError, match="its runs say source: imported; take that out to train it"):
        prepared(project.config(asked).classifier(project.run))
    weights.parent.mkdir(parents=True)
    weights.write_text("mine")
    told["no sidecar"] = choice(project, asked).refused
    leave(weights, "ours", recipe=project.config().classifier(project.run).digest())
    told["trained here"] = choice(project, asked).refused
    leave(weights, "mine", origin="imported", spec={"recipe": OWN})
    assert choice(project, asked).state == "here", "as a sidecar by hand says"
    with pytest.raises(ValueError, match="was written by hand"):
        imported(project, "w.pth")
    for path in list(weights.parent.iterdir()):
        path.unlink()
    torch.save(state(project), "w.pth")
    imported(project, "w.pth", asked)
    assert choice(project, asked).state == choice(project).state == "here"
    told["another hash"] = choice(project, again).refused
    told["other preparation"] = choice(project, published(project, preprocessing=OWN | {"test_crop": 0.5})).refused
    weights.unlink()
    assert choice(project, asked).state == "fetch"
    assert choice(project).reason == f"imported from {address}", "also where the runs do not say it any more"
    sidecar = sidecar_of(project)
    sidecar["source"]["address"] = None
    write_sealed(weights.with_suffix(".json"), sidecar)
    told["lost"] = choice(project, published(project)).refused
    digits = {name: re.sub("[0-9a-f]{64}|[0-9a-f]{32}", "<hash>", text) for name, text in told.items()}
    assert digits == snapshot


def test_nothing_of_a_run_changes_by_saying_that_it_is_trained(project: Project) -> None:
    said = {"runs": [{**project.settings["runs"][0], "source": "trained"}]}
    before, after = (project.config(changes).classifier(project.run) for changes in ({}, said))
    assert before == after and before.digest() == project.config(published(project)).classifier(project.run).digest()


@pytest.mark.parametrize("moment", ["lska.pipeline.published._convert", "lska.pipeline.published.write_sealed",
                                    "lska.provenance.files.os.fsync"])  # fmt: skip
def test_a_kill_leaves_nothing_half_written(
    project: Project, server: Server, child: Callable[[Callable[[], Any]], int], moment: str
) -> None:
    torch.save(state(project), "w.pth")
    server.files["/w.pth"] = Path("w.pth").read_bytes()
    source = f"{server.address}/w.pth"

    def killed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moment, lambda *_: os.kill(os.getpid(), 9))
            imported(project, source)

    assert child(killed) == -9
    weights = weights_of(project)
    assert not weights.exists() and all(path.name.startswith(".") for path in weights.parent.iterdir())
    # In a process of its own: each looks once for what others left.
    assert child(lambda: imported(project, source) and 0) == 0
    assert sorted(weights.parent.iterdir()) == [weights.with_suffix(".json"), weights]


def test_the_command_takes_settings_and_names_what_is_wrong(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model_ema": state(project), "model": state(project, 1)}, "w.pth")
    run, words = str(project.run), "--from w.pth --key model_ema --preprocessing test_crop=0.5 mean=[0.1,0.2,0.3]"
    assert project.command("weights", "import", run, *words.split(), "--model-args", "mlp_ratios=[2,2,2,2]") == 0
    assert f"{weights_of(project)}: imported from w.pth (SHA-256 " in capsys.readouterr().out
    recipe = sidecar_of(project)["spec"]["recipe"]
    assert (recipe["test_crop"], recipe["mean"]) == (0.5, [0.1, 0.2, 0.3])
    assert project.command("weights", "list") == 0 and "imported from w.pth" in capsys.readouterr().out
    assert project.command("weights", "import", "van_tiny-lska-k9-s0", "--from", "w.pth") == 1
    assert "not trained at scale test; did you mean" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        project.command("weights", "import", run, "--sha256", "xyz")
    assert "argument --sha256: expected 8 to 64 hexadecimal digits, found 'xyz'" in capsys.readouterr().err


def test_the_list_of_published_files_is_of_networks_that_there_are() -> None:
    names = {str(run).rpartition("-s")[0] for run in load([project_root() / "config/paper.yaml"]).runs}
    assert known_files() and known_files().keys() <= names
    files = [one.file for one in known_files().values()]
    assert len(set(files)) == len(files) and all(one.address or one.page for one in known_files().values())
    for one in known_files().values():
        assert not one.preprocessing or Preprocessing.of(one.preprocessing, one.file).image_size == 224
