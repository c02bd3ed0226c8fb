"""The kernels of the attention designs in the words of paper/figure_02.csv, taken from the models' own rule."""

from __future__ import annotations

from lska.models.kernels import Depthwise, KernelPlan, kernel_plan


def describe_design(what: str, kernel: int) -> str:
    """One cell of Figure 2: `dilation`, `receptive_field` (pixels) or the layers of an attention, in order.

    Raises:
        ValueError: unknown attention or impossible kernel size.
    """
    if what in ("dilation", "receptive_field"):
        return str(getattr(kernel_plan("lska", kernel), what))
    return "; ".join(layers(kernel_plan(what, kernel)))


def layers(plan: KernelPlan) -> list[str]:
    """The convolutions of a gating unit in order (paper Figure 2): `DW 1x7 dilation 3` and, last, `1x1`."""
    return [*(_layer(convolution) for convolution in plan.depthwise), "1x1"]


def _layer(convolution: Depthwise) -> str:
    height, width = convolution.kernel
    suffix = f" dilation {convolution.dilation}" if convolution.dilation > 1 else ""
    return f"DW {height}x{width}{suffix}"
