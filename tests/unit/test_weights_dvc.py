"""Publishing and fetching through real DVC: a folder, and an S3 server, as remotes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import publishing
import pytest
import yaml
from publishing import NAMES, Repository, Server

from lska.provenance.files import read_json
from lska.provenance.metric_files import file_md5, write_sealed
from lska.provenance.pointers import read_pointer

FIRST = NAMES[0]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Three trained networks, nothing published, in a folder with an awkward name."""
    folder = tmp_path / "a lab's project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return publishing.make(folder)


@pytest.fixture
def published(repository: Repository) -> Repository:
    """The same with all three published and committed."""
    repository.lska("publish", *NAMES)
    repository.commit()
    return repository


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with publishing.s3_server(tmp_path / "server.log") as found:
        found.client().create_bucket(Bucket=publishing.BUCKET)
        yield found


def test_publishing_writes_pointers_and_says_what_to_commit(repository: Repository) -> None:
    repository.commit()
    said = repository.lska("publish", FIRST)
    pointer = read_pointer(repository.weights().relative_to(repository.folder))
    assert pointer.md5 == file_md5(repository.weights()) and pointer.remote == "store"
    assert pointer.published(read_json(repository.weights().with_suffix(".json")))
    assert repository.object().read_bytes() == repository.weights().read_bytes()
    command = next(line for line in said.splitlines() if "git add" in line)
    assert command.split()[2:] == [f"checkpoints/test/{FIRST}.safetensors.dvc", "dvc.yaml", "store"]
    assert "path: checkpoints/test/van_tiny-lska-k7-s0.safetensors" in (repository.folder / "dvc.yaml").read_text()
    repository.commit(*command.split()[2:])
    assert "git has these files already" in repository.lska("publish", FIRST)
    assert publishing.git(repository.folder, "status", "--porcelain") == ""


def test_a_clone_fetches_what_it_lacks_and_nothing_twice(published: Repository, tmp_path: Path, monkeypatch) -> None:
    clone = published.cloned(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    assert [line.split()[0] for line in clone.lska("list").splitlines()] == ["fetch"] * 3
    clone.lska("fetch", FIRST)
    assert clone.weights().read_bytes() == published.weights().read_bytes()
    assert [line.split()[0] for line in clone.lska("list").splitlines()] == ["here", "fetch", "fetch"]
    before = clone.weights().stat()
    said = clone.lska("fetch")
    assert f"{FIRST}.safetensors is here already" in said
    assert clone.weights().stat().st_mtime_ns == before.st_mtime_ns
    assert all(clone.weights(name).read_bytes() == published.weights(name).read_bytes() for name in NAMES)
    assert clone.dvc("status").strip() == "Data and pipelines are up to date."
    assert publishing.git(clone.folder, "status", "--porcelain") == ""


def test_plain_dvc_pull_does_the_same(published: Repository, tmp_path: Path) -> None:
    clone = published.cloned(tmp_path / "clone")
    clone.dvc("pull")
    assert all(clone.weights(name).read_bytes() == published.weights(name).read_bytes() for name in NAMES)


def test_snakemake_does_not_fetch_what_was_just_published(repository: Repository) -> None:
    path, copy = f"checkpoints/test/{FIRST}.safetensors", repository.folder / "as trained"
    repository.weights().rename(copy)
    snakefile = repository.folder / "Snakefile"
    snakefile.write_text(f"rule train:\n    output: {path!r}\n    shell: \"cp 'as trained' {{output}}\"\n")
    assert repository.run("snakemake", "--cores", "1").returncode == 0
    snakefile.write_text(snakefile.read_text().replace("cp", "dvc pull; cp"))
    assert path in repository.run("snakemake", "--cores", "1", "--list-changes", "code").stdout
    repository.lska("publish", FIRST)
    assert path not in repository.run("snakemake", "--cores", "1", "--list-changes", "code").stdout
    assert repository.weights().read_bytes() == copy.read_bytes()


def test_weights_are_refused_whose_sidecar_does_not_match(repository: Repository) -> None:
    weights = repository.weights()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"?")
    said = repository.refused("publish", *NAMES)
    assert f"{FIRST}: checkpoints/test/{FIRST}.safetensors has MD5" in said and NAMES[1] not in said
    assert not any(repository.pointer(name).exists() for name in NAMES)
    weights.write_bytes(content)
    sidecar = weights.with_suffix(".json")
    about = read_json(sidecar)
    sidecar.write_text(sidecar.read_text().replace('"dirty": false', '"dirty": true'))
    assert "it was edited after writing" in repository.refused("publish", FIRST)
    write_sealed(sidecar, {**about, "spec": {**about["spec"], "run": "another"}})
    assert "its recipe is not the digest of its spec" in repository.refused("publish", FIRST)
    sidecar.unlink()
    assert "nothing vouches for" in repository.refused("publish", FIRST)
    weights.unlink()
    assert "is missing; train it first" in repository.refused("publish", FIRST)
    assert not repository.pointer().exists() and not (repository.folder / "store").exists()


def test_an_edited_sidecar_without_a_seal_is_not_published_again(published: Repository) -> None:
    sidecar = published.weights().with_suffix(".json")
    about = {name: value for name, value in read_json(sidecar).items() if name != "seal"}
    pointer = published.pointer().read_bytes()
    sidecar.write_text(json.dumps(about | {"updates": 9}))
    assert "it was edited after these weights were published" in published.refused("publish", FIRST)
    assert published.pointer().read_bytes() == pointer


def test_weights_of_another_recipe_and_unknown_networks_are_refused(repository: Repository) -> None:
    changes = {"training": {"overrides": {"epochs": 5}}}
    assert f"{FIRST}: trained otherwise: epochs 3 -> 5" in repository.refused("publish", FIRST, changes=changes)
    assert "van_tiny-lska-k9-s0: not trained at scale test" in repository.refused("publish", "van_tiny-lska-k9-s0")
    assert "the demo is always trained from nothing" in repository.refused("publish", FIRST, changes={"scale": "demo"})


def test_a_push_that_fails_leaves_the_former_pointers(published: Repository) -> None:
    former = published.pointer().read_bytes()
    publishing.trained(published, FIRST, b"trained once more")
    published.dvc("remote", "add", "away", "s3://no-such-bucket/x")
    published.dvc("remote", "modify", "away", "endpointurl", f"http://127.0.0.1:{publishing.free_port()}")
    publishing_again = ("publish", FIRST, "--remote", "away")
    said = published.refused(*publishing_again, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    assert "nothing was published: remote 'away' (s3://no-such-bucket/x)" in said
    assert published.pointer().read_bytes() == former
    published.lska("publish", FIRST)
    assert published.pointer().read_bytes() != former


def test_a_remote_that_only_this_checkout_knows_is_pointed_out(repository: Repository, tmp_path: Path) -> None:
    repository.dvc("remote", "add", "--local", "lab", str(tmp_path / "shared folder"))
    said = repository.lska("publish", FIRST, "--remote", "lab")
    assert "remote 'lab'" in said and "is in .dvc/config.local only" in said
    assert read_pointer(repository.weights()).remote == "lab"
    assert "DVC has no remote 'elsewhere'; expected one of" in repository.refused(
        "publish", FIRST, "--remote", "elsewhere"
    )


def test_the_store_in_the_project_is_kept_small(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from lska.pipeline import publish

    monkeypatch.setattr(publish, "STORE_LIMIT", 50_000)
    publish.publish([repository.checkpoint(name) for name in NAMES[:2]])
    publish.publish([repository.checkpoint(FIRST)])
    with pytest.raises(ValueError, match="would hold 0.1 MB, above 0 MB; give another one, --remote NAME"):
        publish.publish([repository.checkpoint(NAMES[2])])
    assert not repository.pointer(NAMES[2]).exists()


def test_what_is_published_is_retrained_only_on_demand(published: Repository) -> None:
    again = {"retrain": [FIRST]}
    assert published.lska("list", changes=again).split()[0] == "train"
    assert "no published weights for this configuration: to be trained anew" in published.refused(
        "fetch", FIRST, changes=again
    )
    publishing.trained(published, FIRST, b"trained anew")
    assert published.lska("list", changes=again).split()[0] == "here"
    assert "take these out of the setting retrain" in published.lska("publish", FIRST, changes=again)


def test_other_weights_in_the_place_are_kept(published: Repository) -> None:
    published.weights().write_bytes(b"something of mine")
    said = published.refused("fetch", FIRST)
    assert "is not the published file" in said and "move it away or delete it" in said
    assert published.weights().read_bytes() == b"something of mine"


def test_a_missing_object_names_the_network_and_both_ways_out(published: Repository, tmp_path: Path) -> None:
    clone = published.cloned(tmp_path / "clone")
    clone.object().unlink()
    said = clone.refused("fetch", FIRST)
    md5 = yaml.safe_load(clone.pointer().read_text())["outs"][0]["md5"]
    assert f"{FIRST}: its weights, published in remote 'store' (store) (MD5 {md5}" in said
    assert "git checkout -- store" in said and f"""--config 'retrain=["{FIRST}"]'""" in said
    assert not clone.weights().exists()
    publishing.git(clone.folder, "checkout", "--", "store")
    clone.lska("fetch", FIRST)
    assert clone.weights().read_bytes() == published.weights().read_bytes()


def test_a_remote_that_the_settings_lack_names_the_network_and_both_ways_out(
    published: Repository, tmp_path: Path
) -> None:
    clone = published.cloned(tmp_path / "clone")
    clone.pointer().write_text(clone.pointer().read_text().replace("remote: store", "remote: lab"))
    said = clone.refused("fetch", FIRST)
    assert f"{FIRST}: its weights, published in remote 'lab' (MD5 " in said and "remote 'lab' doesn't exist" in said
    assert "dvc remote add lab <address>" in said and f"""--config 'retrain=["{FIRST}"]'""" in said


@pytest.mark.parametrize("verify", [True, False])
def test_a_tampered_object_is_refused_and_not_kept(published: Repository, tmp_path: Path, verify: bool) -> None:
    clone = published.cloned(tmp_path / "clone")
    clone.dvc("remote", "modify", "store", "verify", str(verify).lower())
    tampered = clone.object()
    content = tampered.read_bytes()
    tampered.chmod(0o644)
    tampered.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    # Where DVC trusts a remote, it takes write-protected objects of a folder for whole.
    tampered.chmod(0o444)
    assert FIRST in clone.refused("fetch", FIRST)
    assert not clone.weights().exists()
    publishing.git(clone.folder, "checkout", "--", "store")
    clone.lska("fetch", FIRST)
    assert clone.weights().read_bytes() == content


def test_without_dvc_or_git_the_message_says_what_to_do(published: Repository, tmp_path: Path) -> None:
    import shutil

    copy = Repository(tmp_path / "unpacked archive")
    shutil.copytree(published.folder, copy.folder, ignore=shutil.ignore_patterns(".git", "cache", "*.safetensors"))
    assert "dvc config --local core.no_scm true" in copy.refused("fetch", FIRST)
    copy.dvc("config", "--local", "core.no_scm", "true")
    copy.lska("fetch", FIRST)
    assert copy.weights().read_bytes() == published.weights().read_bytes()
    shutil.rmtree(copy.folder / ".dvc")
    copy.weights().unlink()
    assert "is no DVC repository" in copy.refused("fetch", FIRST)


def test_an_s3_remote_serves_another_folder(repository: Repository, server: Server, tmp_path: Path) -> None:
    publishing.use_s3(repository, server.address)
    publishing.sign_in(repository)
    assert "note:" not in repository.lska("publish", *NAMES)
    repository.commit()
    assert publishing.SECRET not in publishing.git(repository.folder, "log", "-p")
    clone = repository.cloned(tmp_path / "clone")
    publishing.sign_in(clone)
    clone.lska("fetch", FIRST)
    clone.dvc("pull")
    assert all(clone.weights(name).read_bytes() == repository.weights(name).read_bytes() for name in NAMES)


def _key(repository: Repository, name: str = FIRST) -> str:
    """Where the bucket holds the weights of a network."""
    return f"project/{repository.object(name).relative_to(repository.folder / 'store')}"


def test_a_tampered_object_in_s3_is_refused(repository: Repository, server: Server, tmp_path: Path) -> None:
    publishing.use_s3(repository, server.address)
    publishing.sign_in(repository)
    repository.lska("publish", FIRST)
    repository.commit()
    client, key = server.client(), _key(repository)
    content = client.get_object(Bucket=publishing.BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=publishing.BUCKET, Key=key, Body=content[::-1])
    clone = repository.cloned(tmp_path / "clone")
    publishing.sign_in(clone)
    said = clone.refused("fetch", FIRST)
    assert f"{FIRST}: its weights, published in remote 'bucket'" in said and "object is damaged" in said
    assert "dvc push --remote bucket" in said and not clone.weights().exists()
    client.put_object(Bucket=publishing.BUCKET, Key=key, Body=content)
    clone.lska("fetch", FIRST)
    assert clone.weights().read_bytes() == content


def test_wrong_credentials_say_so(repository: Repository, tmp_path: Path) -> None:
    # After its first requests, which make bucket and objects, this server wants to know who asks.
    with publishing.s3_server(tmp_path / "open.log") as server:
        server.client().create_bucket(Bucket=publishing.BUCKET)
        publishing.use_s3(repository, server.address)
        publishing.sign_in(repository)
        repository.lska("publish", FIRST)
        repository.commit()
    with publishing.s3_server(tmp_path / "strict.log", server.port, INITIAL_NO_AUTH_ACTION_COUNT="0"):
        clone = repository.cloned(tmp_path / "clone")
        publishing.sign_in(clone, "nobody", "wrong")
        said = clone.refused("fetch", FIRST)
    assert f"{FIRST}: its weights, published in remote 'bucket'" in said
    assert any(word in said for word in ("Access Key Id", "InvalidAccessKeyId", "Forbidden", "AccessDenied"))
    assert not clone.weights().exists()


def test_a_server_killed_in_the_middle_leaves_nothing_half_and_the_rest_is_not_fetched_again(
    repository: Repository, tmp_path: Path
) -> None:
    large = os.urandom(24_000_000)
    publishing.trained(repository, NAMES[1], large)
    with publishing.s3_server(tmp_path / "server.log") as server:
        server.client().create_bucket(Bucket=publishing.BUCKET)
        publishing.use_s3(repository, server.address)
        publishing.sign_in(repository)
        repository.lska("publish", *NAMES)
        repository.commit()
        clone = repository.cloned(tmp_path / "clone")
        publishing.sign_in(clone)
        clone.lska("fetch", FIRST)
        before = clone.weights().stat().st_mtime_ns
        with publishing.killed_after(server, 5_000_000) as (address, killed):
            clone.dvc("remote", "modify", "--local", "bucket", "endpointurl", address)
            said = clone.refused("fetch")
        assert killed.is_set(), "the server was to be killed while the object was on its way"
        clone.dvc("remote", "modify", "--local", "bucket", "endpointurl", server.address)
    assert NAMES[1] in said and not clone.weights(NAMES[1]).exists()
    with publishing.s3_server(tmp_path / "again.log", server.port) as again:
        again.client().create_bucket(Bucket=publishing.BUCKET)
        for name in NAMES[1:]:
            body = repository.weights(name).read_bytes()
            again.client().put_object(Bucket=publishing.BUCKET, Key=_key(repository, name), Body=body)
        clone.lska("fetch")
    assert clone.weights(NAMES[1]).read_bytes() == large
    assert clone.weights().stat().st_mtime_ns == before
