"""``import lska`` registers our networks in timm, in either order of import, and stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def run(code: str) -> str:
    """Output of ``code`` in a fresh interpreter that finds the package."""
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    heavy = "torch timm numpy torchvision safetensors"
    assert run(f"import lska, lska.models; print([m for m in {heavy!r}.split() if m in sys.modules])") == "[]"


@pytest.mark.parametrize("imports", ["lska, timm", "timm, lska"])
def test_either_order_registers_the_models(imports: str) -> None:
    code = f"""
import warnings; warnings.simplefilter("error", UserWarning)
import {imports}, torch
print(timm.list_models("van_*"))
with torch.device("meta"):
    print(type(timm.create_model("van_tiny")).__name__)
"""
    assert run(code).splitlines() == ["['van_base', 'van_small', 'van_tiny']", "VAN"]


STAND_INS = {
    "timm/__init__.py": "import timm.layers",
    "timm/layers.py": "",
    "timm/data.txt": "kept",
    "stand_in.py": "import timm\ntimm.registered = getattr(timm, 'registered', 0) + 1",
}
IMPORTS = {
    "timm first": "import timm, lska",
    "submodule of timm": "import lska\nfrom timm.layers import __name__\nimport timm",
    "our module first": "import lska.models.registration as r\nr.OURS = ('stand_in',)\nimport stand_in, timm",
    "looked up, not imported": "import lska, importlib.util\nimportlib.util.find_spec('timm')\nimport timm",
    "another import fails before": "import lska\ntry:\n    import timm_absent\nexcept ImportError:\n    import timm",
    "asked for twice": "import lska\nlska.register_with_timm()\nimport timm\nlska.register_with_timm()",
}


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS.keys())
def test_hook_runs_once_and_leaves_no_trace(tmp_path: Path, imports: str) -> None:
    """With small stand-ins for timm and for the module that registers ours."""
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import lska.models.registration
lska.models.registration.OURS = ("stand_in",)
sys.modules.pop("lska"); sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "TimmFinder"]
{imports}
from importlib.resources import files
print(timm.registered, type(timm.__loader__).__name__, type(timm.__spec__.loader).__name__)
print((files("timm") / "data.txt").read_text(), [f for f in sys.meta_path if type(f).__name__ == "TimmFinder"])
"""
    assert run(code).splitlines() == ["1 SourceFileLoader SourceFileLoader", "kept []"]


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
