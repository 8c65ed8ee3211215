"""Masks as COCO writes them: polygons along the edges of pixels, and runs.

Format: COCO's instances JSON and pycocotools' mask API. A polygon is ``[x0, y0, x1, y1, ...]`` in pixels,
pixel (0, 0) reaching from 0 to 1 in both directions. Runs count pixels down the columns, from left to right,
alternately outside and inside of the mask, beginning outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_Point = tuple[int, int]
# The sides of a pixel at (0, 0): from where to where, walking with the pixel on the right hand (y runs down),
# and the neighbour (rows, columns) that must be outside for the side to lie on the outline.
_SIDES: tuple[tuple[_Point, _Point, _Point], ...] = (
    ((0, 0), (1, 0), (-1, 0)),
    ((1, 0), (1, 1), (0, 1)),
    ((1, 1), (0, 1), (1, 0)),
    ((0, 1), (0, 0), (0, -1)),
)


def polygons(mask: Mask) -> list[list[int]] | None:
    """The outlines of a mask (H, W), one polygon for each part of it; None where a part has a hole.

    Parts are connected over sides, not over corners. The corners of the polygons are corners of pixels, so
    that they fill the mask and nothing else.
    """
    after = _steps(mask)
    left = {(here, there) for here, next_ones in after.items() for there in next_ones}
    outlines: list[list[int]] = []
    for step in sorted(left):
        if step not in left:
            continue
        corners = _walk(after, left, *step)
        if _signed_area(corners) < 0:  # walked against the clock: around a hole
            return None
        outlines.append([coordinate for corner in corners for coordinate in corner])
    return outlines


def _steps(mask: Mask) -> dict[_Point, list[_Point]]:
    """Where the outline goes on from each corner of a pixel (x, y): to one neighbour, or to two."""
    padded = np.pad(mask, 1)
    after: dict[_Point, list[_Point]] = {}
    for (from_x, from_y), (to_x, to_y), (down, right) in _SIDES:
        beyond = padded[1 + down : 1 + down + mask.shape[0], 1 + right : 1 + right + mask.shape[1]]
        for y, x in np.argwhere(mask & ~beyond).tolist():
            after.setdefault((x + from_x, y + from_y), []).append((x + to_x, y + to_y))
    return after


def _walk(
    after: dict[_Point, list[_Point]], left: set[tuple[_Point, _Point]], here: _Point, there: _Point
) -> list[_Point]:
    """The corners of the closed outline that begins with the step from `here` to `there`.

    Args:
        left: the steps that no outline has taken yet; those of this one are removed.
    """
    corners: list[_Point] = []
    came: _Point | None = None
    while (here, there) in left:
        left.remove((here, there))
        step = (there[0] - here[0], there[1] - here[1])
        if step != came:
            corners.append(here)
        here, came = there, step
        choices = after[here]
        # Where two pixels touch at this corner alone, a turn to the right stays with the same pixel.
        there = choices[0] if len(choices) == 1 else (here[0] - step[1], here[1] + step[0])
    return corners


def _signed_area(corners: Sequence[_Point]) -> float:
    """Area of a polygon, negative where its corners run against the clock on the screen."""
    x, y = np.array(corners, dtype=np.int64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def runs(mask: Mask) -> list[int]:
    """Lengths of the runs of a mask (H, W): COCO's uncompressed RLE."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths


def compressed(lengths: Sequence[int]) -> str:
    """Runs as text: COCO's compressed RLE.

    From the fourth run on the difference to the run two before is written, in groups of five bits from the
    lowest on; bit six of a character says that more follow, and the last group's fifth bit is the sign.
    """
    text = ""
    for place, length in enumerate(lengths):
        rest = length - lengths[place - 2] if place > 2 else length
        last = False
        while not last:
            group, rest = rest & 31, rest >> 5
            last = rest == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if last else 32))
    return text
