"""Weights: published names, published wrappings, clear refusals."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from syrupy.assertion import SnapshotAssertion
from torch import nn

from lska.models import create
from lska.models.pretrained import CheckpointError, load_weights, read_weights, save_weights

SMALL = {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 10}


def small(seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return create("van_tiny", **({"kernel_size": 7} | SMALL | settings))


def equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def published_tiny() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the released VAN-LSKA-Tiny checkpoint with k = 23, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (weight[0],)

    def add_batch_norm(name: str, c: int) -> None:
        add(name, c)
        shapes[f"{name}.running_mean"] = shapes[f"{name}.running_var"] = (c,)
        shapes[f"{name}.num_batches_tracked"] = ()

    previous = 3
    for i, (c, blocks, hidden) in enumerate([(32, 3, 256), (64, 3, 512), (160, 5, 640), (256, 2, 1024)], start=1):
        side = 7 if i == 1 else 3
        add(f"patch_embed{i}.proj", c, previous, side, side)
        add_batch_norm(f"patch_embed{i}.norm", c)
        for j in range(blocks):
            block, gate = f"block{i}.{j}", f"block{i}.{j}.attn.spatial_gating_unit"
            shapes[f"{block}.layer_scale_1"] = shapes[f"{block}.layer_scale_2"] = (c,)
            add_batch_norm(f"{block}.norm1", c)
            add_batch_norm(f"{block}.norm2", c)
            for name in (f"{block}.attn.proj_1", f"{block}.attn.proj_2", f"{gate}.conv1"):
                add(name, c, c, 1, 1)
            add(f"{gate}.conv0h", c, 1, 1, 5)
            add(f"{gate}.conv0v", c, 1, 5, 1)
            add(f"{gate}.conv_spatial_h", c, 1, 1, 7)
            add(f"{gate}.conv_spatial_v", c, 1, 7, 1)
            add(f"{block}.mlp.fc1", hidden, c, 1, 1)
            add(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            add(f"{block}.mlp.fc2", c, hidden, 1, 1)
        add(f"norm{i}", c)
        previous = c
    add("head", 1000, 256)
    return shapes


def test_a_file_with_the_released_names_loads_strictly(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {f"module.{name}": torch.rand(shape, generator=generator) for name, shape in published_tiny().items()}
    arguments = argparse.Namespace(model="van_tiny", lr=1e-3)
    path = tmp_path / "VAN_Tiny released.pth.tar"
    torch.save({"epoch": 309, "arch": "van_tiny", "args": arguments, "state_dict": tensors}, path)
    model = create("van_tiny", attention="lska", kernel_size=23)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == published_tiny()
    load_weights(model, path)
    loaded = model.state_dict()
    assert all(torch.equal(own, tensors[f"module.{name}"].to(own.dtype)) for name, own in loaded.items())


def test_round_trip_is_exact(tmp_path: Path) -> None:
    model = small(1).to(memory_format=torch.channels_last)
    model(torch.randn(2, 3, 32, 32))
    path = tmp_path / "it's a file.safetensors"
    save_weights(model, path)
    other = small(2)
    assert not equal(model, other)
    load_weights(other, path)
    assert equal(model, other)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_published_wrappings_load(tmp_path: Path) -> None:
    model, other = small(1), small(2)
    wrappings = ((None, ""), ("state_dict", "module."), ("model", ""), ("state_dict_ema", "module._orig_mod."))
    for suffix, (wrapper, prefix) in zip((".pth", ".pt", ".pth.tar", ".pth"), wrappings, strict=True):
        state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / f"w{suffix}")
        other = small(2)
        load_weights(other, tmp_path / f"w{suffix}")
        assert equal(model, other), wrapper
    torch.save({"state_dict_ema": small(3).state_dict(), "state_dict": model.state_dict()}, tmp_path / "both.pth")
    load_weights(other, tmp_path / "both.pth")
    assert equal(model, other), "plain weights come before averaged ones"


class RunsCode:
    """Unpickling this would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (self.trace,)


NORM, COUNTER, PROJ = "block1.0.norm1.weight", "block1.0.norm1.num_batches_tracked", "patch_embed1.proj.weight"


def spoiled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.flatten()[0] = value
    return tensor


WRONG = {
    "nan": {NORM: lambda t: spoiled(t, float("nan"))},
    "half": {NORM: lambda t: spoiled(t.half(), float("-inf"))},
    "beyond_32_bits": {NORM: lambda t: spoiled(t.double(), 1e300)},
    "int8": {PROJ: lambda t: t.to(torch.int8)},
    "bool": {NORM: lambda t: t > 0, COUNTER: lambda t: t > 0},
    "float8": {PROJ: lambda t: t.to(torch.float8_e4m3fn)},
    "complex": {PROJ: lambda t: t.to(torch.complex64)},
}
"""Tensors that no network takes."""


def hostile(folder: Path) -> list[Path]:
    """Files that hold no weights of the small network."""
    sound = {name: tensor.contiguous() for name, tensor in small(1).state_dict().items()}
    for name, changes in WRONG.items():
        changed = sound | {key: change(sound[key]) for key, change in changes.items()}
        save_file(changed, folder / f"{name}.safetensors")
        torch.save({"state_dict": changed}, folder / f"{name}.pth")
    save_weights(small(2, attention="lka"), folder / "lka.safetensors")
    save_weights(small(2, kernel_size=11), folder / "k11.safetensors")
    save_weights(nn.Linear(2, 2), folder / "other.safetensors")
    for share in (0, 30, 95):
        for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
            path = folder / f"cut{share}{suffix}"
            save(sound, path)
            os.truncate(path, path.stat().st_size * share // 100)
    for name in ("page.pth", "page.safetensors", "w.bin"):
        (folder / name).write_text("<!doctype html><title>Not found</title>" * 20)
    torch.save({"state_dict": {"head.weight": RunsCode(folder / "trace")}}, folder / "code.pth")
    torch.save({"epoch": 3, "loss": 0.5}, folder / "log.pth")
    torch.save([1, 2], folder / "list.pt")
    return [*sorted(folder.iterdir()), folder / "absent.pth"]


def test_files_without_weights_of_the_network_are_refused_and_change_nothing(
    tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    model, said = small(2), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for path in hostile(tmp_path):
        with pytest.raises((CheckpointError, FileNotFoundError)) as caught:
            load_weights(model, path)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), path
        said.append(str(caught.value).replace(str(tmp_path), "<folder>"))
    assert not (tmp_path / "trace").exists(), "code was run"
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_weights(model, tmp_path / "w.pth")
    assert "\n".join(said) == snapshot


def test_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(small(1), path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lska.models.pretrained.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small(2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_floats_of_other_widths_become_the_networks_own(tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        state = {name: t.to(kind) if t.is_floating_point() else t.int() for name, t in small(1).state_dict().items()}
        save_file(state, tmp_path / "w.safetensors")
        model = small(2)
        load_weights(model, tmp_path / "w.safetensors")
        loaded = model.state_dict()
        assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in state.items())


def test_a_sidecar_is_written_before_its_weights_appear(tmp_path: Path) -> None:
    path, seen = tmp_path / "w.safetensors", []
    path.write_bytes(b"former")

    def vouch(file: Path) -> None:
        seen.append((path.exists(), set(read_weights(file))))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_weights(small(1), path, vouch=vouch)
    assert seen == [(False, set(small(1).state_dict()))] and list(tmp_path.iterdir()) == []


# Whole networks of several kinds, how timm makes maps of them, and which tensors these do not have.
FEATURES: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "van_tiny": (SMALL, {}, r"head\."),
    "van_tiny cut": (SMALL, {"out_indices": (0, 2)}, r"head\.|(patch_embed|block|norm)4\."),
    "pvt_v2_b2": (
        {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1,) * 4, "num_classes": 10}, {},
        r"head\.",
    ),
    "swin_tiny_patch4_window7_224": (
        {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1,) * 4, "num_classes": 10}, {"out_indices": (0, 1)},
        r"head\.|norm\.|layers\.[23]\.",
    ),
    "convnext_tiny": (
        {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_classes": 10}, {"out_indices": (1, 2)},
        r"head\.|stages\.3\.",
    ),
    "deit_small_patch16_224": (
        {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 10}, {"out_indices": (0, 1)},
        r"head\.|norm\.|blocks\.[23]\.",
    ),
    "slak_tiny": (
        {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_classes": 10}, {"out_indices": (1,)},
        r"head\.|norm\.|(downsample_layers|stages)\.[23]\.",
    ),
    "replknet_31t": (
        {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_classes": 10}, {"out_indices": (0, 1)},
        r"head\.|norm\.|transitions\.[12]\.|stages\.[23]\.",
    ),
    "mobilenetv3_small_050": ({"num_classes": 10}, {"out_indices": (0, 1)}, r"conv_head\.|classifier\."),
    "resnet10t": ({"num_classes": 10}, {"out_indices": (2, 3)}, r"fc\.|layer4\."),
}  # fmt: skip


def test_maps_take_their_part_of_a_whole_networks_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, snapshot: SnapshotAssertion
) -> None:
    told = []
    for case, (architecture, how, absent) in FEATURES.items():
        model, path = case.split()[0], tmp_path / "whole.safetensors"
        whole = create(model, **architecture)
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter += torch.rand_like(parameter)
        save_weights(whole, path)
        maps = create(model, features_only=True, **how, **architecture)
        before = {name: tensor.clone() for name, tensor in maps.state_dict().items()}
        with caplog.at_level("INFO"):
            load_weights(maps, path)
        left = sum(bool(re.match(absent, name)) for name in whole.state_dict())
        assert f": {len(before)} tensors taken, {left} left out" in caplog.messages[-1], case
        assert left + len(before) == len(whole.state_dict()), case
        values = {name.replace(".", "_"): tensor for name, tensor in whole.state_dict().items()}
        for name, tensor in maps.state_dict().items():
            assert torch.equal(tensor, values[name.removeprefix("model.").replace(".", "_")]), (case, name)
        # What it has must be there and fit, and none of its parts may be another's.
        for name, settings in {
            "one tensor less": {}, "three blocks": {"depths": (3, 1, 2, 1)}, "another width": {"in_chans": 1},
        }.items():  # fmt: skip
            if "depths" in settings and "depths" not in architecture:
                continue
            other = create(model, **architecture | settings).state_dict()
            if not settings:
                del other[next(iter(other))]
            save_file(other, path)
            kept = {name: tensor.clone() for name, tensor in maps.state_dict().items()}
            with pytest.raises(CheckpointError) as refused:
                load_weights(maps, path)
            told.append(f"{case}, {name}: {refused.value}".replace(str(tmp_path), "<folder>"))
            assert all(torch.equal(tensor, kept[name]) for name, tensor in maps.state_dict().items())
    assert "\n".join(told) == snapshot


@pytest.mark.parametrize("wrong", [{"attention": "lka"}, {"kernel_size": 23}, {"depths": (1, 1, 1, 2)}])
def test_maps_of_another_attention_or_size_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    save_weights(small(), tmp_path / "w.safetensors")
    for how in ({}, {"out_indices": (0, 3)}):
        with pytest.raises(CheckpointError, match="do not fit the model"):
            load_weights(small(features_only=True, **how, **wrong), tmp_path / "w.safetensors")
