"""The stand-in for mmcv's compiled operators, called through mmcv's own Python side, against results found by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lska.models.mmcv_operators import install

pytest.importorskip("mmcv", reason="mmcv's Python side is not installed")
if not install():
    pytest.skip("a compiled mmcv is installed: the stand-in is not in use", allow_module_level=True)

from mmcv.ops import batched_nms, nms, roi_align, sigmoid_focal_loss  # noqa: E402

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SQUARE = [0.0, 0.0, 10.0, 10.0]
FAR = [100.0, 100.0, 110.0, 110.0]
# Entry (y, x) is 4 y + x, linear in both, so that a sample between pixels is read off its coordinates.
RAMP = [[4.0 * y + x for x in range(4)] for y in range(4)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def boxes_and_scores(device: str, *rows: tuple[list[float], float]) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([box for box, _ in rows], device=device).reshape(-1, 4)
    return boxes, torch.tensor([score for _, score in rows], device=device)


def test_nms_of_no_boxes(device: str) -> None:
    kept, indices = nms(*boxes_and_scores(device), 0.5)

    assert kept.shape == (0, 5)
    assert indices.shape == (0,) and indices.dtype == torch.int64


def test_nms_keeps_one_box_with_its_score(device: str) -> None:
    kept, indices = nms(*boxes_and_scores(device, (SQUARE, 0.25)), 0.5)

    assert kept.tolist() == [[*SQUARE, 0.25]]
    assert indices.tolist() == [0]


def test_nms_returns_boxes_by_falling_score(device: str) -> None:
    overlapping = [1.0, 0.0, 11.0, 10.0]  # IoU with the square: 90 / 110
    rows = boxes_and_scores(device, (SQUARE, 0.5), (FAR, 0.9), (overlapping, 0.7))

    assert nms(*rows, 0.8)[1].tolist() == [1, 2]
    assert nms(*rows, 0.82)[1].tolist() == [1, 2, 0]


def test_nms_resolves_ties_by_position(device: str) -> None:
    rows = boxes_and_scores(device, (FAR, 0.5), (SQUARE, 0.5), (FAR, 0.5), (SQUARE, 0.5))

    assert nms(*rows, 0.5)[1].tolist() == [0, 1]


def test_nms_suppresses_only_above_the_threshold_in_single_precision(device: str) -> None:
    part = [0.0, 0.0, 10.0, 6.0]  # IoU 60 / 100, and float32(0.6) is larger than 0.6
    rows = boxes_and_scores(device, (SQUARE, 0.9), (part, 0.8))

    assert nms(*rows, 0.6)[1].tolist() == [0, 1]
    assert nms(*rows, 0.599)[1].tolist() == [0]


def test_nms_of_boxes_without_area(device: str) -> None:
    point = [5.0, 5.0, 5.0, 5.0]
    rows = boxes_and_scores(device, (point, 0.9), (point, 0.8), (SQUARE, 0.7))

    assert nms(*rows, 0.5)[1].tolist() == [0, 1, 2]
    assert nms(*rows, 0.5, offset=1)[1].tolist() == [0, 2], "with offset 1 a point covers one pixel"


def test_offset_widens_boxes_by_a_pixel(device: str) -> None:
    # Offset 0: 36 / 81 = 0.444. Offset 1: 50 / 100 = 0.5.
    rows = boxes_and_scores(device, ([0.0, 0.0, 9.0, 9.0], 0.9), ([0.0, 0.0, 9.0, 4.0], 0.8))

    kept, indices = nms(*rows, 0.47, offset=0)
    assert indices.tolist() == [0, 1]
    kept, indices = nms(*rows, 0.47, offset=1)
    assert indices.tolist() == [0]
    assert kept[0, :4].tolist() == [0.0, 0.0, 9.0, 9.0], "the boxes come back as they went in"


def test_score_threshold_and_max_num_apply_to_original_indices(device: str) -> None:
    rows = boxes_and_scores(device, (SQUARE, 0.1), (FAR, 0.6), ([50.0, 0.0, 60.0, 10.0], 0.8), (FAR, 0.7))

    assert nms(*rows, 0.5, score_threshold=0.3)[1].tolist() == [2, 3]
    assert nms(*rows, 0.5, score_threshold=0.3, max_num=1)[1].tolist() == [2]
    assert nms(*rows, 0.5, score_threshold=0.9)[1].tolist() == []


def test_nms_takes_arrays_and_half_precision() -> None:
    boxes = np.array([SQUARE, SQUARE, FAR], dtype=np.float32)
    scores = np.array([0.25, 0.5, 0.75], dtype=np.float32)

    kept, indices = nms(boxes, scores, 0.5)
    assert isinstance(kept, np.ndarray) and indices.tolist() == [2, 1]
    halves = (torch.from_numpy(boxes).to(torch.bfloat16), torch.from_numpy(scores).to(torch.bfloat16))
    assert nms(*halves, 0.5)[1].tolist() == [2, 1]


@pytest.mark.parametrize("split_thr", [10000, 2])
def test_batched_nms_suppresses_within_a_class(device: str, split_thr: int) -> None:
    boxes, scores = boxes_and_scores(device, (SQUARE, 0.6), (SQUARE, 0.9), (SQUARE, 0.8), (FAR, 0.7))
    classes = torch.tensor([0, 0, 1, 1], device=device)
    settings = {"type": "nms", "iou_threshold": 0.5, "split_thr": split_thr}

    kept, indices = batched_nms(boxes, scores, classes, settings)
    assert indices.tolist() == [1, 2, 3]
    assert kept[:, :4].tolist() == [SQUARE, SQUARE, FAR]
    assert batched_nms(boxes, scores, classes, settings | {"max_num": 2})[1].tolist() == [1, 2]


def test_batched_nms_across_classes(device: str) -> None:
    boxes, scores = boxes_and_scores(device, (SQUARE, 0.6), (SQUARE, 0.9), (SQUARE, 0.8), (FAR, 0.7))
    classes = torch.tensor([0, 0, 1, 1], device=device)

    settings = {"type": "nms", "iou_threshold": 0.5}
    assert batched_nms(boxes, scores, classes, settings, class_agnostic=True)[1].tolist() == [1, 3]


def test_batched_nms_of_no_boxes(device: str) -> None:
    boxes, scores = boxes_and_scores(device)
    classes = torch.empty(0, dtype=torch.int64, device=device)

    kept, indices = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.5}, class_agnostic=True)
    assert kept.shape == (0, 5) and indices.shape == (0,)


@pytest.mark.parametrize(
    ("aligned", "ratio", "expected"),
    [
        # Samples at pixel indices 0, 1 | 2, 3: the means of the four 2x2 blocks.
        (True, 2, [[2.5, 4.5], [10.5, 12.5]]),
        (True, 0, [[2.5, 4.5], [10.5, 12.5]]),
        # Half a pixel further: 0.5, 1.5 | 2.5, 3.5, and what lies beyond the last pixel's centre counts as 3.
        (False, 2, [[5.0, 6.75], [12.0, 13.75]]),
        (False, 0, [[5.0, 6.75], [12.0, 13.75]]),
    ],
)
def test_roi_align_of_the_whole_map(device: str, aligned: bool, ratio: int, expected: list[list[float]]) -> None:
    maps = torch.tensor([[RAMP]], device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)

    assert roi_align(maps, rois, 2, 1.0, ratio, "avg", aligned)[0, 0].tolist() == expected
    twice = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]], device=device)
    assert roi_align(maps, twice, 2, 0.5, ratio, "avg", aligned)[0, 0].tolist() == expected


def test_sampling_ratio_sets_the_number_of_samples(device: str) -> None:
    maps = torch.tensor([[[[0.0, 1.0, 4.0, 9.0]] * 4]], device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]], device=device)

    dense = roi_align(maps, rois, 1, 1.0, 0, "avg", True)  # columns 0, 1, 2
    two = roi_align(maps, rois, 1, 1.0, 2, "avg", True)  # columns 0.25 and 1.75: 0.25 and 3.25
    assert dense.item() == pytest.approx(5 / 3)
    assert two.item() == pytest.approx(1.75)


def test_roi_align_of_a_point_and_outside_the_map(device: str) -> None:
    maps = torch.tensor([[RAMP]], device=device)
    rois = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 40.0, 40.0, 44.0, 44.0]], device=device)

    assert roi_align(maps, rois, 1, 1.0, 0, "avg", True).flatten().tolist() == [0.0, 0.0]
    assert roi_align(maps, rois, 1, 1.0, 2, "avg", True).flatten().tolist() == [2.5, 0.0]
    assert roi_align(maps, rois, 1, 1.0, 0, "avg", False).flatten().tolist() == [7.5, 0.0], "at least one pixel wide"


def test_roi_align_reads_the_image_that_a_roi_names(device: str) -> None:
    maps = torch.stack([torch.zeros(2, 4, 4), torch.stack([torch.ones(4, 4), torch.full((4, 4), 2.0)])]).to(device)
    rois = torch.tensor([[1.0, 0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 2.0, 2.0]], device=device)

    assert roi_align(maps, rois, 1, 1.0, 0, "avg", True).flatten(1).tolist() == [[1.0, 2.0], [0.0, 0.0]]


def test_roi_align_without_rois(device: str) -> None:
    maps = torch.ones(1, 3, 4, 4, device=device, requires_grad=True)

    pooled = roi_align(maps, torch.empty(0, 5, device=device), 7, 1.0, 0, "avg", True)
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 7, 7)
    assert not maps.grad.any()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_roi_align_keeps_half_precision(device: str, precision: torch.dtype) -> None:
    maps = torch.tensor([[RAMP]], device=device, dtype=precision, requires_grad=True)
    rois = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device, dtype=precision)

    pooled = roi_align(maps, rois, 2, 1.0, 0, "avg", True)
    pooled.sum().backward()
    assert pooled.dtype == maps.grad.dtype == precision
    assert pooled[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert maps.grad.unique().tolist() == [0.25]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_gradient(device: str, aligned: bool, ratio: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    rois = [[0, 0.3, 0.7, 9.1, 7.9], [1, 4.2, 1.1, 4.9, 1.6], [1, -3.0, -3.0, 2.0, 30.0]]
    rois = torch.tensor(rois, dtype=torch.float64, device=device)

    # The CUDA kernel adds by atomics, so that two backward passes differ in the last bits.
    tolerance = {"nondet_tol": 1e-12 if device == "cuda" else 0.0}
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 0.5, ratio, "avg", aligned), maps, **tolerance)


def test_max_pooling_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="roi_align_forward.*pool_mode 'max'"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def focal_loss_by_hand(x: float, positive: bool, gamma: float, alpha: float) -> float:
    p = 1 / (1 + math.exp(-x))
    return -alpha * (1 - p) ** gamma * math.log(p) if positive else -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_focal_loss_values(device: str, gamma: float, alpha: float) -> None:
    logits = [[0.0, 1.5, -2.0], [4.0, -0.3, 0.7], [-5.0, 2.5, 0.1]]
    targets = [0, 3, 2]  # 3 of three classes is background: negative for every class
    rows = zip(logits, targets, strict=True)
    expected = [[focal_loss_by_hand(x, c == t, gamma, alpha) for c, x in enumerate(row)] for row, t in rows]
    x = torch.tensor(logits, dtype=torch.float64, device=device)
    t = torch.tensor(targets, device=device)

    loss = sigmoid_focal_loss(x, t, gamma, alpha, None, "none")
    torch.testing.assert_close(loss.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    total = sum(map(sum, expected))
    assert sigmoid_focal_loss(x, t, gamma, alpha, None, "sum").item() == pytest.approx(total)
    assert sigmoid_focal_loss(x, t, gamma, alpha, None, "mean").item() == pytest.approx(total / 3), "mean over rows"


def test_focal_loss_equals_mmcvs_published_value(device: str) -> None:
    """Loss and gradient that mmcv's own tests (tests/test_ops/test_focal_loss.py) state for its compiled operator."""
    x = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]], device=device, requires_grad=True)

    loss = sigmoid_focal_loss(x, torch.tensor([2, 1], device=device), 2.0, 0.25, None, "mean")
    loss.backward()
    assert loss.item() == pytest.approx(1.10251057, rel=1e-6)
    gradient = [[0.28808805, 0.11185755, -0.09602935], [0.11185755, -0.00657264, 0.40376765]]
    torch.testing.assert_close(x.grad.cpu(), torch.tensor(gradient), rtol=1e-5, atol=1e-7)


def test_focal_loss_scales_rows_by_the_weight_of_their_class(device: str) -> None:
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]], device=device, requires_grad=True)
    t = torch.tensor([1, 0], device=device)
    weight = torch.tensor([3.0, 5.0], device=device)

    plain = sigmoid_focal_loss(x, t, 2.0, 0.25, None, "none")
    weighted = sigmoid_focal_loss(x, t, 2.0, 0.25, weight, "none")
    factors = torch.tensor([[5.0], [3.0]], device=device)
    torch.testing.assert_close(weighted, plain * factors)
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in (plain, weighted)]
    torch.testing.assert_close(gradients[1], gradients[0] * factors)


def test_focal_loss_refuses_background_with_class_weights(device: str) -> None:
    x, t = torch.zeros(2, 3, device=device), torch.tensor([0, 3], device=device)

    with pytest.raises(ValueError, match="target 3 has no class weight, expected targets below 3"):
        sigmoid_focal_loss(x, t, 2.0, 0.25, torch.ones(3, device=device), "none")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
def test_focal_loss_gradient(device: str, gamma: float, alpha: float, reduction: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, device=device).mul_(3).requires_grad_()
    t = torch.tensor([0, 2, 3, 1, 3], device=device)

    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, t, gamma, alpha, None, reduction), x)


def test_focal_loss_of_saturated_logits(device: str) -> None:
    """Where 1 - p is 0 the loss ends at the logarithm of the smallest normal number; gradients tend to 1 - alpha."""
    x = torch.tensor([[200.0, -200.0]], device=device, requires_grad=True)

    loss = sigmoid_focal_loss(x, torch.tensor([2], device=device), 2.0, 0.25, None, "none")
    loss.sum().backward()
    assert loss[0].tolist() == pytest.approx([0.75 * 126 * math.log(2), 0.0])
    assert x.grad[0].tolist() == [0.75, 0.0]


def test_focal_loss_without_anchors(device: str) -> None:
    x = torch.zeros(0, 3, device=device, requires_grad=True)

    sigmoid_focal_loss(x, torch.empty(0, dtype=torch.int64, device=device), 2.0, 0.25, None, "sum").backward()
    assert x.grad.shape == (0, 3)
