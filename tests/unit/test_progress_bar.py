"""What is said of long work where no terminal shows a bar."""

from __future__ import annotations

import logging

import pytest

from lska.provenance import progress_bar
from lska.provenance.progress_bar import Bar


def test_the_log_says_what_is_done_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    for one in Bar(range(4), unit="networks"):
        now[0] += 10 * (one + 1)
    # After 10 s nothing is said; then lines at least 15 s apart.
    assert caplog.messages == [
        "2 of 4 networks, 00:30 left", "3 of 4 networks, 00:20 left", "4 of 4 networks, 00:00 left"
    ]  # fmt: skip
    caplog.clear()
    with Bar(total=3 * 10**6, unit="B", unit_scale=True, desc="weights") as bar:
        now[0] += 60
        bar.update(10**6)
    with Bar(unit="images") as bar:
        now[0] += 20
        bar.update(3000)
    assert caplog.messages == ["weights: 1.00M of 3.00M B, 02:00 left", "3,000 images"]
