"""Small heads: a convolution with batch norm, a classifier of pixels, and the two heads that are little more.

Shapes: B images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size of the map stays.

    First weights are He's for the number of outputs (arXiv:1502.01852), as mmcv's ConvModule has them.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Classify(nn.Module):
    """Whole channels dropped at random, then a 1 x 1 convolution; first weights normal (0.01), biases 0."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w)."""
        logits: Tensor = self.conv(self.dropout(x))
        return logits


class AuxiliaryHead(nn.Module):
    """A small fully convolutional head (arXiv:1411.4038) on one map, for training alone."""

    def __init__(self, width: int, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = ConvNorm(width, channels, kernel=3)
        self.classify = Classify(channels, classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w)."""
        logits: Tensor = self.classify(self.conv(x))
        return logits


class LinearHead(nn.Module):
    """Maps side by side, batch norm, dropout of whole channels and a 1 x 1 convolution.

    The linear protocol of iBOT (arXiv:2111.07832) and DINOv2 (arXiv:2304.07193).
    """

    def __init__(self, widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(widths))
        self.classify = Classify(sum(widths), classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, D_i, h_i, w_i) -> (B, K, h, w), at the size of the first, to which others are enlarged."""
        size = maps[0].shape[2:]
        alike = [
            one
            if one.shape[2:] == size
            else F.interpolate(one, size=size, mode="bilinear", align_corners=False)
            for one in maps
        ]
        logits: Tensor = self.classify(self.norm(torch.cat(alike, dim=1)))
        return logits
