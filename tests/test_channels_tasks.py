"""Every task from recipe to result on images of one channel and of four."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

import mae_bench
from mae_bench import api, scenes
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result
from tests.colours import BACKBONE, DATA, FINETUNE, KNN, LINEAR, PARTIAL, write_recipe
from tests.test_dense_tasks import ADE20K, COCO
from tests.test_dense_tasks import BACKBONE as DENSE

COUNTS = (1, 4)
LEVELS = {"dark": 60, "light": 130, "bright": 200}
MANY, FEW = 12, 7
"""Training and validation images of each class."""


def write_levels(root: Path, channels: int) -> Path:
    """Classes that differ in the last channel only: pictures to train on, NumPy files to judge by."""
    random = np.random.RandomState(7)
    for split, count in (("train", MANY), ("val", FEW)):
        for name, level in LEVELS.items():
            folder = root / "colours" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.normal(128, 40, (16, 16, channels))
                pixels[:, :, -1] += level - 128
                array = pixels.clip(0, 255).astype(np.uint8)
                if split == "val":
                    np.save(folder / f"{index}.npy", array)
                else:
                    Image.fromarray(array[:, :, 0] if channels == 1 else array).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module", params=COUNTS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Where the dataset `colours` of so many channels is, and how many."""
    return write_levels(tmp_path_factory.mktemp(f"of{request.param}"), request.param), request.param


AUGMENT = {"crop": {"kind": "random_resized", "scale": [0.5, 1.0]}, "flip": 0.5, "erase": {"prob": 0.25}}
TASKS: dict[str, dict[str, Any]] = {
    "finetune": {**FINETUNE, "data": {**DATA, "augment": AUGMENT}},
    "scratch": {**FINETUNE, "task": "imagenet.scratch", "data": DATA},
    "linear": LINEAR,
    "partial": PARTIAL,
    "partial, augmented": {**PARTIAL, "data": {**DATA, "augment": AUGMENT}},
    "knn": {**KNN, "pooling": "mean"},
}


def recipe(root: Path, channels: int, values: dict[str, Any], name: str) -> str:
    values = {**values, "data": {**values["data"], "channels": channels}}
    return write_recipe(root, values, name.replace(", ", "-"))


@pytest.mark.parametrize("name", TASKS)
def test_classification(world: tuple[Path, int], tmp_path: Path, name: str) -> None:
    root, channels = world
    path = recipe(tmp_path, channels, TASKS[name], name)
    lines = api.check(path, BACKBONE, data_root=root, runs_root=tmp_path / "runs")
    assert f"images reach the model as {channels} x 16 x 16 (channels, height, width)" in lines
    result = api.run(path, BACKBONE, data_root=root, runs_root=tmp_path / "runs")
    # All but the last channel are noise, so this is learnt from the last one.
    assert result.metrics["top1"] > 80
    assert result.config["data"]["channels"] == channels
    (report,) = (tmp_path / "runs").rglob("load_report.json")
    facts = json.loads(report.read_text())
    assert (facts["mean"], facts["std"]) == ([0.5] * channels, [0.5] * channels)
    weights = list((tmp_path / "runs").rglob("model.safetensors"))
    assert len(weights) == (name != "knn")
    for file in weights:
        kernels = [value for key, value in load_file(file).items() if key.endswith("patch_embed.proj.weight")]
        assert all(kernel.shape[1] == channels for kernel in kernels)


def test_the_weights_decide_which_images_fit(world: tuple[Path, int], tmp_path: Path) -> None:
    root, channels = world
    with pytest.raises(
        MaeBenchError, match=f"data.channels is 3; give images of 3, or set data.channels={channels}"
    ):
        # Grey pictures can be shown in colour; a NumPy file is what it is.
        api.run(write_recipe(tmp_path, KNN), BACKBONE, data_root=root, runs_root=tmp_path / "runs")
    pretrained = api.pretrain(pretraining(tmp_path, channels), data_root=root, runs_root=tmp_path, name="mae")
    assert pretrained.metrics["loss"] > 0
    with pytest.raises(MaeBenchError, match=f"weights take {channels} image channels, and the task gives 3"):
        api.run(
            write_recipe(tmp_path, KNN), str(tmp_path / "mae"), data_root=root, runs_root=tmp_path / "runs"
        )


def pretraining(folder: Path, channels: int) -> str:
    values: dict[str, Any] = {
        "task": "mae",
        "precision": "fp32",
        "data": {**DATA, "augment": {"crop": {"kind": "random_resized"}}},
        "mean": [0.5] * channels,
        "std": [0.25] * channels,
        "model": {
            "arch": "vit_tiny_patch16_224",
            "args": {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3},
        },
        "decoder": {"dim": 16, "depth": 1, "heads": 2},
        "train": {"steps": 6, "batch": 18, "micro_batch": 18, "log_every_steps": 1},
        "optim": {"lr": 1.0e-3},
    }
    return recipe(folder, channels, values, "mae")


def test_pretraining_and_what_comes_after(world: tuple[Path, int], tmp_path: Path) -> None:
    root, channels = world
    result = api.pretrain(pretraining(tmp_path, channels), data_root=root, runs_root=tmp_path, name="mae")
    assert 0 < result.metrics["loss"] < 10
    encoder = load_file(tmp_path / "mae/encoder.safetensors")
    assert encoder["patch_embed.proj.weight"].shape == (24, channels, 4, 4)
    again = api.run(
        recipe(tmp_path, channels, {**KNN, "pooling": "mean"}, "knn"),
        str(tmp_path / "mae"),
        data_root=root,
        runs_root=tmp_path / "runs",
    )
    assert again.metrics["top1"] > 50
    for images in ([], [root / "colours/val/dark/0.npy", root / "colours/train/dark/0.png"]):
        (path,) = mae_bench.visualize(tmp_path / "mae", images, data_root=root)
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert picture.width > 4 * 16
    np.save(tmp_path / "two.npy", np.zeros((16, 16, 2), dtype=np.uint8))
    with pytest.raises(MaeBenchError, match=f"it has 2 channels, but data.channels is {channels}"):
        mae_bench.visualize(tmp_path / "mae", [tmp_path / "two.npy"], data_root=root)


# ---------------------------------------------------------------- detection and segmentation


def of_channels(image: Path, channels: int) -> NDArray[np.uint8]:
    """Grey for one channel; else red, green, blue and their mirror images, as many as wanted."""
    with Image.open(image) as file:
        if channels == 1:
            return np.array(file.convert("L"))[:, :, None]
        colours = np.array(file.convert("RGB"))
    return np.concatenate([colours, colours[:, ::-1]], axis=2)[:, :, :channels]


@pytest.fixture(scope="module", params=COUNTS)
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with `coco` and `ade20k`, generated scenes of so many channels as NumPy files, and how many."""
    channels: int = request.param
    place = tmp_path_factory.mktemp(f"scenes-of-{channels}")
    scenes.ensure(place / "data", "tiny-scenes")
    for name in ("coco", "ade20k"):
        shutil.copytree(place / "data/generated/tiny-scenes" / name, place / name)
    for folder in ("coco/train2017", "coco/val2017", "ade20k/images/training", "ade20k/images/validation"):
        for image in sorted((place / folder).iterdir()):
            np.save(image.with_suffix(".npy"), of_channels(image, channels))
            image.unlink()
    for file in (place / "coco/annotations").iterdir():
        content = json.loads(file.read_text())
        for entry in content["images"]:
            entry["file_name"] = entry["file_name"].replace(".png", ".npy")
        file.write_text(json.dumps(content))
    return place, channels


def carried_out(dense: tuple[Path, int], task: str, runs: Path, **changes: Any) -> Result:
    """Check and run a short recipe; `changes` of the `data` section, dots as two underscores."""
    place, channels = dense
    given = dict(text.split("=", 1) for text in (COCO if task == "coco" else ADE20K))
    given |= {"train.steps": "2", "data.root": task, "data.channels": str(channels)}
    given |= {"optim.milestones": "[1]"} if task == "coco" else {"data.augment.photometric": "false"}
    given |= {f"data.{key.replace('__', '.')}": str(value) for key, value in changes.items()}
    overrides = [f"{key}={value}" for key, value in given.items()]
    lines = mae_bench.check(f"demo/{task}", DENSE, overrides, data_root=place, runs_root=runs)
    assert any("24 training images" in line for line in lines)
    return mae_bench.run(f"demo/{task}", DENSE, overrides, data_root=place, runs_root=runs, name=task)


@pytest.mark.parametrize(("task", "first"), [("coco", "box_ap"), ("ade20k", "miou")])
def test_dense_tasks(dense: tuple[Path, int], tmp_path: Path, task: str, first: str) -> None:
    place, channels = dense
    result = carried_out(dense, task, tmp_path)
    assert next(iter(result.metrics)) == first
    assert 0 <= result.metrics[first] <= 100
    assert result.steps == 2
    assert result.dataset is not None
    assert (result.dataset.train_images, result.dataset.val_images) == (24, 8)
    assert mae_bench.judge(tmp_path / task, data_root=place) == result.metrics
    kernels = [
        value
        for name, value in load_file(tmp_path / task / "model.safetensors").items()
        if name.endswith("patch_embed.proj.weight")
    ]
    assert [kernel.shape[1] for kernel in kernels] == [channels]
    own = tmp_path / "own.npy"
    np.save(own, np.random.RandomState(0).randint(0, 256, (50, 38, channels), dtype=np.uint8))
    for images in ([], [own]):
        (path,) = mae_bench.visualize(tmp_path / task, images, count=2, data_root=place)
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert min(picture.size) > 32
    np.save(own, np.zeros((50, 38, 2), dtype=np.uint8))
    with pytest.raises(MaeBenchError, match=rf"it has 2 channels, but data.channels is {channels}"):
        mae_bench.visualize(tmp_path / task, [own], data_root=place)


@pytest.mark.parametrize("task", ["coco", "ade20k"])
def test_an_image_of_other_channels_stops_a_dense_task(
    dense: tuple[Path, int], tmp_path: Path, task: str
) -> None:
    _, channels = dense
    changes = {"augment__photometric": "true"} if task == "ade20k" else {}
    with pytest.raises(
        MaeBenchError,
        match=rf"unreadable image .*\.npy: it has {channels} channels?, but data.channels is 3",
    ):
        carried_out(dense, task, tmp_path, channels=3, **changes)


def test_colours_in_a_segmentation_recipe_are_refused_before_the_start(
    dense: tuple[Path, int], tmp_path: Path
) -> None:
    _, channels = dense
    with pytest.raises(
        MaeBenchError,
        match=rf"data: augment.photometric is for RGB and channels is {channels}; set data.augment.photometric=",
    ):
        carried_out(dense, "ade20k", tmp_path, augment__photometric="true")
    assert not list(tmp_path.iterdir())


def test_a_grey_picture_is_no_picture_of_four_channels(tmp_path: Path) -> None:
    root = write_levels(tmp_path, 4)
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "PNG")
    (root / "colours/train/bright/0.png").write_bytes(stream.getvalue())
    path = recipe(tmp_path, 4, LINEAR, "linear")
    with pytest.raises(MaeBenchError, match=r"train/bright/0.png: it has 1 channel, but data.channels is 4"):
        api.run(path, BACKBONE, data_root=root, runs_root=tmp_path / "runs")
