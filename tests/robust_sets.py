"""The sets of the robustness evaluation in miniature, with the classes of `tests.colours`, and a classifier of colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from downstream.robustness.classifiers import TrainedClassifier
from mae_bench.corruptions import CORRUPTIONS
from mae_bench.settings import DataSettings
from tests.colours import COLOURS, DATA

CLASSES = sorted(COLOURS)
SETS: dict[str, Any] = {
    "c": {"root": "imagenet-c"},
    "a": {"root": "imagenet-a"},
    "r": {"root": "imagenet-r"},
    "sketch": {"root": "sketch"},
    "v2": {"root": "v2"},
    "real": {"root": "reassessed", "images": "val", "labels": "real.json"},
}
ROBUSTNESS: dict[str, Any] = {
    "task": "robustness.imagenet",
    "precision": "fp32",
    "data": {"name": "colours-robustness", "workers": 0},
    "sets": SETS,
}


def write_image(path: Path, colour: str, noise: float = 0.0, seed: int = 0, size: int = 16) -> None:
    """An image of one of the colours, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(COLOURS[colour]) + np.random.RandomState(seed).normal(0, noise, (size, size, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_folders(root: Path, folders: dict[str, list[str]], noise: float = 0.0, size: int = 16) -> Path:
    """Class folders with one image of each colour that is listed for them."""
    for number, (folder, colours) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index, colour in enumerate(colours):
            write_image(root / folder / f"{index}.png", colour, noise, 100 * number + index, size)
    return root


def write_corrupted(root: Path, per_class: int = 1, groups: bool = False) -> Path:
    """ImageNet-C in miniature: more noise for each severity, as unpacked together or by archive."""
    for corruption, group in CORRUPTIONS.items():
        for severity in range(1, 6):
            folder = root / (group if groups else "") / corruption / str(severity)
            write_folders(folder, {name: [name] * per_class for name in CLASSES}, 40.0 * severity)
    return root


def write_sets(root: Path) -> Path:
    """All sets below a folder."""
    write_corrupted(root / "imagenet-c")
    write_folders(root / "imagenet-a", {"blue": ["blue", "red"], "red": ["red", "red", "green"]}, 20.0)
    write_folders(root / "imagenet-r", {"green": ["green"], "red": ["red", "green"]}, 20.0)
    write_folders(root / "sketch", {name: [name, name] for name in CLASSES}, 60.0)
    write_folders(root / "v2", {str(index): [name, name] for index, name in enumerate(CLASSES)}, 60.0)
    labels: list[list[int]] = []
    for number in range(21):
        # The names go round the classes, so that they are not in the order of the paths.
        name = CLASSES[number % 3]
        write_image(root / f"reassessed/val/{name}/{number:02}.png", name, 20.0, number)
        labels.append([number % 3] if number % 5 else [])
    (root / "reassessed/real.json").write_text(json.dumps(labels))
    return root


class Nearest(nn.Module):
    """Names the colour that is nearest to an image's mean; pixels on a scale of 0 to 1."""

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.register_buffer("colours", torch.tensor([COLOURS[name] for name in classes]) / 255)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K)."""
        return -torch.cdist(images.mean(dim=(2, 3)), self.colours)  # type: ignore[arg-type]


def nearest(classes: list[str] = CLASSES, size: int = 16, **changes: Any) -> TrainedClassifier:
    """A classifier that is right about every image whose colour is that of its folder."""
    values: dict[str, Any] = {
        "spec": "nearest",
        "model": changes["model"] if "model" in changes else Nearest(classes).eval(),
        "classes": list(classes),
        "classes_from": "the test",
        "data": DataSettings.model_validate({**DATA, "image_size": [size, size]}),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "digest": "0" * 64,
        "facts": {"details": {"classifier": {"whole": "nearest"}}},
        "origin": "nearest colour",
    }
    return TrainedClassifier(**{**values, **changes})
