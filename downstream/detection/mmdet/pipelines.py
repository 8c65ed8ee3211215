"""A recipe's dataset as MMDetection reads it: its COCO dataset, its transforms, its metric."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from downstream.detection.mmdet.data import DATASET, FITTING, LOADING, METRIC
from downstream.detection.settings import DetectionData, SplitSettings
from downstream.openmmlab.recipe import Native


class Located(Protocol):
    """Settings that say where a dataset is."""

    @property
    def root(self) -> str: ...
    @property
    def train(self) -> SplitSettings: ...
    @property
    def val(self) -> SplitSettings: ...


def dataset(data: DetectionData, split: str, data_root: Path, classes: Sequence[str]) -> Native:
    """The native dataset of a split, ``train`` or ``val``, with its pipeline."""
    training = split == "train"
    return {
        "type": DATASET,
        **place(data, split, data_root, classes),
        "test_mode": not training,
        "filter_cfg": {"filter_empty_gt": data.filter_empty, "min_size": 0},
        "pipeline": train_pipeline(data) if training else test_pipeline(data),
    }


def place(data: Located, split: str, data_root: Path, classes: Sequence[str]) -> Native:
    """Where the files of a split are, and the names of its classes by label."""
    files: SplitSettings = getattr(data, split)
    return {
        "data_root": os.path.abspath(data_root / data.root),
        "ann_file": files.annotations,
        "data_prefix": {"img": files.images},
        "metainfo": {"classes": tuple(classes)},
    }


def train_pipeline(data: DetectionData) -> list[Native]:
    """Large-scale jitter by MMDetection's own transforms."""
    jitter, (height, width) = data.augment, data.image_size
    flip: Native = {"type": "RandomFlip", "prob": float(jitter.flip)}
    scaling: Native = {
        "type": "RandomResize",
        "scale": (width, height),
        "ratio_range": tuple(float(value) for value in jitter.scale),
        "keep_ratio": True,
        "backend": "pillow",
    }
    if height != width:
        scaling |= {"resize_type": FITTING, "keep_ratio": False}
    crop: Native = {
        "type": "RandomCrop",
        "crop_type": "absolute",
        "crop_size": (width, height),
        "recompute_bbox": True,
        "allow_negative_crop": True,
    }
    return [
        {"type": LOADING},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True, "poly2mask": True},
        *([flip, scaling, crop] if jitter.flip_first else [scaling, crop, flip]),
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2), "keep_empty": False},
        {"type": "PackDetInputs"},
    ]


def test_pipeline(data: DetectionData) -> list[Native]:
    """The whole image at the size of testing."""
    long_edge = data.evaluation.long_edge
    return [
        {"type": LOADING},
        {
            "type": "Resize",
            "scale": (long_edge, min(data.evaluation.short_edge, long_edge)),
            "keep_ratio": True,
            "backend": "pillow",
        },
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]


def evaluator(data: Located, data_root: Path) -> Native:
    """`val_evaluator`: COCO's metrics as MMDetection counts them, for its own tools."""
    return {
        "type": METRIC,
        "ann_file": os.path.abspath(data_root / data.root / data.val.annotations),
        "metric": ["bbox", "segm"],
    }
