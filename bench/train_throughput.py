"""Training throughput on the CPU: what the recipes use against the same network in eager NCHW float32.

    python bench/train_throughput.py --json bench/results/train_throughput.json

One step is forward, backward and AdamW on random images. For each attention and kernel size, the contenders start from
equal weights and take turns within one process, so that whatever else the machine does meets all of them; ratios are
taken within a round. Before timing, all must give equal logits, bf16 apart. About eight minutes on two cores;
``--compile`` adds torch.compile and some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from lska.models import create
from lska.models.attention import as_published
from lska.models.van import VanBlock
from lska.provenance.files import write_json
from lska.provenance.metric_files import code_version, environment

BASELINE = "eager NCHW, as published"


class PublishedNorm(LayerNorm2d):
    """LayerNorm over tokens as in the released code: to (B, HW, C), normalise, back to a contiguous (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = nn.functional.layer_norm(
            x.flatten(2).transpose(1, 2), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return tokens.reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous()


class PublishedBlock(VanBlock):
    """Block with the residual of the released code: the scaled branch is dropped by path, then added."""

    def _add(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        return x + self.drop_path(scale[:, None, None] * branch)


def released(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the released code's operations where ours save work; same weights, same result."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, LayerNorm2d):
            module.__class__ = PublishedNorm
        elif isinstance(module, VanBlock):
            module.__class__ = PublishedBlock
    return as_published(model)


@dataclass(frozen=True)
class Contender:
    """A network with its input in the memory format it is run in."""

    name: str
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    precision: str = "fp32"

    def step(self) -> tuple[float, float]:
        """One training step; its wall time and the process's CPU time, in seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext():
            loss = nn.functional.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - wall, time.process_time() - cpu


def contenders(options: argparse.Namespace, attention: str, kernel_size: int) -> list[Contender]:
    """The networks to compare, baseline first. Raises AssertionError unless all give equal logits."""
    torch.manual_seed(0)
    model = create(options.model, attention=attention, kernel_size=kernel_size, drop_path_rate=options.drop_path)
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size)
    labels = torch.randint(1000, (options.batch_size,))
    last = torch.channels_last

    def ours(layout: torch.memory_format = last) -> nn.Module:
        return copy.deepcopy(model).to(memory_format=layout)

    networks = [
        (BASELINE, released(model), torch.contiguous_format, "fp32"),
        ("eager NCHW, our modules", ours(torch.contiguous_format), torch.contiguous_format, "fp32"),
        ("channels_last, depth-wise kernels as published", as_published(ours()), last, "fp32"),
        ("channels_last (the recipes)", ours(), last, "fp32"),
        ("channels_last, bf16 autocast", ours(), last, "bf16"),
    ]
    if options.compile:
        networks.append(("compiled channels_last", ours(), last, "fp32"))
    check_equal([network for _, network, *_ in networks], images[:2])
    return [
        Contender(
            name,
            torch.compile(network) if name.startswith("compiled") else network,
            torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05),
            images.contiguous(memory_format=layout),
            labels,
            precision,
        )
        for name, network, layout, precision in networks
    ]


def check_equal(networks: list[nn.Module], images: Tensor) -> None:
    """Raise AssertionError unless all networks give the logits of the first one, in evaluation mode."""
    with torch.no_grad():
        logits = [network.eval()(images) for network in networks]
    for network, other in zip(networks, logits, strict=True):
        torch.testing.assert_close(other, logits[0])
        network.train()


def measure(subjects: list[Contender], rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds per step by contender: at most ``rounds`` rounds, none started after ``seconds``."""
    for subject in subjects:
        subject.step()
    times: dict[str, list[tuple[float, float]]] = {subject.name: [] for subject in subjects}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        # Each round starts with another contender: none is always the first one after a pause.
        for shift in range(len(subjects)):
            subject = subjects[(done + shift) % len(subjects)]
            times[subject.name].append(subject.step())
    return times


def summarise(times: dict[str, list[tuple[float, float]]], batch_size: int) -> list[dict[str, object]]:
    """Per contender: median images per second, and median and quartiles of the speed-up within a round."""
    rows = []
    for name, steps in times.items():
        row: dict[str, object] = {"contender": name, "rounds": len(steps)}
        row["images_per_second"] = batch_size / statistics.median(wall for wall, _ in steps)
        for clock, index in (("wall", 0), ("cpu", 1)):
            ratios = [base[index] / own[index] for base, own in zip(times[BASELINE], steps, strict=True)]
            row[f"speedup_{clock}"] = dict(zip(("q25", "median", "q75"), statistics.quantiles(ratios), strict=True))
        rows.append(row)
    return rows


def table(results: list[dict[str, object]]) -> str:
    """Markdown table of the summaries."""
    lines = [
        "| attention | k | contender | images/s | speed-up, wall (quartiles) | speed-up, CPU time (quartiles) |",
        "| --- " * 6 + "|",
    ]
    for result in results:
        for row in result["summary"]:
            wall, cpu = (
                "{median:.2f} ({q25:.2f} to {q75:.2f})".format(**row[f"speedup_{clock}"]) for clock in ("wall", "cpu")
            )
            lines.append(
                f"| {result['attention']} | {result['kernel_size']} | {row['contender']} | "
                f"{row['images_per_second']:.2f} | {wall} | {cpu} |"
            )
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="van_tiny")
    parser.add_argument("--attention", nargs="+", default=["lka", "lska"])
    parser.add_argument("--kernel-size", nargs="+", type=int, default=[7, 23, 53])
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="images")
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch; default: all cores")
    parser.add_argument("--rounds", type=int, default=12, help="most steps per contender")
    parser.add_argument("--seconds", type=float, default=90.0, help="no round of a network starts after this time")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--json", type=Path, help="write the summary and all times to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the file that was asked for."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    load_before = os.getloadavg()
    results = []
    for attention in options.attention:
        for kernel_size in options.kernel_size:
            times = measure(contenders(options, attention, kernel_size), options.rounds, options.seconds)
            rows = summarise(times, options.batch_size)
            results.append({"attention": attention, "kernel_size": kernel_size, "summary": rows, "times": times})
            print(f"{attention} k={kernel_size}: done", flush=True)
    loads = {"before": load_before, "after": os.getloadavg()}
    print(table(results))
    print(
        f"{options.model}, {options.image_size} px, batch {options.batch_size}, {options.threads} threads of "
        f"{os.cpu_count()} cores; load average (1 min) {loads['before'][0]:.1f} before, {loads['after'][0]:.1f} after"
    )
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        machine = {"cores": os.cpu_count(), "system": platform.platform(), "load_average": loads}
        environment_and_code = {"environment": environment("cpu"), "code": code_version()}
        write_json(options.json, {"settings": settings, "machine": machine, "results": results} | environment_and_code)


if __name__ == "__main__":
    main()
