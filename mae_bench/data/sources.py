"""Where images come from: class folders, tar files, files that name images, Hugging Face datasets, shards.

Every source is a fixed sequence: image i, its label, its name. Order, shuffling, sharding and resuming are
decided elsewhere, so they are the same and exact for all of them. Folders and Hugging Face datasets are read
through timm's readers; tar files and webdataset shards by offset (see `mae_bench.data.tars` for why).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae_bench import scenes, screen
from mae_bench.data.classes import label_by_file, read_class_list, read_indexed_class_list, settle
from mae_bench.data.inaturalist import compare_categories
from mae_bench.data.listing import Listing, Names, Reader
from mae_bench.data.presence import check_files
from mae_bench.data.readers import NAMING, MissingSplitError, layout, list_split
from mae_bench.data.subsets import choose
from mae_bench.errors import MaeBenchError
from mae_bench.settings import DataSettings

Split = Literal["train", "val"]


class Source(Protocol):
    """A fixed sequence of labelled images. Anything with these members can be put into an `ImageDataset`."""

    classes: list[str]
    """Name of each class; a label is an index into it."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | Image.Image | Tensor:
        """The content of an image file, a Pillow image, or a uint8 tensor ``(C, H, W)``; see `decode`."""

    def label(self, index: int) -> int:
        """The class of the image, in [0, len(classes))."""

    def name(self, index: int) -> str:
        """The image as named in messages: its path."""

    def fingerprint(self) -> str:
        """Digest of the class list and of (name, label) of every image in order; pixels are not read."""


class Fingerprinted(Protocol):
    """Anything that has a fingerprint."""

    def fingerprint(self) -> str:
        """Digest of what it holds."""


class ListedSource:
    """A source over a listing and a reader."""

    def __init__(
        self, prefix: str, names: Names, labels: NDArray[np.int64], classes: list[str], reader: Reader
    ):
        self.classes = classes
        self.labels = labels
        self._prefix = prefix
        self._names = names
        self._reader = reader

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """The content of the image's file. Raises OSError where it cannot be read."""
        return self._reader.read(index)

    def label(self, index: int) -> int:
        """The class of the image."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """Path of the image; for a tar file ``TAR:MEMBER``."""
        return self._prefix + self._names[index]

    def fingerprint(self) -> str:
        """SHA-256 of the class list and of (path within the split, label) of every image, in order.

        The same images in class folders and in a tar file of these folders have the same fingerprint.
        """
        return fingerprint_of(self.classes, zip(self._names, self.labels.tolist(), strict=True))

    def part(self, chosen: NDArray[np.int64]) -> ListedSource:
        """Some of the images, as a source that knows of no others."""
        reader = _PartReader(self._reader, chosen)
        return ListedSource(self._prefix, self._names.take(chosen), self.labels[chosen], self.classes, reader)


class _PartReader:
    """Some of the images of another reader."""

    def __init__(self, base: Reader, chosen: NDArray[np.int64]) -> None:
        self._base = base
        self._chosen = chosen

    def read(self, index: int) -> bytes:
        return self._base.read(int(self._chosen[index]))


def fingerprint_of(classes: Sequence[str], samples: Iterable[tuple[str, int]]) -> str:
    """SHA-256 of a class list and of the (name, label) of every image, in order, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in classes:
        digest.update(os.fsencode(name) + b"\0")
    for name, label in samples:
        digest.update(b"\n%d " % label + os.fsencode(name))
    return digest.hexdigest()


def joint_fingerprint(train: Fingerprinted, val: Fingerprinted) -> str:
    """SHA-256 of the fingerprints of two splits: the identity of a dataset in results."""
    return joint_digest(train.fingerprint(), val.fingerprint())


def joint_digest(train: str, val: str) -> str:
    """SHA-256 of two digests, as in `joint_fingerprint`."""
    return hashlib.sha256(f"{train} {val}".encode()).hexdigest()


class SubsetSource:
    """Some images of another source, in the order of `indices`."""

    def __init__(self, base: Source, indices: NDArray[np.int64]) -> None:
        self.base = base
        self.indices = indices
        self.classes = base.classes

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | Image.Image | Tensor:
        """What the base source reads."""
        return self.base.read(int(self.indices[index]))

    def label(self, index: int) -> int:
        """The class of the image."""
        return self.base.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        """The name that the base source gives."""
        return self.base.name(int(self.indices[index]))

    def fingerprint(self) -> str:
        """Digest of the base source's fingerprint and of the indices."""
        return hashlib.sha256(self.base.fingerprint().encode() + self.indices.tobytes()).hexdigest()


def make_if_generated(root: str, data_root: Path) -> None:
    """Draw the generated world that a dataset's root lies in, unless it is there already.

    Args:
        root: a folder below `data_root`: ``generated/shapes``, ``generated/scenes/coco``, or any other, for
            which there is nothing to draw.

    Raises:
        MaeBenchError: there is no generated world of that name, or it cannot be written.
    """
    parts = Path(root).parts
    if len(parts) < 2 or parts[0] != scenes.FOLDER or scenes.is_current(data_root, parts[1]):
        return
    count = scenes.SPECS[parts[1]].images
    with screen.progress(f"drawing the generated world '{parts[1]}'", count, "scenes") as work:
        scenes.ensure(data_root, parts[1], work.advance)


def open_source(data: DataSettings, split: Split, data_root: Path, *, labelled: bool = True) -> Source:
    """The images of one split of a dataset.

    The class order is that of `data.class_list` if given, else that of the training split where there is one
    (folder names sorted, as plain strings; categories by their ids), so that a label means the same in both
    splits. Of the training split it is the part that `data.subset` says, if anything.

    Args:
        data_root: folder that `data.root` is relative to.
        labelled: False takes any folder or archive of images as one class, for pretraining.

    Raises:
        MaeBenchError: missing or empty folder, an empty class, classes that differ between the splits or from
            `class_list`, another number of classes than `data.classes`, a broken label file, annotation file
            or list, more images than `data.max_bad_images` that are named but not there, a subset that cannot
            be had.
    """
    make_if_generated(data.root, data_root)
    by_file = split == "val" and data.val_labels is not None and labelled
    if by_file and data.source not in ("folder", "tar"):
        raise MaeBenchError(f"data.val_labels: only for source folder or tar, not {data.source}")
    listing, prefix, reader = list_split(data, split, data_root, labelled=labelled and not by_file)
    names = listing.names
    if not len(names):
        raise MaeBenchError(f"{listing.where} holds no image. Expected {layout(data, split)}")
    if labelled:
        wanted, wanted_from = _wanted(data, split, data_root, listing)
        if by_file:
            listing = _with_label_file(data, data_root, listing, wanted)
        classes, labels = settle(listing, wanted, wanted_from, data.classes)
    else:
        classes, labels = ["unlabelled"], np.zeros(len(names), dtype=np.int64)
    root = data_root / data.root
    if data.source in NAMING:
        key = f"data.{split}_images"
        check_files(names, Path(prefix), root, data.max_bad_images, listing.where, key)
    source = ListedSource(prefix, names, labels, classes, reader)
    if split == "val" or data.subset is None:
        return source
    return source.part(choose(data.subset, names, labels, classes if labelled else None, listing.where, root))


def _wanted(
    data: DataSettings, split: Split, data_root: Path, listing: Listing
) -> tuple[list[str] | None, str]:
    """The class order to follow, and where it comes from."""
    if data.class_list is not None:
        path = data_root / data.root / data.class_list
        read = read_indexed_class_list if data.source == "filelist" else read_class_list
        return read(path), f"{path} (data.class_list)"
    if split == "train":
        _TRAIN_CLASSES[_key(data, data_root)] = listing.vocabulary
        return None, ""
    wanted, wanted_from = _train_classes(data, data_root)
    if data.source == "inat" and wanted is not None:
        compare_categories(listing.where, wanted, listing.vocabulary, wanted_from)
    return wanted, wanted_from


# Class names of training splits listed by this process, by source, path and time of change: the validation
# split needs them, and listing a million files takes some 15 s.
_TRAIN_CLASSES: dict[tuple[str, ...], list[str]] = {}


def _train_classes(data: DataSettings, data_root: Path) -> tuple[list[str] | None, str]:
    if data.source == "hf":
        return None, ""  # all splits of such a dataset declare the same classes
    key = _key(data, data_root)
    if key not in _TRAIN_CLASSES:
        try:
            listing, _, _ = list_split(data, "train", data_root, labelled=True)
        except MissingSplitError:
            return None, ""
        _TRAIN_CLASSES[key] = listing.vocabulary
    return _TRAIN_CLASSES[key], str(data_root / data.root / data.train)


def _key(data: DataSettings, data_root: Path) -> tuple[str, ...]:
    where = data_root / data.root / data.train
    changed = [
        path.stat().st_mtime_ns for path in (where, where.with_name(where.name + ".tar")) if path.exists()
    ]
    return data.source, str(where), str(changed), data.label_key, str(data.classes)


def _with_label_file(
    data: DataSettings, data_root: Path, listing: Listing, wanted: list[str] | None
) -> Listing:
    if wanted is None or data.val_labels is None:
        raise MaeBenchError(
            "data.val_labels: the classes and their order are not known, as there is no training split "
            f"{data_root / data.root / data.train}. Give data.class_list"
        )
    return label_by_file(listing.names, listing.where, data_root / data.root / data.val_labels, wanted)
