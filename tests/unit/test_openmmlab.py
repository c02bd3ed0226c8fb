"""mmdet and mmseg: any network as their backbone, and the stand-in for mmcv's operators against results by hand."""

from __future__ import annotations

import importlib.machinery
import math
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paper_jobs
import pytest
import torch
from safetensors.torch import load_file, save_file
from syrupy.assertion import SnapshotAssertion
from torch import Tensor, nn

from lska.models import create
from lska.models.openmmlab import EXTENSION, LSKABackbone, build_dense_network, install, stages, use
from lska.models.pretrained import CheckpointError, save_weights
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.train import mm_configs

STANDS_IN = install()
import mmcv.ops  # noqa: E402
from mmcv.ops import nms, roi_align, sigmoid_focal_loss  # noqa: E402

NARROW = {"embed_dims": (8, 12, 16, 24), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
RUN = str(paper_jobs.RUN)

# Old spellings inside the library.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmseg")


@pytest.fixture(scope="module")
def libraries() -> dict[str, Any]:
    """The registries of mmdet and mmseg."""
    for kind in ("detection", "segmentation"):
        use(kind)
    import mmdet.registry
    import mmseg.registry

    return {"detection": mmdet.registry.MODELS, "segmentation": mmseg.registry.MODELS}


def randomised(run: Run = paper_jobs.RUN, **settings: Any) -> nn.Module:
    """A classifier none of whose tensors has a value that initialisation gives, as after a training."""
    model = create(run.model, attention=run.attention, kernel_size=run.kernel, num_classes=5, **{**NARROW, **settings})
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(41)
        else:
            tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of `RUN` with a classifier of five classes."""
    path = tmp_path_factory.mktemp("weights") / f"{RUN}.safetensors"
    save_weights(randomised(), path)
    return path


VAN = {"model": "van_tiny", "attention": "lska", "kernel_size": 23}


def pretrained(path: Path | str) -> dict[str, str]:
    """Weights as configurations of the libraries name them."""
    return {"type": "Pretrained", "checkpoint": str(path)}


def backbone(**settings: Any) -> LSKABackbone:
    torch.manual_seed(0)
    return LSKABackbone(**{**VAN, "architecture": NARROW, **settings})


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def images(size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def whole(
    head: str, libraries: dict[str, Any], weights: Path | None, run: Run = paper_jobs.RUN,
    architecture: dict[str, Any] | None = None, **means: Any,
) -> nn.Module:  # fmt: skip
    """The detector or segmentor of a paper recipe on a narrow backbone with `weights`, from random heads."""
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    narrow = {"architecture": architecture or {"van_tiny": NARROW}}
    job = paper_jobs.job(head, narrow, paper_jobs.means(head, **means), run=run)
    settings = mm_configs.model(job, 5)
    settings["backbone"]["init_cfg"] = weights and pretrained(weights)
    with DefaultScope.overwrite_default_scope(use(job.kind)):
        return libraries[job.kind].build(ConfigDict(settings))


@pytest.mark.parametrize("head", paper_jobs.TASKS)
def test_every_tensor_of_the_backbone_is_loaded_and_learns(
    head: str, libraries: dict[str, Any], checkpoint: Path
) -> None:
    torch.manual_seed(0)
    network = whole(head, libraries, checkpoint)
    published = {f"backbone.{name}" for name in randomised().state_dict() if not name.startswith("head.")}
    assert {name for name in network.state_dict() if name.startswith("backbone.")} == published
    before = snapshot(network.backbone)
    network.init_weights()
    pretrained, after = randomised().state_dict(), network.backbone.state_dict()
    assert all(torch.equal(after[name], pretrained[name]) for name in after)
    assert [name for name in after if torch.equal(after[name], before[name])] == []
    network.train()
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == []
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    # One after each of four embeddings, two in each of five blocks.
    assert len(norms) == 4 + 2 * 5
    maps = network.backbone(images())
    assert [tuple(one.shape) for one in maps] == [(2, 8, 16, 24), (2, 12, 8, 12), (2, 16, 4, 6), (2, 24, 2, 3)]
    assert all(norm.num_batches_tracked == 42 for norm in norms)
    corrected = whole(head, libraries, None, overrides={"switches": {"layer_norm": "corrected"}})
    assert [each.backbone.network.model.norm1.eps for each in (network, corrected)] == [1e-5, 1e-6]


def test_a_backbone_and_files_that_do_not_fit_are_refused(
    tmp_path: Path, checkpoint: Path, snapshot: SnapshotAssertion
) -> None:
    said = []
    for settings in (
        {"model": "convnext_tinny"}, {**VAN, "model": "convnext_tiny"}, {"model": "van_tiny"},
        {"model": "van_tiny", "attention": "lska"}, VAN | {"kernel_size": 8},
        VAN | {"architecture": {"width": 3}}, VAN | {"init_cfg": {"type": "Kaiming"}},
        VAN | {"init_cfg": pretrained("a.pth"), "pretrained": "b.pth"}, VAN | {"init_cfg": {"type": "Pretrained"}},
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            LSKABackbone(**settings)
        said.append(str(caught.value))
    tensors = dict(load_file(checkpoint))
    del tensors["block1.0.norm1.running_mean"]
    tensors |= {"block1.0.attn.spatial_gating_unit.conv0.weight": torch.zeros(2), "norm1.weight": torch.zeros(9)}
    save_file(tensors, tmp_path / checkpoint.name)
    model = backbone(init_cfg=pretrained(tmp_path / checkpoint.name))
    before = model.state_dict()["norm1.weight"].clone()
    with pytest.raises(CheckpointError) as refused:
        model.init_weights()
    assert torch.equal(before, model.state_dict()["norm1.weight"])
    assert "\n".join([*said, str(refused.value).replace(str(tmp_path), "<folder>")]) == snapshot


def test_segmentation_synchronises_with_several_gpus_only(libraries: dict[str, Any], checkpoint: Path) -> None:
    for gpus, expected in ((0, nn.BatchNorm2d), (1, nn.BatchNorm2d), (4, nn.SyncBatchNorm)):
        network = whole("semantic_fpn", libraries, checkpoint, gpus=gpus)
        for part, number in ((network.backbone, 4 + 2 * 5), (network.decode_head, 7)):
            norms = [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            assert len(norms) == number and all(isinstance(norm, expected) for norm in norms)
    network.backbone.init_weights()
    loaded = network.backbone.state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in randomised().state_dict().items() if name in loaded)


def test_feature_maps_are_those_of_timm(tmp_path: Path) -> None:
    run, architecture = paper_jobs.RUN, {**NARROW, "stem_kernel": 5, "stem_stride": 2}
    classifier = randomised(run, **architecture)
    path = tmp_path / f"{run}.safetensors"
    save_weights(classifier, path)
    features = create(run.model, attention=run.attention, kernel_size=run.kernel, features_only=True, **architecture)
    features.model.load_state_dict(classifier.state_dict(), strict=False)
    ours = backbone(pretrained=str(path), architecture=architecture, layer_norm_eps=1e-6)
    ours.init_weights()
    with torch.no_grad():
        expected, found = features.eval()(images()), ours.eval()(images())
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    widths, strides = stages(run.model, architecture)
    assert strides == (2, 4, 8, 16) and widths == tuple(feature.shape[1] for feature in found)


SWIN = "swin_tiny_patch4_window7_224"
# Widths of the paper's networks, and what a shrunken sibling of each is made of.
OTHERS = {
    "convnext_tiny": ((96, 192, 384, 768), {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}),
    SWIN: ((96, 192, 384, 768), {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1,) * 4}),
    "deit_small_patch16_224": ((384,) * 4, {"embed_dim": 24, "depth": 4, "num_heads": 2}),
    "pvt_v2_b2": ((64, 128, 320, 512), {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1,) * 4}),
    "pvt_small": ((64, 128, 320, 512), {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1,) * 4}),
    "replknet_31t": ((64, 128, 320, 512), {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}),
    "slak_tiny": ((124, 249, 499, 998), {"embed_dims": (8, 16, 24, 32), "width_factor": 1, "depths": (1, 1, 1, 1)}),
}  # fmt: skip


def test_widths_and_strides_of_the_papers_networks() -> None:
    assert [stages(f"van_{size}") for size in ("tiny", "base")] == [
        ((32, 64, 160, 256), (4, 8, 16, 32)), ((64, 128, 320, 512), (4, 8, 16, 32)),
    ]  # fmt: skip
    found = {model: stages(model) for model in OTHERS}
    assert found == {model: (widths, (4, 8, 16, 32)) for model, (widths, _) in OTHERS.items()}


def sibling(model: str, **settings: Any) -> nn.Module:
    """A classifier with weights that no initialisation gives; norms with values of their own."""
    network = create(model, num_classes=5, **OTHERS[model][1], **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("model", OTHERS)
def test_every_network_is_a_backbone_with_the_weights_of_its_classifier(model: str, tmp_path: Path) -> None:
    path = tmp_path / f"{model}-s0.safetensors"
    classifier = sibling(model)
    save_weights(classifier, path)
    ours = LSKABackbone(model, architecture=OTHERS[model][1], init_cfg=pretrained(path))
    before = snapshot(ours)
    ours.init_weights()
    after, state = snapshot(ours), classifier.state_dict()
    new = {name for name in after if re.match(r"norm\d\.", name)}
    assert bool(new) == model.startswith(("slak", "convnext", "swin"))
    assert {name.split(".")[0] for name in state.keys() - after.keys()} <= {"head", "norm", "cls_token"}
    for name in after.keys() - new:
        expected = state[name][:, 1:] if name == "pos_embed4" else state[name]
        assert torch.equal(after[name], expected), name
    assert all(torch.equal(before[name], after[name]) for name in new)
    ours.load_state_dict(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
    sum(one.square().mean() for one in ours(images())).backward()
    assert [name for name, parameter in ours.named_parameters() if parameter.grad is None] == []
    for size in ((64, 96), (70, 101)):
        maps = ours.eval()(images(size))
        assert [one.shape[1] for one in maps] == list(stages(model, OTHERS[model][1])[0])
        for one, stride in zip(maps, (4, 8, 16, 32), strict=True):
            whole, rounded = ([step(side / stride) for side in size] for step in (math.floor, math.ceil))
            assert whole[0] <= one.shape[2] <= rounded[0] and whole[1] <= one.shape[3] <= rounded[1]


def test_weights_of_slak_that_are_zero_stay_zero(tmp_path: Path) -> None:
    network, path = sibling("slak_tiny"), tmp_path / "slak_tiny-s0.safetensors"
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(module.weight.shape) < 0.4] = 0
    save_weights(network, path)
    ours = LSKABackbone("slak_tiny", architecture=OTHERS["slak_tiny"][1], pretrained=str(path))
    ours.init_weights()
    zeros = {name: tensor == 0 for name, tensor in ours.state_dict().items() if tensor.ndim > 1}
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(one.square().mean() for one in ours(images())).backward()
        optimizer.step()
    after = ours.state_dict()
    assert all(zero.any() and torch.equal(after[name] == 0, zero) for name, zero in zeros.items())


def test_chosen_stages_and_drop_path() -> None:
    chosen = backbone(out_indices=(1, 3), drop_path_rate=0.4)
    assert [feature.shape[1] for feature in chosen(images())] == [12, 24]
    shares = [module.drop_prob for module in chosen.modules() if hasattr(module, "drop_prob")]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first block is never dropped


# Operators of mmcv, called through its own Python side

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SQUARE, FAR = [0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    if not STANDS_IN:
        pytest.skip("a compiled mmcv is installed: the stand-in is not in use")
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
    # RoIAlign is linear: each output goes back to the pixels that it is the mean of.
    ramp.requires_grad_()
    parts = torch.tensor([[4.0, 8.0], [0.0, 12.0]], device=device)
    roi_align(ramp, rois, 2, 1.0, 2, "avg", True)[0, 0].backward(parts)
    assert ramp.grad[0, 0].tolist() == [[1, 1, 2, 2]] * 2 + [[0, 0, 3, 3]] * 2
    ramp = ramp.detach()
    half = roi_align(ramp.bfloat16(), rois[:1].bfloat16() * 2, 2, 0.5, 0, "avg", True)
    assert half.dtype == torch.bfloat16 and half[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    with pytest.raises(NotImplementedError, match="roi_align_forward with pool_mode 'max'"):
        roi_align(ramp, rois, 2, 1.0, 2, "max", True)


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


def test_mmdets_loss_through_the_operator_equals_its_plain_form(device: str) -> None:
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    from mmdet.models.losses.focal_loss import sigmoid_focal_loss as through_operator

    torch.manual_seed(0)
    logits = torch.randn(4, 4, device=device, requires_grad=True)
    targets, weight = torch.tensor([0, 4, 2, 4], device=device), torch.tensor([1.0, 0.0, 1.0, 1.0], device=device)
    one_hot = torch.nn.functional.one_hot(targets, 5)[:, :4]

    def found(loss: object, labels: Tensor, **settings: float) -> tuple[Tensor, ...]:
        value = loss(logits, labels, weight, avg_factor=3.0, **settings)
        return value, *torch.autograd.grad(value, logits)

    for settings in ({}, {"gamma": 1.5, "alpha": 0.6}):
        theirs = found(py_sigmoid_focal_loss, one_hot, **settings)
        torch.testing.assert_close(found(through_operator, targets, **settings), theirs)


@pytest.mark.skipif(not STANDS_IN, reason="a compiled mmcv is installed")
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


# Checkpoints of mmengine


def test_safe_loading_takes_mmengines_records_and_nothing_else(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    torch.save({"loss": HistoryBuffer([1.5, 2.5], [1, 1]), "at": np.float64(2.0)}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth")["loss"].mean() == 2.0

    class Sneaking:
        def __init__(self, *asked: object) -> None:
            self.asked = asked

        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return getattr, self.asked

    for asked in ((HistoryBuffer, "__init__"), (np.ndarray, "tofile"), (HistoryBuffer, "__globals__")):
        torch.save(Sneaking(*asked), tmp_path / "a.pth")
        with pytest.raises(pickle.UnpicklingError, match="expected a statistic of mmengine's HistoryBuffer"):
            torch.load(tmp_path / "a.pth")


def test_building_is_silent_about_what_nobody_can_heed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [
        ("``build_loss`` would be deprecated soon, please use another", "mmseg.models.builder"),
        ("Default ``avg_non_ignore`` is False, if you would", "mmseg.models.losses.cross_entropy_loss"),
        ("``build_loss`` would be deprecated soon, please use another", "lska.models.staged"),
        ("weights are odd", "mmseg.models.builder"),
    ]

    def build(settings: dict[str, Any]) -> nn.Module:
        for text, module in told:
            warnings.warn_explicit(text, UserWarning, "file.py", 1, module=module)
        return nn.Identity()

    monkeypatch.setattr("mmengine.registry.MODELS.build", build)
    with pytest.warns(UserWarning) as heard:
        build_dense_network({})
    assert [str(one.message) for one in heard] == [text for text, _ in told[2:]]
