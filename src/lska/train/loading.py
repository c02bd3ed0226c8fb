"""Batches for training and scoring, a function of (seed, epoch, position) alone, from processes that load images.

Augmentation, batch mixing and drop-path draw from generators that are seeded for every image and every micro-batch.
So a training that goes on after an interruption, or with another number of worker processes, sees exactly what the
uninterrupted one sees, and no generator state has to be saved. The processes outlive the signals of a job, and nobody
waits for them for ever.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import Mixup, create_transform
from torch.utils.data import DataLoader, Dataset, Sampler

from lska.data.folders import ImageDataset, Split
from lska.data.synthetic.seeds import seed_of
from lska.provenance.errors import InputError, WorkerError
from lska.provenance.sidecars import Preprocessing
from lska.provenance.surroundings import folder_for_sockets
from lska.settings.recipes import Recipe
from lska.train.interrupt import SIGNALS, Interrupted

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Time between two looks at the processes while no batch comes."""
BATCH_SECONDS = 600.0
"""How long a batch is waited for at all."""
_STOP_SECONDS = 15.0
"""How long a batch is waited for when there is a reason to stop: an update that is complete can be saved."""
_ROOM = re.compile(r"unable to (?:resize|write to|mmap|allocate|open)\b.*")
"""What torch says where it cannot make a file in shared memory."""

Stopping = Callable[[], str | None]
Key = tuple[int, int]


def seed_processor(*parts: int | str) -> int:
    """Seed the generators of Python, NumPy and torch on the processor from `parts`; returns the seed."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm draws from the legacy generator
    # torch.manual_seed also notes the call stack for each kind of accelerator: a third of a millisecond per image.
    torch.default_generator.manual_seed(seed)
    return seed


def seed_everything(*parts: int | str) -> None:
    """Seed the generators of Python, NumPy and torch on all devices from `parts`."""
    torch.manual_seed(seed_processor(*parts))


class SeededImages(Dataset):
    """`images` addressed by (epoch, index), with every random choice of their transforms fixed by that key.

    Indices beyond the number of images are repeats: the same images, changed otherwise.
    """

    def __init__(self, images: Dataset, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Any:
        epoch, index = key
        seed_processor(self.seed, "image", epoch, index)
        return self.images[index % len(self.images)]


@dataclass(frozen=True)
class BatchPlan:
    """How `length` images are cut into updates and micro-batches.

    An update takes `micro_batches` of `micro_batch` images; micro-batch j goes to process j mod world. What a
    micro-batch holds depends on neither `world` nor where a training was resumed.
    """

    length: int
    micro_batch: int
    micro_batches: int
    epochs: int
    seed: int
    repeats: int = 1
    """How often an epoch shows an image, each time changed otherwise; of `length` images it shows one in `repeats`."""

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise InputError(
                f"the training set has {self.length} images, fewer than the global batch of "
                f"{self.micro_batch * self.micro_batches}; lower global_batch in the recipe"
            )

    @classmethod
    def of(cls, recipe: Recipe, length: int, seed: int) -> BatchPlan:
        """The plan of a recipe on a training set of `length` images."""
        parts = recipe.global_batch // recipe.micro_batch
        return cls(length, recipe.micro_batch, parts, recipe.total_epochs, seed, recipe.augmentation_repeats)

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; images that do not fill a global batch are left out of that epoch."""
        return self.length // (self.micro_batch * self.micro_batches)

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return self.steps_per_epoch * self.epochs

    def share(self, world: int) -> int:
        """Micro-batches per update and process; raises InputError where `world` processes cannot have equal shares."""
        if self.micro_batches % world:
            raise InputError(
                f"{self.micro_batches} micro-batches (global_batch / micro_batch) cannot be divided among {world} "
                "processes; change micro_batch in the recipe or the number of GPUs"
            )
        return self.micro_batches // world

    def order(self, epoch: int) -> torch.Tensor:
        """The image indices of `epoch` in order, shape (length,): a permutation, or repeats of a part of one.

        Repeats are spread over the micro-batches of an update, and so over the processes, as in DeiT's published code.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        order = torch.randperm(self.length, generator=generator)
        if self.repeats == 1:
            return order
        repeated = (order[:, None] + self.length * torch.arange(self.repeats)).flatten()
        update = self.micro_batch * self.micro_batches
        whole = repeated[: self.steps_per_epoch * update].view(-1, self.micro_batch, self.micro_batches)
        return torch.cat([whole.mT.flatten(), repeated[whole.numel() : self.length]])


class MicroBatches(Sampler[list[Key]]):
    """The (epoch, index) keys of this process's micro-batches from update `start` to the end of the training."""

    def __init__(self, plan: BatchPlan, start: int, rank: int, world: int) -> None:
        self.plan, self.start, self.rank, self.world = plan, start, rank, world

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.plan.share(self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        plan, current, order = self.plan, -1, torch.empty(0)
        for step in range(self.start, plan.steps):
            epoch, position = divmod(step, plan.steps_per_epoch)
            if epoch != current:
                current, order = epoch, plan.order(epoch)
            for part in range(self.rank, plan.micro_batches, self.world):
                first = (position * plan.micro_batches + part) * plan.micro_batch
                yield [(epoch, int(i)) for i in order[first : first + plan.micro_batch]]


def training_transform(recipe: Recipe) -> Any:
    """timm's ImageNet training transform: PIL image to normalised float tensor (3, image_size, image_size); raises
    InputError where timm cannot read `rand_augment`."""
    try:
        return create_transform(
            recipe.image_size, is_training=True, scale=recipe.crop_scale, ratio=recipe.crop_ratio,
            hflip=recipe.horizontal_flip, color_jitter=recipe.color_jitter, auto_augment=recipe.rand_augment,
            interpolation=recipe.train_interpolation, mean=recipe.mean, std=recipe.deviation,
            re_prob=recipe.erase_probability, re_mode=recipe.erase_mode,
        )  # fmt: skip
    except (AssertionError, IndexError, KeyError) as error:
        raise InputError(
            f"recipe: rand_augment: expected timm's form such as rand-m9-mstd0.5-inc1, found {recipe.rand_augment!r} "
            f"({error})"
        ) from error


def test_transform(recipe: Recipe | Preprocessing) -> Any:
    """Resize the shorter side to image_size / test_crop, centre crop, normalise (released code's test transform)."""
    return create_transform(
        recipe.image_size, is_training=False, crop_pct=recipe.test_crop, interpolation=recipe.test_interpolation,
        mean=recipe.mean, std=recipe.deviation,
    )  # fmt: skip


def training_loader(
    images: Dataset, plan: BatchPlan, start: int, rank: int, world: int, workers: int,
    stopping: Stopping = lambda: None, collate_fn: Callable[..., Any] | None = None,
) -> Loader:
    """Micro-batches of this process from update `start` on: images (B, 3, H, W) float, labels (B,) int64, or what
    `collate_fn` makes of the samples of a micro-batch."""
    batches = MicroBatches(plan, start, rank, world)
    return Loader(SeededImages(images, plan.seed), workers, stopping, batch_sampler=batches, collate_fn=collate_fn)


def scoring_loader(split: Split, how: Recipe | Preprocessing, batch_size: int, workers: int) -> Loader:
    """Every image of `split` once, in order, with its label, as batches (B, 3, size, size); an unreadable one is an
    error."""
    return Loader(ImageDataset(split, test_transform(how), on_error="raise"), workers, batch_size=batch_size)


def batch_mixer(recipe: Recipe, classes: int) -> Mixup | None:
    """timm's mixup and cutmix with label smoothing; None where the recipe mixes nothing."""
    if not recipe.mixes:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, prob=recipe.mixup_probability,
        switch_prob=recipe.mixup_switch_probability, label_smoothing=recipe.label_smoothing, num_classes=classes,
    )  # fmt: skip


# --- Processes that load images --------------------------------------------------------------------------------------


class Loader(DataLoader):
    """torch's DataLoader with `workers` processes, whose batches come, or it says why not.

    Args:
        stopping: why to stop now, or None.
    """

    def __init__(self, images: Dataset, workers: int, stopping: Stopping = lambda: None, **settings: Any) -> None:
        self.stopping = stopping
        super().__init__(
            images, num_workers=workers, timeout=LOOK_SECONDS if workers else 0, worker_init_fn=_heed_only_the_trainer,
            pin_memory=torch.cuda.is_available(), **settings,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        """The batches.

        Raises:
            WorkerError: one of the processes ended, or no batch comes.
            Interrupted: there is a reason to stop, and no batch comes.
        """
        others, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if self.num_workers == 0:
            yield from batches
            return
        if threading.current_thread() is threading.main_thread() and handler is not None:
            # torch's own, also an earlier loader's, raises where the main thread just is, be it amid an update.
            of_torch = getattr(handler, "__module__", "").startswith("torch.")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if of_torch else handler)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        begun = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                # An error in a process has its own words; only after this one does the iterator go on.
                late = str(error) == f"DataLoader timed out after {self.timeout} seconds"
                try:
                    _look(workers, error, time.monotonic() - begun if late else None, self.stopping())
                except RuntimeError:
                    for process in workers:
                        process.kill()
                    raise
                continue
            yield batch
            begun = time.monotonic()


def _look(
    workers: list[multiprocessing.process.BaseProcess], error: RuntimeError, waited: float | None, reason: str | None
) -> None:
    """Return if it makes sense to wait on for a batch that is late, or raise what is wrong."""
    if ended := [process.exitcode for process in workers if process.exitcode]:
        code = ended[0]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise WorkerError(
            f"a process that loads images {how}; if memory ran out (or /dev/shm), lower `workers`; then start again"
        ) from error
    if waited is None:
        if (refused := _ROOM.search(str(error))) is None:
            raise error
        raise WorkerError(
            f"no room in shared memory (/dev/shm), through which processes pass images: {refused[0]}; give the machine "
            "or container more of it (docker run --shm-size), raise `ulimit -f`, or lower `workers`; `workers: 0` "
            "needs none"
        ) from error
    if reason is not None and waited > _STOP_SECONDS:
        raise Interrupted(f"{reason}, while no batch came from the processes that load images") from error
    if waited > BATCH_SECONDS:
        raise WorkerError(
            f"the processes that load images gave no batch for {waited:.0f} s; read their messages above, and check "
            "the file system with the images; `workers: 0` loads without them"
        ) from error
    if waited < 2 * LOOK_SECONDS or waited % 60 < LOOK_SECONDS:
        logger.info("waiting for a batch from %d process(es) that load images, for %.0f s", len(workers), waited)


def _heed_only_the_trainer(worker: int) -> None:
    """Prepare a process that loads images.

    Schedulers signal every process of a job, and the trainer needs its workers until it has stopped by itself. Batches
    are handed over through a Unix socket, which the process makes in the temporary folder.
    """
    tempfile.tempdir = str(folder_for_sockets())
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def watch() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
