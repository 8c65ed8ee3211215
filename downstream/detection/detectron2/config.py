"""A recipe as a configuration of detectron2 (LazyConfig): its model, its loaders, its schedule."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.detection.cascade import LATER_IOUS
from downstream.detection.detectron2.model import LEVELS, whole
from downstream.detection.detectron2.settings import Detectron2Config
from downstream.detection.regions import BOX_SIDE, BOX_WEIGHTS, MASK_SIDE
from downstream.detection.settings import HeadSettings, ProposalSettings
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG_FILE = "detectron2_config.yaml"
_OURS = "downstream.detection.detectron2"


@dataclass(frozen=True)
class Facts:
    """What a configuration needs besides the recipe.

    Attributes:
        spec: of the backbone.
        classes: K.
        strides: of p2 to p6, in pixels.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
        shared_norms: batch norms take the images of all processes together, on CUDA devices.
    """

    spec: str
    classes: int
    strides: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]
    shared_norms: bool = False


def model(config: Detectron2Config, facts: Facts) -> DictConfig:
    """``model``: Mask R-CNN or Cascade Mask R-CNN of detectron2 over our backbone and pyramid.

    Raises:
        MaeBenchError: detectron2 cannot pool from maps of these strides.
    """
    from detectron2.config import LazyCall as Lazy
    from detectron2.modeling import GeneralizedRCNN

    _check_strides(facts)
    settings = config.model
    trunk = settings.model_dump(include={"attention", "pyramid", "checkpointing"}, mode="json")
    return Lazy(GeneralizedRCNN)(
        backbone=Lazy(f"{_OURS}.model.pyramid")(
            spec=facts.spec,
            seed=config.seed,
            drop_path=config.drop_path,
            canvas=list(config.data.image_size),
            settings=trunk,
        ),
        proposal_generator=_proposals(settings.proposals, settings.pyramid.channels, facts),
        roi_heads=_heads(settings.heads, settings.pyramid.channels, _norm(config, facts), facts),
        pixel_mean=[round(255 * value, 6) for value in facts.mean],
        pixel_std=[round(255 * value, 6) for value in facts.std],
        input_format="RGB",
    )


def _check_strides(facts: Facts) -> None:
    powers = [math.log2(stride) for stride in facts.strides]
    if any(not power.is_integer() for power in powers) or powers[0] < 0:
        shown = ", ".join(f"{stride:g}" for stride in facts.strides[:4])
        raise MaeBenchError(
            f"{facts.spec} has maps of strides {shown}, and detectron2 pools only from strides that are "
            "powers of 2 and at least 1; use --engine torchvision"
        )


def _norm(config: Detectron2Config, facts: Facts) -> str:
    if config.model.pyramid.norm == "layer":
        return "LN"
    return "SyncBN" if facts.shared_norms else "BN"


def _proposals(settings: ProposalSettings, channels: int, facts: Facts) -> DictConfig:
    from detectron2.config import LazyCall as Lazy
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead

    return Lazy(RPN)(
        in_features=list(LEVELS),
        head=Lazy(StandardRPNHead)(
            in_channels=channels, num_anchors=len(settings.ratios), conv_dims=[-1] * settings.convs
        ),
        anchor_generator=Lazy(DefaultAnchorGenerator)(
            sizes=[[size] for size in settings.anchor_sizes],
            aspect_ratios=list(settings.ratios),
            strides=[whole(stride) for stride in facts.strides],
            offset=0.0,
        ),
        anchor_matcher=Lazy(Matcher)(
            thresholds=[settings.negative_iou, settings.positive_iou],
            labels=[0, -1, 1],
            allow_low_quality_matches=True,
        ),
        box2box_transform=Lazy(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=settings.batch,
        positive_fraction=settings.positive,
        pre_nms_topk=list(settings.before_nms),
        post_nms_topk=list(settings.after_nms),
        nms_thresh=settings.nms,
    )


def _heads(settings: HeadSettings, channels: int, norm: str, facts: Facts) -> DictConfig:
    from detectron2.config import LazyCall as Lazy
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.roi_heads import CascadeROIHeads, MaskRCNNConvUpsampleHead, StandardROIHeads

    levels = list(LEVELS[:4])
    shared: dict[str, Any] = {
        "num_classes": facts.classes,
        "batch_size_per_image": settings.batch,
        "positive_fraction": settings.positive,
        "box_in_features": levels,
        "box_pooler": _pooler(BOX_SIDE, facts),
        "mask_in_features": levels,
        "mask_pooler": _pooler(MASK_SIDE, facts),
        "mask_head": Lazy(MaskRCNNConvUpsampleHead)(
            input_shape=Lazy(ShapeSpec)(channels=channels, height=MASK_SIDE, width=MASK_SIDE),
            num_classes="${..num_classes}",
            conv_dims=[channels] * (settings.mask_convs + 1),
            conv_norm=norm,
        ),
    }
    ious = [settings.iou, *LATER_IOUS] if settings.cascade else [settings.iou]
    stages = range(len(ious))
    heads = [_box_head(settings, channels, norm) for _ in stages]
    predictors = [_box_predictor(settings, stage) for stage in stages]
    matchers = [_region_matcher(iou) for iou in ious]
    if settings.cascade:
        return Lazy(CascadeROIHeads)(
            **shared, box_heads=heads, box_predictors=predictors, proposal_matchers=matchers
        )
    return Lazy(StandardROIHeads)(
        **shared, box_head=heads[0], box_predictor=predictors[0], proposal_matcher=matchers[0]
    )


def _pooler(side: int, facts: Facts) -> DictConfig:
    """RoI align; as in our own pooling, a region of 14 strides of p4 is taken from p4."""
    from detectron2.config import LazyCall as Lazy
    from detectron2.modeling.poolers import ROIPooler

    middle = facts.strides[2]
    return Lazy(ROIPooler)(
        output_size=side,
        scales=[1.0 / stride for stride in facts.strides[:4]],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
        canonical_box_size=whole(14 * middle),
        canonical_level=int(math.log2(middle)),
    )


def _box_head(settings: HeadSettings, channels: int, norm: str) -> DictConfig:
    from detectron2.config import LazyCall as Lazy
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.roi_heads import FastRCNNConvFCHead

    return Lazy(FastRCNNConvFCHead)(
        input_shape=Lazy(ShapeSpec)(channels=channels, height=BOX_SIDE, width=BOX_SIDE),
        conv_dims=[channels] * settings.box_convs,
        fc_dims=[settings.box_width] * settings.box_fcs,
        conv_norm=norm,
    )


def _box_predictor(settings: HeadSettings, stage: int) -> DictConfig:
    from detectron2.config import LazyCall as Lazy
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers

    return Lazy(FastRCNNOutputLayers)(
        input_shape=Lazy(ShapeSpec)(channels=settings.box_width),
        test_score_thresh=settings.score,
        test_nms_thresh=settings.nms,
        test_topk_per_image=settings.detections,
        box2box_transform=Lazy(Box2BoxTransform)(weights=[weight * (stage + 1) for weight in BOX_WEIGHTS]),
        cls_agnostic_bbox_reg=settings.cascade,
        num_classes="${...num_classes}" if settings.cascade else "${..num_classes}",
    )


def _region_matcher(iou: float) -> DictConfig:
    from detectron2.config import LazyCall as Lazy
    from detectron2.modeling.matcher import Matcher

    return Lazy(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)


# ---------------------------------------------------------------- the file


def text_of(config: DictConfig) -> str:
    """The configuration in detectron2's own YAML."""
    from detectron2.config import LazyConfig

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / CONFIG_FILE
        LazyConfig.save(config, str(file))
        if Path(f"{file}.pkl").exists() or not file.exists():
            raise MaeBenchError(
                "the configuration of detectron2 holds something that cannot be written as YAML"
            )
        return file.read_text(encoding="utf-8")


def write(config: DictConfig, path: Path, head: str) -> None:
    """Write the configuration for people and for detectron2's own tools, under comments."""
    write_atomic(path, "".join(f"# {line}\n" for line in head.splitlines()) + text_of(config))
