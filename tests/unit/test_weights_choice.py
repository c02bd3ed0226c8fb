"""Whether weights are here, fetched or trained: decided by sidecar, pointer and recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, md5_of, put_weights

from lska.models.runs import RUN as ANY_RUN
from lska.models.runs import Run
from lska.pipeline.checkpoints import RETRAINED, Choices, training_of
from lska.pipeline.products import Plan
from lska.provenance.metric_files import digest
from lska.provenance.sidecars import (
    ForeignWeightsError,
    Pointer,
    pointer_path,
    read_pointer,
    read_sidecar,
    write_pointer,
)

RUN = Run("van_tiny", "lska", 23, 0)
MD5, TUNED_MD5 = md5_of("published"), md5_of("tuned")
TUNED = f"detection/retinanet/{RUN}"


def publish(made: Plan, content: str = "published", run: Run = RUN) -> Path:
    """Leave weights of today's recipe with their sidecar and pointer."""
    put_weights(made, run, content)
    weights = made.config.weights_path(run)
    sidecar = read_sidecar(weights.with_suffix(".json"))
    write_pointer(weights, Pointer(sidecar["md5"], 7, "store", digest(sidecar)))
    return weights


def publish_tuned(made: Plan, backbone: str = MD5) -> Path:
    job = made.job("detection/retinanet", str(RUN))
    sidecar = read_sidecar(leave(job.weights, "tuned", recipe=job.digest(), backbone={"md5": backbone}))
    write_pointer(job.weights, Pointer(sidecar["md5"], 7, "store", digest(sidecar)))
    return job.weights


def choice(made: Plan, name: str = str(RUN)) -> Any:
    return Choices(made.config).of(name)


def retraining(made: Plan, *patterns: str) -> None:
    object.__setattr__(made.config, "retrain", patterns)


def test_published_weights_are_fetched_whether_they_are_here_or_not(made: Plan) -> None:
    weights = publish(made)
    assert (choice(made).fetched, choice(made).here) == (True, True)
    weights.unlink()
    found = choice(made)
    assert (found.fetched, found.here) == (True, False)
    assert found.reason == "published in DVC (0.0 MB)"


def test_weights_without_a_pointer_are_trained(made: Plan) -> None:
    assert choice(made).reason == "never trained" and not choice(made).vouched
    put_weights(made, RUN)
    found = choice(made)
    assert (found.fetched, found.here) == (False, True)


def test_a_changed_recipe_is_trained_and_its_sidecar_is_outdated(made: Plan) -> None:
    weights = publish(made)
    leave(weights, "published", recipe="sha256:other", spec={"recipe": {"epochs": 99}})
    found = choice(made)
    assert found.state == "train" and not found.vouched and found.reason.startswith("trained otherwise: ")
    weights.unlink()
    assert made.existing(f"weights/{RUN}") == [str(weights.with_suffix(".json"))]


def test_weights_trained_here_after_publishing_are_kept(made: Plan) -> None:
    weights = publish(made)
    put_weights(made, RUN, "trained here")
    assert (choice(made).fetched, choice(made).here) == (False, True)
    weights.unlink()
    found = choice(made)
    assert found.state == "train" and found.vouched
    assert found.reason == "weights trained here are missing; those published are others than the sidecar's"


def test_a_missing_sidecar_of_published_weights_says_how_to_get_it_back(made: Plan) -> None:
    weights = publish(made)
    sidecar = weights.with_suffix(".json")
    sidecar.unlink()
    assert choice(made).state == "stop" and f"git checkout -- {sidecar}" in choice(made).reason
    sidecar.write_text("{")
    assert choice(made).state == "stop" and f"git checkout -- {sidecar}" in choice(made).reason


def test_retrain_sets_published_weights_aside_until_others_are_there(made: Plan) -> None:
    weights = publish(made)
    retraining(made, "van_tiny-lska-*")
    found = choice(made)
    assert found.state == "train" and not found.vouched and found.reason == RETRAINED
    assert made.existing(f"weights/{RUN}")[-1] == str(weights.with_suffix(".json"))
    # While it runs, Snakemake has deleted weights and sidecar.
    weights.unlink()
    weights.with_suffix(".json").unlink()
    assert choice(made).reason == RETRAINED
    # A training on the same machine may end in the same bytes; its sidecar still tells it from the published one.
    leave(weights, "published", recipe=made.config.classifier(RUN).digest(), finished="later")
    assert choice(made).here


def test_retrain_leaves_what_was_never_published(made: Plan) -> None:
    put_weights(made, RUN)
    retraining(made, str(RUN))
    assert choice(made).here


def test_a_retraining_does_not_end_at_once_by_the_states_of_the_published_one(made: Plan) -> None:
    publish(made)
    before = made.config.classifier(RUN).states
    retraining(made, str(RUN))
    anew = made.config.classifier(RUN).states
    assert before.name == made.config.classifier(RUN).digest()[7:19] and anew != before
    assert made.config.classifier(RUN).states == anew
    publish(made, "others")
    assert made.config.classifier(RUN).states not in (before, anew)


def test_a_fine_tuning_is_fetched_with_the_backbone_that_it_was_done_from(made: Plan) -> None:
    publish(made).unlink()
    publish_tuned(made)
    assert choice(made, TUNED).fetched
    publish_tuned(made, backbone="other")
    assert choice(made, TUNED).state == "train" and choice(made, TUNED).reason == "its backbone is another now"
    publish_tuned(made)
    retraining(made, str(RUN))
    assert choice(made, TUNED).state == "train" and choice(made, TUNED).reason == "its backbone is to be trained anew"


@pytest.mark.parametrize(
    "text", ["[" * 100000, "outs: []", "<<<<<<< ours\nouts:", f"outs:\n- {{md5: {MD5}, size: 7, path: another}}"]
)
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


def test_a_pointer_is_read_as_it_was_written(made: Plan) -> None:
    weights = publish(made)
    pointer = read_pointer(weights)
    assert (pointer.md5, pointer.size, pointer.remote) == (MD5, 7, "store")
    write_pointer(weights, Pointer(MD5, 7))
    assert read_pointer(weights) == Pointer(MD5, 7)


def test_the_two_rules_have_disjoint_names(made: Plan) -> None:
    publish(made)
    publish_tuned(made)
    made.config.weights_path(RUN).unlink()
    for name in made.config.network_names:
        task = "detection/[a-z_-]+/" if "/" in name else ""
        by_training = re.fullmatch(made.weights("train", task + ANY_RUN) + r"\.safetensors", f"{name}.safetensors")
        by_fetching = re.fullmatch(made.weights("fetch", ".+") + r"\.safetensors", f"{name}.safetensors")
        # What is here has no rule; the heads of segmentation are not in this pattern.
        assert bool(by_fetching) == (name == str(RUN))
        assert bool(by_training) == (name not in (str(RUN), TUNED) and not name.startswith("segmentation"))
    # A name that another one starts with is not mistaken for it.
    assert not re.fullmatch(made.weights("fetch", ".+") + r"\.safetensors", f"{RUN}1.safetensors")


def test_nothing_is_fetched_where_nothing_is_published(made: Plan) -> None:
    assert re.match(made.weights("fetch", ".+"), f"{RUN}.safetensors") is None
    assert re.fullmatch(made.weights("train", ANY_RUN) + r"\.json", f"{RUN}.json")


def test_messages_of_rules_say_why(made: Plan) -> None:
    publish(made)
    made.config.weights_path(RUN).unlink()
    assert f"{made:{RUN}}" == "published in DVC (0.0 MB)"
    assert f"{made:{TUNED}}" == "never trained"


def test_retrain_has_to_name_a_network() -> None:
    from lska.settings.scale import load

    found = load([Path("config/demo.yaml")], {"retrain": ["van_tiny-lska-*", TUNED]})
    assert found.retrains(str(RUN)) and found.retrains(TUNED) and not found.retrains("van_tiny-lka-k23-s0")
    with pytest.raises(ValueError, match="retrain: 'van_tiny-lska-k99-s0' names no network of this scale; expected"):
        load([Path("config/demo.yaml")], {"retrain": ["van_tiny-lska-k99-s0"]})


def test_a_training_is_named_by_its_place(made: Plan) -> None:
    assert [training_of(made.config, name).place for name in made.config.network_names] == made.config.network_names
    with pytest.raises(ValueError, match="not a run id"):
        training_of(made.config, "detection")
