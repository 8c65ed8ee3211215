"""Configuration files of detectron2 in miniature, as its users write them."""

from __future__ import annotations

from pathlib import Path

SHARED = """
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.data import get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, StandardROIHeads
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf
import torch


def pooler(side):
    return L(ROIPooler)(
        output_size=side, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
    )


model = L(GeneralizedRCNN)(
    backbone=None,
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=8, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[4], [8], [16], [24], [32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=32, positive_fraction=0.5, pre_nms_topk=(50, 50), post_nms_topk=(20, 20),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=80, batch_size_per_image=16, positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p2", "p3", "p4", "p5"], box_pooler=pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=8, height=7, width=7), conv_dims=[], fc_dims=[8]
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=8), test_score_thresh=0.0, num_classes="${..num_classes}",
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
        ),
        mask_in_features=["p2", "p3", "p4", "p5"], mask_pooler=pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels=8, height=14, width=14), num_classes="${..num_classes}",
            conv_dims=[8, 8],
        ),
    ),
    pixel_mean=[103.53, 116.28, 123.675], pixel_std=[1.0, 1.0, 1.0], input_format="BGR",
)
dataloader = OmegaConf.create()
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
    mapper=L(DatasetMapper)(
        is_train=True, augmentations=[L(T.RandomFlip)()], image_format="BGR", use_instance_mask=True,
        instance_mask_format="bitmask",
    ),
    total_batch_size=4, num_workers=0,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False, augmentations=[], image_format="${...train.mapper.image_format}"
    ),
    num_workers=0,
)
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.02, momentum=0.9
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[3], num_updates=4),
    warmup_length=0.25, warmup_factor=0.1,
)
train = dict(max_iter=4, output_dir="elsewhere", init_checkpoint="detectron2://R-50.pkl", device="cuda")
"""

PLAIN = """
from functools import partial

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

from .shared import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(img_size=64, embed_dim=768, depth=12, num_heads=12, out_feature="last_feat"),
    in_feature="${.net.out_feature}", out_channels=8, scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPool)(), norm="LN", square_pad=64,
)
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.5)
optimizer.params.base_lr = "${..lr}"
"""

NETWORK = """
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .shared import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(FPN)(
    bottom_up=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
        out_features=["res2", "res3", "res4", "res5"],
    ),
    in_features="${.bottom_up.out_features}", out_channels=8, top_block=L(LastLevelMaxPool)(),
)
"""


def write(folder: Path) -> dict[str, Path]:
    """The files: ``plain`` with a simple pyramid over a ViT, ``network`` with an FPN over a ResNet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("shared", SHARED), ("plain", PLAIN), ("network", NETWORK)):
        (folder / f"{name}.py").write_text(text)
    return {name: folder / f"{name}.py" for name in ("plain", "network")}
