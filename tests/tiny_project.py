"""A project in which a network trains within a second or two: 76 small images, a narrow network, twelve updates."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lska.models.runs import Run
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict

CLASSES = ("blue", "green", "red", "white")
COLOURS = {"blue": (30, 30, 200), "green": (30, 180, 30), "red": (200, 30, 30), "white": (220, 220, 220)}
RUN = Run("van_tiny", "lska", 7, 0)

# Four updates of two micro-batches per epoch on the 76 training images; the last 12 of each epoch are left out.
RECIPE: dict[str, Any] = {
    "epochs": 3, "cooldown_epochs": 0, "warmup_epochs": 1, "learning_rate": 4.0e-3, "warmup_learning_rate": 1.0e-4,
    "minimum_learning_rate": 1.0e-5, "schedule_unit": "update", "optimizer": "adamw", "weight_decay": 0.05,
    "clip_gradient": 1.0, "global_batch": 16, "micro_batch": 8, "ema_decay": None, "drop_path": 0.0,
    "label_smoothing": 0.1, "mixup": 0.0, "cutmix": 0.0, "mixup_probability": 0.0, "mixup_switch_probability": 0.5,
    "image_size": 32, "crop_scale": [0.5, 1.0], "crop_ratio": [0.75, 1.3333333333333333], "horizontal_flip": 0.5,
    "rand_augment": None, "color_jitter": 0.0, "erase_probability": 0.0, "erase_mode": "pixel",
    "train_interpolation": "bilinear", "test_crop": 1.0, "test_interpolation": "bilinear", "mean": [0.5, 0.5, 0.5],
    "deviation": [0.5, 0.5, 0.5], "precision": "fp32", "channels_last": True, "compile": False,
    "validation_interval": 0,
}  # fmt: skip

SETTINGS: dict[str, Any] = {
    "scale": "test",
    "caption": "test scale",
    "runs": [{"model": RUN.model, "attention": RUN.attention, "kernel": RUN.kernel, "seed": RUN.seed}],
    "architecture": {"van_tiny": {"embed_dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}},
    "data": {"name": "colours", "root": "data", "manifest": "colours.yaml"},
    "training": {"recipe": "recipe.yaml"},
    "evaluation": {"batch_size": 7},
    "speed": {"batch_size": 2, "warmup": 1, "repeats": 3, "seconds": 0.0},
}


def write_images(root: Path, split: str, label: str, count: int) -> None:
    """Noisy images of one colour, in ImageNet's folder layout."""
    folder = root / split / label
    folder.mkdir(parents=True)
    generator = np.random.default_rng(sum(map(ord, split + label)))
    for number in range(count):
        pixels = np.array(COLOURS[label]) + generator.normal(0, 25, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.jpg", quality=90)


@dataclass(frozen=True)
class Project:
    """A working folder with a configuration, a recipe and data whose record is written."""

    folder: Path
    settings: dict[str, Any]
    run: Run = RUN

    def config(self, *changes: dict[str, Any]) -> Config:
        """The configuration with `changes` merged over it, in order."""
        settings = self.settings
        for change in changes:
            settings = merge(settings, change)
        return from_dict(settings, "test configuration")

    def trained(self, *changes: dict[str, Any]) -> Config:
        """Train the run without interruption, from its beginning or its last state, and return the configuration."""
        from lska.train.classifier import train

        config = self.config(*changes)
        self.prepare(config)
        train(config.classifier(self.run))
        return config

    def prepare(self, config: Config) -> None:
        """Write the record of the data set."""
        from lska.data.preparing import prepare

        prepare(config.images)

    def records(self, config: Config) -> list[dict[str, Any]]:
        """The lines of the finished training's record of losses."""
        text = config.training_log(self.run).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def states(self, config: Config) -> list[Path]:
        """State files of the training, oldest first."""
        from lska.train.saved_state import state_files

        return state_files(config.classifier(self.run).states)

    def command(self, *words: str, changes: dict[str, Any] | None = None) -> int:
        """Exit code of `lska *words` with the project's configuration and `changes` over it."""
        from lska.cli import main

        return main([*words, "--config", "config.yaml", "--set", json.dumps(changes or {})])


def owned(config: Config, job: Any) -> Any:
    """A task that remembers its configuration, for tests that look into both."""
    object.__setattr__(job, "config", config)
    return job


def networks(job: Any, runs: Iterable[Run]) -> list[Any]:
    """What an `owned` task is measured on."""
    return list(map(job.config.classifier, runs))


def scored(config: Config, runs: Iterable[Run]) -> None:
    """Write the accuracies of runs, as the command does."""
    from lska.evaluate.accuracy import classify

    classify(config.measurement("classification"), list(map(config.classifier, runs)))


def fresh(
    config: Config, run: Run, classes: int, drop_path: float = 0.0, architecture: dict[str, Any] | None = None
) -> Any:
    """The network of a run with fresh weights, by default as the configuration shrinks it."""
    from lska.train.classifier import build_network

    shrunken = config.architecture.get(run.model, {}) if architecture is None else architecture
    return build_network(run, shrunken, classes, drop_path)


def in_child(body: Callable[[], Any], **environment: str) -> multiprocessing.process.BaseProcess:
    """Start `body` in a forked process, in a process group of its own; what it returns is its exit code.

    Forking keeps the seconds that importing torch and timm takes to one time per test session.
    """

    def run() -> None:
        os.setsid()
        os.environ.update(environment)
        raise SystemExit(body())

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def before_update(number: int, act: Callable[[Any], Any]) -> None:
    """Have this process call `act(trainer)` when its training has done `number` updates and the next begins."""
    from lska.train import engine

    original = engine.fit

    def fit(trainer: Any, *more: Any) -> None:
        update = trainer.update

        def watched(batches: Any) -> Any:
            if trainer.progress.step == number:
                act(trainer)
            return update(batches)

        trainer.update = watched
        original(trainer, *more)

    engine.fit = fit


def signal_self(number: int) -> Callable[[Any], None]:
    """An action of `before_update`: this process gets a signal."""
    return lambda trainer: os.kill(os.getpid(), number)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
