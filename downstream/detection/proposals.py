"""Region proposals: torchvision's network with detectron2's losses and choice of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, clip_boxes_to_image

from downstream.detection.anchors import Anchors
from downstream.detection.heads import ProposalHead
from downstream.detection.settings import ProposalSettings

Target = Mapping[str, Tensor]


class Proposals(RegionProposalNetwork):
    """Finds boxes that may hold an object, whatever its class (arXiv:1506.01497).

    What differs from torchvision: the losses are divided by the number of anchors that may be sampled, and
    L1; proposals are ordered by logit and not by a probability, which rounds large logits to ties; boxes
    are decoded and relative targets computed only where they are used. Losses and boxes are float32 under
    autocast.
    """

    def __init__(self, settings: ProposalSettings, channels: int, strides: Sequence[float]) -> None:
        anchors = Anchors(settings.anchor_sizes, settings.ratios, strides)
        super().__init__(
            anchors,
            ProposalHead(channels, anchors.per_place, settings.convs),
            fg_iou_thresh=settings.positive_iou,
            bg_iou_thresh=settings.negative_iou,
            batch_size_per_image=settings.batch,
            positive_fraction=settings.positive,
            pre_nms_top_n={"training": settings.before_nms[0], "testing": settings.before_nms[1]},
            post_nms_top_n={"training": settings.after_nms[0], "testing": settings.after_nms[1]},
            nms_thresh=settings.nms,
        )

    def forward(
        self,
        maps: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image, and in training the losses.

        Args:
            maps: (B, C, h, w) of each level.
            sizes: (height, width) of each image, without padding.
            targets: of each image ``boxes`` (n, 4) float32.

        Returns:
            Boxes (n, 4) of each image, best first; ``loss_objectness`` and ``loss_rpn_box``.
        """
        logits, deltas = self.head(maps)
        with torch.autocast(maps[0].device.type, enabled=False):
            anchors: list[Tensor] = self.anchor_generator(maps)
            flat_logits = [one.permute(0, 2, 3, 1).flatten(1).float() for one in logits]  # (B, h*w*A)
            flat_deltas = [
                one.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for one in deltas
            ]  # (B, h*w*A, 4)
            losses = {}
            if targets is not None:
                losses = self.losses(anchors, flat_logits, flat_deltas, targets)
            return self.choose(anchors, flat_logits, flat_deltas, sizes), losses

    def losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Cross-entropy of sampled anchors and L1 of the positive ones, both over ``batch`` * images."""
        every = torch.cat(list(anchors))
        images = len(targets)
        labels, matched = self.assign_targets_to_anchors([every] * images, list(targets))
        positive, negative = (torch.stack(one).bool() for one in self.fg_bg_sampler(labels))
        sampled = positive | negative
        wanted = self.box_coder.encode_single(
            torch.stack(matched)[positive], every.expand(images, -1, -1)[positive]
        )
        ceiling = self.fg_bg_sampler.batch_size_per_image * images
        objectness = nnf.binary_cross_entropy_with_logits(
            torch.cat(list(logits), dim=1)[sampled], torch.stack(labels)[sampled], reduction="sum"
        )
        box = nnf.l1_loss(torch.cat(list(deltas), dim=1)[positive], wanted, reduction="sum")
        return {"loss_objectness": objectness / ceiling, "loss_rpn_box": box / ceiling}

    @torch.no_grad()
    def choose(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """The best of each level, without near copies within a level; of those the best of the image.

        Boxes that are not finite, or empty once they are cut to the image, are left out.
        """
        scores, boxes, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas, strict=True)):
            best, place = logit.topk(min(self.pre_nms_top_n(), logit.shape[1]), dim=1)
            chosen = delta.gather(1, place[..., None].expand(-1, -1, 4))
            decoded = self.box_coder.decode_single(chosen.flatten(0, 1), anchor[place].flatten(0, 1))
            scores.append(best)
            boxes.append(decoded.unflatten(0, place.shape))
            levels.append(torch.full_like(place[0], level))
        every_score, every_box, level_of = torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(levels)
        return [
            self._suppress(box, score, level_of, size)
            for box, score, size in zip(every_box, every_score, sizes, strict=True)
        ]

    def _suppress(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]) -> Tensor:
        finite = boxes.isfinite().all(dim=1) & scores.isfinite()
        boxes = clip_boxes_to_image(boxes, size)
        good = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, levels = boxes[good], scores[good], levels[good]
        keep = batched_nms(boxes, scores, levels, self.nms_thresh)
        return boxes[keep[: self.post_nms_top_n()]]
