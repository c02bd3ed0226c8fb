"""Whether weights are here, fetched or trained: decided by sidecar, pointer and recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, md5_of, put_weights

from lska.models.runs import RUN as ANY_RUN
from lska.models.runs import Run
from lska.pipeline.checkpoints import RETRAINED, Choices
from lska.pipeline.products import Plan
from lska.provenance.metric_files import digest
from lska.provenance.sidecars import ForeignWeightsError, Pointer, pointer_path, read_sidecar, write_pointer
from lska.settings.scale import load

RUN = Run("van_tiny", "lska", 23, 0)
MD5 = md5_of("published")
TUNED = f"detection/retinanet/{RUN}"


def publish(made: Plan, content: str = "published") -> Path:
    """Leave weights of today's recipe with their sidecar and pointer."""
    put_weights(made, RUN, content)
    weights = made.config.weights_path(RUN)
    sidecar = read_sidecar(weights.with_suffix(".json"))
    write_pointer(weights, Pointer(sidecar["md5"], 7, "store", digest(sidecar)))
    return weights


def publish_tuned(made: Plan, backbone: str = MD5) -> None:
    job = made.job("detection/retinanet", str(RUN))
    sidecar = read_sidecar(leave(job.weights, "tuned", recipe=job.digest(), backbone={"md5": backbone}))
    write_pointer(job.weights, Pointer(sidecar["md5"], 7, "store", digest(sidecar)))


def choice(made: Plan, name: str = str(RUN)) -> Any:
    return Choices(made.config).of(name)


def retraining(made: Plan, *patterns: str) -> None:
    object.__setattr__(made.config, "retrain", patterns)


def other_recipe(made: Plan) -> None:
    leave(publish(made), "published", recipe="sha256:other", spec={"recipe": {"epochs": 99}})


def trained_after_publishing(made: Plan) -> None:
    publish(made)
    put_weights(made, RUN, "trained here")


def trained_after_publishing_and_lost(made: Plan) -> None:
    trained_after_publishing(made)
    made.config.weights_path(RUN).unlink()


CASES: dict[str, tuple[Callable[[Plan], Any], str, bool, str]] = {
    "nothing": (lambda made: None, "train", False, "never trained"),
    "trained": (lambda made: put_weights(made, RUN), "here", True, "not published"),
    "published and here": (publish, "here", True, "published in DVC (0.0 MB)"),
    "published": (lambda made: publish(made).unlink(), "fetch", True, "published in DVC (0.0 MB)"),
    "another recipe": (other_recipe, "train", False, "trained otherwise: "),
    "trained after publishing": (trained_after_publishing, "here", True, "not published"),
    "trained after publishing, and lost": (
        trained_after_publishing_and_lost, "train", True,
        "weights trained here are missing; the published ones are not the sidecar's",
    ),
    "published without sidecar": (
        lambda made: publish(made).with_suffix(".json").unlink(), "stop", False,
        f"the sidecar of the published weights is missing (`git checkout -- checkpoints/demo/{RUN}.json`)",
    ),
    "published with a damaged sidecar": (
        lambda made: publish(made).with_suffix(".json").write_text("{"), "stop", False,
        "the sidecar of the published weights is damaged, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_where_weights_come_from(made: Plan, case: str) -> None:
    act, state, vouched, reason = CASES[case]
    act(made)
    found = choice(made)
    assert (found.state, found.vouched) == (state, vouched) and found.reason.startswith(reason), found


def test_retrain_sets_published_weights_aside_until_others_are_there(made: Plan) -> None:
    weights = publish(made)
    before = made.config.classifier(RUN).states
    retraining(made, "van_tiny-lska-*")
    found = choice(made)
    assert found.state == "train" and not found.vouched and found.reason == RETRAINED
    assert made.existing(f"weights/{RUN}")[-1] == str(weights.with_suffix(".json"))
    # It does not end at once by the states of the published one.
    assert before.name == made.config.classifier(RUN).digest()[7:19] and made.config.classifier(RUN).states != before
    # While it runs, Snakemake has deleted weights and sidecar.
    weights.unlink()
    weights.with_suffix(".json").unlink()
    assert choice(made).reason == RETRAINED
    # A training on the same machine may end in the same bytes; its sidecar still tells it from the published one.
    leave(weights, "published", recipe=made.config.classifier(RUN).digest(), finished="later")
    assert choice(made).here
    # What was never published stays.
    pointer_path(weights).unlink()
    assert choice(made).here


def test_a_fine_tuning_is_fetched_with_the_backbone_that_it_was_done_from(made: Plan) -> None:
    publish(made).unlink()
    publish_tuned(made)
    assert choice(made, TUNED).fetched
    publish_tuned(made, backbone="other")
    assert choice(made, TUNED).state == "train" and choice(made, TUNED).reason == "its backbone has changed"
    publish_tuned(made)
    retraining(made, str(RUN))
    assert choice(made, TUNED).state == "train" and choice(made, TUNED).reason == "its backbone is to be trained again"


@pytest.mark.parametrize("text", ["[" * 100000, f"outs:\n- {{md5: {MD5}, size: 7, path: another}}"])
def test_a_damaged_pointer_vouches_for_nothing_and_is_told(made: Plan, text: str) -> None:
    weights = publish(made)
    pointer_path(weights).write_text(text)
    told = rf"{weights.name}\.dvc: expected DVC's pointer.*git checkout -- "
    found = choice(made)
    assert (found.here, found.refused) == (True, None) and re.search(told, found.reason)
    weights.unlink()
    found = choice(made)
    assert found.state == "stop" and found.vouched and re.search(told, found.refused)
    choices = Choices(made.config)
    assert [re.search(told, one) is not None for one in choices.damages()] == [True]
    with pytest.raises(ForeignWeightsError, match=told):
        choices.files(str(RUN))


def test_the_two_rules_have_disjoint_names(made: Plan) -> None:
    # Nothing is fetched where nothing is published.
    assert re.match(made.weights("fetch", ".+"), f"{RUN}.safetensors") is None
    publish(made)
    publish_tuned(made)
    made.config.weights_path(RUN).unlink()
    made.choices = Choices(made.config)
    del made.__dict__["decided"], made.__dict__["products"]
    for name in made.config.network_names:
        task = "detection/[a-z_-]+/" if "/" in name else ""
        by_training = re.fullmatch(made.weights("train", task + ANY_RUN) + r"\.safetensors", f"{name}.safetensors")
        by_fetching = re.fullmatch(made.weights("fetch", ".+") + r"\.safetensors", f"{name}.safetensors")
        # What is here has no rule; the heads of segmentation are not in this pattern.
        assert bool(by_fetching) == (name == str(RUN))
        assert bool(by_training) == (name not in (str(RUN), TUNED) and not name.startswith("segmentation"))
    # A name that another one starts with is not mistaken for it.
    assert not re.fullmatch(made.weights("fetch", ".+") + r"\.safetensors", f"{RUN}1.safetensors")
    # Messages of rules say why.
    assert made.reasons([f"checkpoints/{made.config.scale}/{RUN}.safetensors"]) == "published in DVC (0.0 MB)"


def test_retrain_has_to_name_a_network() -> None:
    found = load([Path("config/demo.yaml")], {"retrain": ["van_tiny-lska-*", TUNED]})
    assert found.retrains(str(RUN)) and found.retrains(TUNED) and not found.retrains("van_tiny-lka-k23-s0")
    with pytest.raises(ValueError, match="retrain: 'van_tiny-lska-k99-s0' names no network of this scale; expected"):
        load([Path("config/demo.yaml")], {"retrain": ["van_tiny-lska-k99-s0"]})
