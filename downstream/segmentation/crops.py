"""Where and how large a training image of a segmenter is cut, together with its label map.

The order is that of mmsegmentation's ADE20K recipe: resize into a box times a random factor, cut, mirror,
distort the colours, pad. Images are resized as OpenCV does it (bilinear, without antialiasing): there the
recipe's numbers come from, and at half size antialiasing would change a photograph by 4 grey levels a pixel.
Label maps are resized by taking the pixel at floor(x * scale). What is random follows from the sample's key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from downstream.segmentation.labels import IGNORED
from downstream.segmentation.photometric import distort
from downstream.segmentation.settings import SceneCropSettings
from mae_bench.keys import Draws

TRIES = 10
"""How often a crop that one class fills is drawn again."""


def fitted(height: int, width: int, box: Sequence[float]) -> tuple[int, int]:
    """Height and width of the largest image of the same aspect that fits into a (short, long) box."""
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return scaled(height, width, factor)


def scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    """Height and width times a factor, rounded (halves upwards), at least one pixel each."""
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 ``(C, h, w)`` to uint8 ``(C, height, width)``, bilinear without antialiasing.

    On a CPU torch computes with whole numbers, elsewhere (where it cannot) with floats: a pixel may differ by
    1, as it may from OpenCV.
    """
    if image.shape[-2:] == (height, width):
        return image
    pixels = image[None] if image.device.type == "cpu" else image[None].float()
    resized = nnf.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)[0]
    return resized if resized.dtype == torch.uint8 else resized.round().clamp(0, 255).to(torch.uint8)


def nearest(count: int, wanted: int) -> NDArray[np.int64]:
    """For each of `wanted` pixels of a line that is resized, which of its `count` pixels it takes."""
    step = 1 / (wanted / count)  # not count / wanted: OpenCV's rounding
    return np.minimum(np.floor(np.arange(wanted) * step).astype(np.int64), count - 1)


def is_mixed(labels: NDArray[np.uint8], largest: float) -> bool:
    """Whether a crop has two classes or more, of which none takes `largest` of its pixels or more.

    Ignored pixels are not counted.
    """
    # torch counts bytes five times as quickly as numpy.
    counts = torch.bincount(torch.from_numpy(labels).reshape(-1), minlength=IGNORED + 1)[:IGNORED]
    return int(counts.count_nonzero()) > 1 and int(counts.max()) / int(counts.sum()) < largest


class SceneCrop:
    """The training augmentation: (image, label map, key) to crops of one size.

    A crop that one class fills is drawn again up to ten times, and the last one is taken as it is. What lies
    outside of the image gets the mean pixel, which is 0 after normalisation, and `IGNORED`.

    Args:
        settings: `data.augment`.
        size: height and width of the crop.
        mean: the backbone's mean pixel, in [0, 1].
    """

    def __init__(self, settings: SceneCropSettings, size: Sequence[int], mean: Sequence[float]) -> None:
        self.settings = settings
        self.height, self.width = size
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8).view(-1, 1, 1)

    def __call__(self, image: Tensor, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Augment one pair.

        Args:
            image: uint8 ``(C, h, w)``.
            labels: uint8 ``(h, w)``.

        Returns:
            uint8 ``(C, H, W)`` and uint8 ``(H, W)``.
        """
        draws = Draws(key)
        factor = draws.uniform(*self.settings.scale)
        box = [max(1, int(side * factor)) for side in self.settings.base]
        height, width = fitted(labels.shape[0], labels.shape[1], box)
        top, left, target = self._place(labels.numpy(), height, width, draws)
        image = resize_image(image, height, width)
        image = image[:, top : top + self.height, left : left + self.width]
        if draws.uniform() < self.settings.flip:
            image, target = image.flip(-1), target[:, ::-1]
        if self.settings.photometric:
            image = distort(image, draws)
        return self._padded(image, torch.from_numpy(np.ascontiguousarray(target)))

    def _place(
        self, labels: NDArray[np.uint8], height: int, width: int, draws: Draws
    ) -> tuple[int, int, NDArray[np.uint8]]:
        """Top and left of the crop in the resized image, and its labels. Only what is cut is resized."""
        rows, columns = nearest(labels.shape[0], height), nearest(labels.shape[1], width)
        redraws = TRIES if self.settings.largest_class < 1 else 0
        while True:
            top = draws.below(max(height - self.height, 0) + 1)
            left = draws.below(max(width - self.width, 0) + 1)
            target = labels.take(rows[top : top + self.height], 0).take(columns[left : left + self.width], 1)
            if redraws == 0 or is_mixed(target, self.settings.largest_class):
                return top, left, target
            redraws -= 1

    def _padded(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        height, width = target.shape
        if (height, width) == (self.height, self.width):
            return image, target
        canvas = self.fill.repeat(1, self.height, self.width)
        canvas[:, :height, :width] = image
        return canvas, nnf.pad(target, (0, self.width - width, 0, self.height - height), value=IGNORED)
