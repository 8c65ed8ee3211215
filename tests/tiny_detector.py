"""A small Mask R-CNN with closed-form weights and inputs, for the tests of the detector."""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.detection.detector import Detector, build
from downstream.detection.settings import DetectorSettings
from mae_bench.backbones import load_backbone
from tests import closed_form

BACKBONE = (
    "random:vit_tiny_patch16_224?embed_dim=32&depth=4&num_heads=2&img_size=64"
    "&mean=0.485,0.456,0.406&std=0.229,0.224,0.225"
)
CANVAS = (128, 128)
CLASSES = 3
SIZES = [(96, 128), (112, 80)]


def settings(**parts: object) -> DetectorSettings:
    """Everything small; `parts` are merged into the settings, one level deep."""
    given = {
        "attention": {"window": 3, "global_blocks": [1, 3], "window_padding": "attended"},
        "pyramid": {"channels": 32},
        "proposals": {
            "anchor_sizes": [8, 16, 32, 64, 128],
            "before_nms": [400, 300],
            "after_nms": [200, 150],
            "nms": 0.8,
        },
        "heads": {"box_width": 64, "nms": 0.3, "score": 0.3},
    }
    for name, more in parts.items():
        given[name] = {**given.get(name, {}), **more} if isinstance(more, dict) else more  # type: ignore[dict-item]
    return DetectorSettings.model_validate(given)


def tiny(config: DetectorSettings | None = None, canvas: tuple[int, int] = CANVAS) -> Detector:
    """The detector with its initial weights."""
    return build(load_backbone(BACKBONE), CLASSES, config or settings(), canvas)


def filled(config: DetectorSettings | None = None) -> Detector:
    """The detector with closed-form weights."""
    model = tiny(config)
    model.load_state_dict(
        {name: value.float() for name, value in closed_form.fill(model.state_dict()).items()}
    )
    return model


def images() -> list[Tensor]:
    """Two uint8 images (3, h, w) of different sizes."""
    return [
        ((closed_form.numbers((3, *size), 900 + index) + 1) * 127.5).to(torch.uint8)
        for index, size in enumerate(SIZES)
    ]


def targets() -> list[dict[str, Tensor]]:
    """Ellipses in boxes: three objects in the first image, two in the second."""
    boxes = [
        [[10.5, 8.0, 58.0, 70.25], [60.0, 20.0, 84.0, 44.0], [2.0, 60.0, 120.0, 94.0]],
        [[5.0, 5.0, 70.0, 100.0], [30.0, 40.0, 47.5, 52.0]],
    ]
    labels = [[1, 3, 2], [2, 1]]
    return [
        {
            "boxes": torch.tensor(own),
            "labels": torch.tensor(label),
            "masks": torch.stack([ellipse(box, size) for box in own]),
        }
        for own, label, size in zip(boxes, labels, SIZES, strict=True)
    ]


def ellipse(box: list[float], size: tuple[int, int]) -> Tensor:
    """uint8 (h, w): 1 where a pixel's centre is inside of the ellipse that fills the box."""
    y = torch.arange(size[0])[:, None] + 0.5
    x = torch.arange(size[1])[None] + 0.5
    left, top, right, bottom = box
    across = (x - (left + right) / 2) / ((right - left) / 2)
    down = (y - (top + bottom) / 2) / ((bottom - top) / 2)
    return (across.square() + down.square() <= 1).to(torch.uint8)


def digest(x: Tensor) -> list[float]:
    """Mean of the absolute values, and four entries from the first to the last."""
    values = x.detach().double().flatten()
    places = [0, len(values) // 3, 2 * len(values) // 3, len(values) - 1]
    return [values.abs().mean().item(), *values[places].tolist()]


def pool_inputs() -> tuple[list[Tensor], list[Tensor]]:
    """Maps (2, 2, h, w) of strides 4 to 32 over 512 pixels, and boxes of all sizes in the two images."""
    maps = [
        closed_form.numbers((2, 2, 512 // stride, 512 // stride), stride).float() for stride in (4, 8, 16, 32)
    ]
    corners = [(3.0, 5.5), (60.25, 40.0), (0.0, 100.0), (20.0, 0.0)]
    sides = [(20.0, 31.0), (112.0, 112.0), (223.0, 225.5), (448.0, 448.0), (480.0, 500.0), (111.9, 112.0)]
    boxes = [[x, y, min(x + w, 512.0), min(y + h, 512.0)] for x, y in corners for w, h in sides]
    return maps, [torch.tensor(boxes[:13]), torch.tensor(boxes[13:])]


def pyramid_inputs() -> tuple[list[int], list[Tensor]]:
    """Widths and maps (2, D, h, w) of a hierarchical backbone."""
    widths = [8, 16, 24, 32]
    return widths, [
        closed_form.numbers((2, width, side, side + 2 * side), 700 + side).float()
        for width, side in zip(widths, (16, 8, 4, 2), strict=True)
    ]
