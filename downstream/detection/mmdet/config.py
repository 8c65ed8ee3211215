"""A recipe of ours as a config of MMDetection: model, data and evaluation; `recipe` says the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from downstream.detection.mmdet import pipelines
from downstream.detection.mmdet.model import BACKBONE, MASK_HEAD, NORM, PREDICTION_STD, PREPROCESSOR, PYRAMID
from downstream.detection.settings import DetectionConfig, DetectorSettings
from downstream.detection.trunk import plan as outlined
from downstream.openmmlab import recipe
from downstream.openmmlab.recipe import Native

if TYPE_CHECKING:
    from downstream.detection.trunk import Plan as Outline
    from mae_bench.backbones import Backbone
    from mae_bench.plan import Plan

IMPORTS: Native = {"imports": ["downstream.detection.mmdet.registered"], "allow_failed_imports": False}
_STDS = (0.1, 0.1, 0.2, 0.2)
# The same as `downstream.detection.cascade`'s, whose module is heavier than this one.
_IOUS = (0.6, 0.7)
_STAGE_WEIGHTS = [1.0, 0.5, 0.25]
"""MMDetection's own: its cascade weighs losses where ours shares out gradients."""


def whole(
    config: DetectionConfig,
    backbone: Backbone,
    classes: Sequence[str],
    *,
    data_root: Path,
    plan: Plan | None,
    workers: int,
    precision: str,
    device: str,
) -> Native:
    """Everything that MMDetection's tools need to train and test by a recipe.

    Args:
        backbone: for its normalisation, widths and strides; nothing of it is changed.
        classes: names by label.
        data_root: folder that `data.root` is relative to.
        plan: of `openmmlab.recipe.plan`; None: there is nothing to train.
        workers: loader processes.
        precision, device: of the run.
    """
    canvas = config.data.image_size[0], config.data.image_size[1]
    val = pipelines.dataset(config.data, "val", data_root, classes)
    evaluator = pipelines.evaluator(config.data, data_root)
    native: Native = {
        "custom_imports": IMPORTS,
        **recipe.surroundings(config, "mmdet"),
        "model": model(config, backbone, outlined(backbone, config.model, canvas), len(classes)),
        "val_dataloader": recipe.test_dataloader(val, workers),
        "test_dataloader": recipe.test_dataloader(val, workers),
        "val_evaluator": evaluator,
        "test_evaluator": evaluator,
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "visualizer": {"type": "DetLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
    }
    if config.model.pyramid.norm == "batch":
        native["sync_bn"] = "torch"  # where several processes train
    if plan is not None:
        train = pipelines.dataset(config.data, "train", data_root, classes)
        native |= {
            "train_dataloader": recipe.train_dataloader(train, plan, workers, config.seed),
            "optim_wrapper": recipe.optim_wrapper(
                config, plan, precision, device, decayed_types=["ChannelNorm"]
            ),
            "param_scheduler": recipe.param_scheduler(config, plan),
            "train_cfg": recipe.train_cfg(plan),
        }
    return native


# ---------------------------------------------------------------- model


def model(config: DetectionConfig, backbone: Backbone, outline: Outline, classes: int) -> Native:
    """`model`: Mask R-CNN or Cascade Mask R-CNN of MMDetection over our backbone and pyramid."""
    settings, canvas = config.model, list(config.data.image_size)
    kept = settings.model_dump(mode="json", include={"attention", "pyramid", "checkpointing"})
    return {
        "type": "CascadeRCNN" if settings.heads.cascade else "MaskRCNN",
        "data_preprocessor": preprocessor(backbone, canvas),
        "backbone": {
            "type": BACKBONE,
            "spec": config.backbone,
            "canvas": canvas,
            "model": kept,
            "drop_path": config.drop_path,
            "channels": config.data.channels,
            "seed": config.seed,
        },
        "neck": {
            "type": PYRAMID,
            "widths": outline.widths,
            "flat": outline.flat,
            "kind": settings.pyramid.kind,
            "channels": settings.pyramid.channels,
            "norm": settings.pyramid.norm,
        },
        "rpn_head": _rpn_head(settings, outline.strides),
        "roi_head": _roi_head(settings, outline.strides, classes),
        "train_cfg": _train_cfg(settings),
        "test_cfg": _test_cfg(settings),
    }


def preprocessor(backbone: Backbone, canvas: Sequence[int]) -> Native:
    """`data_preprocessor`: the backbone's normalisation, and one canvas for all images."""
    return {
        "type": PREPROCESSOR,
        "canvas": list(canvas),
        "mean": [255 * value for value in backbone.mean],
        "std": [255 * value for value in backbone.std],
        "bgr_to_rgb": True,
        # Bitmaps of objects may keep the images' sizes: what a region shows beyond one is nothing either way.
        "pad_mask": False,
    }


def _rpn_head(settings: DetectorSettings, strides: Sequence[float]) -> Native:
    proposals, channels = settings.proposals, settings.pyramid.channels
    return {
        "type": "RPNHead",
        "in_channels": channels,
        "feat_channels": channels,
        "num_convs": proposals.convs,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [1],
            "base_sizes": list(proposals.anchor_sizes),
            "ratios": list(proposals.ratios),
            "strides": list(strides),
        },
        "bbox_coder": _coder((1.0, 1.0, 1.0, 1.0)),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def _coder(stds: Sequence[float]) -> Native:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": list(stds)}


def _roi_head(settings: DetectorSettings, strides: Sequence[float], classes: int) -> Native:
    heads, channels = settings.heads, settings.pyramid.channels
    head: Native = {
        "type": "CascadeRoIHead" if heads.cascade else "StandardRoIHead",
        "bbox_roi_extractor": _extractor(7, channels, strides),
        "bbox_head": _bbox_head(settings, classes, _STDS, agnostic=False),
        "mask_roi_extractor": _extractor(14, channels, strides),
        "mask_head": {
            "type": MASK_HEAD,
            "num_convs": heads.mask_convs,
            "in_channels": channels,
            "conv_out_channels": channels,
            "num_classes": classes,
            "norm_cfg": _norm(settings),
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        },
    }
    if heads.cascade:
        stages = range(1, 2 + len(_IOUS))
        head["num_stages"] = len(stages)
        head["stage_loss_weights"] = _STAGE_WEIGHTS
        head["bbox_head"] = [
            _bbox_head(settings, classes, [std / stage for std in _STDS], agnostic=True) for stage in stages
        ]
    return head


def _extractor(side: int, channels: int, strides: Sequence[float]) -> Native:
    """Crops of regions; one of canonical size, 14 strides of p4, is taken from p4."""
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0, "aligned": True},
        "out_channels": channels,
        "featmap_strides": list(strides[:4]),
        "finest_scale": 14 * strides[2] / 4,
    }


def _bbox_head(settings: DetectorSettings, classes: int, stds: Sequence[float], *, agnostic: bool) -> Native:
    heads, channels = settings.heads, settings.pyramid.channels
    return {
        "type": "ConvFCBBoxHead",
        "num_shared_convs": heads.box_convs,
        "num_shared_fcs": heads.box_fcs,
        "in_channels": channels,
        "conv_out_channels": channels,
        "fc_out_channels": heads.box_width,
        "roi_feat_size": 7,
        "num_classes": classes,
        "norm_cfg": _norm(settings),
        "bbox_coder": _coder(stds),
        "reg_class_agnostic": agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        # As MMDetection's, but for the fully connected layers, which begin as ViTDet's.
        "init_cfg": [
            {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
            {"type": "Normal", "std": PREDICTION_STD, "override": {"name": "fc_reg"}},
            {"type": "Caffe2Xavier", "override": {"name": "shared_fcs"}},
        ],
    }


def _norm(settings: DetectorSettings) -> Native:
    # mmcv hands its own eps to a norm for which none is given.
    return {"type": NORM, "eps": 1e-6} if settings.pyramid.norm == "layer" else {"type": "BN"}


def _assigner(positive: float, negative: float, *, low_quality: bool) -> Native:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": float(positive),
        "neg_iou_thr": float(negative),
        "min_pos_iou": 0.0 if low_quality else float(positive),
        "match_low_quality": low_quality,
        "ignore_iof_thr": -1,
    }


def _sampler(number: int, positive: float, *, with_objects: bool) -> Native:
    return {
        "type": "RandomSampler",
        "num": number,
        "pos_fraction": float(positive),
        "neg_pos_ub": -1,
        "add_gt_as_proposals": with_objects,
    }


def _proposals(settings: DetectorSettings, testing: int) -> Native:
    """How proposals are chosen in training (0) or testing (1)."""
    proposals = settings.proposals
    return {
        "nms_pre": proposals.before_nms[testing],
        "max_per_img": proposals.after_nms[testing],
        "nms": {"type": "nms", "iou_threshold": float(proposals.nms)},
        "min_bbox_size": 0,
    }


def _train_cfg(settings: DetectorSettings) -> Native:
    proposals, heads = settings.proposals, settings.heads
    stages = [
        {
            "assigner": _assigner(iou, iou, low_quality=False),
            "sampler": _sampler(heads.batch, heads.positive, with_objects=True),
            "mask_size": 28,
            "pos_weight": -1,
            "debug": False,
        }
        for iou in (heads.iou, *(_IOUS if heads.cascade else ()))
    ]
    return {
        "rpn": {
            "assigner": _assigner(proposals.positive_iou, proposals.negative_iou, low_quality=True),
            "sampler": _sampler(proposals.batch, proposals.positive, with_objects=False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": _proposals(settings, 0),
        "rcnn": stages if heads.cascade else stages[0],
    }


def _test_cfg(settings: DetectorSettings) -> Native:
    heads = settings.heads
    return {
        "rpn": _proposals(settings, 1),
        "rcnn": {
            "score_thr": float(heads.score),
            "nms": {"type": "nms", "iou_threshold": float(heads.nms)},
            "max_per_img": heads.detections,
            "mask_thr_binary": 0.5,
        },
    }
