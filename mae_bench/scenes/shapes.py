"""The shapes of the generated world: outlines, and tables of their signed distance.

A shape is a set of closed outlines in its own coordinates, x to the right and y down, about as large as
the unit circle; a point is inside where it lies inside an odd number of outlines, so a second outline
makes a hole. Drawing needs, for any point, the distance to the outline: `distances` tabulates it once per
shape, after which every shape is drawn by the same table look-up, whatever its position, size and angle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Points = NDArray[np.float64]
"""Corners of a closed outline, (P, 2), x first."""

TABLE_SIDE = 256
"""Cells along a side of a distance table."""
TABLE_REACH = 1.75
"""A table spans [-TABLE_REACH, TABLE_REACH] in both directions."""


def _polar(radius: Callable[[Points], Points], count: int = 96, turn: float = 0.0) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    length = radius(angle)
    return np.stack([length * np.sin(angle + turn), -length * np.cos(angle + turn)], axis=1)


def _regular(corners: int) -> Points:
    return _polar(np.ones_like, corners)


def _circle(radius: float = 1.0) -> Points:
    return _polar(lambda angle: np.full_like(angle, radius))


def _star() -> Points:
    return _polar(lambda angle: np.where(np.arange(angle.size) % 2 == 0, 1.0, 0.42), 10)


def _cross() -> Points:
    arm, half = 0.95, 0.3
    quarter = np.array([[half, -arm], [half, -half], [arm, -half]])
    turned = [quarter]
    for _ in range(3):
        turned.append(np.stack([-turned[-1][:, 1], turned[-1][:, 0]], axis=1))
    return np.concatenate(turned)


def _crescent() -> Points:
    # The outer arc is the unit circle; the inner one bulges less and meets it at the two tips.
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 64)
    tip_x, tip_y = np.cos(outer[-1]), np.sin(outer[-1])
    centre = 0.42
    radius = np.hypot(tip_x - centre, tip_y)
    end = np.arctan2(tip_y, tip_x - centre) % (2 * np.pi)
    inner = np.linspace(end, 2 * np.pi - end, 48)[1:-1]
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([arc, bite])


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 17], axis=1)


def _arrow() -> Points:
    return np.array(
        [[0, -1], [0.8, -0.15], [0.32, -0.15], [0.32, 0.95], [-0.32, 0.95], [-0.32, -0.15], [-0.8, -0.15]]
    )


def _hourglass() -> Points:
    return np.array([[-0.7, -0.83], [0.7, -0.83], [0.15, 0], [0.7, 0.83], [-0.7, 0.83], [-0.15, 0]])


SHAPES: dict[str, Callable[[], list[Points]]] = {
    "arrow": lambda: [_arrow()],
    "crescent": lambda: [_crescent()],
    "cross": lambda: [_cross()],
    "disc": lambda: [_circle(0.9)],
    "heart": lambda: [_heart()],
    "hourglass": lambda: [_hourglass()],
    "ring": lambda: [_circle(0.95), _circle(0.5)],
    "square": lambda: [_regular(4)],
    "star": lambda: [_star()],
    "triangle": lambda: [_regular(3)],
}
"""Name -> outlines, sorted by name: the class index of a shape is its place here."""

CLASSES: tuple[str, ...] = tuple(SHAPES)


def _signed_distance(x: F32, y: F32, outlines: list[Points]) -> F32:
    """Distance of points (x, y), any shape, to the nearest outline, negative inside."""
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for outline in outlines:
        for start, end in zip(outline.astype(np.float32), np.roll(outline, -1, axis=0), strict=True):
            ex, ey = (end - start).astype(np.float32)
            from_x, from_y = x - start[0], y - start[1]
            along = np.clip((from_x * ex + from_y * ey) / (ex * ex + ey * ey), np.float32(0), np.float32(1))
            np.minimum(nearest, (from_x - along * ex) ** 2 + (from_y - along * ey) ** 2, out=nearest)
            # Even-odd rule: count the edges that a ray to the right crosses.
            if ey != 0:
                straddles = (from_y < 0) != (from_y < ey)
                inside ^= straddles & (from_x < from_y * (ex / ey))
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest))


@cache
def distances() -> F32:
    """Signed distance of every shape on a grid: (shapes, TABLE_SIDE, TABLE_SIDE), rows are y.

    Cell i lies at ``(i + 0.5) / TABLE_SIDE * 2 * TABLE_REACH - TABLE_REACH``.
    """
    axis = ((np.arange(TABLE_SIDE) + 0.5) / TABLE_SIDE * 2 * TABLE_REACH - TABLE_REACH).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    table = np.stack([_signed_distance(x, y, build()) for build in SHAPES.values()])
    table.setflags(write=False)
    return table
