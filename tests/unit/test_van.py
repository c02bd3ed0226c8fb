"""VAN as a timm model."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from syrupy.assertion import SnapshotAssertion
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

from lska.models import create
from lska.models.van import VAN
from lska.provenance.errors import InputError

SMALL = {"embed_dims": (8, 12, 16, 24), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def small(**settings: object) -> nn.Module:
    """A narrow VAN with 10 classes."""
    torch.manual_seed(0)
    return create("van_tiny", **({"num_classes": 10, "kernel_size": 7} | SMALL | settings))


def images(batch: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_registered_models_train_and_have_the_papers_settings() -> None:
    for name, attention in zip(("van_tiny", "van_small", "van_base"), ("lska", "slak", "lka_trivial"), strict=True):
        model = timm.create_model(name, attention=attention, kernel_size=7, num_classes=5, drop_path_rate=0.1)
        logits = model(images(2, 32).contiguous(memory_format=torch.channels_last))
        logits.square().sum().backward()
        assert logits.shape == (2, 5)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.device("meta"):
        model = timm.create_model("van_tiny")
        assert not isinstance(create("resnet18", attention=None, kernel_size=None, num_classes=4), VAN)
    conv, config = model.block1[0].attn.spatial_gating_unit.conv_spatial_h, resolve_model_data_config(model)
    assert (conv.kernel_size, conv.dilation) == ((1, 7), (3, 3)), "LSKA with kernel 23"
    expected = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    assert {key: config[key] for key in expected} == expected


def test_forward_is_the_published_sequence() -> None:
    """Against the block written out from protocol section 1 with plain operations."""
    model = small().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.rand(parameter.shape, generator=generator)
    x = images()
    with torch.no_grad():
        expected, actual = written_out(model, x), model(x)
    torch.testing.assert_close(actual, expected)


def written_out(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits of a VAN in evaluation mode, with the shortcuts, scales and LayerNorm of the released code."""
    for stage in range(1, 5):
        x = getattr(model, f"patch_embed{stage}").proj(x)
        x = getattr(model, f"patch_embed{stage}").norm(x)
        for block in getattr(model, f"block{stage}"):
            normed = block.norm1(x)
            u = nn.functional.gelu(block.attn.proj_1(normed))
            unit = block.attn.spatial_gating_unit
            gate = unit.conv1(unit.conv_spatial_v(unit.conv_spatial_h(unit.conv0v(unit.conv0h(u)))))
            x = x + block.layer_scale_1[:, None, None] * (block.attn.proj_2(u * gate) + normed)
            hidden = block.mlp.dwconv.dwconv(block.mlp.fc1(block.norm2(x)))
            x = x + block.layer_scale_2[:, None, None] * block.mlp.fc2(nn.functional.gelu(hidden))
        norm = getattr(model, f"norm{stage}")
        b, c, h, w = x.shape
        tokens = nn.functional.layer_norm(x.flatten(2).transpose(1, 2), (c,), norm.weight, norm.bias, 1e-6)
        x = tokens.transpose(1, 2).reshape(b, c, h, w)
    return model.head(x.mean(dim=(2, 3)))


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
    model = small(drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for i in range(1, 5) for block in getattr(model, f"block{i}")]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    block = model.block4[0].train()
    for norm in (block.norm1, block.norm2):
        norm.eval()
    x = torch.randn(64, 24, 2, 2)
    change = (block(x) - x).abs().amax(dim=(1, 2, 3))
    assert 0 < (change == 0).sum() < 64
    assert torch.equal(block.eval()(x), block(x))


@torch.no_grad()
def test_features_only_returns_normalised_stage_outputs() -> None:
    reference, x = small().eval(), images()
    last, maps = reference.forward_intermediates(x)
    torch.testing.assert_close(last, reference.forward_features(x))
    for indices in ((0, 1, 2, 3), (1, 2), (-1,)):
        features, wanted = small(features_only=True, out_indices=indices).eval(), [index % 4 for index in indices]
        assert features.feature_info.channels() == [(8, 12, 16, 24)[i] for i in wanted]
        assert features.feature_info.reduction() == [(4, 8, 16, 32)[i] for i in wanted]
        torch.testing.assert_close(features(x), [maps[i] for i in wanted])
        assert not hasattr(features.model, f"block{max(wanted) + 2}")
    shrunken = small(stem_kernel=3, stem_stride=2, in_chans=1).eval()
    assert shrunken.forward_features(x[:, :1]).shape == (2, 24, 4, 4)


def test_classifier_can_be_replaced_and_removed() -> None:
    model, x = small().eval(), images()
    assert model.get_classifier() is model.head
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, global_pool="max")
    assert (model(x) >= pooled).all()


def test_weight_decay_skips_norms_biases_and_layer_scales_and_layers_are_grouped_by_depth() -> None:
    model = small()
    groups = param_groups_weight_decay(model, 0.05, model.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    modules = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert names == {f"{name}.weight" for name in modules}
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    depth = [groups[f"{name}.weight"] for name in ("patch_embed1.proj", "block1.0.norm1", "block4.0.norm1", "head")]
    assert depth == sorted(set(depth))


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
