"""Which perturbed sets are measured again, in which passes, after which change; without Snakemake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import md5_of, pending, put_metrics, put_weights

from lska.models.runs import Run
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import project_root
from lska.provenance.outcomes import outcomes_path
from lska.provenance.strict import merge
from lska.settings.tasks import INSPECTIONS, SETS, PerturbedSet

ONE = Run("van_tiny", "lska", 23, 0)
Planner = Callable[..., Plan]
# Passes of each set at first: one for every group of tables that show the same networks.
PASSES = {"c": 5, "c_bar": 4, "a": 4, "r": 4, "sketch": 4}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Make a plan of the demo's perturbed sets with changes, which then looks at an empty folder."""

    def make(**changes: Any) -> Plan:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project_root())
            demo = read_yaml(Path("config/demo.yaml"))
            values = {name: section for name, section in merge(demo, changes).items() if name not in INSPECTIONS}
            return Plan(values, [Path("config/demo.yaml")], {})

    monkeypatch.chdir(tmp_path)
    return make


def put_record(item: PerturbedSet, digest: str = "as checked") -> None:
    chosen = item.reference
    reference = {} if chosen is None else {"reference": {"run": str(chosen.run), "md5": md5_of("reference")}}
    write_json(item.record, {"digest": digest, "inputs": item.inputs(), **reference})


def measure(made: Plan) -> None:
    """Leave everything as after a finished run."""
    for run in made.config.runs:
        put_weights(made, run)
    put_weights(made, made.config.references[0], "reference")
    for item in made.config.perturbed:
        put_record(item)
        for run in made.config.runs_of(item.task):
            content = {"weights": {"md5": md5_of(str(run))}, "data": {"digest": "as checked"}}
            put_metrics(item.metrics(run), content | {"detail": {"protocol": item.protocol()}})


def everything(made: Plan, *names: str) -> dict[str, list[str]]:
    return {name: sorted(map(str, made.config.runs_of(f"robustness/{name}"))) for name in names or SETS}


def test_at_first_every_run_is_in_one_pass_of_every_set(plan: Planner) -> None:
    made = plan()
    assert pending(made) == everything(made)
    assert [one.name for one in made.passes] == [
        f"robustness_{name}_{number}" for name in SETS for number in range(PASSES[name])
    ]
    one = made.passes[0]
    assert len(one.outputs) == 2 * 8 and one.outputs[0].parent == Path("results/demo/metrics/robustness/c")
    weights = made.config.weights_path(one.runs[0])
    inputs = made.inputs(*(f"metrics/robustness/c/{run}" for run in one.runs))
    assert {weights, weights.with_suffix(".json"), one.item.record} <= set(inputs) and len(inputs) == 17


@pytest.mark.parametrize("target", ["table_06", "table_10", "table_14", "table_16", "figure_s1", "figure_s2"])
def test_no_table_waits_for_networks_that_it_does_not_show(plan: Planner, target: str) -> None:
    made = plan()
    shown = {*made.metrics(target), *made.outcomes(target)}
    outputs = [set(map(str, one.outputs)) for one in made.passes]
    assert any(files <= shown for files in outputs)
    assert all(files <= shown or not files & shown for files in outputs)


def test_what_was_measured_is_in_no_pass(plan: Planner) -> None:
    measure(plan())
    assert plan().passes == []


NEUTRAL: list[dict[str, Any]] = [
    {"caption": "another"},
    {"robustness": {"passes": 3, "shard": 10, "hours": 1, "attempts": 2}},
    {"robustness": {"evaluation": {"batch_size": 1, "threads": 2}}},
    {"robustness": {"sets": {"c": {"root": "elsewhere"}}}},
    {"data": {"root": "elsewhere"}},
]


@pytest.mark.parametrize("changes", NEUTRAL, ids=str)
def test_means_and_places_measure_nothing_again(plan: Planner, changes: dict[str, Any]) -> None:
    measure(plan())
    assert plan(**changes).passes == []


def other_weights(made: Plan) -> None:
    put_weights(made, ONE, "retrained")


def no_weights(made: Plan) -> None:
    made.config.weights_path(ONE).unlink()


def no_sidecar(made: Plan) -> None:
    made.config.weights_path(ONE).with_suffix(".json").unlink()


def another_recipe(made: Plan) -> None:
    sidecar = made.config.weights_path(ONE).with_suffix(".json")
    write_json(sidecar, json.loads(sidecar.read_text()) | {"recipe": "of another day"})


@pytest.mark.parametrize("change", [other_weights, no_weights, no_sidecar, another_recipe])
def test_other_weights_are_measured_alone_on_every_set(plan: Planner, change: Callable[[Plan], None]) -> None:
    made = plan()
    measure(made)
    change(made)
    assert pending(plan()) == {name: [str(ONE)] for name in SETS}


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_metric_file_that_is_missing_or_damaged_is_made_again(plan: Planner, content: str | None) -> None:
    made = plan()
    measure(made)
    path = made.config.perturbed_set("r").metrics(ONE)
    path.unlink() if content is None else path.write_text(content)
    assert pending(plan()) == {"r": [str(ONE)]}


def no_outcomes(path: Path) -> None:
    outcomes_path(path).unlink()


def other_outcomes(path: Path) -> None:
    outcomes_path(path).write_bytes(b"of another measurement")


def not_named(path: Path) -> None:
    """As metric files were before outcomes were kept."""
    content = json.loads(path.read_text())
    del content["outcomes"]
    write_json(path, content)


@pytest.mark.parametrize("change", [no_outcomes, other_outcomes, not_named])
def test_a_metric_file_without_its_outcomes_is_made_again(plan: Planner, change: Callable[[Path], None]) -> None:
    made = plan()
    measure(made)
    change(made.config.perturbed_set("c").metrics(ONE))
    assert pending(plan()) == {"c": [str(ONE)]}


@pytest.mark.parametrize("name", SETS)
def test_another_record_measures_its_set(plan: Planner, name: str) -> None:
    made = plan()
    measure(made)
    put_record(made.config.perturbed_set(name), "of other files")
    assert pending(plan()) == everything(made, name)
    made.config.perturbed_set(name).record.unlink()
    assert pending(plan()) == everything(made, name)


CHANGES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"stored_images": "enlarged"}, ("c", "c_bar")),
    ({"robustness": {"sets": {"r": {"generate": {"seed": 1}}}}}, ("r",)),
    ({"robustness": {"sets": {"c": {"generate": {"images": 49}}}}}, ("c",)),
    ({"robustness": {"sets": {"a": {"generate": {"reference": "resnet18-s1"}}}}}, ("a",)),
    ({"architecture": {"resnet18": {"layers": [1, 1, 1, 2]}}}, ("a",)),
    ({"training": {"overrides": {"learning_rate": 0.0011}}}, SETS),
    ({"data": {"generate": {"seed": 1}}}, SETS),
]


@pytest.mark.parametrize(("changes", "names"), CHANGES, ids=str)
def test_what_decides_the_result_measures_it_again(
    plan: Planner, changes: dict[str, Any], names: tuple[str, ...]
) -> None:
    measure(plan())
    made = plan(**changes)
    assert pending(made) == everything(made, *names)


def test_another_architecture_measures_its_networks_only(plan: Planner) -> None:
    measure(plan())
    found = pending(plan(architecture={"van_small": {"depths": [1, 2, 1, 1]}}))
    assert found == {name: ["van_small-lka-k23-s0", "van_small-lska-k23-s0"] for name in SETS}


def test_another_reference_md5_measures_its_set(plan: Planner) -> None:
    made = plan()
    measure(made)
    put_weights(made, made.config.references[0], "retrained")
    assert pending(plan()) == everything(made, "a")


def test_a_run_that_is_added_is_measured_alone(plan: Planner) -> None:
    measure(plan())
    new = {"model": "van_tiny", "attention": "lska", "kernel": 17, "seed": 0}
    groups = read_yaml(project_root() / "config" / "demo.yaml")
    made = plan(runs=[*groups["runs"], new], robustness={"runs": [*groups["robustness"]["runs"], new]})
    assert pending(made) == {name: ["van_tiny-lska-k17-s0"] for name in SETS}
    assert [one.name for one in made.passes] == [f"robustness_{name}_0" for name in SETS]


def places(made: Plan) -> dict[tuple[str, str], str]:
    """The pass of every pending run."""
    return {(one.item.name, str(run)): one.name for one in made.passes for run in one.runs}


def test_a_run_stays_in_its_pass_when_others_are_measured(plan: Planner) -> None:
    twice = {"robustness": {"passes": 2}}
    before = places(plan(**twice))
    assert len(before) == 5 * 21 and len(set(before.values())) == 2 * sum(PASSES.values())
    made = plan(**twice)
    measure(made)
    # One run of each of three passes.
    runs = [Run.parse(run) for run in {one: run for (name, run), one in before.items() if name == "c"}.values()][:3]
    for run in runs:
        made.config.perturbed_set("c").metrics(run).unlink()
    after = places(plan(**twice))
    assert set(after) == {("c", str(run)) for run in runs}
    assert after == {key: before[key] for key in after}
    assert len(set(after.values())) == 3
    assert [len(one.runs) for one in plan(robustness={"passes": 12}).passes] == [1] * 3, "none is empty"


def test_files_that_are_there_are_to_be_replaced(plan: Planner) -> None:
    made = plan()
    names = [f"metrics/robustness/c/{run}" for run in made.config.runs_of("robustness/c")]
    assert made.existing(*names) == []
    measure(made)
    item = made.config.perturbed_set("c")
    assert made.existing(f"metrics/robustness/c/{ONE}") == list(map(str, item.outputs(ONE)))


def test_sets_are_made_of_clean_images_or_of_a_classifier(plan: Planner) -> None:
    made = plan()
    weights = made.config.weights_path(made.config.references[0])
    expected = {name: [made.config.images.record] for name in ("c", "c_bar")} | {"r": [], "sketch": []}
    expected["a"] = [weights, weights.with_suffix(".json")]
    assert {name: made.inputs(f"data/shapes_{name}") for name in SETS} == expected
    assert made.inputs("data/shapes") == []


def test_sets_are_made_again_after_a_change_of_what_they_are(plan: Planner) -> None:
    measure(plan())
    for name, setting in (("c", "images"), ("c_bar", "quality"), ("a", "candidates"), ("r", "per_class")):
        for change, made_anew in (({"generate": {setting: 33}}, [f"data/shapes_{name}"]), ({"root": "elsewhere"}, [])):
            found = plan(robustness={"sets": {name: change}}).decided.pending
            assert [one for one, why in found.items() if why == "what the set is made of has changed"] == made_anew
    assert plan().data_set("shapes_a")[0] == "a" and plan().data_set("scenes")[0] == "detection"


def test_corruptions_are_made_again_with_their_clean_images(plan: Planner) -> None:
    before = {item.name: item.inputs() for item in plan().config.perturbed}
    after = {item.name: item.inputs() for item in plan(data={"generate": {"seed": 3}}).config.perturbed}
    assert {name for name in SETS if before[name] != after[name]} == {"c", "c_bar", "a"}


def test_pictures_of_sets_belong_to_the_tables_that_show_them(plan: Planner) -> None:
    made = plan()
    strips = {name: f"results/demo/samples/robustness/{name}/examples.png" for name in SETS}
    assert made.examples("table_10") == list(strips.values())
    assert made.examples("figure_s1") == made.examples("table_14") == [strips["c"]]
    assert made.examples("table_03") == made.examples("table_04") == []
    measure(made)
    # A clone has the metric files without the images: no reason to make them.
    assert plan().examples("table_10") == []
    made.config.perturbed_set("r").strips.parent.mkdir(parents=True)
    made.config.perturbed_set("r").strips.touch()
    assert plan().examples("table_10") == [strips["r"]]
