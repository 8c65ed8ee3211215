"""Large-scale jitter (arXiv:2012.07177) and the size at which images are tested.

A view says where an image goes: mirrored, resized to fit into a box, cut to the canvas. It is drawn once from
the sample's key and then applied to pixels, outlines and bitmaps alike. Sizes and offsets are rounded as in
detectron2 (`RandomFlip`, `ResizeScale`, `FixedSizeCrop` and `ResizeShortestEdge` in
detectron2/data/transforms/augmentation_impl.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from downstream.detection.settings import JitterSettings, TestSizeSettings
from mae_bench.augment import resize
from mae_bench.keys import Draws

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class View:
    """What part of an image is seen, at which size.

    Attributes:
        image: size of the image.
        resized: the size to which the whole image would be brought.
        top, left: where the crop begins in the resized image; in the mirrored one with `flip_first`.
        crop: size of the crop, no larger than the resized image.
        flip: whether it is mirrored.
        flip_first: whether that comes before the crop.
    """

    image: Size
    resized: Size
    top: int
    left: int
    crop: Size
    flip: bool = False
    flip_first: bool = True

    def of_image(self, image: Tensor) -> Tensor:
        """uint8 ``(C, h, w)`` of size `image` to uint8 ``(C, *crop)``, bilinear and antialiased."""
        # Resized as a whole: parts would begin between pixels. Mirrored last, where there is least to turn.
        image = resize(image, *self.resized, "bilinear")
        left = self._left_unmirrored()
        image = image[:, self.top : self.top + self.crop[0], left : left + self.crop[1]]
        return (image.flip(-1) if self.flip else image).contiguous()

    def of_points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points ``(k, 2)`` of the image, as x and y, in the crop; they may lie outside of it."""
        x, y = points[:, 0], points[:, 1]
        if self.flip and self.flip_first:
            x = self.image[1] - x
        x = x * (self.resized[1] / self.image[1]) - self.left
        y = y * (self.resized[0] / self.image[0]) - self.top
        if self.flip and not self.flip_first:
            x = self.crop[1] - x
        return np.stack([x, y], axis=1)

    def shown(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row of the image that each row of the crop shows, and likewise columns, in a bitmap.

        Bitmaps are not blended: of each pixel the nearest is taken, as Pillow does it.
        """
        rows = _nearest(self.top, self.crop[0], self.image[0], self.resized[0])
        columns = _nearest(self._left_unmirrored(), self.crop[1], self.image[1], self.resized[1])
        return rows, columns[::-1] if self.flip else columns

    def _left_unmirrored(self) -> int:
        """Where the crop begins in the resized image as it was before it was mirrored."""
        if self.flip and self.flip_first:
            return self.resized[1] - self.left - self.crop[1]
        return self.left


def _nearest(start: int, count: int, source: int, target: int) -> NDArray[np.int64]:
    """Of `source` pixels resized to `target`, those that pixels `start` to `start` + `count` show."""
    centres = (np.arange(start, start + count) + 0.5) * (source / target)
    return np.minimum(centres.astype(np.int64), source - 1)


def draw_view(settings: JitterSettings, canvas: Sequence[int], image: Size, draws: Draws) -> View:
    """A random view of an image; three draws, in whatever order they are applied.

    Args:
        canvas: largest height and width of the crop.
        image: size of the image.
    """
    flip = draws.uniform() < settings.flip
    scale = draws.uniform(*settings.scale)
    offset = draws.uniform()
    factor = min(canvas[0] * scale / image[0], canvas[1] * scale / image[1])
    height, width = (max(1, round(side * factor)) for side in image)
    # One draw places both axes.
    top, left = round(max(height - canvas[0], 0) * offset), round(max(width - canvas[1], 0) * offset)
    crop = min(height, canvas[0]), min(width, canvas[1])
    return View(image, (height, width), top, left, crop, flip, settings.flip_first)


def evaluation_size(settings: TestSizeSettings, image: Size) -> Size:
    """The size at which an image is tested: short edge as wanted, unless the long one gets too long."""
    height, width = float(settings.short_edge), float(settings.short_edge)
    if image[0] < image[1]:
        width = settings.short_edge / image[0] * image[1]
    else:
        height = settings.short_edge / image[1] * image[0]
    if max(height, width) > settings.long_edge:
        shrink = settings.long_edge / max(height, width)
        height, width = height * shrink, width * shrink
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def resize_for_test(image: Tensor, settings: TestSizeSettings) -> Tensor:
    """uint8 ``(C, h, w)`` at the size of testing, bilinear and antialiased."""
    size = evaluation_size(settings, (image.shape[-2], image.shape[-1]))
    return resize(image, *size, "bilinear").contiguous()
