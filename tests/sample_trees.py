"""Made-up trees of many runs with logs and pictures, for the tests and the benchmark of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.sample_runs import store

TASKS = {
    "imagenet-finetune": ("top1", 80.0),
    "imagenet-linear": ("top1", 65.0),
    "imagenet-knn": ("top1", 45.0),
    "detection": ("box_ap", 48.0),
    "segmentation": ("miou", 44.0),
}
UNITS = {
    "top1": {"unit": "%", "higher_is_better": True, "label": "top-1 accuracy"},
    "box_ap": {"unit": "%", "higher_is_better": True, "label": "box AP"},
    "miou": {"unit": "%", "higher_is_better": True, "label": "mIoU"},
}
SIZES = {"base": ("vit_base_patch16_224", 85798656), "large": ("vit_large_patch16_224", 303301632)}


def write_log(folder: Path, points: int, metric: str, end: float) -> None:
    """A training's `metrics.jsonl`: a loss that falls, a rate, and an evaluation every tenth of it."""
    lines: list[dict[str, Any]] = []
    for i in range(1, points + 1):
        step, part = 20 * i, i / points
        loss = 7.0 * math.exp(-3 * part) + 0.2 * math.sin(step)
        lines.append({"step": step, "epoch": round(100 * part, 4), "loss": loss, "lr": 1e-3 * (1 - part)})
        if i % max(1, points // 10) == 0:
            lines.append({"step": step, "eval": {metric: end * (1 - math.exp(-4 * part))}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def grow(root: Path, runs: int, points: int = 0) -> None:
    """Write `runs` finished runs of several tasks, sizes, backbones and seeds.

    Args:
        points: lines that each run logged; 0: no log.
    """
    tasks = list(TASKS)
    for number in range(runs):
        task = tasks[number % len(tasks)]
        size = list(SIZES)[number // len(tasks) % 2]
        model = number // (len(tasks) * 2 * 3)
        seed = number // (len(tasks) * 2) % 3
        metric, base = TASKS[task]
        arch, params = SIZES[size]
        end = base + model % 17 * 0.3 + seed * 0.1
        folder = store(
            root, f"{task}/model{model}-{size}-s{seed}", task=task, recipe=task, protocol=task,
            recipe_hash=f"{tasks.index(task):064x}", seed=seed, metrics={metric: end},
            units={metric: UNITS[metric]}, wall_clock_s=600.0 + number,
            finished=f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:00:00+00:00",
            backbone={"spec": f"timm:{arch}.model{model}", "arch": arch, "params": params,
                      "digest": f"{model:060x}{len(size):04x}"},
            command=["mae-bench", "run", "--task", task, "--backbone", f"timm:{arch}.model{model}",
                     "--seed", str(seed)],
        )  # fmt: skip
        if points:
            write_log(folder, points, metric, end)
