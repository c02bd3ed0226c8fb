"""VAN, RepLKNet, SLaK and PVT as models of timm, against published shapes, counts and plain forward passes; timm's own
against theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from syrupy.assertion import SnapshotAssertion
from timm.data import resolve_model_data_config
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional as F

from lska.models import create
from lska.models.attention import gating_unit
from lska.models.counting import count
from lska.models.pretrained import CheckpointError, load_weights
from lska.models.van import VAN
from lska.provenance.errors import InputError

SMALL = {
    "van_tiny": {"embed_dims": (8, 12, 16, 24), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2), "kernel_size": 7},
    "replknet_31t": {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "kernel_sizes": (13, 11, 9, 7)},
    "slak_tiny": {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "kernel_sizes": (13, 11, 9, 7)},
    "pvt_tiny": {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 2, 1), "img_size": 64},
}
"""Shrunken siblings by model name."""
# Counted on networks built from the published code: entries of the weights, parameters, multiply-adds at 224 pixels;
# by name and whether its kernels are merged.
COUNTED = {
    ("replknet_31b", False): (1171, 79_864_168, 15_431_298_048),
    ("replknet_31b", True): (None, 79_527_272, 15_353_525_248),
    ("replknet_31t", False): (1171, 29_878_760, 5_988_152_064),
    ("slak_tiny", False): (470, 50_703_838, 8_704_776_370),
    ("pvt_small", False): (301, 24_485_864, 3_672_797_184),
}


def test_counts_are_those_of_the_published_code() -> None:
    for (model, merged), (entries, *expected) in COUNTED.items():
        with torch.device("meta"):
            network = create(model).eval()
            if merged:
                network.structural_reparam()
        cost = count(network)
        assert ([cost.params, cost.macs], cost.uncounted) == (expected, ()), model
        assert entries is None or len(network.state_dict()) == entries


# SLaK's curves of Figure 3, by kernel size of VAN-Small: parameters and multiply-adds at 224 pixels of LKA, of the
# decomposed kernel and of the sparse one. Counts are linear in the weights per channel of the depth-wise part.
FIGURE_3 = {
    7: (13_711_272, 2_444_685_312, 13_929_000, 2_514_229_248, 13_826_856, 2_479_908_864),
    53: (14_506_920, 2_712_023_040, 15_165_480, 2_929_686_528, 14_568_744, 2_729_183_232),
    125: (18_248_616, 3_969_232_896, 17_100_840, 3_579_967_488, 15_729_960, 3_119_351_808),
}


def test_counts_of_slaks_kernels_in_van() -> None:
    for kernel_size, expected in FIGURE_3.items():
        found = ()
        for attention in ("lka", "slak", "slak_sparse"):
            with torch.device("meta"):
                cost = count(create("van_small", attention=attention, kernel_size=kernel_size))
            found += (cost.params, cost.macs)
        assert found == expected


@torch.no_grad()
def test_a_sparse_kernel_uses_the_same_3_in_5_weights_of_each_strip_and_channel_whenever_it_is_made() -> None:
    units = [gating_unit(6, "slak_sparse", 23) for _ in range(2)]
    for unit in units:
        for name, taps in (("LoRA1", 115), ("LoRA2", 115), ("small_conv", 25)):
            conv = getattr(unit.large_kernel, name).conv
            assert conv.kept.flatten(1).sum(1).tolist() == [taps * 3 // 5] * 6
            assert len({tuple(kept.flatten().tolist()) for kept in conv.kept}) == 6, "channels keep other weights"
            assert torch.equal(conv.kept, getattr(units[0].large_kernel, name).conv.kept)
    unit, x = units[0].eval(), torch.randn(1, 6, 30, 30)
    before = unit(x)
    for name in ("LoRA1", "LoRA2", "small_conv"):
        conv = getattr(unit.large_kernel, name).conv
        conv.weight[~conv.kept] = 9
    assert torch.equal(unit(x), before)
    assert units[1].state_dict().keys() == gating_unit(6, "slak", 23).state_dict().keys()
    with torch.enable_grad():
        units[1](torch.randn(2, 6, 30, 30)).square().sum().backward()
    conv = units[1].large_kernel.LoRA2.conv
    assert not conv.weight.grad[~conv.kept].any() and conv.weight.grad[conv.kept].all()


NAMES = {
    "replknet_31t": {
        "stem.1.conv.weight": (64, 1, 3, 3),
        "stages.0.blocks.0.prelkb_bn.running_var": (64,),
        "stages.0.blocks.0.pw1.conv.weight": (64, 64, 1, 1),
        "stages.0.blocks.0.large_kernel.lkb_origin.conv.weight": (64, 1, 31, 31),
        "stages.0.blocks.0.large_kernel.small_conv.bn.weight": (64,),
        "stages.2.blocks.35.pw1.conv.weight": (1280, 320, 1, 1),
        "transitions.2.1.conv.weight": (512, 1, 3, 3),
        "norm.num_batches_tracked": (),
        "head.weight": (1000, 512),
    },
    "slak_tiny": {
        "downsample_layers.0.0.weight": (124, 3, 4, 4),
        "downsample_layers.3.1.weight": (998, 499, 2, 2),
        "downsample_layers.3.0.bias": (499,),
        "stages.0.0.large_kernel.LoRA1.conv.weight": (124, 1, 51, 5),
        "stages.0.0.large_kernel.LoRA2.conv.weight": (124, 1, 5, 51),
        "stages.3.2.large_kernel.small_conv.bn.running_mean": (998,),
        "stages.0.2.gamma": (124,),
        "stages.0.0.pwconv1.weight": (496, 124),
        "norm.weight": (998,),
    },
    "pvt_small": {
        "patch_embed4.proj.weight": (512, 320, 2, 2),
        "pos_embed1": (1, 3136, 64),
        "pos_embed4": (1, 50, 512),
        "cls_token": (1, 1, 512),
        "block1.0.attn.kv.weight": (128, 64),
        "block3.5.attn.sr.weight": (320, 320, 2, 2),
        "block2.0.mlp.fc1.weight": (1024, 128),
        "block4.2.attn.proj.bias": (512,),
    },
}


def test_parameters_are_named_and_shaped_as_published() -> None:
    for model, expected in NAMES.items():
        with torch.device("meta"):
            state = create(model).state_dict()
        assert {name: tuple(state[name].shape) for name in expected} == expected


def small(model: str, **settings: object) -> nn.Module:
    """A shrunken sibling with weights and statistics that no part of a forward pass can hide behind."""
    network = create(model, num_classes=10, **SMALL[model] | settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.ndim == 1 else 0.1))
    return network.eval()


def images(pixels: int = 64, width: int | None = None) -> Tensor:
    return torch.randn(2, 3, pixels, width or pixels, generator=torch.Generator().manual_seed(1))


class Weights(dict):
    """Weights of a network by name, with the layers that take them as plain functions."""

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | None = None, dilation: int = 1) -> Tensor:
        weight, groups = self[f"{name}.weight"], x.shape[1] // self[f"{name}.weight"].shape[1]
        padding = [dilation * (side // 2) for side in weight.shape[2:]] if padding is None else padding
        return F.conv2d(x, weight, self.get(f"{name}.bias"), stride, padding, dilation, groups)

    def bn(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def ln(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return centred / deviation * self[f"{name}.weight"] + self[f"{name}.bias"]

    def numbers(self, pattern: str) -> list[int]:
        """The values that the group of ``pattern`` takes in the names, rising."""
        return sorted({int(match[1]) for name in self if (match := re.match(pattern, name))})


def plain_van(w: Weights, x: Tensor) -> Tensor:
    """As protocol section 1 writes it, with LSKA's kernels of k = 7."""
    for s in range(1, 5):
        x = w.bn(w.conv(x, f"patch_embed{s}.proj", 4 if s == 1 else 2), f"patch_embed{s}.norm")
        for n in w.numbers(rf"block{s}\.(\d+)"):
            name = f"block{s}.{n}"
            unit, normed = f"{name}.attn.spatial_gating_unit", w.bn(x, f"{name}.norm1")
            gate = u = F.gelu(w.conv(normed, f"{name}.attn.proj_1"))
            for part, dilation in (("conv0h", 1), ("conv0v", 1), ("conv_spatial_h", 2), ("conv_spatial_v", 2)):
                gate = w.conv(gate, f"{unit}.{part}", dilation=dilation)
            branch = w.conv(u * w.conv(gate, f"{unit}.conv1"), f"{name}.attn.proj_2") + normed
            x = x + w[f"{name}.layer_scale_1"].view(-1, 1, 1) * branch
            hidden = w.conv(w.conv(w.bn(x, f"{name}.norm2"), f"{name}.mlp.fc1"), f"{name}.mlp.dwconv.dwconv")
            x = x + w[f"{name}.layer_scale_2"].view(-1, 1, 1) * w.conv(F.gelu(hidden), f"{name}.mlp.fc2")
        x = w.ln(x.movedim(1, -1), f"norm{s}", 1e-6).movedim(-1, 1)
    return w.linear(x.mean((2, 3)), "head")


def plain_replknet(w: Weights, x: Tensor) -> Tensor:
    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return w.bn(w.conv(x, f"{name}.conv", stride), f"{name}.bn")

    for i, stride in enumerate((2, 1, 1, 2)):
        x = unit(x, f"stem.{i}", stride).relu()
    for s in range(4):
        if s:
            x = unit(unit(x, f"transitions.{s - 1}.0").relu(), f"transitions.{s - 1}.1", 2).relu()
        for n in w.numbers(rf"stages\.{s}\.blocks\.(\d+)"):
            name = f"stages.{s}.blocks.{n}"
            if n % 2 == 0:
                inner = unit(w.bn(x, f"{name}.prelkb_bn"), f"{name}.pw1").relu()
                large = unit(inner, f"{name}.large_kernel.lkb_origin") + unit(inner, f"{name}.large_kernel.small_conv")
                x = x + unit(large.relu(), f"{name}.pw2")
            else:
                x = x + unit(F.gelu(unit(w.bn(x, f"{name}.preffn_bn"), f"{name}.pw1")), f"{name}.pw2")
    return w.linear(w.bn(x, "norm").mean((2, 3)), "head")


def plain_slak(w: Weights, x: Tensor) -> Tensor:
    def channels(x: Tensor, name: str) -> Tensor:
        return w.ln(x.movedim(1, -1), name, 1e-6).movedim(-1, 1)

    for s in range(4):
        if s:
            x = w.conv(channels(x, f"downsample_layers.{s}.0"), f"downsample_layers.{s}.1", 2, 0)
        else:
            x = channels(w.conv(x, "downsample_layers.0.0", 4, 0), "downsample_layers.0.1")
        for n in w.numbers(rf"stages\.{s}\.(\d+)"):
            name = f"stages.{s}.{n}"
            parts = (f"{name}.large_kernel.{part}" for part in ("LoRA1", "LoRA2", "small_conv"))
            branch = sum(w.bn(w.conv(x, f"{part}.conv"), f"{part}.bn") for part in parts)
            branch = w.ln(branch.movedim(1, -1), f"{name}.norm", 1e-6)
            branch = w.linear(F.gelu(w.linear(branch, f"{name}.pwconv1")), f"{name}.pwconv2")
            x = x + (w[f"{name}.gamma"] * branch).movedim(-1, 1)
    return w.linear(w.ln(x.mean((2, 3)), "norm", 1e-6), "head")


def plain_pvt(w: Weights, x: Tensor) -> Tensor:
    for i, (heads, patch) in enumerate(zip(SMALL["pvt_tiny"]["num_heads"], (4, 2, 2, 2), strict=True), start=1):
        x = w.conv(x, f"patch_embed{i}.proj", patch, 0)
        height, width = x.shape[2:]
        x = w.ln(x.flatten(2).mT, f"patch_embed{i}.norm", 1e-5)
        if i == 4:
            x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], 1)
        x = x + w[f"pos_embed{i}"]
        for n in w.numbers(rf"block{i}\.(\d+)"):
            name = f"block{i}.{n}"
            inner = source = w.ln(x, f"{name}.norm1", 1e-6)
            if i < 4:
                source = source.mT.reshape(len(x), -1, height, width)
                source = w.conv(source, f"{name}.attn.sr", 2 ** (4 - i), 0).flatten(2).mT
                source = w.ln(source, f"{name}.attn.norm", 1e-5)
            q = w.linear(inner, f"{name}.attn.q")
            k, v = w.linear(source, f"{name}.attn.kv").split(q.shape[-1], -1)
            mixed = []
            for queries, keys, values in zip(*(t.tensor_split(heads, -1) for t in (q, k, v)), strict=True):
                mixed.append((queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1) @ values)
            x = x + w.linear(torch.cat(mixed, -1), f"{name}.attn.proj")
            inner = w.ln(x, f"{name}.norm2", 1e-6)
            x = x + w.linear(F.gelu(w.linear(inner, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        if i < 4:
            x = x.mT.reshape(len(x), -1, height, width)
    return w.linear(w.ln(x, "norm", 1e-6)[:, 0], "head")


PLAIN = {"van_tiny": plain_van, "replknet_31t": plain_replknet, "slak_tiny": plain_slak, "pvt_tiny": plain_pvt}


@pytest.mark.parametrize(("model", "plain"), PLAIN.items())
@torch.no_grad()
def test_a_forward_pass_is_the_published_one(model: str, plain: Callable[[Weights, Tensor], Tensor]) -> None:
    network = small(model)
    expected = plain(Weights(network.state_dict()), images())
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", SMALL)
@torch.no_grad()
def test_networks_keep_timms_conventions(model: str) -> None:
    network = small(model)
    features = network.forward_features(images())
    torch.testing.assert_close(network.forward_head(features), network(images()))
    last, maps = network.forward_intermediates(images())
    widths = [info["num_chs"] for info in network.feature_info]
    assert [tuple(one.shape) for one in maps] == [(2, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate(widths)]
    assert last is maps[-1] and [info["reduction"] for info in network.feature_info] == [4, 8, 16, 32]
    assert network(images(100, 75)).isfinite().all()
    for indices in ((0, 1, 2, 3), (0, 2)):
        alone = create(model, features_only=True, out_indices=indices, **SMALL[model]).eval()
        own = alone.model.state_dict()
        fitting = {n: t for n, t in network.state_dict().items() if n in own and own[n].shape == t.shape}
        alone.model.load_state_dict(fitting, strict=False)
        # Without class token, which a backbone of PVT has not, its last stage attends to other tokens.
        equal = indices[:-1] if model == "pvt_tiny" and 3 in indices else indices
        for index, one in zip(equal, alone(images()), strict=False):
            torch.testing.assert_close(one, maps[index])
        assert not [name for name in own if re.search(r"^head|cls_token|^norm\.", name)]
    # Biases, norms and layer scales do not decay, all other weights do.
    groups = param_groups_weight_decay(network, 0.05, no_weight_decay_list=network.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in decayed}
    modules = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {name for name in names if "pos_embed" not in name} == {f"{name}.weight" for name in modules}
    config = resolve_model_data_config(network)
    own = (0.9, (0.5,) * 3) if model == "van_tiny" else (0.875, (0.485, 0.456, 0.406))
    assert (config["crop_pct"], config["mean"], config["interpolation"]) == (*own, "bicubic")
    network.reset_classifier(0)
    assert network(images()).shape == (2, network.num_features)
    network.reset_classifier(4)
    assert network(images()).shape == (2, 4) and network.get_classifier().out_features == 4


def test_recomputing_blocks_changes_no_gradient() -> None:
    network, gradients = small("pvt_tiny"), []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network(images()).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1])


# --- VAN --------------------------------------------------------------------------------------------------------------


def test_registered_models_train() -> None:
    for name, attention in zip(("van_tiny", "van_small", "van_base"), ("lska", "slak", "lka_trivial"), strict=True):
        model = timm.create_model(name, attention=attention, kernel_size=7, num_classes=5, drop_path_rate=0.1)
        logits = model(images(32).contiguous(memory_format=torch.channels_last))
        logits.square().sum().backward()
        assert logits.shape == (2, 5)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.device("meta"):
        conv = timm.create_model("van_tiny").block1[0].attn.spatial_gating_unit.conv_spatial_h
        assert not isinstance(create("resnet18", attention=None, kernel_size=None, num_classes=4), VAN)
    assert (conv.kernel_size, conv.dilation) == ((1, 7), (3, 3)), "LSKA with kernel 23"


def test_initialisation_follows_the_protocol() -> None:
    torch.manual_seed(0)
    model = create("van_small", attention="lska", kernel_size=23)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            variance = 2 / (math.prod(module.kernel_size) * module.out_channels / module.groups)
            n = module.weight.numel()
            assert module.weight.var().item() == pytest.approx(variance, rel=6 * math.sqrt(2 / n))
            assert abs(module.weight.mean().item()) < 6 * math.sqrt(variance / n)
            assert not module.bias.any()
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.head.bias.any()
    scales = [p for name, p in model.named_parameters() if "layer_scale" in name]
    assert len(scales) == 2 * 10
    assert all((p == 0.01).all() for p in scales)
    assert all(norm.eps == 1e-6 for norm in (model.norm1, model.norm4))


def test_drop_path_grows_linearly_and_drops_whole_samples() -> None:
    model = small("van_tiny", drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for i in range(1, 5) for block in getattr(model, f"block{i}")]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    block = model.block4[0].train()
    for norm in (block.norm1, block.norm2):
        norm.eval()
    x = torch.randn(64, 24, 2, 2)
    change = (block(x) - x).abs().amax(dim=(1, 2, 3))
    assert 0 < (change == 0).sum() < 64
    assert torch.equal(block.eval()(x), block(x))


# --- RepLKNet --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_merged_kernels_give_the_same_output() -> None:
    network = small("replknet_31t").train()
    with pytest.raises(ValueError, match=r"in evaluation mode only; call eval\(\)"):
        network.structural_reparam()
    before, entries = network.eval()(images()), len(network.state_dict())
    network.structural_reparam()
    assert len(network.state_dict()) == entries - 5 * 10
    assert before.std() > 0.1
    torch.testing.assert_close(network(images()), before, rtol=1e-5, atol=1e-5)


# --- timm's own ------------------------------------------------------------------------------------------------------


def published_pvt_v2(name: str) -> str:
    stage = re.match(r"stages\.(\d+)\.(.*)", name)
    if stage is None:
        # The first embedding stands outside the stages in timm.
        return name.replace("patch_embed.", "patch_embed1.")
    number, rest = int(stage[1]) + 1, stage[2]
    rest = re.sub(r"^downsample\.", f"patch_embed{number}.", rest)
    rest = re.sub(r"^blocks\.", f"block{number}.", rest)
    rest = re.sub(r"^norm\.", f"norm{number}.", rest)
    return rest.replace(".mlp.dwconv.", ".mlp.dwconv.dwconv.")


def published_swin(name: str) -> str:
    # A stage's down-sampling closes the stage before.
    name = re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
    return name.replace("head.fc.", "head.")


SMALL_SWIN = {"depths": (2, 1, 2, 1), "embed_dim": 12, "num_heads": (1, 2, 3, 6)}


def buffers_of_swin() -> dict[str, torch.Tensor]:
    """What published files hold beside weights: an index for every block, a mask for every shifted window."""
    blocks = [f"layers.{stage}.blocks.{i}" for stage, depth in enumerate(SMALL_SWIN["depths"]) for i in range(depth)]
    indices = {f"{block}.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64) for block in blocks}
    return indices | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


@pytest.mark.parametrize(
    ("model", "settings", "published", "wrapped"),
    [
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, published_swin, True),
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, published_pvt_v2, False),
        ("deit_tiny_patch16_224", {"depth": 2}, str, True),
    ],
)
@torch.no_grad()
def test_files_by_published_names_load_strictly_into_timms_networks(
    tmp_path: Path, model: str, settings: dict[str, object], published: Callable[[str], str], wrapped: bool
) -> None:
    network = create(model, num_classes=10, **settings).eval()
    state = {published(name): tensor for name, tensor in network.state_dict().items()}
    assert published is str or state.keys() - network.state_dict().keys()
    if published is published_swin:
        state |= buffers_of_swin()
    torch.save({"model": state} if wrapped else state, tmp_path / "published.pth")
    loaded = create(model, num_classes=10, **settings).eval()
    load_weights(loaded, tmp_path / "published.pth")
    torch.testing.assert_close(loaded(images(224)), network(images(224)))
    torch.save({"model": {"head.weight": torch.ones(2), "norm.weight": torch.ones(3, 3)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth: the weights do not fit the model"):
        load_weights(loaded, tmp_path / "other.pth")


# --- Settings ---------------------------------------------------------------------------------------------------------

IMPOSSIBLE: list[tuple[str, dict[str, object]]] = [
    ("van_tinny", {}),
    ("slak", {}),
    ("van_tiny", {"attention": "lsk"}),
    ("van_tiny", {"kernel_size": 8}),
    ("van_tiny", {"kernel": 7}),
    ("resnet18", {"attention": "lska"}),
    ("van_tiny", {"depths": (1, 1)}),
    ("van_tiny", {"embed_dims": (8, -8, 8, 8)}),
    ("replknet_31t", {"kernel_sizes": (30, 29, 27, 13)}),
    ("replknet_31t", {"small_kernel": 15}),
    ("slak_tiny", {"width_factor": 0.001}),
    ("pvt_small", {"num_heads": (1, 3, 5, 8)}),
    ("pvt_small", {"sr_ratios": (8, 4, 2, 2)}),
    ("pvt_small", {"img_size": 16}),
    ("pvt_small", {"global_pool": "avg"}),
]


def test_impossible_settings_name_the_possible_ones(snapshot: SnapshotAssertion) -> None:
    said = []
    for model, settings in IMPOSSIBLE:
        with pytest.raises(InputError) as caught, torch.device("meta"):
            create(model, **settings)
        said.append(f"{model} {settings}: {caught.value}")
    assert "\n".join(said) == snapshot
