"""Cascade R-CNN: three box heads in a row, each at a stricter overlap (Cai & Vasconcelos, arXiv:1906.09756).

Each head takes the boxes of the one before, so it is trained on boxes about as good as those it will see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from downstream.detection.heads import BoxHead, BoxPredictor
from downstream.detection.layers import Norm
from downstream.detection.regions import (
    BOX_SIDE,
    BOX_WEIGHTS,
    Detection,
    RegionHeads,
    Regions,
    Size,
    Target,
    decode,
)
from downstream.detection.settings import HeadSettings

LATER_IOUS = (0.6, 0.7)
"""Overlap from which on a box counts as an object in the second and third stage; `iou` is the first's."""
STAGES = 1 + len(LATER_IOUS)


class CascadeHeads(RegionHeads):
    """The second stage of Cascade Mask R-CNN, as detectron2's `CascadeROIHeads` does it.

    A batch of regions is sampled once, for the first head. The boxes that a head predicts, one for all
    classes, are cut to the image and matched with the objects anew; they are not sampled again, nor are the
    objects' own boxes added again, and no gradient goes back through them. Losses of the heads are summed,
    while each sends a third of its gradient back into the pyramid. At test time the probabilities of the
    three heads are averaged, and the boxes are the last one's. Masks are those of Mask R-CNN, trained on the
    sampled regions.

    Attributes:
        box_head, box_predictor: of each stage.
        box_coders: from relative boxes to boxes, finer from stage to stage.
    """

    def __init__(
        self, settings: HeadSettings, classes: int, channels: int, strides: Sequence[float], norm: Norm
    ) -> None:
        super().__init__(settings, classes, channels, strides, norm)
        heads = [
            BoxHead(channels, BOX_SIDE, settings.box_convs, settings.box_fcs, settings.box_width, norm)
            for _ in range(STAGES)
        ]
        self.box_head = nn.ModuleList(heads)
        self.box_predictor = nn.ModuleList(BoxPredictor(head.width, classes, 1) for head in heads)
        self.box_coders = [
            BoxCoder(tuple(weight * (stage + 1) for weight in BOX_WEIGHTS)) for stage in range(STAGES)
        ]

    def box_losses(
        self, maps: Sequence[Tensor], regions: Regions, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_classifier_stage0``, ``loss_box_stage0`` and so on to stage 2."""
        losses: dict[str, Tensor] = {}
        for stage, coder in enumerate(self.box_coders):
            logits, deltas = self._stage(stage, maps, regions.boxes)
            own = self.stage_losses(logits, deltas, regions, targets, coder)
            losses |= {f"{name}_stage{stage}": loss for name, loss in own.items()}
            if stage + 1 < STAGES:
                boxes = refined(deltas, regions.boxes, coder, sizes)
                regions = matched(list(map(with_area, boxes)), targets, LATER_IOUS[stage])
        return losses

    def boxes_found(
        self, maps: Sequence[Tensor], proposals: list[Tensor], sizes: Sequence[Size]
    ) -> list[Detection]:
        """Detections without masks."""
        boxes, scores = proposals, []
        for stage, coder in enumerate(self.box_coders):
            logits, deltas = self._stage(stage, maps, boxes)
            scores.append(logits.softmax(dim=1))
            last = decode(deltas, boxes, coder)
            boxes = refined(deltas, boxes, coder, sizes)
        return self.detections(torch.stack(scores).mean(dim=0), last, proposals, sizes)

    def _stage(self, stage: int, maps: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The head of one stage: logits (R, 1 + K) and relative boxes (R, 1, 4), float32."""
        crops = _ShareOfGradient.apply(self.pooled(self.box_roi_pool, maps, boxes), 1 / STAGES)
        logits, deltas = self.box_predictor[stage](self.box_head[stage](crops))
        return logits.float(), deltas.float()


def refined(deltas: Tensor, boxes: list[Tensor], coder: BoxCoder, sizes: Sequence[Size]) -> list[Tensor]:
    """The boxes (n, 4) of each image that one stage hands to the next: cut to the image, without gradient."""
    every = decode(deltas.detach(), boxes, coder)[:, 0]
    split = every.split([len(one) for one in boxes])
    return [clip_boxes_to_image(own, size) for own, size in zip(split, sizes, strict=True)]


def with_area(boxes: Tensor) -> Tensor:
    """Those of `boxes` (n, 4) that are not empty."""
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


@torch.no_grad()
def matched(boxes: list[Tensor], targets: Sequence[Target], iou: float) -> Regions:
    """All of `boxes` with the label of the object that each overlaps most, if by at least `iou`."""
    labels, places = [], []
    for own, target in zip(boxes, targets, strict=True):
        place = torch.zeros(len(own), dtype=torch.int64, device=own.device)
        label = torch.zeros_like(place)
        if len(target["boxes"]):
            overlap, place = box_iou(target["boxes"], own).max(dim=0)
            label = torch.where(overlap >= iou, target["labels"][place], label)
        labels.append(label)
        places.append(place)
    return Regions(boxes, labels, places)


class _ShareOfGradient(torch.autograd.Function):
    """Nothing on the way in; a share of the gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.share, None
