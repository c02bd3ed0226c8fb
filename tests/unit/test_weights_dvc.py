"""Publishing and fetching through real DVC, a folder and an S3 server as remotes; names of weights in dvc.yaml."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import publishing
import pytest
import yaml
from plan_helpers import leave
from publishing import NAMES, Repository
from syrupy.assertion import SnapshotAssertion

from lska.cli import main
from lska.pipeline import dvc as weights_in_dvc
from lska.pipeline.dvc import artifacts, update_artifacts
from lska.provenance.files import read_json
from lska.provenance.metric_files import file_md5, write_sealed
from lska.provenance.sidecars import read_pointer

FIRST = NAMES[0]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repositories of three trained networks, `trained` and `published`, to be copied."""
    folder = tmp_path_factory.mktemp("templates")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "trained").mkdir()
        patch.chdir(folder / "trained")
        publishing.make(folder / "trained")
        shutil.copytree(folder / "trained", folder / "published", symlinks=True)
        patch.chdir(folder / "published")
        published = Repository(folder / "published")
        published.lska("publish", *NAMES)
        published.commit()
    return folder


@pytest.fixture
def copied(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Repository]:
    """A copy of a template, as the working folder, with an awkward name."""

    def copy(name: str) -> Repository:
        folder = tmp_path / "a lab's project"
        shutil.copytree(templates / name, folder, symlinks=True)
        monkeypatch.chdir(folder)
        return Repository(folder)

    return copy


@pytest.fixture
def repository(copied: Callable[[str], Repository]) -> Repository:
    return copied("trained")


@pytest.fixture
def published(copied: Callable[[str], Repository]) -> Repository:
    return copied("published")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], logging_as_before: None) -> Callable[..., str]:
    """What `lska weights` says within this process."""

    def tell(*words: str, **changes: object) -> str:
        main(["weights", *words, "--config", "config.yaml", "--set", json.dumps(changes)])
        out = capsys.readouterr()
        # Without what differs from time to time.
        lines = [line for line in (out.out + out.err).splitlines() if " INFO " not in line or "here already" in line]
        return re.sub(r"\b[0-9a-f]{32,64}\b", "<digest>", "\n".join(lines))

    return tell


def test_publishing_writes_pointers_and_says_what_to_commit(repository: Repository, said: Callable[..., str]) -> None:
    repository.commit()
    told = said("publish", FIRST)
    pointer = read_pointer(repository.weights().relative_to(repository.folder))
    assert pointer.md5 == file_md5(repository.weights()) and pointer.remote == "store"
    assert pointer.published(read_json(repository.weights().with_suffix(".json")))
    assert repository.object().read_bytes() == repository.weights().read_bytes()
    command = next(line for line in told.splitlines() if "git add" in line)
    weights = f"checkpoints/test/{FIRST}"
    assert {f"{weights}.safetensors.dvc", f"{weights}.json", "dvc.yaml", "store"} <= set(command.split()[2:])
    assert "path: checkpoints/test/van_tiny-lska-k7-s0.safetensors" in (repository.folder / "dvc.yaml").read_text()
    repository.commit(*command.split()[2:])
    said("publish", FIRST)
    assert publishing.git(repository.folder, "status", "--porcelain") == ""


def test_a_clone_fetches_what_it_lacks_and_nothing_twice(
    published: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]
) -> None:
    clone = published.cloned(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    assert [line.split()[0] for line in said("list").splitlines()] == ["fetch"] * 3
    said("fetch", FIRST)
    assert [line.split()[0] for line in said("list").splitlines()] == ["here", "fetch", "fetch"]
    before = clone.weights().stat().st_mtime_ns
    clone.weights(NAMES[1]).symlink_to(f"/gone/{clone.object(NAMES[1]).relative_to(clone.folder / 'store')}")
    assert f"{FIRST}.safetensors is here already" in said("fetch")
    assert clone.weights().stat().st_mtime_ns == before
    assert all(clone.weights(name).read_bytes() == published.weights(name).read_bytes() for name in NAMES)
    assert publishing.git(clone.folder, "status", "--porcelain") == ""


def test_what_is_not_published_again_and_why(
    repository: Repository, said: Callable[..., str], snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, told = repository.weights(), {}
    sidecar, content = weights.with_suffix(".json"), weights.read_bytes()
    about = read_json(sidecar)
    told["other recipe"] = said("publish", FIRST, training={"overrides": {"epochs": 5}})
    told["unknown network"] = said("publish", "van_tiny-lska-k9-s0")
    told["demo"] = said("publish", FIRST, scale="demo")
    monkeypatch.setattr(weights_in_dvc, "STORE_LIMIT", 10_000)
    told["large"] = said("publish", FIRST)
    told["unknown remote"] = said("publish", FIRST, "--remote", "elsewhere")
    weights.write_bytes(b"others")
    told["other weights"] = said("publish", *NAMES)
    weights.write_bytes(content)
    sidecar.write_text(sidecar.read_text().replace('"dirty": false', '"dirty": true'))
    told["edited"] = said("publish", FIRST)
    write_sealed(sidecar, about | {"spec": about["spec"] | {"run": "another"}})
    told["other spec"] = said("publish", FIRST)
    sidecar.unlink()
    told["no sidecar"] = said("publish", FIRST)
    weights.unlink()
    told["no weights"] = said("publish", FIRST)
    assert not repository.pointer().exists() and not (repository.folder / "store").exists()
    assert told == snapshot


def test_a_push_that_fails_leaves_the_former_pointers(published: Repository, said: Callable[..., str]) -> None:
    sidecar, former = published.weights().with_suffix(".json"), published.pointer().read_bytes()
    whole = sidecar.read_text()
    unsealed = {name: value for name, value in read_json(sidecar).items() if name != "seal"}
    sidecar.write_text(json.dumps(unsealed | {"updates": 9}))
    assert "it was edited after these weights were published" in said("publish", FIRST)
    sidecar.write_text(whole)
    publishing.trained(FIRST, b"trained once more")
    (published.folder / ".dvc" / "config.local").write_text("['remote \"lab\"']\n    url = /proc/nobody/may/write\n")
    told = said("publish", FIRST, "--remote", "lab")
    assert "nothing was published: remote 'lab' (/proc/nobody/may/write); DVC says\n  ERROR" in told
    assert published.pointer().read_bytes() == former
    (published.folder / ".dvc" / "config.local").write_text("['remote \"lab\"']\n    url = ../../shared folder\n")
    told = said("publish", FIRST, "--remote", "lab", retrain=[FIRST])
    assert "remote 'lab'" in told and "is in .dvc/config.local only" in told and "take these out of the setting" in told
    assert read_pointer(published.weights()).remote == "lab" and published.pointer().read_bytes() != former


def test_what_is_published_is_retrained_only_on_demand(published: Repository, said: Callable[..., str]) -> None:
    assert said("list", retrain=[FIRST]).split()[0] == "train"
    assert "no published weights for this configuration: to be trained again" in said("fetch", FIRST, retrain=[FIRST])
    publishing.trained(FIRST, b"trained anew")
    assert said("list", retrain=[FIRST]).split()[0] == "here"
    published.weights(NAMES[1]).write_bytes(b"something of mine")
    told = said("fetch", NAMES[1])
    assert "is not the published file" in told and "move it away or delete it" in told
    assert published.weights(NAMES[1]).read_bytes() == b"something of mine"


def test_a_missing_or_damaged_object_names_the_network_and_both_ways_out(
    published: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str],
    snapshot: SnapshotAssertion,
) -> None:  # fmt: skip
    clone, told = published.cloned(tmp_path / "clone"), {}
    monkeypatch.chdir(clone.folder)
    stored = clone.object()
    content = stored.read_bytes()
    stored.unlink()
    lost = said("fetch", FIRST)
    assert f"{FIRST}: its weights, published in remote 'store' (store) (MD5 <digest>, 20,000 bytes), could" in lost
    # Where DVC trusts a remote, it takes write-protected objects of a folder for whole.
    config = clone.folder / ".dvc" / "config"
    config.write_text(config.read_text().replace("verify = true", "verify = false"))
    stored.write_bytes(content[::-1])
    stored.chmod(0o444)
    told["damaged"] = said("fetch", FIRST)
    assert not clone.weights().exists()
    stored.chmod(0o644)
    stored.write_bytes(content)
    clone.pointer().write_text(clone.pointer().read_text().replace("remote: store", "remote: lab"))
    told["no such remote"] = said("fetch", FIRST)
    clone.pointer().write_text(clone.pointer().read_text().replace("remote: lab", "remote: store"))
    said("fetch", FIRST)
    assert clone.weights().read_bytes() == content
    assert {name: text.replace(str(clone.folder), "<folder>") for name, text in told.items()} == snapshot


@pytest.mark.slow
def test_an_s3_remote_serves_another_folder_and_refuses_strangers_and_what_was_tampered_with(
    repository: Repository, tmp_path: Path
) -> None:
    # After its first requests, which make bucket and objects, the second server wants to know who asks.
    with publishing.s3_server(tmp_path / "open.log") as server:
        client = server.client()
        client.create_bucket(Bucket=publishing.BUCKET)
        publishing.use_s3(repository, server.address)
        publishing.sign_in(repository)
        repository.lska("publish", FIRST)
        repository.commit()
        assert publishing.SECRET not in publishing.git(repository.folder, "log", "-p")
        clone = repository.cloned(tmp_path / "clone")
        key = f"project/{repository.object().relative_to(repository.folder / 'store')}"
        publishing.sign_in(clone)
        content = client.get_object(Bucket=publishing.BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=publishing.BUCKET, Key=key, Body=content[::-1])
        told = clone.refused("fetch", FIRST)
        assert "object is damaged" in told and "dvc push --remote bucket" in told and not clone.weights().exists()
        client.put_object(Bucket=publishing.BUCKET, Key=key, Body=content)
        clone.lska("fetch", FIRST)
        assert clone.weights().read_bytes() == content == repository.weights().read_bytes()
    with publishing.s3_server(tmp_path / "strict.log", server.port, INITIAL_NO_AUTH_ACTION_COUNT="0"):
        stranger = repository.cloned(tmp_path / "stranger")
        publishing.sign_in(stranger, "nobody", "wrong")
        told = stranger.refused("fetch", FIRST)
    assert f"{FIRST}: its weights, published in remote 'bucket'" in told
    assert any(word in told for word in ("Access Key Id", "InvalidAccessKeyId", "Forbidden", "AccessDenied"))
    assert not stranger.weights().exists()


REST = """\
# What DVC compares.
metrics:
  - results/small/summary  # one file per run
artifacts:
  dictionary:
    path: words.txt  # by hand
"""


def pointed(place: str, **about: object) -> Path:
    """Leave a pointer and a sidecar, as publishing does; `place` is below checkpoints/, without suffix."""
    weights = Path(f"checkpoints/{place}.safetensors")
    leave(weights, "weights", **about)
    weights.unlink()
    weights.with_name(f"{weights.name}.dvc").touch()
    return weights.with_name(f"{weights.name}.dvc")


def test_pointers_are_named_in_dvc_yaml_whose_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("dvc.yaml")
    pointed("small/van_tiny-lska-k23-s0", recipe="sha256:0", data={"name": "cifar10"})
    control = pointed("small/detection/retinanet-untrained/van_tiny-lka_trivial-k7-s1")
    pointed("small_gpu/convnext_tiny-s0")
    update_artifacts()
    assert yaml.safe_load(file.read_text()) == {"artifacts": artifacts()}
    file.write_text(REST)
    update_artifacts()
    assert (text := file.read_text()).startswith(REST)
    update_artifacts()
    assert file.read_text() == text
    found = yaml.safe_load(file.read_text())["artifacts"]
    assert found == {"dictionary": {"path": "words.txt"}, **artifacts()} and list(artifacts()) == [
        "small-detection-retinanet-untrained-van-tiny-lka-trivial-k7-s1", "small-van-tiny-lska-k23-s0",
        "small-gpu-convnext-tiny-s0",
    ]  # fmt: skip
    assert found["small-van-tiny-lska-k23-s0"] == {
        "path": "checkpoints/small/van_tiny-lska-k23-s0.safetensors",
        "type": "model",
        "desc": "classification at small scale: van_tiny with lska, k = 23, seed 0, trained on cifar10",
        "labels": ["small", "classification", "van_tiny", "lska"],
    }
    assert found["small-gpu-convnext-tiny-s0"]["desc"] == "classification at small_gpu scale: convnext_tiny, seed 0"
    # What is no longer published goes, and what somebody added to an entry stays.
    file.write_text(file.read_text().replace("type: model", "type: other\n    meta: {doi: none}"))
    control.unlink()
    update_artifacts()
    assert "path: words.txt  # by hand" in file.read_text()
    found = yaml.safe_load(file.read_text())["artifacts"]
    assert found.pop("dictionary") and found == {
        name: {**entry, "meta": {"doi": "none"}} for name, entry in artifacts().items()
    }
    shutil.rmtree("checkpoints")
    file.write_text(file.read_text().replace("  dictionary:\n    path: words.txt  # by hand\n", ""))
    update_artifacts()
    assert "artifacts" not in yaml.safe_load(file.read_text())


def test_what_no_name_can_be_given_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(tmp_path)
    told = {}
    for text in ("metrics: [", "- metrics\n", "artifacts: {one: two}\n"):
        Path("dvc.yaml").write_text(text)
        with pytest.raises(ValueError) as error:
            update_artifacts()
        told[text] = str(error.value)
        assert Path("dvc.yaml").read_text() == text
    pointed("small/best")
    with pytest.raises(ValueError) as error:
        artifacts()
    assert told | {"no run": str(error.value)} == snapshot
