"""What happens to proposals: sampling, classes, boxes and masks, on torchvision's RoIHeads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from downstream.detection.heads import BoxHead, BoxPredictor, MaskHead, MaskPredictor
from downstream.detection.layers import Norm
from downstream.detection.pooling import RegionPool
from downstream.detection.settings import HeadSettings

Target = Mapping[str, Tensor]
Detection = dict[str, Tensor]
Size = tuple[int, int]

BOX_SIDE = 7
MASK_SIDE = 14
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Regions(NamedTuple):
    """Regions of each image with their truth; one tensor an image.

    Attributes:
        boxes: (n, 4).
        labels: (n,) int64, 0 for background.
        matched: (n,) int64, place of the object among the image's; without meaning for background.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    matched: list[Tensor]

    def foreground(self) -> Regions:
        """Those with an object."""
        keep = [label > 0 for label in self.labels]
        return Regions(*([one[own] for one, own in zip(part, keep, strict=True)] for part in self))

    def truth(self, targets: Sequence[Target], name: str) -> Tensor:
        """``targets[i][name]`` of each region's object, of all images together; for foreground only."""
        return torch.cat([target[name][own] for target, own in zip(targets, self.matched, strict=True)])


class RegionHeads(RoIHeads):
    """The second stage of Mask R-CNN (arXiv:1703.06870).

    Losses are those of detectron2: the box loss is L1, summed over foreground regions and divided by all
    sampled ones; masks are compared with the object's bitmap cut out by the region and rounded. Pooling,
    boxes and losses are float32 under autocast.
    """

    def __init__(
        self, settings: HeadSettings, classes: int, channels: int, strides: Sequence[float], norm: Norm
    ) -> None:
        box_head = BoxHead(channels, BOX_SIDE, settings.box_convs, settings.box_fcs, settings.box_width, norm)
        super().__init__(
            RegionPool(BOX_SIDE, strides),
            box_head,
            BoxPredictor(box_head.width, classes, classes),
            fg_iou_thresh=settings.iou,
            bg_iou_thresh=settings.iou,
            batch_size_per_image=settings.batch,
            positive_fraction=settings.positive,
            bbox_reg_weights=BOX_WEIGHTS,
            score_thresh=settings.score,
            nms_thresh=settings.nms,
            detections_per_img=settings.detections,
            mask_roi_pool=RegionPool(MASK_SIDE, strides),
            mask_head=MaskHead(channels, settings.mask_convs, norm),
            mask_predictor=MaskPredictor(channels, classes),
        )

    def forward(
        self,
        maps: Sequence[Tensor],
        proposals: list[Tensor],
        sizes: Sequence[Size],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Losses where there are targets, else detections.

        Args:
            maps: (B, C, h, w) of p2 to p5.
            proposals: (n, 4) of each image.
            sizes: (height, width) of each image, without padding.
            targets: of each image ``boxes`` (n, 4) float32, ``labels`` (n,) int64 in 1..K, and ``masks``
                (n, height, width) bool or uint8.

        Returns:
            Detections, each with ``boxes`` (n, 4), ``scores`` (n,), ``labels`` (n,) and ``masks`` (n, 28, 28)
            in falling order of score; and the losses. One of them is empty.
        """
        # Once for both pools; autocast gives low precision, which region pooling does not read everywhere.
        maps = [one.float().contiguous() for one in maps]
        if targets is None:
            found = self.boxes_found(maps, proposals, sizes)
            return self.with_masks(maps, found), {}
        regions = self.sample(proposals, targets)
        losses = self.box_losses(maps, regions, sizes, targets)
        return [], {**losses, "loss_mask": self.mask_loss(maps, regions, targets)}

    # ------------------------------------------------------------ boxes

    @torch.no_grad()
    def sample(self, proposals: list[Tensor], targets: Sequence[Target]) -> Regions:
        """Match proposals and the objects' own boxes with the objects, and draw a batch of each image."""
        boxes = [target["boxes"] for target in targets]
        regions = self.match(self.add_gt_proposals(proposals, boxes), targets)
        drawn = self.subsample(regions.labels)
        return Regions(*([one[own] for one, own in zip(part, drawn, strict=True)] for part in regions))

    def match(self, boxes: list[Tensor], targets: Sequence[Target]) -> Regions:
        """All of `boxes` with the label of the object that each covers best, if well enough."""
        matched, labels = self.assign_targets_to_proposals(
            boxes, [target["boxes"] for target in targets], [target["labels"] for target in targets]
        )
        return Regions(boxes, labels, matched)

    def box_losses(
        self, maps: Sequence[Tensor], regions: Regions, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_classifier`` and ``loss_box`` of the sampled regions."""
        logits, deltas = self.box_stage(maps, regions.boxes, self.box_head, self.box_predictor)
        return self.stage_losses(logits, deltas, regions, targets, self.box_coder)

    def boxes_found(
        self, maps: Sequence[Tensor], proposals: list[Tensor], sizes: Sequence[Size]
    ) -> list[Detection]:
        """Detections without masks."""
        logits, deltas = self.box_stage(maps, proposals, self.box_head, self.box_predictor)
        return self.detections(
            logits.softmax(dim=1), decode(deltas, proposals, self.box_coder), proposals, sizes
        )

    def box_stage(
        self, maps: Sequence[Tensor], boxes: list[Tensor], head: nn.Module, predictor: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """One box head over all regions: logits (R, 1 + K) and relative boxes (R, K or 1, 4), float32."""
        logits, deltas = predictor(head(self.pooled(self.box_roi_pool, maps, boxes)))
        return logits.float(), deltas.float()

    def pooled(self, pool: RegionPool, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Crops (R, C, s, s) of all regions."""
        with torch.autocast(maps[0].device.type, enabled=False):
            crops: Tensor = pool(maps, boxes)
        return crops.contiguous(memory_format=torch.channels_last)

    def stage_losses(
        self, logits: Tensor, deltas: Tensor, regions: Regions, targets: Sequence[Target], coder: BoxCoder
    ) -> dict[str, Tensor]:
        """Losses of one box head's output, float32."""
        with torch.autocast(logits.device.type, enabled=False):
            labels = torch.cat(regions.labels)
            among = labels.nonzero()[:, 0]
            ours = regions.foreground()
            wanted = coder.encode_single(ours.truth(targets, "boxes"), torch.cat(ours.boxes))
            column = labels[among] - 1 if deltas.shape[1] > 1 else torch.zeros_like(among)
            every = max(len(labels), 1)
            return {
                "loss_classifier": nnf.cross_entropy(logits, labels, reduction="sum") / every,
                "loss_box": nnf.l1_loss(deltas[among, column], wanted, reduction="sum") / every,
            }

    def detections(
        self, scores: Tensor, boxes: Tensor, proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Detection]:
        """The best boxes of each image, without near copies within a class.

        Args:
            scores: (R, 1 + K) probabilities, background first.
            boxes: (R, K or 1, 4) for each class, or one for all.
            proposals: of each image; only their number counts.
        """
        counts = [len(one) for one in proposals]
        return [
            self._suppress(own_scores, own_boxes, size)
            for own_scores, own_boxes, size in zip(
                scores.split(counts), boxes.split(counts), sizes, strict=True
            )
        ]

    def _suppress(self, scores: Tensor, boxes: Tensor, size: Size) -> Detection:
        finite = scores.isfinite().all(dim=1) & boxes.isfinite().flatten(1).all(dim=1)
        scores, boxes = scores[finite, 1:], clip_boxes_to_image(boxes[finite], size)
        region, column = (scores > self.score_thresh).nonzero(as_tuple=True)
        scores = scores[region, column]
        boxes = boxes[region, column if boxes.shape[1] > 1 else 0]
        keep = batched_nms(boxes, scores, column, self.nms_thresh)[: self.detections_per_img]
        boxes, scores, labels = boxes[keep], scores[keep], column[keep] + 1
        # Empty boxes go last of all: until here they take their place among the best.
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return {"boxes": boxes[solid], "scores": scores[solid], "labels": labels[solid]}

    # ------------------------------------------------------------ masks

    def mask_loss(self, maps: Sequence[Tensor], regions: Regions, targets: Sequence[Target]) -> Tensor:
        """Cross-entropy of the masks of foreground regions, mean over all their pixels in the batch.

        A batch without any goes through with one region that counts nothing: so every parameter has
        a gradient and every batch norm its turn, on every process.
        """
        ours = regions.foreground()
        if any(len(one) for one in ours.boxes):
            wanted = torch.cat(
                [
                    cut_out(target["masks"], own, boxes, 2 * MASK_SIDE)
                    for target, own, boxes in zip(targets, ours.matched, ours.boxes, strict=True)
                ]
            )
            logits = self._mask_logits(maps, ours.boxes, torch.cat(ours.labels))
            with torch.autocast(logits.device.type, enabled=False):
                return nnf.binary_cross_entropy_with_logits(logits, wanted)
        stride = self.mask_roi_pool.strides[0]
        place = maps[0].new_tensor([[0, 0, MASK_SIDE * stride, MASK_SIDE * stride]])
        boxes = [place, *(place[:0] for _ in range(len(targets) - 1))]
        return self._mask_logits(maps, boxes, place.new_ones(1, dtype=torch.int64)).sum() * 0

    def with_masks(self, maps: Sequence[Tensor], found: list[Detection]) -> list[Detection]:
        """The same detections with ``masks``, the probabilities (n, 28, 28) of each one's class."""
        boxes = [one["boxes"] for one in found]
        counts = [len(one) for one in boxes]
        side = 2 * MASK_SIDE
        if sum(counts):
            labels = torch.cat([one["labels"] for one in found])
            masks = self._mask_logits(maps, boxes, labels).sigmoid()
        else:
            masks = maps[0].new_zeros(0, side, side)
        return [{**one, "masks": own} for one, own in zip(found, masks.split(counts), strict=True)]

    def _mask_logits(self, maps: Sequence[Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        crops = self.pooled(self.mask_roi_pool, maps, boxes)
        logits: Tensor = self.mask_predictor(self.mask_head(crops), labels)
        return logits.float()


def decode(deltas: Tensor, boxes: Sequence[Tensor], coder: BoxCoder) -> Tensor:
    """Relative boxes (R, k, 4) and the regions they are relative to -> boxes (R, k, 4)."""
    decoded: Tensor = coder.decode_single(deltas.flatten(1), torch.cat(list(boxes)))
    return decoded.view_as(deltas)


def cut_out(masks: Tensor, matched: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What regions should give: their object's bitmap, cut out, resized and rounded.

    Args:
        masks: (n, height, width), 0 or 1, of any type; outside of it there is nothing.
        matched: (R,) which of them.
        boxes: (R, 4) in pixels.

    Returns:
        float32 (R, side, side) of 0 and 1.
    """
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    regions = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    cut = roi_align(masks[:, None].float(), regions, side, 1.0, sampling_ratio=-1, aligned=True)
    return (cut[:, 0] >= 0.5).float()
