"""Records of cue-conflict and texture sets: generated, given, wrong, and changed after they were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_inspection
from PIL import Image
from tiny_inspection import InspectionProject
from tiny_project import Project

from lska.data.checking import prepare_inspected
from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.dtd import TextureSet, read_textures
from lska.data.entries import DataError
from lska.data.preparing import verify_inspected
from lska.settings.tasks import InspectionJob

READ = {"shape_texture": read_cue_conflict, "texture_knn": read_textures}


@pytest.fixture
def inspected(project: Project) -> InspectionProject:
    return tiny_inspection.make(project)


def record(job: InspectionJob) -> dict[str, Any]:
    return json.loads(job.record.read_text(encoding="utf-8"))


def opened(job: InspectionJob) -> CueConflictSet | TextureSet:
    return READ[job.name](Path(job.data.root))


@pytest.mark.parametrize(("task", "images"), [("shape_texture", 4 * 3 * 4), ("texture_knn", 4 * 3 * 4)])
def test_a_generated_set_is_made_and_recorded(inspected: InspectionProject, task: str, images: int) -> None:
    job = inspected.job(task)
    found = record(job)
    assert (found["name"], found["images"], found["task"]) == (job.data.name, images, task)
    assert found["inputs"] == job.inputs() and found["digest"].startswith("sha256:")
    assert job.data.identity() == {"name": job.data.name, "digest": found["digest"]}
    verify_inspected(job, opened(job))
    before = job.record.read_bytes()
    job.record.unlink()
    prepare_inspected(job)
    assert job.record.read_bytes() == before


@pytest.mark.parametrize("task", READ)
def test_a_set_that_changed_after_its_record_is_refused(inspected: InspectionProject, task: str) -> None:
    job = inspected.job(task)
    file = sorted(Path(job.data.root).rglob("*.png" if task == "shape_texture" else "*.jpg"))[0]
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(DataError, match=f"{job.data.root} is not the set that {job.record} records"):
        verify_inspected(job, opened(job))
    file.write_bytes(content)
    verify_inspected(job, opened(job))
    if task == "texture_knn":
        label = Path(job.data.root) / "labels" / "val1.txt"
        lines = label.read_text().splitlines()
        label.write_text("\n".join(reversed(lines)))
    else:
        file.unlink()
    with pytest.raises(DataError, match="files were added, removed or changed"):
        verify_inspected(job, opened(job))


def given(inspected: InspectionProject, task: str, **data: Any) -> InspectionJob:
    """The job on data that are not generated."""
    return inspected.job(task, {task: {"data": {"generate": None, **data}}})


def published_layout(root: Path) -> Path:
    """Tiny images in the published layout: 16 categories, 10 shapes with 8 textures each."""
    names = list(imagenet_categories())
    for place, category in enumerate(names):
        others = [names[(place + step) % 16] for step in range(1, 9)]
        combinations = [f"{category}{n}-{other}{n % 3 + 1}.png" for n in range(1, 11) for other in others]
        (root / category).mkdir(parents=True)
        for number, file in enumerate(combinations):
            Image.new("RGB", (2, 2), (16 * place, 3 * number, 0)).save(root / category / file)
    return root


def test_the_published_cue_conflict_layout_is_checked_and_recorded(inspected: InspectionProject) -> None:
    job = given(inspected, "shape_texture", name="cue_conflict", root=str(published_layout(Path("given"))))
    prepare_inspected(job)
    found = record(job)
    assert (found["images"], found["title"]) == (1280, "published cue-conflict set")
    assert found["detail"]["shape_instances"] == 160 and found["detail"]["without_conflict"] == 0
    verify_inspected(job, opened(job))
    # A pixel more or less is another set, though its files have the same names.
    Image.new("RGB", (2, 2), (255, 255, 255)).save("given/bear/bear1-bicycle2.png")
    prepare_inspected(job)
    assert record(job)["digest"] != found["digest"]


def test_a_given_texture_set_is_compared_with_its_manifest(inspected: InspectionProject) -> None:
    root = Path(inspected.job("texture_knn").data.root)
    classes = sorted(path.name for path in (root / "images").iterdir())
    text = json.dumps({
        "kind": "textures", "name": "patterns", "title": "Patterns", "source": "made here", "terms": "none",
        "classes": classes, "parts": {"train": 4, "val": 4, "test": 4}, "splits": 2,
    })  # fmt: skip
    Path("patterns.yaml").write_text(text)
    job = given(inspected, "texture_knn", name="patterns", manifest="patterns.yaml")
    prepare_inspected(job)
    found = record(job)
    assert (found["title"], found["classes"], found["images"]) == ("Patterns", 4, 48)
    assert found["inputs"] != inspected.job("texture_knn").inputs()
    Path("patterns.yaml").write_text(text.replace('"val": 4', '"val": 5'))
    with pytest.raises(DataError, match=rf"(?s)patterns at made/textures: .*{classes[0]}.*texture_knn\.data\.root"):
        prepare_inspected(job)
    # DTD is known by its name alone.
    with pytest.raises(DataError, match=r"dtd at made/textures: not as"):
        prepare_inspected(given(inspected, "texture_knn", name="dtd"))
