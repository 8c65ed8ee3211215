"""The tiny detector of tests/tiny_detector.py as our engine and as detectron2 build it, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from downstream.detection.detector import Detector
from downstream.detection.detectron2 import config, presence, weights
from downstream.detection.detectron2.config import Facts
from downstream.detection.detectron2.model import supplying
from downstream.detection.detectron2.settings import Detectron2Config
from downstream.detection.settings import DetectorSettings
from downstream.detection.trunk import Trunk
from tests.tiny_detector import BACKBONE, CANVAS, CLASSES, filled, images, targets

ABSENT = None if presence.found() else "detectron2 cannot be imported here; it is on no package index"
needs_detectron2 = [
    pytest.mark.engine,
    pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT)),
]

LOSSES = {
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_loc": "loss_rpn_box",
    "loss_cls": "loss_classifier",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
}


def recipe(settings: DetectorSettings, **parts: Any) -> Detectron2Config:
    """A recipe around the tiny detector."""
    split = {"images": "images", "annotations": "annotations.json"}
    values: dict[str, Any] = {
        "task": "detection.detectron2",
        "recipe": "tiny",
        "backbone": BACKBONE,
        "data": {
            "name": "tiny",
            "root": ".",
            "train": split,
            "val": split,
            "image_size": list(CANVAS),
            "evaluation": {"short_edge": 128, "long_edge": 128},
        },
        "model": settings.model_dump(mode="json"),
        "train": {"steps": 10, "batch": 2},
        "optim": {"lr": 1e-3},
    }
    for name, more in parts.items():
        values[name] = {**values[name], **more} if isinstance(more, dict) else more
    return Detectron2Config.model_validate(values)


def facts_of(detector: Detector) -> Facts:
    strides: Any = detector.rpn.anchor_generator.strides
    return Facts(BACKBONE, CLASSES, strides, detector.mean, detector.std)


def both(settings: DetectorSettings) -> tuple[Detector, nn.Module]:
    """Our detector and detectron2's, which share no tensor, with the same closed-form weights."""
    from detectron2.config import instantiate

    ours, twin = _filled(settings), _filled(settings)
    lazy = config.model(recipe(settings), facts_of(twin))
    trunk = Trunk(twin.body, twin.pyramid, twin.blocks, list(twin.rpn.anchor_generator.strides))
    with supplying(trunk), presence.quiet():
        theirs: nn.Module = instantiate(lazy)
    weights.take(theirs, twin)
    return ours, theirs


def _filled(settings: DetectorSettings) -> Detector:
    detector = filled(settings)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.abs_().add_(0.5)
    return detector


def inputs(masks: str = "bitmask") -> list[dict[str, Any]]:
    """Images and targets of tests/tiny_detector.py as detectron2 takes them."""
    from detectron2.structures import BitMasks, Boxes, Instances

    assert masks == "bitmask"
    given = []
    for number, (image, target) in enumerate(zip(images(), targets(), strict=True)):
        height, width = image.shape[1:]
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(target["boxes"])
        objects.gt_classes = target["labels"] - 1
        objects.gt_masks = BitMasks(target["masks"].bool())
        one = {"image": image, "instances": objects, "height": height, "width": width}
        given.append({**one, "file_name": f"{number}.png", "image_id": number})
    return given


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    """detectron2's losses of the tiny images, under its names."""
    from detectron2.utils.events import EventStorage

    model.train()
    with EventStorage(), presence.quiet():
        found: dict[str, Tensor] = model(inputs())
    return found


def furthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference between tensors, of equal shapes, over their largest value."""
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))
    return apart / max(float(one.detach().abs().max()) for one in ours)


def without_drawing(settings: DetectorSettings) -> DetectorSettings:
    """The settings with batches that take in every anchor and proposal, so that nothing is drawn."""
    proposals = settings.proposals.model_copy(update={"batch": 100_000, "positive": 1.0})
    heads = settings.heads.model_copy(update={"batch": 100_000, "positive": 1.0})
    return settings.model_copy(update={"proposals": proposals, "heads": heads})


def seeded() -> None:
    torch.manual_seed(0)
