"""What mmcv's operators compute, by their definitions: one box, one sample, one channel after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

Box = Sequence[float]


def area(box: Box, offset: int) -> float:
    return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)


def shared_area(a: Box, b: Box, offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    return width * height if width > 0 and height > 0 else 0


def overlap(a: Box, b: Box, offset: int = 0) -> float | Fraction:
    """Shared area over the area of the union, exact for whole numbers; 0 where neither box has an area."""
    shared = shared_area(a, b, offset)
    union = area(a, offset) + area(b, offset) - shared
    if all(isinstance(number, int) for number in (*a, *b)):
        return Fraction(shared, union) if union else Fraction(0)
    return shared / union if union else 0


def best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def suppress(boxes: Sequence[Box], scores: Sequence[float], threshold: float, offset: int = 0) -> list[int]:
    """Indices of the boxes that no better one kept overlaps by more than the threshold."""
    limit = Fraction(str(threshold))
    kept: list[int] = []
    for index in best_first(scores):
        if all(overlap(boxes[index], boxes[better], offset) <= limit for better in kept):
            kept.append(index)
    return kept


def match(boxes: Sequence[Box], scores: Sequence[float], threshold: float) -> list[list[int]]:
    """The boxes that are kept, each with those that it suppresses, which overlap it by the threshold at least."""
    limit = Fraction(str(threshold))
    groups: list[list[int]] = []
    for index in best_first(scores):
        for group in groups:
            if overlap(boxes[index], boxes[group[0]]) >= limit:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def soft_suppress(
    boxes: Sequence[Box],
    scores: Sequence[float],
    threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> list[tuple[int, float]]:
    """Index and new score of each box that is left, in the order in which they were chosen."""
    current = dict(enumerate(scores))
    chosen: list[tuple[int, float]] = []
    while current:
        best = max(current, key=lambda index: current[index])
        chosen.append((best, current.pop(best)))
        for index in list(current):
            covered = overlap(boxes[best], boxes[index], offset)
            if method == "gaussian":
                current[index] *= math.exp(-covered * covered / sigma)
            elif covered >= threshold:
                current[index] *= 1 - covered if method == "linear" else 0
            if current[index] < min_score:
                del current[index]
    return chosen


def interpolate(plane: Sequence[Sequence[float]], y: float, x: float) -> float:
    """The value between the pixels of a map whose centres are at whole numbers, for RoIAlign.

    Up to one pixel outside the map the border goes on; farther out there is nothing.
    """
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = plane[top][left] * (1 - dx) + plane[top][right] * dx
    lower = plane[below][left] * (1 - dx) + plane[below][right] * dx
    return upper * (1 - dy) + lower * dy


def align(
    plane: Sequence[Sequence[float]],
    box: Box,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> list[list[float]]:
    """RoIAlign (He et al. 2017) of one channel and one region: means over samples in each bin."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (number * scale - shift for number in box)
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    bin_height, bin_width = height / size[0], width / size[1]
    rows = ratio or math.ceil(bin_height)
    columns = ratio or math.ceil(bin_width)

    def mean(row: int, column: int) -> float:
        total = 0.0
        for i in range(rows):
            for j in range(columns):
                y = y1 + (row + (i + 0.5) / rows) * bin_height
                x = x1 + (column + (j + 0.5) / columns) * bin_width
                total += interpolate(plane, y, x)
        return total / max(rows * columns, 1)

    return [[mean(row, column) for column in range(size[1])] for row in range(size[0])]


def sample(plane: Sequence[Sequence[float]], y: float, x: float) -> float:
    """The value between pixels whose centres are at whole numbers, with zeros outside, as in deformable layers."""
    top, left = math.floor(y), math.floor(x)

    def pixel(row: int, column: int) -> float:
        inside = 0 <= row < len(plane) and 0 <= column < len(plane[0])
        return plane[row][column] if inside else 0.0

    corners: Iterable[tuple[int, int]] = ((0, 0), (0, 1), (1, 0), (1, 1))
    return sum(
        pixel(top + i, left + j) * (1 - abs(y - top - i)) * (1 - abs(x - left - j)) for i, j in corners
    )
