"""Sets in class folders: what is there, and which logit each folder is.

A folder is matched with a logit by the name of the class, never by its position: sets of 200 classes, or with
folders numbered as text, have other orders than classifiers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from downstream.robustness.classes import SAME_NAMES, by_number, wnids
from mae_bench.data.listing import EXTENSIONS, FolderReader, Listing, Names, some
from mae_bench.data.sources import ListedSource, fingerprint_of
from mae_bench.errors import MaeBenchError, near


@dataclass(frozen=True)
class Folders:
    """A set in class folders, without a classifier.

    Attributes:
        root: the folder that holds the class folders.
        listing: images, sorted by class folder and name; its vocabulary is the class folders, sorted.
    """

    root: Path
    listing: Listing

    def __len__(self) -> int:
        return len(self.listing.names)

    def fingerprint(self) -> str:
        """SHA-256 of class folders and images, whatever classifier looks at them."""
        listing = self.listing
        return fingerprint_of(listing.vocabulary, zip(listing.names, listing.ids.tolist(), strict=True))

    def source(self, labels: NDArray[np.int64], classes: Sequence[str]) -> ListedSource:
        """The images with labels: class folder number i has ``labels[i]``, an index into `classes`."""
        names = self.listing.names
        reader = FolderReader(self.root, names)
        return ListedSource(f"{self.root}/", names, labels[self.listing.ids], list(classes), reader)

    def empty(self) -> list[str]:
        """Class folders without an image."""
        counts = np.bincount(self.listing.ids, minlength=len(self.listing.vocabulary))
        return [name for name, count in zip(self.listing.vocabulary, counts, strict=True) if not count]


def list_folders(root: Path, like: Folders | None = None) -> Folders:
    """The images of the class folders in `root`, hidden ones left out.

    Args:
        like: a set that may hold the very same names (another corruption), whose list is shared then.

    Raises:
        MaeBenchError: there is no class folder, or no image in any.
    """
    folders = sorted(entry.name for entry in os.scandir(root) if _is_visible_folder(entry))
    found: list[str] = []
    ids: list[int] = []
    for index, folder in enumerate(folders):
        images = sorted(
            entry.name
            for entry in os.scandir(root / folder)
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        )
        found += [f"{folder}/{name}" for name in images]
        ids += [index] * len(images)
    if not found:
        raise MaeBenchError(f"{root} holds no image. Expected a folder for each class: CLASS/IMAGE")
    same = like is not None and like.listing.vocabulary == folders and list(like.listing.names) == found
    names = like.listing.names if like is not None and same else Names(found)
    return Folders(root, Listing(str(root), names, np.array(ids, dtype=np.int64), folders))


def _is_visible_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def existing(root: Path, key: str, given: str) -> Path:
    """`root` if there is such a folder.

    Args:
        key: which of `sets` it is.
        given: its root in the settings.

    Raises:
        MaeBenchError: there is none; says how to go on without it.
    """
    if root.is_dir():
        return root
    beside = [entry.name for entry in root.parent.iterdir()] if root.parent.is_dir() else []
    raise MaeBenchError(
        f"{root}: no such folder (sets.{key}.root = '{given}'{near(root.name, beside)}); get the set, or "
        f"leave it out with sets.{key}=null"
    )


# ---------------------------------------------------------------- folders and logits


def logits_of(folders: Folders, classes: Sequence[str], classes_from: str) -> NDArray[np.int64]:
    """The logit of each class folder.

    Folders named by numbers, of a classifier whose classes have other names, are numbers of the sorted
    classes, as in the archive of ImageNetV2 (`by_number`).

    Args:
        classes: name of each logit's class.
        classes_from: where they are from, for messages.

    Raises:
        MaeBenchError: a folder without images, one that no class of the classifier has as its name, or
            numbers that say nothing of the classifier's classes.
    """
    vocabulary = folders.listing.vocabulary
    empty = folders.empty()
    if empty:
        raise MaeBenchError(f"{folders.root}: no image in {_classes(empty)}. Fill or remove them")
    number = {name: index for index, name in enumerate(classes)}
    if all(name.isdecimal() for name in vocabulary) and not any(name in number for name in vocabulary):
        ordered = by_number(classes, classes_from, folders.root)
        number = {str(index): logit for index, logit in enumerate(ordered)}
    unknown = [name for name in vocabulary if name not in number]
    if unknown:
        raise MaeBenchError(
            f"{folders.root} has {_classes(unknown)} that the classifier does not know; its {len(classes)} "
            f"classes ({classes_from}) are {some(classes, 3)}. {SAME_NAMES}"
        )
    return np.array([number[name] for name in vocabulary], dtype=np.int64)


def all_classes(folders: Folders, logits: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raise a MaeBenchError unless each class of the classifier has a folder."""
    there = set(logits.tolist())
    lacking = [name for index, name in enumerate(classes) if index not in there]
    if lacking:
        raise MaeBenchError(
            f"{folders.root} lacks {_classes(lacking)} of the classifier's {len(classes)}; unpack the set "
            "again"
        )


def exactly_the_200(folders: Folders, name: str) -> None:
    """Raise a MaeBenchError unless the class folders are the 200 of ImageNet-A or ImageNet-R.

    Args:
        name: ``imagenet-a`` or ``imagenet-r``.
    """
    faults = [fault for fault in departures_from_the_200(folders, name) if fault]
    if faults:
        raise MaeBenchError(f"{folders.root} {' and '.join(faults)}; unpack the set again")


def departures_from_the_200(folders: Folders, name: str) -> tuple[str, str]:
    """Which of the 200 class folders of a set are missing, and which are none of them, in words; "": none."""
    official = wnids("imagenet-a" if name == "imagenet-a" else "imagenet-r")
    there = set(folders.listing.vocabulary)
    lacking = [wnid for wnid in official if wnid not in there]
    strange = sorted(there - set(official))
    return (
        f"lacks {_classes(lacking)} of the 200 of {name}" if lacking else "",
        f"has {_classes(strange)} that {name} does not have" if strange else "",
    )


def _classes(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"
