"""The downstream tasks. `ADAPTERS` is the visible table: name in recipes -> "module:Class".

The core finds it through the entry point group `mae_bench.adapters`, as it finds any other package's.
Importing this package imports nothing else.
"""

from __future__ import annotations

ADAPTERS: dict[str, str] = {
    "detection.torchvision": "downstream.detection.task:Detection",
    "imagenet.finetune": "downstream.classification.finetune:Finetune",
    "imagenet.knn": "downstream.classification.knn:KNN",
    "imagenet.linear": "downstream.classification.linear:Linear",
    "imagenet.partial": "downstream.classification.partial:Partial",
    "imagenet.scratch": "downstream.classification.scratch:Scratch",
    "segmentation.native": "downstream.segmentation.task:Segmentation",
}
