"""The images of a COCO-format dataset with what is known of them; opening and checking its splits."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from downstream.detection.annotations import Annotations, read_annotations
from downstream.detection.jitter import Size
from downstream.detection.masks import decode as bitmap
from downstream.detection.masks import rasterise
from downstream.detection.settings import DetectionData
from mae_bench.data import decode, make_if_generated
from mae_bench.data.listing import some
from mae_bench.errors import MaeBenchError, near

Split = Literal["train", "val"]

_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[Tensor], Tensor]] = {
    2: lambda image: image.flip(2),
    3: lambda image: image.flip(1, 2),
    4: lambda image: image.flip(1),
    5: lambda image: image.transpose(1, 2),
    6: lambda image: image.transpose(1, 2).flip(2),
    7: lambda image: image.transpose(1, 2).flip(1, 2),
    8: lambda image: image.transpose(1, 2).flip(1),
}
"""What makes an image ``(C, H, W)`` upright, by its EXIF orientation."""


class CocoSource:
    """Images of an annotation file with what is known of them.

    Args:
        annotations: the file's content.
        folder: folder of the images.
        chosen: which of the images, in order; None: all, by ascending id.
        channels: C of the images, see `mae_bench.data.decode`.
    """

    def __init__(
        self,
        annotations: Annotations,
        folder: Path,
        chosen: NDArray[np.int64] | None = None,
        *,
        channels: int = 3,
    ) -> None:
        self.annotations = annotations
        self.folder = folder
        self.channels = channels
        self.chosen = np.arange(len(annotations.image_ids)) if chosen is None else chosen
        self.categories = annotations.categories
        """``id`` and ``name``; label k stands for number k - 1."""
        self.classes = [category["name"] for category in annotations.categories]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def annotation_file(self) -> Path:
        """The JSON file, which says what detections are judged by."""
        return self.annotations.path

    def name(self, index: int) -> str:
        """Path of the image."""
        return os.path.join(self.folder, self.annotations.names[int(self.chosen[index])])

    def size(self, index: int) -> Size:
        """Height and width of the image, as the annotation file gives them."""
        height, width = self.annotations.sizes[self.chosen[index]].tolist()
        return height, width

    def image_id(self, index: int) -> int:
        """Id of the image in the annotation file."""
        return int(self.annotations.image_ids[self.chosen[index]])

    def read(self, index: int) -> Tensor:
        """The image, uint8 ``(C, h, w)``, upright.

        EXIF orientation is applied, as in detectron2: it is how people see the image whose objects they mark.

        Raises:
            UnreadableImageError, OSError: it cannot be read.
            MaeBenchError: its size is not that of the annotation file.
        """
        with open(self.name(index), "rb", buffering=0) as file:
            data = file.read()
        return self.upright(index, data, decode(data, self.channels))

    def upright(self, index: int, data: bytes, stored: Tensor) -> Tensor:
        """The image as people see it, uint8 ``(C, h, w)``.

        Args:
            data: the content of its file.
            stored: what that decodes to.

        Raises:
            MaeBenchError: its size is not that of the annotation file.
        """
        image = _TURNS.get(_orientation(data), lambda same: same)(stored)
        if tuple(image.shape[1:]) != self.size(index):
            height, width = self.size(index)
            hint = "correct the file, or put the right image in place"
            if tuple(stored.shape[1:]) == (height, width):
                hint = "its EXIF data says that it lies on its side; store it upright, or without EXIF data"
            raise MaeBenchError(
                f"{self.name(index)} is {image.shape[1]} pixels high and {image.shape[2]} wide, but "
                f"{self.annotation_file} says {height} and {width}: {hint}",
                kind="annotation",
            )
        return image

    def targets(self, index: int) -> list[int]:
        """The objects of the image that are trained on, which are those that are no crowd."""
        objects = self.annotations.objects(int(self.chosen[index]))
        return [which for which in objects if not self.annotations.crowd[which]]

    @property
    def objects(self) -> int:
        """How many objects that are no crowd all images show."""
        counts = np.diff(np.concatenate([[0], np.cumsum(~self.annotations.crowd)])[self.annotations.starts])
        return int(counts[self.chosen].sum())

    def truth(self, index: int) -> dict[str, Tensor]:
        """All objects of the image as annotated, crowds too, at its original size.

        ``boxes``, float32 ``(n, 4)``, x0, y0, x1, y1; ``labels``, int64 ``(n,)``; ``masks``, uint8
        ``(n, h, w)``.
        """
        objects = self.annotations.objects(int(self.chosen[index]))
        masks = np.zeros((len(objects), *self.size(index)), dtype=np.uint8)
        for mask, which in zip(masks, objects, strict=True):
            outline = self.annotations.segmentation(which)
            mask[:] = bitmap(outline if isinstance(outline, dict) else rasterise(outline, *mask.shape))
        chosen = slice(objects.start, objects.stop)
        boxes = self.annotations.boxes[chosen].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = self.annotations.labels[chosen].copy()
        return {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "masks": torch.from_numpy(masks),
        }

    def fingerprint(self) -> str:
        """SHA-256 of the annotations and of which images are chosen; pixels are not read."""
        return hashlib.sha256(self.annotations.digest().encode() + self.chosen.tobytes()).hexdigest()


def _orientation(data: bytes) -> int:
    """EXIF orientation of an image file; 1 is upright."""
    if data.startswith(b"\xff\xd8") and b"Exif\0\0" not in data:
        return 1  # a JPEG without EXIF data: nothing to look for
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # broken EXIF data, of which Pillow raises nearly anything, says nothing about the pixels


# ---------------------------------------------------------------- opening


def open_split(data: DetectionData, split: Split, data_root: Path) -> CocoSource:
    """The images of one split: of the training split those that are trained on, of the other one all.

    With the training split the categories of both are compared, as a label must mean the same in both.

    Args:
        data_root: folder that `data.root` is relative to.

    Raises:
        MaeBenchError: a file or folder is missing or broken, more images than `data.max_bad_images` are
            missing, categories differ between the splits or are not `data.classes` many, or there is nothing
            to train on.
    """
    make_if_generated(data.root, data_root)
    annotations = annotations_of(data, split, data_root)
    if data.classes is not None and len(annotations.categories) != data.classes:
        raise MaeBenchError(
            f"{annotations.path} lists {len(annotations.categories)} categories, but data.classes is "
            f"{data.classes}",
            kind="wrong-count",
        )
    part = getattr(data, split)
    folder = data_root / data.root / part.images
    _check_images(annotations, folder, data.max_bad_images, f"data.{split}.images = '{part.images}'")
    if split == "val":
        return CocoSource(annotations, folder, channels=data.channels)
    _compare_categories(annotations, annotations_of(data, "val", data_root))
    chosen = annotations.trainable() if data.filter_empty else None
    if chosen is not None and not len(chosen):
        raise MaeBenchError(
            f"{annotations.path}: no image shows an object that is no crowd: nothing to train on"
        )
    return CocoSource(annotations, folder, chosen, channels=data.channels)


# Annotation files read by this process, by path, time of change and size. Opening the training split looks at
# the other one, and parsing COCO's own takes a while.
_READ: dict[tuple[str, int, int], Annotations] = {}


def annotations_of(data: DetectionData, split: Split, data_root: Path) -> Annotations:
    """The annotation file of a split; read again only if it has changed.

    Raises:
        MaeBenchError: it is missing, or see `read_annotations`.
    """
    path = data_root / data.root / getattr(data, split).annotations
    if not path.is_file():
        raise _missing(path, f"data.{split}.annotations = '{getattr(data, split).annotations}'")
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if key not in _READ:
        _READ[key] = read_annotations(path)
    return _READ[key]


def _missing(path: Path, setting: str) -> MaeBenchError:
    lacking, around = path.name, path.parent
    while not around.is_dir():
        lacking, around = around.name, around.parent
    there = sorted(entry.name for entry in around.iterdir())
    return MaeBenchError(
        f"{path} is missing ({setting}). {around} holds {some(there) if there else 'nothing'}"
        f"{near(lacking, there)}",
        kind="layout",
    )


def _check_images(annotations: Annotations, folder: Path, allowed: int, setting: str) -> None:
    if not folder.is_dir():
        raise _missing(folder, setting)
    missing = [annotations.names[image] for image in missing_images(annotations, folder)]
    if len(missing) > allowed:
        raise MaeBenchError(
            f"{folder} lacks {len(missing)} of the {len(annotations.names)} images that {annotations.path} "
            f"lists: {some(missing, 3)}. Complete it, or correct {setting}",
            kind="missing-file",
        )


def missing_images(annotations: Annotations, folder: Path) -> list[int]:
    """Numbers of the images that are not there.

    Folders are listed for it: asking for each file takes minutes on network storage.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for image, name in enumerate(annotations.names):
        place = os.path.join(folder, os.path.dirname(name))
        if place not in listed:
            listed[place] = set(os.listdir(place)) if os.path.isdir(place) else set()
        if os.path.basename(name) not in listed[place]:
            missing.append(image)
    return missing


def _compare_categories(train: Annotations, val: Annotations) -> None:
    if train.categories == val.categories:
        return
    named = [{entry["id"]: entry["name"] for entry in one.categories} for one in (train, val)]
    differing = [
        f"{number}: {named[0].get(number, 'none')} / {named[1].get(number, 'none')}"
        for number in sorted(named[0].keys() | named[1].keys())
        if named[0].get(number) != named[1].get(number)
    ]
    raise MaeBenchError(
        f"the categories of {train.path} and {val.path} differ (id: training / validation): "
        f"{some(differing, 4)}. Give both files the same list",
        kind="class-order",
    )
