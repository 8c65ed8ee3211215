"""Datasets of images with label maps: two folders whose files have the same stems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from downstream.segmentation.crops import SceneCrop
from downstream.segmentation.labels import ClassList, LabelReader, class_list
from downstream.segmentation.settings import SegmentationData
from mae_bench.data import Samples, UnreadableImageError, decode, make_if_generated, numbers
from mae_bench.data.dataset import TINY_PIXELS
from mae_bench.data.listing import EXTENSIONS, Names, some
from mae_bench.data.sources import fingerprint_of
from mae_bench.errors import MaeBenchError

Split = Literal["train", "val"]


class SegmentationSource:
    """The pairs of one split, in the order of their names.

    Args:
        images: folder of images, of any extension, also in folders below it.
        labels: folder of the label maps, PNG, in the same folders below it.
        names: path of each image below `images`, without its extension.
        extensions: of each image.
        class_list: names and colours of the classes.
        reader: of the label maps.
        channels: C of the images, see `mae_bench.data.decode`.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        names: Sequence[str],
        extensions: Sequence[str],
        class_list: ClassList,
        reader: LabelReader,
        channels: int = 3,
    ) -> None:
        self.images, self.labels = images, labels
        self.channels = channels
        self.class_list, self.reader = class_list, reader
        self.classes = class_list.names
        self._stems = Names(names)
        self._files = Names(name + extension for name, extension in zip(names, extensions, strict=True))

    def __len__(self) -> int:
        return len(self._files)

    def stem(self, index: int) -> str:
        """Path of the image below its folder, without extension; a label map has the same."""
        return self._stems[index]

    def name(self, index: int) -> str:
        """Path of the image."""
        return str(self.images / self._files[index])

    def label_path(self, index: int) -> Path:
        """Path of the label map."""
        return self.labels / f"{self._stems[index]}.png"

    def fingerprint(self) -> str:
        """SHA-256 of the class list and of the path of every image below its folder, in order."""
        return fingerprint_of(self.classes, ((name, 0) for name in self._files))

    def image(self, index: int) -> torch.Tensor:
        """The image, uint8 ``(C, h, w)``.

        Raises:
            UnreadableImageError, OSError: it cannot be read.
        """
        return decode(Path(self.name(index)).read_bytes(), self.channels)

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 ``(C, h, w)`` and label map uint8 ``(h, w)``.

        Raises:
            UnreadableImageError, OSError: a file cannot be read.
            MaeBenchError: they differ in size, or the map is not one of these classes.
        """
        image = self.image(index)
        labels = self.reader.read(self.label_path(index))
        self.check_size(index, image, labels)
        return image, labels

    def check_size(self, index: int, image: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise a MaeBenchError if an image and its label map differ in size."""
        if image.shape[-2:] != labels.shape:
            sizes = [f"{width}x{height}" for height, width in (image.shape[-2:], labels.shape)]
            raise MaeBenchError(
                f"image {self.name(index)} has {sizes[0]} pixels, but its label map {self.label_path(index)} "
                f"{sizes[1]}; they must be of one size"
            )


class SegmentationDataset(Samples):
    """Images with label maps: ``image`` (uint8 ``(C, h, w)``) and ``target`` (uint8 ``(h, w)``, 255 ignored).

    Args:
        source: the pairs.
        crop: the training augmentation; None: pairs as they are, for evaluation.
        seed: the run's seed.
        max_bad_images: how many unreadable images are put up with.
    """

    source: SegmentationSource

    def __init__(
        self,
        source: SegmentationSource,
        crop: SceneCrop | None = None,
        *,
        seed: int = 0,
        max_bad_images: int = 0,
    ) -> None:
        super().__init__(source, seed=seed, max_bad_images=max_bad_images)
        self.crop = crop

    def sample(self, index: int, key: int) -> dict[str, Any]:
        """The pair, augmented for training."""
        image, target = self.source.read(index)
        if self.crop is not None:
            image, target = self.crop(image, target, key)
        return {"image": image, "target": target}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``image`` uint8 ``(B, C, H, W)`` and ``target`` uint8 ``(B, H, W)``, for evaluation lists of both.

        In any case ``key`` and ``index`` int64 ``(B,)``.
        """
        images = [sample["image"] for sample in samples]
        targets = [sample["target"] for sample in samples]
        whole = numbers(samples, "key", "index")
        if self.crop is None:
            return {"image": images, "target": targets, **whole}
        # Images come with pixels or with planes innermost; batches always with planes.
        return {"image": torch.stack(images).contiguous(), "target": torch.stack(targets), **whole}

    def is_cheap(self) -> bool:
        """Whether a sample costs no more to make than to hand over; the first one tells for all."""
        try:
            pixels = int(self.source.image(0)[0].numel())
        except (UnreadableImageError, OSError):
            return False
        return max(pixels, self.crop.height * self.crop.width if self.crop else 0) <= TINY_PIXELS


def train_dataset(
    data: SegmentationData, data_root: Path, seed: int, *, mean: Sequence[float]
) -> SegmentationDataset:
    """The training pairs of a recipe, augmented.

    Args:
        mean: the backbone's mean pixel, in [0, 1].

    Raises:
        MaeBenchError: the backbone takes other channels than the images have; see also `open_split`.
    """
    if len(mean) != data.channels:
        raise MaeBenchError(f"data.channels is {data.channels}, but the backbone takes {len(mean)} channels")
    crop = SceneCrop(data.augment, data.image_size, mean)
    source = open_split(data, "train", data_root)
    return SegmentationDataset(source, crop, seed=seed, max_bad_images=data.max_bad_images)


def val_dataset(data: SegmentationData, data_root: Path) -> SegmentationDataset:
    """The validation pairs of a recipe as they are."""
    return SegmentationDataset(open_split(data, "val", data_root), max_bad_images=data.max_bad_images)


def open_split(data: SegmentationData, split: Split, data_root: Path) -> SegmentationSource:
    """The pairs of one split of a dataset; no file is opened but the class list.

    Args:
        data_root: folder that `data.root` is relative to.

    Raises:
        MaeBenchError: a missing or empty folder, an image without label map or the other way round, two
            images of one stem, a broken class list.
    """
    listed = list_split(data, split, data_root)
    found, maps, images, labels = listed.found, listed.maps, listed.images, listed.labels
    lacking, left = sorted(found.keys() - maps.keys()), sorted(maps.keys() - found.keys())
    if lacking:
        raise MaeBenchError(
            f"{len(lacking)} images of {images} have no label map in {labels} (a .png of the same name): "
            f"{some([stem + found[stem] for stem in lacking])}"
        )
    if left:
        raise MaeBenchError(
            f"{len(left)} label maps of {labels} have no image in {images}: "
            f"{some([stem + '.png' for stem in left])}"
        )
    return source_of(data, listed, data_root, sorted(found))


@dataclass(frozen=True)
class Listed:
    """The files of a split, before it is known that they are pairs.

    Attributes:
        images: folder of the images.
        labels: folder of the label maps.
        found: path of each image below its folder without extension -> the extension.
        maps: likewise for the label maps.
    """

    images: Path
    labels: Path
    found: dict[str, str]
    maps: dict[str, str]


def list_split(data: SegmentationData, split: Split, data_root: Path) -> Listed:
    """The files of a split.

    Raises:
        MaeBenchError: a missing or empty folder, two files of one stem.
    """
    make_if_generated(data.root, data_root)
    root, folders = data_root / data.root, getattr(data, split)
    images, labels = root / folders.images, root / folders.labels
    if images.resolve() == labels.resolve():
        raise MaeBenchError(f"data.{split}.images and .labels are the same folder, {images}; give two")
    found = _by_stem(images, f"data.{split}.images", EXTENSIONS)
    maps = _by_stem(labels, f"data.{split}.labels", (".png",))
    return Listed(images, labels, found, maps)


def source_of(
    data: SegmentationData, listed: Listed, data_root: Path, stems: Sequence[str]
) -> SegmentationSource:
    """Some images of a split, each of which has a label map.

    Raises:
        MaeBenchError: a broken class list.
    """
    classes = class_list(data.class_list, data_root / data.root)
    reader = LabelReader(len(classes), zero_is_ignored=data.zero_is_ignored, ignore_label=data.ignore_label)
    extensions = [listed.found[stem] for stem in stems]
    return SegmentationSource(listed.images, listed.labels, stems, extensions, classes, reader, data.channels)


def _by_stem(folder: Path, key: str, extensions: Iterable[str]) -> dict[str, str]:
    """Path below the folder without extension -> the extension, for files with one of `extensions`."""
    if not folder.is_dir():
        raise MaeBenchError(f"there is no folder {folder} ({key})")
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        for file in files:
            name, extension = os.path.splitext(file)
            if file.startswith(".") or extension.lower() not in extensions:
                continue
            stem = prefix + name
            if stem in found:
                raise MaeBenchError(f"{folder}: {stem}{found[stem]} and {stem}{extension} have the same stem")
            found[stem] = extension
    if not found:
        raise MaeBenchError(f"{folder} ({key}) holds no file with extension {' '.join(extensions)}")
    return found
