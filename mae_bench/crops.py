"""Where a training image is cut, as a pure function of its size and of random draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mae_bench.keys import Draws


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def random_resized(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: Draws
) -> Box:
    """A box of random area and aspect ratio that lies inside the image (Inception crop, arXiv:1409.4842).

    Up to ten draws are tried; if none fits, the largest central box whose aspect ratio is allowed is taken.
    The distribution is that of torchvision's `RandomResizedCrop`.

    Args:
        scale: lowest and highest share of the image's area.
        ratio: lowest and highest width / height.
    """
    for _ in range(10):
        box_height, box_width = _sides(height * width * draws.uniform(*scale), draws.log_uniform(*ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            return _placed(height, width, box_height, box_width, draws)
    low, high = ratio
    box_width = min(width, round(height * high))
    box_height = min(height, round(width / low))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def random_resized_once(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: Draws
) -> Box:
    """A box from a single draw, each side cut down to the image's where it is longer.

    This is the crop of MAE's linear probe, which follows a TensorFlow implementation: unlike
    `random_resized`, nothing is drawn again, so the aspect ratio may leave its range.
    """
    share, aspect = draws.uniform(*scale), draws.log_uniform(*ratio)
    return _placed(height, width, *clamped_sides(height, width, share, aspect), draws)


def clamped_sides(height: int, width: int, share: float, aspect: float) -> tuple[int, int]:
    """Height and width of a box with `share` of the area and width / height = `aspect`, cut to the image."""
    box_height, box_width = _sides(height * width * share, aspect)
    return max(1, min(box_height, height)), max(1, min(box_width, width))


def padded(height: int, width: int, size: Sequence[int], padding: int, draws: Draws) -> Box:
    """A box of `size` anywhere in the image padded on each side, in the coordinates of the padded one."""
    return _placed(height + 2 * padding, width + 2 * padding, size[0], size[1], draws)


def _sides(area: float, aspect: float) -> tuple[int, int]:
    return round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))


def _placed(height: int, width: int, box_height: int, box_width: int, draws: Draws) -> Box:
    top, left = draws.below(height - box_height + 1), draws.below(width - box_width + 1)
    return Box(top, left, box_height, box_width)
