"""A table with all that a table can have: groups of rows and columns, words, footnotes, seeds, departures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench.results import StoredRun
from mae_bench.tables import arranging
from mae_bench.tables.rows import Group
from mae_bench.tables.views import View
from tests.sample_runs import deviation, store

LAYOUT = """\
id: rich
title: A rich table
paper: A paper
caption: Accuracy and error (%).
columns:
- {key: ft, label: Fine-tuned, group: ImageNet-1K}
- {key: lin, label: Linear, group: ImageNet-1K}
- {key: err, label: Error, better: lower, group: ImageNet-C}
- {key: size, label: Params, unit: M, better: null, decimals: 0}
facts:
- {key: backbone, label: Backbone, ours: backbone.arch}
- {key: data, label: Data, ours: backbone.pretraining.dataset}
sources:
  paper: "A paper, Table 1 & 2"
  memory: memory
published:
- name: MAE
  facts: {backbone: ViT-B, data: IN1K}
  values: {ft: 83.6, lin: 68.0, err: 51.7, size: 86}
  source: [paper]
  verified: true
  note: "1600 epochs."
- {name: MAE, facts: {backbone: ViT-L, data: IN1K}, values: {ft: 85.9, lin: 75.8, err: 41.8, size: 304}, source: [paper], verified: true}
- {name: Rumour, facts: {backbone: ViT-B}, values: {ft: 99.9}, source: [memory], verified: false}
- name: Larger <pictures>
  facts: {backbone: ViT-L}
  values: {ft: 86.9}
  source: [paper]
  verified: true
  protocol: {epochs: 50, image_size: [384, 384], selection: best of 3 seeds}
rows: name
names:
- {where: {backbone.spec: "timm:*.*"}, name: "{tag}"}
ours:
- {task: imagenet-finetune, metric: top1, column: ft}
- {task: imagenet-linear, metric: top1, column: lin}
- {task: imagenet-robustness, metric: in_c_mce, column: err}
selection: "last step*"
notes:
- "50 % of what stands here is made up."
"""
LARGE = {
    "spec": "timm:vit_large_patch16_224.mae_l",
    "arch": "vit_large_patch16_224",
    "digest": "1" * 64,
    "params": 303301632,
}
DINO = {"spec": "timm:vit_base_patch16_224.dino", "digest": "2" * 64, "pretraining": {"dataset": "IN1K"}}


def filled(root: Path) -> Path:
    """Three seeds of a fine-tuned ViT-B and its linear probe, a ViT-L, and runs that depart."""
    for seed, top1 in enumerate([83.4, 83.6, 83.9]):
        store(root, f"base-{seed}", top1, seed=seed)
    store(root, "linear", 68.2, task="imagenet-linear", recipe="imagenet-linear", protocol="imagenet-linear")
    store(root, "large", 86.1, backbone=LARGE, recipe_hash="c" * 64)
    short = [deviation("train.batch", 1024, 64), deviation("train.epochs", 100, 12)]
    store(root, "dino", 80.04, backbone=DINO)
    store(root, "dino-short", 76.5, backbone=DINO, recipe_hash="b" * 64, deviations=short)
    store(root, "picked", 84.6, seed=9, recipe_hash="e" * 64, selection="best of all epochs")
    robust: dict[str, Any] = {"task": "imagenet-robustness", "recipe": "robustness", "protocol": "robustness"}
    store(root, "robust", **robust, metrics={"in_c_mce": 50.95}, units={"in_c_mce": _ERROR})
    return root


_ERROR = {"unit": "%", "higher_is_better": False, "label": "mCE"}

VIEW = View(sort="ft", group="size", delta="MAE, ViT-B", intervals=True)


def fixed_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals that follow from the number alone; runs of the ViT-L have none."""

    def computed(self: arranging.Intervals, group: Group) -> tuple[float, float] | str:
        run: StoredRun = group.runs[0]
        if run.name == "large":
            return "no outcomes of single samples were saved for top1"
        return group.values[0] - 0.3, group.values[0] + 0.25

    monkeypatch.setattr(arranging.Intervals, "_computed", computed)
