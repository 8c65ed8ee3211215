"""A classification dataset whose classes are colours: three folders of 16x16 images, learnt in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mae_bench import yamlfile
from mae_bench.recipe import resolve
from mae_bench.run import Run, folder_for

BACKBONE = "random:vit_tiny_patch16_224?embed_dim=24&depth=2&num_heads=3&patch_size=4&img_size=16"
COLOURS = {"blue": (60, 90, 190), "green": (80, 180, 70), "red": (190, 70, 60)}
TRAIN, VAL = 12, 7
"""Images of each class."""

DATA: dict[str, Any] = {
    "name": "colours",
    "root": "colours",
    "image_size": [16, 16],
    "augment": {"crop": {"kind": "center"}, "flip": 0.0},
    "evaluation": {"resize": None},
    "workers": 0,
}
AUGMENTED: dict[str, Any] = {
    "crop": {"kind": "random_resized", "scale": [0.5, 1.0]},
    "flip": 0.5,
    "rand_augment": "rand-m5-mstd0.5-inc1",
    "erase": {"prob": 0.25},
}
TRAIN_SETTINGS: dict[str, Any] = {"epochs": 20, "batch": 18, "micro_batch": 18, "log_every_steps": 1}
FINETUNE: dict[str, Any] = {
    "task": "imagenet.finetune",
    "precision": "fp32",
    "data": {**DATA, "augment": AUGMENTED},
    "pooling": "mean",
    "drop_path": 0.1,
    "label_smoothing": 0.1,
    "mix": {"mixup": 0.8, "cutmix": 1.0},
    "train": TRAIN_SETTINGS,
    "optim": {"lr": 0.003, "layer_decay": 0.75, "warmup_epochs": 2},
}
PARTIAL: dict[str, Any] = {**FINETUNE, "task": "imagenet.partial", "blocks": 1, "data": DATA, "mix": None}
LINEAR: dict[str, Any] = {
    "task": "imagenet.linear",
    "precision": "fp32",
    "data": DATA,
    "pooling": "mean",
    "norm_batch": 18,
    "train": {**TRAIN_SETTINGS, "epochs": 60},
    "optim": {"name": "lars", "lr": 5.0, "weight_decay": 0.0, "warmup_epochs": 2},
}
KNN: dict[str, Any] = {
    "task": "imagenet.knn",
    "precision": "fp32",
    "data": DATA,
    "pooling": "cls",
    "k": [1, 5],
    "headline_k": 5,
}


def write_colours(data_root: Path) -> Path:
    """Write the dataset below `data_root`."""
    random = np.random.RandomState(7)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name, colour in COLOURS.items():
            folder = data_root / "colours" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.array(colour) + random.normal(0, 40, (16, 16, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return data_root


def write_recipe(folder: Path, values: dict[str, Any], name: str = "colours") -> str:
    """Write a recipe file; returns its path, which names the recipe."""
    path = folder / f"{name}.yaml"
    path.write_text(yamlfile.dump(values))
    return str(path)


def open_run(root: Path, values: dict[str, Any], *overrides: str, backbone: str = BACKBONE) -> Run:
    """An opened run of a recipe below `root`, where the dataset is."""
    resolved = resolve(write_recipe(root, values), list(overrides), {"backbone": backbone})
    adapter = resolved.adapter_class(resolved.config)
    run = Run(adapter, folder_for(resolved.config, root / "runs"), data_root=root, runs_root=root / "runs")
    run.open()
    return run
