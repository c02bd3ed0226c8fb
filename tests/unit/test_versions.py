"""Declared versions of generators and measurements: a change of what they compute is noticed by who makes it.

    python tests/unit/test_versions.py       # record the sources of today
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import pytest

import lska
from lska.settings.versions import GENERATORS, MEASUREMENTS, Version, generator_versions

PACKAGE = Path(lska.__file__).parent
RECORD = Path(__file__).parents[1] / "versions.json"
ALL = GENERATORS | MEASUREMENTS
REMEDY = (
    "Would equal settings, weights and data give other results now? Then raise the number in "
    "src/lska/settings/versions.py. Otherwise, and then too: python tests/unit/test_versions.py"
)


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
        files += [path] if path.is_file() else path.rglob("*.py")
    texts = sorted(hashlib.sha256(computed(file.read_text("utf-8")).encode()).hexdigest() for file in files)
    return {"number": version.number, "sources": hashlib.sha256("".join(texts).encode()).hexdigest()}


def unnoticed(recorded: dict[str, dict], found: dict[str, dict]) -> list[str]:
    """Names of what was changed without its author having said whether results change."""
    return sorted({name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name)})


def test_no_source_changed_without_its_author_having_said_whether_results_change():
    found = {name: state(version) for name, version in ALL.items()}
    changed = unnoticed(json.loads(RECORD.read_text("utf-8")), found)
    assert not changed, f"{', '.join(changed)}: the sources are not those that their version was given to. {REMEDY}"


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
    RECORD.write_text(json.dumps({name: state(version) for name, version in ALL.items()}, indent=1) + "\n", "utf-8")
    print(f"recorded {len(ALL)} versions in {RECORD}")
