"""The complete check of a detection split: its COCO annotation file, and every image that the file lists."""

from __future__ import annotations

import codecs
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.dense_files import DetectionSplit, Picture, file_hash, file_sizes, lines_digest, read_picture
from lska.data.dense_manifest import ROUNDING, DetectionManifest
from lska.data.findings import Findings, Outcome, differences
from lska.data.folders import DataError
from lska.data.layouts import EXTENSIONS
from lska.data.masks import Mask, read_mask
from lska.data.parallel import mapped
from lska.files import open_regular, quoted, read_json

SECTIONS = ("images", "annotations", "categories")
IMAGE_KEYS = {"id": int, "file_name": str, "width": int, "height": int}
# What COCO's own evaluation reads of an annotation; the mask comes on top.
ID_KEYS = ("id", "image_id", "category_id")
OTHER_KEYS = ("bbox", "area", "iscrowd")

LIMIT = 2 * 2**30
"""Bytes of an annotation file; COCO 2017's has 450 million."""

TRAIN = "train"
"""The split that networks are trained on; the others are scored whole, but for crowds."""

SMALLEST = 32
"""Pixels of the shorter side below which training leaves an image out: `smallest_image` of all recipes."""


@dataclass(frozen=True)
class Image:
    """An image as the annotation file lists it."""

    file: str
    width: int
    height: int


def check_detection(manifest: DetectionManifest, split: DetectionSplit) -> Outcome:
    """Check one split completely: categories, images against their files, boxes, masks and numbers.

    Raises:
        DataError: the annotation file or the folder of images cannot be read at all.
    """
    findings, remarks, content = Findings(), Findings(), read_annotations(split.annotations)
    _check_categories(manifest, content["categories"], findings)
    images = _listed_images(content["images"], findings)
    hashes = _check_files(split, images, findings, remarks)
    objects = _check_objects(manifest, split.split, content["annotations"], images, findings)
    expected, dropped = manifest.splits[split.split], _left_out(content.get("info"), findings)
    counts = differences(
        [
            ("images", expected.count, len(content["images"])),
            ("objects", expected.objects, len(content["annotations"])),
            ("objects left out by the conversion", expected.dropped, len(dropped)),
        ]
    )
    if objects.without_area > expected.without_area:
        counts += objects.sentences
    facts = {"objects": len(content["annotations"]), "dropped": dropped, **objects.facts(manifest)}
    lines = [f"{value} images/{name}" for name, value in sorted(hashes.items())]
    contents = lines_digest([*lines, f"{file_hash(split.annotations)} annotations"])
    notes = _notes(split, images, objects, dropped)
    if split.split == TRAIN:
        kept = _trained_images(images, objects)
        trained = sum(objects.trained[number] for number in kept)
        counts += [] if trained or findings else [f"training would keep no object on {len(images):,} images"]
        notes.append(f"training keeps {len(kept):,} of the images, with {trained:,} objects.")
    notes += [f"{text}." for text in (*objects.left_out.sentences(), *remarks.sentences())]
    return Outcome((*findings.sentences(), *counts), facts, tuple(notes), contents)


def read_annotations(path: Path) -> dict[str, Any]:
    """Parse a COCO annotation file.

    Raises:
        DataError: it lacks one of its sections, or has a byte order mark, which pycocotools does not read.
        FileError: it is missing, or no JSON as `lska.files.parse_json` takes it. NaN passes, for the check to name the
            annotation.
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
    expected = dict(zip(manifest.category_ids, manifest.classes, strict=True))
    found: dict[Any, Any] = {}
    for entry in categories:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(number) is not int:
            findings.add("categories without a whole id", quoted(entry))
            continue
        if number in found:
            findings.add("duplicate category ids", f"{number}: {quoted(found[number])} and {quoted(name)}")
        elif expected.get(number) != name:
            findings.add("unknown categories", f"id {number}: {quoted(name)}, expected {expected.get(number)!r}")
        found[number] = name
    order = [number for number in found if number in expected]
    if not findings.sentences() and order != list(manifest.category_ids):
        # mmdet numbers the labels in the order of the file.
        findings.add("categories in another order", f"ids {order}, expected {list(manifest.category_ids)}")
    for number in sorted(expected.keys() - found.keys()):
        findings.add("missing categories", f"id {number}: {expected[number]!r}")


def _listed_images(entries: list[Any], findings: Findings) -> dict[int, Image]:
    images: dict[int, Image] = {}
    files: set[str] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(type(entry.get(key)) is not kind for key, kind in IMAGE_KEYS.items()):
            findings.add("image entries without a whole id, file_name, width and height", f"images[{position}]")
            continue
        image = Image(entry["file_name"], entry["width"], entry["height"])
        if entry["id"] in images:
            findings.add("duplicate image ids", f"{entry['id']}: {images[entry['id']].file} and {image.file}")
        elif image.file in files:
            findings.add("image files listed twice", image.file)
        images.setdefault(entry["id"], image)
        files.add(image.file)
    return images


def _check_files(
    split: DetectionSplit, images: dict[int, Image], findings: Findings, remarks: Findings
) -> dict[str, str]:
    """Decode every listed image that is there; returns the hashes of the files by name."""
    there, hashes = file_sizes(split.images), {}
    present = [image for image in images.values() if image.file in there]
    for image in images.values():
        if image.file in there:
            continue
        if not image.file.lower().endswith(EXTENSIONS):
            findings.add(f"listed files that end in none of {', '.join(EXTENSIONS)}", quoted(image.file))
        else:
            findings.add("missing image files", str(split.images / image.file))

    def read(index: int) -> Picture:
        return read_picture(split.images / present[index].file)

    for image, picture in zip(present, mapped(read, len(present), split.split), strict=True):
        hashes[image.file] = picture.hash
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", image.file)
        if picture.size is None:
            findings.add("unreadable images", picture.error)
        elif picture.size != (image.width, image.height):
            size = "{}x{}".format(*picture.size)
            findings.add(
                "images of another size than the annotations say",
                f"{split.images / image.file} is {size}, stated {image.width}x{image.height}",
            )
    return hashes


class Objects:
    """What the annotations of a split add up to, and which of them mmdet's `CocoDataset` (3.3.0) hands to training."""

    def __init__(self) -> None:
        self.per_category: Counter[int] = Counter()
        self.annotated: set[int] = set()
        """Ids of the images with annotations."""
        self.trained: Counter[int] = Counter()
        """Objects that are trained on, by image id."""
        self.crowds = 0
        self.thin = 0
        self.over_border = 0
        self.short_polygons = 0
        self.left_out = Findings()
        self._flat = Findings()

    @property
    def without_area(self) -> int:
        """Number of boxes of zero width or height, and of objects whose area is stated as 0."""
        return len(self._flat)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The objects without area, as findings."""
        return self._flat.sentences()

    def count(self, annotation: dict[str, Any], image: Image, mask: Mask, place: str) -> None:
        """Take up an annotation without problems."""
        width, height = annotation["bbox"][2:]
        self.over_border += max(_over(annotation["bbox"], image), mask.over) >= ROUNDING
        self.short_polygons += mask.short
        self.per_category[annotation["category_id"]] += 1
        self.annotated.add(annotation["image_id"])
        if width <= 0 or height <= 0:
            self._flat.add("boxes without area", f"{place}: {annotation['bbox']}")
        elif annotation["area"] <= 0:
            self._flat.add("objects whose area is stated as 0, which training leaves out and evaluation scores", place)
        if annotation["iscrowd"]:
            self.crowds += 1
            self.left_out.add("crowds (or difficult objects), neither trained on nor scored", place)
        elif width < 1 or height < 1 or annotation["area"] <= 0:
            self.left_out.add("objects less than a pixel wide or high, or of area 0, scored but not trained on", place)
        else:
            self.trained[annotation["image_id"]] += 1
        self.thin += 0 < min(width, height) < 1

    def facts(self, manifest: DetectionManifest) -> dict[str, Any]:
        """Numbers for the record."""
        pairs = zip(manifest.category_ids, manifest.classes, strict=True)
        tolerated = {"objects_over_the_border": self.over_border, "short_polygons": self.short_polygons}
        return {
            "per_class": {name: self.per_category[number] for number, name in pairs},
            "crowds": self.crowds,
            "boxes_without_area": self.without_area,
            "boxes_thinner_than_a_pixel": self.thin,
            **(tolerated if manifest.tolerant else {}),
        }


def _check_objects(
    manifest: DetectionManifest, split: str, annotations: list[Any], images: dict[int, Image], findings: Findings
) -> Objects:
    from tqdm import tqdm

    objects, seen, known = Objects(), set(), frozenset(manifest.category_ids)
    for position, entry in enumerate(tqdm(annotations, desc=split, unit="obj", disable=None)):
        if missing := _missing_keys(entry):
            findings.add("annotations without a usable key", f"annotations[{position}]: {', '.join(missing)}")
            continue
        image = images.get(entry["image_id"])
        place = f"annotation {entry['id']} of {image.file if image else 'image ' + repr(entry['image_id'])}"
        if entry["id"] in seen:
            findings.add("duplicate annotation ids", place)
        seen.add(entry["id"])
        if image is None:
            findings.add("annotations of an image that is not listed", place)
            continue
        if entry["category_id"] not in known:
            findings.add("annotations of an unknown category", f"{place}: category {entry['category_id']!r}")
        mask = _mask(entry.get("segmentation"), image, manifest)
        problems = list(_object_problems(entry, image, mask, manifest.overhang))
        for kind, detail in problems:
            findings.add(kind, f"{place}: {detail}")
        if not problems:
            objects.count(entry, image, mask, place)
    return objects


def _missing_keys(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return ["not a mapping"]
    return [
        *(key for key in ID_KEYS if type(entry.get(key)) is not int),
        # pycocotools takes a match with annotation 0 for no match.
        *(["id of at least 1"] if entry.get("id") == 0 else []),
        *(key for key in OTHER_KEYS if key not in entry),
    ]


def _object_problems(entry: dict[str, Any], image: Image, mask: Mask, overhang: float) -> Iterator[tuple[str, str]]:
    box, size = entry["bbox"], f"{image.width}x{image.height}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        yield "boxes that are not four numbers", quoted(box)
        return
    if box[2] < 0 or box[3] < 0:
        yield "boxes of negative size", repr(box)
    elif _over(box, image) >= overhang or _beside(box, image):
        yield "boxes outside their image", f"{box} in {size}"
    if not _is_finite(entry["area"]) or entry["area"] < 0 or entry["iscrowd"] not in (0, 1):
        yield "area or iscrowd of no use", f"area {quoted(entry['area'])}, iscrowd {quoted(entry['iscrowd'])}"
    if entry.get("ignore"):
        # pycocotools overwrites it with iscrowd.
        yield "objects marked `ignore`, which training leaves out and evaluation scores", quoted(entry["ignore"])
    if mask.problem:
        yield "masks that do not fit their image", f"{mask.problem} in {size}"
    elif mask.flat and _is_finite(entry["area"]) and entry["area"] > 0:
        # With an area of 0 mmdet leaves the object out.
        yield "polygons that are a line or a point", f"area {entry['area']:g}"


def _over(box: list[float], image: Image) -> float:
    """Pixels by which a box leaves its image."""
    left, top, width, height = box
    return max(-left, -top, left + width - image.width, top + height - image.height)


def _beside(box: list[float], image: Image) -> bool:
    """Whether no part of a box that has an area lies in its image; mmdet would leave the object out of training."""
    left, top, width, height = box
    inside = left < image.width and top < image.height and left + width > 0 and top + height > 0
    return width > 0 and height > 0 and not inside


def _mask(mask: Any, image: Image, manifest: DetectionManifest) -> Mask:
    if not mask and not manifest.masks:
        return Mask()
    return read_mask(mask, image.width, image.height, manifest.overhang, manifest.short_polygons)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _trained_images(images: dict[int, Image], objects: Objects) -> list[int]:
    """Ids of the images that training keeps, by mmdet's filter; the others are added to what is left out."""
    kept = []
    for number, image in images.items():
        if number not in objects.annotated:
            objects.left_out.add("images without objects, not trained on", image.file)
        elif min(image.width, image.height) < SMALLEST:
            objects.left_out.add(f"images with a side below {SMALLEST} pixels, not trained on", image.file)
        else:
            kept.append(number)
    return kept


def _notes(split: DetectionSplit, images: dict[int, Image], objects: Objects, dropped: list[str]) -> list[str]:
    notes = [f"{len(images):,} images with {objects.per_category.total():,} objects at {split.annotations}."]
    if dropped:
        notes.append(f"left out by the conversion ({len(dropped):,}): {'; '.join(dropped)}.")
    if objects.over_border or objects.short_polygons:
        notes.append(
            f"tolerated, as the manifest says: {objects.over_border:,} objects that leave their image by a pixel or "
            f"more, where they are cut off; {objects.short_polygons:,} polygons of one or two points, without area."
        )
    return notes
