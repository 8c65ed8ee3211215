"""MMDetection's engine from end to end, on generated scenes in COCO's layout."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from faster_coco_eval.core import mask
from PIL import Image
from safetensors.torch import load_file

import mae_bench
from downstream.detection.mmdet.native_settings import path_of
from mae_bench import resources
from mae_bench.errors import MaeBenchError
from mae_bench.run import Run
from mae_bench.stopping import InterruptedRunError
from tests.kept_outcomes import assert_kept
from tests.launch import finish, on_two_processes

pytestmark = pytest.mark.engine

BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&embed_dim=16&depth=2&num_heads=2&img_size=32"
VALUES = [
    "data.root=generated/tiny-scenes/coco",
    "precision=fp32",
    "train.steps=4",
    "train.batch=4",
    "train.log_every_steps=1",
    "optim.milestones=[3]",
    "optim.warmup_steps=1",
    "model.attention.global_blocks=[1]",
    "model.attention.window=3",
    "model.pyramid.channels=8",
    "model.heads.box_width=8",
    "data.workers=0",
]


def merged(*more: str) -> list[str]:
    """The values with others in their places."""
    return list({text.partition("=")[0]: text for text in [*VALUES, *more]}.values())


def run_of(place: Path, name: str, *more: str, engine: str | None = "mmdet") -> Any:
    return mae_bench.run(
        "demo/coco",
        BACKBONE,
        merged(*more),
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
        engine=engine,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated data, and a run of either engine: `runs/theirs` and `runs/ours`."""
    place = tmp_path_factory.mktemp("mmdet")
    run_of(place, "theirs", "train.micro_batch=2", "data.workers=1")
    run_of(place, "ours", engine=None)
    return place


def result(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(place: Path) -> None:
    run, ours = place / "runs/theirs", result(place / "runs/ours")
    found = result(run)
    assert found["engine"] == "mmdet"
    assert found["details"]["engine"]["mmdet"].startswith("3.3")
    assert found["details"]["engine"]["bridged"] in (True, False)
    assert found["versions"].keys() >= {"mmdet", "mmengine", "mmcv", "torch"}
    assert found["dataset"] == ours["dataset"]
    assert found["dataset"]["train_images"] == 24
    for key in ("steps", "images_seen", "epochs", "batch", "selection", "metrics"):
        assert found[key] == ours[key] if key != "metrics" else found[key].keys() == ours[key].keys()
    assert found["micro_batch"] == 2
    lines = logged(run)
    steps = [line for line in lines if "eval" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert steps[0].keys() >= {
        "epoch",
        "loss",
        "lr",
        "loss_rpn_cls",
        "loss_bbox",
        "loss_mask",
        "images_per_s",
    }
    assert lines[-1]["eval"] == found["metrics"]
    assert [path.name for path in (run / "mmengine").glob("step-*")] != []
    assert len(list((run / "mmengine").glob("step-*"))) == 1
    assert any(name.startswith("roi_head.mask_head.") for name in load_file(run / "model.safetensors"))
    assert_kept(run)


def size_of(picture: str) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_a_run_is_judged_again_and_drawn(place: Path, tmp_path: Path) -> None:
    run = place / "runs/theirs"
    assert mae_bench.judge(run, data_root=place / "data") == result(run)["metrics"]
    (drawn,) = mae_bench.visualize(run, count=2, data_root=place / "data")
    tall = size_of(drawn)[1]
    photo = place / "data/generated/tiny-scenes/coco/val2017"
    first = sorted(photo.iterdir())[0]
    (drawn,) = mae_bench.visualize(run, [first], data_root=place / "data")
    assert 0 < size_of(drawn)[1] < tall
    text = first.with_suffix(".txt")
    text.write_text("no image")
    try:
        with pytest.raises(MaeBenchError, match="cannot be read as an image"):
            mae_bench.visualize(run, [text], data_root=place / "data")
    finally:
        text.unlink()


def test_checking_leaves_nothing(place: Path, tmp_path: Path) -> None:
    lines = mae_bench.check(
        "demo/coco", BACKBONE, VALUES, engine="mmdet", data_root=place / "data", runs_root=tmp_path / "none"
    )
    assert any(line.startswith("engine: mmdet 3.3") for line in lines)
    assert not (tmp_path / "none").exists()


def test_a_detector_of_the_default_engine_finds_the_same(place: Path) -> None:
    weights = f"detector={place / 'runs/ours/model.safetensors'}"
    values = ["evaluate_only=true", weights, "model.heads.score=0.0"]
    theirs = run_of(place, "judged-theirs", *values)
    ours = run_of(place, "judged-ours", *values, engine=None)
    assert theirs.details["detector"]["digest"] == ours.details["detector"]["digest"]
    assert theirs.metrics.keys() == ours.metrics.keys()
    found, expected = detections(Path(theirs.folder)), detections(Path(ours.folder))
    assert len(expected) == len(found) == 8 * 20
    assert sum(any(same(one, other) for other in found) for one in expected) >= 0.99 * len(expected)


def detections(folder: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((folder / "detections.json").read_text())
    return records


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if (one["image_id"], one["category_id"]) != (other["image_id"], other["category_id"]):
        return False
    near = max(abs(a - b) for a, b in zip(one["bbox"], other["bbox"], strict=True)) < 0.1
    overlap: float = mask.iou([one["segmentation"]], [other["segmentation"]], [0])[0][0]
    return near and abs(one["score"] - other["score"]) < 1e-3 and overlap > 0.9


def test_low_precision(place: Path) -> None:
    found = run_of(place, "bf16", "precision=bf16", "train.steps=2", "optim.milestones=[1]")
    assert found.precision == "bf16"
    assert found.metrics.keys() == result(place / "runs/theirs")["metrics"].keys()
    full = logged(place / "runs/theirs")[0]["loss"]
    low = logged(Path(found.folder))[0]["loss"]
    assert low == pytest.approx(full, rel=0.2)


def test_training_begins_with_a_given_detector(place: Path) -> None:
    weights = f"detector={place / 'runs/ours/model.safetensors'}"
    found = run_of(place, "given", weights, "optim.lr=1e-12", "train.steps=1", "optim.milestones=[1]")
    judged = run_of(place, "given-judged", weights, "evaluate_only=true")
    for name, value in judged.metrics.items():
        assert found.metrics[name] == pytest.approx(value, abs=0.05)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM when a step is logged."""
    log = Run.log

    def stopping(self: Run, at: int, values: Any) -> None:
        log(self, at, values)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", stopping)


def test_a_stopped_run_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(
            InterruptedRunError, match=r"stopped by SIGTERM at step 3 of 4; everything is saved"
        ):
            run_of(place, "stopped")
    folder = place / "runs/stopped"
    assert not (folder / "result.json").exists()
    saved = list((folder / "mmengine").glob("step-*"))
    assert len(saved) == 1
    assert saved[0].name.startswith("step-00000003-")
    found = run_of(place, "stopped")
    assert found.metrics.keys() == result(place / "runs/theirs")["metrics"].keys()
    steps = [line for line in logged(folder) if "eval" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    # The schedule went on where it was: step 4 has a tenth of the rate.
    assert steps[3]["lr"] == pytest.approx(steps[2]["lr"] / 10)


def test_a_loss_that_is_not_finite_is_told(place: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"the loss is not finite at step \d"):
        run_of(place, "diverging", "optim.lr=1e30", "train.clip_grad=null", "optim.warmup_factor=1.0")


CASES = {
    "train.ema=0.9": "train.ema: averaged weights: the engine mmdet cannot do that; set it to null",
    "train.compile=true": "train.compile: the engine mmdet cannot do that",
    "data.channels=1": "data.channels: images that are not RGB: the engine mmdet cannot do that",
    "data.max_bad_images=1": "data.max_bad_images: unreadable images: the engine mmdet cannot do that",
    "train.batch=26": "train.batch: 26 is more than the 24 training images",
    "train.micro_batch=3": "train.micro_batch: 3 images on 1 processes do not divide the batch of 4",
    "data.root=elsewhere": "elsewhere",
    "data.image_size=[40,40]": "data.image_size: 40x40 is not divisible by 16",
    "detector=nowhere.pth": "nowhere.pth",
}


@pytest.mark.parametrize("value", CASES)
def test_what_cannot_be_done_is_told_before_any_work(place: Path, value: str) -> None:
    with pytest.raises(MaeBenchError, match=CASES[value].replace("(", r"\(")):
        run_of(place, "bad", value)
    assert not (place / "runs/bad").exists()


# ---------------------------------------------------------------- MMDetection's own tools

OWN_TOOLS = """
import sys, torch
from mmengine.config import Config
config = Config.fromfile(sys.argv[1])      # as tools/train.py does; custom_imports makes our parts known
from mmengine.runner import Runner
config.work_dir = sys.argv[2]
config.train_cfg.max_iters = config.train_cfg.val_interval = 2
config.train_dataloader.num_workers = 0
config.train_dataloader.persistent_workers = False
config.default_hooks.checkpoint.interval = 2
runner = Runner.from_cfg(config)
runner.train()
print("metrics", sorted(runner.message_hub.log_scalars)[:3], runner.iter)
print("backbone", runner.model.backbone.digest)
"""


@pytest.mark.slow
def test_the_native_config_is_for_the_engines_own_tools(place: Path, tmp_path: Path) -> None:
    native = place / "runs/theirs/mmdet_config.py"
    assert native.read_text().startswith(f"# demo/coco with {BACKBONE}, as mae-bench gave it to MMDetection.")
    script = tmp_path / "tool.py"
    script.write_text(OWN_TOOLS)
    done = finish([str(script), str(native), str(tmp_path / "work")], tmp_path)
    assert "coco/bbox_mAP" in done.stdout + done.stderr
    assert "coco/segm_mAP" in done.stdout + done.stderr
    assert f"backbone {result(place / 'runs/theirs')['backbone']['digest']}" in done.stdout
    assert (tmp_path / "work/iter_2.pth").exists()


@pytest.mark.slow
def test_two_processes_train_and_judge_together(place: Path) -> None:
    arguments = ["run", "--task", "demo/coco", "--engine", "mmdet", "--backbone", BACKBONE, "--name", "two"]
    arguments += ["--data-root", str(place / "data"), "--runs", str(place / "runs")]
    arguments += merged("train.steps=2", "optim.milestones=[1]")
    finish(on_two_processes(["-m", "mae_bench", *arguments]), place)
    found = result(place / "runs/two")
    assert found["hardware"]["processes"] == 2
    assert (found["batch"], found["micro_batch"]) == (4, 2)
    assert found["metrics"].keys() == result(place / "runs/theirs")["metrics"].keys()


# ---------------------------------------------------------------- MMDetection's own configs

MASKS = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
BOXES = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SMALL = {
    "train_cfg.max_epochs": 1,
    "train_dataloader.batch_size": 8,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.pipeline.2.scale": [64, 64],
    "test_dataloader.num_workers": 0,
    "test_dataloader.dataset.pipeline.1.scale": [64, 64],
    "model.neck.out_channels": 8,
    "model.rpn_head.in_channels": 8,
    "model.rpn_head.feat_channels": 8,
    "model.roi_head.bbox_roi_extractor.out_channels": 8,
    "model.roi_head.bbox_head.in_channels": 8,
    "model.roi_head.bbox_head.fc_out_channels": 16,
}
SMALL_MASKS = {
    "model.roi_head.mask_roi_extractor.out_channels": 8,
    "model.roi_head.mask_head.in_channels": 8,
    "model.roi_head.mask_head.conv_out_channels": 8,
    "model.roi_head.mask_head.num_convs": 1,
}
PLAIN = "random:vit_tiny_patch16_224?embed_dim=16&depth=4&num_heads=2&img_size=64"


def native_recipe(folder: Path, native: str | None, options: dict[str, Any]) -> str:
    """The recipe for MMDetection's own configs on the generated scenes."""
    recipe = yaml.safe_load((resources.configs_dir() / "tasks/coco-mmdet-native.yaml").read_text())
    recipe["data"] |= {"root": "generated/tiny-scenes/coco", "classes": 10, "image_size": [64, 64]}
    recipe |= {"native": native, "options": options, "train": {"log_every_steps": 1}}
    path = folder / "native.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def native_run(place: Path, folder: Path, name: str, native: str | None, **options: Any) -> Any:
    return mae_bench.run(
        native_recipe(folder, native, options),
        PLAIN,
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
    )


def test_a_config_of_mmdetections_own_is_trained(place: Path, tmp_path: Path) -> None:
    native = tmp_path / "mine.py"
    native.write_text(f"_base_ = '{path_of(MASKS)}'\noptim_wrapper = dict(optimizer=dict(lr=0.001))\n")
    found = native_run(place, tmp_path, "own", str(native), **SMALL, **SMALL_MASKS)
    assert found.engine == "mmdet"
    assert (found.steps, found.batch, found.precision) == (3, 8, "fp32")
    assert found.dataset.train_images == 24
    assert {"box_ap", "mask_ap"} <= found.metrics.keys()
    folder = place / "runs/own"
    assert mae_bench.judge(folder, data_root=place / "data") == found.metrics
    image = sorted((place / "data/generated/tiny-scenes/coco/val2017").iterdir())[0]
    assert mae_bench.visualize(folder, [image], data_root=place / "data")
    from mmengine.config import Config

    written = Config.fromfile(folder / "mmdet_config.py")
    assert written.optim_wrapper.optimizer.lr == 0.001
    heads = written.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 10
    # The file decides the result, so another one is another run.
    native.write_text(native.read_text().replace("0.001", "0.002"))
    with pytest.raises(MaeBenchError, match=r"holds another run|has changed since"):
        native_run(place, tmp_path, "own", str(native), **SMALL, **SMALL_MASKS)


def test_a_detector_without_masks_is_judged_by_its_boxes(place: Path, tmp_path: Path) -> None:
    found = native_run(place, tmp_path, "boxes", BOXES, **SMALL)
    assert "box_ap" in found.metrics
    assert not any(name.startswith("mask") for name in found.metrics)
    assert mae_bench.judge(place / "runs/boxes", data_root=place / "data") == found.metrics
    assert_kept(place / "runs/boxes")
    assert mae_bench.visualize(place / "runs/boxes", count=1, data_root=place / "data")


NATIVE_CASES = {
    None: ({}, "native: give a config of MMDetection's own"),
    "nowhere.py": ({}, "native: nowhere.py cannot be read"),
    "mmdet::mask_rcnn/none.py": ({}, "native: mmdet::mask_rcnn/none.py cannot be read"),
    "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py": ({}, "model.backbone.out_indices"),
    "mmdet::openimages/faster-rcnn_r50_fpn_32xb2-1x_openimages.py": ({}, "give a config with a CocoDataset"),
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py": ({}, "has no train_dataloader"),
    MASKS: ({"model.nek.out_channels": 8}, "has no model.nek"),
}


@pytest.mark.parametrize("native", NATIVE_CASES)
def test_configs_that_will_not_do_are_told(place: Path, tmp_path: Path, native: str | None) -> None:
    options, said = NATIVE_CASES[native]
    with pytest.raises(MaeBenchError, match=said):
        native_run(place, tmp_path, "bad-native", native, **options)
    assert not (place / "runs/bad-native").exists()


def test_maps_of_other_strides_are_told(place: Path, tmp_path: Path) -> None:
    recipe = native_recipe(tmp_path, MASKS, {})
    with pytest.raises(MaeBenchError, match="gives maps of strides 2, 4, 8, 16; the heads of MMDetection's"):
        mae_bench.run(
            recipe,
            PLAIN + "&patch_size=8",
            data_root=place / "data",
            runs_root=place / "runs",
            name="strides",
        )
