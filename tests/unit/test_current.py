"""What is current and what is made again, and why: as a table without files, and by what files say of themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, look_again, md5_of, plan, put_metrics, put_weights

from lska.evaluate.efficiency import measure_complexity, measure_speed
from lska.models.designs import ATTENTIONS
from lska.models.runs import Run, attention_of
from lska.pipeline.checkpoints import Choices
from lska.pipeline.current import Product, pending, recorded
from lska.pipeline.products import Plan
from lska.provenance.files import read_json, write_json
from lska.provenance.metric_files import outcomes_path, project_root
from lska.provenance.strict import merge

MISSING, GONE = "never measured", "the weights are missing"

NETWORK = {
    "data/images": Product(),
    "weights/net": Product(reads=("data/images",)),
    "weights/head": Product(reads=("weights/net", "data/images"), follows=("weights/net",)),
    "metrics/net": Product(reads=("weights/net", "data/images"), follows=("weights/net",)),
    "metrics/pass": Product(reads=("weights/net", "data/images"), follows=("weights/net", "data/images")),
    "metrics/head": Product(reads=("weights/head", "data/images"), follows=("weights/head",)),
}
"""A network, a detector that starts from it, and what is measured on both."""

OF_WEIGHTS, OF_DATA = "its weights are to be made again", "its data are to be made again"

CASES: list[tuple[str, dict[str, dict], dict[str, str]]] = [
    ("all is current", {}, {}),
    ("a missing result alone", {"metrics/net": {"stale": MISSING}}, {"metrics/net": MISSING}),
    (
        "another recipe, and all that follows from it",
        {"weights/net": {"stale": "trained otherwise"}},
        {"weights/net": "trained otherwise", "weights/head": OF_WEIGHTS, "metrics/net": OF_WEIGHTS,
         "metrics/pass": OF_WEIGHTS, "metrics/head": OF_WEIGHTS},
    ),
    (
        "another head leaves its backbone alone",
        {"weights/head": {"stale": "trained otherwise"}},
        {"weights/head": "trained otherwise", "metrics/head": OF_WEIGHTS},
    ),
    ("lost weights that nothing needs", {"weights/net": {"lost": GONE, "exact": False}}, {}),
    (
        "lost weights are trained for one result, and then all of theirs are measured again",
        {"weights/net": {"lost": GONE, "exact": False}, "metrics/net": {"stale": MISSING}},
        {"metrics/net": MISSING, "weights/net": GONE, "weights/head": OF_WEIGHTS, "metrics/pass": OF_WEIGHTS,
         "metrics/head": OF_WEIGHTS},
    ),
    (
        "published weights are fetched for one result, and the others stay",
        {"weights/net": {"lost": "published"}, "metrics/net": {"stale": MISSING}},
        {"metrics/net": MISSING, "weights/net": "published"},
    ),
    (
        "a lost backbone is fetched for a head that is trained",
        {"weights/net": {"lost": "published"}, "weights/head": {"stale": "never trained"}},
        {"weights/head": "never trained", "weights/net": "published", "metrics/head": OF_WEIGHTS},
    ),
    (
        "a lost backbone stays away from a head that is only measured",
        {"weights/net": {"lost": "published"}, "metrics/head": {"stale": MISSING}},
        {"metrics/head": MISSING},
    ),
    ("lost images that nothing reads", {"data/images": {"lost": "gone"}}, {}),
    (
        "lost images are made again for a result, which leaves the others as they are",
        {"data/images": {"lost": "gone"}, "metrics/pass": {"stale": MISSING}},
        {"metrics/pass": MISSING, "data/images": "gone"},
    ),
    (
        "other images",
        {"data/images": {"stale": "made of something else"}},
        {"data/images": "made of something else", "metrics/pass": OF_DATA},
    ),
    (
        "a chain of lost ones is followed to its start",
        {"data/images": {"lost": "gone"}, "weights/net": {"lost": GONE, "exact": False},
         "weights/head": {"lost": GONE, "exact": False}, "metrics/head": {"stale": MISSING}},
        {"metrics/head": MISSING, "weights/head": GONE, "data/images": "gone", "weights/net": GONE,
         "metrics/net": OF_WEIGHTS, "metrics/pass": OF_WEIGHTS},
    ),
    (
        "its own reason goes before that of what it is made of",
        {"weights/net": {"stale": "trained otherwise"}, "weights/head": {"stale": "never trained"},
         "metrics/net": {"stale": MISSING}, "metrics/pass": {"stale": MISSING}, "metrics/head": {"stale": MISSING}},
        {"weights/net": "trained otherwise", "weights/head": "never trained", "metrics/net": MISSING,
         "metrics/pass": MISSING, "metrics/head": MISSING},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_made_again_and_why(changes: dict[str, dict], expected: dict[str, str]) -> None:
    products = {name: Product(**(vars(one) | changes.get(name, {}))) for name, one in NETWORK.items()}
    assert pending(products) == expected
    assert pending(dict(reversed(products.items()))).keys() == expected.keys()


def test_a_long_chain_is_followed_whatever_its_order() -> None:
    """What is made anyway may turn out late to become another, and then what follows it has to be made too."""
    chain = {
        "metrics/other": Product(reads=("data/chosen",), follows=("data/chosen",)),
        "data/chosen": Product(lost="gone", reads=("weights/head",), follows=("weights/head",)),
        "weights/head": Product(lost="published", reads=("weights/net",), follows=("weights/net",)),
        "weights/net": Product(lost=GONE, exact=False),
        "metrics/one": Product(stale=MISSING, reads=("data/chosen",), follows=("data/chosen",)),
    }
    assert pending(chain).keys() == pending(dict(reversed(chain.items()))).keys() == chain.keys()


# --- What files say ---------------------------------------------------------------------------------------------------

RUN = Run("van_tiny", "lska", 23, 0)
TASK = "detection/retinanet"


def found(made: Plan, name: str) -> tuple[str | None, str | None]:
    """Why a product is stale, and what of it is lost, by the files that are there now."""
    one = recorded(made.config, Choices(made.config))[name]
    return one.stale, one.lost


def reasons(made: Plan, *names: str) -> list[str | None]:
    """Why products are to be made, by the files that are there now."""
    look_again(made)
    return [made.decided.pending.get(name) for name in names]


def scored(made: Plan, task: str, run: Run, md5: str, **detail: Any) -> Path:
    """Leave a metric file of weights."""
    path = made.config.metric_path(task, run)
    put_metrics(path, {"weights": {"md5": md5}, **detail})
    return path


def test_fine_tuned_weights_and_their_backbone(made: Plan) -> None:
    job = made.job(TASK, str(RUN))
    name = f"weights/{job.place}"

    def put(**changes: Any) -> str | None:
        leave(job.weights, "tuned", **{"recipe": job.digest(), "backbone": {"md5": md5_of("a")}} | changes)
        return reasons(made, name)[0]

    put_weights(made, RUN, "a")
    assert put() is None
    assert made.inputs(name) == [made.config.record_of(job.data), job.backbone, job.backbone.with_suffix(".json")]
    put_weights(made, RUN, "b")
    assert put() == "its backbone has changed"
    leave(job.backbone, "a", recipe="sha256:of another day")
    assert put() == "its backbone is to be trained again"
    control = made.job(f"{TASK}-untrained", str(RUN))
    leave(control.weights, "control", recipe=control.digest(), backbone=None)
    assert reasons(made, f"weights/{control.place}") == [None]
    assert made.inputs(f"weights/{control.place}") == [made.config.record_of(job.data)]


CHANGES: dict[str, tuple[Callable[[Plan, Path], Any], str]] = {
    "missing": (lambda made, path: path.unlink(), "never measured"),
    "damaged": (lambda made, path: path.write_text("{"), "its metric file is damaged"),
    "other weights": (lambda made, path: put_weights(made, RUN, "b"), "measured on other weights"),
    "no sidecar": (
        lambda made, path: made.config.weights_path(RUN).with_suffix(".json").unlink(), "measured on other weights"
    ),
    "another recipe": (
        lambda made, path: leave(made.config.weights_path(RUN), "a", recipe="other"), "its weights are to be made again"
    ),
    "no outcomes": (lambda made, path: outcomes_path(path).unlink(), "the outcomes beside its metric file are missing"),
    "other outcomes": (lambda made, path: outcomes_path(path).write_bytes(b"x"), "the outcomes beside its metric file"),
    "other data": (
        lambda made, path: write_json(made.config.images.record, {"digest": "sha256:of another set"}),
        "measured on other data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_measurement(made: Plan, change: str) -> None:
    act, reason = CHANGES[change]
    put_weights(made, RUN, "a")
    write_json(made.config.images.record, {"digest": "sha256:as checked"})
    path = scored(made, "classification", RUN, md5_of("a"), data={"digest": "sha256:as checked"})
    assert reasons(made, f"metrics/classification/{RUN}") == [None]
    act(made, path)
    assert reasons(made, f"metrics/classification/{RUN}")[0].startswith(reason)


def test_a_pass_by_other_settings_is_measured_again(made: Plan) -> None:
    put_weights(made, RUN)
    put_measured(made, "texture_knn")
    name, path = f"metrics/texture_knn/{RUN}", made.config.metric_path("texture_knn", RUN)
    assert found(made, name) == (None, None)
    put_metrics(path, {**read_json(path), "detail": {"protocol": "sha256:of another day"}})
    assert found(made, name)[0] == "measured with other settings than today's"


def test_images_that_only_a_record_is_left_of(made: Plan) -> None:
    item = made.item("texture_knn")
    name = f"data/{item.data.name}"
    assert found(made, name) == ("not generated yet", None)
    write_json(item.record, {"inputs": item.inputs()})
    assert found(made, name) == (None, "its generated images are missing")
    Path(item.data.root).mkdir(parents=True)
    (Path(item.data.root) / "image.jpg").touch()
    assert found(made, name) == (None, None)
    write_json(item.record, {"inputs": "sha256:of another day"})
    assert found(made, name) == ("what the set is made from has changed", None)
    item.record.write_text("{")
    assert found(made, name) == ("its record is damaged", None)


def test_corruptions_are_made_again_of_clean_images_that_are_made_again(made: Plan) -> None:
    config, item = made.config, made.item("c")
    sets = f"data/{item.data.name}", f"data/{config.data.name}"
    write_json(item.record, {"inputs": item.inputs()})
    write_json(config.images.record, {"digest": "sha256:clean"})
    gone = "its generated images are missing"
    assert made.passes and reasons(made, *sets) == [gone, gone]
    image = Path(config.data.root) / "val/cat/1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    assert reasons(made, *sets) == [gone, None]
    # Those of another kind are drawn, not made of the clean images.
    shutil.rmtree(config.data.root)
    assert made.inputs(f"data/{made.item('r').data.name}") == []


def test_a_clone_of_results_without_their_weights_has_nothing_to_train(made: Plan) -> None:
    config, name = made.config, f"weights/{RUN}"
    put_weights(made, RUN)
    for task in ("classification", *(item.task for item in config.measured if RUN in config.runs_of(item.task))):
        put_measured(made, task)
    for job in config.fine_tunings:
        if job.run == RUN and job.backbone is not None:
            leave(job.weights, "tuned", recipe=job.digest(), backbone={"md5": md5_of(str(RUN))})
    config.weights_path(RUN).unlink()
    assert reasons(made, name) == [None]
    tuned = made.job(TASK, str(RUN))
    scored(made, TASK, RUN, md5_of("tuned"))
    tuned.weights.unlink()
    assert reasons(made, name, f"weights/{tuned.place}") == [None, None]
    # What is trained once more may come out otherwise: then all that it was made for is made again.
    tuned.metrics.unlink()
    missing = "the sidecar is there, its weights are missing"
    assert reasons(made, name, f"weights/{tuned.place}") == [missing, missing]
    assert reasons(made, f"metrics/classification/{RUN}") == ["its weights are to be made again"]
    tuned.weights.write_text("tuned")
    assert reasons(made, name, f"weights/{tuned.place}") == [None, None]


def put_measured(made: Plan, task: str) -> None:
    """Leave a measurement of today's weights, images and settings, with their record."""
    item = next((item for item in made.config.measured if item.task == task), None)
    content: dict[str, Any] = {"weights": {"md5": md5_of(str(RUN))}, "data": {"digest": "as checked"}}
    if item is not None:
        content["detail"] = {"protocol": item.protocol()}
        chooser = {} if item.reference is None else {"reference": {"md5": md5_of("reference")}}
        if item.reference is not None:
            put_weights(made, item.reference.run, "reference")
        write_json(item.record, {"digest": "as checked", "inputs": item.inputs(), **chooser})
        for path in item.outputs(RUN):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"made up")
    put_metrics(made.config.metric_path(task, RUN), content)


def test_jobs_keep_to_what_was_decided_whatever_files_are_there_by_then(made: Plan) -> None:
    names = f"weights/{RUN}", f"metrics/classification/{RUN}"
    decided = made.decided
    made.keep()
    put_weights(made, RUN)
    scored(made, "classification", RUN, md5_of(str(RUN)))
    assert reasons(made, *names) == [None, None]
    made.follow()
    assert made.decided == decided and [decided.pending[name] for name in names] == ["never trained", "never measured"]
    assert made.weights("train", "") != ""
    made.decisions.unlink()
    look_again(made)
    made.follow()
    assert made.decided.pending.get(names[0]) is None


def test_throughputs_are_measured_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what their files say, which a clone has; the record that Snakemake keeps of its jobs it has not."""
    quick = {"speed": {"batch_size": 1, "warmup": 0, "repeats": 1, "seconds": 0}}
    changes = (
        {"architecture": {"van_tiny": {"depths": [1, 2, 1, 1]}}},
        {"speed": {"batch_size": 8}},
        {"training": {"overrides": {"image_size": 64}}},
    )
    monkeypatch.chdir(project_root())
    made, *others = (plan("demo", merge(quick, change)) for change in ({}, *changes))
    monkeypatch.chdir(tmp_path)
    measure_speed(made.config.measurement("speed"), [made.config.classifier(RUN)])
    name = f"metrics/speed/{RUN}"
    assert [*reasons(made, name), made.superseded("speed", made.names("speed"))] == [None, []]
    for other in others:
        assert reasons(other, name) == ["measured with other settings than today's"]
        assert other.superseded("speed", other.names("speed")) == [name]


# --- Versions of attentions -------------------------------------------------------------------------------------------


def raise_version(monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    monkeypatch.setitem(ATTENTIONS, attention, replace(ATTENTIONS[attention], version=2))


def test_a_raised_version_outdates_all_that_was_made_with_an_attention_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the committed scale, and so on files as they are in a clone."""
    monkeypatch.chdir(project_root())
    before = plan("small")
    assert list(before.counted("complexity")) == [""]
    made = {name for name in before.products if name.startswith(("weights/", "metrics/"))}
    made |= {f"metrics/{task}/{name}" for task in ("complexity", "complexity/retinanet", "speed", "properties")
             for name in before.names(task)}  # fmt: skip
    raise_version(monkeypatch, "lka")
    after = plan("small")
    outdated = {name for name in made if name in after.decided.pending} - before.decided.pending.keys()
    assert outdated == {name for name in made if attention_of(name.rpartition("/")[2]) == "lka"}
    reasons = {after.decided.pending[name] for name in outdated if name.startswith("weights/v")}
    assert reasons == {"trained otherwise: attention_version None -> 2"}
    assert after.decided.pending["metrics/complexity/van_tiny-lka-k23-s0"] == (
        "measured with version 1 of lka, which is at version 2"
    )
    assert list(after.counted("complexity")) == ["", "_lka"]


def test_what_is_measured_keeps_the_version_and_is_current_then(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Run("van_tiny", "lka", 7, 0), Run("van_tiny", "lska", 7, 0)
    names = [f"metrics/complexity/{run}" for run in runs]
    measure_complexity(made.config.measurement("complexity"), runs)
    raise_version(monkeypatch, "lka")
    assert reasons(made, *names) == ["measured with version 1 of lka, which is at version 2", None]
    measure_complexity(made.config.measurement("complexity"), runs)
    assert reasons(made, *names) == [None, None]
    kept = [read_json(made.config.metric_path("complexity", run))["detail"].get("attention_version") for run in runs]
    assert kept == [2, None]
    monkeypatch.setitem(ATTENTIONS, "lka", replace(ATTENTIONS["lka"], version=1))
    assert reasons(made, *names) == ["measured with version 2 of lka, which is at version 1", None]


def test_imported_weights_are_measured_again_with_another_version(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sidecar knows no training, and stays what it is."""
    leave(made.config.weights_path(RUN), "a", origin="imported")
    name, path = f"metrics/classification/{RUN}", made.config.metric_path("classification", RUN)
    content, detail = {"weights": {"md5": md5_of("a")}}, {"preprocessing": {}}
    put_metrics(path, content | {"detail": detail})
    assert reasons(made, name) == [None]
    raise_version(monkeypatch, "lska")
    assert reasons(made, name, f"weights/{RUN}") == ["measured with version 1 of lska, which is at version 2", None]
    put_metrics(path, content | {"detail": detail | {"attention_version": 2}})
    assert reasons(made, name) == [None]
