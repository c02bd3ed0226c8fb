"""What COCO's own annotations may show beside rounding: counted where the manifest states it, refused everywhere else.

What is tolerated is read without harm by pycocotools (below) and by mmdet (test_openmmlab_pipelines.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dense_sets import annotations, copied, edited, findings, write_coco
from pycocotools import mask

from lska.config import DataSource
from lska.data import dense

# Inside pycocotools, under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# In the scenes of 40 pixels: an outline 2.9 pixels over two borders, with two polygons that have no area.
OUTLINE = [[30, -2.9, 42.9, -2.9, 42.9, 9, 30, 9], [33, 2, 36, 4], [5, 5]]
BOX = [30, -2.9, 12.9, 11.9]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_coco(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def data(sound: DataSource, tmp_path: Path) -> DataSource:
    return copied(sound, tmp_path)


def with_object(data: DataSource, **changes: Any) -> DataSource:
    """The data with another first object in the training split."""
    with edited(annotations(data)) as content:
        content["annotations"][0].update(changes)
    return data


def tolerant(data: DataSource, folder: Path, **settings: Any) -> DataSource:
    """The same data with a manifest that states what the one of COCO 2017 does."""
    values = yaml.safe_load(Path(data.manifest or "").read_text())
    own = folder / "tolerant.yaml"
    own.write_text(yaml.safe_dump(values | {"overhang": 3.0, "short_polygons": True} | settings))
    return DataSource(data.name, data.root, str(own))


def test_stated_cases_pass_and_are_counted(data: DataSource, tmp_path: Path) -> None:
    data = tolerant(with_object(data, bbox=BOX, segmentation=OUTLINE), tmp_path)
    report = dense.check("detection", data, tmp_path)
    assert report.findings == ()
    note = (
        "train: tolerated, as the manifest says: 1 objects that leave their image by a pixel or more, where they are "
        "cut off; 2 polygons of one or two points, without area."
    )
    assert note in report.notes and not any("tolerated" in text for text in report.notes if text.startswith("val"))
    dense.prepare("detection", data, tmp_path / "record.json", tmp_path)
    detail = json.loads((tmp_path / "record.json").read_text())["detail"]
    counts = {split: [facts["objects_over_the_border"], facts["short_polygons"]] for split, facts in detail.items()}
    assert counts == {"train": [1, 2], "val": [0, 0]}


@pytest.mark.parametrize("bbox", [BOX, [30, 0, 10, 9]])
def test_an_object_counts_once_whether_its_box_or_its_outline_leaves(
    bbox: list[float], data: DataSource, tmp_path: Path
) -> None:
    data = tolerant(with_object(data, bbox=bbox, segmentation=OUTLINE[:1]), tmp_path)
    dense.prepare("detection", data, tmp_path / "record.json", tmp_path)
    facts = json.loads((tmp_path / "record.json").read_text())["detail"]["train"]
    assert (facts["objects_over_the_border"], facts["short_polygons"]) == (1, 0)


def test_the_same_is_refused_where_the_manifest_does_not_state_it(data: DataSource, tmp_path: Path) -> None:
    for changes, message in (
        ({"bbox": BOX}, "boxes outside their image (1)"),
        ({"segmentation": OUTLINE[:1]}, "polygon from (30, -2.9) to (42.9, 9) in 40x40"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9], OUTLINE[1]]}, "polygon of 2 points, expected at least 3"),
    ):
        assert message in findings("detection", with_object(data, **changes), tmp_path)


def test_records_of_sets_without_tolerances_do_not_speak_of_them(data: DataSource, tmp_path: Path) -> None:
    dense.prepare("detection", data, tmp_path / "record.json", tmp_path)
    facts = json.loads((tmp_path / "record.json").read_text())["detail"]["train"]
    assert not {"objects_over_the_border", "short_polygons"} & set(facts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [30, 5, 13, 4]}, "boxes outside their image (1)"),
        ({"bbox": [41, 5, 1.5, 4]}, "boxes outside their image (1)"),
        ({"segmentation": [[30, 5, 43, 5, 43, 9]]}, "polygon from (30, 5) to (43, 9) in 40x40"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9], [30, 5, 43, 5]]}, "polygon from (30, 5) to (43, 5) in 40x40"),
        ({"segmentation": [[1, 1, 9, 9], [1, 1, 9, 1, 9, 9]]}, "polygon of 2 points, expected at least 3"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9], []]}, "polygon of 0 points, expected at least 1"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9], [2, 2, 3]]}, "no flat list of numbers"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9], [2, float("nan")]]}, "of finite numbers"),
        ({"segmentation": {"size": [40, 41], "counts": [1640]}}, "run-length encoding of [height, width] [40, 41]"),
        ({"segmentation": []}, "expected polygons or a run-length encoding"),
    ],
)
def test_what_would_be_read_wrongly_is_refused_all_the_same(
    changes: dict[str, Any], message: str, data: DataSource, tmp_path: Path
) -> None:
    found = findings("detection", tolerant(with_object(data, **changes), tmp_path), tmp_path)
    assert message in found and len(found.splitlines()) == 1


def drawn(polygons: list[list[float]], height: int = 40, width: int = 60) -> np.ndarray:
    """The pixels of polygons as pycocotools draws them."""
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width)))


def test_pycocotools_cuts_outlines_off_at_the_border() -> None:
    rng = np.random.default_rng(0)
    for over in (1.0, 2.0, 2.9):
        corner = [40, 30, 60 + over, 30, 60 + over, 40 + over, 40, 40 + over]
        assert np.array_equal(drawn([corner]), drawn([[40, 30, 60, 30, 60, 40, 40, 40]]))
        assert np.array_equal(drawn([[-over, -over, 9, -over, 9, 9, -over, 9]]), drawn([[0, 0, 9, 0, 9, 9, 0, 9]]))
        # Of any shape: as on a larger canvas, of which the image is a part.
        shape = rng.uniform((1, 1), (60 + over, 40 + over), (6, 2))
        assert np.array_equal(drawn([shape.ravel().tolist()]), drawn([shape.ravel().tolist()], 90, 90)[:40, :60])


def test_pycocotools_draws_nothing_for_short_polygons_after_the_first() -> None:
    rng, first = np.random.default_rng(0), [1, 1, 30, 1, 30, 20, 1, 20]
    for points in (1, 2):
        for _ in range(100):
            short = rng.uniform((-3, -3), (63, 43), (points, 2)).round(2).ravel().tolist()
            assert np.array_equal(drawn([first, short]), drawn([first]))
    with pytest.raises(TypeError, match="'bb' has incorrect type"):
        drawn([[2, 2, 9, 9], first])
