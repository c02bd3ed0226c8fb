"""One pass for many checkpoints: what is decoded, and what each network sees and predicts."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_project import CLASSES
from tiny_robustness import (
    CPU,
    OTHER,
    RUNS,
    SOME,
    RobustProject,
    done,
    equal,
    foreign,
    images_of,
    kept,
    members_of,
    publish,
    scoring,
)

from lska.data.perturbed.parts import open_parts
from lska.evaluate.predictions import Columns, PredictionError
from lska.evaluate.scoring_passes import ScoringPass, ShardImages, ShardLabels, normalized
from lska.models.scoring import score
from lska.provenance.sidecars import Preprocessing
from lska.train import loading
from lska.train.interrupt import StopRequest


def test_every_image_is_decoded_once_for_many_checkpoints(robust: RobustProject, decoded: list[str]) -> None:
    item = robust.item("c")
    one = scoring(item, members_of(item.config, *RUNS, foreign(item.config)))
    assert one.run(StopRequest(None)) == 48
    assert [part.name for part in one.parts] == ["clean", "gaussian_noise/1", "gaussian_noise/4", "jpeg_compression/2"]
    assert decoded == images_of(list(one.parts))
    results = [kept(one, member, part).confidence for member in one.members for part in one.parts]
    assert len({result.tobytes() for result in results}) == 16


def test_a_member_gets_in_company_what_it_gets_alone(robust: RobustProject) -> None:
    item = robust.item("r")
    chosen = (*RUNS, foreign(item.config), foreign(item.config, "third", 4, image_size=40, channels_last=False))
    together = done(scoring(item, members_of(item.config, *chosen)))
    (part,) = together.parts
    alone_store = dataclasses.replace(together.store, folder=Path("alone"))
    for member, one in zip(together.members, chosen, strict=True):
        alone = done(scoring(item, members_of(item.config, one), store=alone_store))
        for kind in ("full", "masked"):
            assert equal(kept(together, member, part, kind), kept(alone, alone.members[0], part, kind))


@pytest.mark.parametrize("recipe", [{}, OTHER, {"test_crop": 0.9, "channels_last": False}], ids=["own", "size", "crop"])
def test_a_pass_predicts_what_scoring_by_the_recipe_does(robust: RobustProject, recipe: dict[str, Any]) -> None:
    item = robust.item("sketch")
    weights = publish(item.config, RUNS[1], Path("elsewhere/one.safetensors"), **recipe)
    one = done(scoring(item, members_of(item.config, *RUNS[:1], weights), shard=100))
    (part,), member = one.parts, one.members[1]
    found = kept(one, member, part)

    resolved = dataclasses.replace(item.config.recipes["van_tiny"], **recipe)
    loader = loading.scoring_loader(part.split, resolved, item.section.evaluation.batch_size, workers=0)
    (counts,) = score([member.network], loader, CPU, resolved.channels_last)
    assert counts.images["top1"].tolist() == [100.0 * right for right in found.outcome.correct]
    losses = -np.log(found.label_probability.astype(np.float64))
    assert counts.images["loss"] == pytest.approx(losses, rel=1e-4, abs=1e-6)
    layout = torch.channels_last if resolved.channels_last else torch.contiguous_format
    with torch.inference_mode():
        logits = [(member.network(images.to(memory_format=layout)), labels) for images, labels in loader]
    assert equal(found, Columns.join([Columns.of(*batch) for batch in logits]))


def pixels(one: ScoringPass) -> list[torch.Tensor]:
    """What the first member of a pass sees of the first image of every part, before normalisation."""
    shards = one.shards()
    images = ShardImages(shards)
    firsts = {shard.part.name: number for number, shard in reversed(list(enumerate(shards)))}
    return [images[firsts[part.name], 0][0][0] for part in one.parts]


def test_stored_images_are_taken_as_they_are_or_enlarged_and_cropped(robust: RobustProject) -> None:
    changes = {"training": {"overrides": {"test_crop": 0.8}}}
    publish(robust.config(changes), RUNS[0])
    taken = {}
    for reading in ("as_stored", "enlarged"):
        item = robust.item("c", changes, {"stored_images": reading})
        one = scoring(item, members_of(item.config, RUNS[0]))
        files = [Image.open(part.split.name(part.index(0))) for part in one.parts]
        taken[reading], transform = pixels(one), loading.test_transform(item.config.recipes["van_tiny"])
    assert [torch.equal(a, b) for a, b in zip(*taken.values(), strict=True)] == [True, False, False, False]
    for number, file in enumerate(files):
        stored, cropped = (taken[reading][number] for reading in ("as_stored", "enlarged"))
        how = Preprocessing.of(item.config.recipes["van_tiny"].to_dict(), "recipe")
        assert torch.equal(normalized(cropped[None], how, False)[0], transform(file))
        if number:
            assert np.array_equal(stored.permute(1, 2, 0).numpy(), np.asarray(file))


def test_a_larger_network_sees_whole_stored_images(robust: RobustProject) -> None:
    item = robust.item("c")
    _, seen, *_ = pixels(scoring(item, members_of(item.config, foreign(item.config))))
    file = Image.open(open_parts(item)[1].split.name(0))
    assert np.array_equal(seen.permute(1, 2, 0).numpy(), np.asarray(file.resize((48, 48), Image.Resampling.BICUBIC)))


def test_batches_of_any_size_and_shards_of_any_size_agree(robust: RobustProject) -> None:
    item = robust.item("r")
    results = []
    for number, (shard, batch) in enumerate(((8, 5), (100, 9), (1, 1))):
        store = dataclasses.replace(scoring(item, []).store, folder=Path(f"store{number}"))
        one = done(scoring(item, members_of(item.config, RUNS[0]), store=store, shard=shard, batch_size=batch))
        assert len(list(Path(f"store{number}").rglob("*.parquet"))) == -(-9 // shard)
        results.append(kept(one, one.members[0], one.parts[0], "masked"))
    for other in results[1:]:
        assert np.array_equal(results[0].best, other.best)
        np.testing.assert_allclose(results[0].confidence, other.confidence, rtol=1e-4)


def test_the_number_of_workers_does_not_matter(robust: RobustProject) -> None:
    item = robust.item("r")
    chosen = (*RUNS, foreign(item.config))
    alone = done(scoring(item, members_of(item.config, *chosen)))
    store = dataclasses.replace(alone.store, folder=Path("workers"))
    helped = done(scoring(item, members_of(item.config, *chosen), store=store, workers=2))
    for member in alone.members:
        for kind in ("full", "masked"):
            assert equal(kept(alone, member, alone.parts[0], kind), kept(helped, member, helped.parts[0], kind))


def test_loading_processes_get_no_network(robust: RobustProject) -> None:
    item = robust.item("r")
    members = members_of(item.config, *RUNS)
    images = ShardImages(scoring(item, members).shards())
    assert len(pickle.dumps(images)) < sum(p.numel() for m in members for p in m.network.parameters())
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[0, 3][0][0], images[0, 3][0][0])


def test_labels_are_those_of_the_networks(robust: RobustProject) -> None:
    (part,) = open_parts(robust.item("r"))
    labels = ShardLabels.of(part, CLASSES, masked=True)
    assert part.split.classes == SOME
    assert labels.numbers.tolist() == labels.allowed.tolist() == [0, 1, 3]
    one = done(scoring(robust.item("r"), members_of(robust.config(), *RUNS)))
    for member in one.members:
        full, masked = (kept(one, member, part, kind) for kind in ("full", "masked"))
        assert full.label.tolist() == masked.label.tolist() == [0] * 3 + [1] * 3 + [3] * 3
        assert set(masked.best[:, 0].tolist()) <= {0, 1, 3}
        assert (full.best[:, 4:] == -1).all() and (masked.best[:, 3:] == -1).all()
        assert (masked.label_probability >= full.label_probability).all()
    assert any(2 in kept(one, member, part).best[:, 0] for member in one.members)


def test_a_set_without_a_mask_has_full_predictions_only(robust: RobustProject) -> None:
    one = done(scoring(robust.item("sketch"), members_of(robust.config(), RUNS[0])))
    assert len(kept(one, one.members[0], one.parts[0])) == 12
    with pytest.raises(PredictionError, match="masked"):
        one.outcomes(one.members[0], one.parts[0], "masked")


def test_a_class_that_the_networks_do_not_know_is_named(robust: RobustProject) -> None:
    (part,) = open_parts(robust.item("r"))
    with pytest.raises(ValueError, match="^sets/r has classes that the networks were not trained on: green, white; "):
        ShardLabels.of(part, ("blue", "red"), masked=True)


def test_outputs_that_are_no_numbers_are_refused_and_not_kept(robust: RobustProject) -> None:
    item = robust.item("r")
    members = members_of(item.config, *RUNS[:2])
    with torch.no_grad():
        members[1].network.head.bias[0] = math.nan
    one = scoring(item, members)
    message = f"^{RUNS[1]}: the network's outputs on test are not finite.*MD5 {members[1].sidecar['md5']}"
    with pytest.raises(ValueError, match=message):
        one.run(StopRequest(None))
    assert not one.place(members[1], one.parts[0]).exists()


def test_an_image_that_cannot_be_decoded_is_named(robust: RobustProject) -> None:
    path = Path("sets/r/green/001.jpg")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{path}: expected an image, found 300 bytes"):
        done(scoring(robust.item("r"), members_of(robust.config(), RUNS[0])))
