"""Made-up finished runs, for the tests of results, tables and figures."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_bench.results import Result, write_result

VALUES: dict[str, Any] = {
    "schema": 1,
    "task": "imagenet-finetune",
    "recipe": "imagenet-finetune",
    "recipe_hash": "a" * 64,
    "protocol": "imagenet-finetune",
    "deviations": [],
    "notes": [],
    "dataset": {
        "name": "imagenet-1k",
        "fingerprint": "f" * 64,
        "train_images": 1281167,
        "val_images": 50000,
        "classes": 1000,
    },
    "backbone": {
        "spec": "timm:vit_base_patch16_224.mae",
        "arch": "vit_base_patch16_224",
        "digest": "d" * 64,
        "params": 85798656,
        "width": 768,
        "depth": 12,
        "patch_size": [16, 16],
        "pretraining": None,
    },
    "seed": 0,
    "metrics": {"top1": 83.6, "top5": 96.5},
    "units": {
        "top1": {"unit": "%", "higher_is_better": True, "label": "top-1"},
        "top5": {"unit": "%", "higher_is_better": True, "label": "top-5"},
    },
    "selection": "last step",
    "steps": 125100,
    "images_seen": 128102400,
    "epochs": 100.0,
    "batch": 1024,
    "micro_batch": 128,
    "precision": "bf16",
    "hardware": {"device": "a device", "kind": "cuda", "processes": 1, "cores": 8, "threads": 8},
    "wall_clock_s": 3600.0,
    "versions": {"python": "3.11.0", "torch": "2.6.0"},
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-02T00:00:00+00:00",
    "command": ["mae-bench", "run", "--task", "imagenet-finetune"],
    "config": {"task": "imagenet.finetune", "data": {"image_size": [224, 224]}},
}


def values(**changes: Any) -> dict[str, Any]:
    """The content of a valid `result.json` with changes; mappings are merged, except metrics."""
    merged = copy.deepcopy(VALUES)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict) and key != "metrics":
            merged[key] |= value
        else:
            merged[key] = value
    return merged


def store(root: Path, name: str, top1: float | None = None, **changes: Any) -> Path:
    """Write a finished run into `root / name`."""
    if top1 is not None:
        changes["metrics"] = {"top1": top1}
    folder = root / name
    folder.mkdir(parents=True)
    write_result(folder, Result.model_validate(values(**changes)))
    return folder


def deviation(key: str, published: Any, ours: Any) -> dict[str, Any]:
    return {"key": key, "published": published, "ours": ours}
