"""Training and evaluation samples of a COCO-format dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.detection.jitter import View, draw_view, resize_for_test
from downstream.detection.masks import Patch, patch_of_polygons, patch_of_run_lengths
from downstream.detection.settings import DetectionData
from downstream.detection.source import CocoSource, open_split
from mae_bench.data import Draws, Samples, numbers
from mae_bench.data.dataset import TINY_PIXELS


class DetectionDataset(Samples):
    """Samples of a COCO-format dataset; images keep their own sizes.

    In training a sample holds ``image``, uint8 ``(C, h, w)``, jittered and no larger than the canvas, and
    ``target`` with the n >= 0 objects that are visible: ``boxes``, float32 ``(n, 4)``, x0, y0, x1, y1 around
    the cropped masks; ``labels``, int64 ``(n,)`` from 1 on; ``masks``, uint8 ``(n, h, w)``.

    For evaluation it holds the whole ``image`` at the size of testing, ``size``, height and width of
    the file, and ``image_id``. What is in the images the judge reads from the annotation file.

    Args:
        source: the images.
        data: canvas, jitter and size of testing.
        training: which kind of samples.
        seed: decides the jitter.
    """

    source: CocoSource

    def __init__(self, source: CocoSource, data: DetectionData, *, training: bool, seed: int = 0) -> None:
        super().__init__(source, seed=seed, max_bad_images=data.max_bad_images)
        self.data = data
        self.training = training

    def sample(self, index: int, key: int) -> dict[str, Any]:
        """A sample as the class describes it."""
        image, size = self.source.read(index), self.source.size(index)
        if not self.training:
            image = resize_for_test(image, self.data.evaluation)
            return {"image": image, "size": size, "image_id": self.source.image_id(index)}
        view = draw_view(self.data.augment, self.data.image_size, size, Draws(key))
        return {"image": view.of_image(image), "target": self.target(index, view)}

    def target(self, index: int, view: View) -> dict[str, Tensor]:
        """The objects of an image as they are seen in a view, without those of which no pixel is left."""
        objects = self.source.targets(index)
        patches = [self._seen(which, view) for which in objects]
        boxes = [patch.box() for patch in patches]
        visible = [place for place, box in enumerate(boxes) if box is not None]
        masks = np.zeros((len(visible), *view.crop), dtype=np.uint8)
        for mask, place in zip(masks, visible, strict=True):
            patches[place].put(mask)
        labels = self.source.annotations.labels[objects][visible]
        return {
            "boxes": torch.tensor([boxes[place] for place in visible], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.from_numpy(labels),
            "masks": torch.from_numpy(masks),
        }

    def _seen(self, which: int, view: View) -> Patch:
        """The mask of an object in a view: outlines are moved and drawn, bitmaps are resampled."""
        segmentation = self.source.annotations.segmentation(which)
        if isinstance(segmentation, dict):
            return patch_of_run_lengths(segmentation, *view.shown())
        return patch_of_polygons([view.of_points(polygon) for polygon in segmentation], *view.crop)

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Lists of what the samples hold, and ``key`` and ``index``, int64 ``(B,)``."""
        names = ("image", "target") if self.training else ("image", "size", "image_id")
        lists = {name: [sample[name] for sample in samples] for name in names}
        return {**lists, **numbers(samples, "key", "index")}

    def is_cheap(self) -> bool:
        """Whether the canvas is so small that a sample is made as fast as it is handed over."""
        return int(np.prod(self.data.image_size)) <= TINY_PIXELS


def train_dataset(data: DetectionData, data_root: Path, seed: int = 0) -> DetectionDataset:
    """The training images of a recipe, jittered. See `open_split`."""
    return DetectionDataset(open_split(data, "train", data_root), data, training=True, seed=seed)


def val_dataset(data: DetectionData, data_root: Path) -> DetectionDataset:
    """The validation images of a recipe at the size of testing. See `open_split`."""
    return DetectionDataset(open_split(data, "val", data_root), data, training=False)
