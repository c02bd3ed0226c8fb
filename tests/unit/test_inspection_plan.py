"""Which networks are looked into again, in which passes, after which change; without Snakemake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import md5_of, pending, put_metrics, put_weights

from lska.models.runs import Run
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge
from lska.settings.tasks import INSPECTIONS, OWN_DATA, InspectionJob

ONE = Run("van_tiny", "lska", 23, 0)
Planner = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Make a plan of the demo without perturbed sets, with changes, which then looks at an empty folder."""

    def make(**changes: Any) -> Plan:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project_root())
            values = merge(read_yaml(Path("config/demo.yaml")), changes)
            del values["robustness"], values["architecture"]["resnet18"]
            return Plan(values, [Path("config/demo.yaml")], {})

    monkeypatch.chdir(tmp_path)
    return make


def put_record(job: InspectionJob, digest: str = "as checked") -> None:
    write_json(job.record, {"digest": digest, **({"inputs": job.inputs()} if job.inputs() else {})})


def measure(made: Plan) -> None:
    """Leave everything as after a finished run."""
    for run in made.config.runs:
        put_weights(made, run)
    for job in made.config.measured:
        put_record(job)
        for run in made.config.runs_of(job.task):
            content = {"weights": {"md5": md5_of(str(run))}, "data": {"digest": "as checked"}}
            put_metrics(job.metrics(run), content | {"detail": {"protocol": job.protocol()}})
            for path in job.outputs(run)[2:]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"maps")


def everything(made: Plan, *tasks: str) -> dict[str, list[str]]:
    return {task: sorted(map(str, made.config.runs_of(task))) for task in tasks}


def test_at_first_every_run_is_in_one_pass_of_every_task(plan: Planner) -> None:
    made = plan()
    assert pending(made) == everything(made, *INSPECTIONS)
    assert [one.name for one in made.passes] == [
        "shape_texture_0", "shape_texture_1", "shape_texture_2", "texture_knn_0", "receptive_field_0",
        "receptive_field_1",
    ]  # fmt: skip
    files = [str(path) for one in made.passes for path in one.outputs]
    assert len(set(files)) == len(files) == 2 * (23 + 10) + 3 * 12
    assert {file for file in files if "/metrics/" in file} == {f for f in made.accuracies() if f in files}


def test_no_table_waits_for_networks_that_it_does_not_show(plan: Planner) -> None:
    made = plan()
    written = [{str(path) for path in one.outputs} for one in made.passes]
    metrics = [{path for path in files if "/metrics/" in path} for files in written]
    for target in ("table_07", "table_12", "table_13", "table_15", "figure_04", "figure_07", "figure_08"):
        shown = {file for file in (*made.metrics(target), *made.outcomes(target)) if "/complexity/" not in file}
        assert set.union(*(files for files in metrics if files <= shown)) == shown
        assert all(files <= shown or not files & shown for files in metrics)
    kernels = (7, 11, 23, 35, 53, 65)
    assert made.fields("figure_04") == [f"results/demo/fields/van_tiny-lska-k{kernel}-s0.npz" for kernel in kernels]
    assert set(made.fields("figure_08")) <= set.union(*written) and len(made.fields("figure_08")) == 12
    # The table's numbers are in the metric files.
    assert made.fields("table_07") == made.fields("figure_05") == made.fields("figure_07") == []


def test_a_file_that_was_deleted_is_made_again_alone(plan: Planner) -> None:
    made = plan()
    for place in ("metrics/receptive_field/{}.json", "metrics/receptive_field/{}.npz", "fields/{}.npz"):
        measure(made)
        (made.config.results / place.format(ONE)).unlink()
        changed = plan()
        assert pending(changed) == {"receptive_field": [str(ONE)]}
        (one,) = changed.passes
        assert len(one.outputs) == 3 and len(changed.existing(f"metrics/receptive_field/{ONE}")) == 2


NEUTRAL: dict[str, Any] = {
    "caption": "another",
    "data": {"root": "elsewhere"},
    "speed": {"batch_size": 8},
    **{task: {"passes": 3, "attempts": 2, "evaluation": {"batch_size": 1, "threads": 2}} for task in INSPECTIONS},
}
CHANGES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"shape_texture": {"stage": 3}}, ("shape_texture",)),
    ({"texture_knn": {"query": "test"}}, ("texture_knn",)),
    ({"receptive_field": {"size": 64, "normalization": "imagenet"}}, ("receptive_field",)),
    ({"texture_knn": {"data": {"generate": {"crops": 3}}}}, ("texture_knn",)),
    ({"training": {"overrides": {"learning_rate": 0.0011}}}, INSPECTIONS),
]


def test_what_decides_the_result_measures_it_again_and_nothing_else_does(plan: Planner) -> None:
    made = plan()
    measure(made)
    assert plan(**merge(NEUTRAL, {task: {"data": {"root": f"elsewhere/{task}"}} for task in OWN_DATA})).passes == []
    for changes, tasks in CHANGES:
        changed = plan(**changes)
        assert pending(changed) == everything(changed, *tasks), changes
    put_record(made.config.inspection("texture_knn"), "of other files")
    made.config.inspection("shape_texture").record.unlink()
    assert pending(plan()) == everything(made, "shape_texture", "texture_knn")


def test_other_weights_are_measured_alone_for_every_task(plan: Planner) -> None:
    made = plan()
    measure(made)
    put_weights(made, ONE, "retrained")
    assert pending(plan()) == {task: [str(ONE)] for task in INSPECTIONS}


def test_sets_are_made_of_nothing_and_again_after_a_change_of_what_they_are(plan: Planner) -> None:
    measure(plan())
    for task, name, change in (("shape_texture", "shapes_cue_conflict", "seed"), ("texture_knn", "textures", "crops")):
        made = plan(**{task: {"passes": 2, "data": {"generate": {change: 3}}}}, data={"generate": {"seed": 3}})
        assert made.inputs(f"data/{name}") == [] and made.data_set(name)[0] == task
        pending = made.decided.pending
        assert [one for one in pending if "what the set is made of" in pending[one]] == [f"data/{name}"]
