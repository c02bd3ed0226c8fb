"""Networks as ONNX and as programs of torch.export: what the files answer, and what is refused.

Differences are shares of the largest output. Statistics and scales of BatchNorm are drawn, as those of an untrained
network would be folded without any change.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from torch import Tensor, nn

from lska.cli import main
from lska.models import create, export
from lska.models.export import ExportError, export_network, fold_batch_norms
from lska.models.pretrained import save_weights
from lska.provenance.errors import LskaError

TINY = {"num_classes": 3, "embed_dims": (4, 8, 8, 8), "depths": (1, 1, 1, 1)}
TINY_VAN = {"embed_dims": (4, 8), "depths": (1, 1), "mlp_ratios": (4, 4)}
ALL = ("batch", "height", "width")


def alive(network: nn.Module) -> nn.Module:
    """`network` with drawn statistics, scales and shifts, and with branches that count."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, least in {"running_mean": -1, "bias": -1, "running_var": 0.5, "weight": 0.5}.items():
                if getattr(module, name) is not None:
                    nn.init.uniform_(getattr(module, name), least, least + 1.5)
    for name, parameter in network.named_parameters():
        if "layer_scale" in name or name.endswith(("gamma", "head.weight")):
            nn.init.uniform_(parameter, -1, 1)
    return network.eval()


def van(attention: str = "lska", kernel_size: int = 53) -> nn.Module:
    return alive(create("van_tiny", attention=attention, kernel_size=kernel_size, num_classes=3, **TINY_VAN))


def outputs_of(path: Path, image: Tensor) -> Tensor:
    """What a file answers, read without this project."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(image).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def assert_same(path: Path, network: nn.Module, *shape: int) -> None:
    image = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    with torch.no_grad():
        expected = network(image)
    assert expected.std() > 1e-2  # no constant
    torch.testing.assert_close(outputs_of(path, image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def operators(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


def test_the_command_writes_onnx_of_any_size_with_batch_norms_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(tmp_path)
    network = van()
    save_weights(network, Path("w.safetensors"))
    stages = [f"{name}={list(values)}" for name, values in TINY_VAN.items()]
    settings = ["--model-args", "attention=lska", "kernel_size=53", *stages]
    words = "--weights w.safetensors --format onnx --output out/van.onnx --size 64 64 --fold-batch-norm"
    words += " --preprocessing test_crop=1.0 deviation=[0.25,0.25,0.25] --dynamic"
    assert main(["export", "van_tiny", *settings, *words.split(), *ALL]) == 0
    told = capfd.readouterr()
    # No warning of a library reaches the user.
    assert {re.sub(r"^\S+ INFO ", "", line) for line in told.err.splitlines()} == {
        "van_tiny: tracing it", "van_tiny: writing out/van.onnx", "van_tiny: comparing it with the network",
    }  # fmt: skip
    assert re.sub(r"\d\.\de-\d\d|\d\.\d MB", "...", told.out) == snapshot
    path = Path("out/van.onnx")
    assert [one.name for one in path.parent.iterdir()] == ["van.onnx"]
    # The kernel of 53 taps meets maps of 1 to 24 pixels.
    for shape in ((1, 3, 8, 8), (3, 3, 33, 65), (2, 3, 96, 40)):
        assert_same(path, network, *shape)

    import onnx

    written = onnx.load(path)
    axes = [one.dim_param or one.dim_value for one in written.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    notes = {one.key: one.value for one in written.metadata_props}
    assert json.loads(notes["preprocessing"]) == {
        "image_size": 64, "test_crop": 1.0, "test_interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5], "deviation": [0.25, 0.25, 0.25],
    }  # fmt: skip
    assert main(["export", "van_tiny", *settings, *words.split(), *ALL, "--preprocessing", "crop=1"]) == 1
    assert "--preprocessing: expected some of image_size" in capfd.readouterr().err


def test_a_static_program_of_torch_export_takes_one_size(tmp_path: Path) -> None:
    network, path = van("lka", 23), tmp_path / "van.pt2"
    found = export_network(network, path, "torch.export", size=(32, 48), notes={"a": "b"})
    assert found.folded is None and list(found.differences) == [(1, 3, 32, 48)]
    assert_same(path, network, 1, 3, 32, 48)
    notes = {"a": ""}
    torch.export.load(path, extra_files=notes)
    assert notes == {"a": "b"}
    with pytest.raises(AssertionError, match="Guard failed"):
        outputs_of(path, torch.zeros(1, 3, 64, 48))


class Norms(nn.Module):
    """Every place in which a BatchNorm may stand."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.plain = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, bias=False)
        self.padded, self.wide = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.grouped = nn.Conv2d(4, 8, 1, groups=2)
        self.of_shared, self.of_shared_too, self.behind = (nn.BatchNorm2d(4) for _ in range(3))
        self.unscaled = nn.BatchNorm2d(4, affine=False)
        self.before_padding, self.before_two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.of_batch, self.last = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(14)

    def forward(self, x: Tensor) -> Tensor:
        x = self.of_batch(x)
        x = self.of_shared(self.twice(x)) + self.of_shared_too(self.twice(x.flip(2)))
        x = self.unscaled(self.behind(self.plain(x))).relu()
        x = self.before_two(self.padded(self.before_padding(x)).relu())
        return self.last(torch.cat((self.wide(x), self.grouped(x)), dim=1))


def test_only_what_is_exact_is_folded() -> None:
    network = alive(Norms())
    x = torch.randn(2, 3, 9, 8)
    folded, left = fold_batch_norms(torch.export.export(network, (x,)))
    alone = "no convolution of its own before it, and "
    assert left == {
        **dict.fromkeys(("of_shared", "of_shared_too", "last"), alone + "others than convolutions read it"),
        "before_padding": alone + "that after it pads", "of_batch": "computes with the statistics of its batch",
    }  # fmt: skip
    norms = [node for node in folded.graph.nodes if node.target == torch.ops.aten.batch_norm.default]
    assert len(norms) == len(left)
    torch.testing.assert_close(folded(x), network(x))
    assert network.plain.bias is None  # the network itself is as it was


def test_without_onnxruntime_nothing_is_compared_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = alive(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = export_network(network, tmp_path / "net.onnx", "onnx", size=(8, 8), fold_batch_norm=True)
    assert found.differences == {} and (found.folded, found.left) == (1, {})
    assert found.to_text().endswith("not compared with the network: pip install onnxruntime for that")
    monkeypatch.undo()
    assert_same(tmp_path / "net.onnx", network, 1, 3, 8, 8)
    assert "BatchNormalization" not in operators(tmp_path / "net.onnx")


class Way(nn.Module):
    """Goes one of several ways that torch cannot export, or not as asked."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "one size" and x.shape[2:] != (8, 8):
            raise AssertionError("Input height doesn't match model")
        if self.kind == "content" and x.sum() > 1e6:
            x = -x
        if self.kind == "batch":
            x = x[: len(x)]
        if self.kind == "overflow":
            x = x * 1e39
        if self.kind == "chance":
            x = x + torch.rand_like(x)
        if self.kind == "slow" and torch.compiler.is_exporting():
            time.sleep(30)
        if self.kind == "other size" and x.shape[2] != 8:
            x = x * 2
        return self.linear(x.mean((2, 3)))


REFUSED = {
    "another ending": ("batch", "net.pt", "torch.export", ()),
    "another format": ("batch", "net.pt", "torchscript", ()),
    "an unknown axis": ("batch", "net.pt2", "torch.export", ("depth",)),
    "one size only": ("one size", "net.onnx", "onnx", ALL),
    "ways that depend on the image": ("content", "net.pt2", "torch.export", ()),
    "outputs that overflow": ("overflow", "net.pt2", "torch.export", ()),
    "a fixed batch": ("batch", "net.pt2", "torch.export", ALL),
    "other answers each time": ("chance", "net.pt2", "torch.export", ()),
    "a way of its own at one size": ("other size", "net.pt2", "torch.export", ("height",)),
    "no end": ("slow", "net.pt2", "torch.export", ("height",)),
}


def test_what_cannot_be_exported_is_told_in_one_message_and_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "TRACING_SECONDS", 1)
    for name in ("net.pt2", "net.onnx"):
        Path(name).write_text("former")
    told = {}
    for name, (kind, path, form, dynamic) in REFUSED.items():
        with pytest.raises(LskaError) as caught:
            export_network(Way(kind), Path(path), form, size=(8, 8), dynamic=dynamic, name="way")
        told[name] = re.sub(r"\d\.\de[-+]\d\d", "...", str(caught.value))
    with pytest.raises(ExportError) as caught:
        export_network(van(), Path("net.pt2"), "torch.export", size=(8, 8), channels=4, name="van_tiny")
    told["an image of four channels"] = str(caught.value)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(LskaError) as caught:
        export_network(Way("batch"), Path("net.onnx"), "onnx", size=(8, 8))
    told["no onnxscript"] = str(caught.value)
    assert told == snapshot
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"net.pt2": "former", "net.onnx": "former"}


SEVERAL = {
    "slak_sparse.onnx": (lambda: van("slak_sparse", 5), ALL, True),
    "lska_trivial.onnx": (lambda: van("lska_trivial", 53), ("height",), False),
    "lka.pt2": (lambda: van("lka", 35), ("batch",), True),
    "replknet.pt2": (
        lambda: alive(create("replknet_31t", **TINY, kernel_sizes=(31, 9, 7, 5))), ("batch", "width"), True
    ),
    "pvt.pt2": (lambda: alive(create("pvt_tiny", **TINY, num_heads=(1, 2, 1, 1), img_size=64)), ALL, False),
    "of timm.onnx": (lambda: alive(create("convnext_atto", num_classes=3, depths=(1, 1, 1, 1))), ("batch",), False),
    "of timm, with norms.onnx": (lambda: alive(create("resnet10t", num_classes=3)), (), True),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_networks_of_every_kind(name: str, tmp_path: Path) -> None:
    make, dynamic, fold = SEVERAL[name]
    network, path = make(), tmp_path / name
    form = next(one for one, ending in export.FORMATS.items() if ending == path.suffix)
    found = export_network(network, path, form, size=(64, 96), dynamic=dynamic, fold_batch_norm=fold)
    assert not fold or found.folded >= 4
    batch, height, width = (
        other if axis in dynamic else own for axis, other, own in zip(ALL, (3, 128, 80), (1, 64, 96), strict=True)
    )
    assert_same(path, network, 1, 3, 64, 96)
    assert_same(path, network, batch, 3, height, width)
