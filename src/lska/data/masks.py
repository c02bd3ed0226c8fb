"""Masks of COCO annotations: whether they fit their image. Checked here because pycocotools decodes broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lska.files import quoted

CORNERS = 3  # of the smallest polygon that has an area


@dataclass(frozen=True)
class Mask:
    """What the check of an object's mask found."""

    problem: str = ""
    """Why it cannot be used; empty if it can."""
    over: float = 0.0
    """Pixels by which its polygons leave the image, negative where they keep away from the border."""
    short: int = 0
    """Polygons of one or two points."""
    flat: bool = False
    """Whether it is polygons without any area, which no pixel lies in."""


def read_mask(mask: Any, width: int, height: int, overhang: float, short_polygons: bool = False) -> Mask:
    """Check whether `mask` can be the mask of an object in an image of `width` x `height` pixels.

    Polygons of one or two points have no area. pycocotools 2.0.11 draws no pixel for them after a first polygon of
    three points or more, and mmdet drops them; a first polygon of two points is a box to pycocotools.

    Args:
        mask: polygons (lists of x, y, x, y, ...), or a run-length encoding {"size": [height, width], "counts": ...}
            with the counts as a list of numbers or in COCO's compressed text.
        overhang: pixels by which a polygon must not leave the image.
        short_polygons: whether polygons after the first may have one or two points.
    """
    if isinstance(mask, dict):
        return Mask(_encoding_problem(mask, width, height))
    if not isinstance(mask, list) or not mask:
        return Mask(f"expected polygons or a run-length encoding, found {quoted(mask)}")
    found = list(_polygons(mask, width, height, overhang, short_polygons))
    problem = next((polygon.problem for polygon in found if polygon.problem), "")
    over, short = max(polygon.over for polygon in found), sum(polygon.short for polygon in found)
    return Mask(problem, over, short, flat=all(polygon.flat for polygon in found))


def _polygons(mask: list[Any], width: int, height: int, overhang: float, short_polygons: bool) -> Iterator[Mask]:
    for index, polygon in enumerate(mask):
        yield _polygon(polygon, width, height, overhang, 1 if short_polygons and index else CORNERS)


def _polygon(polygon: Any, width: int, height: int, overhang: float, least: int) -> Mask:
    """What one polygon adds, which is to have at least `least` points."""
    import numpy as np

    # A list of [x, y] pairs has the same points, but mmdet and pycocotools count its entries as coordinates.
    numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
    if not numbers or len(polygon) % 2:
        return Mask(f"polygon that is no flat list of numbers x, y, x, y, ...: {quoted(polygon)}")
    points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    if len(points) < least or not np.isfinite(points).all():
        return Mask(f"polygon of {len(points)} points, expected at least {least} of finite numbers")
    over = float(max((-points).max(), (points - (width, height)).max()))
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    problem = f"polygon from ({left:g}, {top:g}) to ({right:g}, {bottom:g})" if over >= overhang else ""
    (x, y), (after_x, after_y) = points.T, np.roll(points, -1, axis=0).T
    # Twice the area between the outline and the origin, to the rounding of its coordinates.
    flat = bool(abs((x * after_y - y * after_x).sum()) <= 1e-9 * max(1.0, float(np.abs(points).max())) ** 2)
    return Mask(problem, over, int(len(points) < CORNERS), flat)


def _encoding_problem(mask: dict[str, Any], width: int, height: int) -> str:
    size, counts = mask.get("size"), mask.get("counts")
    if size != [height, width] or not all(type(side) is int for side in size):
        return f"run-length encoding of [height, width] {quoted(size)}"
    try:
        runs = counts if isinstance(counts, list) else run_lengths(counts)
        if not all(type(run) is int for run in runs):
            raise TypeError("expected whole numbers")
        total = sum(runs)
        bad = min(runs, default=0) < 0
    except (TypeError, ValueError) as error:
        return f"run-length encoding that cannot be read ({error})"
    if bad or total != width * height:
        return f"run-length encoding of {total} pixels, expected {width * height}"
    if not sum(runs[1::2]):
        return "run-length encoding without a pixel of the object"
    return ""


def run_lengths(text: Any) -> list[int]:
    """Run lengths of COCO's compressed encoding (cocoapi, maskApi.c: rleToString).

    Each number is written in groups of five bits, lowest first, as the characters from "0" on; the sixth bit says that
    another group follows. From the fourth number on, the difference from the last but one is written.

    Raises:
        ValueError: the text ends within a number or holds another character.
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected text or a list of numbers, found {type(text).__name__}")
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {character!r}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return runs
