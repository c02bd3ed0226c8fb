"""Where the stand-in for mmcv's operators is put, what it refuses, and that the three models need no more of it."""

from __future__ import annotations

import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lska.models.mmcv_operators import EXTENSION, install

pytest.importorskip("mmcv", reason="mmcv's Python side is not installed")
if not install():
    pytest.skip("a compiled mmcv is installed: the stand-in is not in use", allow_module_level=True)

import mmcv.ops  # noqa: E402

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
MODELS = Path(__file__).with_name("openmmlab_operators.py")


def forget(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.delitem(sys.modules, name)


def test_installing_again_changes_nothing() -> None:
    before = sys.modules[EXTENSION]

    assert install() is True
    assert sys.modules[EXTENSION] is before


def test_mmengine_does_not_take_the_stand_in_for_a_compiled_mmcv() -> None:
    from mmengine.utils.dl_utils import mmcv_full_available

    assert importlib.util.find_spec(EXTENSION) is sys.modules[EXTENSION].__spec__
    assert not mmcv_full_available()


def test_the_environment_report_names_torchvision() -> None:
    assert mmcv.ops.get_compiler_version() == mmcv.ops.get_compiling_cuda_version() == "none (torchvision's operators)"


def test_an_operator_that_is_missing_is_named_when_it_is_called() -> None:
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)

    with pytest.raises(NotImplementedError, match="mmcv operator 'softnms'.*install a compiled mmcv 2.1"):
        mmcv.ops.soft_nms(boxes, scores)
    with pytest.raises(NotImplementedError, match="mmcv operator 'deform_conv_forward'"):
        mmcv.ops.deform_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 18, 4, 4), torch.zeros(1, 1, 3, 3), 1, 1)


def test_names_that_python_asks_modules_for_are_not_operators() -> None:
    assert not hasattr(sys.modules[EXTENSION], "__file__")
    assert not hasattr(sys.modules[EXTENSION], "__path__")


def test_a_compiled_extension_on_disk_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    forget(monkeypatch, EXTENSION)

    assert install() is False
    assert EXTENSION not in sys.modules


def test_a_compiled_extension_in_use_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = importlib.machinery.ExtensionFileLoader(EXTENSION, "_ext.so")
    compiled = ModuleType(EXTENSION)
    compiled.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader)
    monkeypatch.setitem(sys.modules, EXTENSION, compiled)

    assert install() is False
    assert sys.modules[EXTENSION] is compiled


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec(EXTENSION, None)])
def test_another_stand_in_is_an_error(
    monkeypatch: pytest.MonkeyPatch, spec: importlib.machinery.ModuleSpec | None
) -> None:
    other = ModuleType(EXTENSION)
    other.__spec__ = spec
    monkeypatch.setitem(sys.modules, EXTENSION, other)

    with pytest.raises(RuntimeError, match="another stand-in.*Remove the code that puts it there"):
        install()


def test_operators_imported_without_a_stand_in_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, EXTENSION)

    with pytest.raises(RuntimeError, match="mmcv.ops is loaded.*Start a new process"):
        install()


def test_a_failed_import_of_the_operators_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, EXTENSION, *[name for name in sys.modules if name.split(".")[:2] == ["mmcv", "ops"]])
    with pytest.raises(ModuleNotFoundError, match="mmcv._ext"):
        importlib.import_module("mmcv.ops")

    with pytest.raises(RuntimeError, match="or its import failed.*mmcv.utils.ext_loader is loaded"):
        install()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_what_the_three_models_call(device: str) -> None:
    """A fresh process: training and prediction of each model, with the operators that it called."""
    done = subprocess.run([sys.executable, MODELS, device], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout.splitlines()[-1])
    focal = ["sigmoid_focal_loss_backward", "sigmoid_focal_loss_forward"] if device == "cuda" else []
    assert calls == {
        "retinanet": ["nms", *focal],
        "mask_rcnn": ["nms", "roi_align_backward", "roi_align_forward"],
        "semantic_fpn": [],
        "focal_loss": ["sigmoid_focal_loss_backward", "sigmoid_focal_loss_forward"],
    }
