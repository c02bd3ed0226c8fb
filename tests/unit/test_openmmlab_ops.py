"""The stand-in for mmcv's compiled operators, called through mmcv's own Python side, against results found by hand."""

from __future__ import annotations

import importlib.machinery
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lska.models.openmmlab import EXTENSION, install

pytest.importorskip("mmcv", reason="mmcv's Python side is not installed")
if not install():
    pytest.skip("a compiled mmcv is installed: the stand-in is not in use", allow_module_level=True)

import mmcv.ops  # noqa: E402
from mmcv.ops import batched_nms, nms, roi_align, sigmoid_focal_loss  # noqa: E402

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SQUARE, FAR = [0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def kept(device: str, threshold: float, *rows: tuple[list[float], float], **more: float) -> list[int]:
    """Indices that mmcv's `nms` keeps of boxes with scores."""
    boxes = torch.tensor([box for box, _ in rows], device=device).reshape(-1, 4)
    return nms(boxes, torch.tensor([score for _, score in rows], device=device), threshold, **more)[1].tolist()


def test_nms(device: str) -> None:
    assert kept(device, 0.5) == []
    assert kept(device, 0.5, (SQUARE, 0.25)) == [0]
    overlapping = [1.0, 0.0, 11.0, 10.0]  # IoU with the square: 90 / 110
    rows = (SQUARE, 0.5), (FAR, 0.9), (overlapping, 0.7)
    assert kept(device, 0.8, *rows) == [1, 2] and kept(device, 0.82, *rows) == [1, 2, 0]
    ties = (FAR, 0.5), (SQUARE, 0.5), (FAR, 0.5), (SQUARE, 0.5)
    assert kept(device, 0.5, *ties) == [0, 1], "by position"
    part = [0.0, 0.0, 10.0, 6.0]  # IoU 60 / 100, and float32(0.6) is larger than 0.6
    assert kept(device, 0.6, (SQUARE, 0.9), (part, 0.8)) == [0, 1]
    assert kept(device, 0.599, (SQUARE, 0.9), (part, 0.8)) == [0]
    point = [5.0, 5.0, 5.0, 5.0]
    points = (point, 0.9), (point, 0.8), (SQUARE, 0.7)
    assert kept(device, 0.5, *points) == [0, 1, 2]
    assert kept(device, 0.5, *points, offset=1) == [0, 2], "with offset 1 a point covers one pixel"
    # Offset 0: 36 / 81 = 0.444. Offset 1: 50 / 100 = 0.5.
    pair = ([0.0, 0.0, 9.0, 9.0], 0.9), ([0.0, 0.0, 9.0, 4.0], 0.8)
    assert kept(device, 0.47, *pair) == [0, 1] and kept(device, 0.47, *pair, offset=1) == [0]
    halves = torch.tensor([SQUARE, SQUARE, FAR]).bfloat16(), torch.tensor([0.25, 0.5, 0.75]).bfloat16()
    assert nms(*halves, 0.5)[1].tolist() == [2, 1]


def test_batched_nms_suppresses_within_a_class(device: str) -> None:
    boxes = torch.tensor([SQUARE, SQUARE, SQUARE, FAR], device=device)
    scores, classes = torch.tensor([0.6, 0.9, 0.8, 0.7], device=device), torch.tensor([0, 0, 1, 1], device=device)
    for split in (10000, 2):
        settings = {"type": "nms", "iou_threshold": 0.5, "split_thr": split}
        assert batched_nms(boxes, scores, classes, settings)[1].tolist() == [1, 2, 3]
        assert batched_nms(boxes, scores, classes, settings | {"max_num": 2})[1].tolist() == [1, 2]


def test_roi_align(device: str) -> None:
    # Entry (y, x) is 4 y + x, linear in both, so that a sample between pixels is read off its coordinates.
    ramp = torch.tensor([[[[4.0 * y + x for x in range(4)] for y in range(4)]]], device=device)
    whole, far = [0.0, 0.0, 0.0, 4.0, 4.0], [0.0, 40.0, 40.0, 44.0, 44.0]
    rois = torch.tensor([whole, far], device=device)
    for ratio in (0, 2):
        # Samples at pixel indices 0, 1 | 2, 3: the means of the four 2x2 blocks.
        found = roi_align(ramp, rois, 2, 1.0, ratio, "avg", True)
        assert found.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]], [[[0.0] * 2] * 2]]
    # Half a pixel further: 0.5, 1.5 | 2.5, 3.5, and what lies beyond the last pixel's centre counts as 3.
    assert roi_align(ramp, rois[:1], 2, 1.0, 2, "avg", False)[0, 0].tolist() == [[5.0, 6.75], [12.0, 13.75]]
    half = roi_align(ramp.bfloat16(), rois[:1].bfloat16() * 2, 2, 0.5, 0, "avg", True)
    assert half.dtype == torch.bfloat16 and half[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    with pytest.raises(NotImplementedError, match="roi_align_forward with pool_mode 'max'"):
        roi_align(ramp, rois, 2, 1.0, 2, "max", True)


def by_hand(x: float, positive: bool, gamma: float, alpha: float) -> float:
    p = 1 / (1 + math.exp(-x))
    return -alpha * (1 - p) ** gamma * math.log(p) if positive else -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
def test_focal_loss_and_its_gradient(device: str, gamma: float, alpha: float) -> None:
    logits = [[0.0, 1.5, -2.0], [4.0, -0.3, 0.7], [-5.0, 2.5, 0.1]]
    targets = [0, 3, 2]  # 3 of three classes is background: negative for every class
    rows = zip(logits, targets, strict=True)
    expected = [[by_hand(x, c == t, gamma, alpha) for c, x in enumerate(row)] for row, t in rows]
    x = torch.tensor(logits, dtype=torch.float64, device=device, requires_grad=True)
    t = torch.tensor(targets, device=device)
    loss = sigmoid_focal_loss(x, t, gamma, alpha, None, "none")
    torch.testing.assert_close(loss.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    mean = sigmoid_focal_loss(x, t, gamma, alpha, None, "mean").item()
    assert mean == pytest.approx(sum(map(sum, expected)) / 3), "mean over rows"
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, t, gamma, alpha, None, "sum"), x)


def test_focal_loss_equals_mmcvs_published_value(device: str) -> None:
    """Loss and gradient that mmcv's own tests (tests/test_ops/test_focal_loss.py) state for its compiled operator."""
    x = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]], device=device, requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.tensor([2, 1], device=device), 2.0, 0.25, None, "mean")
    loss.backward()
    assert loss.item() == pytest.approx(1.10251057, rel=1e-6)
    gradient = [[0.28808805, 0.11185755, -0.09602935], [0.11185755, -0.00657264, 0.40376765]]
    torch.testing.assert_close(x.grad.cpu(), torch.tensor(gradient), rtol=1e-5, atol=1e-7)


def test_focal_loss_at_its_edges(device: str) -> None:
    """Where 1 - p is 0 the loss ends at the logarithm of the smallest normal number; gradients tend to 1 - alpha."""
    x = torch.tensor([[200.0, -200.0]], device=device, requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.tensor([2], device=device), 2.0, 0.25, None, "none")
    loss.sum().backward()
    assert loss[0].tolist() == pytest.approx([0.75 * 126 * math.log(2), 0.0])
    assert x.grad[0].tolist() == [0.75, 0.0]
    none = torch.zeros(0, 3, device=device, requires_grad=True)
    sigmoid_focal_loss(none, torch.empty(0, dtype=torch.int64, device=device), 2.0, 0.25, None, "sum").backward()
    assert none.grad.shape == (0, 3)


def test_focal_loss_scales_rows_by_the_weight_of_their_class(device: str) -> None:
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]], device=device, requires_grad=True)
    t, weight = torch.tensor([1, 0], device=device), torch.tensor([3.0, 5.0], device=device)
    losses = [sigmoid_focal_loss(x, t, 2.0, 0.25, one, "none") for one in (None, weight)]
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in losses]
    for plain, weighted in (losses, gradients):
        torch.testing.assert_close(weighted, plain * torch.tensor([[5.0], [3.0]], device=device))


def test_mmdets_loss_through_the_operator_equals_its_plain_form(device: str) -> None:
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    from mmdet.models.losses.focal_loss import sigmoid_focal_loss as through_operator

    torch.manual_seed(0)
    logits = torch.randn(4, 4, device=device, requires_grad=True)
    targets, weight = torch.tensor([0, 4, 2, 4], device=device), torch.tensor([1.0, 0.0, 1.0, 1.0], device=device)
    one_hot = torch.nn.functional.one_hot(targets, 5)[:, :4]

    def found(loss: object, labels: Tensor) -> tuple[Tensor, ...]:
        value = loss(logits, labels, weight, avg_factor=3.0)
        return value, *torch.autograd.grad(value, logits)

    torch.testing.assert_close(found(through_operator, targets), found(py_sigmoid_focal_loss, one_hot))


def test_the_stand_in_is_no_compiled_mmcv_and_names_what_it_has_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mmengine.utils.dl_utils import mmcv_full_available

    stand_in = sys.modules[EXTENSION]
    assert install() and sys.modules[EXTENSION] is stand_in
    assert not mmcv_full_available() and not hasattr(stand_in, "__path__")
    with pytest.raises(NotImplementedError, match="mmcv operator 'softnms'.*install a compiled mmcv 2.1"):
        mmcv.ops.soft_nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1))
    (tmp_path / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, EXTENSION)
    assert not install() and EXTENSION not in sys.modules, "a compiled extension is left alone"
