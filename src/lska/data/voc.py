"""PASCAL VOC's XML annotations as one COCO JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lska.data.entries import DataError
from lska.data.problems import Findings
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, quoted, read_bytes, write_text

VERSION = 1
"""Version of the conversion: to be raised whenever equal input gives another JSON, so that cached ones are not used."""

LARGEST = 10**9
"""More pixels than any image has a side of."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def convert(xml: Path, names: Sequence[str], classes: Sequence[str], destination: Path) -> dict[str, Any]:
    """Write the annotations `xml/<name>.xml` of `names` as a COCO JSON file and return its content.

    VOC counts pixels from 1 and its maxima belong to the object, so a box becomes [xmin - 1, ymin - 1,
    xmax - xmin + 1, ymax - ymin + 1]. Category ids run from 1 in the order of `classes`. Objects marked as difficult
    become `iscrowd`, which COCO's evaluation does not count either.

    One kind of object is left out and listed under `info.dropped`: a box whose two corners are the same pixel, the
    trace of a click without a drag. Everything else is taken over as it stands, for the check to judge. Equal input
    gives equal bytes.

    Raises:
        DataError: a file is missing or no VOC annotation, or names an unknown class; all are listed.
    """
    findings = Findings()
    numbers = {label: number for number, label in enumerate(classes, start=1)}
    content: dict[str, Any] = {
        "info": {"description": f"{xml.name} converted from PASCAL VOC", "dropped": []},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
    }
    for name in names:
        _add(content, xml / f"{name}.xml", numbers, findings)
    if len(findings):
        raise DataError(f"{xml} cannot be converted:\n" + "\n".join(f"  {text}" for text in findings.sentences()))
    write_text(destination, json.dumps(content, sort_keys=True))
    return content


def _add(content: dict[str, Any], path: Path, numbers: dict[str, int], findings: Findings) -> None:
    """Append the image and the objects of one XML file."""
    try:
        root = _parsed(path)
        width, height = (_number(_text(root, f"size/{side}")) for side in ("width", "height"))
        file = _text(root, "filename")
    except FileError as error:
        findings.add("XML files that cannot be read", str(error))
        return
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        findings.add("XML files that cannot be read", f"{path} ({error})")
        return
    image = len(content["images"]) + 1
    content["images"].append({"id": image, "file_name": file, "width": width, "height": height})
    if Path(file).stem != path.stem:
        findings.add("XML files that name another image", f"{path} names {quoted(file)}")
    for position, item in enumerate(root.findall("object"), start=1):
        _add_object(content, item, f"{path}, object {position}", numbers, findings)


def _add_object(
    content: dict[str, Any], item: ElementTree.Element, place: str, numbers: dict[str, int], findings: Findings
) -> None:
    try:
        label = _text(item, "name")
        left, top, right, bottom = (_number(_text(item, f"bndbox/{corner}")) for corner in CORNERS)
        difficult = _number(_text(item, "difficult") if item.findtext("difficult") else "0")
        if difficult not in (0, 1):
            raise InputError(f"difficult: expected 0 or 1, found {difficult}")
    except ValueError as error:
        findings.add("objects that are no VOC annotation", f"{place} ({error})")
        return
    if label not in numbers:
        findings.add("unknown categories", f"{place}: {quoted(label)}, expected one of {', '.join(numbers)}")
        return
    if (left, top) == (right, bottom):
        content["info"]["dropped"].append(f"{Path(place).name}: {label} at the single pixel {left}, {top}")
        return
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    annotations = content["annotations"]
    annotations.append(
        {
            "id": len(annotations) + 1,
            "image_id": content["images"][-1]["id"],
            "category_id": numbers[label],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(difficult != 0),
        }
    )


def _parsed(path: Path) -> ElementTree.Element:
    content = read_bytes(path)
    # In UTF-16 every other byte is 0. Entities may stand for gigabytes or other files; annotations need none.
    if b"<!DOCTYPE" in content.replace(b"\0", b""):
        raise InputError("a document type, whose entities are not read; remove the line with <!DOCTYPE")
    return ElementTree.fromstring(content)


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.findall(path)
    if len(found) > 1:
        raise InputError(f"{path} is given {len(found)} times")
    if not found or not (found[0].text or "").strip():
        raise InputError(f"no {path}")
    return (found[0].text or "").strip()


def _number(text: str) -> int | float:
    # Python would read 1_0 as 10, and the digits of any script.
    value = float(text) if text.isascii() and "_" not in text else math.nan
    if not abs(value) < LARGEST:
        raise InputError(f"expected a number below {LARGEST:,}, found {quoted(text)}")
    return int(value) if value.is_integer() else value
