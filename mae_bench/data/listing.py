"""What was found in a split of a dataset, and what reads it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from mae_bench.errors import MaeBenchError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ARRAYS = (".npy",)
EXTENSIONS = PICTURES + ARRAYS


class Reader(Protocol):
    """Gives the content of the image file number `index`; raises OSError where it cannot be read."""

    def read(self, index: int) -> bytes: ...


class FolderReader:
    """Files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = str(root) + "/"
        self._names = names

    def read(self, index: int) -> bytes:
        with open(self._root + self._names[index], "rb", buffering=0) as file:
            return file.read()


class Names(Sequence[str]):
    """A long list of strings in two flat buffers.

    A million Python strings would be copied into every forked loader process, as each use of one writes to
    its reference count.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add a string. Raises UnicodeEncodeError for one that cannot be the name of a file."""
        self._bytes += os.fsencode(name)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self._encoded(index))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def _encoded(self, index: int) -> bytes:
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])

    def take(self, places: NDArray[np.int64]) -> Names:
        """The strings at these places, in this order."""
        taken = Names()
        for place in places.tolist():
            taken._bytes += self._bytes[self._ends[place] : self._ends[place + 1]]
            taken._ends.append(len(taken._bytes))
        return taken

    def repeated(self) -> tuple[int, int] | None:
        """The places of two equal strings, the second as early as possible; None: all differ."""
        hashes = np.fromiter((hash(self._encoded(place)) for place in range(len(self))), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        twice = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        first: dict[str, int] = {}
        for place in np.unique(np.concatenate([order[twice], order[twice + 1]])).tolist():
            if first.setdefault(self[place], place) != place:
                return first[self[place]], place
        return None

    def order(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the strings, sorted by their labels and then as the strings are; both ``(N,)``."""
        order = np.argsort(labels, kind="stable")
        ends = np.cumsum(np.bincount(labels)).tolist()
        for start, end in pairwise([0, *ends]):
            # UTF-8 sorts as the characters do.
            order[start:end] = sorted(order[start:end].tolist(), key=self._encoded)
        return order


def astray(name: str) -> str | None:
    """What keeps a string of an annotation file or list from being the path of a file below a folder."""
    if not name or name.endswith("/"):
        return "names no file"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in name and ".." in name.split("/"):
        return "leaves the folder of images by '..'"
    if "\0" in name or not (name.isascii() or _can_be_stored(name)):
        return "holds a character that no file's name can hold"
    return None


def _can_be_stored(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Listing:
    """The images of a split and their classes, before it is known which number each class gets.

    Attributes:
        where: the split, as named in messages.
        names: image -> its path within the split, in order.
        ids: image -> index into `vocabulary`, ``(N,)``.
        vocabulary: the class names found, in the order of the container, those without an image included.
        numbered: the container only numbers its classes; `vocabulary` holds these numbers.
    """

    where: str
    names: Names
    ids: NDArray[np.int64]
    vocabulary: list[str]
    numbered: bool = False

    @classmethod
    def of(cls, where: str, names: Sequence[str], labels: Sequence[str], also: Sequence[str] = ()) -> Listing:
        """Sort out class names given one for each image; `also` are classes that hold no image."""
        vocabulary = sorted({*labels, *also})
        number = {name: index for index, name in enumerate(vocabulary)}
        ids = np.fromiter((number[label] for label in labels), np.int64, len(labels))
        return cls(where, Names(names), ids, vocabulary)

    @classmethod
    def numbers(
        cls, where: str, names: Sequence[str], ids: NDArray[np.int64], classes: int | None
    ) -> Listing:
        """Classes that are mere numbers: 0 to the highest found, or to `classes` - 1 if that is more."""
        count = max(int(ids.max(initial=-1)) + 1, classes or 0)
        return cls(where, Names(names), ids, [str(index) for index in range(count)], numbered=True)

    @classmethod
    def unlabelled(cls, where: str, names: Sequence[str]) -> Listing:
        """All images in one class."""
        return cls(where, Names(names), np.zeros(len(names), dtype=np.int64), ["unlabelled"])


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first names of a list: ``a, b, c and 12 more``."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def leaf_classes(where: str, names: Sequence[str]) -> list[str]:
    """The class of each image: the last part of its folder.

    Raises:
        MaeBenchError: an image lies in no folder, or two folders end alike.
    """
    folders = [os.path.dirname(name) for name in names]
    folder_of: dict[str, str] = {}
    for name, folder in zip(names, folders, strict=True):
        if not folder:
            raise MaeBenchError(
                f"{where}: '{name}' lies in no class folder. Expected CLASS/IMAGE; for a flat validation "
                "split give data.val_labels, a file with 'FILE CLASS' a line"
            )
        leaf = folder.rpartition("/")[2]
        if folder_of.setdefault(leaf, folder) != folder:
            raise MaeBenchError(
                f"{where}: the class folders '{folder_of[leaf]}' and '{folder}' have the same name; "
                "rename one"
            )
    return [folder.rpartition("/")[2] for folder in folders]


Opened = tuple[Listing, str, Reader]
"""What a split holds, the prefix that makes full names of its image names, and the reader of its images."""
