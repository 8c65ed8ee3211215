"""Suppression of boxes and their overlaps, as mmcv defines them.

Boxes are (N, 4): x1, y1, x2, y2. `offset` is 0, or 1 where the pixels x1 ... x2 are all meant to be in a
box: it is added to widths and heights. Of boxes with the same score the earlier one goes first.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from downstream.openmmlab.operators.arithmetic import working

_NAIVE, _LINEAR, _GAUSSIAN = range(3)


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes that no better one kept overlaps by more than the threshold, best first."""
    boxes, scores = working(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # The overlap is computed in the type of the boxes, so that is where an overlap can equal the threshold.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): by its overlap with each better box a box loses score, not its place.

    The best box is always kept, any other until its score falls below `min_score`.

    Args:
        dets: (N, 5), filled in its first K rows with boxes and their new scores, best first.
        iou_threshold: what overlaps at least this much loses score (`method` 0: all of it, 1: the share that
            the overlap is).
        sigma: width of the Gaussian by which every box loses score (`method` 2).

    Returns:
        The indices (K,) of the boxes in `dets`.
    """
    boxes, scores = working(boxes, scores.clone())
    areas = _areas(boxes, offset)
    left = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while len(left):
        best = scores[left].argmax()
        index = left[best]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[index], scores[index]
        kept.append(index)
        left = torch.cat([left[:best], left[best + 1 :]])
        shared = _shared(boxes[index], boxes[left], offset)
        overlaps = (shared / (areas[index] + areas[left] - shared)).nan_to_num(0)  # 0 / 0 between points
        if method == _GAUSSIAN:
            loss = torch.exp(-overlaps.square() / sigma)
        else:
            loss = torch.where(overlaps < iou_threshold, 1, 1 - overlaps if method == _LINEAR else 0)
        scores[left] *= loss
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, *, iou_threshold: float) -> list[list[int]]:
    """For each box kept, best first: its index, then those of the boxes that it suppresses, best first.

    Args:
        dets: (N, 5), boxes and scores.
        iou_threshold: what overlaps at least this much is suppressed (in `nms`: more than this).
    """
    boxes, scores = working(dets[:, :4], dets[:, 4])
    areas = _areas(boxes, 0)
    left = scores.argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    while len(left):
        best, others = left[0], left[1:]
        shared = _shared(boxes[best], boxes[others], 0)
        covered = shared / (areas[best] + areas[others] - shared) >= iou_threshold
        groups.append([int(best), *others[covered].tolist()])
        left = others[~covered]
    return groups


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode: int, aligned: bool, offset: int
) -> None:
    """Fill `ious` with the overlaps of all pairs (M, N), or of those of the same index (N,) if `aligned`.

    The overlap is the shared area over that of the union (`mode` 0) or of the first box (`mode` 1); between
    boxes without area it is not a number.
    """
    first, second = working(bboxes1, bboxes2)
    first = first if aligned else first[:, None]
    shared, whole = _shared(first, second, offset), _areas(first, offset)
    if mode == 0:
        whole = whole + _areas(second, offset) - shared
    ious.copy_(shared / whole)


def _areas(boxes: Tensor, offset: int) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2] + offset
    return sides[..., 0] * sides[..., 1]


def _shared(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """The area that boxes share, broadcast over all but the last dimension."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (bottom_right - top_left + offset).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
