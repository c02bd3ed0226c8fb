"""Masks of COCO annotations: whether they fit their image. Checked here because pycocotools decodes broken ones."""

from __future__ import annotations

from typing import Any

CORNERS = 3  # of the smallest polygon


def mask_problem(mask: Any, width: int, height: int, tolerance: float) -> str:
    """Why `mask` cannot be the mask of an object in an image of `width` x `height` pixels; empty if it can.

    Args:
        mask: polygons (lists of x, y, x, y, ...), or a run-length encoding {"size": [height, width], "counts": ...}
            with the counts as a list of numbers or in COCO's compressed text.
        tolerance: pixels by which a polygon may not leave the image.
    """
    if isinstance(mask, dict):
        return _encoding_problem(mask, width, height)
    if isinstance(mask, list) and mask:
        return next(filter(None, (_polygon_problem(polygon, width, height, tolerance) for polygon in mask)), "")
    return f"expected polygons or a run-length encoding, found {mask!r}"


def _polygon_problem(polygon: Any, width: int, height: int, tolerance: float) -> str:
    import numpy as np

    try:
        points = np.asarray(polygon).reshape(-1, 2)
    except ValueError:
        return f"polygon that is no list of coordinate pairs: {str(polygon)[:60]}"
    if points.dtype.kind not in "iuf" or len(points) < CORNERS or not np.isfinite(points).all():
        return f"polygon of {len(points)} points, expected at least {CORNERS} of finite numbers"
    over = max((-points).max(), (points - (width, height)).max())
    if over >= tolerance:
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return f"polygon from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
    return ""


def _encoding_problem(mask: dict[str, Any], width: int, height: int) -> str:
    if mask.get("size") != [height, width]:
        return f"run-length encoding of [height, width] {mask.get('size')}"
    counts = mask.get("counts")
    try:
        runs = counts if isinstance(counts, list) else run_lengths(counts)
        total = sum(runs)
        bad = min(runs, default=0) < 0
    except (TypeError, ValueError) as error:
        return f"run-length encoding that cannot be read ({error})"
    if bad or total != width * height:
        return f"run-length encoding of {total} pixels, expected {width * height}"
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
