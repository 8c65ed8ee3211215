"""What a detector found, in the terms of the original image: pasted masks, COCO records, files of them.

Mask R-CNN predicts a mask of 28 x 28 probabilities for each box. It is stretched over the box and read at the
centres of the image's pixels (arXiv:1703.06870, section 3.1); a pixel from 0.5 on belongs to the object.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks
from torch import Tensor
from torch.nn.functional import grid_sample

from downstream.detection.records import Record, Size
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from mae_bench.run import Run

DETECTIONS_FILE = "detections.json"
THRESHOLD = 0.5


# ---------------------------------------------------------------- masks


def paste(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Masks of probabilities, stretched over their boxes, as masks of the image.

    Equal to detectron2's `paste_masks_in_image` on a CPU.

    Args:
        masks: ``(n, m, m)`` probabilities.
        boxes: ``(n, 4)`` as x0, y0, x1, y1 in pixels, inside of the image and not empty.
        size: height and width of the image.

    Returns:
        uint8 ``(n, height, width)`` on the CPU, 1 where the object is.
    """
    pasted = torch.zeros((len(masks), *size), dtype=torch.uint8)
    for canvas, mask, box in zip(pasted, masks.float().cpu(), boxes.float().cpu(), strict=True):
        _paste_one(canvas, mask, box)
    return pasted


def _paste_one(canvas: Tensor, mask: Tensor, box: Tensor) -> None:
    """Write one mask into an empty canvas, touching only the pixels around its box."""
    height, width = canvas.shape
    x0, y0, x1, y1 = box.tolist()
    # A pixel more on each side: beyond that, less than half of any probability would be read.
    left, right = max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, width)
    top, bottom = max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, height)
    # The order of these operations decides, at 0.5, about single pixels: it is the reference's.
    x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    read = grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    canvas[top:bottom, left:right] = read >= THRESHOLD


# ---------------------------------------------------------------- records


def to_records(
    detections: Mapping[str, Tensor],
    image_id: int,
    categories: Sequence[Mapping[str, Any]],
    input_size: Size,
    original_size: Size,
) -> list[Record]:
    """Detections of one image as COCO results, in the pixels of the original image.

    Boxes are scaled, cut at the image's edges, and left out if nothing remains.

    Args:
        detections: `boxes` ``(n, 4)`` in pixels of the input, `scores` ``(n,)``, `labels` ``(n,)`` from 1 on
            and `masks` ``(n, m, m)`` probabilities.
        image_id: of the annotations.
        categories: that of label k is number k - 1.
        input_size: height and width of the image that the detector saw, without padding.
        original_size: height and width of the image in the file.

    Returns:
        A dictionary for each detection, in the given order, which JSON gives back exactly.
    """
    boxes = _rescaled(detections["boxes"].float().cpu(), input_size, original_size)
    masks = detections["masks"].float().cpu()
    scores, labels = detections["scores"].tolist(), detections["labels"].tolist()
    records = []
    for index in ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0].tolist():
        canvas = torch.zeros(original_size, dtype=torch.uint8)  # one at a time: they may be large
        _paste_one(canvas, masks[index], boxes[index])
        category = categories[labels[index] - 1]
        records.append(_record(image_id, category, boxes[index], scores[index], _encode(canvas)))
    return records


def pasted_records(
    detections: Mapping[str, Tensor],
    image_id: int,
    categories: Sequence[Mapping[str, Any]],
    size: Size | None = None,
) -> list[Record]:
    """As `to_records`, of detections that are in the pixels of the original image already.

    Boxes are cut at the image's edges, and left out if nothing remains.

    Args:
        detections: `boxes` ``(n, 4)``, `scores` ``(n,)``, `labels` ``(n,)`` from 1 on and `masks`, bool
            ``(n, height, width)``; or no masks, and then the records have none.
        size: height and width of the image, which masks tell too.
    """
    masks = detections["masks"].cpu() if "masks" in detections else None
    if masks is not None:
        size = int(masks.shape[1]), int(masks.shape[2])
    assert size is not None
    boxes = _rescaled(detections["boxes"].float().cpu(), size, size)
    scores, labels = detections["scores"].tolist(), detections["labels"].tolist()
    records = []
    for index in ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0].tolist():
        outline = None if masks is None else _encode(masks[index].to(torch.uint8))
        records.append(_record(image_id, categories[labels[index] - 1], boxes[index], scores[index], outline))
    return records


def _record(
    image_id: int, category: Mapping[str, Any], box: Tensor, score: float, outline: dict[str, Any] | None
) -> Record:
    x0, y0, x1, y1 = box.tolist()
    return {
        "image_id": int(image_id),
        "category_id": int(category["id"]),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": score,
        **({} if outline is None else {"segmentation": outline}),
    }


def _rescaled(boxes: Tensor, input_size: Size, original_size: Size) -> Tensor:
    """``(n, 4)`` boxes of the input in the pixels of the original image, inside of it."""
    (height, width), (from_height, from_width) = original_size, input_size
    scale = torch.tensor([width / from_width, height / from_height]).repeat(2)
    most = torch.tensor([width, height], dtype=boxes.dtype).repeat(2)
    return (boxes * scale).clamp(min=0).minimum(most)


def _encode(mask: Tensor) -> dict[str, Any]:
    """Compressed run lengths of a uint8 ``(height, width)`` mask, with text instead of bytes, for JSON."""
    code = coco_masks.encode(np.asfortranarray(mask.numpy()))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


# ---------------------------------------------------------------- files


class Collector:
    """Gathers the records of all processes of a run into one file.

    Each process writes what it is given to a part of its own in the run's folder, so that only one image's
    records are in memory; the main process joins the parts in the order of the images' ids. The file is the
    same to the byte whichever process saw which image.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._part = self._part_of(run.rank)
        try:
            self._lines = self._part.open("w", encoding="ascii")
        except OSError as error:
            raise MaeBenchError(f"{self._part} cannot be written: {error.strerror or error}") from error

    def _part_of(self, rank: int) -> Path:
        return self._run.folder / f"detections-{rank}.json.part"

    def add(self, records: Sequence[Record]) -> None:
        """Take all records of an image (or of several)."""
        by_image: dict[int, list[Record]] = {}
        for record in records:
            by_image.setdefault(record["image_id"], []).append(record)
        for image_id, own in by_image.items():
            text = ",\n".join(json.dumps(record, allow_nan=False) for record in own)
            self._lines.write(json.dumps([image_id, text]) + "\n")

    def finish(self) -> Path:
        """Write ``detections.json``; called once by every process, which wait for each other.

        Raises:
            RuntimeError: an image was added twice.
        """
        self._lines.close()
        self._run.barrier()
        path = self._run.folder / DETECTIONS_FILE
        if self._run.is_main:
            by_image: dict[int, str] = {}
            for rank in range(self._run.world):
                with self._part_of(rank).open(encoding="ascii") as lines:
                    for line in lines:
                        image_id, text = json.loads(line)
                        if image_id in by_image:
                            raise RuntimeError(f"image {image_id} was added twice")
                        by_image[image_id] = text
            joined = ",\n".join(by_image[image_id] for image_id in sorted(by_image))
            write_atomic(path, f"[\n{joined}\n]\n")
            for part in self._run.folder.glob("detections-*.json.part"):  # those of a killed run too
                part.unlink()
        self._run.barrier()
        return path


def read_detections(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file in COCO's results format; `downstream.detection.records` checks them.

    Raises:
        MaeBenchError: the file is missing, or not a JSON list.
    """
    try:
        with open(path, encoding="utf-8") as file:
            records = json.load(file)
    except OSError as error:
        raise MaeBenchError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise MaeBenchError(f"{os.fspath(path)} is not a JSON file: {error}") from error
    if not isinstance(records, list):
        raise MaeBenchError(
            f"{os.fspath(path)} must hold a list of detections (COCO's results format), not a "
            f"{type(records).__name__}"
        )
    return records
