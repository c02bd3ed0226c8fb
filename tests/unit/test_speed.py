"""Throughput: the protocol of the measurement and the file it writes. No test here depends on how fast anything is."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny_project import Project
from torch import nn

from lska.evaluate import efficiency as module
from lska.evaluate.efficiency import batch_seconds, interleaved_seconds, measure_speed
from lska.models.attention import DepthwiseConv2d
from lska.models.runs import Run
from lska.settings.scale import Speed


class Clock:
    """Time that passes only while a network works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def network(self, name: str, *seconds: float) -> nn.Module:
        """A network whose calls take `seconds` in turn, the last one from then on."""
        left = list(seconds)

        class Timed(nn.Module):
            def forward(network, images: torch.Tensor) -> torch.Tensor:  # noqa: N805 - self is the clock
                assert torch.is_inference_mode_enabled()
                self.calls.append(name)
                self.now += left.pop(0) if len(left) > 1 else left[0]
                return images

        return Timed()


IMAGES = torch.zeros(2, 3, 8, 8)


def test_a_measurement_lasts_as_long_as_asked_and_gives_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert batch_seconds(clock.network("a", 0.2, 0.4, 0.3), IMAGES, least_seconds=0.85) == pytest.approx(0.3)
    assert batch_seconds(clock.network("b", 0.5), IMAGES, least_seconds=0.0) == 0.5
    assert clock.calls == ["a"] * 3 + ["b"]


def test_networks_take_turns_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # The first two calls of each are warm-up and slow; they must not count.
    networks = [clock.network("a", 9.0, 9.0, 0.1), clock.network("b", 9.0, 9.0, 0.2), clock.network("c", 9.0, 9.0, 0.3)]
    times = interleaved_seconds(networks, [IMAGES] * 3, Speed(batch_size=2, warmup=2, repeats=3, seconds=0.0))
    assert times == pytest.approx(torch.tensor([[0.1, 0.2, 0.3]] * 3).numpy())
    assert "".join(clock.calls) == "aabbcc" + "abc" + "cba" + "abc"


def content_of(project: Project, run: Run, **changes: Any) -> dict[str, Any]:
    config = project.config({"speed": changes})
    measure_speed(config.measurement("speed"), list(map(config.classifier, [run, run.with_seed(1)])))
    return json.loads(config.metric_path("speed", run).read_text(encoding="utf-8"))


def test_the_file_states_the_median_and_the_conditions(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    networks = iter([clock.network("a", 1.0, 0.5, 0.25, 0.2, 0.1), clock.network("b", 1.0)])
    monkeypatch.setattr(module, "build_network", lambda *_: next(networks))
    content = content_of(project, project.run, batch_size=2, repeats=4, warmup=1)
    # Repeats of 0.5, 0.25, 0.2 and 0.1 seconds are 4, 8, 10 and 20 images per second.
    assert content["metrics"] == {
        "throughput": {"value": pytest.approx(9.0), "unit": "images/s", "n": 4, "interval": pytest.approx([7.0, 12.5])},
        "latency": {"value": pytest.approx(225.0), "unit": "ms/batch", "n": 4},
        "batch_size": {"value": 2, "unit": "1"},
        "image_size": {"value": 32, "unit": "pixels"},
    }
    assert content["weights"] == {"md5": None, "origin": "random"}
    assert content["environment"]["device"] == "cpu"
    assert content["detail"] == {"threads": 1, "warmup_batches": 1, "least_seconds": 0.0}
    assert (content["recipe"], content["data"]) == (None, None)


def test_the_real_networks_are_measured_as_published_in_evaluation_mode(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[nn.Module, torch.Size]] = []
    monkeypatch.setattr(
        module, "batch_seconds",
        lambda network, images, least: seen.append((network, images.shape)) or batch_seconds(network, images, least),
    )  # fmt: skip
    # The names of the classes are needed, but no image.
    monkeypatch.setitem(project.settings["data"], "root", "none")
    content = content_of(project, project.run, repeats=1, warmup=0, batch_size=3)
    assert [shape for _, shape in seen] == [(3, 3, 32, 32)] * 2
    assert all(not network.training and network.num_classes == 4 for network, _ in seen)
    convolutions = [part for network, _ in seen for part in network.modules() if isinstance(part, DepthwiseConv2d)]
    assert len(convolutions) > 20 and all(part.as_published for part in convolutions)
    throughput, latency = (content["metrics"][name]["value"] for name in ("throughput", "latency"))
    assert throughput * latency == pytest.approx(3 * 1000)
    other = project.config().metric_path("speed", project.run.with_seed(1))
    assert json.loads(other.read_text())["run"] == "van_tiny-lska-k7-s1"
    with pytest.raises(ValueError, match=r"none\.yaml"):
        config = project.config({"data": {"manifest": "none.yaml"}})
        measure_speed(config.measurement("speed"), [config.classifier(project.run)])
