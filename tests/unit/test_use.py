"""The snippets of docs/use.md and README run as they stand there, elsewhere, and print what is shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lska.cli import main
from lska.data.synthetic.dense_scenes import DetectionSettings, SegmentationSettings
from lska.data.synthetic.generated import write_set
from lska.models import create
from lska.provenance.metric_files import project_root

if TYPE_CHECKING:
    from tiny_dense import DenseProject

PROJECT = project_root()
PAGE = PROJECT / "docs" / "use.md"
WEIGHTS = "van_tiny-lska-k23"
NARROW = {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: what stands behind its fence, and its text."""

    info: str
    text: str


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = re.findall(r"^```(.*)\n([\s\S]*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [Block(*one) for one in found]


def save(network: torch.nn.Module, path: Path) -> None:
    """As people publish weights."""
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": tensors, "epoch": 300}, path)


def run(*command: str, folder: Path) -> str:
    """Standard output of a command in `folder`, which finds the package but is not the project's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "PATH": path}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's with weights, the libraries' tools, and the configurations of the page."""
    place = tmp_path_factory.mktemp("elsewhere")
    save(create("van_tiny", attention="lska", kernel_size=23), place / f"{WEIGHTS}.pth")
    shell = [one.text for one in blocks(PAGE) if one.info == "sh" and one.text.startswith("ln ")]
    assert len(shell) == 2
    run("bash", "-ec", "".join(shell), folder=place)
    for one in blocks(PAGE):
        if one.info.startswith("python "):
            (place / one.info.split()[1]).write_text(one.text, encoding="utf-8")
    return place


@pytest.mark.parametrize("document", [PAGE, PROJECT / "README.md"], ids=lambda path: path.name)
def test_every_snippet_runs_and_prints_what_is_shown(document: Path, folder: Path) -> None:
    found = [one for one in blocks(document) if one.info in ("python", "text")]
    code = [one.text for one in found if one.info == "python"]
    if document != PAGE and not code:
        pytest.skip(f"{document.name} has no snippets")
    assert len(code) >= (7 if document == PAGE else 1)
    pairs = zip(found, [*found[1:], Block("", "")], strict=True)
    shown = [after.text if after.info == "text" else "" for one, after in pairs if one.info == "python"]
    (folder / "snippets.py").write_text("print('\\0')\n".join(code), encoding="utf-8")
    assert run(sys.executable, "snippets.py", folder=folder).split("\0\n") == shown


# --- Configurations of the libraries ----------------------------------------------------------------------------------

SCENES = {"image_size": 48, "classes": 3, "train_images": 5, "val_images": 2, "objects": (1, 3), "extent": (0.3, 0.5)}
# Over the page's files: small images and networks, so that three updates take seconds.
BACKBONE = f"backbone=dict(architecture=dict({', '.join(f'{name}={list(one)}' for name, one in NARROW.items())})"
LOADER = "num_workers=0, persistent_workers=False"
SMALL = {
    "retinanet_van": f"""
classes = {DetectionSettings(**SCENES).class_names}
model = dict(
    {BACKBONE}, init_cfg=dict(checkpoint="narrow.pth")), neck=dict(in_channels={list(NARROW["embed_dims"])}),
    bbox_head=dict(num_classes=3), test_cfg=dict(score_thr=0.001))
resize, pack = dict(type="Resize", scale=(64, 64), keep_ratio=True), dict(type="PackDetInputs")
keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
boxes = dict(type="LoadAnnotations", with_bbox=True)
def scenes(*steps): return dict(metainfo=dict(classes=classes), pipeline=[dict(type="LoadImageFromFile"), *steps])
train_dataloader = dict({LOADER}, dataset=scenes(boxes, resize, pack))
val_dataloader = dict({LOADER}, dataset=scenes(resize, boxes, dict(pack, meta_keys=keys)))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
""",
    "semantic_fpn_van": f"""
model = dict(
    {BACKBONE}), pretrained="narrow.pth", neck=dict(in_channels={list(NARROW["embed_dims"])}),
    data_preprocessor=dict(size=(64, 64)))
resize, pack = dict(type="Resize", scale=(64, 64), keep_ratio=True), dict(type="PackSegInputs")
labels = dict(type="LoadAnnotations", reduce_zero_label=True)
read = dict(type="LoadImageFromFile")
train_dataloader = dict(batch_size=2, {LOADER}, dataset=dict(pipeline=[read, labels, resize, pack]))
val_dataloader = dict({LOADER}, dataset=dict(pipeline=[read, resize, labels, pack]))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=3, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=3))
""",
}
LAST = {"retinanet_van": "epoch_1.pth", "semantic_fpn_van": "iter_3.pth"}


def commands(name: str) -> list[str]:
    """The page's commands that take a configuration, for the smaller one of the same task."""
    shell = [one.text for one in blocks(PAGE) if one.info == "sh" and f"{name}.py" in one.text]
    return [text.replace(name, f"small_{name}").replace("epoch_12.pth", LAST[name]) for text in shell]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_libraries_own_tools_train_the_pages_configurations(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    network = create("van_tiny", attention="lska", kernel_size=23, **NARROW)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save(network, folder / "narrow.pth")
    place = "data/coco" if name == "retinanet_van" else "data/ade/ADEChallengeData2016"
    write_set(folder / place, (DetectionSettings if name == "retinanet_van" else SegmentationSettings)(**SCENES))
    (folder / f"small_{name}.py").write_text(f'_base_ = "{name}.py"\n{SMALL[name]}', encoding="utf-8")
    train, *others = commands(name)
    assert re.search(r"loss: \d", run("bash", "-ec", train, folder=folder))
    last = folder / "work_dirs" / f"small_{name}" / LAST[name]
    import lska.models.openmmlab  # noqa: F401 - mmengine's records in the file can then be loaded

    trained, begun = torch.load(last)["state_dict"], network.state_dict()
    for key, tensor in begun.items():
        if tensor.is_floating_point() and "running" not in key and not key.startswith("head."):
            # The pretrained weights after three updates of at most the rate of 1e-4 each.
            assert torch.allclose(trained[f"backbone.{key}"], tensor, atol=1e-3), key
    assert not torch.equal(trained["backbone.patch_embed1.proj.weight"], begun["patch_embed1.proj.weight"])
    for command in others:
        assert "bbox_mAP" in run("bash", "-ec", command, folder=folder)
    if name == "semantic_fpn_van":
        again = f"{train.strip()} --resume --cfg-options train_cfg.max_iters=4"
        assert "resumed epoch: 0, iter: 3" in run("bash", "-ec", again, folder=folder)


# --- lska mmconfig ----------------------------------------------------------------------------------------------------

BUILD = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
for file in sys.argv[1:]:
    runner = Runner.from_cfg(Config.fromfile(file))
    network = runner.model
    head = getattr(network, "bbox_head", None) or getattr(network, "decode_head", None) or network.roi_head.bbox_head
    count = sum(parameter.numel() for parameter in network.parameters())
    print("built:", type(network).__name__, count, head.num_classes)
"""


def test_a_printed_configuration_is_built_elsewhere_without_any_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (page,) = [one.text for one in blocks(PAGE) if one.info == "sh" and one.text.startswith("lska mmconfig")]
    words = shlex.split(page.splitlines()[0].partition(" > ")[0])[1:]
    monkeypatch.chdir(PROJECT)
    nowhere = '{"detection": {"data": {"root": "/nowhere"}}, "segmentation": {"data": {"root": "/nowhere"}}}'
    for task in ("detection/retinanet", "detection/mask_rcnn", "segmentation/semantic_fpn"):
        words[words.index("--task") + 1] = task
        capsys.readouterr()
        assert main([*words, "--set", nowhere]) == 0
        text = capsys.readouterr().out
        head = [line for line in text.splitlines() if line.startswith("#")]
        weights = PROJECT / "checkpoints" / "paper" / "van_tiny-lska-k23-s42.safetensors"
        assert any(line.endswith("/nowhere/train2017") or "/images/training" in line for line in head)
        assert f"# NOT THERE when this was printed: {weights}" in head
        (tmp_path / f"{task.partition('/')[2]}.py").write_text(text, encoding="utf-8")
    said = run(sys.executable, "-c", BUILD, *map(str, sorted(tmp_path.glob("*.py"))), folder=tmp_path)
    built = re.findall(r"^built: (.*)$", said, re.MULTILINE)
    assert built == ["MaskRCNN 23808336 80", "RetinaNet 13309268 80", "EncoderDecoder 7907574 150"]


INFER = """
import lska.models.openmmlab
from mmdet.apis import inference_detector, init_detector
from mmseg.apis import inference_model, init_model
detector = init_detector("mask_rcnn.py", "work_dirs/{detector}/epoch_3.pth", device="cpu")
found = inference_detector(detector, "{image}").pred_instances
assert len(found.bboxes) == len(found.masks) and detector.dataset_meta["classes"]
segmentor = init_model("semantic_fpn.py", "work_dirs/{segmentor}/iter_16.pth", device="cpu")
print("classes:", inference_model(segmentor, "{image}").pred_sem_seg.data.unique().tolist())
"""


@pytest.mark.slow
def test_a_printed_configuration_trains_scores_and_predicts(
    proven_project: DenseProject, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lska.train.mm_configs import configuration_file

    monkeypatch.chdir(proven_project.base.folder)
    for head, library in {"mask_rcnn": "mmdetection", "semantic_fpn": "mmsegmentation"}.items():
        text = configuration_file(proven_project.job(head))
        assert "NOT THERE" not in text
        (tmp_path / f"{head}.py").write_text(text, encoding="utf-8")
        said = run(sys.executable, str(folder / library / "tools" / "train.py"), f"{head}.py", folder=tmp_path)
        assert ("mIoU:" if head == "semantic_fpn" else "bbox_mAP:") in said and "loss:" in said
    jobs = [proven_project.job(head) for head in ("mask_rcnn", "semantic_fpn")]
    detector, segmentor = (f"{job.task}/{job.run}" for job in jobs)
    image = proven_project.base.folder / "scenes" / "val2017" / "000000000001.jpg"
    code = INFER.format(detector=detector, segmentor=segmentor, image=image)
    assert re.search(r"classes: \[\d", run(sys.executable, "-c", code, folder=tmp_path))
