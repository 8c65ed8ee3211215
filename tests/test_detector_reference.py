"""The detector against detectron2's ViTDet Mask R-CNN: the same weights and images, the same numbers.

The numbers were made by facebookresearch/detectron2@02b5c4e2 on torch 2.15, CPU, float32. Its lazy config
configs/common/models/mask_rcnn_vitdet.py was cut down to the sizes of tests/tiny_detector.py (`settings`)
with 3 classes, instantiated, and given the weights of `filled()` under its own names; the entry of the class
token in its position embeddings, which it drops, was zero. Images and targets are those of
tests/tiny_detector.py, the masks as BitMasks. Each list is `digest` of a tensor. Losses are those of training
with batches that take in every anchor and proposal, so that nothing is drawn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from downstream.detection.pooling import RegionPool
from downstream.detection.pyramid import TopDownPyramid
from mae_bench.optim import lr_at, parameter_groups
from mae_bench.settings import OptimSettings
from tests import closed_form
from tests.tiny_detector import (
    SIZES,
    digest,
    filled,
    images,
    pool_inputs,
    pyramid_inputs,
    settings,
    targets,
    tiny,
)

LEVELS = [
    [0.82371642, -0.48595312, -0.069177061, -0.87370217, -0.10019937],
    [0.8149343, -1.2748455, -0.37155104, 0.48537272, -0.093721822],
    [0.82952015, -0.93489063, 0.46549836, -1.2266842, -0.28396416],
    [0.79013556, -0.17503965, 0.18589982, 1.0908319, 0.84861791],
    [0.78280638, -0.17503965, 1.6372949, -0.1978227, 0.70780444],
]
OBJECTNESS = [
    [0.35536608, -0.322833, -0.41506985, -0.14897276, -0.19315256],
    [0.32422068, -0.15824777, -0.12492195, -0.12324069, -0.11657925],
    [0.33960011, -0.17370842, 0.017992815, 0.10941355, -0.42951691],
    [0.28978074, -0.25706184, -0.48406699, -0.091152802, -0.10450137],
    [0.15167789, -0.23725659, -0.26446545, -0.030963033, 0.070494249],
]
DELTAS = [
    [0.3789783, -0.67043293, -0.43219164, -0.12039518, -0.34760469],
    [0.39390814, -0.23178247, -0.10846695, 0.093010031, -0.26680985],
    [0.39501882, -0.53650522, 0.0081933737, -0.14335209, 0.017327867],
    [0.33319827, -0.14496335, -0.5124135, -0.19807594, -0.0043187961],
    [0.26054451, -0.41984496, -0.31201553, -0.21693638, 0.14625043],
]
PROPOSALS = [
    {
        "count": 150,
        "boxes": [53.379402, 105.57469, 30.554209, 92.201622, 68.633949],
        "first": [105.57469, 46.968636, 116.38074, 52.203407],
    },
    {
        "count": 150,
        "boxes": [48.821639, 49.596973, 20.95528, 73.873665, 43.207317],
        "first": [49.596973, 94.514267, 58.415051, 96.117523],
    },
]
DETECTIONS: list[dict[str, Any]] = [
    {
        "count": 100,
        "labels": [1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1],
        "per_label": [0, 89, 11, 0],
        "scores": [0.42152958, 0.57978493, 0.42815229, 0.39112836, 0.35759777],
        "boxes": [55.448684, 90.940155, 48.299751, 17.251854, 53.219734],
        "first": [90.940155, 32.192753, 100.24142, 35.228947],
        "masks": [0.42417552, 0.42644465, 0.39651284, 0.41925874, 0.42945775],
    },
    {
        "count": 100,
        "labels": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        "per_label": [0, 96, 4, 0],
        "scores": [0.41565553, 0.56251848, 0.42766133, 0.38801917, 0.34778413],
        "boxes": [49.228136, 67.681374, 73.849991, 49.160492, 81.897881],
        "first": [67.681374, 0.0, 79.029488, 0.56662536],
        "masks": [0.42071425, 0.43800962, 0.5310902, 0.38402078, 0.3776609],
    },
]
LOSSES = {
    "loss_objectness": 0.27095166,
    "loss_rpn_box": 0.00059201306,
    "loss_classifier": 1.4650073,
    "loss_box": 0.022767536,
    "loss_mask": 0.78000617,
}
POOL_LEVELS = [0, 1, 2, 3, 3, 0, 0, 1, 2, 3, 3, 0, 0, 1, 2, 2, 2, 0, 0, 1, 2, 3, 3, 0]
POOLED = [0.18957064, -0.14838044, -0.39699495, -0.24453597, -0.10300988]
POOLED_EACH = [
    0.030567052,
    0.021586323,
    -0.031722814,
    0.031255011,
    0.022579918,
    0.014958963,
    0.039982904,
    -0.014877371,
    -0.010922186,
    0.0017630598,
    0.0016099586,
    0.0027213735,
    -0.024350991,
    0.027746933,
    0.018721102,
    0.02218936,
    0.0212152,
    0.014228686,
    -0.12113975,
    -0.0091924034,
    -0.0039933599,
    -0.024530644,
    -0.015290245,
    0.00067046226,
]
TOP_DOWN = [
    [0.76836493, -1.1385188, 0.45452553, 0.71931195, -0.46281964],
    [0.79616883, 0.69599235, 0.52954358, -0.58864731, -0.27398977],
    [0.80116424, 0.59182131, -1.0186933, 1.6941677, 0.55031729],
    [0.86564247, 1.496263, -0.57227433, 0.13060516, -0.81064934],
    [0.83939686, 1.496263, -0.57227433, 0.13060516, -0.44809401],
]


def test_the_pyramid_equals_detectron2s_simple_feature_pyramid() -> None:
    with torch.no_grad():
        levels = filled().eval().features(images())
    assert [digest(level) for level in levels] == [pytest.approx(level, abs=1e-4) for level in LEVELS]


def test_scores_and_boxes_of_anchors_equal_detectron2s() -> None:
    model = filled().eval()
    with torch.no_grad():
        logits, deltas = model.rpn.head(model.features(images()))
    assert [digest(one) for one in logits] == [pytest.approx(one, abs=1e-4) for one in OBJECTNESS]
    assert [digest(one) for one in deltas] == [pytest.approx(one, abs=1e-4) for one in DELTAS]


def test_the_proposals_are_detectron2s_in_number_place_and_order() -> None:
    model = filled().eval()
    with torch.no_grad():
        proposals, _ = model.rpn(model.features(images()), SIZES)
    for found, wanted in zip(proposals, PROPOSALS, strict=True):
        assert len(found) == wanted["count"]
        assert digest(found) == pytest.approx(wanted["boxes"], rel=1e-4)
        assert found[0].tolist() == pytest.approx(wanted["first"], rel=1e-4)


def test_the_detections_are_detectron2s() -> None:
    with torch.no_grad():
        detections = filled().eval()(images())
    for found, wanted in zip(detections, DETECTIONS, strict=True):
        assert len(found["boxes"]) == wanted["count"]
        assert found["labels"][:12].tolist() == wanted["labels"]
        assert found["labels"].bincount(minlength=4).tolist() == wanted["per_label"]
        assert found["boxes"][0].tolist() == pytest.approx(wanted["first"], rel=1e-4)
        for name in ("boxes", "scores", "masks"):
            assert digest(found[name]) == pytest.approx(wanted[name], rel=1e-4), name


def test_the_losses_are_detectron2s_where_every_anchor_and_proposal_is_taken() -> None:
    model = filled(settings(proposals={"batch": 10000}, heads={"batch": 10000})).train()
    losses = model(images(), targets())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(LOSSES, rel=1e-4)


def test_a_region_is_taken_from_the_level_that_detectron2_takes_it_from() -> None:
    """`ROIPooler(7, [1/4, 1/8, 1/16, 1/32], 0, "ROIAlignV2")` over the same maps, mean of each region."""
    maps, boxes = pool_inputs()
    pool = RegionPool(7, [4, 8, 16, 32])
    assert pool.levels(torch.cat(boxes)).tolist() == POOL_LEVELS
    pooled = pool(maps, boxes)
    assert digest(pooled) == pytest.approx(POOLED, abs=1e-5)
    assert pooled.mean((1, 2, 3)).tolist() == pytest.approx(POOLED_EACH, abs=1e-5)


def test_the_top_down_pyramid_equals_detectron2s_fpn() -> None:
    """`FPN(..., out_channels=12, norm="LN", top_block=LastLevelMaxPool())` over the same four maps."""
    widths, maps = pyramid_inputs()
    pyramid = TopDownPyramid(widths, 12, "layer", rescaled=False)
    pyramid.load_state_dict(
        {name: value.float() for name, value in closed_form.fill(pyramid.state_dict()).items()}
    )
    assert [digest(level) for level in pyramid(maps)] == [pytest.approx(one, abs=1e-4) for one in TOP_DOWN]


# `get_default_optimizer_params` of the cut-down model with `get_vit_lr_decay_rate` of 4 layers and the settings
# of mask_rcnn_vitdet_b_100ep.py and mask_rcnn_vitdet_h_75ep.py: how many parameters have (share of the rate,
# weight decay), and those of some by our name.
BASE_GROUPS = {
    (0.16807, 0.0): 1,
    (0.16807, 0.1): 2,
    (0.2401, 0.0): 4,
    (0.2401, 0.1): 10,
    (0.343, 0.0): 4,
    (0.343, 0.1): 10,
    (0.49, 0.0): 4,
    (0.49, 0.1): 10,
    (0.7, 0.0): 4,
    (0.7, 0.1): 10,
    (1.0, 0.1): 74,
}
HUGE_GROUPS = {
    (0.59049, 0.1): 3,
    (0.6561, 0.1): 14,
    (0.729, 0.1): 14,
    (0.81, 0.1): 14,
    (0.9, 0.1): 14,
    (1.0, 0.1): 74,
}
BASE_SOME = {
    "body.backbone.vit.pos_embed": (0.16807, 0.0),
    "body.backbone.vit.patch_embed.proj.bias": (0.16807, 0.1),
    "body.backbone.vit.blocks.0.norm1.weight": (0.2401, 0.0),
    "body.backbone.vit.blocks.0.norm1.bias": (0.2401, 0.0),
    "body.backbone.vit.blocks.1.attn.rel_pos_h": (0.343, 0.1),
    "body.backbone.vit.blocks.2.attn.qkv.bias": (0.49, 0.1),
    "body.backbone.vit.blocks.3.mlp.fc2.weight": (0.7, 0.1),
    "pyramid.rescale.0.norm.weight": (1.0, 0.1),
    "pyramid.project.2.1.norm.bias": (1.0, 0.1),
    "rpn.head.objectness.bias": (1.0, 0.1),
    "roi_heads.box_head.conv0.norm.weight": (1.0, 0.1),
    "roi_heads.mask_predictor.masks.weight": (1.0, 0.1),
}


@pytest.mark.parametrize(
    ("rate", "flags", "groups", "some"),
    [
        (0.7, {"decay_biases": True}, BASE_GROUPS, BASE_SOME),
        (
            0.9,
            {"decay_biases": True, "decay_norms": True, "decay_positions": True},
            HUGE_GROUPS,
            {"body.backbone.vit.pos_embed": (0.59049, 0.1)},
        ),
    ],
    ids=["ViTDet-B", "ViTDet-H"],
)
def test_rates_and_weight_decay_of_every_parameter_are_detectron2s(
    rate: float,
    flags: dict[str, Any],
    groups: dict[tuple[float, float], int],
    some: dict[str, tuple[float, float]],
) -> None:
    optim = OptimSettings(lr=1e-4, weight_decay=0.1, layer_decay=rate, **flags)
    given = {
        name: (round(group["lr_scale"], 8), group["weight_decay"])
        for group in parameter_groups(tiny(), optim)
        for name in group["names"]
    }
    assert dict(Counter(given.values())) == groups
    assert {name: given[name] for name in some} == some


@pytest.mark.parametrize(
    ("total", "milestones", "rates"),
    [
        (
            184375,
            [163889, 177546],
            {0: 0.001, 1: 0.004996, 100: 0.4006, 249: 0.996004, 250: 1.0, 163888: 1.0, 163889: 0.1, 177545: 0.1, 177546: 0.01, 184374: 0.01},
        ),
        (
            138281,
            [122916, 133159],
            {0: 0.001, 1: 0.0063280096, 100: 0.5338009633, 187: 0.9973378013, 188: 1.0, 122915: 1.0, 122916: 0.1, 133158: 0.1, 133159: 0.01, 138280: 0.01},
        ),
    ],
    ids=["ViTDet-B", "ViTDet-H"],
)  # fmt: skip
def test_the_learning_rate_is_detectron2s_at_every_bend(
    total: int, milestones: list[int], rates: dict[int, float]
) -> None:
    """`WarmupParamScheduler(MultiStepParamScheduler(...), warmup_length=250 / 184375, warmup_factor=0.001)`."""
    ours = {
        step: lr_at(
            step,
            total,
            peak=1.0,
            warmup_steps=250 / 184375 * total,
            warmup_factor=0.001,
            schedule="multistep",
            milestones=milestones,
        )
        for step in rates
    }
    assert ours == pytest.approx(rates, rel=1e-8)
