"""Declared versions of generators and measurements: a change of what they compute is noticed by who makes it.

    python tests/unit/test_versions.py       # record the sources and attentions of today

Attentions are told apart by what they compute, whatever their classes look like (lska.models.designs).
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lska
from lska.models.attention import gating_unit
from lska.models.counting import count
from lska.models.designs import ATTENTIONS
from lska.models.gating_units import LSKA
from lska.models.van import VAN
from lska.settings.versions import GENERATORS, MEASUREMENTS, Version, generator_versions

PACKAGE = Path(lska.__file__).parent
RECORD = Path(__file__).parents[1] / "versions.json"
ALL = GENERATORS | MEASUREMENTS
REMEDY = (
    "Would equal settings, weights and data give other results now? Then raise the number in "
    "src/lska/settings/versions.py, that of an attention in src/lska/models/designs.py. Otherwise, and then too: "
    "python tests/unit/test_versions.py"
)
UNITS = {PACKAGE / "models" / f"{design.unit.partition('.')[0]}.py" for design in ATTENTIONS.values()}
UNITS |= {PACKAGE / "models" / "designs.py"}
"""Files that the versions of attentions stand for, and the list of these."""


def computed(source: str) -> str:
    """A module without what computes nothing: imports, docstrings, comments, layout."""

    class Kept(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST | None:
            match node:
                case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                    return None
            return super().generic_visit(node)

    def text(node: object) -> str:
        # Not `ast.dump`: which empty fields there are, and whether it tells them, changes with the version of Python.
        match node:
            case ast.AST():
                fields = (f"{name}={text(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
                return f"{type(node).__name__}({', '.join(fields)})"
            case list():
                return f"[{', '.join(map(text, node))}]"
        return repr(node)

    return text(Kept().visit(ast.parse(source)))


def state(version: Version, package: Path = PACKAGE) -> dict[str, object]:
    """A version's number and a digest of its sources, wherever they lie."""
    files = []
    for place in version.sources:
        path = package / place
        assert path.exists(), f"{path} does not exist: name today's place in src/lska/settings/versions.py"
        files += [path] if path.is_file() else set(path.rglob("*.py")) - UNITS
    texts = sorted(hashlib.sha256(computed(file.read_text("utf-8")).encode()).hexdigest() for file in files)
    return {"number": version.number, "sources": hashlib.sha256("".join(texts).encode()).hexdigest()}


def behaviour(unit: Callable[[int, int], nn.Module], version: int = 1) -> dict[str, object]:
    """The version of an attention, and what it computes.

    ``design`` are parameters, FLOPs and the shapes of the weights; ``outputs`` are what becomes of given weights and
    maps in evaluation and in training, the gradients of both, and the first weights that a seed gives.
    """
    design, outputs = {}, []
    for kernel, size in ((3, (5, 6)), (7, (16, 9)), (9, (11, 12)), (23, (6, 30)), (35, (40, 7))):
        torch.manual_seed(0)
        made = unit(4, kernel).apply(VAN.init_module)
        first = [projected(parameter) for parameter in made.parameters()]
        cost = count(made, (4, *size))
        design[f"k{kernel}"] = [cost.params, cost.flops, {name: list(p.shape) for name, p in made.named_parameters()}]
        for number, (_, parameter) in enumerate(sorted(made.double().named_parameters())):
            parameter.data = torch.arange(parameter.numel()).add(number).double().cos().view_as(parameter) / 2
        x = torch.arange(8 * size[0] * size[1]).double().sin().view(2, 4, *size).requires_grad_()
        inputs, results = [x, *(parameter for _, parameter in sorted(made.named_parameters()))], []
        for y in (made.eval()(x), made.train()(x)):
            results += [y, *torch.autograd.grad(y.square().sum(), inputs)]
        outputs += [float(f"{value:.8g}") for value in (*first, *map(projected, results))]
    return {"number": version, "design": design, "outputs": outputs}


def projected(values: Tensor) -> float:
    """A number that no change of values leaves as it is, of about their size."""
    values = values.detach().double().flatten()
    return float(values @ torch.arange(len(values)).double().mul(0.7).cos()) / len(values) ** 0.5


def today() -> dict[str, dict]:
    """What is recorded."""
    sources = {name: state(version) for name, version in ALL.items()}
    units = {
        name: behaviour(lambda channels, kernel, name=name: gating_unit(channels, name, kernel), design.version)
        for name, design in ATTENTIONS.items()
    }
    return sources | {f"attention {name}": found for name, found in units.items()}


def alike(recorded: dict[str, Any] | None, found: dict[str, Any] | None) -> bool:
    """Whether both are one, apart from the rounding of outputs."""
    if recorded is None or found is None:
        return recorded is found
    (before, one), (after, other) = ((entry.get("outputs"), {**entry, "outputs": 0}) for entry in (recorded, found))
    return one == other and (before is None or before == pytest.approx(after, rel=1e-5, abs=1e-6))


def unnoticed(recorded: dict[str, dict], found: dict[str, dict]) -> list[str]:
    """Names of what was changed without its author having said whether results change."""
    names = recorded.keys() | found.keys()
    return sorted(name for name in names if not alike(recorded.get(name), found.get(name)))


def test_nothing_changed_without_its_author_having_said_whether_results_change():
    changed = unnoticed(json.loads(RECORD.read_text("utf-8")), today())
    assert not changed, f"{', '.join(changed)}: not what their version was given to. {REMEDY}"


class Rewritten(LSKA):
    """The same, written in another way."""

    def attention_map(self, x: Tensor) -> Tensor:
        return nn.Sequential(*self.children())(x)


class Reordered(LSKA):
    """The same for the same weights, which a seed gives other first values."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        self.conv0h, self.conv0v = self._modules.pop("conv0h"), self._modules.pop("conv0v")


class Clipped(LSKA):
    """Another attention."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention_map(x).clamp(max=0.9)


class Renamed(LSKA):
    """What no older checkpoint fits."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        self.project = self._modules.pop("conv1")

    def attention_map(self, x: Tensor) -> Tensor:
        self._modules["conv1"] = self.project
        weights = super().attention_map(x)
        del self._modules["conv1"]
        return weights


def test_what_an_attention_computes_counts_not_how_it_is_written():
    before = {"attention lska": behaviour(LSKA), "attention lka": {"number": 1}}
    for unit, version, noticed in ((LSKA, 1, []), (Rewritten, 1, []), (Clipped, 1, ["attention lska"]),
                                   (Reordered, 1, ["attention lska"]), (Renamed, 1, ["attention lska"]),
                                   (LSKA, 2, ["attention lska"])):  # fmt: skip
        assert unnoticed(before, before | {"attention lska": behaviour(unit, version)}) == noticed, unit
    assert unnoticed(before, {"attention lska": behaviour(LSKA)}) == ["attention lka"]


def test_the_file_of_an_attention_counts_for_no_other_version(tmp_path, monkeypatch):
    version, units = Version(1, ("models",)), tmp_path / "models" / "gating_units.py"
    units.parent.mkdir()
    for file in (units, units.with_name("counting.py")):
        file.write_text("x = 1\n")
    monkeypatch.setitem(globals(), "UNITS", {units})
    before = {"speed": state(version, tmp_path)}
    units.write_text("x = 2\n")
    assert unnoticed(before, {"speed": state(version, tmp_path)}) == []
    units.with_name("counting.py").write_text("x = 2\n")
    assert unnoticed(before, {"speed": state(version, tmp_path)}) == ["speed"]


def test_only_what_is_computed_counts_wherever_it_lies(tmp_path):
    text = 'import math\n\ndef add(x):\n    """Adds one."""\n    return x + 1\n'
    source, version = tmp_path / "adder.py", Version(1, ("adder.py",))
    source.write_text(text)
    before = {"adder": state(version, tmp_path)}
    assert unnoticed(before, {"adder": state(Version(2, ("adder.py",)), tmp_path)}) == ["adder"]
    for old, new, noticed in (
        ("x + 1", "x + 2", ["adder"]), ("x + 1", "x+1  # one more", []), ("Adds one.", "One more.", []),
        ("import math", "import os", []),
    ):  # fmt: skip
        source.write_text(text.replace(old, new))
        assert unnoticed(before, {"adder": state(version, tmp_path)}) == noticed
    source.write_text(text)
    (tmp_path / "room").mkdir()
    source.rename(tmp_path / "room" / "new.py")
    assert unnoticed(before, {"adder": state(Version(1, ("room",)), tmp_path)}) == []


def test_versions_of_a_generated_set():
    assert generator_versions("r") == [GENERATORS["renditions"].number, GENERATORS["scenes"].number]
    with pytest.raises(KeyError):
        generator_versions("c")  # made of another set


if __name__ == "__main__":
    found = today()
    lines = (f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    print(f"recorded {len(found)} versions in {RECORD}")
