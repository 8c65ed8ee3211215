"""Maps of one resolution, from four blocks of a plain ViT, as a pyramid of four resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Rescaling(nn.Module):
    """The four maps rescaled by 4, 2, 1 and 0.5, as BEiT (arXiv:2106.08254) feeds UperNet.

    4 is two transposed convolutions of 2 x 2 with batch norm and GELU between them, 2 is one, 0.5 is the
    largest of 2 x 2. The convolutions keep torch's first weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.quadrupled = nn.Sequential(
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        )
        self.doubled = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.halved = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, D, h, w) -> (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w), (B, D, h // 2, w // 2)."""
        first, second, third, fourth = maps
        return [self.quadrupled(first), self.doubled(second), third, self.halved(fourth)]
