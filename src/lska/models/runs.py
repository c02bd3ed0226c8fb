"""Run ids: which network was trained, with which attention, kernel size and seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lska.models.designs import ATTENTIONS, check_attention
from lska.models.kernels import MODELS, check_kernel_size
from lska.provenance.errors import InputError

RUN_ID = rf"(?P<model>[a-z0-9_]+)(?:-(?P<attention>{'|'.join(ATTENTIONS)})-k(?P<kernel>[1-9][0-9]*))?-s(?P<seed>[0-9]+)"
"""Regular expression of run ids."""

RUN = re.sub(r"\?P<\w+>", "?:", RUN_ID)
"""The same without names for its groups, which Snakemake, joining expressions, would have twice."""

_RUN_ID = re.compile(RUN_ID)


def attention_of(name: str) -> str | None:
    """The attention of what results are kept by: a run id, or the name of an attention; None where there is none."""
    match = _RUN_ID.fullmatch(name)
    return match["attention"] if match else name if name in ATTENTIONS else None


@dataclass(frozen=True)
class Run:
    """One training run; `str(run)` is the id that names its files.

    `attention` and `kernel` are both None for networks without a large kernel attention. `kernel` is the maximum
    receptive field k of the attention module, in pixels of its feature map (paper, Section III).
    """

    model: str
    attention: str | None
    kernel: int | None
    seed: int

    def __post_init__(self) -> None:
        if (self.attention is None) != (self.kernel is None):
            raise InputError(
                f"run of {self.model}: attention and kernel go together, got {self.attention}, {self.kernel}"
            )
        if self.attention is not None:
            check_attention(self.attention)
            check_kernel_size(self.kernel)
            if self.model not in MODELS:
                raise InputError(f"run {self}: unknown model {self.model!r}; attentions belong to {', '.join(MODELS)}")
        if _RUN_ID.fullmatch(str(self)) is None:
            raise InputError(f"run {self}: expected a model name of a-z, 0-9 and _, and a seed from 0 up")

    def __str__(self) -> str:
        middle = "" if self.attention is None else f"-{self.attention}-k{self.kernel}"
        return f"{self.model}{middle}-s{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Run:
        """Read a run id.

        Raises:
            ValueError: `text` is not of the form `<model>[-<attention>-k<kernel>]-s<seed>`.
        """
        match = _RUN_ID.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                f"{text!r} is not a run id; expected <model>-<attention>-k<kernel>-s<seed> with attention one of "
                f"{', '.join(ATTENTIONS)} (van_tiny-lska-k23-s0), or <model>-s<seed> (convnext_tiny-s0)"
            )
        kernel = match["kernel"]
        return cls(match["model"], match["attention"], int(kernel) if kernel else None, int(match["seed"]))

    @property
    def network(self) -> str:
        """What is trained, whatever the seed: the id without it."""
        return str(self).rpartition("-s")[0]

    def with_seed(self, seed: int) -> Run:
        """The same network trained from another seed."""
        return replace(self, seed=seed)

    @property
    def sort_key(self) -> tuple[str, int, int, int]:
        """Order of tables: model, attention as the paper lists them, kernel size, seed."""
        attention = -1 if self.attention is None else list(ATTENTIONS).index(self.attention)
        return self.model, attention, self.kernel or 0, self.seed


def first_seeds(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Of the runs of each network the one with the lowest seed."""
    first = {run.network: run for run in sorted(runs, key=lambda run: -run.seed)}
    return tuple(first.values())
