"""The heads of Mask R-CNN as ViTDet has them, and what they predict.

Weights have detectron2's shapes: K classes with the background last. What comes out has torchvision's
convention: label 0 is the background, and class scores are in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from downstream.detection.layers import ConvNorm, Norm, draw_normal, initialise


class ProposalHead(nn.Module):
    """Convolutions shared by the levels, then for each anchor whether it holds an object, and where.

    Attributes:
        convs: 3x3 convolutions with ReLU, without norm.
        objectness: logit of each anchor.
        deltas: box of each anchor, relative to it.
    """

    def __init__(self, channels: int, anchors: int, convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, relu=True) for _ in range(convs)))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                draw_normal(layer, 0.01)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each map (B, C, h, w): logits (B, A, h, w) and relative boxes (B, 4A, h, w) of A anchors."""
        hidden = [self.convs(one) for one in maps]
        return [self.objectness(one) for one in hidden], [self.deltas(one) for one in hidden]


class BoxHead(nn.Sequential):
    """3x3 convolutions with norm, then fully connected layers.

    Attributes:
        width: of the vector that comes out.
    """

    def __init__(self, channels: int, side: int, convs: int, fcs: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.width = width
        for index in range(convs):
            self.add_module(f"conv{index}", ConvNorm(channels, channels, 3, norm=norm, relu=True, fill="he"))
        self.flatten = nn.Flatten()
        inside = channels * side * side
        for index in range(fcs):
            layer = nn.Linear(inside, width)
            initialise(layer, "xavier")
            self.add_module(f"fc{index}", layer)
            self.add_module(f"relu{index}", nn.ReLU(inplace=True))
            inside = width


class BoxPredictor(nn.Module):
    """Class and box of a region.

    Args:
        boxes: predict a box for each class, or (1) one for all.
    """

    def __init__(self, width: int, classes: int, boxes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, classes + 1)
        self.deltas = nn.Linear(width, boxes * 4)
        draw_normal(self.classify, 0.01)
        draw_normal(self.deltas, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, width) -> logits (R, 1 + K), background first, and relative boxes (R, K or 1, 4)."""
        logits: Tensor = self.classify(x)
        return torch.cat([logits[:, -1:], logits[:, :-1]], dim=1), self.deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Sequential):
    """3x3 convolutions with norm, then a transposed one that doubles the size."""

    def __init__(self, channels: int, convs: int, norm: Norm) -> None:
        super().__init__()
        for index in range(convs):
            self.add_module(f"conv{index}", ConvNorm(channels, channels, 3, norm=norm, relu=True, fill="he"))
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        initialise(self.enlarge, "he")
        self.relu = nn.ReLU(inplace=True)


class MaskPredictor(nn.Module):
    """Mask of a region for each class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.masks = nn.Conv2d(channels, classes, 1)
        draw_normal(self.masks, 0.001)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(R, C, s, s) and labels (R,) in 1..K -> logits (R, s, s) of the mask of each region's label."""
        logits: Tensor = self.masks(x)
        return logits[torch.arange(len(labels), device=labels.device), labels - 1]
