"""Numbers on the command line: what is no time or count is refused with the option's name, and nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from lska.cli import main, parser

TIMES = ["nan", "inf", "-inf", "1e999", "-1", "0", "-0.0", "1e300", "9" * 5000, "", "x", "1h", "\x1b[31m"]
COUNTS = ["nan", "inf", "-1", "0", "1.5", "1e3", "9" * 5000, "10000000", "", "x", "0x10"]

FEW = ["nan", "0"]

OPTIONS = {
    "train RUN --budget-hours": TIMES,
    "train RUN --job-minutes": FEW,
    "evaluate robustness c --budget-hours": FEW,
    "evaluate robustness c --job-minutes": FEW,
    "supervise --poll-seconds": FEW,
    "supervise --quiet-minutes": FEW,
    "supervise --restarts": [text for text in COUNTS if text != "0"],
    "plan --gpus": COUNTS,
    "launch --processes": FEW,
    "launch --processes 1 --nodes": FEW,
    "gpus": [text for text in COUNTS if text != "0"],
}
TAKEN = {
    "train RUN --budget-hours 1e-7": ("budget_hours", 1e-7),
    "train RUN --job-minutes 527040": ("job_minutes", 527040.0),
    "supervise --poll-seconds 0.2 snakemake": ("poll_seconds", 0.2),
    "supervise --restarts 0 snakemake": ("restarts", 0),
    "plan --gpus 8": ("gpus", 8),
    "launch --processes 1024 -- train RUN": ("processes", 1024),
    "gpus 0 true": ("count", 0),
}


def test_what_is_no_time_or_count_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command, texts in OPTIONS.items():
        name = command.split()[-1] if "--" in command else "count"
        for text in texts:
            words = command.split()
            value = [f"{words.pop()}={text}"] if "--" in command else [text]
            with pytest.raises(SystemExit) as refused:
                main([*words, *value])
            told = capsys.readouterr().err
            assert refused.value.code == 2, (command, text)
            assert f"argument {name}: expected a " in told or (text.startswith("-") and "--" not in command), told
            assert len(told.splitlines()[-1]) < 300 and "\x1b" not in told, told
    assert list(tmp_path.iterdir()) == []


def test_times_and_counts_are_taken() -> None:
    for words, (name, value) in TAKEN.items():
        found = getattr(parser().parse_args(words.split()), name)
        assert found == value and type(found) is type(value)
