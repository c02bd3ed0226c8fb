"""Run ids: what they name, and what they refuse."""

from __future__ import annotations

import re

import pytest

from lska.models.runs import ATTENTIONS, Run

IDS = {
    "van_tiny-lska-k23-s0": Run("van_tiny", "lska", 23, 0),
    "van_base-lka_trivial-k7-s12": Run("van_base", "lka_trivial", 7, 12),
    "van_small-lska_trivial-k65-s3": Run("van_small", "lska_trivial", 65, 3),
    "convnext_tiny-s0": Run("convnext_tiny", None, None, 0),
}
NONE = (
    *("", "van_tiny", "van_tiny-lska-k23", "van_tiny-k23-s0", "van_tiny-lska-s0", "van_tiny-lska-k23-s", None, 3),
    *("van_tiny-slka-k23-s0", "van_tiny-lska-k023-s0", "van_tiny-lska-k0-s0", "van_tiny-lska-k-7-s0"),
    *("VAN-lska-k7-s0", "van tiny-lska-k7-s0", "van_tiny-lska-k7-s0\n", " van_tiny-lska-k7-s0", "../x-s0"),
)
IMPOSSIBLE = {
    ("van_tiny", "lska", None, 0): "van_tiny: attention and kernel go together",
    ("van_tiny", None, 23, 0): "van_tiny: attention and kernel go together",
    ("van_tiny", "lsk", 23, 0): "expected one of lka_trivial, .*lska, .*; found 'lsk'",
    ("convnext_tiny", "lska", 7, 0): "unknown model 'convnext_tiny'; attentions belong to van_tiny, van_small",
    ("van_tiny", "lska", 24, 0): "odd integer from 3 up .*found 24; nearest: 23 or 25",
    ("van tiny", None, None, 0): "expected a model name of a-z, 0-9 and _, and a seed from 0 up",
    ("convnext_tiny", None, None, -1): "expected a model name of a-z, 0-9 and _, and a seed from 0 up",
}


def test_an_id_and_its_run_say_the_same_and_what_is_no_run_is_refused_with_what_is_expected() -> None:
    for text, run in IDS.items():
        assert Run.parse(text) == run and str(run) == text
    assert str(Run.parse("van_tiny-lska-k23-s0").with_seed(4)) == "van_tiny-lska-k23-s4"
    for text in NONE:
        message = re.escape(f"{text!r} is not a run id; expected <model>-<attention>-k")
        with pytest.raises(ValueError, match=message) as caught:
            Run.parse(text)
        assert all(attention in str(caught.value) for attention in ATTENTIONS)
    for values, message in IMPOSSIBLE.items():
        with pytest.raises(ValueError, match=message):
            Run(*values)


def test_tables_order_attentions_as_the_paper_and_kernels_by_size() -> None:
    ids = [
        *("convnext_tiny-s0", "van_tiny-lka_trivial-k53-s0", "van_tiny-lska_trivial-k7-s0", "van_tiny-lka-k7-s0"),
        *("van_tiny-lska-k7-s0", "van_tiny-lska-k7-s1", "van_tiny-lska-k23-s0", "van_tiny-lska-k101-s0"),
    ]
    assert [str(run) for run in sorted(map(Run.parse, reversed(ids)), key=lambda run: run.sort_key)] == ids
