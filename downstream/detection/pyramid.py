"""Feature pyramids: five maps of 256 channels, each half as large as the one before.

The levels are called p2 to p6 after their strides of 4 to 64 pixels over a backbone of stride 16 (or over a
hierarchical one); in general the strides are a quarter, a half, one, two and four times that of p4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers import lecun_normal_
from torch import Tensor, nn
from torch.nn import functional as nnf

from downstream.detection.layers import ConvNorm, Norm, norm_of

LEVELS = 5


def strides_around(middle: float) -> list[float]:
    """Strides of p2 to p6 in pixels, where that of p4 is `middle`."""
    return [middle * 2.0 ** (level - 2) for level in range(LEVELS)]


class SimplePyramid(nn.Module):
    """ViTDet's pyramid: every level is made from the backbone's last map alone (arXiv:2203.16527, section 3).

    The map is enlarged four times and twice by transposed convolutions, taken as it is, and halved by max
    pooling; a 1x1 and a 3x3 convolution with norms follow. p6 is every other place of p5.

    Attributes:
        rescale: the four changes of size.
        project: the two convolutions of each level.
    """

    def __init__(self, width: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.rescale = nn.ModuleList(
            [
                nn.Sequential(),
                nn.Sequential(nn.ConvTranspose2d(width, width // 2, 2, stride=2)),
                nn.Sequential(),
                nn.Sequential(nn.MaxPool2d(2)),
            ]
        )
        quadruple = self.rescale[0]
        quadruple.add_module("first", nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        quadruple.add_module("norm", norm_of(norm, width // 2))
        quadruple.add_module("gelu", nn.GELU())
        quadruple.add_module("second", nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2))
        self.project = nn.ModuleList(
            nn.Sequential(
                ConvNorm(inside, channels, 1, norm=norm), ConvNorm(channels, channels, 3, norm=norm)
            )
            for inside in (width // 4, width // 2, width, width)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The last of `maps` (B, D, h, w) -> five maps (B, C, 4h, 4w), ..., (B, C, h/4, w/4)."""
        levels = [
            project(rescale(maps[-1])) for rescale, project in zip(self.rescale, self.project, strict=True)
        ]
        return [*levels, _every_other(levels[-1])]


class TopDownPyramid(nn.Module):
    """A feature pyramid network (arXiv:1612.03144) over four maps, nearest enlargement, sums.

    Args:
        widths: channels of the four maps, from the finest on.
        rescaled: the maps are of one size, those of four blocks of a plain ViT; they are enlarged four times
            and twice, kept, and halved first, without a change of width (arXiv:2111.11429, section 2).

    Attributes:
        rescale: the four changes of size; empty where there are none.
        lateral: 1x1 convolution of each level.
        output: 3x3 convolution of each level.
    """

    def __init__(self, widths: Sequence[int], channels: int, norm: Norm, *, rescaled: bool) -> None:
        super().__init__()
        self.rescale = keeping_width(widths[0]) if rescaled else nn.ModuleList()
        self.lateral = nn.ModuleList(
            ConvNorm(width, channels, 1, norm=norm, fill="xavier") for width in widths
        )
        self.output = nn.ModuleList(ConvNorm(channels, channels, 3, norm=norm, fill="xavier") for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, D, h, w), the finest first -> five maps (B, C, h, w)."""
        if self.rescale:
            maps = [rescale(one) for rescale, one in zip(self.rescale, maps, strict=True)]
        sums: list[Tensor] = []
        for lateral, one in zip(reversed(self.lateral), reversed(maps), strict=True):
            own: Tensor = lateral(one)
            sums.append(own + nnf.interpolate(sums[-1], scale_factor=2.0) if sums else own)
        levels = [output(one) for output, one in zip(self.output, reversed(sums), strict=True)]
        return [*levels, _every_other(levels[-1])]


def keeping_width(width: int) -> nn.ModuleList:
    """The changes of size of arXiv:2111.11429; transposed convolutions drawn by fan-in (LeCun)."""
    quadruple = nn.Sequential()
    quadruple.add_module("first", nn.ConvTranspose2d(width, width, 2, stride=2))
    quadruple.add_module("norm", nn.GroupNorm(math.gcd(32, width), width))
    quadruple.add_module("gelu", nn.GELU())
    quadruple.add_module("second", nn.ConvTranspose2d(width, width, 2, stride=2))
    double = nn.Sequential(nn.ConvTranspose2d(width, width, 2, stride=2))
    changes = nn.ModuleList([quadruple, double, nn.Identity(), nn.MaxPool2d(2)])
    for layer in changes.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            lecun_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return changes


def _every_other(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2)), as max pooling with kernel 1 and stride 2."""
    return x[..., ::2, ::2]
