"""The packages that the source imports are those that the lock and the package ask for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import lska
from lska.provenance.metric_files import project_root

PACKAGE = Path(lska.__file__).parent
CALLED = {
    "PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless", "imagecorruptions": "imagecorruptions-imaug",
    "ruamel": "ruamel.yaml", "IPython": "ipython",
}  # fmt: skip
"""Packages that are imported by another name than they are installed by."""


def imported() -> set[str]:
    """Packages that some module imports, wherever in it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return {CALLED.get(name, name.replace("_", "-")) for name in found - set(sys.stdlib_module_names) - {"lska"}}


def asked(path: str) -> dict[str, str]:
    """Packages of a list, each with what its line says of it."""
    lines = (project_root() / "envs" / path).read_text("utf-8").splitlines()
    named = (line.partition("#") for line in lines if line and not line.startswith(("#", "-r")))
    return {re.match(r"[\w.-]+", package)[0]: said.strip() for package, _, said in named}


def test_the_list_names_what_the_source_imports_and_gives_a_reason_for_the_rest() -> None:
    listed, used = asked("requirements.in"), imported()
    assert used - listed.keys() == set()
    assert {name for name, reason in listed.items() if name not in used and not reason} == set()


def test_the_package_asks_for_the_same_and_for_two_without_the_pipeline() -> None:
    project = tomllib.loads((project_root() / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == ["torch", "timm"]
    everything = sum(project["optional-dependencies"].values(), project["dependencies"])
    assert sorted(everything) == sorted(asked("requirements.in"))


WITH_TORCH_AND_TIMM = {
    *("torch", "timm", "torchvision", "safetensors", "numpy", "pillow", "pyyaml", "filelock", "jinja2", "markupsafe"),
    "tqdm",
}
"""Packages that come with these two, by what they say of themselves."""


def test_the_networks_need_torch_and_timm_alone_and_the_command_line_says_what_it_needs(tmp_path: Path) -> None:
    modules = {package: name for name, package in CALLED.items()} | {"mmcv-lite": "mmcv", "mmsegmentation": "mmseg"}
    others = asked("requirements.in").keys() - WITH_TORCH_AND_TIMM
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(modules.get(one, one.replace("-", "_")) for one in others)!r}))
import lska, timm, torch
from lska.models import create
from lska.models.pretrained import load_weights, save_weights
network = timm.create_model("van_tiny", attention="lska", kernel_size=7, num_classes=3)
save_weights(network, "w.safetensors")
load_weights(network, "w.safetensors")
maps = create("van_tiny", attention="lka", kernel_size=23, features_only=True)(torch.zeros(1, 3, 64, 64))
print(network(torch.zeros(1, 3, 64, 64)).shape, len(maps))
from lska.__main__ import start
sys.exit(start())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([1, 3]) 4\n", done.stderr[-2000:]
    # The command line says what else it needs.
    assert done.returncode == 1 and re.match(r"lska: error: \S+ is not installed: .*`make demo`", done.stderr)
