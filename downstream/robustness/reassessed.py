"""ImageNet ReaL: for each validation image the labels that people found right (arXiv:2006.07159).

``real.json`` is a list with a list of labels for ILSVRC2012_val_00000001, ...00000002 and so on; labels are
indices into the sorted classes. Images with an empty list count in no accuracy.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.robustness.classes import by_number
from mae_bench.data.listing import EXTENSIONS, FolderReader, Names
from mae_bench.data.sources import ListedSource, fingerprint_of
from mae_bench.errors import MaeBenchError

_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.")


@dataclass(frozen=True)
class Reassessed:
    """Validation images with their lists of labels, those without a label left out.

    Attributes:
        root: the folder of the images.
        file: the file of the labels.
        names: paths below `root`.
        labels: of each image, indices into the sorted classes.
        unlabelled: how many images were left out.
    """

    root: Path
    file: Path
    names: Names
    labels: list[list[int]]
    unlabelled: int

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """SHA-256 of images and labels."""
        told = (f"{name} {labels}" for name, labels in zip(self.names, self.labels, strict=True))
        return fingerprint_of([], ((text, 0) for text in told))

    def source(self, classes: Sequence[str]) -> ListedSource:
        """The images, each with its own position as its label (a row of `table`)."""
        positions = np.arange(len(self), dtype=np.int64)
        reader = FolderReader(self.root, self.names)
        return ListedSource(f"{self.root}/", self.names, positions, list(classes), reader)

    def table(self, classes: Sequence[str], classes_from: str) -> Tensor:
        """(N, K) bool: which logits are right for each image.

        Args:
            classes: name of each logit's class.
            classes_from: where they are from, for messages.

        Raises:
            MaeBenchError: a label beyond the classes, or classes of which numbers say nothing.
        """
        ordered = by_number(classes, classes_from, self.file)
        right = torch.zeros(len(self), len(classes), dtype=torch.bool)
        for row, labels in enumerate(self.labels):
            beyond = [label for label in labels if not 0 <= label < len(classes)]
            if beyond:
                raise MaeBenchError(
                    f"{self.root}/{self.names[row]}: its label {beyond[0]} is none of the classifier's "
                    f"{len(classes)} classes"
                )
            right[row, [ordered[label] for label in labels]] = True
        return right


def read_reassessed(root: Path, file: Path) -> Reassessed:
    """The images below `root` with the labels of `file`.

    Images called ``ILSVRC2012_val_NUMBER`` are matched by their number, others by their order: that of their
    files' names, sorted, in whatever folders they are.

    Raises:
        MaeBenchError: the file is not as described, there are not as many images as lists, or two images have
            one name.
    """
    lists = _lists(file)
    if not root.is_dir():
        raise MaeBenchError(f"{root} (sets.real.images): no such folder")
    found = sorted(_images(root), key=lambda name: (os.path.basename(name), name))
    if len(found) != len(lists):
        raise MaeBenchError(
            f"{file} has labels for {len(lists):,} images, and {root} holds {len(found):,}; they must be the "
            "whole validation split"
        )
    for one, other in pairwise(found):
        if os.path.basename(one) == os.path.basename(other):
            raise MaeBenchError(
                f"{root}: {one} and {other} have one name, and labels go by the order of names; rename one"
            )
    at = _positions(found, root)
    kept = [(name, lists[position]) for name, position in zip(found, at.tolist(), strict=True)]
    kept = [(name, labels) for name, labels in kept if labels]
    return Reassessed(
        root, file, Names(name for name, _ in kept), [labels for _, labels in kept], len(found) - len(kept)
    )


def _positions(names: Sequence[str], root: Path) -> NDArray[np.int64]:
    """Which list of labels is that of each image.

    Raises:
        MaeBenchError: some images are numbered and others not, or a number is missing, twice or too high.
    """
    numbers = [match and int(match[1]) - 1 for match in map(_NUMBERED.search, names)]
    if all(number is None for number in numbers):
        return np.arange(len(names), dtype=np.int64)
    if sorted(-1 if number is None else number for number in numbers) != list(range(len(names))):
        raise MaeBenchError(
            f"{root}: the numbers in the names ILSVRC2012_val_NUMBER are not 1 to {len(names)}, each once"
        )
    return np.array(numbers, dtype=np.int64)


def _images(root: Path) -> list[str]:
    start = len(str(root)) + 1
    return [
        os.path.join(at, name)[start:]
        for at, _, files in os.walk(root, followlinks=True)
        for name in files
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]


def _lists(file: Path) -> list[list[int]]:
    try:
        lists = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise MaeBenchError(f"{file} (sets.real.labels) cannot be read: {reason}") from error
    good = isinstance(lists, list) and all(
        isinstance(labels, list) and all(type(label) is int for label in labels) for labels in lists
    )
    if not good:
        raise MaeBenchError(f"{file} (sets.real.labels) is no list with a list of labels for each image")
    return lists
