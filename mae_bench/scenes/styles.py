"""Scenes that look otherwise: generated twins of ImageNet-A, ImageNet-R, ImageNet-Sketch and ImageNetV2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mae_bench.scenes.draw import draw
from mae_bench.scenes.plan import Look, rgb, uniform
from mae_bench.scenes.specs import FacesSpec

Pictures = list[NDArray[np.uint8]]
"""Images of (S, S, 3)."""

FINER = 4
"""Posters and line drawings are made this many times larger than they are kept."""
CLUTTERED = Look(others=5, fewest=3, other_radius=(0.16, 0.28), contrast=0.2)
"""More and larger objects around the main one, and less contrast."""


@dataclass(frozen=True)
class Fresh:
    """A set of scenes besides the training and validation splits.

    Attributes:
        split: number of the stream that the scenes are drawn from; those of a world are 0, 1 and 2.
        classes: the classes that it has.
        style: draws the scenes with the given indices of a world.
        numbered: class folders are called by the class's number, not by its name.
    """

    split: int
    classes: tuple[int, ...]
    style: Callable[[FacesSpec, Fresh, Sequence[int]], Pictures]
    numbered: bool = False


def _as_usual(spec: FacesSpec, fresh: Fresh, indices: Sequence[int]) -> Pictures:
    return [scene.image for scene in draw(spec.look, spec.size, spec.seed, fresh.split, indices)]


def _cluttered(spec: FacesSpec, fresh: Fresh, indices: Sequence[int]) -> Pictures:
    return [scene.image for scene in draw(CLUTTERED, spec.size, spec.seed, fresh.split, indices)]


def _posters(spec: FacesSpec, fresh: Fresh, indices: Sequence[int]) -> Pictures:
    """Objects in one flat colour each, without light or shadow, before stripes."""
    side = FINER * spec.size
    large = draw(spec.look, side, spec.seed, fresh.split, indices)
    layers = spec.look.others + 1
    # A stream of its own for the colours.
    picks = uniform(spec.seed, fresh.split + 100, np.asarray(indices, dtype=np.int64), 3 + layers)
    y, x = np.mgrid[:side, :side]
    stripes = (x + y) // (side // 8) % 2
    pictures = []
    for scene, pick in zip(large, picks, strict=True):
        dark_objects = pick[0] < 0.5
        ground, paint = (np.array([0.72, 0.86]), 0.28) if dark_objects else (np.array([0.14, 0.24]), 0.7)
        canvas = rgb(pick[1] + np.array([0.0, 0.1]), np.full(2, 0.3 + 0.5 * pick[2]), ground)[stripes]
        for item, hue in zip(scene.objects, pick[3:], strict=False):  # a scene may have fewer objects
            canvas[item.mask] = rgb(hue, np.array(0.9), np.array(paint))
        pictures.append(_smaller(canvas))
    return pictures


def _line_drawings(spec: FacesSpec, fresh: Fresh, indices: Sequence[int]) -> Pictures:
    """The outlines of what is visible, dark on light paper, grey."""
    large = draw(spec.look, FINER * spec.size, spec.seed, fresh.split, indices)
    pictures = []
    for scene in large:
        owner = np.zeros(scene.semantic.shape, dtype=np.int8)
        for item in scene.objects:
            owner[item.mask] = 1 + item.depth
        # Where not all around is of one object: along rows first, then along columns.
        low = high = np.pad(owner, FINER // 2, mode="edge")
        for axis in (0, 1):
            low = sliding_window_view(low, FINER + 1, axis=axis).min(axis=-1)
            high = sliding_window_view(high, FINER + 1, axis=axis).max(axis=-1)
        line = low != high
        canvas = np.repeat(np.where(line, 0.2, 0.96)[..., None], 3, axis=2)
        pictures.append(_smaller(canvas))
    return pictures


def _smaller(canvas: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(S, S, 3) of [0, 1] as uint8 of a size `FINER` times smaller, the mean of each square."""
    side = len(canvas) // FINER
    mean = canvas.reshape(side, FINER, side, FINER, 3).mean(axis=(1, 3))
    return (np.clip(mean, 0, 1) * 255 + 0.5).astype(np.uint8)


FRESH = {
    "imagenet-a": Fresh(3, (1, 2, 4, 7, 9), _cluttered),
    "imagenet-r": Fresh(4, (0, 3, 5, 6, 8), _posters),
    "sketch": Fresh(5, tuple(range(10)), _line_drawings),
    "imagenetv2-matched-frequency-format-val": Fresh(6, tuple(range(10)), _as_usual, numbered=True),
}
"""The sets by their folders."""
