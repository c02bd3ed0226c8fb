"""VAN as a timm model."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

from lska.models import ATTENTIONS, create
from lska.models.attention import DepthwiseConv2d
from lska.models.van import VAN

SMALL = {"embed_dims": (8, 12, 16, 24), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def small(**settings: object) -> nn.Module:
    """A narrow VAN with 10 classes."""
    torch.manual_seed(0)
    return create("van_tiny", **({"num_classes": 10, "kernel_size": 7} | SMALL | settings))


def images(batch: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ["van_tiny", "van_small", "van_base"])
def test_every_registered_model_trains_and_evaluates(name: str, attention: str) -> None:
    model = timm.create_model(name, attention=attention, kernel_size=7, num_classes=5, drop_path_rate=0.1)
    logits = model(images(2, 32))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_defaults_are_lska_with_kernel_23() -> None:
    with torch.device("meta"):
        unit = timm.create_model("van_tiny").block1[0].attn.spatial_gating_unit
    assert unit.conv_spatial_h.kernel_size == (1, 7)
    assert unit.conv_spatial_h.dilation == (3, 3)


def test_input_configuration_is_the_papers() -> None:
    with torch.device("meta"):
        config = resolve_model_data_config(timm.create_model("van_base"))
    expected = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    assert {key: config[key] for key in expected} == expected
    assert config["input_size"] == (3, 224, 224)


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


def test_channels_last_gives_the_same_and_stays_channels_last() -> None:
    model, x = small().eval(), images()
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        features = model.forward_features(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(model.forward_head(features), expected)
    assert features.is_contiguous(memory_format=torch.channels_last)


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


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2), (3,), (-1,)])
def test_features_only_returns_normalised_stage_outputs(out_indices: tuple[int, ...]) -> None:
    reference, x = small().eval(), images()
    features = small(features_only=True, out_indices=out_indices).eval()
    wanted = [index % 4 for index in out_indices]
    assert features.feature_info.channels() == [(8, 12, 16, 24)[i] for i in wanted]
    assert features.feature_info.reduction() == [(4, 8, 16, 32)[i] for i in wanted]
    with torch.no_grad():
        last, maps = reference.forward_intermediates(x)
        torch.testing.assert_close(features(x), [maps[i] for i in wanted])
    torch.testing.assert_close(last, reference.forward_features(x))
    assert not hasattr(features.model, f"block{max(wanted) + 2}")


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


def test_gradient_checkpointing_gives_equal_gradients() -> None:
    gradients = []
    for enable in (False, True):
        model = small()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_first_embedding_can_be_shrunken_for_small_images() -> None:
    model = small(stem_kernel=3, stem_stride=2, in_chans=1).eval()
    assert model.feature_info[-1]["reduction"] == 16
    assert model.forward_features(images()[:, :1]).shape == (2, 24, 4, 4)


def test_weight_decay_skips_norms_biases_and_layer_scales() -> None:
    model = small()
    groups = param_groups_weight_decay(model, 0.05, model.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    modules = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert names == {f"{name}.weight" for name in modules}


def test_layers_are_grouped_by_depth() -> None:
    model = small()
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    depth = [groups[f"{name}.weight"] for name in ("patch_embed1.proj", "block1.0.norm1", "block4.0.norm1", "head")]
    assert depth == sorted(set(depth))


def test_autocast_keeps_the_residual_stream_in_full_precision() -> None:
    block = small().block1[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(torch.randn(1, 8, 4, 4)).dtype == torch.float32
        assert block.mlp(torch.randn(1, 8, 4, 4)).dtype == torch.bfloat16


def test_shrunken_model_uses_depthwise_convolutions_throughout() -> None:
    depthwise = [module for module in small().modules() if isinstance(module, DepthwiseConv2d)]
    assert len(depthwise) == 5 * 5
    assert all(module.groups == module.in_channels for module in depthwise)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "van_tinny"}, "did you mean van_tiny"),
        ({"model": "van_tiny", "attention": "lsk"}, "lka_trivial, lska_trivial, lka, lska"),
        ({"model": "van_tiny", "kernel_size": 8}, "nearest: 7 or 9"),
        ({"model": "van_tiny", "kernel": 7}, "unknown setting kernel; possible: .*kernel_size"),
        ({"model": "resnet18", "attention": "lska"}, "'resnet18' has no attention"),
        ({"model": "van_tiny", "depths": (1, 1)}, "one value per stage"),
        ({"model": "van_tiny", "embed_dims": (8, -8, 8, 8)}, "expected positive values per stage, found .*-8"),
    ],
)
def test_wrong_settings_name_the_possible_ones(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**settings)


def test_create_makes_foreign_models_too() -> None:
    assert not isinstance(create("resnet18", attention=None, kernel_size=None, num_classes=4), VAN)
