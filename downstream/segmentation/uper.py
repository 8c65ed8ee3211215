"""UperNet (Xiao et al., arXiv:1807.10221): pyramid pooling on the coarsest map, a top-down path, one fusion.

Most of its arithmetic is a 3 x 3 convolution over maps of several sizes, all brought to the largest size and
laid side by side. `FusingConv` computes the same number for number (up to rounding) without enlarging the
maps first, with a third of the multiplications and without the memory of the enlarged maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.segmentation.heads import Classify, ConvNorm


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear between pixel centres (``align_corners=False``)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class FusingConv(ConvNorm):
    """A 3 x 3 `ConvNorm` over maps of several sizes, resized to that of the first and laid side by side.

    Resizing mixes pixels, the convolution's nine weight matrices mix channels, and the two commute. So each
    smaller map is multiplied by the nine matrices at its own size, and resizing and the nine shifts together
    are one small matrix along each axis: for a map of half the side, 1/4 of the multiplications, and no
    enlarged map to keep for the way back.
    """

    def __init__(self, inputs: Sequence[int], outputs: int) -> None:
        super().__init__(sum(inputs), outputs, kernel=3)
        self.inputs = list(inputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Maps (B, C_i, h_i, w_i) -> (B, C', h_0, w_0)."""
        weights = self.conv.weight.split(self.inputs, dim=1)
        fused = F.conv2d(maps[0], weights[0], padding=1)
        for x, weight in zip(maps[1:], weights[1:], strict=True):
            fused = fused + _resized_then_convolved(x, weight, fused.shape[2:])
        return F.relu(self.norm(fused), inplace=True)


def _resized_then_convolved(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """``conv2d(resized(x, size), weight, padding=1)``, channels first, then pixels: (B, C', *size)."""
    outputs, inputs = weight.shape[:2]
    down = _resizing_and_shifts(x.shape[2], size[0], x)  # (3 h, H)
    across = _resizing_and_shifts(x.shape[3], size[1], x)  # (3 w, W)
    taps = F.conv2d(x, weight.permute(0, 2, 3, 1).reshape(9 * outputs, inputs, 1, 1))
    taps = taps.unflatten(1, (outputs, 3, 3))  # (B, C', 3, 3, h, w)
    rows = taps.transpose(3, 4).flatten(4) @ across  # (B, C', 3, h, W)
    return down.T @ rows.flatten(2, 3)


def _resizing_and_shifts(length: int, size: int, like: Tensor) -> Tensor:
    """What a line of `length` pixels gives to one of `size` when resized and seen through taps -1, 0, 1.

    Returns:
        (3 * length, size): entry (k * length + i, j) is the share of pixel i in pixel j + k - 1 of the
        resized line; nothing where that pixel is outside, as zero padding has it.
    """
    shares = torch.eye(length, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)[None]
    shares = F.interpolate(shares, size=size, mode="linear", align_corners=False)[0]
    padded = F.pad(shares, (1, 1))
    return torch.cat([padded[:, tap : tap + size] for tap in range(3)]).to(like.dtype)


class PyramidPooling(nn.Module):
    """The map beside its means over grids of `scales` cells a side (PSPNet, arXiv:1612.01105), fused."""

    def __init__(self, inputs: int, channels: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = list(scales)
        self.branches = nn.ModuleList(ConvNorm(inputs, channels, kernel=1) for _ in scales)
        self.fuse = FusingConv([inputs, *[channels] * len(self.scales)], channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, C, h, w)."""
        means = [
            branch(F.adaptive_avg_pool2d(x, scale))
            for scale, branch in zip(self.scales, self.branches, strict=True)
        ]
        fused: Tensor = self.fuse([x, *means])
        return fused


class UperNet(nn.Module):
    """Four maps of falling size -> logits at the size of the first.

    Args:
        widths: D_i, channels of the maps that come in, largest map first.
        channels: C, channels of all maps within.
        scales: cells a side of the pyramid pooling.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        classes: int,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(widths[-1], channels, scales)
        self.laterals = nn.ModuleList(ConvNorm(width, channels, kernel=1) for width in widths[:-1])
        self.smooths = nn.ModuleList(ConvNorm(channels, channels, kernel=3) for _ in widths[:-1])
        self.fuse = FusingConv([channels] * len(widths), channels)
        self.classify = Classify(channels, classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, D_i, h_i, w_i), largest first -> (B, K, h_0, w_0)."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self.pooling(maps[-1]))
        for finer in reversed(range(len(levels) - 1)):
            levels[finer] = levels[finer] + resized(levels[finer + 1], levels[finer].shape[2:])
        smooth = [conv(x) for conv, x in zip(self.smooths, levels[:-1], strict=True)]
        logits: Tensor = self.classify(self.fuse([*smooth, levels[-1]]))
        return logits
