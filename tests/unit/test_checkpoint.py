"""Weights: published names, published wrappings, clear refusals."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
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


def test_names_and_shapes_are_those_of_the_released_checkpoint() -> None:
    with torch.device("meta"):
        model = create("van_tiny", attention="lska", kernel_size=23)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == published_tiny()


def test_file_with_released_names_loads_strictly(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {f"module.{name}": torch.rand(shape, generator=generator) for name, shape in published_tiny().items()}
    arguments = argparse.Namespace(model="van_tiny", lr=1e-3)
    path = tmp_path / "VAN_Tiny released.pth.tar"
    torch.save({"epoch": 309, "arch": "van_tiny", "args": arguments, "state_dict": tensors}, path)
    model = create("van_tiny", attention="lska", kernel_size=23)
    report = load_weights(model, path)
    assert (report.missing, report.unexpected) == ((), ())
    loaded = model.state_dict()
    for name, tensor in tensors.items():
        own = loaded[name.removeprefix("module.")]
        assert torch.equal(own, tensor.to(own.dtype))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_round_trip_is_exact(tmp_path: Path, layout: torch.memory_format) -> None:
    model = small(1).to(memory_format=layout)
    model(torch.randn(2, 3, 32, 32))
    path = tmp_path / "it's a file.safetensors"
    save_weights(model, path, {"run": "van_tiny-lska-k7-s0"})
    other = small(2)
    assert not equal(model, other)
    load_weights(other, path)
    assert equal(model, other)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with safe_open(path, "pt") as stream:
        assert stream.metadata() == {"run": "van_tiny-lska-k7-s0"}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_published_wrappings_load(tmp_path: Path, suffix: str, wrapper: str | None, prefix: str) -> None:
    model = small(1)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / f"w{suffix}")
    other = small(2)
    load_weights(other, tmp_path / f"w{suffix}")
    assert equal(model, other)


def test_averaged_weights_are_taken_only_on_demand(tmp_path: Path) -> None:
    plain, averaged, other, path = small(1), small(2), small(3), tmp_path / "both.pth"
    torch.save({"state_dict_ema": averaged.state_dict(), "state_dict": plain.state_dict()}, path)
    load_weights(other, path)
    assert equal(other, plain)
    load_weights(other, path, ema=True)
    assert equal(other, averaged)
    torch.save({"state_dict": plain.state_dict()}, path)
    with pytest.raises(CheckpointError, match="expected averaged weights"):
        load_weights(other, path, ema=True)


def test_weights_load_into_wrapped_models(tmp_path: Path) -> None:
    model, path = small(1), tmp_path / "w.safetensors"
    save_weights(nn.DataParallel(model), path)
    assert set(read_weights(path)) == set(model.state_dict())
    backbone = small(2, features_only=True)
    report = load_weights(backbone, path, strict=False)
    assert set(report.unexpected) == {"head.weight", "head.bias"}
    assert report.missing == ()
    assert torch.equal(backbone.model.block3[0].mlp.fc1.weight, model.block3[0].mlp.fc1.weight)


def test_other_attention_is_refused_with_names_and_counts(tmp_path: Path) -> None:
    path, model = tmp_path / "lka.safetensors", small(1, attention="lska")
    save_weights(small(2, attention="lka"), path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    message = str(error.value)
    assert str(path) in message
    assert "32 missing in the file: block1.0.attn.spatial_gating_unit.conv0h.weight" in message
    assert "and 22 more" in message
    assert "16 unknown to the model: block1.0.attn.spatial_gating_unit.conv0.bias" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_are_refused_with_both_shapes(tmp_path: Path, strict: bool) -> None:
    path, model = tmp_path / "k11.safetensors", small(1)
    save_weights(small(2, kernel_size=11), path)
    with pytest.raises(
        CheckpointError, match=r"8 of another shape: .*conv_spatial_h.weight \(model \(8, 1, 1, 3\), file"
    ):
        load_weights(model, path, strict=strict)


def test_nothing_in_common_is_refused_even_if_not_strict(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="2 unknown to the model: "):
        load_weights(small(), path, strict=False)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_file_is_named(tmp_path: Path, name: str, share: float) -> None:
    path, model = tmp_path / name, small()
    if path.suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        save_weights(model, path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match="truncated or foreign|foreign or would run code") as error:
        load_weights(model, path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
def test_foreign_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("<!doctype html><title>Not found</title>" * 20)
    with pytest.raises(CheckpointError, match="foreign") as error:
        load_weights(small(), path)
    assert str(path) in str(error.value)


class RunsCode:
    """Unpickling this would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (self.trace,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "code.pth", tmp_path / "trace"
    torch.save({"state_dict": {"head.weight": RunsCode(trace)}}, path)
    with pytest.raises(CheckpointError, match="would run code"):
        load_weights(small(), path)
    assert not trace.exists()


def test_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log.pth"
    torch.save({"epoch": 3, "loss": 0.5}, path)
    with pytest.raises(CheckpointError, match="found epoch, loss"):
        load_weights(small(), path)


def test_missing_file_and_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        load_weights(small(), tmp_path / "absent.pth")
    (tmp_path / "w.bin").write_bytes(b"1")
    with pytest.raises(CheckpointError, match=r"\.safetensors, \.pth, \.pt, \.tar; found '\.bin'"):
        load_weights(small(), tmp_path / "w.bin")
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_weights(small(), tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()


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


NORM, COUNTER = "block1.0.norm1.weight", "block1.0.norm1.num_batches_tracked"
PROJ = "patch_embed1.proj.weight"


def spoiled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.flatten()[0] = value
    return tensor


WRONG = {
    "NaN": ({NORM: lambda t: spoiled(t, float("nan"))}, rf"found NaN or infinite ones in 1 of \d+ tensors: {NORM}\."),
    "infinite": ({PROJ: lambda t: spoiled(t, float("-inf"))}, rf"NaN or infinite ones in 1 of \d+ tensors: {PROJ}"),
    "half": ({NORM: lambda t: spoiled(t.half(), float("inf"))}, f"NaN or infinite ones in 1 .*{NORM}"),
    "beyond 32 bits": ({NORM: lambda t: spoiled(t.double(), 1e300)}, f"NaN or infinite ones in 1 .*{NORM}"),
    "int8": ({PROJ: lambda t: t.to(torch.int8)}, rf"1 of another kind of numbers: {PROJ} \(model float32, file int8\)"),
    "int64": ({NORM: lambda t: t.to(torch.int64)}, rf"another kind of numbers: {NORM} \(model float32, file int64\)"),
    "bool": ({NORM: lambda t: t > 0}, rf"another kind of numbers: {NORM} \(model float32, file bool\)"),
    "bool counter": ({COUNTER: lambda t: t > 0}, rf"another kind of numbers: {COUNTER} \(model int64, file bool\)"),
    "float8": ({PROJ: lambda t: t.to(torch.float8_e4m3fn)}, rf"1 of another kind: {PROJ} \(float8_e4m3fn\)"),
    "complex": ({PROJ: lambda t: t.to(torch.complex64)}, rf"1 of another kind: {PROJ} \(complex64\)"),
}
"""Tensors that no network takes, and what is said of them."""


def refusals(path: Path, told: str) -> None:
    """Every way to load weights refuses those in `path`, and leaves the network as it was."""
    loaders = {
        "strict": lambda: load_weights(model, path), "in part": lambda: load_weights(model, path, strict=False),
        "timm": lambda: create("van_tiny", kernel_size=7, checkpoint_path=str(path), **SMALL),
    }  # fmt: skip
    if path.suffix == ".pth":
        loaders["average"] = lambda: load_weights(model, path, ema=True)
    model = small(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for way, load in loaders.items():
        with pytest.raises(CheckpointError, match=f"^{path}: .*{told}"):
            load()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), way


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_no_network_should_take_are_refused_by_their_names(tmp_path: Path, kind: str) -> None:
    changes, told = WRONG[kind]
    state = {name: tensor.contiguous() for name, tensor in small(1).state_dict().items()}
    state |= {name: change(state[name]) for name, change in changes.items()}
    files = tmp_path / "w.safetensors", tmp_path / "w.pth"
    save_file(state, files[0])
    torch.save({"state_dict": state, "state_dict_ema": state}, files[1])
    for path in files:
        refusals(path, told)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_become_the_networks_own(
    tmp_path: Path, kind: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name: t.to(kind) if t.is_floating_point() else t.int() for name, t in small(1).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = small(2)
    with caplog.at_level("INFO", "lska.models.pretrained"):
        load_weights(model, tmp_path / "w.safetensors")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in state.items())
    assert f"tensors from {str(kind).removeprefix('torch.')} to float32" in caplog.text
    assert "tensors from int32 to int64" in caplog.text


def test_a_sidecar_is_written_before_its_weights_appear(tmp_path: Path) -> None:
    path, seen = tmp_path / "w.safetensors", []
    path.write_bytes(b"former")

    def vouch(file: Path) -> None:
        seen.append((path.exists(), set(read_weights(file))))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_weights(small(1), path, vouch=vouch)
    assert seen == [(False, set(small(1).state_dict()))] and list(tmp_path.iterdir()) == []
