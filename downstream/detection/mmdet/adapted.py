"""A config of MMDetection's own with our backbone, dataset and number of classes in place of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.detection.mmdet import pipelines
from downstream.detection.mmdet.config import IMPORTS
from downstream.detection.mmdet.data import DATASET, METRIC
from downstream.detection.mmdet.model import MAPS, STRIDES
from downstream.detection.mmdet.native_settings import NativeConfig
from downstream.openmmlab import recipe
from mae_bench.backbones.hierarchical import HierarchicalBackbone
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone

NEEDED = ("model", "train_dataloader", "test_dataloader", "test_evaluator", "train_cfg", "optim_wrapper")
_MASKS = ("mask_head", "panoptic_head", "panoptic_fusion_head")


def has_masks(native: Any) -> bool:
    """Whether the detector of a native config finds masks, and not boxes alone."""
    return any(each.get(key) is not None for each in _within(native.model) for key in _MASKS)


def adapt(
    native: Any, settings: NativeConfig, backbone: Backbone, classes: Sequence[str], data_root: Path
) -> None:
    """Change `native` in place; heads, pipelines, optimiser, schedule and hooks stay the file's.

    Args:
        native: a `mmengine.Config` with all of `NEEDED`.
        backbone: for its normalisation, widths and strides; nothing of it is changed.
        classes: names by label.
        data_root: folder that `data.root` is relative to.

    Raises:
        MaeBenchError: the model has no neck over a backbone, no number of classes or another kind of dataset.
    """
    _swap(native.model, settings, backbone, len(classes))
    for key in ("train_dataloader", "test_dataloader"):
        split = key.removesuffix("_dataloader").replace("test", "val")
        _use(native[key], settings, split, classes, data_root)
    native.test_dataloader.update(
        recipe.test_dataloader(native.test_dataloader.dataset, native.test_dataloader.get("num_workers", 0))
    )
    native.val_dataloader = copy.deepcopy(native.test_dataloader)
    for key in ("val_evaluator", "test_evaluator"):
        if native.get(key) is not None:
            _judge_by(native[key], settings, data_root)
    before = native.get("custom_imports") or {"imports": []}
    native.custom_imports = {**IMPORTS, "imports": [*before["imports"], *IMPORTS["imports"]]}
    native.default_scope = "mmdet"
    native.randomness = {**native.get("randomness", {}), "seed": settings.seed}


# ---------------------------------------------------------------- model


def _swap(model: Any, settings: NativeConfig, backbone: Backbone, classes: int) -> None:
    """Put our backbone and our classes into ``model``."""
    neck = model.get("neck")
    first = neck[0] if isinstance(neck, list) and neck else neck
    takes = first.get("in_channels") if isinstance(first, Mapping) else None
    if not isinstance(takes, list):
        raise MaeBenchError(
            "native: its model has no neck with a list of in_channels (such as FPN), so there is no place "
            "for a backbone"
        )
    chosen = list(model.backbone.get("out_indices", range(len(takes))))
    if len(chosen) != len(takes) or not set(chosen) <= set(range(len(STRIDES))):
        raise MaeBenchError(
            f"native: its neck takes {len(takes)} maps, those with model.backbone.out_indices {chosen}; ours "
            "are 0 to 3, of strides 4 to 32: give options={model.backbone.out_indices: [...]}"
        )
    widths = [backbone.width] * len(STRIDES)
    if isinstance(backbone, HierarchicalBackbone):
        widths = list(backbone.widths)
    first.in_channels = [widths[index] for index in chosen]
    model.backbone = {
        "type": MAPS,
        "spec": settings.backbone,
        "canvas": list(settings.data.image_size),
        "model": {
            "attention": settings.attention.model_dump(mode="json"),
            "checkpointing": settings.checkpointing,
            "pyramid": {"kind": "fpn", "blocks": settings.blocks},
        },
        "drop_path": settings.drop_path,
        "seed": settings.seed,
        "out_indices": chosen,
    }
    _prepare(model, backbone)
    counted = [each for each in _within(model, without="rpn_head") if "num_classes" in each]
    if not counted:
        raise MaeBenchError(
            "native: no head of its model has num_classes, so there is no place for the classes"
        )
    for each in counted:
        each["num_classes"] = classes


def _prepare(model: Any, backbone: Backbone) -> None:
    """Normalise as the backbone wants it, and pad to whole patches of the coarsest map."""
    ready = model.get("data_preprocessor")
    if ready is None:
        raise MaeBenchError("native: its model has no data_preprocessor; a config of MMDetection 3 has one")
    ready["mean"] = [255 * value for value in backbone.mean]
    ready["std"] = [255 * value for value in backbone.std]
    ready["bgr_to_rgb"] = True
    ready["pad_size_divisor"] = math.lcm(int(ready.get("pad_size_divisor", 1)), int(STRIDES[-1]))


def _within(value: Any, without: str = "") -> Iterator[Any]:
    """Every dictionary below `value`, itself included; not those under the key `without`."""
    if isinstance(value, Mapping):
        yield value
        for key, each in value.items():
            if key != without:
                yield from _within(each, without)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _within(each, without)


# ---------------------------------------------------------------- data


def _use(loader: Any, settings: NativeConfig, split: str, classes: Sequence[str], data_root: Path) -> None:
    """Let a loader read a split of our dataset, through the file's own pipeline and wrappers."""
    dataset = loader["dataset"]
    while "ann_file" not in dataset and isinstance(dataset.get("dataset"), Mapping):
        dataset = dataset["dataset"]
    kind = str(dataset.get("type")).rpartition(".")[2]
    if kind != "CocoDataset" and not kind.endswith("CocoDataset'>"):
        raise MaeBenchError(
            f"native: it reads a {kind}, and ours are in COCO's format; give a config with a CocoDataset"
        )
    ours = pipelines.place(settings.data, split, data_root, classes)
    if split == "train":
        ours["filter_cfg"] = {
            **(dataset.get("filter_cfg") or {}),
            "filter_empty_gt": settings.data.filter_empty,
        }
    else:
        ours["test_mode"] = True
    dataset.pop("indices", None)
    dataset.update({**ours, "type": DATASET})


def _judge_by(evaluator: Any, settings: NativeConfig, data_root: Path) -> None:
    """Let the file's own evaluators, which MMDetection's tools use, read our annotations."""
    for each in evaluator if isinstance(evaluator, list) else [evaluator]:
        if "ann_file" in each:
            each["ann_file"] = pipelines.evaluator(settings.data, data_root)["ann_file"]
            each["type"] = METRIC
