"""Predictions are made once: after an interruption, for runs that are added, and for whatever has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_robustness import (
    RUNS,
    RobustProject,
    StopAfter,
    done,
    equal,
    images_of,
    kept,
    members_of,
    network,
    publish,
    scoring,
    shard_files,
)

from lska.data.perturbed.parts import open_parts, read_perturbed_record
from lska.data.perturbed.perturbed_preparing import prepare_perturbed
from lska.evaluate.predictions import PredictionError
from lska.models.pretrained import save_weights
from lska.models.runs import Run
from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5
from lska.settings.perturbed_sets import PerturbedSet
from lska.train.interrupt import Interrupted, StopRequest

Changed = tuple[PerturbedSet, Run | Path]


def test_an_interruption_keeps_whole_shards_and_the_rest_is_decoded_later(
    robust: RobustProject, decoded: list[str]
) -> None:
    item = robust.item("c")
    whole = dataclasses.replace(scoring(item, []).store, folder=Path("whole"))
    expected = done(scoring(item, members_of(item.config, *RUNS), store=whole))
    places = images_of(list(expected.parts))
    one = scoring(item, members_of(item.config, *RUNS))
    # Shards of 8 and 4 images in batches of 5, 3 and 4: the fifth batch is in the middle of the third shard.
    decoded.clear()
    with pytest.raises(Interrupted, match="received SIGTERM; predictions up to gaussian_noise/1, image 0, are kept"):
        one.run(StopAfter(4))
    assert decoded == places[:17]
    first = shard_files(item)
    assert len(first) == 6 and all(name.startswith("clean/") for name in first)
    decoded.clear()
    assert one.run(StopRequest(None)) == 36
    assert decoded == places[12:]
    assert first.items() <= shard_files(item).items()
    for member, other in zip(one.members, expected.members, strict=True):
        for part in one.parts:
            assert equal(kept(one, member, part), kept(expected, other, part))


def test_passes_beside_one_another_leave_the_same_files(robust: RobustProject) -> None:
    item = robust.item("c")
    whole = dataclasses.replace(scoring(item, []).store, folder=Path("whole"))
    expected = done(scoring(item, members_of(item.config, *RUNS), store=whole))
    contents = {path.relative_to(whole.folder): path.read_bytes() for path in whole.folder.rglob("*.parquet")}

    class Beside(StopRequest):
        """Has another pass, of fewer networks, run to its end in the middle of the first one."""

        asked = 0

        def reason(self, longest_update: float = 0.0) -> str | None:
            self.asked += 1
            if self.asked == 6:
                done(scoring(item, members_of(item.config, *RUNS[:2])))
            return super().reason(longest_update)

    one = scoring(item, members_of(item.config, *RUNS))
    one.run(Beside(None))
    left = {path.relative_to(item.predictions): path.read_bytes() for path in item.predictions.rglob("*.parquet")}
    assert left == contents
    for member, other in zip(one.members, expected.members, strict=True):
        for part in one.parts:
            assert equal(kept(one, member, part), kept(expected, other, part))


def test_a_run_added_later_is_the_only_one_that_is_predicted(
    robust: RobustProject, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = robust.item("c")
    done(scoring(item, members_of(item.config, *RUNS[:2])))
    before = shard_files(item)
    decoded.clear()
    done(scoring(item, members_of(item.config, *RUNS[:2])))
    assert (decoded, shard_files(item)) == ([], before)
    one = scoring(item, members_of(item.config, *RUNS))
    for member in one.members[:2]:
        monkeypatch.setattr(member.network, "forward", lambda images: pytest.fail("predicted again"))
    done(one)
    assert decoded == images_of(list(one.parts))
    after = shard_files(item)
    assert before.items() <= after.items() and len(after) == len(before) * 3 // 2
    keys = {name.split("/")[2] for name in after.keys() - before.keys()}
    assert [key.partition("-")[0] for key in keys] == [one.members[2].sidecar["md5"]]


def test_a_member_that_lacks_a_part_of_a_shard_joins_there(robust: RobustProject, decoded: list[str]) -> None:
    item = robust.item("r")
    with pytest.raises(Interrupted):
        scoring(item, members_of(item.config, RUNS[0]), shard=5).run(StopAfter(1))
    one = scoring(item, members_of(item.config, *RUNS[:2]), shard=8)
    left = [(shard.start, shard.stop, len(shard.members)) for shard in one.shards()]
    assert left == [(0, 5, 1), (5, 8, 2), (8, 9, 2)]
    decoded.clear()
    done(one)
    assert decoded == images_of(list(one.parts))


def retrained(robust: RobustProject) -> Changed:
    publish(robust.config(), RUNS[0], seed=7)
    return robust.item("r"), RUNS[0]


def reread(robust: RobustProject) -> Changed:
    weights = robust.config().weights_path(RUNS[0])
    sidecar = members_of(robust.config(), RUNS[0])[0].sidecar
    sidecar["spec"]["recipe"]["test_crop"] = 0.8
    save_weights(network(robust.config(), RUNS[0]), Path("elsewhere/same.safetensors"))
    write_json(Path("elsewhere/same.json"), sidecar)
    assert file_md5(Path("elsewhere/same.safetensors")) == file_md5(weights)
    return robust.item("r"), Path("elsewhere/same.safetensors")


def other_images(robust: RobustProject) -> Changed:
    root = Path("sets/r")
    (root / "white" / "000.jpg").rename(root / "white" / "100.jpg")
    Path("results/test/data/colours_r.json").unlink()
    prepare_perturbed(robust.item("r"))
    return robust.item("r"), RUNS[0]


@pytest.mark.parametrize("change", [retrained, reread, other_images])
def test_what_decides_predictions_makes_them_again(
    robust: RobustProject, decoded: list[str], change: Callable[[RobustProject], Changed]
) -> None:
    done(scoring(robust.item("r"), members_of(robust.config(), RUNS[0])))
    before = shard_files(robust.item("r"))
    item, chosen = change(robust)
    decoded.clear()
    one = done(scoring(item, members_of(item.config, chosen)))
    assert len(decoded) == 9
    assert before.items() <= shard_files(item).items()
    store = dataclasses.replace(one.store, folder=Path("new"))
    fresh = done(scoring(item, members_of(item.config, chosen), store=store))
    assert equal(kept(one, one.members[0], one.parts[0]), kept(fresh, fresh.members[0], fresh.parts[0]))


def test_generated_parts_are_known_by_their_contents(robust: RobustProject) -> None:
    """A part whose bytes changed under the same names is another part, once the record says so."""
    item = robust.item("c")
    before = {part.name: part.identity for part in open_parts(item)}
    record = read_perturbed_record(item)
    record["contents"] = {"gaussian_noise/4": "sha256:" + "0" * 64}
    write_json(item.record, record)
    after = {part.name: part.identity for part in open_parts(item)}
    assert {name for name in before if before[name] != after[name]} == {"gaussian_noise/4"}


def test_damaged_predictions_are_named_and_a_pass_makes_them_again(robust: RobustProject, decoded: list[str]) -> None:
    item = robust.item("r")
    one = done(scoring(item, members_of(item.config, *RUNS)))
    (part,), member = one.parts, one.members[1]
    expected = kept(one, member, part)
    path = sorted(one.place(member, part).iterdir())[1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PredictionError, match=f"^{path} is damaged .*; remove it"):
        one.outcomes(member, part)
    path.unlink()
    decoded.clear()
    done(one)
    assert decoded == images_of(list(one.parts))[8:]
    assert equal(kept(one, member, part), expected)
