"""A task small enough to see through: fit a line to noise-free points with a two-layer network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mae_bench.adapter import Metric, TrainedAdapter
from mae_bench.data import ImageDataset
from mae_bench.run import Run, folder_for
from mae_bench.settings import TrainedConfig
from mae_bench.validation import validate


class Points:
    """A source of `count` points in the plane of three inputs, as images of one pixel."""

    classes: ClassVar[list[str]] = ["point"]

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1234)
        self.pixels = torch.randint(0, 256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Tensor:
        return self.pixels[index]

    def label(self, index: int) -> int:
        return 0

    def name(self, index: int) -> str:
        return f"point-{index}"

    def fingerprint(self) -> str:
        return "points"


def unchanged(image: Tensor, key: int) -> Tensor:
    return image


def inputs_and_targets(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs ``(B, 3)`` around 0 and the targets ``(B, 1)`` of the line."""
    inputs = (pixels.flatten(1).float() - 127.5) / 74.0
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]])


class Toy(TrainedAdapter[TrainedConfig]):
    """Mean squared error on `Points`; hooks let tests break it."""

    task = "toy"
    metrics: ClassVar[Mapping[str, Metric]] = {"mse": Metric("", False)}
    Config = TrainedConfig
    needs_backbone = False
    count = 40
    poison_step: int | None = None
    memory: int | None = None
    dropout = 0.0
    raised_at: int | None = None
    calls = 0

    def model(self, backbone: Any, run: Run) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(8, 1))

    def train_set(self, run: Run) -> ImageDataset:
        return ImageDataset(Points(self.count), unchanged, seed=self.config.seed)

    def step(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        self.calls += 1
        if self.memory is not None and len(batch["image"]) > self.memory:
            raise torch.OutOfMemoryError("pretend")
        if self.raised_at is not None and self.calls == self.raised_at:
            raise KeyboardInterrupt
        inputs, targets = inputs_and_targets(batch["image"])
        loss = (model(inputs).float() - targets).square().mean()
        if self.poison_step is not None and self.calls > self.poison_step:
            loss = loss * float("nan")
        return {"loss": loss, "half": loss.detach() / 2}

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        points = Points(self.count)
        inputs, targets = inputs_and_targets(points.pixels[run.rank :: run.world])
        errors = (model(inputs).float() - targets).square().double()
        total = run.sum(torch.stack([errors.sum(), torch.tensor(float(len(errors)), dtype=torch.float64)]))
        assert int(total[1]) == len(points)
        return {"mse": float(total[0] / total[1])}


def toy_config(**changes: Any) -> TrainedConfig:
    """Settings of the toy; keys with dots joined by two underscores (``train__steps=3``)."""
    values: dict[str, Any] = {
        "task": "toy",
        "recipe": "toy",
        "precision": "fp32",
        "data": {"name": "points", "root": "points", "workers": 0},
        "train": {"steps": 12, "batch": 8, "log_every_steps": 1, "save_every_steps": 4},
        "optim": {"lr": 0.05, "weight_decay": 0.0, "warmup_steps": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = values
        for parent in parents:
            inner = inner[parent]
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return validate(TrainedConfig, values)


def toy_run(root: Path, adapter: Toy | None = None, **changes: Any) -> Run:
    """An opened run of the toy below `root`."""
    adapter = adapter or Toy(toy_config(**changes))
    run = Run(adapter, folder_for(adapter.config, root), data_root=root, runs_root=root)
    run.open()
    return run
