"""Segmentations of the COCO format, polygons or run lengths, as bitmaps.

All coding and rasterising is faster-coco-eval's, whose pixels are those of pycocotools: what a polygon covers
in training is then what it covers where it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray


class RunLengths(TypedDict):
    """A mask as compressed run lengths, column by column, as COCO's tools write it."""

    size: list[int]
    """Height and width."""
    counts: bytes


Polygons = Sequence[NDArray[np.float64]]
"""The outlines of one object, each ``(k, 2)`` as x, y in pixels (continuous coordinates), k >= 3."""


def rasterise(polygons: Polygons, height: int, width: int) -> RunLengths:
    """The union of some polygons on a canvas; parts outside of it are cut off."""
    outlines = [polygon.reshape(-1) for polygon in polygons]
    code: RunLengths = coco_masks.merge(coco_masks.frPyObjects(outlines, height, width))
    return code


def compress(counts: Sequence[int], height: int, width: int) -> RunLengths:
    """Run lengths given as a list of numbers, as compressed ones.

    Raises:
        ValueError: not whole numbers from 0 on.
    """
    try:
        code: RunLengths = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    except (RuntimeError, TypeError) as error:
        raise ValueError("its run lengths are no whole numbers from 0 on") from error
    return code


def decode(code: RunLengths) -> NDArray[np.uint8]:
    """The bitmap ``(height, width)`` of zeros and ones, of run lengths that add up to its size."""
    bitmap: NDArray[np.uint8] = coco_masks.decode(code)
    return bitmap


@dataclass(frozen=True)
class Patch:
    """A mask as the part of it around the object; beyond `bitmap` it is empty.

    Decoding takes a millisecond for each 300,000 pixels, and most objects are small.
    """

    bitmap: NDArray[np.uint8]
    top: int
    left: int

    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box around the mask as x0, y0, x1, y1, or None if it is empty.

        Edges lie between pixels: x1 is the last column of the mask + 1.
        """
        rows, columns = np.flatnonzero(self.bitmap.any(axis=1)), np.flatnonzero(self.bitmap.any(axis=0))
        if not len(rows):
            return None
        return (
            self.left + int(columns[0]),
            self.top + int(rows[0]),
            self.left + int(columns[-1]) + 1,
            self.top + int(rows[-1]) + 1,
        )

    def put(self, mask: NDArray[np.uint8]) -> None:
        """Write the object into an empty mask ``(height, width)``."""
        height, width = self.bitmap.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.bitmap


def patch_of_polygons(polygons: Polygons, height: int, width: int) -> Patch:
    """What `rasterise` gives, drawn in a window around the object instead of on the whole canvas.

    The window lies on whole pixels, so the pixels are the same.
    """
    corners = np.concatenate(polygons)
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height)).tolist()
    if right <= left or bottom <= top:
        return Patch(np.zeros((0, 0), dtype=np.uint8), 0, 0)
    moved = [polygon - (left, top) for polygon in polygons]
    return Patch(decode(rasterise(moved, bottom - top, right - left)), top, left)


def patch_of_run_lengths(code: RunLengths, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Patch:
    """A mask resampled: pixel (i, j) shows pixel ``(rows[i], columns[j])`` of `code`.

    Both rise or fall throughout.
    """
    x, y, width, height = coco_masks.toBbox(code)
    seen_rows = np.flatnonzero((rows >= y) & (rows < y + height))
    seen_columns = np.flatnonzero((columns >= x) & (columns < x + width))
    if not len(seen_rows) or not len(seen_columns):
        return Patch(np.zeros((0, 0), dtype=np.uint8), 0, 0)
    bitmap = decode(code)[rows[seen_rows][:, None], columns[seen_columns]]
    return Patch(bitmap, int(seen_rows[0]), int(seen_columns[0]))
