"""VAN as a backbone of mmdet and mmseg: registration, pretrained weights, norms, feature maps."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import paper_jobs
import pytest
import torch
from torch import Tensor, nn

from lska.models import ATTENTIONS, create
from lska.models.dense_backbone import Backbone, load_backbone, stages
from lska.models.openmmlab import use
from lska.models.pretrained import CheckpointError, save_weights
from lska.models.runs import Run
from lska.train import mm_configs

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


def backbone(**settings: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(**{"run": RUN, "architecture": NARROW, **settings})


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
    settings["backbone"]["checkpoint"] = None if weights is None else str(weights)
    with DefaultScope.overwrite_default_scope(use(job.kind)):
        return libraries[job.kind].build(ConfigDict(settings))


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_both_libraries_build_the_one_backbone(libraries: dict[str, Any], kind: str) -> None:
    assert libraries[kind].get("Backbone") is Backbone
    built = libraries[kind].build({"type": "Backbone", "run": RUN, "architecture": NARROW})
    assert type(built) is Backbone
    assert [tuple(feature.shape) for feature in built(images())] == [
        (2, 8, 16, 24), (2, 12, 8, 12), (2, 16, 4, 6), (2, 24, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("head", paper_jobs.TASKS)
def test_every_tensor_of_the_backbone_is_loaded(head: str, libraries: dict[str, Any], checkpoint: Path) -> None:
    torch.manual_seed(0)
    network = whole(head, libraries, checkpoint)
    before = snapshot(network.backbone)
    network.init_weights()
    pretrained = randomised().state_dict()
    after = network.backbone.state_dict()
    assert set(after) == {name for name in pretrained if not name.startswith("head.")}
    assert all(torch.equal(after[name], pretrained[name]) for name in after)
    assert [name for name in after if torch.equal(after[name], before[name])] == []
    assert {name.rpartition(".")[2] for name in after} >= {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("head", paper_jobs.TASKS)
def test_names_are_the_published_ones_behind_a_prefix(head: str, libraries: dict[str, Any]) -> None:
    network = whole(head, libraries, None)
    published = {f"backbone.{name}" for name in randomised().state_dict() if not name.startswith("head.")}
    assert {name for name in network.state_dict() if name.startswith("backbone.")} == published


@pytest.mark.parametrize("head", paper_jobs.TASKS)
def test_nothing_is_frozen(head: str, libraries: dict[str, Any], checkpoint: Path) -> None:
    network = whole(head, libraries, checkpoint)
    network.init_weights()
    network.train()
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == []
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    # One after each of four embeddings, two in each of five blocks.
    assert len(norms) == 4 + 2 * 5
    assert all(norm.training and norm.affine and norm.track_running_stats for norm in norms)
    network.backbone(images())
    assert all(norm.num_batches_tracked == 42 for norm in norms)


def test_a_backbone_without_checkpoint_keeps_its_random_weights(libraries: dict[str, Any]) -> None:
    network = whole("retinanet", libraries, None)
    before = snapshot(network.backbone)
    network.init_weights()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.backbone.state_dict().items())


def damaged(tmp_path: Path, **changes: Tensor | None) -> Path:
    """The pretrained weights with tensors replaced or, where None, removed."""
    from safetensors.torch import save_file

    tensors = dict(randomised().state_dict())
    tensors.update(changes)
    path = tmp_path / f"{RUN}.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_every_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = damaged(
        tmp_path,
        **{
            "block1.0.norm1.running_mean": None,
            "block1.0.attn.spatial_gating_unit.conv0.weight": torch.zeros(2),
            "norm1.weight": torch.zeros(9),
        },
    )
    model = backbone(checkpoint=str(path))
    before = snapshot(model)
    with pytest.raises(CheckpointError) as caught:
        model.init_weights()
    assert str(caught.value).startswith(
        f"{path}: the weights do not fit the model. 1 missing in the file: block1.0.norm1.running_mean. "
        "1 unknown to the model: block1.0.attn.spatial_gating_unit.conv0.weight. "
        "1 of another shape: norm1.weight (model (8,), file (9,)). "
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_of_another_kernel_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{RUN}.safetensors"
    save_weights(randomised(Run("van_tiny", "lska", 7, 0)), path)
    message = r"conv0h.weight \(model \(8, 1, 1, 5\), file \(8, 1, 1, 3\)\), .* and \d+ more"
    with pytest.raises(CheckpointError, match=message):
        backbone(checkpoint=str(path)).init_weights()


def test_a_classifier_of_any_width_is_left_out(tmp_path: Path) -> None:
    path = damaged(tmp_path, **{"head.weight": torch.zeros(1000, 24), "head.bias": None})
    model = backbone()
    load_backbone(model, path)
    assert torch.equal(model.network.norm4.weight, randomised().norm4.weight)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"{RUN}.safetensors"
    with pytest.raises(FileNotFoundError, match=f"{RUN}.safetensors: no such weight file"):
        backbone(checkpoint=str(path)).init_weights()


@pytest.mark.parametrize(
    ("run", "weights", "message"),
    [
        (RUN, "checkpoints/van_tiny-lska-k7-s0.safetensors", f"backbone {RUN}: expected a checkpoint of that run"),
        (RUN, "checkpoints/van_tiny-lska-k23-s1.safetensors", f"backbone {RUN}: expected a checkpoint of that run"),
        ("convnext_tinny-s0", None, "model: unknown name 'convnext_tinny'"),
        ("convnext_tiny-lska-k7-s0", None, "attentions belong to van_tiny, van_small, van_base"),
        ("van_tiny-s0", None, "attention: expected one of"),
        ("van_tiny-lska-k8-s0", None, "kernel.* odd integer"),
        ("van_tiny", None, "'van_tiny' is not a run id"),
    ],
)
def test_a_wrong_run_or_a_checkpoint_of_another_run_is_refused(run: str, weights: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(run, checkpoint=weights)


def test_synchronised_batch_norm_keeps_names_and_values(checkpoint: Path) -> None:
    plain, synchronised = (backbone(checkpoint=str(checkpoint), synchronize=flag) for flag in (False, True))
    kinds = [{type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
             for model in (plain, synchronised)]  # fmt: skip
    assert kinds == [{nn.BatchNorm2d}, {nn.SyncBatchNorm}]
    synchronised.init_weights()
    loaded = synchronised.state_dict()
    assert list(loaded) == list(plain.state_dict())
    assert all(
        torch.equal(loaded[name], tensor) for name, tensor in randomised().state_dict().items() if name in loaded
    )
    assert all(parameter.requires_grad for parameter in synchronised.parameters())


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_segmentation_synchronises_with_several_gpus_only(gpus: int, libraries: dict[str, Any]) -> None:
    network = whole("semantic_fpn", libraries, None, gpus=gpus)
    expected = nn.SyncBatchNorm if gpus > 1 else nn.BatchNorm2d
    for part, number in ((network.backbone, 4 + 2 * 5), (network.decode_head, 7)):
        norms = [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == number
        assert all(isinstance(norm, expected) for norm in norms)


@pytest.mark.parametrize(("choice", "eps"), [("published", 1e-5), ("corrected", 1e-6)])
def test_the_layer_norms_eps_is_that_of_the_switch(choice: str, eps: float, libraries: dict[str, Any]) -> None:
    network = whole("retinanet", libraries, None, overrides={"switches": {"layer_norm": choice}}).eval()
    assert {getattr(network.backbone.network, f"norm{stage}").eps for stage in range(1, 5)} == {eps}
    # On a map of variance 1e-6, which the two values of eps treat very differently.
    values = 1e-3 * torch.tensor([-1.0, 1.0]).repeat(4).view(1, 8, 1, 1)
    assert torch.allclose(network.backbone.network.norm1(values), values / (1e-6 + eps) ** 0.5, rtol=1e-4)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_feature_maps_are_those_of_timm(attention: str, stride: int, tmp_path: Path) -> None:
    run = Run("van_tiny", attention, 23, 0)
    architecture = {**NARROW, "stem_kernel": 5, "stem_stride": stride}
    classifier = randomised(run, **architecture)
    path = tmp_path / f"{run}.safetensors"
    save_weights(classifier, path)
    features = create(run.model, attention=attention, kernel_size=23, features_only=True, **architecture)
    features.model.load_state_dict(classifier.state_dict(), strict=False)
    ours = Backbone(str(run), str(path), architecture, layer_norm_eps=1e-6)
    ours.init_weights()
    with torch.no_grad():
        expected, found = features.eval()(images()), ours.eval()(images())
    assert len(found) == len(expected) == 4
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    widths, strides = stages(run, architecture)
    assert strides == (stride, 2 * stride, 4 * stride, 8 * stride)
    assert [(feature.shape[1], 64 // feature.shape[2], 96 // feature.shape[3]) for feature in found] == [
        (width, one, one) for width, one in zip(widths, strides, strict=True)
    ]


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
    assert [stages(Run.parse(f"van_{size}-lska-k23-s0")) for size in ("tiny", "base")] == [
        ((32, 64, 160, 256), (4, 8, 16, 32)), ((64, 128, 320, 512), (4, 8, 16, 32)),
    ]  # fmt: skip
    found = {model: stages(Run.parse(f"{model}-s0")) for model in OTHERS}
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
    ours = Backbone(f"{model}-s0", str(path), OTHERS[model][1])
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
    for size in ((64, 96), (70, 101)):
        maps = ours.eval()(images(size))
        assert [one.shape[1] for one in maps] == list(stages(Run.parse(f"{model}-s0"), OTHERS[model][1])[0])
        for one, stride in zip(maps, (4, 8, 16, 32), strict=True):
            whole, rounded = ([step(side / stride) for side in size] for step in (math.floor, math.ceil))
            assert whole[0] <= one.shape[2] <= rounded[0] and whole[1] <= one.shape[3] <= rounded[1]


@pytest.mark.parametrize("model", OTHERS)
def test_every_parameter_of_a_backbone_learns_in_a_detector(model: str, libraries: dict[str, Any]) -> None:
    ours = Backbone(f"{model}-s0", None, OTHERS[model][1], drop_path_rate=0)
    sum(one.square().mean() for one in ours(images())).backward()
    still = [name for name, parameter in ours.named_parameters() if parameter.grad is None]
    assert still == []


def test_maps_of_a_stage_are_normalised_as_published() -> None:
    ours = Backbone("slak_tiny-s0", None, OTHERS["slak_tiny"][1])
    assert {getattr(ours, f"norm{index}").eps for index in range(4)} == {1e-6}
    maps = ours.eval()(images())
    for one in maps:
        torch.testing.assert_close(one.mean(1), torch.zeros_like(one[:, 0]), atol=1e-5, rtol=0)
    assert Backbone(f"{SWIN}-s0", None, OTHERS[SWIN][1]).norm2.eps == 1e-5


def test_weights_of_slak_that_are_zero_stay_zero(tmp_path: Path) -> None:
    network, path = sibling("slak_tiny"), tmp_path / "slak_tiny-s0.safetensors"
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(module.weight.shape) < 0.4] = 0
    save_weights(network, path)
    ours = Backbone("slak_tiny-s0", str(path), OTHERS["slak_tiny"][1])
    ours.init_weights()
    zeros = {name: tensor == 0 for name, tensor in ours.state_dict().items() if tensor.ndim > 1}
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(one.square().mean() for one in ours(images())).backward()
        optimizer.step()
    after = ours.state_dict()
    assert all(zero.any() and torch.equal(after[name] == 0, zero) for name, zero in zeros.items())


@pytest.mark.parametrize("head", paper_jobs.TASKS)
@pytest.mark.parametrize("model", ["slak_tiny", SWIN, "deit_small_patch16_224"])
def test_heads_take_the_maps_of_other_networks(head: str, model: str, libraries: dict[str, Any]) -> None:
    widths, strides = stages(Run.parse(f"{model}-s0"), OTHERS[model][1])
    network = whole(head, libraries, None, run=Run.parse(f"{model}-s0"), architecture={model: OTHERS[model][1]})
    levels = network.eval().extract_feat(images((128, 160)))
    first = 1 if head == "retinanet" else 0
    assert [128 // level.shape[2] for level in levels][: 4 - first] == list(strides[first:])
    assert [convolution.in_channels for convolution in network.neck.lateral_convs] == list(widths[first:])


def test_chosen_stages_and_drop_path() -> None:
    chosen = backbone(out_indices=(1, 3), drop_path_rate=0.4)
    assert [feature.shape[1] for feature in chosen(images())] == [12, 24]
    shares = [module.drop_prob for name, module in chosen.named_modules() if name.endswith("drop_path") and
              hasattr(module, "drop_prob")]  # fmt: skip
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first block is never dropped
