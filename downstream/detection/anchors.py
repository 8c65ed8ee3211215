"""Anchors: the boxes to which proposals are relative."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Anchors(nn.Module):
    """Boxes of one size and several ratios at every place of each map.

    Coordinates are exact: nothing is rounded, and those of place (i, j) are centred on (j, i) times the
    stride, as in detectron2 with offset 0.

    Args:
        sizes: side of the square anchor of each level, in pixels.
        ratios: height / width of the anchors; all of a level have the same area.
        strides: pixels between the places of each level.
    """

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[float]) -> None:
        super().__init__()
        self.strides = list(strides)
        self.shapes = [_centred(size, ratios) for size in sizes]
        self.per_place = len(ratios)
        self._made: dict[tuple[int, int, int, torch.device], Tensor] = {}

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """For maps (B, C, h, w) of all levels: boxes (h*w*ratios, 4), places row by row, ratios inmost."""
        return [
            self._level(level, one.shape[-2], one.shape[-1], one.device) for level, one in enumerate(maps)
        ]

    def _level(self, level: int, height: int, width: int, device: torch.device) -> Tensor:
        key = (level, height, width, device)
        if key not in self._made:
            stride = self.strides[level]
            y = torch.arange(height, dtype=torch.float32, device=device) * stride
            x = torch.arange(width, dtype=torch.float32, device=device) * stride
            rows, columns = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack([columns, rows, columns, rows], dim=-1).view(-1, 1, 4)
            self._made[key] = (centres + self.shapes[level].to(device)).view(-1, 4)
        return self._made[key]


def _centred(size: float, ratios: Sequence[float]) -> Tensor:
    """Boxes (ratios, 4) around the origin with the area of a square of side `size`."""
    boxes = []
    for ratio in ratios:
        width = math.sqrt(size**2 / ratio)
        height = ratio * width
        boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes)
