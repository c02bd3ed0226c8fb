"""Scoring many checkpoints on a perturbed set: one pass for all of them against one process per checkpoint.

    python bench/robustness_pass.py --json bench/results/robustness_pass.json

The images are corrupted scenes stored as JPEG files of the input size, the networks VAN-Tiny with fresh weights.
Contenders take turns, and each makes and saves every prediction anew. Beside them stands what a pass cannot do without:
reading and decoding each image once, and every network's forward pass over images that are in memory already. About ten
minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lska.data.folders import open_split
from lska.data.perturbed.corrupted_set import CorruptionSettings, write_corrupted_set
from lska.data.perturbed.names import severity_folder
from lska.data.perturbed.parts import Part, corruption_folder
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.labelled import ClassificationSettings
from lska.evaluate.accuracy import ScoringPass
from lska.evaluate.measurement import Shard, Subject, shared_batches
from lska.models import create
from lska.models.scoring import memory_format
from lska.provenance.files import write_json
from lska.provenance.metric_files import code_version, environment
from lska.provenance.sidecars import Preprocessing
from lska.train.interrupt import StopRequest

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "contrast")
CLASSES = 10


def subject(number: int, size: int) -> Subject:
    """VAN-Tiny with LSKA, k = 23, and fresh weights of seed `number`."""
    torch.manual_seed(number)
    network = create("van_tiny", attention="lska", kernel_size=23, num_classes=CLASSES).eval()
    half = [0.5, 0.5, 0.5]
    recipe = {"image_size": size, "test_crop": 0.9, "test_interpolation": "bicubic", "mean": half, "deviation": half}
    network, sidecar = network.to(memory_format=memory_format(True)), {"md5": f"{number:032x}"}
    return Subject(str(number), network, sidecar, Preprocessing.of(recipe, "recipe"), channels_last=True)


def make_images(folder: Path, size: int, images: int) -> None:
    """Clean scenes and their corruptions at severity 3."""
    clean = ClassificationSettings(image_size=size, classes=CLASSES, train_per_class=1, val_per_class=-(-images // 10))
    write_set(folder / "clean", clean)
    settings = CorruptionSettings("c", size, size, images, severities=(3,))
    write_corrupted_set(open_split(folder / "clean", "val"), folder / "c", settings, {"name": "bench"})


def one_pass(folder: Path, store: Path, numbers: range, options: argparse.Namespace) -> ScoringPass:
    """A pass of the networks `numbers` over three corruptions, saving to `store`."""
    parts = []
    for name in CORRUPTIONS:
        split = open_split(corruption_folder(folder / "c", "c", name), severity_folder("c", name, 3))
        parts.append(Part(f"{name}/3", split, "sha256:" + name.ljust(16, "0"), stored=True))
    subjects = [subject(number, options.image_size) for number in numbers]
    classes, cpu = parts[0].split.classes, torch.device("cpu")
    return ScoringPass(subjects, parts, store, classes, False, True, 10_000, options.batch_size, 0, cpu)


def warm(scoring: ScoringPass) -> None:
    """One forward pass of every network, in which torch prepares its kernels."""
    size = scoring.subjects[0].own.image_size
    images = torch.zeros(scoring.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for one in scoring.subjects:
            one.network(images)


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def together(folder: Path, count: int, options: argparse.Namespace) -> float:
    """Seconds of one pass for `count` checkpoints, without the making of the networks."""
    with tempfile.TemporaryDirectory() as store:
        scoring = one_pass(folder, Path(store), range(count), options)
        warm(scoring)
        return timed(lambda: scoring.run(StopRequest(None)))


def apart(folder: Path, count: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of `count` processes one after the other: of their passes alone, and with their start."""
    inner, start = 0.0, time.perf_counter()
    for number in range(count):
        command = [sys.executable, __file__, "--child", str(number), "--folder", str(folder)]
        settings = ("image-size", "batch-size", "threads")
        chosen = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in settings]
        done = subprocess.run([*command, *chosen], check=True, capture_output=True, text=True)
        inner += float(done.stdout.split()[-1])
    return inner, time.perf_counter() - start


def floor(folder: Path, count: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of decoding every image once, and of `count` forward passes over the decoded images."""
    with tempfile.TemporaryDirectory() as store:
        scoring = one_pass(folder, Path(store), range(count), options)
        warm(scoring)
        shards = [Shard(part.split, range(len(part)), scoring.subjects[:1], True) for part in scoring.parts]
        ready: list[torch.Tensor] = []
        batches = shared_batches(shards, options.batch_size, 0, scoring.device)
        decoding = timed(lambda: ready.extend(images for *_, inputs in batches for _, images in inputs))

        def forward() -> None:
            with torch.inference_mode():
                for one in scoring.subjects:
                    for images in ready:
                        one.network(images)

        return decoding, timed(forward)


def measure(folder: Path, options: argparse.Namespace) -> dict[int, dict[str, list[float]]]:
    """Seconds by number of checkpoints and contender, `rounds` of each, in turns."""
    found: dict[int, dict[str, list[float]]] = {}
    for _ in range(options.rounds):
        for count in options.checkpoints:
            times = found.setdefault(count, {name: [] for name in ("pass", "apart", "started", "decode", "forward")})
            times["pass"].append(together(folder, count, options))
            for name, value in zip(("apart", "started"), apart(folder, count, options), strict=True):
                times[name].append(value)
            for name, value in zip(("decode", "forward"), floor(folder, count, options), strict=True):
                times[name].append(value)
    return found


def summarise(times: dict[int, dict[str, list[float]]], images: int) -> list[dict[str, Any]]:
    """Per number of checkpoints: image-and-checkpoint pairs per second, and ratios within a round, as medians."""
    rows = []
    for count, found in times.items():
        pairs = {name: count * images / statistics.median(found[name]) for name in ("pass", "apart", "started")}
        floors = [decode + forward for decode, forward in zip(found["decode"], found["forward"], strict=True)]
        rows.append(
            {
                "checkpoints": count,
                "predictions_per_second": pairs,
                "speedup": _ratio(found["apart"], found["pass"]),
                "speedup_with_start": _ratio(found["started"], found["pass"]),
                "of_decode_and_forward": _ratio(found["pass"], floors),
                "decode_seconds": statistics.median(found["decode"]),
                "forward_seconds": statistics.median(found["forward"]),
            }
        )
    return rows


def _ratio(upper: list[float], lower: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(upper, lower, strict=True))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the summary."""
    head = "checkpoints | one pass | a process each | with start | faster | with start | pass / (decode + forward)"
    lines = [f"| {head} |", "| ---: " * 7 + "|"]
    for row in rows:
        speeds = " | ".join(f"{row['predictions_per_second'][name]:.1f}" for name in ("pass", "apart", "started"))
        ratios = " | ".join(f"{row[name]:.2f}" for name in ("speedup", "speedup_with_start", "of_decode_and_forward"))
        lines.append(f"| {row['checkpoints']} | {speeds} | {ratios} |")
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--images", type=int, default=40, help="clean images; three corruptions of each are scored")
    parser.add_argument("--batch-size", type=int, default=20, help="images")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch; default: all cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the summary and all times to this file")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the file that was asked for."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    if options.child is not None:
        with tempfile.TemporaryDirectory() as store:
            scoring = one_pass(options.folder, Path(store), range(options.child, options.child + 1), options)
            warm(scoring)
            print(timed(lambda: scoring.run(StopRequest(None))))
        return
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="lska-bench-") as folder:
        make_images(Path(folder), options.image_size, options.images)
        times = measure(Path(folder), options)
    rows = summarise(times, len(CORRUPTIONS) * options.images)
    print(table(rows))
    loads = {"before": load_before, "after": os.getloadavg()}
    print(f"load average (1 min) {loads['before'][0]:.1f} before, {loads['after'][0]:.1f} after")
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        machine = {"cores": os.cpu_count(), "system": platform.platform(), "load_average": loads}
        about = {"environment": environment("cpu"), "code": code_version()}
        write_json(options.json, {"settings": settings, "machine": machine, "summary": rows, "times": times} | about)


if __name__ == "__main__":
    main()
