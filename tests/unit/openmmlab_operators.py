"""Train and run RetinaNet, Mask R-CNN and Semantic FPN once on the device named, and print the operators they call.

An operator that the stand-in does not have ends the program with an error.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lska.models.mmcv_operators import EXTENSION, OPERATORS, install

SIDE = 64


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The names of the operators called inside."""
    calls: set[str] = set()

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        calls.add(name)
        return OPERATORS[name](*args, **kwargs)

    extension = vars(sys.modules[EXTENSION])
    extension.update({name: partial(call, name) for name in OPERATORS})
    yield calls
    extension.update(OPERATORS)


def stock_model(package: Any, name: str, **changes: Any) -> torch.nn.Module:
    """The network of a configuration file that the package installs, from random weights."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    settings = Config.fromfile(Path(package.__file__).parent / ".mim" / "configs" / "_base_" / "models" / name)
    settings.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope(package.__name__):
        return package.registry.MODELS.build(settings.model)


def detector(name: str, score_threshold: str, device: str) -> list[str]:
    import mmdet
    from mmdet.testing import demo_mm_inputs

    # A network with random weights gives no score that the stock threshold lets through to the NMS.
    model = stock_model(mmdet, name, **{"backbone.init_cfg": None, score_threshold: 0.0}).to(device)
    data = demo_mm_inputs(2, (3, SIDE, SIDE), num_items=[2, 0], num_classes=80, with_mask=True, use_box_type=True)
    return train_and_predict(model, data)


def segmentor(device: str) -> list[str]:
    import mmseg
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    plain = {"type": "BN"}
    changes = {"pretrained": None, "backbone.norm_cfg": plain, "decode_head.norm_cfg": plain}
    model = stock_model(mmseg, "fpn_r50.py", **changes, **{"data_preprocessor.size": (SIDE, SIDE)}).to(device)
    size = {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE)}
    labels = [PixelData(data=torch.randint(0, 19, (1, SIDE, SIDE))) for _ in range(2)]
    samples = [SegDataSample(gt_sem_seg=each, metainfo=size) for each in labels]
    images = [torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    return train_and_predict(model, {"inputs": images, "data_samples": samples})


def train_and_predict(model: torch.nn.Module, data: dict[str, Any]) -> list[str]:
    with recorded() as calls:
        batch = model.data_preprocessor(data, training=True)
        loss, _ = model.parse_losses(model(**batch, mode="loss"))
        loss.backward()
        model.eval()
        with torch.no_grad():
            model(**model.data_preprocessor(data), mode="predict")
    assert torch.isfinite(loss)
    return sorted(calls)


def focal_loss(device: str) -> list[str]:
    """mmdet's loss through the operator, as on CUDA, equals its plain form on the one-hot targets."""
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss, sigmoid_focal_loss

    targets = torch.tensor([0, 4, 2, 4], device=device)
    one_hot = torch.nn.functional.one_hot(targets, 5)[:, :4]
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0], device=device)
    logits = torch.randn(4, 4, device=device, requires_grad=True)

    def value_and_gradient(loss: Callable[..., torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        value = loss(logits, labels, weight, avg_factor=3.0)
        return value, *torch.autograd.grad(value, logits)

    with recorded() as calls:
        given = value_and_gradient(sigmoid_focal_loss, targets)
    torch.testing.assert_close(given, value_and_gradient(py_sigmoid_focal_loss, one_hot))
    return sorted(calls)


def main(device: str) -> None:
    install()
    # mmdet and mmseg register their models when these are imported.
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    called = {
        "retinanet": detector("retinanet_r50_fpn.py", "test_cfg.score_thr", device),
        "mask_rcnn": detector("mask-rcnn_r50_fpn.py", "test_cfg.rcnn.score_thr", device),
        "semantic_fpn": segmentor(device),
        "focal_loss": focal_loss(device),
    }
    print(json.dumps(called))


if __name__ == "__main__":
    main(sys.argv[1])
