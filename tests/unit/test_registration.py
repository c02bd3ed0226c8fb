"""``import lska`` registers our networks in timm, in either order of import, and stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def run(code: str, *places: Path) -> str:
    """Output of ``code`` in a fresh interpreter that finds the package."""
    program = f"import sys; sys.path[:0] = {[str(place) for place in (*places, SOURCE)]!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    heavy = "torch timm numpy torchvision safetensors"
    assert run(f"import lska, lska.models; print([m for m in {heavy!r}.split() if m in sys.modules])") == "[]"


def test_the_models_are_registered() -> None:
    code = """
import lska, timm, torch
with torch.device("meta"):
    print(type(timm.create_model("van_tiny")).__name__, timm.list_models("van_*"))
"""
    assert run(code) == "VAN ['van_base', 'van_small', 'van_tiny']"


IMPORTS = {
    "lska first": "import lska, timm",
    "timm first": "import timm, lska",
    "submodule of timm": "import lska\nfrom timm.layers import __name__\nimport timm",
    "looked up, not imported": "import lska, importlib.util\nimportlib.util.find_spec('timm')\nimport timm",
    "twice, as coverage does": "import lska\nsys.modules.pop('lska')\nimport lska, timm",
}


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS.keys())
def test_hook_runs_once_and_leaves_no_trace(tmp_path: Path, imports: str) -> None:
    """With small stand-ins for timm and for our networks."""
    for name, text in {
        "timm/__init__.py": "import timm.layers", "timm/layers.py": "", "timm/data.txt": "kept",
        "stand_in.py": "import timm\ntimm.registered = getattr(timm, 'registered', 0) + 1",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code = f"""
import lska.models
lska.models.register_networks = lambda: __import__("stand_in")
sys.modules.pop("lska"); sys.meta_path.pop(0)
{imports}
from importlib.resources import files
print(timm.registered, type(timm.__loader__).__name__, vars(timm.__spec__.loader).keys() - {{"name", "path"}})
print((files("timm") / "data.txt").read_text(), [f for f in sys.meta_path if type(f).__name__ == "_TimmFinder"][1:])
"""
    assert run(code, tmp_path).splitlines() == ["1 SourceFileLoader set()", "kept []"]


def test_absent_timm_fails_as_usual() -> None:
    code = """
import lska
sys.meta_path[1:] = []  # our finder alone: nothing that could find timm
try:
    import timm
except ModuleNotFoundError as error:
    print(error)
"""
    assert run(code) == "No module named 'timm'"
