"""Random brightness, contrast, saturation and hue, as in SSD (arXiv:1512.02325) and mmsegmentation's recipes.

Each of the four is done with probability one half: brightness first, contrast before or after the two others.
mmsegmentation goes through OpenCV's 8-bit hue, saturation and value, which costs it up to a few grey levels
of rounding; here the same changes are computed on red, green and blue directly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError
from mae_bench.keys import Draws

BRIGHTNESS = 32
"""Grey levels added, at most."""
FACTORS = (0.5, 1.5)
"""Lowest and highest contrast and saturation."""
HUE = 18
"""Steps of 2 degrees by which hues are turned, at most."""
_LEAST = 1e-6
# So many rows at a time stay in the processor's cache: half the time of a whole crop of 512 x 512.
_ROWS = 64


def distort(image: Tensor, draws: Draws) -> Tensor:
    """A distorted copy of an image, uint8 ``(3, h, w)``; the image itself where nothing was drawn.

    Raises:
        MaeBenchError: the image is not RGB.
    """
    if image.shape[0] != 3:
        raise MaeBenchError(
            f"photometric distortion needs images of 3 channels, not {image.shape[0]}; "
            "set data.augment.photometric=false"
        )
    added = draws.uniform(-BRIGHTNESS, BRIGHTNESS) if _chosen(draws) else None
    contrast_first = _chosen(draws)
    factor = draws.uniform(*FACTORS) if contrast_first and _chosen(draws) else None
    saturation = draws.uniform(*FACTORS) if _chosen(draws) else None
    # As many steps back as forward but one, as numpy's randint(-18, 18) draws them.
    turn = draws.below(2 * HUE) - HUE if _chosen(draws) else None
    if not contrast_first and _chosen(draws):
        factor = draws.uniform(*FACTORS)
    return apply(
        image, added=added, factor=factor, contrast_first=contrast_first, saturation=saturation, turn=turn
    )


def _chosen(draws: Draws) -> bool:
    return draws.below(2) == 1


def apply(
    image: Tensor,
    *,
    added: float | None = None,
    factor: float | None = None,
    contrast_first: bool = False,
    saturation: float | None = None,
    turn: int | None = None,
) -> Tensor:
    """The changes that are not None, on uint8 ``(3, h, w)``.

    Args:
        added: grey levels added to every channel.
        factor: what every channel is multiplied with.
        contrast_first: before saturation and hue, not after them.
        saturation: what the saturation is multiplied with (up to 1).
        turn: by how many steps of 2 degrees hues are turned.
    """
    if added is None and factor is None and saturation is None and turn is None:
        return image
    out = torch.empty(image.shape, dtype=torch.uint8)
    for top in range(0, image.shape[1], _ROWS):
        # A copy with planes innermost, whatever the image's own order.
        pixels = torch.empty(image[:, top : top + _ROWS].shape).copy_(image[:, top : top + _ROWS])
        if added is not None:
            pixels = pixels.add_(added).clamp_(0, 255).floor_()
        if factor is not None and contrast_first:
            pixels = pixels.mul_(factor).clamp_(0, 255).floor_()
        if saturation is not None:
            pixels = saturated(pixels, saturation)
        if turn is not None:
            pixels = turned(pixels, turn / 30)
        if factor is not None and not contrast_first:
            pixels = pixels.mul_(factor).clamp_(0, 255).floor_()
        out[:, top : top + _ROWS] = pixels.round_().clamp_(0, 255)
    return out


def saturated(pixels: Tensor, factor: float) -> Tensor:
    """Saturation times a factor, up to 1; hue and value stay. float ``(3, h, w)``, any range from 0.

    Saturation is (max - min) / max, so all distances from the largest channel grow by the same factor.
    """
    largest, smallest = _extremes(pixels)
    if factor > 1:
        # At saturation 1 the smallest channel is 0. Grey pixels stay as they are, whatever the factor.
        most = torch.div(largest, (largest - smallest).clamp_(min=_LEAST)).clamp_(max=factor)
        return largest - (largest - pixels).mul_(most)
    return torch.lerp(largest, pixels, factor)


def turned(pixels: Tensor, sixths: float) -> Tensor:
    """Hue turned by so many sixths of the circle; saturation and value stay. float ``(3, h, w)``."""
    red, green, blue = pixels
    largest, smallest = _extremes(pixels)
    chroma = largest - smallest
    scale = chroma.clamp(min=_LEAST).reciprocal_()
    hue = torch.where(
        largest == red,
        (green - blue).mul_(scale).add_(sixths),
        torch.where(
            largest == green,
            (blue - red).mul_(scale).add_(sixths + 2),
            (red - green).mul_(scale).add_(sixths + 4),
        ),
    )
    hue -= (hue / 6).floor_().mul_(6)  # into [0, 6); three times as quick as the remainder
    out = torch.empty_like(pixels)
    for channel, fall in zip(out, _falls(hue), strict=True):
        torch.addcmul(largest, fall, chroma, value=-1, out=channel)
    return out


def _falls(hue: Tensor) -> Iterator[Tensor]:
    """How far red, green, blue lie from the largest channel (0) to the smallest (1), by hue in [0, 6)."""
    yield (hue - 3).abs_().neg_().add_(2).clamp_(0, 1)
    yield (hue - 2).abs_().sub_(1).clamp_(0, 1)
    yield (hue - 4).abs_().sub_(1).clamp_(0, 1)


def _extremes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and smallest channel of each pixel, ``(h, w)`` both."""
    red, green, blue = pixels
    return torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
