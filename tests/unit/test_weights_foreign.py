"""What this program did not make is never replaced: it is used, or planning says why it cannot be."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, look_again, md5_of, put_metrics, put_weights

from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices, training_of
from lska.pipeline.products import Plan
from lska.provenance.files import write_json
from lska.provenance.metric_files import seal_of
from lska.provenance.sidecars import ForeignWeightsError, Pointer, foreign, write_pointer
from lska.settings.schema import PublishedFile
from lska.settings.tasks import TrainingJob
from lska.train.classifier import train

RUN = Run("van_tiny", "lska", 23, 0)
TUNED = f"detection/retinanet/{RUN}"
OWN = {"image_size": 48, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": [0.48, 0.45, 0.4],
       "deviation": [0.23, 0.22, 0.24]}  # fmt: skip
IMPORTED = {"origin": "imported", "recipe": f"sha256:{'1' * 64}", "spec": {"recipe": OWN}}

Put = Callable[[Plan, Path], Any]


def sealed(weights: Path, **about: Any) -> None:
    """A sidecar with the seal that its content has, or with `seal`."""
    content = {"md5": md5_of("mine"), "recipe": "sha256:x", **about}
    leave(weights, "mine", **content | {"seal": about.get("seal") or seal_of({**content, "origin": about["origin"]})})


def link(weights: Path, target: str) -> None:
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.symlink_to(target)


def lonely(weights: Path, text: str | None = None) -> None:
    """Weights without a sidecar, or with `text` for one."""
    leave(weights, "mine")
    weights.with_suffix(".json").unlink()
    if text is not None:
        weights.with_suffix(".json").write_text(text)


USED: dict[str, Put] = {
    "imported": lambda made, at: leave(at, "mine", **IMPORTED),
    "imported with a seal": lambda made, at: sealed(at, **IMPORTED),
    "imported without a digest": lambda made, at: leave(at, "mine", **IMPORTED | {"recipe": None}),
    "imported, linked": lambda made, at: (leave(Path("mine/w"), "mine"), leave(at, "mine", **IMPORTED), at.unlink(),
                                          link(at, str(Path("mine/w").absolute()))),
}  # fmt: skip
"""Weights that are used as they are, whatever today's recipe is."""

REFUSED: dict[str, tuple[Put, str]] = {
    "no sidecar": (lambda made, at: lonely(at), "is there, but its sidecar .*json is missing"),
    "damaged sidecar": (lambda made, at: lonely(at, "{"), "sidecar cannot be used .*not valid JSON"),
    "no origin": (lambda made, at: lonely(at, '{"md5": "x", "recipe": "y"}'), "sidecar cannot be used .*'origin'"),
    "no digest": (lambda made, at: leave(at, "mine", **IMPORTED | {"recipe": "mine"}), "expected null or a digest"),
    "other MD5": (lambda made, at: (leave(at, "a", recipe="old"), at.write_text("mine")), "has MD5 .* but its sidecar"),
    "edited": (lambda made, at: sealed(at, origin="trained", seal="sha256:0"), "edited after writing"),
    "a link to nowhere": (lambda made, at: link(at, "/nowhere/w.safetensors"), "link to '/nowhere.*does not exist"),
    "a moved cache": (
        lambda made, at: (
            write_pointer(at, Pointer(md5_of("mine"), 4, "store")),
            link(at, f"/gone/files/md5/{md5_of('mine')[:2]}/{md5_of('mine')[2:]}"),
        ),
        "in DVC's cache, which was moved or removed; `lska weights fetch",
    ),
    "a folder": (lambda made, at: at.mkdir(parents=True), "expected a file of weights, found a folder"),
    "imported, missing": (lambda made, at: leave(at, "mine", **IMPORTED) and at.unlink(), "is missing; .*imported"),
    "imported, nothing known": (
        lambda made, at: leave(at, "mine", origin="imported"),
        "(?s)spec.recipe: .*missing key 'mean'.*expected (image_size|mean)",
    ),
    "imported, impossible": (
        lambda made, at: leave(at, "mine", origin="imported", spec={"recipe": OWN | {"deviation": [0, 1, 1]}}),
        r"deviation\[0\]: expected more than 0, found 0",
    ),
}  # fmt: skip
"""Weights that can neither be used nor replaced, and what is said of them."""


def made_by_a_rule(made: Plan, name: str) -> bool:
    """Whether any rule has the weights of a network among its outputs."""
    look_again(made)
    rules = (made.weights("train", ".+"), made.weights("fetch", ".+"))
    return any(re.fullmatch(rule + r"\.safetensors", f"{name}.safetensors") for rule in rules)


def cases(made: Plan, kinds: Iterable[str]) -> Iterator[tuple[str, TrainingJob]]:
    """Every kind for a classifier, and for a detector whose backbone was trained here, in an empty folder each."""
    for kind, name in itertools.product(kinds, (str(RUN), TUNED)):
        shutil.rmtree("checkpoints", ignore_errors=True)
        made.choices = Choices(made.config)
        if name == TUNED:
            put_weights(made, RUN)
        yield kind, training_of(made.config, name)


def test_imported_weights_are_used_and_no_rule_makes_them(made: Plan) -> None:
    for kind, one in cases(made, USED):
        USED[kind](made, one.weights)
        found = made.choices.of(one.place)
        assert (found.state, found.vouched, found.kept) == ("here", True, True), kind
        assert made.choices.files(one.place) == [one.weights, one.weights.with_suffix(".json")]
        assert not made_by_a_rule(made, one.place)
        assert f"weights/{one.place}" not in made.decided.pending


def test_retrain_does_not_replace_imported_weights(made: Plan) -> None:
    object.__setattr__(made.config, "retrain", ("*",))
    for kind, one in cases(made, USED):
        USED[kind](made, one.weights)
        with pytest.raises(ForeignWeightsError, match=rf"imported.* or take {one.place} out of the setting retrain"):
            made.choices.files(one.place)
        assert not made_by_a_rule(made, one.place), kind


def test_what_nothing_vouches_for_is_refused_and_kept(made: Plan) -> None:
    for kind, one in cases(made, REFUSED):
        put, told = REFUSED[kind]
        put(made, one.weights)
        assert made.choices.of(one.place).state == "stop" and not made_by_a_rule(made, one.place), kind
        with pytest.raises(ForeignWeightsError, match=told) as caught:
            made.choices.files(one.place)
        assert str(one.weights.with_suffix("")) in str(caught.value)


def test_a_damaged_sidecar_alone_is_no_reason_to_stop(made: Plan) -> None:
    one = training_of(made.config, str(RUN))
    lonely(one.weights, "{")
    one.weights.unlink()
    assert made.choices.of(one.place).state == "stop" and not made_by_a_rule(made, str(RUN))
    with pytest.raises(ForeignWeightsError, match="sidecar .*json cannot|sidecar cannot be used"):
        made.choices.files(str(RUN))


def test_what_was_trained_here_may_be_replaced(made: Plan) -> None:
    one = training_of(made.config, str(RUN))
    assert foreign(one.weights) is None
    leave(one.weights, "ours", recipe="sha256:of another day")
    assert made_by_a_rule(made, str(RUN)) and foreign(one.weights) is None
    # After a kill between the two files, or without published weights.
    one.weights.unlink()
    assert made_by_a_rule(made, str(RUN)) and foreign(one.weights) is None


def test_imported_weights_with_another_preprocessing_are_measured_again(made: Plan) -> None:
    one, metrics = training_of(made.config, str(RUN)), made.config.metric_path("classification", RUN)
    leave(one.weights, "mine", **IMPORTED)

    def measured(**detail: Any) -> bool:
        put_metrics(metrics, {"weights": {"md5": md5_of("mine")}, "detail": detail})
        look_again(made)
        return f"metrics/classification/{RUN}" not in made.decided.pending

    assert measured(preprocessing=OWN) and not measured()
    assert not measured(preprocessing=OWN | {"image_size": 32})
    before = one.speed_protocol(made.config.speed)
    about = IMPORTED | {"spec": {"recipe": OWN | {"image_size": 64}}}
    write_json(one.weights.with_suffix(".json"), {"md5": md5_of("mine"), **about})
    assert not measured(preprocessing=OWN) and one.speed_protocol(made.config.speed) != before


def test_an_import_leaves_the_throughputs_of_its_table_current(made: Plan) -> None:
    """What they depend on is the same before the weights are here, where the configuration says their input's size."""
    one = training_of(made.config, str(RUN))
    for size in (40, made.config.recipe_of(RUN).image_size):
        stated = PublishedFile("w.pth", preprocessing={"image_size": size})
        object.__setattr__(made.config, "published", {str(RUN): stated})
        made.config.__dict__["imported_runs"] = frozenset([RUN])
        before = made.config.classifier(RUN).speed_protocol(made.config.speed)
        leave(one.weights, "mine", **IMPORTED | {"spec": {"recipe": OWN | {"image_size": size}}})
        assert made.config.classifier(RUN).speed_protocol(made.config.speed) == before, size
        one.weights.with_suffix(".json").unlink()


def test_training_by_hand_keeps_what_is_not_ours(project: Any) -> None:
    config = project.config()
    weights = config.weights_path(project.run)
    lonely(weights)
    with pytest.raises(ForeignWeightsError, match="is there, but its sidecar"):
        train(config.classifier(project.run))
    assert weights.read_text() == "mine" and list(weights.parent.iterdir()) == [weights]
