"""Which perturbed sets and inspections are measured again, in which passes, after which change; without Snakemake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import md5_of, pending, put_metrics, put_weights

from lska.models.runs import Run
from lska.pipeline.products import COUNTED, Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge
from lska.settings.tasks import INSPECTIONS, SETS, Measured

ONE = Run("van_tiny", "lska", 23, 0)
ALL = (*SETS, *INSPECTIONS)
Planner = Callable[..., Plan]
# Passes at first: one for every group of tables that show the same networks.
PASSES = {"c": 5, "c_bar": 4, "a": 4, "r": 4, "sketch": 4, "shape_texture": 3, "texture_knn": 1, "receptive_field": 2}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Make a plan of the demo with changes, which then looks at an empty folder."""

    def make(**changes: Any) -> Plan:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project_root())
            values = merge(read_yaml(Path("config/demo.yaml")), changes)
            return Plan(values, [Path("config/demo.yaml")], {})

    monkeypatch.chdir(tmp_path)
    return make


def put_record(item: Measured, digest: str = "as checked") -> None:
    inputs = {"inputs": item.inputs()} if item.inputs() else {}
    reference = {"reference": {"run": str(item.reference.run), "md5": md5_of("reference")}} if item.reference else {}
    write_json(item.record, {"digest": digest, **inputs, **reference})


@pytest.fixture
def measured(plan: Planner) -> Plan:
    """The plan of a finished run, which left everything."""
    made = plan()
    for run in made.config.runs:
        put_weights(made, run)
    put_weights(made, made.config.references[0], "reference")
    for item in made.config.measured:
        put_record(item)
        for run in made.config.runs_of(item.task):
            content = {"weights": {"md5": md5_of(str(run))}, "data": {"digest": "as checked"}}
            put_metrics(item.metrics(run), content | {"detail": {"protocol": item.protocol()}})
            for path in item.outputs(run)[2:]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"maps")
    return made


def everything(made: Plan, *names: str) -> dict[str, list[str]]:
    """All runs of some items, or of all."""
    items = [item for item in made.config.measured if item.name in (names or ALL)]
    return {item.name: sorted(map(str, made.config.runs_of(item.task))) for item in items}


def test_at_first_every_run_is_in_one_pass_of_every_set_and_inspection(plan: Planner) -> None:
    made = plan()
    assert pending(made) == everything(made)
    assert [one.name for one in made.passes] == [
        f"{item.rule}_{number}" for item in made.config.measured for number in range(PASSES[item.name])
    ]
    outputs = [path for one in made.passes for path in one.outputs]
    assert len(set(outputs)) == len(outputs) == 2 * (5 * 21 + 23 + 10) + 3 * 12
    one = made.passes[0]
    weights = made.config.weights_path(one.runs[0])
    inputs = made.inputs(*(f"metrics/robustness/c/{run}" for run in one.runs))
    assert {weights, weights.with_suffix(".json"), one.item.record} <= set(inputs) and len(inputs) == 17


def test_no_table_waits_for_networks_that_it_does_not_show(plan: Planner) -> None:
    made = plan()
    written = [set(map(str, one.outputs)) for one in made.passes]
    measurements = [{file for file in files if "/fields/" not in file} for files in written]
    for target in (
        "table_06", "table_07", "table_10", "table_12", "table_13", "table_14", "table_15", "table_16", "figure_04",
        "figure_07", "figure_08", "figure_s1", "figure_s2",
    ):  # fmt: skip
        shown = {*made.metrics(target), *made.outcomes(target)}
        assert any(files <= shown for files in measurements), target
        assert all(files <= shown or not files & shown for files in measurements), target
    kernels = (7, 11, 23, 35, 53, 65)
    assert made.fields("figure_04") == [f"results/demo/fields/van_tiny-lska-k{kernel}-s0.npz" for kernel in kernels]
    assert set(made.fields("figure_08")) <= set.union(*written) and len(made.fields("figure_08")) == 12
    # The table's numbers are in the metric files.
    assert made.fields("table_07") == made.fields("figure_05") == made.fields("figure_07") == []


def test_whatever_claims_read_is_made_and_speed_once_for_all_seeds(plan: Planner) -> None:
    """What claims ask for without a rule that makes it would leave them as they were for ever."""
    others = {"model": "van_tiny", "attention": ["lka", "lska"], "kernel": [7, 65], "seed": [2, 1]}
    made = plan(runs=[*read_yaml(project_root() / "config/demo.yaml")["runs"], others])
    assert made.names("speed") == plan().names("speed")
    Path("paper").symlink_to(project_root() / "paper")
    asked = {file for file in made.claimed if file.endswith(".json")}
    assert {f"results/demo/metrics/classification/van_tiny-lka-k7-s{seed}.json" for seed in range(3)} <= asked
    assert asked <= {*made.makers, *(file for task in COUNTED for file in made.files(task))}


NEUTRAL: dict[str, Any] = {
    "caption": "another", "data": {"root": "elsewhere"}, "speed": {"batch_size": 8},
    "robustness": {
        "passes": 3, "shard": 10, "hours": 1, "attempts": 2, "evaluation": {"batch_size": 1, "threads": 2},
        "sets": {"c": {"root": "another place"}},
    },
    **{name: {"passes": 3, "attempts": 2, "evaluation": {"batch_size": 1}} for name in INSPECTIONS},
}  # fmt: skip
# What else decides is in test_identities.
CHANGES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"stored_images": "enlarged"}, ("c", "c_bar")),
    ({"robustness": {"sets": {"r": {"generate": {"seed": 1}}}}}, ("r",)),
    ({"architecture": {"resnet18": {"layers": [1, 1, 1, 2]}}}, ("a",)),
    ({"texture_knn": {"query": "test"}}, ("texture_knn",)),
    ({"training": {"overrides": {"learning_rate": 0.0011}}}, ALL),
]


def test_what_decides_the_result_measures_it_again_and_nothing_else_does(plan: Planner, measured: Plan) -> None:
    assert plan(**NEUTRAL).passes == []
    for changes, names in CHANGES:
        made = plan(**changes)
        assert pending(made) == everything(made, *names), changes
    found = pending(plan(architecture={"van_small": {"depths": [1, 2, 1, 1]}}))
    assert all(found[name] == ["van_small-lka-k23-s0", "van_small-lska-k23-s0"] for name in SETS)
    for name in ("c", "a", "shape_texture"):
        item = next(item for item in measured.config.measured if item.name == name)
        put_record(item, "of other files")
        assert pending(plan()) == everything(measured, name)
        item.record.unlink()
        assert pending(plan()) == everything(measured, name)
        put_record(item)
    put_weights(measured, measured.config.references[0], "retrained")
    assert pending(plan()) == everything(measured, "a")


def test_other_weights_a_new_run_and_a_deleted_file_are_measured_alone(plan: Planner, measured: Plan) -> None:
    names = [f"metrics/robustness/c/{ONE}", f"metrics/receptive_field/{ONE}"]
    assert [len(measured.existing(name)) for name in names] == [2, 3]
    maps = measured.config.inspection("receptive_field").field(ONE)
    maps.unlink()
    changed = plan()
    assert pending(changed) == {"receptive_field": [str(ONE)]} and len(changed.existing(names[1])) == 2
    maps.touch()
    new = {"model": "van_tiny", "attention": "lska", "kernel": 17, "seed": 0}
    demo = read_yaml(project_root() / "config" / "demo.yaml")
    made = plan(runs=[*demo["runs"], new], robustness={"runs": [*demo["robustness"]["runs"], new]})
    assert pending(made) == {name: ["van_tiny-lska-k17-s0"] for name in SETS}
    put_weights(measured, ONE, "retrained")
    assert pending(plan()) == {name: [str(ONE)] for name in ALL}


def places(made: Plan) -> dict[tuple[str, str], str]:
    """The pass of every pending run."""
    return {(one.item.name, str(run)): one.name for one in made.passes for run in one.runs}


def test_a_run_stays_in_its_pass_when_others_are_measured(plan: Planner, measured: Plan) -> None:
    twice = {"robustness": {"passes": 2}}
    names = [item.metrics(run) for item in measured.config.perturbed for run in measured.config.runs_of(item.task)]
    kept = {path: path.read_bytes() for path in names}
    for path in names:
        path.unlink()
    before = places(plan(**twice))
    assert len(before) == 5 * 21 and len(set(before.values())) == 2 * sum(PASSES[name] for name in SETS)
    # One run of each of three passes.
    runs = list({one: run for (name, run), one in before.items() if name == "c"}.values())[:3]
    for path, content in kept.items():
        if path.parent.name != "c" or path.stem not in runs:
            path.write_bytes(content)
    after = places(plan(**twice))
    assert after == {("c", run): before["c", run] for run in runs} and len(set(after.values())) == 3
    assert [len(one.runs) for one in plan(robustness={"passes": 12}).passes] == [1] * 3, "none is empty"


def test_sets_are_made_of_what_they_name_and_again_when_that_changes(plan: Planner, measured: Plan) -> None:
    weights = measured.config.weights_path(measured.config.references[0])
    expected = {name: [measured.config.images.record] for name in ("c", "c_bar")} | {"r": [], "sketch": []}
    expected["a"] = [weights, weights.with_suffix(".json")]
    assert {name: measured.inputs(f"data/shapes_{name}") for name in SETS} == expected
    assert [measured.inputs(f"data/{name}") for name in ("shapes", "shapes_cue_conflict", "textures")] == [[]] * 3
    of = {"shapes_a": "a", "scenes": "detection", "shapes_cue_conflict": "shape_texture", "textures": "texture_knn"}
    assert {name: measured.kind_of(name) for name in of} == of
    for name, change, made in (
        ("shapes_c", {"robustness": {"sets": {"c": {"generate": {"images": 33}}}}}, True),
        ("shapes_c", {"robustness": {"sets": {"c": {"root": "elsewhere"}}}}, False),
        ("shapes_a", {"robustness": {"sets": {"a": {"generate": {"candidates": 33}}}}}, True),
        ("textures", {"texture_knn": {"passes": 2, "data": {"generate": {"crops": 3}}}}, True),
    ):
        reasons = plan(**change).decided.pending
        found = [one for one, why in reasons.items() if why == "what the set is made from has changed"]
        assert found == [f"data/{name}"] * made, change


def test_pictures_of_sets_belong_to_the_tables_that_show_them(plan: Planner) -> None:
    made = plan()
    strips = {name: f"results/demo/samples/robustness/{name}/examples.png" for name in SETS}
    assert made.examples("table_10") == list(strips.values())
    assert made.examples("figure_s1") == made.examples("table_14") == [strips["c"]]
    assert made.examples("table_03") == made.examples("table_04") == []


def test_a_clone_has_metric_files_without_images_which_is_no_reason_to_make_them(
    plan: Planner, measured: Plan
) -> None:
    assert plan().examples("table_10") == []
    strips = measured.config.perturbed_set("r").strips
    strips.parent.mkdir(parents=True)
    strips.touch()
    assert plan().examples("table_10") == [str(strips)]
