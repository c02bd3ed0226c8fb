"""Which perturbed sets are measured again, in which passes, after which change; without Snakemake."""

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


def test_no_table_waits_for_networks_that_it_does_not_show(plan: Planner) -> None:
    made = plan()
    outputs = [set(map(str, one.outputs)) for one in made.passes]
    for target in ("table_06", "table_10", "table_14", "table_16", "figure_s1", "figure_s2"):
        shown = {*made.metrics(target), *made.outcomes(target)}
        assert any(files <= shown for files in outputs), target
        assert all(files <= shown or not files & shown for files in outputs), target


def test_what_was_measured_is_in_no_pass(plan: Planner) -> None:
    measure(plan())
    assert plan().passes == []


NEUTRAL: dict[str, Any] = {
    "caption": "another",
    "robustness": {
        "passes": 3, "shard": 10, "hours": 1, "attempts": 2, "evaluation": {"batch_size": 1, "threads": 2},
        "sets": {"c": {"root": "another place"}},
    },
    "data": {"root": "elsewhere"},
}  # fmt: skip


def test_means_and_places_measure_nothing_again(plan: Planner) -> None:
    measure(plan())
    assert plan(**NEUTRAL).passes == []


def test_other_weights_are_measured_alone_on_every_set(plan: Planner) -> None:
    made = plan()
    measure(made)
    put_weights(made, ONE, "retrained")
    assert pending(plan()) == {name: [str(ONE)] for name in SETS}


@pytest.mark.parametrize("name", ["c", "a"])
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


def test_what_decides_the_result_measures_it_again(plan: Planner) -> None:
    measure(plan())
    for changes, names in CHANGES:
        made = plan(**changes)
        assert pending(made) == everything(made, *names), changes


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
