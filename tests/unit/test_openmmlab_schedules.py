"""Optimizer, batches, length and learning rates of generated configurations, against protocol sections 3 and 4."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from paper_jobs import generated, means, network, on_scope, published, rates

DETECTORS = ("retinanet", "mask_rcnn")
# Old spellings inside the library.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmseg")


@pytest.mark.parametrize(("head", "decay"), [("retinanet", 0.05), ("mask_rcnn", 0.05), ("semantic_fpn", 1e-4)])
def test_optimizer(head: str, decay: float) -> None:
    from mmengine.optim import build_optim_wrapper

    wrapper = published(head).optim_wrapper
    assert wrapper.optimizer == {"type": "AdamW", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": decay}
    assert (wrapper.type, wrapper.clip_grad) == ("OptimWrapper", None)
    assert not {"paramwise_cfg", "constructor"} & set(wrapper)
    model = network(published(head))
    optimizer = build_optim_wrapper(model, wrapper.copy()).optimizer
    # One group: norms and biases decay like all others, and no layer has a rate of its own.
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["weight_decay"], type(optimizer)) == (1e-4, decay, torch.optim.AdamW)


@pytest.mark.parametrize("head", DETECTORS)
def test_detectors_train_twelve_epochs(head: str) -> None:
    warmup, fall = published(head).param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.begin, warmup.start_factor) == ("LinearLR", False, 0, 1e-3)
    assert warmup.end - warmup.begin - 1 == 1000  # mmengine's own length of the ramp
    assert (fall.type, fall.by_epoch, fall.milestones, fall.gamma) == ("MultiStepLR", True, [8, 11], 0.1)
    assert fall.convert_to_iter_based
    assert (fall.begin, fall.end) == (0, 12)
    assert published(head).train_dataloader.batch_sampler.epochs == 12


def test_semantic_fpn_decays_over_eighty_thousand_updates() -> None:
    (decay,) = published("semantic_fpn").param_scheduler
    assert (decay.type, decay.power, decay.eta_min, decay.by_epoch, decay.begin) == ("PolyLR", 0.9, 0.0, False, 0)
    assert decay.end - decay.begin - 1 == 80000  # mmengine's own length of the decay
    sampler = published("semantic_fpn").train_dataloader.batch_sampler
    assert sampler.updates == 80000
    assert "epochs" not in sampler


@pytest.mark.parametrize(
    ("head", "gpus", "images", "accumulated"),
    [(head, gpus, 2, 8 // max(1, gpus)) for head in DETECTORS for gpus in (0, 1, 2, 8)]
    + [("semantic_fpn", gpus, 4, 4 // max(1, gpus)) for gpus in (0, 1, 2, 4)],
)
def test_an_update_takes_sixteen_images_on_any_number_of_gpus(
    head: str, gpus: int, images: int, accumulated: int
) -> None:
    config = generated(head, means(head, gpus=gpus, workers=3))
    loader, wrapper = config.train_dataloader, config.optim_wrapper
    assert (loader.batch_size, wrapper.accumulative_counts) == (images, accumulated)
    assert loader.batch_size * max(1, gpus) * wrapper.accumulative_counts == 16
    assert loader.batch_size * loader.batch_sampler.micro_batches == 16
    assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (3, True, gpus > 0)
    assert wrapper.optimizer.lr == 1e-4


@pytest.mark.parametrize(("head", "length"), [("retinanet", 12 * 10), ("mask_rcnn", 12 * 10), ("semantic_fpn", 80000)])
def test_the_training_is_as_long_as_published(head: str, length: int) -> None:
    from mmengine.registry import DATA_SAMPLERS

    class Samples(list):
        def get_data_info(self, index: int) -> dict[str, int]:
            return self[index]

    loader = published(head).train_dataloader
    images = Samples({"width": 64, "height": 48} for _ in range(165))
    sampler = SimpleNamespace(dataset=SimpleNamespace(dataset=images))
    settings = {**loader.batch_sampler, "sampler": sampler, "batch_size": loader.batch_size}
    batches = on_scope(published(head), lambda: DATA_SAMPLERS.build(settings))
    assert batches.plan.steps == length
    assert len(batches) == 10  # updates of 16 images in an epoch of 165


@pytest.mark.parametrize("warmup", [0, 1, 2, 9, 40])
def test_rates_of_a_detector(warmup: int) -> None:
    """Linear warm-up from a thousandth, a tenth after each milestone, also where the warm-up outlasts a milestone."""
    short = {"epochs": 5, "milestones": [3, 4], "warmup_updates": warmup}
    config = generated("retinanet", means("retinanet", overrides=short))
    ramp = [1e-3 + (1 - 1e-3) * min(1, step / warmup) if warmup else 1 for step in range(35)]
    fall = [0.1 ** ((step >= 3 * 7) + (step >= 4 * 7)) for step in range(35)]
    assert rates(config, 7, 35) == pytest.approx([1e-4 * up * down for up, down in zip(ramp, fall, strict=True)])


def test_rates_of_the_published_warmup() -> None:
    found = rates(published("mask_rcnn"), 7393, 1002)
    assert [found[step] for step in (0, 500, 999, 1000, 1001)] == pytest.approx(
        [1e-7, 1e-4 * (0.001 + 0.999 / 2), 1e-4 * (1 - 0.999 / 1000), 1e-4, 1e-4]
    )


@pytest.mark.parametrize(("updates", "least"), [(1, 0.0), (2, 0.0), (30, 0.0), (30, 1e-5)])
def test_rates_of_a_segmentor(updates: int, least: float) -> None:
    short = {"updates": updates, "minimum_learning_rate": least}
    config = generated("semantic_fpn", means("semantic_fpn", overrides=short))
    expected = [least + (1e-4 - least) * (1 - step / updates) ** 0.9 for step in range(updates)]
    assert rates(config, 7, updates) == pytest.approx(expected)
    assert min(expected) > 0
