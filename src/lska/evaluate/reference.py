"""The classifier that chooses the images of a generated counterpart of ImageNet-A by getting them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from lska.data.perturbed.perturbed_preparing import Judge
from lska.evaluate.members import open_run
from lska.evaluate.robustness import training_classes
from lska.models.runs import Run
from lska.models.threads import use_threads
from lska.settings.scale import Config
from lska.train.loading import test_transform


def judge(config: Config, run: Run) -> tuple[Judge, dict[str, Any]]:
    """A function from RGB images to class probabilities (B, classes) by the trained `run`, and what identifies it.

    Raises:
        StaleWeightsError, ValueError: the run's weights are missing, or not those of the configuration.
    """
    use_threads(config.evaluation.threads)
    device = torch.device("cuda" if config.evaluation.gpus else "cpu")
    member = open_run(config, run, len(training_classes(config)), device)
    transform = test_transform(member.own)

    @torch.inference_mode()
    def probabilities(images: list[Image.Image]) -> np.ndarray:
        batch = torch.stack([transform(image) for image in images]).to(device)
        return member.network(batch).float().softmax(dim=1).cpu().numpy()

    return probabilities, {"run": str(run), "md5": member.sidecar["md5"]}
