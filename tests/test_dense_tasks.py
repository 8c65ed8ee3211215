"""Detection and segmentation from end to end, on generated scenes in the official layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask
from PIL import Image
from safetensors.torch import load_file

import mae_bench
from mae_bench.errors import MaeBenchError
from mae_bench.scenes import CLASSES
from tests.kept_outcomes import assert_kept
from tests.launch import finish, on_two_processes

BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&embed_dim=16&depth=2&num_heads=2&img_size=32"
COCO = [
    "data.root=generated/tiny-scenes/coco",
    "precision=fp32",
    "train.steps=4",
    "train.batch=4",
    "train.micro_batch=2",
    "optim.milestones=[3]",
    "optim.warmup_steps=1",
    "model.attention.global_blocks=[1]",
    "model.attention.window=3",
    "model.pyramid.channels=8",
    "model.heads.box_width=8",
    "data.workers=0",
]
ADE20K = [
    "data.root=generated/tiny-scenes/ade20k",
    "precision=fp32",
    "train.steps=4",
    "train.batch=4",
    "train.micro_batch=2",
    "optim.warmup_steps=1",
    "model.blocks=[0,0,1,1]",
    "model.channels=8",
    "model.auxiliary_channels=8",
    "data.workers=0",
]
TASKS = {"demo/coco": COCO, "demo/ade20k": ADE20K}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated data, and both tasks run once as `runs/coco` and `runs/ade20k`."""
    place = tmp_path_factory.mktemp("dense")
    for task, overrides in TASKS.items():
        name = task.removeprefix("demo/")
        mae_bench.run(
            task, BACKBONE, overrides, data_root=place / "data", runs_root=place / "runs", name=name
        )
    return place


def result(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "result.json").read_text())
    return values


def without(overrides: Sequence[str], *keys: str) -> list[str]:
    return [text for text in overrides if text.partition("=")[0] not in keys]


def test_what_a_detection_run_leaves(place: Path) -> None:
    run = place / "runs/coco"
    values = result(run)
    metrics, details = values["metrics"], values["details"]
    assert isinstance(metrics, dict)
    assert isinstance(details, dict)
    assert list(metrics)[:2] == ["box_ap", "mask_ap"]
    assert all(0 <= value <= 100 for value in metrics.values())
    assert values["selection"] == "last step (no step was chosen by its AP)"
    assert values["dataset"] == {
        **values["dataset"],  # type: ignore[dict-item]
        "name": "generated-scenes-coco",
        "train_images": 24,
        "val_images": 8,
        "classes": 10,
    }
    assert set(details["per_class"]) == set(CLASSES)
    records = json.loads((run / "detections.json").read_text())
    assert records
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(records[0])
    assert_kept(run)


def test_what_a_segmentation_run_leaves(place: Path) -> None:
    run = place / "runs/ade20k"
    values = result(run)
    metrics, details = values["metrics"], values["details"]
    assert isinstance(metrics, dict)
    assert isinstance(details, dict)
    assert list(metrics) == ["miou", "macc", "aacc"]
    assert details["batch_norm_images"] == 2
    assert "Batch norm took its statistics from 2 images at a time" in str(values["notes"])
    maps = sorted((run / "predictions").rglob("*.png"))
    assert [path.name for path in maps] == [f"ADE_val_{number:08d}.png" for number in range(1, 9)]
    with Image.open(maps[0]) as saved:
        assert saved.size == (64, 64)
        labels = np.asarray(saved)
    assert 1 <= labels.min() <= labels.max() <= 11
    assert_kept(run)


@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_a_run_is_judged_again_without_its_model(place: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "copy"
    shutil.copytree(place / "runs" / name, run)
    for weights in ("model.safetensors", "checkpoints"):
        path = run / weights
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert mae_bench.judge(run, data_root=place / "data") == result(run)["metrics"]


def test_the_truth_itself_judged_again_is_perfect(place: Path, tmp_path: Path) -> None:
    """Saved predictions are what is judged, and nothing else."""
    coco, ade = tmp_path / "coco", tmp_path / "ade20k"
    shutil.copytree(place / "runs/coco", coco)
    shutil.copytree(place / "runs/ade20k", ade)
    world = place / "data/generated/tiny-scenes"
    truth = json.loads((world / "coco/annotations/instances_val2017.json").read_text())
    things = [{**thing, "score": 0.9} for thing in truth["annotations"] if not thing["iscrowd"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for thing in things:
        thing["segmentation"] = run_lengths(thing["segmentation"], *sizes[thing["image_id"]])
    (coco / "detections.json").write_text(json.dumps(things))
    metrics = mae_bench.judge(coco, data_root=place / "data")
    assert metrics["box_ap"] == pytest.approx(100)
    assert metrics["mask_ap"] == pytest.approx(100)
    shutil.rmtree(ade / "predictions")
    shutil.copytree(world / "ade20k/annotations/validation", ade / "predictions")
    perfect = {"miou": 100.0, "macc": 100.0, "aacc": 100.0}
    assert mae_bench.judge(ade, data_root=place / "data") == perfect


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Polygons or run lengths as compressed run lengths, which a result holds."""
    if isinstance(segmentation, list):
        coded = mask.merge(mask.frPyObjects(segmentation, height, width))
    else:
        coded = segmentation
        if isinstance(coded["counts"], list):
            coded = mask.frPyObjects(coded, height, width)
    counts = coded["counts"]
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_pictures_of_a_run(place: Path, tmp_path: Path, name: str) -> None:
    run = place / "runs" / name
    (path,) = mae_bench.visualize(run, count=2, data_root=place / "data")
    with Image.open(path) as picture:
        assert min(picture.size) > 64
    own = tmp_path / "own.png"
    Image.effect_noise((50, 38), 60).convert("RGB").save(own)
    (path,) = mae_bench.visualize(run, [own], data_root=place / "data")
    with Image.open(path) as picture:
        assert min(picture.size) > 32
    with pytest.raises(MaeBenchError, match="cannot be read as an image"):
        mae_bench.visualize(run, [run / "config.yaml"], data_root=place / "data")


@pytest.mark.parametrize("task", list(TASKS))
def test_an_interrupted_run_ends_with_the_same_weights(place: Path, tmp_path: Path, task: str) -> None:
    """Killed between two steps: what the last checkpoint holds is enough."""
    from mae_bench import train

    class KilledError(Exception):
        pass

    def killed(self: train._Fit, loss: float, rate: float) -> None:
        if self.at.step == 3:
            raise KilledError

    overrides = [*TASKS[task], "train.save_every_steps=2"]
    roots = {"data_root": place / "data", "runs_root": tmp_path, "name": "killed"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Fit, "_log", killed)
        with pytest.raises(KilledError):
            mae_bench.run(task, BACKBONE, overrides, **roots)  # type: ignore[arg-type]
    mae_bench.run(task, BACKBONE, overrides, **roots)  # type: ignore[arg-type]
    whole = load_file(place / "runs" / task.removeprefix("demo/") / "model.safetensors")
    resumed = load_file(tmp_path / "killed/model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_two_processes_judge_as_one_does(place: Path, tmp_path: Path, name: str) -> None:
    """The same weights, evaluated by one process and by two: the same files and numbers, to the last digit."""
    one = place / "runs" / name
    done = finish(
        on_two_processes(["-m", "tests.judge_main", str(one), str(tmp_path / "two"), str(place / "data")]),
        tmp_path,
    )
    assert json.loads(done.stdout.strip().splitlines()[-1]) == result(one)["metrics"]
    left = [one / "outcomes.npz", one / "detections.json", *(one / "predictions").rglob("*.png")]
    for path in left:
        if path.exists():
            assert (tmp_path / "two" / path.relative_to(one)).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_two_processes_train_as_one_does(place: Path, tmp_path: Path, task: str) -> None:
    """Losses of the first steps agree: the same images, sampled alike in each process's share."""
    # Sampling of proposals depends on the process, so all of them are taken; batch norm is shared.
    overrides = [
        *without(TASKS[task], "train.micro_batch", "train.steps"),
        "train.steps=3",
        "data.augment.flip=0.0",
    ]
    if task == "demo/coco":
        overrides += ["model.proposals.batch=100000", "model.heads.batch=4000", "train.micro_batch=2"]
    else:
        overrides += ["model.dropout=0.0"]
    losses = {}
    for world in (1, 2):
        command = ["-m", "mae_bench", "run", "--task", task, "--backbone", BACKBONE, *overrides]
        command += [
            "--data-root",
            str(place / "data"),
            "--runs",
            str(tmp_path / str(world)),
            "train.log_every_steps=1",
        ]
        finish(on_two_processes(command) if world == 2 else command, tmp_path)
        (log,) = (tmp_path / str(world)).rglob("metrics.jsonl")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        losses[world] = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[2] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("task", list(TASKS))
def test_check_tells_what_was_found(place: Path, tmp_path: Path, task: str) -> None:
    lines = mae_bench.check(task, BACKBONE, TASKS[task], data_root=place / "data", runs_root=tmp_path)
    text = "\n".join(lines)
    assert "24 training images" in text
    assert "8 validation images" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "override", "said"),
    [
        ("demo/coco", "train.batch=26", "train.batch: 26 is more than the 24 training images"),
        ("demo/coco", "data.root=elsewhere", "elsewhere"),
        ("demo/coco", "model.attention.global_blocks=[7]", "blocks 0 to 1"),
        ("demo/coco", "data.classes=80", "10 categories, but data.classes is 80"),
        ("demo/coco", "data.image_size=[24,24]", "does not fit into image_size [24, 24]"),
        ("demo/coco", "detector=nowhere.pth", "nowhere.pth"),
        (
            "demo/coco",
            "evaluate_only=true",
            "evaluate_only: there is nothing to evaluate; give detector=FILE",
        ),
        ("demo/ade20k", "train.batch=26", "train.batch: 26 is more than the 24 training images"),
        ("demo/ade20k", "data.class_list=nothing.txt", "nothing.txt"),
        ("demo/ade20k", "data.image_size=[60,60]", "not cut into whole patches of 8 x 8"),
        ("demo/ade20k", "model.blocks=[0,1]", "blocks: a UperNet takes four, not [0, 1]"),
        ("demo/ade20k", "train.micro_batch=1", "UperNet normalises one mean"),
    ],
)
def test_mistakes_are_told_in_words(place: Path, task: str, override: str, said: str) -> None:
    key = override.partition("=")[0]
    assert said in refused_with(place, task, [*without(TASKS[task], key), override])


def refused_with(place: Path, task: str, overrides: list[str]) -> str:
    runs = place / "refused"
    with pytest.raises(MaeBenchError) as caught:
        mae_bench.run(task, BACKBONE, overrides, data_root=place / "data", runs_root=runs)
    assert not [path for path in runs.rglob("*") if path.is_file()]
    return str(caught.value)


def test_a_given_detector_is_judged_without_training(place: Path, tmp_path: Path) -> None:
    trained = place / "runs/coco"
    again = mae_bench.run(
        "demo/coco",
        BACKBONE,
        [*COCO, f"detector={trained / 'model.safetensors'}", "evaluate_only=true"],
        data_root=place / "data",
        runs_root=tmp_path,
        name="judged",
    )
    assert again.metrics == result(trained)["metrics"]
    assert again.steps is None
    assert (tmp_path / "judged/detector_report.json").exists()


def test_a_linear_head_on_a_frozen_backbone_leaves_it_as_it_was(place: Path, tmp_path: Path) -> None:
    overrides = without(ADE20K, "model.blocks", "model.channels", "model.auxiliary_channels")
    mae_bench.run(
        "demo/ade20k",
        BACKBONE,
        [
            *overrides,
            "model.head=linear",
            "model.blocks=last",
            "model.freeze=true",
            "model.relative_positions=false",
            "optim.layer_decay=null",
        ],
        data_root=place / "data",
        runs_root=tmp_path,
        name="linear",
    )
    before = mae_bench.load_backbone(BACKBONE).state_dict()
    after = load_file(tmp_path / "linear/model.safetensors")
    name = "vit.blocks.0.mlp.fc1.weight"
    assert torch.equal(after[f"backbone.backbone.{name}"], before[name])
