"""Datasets of the reader's own: the YAML files of docs/own-data.md, run as they stand on small data, with small models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mae_bench import cli, scenes

PAGE = Path(__file__).resolve().parent.parent / "docs/own-data.md"
BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&img_size=32&embed_dim=24&depth=2&num_heads=2"
SIZE = "data.image_size=[32, 32]"

# What makes a published recipe small enough for a test; the data stays as the page has it.
SHORT = ["train.epochs=null", "train.steps=2", "published_arch=null", "precision=fp32"]
SMALL = {
    "flowers": [
        *SHORT,
        SIZE,
        "data.classes=10",
        "data.evaluation.resize=null",
        "data.augment.rand_augment=null",
        "train.batch=10",
        "optim.warmup_epochs=null",
    ],
    "leaves": ["published_arch=null", "precision=fp32", SIZE, "data.evaluation.resize=null", "pooling=mean"],
    "parts": [
        *SHORT,
        "data.image_size=[64, 64]",
        "data.evaluation={short_edge: 64, long_edge: 64}",
        "data.classes=10",
        "model.attention={window: null, relative_positions: false, prefix_tokens: drop}",
        "model.pyramid={kind: simple, channels: 16, norm: layer}",
        "model.proposals={convs: 1, anchor_sizes: [4, 8, 16, 24, 32], batch: 32, before_nms: [100, 100], after_nms: [32, 32]}",
        "model.heads={box_convs: 1, box_width: 32, mask_convs: 1, batch: 16, detections: 20}",
        "train.batch=2",
        "optim.warmup_steps=1",
    ],
    "streets": [
        *SHORT,
        "data.image_size=[64, 64]",
        "data.augment.base=[64, 128]",
        "data.evaluation={mode: whole, base: [64, 128]}",
        "model.blocks=[0, 0, 1, 1]",
        "model.channels=16",
        "model.auxiliary_channels=16",
        "model.relative_positions=false",
        "train.batch=2",
        "optim.warmup_steps=1",
    ],
}
METRIC = {"flowers": "top1", "leaves": "top1", "parts": "box_ap", "streets": "miou"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files of the page, and data of one's own under the names that they give."""
    place = tmp_path_factory.mktemp("own")
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (place / re.match(r"# ([\w-]+\.yaml)", block)[1]).write_text(block, encoding="utf-8")  # type: ignore[index]
    tiny = scenes.ensure(place / "drawn", "tiny")
    dense = scenes.ensure(place / "drawn", "tiny-scenes")
    data = place / "data"
    shutil.copytree(tiny, data / "flowers", ignore=shutil.ignore_patterns("unlabeled", "world.json"))
    as_lists(tiny, data / "leaves")
    as_parts(dense / "coco", data / "parts")
    as_streets(dense / "ade20k", data / "streets")
    return place


def as_lists(tiny: Path, folder: Path) -> None:
    classes = sorted(path.name for path in (tiny / "train").iterdir())
    for split in ("train", "val"):
        lines = []
        for number, source in enumerate(sorted((tiny / split).rglob("*.png"))):
            target = folder / "images" / split / f"leaf{number:03d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            lines.append(f"{split}/{target.name} {classes.index(source.parent.name)}\n")
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def as_parts(coco: Path, folder: Path) -> None:
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(coco / f"{split}2017", folder / split)
        shutil.copyfile(
            coco / f"annotations/instances_{split}2017.json", folder / f"annotations/{split}.json"
        )


def as_streets(ade: Path, folder: Path) -> None:
    for part in ("training", "validation"):
        shutil.copytree(ade / "images" / part, folder / "images" / part)
        shutil.copytree(ade / "annotations" / part, folder / "labels" / part)
    # In these maps 0 is a class like the others: pixels beside an object.
    (folder / "classes.txt").write_text("edge\n" + (ade / "classes.txt").read_text(), encoding="utf-8")


def ours(place: Path, *arguments: str) -> Any:
    runs = ["--runs", str(place / "runs")] if arguments[0] in ("check", "run", "table") else []
    data = ["--data-root", str(place / "data")] if arguments[0] != "table" else []
    return CliRunner().invoke(cli.app, [*arguments, *data, *runs])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_a_file_of_a_few_lines_is_a_task(place: Path, name: str) -> None:
    recipe = str(place / f"{name}.yaml")
    for command in (["check", recipe], ["run", "--task", recipe, "--name", name]):
        answer = ours(place, *command, "--backbone", BACKBONE, *SMALL[name])
        assert answer.exit_code == 0, answer.stderr
    result = json.loads((place / "runs" / name / "result.json").read_text())
    assert (result["recipe"], result["dataset"]["name"]) == (name, name)
    assert METRIC[name] in result["metrics"]
    assert result["deviations"] == []
    assert len(result["dataset"]["fingerprint"]) == 64
    if name == "leaves":
        assert result["dataset"]["train_images"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_its_data_is_checked_before(place: Path, name: str) -> None:
    answer = ours(place, "data", "check", str(place / f"{name}.yaml"), *SMALL[name])
    assert answer.exit_code == 0, answer.stdout + answer.stderr


def test_what_is_wrong_with_it_is_said(place: Path) -> None:
    answer = ours(place, "check", str(place / "flowers.yaml"), "--backbone", BACKBONE)
    assert answer.exit_code == 2
    assert "data.classes is 102, but " in answer.stderr


@pytest.mark.slow
def test_a_layout_of_ones_own_shows_it(place: Path) -> None:
    recipe = str(place / "flowers.yaml")
    assert (
        ours(
            place, "run", "--task", recipe, "--backbone", BACKBONE, *SMALL["flowers"], "--name", "f"
        ).exit_code
        == 0
    )
    answer = ours(place, "table", str(place / "flowers-table.yaml"), "--format", "csv")
    result = json.loads((place / "runs/f/result.json").read_text())
    assert f",Fine-tune,%,higher,{result['metrics']['top1']:g}," in answer.stdout
