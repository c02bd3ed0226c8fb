"""`lska prune`: lists and removes what no configuration of a scale names, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lease_helpers import own
from proven import RUN, SEGMENTATION, Proven
from syrupy.assertion import SnapshotAssertion

from lska.pipeline import prune
from lska.pipeline.prune import find_leftovers, remove_leftovers
from lska.provenance.errors import InputError, OccupiedError
from lska.provenance.metric_files import file_md5, write_sealed
from lska.provenance.sidecars import Pointer, write_pointer

GONE = "van_tiny-lska-k9-s0"
CONTROL = f"{SEGMENTATION}-untrained"
WITHOUT_CONTROL: dict[str, Any] = {"segmentation": {"heads": {"semantic_fpn": {"untrained": []}}}}
RESULTS, WEIGHTS, WORK = Path("results/test"), Path("checkpoints/test"), Path("work/test")
PREDICTED = WORK / "predictions/colours_c/clean/0123456789abcdef"

LEFT = (
    RESULTS / f"metrics/classification/{GONE}.json", RESULTS / f"metrics/classification/{GONE}.npz",
    RESULTS / f"metrics/robustness/c/{RUN}.json", RESULTS / f"fields/{GONE}.npz", RESULTS / f"summary/{GONE}.json",
    RESULTS / "plots/segmentation/none.csv", RESULTS / f"samples/{SEGMENTATION}/{GONE}.png",
    RESULTS / "samples/robustness/c/examples.png", RESULTS / f"training/{GONE}.jsonl",
    RESULTS / "tables/table_99.md", RESULTS / "notebooks/figure_99.ipynb", RESULTS / "data/colours_c/fog/1/red/0.jpg",
    WORK / f"train/{GONE}/0123456789ab/state-00000001.pt", WORK / f"train/{GONE}/0123456789ab/owner-00000001.json",
    WORK / f"train/{RUN}/0123456789ab-instead-of-01234567/train.jsonl", PREDICTED / f"{'0' * 32}-0123/0-4.npz",
    WORK / f"logs/train/{SEGMENTATION}/{GONE}.log", WORK / f"logs/import/{GONE}.log", WORK / "logs/data/colours_c.log",
    WORK / "logs/passes/robustness_c_3.log", WORK / "decisions/0123456789ab.json",
)  # fmt: skip
"""Of a variant that is gone, beside its weights with their sidecar and the record of its generated images."""

STATES = LEFT[12].parent

STRANGE = (
    RESULTS / "notes.txt", RESULTS / "tables/mine.md", RESULTS / "metrics/classification/.hidden.json",
    RESULTS / "data/mine/photo.jpg", WEIGHTS / "mine.pth", WEIGHTS / "mine.safetensors", WORK / "cache/colours-0/a.jpg",
    WORK / "logs/train/mine.txt", WORK / "notes/log.log", Path("results/other/metrics/speed/x.json"),
    RESULTS / "report/index.html", WORK / "logs/speed.log", WORK / f"logs/train/{RUN}.log",
)  # fmt: skip
"""What this program does not write in this form, or the scale has, or another."""


def put(path: Path, content: str = "left over") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def weights_of(name: str, **fields: Any) -> Path:
    """Weights in a scale's folder, as a training leaves them."""
    weights = put(WEIGHTS / f"{name}.safetensors", f"weights of {name}")
    sidecar = {"md5": file_md5(weights), "origin": "trained", "recipe": "sha256:any", "run": Path(name).name}
    write_sealed(weights.with_suffix(".json"), sidecar | fields)
    return weights


def leave() -> None:
    """What a variant that is gone left."""
    for path in (*LEFT, *STRANGE):
        put(path)
    STATES.joinpath("owner-00000001.json").unlink()
    own(STATES).give_back()
    for name in (GONE, f"{SEGMENTATION}/{GONE}"):
        weights_of(name)
    write_sealed(RESULTS / "data/colours_c.json", {"name": "colours_c", "source": "made by lska.data.perturbed"})


def left(*changes: dict[str, Any]) -> prune.Leftovers:
    return find_leftovers([Path("config.yaml")], changes[0] if changes else {})


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def test_what_a_scale_names_is_never_left_over(scale: Proven) -> None:
    for path in STRANGE:
        put(path)
    assert left().found == ()
    assert left().to_text() == "test scale; compared with config.yaml\n\nnothing is left over\n"


def test_all_of_a_removed_variant_is_listed_and_removed(
    scale: Proven, snapshot: SnapshotAssertion, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = files()
    leave()
    kept |= {path: path.read_bytes() for path in STRANGE}
    present = files()
    capsys.readouterr()
    assert scale.project.command("prune", changes={}) == 0
    listed = capsys.readouterr().out
    assert listed == snapshot and files() == present
    assert scale.project.command("prune", "--json", "--yes", changes={}) == 0
    told = json.loads(capsys.readouterr().out)
    gone = present.keys() - kept.keys()
    assert files() == kept and told["removed"] and told["files"] == len(gone)
    assert told["bytes"] == sum(len(present[path]) for path in gone)
    emptied = (WORK / "predictions/colours_c", WORK / f"train/{GONE}", RESULTS / "samples/robustness")
    assert not any(path.exists() for path in emptied) and left().found == ()


def test_a_fine_tuning_that_is_gone_leaves_the_others(scale: Proven) -> None:
    before = files()
    remove_leftovers(left(WITHOUT_CONTROL))
    gone = sorted(path.as_posix() for path in before.keys() - files().keys())
    assert gone and all(f"{CONTROL}/" in path for path in gone)
    assert {f"checkpoints/test/{CONTROL}/{RUN}.safetensors", f"results/test/metrics/{CONTROL}/{RUN}.npz"} <= set(gone)


def imported_weights(name: str) -> Path:
    return weights_of(name, origin="imported", recipe=None)


def published(name: str) -> None:
    write_pointer(weights_of(name), Pointer("0" * 32, 7, "store"))
    put(RESULTS / f"training/{name}.jsonl")


def edited(name: str) -> None:
    sidecar = weights_of(name).with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace("sha256:any", "sha256:other"))


KEPT: dict[str, Callable[[str], object]] = {
    "sound": weights_of,
    "a sidecar alone": lambda name: weights_of(name).unlink(),
    "imported": imported_weights,
    "an imported sidecar alone": lambda name: imported_weights(name).unlink(),
    "no sidecar": lambda name: weights_of(name).with_suffix(".json").unlink(),
    "a damaged sidecar": lambda name: weights_of(name).with_suffix(".json").write_text("{"),
    "an edited sidecar": edited,
    "other weights": lambda name: weights_of(name).write_text("damaged"),
    "published": published,
    "in a published folder": lambda name: put(Path(f"{weights_of(f'detection/retinanet/{name}').parent}.dvc")),
    "in dvc.yaml": lambda name: put(Path("dvc.yaml"), f"artifacts: {{one: {{path: {weights_of(name).as_posix()}}}}}\n"),
}


def test_what_nothing_can_make_anew_is_kept_with_the_reason(scale: Proven, snapshot: SnapshotAssertion) -> None:
    for number, make in enumerate(KEPT.values()):
        make(f"van_tiny-lska-k9-s{number}")
    before, found = files(), remove_leftovers(left())
    assert {path for path in before if path not in files()} == {one.path for one in found.of(kept=False)}
    names = {f"s{number}": name for number, name in enumerate(KEPT)}
    told = {name: {} for name in KEPT}
    for one in found.found:
        told[names[one.path.stem.rpartition("-")[2]]][one.path.suffix] = one.kept or "removed"
    assert told == snapshot


def test_what_git_has_is_kept(scale: Proven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave()
    for module in ("provenance.metric_files", "pipeline.prune"):
        monkeypatch.setattr(f"lska.{module}.project_root", lambda: tmp_path.resolve())
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    committed, staged, inside = LEFT[0], WEIGHTS / f"{GONE}.safetensors", LEFT[11]
    subprocess.run([*git, "add", "--force", str(committed), str(inside)], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "results"], check=True)
    subprocess.run([*git, "add", "--force", str(staged)], check=True)
    found = remove_leftovers(left())
    assert {one.path for one in found.of(kept=True)} == {committed, staged, inside.parents[3]}
    assert all(path.is_file() for path in (committed, staged, inside))
    (tmp_path / ".git" / "HEAD").write_text("damaged")
    with pytest.raises(InputError, match="it is not known which files are committed"):
        left()


def test_the_states_of_a_running_training_stay(scale: Proven) -> None:
    leave()
    listed, lease = left(), own(STATES)
    found = left()
    (one,) = found.of(kept=True)
    assert one.path == STATES and "in use by process" in one.kept
    # Also where it began after they were listed.
    (one,) = remove_leftovers(listed).of(kept=True)
    assert one.path == STATES and LEFT[12].is_file() and lease.holds()
    lease.give_back()
    assert [one.path for one in left().of(kept=False)] == [STATES]
    STATES.joinpath("owner-00000003.json").write_text("{")
    assert [one.kept for one in remove_leftovers(left()).found] == ["in use by an unknown process"]


def test_nothing_is_removed_while_snakemake_is_at_work_on_the_scale(scale: Proven) -> None:
    leave()
    lock = put(Path(".snakemake/locks/0.output.lock"), "results/other/x.json\n")
    before, found = files(), left()
    lock.write_text(f"results/other/x.json\n{WEIGHTS}/{RUN}.safetensors\n")
    with pytest.raises(OccupiedError, match=r"0\.output\.lock: Snakemake is at work on checkpoints/test/.*--unlock"):
        remove_leftovers(found)
    assert files().keys() == before.keys()
    lock.write_text("results/other/x.json\n")
    assert remove_leftovers(found).of(kept=True) == () and left().found == ()


def test_every_configuration_of_the_scale_counts(scale: Proven) -> None:
    leave()
    without = left(WITHOUT_CONTROL)
    text = Path("config.yaml").read_text()
    other = put(Path("config/other.yaml"), text)
    both = left(WITHOUT_CONTROL)
    assert both.configurations == ("config.yaml + --set", "config/other.yaml")
    assert not any(CONTROL in str(one.path) for one in both.found) and len(both.found) < len(without.found)
    # Files that are given after others, with the scale's name and without, and those of another scale.
    runs = 'runs: [{model: van_tiny, attention: lska, kernel: [7, 9], seed: 0}]\n'
    other.write_text(f"scale: test\n{runs}")
    assert WEIGHTS / f"{GONE}.json" in {one.path for one in without.found} - {one.path for one in left().found}
    other.write_text(runs)
    assert left().configurations == ("config.yaml", "config.yaml + config/other.yaml")
    other.write_text(f"scale: elsewhere\n{runs}")
    assert left().configurations == ("config.yaml",)
    other.write_text("heads: of nobody\n")
    assert left().configurations == ("config.yaml",)
    other.write_text("scale: test\nheads: of nobody\n")
    with pytest.raises(InputError, match=r"other\.yaml is of this scale and cannot be read, neither alone nor after"):
        left()


def test_a_killed_call_is_started_again(scale: Proven, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = files()
    leave()
    kept |= {path: path.read_bytes() for path in STRANGE}
    unlink, calls = Path.unlink, 0
    for last in (2, 9, 6, 4, 100):
        budget = last

        def dying(path: Path, missing_ok: bool = False) -> None:
            nonlocal budget, calls
            if budget == 0:
                raise KeyboardInterrupt
            budget, calls = budget - 1, calls + 1
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", dying)
        try:
            found = remove_leftovers(left())
            assert found.of(kept=True) == ()
        except KeyboardInterrupt:
            assert [one.kept for one in left().found if one.kept and "in use" not in one.kept] == []
    monkeypatch.setattr(Path, "unlink", unlink)
    assert calls > 20 and files() == kept


def test_what_is_gone_meanwhile_is_no_fault_and_what_is_refused_is_told(
    scale: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave()
    found = left()
    for path in (LEFT[0], LEFT[11]):
        path.unlink()
    shutil.rmtree(STATES)
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == LEFT[1]:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    (kept,) = remove_leftovers(found).of(kept=True)
    assert (kept.path, kept.kept) == (LEFT[1], "cannot be removed (Permission denied)")
    assert [one.path for one in left().found] == [LEFT[1]]


def test_nothing_outside_the_folders_of_the_scale_is_touched(scale: Proven, tmp_path: Path) -> None:
    elsewhere = put(tmp_path / f"elsewhere/{GONE}.npz")
    (RESULTS / "fields").symlink_to(elsewhere.parent)
    link = RESULTS / f"metrics/classification/{GONE}.json"
    link.symlink_to(elsewhere)
    (WORK / "train").mkdir(parents=True)
    (WORK / f"train/{GONE}").symlink_to(put(tmp_path / "states/0123456789ab/state-00000001.pt").parents[1])
    found = remove_leftovers(left())
    assert [one.path for one in found.found] == [link] and not link.is_symlink()
    assert elsewhere.is_file() and (tmp_path / "states/0123456789ab/state-00000001.pt").is_file()


def test_runs_and_targets_are_known_by_the_form_of_their_names() -> None:
    form = re.compile(prune._PLACES["weights"][2])
    assert all(form.fullmatch(f"{name}.safetensors") for name in (GONE, "resnet18-s0", "a/b/van_x-strip_2-k9-s10"))
    assert not any(form.fullmatch(f"{name}.safetensors") for name in ("mine", "van-tiny", "van_tiny-s", "../x"))
