"""What is in a scene, before a pixel is drawn: which shapes, where, how large, in which colours and light.

Everything random about a scene is a pure function of (seed, split, index), by a counter-based generator,
so that a scene does not depend on how many others are drawn or in which order, nor on the version of
NumPy. Many scenes are planned at once; `N` is their number, `K` the number of objects one may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mae_bench.scenes.shapes import CLASSES

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """How scenes look. Lengths are fractions of the side of the image.

    As a rule the main object is large and near the centre and gives the image its class; the others are
    nuisance. With `margin` all objects are alike.
    """

    main_radius: tuple[float, float] = (0.34, 0.44)
    other_radius: tuple[float, float] = (0.09, 0.15)
    others: int = 2
    """Most small objects in a scene; their number is uniform from 0."""
    shift: float = 0.08
    """Largest displacement of the main object from the centre, in either direction."""
    turn: float = 20.0
    """Largest rotation of an object, degrees, to either side."""
    contrast: float = 0.3
    """Least difference in luminance between an object and the middle of the background."""
    least_visible: float = 0.3
    """An object of which less than this part is visible is left out of the scene."""
    fewest: int = 0
    """Fewest objects besides the main one, before hidden ones are left out."""
    margin: float | None = None
    """Objects lie anywhere, their centres at least this far from the border, and the main one is the
    nearest; null: the main one lies in the middle, the others on a ring around it."""


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), on every element."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, split: int, indices: NDArray[np.int64], count: int) -> F64:
    """(N, count) numbers in [0, 1); row i depends on (seed, split, indices[i]) alone."""
    step = np.uint64(0x9E3779B97F4A7C15)
    one = np.uint64(1)
    stream = _mix(np.array([seed], dtype=np.uint64) * step + np.uint64(split + 1))
    row = _mix(stream + (indices.astype(np.uint64) + one) * step)
    cells = _mix(row[:, None] + (np.arange(count, dtype=np.uint64) + one) * step)
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


class _Draws:
    """Hands out columns of `uniform`, each exactly once."""

    def __init__(self, seed: int, split: int, indices: NDArray[np.int64], count: int) -> None:
        self._values = uniform(seed, split, indices, count)
        self._next = 0

    def take(self, low: float = 0.0, high: float = 1.0) -> F64:
        """(N,) numbers in [low, high)."""
        column = self._values[:, self._next]
        self._next += 1
        return low + (high - low) * column

    def many(self, count: int, low: float = 0.0, high: float = 1.0) -> F64:
        """(N, count) numbers in [low, high)."""
        return np.stack([self.take(low, high) for _ in range(count)], axis=1)


def rgb(hue: F64, saturation: F64, luma: F64) -> F64:
    """(..., 3) colours of a given luminance (Rec. 601), hue in turns; saturation is cut where it must be."""
    phase = 2 * np.pi * (hue[..., None] + np.array([0.0, 1 / 3, 2 / 3]))
    tint = np.cos(phase)
    tint -= (tint @ np.array([0.299, 0.587, 0.114]))[..., None]
    room = np.where(
        tint > 0, (1 - luma[..., None]) / np.maximum(tint, 1e-6), luma[..., None] / np.maximum(-tint, 1e-6)
    )
    return luma[..., None] + tint * (saturation * room.min(axis=-1))[..., None]


@dataclass(frozen=True)
class Plan:
    """Many scenes, as arrays over scenes (N,) or scenes and layers (N, K); layer 0 is the farthest."""

    category: NDArray[np.int64]  # (N, K)
    present: NDArray[np.bool_]  # (N, K)
    main: NDArray[np.int64]  # (N,), the layer of the main object
    x: F64  # (N, K) in pixels
    y: F64
    radius: F64  # (N, K) in pixels
    angle: F64  # (N, K) in radians
    colour: F64  # (N, K, 3)
    ends: F64  # (N, 2, 3), the colours of the background
    tilt: F64  # (N,), direction of the background's gradient, radians
    light: F64  # (N,), direction the light comes from, radians
    strength: F64  # (N,), of the light


def plan(look: Look, side: int, seed: int, split: int, indices: NDArray[np.int64]) -> Plan:
    """What the scenes with the given indices of a split hold; `side` is that of an image, in pixels."""
    layers = look.others + 1
    draws = _Draws(seed, split, indices, 16 + 12 * layers)
    n = len(indices)
    # Object 0 is the main one until the layers are put in order below.
    category = (draws.many(layers) * len(CLASSES)).astype(np.int64)
    category[:, 0] = indices % len(CLASSES)
    number = look.fewest + (draws.take() * (look.others + 1 - look.fewest)).astype(np.int64)
    present = np.arange(layers)[None] <= number[:, None]
    radius = draws.many(layers, *look.other_radius)
    radius[:, 0] = draws.take(*look.main_radius)
    # Small objects lie around the main one: on a ring, so that they seldom hide each other.
    bearing = draws.take(0, 2 * np.pi)[:, None] + (np.arange(layers) + draws.many(layers, -0.3, 0.3)) * (
        2 * np.pi / max(look.others, 1)
    )
    reach = draws.many(layers, 0.34, 0.5)
    x, y = 0.5 + reach * np.cos(bearing), 0.5 + reach * np.sin(bearing)
    x[:, 0] = 0.5 + draws.take(-look.shift, look.shift)
    y[:, 0] = 0.5 + draws.take(-look.shift, look.shift)
    if look.margin is not None:
        x = draws.many(layers, look.margin, 1 - look.margin)
        y = draws.many(layers, look.margin, 1 - look.margin)
    angle = np.deg2rad(draws.many(layers, -look.turn, look.turn))

    middle = draws.take(0.2, 0.8)
    slope = draws.take(0.0, 0.12)
    ends_luma = np.stack([middle - slope, middle + slope], axis=1)
    hue = draws.take()
    ends_hue = np.stack([hue, hue + draws.take(-0.2, 0.2)], axis=1)
    ends = rgb(ends_hue, np.broadcast_to(draws.take(0.1, 0.6)[:, None], (n, 2)), ends_luma)

    # Luminance of an object: uniform over what is at least `contrast` away from the background.
    below = np.maximum(middle - look.contrast - 0.1, 0.0)[:, None]
    above = np.maximum(0.9 - middle - look.contrast, 0.0)[:, None]
    place = draws.many(layers) * (below + above)
    luma = np.where(place < below, 0.1 + place, middle[:, None] + look.contrast + place - below)
    colour = rgb(draws.many(layers), draws.many(layers, 0.5, 1.0), luma)

    # Order of occlusion: a random permutation of the layers, in which nothing may hide a main object that is
    # no larger than the others.
    height = draws.many(layers)
    if look.margin is not None:
        height[:, 0] = 1.0
    order = np.argsort(height, axis=1, kind="stable")
    rows = np.arange(n)[:, None]
    tilt, light, strength = draws.take(0, 2 * np.pi), draws.take(0, 2 * np.pi), draws.take(0.1, 0.3)
    return Plan(
        category=category[rows, order],
        present=present[rows, order],
        main=np.argmax(order == 0, axis=1),
        x=x[rows, order] * side,
        y=y[rows, order] * side,
        radius=radius[rows, order] * side,
        angle=angle[rows, order],
        colour=colour[rows, order],
        ends=ends,
        tilt=tilt,
        light=light,
        strength=strength,
    )
