"""A dataset: a source of images, a transform, and what to do about images that cannot be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torch.utils.data import Dataset

from mae_bench.augment import Transform, eval_transform, train_transform
from mae_bench.data.decoding import UnreadableImageError, decode
from mae_bench.data.memory import RememberedSource, hold
from mae_bench.data.sources import Source, SubsetSource, open_source
from mae_bench.errors import MaeBenchError
from mae_bench.keys import HOLDOUT, key_of, permutation
from mae_bench.settings import DataSettings

# Up to this many pixels an image counts as tiny.
TINY_PIXELS = 96 * 96


class Named(Protocol):
    """What is known of a sequence of samples without reading one."""

    classes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The sample as named in messages: its path."""

    def fingerprint(self) -> str:
        """Digest of names, labels and class list."""


class Samples(Dataset[dict[str, Any]], ABC):
    """Images with what is known about them, whatever that is: the base of every dataset that is trained on.

    ``samples[i]`` or ``samples[(epoch, i)]`` is a dict of what `sample` gives, ``key`` (see `mae_bench.keys`)
    and ``index`` (i). What is random about it depends on seed, epoch and i alone.

    An image that cannot be read is replaced, label and all, by the next one that can be, in the order of the
    source. `bad` remembers which were; once there are more than `max_bad_images` a MaeBenchError names them.
    Each training process counts those that it met.

    Args:
        source: names, classes and digest of the samples.
        seed: the run's seed.
        max_bad_images: how many unreadable images are put up with.
    """

    source: Named

    def __init__(self, source: Named, *, seed: int = 0, max_bad_images: int = 0) -> None:
        self.source = source
        self.seed = seed
        self.max_bad_images = max_bad_images
        self.bad: dict[int, str] = {}
        """Index of each unreadable image met so far -> the reason."""

    @abstractmethod
    def sample(self, index: int, key: int) -> dict[str, Any]:
        """What is known of image `index`, read and transformed; what is random in it follows from `key`.

        Raises:
            UnreadableImageError, OSError: the image cannot be read; a neighbour may stand in for it.
            MaeBenchError: anything that no neighbour mends.
        """

    @abstractmethod
    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Samples (`sample` with ``key`` and ``index``) as one batch; ``key`` and ``index`` int64 ``(B,)``.

        Raises:
            MaeBenchError: they do not fit together.
        """

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, where: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        sample, bad = self.fetch(epoch, index)
        self.note_bad(bad)
        return sample

    def fetch(self, epoch: int, index: int) -> tuple[dict[str, Any], dict[int, str]]:
        """One sample, and the unreadable images passed over on the way to it (index -> reason).

        Raises:
            IndexError: no such index.
            MaeBenchError: too many neighbours in a row are unreadable, or the transform refuses the image.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)}")
        bad: dict[int, str] = {}
        key = key_of(self.seed, epoch, index)
        for step in range(len(self)):
            chosen = (index + step) % len(self)
            try:
                return {**self.sample(chosen, key), "key": key, "index": index}, bad
            except (UnreadableImageError, OSError) as error:
                bad[chosen] = str(error)
                if len(bad) > self.max_bad_images:
                    break
        raise self._too_many(bad)

    def note_bad(self, bad: dict[int, str]) -> None:
        """Count unreadable images. Raises MaeBenchError once there are more than `max_bad_images`."""
        self.bad.update(bad)
        if len(self.bad) > self.max_bad_images:
            raise self._too_many(self.bad)

    def bad_images(self) -> list[str]:
        """The unreadable images met so far, ``PATH: REASON`` each, in order."""
        return self._described(self.bad)

    def _described(self, bad: dict[int, str]) -> list[str]:
        return [f"{self.source.name(index)}: {reason}" for index, reason in sorted(bad.items())]

    def _too_many(self, bad: dict[int, str]) -> MaeBenchError:
        listed = self._described(bad)
        if self.max_bad_images == 0:
            return MaeBenchError(
                f"unreadable image {listed[0]}. Mend or remove it, or let up to N images be replaced by a "
                "neighbour with data.max_bad_images=N"
            )
        return MaeBenchError(
            f"more than data.max_bad_images = {self.max_bad_images} images are unreadable:\n  "
            + "\n  ".join(listed[:20])
        )

    def prepare(self, indices: NDArray[np.int64]) -> None:
        """Called with all indices that are going to be read, before loader processes start."""
        return None

    def is_cheap(self) -> bool:
        """Whether a sample costs no more to make than to hand over to another process."""
        return False


def numbers(samples: Sequence[dict[str, Any]], *names: str) -> dict[str, Tensor]:
    """Whole numbers of every sample as int64 ``(B,)``, under their names."""
    return {name: torch.tensor([sample[name] for sample in samples], dtype=torch.int64) for name in names}


class ImageDataset(Samples):
    """Images with labels, transformed: ``image`` (uint8 ``(C, H, W)``) and ``label``.

    Args:
        source: anything with the members of `mae_bench.data.sources.Source`.
        transform: (uint8 ``(C, H, W)``, key) -> uint8 ``(C, h, w)``.
        seed: the run's seed.
        max_bad_images: how many unreadable images are put up with.
        channels: C, see `mae_bench.data.decode`.
    """

    source: Source

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        seed: int = 0,
        max_bad_images: int = 0,
        channels: int = 3,
    ) -> None:
        super().__init__(source, seed=seed, max_bad_images=max_bad_images)
        self.transform = transform
        self.channels = channels

    def decoded(self, index: int) -> Tensor:
        """The image before the transform, uint8 ``(C, H, W)``.

        Raises:
            UnreadableImageError, OSError: it cannot be read.
        """
        return decode(self.source.read(index), self.channels)

    def sample(self, index: int, key: int) -> dict[str, Any]:
        """The transformed image and its label."""
        image = self.decoded(index)
        try:
            image = self.transform(image, key)
        except MaeBenchError as error:
            raise MaeBenchError(f"{self.source.name(index)}: {error}") from None
        return {"image": image, "label": self.source.label(index)}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``image`` uint8 ``(B, C, H, W)``, and ``label``, ``key``, ``index`` int64 ``(B,)``.

        Raises:
            MaeBenchError: images of different shapes, naming two.
        """
        first = samples[0]
        for sample in samples:
            if sample["image"].shape != first["image"].shape:
                shapes = [
                    f"{self.source.name(one['index'])} {tuple(one['image'].shape)}" for one in (first, sample)
                ]
                raise MaeBenchError(
                    f"images of a batch must have one shape after the transform: {', '.join(shapes)}"
                )
        # Images come with pixels or with planes innermost; batches always with planes.
        images = torch.stack([sample["image"] for sample in samples]).contiguous()
        return {"image": images, **numbers(samples, "label", "key", "index")}

    # ------------------------------------------------------------ for the loaders

    def prepare(self, indices: NDArray[np.int64]) -> None:
        """Hold the images in memory, where the source remembers them."""
        hold(self.source, indices)

    def is_cheap(self) -> bool:
        """Whether a sample costs no more to make than to hand over; the first one tells for all."""
        try:
            height, width = self.decoded(0).shape[-2:]
        except (UnreadableImageError, OSError):
            return False
        return int(height * width) <= TINY_PIXELS

    # ------------------------------------------------------------ what it holds

    @property
    def classes(self) -> list[str]:
        """Name of each class."""
        return self.source.classes

    @property
    def labels(self) -> Tensor:
        """The label of every image, int64 ``(N,)``, without reading any."""
        return torch.tensor([self.source.label(index) for index in range(len(self))], dtype=torch.int64)

    def fingerprint(self) -> str:
        """Digest of classes, names and labels (see `mae_bench.data.sources.Source`)."""
        return self.source.fingerprint()

    # ------------------------------------------------------------ variations

    def subset(self, indices: Sequence[int] | NDArray[np.int64] | Tensor) -> ImageDataset:
        """Some of the images, in the order given; ``index`` then counts within the subset.

        Raises:
            IndexError: an index outside the dataset.
        """
        chosen = np.array([int(index) for index in indices], dtype=np.int64)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"indices from {chosen.min()} to {chosen.max()} of a dataset of {len(self)}")
        return self._over(SubsetSource(self.source, chosen), self.transform)

    def with_transform(self, transform: Transform) -> ImageDataset:
        """The same images with another transform, for example training images as they are evaluated."""
        return self._over(self.source, transform)

    def _over(self, source: Source, transform: Transform) -> ImageDataset:
        return ImageDataset(
            source,
            transform,
            seed=self.seed,
            max_bad_images=self.max_bad_images,
            channels=self.channels,
        )


def train_dataset(
    data: DataSettings,
    data_root: Path,
    seed: int = 0,
    *,
    augment: bool = True,
    labelled: bool = True,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
) -> ImageDataset:
    """The training images of a recipe.

    Args:
        data_root: folder that `data.root` is relative to.
        seed: decides order and augmentation.
        augment: False: the evaluation transform, for features without augmentation.
        labelled: False: all images as one class, in whatever folders, for pretraining.
        mean: the model's mean pixel, for RandAugment.

    Raises:
        MaeBenchError: see `mae_bench.data.sources.open_source`.
    """
    transform = train_transform(data, mean) if augment else eval_transform(data)
    return _dataset(data, open_source(data, "train", data_root, labelled=labelled), transform, seed)


def val_dataset(data: DataSettings, data_root: Path, *, labelled: bool = True) -> ImageDataset:
    """The validation images of a recipe, with the evaluation transform. See `train_dataset`."""
    return _dataset(data, open_source(data, "val", data_root, labelled=labelled), eval_transform(data), 0)


def _dataset(data: DataSettings, source: Source, transform: Transform, seed: int) -> ImageDataset:
    if data.cache == "memory":
        source = RememberedSource(source, data.channels)
    return ImageDataset(
        source, transform, seed=seed, max_bad_images=data.max_bad_images, channels=data.channels
    )


def holdout(
    dataset: ImageDataset, fraction: float | None = None, seed: int = 0, *, count: int | None = None
) -> tuple[ImageDataset, ImageDataset]:
    """Set some images aside, chosen at random: (the rest, those set aside), each in the order of the dataset.

    Args:
        fraction: share to set aside; give this or `count`.
        count: number to set aside.

    Raises:
        MaeBenchError: one of the two parts would be empty.
    """
    if (fraction is None) == (count is None):
        raise ValueError("give fraction or count")
    size = count if count is not None else round(len(dataset) * (fraction or 0.0))
    if not 0 < size < len(dataset):
        raise MaeBenchError(f"cannot hold out {size} of {len(dataset)} images and have images in both parts")
    order = permutation(seed, 0, len(dataset), HOLDOUT)
    return dataset.subset(np.sort(order[size:])), dataset.subset(np.sort(order[:size]))
