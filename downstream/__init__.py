"""The downstream tasks. `ADAPTERS` is the visible table: name in recipes -> "module:Class".

The core finds it through the entry point group `mae_bench.adapters`, as it finds any other package's.
Importing this package imports nothing else.
"""

from __future__ import annotations

# detectron2 is on no package index; pure Python is enough.
_DETECTRON2 = (
    "[detectron2] + detectron2 "
    "(git clone https://github.com/facebookresearch/detectron2, and its folder on PYTHONPATH)"
)

ADAPTERS: dict[str, str] = {
    "detection.detectron2": f"downstream.detection.detectron2.task:Detectron2 {_DETECTRON2}",
    "detection.mmdet": "downstream.detection.mmdet.task:MMDet [openmmlab]",
    "detection.torchvision": "downstream.detection.task:Detection",
    "imagenet.finetune": "downstream.classification.finetune:Finetune",
    "imagenet.knn": "downstream.classification.knn:KNN",
    "imagenet.linear": "downstream.classification.linear:Linear",
    "imagenet.partial": "downstream.classification.partial:Partial",
    "imagenet.scratch": "downstream.classification.scratch:Scratch",
    "native.detectron2": f"downstream.detection.detectron2.native:Detectron2Native {_DETECTRON2}",
    "native.mmdet": "downstream.detection.mmdet.native:MMDetNative [openmmlab]",
    "native.mmseg": "downstream.segmentation.mmseg.native:MMSegNative [openmmlab]",
    "robustness.imagenet": "downstream.robustness.task:Robustness",
    "segmentation.mmseg": "downstream.segmentation.mmseg.task:MMSeg [openmmlab]",
    "segmentation.native": "downstream.segmentation.task:Segmentation",
}
