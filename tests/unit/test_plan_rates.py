"""From measurements to seconds: scaling by multiply-adds, which measurement counts, and what the source says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lska.planning.rates import Duration, duration, total
from lska.planning.throughput import ELSEWHERE, OWN, PUBLISHED, Assumptions
from lska.planning.work import Measurement, Network, Work

SMALL = Network("van_tiny", "lska", 7, "{}", (224, 224))
LARGE = Network("van_base", "lska", 7, "{}", (224, 224))
MACS = {SMALL: 1e9, LARGE: 4e9}
WORK = Work("inference", ("classification", "speed"), 1000, LARGE, 1)


def measured(speed: float, **changes: object) -> Measurement:
    one = Measurement("inference", "speed", "card", "cuda", "fp32", speed, "someone", PUBLISHED, SMALL)
    return replace(one, **changes)


def seconds(work: Work, *known: Measurement, assumed: Assumptions | None = None) -> Duration | None:
    return duration(work, known, assumed or Assumptions(), MACS.__getitem__)


def test_images_by_rate_scaled_by_multiply_adds() -> None:
    # 100 images/s at 1 GMAC are 25 at 4 GMACs: 1,000 images take 40 s.
    found = seconds(WORK, measured(100.0))
    assert (found.seconds, found.low, found.high) == (40.0, 40.0, 40.0)
    assert found.sources == ("someone; scaled by multiply-adds",) and found.hardware == ("card",)


def test_the_same_network_is_taken_as_it_is_and_counts_nothing() -> None:
    def refuse(network: Network) -> float:
        raise AssertionError("counting takes seconds and is not needed")

    known = [measured(50.0, network=LARGE), measured(100.0)]
    assert duration(WORK, known, Assumptions(), refuse) == Duration(20.0, 20.0, 20.0, ("someone",), ("card",))


def test_a_training_costs_three_forward_passes_divided_among_its_gpus() -> None:
    work = replace(WORK, mode="training", devices=4)
    assert seconds(work, measured(100.0)).seconds == pytest.approx(40.0 * 3 / 4)
    assumed = Assumptions(training_factor=2.0, gpu_efficiency=0.5)
    found = seconds(work, measured(100.0), assumed=assumed)
    assert found.seconds == pytest.approx(40.0 * 2 / (4 * 0.5))
    assert "training taken as 2 forward passes" in found.sources[0]


def test_a_measured_training_needs_no_factor() -> None:
    work = replace(WORK, mode="training")
    known = [measured(100.0), measured(40.0, mode="training", source="a training")]
    found = seconds(work, *known)
    assert found.seconds == 1000 / (40.0 / 4) and found.sources == ("a training; scaled by multiply-adds",)


def test_how_fast_a_network_trains_says_nothing_of_scoring() -> None:
    assert seconds(WORK, measured(40.0, mode="training")) is None


def test_the_closest_network_decides_and_the_others_give_the_range() -> None:
    # 0.1, 0.4 and 0.2 TMAC/s; the one with 5 GMACs is closest to 4.
    known = [measured(100.0), measured(80.0, network=None, macs=5e9), measured(20.0, network=None, macs=10e9)]
    found = seconds(WORK, *known)
    assert (found.seconds, found.low, found.high) == (10.0, 10.0, 40.0)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"rank": OWN}, {"rank": ELSEWHERE}),
        ({"rank": ELSEWHERE}, {"rank": PUBLISHED}),
        ({"task": "classification"}, {"task": "speed"}),
        ({"precision": "fp32"}, {"precision": "unknown"}),
        ({"precision": "unknown"}, {"precision": "amp"}),
        ({"rank": OWN, "precision": "amp"}, {"rank": PUBLISHED, "precision": "fp32"}),
    ],
)
def test_the_more_trusted_measurement_counts_alone(better: dict, worse: dict) -> None:
    known = [measured(999.0, **worse), measured(100.0, **better)]
    found = seconds(WORK, *known)
    assert found.seconds == found.low == found.high == 40.0


def test_a_processor_tells_nothing_of_a_gpu() -> None:
    assert seconds(WORK, measured(100.0, device="cpu")) is None
    assert seconds(replace(WORK, devices=0), measured(100.0)) is None
    assert seconds(replace(WORK, devices=0), measured(100.0, device="cpu")).seconds == 40.0


def test_an_unknown_part_makes_the_whole_unknown() -> None:
    one = Duration(1.0, 0.5, 2.0, ("a",), ("card",))
    assert total([one, None]) is None and total([]) is None
    assert total([one, replace(one, sources=("a", "b"))]) == Duration(2.0, 1.0, 4.0, ("a", "b"), ("card",))


def test_doubts_are_named() -> None:
    work = replace(WORK, precision="bf16", mode="training")
    assert "measured with fp32, needed is bf16" in seconds(work, measured(1.0, mode="training")).sources[0]
    assert "precision not known" in seconds(WORK, measured(1.0, precision="unknown")).sources[0]
    amp = seconds(work, measured(1.0, mode="training", precision="amp")).sources[0]
    assert amp == "someone; scaled by multiply-adds"
