"""The one kernel rule of LKA and LSKA, in plain Python (paper Section III and Figure 2).

A kernel size k is split into a first kernel of 2d-1 and a kernel of floor(k/d) with dilation d. Their joint receptive
field is (2d-1) + d * (floor(k/d) - 1). The paper gives d for its own sizes only: 2 for k = 7 and 11, 3 for k = 23, 35,
53 and 65. Our rule covers all others: d = 3 from k = 23 on wherever the receptive field is then exactly k (k = 23, 29,
35, 41, ...), d = 2 for every other size. With d = 2 the receptive field is k for every odd k, so each odd k from 3 up
works. Where floor(k/2) is even (k = 5, 9, 13, ...), the dilated kernel has no centre tap; its taps still lie
symmetrically, and together with the first kernel they reach every pixel.

``slak`` and ``slak_sparse`` are the paper's comparison in Figure 3: SLaK's sum of k x 5, 5 x k and 5 x 5 kernels in
place of the cascade, the second with 3 in 5 of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from lska.provenance.errors import InputError

PLANNED = ("lka_trivial", "lska_trivial", "lka", "lska", "slak", "slak_sparse")
"""The attentions whose kernels follow from this rule; one that is added has kernels of its own."""
MODELS = ("van_tiny", "van_small", "van_base")
PAPER_KERNEL_SIZES = (7, 11, 23, 35, 53, 65)
SMALLEST_KERNEL_WITH_DILATION_3 = 23
SLAK_SHORT_SIDE = 5


@dataclass(frozen=True)
class Depthwise:
    """One depth-wise convolution: its published parameter name, kernel (height, width) in taps, and dilation."""

    name: str
    kernel: tuple[int, int]
    dilation: int

    @property
    def padding(self) -> tuple[int, int]:
        """Zero padding (height, width) in pixels that keeps the map's size."""
        return tuple(self.dilation * (taps - 1) // 2 for taps in self.kernel)


@dataclass(frozen=True)
class KernelPlan:
    """How an attention module builds up its kernel; what modules, diagrams and tests are made from.

    ``first`` and ``dilated`` are kernel lengths in taps, ``dilation`` is that of the dilated kernel and
    ``receptive_field`` the joint extent in pixels. The trivial forms have one kernel: ``dilated`` is None, ``dilation``
    1. ``separable`` forms replace each square kernel by a horizontal and then a vertical one. ``parallel`` forms are
    SLaK's: a vertical and a horizontal strip and a small square of the same map, which are added up.
    """

    first: int
    dilated: int | None
    dilation: int
    receptive_field: int
    separable: bool
    parallel: bool = False

    @property
    def depthwise(self) -> tuple[Depthwise, ...]:
        """The depth-wise convolutions in order of application, horizontal first (Figure 2, released code)."""
        if self.parallel:
            long, short = self.first, SLAK_SHORT_SIDE
            kernels = {"LoRA1": (long, short), "LoRA2": (short, long), "small_conv": (short, short)}
            return tuple(Depthwise(name, kernel, 1) for name, kernel in kernels.items())
        parts = [("conv0", "conv0", self.first, 1)]
        if self.dilated is not None:
            parts.append(("conv_spatial", "conv_spatial_", self.dilated, self.dilation))
        if not self.separable:
            return tuple(Depthwise(name, (taps, taps), dilation) for name, _, taps, dilation in parts)
        return tuple(
            Depthwise(stem + axis, kernel, dilation)
            for _, stem, taps, dilation in parts
            for axis, kernel in (("h", (1, taps)), ("v", (taps, 1)))
        )


def receptive_field(kernel_size: int, dilation: int) -> int:
    """Extent in pixels of a (2d-1) kernel followed by a floor(k/d) kernel with dilation d."""
    return (2 * dilation - 1) + dilation * (kernel_size // dilation - 1)


def dilation_for(kernel_size: int) -> int:
    """Dilation d for a kernel size: 3 from 23 on where that gives a receptive field of exactly k, otherwise 2."""
    large = kernel_size >= SMALLEST_KERNEL_WITH_DILATION_3
    return 3 if large and receptive_field(kernel_size, 3) == kernel_size else 2


def kernel_plan(attention: str, kernel_size: int) -> KernelPlan:
    """Plan of an attention module for a kernel size.

    Raises ValueError for any but ``PLANNED``, and for an impossible kernel size, anything but an odd integer from 3 up.
    """
    if attention not in PLANNED:
        raise InputError(f"attention: expected one of {', '.join(PLANNED)}, which have a plan; found {attention!r}")
    check_kernel_size(kernel_size)
    if attention.startswith("slak"):
        return KernelPlan(kernel_size, None, 1, max(kernel_size, SLAK_SHORT_SIDE), separable=True, parallel=True)
    separable = attention.startswith("lska")
    if attention.endswith("_trivial"):
        return KernelPlan(kernel_size, None, 1, kernel_size, separable)
    d = dilation_for(kernel_size)
    return KernelPlan(2 * d - 1, kernel_size // d, d, receptive_field(kernel_size, d), separable)


def check_kernel_size(kernel_size: int) -> None:
    """Raise ValueError, naming the possible sizes, unless ``kernel_size`` is an odd integer from 3 up."""
    is_integer = isinstance(kernel_size, int) and not isinstance(kernel_size, bool)
    if is_integer and kernel_size >= 3 and kernel_size % 2:
        return
    nearest = ""
    if is_integer:
        nearest = "; nearest: 3" if kernel_size < 3 else f"; nearest: {kernel_size - 1} or {kernel_size + 1}"
    sizes = ", ".join(map(str, PAPER_KERNEL_SIZES))
    raise InputError(
        f"kernel_size: expected an odd integer from 3 up (3, 5, 7, ...; the paper uses {sizes}); "
        f"found {kernel_size!r}{nearest}"
    )
