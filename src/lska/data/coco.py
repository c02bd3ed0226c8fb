"""Detection data: the complete check of a COCO annotation file and its images, and VOC annotations made into one.

What pycocotools and mmdet would read otherwise, or leave out, without a word is named; pycocotools decodes the masks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from lska.data.entries import EXTENSIONS, SHOWN, DataError, file_sizes, is_image, lines_digest, repeated
from lska.data.manifest import ROUNDING, DetectionManifest
from lska.data.preparing import Findings, decoded, differences
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, file_hash, quoted, read_bytes, read_json, write_text
from lska.provenance.strict import OPEN_ENDED, AtLeastOne, AtLeastZero, NotNegative, SettingsError, build

if TYPE_CHECKING:
    import pandas as pd

    from lska.data.dense_sets import DetectionSplit

LIMIT = 2 * 2**30
"""Bytes of an annotation file; COCO 2017's has 450 million."""

TRAIN = "train"
"""The split that networks are trained on; the others are scored whole, but for crowds."""

SMALLEST = 32
"""Pixels of the shorter side below which training leaves an image out: `smallest_image` of all recipes."""

CORNERS = 3
"""Of the smallest polygon that has an area."""


class SplitOutcome(NamedTuple):
    """What the complete check of one split found: sentences, numbers for the record, notes, the digest of all bytes."""

    findings: tuple[str, ...]
    facts: dict[str, Any]
    notes: tuple[str, ...]
    contents: str


@dataclass(frozen=True)
class ListedImage:
    """An image as the annotation file lists it."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    id: int
    file_name: str
    width: AtLeastOne
    height: AtLeastOne


@dataclass(frozen=True)
class Runs:
    """A mask as lengths of runs; `size` is height and width."""

    size: tuple[int, int]
    counts: str | tuple[AtLeastZero, ...]


@dataclass(frozen=True)
class ListedObject:
    """An object as the annotation file lists it; `bbox` is left, top, width and height in pixels."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: NotNegative
    iscrowd: Literal[0, 1]
    segmentation: tuple[tuple[float, ...], ...] | Runs | None = None
    ignore: Any = None


@dataclass(frozen=True)
class Category:
    """A class as the annotation file lists it."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    id: int
    name: str


@dataclass(frozen=True)
class AnnotationFile:
    """A COCO annotation file, as far as it matters here."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    images: tuple[ListedImage, ...]
    annotations: tuple[ListedObject, ...]
    categories: tuple[Category, ...]
    info: dict[str, Any] | None = None


def check_detection(manifest: DetectionManifest, split: DetectionSplit) -> SplitOutcome:
    """Check one split completely: categories, images against their files, boxes, masks and numbers.

    Raises FileError or DataError where the annotation file or the folder of images cannot be read at all.
    """
    try:
        content = build(AnnotationFile, read_json(split.annotations, limit=LIMIT), str(split.annotations))
    except SettingsError as error:
        more = f"; and {len(error.problems) - SHOWN:,} more" if len(error.problems) > SHOWN else ""
        raise DataError(
            f"{split.annotations} is no COCO annotation file ({len(error.problems):,}): "
            f"{'; '.join(error.problems[:SHOWN])}{more}"
        ) from error
    findings, remarks, stated = Findings(), Findings(), manifest.splits[split.split]
    expected = list(zip(manifest.category_ids, manifest.classes, strict=True))
    found = [(one.id, one.name) for one in content.categories]
    if found != expected:  # mmdet numbers the labels in the order of the file
        findings.add("categories that are not those of the manifest", f"{quoted(found)}, expected {quoted(expected)}")
    findings.add("image ids that stand twice", *map(str, repeated(image.id for image in content.images)))
    findings.add("image files listed twice", *repeated(image.file_name for image in content.images))
    lines = _check_files(split, content.images, findings, remarks)
    table = _check_objects(manifest, content, findings)
    sound = table[table.sound]

    line = (sound.width <= 0) | (sound.height <= 0)
    flat = Findings()
    flat.add("boxes without area", *sound.place[line])
    no_area = sound.place[~line & (sound.area <= 0)]
    flat.add("objects whose area is stated as 0, which training leaves out and evaluation scores", *no_area)
    counts = list(flat.sentences()) if len(flat) > stated.without_area else []
    notes = [f"{len(content.images):,} images with {len(sound):,} objects."]
    # What `convert` left out; files of other origin do not say so.
    dropped = list((content.info or {}).get("dropped", ())) if manifest.format == "voc" else []
    if dropped:
        notes.append(f"left out by the conversion ({len(dropped):,}): {'; '.join(dropped)}.")
    over_border, short = int((sound.over >= ROUNDING).sum()), int(sound.short.sum())
    if over_border or short:
        notes.append(
            f"tolerated, as the manifest says: {over_border:,} objects that leave their image by a pixel or "
            f"more, where they are cut off; {short:,} polygons of one or two points, without area."
        )
    kept, told = _trained_on(split.split, content.images, sound)
    if kept == 0 and not findings:
        counts.append(f"training would keep no object on {len(content.images):,} images")
    counts += differences(
        [
            ("images", stated.count, len(content.images)),
            ("objects", stated.objects, len(content.annotations)),
            ("objects left out by the conversion", stated.dropped, len(dropped)),
        ]
    )
    per_class, side = Counter(sound.category.tolist()), sound[["width", "height"]].min(axis=1)
    facts = {
        "per_class": {name: per_class[number] for number, name in expected},
        "crowds": int((sound.crowd == 1).sum()),
        "boxes_without_area": len(flat),
        "boxes_thinner_than_a_pixel": int(((side > 0) & (side < 1)).sum()),
        "objects": len(content.annotations),
        "dropped": dropped,
    }
    if manifest.tolerant:
        facts |= {"objects_over_the_border": over_border, "short_polygons": short}
    notes += [*told, *(f"{text}." for text in remarks.sentences())]
    contents = lines_digest([*lines, f"{file_hash(split.annotations)} annotations"])
    return SplitOutcome((*findings.sentences(), *counts), facts, tuple(notes), contents)


def _check_files(
    split: DetectionSplit, images: Sequence[ListedImage], findings: Findings, remarks: Findings
) -> list[str]:
    """Decode every listed image that is there; lines with the hashes of the files, sorted by name."""
    there = file_sizes(split.images)
    names = [image.file_name for image in images]
    absent = (str(split.images / name) for name in names if name not in there and is_image(name))
    findings.add("missing image files", *absent)
    odd = f"listed files that end in none of {', '.join(EXTENSIONS)}"
    findings.add(odd, *(name for name in names if not is_image(name)))
    present, hashes = [image for image in images if image.file_name in there], {}
    paths = [split.images / image.file_name for image in present]
    for image, path, picture in zip(present, paths, decoded(paths, split.split, findings, remarks), strict=True):
        hashes[image.file_name] = picture.hash
        if picture.size not in (None, (image.width, image.height)):
            text = "{} is {}x{}, stated {}x{}".format(path, *picture.size, image.width, image.height)
            findings.add("images of another size than the annotations say", text)
    return [f"{value} images/{name}" for name, value in sorted(hashes.items())]


def _check_objects(manifest: DetectionManifest, content: AnnotationFile, findings: Findings) -> pd.DataFrame:
    """Check boxes and masks of all objects of listed images.

    Returns a row for each: `image` and `category` ids, `place` for messages, `width`, `height`, `area` and `crowd`;
    `over`, pixels by which it leaves its image; `short`, polygons of one or two points; whether it is `sound`.
    """
    import pandas as pd

    images = {image.id: image for image in content.images}
    unlisted = [one for one in content.annotations if one.image_id not in images]
    findings.add("annotations of an image that is not listed", *(f"{one.id}, image {one.image_id}" for one in unlisted))
    objects = [(one, images[one.image_id]) for one in content.annotations if one.image_id in images]
    rows = [
        (one.id, one.image_id, one.category_id, one.iscrowd, one.area, bool(one.ignore), *one.bbox, image.width,
         image.height, f"annotation {one.id} of {image.file_name}")
        for one, image in objects
    ]  # fmt: skip
    names = ["id", "image", "category", "crowd", "area", "ignore", "left", "top", "width", "height", "across", "down"]
    table = pd.DataFrame(rows, columns=[*names, "place"])
    right, bottom = table.left + table.width, table.top + table.height
    over = np.max([-table.left, -table.top, right - table.across, bottom - table.down], axis=0)
    # mmdet would leave out an object that has no part in its image.
    apart = np.max([-right, -bottom, table.left - table.across, table.top - table.down], axis=0) >= 0
    outside = (over >= manifest.overhang) | ((table.width > 0) & (table.height > 0) & apart)
    wrong = {
        "annotation ids that stand twice, or are 0, which pycocotools takes for no match":
            (table.id == 0) | table.id.duplicated(keep=False),
        "annotations of an unknown category": ~table.category.isin(manifest.category_ids),
        "boxes of negative size": (table.width < 0) | (table.height < 0),
        "boxes outside their image": outside & (table.width >= 0) & (table.height >= 0),
        # pycocotools overwrites it with iscrowd.
        "objects marked `ignore`, which training leaves out and evaluation scores": table.ignore.astype(bool),
    }  # fmt: skip
    for kind, mask in wrong.items():
        for one in table[mask].itertuples():
            box = [one.left, one.top, one.width, one.height]
            findings.add(kind, f"{one.place}: category {one.category}, box {box} in {one.across}x{one.down}")
    sound, short = ~np.any([*wrong.values()], axis=0), np.zeros(len(table), dtype=int)
    for index, (one, image) in enumerate(objects):
        if one.segmentation or manifest.masks:
            try:
                beyond, short[index] = _check_mask(one.segmentation, image.width, image.height, manifest)
                over[index] = max(over[index], beyond)
            except (ValueError, TypeError, OverflowError) as error:
                sound[index] = False
                text = f"{table.place[index]}: {error} in {image.width}x{image.height}"
                findings.add("masks that do not fit their image", text)
    return table.assign(sound=sound, short=short, over=over)


def _trained_on(split: str, images: Sequence[ListedImage], table: pd.DataFrame) -> tuple[int | None, list[str]]:
    """What mmdet's `CocoDataset` (3.3.0) hands to training of sound objects: how many (None where the split is not
    trained on), and sentences about it."""
    crowds, left_out = table.crowd == 1, Findings()
    small = ~crowds & ((table.width < 1) | (table.height < 1) | (table.area <= 0))
    left_out.add("crowds (or difficult objects), neither trained on nor scored", *table.place[crowds])
    text = "objects less than a pixel wide or high, or of area 0, scored but not trained on"
    left_out.add(text, *table.place[small])
    if split != TRAIN:
        return None, [f"{text}." for text in left_out.sentences()]
    annotated = set(table.image)
    empty = (one.file_name for one in images if one.id not in annotated)
    left_out.add("images without objects, not trained on", *empty)
    tiny = {one.id: one.file_name for one in images if one.id in annotated and min(one.width, one.height) < SMALLEST}
    left_out.add(f"images with a side below {SMALLEST} pixels, not trained on", *tiny.values())
    kept = annotated - set(tiny)
    total = int((~crowds & ~small & table.image.isin(kept)).sum())
    note = f"training keeps {len(kept):,} of the images, with {total:,} objects."
    return total, [note, *(f"{text}." for text in left_out.sentences())]


def _check_mask(
    mask: tuple[tuple[float, ...], ...] | Runs | None, width: int, height: int, manifest: DetectionManifest
) -> tuple[float, int]:
    """Pixels by which the mask of an object leaves its image, and polygons of one or two points in it.

    These have no area: pycocotools 2.0.11 draws no pixel for them after a first polygon of three points or more, and
    mmdet drops them; a first polygon of two points is a box to pycocotools.

    Raises:
        ValueError, TypeError, OverflowError: it cannot be the mask of an object in the image; says why.
    """
    from pycocotools import mask as coder

    if not mask:
        raise InputError("expected polygons or a run-length encoding, found none")
    if isinstance(mask, Runs):
        if mask.size != (height, width):
            raise InputError(f"run-length encoding of [height, width] {list(mask.size)}")
        runs = {"size": [height, width], "counts": mask.counts}
        if not isinstance(mask.counts, str):
            runs = coder.frPyObjects({**runs, "counts": list(mask.counts)}, height, width)
        if not coder.decode(runs).any():
            raise InputError("run-length encoding without a pixel of the object")
        # It refuses too many pixels, and leaves missing ones as it finds the memory: one fewer must be too few.
        try:
            coder.decode({"size": [1, height * width - 1], "counts": runs["counts"]})
        except ValueError:
            return 0.0, 0
        raise InputError(f"run-length encoding of fewer than {height * width} pixels")
    over, short = -np.inf, 0
    for index, polygon in enumerate(mask):
        least = 1 if manifest.short_polygons and index else CORNERS
        if len(polygon) % 2 or len(polygon) < 2 * least:
            raise InputError(f"polygon of {len(polygon)} coordinates, expected x, y of at least {least} points")
        left, top, right, bottom = (edge(polygon[axis::2]) for edge in (min, max) for axis in (0, 1))
        over, short = max(over, -left, -top, right - width, bottom - height), short + (len(polygon) < 2 * CORNERS)
        if over >= manifest.overhang:
            raise InputError(f"polygon from ({left:g}, {top:g}) to ({right:g}, {bottom:g})")
    return over, short


# --- PASCAL VOC ------------------------------------------------------------------------------------------------------

VOC_VERSION = 1
"""Version of the conversion: to be raised whenever equal input gives another JSON, so that cached ones are not used."""


def convert(xml: Path, names: Sequence[str], classes: Sequence[str], destination: Path) -> dict[str, Any]:
    """Write the VOC annotations `xml/<name>.xml` of `names` as a COCO JSON file and return its content.

    VOC counts pixels from 1 and its maxima belong to the object, so a box becomes [xmin - 1, ymin - 1, xmax - xmin + 1,
    ymax - ymin + 1]. Category ids run from 1 in the order of `classes`; difficult objects become `iscrowd`. A box whose
    two corners are the same pixel, the trace of a click without a drag, is left out and listed under `info.dropped`.
    Everything else is taken over as it stands, for the check to judge. Equal input gives equal bytes. Raises DataError,
    which lists every file that is missing or no VOC annotation, with the first object at fault.
    """
    findings, dropped = Findings(), []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name in names:
        path, position = xml / f"{name}.xml", 0
        try:
            root = ElementTree.fromstring(read_bytes(path))
            width, height, file = _number(root, "size/width"), _number(root, "size/height"), _text(root, "filename")
            if Path(file).stem != path.stem:
                raise InputError(f"names another image, {quoted(file)}")
            images.append({"id": len(images) + 1, "file_name": file, "width": width, "height": height})
            for position, item in enumerate(root.findall("object"), start=1):
                label = _text(item, "name")
                corners = (_number(item, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
                left, top, right, bottom = corners
                difficult = _number(item, "difficult") if item.findtext("difficult") else 0
                if label not in classes or difficult not in (0, 1):
                    raise InputError(f"{quoted(label)}, difficult {difficult}: expected {', '.join(classes)}, 0 or 1")
                if (left, top) == (right, bottom):
                    dropped.append(f"{path.name}, object {position}: {label} at the single pixel {left}, {top}")
                    continue
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                ids = {"id": len(annotations) + 1, "image_id": len(images), "category_id": classes.index(label) + 1}
                annotations.append({**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": int(difficult)})
        except FileError as error:
            findings.add("files that are no VOC annotation", str(error))
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            where = f"{path}, object {position}" if position else str(path)
            findings.add("files that are no VOC annotation", f"{where} ({error})")
    if len(findings):
        raise DataError(f"{xml} cannot be converted:\n" + "\n".join(f"  {text}" for text in findings.sentences()))
    content = {
        "info": {"description": f"{xml.name} converted from PASCAL VOC", "dropped": dropped},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for number, label in enumerate(classes, start=1)],
    }
    write_text(destination, json.dumps(content, sort_keys=True))
    return content


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.findall(path)
    if len(found) != 1 or not (found[0].text or "").strip():
        raise InputError(f"expected one {path} with a value, found {len(found)}")
    return found[0].text.strip()


def _number(element: ElementTree.Element, path: str) -> int | float:
    text = _text(element, path)
    if not re.fullmatch(r"[-+]?[0-9]{1,9}(\.[0-9]*)?", text):
        raise InputError(f"{path}: expected a number, found {quoted(text)}")
    return int(value) if (value := float(text)).is_integer() else value
