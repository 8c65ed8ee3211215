"""What the heads see of a region: a fixed-size crop of the pyramid level that suits its size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


class RegionPool(nn.Module):
    """RoI align (arXiv:1703.06870) without misalignment of half a pixel, as many samples as a bin is large.

    A region of canonical size is taken from p4, one of twice the side from p5, and so on (FPN,
    arXiv:1612.03144, equation 1). The canonical side is 14 strides of p4: the 224 pixels of ImageNet where
    that stride is 16. With smaller patches anchors and regions are small as well, so it shrinks with them.

    Args:
        side: height and width of the crop.
        strides: of the levels from p2 on, in pixels, each twice the one before.
    """

    def __init__(self, side: int, strides: Sequence[float]) -> None:
        super().__init__()
        self.side = side
        self.strides = list(strides)
        self.canonical = 14 * self.strides[2]

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Crops of all regions of all images, in their order.

        Args:
            maps: float32 (B, C, h, w) of each level.
            boxes: (n, 4) of each of the B images, in pixels of the canvas.

        Returns:
            float32 (sum of n, C, side, side).
        """
        regions = torch.cat(
            [torch.cat([box.new_full((len(box), 1), i), box], 1) for i, box in enumerate(boxes)]
        )
        levels = self.levels(regions[:, 1:])
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(self.strides)).tolist()
        # Levels without a region are pooled from too, so that every process has every gradient.
        crops = [
            roi_align(one, own, self.side, 1 / stride, sampling_ratio=-1, aligned=True)
            for one, own, stride in zip(maps, regions[order].split(counts), self.strides, strict=True)
        ]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(crops)[back]

    def levels(self, boxes: Tensor) -> Tensor:
        """For boxes (n, 4) the index (n,) of the level each is taken from, 0 for p2."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        exact = torch.floor(2 + torch.log2(sides / self.canonical + 1e-8))
        return exact.clamp(0, len(self.strides) - 1).long()
