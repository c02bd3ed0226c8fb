"""The complete check of a detection split: its COCO annotation file, and every image that the file lists.

What pycocotools and mmdet would read otherwise, or leave out, without a word is named; pycocotools decodes the masks.
"""

from __future__ import annotations

import codecs
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.data.decoding import see_file
from lska.data.digests import file_hash, file_sizes, lines_digest
from lska.data.entries import DataError
from lska.data.folders import EXTENSIONS
from lska.data.manifest import ROUNDING, DetectionManifest
from lska.data.parallel import mapped
from lska.data.problems import Findings, SplitOutcome, differences
from lska.provenance.errors import InputError
from lska.provenance.files import open_regular, quoted, read_json

if TYPE_CHECKING:
    from lska.data.dense_sets import DetectionSplit

SECTIONS = ("images", "annotations", "categories")

LIMIT = 2 * 2**30
"""Bytes of an annotation file; COCO 2017's has 450 million."""

TRAIN = "train"
"""The split that networks are trained on; the others are scored whole, but for crowds."""

SMALLEST = 32
"""Pixels of the shorter side below which training leaves an image out: `smallest_image` of all recipes."""

CORNERS = 3
"""Of the smallest polygon that has an area."""


@dataclass(frozen=True)
class Listed:
    """An image as the annotation file lists it."""

    file: str
    width: int
    height: int

    def over(self, left: float, top: float, right: float, bottom: float) -> float:
        """Pixels by which a box leaves the image, negative where it keeps away from the border."""
        return max(-left, -top, right - self.width, bottom - self.height)


def check_detection(manifest: DetectionManifest, split: DetectionSplit) -> SplitOutcome:
    """Check one split completely: categories, images against their files, boxes, masks and numbers.

    Raises:
        DataError: the annotation file or the folder of images cannot be read at all.
    """
    findings, remarks, content = Findings(), Findings(), read_annotations(split.annotations)
    _check_categories(manifest, content["categories"], findings)
    images = _listed_images(content["images"], findings)
    hashes = _check_files(split, images, findings, remarks)
    objects = Objects(manifest)
    for position, entry in enumerate(content["annotations"]):
        objects.take(entry, position, images, findings)
    expected, dropped = manifest.splits[split.split], _left_out(content.get("info"), findings)
    found = len(content["annotations"])
    counts = differences(
        [
            ("images", expected.count, len(content["images"])),
            ("objects", expected.objects, found),
            ("objects left out by the conversion", expected.dropped, len(dropped)),
        ]
    )
    if len(objects.flat) > expected.without_area:
        counts += objects.flat.sentences()
    facts = {"objects": found, "dropped": dropped, **objects.facts()}
    notes = [f"{len(images):,} images with {objects.per_category.total():,} objects at {split.annotations}."]
    if dropped:
        notes.append(f"left out by the conversion ({len(dropped):,}): {'; '.join(dropped)}.")
    if objects.over_border or objects.short_polygons:
        notes.append(
            f"tolerated, as the manifest says: {objects.over_border:,} objects that leave their image by a pixel or "
            f"more, where they are cut off; {objects.short_polygons:,} polygons of one or two points, without area."
        )
    if split.split == TRAIN:
        kept = objects.trained_images(images)
        trained = sum(objects.trained[number] for number in kept)
        counts += [] if trained or findings else [f"training would keep no object on {len(images):,} images"]
        notes.append(f"training keeps {len(kept):,} of the images, with {trained:,} objects.")
    notes += [f"{text}." for text in (*objects.left_out.sentences(), *remarks.sentences())]
    lines = [f"{value} images/{name}" for name, value in sorted(hashes.items())]
    contents = lines_digest([*lines, f"{file_hash(split.annotations)} annotations"])
    return SplitOutcome((*findings.sentences(), *counts), facts, tuple(notes), contents)


def read_annotations(path: Path) -> dict[str, Any]:
    """Parse a COCO annotation file.

    Raises:
        DataError: it lacks one of its sections, or has a byte order mark, which pycocotools does not read.
        FileError: it is missing, or no JSON as `parse_json` takes it. NaN passes, for the check to name the annotation.
    """
    found = read_json(path, limit=LIMIT, not_finite=True)
    missing = [section for section in SECTIONS if not isinstance(found.get(section), list)]
    if missing:
        raise DataError(f"{path} is no COCO annotation file: expected lists {', '.join(missing)}; restore it")
    with open_regular(path) as stream:
        if stream.read(3) == codecs.BOM_UTF8:
            raise DataError(
                f"{path} begins with a byte order mark, with which pycocotools and mmdet do not read it; save it as "
                "UTF-8 without one"
            )
    return found


def _left_out(info: Any, findings: Findings) -> list[str]:
    """What `lska.data.voc.convert` says that it left out; files of other origin say nothing."""
    dropped = info.get("dropped", []) if isinstance(info, dict) else []
    if isinstance(dropped, list) and all(isinstance(text, str) for text in dropped):
        return dropped
    findings.add("info.dropped that is no list of texts", quoted(dropped))
    return []


def _check_categories(manifest: DetectionManifest, categories: list[Any], findings: Findings) -> None:
    expected = list(zip(manifest.category_ids, manifest.classes, strict=True))
    found = [(one.get("id"), one.get("name")) if isinstance(one, dict) else (None, one) for one in categories]
    for number, name in found:
        if (number, name) not in expected or type(number) is not int:
            stated = dict(expected).get(number) if type(number) is int else None
            findings.add("unknown categories", f"id {quoted(number)}: {quoted(name)}, expected {quoted(stated)}")
        elif found.count((number, name)) > 1:
            findings.add("duplicate category ids", f"{number}: {quoted(name)}")
    for number, name in expected:
        if (number, name) not in found:
            findings.add("missing categories", f"id {number}: {name!r}")
    if not findings and found != expected:
        # mmdet numbers the labels in the order of the file.
        text = f"ids {[number for number, _ in found]}, expected {list(manifest.category_ids)}"
        findings.add("categories in another order", text)


def _listed_images(entries: list[Any], findings: Findings) -> dict[int, Listed]:
    images: dict[int, Listed] = {}
    files: set[str] = set()
    keys = {"id": int, "file_name": str, "width": int, "height": int}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(type(entry.get(key)) is not kind for key, kind in keys.items()):
            findings.add("image entries without a whole id, file_name, width and height", f"images[{position}]")
            continue
        image = Listed(entry["file_name"], entry["width"], entry["height"])
        if entry["id"] in images:
            findings.add("duplicate image ids", f"{entry['id']}: {images[entry['id']].file} and {image.file}")
        elif image.file in files:
            findings.add("image files listed twice", image.file)
        images.setdefault(entry["id"], image)
        files.add(image.file)
    return images


def _check_files(
    split: DetectionSplit, images: dict[int, Listed], findings: Findings, remarks: Findings
) -> dict[str, str]:
    """Decode every listed image that is there; returns the hashes of the files by name."""
    there, hashes = file_sizes(split.images), {}
    present = [image for image in images.values() if image.file in there]
    for image in images.values():
        if image.file not in there:
            odd = f"listed files that end in none of {', '.join(EXTENSIONS)}"
            kind = "missing image files" if image.file.lower().endswith(EXTENSIONS) else odd
            findings.add(kind, str(split.images / image.file))
    seen = mapped(lambda index: see_file(split.images / present[index].file), len(present), split.split)
    for image, picture in zip(present, seen, strict=True):
        hashes[image.file] = picture.hash
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", image.file)
        if picture.size is None:
            findings.add("unreadable images", picture.problem)
        elif picture.size != (image.width, image.height):
            found = "{}x{}".format(*picture.size)
            stated = f"{split.images / image.file} is {found}, stated {image.width}x{image.height}"
            findings.add("images of another size than the annotations say", stated)
    return hashes


class Objects:
    """What the annotations of a split add up to, and which of them mmdet's `CocoDataset` (3.3.0) hands to training."""

    def __init__(self, manifest: DetectionManifest) -> None:
        self.per_category: Counter[int] = Counter()
        self.trained: Counter[int] = Counter()
        """Objects that are trained on, by image id."""
        self.over_border = 0
        self.short_polygons = 0
        self.flat = Findings()
        """Boxes of zero width or height, and objects whose area is stated as 0."""
        self.left_out = Findings()
        self._manifest = manifest
        self._annotated: set[int] = set()
        self._ids: set[int] = set()
        self._crowds = self._thin = 0

    def take(self, entry: Any, position: int, images: dict[int, Listed], findings: Findings) -> None:
        """Take up the annotation at `position`, or add what is wrong with it to `findings`."""
        whole = ("id", "image_id", "category_id")
        if not isinstance(entry, dict) or any(type(entry.get(key)) is not int for key in whole) or entry["id"] == 0:
            # pycocotools takes a match with annotation 0 for no match.
            text = f"annotations[{position}]: expected whole numbers {', '.join(whole)}, id not 0"
            findings.add("annotations without a usable key", text)
            return
        image = images.get(entry["image_id"])
        place = f"annotation {entry['id']} of {image.file if image else 'image ' + repr(entry['image_id'])}"
        if entry["id"] in self._ids:
            findings.add("duplicate annotation ids", place)
        self._ids.add(entry["id"])
        if image is None:
            findings.add("annotations of an image that is not listed", place)
            return
        if entry["category_id"] not in self._manifest.category_ids:
            findings.add("annotations of an unknown category", f"{place}: category {entry['category_id']!r}")
        problems, over, short = list(_box_problems(entry, image, self._manifest)), 0.0, 0
        if entry.get("segmentation") or self._manifest.masks:
            try:
                over, short = _checked_mask(entry, image, self._manifest)
            except (ValueError, TypeError, OverflowError) as error:
                text = f"{error} in {image.width}x{image.height}"
                problems.append(("masks that do not fit their image", text))
        for kind, detail in problems:
            findings.add(kind, f"{place}: {detail}")
        if not problems:
            left, top, width, height = entry["bbox"]
            self.over_border += max(over, image.over(left, top, left + width, top + height)) >= ROUNDING
            self.short_polygons += short
            self._count(entry, place)

    def _count(self, annotation: dict[str, Any], place: str) -> None:
        width, height = annotation["bbox"][2:]
        self.per_category[annotation["category_id"]] += 1
        self._annotated.add(annotation["image_id"])
        if width <= 0 or height <= 0:
            self.flat.add("boxes without area", f"{place}: {annotation['bbox']}")
        elif annotation["area"] <= 0:
            self.flat.add("objects whose area is stated as 0, which training leaves out and evaluation scores", place)
        if annotation["iscrowd"]:
            self._crowds += 1
            self.left_out.add("crowds (or difficult objects), neither trained on nor scored", place)
        elif width < 1 or height < 1 or annotation["area"] <= 0:
            self.left_out.add("objects less than a pixel wide or high, or of area 0, scored but not trained on", place)
        else:
            self.trained[annotation["image_id"]] += 1
        self._thin += 0 < min(width, height) < 1

    def facts(self) -> dict[str, Any]:
        """Numbers for the record."""
        pairs = zip(self._manifest.category_ids, self._manifest.classes, strict=True)
        tolerated = {"objects_over_the_border": self.over_border, "short_polygons": self.short_polygons}
        return {
            "per_class": {name: self.per_category[number] for number, name in pairs},
            "crowds": self._crowds,
            "boxes_without_area": len(self.flat),
            "boxes_thinner_than_a_pixel": self._thin,
            **(tolerated if self._manifest.tolerant else {}),
        }

    def trained_images(self, images: dict[int, Listed]) -> list[int]:
        """Ids of the images that training keeps, by mmdet's filter; the others are added to what is left out."""
        kept = []
        for number, image in images.items():
            if number not in self._annotated:
                self.left_out.add("images without objects, not trained on", image.file)
            elif min(image.width, image.height) < SMALLEST:
                self.left_out.add(f"images with a side below {SMALLEST} pixels, not trained on", image.file)
            else:
                kept.append(number)
        return kept


def _box_problems(entry: dict[str, Any], image: Listed, manifest: DetectionManifest) -> Iterator[tuple[str, str]]:
    box, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        yield "boxes that are not four numbers", quoted(box)
    else:
        left, top, width, height = box
        right, bottom = left + width, top + height
        over, apart = image.over(left, top, right, bottom), image.over(right, bottom, left, top) >= 0
        if width < 0 or height < 0:
            yield "boxes of negative size", repr(box)
        elif over >= manifest.overhang or (width > 0 and height > 0 and apart):
            # mmdet would leave out an object that has no part in its image.
            yield "boxes outside their image", f"{box} in {image.width}x{image.height}"
    if not _is_finite(area) or area < 0 or crowd not in (0, 1):
        yield "area or iscrowd of no use", f"area {quoted(area)}, iscrowd {quoted(crowd)}"
    if entry.get("ignore"):
        # pycocotools overwrites it with iscrowd.
        yield "objects marked `ignore`, which training leaves out and evaluation scores", quoted(entry["ignore"])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked_mask(entry: dict[str, Any], image: Listed, manifest: DetectionManifest) -> tuple[float, int]:
    """Pixels by which the mask of an annotation leaves its image, and polygons of one or two points in it.

    These have no area: pycocotools 2.0.11 draws no pixel for them after a first polygon of three points or more, and
    mmdet drops them; a first polygon of two points is a box to pycocotools.

    Raises:
        ValueError, TypeError, OverflowError: it cannot be the mask of an object in the image; says why.
    """
    import numpy as np

    mask = entry.get("segmentation")
    if isinstance(mask, dict):
        _check_runs(mask, image)
        return 0.0, 0
    if not isinstance(mask, list) or not mask:
        raise InputError(f"expected polygons or a run-length encoding, found {quoted(mask)}")
    over, short, double = -math.inf, 0, 0.0
    for index, polygon in enumerate(mask):
        # A list of [x, y] pairs has the same points, but mmdet and pycocotools count its entries as coordinates.
        flat = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
        if not flat or len(polygon) % 2:
            raise InputError(f"polygon that is no flat list of numbers x, y, x, y, ...: {quoted(polygon)}")
        points, least = np.asarray(polygon, dtype=float).reshape(-1, 2), CORNERS
        if manifest.short_polygons and index:
            least = 1
        if len(points) < least or not np.isfinite(points).all():
            raise InputError(f"polygon of {len(points)} points, expected at least {least} of finite numbers")
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        over, short = max(over, float(image.over(left, top, right, bottom))), short + (len(points) < CORNERS)
        if over >= manifest.overhang:
            raise InputError(f"polygon from ({left:g}, {top:g}) to ({right:g}, {bottom:g})")
        (x, y), (after_x, after_y) = points.T, np.roll(points, -1, axis=0).T
        # Twice the area between the outline and the origin; below the rounding of its coordinates it is none.
        surface = abs((x * after_y - y * after_x).sum())
        double += surface if surface > 1e-9 * max(1.0, float(np.abs(points).max())) ** 2 else 0.0
    if not double and _is_finite(entry.get("area")) and entry["area"] > 0:
        # With an area of 0 mmdet leaves the object out.
        raise InputError(f"polygons that are a line or a point though an area of {entry['area']:g} is stated")
    return over, short


def _check_runs(mask: dict[str, Any], image: Listed) -> None:
    """Have pycocotools decode a run-length encoding; raises as `_checked_mask`."""
    from pycocotools import mask as coder

    height, width, counts = image.height, image.width, mask.get("counts")
    if mask.get("size") != [height, width]:
        raise InputError(f"run-length encoding of [height, width] {quoted(mask.get('size'))}")
    if isinstance(counts, list):
        if not all(type(run) is int for run in counts):
            raise TypeError("run-length encoding that cannot be read: expected whole numbers")
        mask = coder.frPyObjects(mask, height, width)
    elif not isinstance(counts, str):
        raise TypeError(f"run-length encoding that cannot be read: expected text or numbers, found {quoted(counts)}")
    if not coder.decode(mask).any():
        raise InputError("run-length encoding without a pixel of the object")
    # It refuses too many pixels, and leaves those that are missing as it finds the memory: one fewer must be too few.
    try:
        coder.decode({"size": [1, height * width - 1], "counts": mask["counts"]})
    except ValueError:
        return
    raise InputError(f"run-length encoding of fewer than {height * width} pixels")
