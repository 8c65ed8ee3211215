"""A recipe of ours as mmsegmentation's config: model, data and evaluation. The rest: `openmmlab.recipe`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from downstream.openmmlab import recipe
from downstream.openmmlab.recipe import Native
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.mmseg.data import dataset, load_labels
from downstream.segmentation.mmseg.model import BACKBONE
from mae_bench.backbones import HierarchicalBackbone

if TYPE_CHECKING:
    from downstream.segmentation.dataset import SegmentationSource
    from downstream.segmentation.mmseg.settings import MMSegConfig
    from downstream.segmentation.settings import InferenceSettings, SegmentationData
    from mae_bench.backbones import Backbone
    from mae_bench.plan import Plan

# Synchronised over all processes, as the published recipes have it.
_NORM = {"type": "SyncBN", "requires_grad": True}
# Ours is not turned by EXIF either.
_LOAD_IMAGE = {"type": "LoadImageFromFile", "color_type": "color_ignore_orientation"}


def whole(
    config: MMSegConfig,
    backbone: Backbone,
    train: SegmentationSource,
    val: SegmentationSource,
    plan: Plan,
    *,
    workers: int,
    precision: str,
    device: str,
) -> Native:
    """All values of the native config.

    Args:
        backbone: what will be built in, as it was loaded.
        train: the training images.
        val: the validation images.
        workers: loader processes of a training process.
        precision: ``bf16``, ``fp16`` or ``fp32``.
        device: ``cuda`` or ``cpu``.
    """
    data, classes = config.data, len(val.class_list)
    test = recipe.test_dataloader(dataset(data, val, test_pipeline(data, classes)), workers)
    metric = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
    native: Native = {
        "custom_imports": {
            "imports": ["downstream.segmentation.mmseg.registered"],
            "allow_failed_imports": False,
        },
        **recipe.surroundings(config, "mmseg"),
        "model": model(config, backbone, classes),
        "train_dataloader": recipe.train_dataloader(
            dataset(data, train, train_pipeline(data, classes)), plan, workers, config.seed
        ),
        "val_dataloader": test,
        "test_dataloader": test,
        "val_evaluator": metric,
        "test_evaluator": metric,
        "train_cfg": recipe.train_cfg(plan),
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "optim_wrapper": recipe.optim_wrapper(config, plan, precision, device),
        "param_scheduler": recipe.param_scheduler(config, plan),
        "vis_backends": [{"type": "LocalVisBackend"}],
        "visualizer": {
            "type": "SegLocalVisualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
            "name": "visualizer",
        },
    }
    if len(views(data.evaluation)) > 1:
        native["tta_model"] = {"type": "SegTTAModel"}
        native["tta_pipeline"] = tta_pipeline(data, classes)
    return native


# ---------------------------------------------------------------- model


def model(config: MMSegConfig, backbone: Backbone, classes: int) -> Native:
    """`EncoderDecoder` with UPerHead, and FCNHead on the third map where the recipe has an auxiliary loss."""
    data, values = config.data, config.model
    size = list(data.image_size)
    widths = list(backbone.widths) if isinstance(backbone, HierarchicalBackbone) else [backbone.width] * 4
    head = {
        "num_classes": classes,
        "norm_cfg": _NORM,
        "dropout_ratio": values.dropout,
        "align_corners": False,
    }
    native: Native = {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [255 * value for value in backbone.mean],
            "std": [255 * value for value in backbone.std],
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": IGNORED,
            "size": size,
            "test_cfg": _padding(data, backbone),
        },
        "backbone": {
            "type": BACKBONE,
            "spec": config.backbone,
            "crop": size,
            "drop_path": config.drop_path,
            "seed": config.seed,
            "blocks": values.blocks,
            "relative_positions": values.relative_positions,
            "layer_scale": values.layer_scale,
            "final_norm": values.final_norm,
            "freeze": values.freeze,
            "checkpointing": values.checkpointing,
        },
        "decode_head": {
            "type": "UPerHead",
            "in_channels": widths,
            "in_index": [0, 1, 2, 3],
            "pool_scales": list(values.pool_scales),
            "channels": values.channels,
            **head,
            "loss_decode": _loss(1.0),
        },
        "train_cfg": {},
        "test_cfg": _testing(data),
    }
    if not backbone.hierarchical:
        native["neck"] = {
            "type": "Feature2Pyramid",
            "embed_dim": backbone.width,
            "rescales": [4, 2, 1, 0.5],
            "norm_cfg": _NORM,
        }
    if values.auxiliary_weight > 0:
        native["auxiliary_head"] = {
            "type": "FCNHead",
            "in_channels": widths[2],
            "in_index": 2,
            "channels": values.auxiliary_channels,
            "num_convs": 1,
            "concat_input": False,
            **head,
            "loss_decode": _loss(values.auxiliary_weight),
        }
    return native


def _loss(weight: float) -> Native:
    return {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight}


def _padding(data: SegmentationData, backbone: Backbone) -> Native:
    """To what test images are padded at the right and below, as ours are: the window, or whole patches."""
    if data.evaluation.mode == "slide":
        return {"size": list(data.image_size)}
    return {"size_divisor": math.lcm(*backbone.patch_size)}


def _testing(data: SegmentationData) -> Native:
    if data.evaluation.mode == "slide":
        return {
            "mode": "slide",
            "crop_size": tuple(data.image_size),
            "stride": tuple(data.evaluation.stride),
        }
    return {"mode": "whole"}


# ---------------------------------------------------------------- pipelines


def train_pipeline(data: SegmentationData, classes: int) -> list[Native]:
    """The augmentation of mmsegmentation's ADE20K recipe, by its own steps."""
    augment = data.augment
    short, long = sorted(augment.base)
    return [
        _LOAD_IMAGE,
        load_labels(data, classes),
        {
            "type": "RandomResize",
            "scale": (long, short),
            "ratio_range": tuple(augment.scale),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": tuple(data.image_size), "cat_max_ratio": augment.largest_class},
        {"type": "RandomFlip", "prob": augment.flip},
        *([{"type": "PhotoMetricDistortion"}] if augment.photometric else []),
        {"type": "PackSegInputs"},
    ]


def test_pipeline(data: SegmentationData, classes: int) -> list[Native]:
    """An image as the recipe tests it, at its first size and not mirrored."""
    settings = data.evaluation
    stays = settings.base is None and settings.scales[0] == 1
    resize = [] if stays else [_resize(settings, settings.scales[0])]
    return [_LOAD_IMAGE, *resize, load_labels(data, classes), {"type": "PackSegInputs"}]


def tta_pipeline(data: SegmentationData, classes: int) -> list[Native]:
    """An image at all sizes of the recipe, and mirrored where it says so."""
    settings = data.evaluation
    stays = settings.base is None and settings.scales == [1.0]
    sizes = [] if stays else [_resize(settings, factor) for factor in settings.scales]
    flips = [{"type": "RandomFlip", "prob": float(mirrored)} for mirrored in (0, 1)]
    steps: list[list[Any]] = [
        *([sizes] if sizes else []),
        *([flips] if settings.flip else []),
        [load_labels(data, classes)],
        [{"type": "PackSegInputs"}],
    ]
    return [_LOAD_IMAGE, {"type": "TestTimeAug", "transforms": steps}]


def views(settings: InferenceSettings) -> list[tuple[float, bool]]:
    """(factor, mirrored) of everything that goes through the model for one image."""
    return [
        (factor, flip)
        for factor in settings.scales
        for flip in ((False, True) if settings.flip else (False,))
    ]


def _resize(settings: InferenceSettings, factor: float) -> Native:
    """The step that brings an image to its size for a test."""
    if settings.base is not None:
        short, long = (max(1, int(side * factor)) for side in sorted(settings.base))
        return {"type": "Resize", "scale": (long, short), "keep_ratio": True}
    return {"type": "Resize", "scale_factor": factor, "keep_ratio": False}
