"""All that is counted, set by set, joined with the classifier: images, their labels, and what is a hit.

Shapes: B images, K logits of the classifier, M of them that take part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.classification.scoring import hits_of
from downstream.robustness.classes import are_imagenets
from downstream.robustness.classifiers import TrainedClassifier
from downstream.robustness.corrupted import CorruptedTree, find_cells
from downstream.robustness.folders import (
    Folders,
    all_classes,
    exactly_the_200,
    existing,
    list_folders,
    logits_of,
)
from downstream.robustness.reassessed import read_reassessed
from downstream.robustness.settings import CorruptedSet, FolderSet, ReassessedSet, RobustnessConfig
from mae_bench.augment import CentreTransform
from mae_bench.data import ImageDataset, make_if_generated
from mae_bench.data.decoding import UnreadableImageError
from mae_bench.data.sources import ListedSource
from mae_bench.errors import MaeBenchError

Hits = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and labels (B,) -> which of them are right, bool (B,)."""

TITLES = {
    "c": "ImageNet-C",
    "a": "ImageNet-A",
    "r": "ImageNet-R",
    "sketch": "ImageNet-Sketch",
    "v2": "ImageNetV2",
    "real": "ImageNet ReaL",
}
MASKED = ("a", "r")
"""Sets of 200 classes, of which the other logits take no part."""


@dataclass(frozen=True)
class Cell:
    """A set, or one corruption and severity of ImageNet-C.

    Attributes:
        key: which of `sets` it belongs to.
        name: ``a``, or ``c/gaussian_noise/3``.
        dataset: the images as the classifier wants them.
        hits: what counts as right.
        fingerprint: of the images and their classes.
        classes: how many classes take part.
    """

    key: str
    name: str
    dataset: ImageDataset
    hits: Hits
    fingerprint: str
    classes: int


@dataclass(frozen=True)
class Evaluation:
    """Everything that is to be counted, in order.

    Attributes:
        lines: what was found, set by set, in words.
        notes: what a reader of the result should know of the sets.
        tree: ImageNet-C, where it takes part.
    """

    cells: list[Cell]
    lines: list[str]
    notes: list[str]
    tree: CorruptedTree | None


def open_cells(config: RobustnessConfig, data_root: Path, classifier: TrainedClassifier) -> Evaluation:
    """List every set and join it with the classifier.

    Raises:
        MaeBenchError: a set is not there or not whole, or has classes that the classifier does not know.
    """
    opener = _Opener(config, data_root, classifier)
    parts = [
        opener.open(key) for key in type(config.sets).model_fields if getattr(config.sets, key) is not None
    ]
    return Evaluation(
        [cell for part in parts for cell in part.cells],
        [line for part in parts for line in part.lines],
        [note for part in parts for note in part.notes],
        next((part.tree for part in parts if part.tree is not None), None),
    )


class _Opener:
    """Opens one set after another for a classifier."""

    def __init__(self, config: RobustnessConfig, data_root: Path, classifier: TrainedClassifier) -> None:
        self.config, self.data_root, self.classifier = config, data_root, classifier
        self.classes = classifier.classes

    def open(self, key: str) -> Evaluation:
        """The set that `sets` has under `key`."""
        wanted = getattr(self.config.sets, key)
        root = root_of(wanted, key, self.data_root)
        if isinstance(wanted, CorruptedSet):
            return self._corrupted(wanted, root)
        if isinstance(wanted, ReassessedSet):
            return self._reassessed(wanted, root)
        return self._in_folders(key, root)

    def _in_folders(self, key: str, root: Path) -> Evaluation:
        """A, R, Sketch and V2."""
        folders = list_folders(root)
        masked = key in MASKED
        if masked and are_imagenets(self.classes):
            exactly_the_200(folders, f"imagenet-{key}")
        logits = self._logits(folders)
        line = f"{TITLES[key]} {root}: {len(folders):,} images of {len(logits):,} classes"
        if masked:
            source = folders.source(np.arange(len(logits)), folders.listing.vocabulary)
            line += f", argmax over {len(logits):,} of {len(self.classes):,} logits"
        else:
            all_classes(folders, logits, self.classes)
            source = folders.source(logits, self.classes)
        dataset = self._dataset(source, self.classifier.transform)
        hits = restricted_to(logits if masked else None)
        return Evaluation(
            [Cell(key, key, dataset, hits, folders.fingerprint(), len(logits))], [line], [], None
        )

    def _corrupted(self, wanted: CorruptedSet, root: Path) -> Evaluation:
        """ImageNet-C."""
        tree = find_cells(root, wanted)
        listed = tree.listed()
        first = next(iter(listed.values()))
        transform, words = self.classifier.transform_of_cut_images(*self._size_of_first(first))
        cells = []
        for (corruption, severity), folders in listed.items():
            logits = self._logits(folders)
            all_classes(folders, logits, self.classes)
            dataset = self._dataset(folders.source(logits, self.classes), transform)
            name = cell_name(corruption, severity)
            cells.append(Cell("c", name, dataset, restricted_to(None), folders.fingerprint(), len(logits)))
        line = (
            f"{TITLES['c']} {root}: {len(tree.corruptions)} corruptions of {len(tree.severities)} "
            f"severities, {len(first):,} images of {len(self.classes):,} classes in each; {words}"
        )
        notes = [f"{TITLES['c']}: {words}"]
        if tree.extra:
            notes.append(f"{TITLES['c']}: left out, for they count in no mCE: {', '.join(tree.extra)}")
        if tree.made is not None:
            notes.append(locally_made(tree.made))
        return Evaluation(cells, [line], notes, tree)

    def _reassessed(self, wanted: ReassessedSet, root: Path) -> Evaluation:
        """ReaL."""
        found = read_reassessed(root / wanted.images, root / wanted.labels)
        dataset = self._dataset(found.source(self.classes), self.classifier.transform)
        hits = among_several(found.table(self.classes, self.classifier.classes_from))
        cell = Cell("real", "real", dataset, hits, found.fingerprint(), len(self.classes))
        line = (
            f"{TITLES['real']} {found.root}: {len(found):,} images, {found.unlabelled:,} more without a label"
        )
        return Evaluation([cell], [line], [], None)

    def _logits(self, folders: Folders) -> NDArray[np.int64]:
        return logits_of(folders, self.classes, self.classifier.classes_from)

    def _dataset(self, source: ListedSource, transform: CentreTransform) -> ImageDataset:
        return ImageDataset(
            source,
            transform,
            max_bad_images=self.config.data.max_bad_images,
            channels=self.classifier.data.channels,
        )

    def _size_of_first(self, folders: Folders) -> tuple[int, int]:
        """(height, width) of the first image that can be read."""
        labels = np.zeros(len(folders.listing.vocabulary), dtype=np.int64)
        dataset = self._dataset(folders.source(labels, [""]), self.classifier.transform)
        for index in range(len(dataset)):
            try:
                height, width = dataset.decoded(index).shape[-2:]
            except (UnreadableImageError, OSError):
                continue  # whether it stops the run is decided where it is counted
            return height, width
        raise MaeBenchError(f"{folders.root} holds no image that can be read")


def root_of(wanted: FolderSet, key: str, data_root: Path) -> Path:
    """The folder of a set, drawn first if it is a generated one.

    Raises:
        MaeBenchError: there is no such folder.
    """
    make_if_generated(wanted.root, data_root)
    return existing(data_root / wanted.root, key, wanted.root)


def cell_name(corruption: str, severity: int) -> str:
    """The name of a cell of ImageNet-C."""
    return f"c/{corruption}/{severity}"


def parts_of(cell: str) -> tuple[str, int]:
    """The corruption and the severity of a cell of ImageNet-C, by its name."""
    _, corruption, severity = cell.split("/")
    return corruption, int(severity)


def joint_fingerprint(parts: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of all that is counted: the name and the fingerprint of each cell, in order."""
    joint = hashlib.sha256()
    for name, fingerprint in parts:
        joint.update(f"{name} {fingerprint}\n".encode())
    return joint.hexdigest()


def locally_made(made: dict[str, Any]) -> str:
    """The sentence that says of a result that its corruptions are not the official ones."""
    return f"corruptions made locally by {made['library']} {made['version']}, not the official ImageNet-C"


# ---------------------------------------------------------------- what is right


def restricted_to(logits: NDArray[np.int64] | None) -> Hits:
    """Top-1 among some logits alone, to whose positions the labels refer; None: among all.

    Logits that are not finite name nothing, so they are no hits.
    """
    columns = None if logits is None else torch.from_numpy(logits)

    def hits(found: Tensor, labels: Tensor) -> Tensor:
        taking_part = found if columns is None else found[:, columns.to(found.device)]
        return hits_of(taking_part[:, None], labels)[:, 0, 0]

    return hits


def among_several(right: Tensor) -> Hits:
    """Top-1 where several labels are right: those of row `label` of `right` (N, K)."""

    def hits(found: Tensor, labels: Tensor) -> Tensor:
        named = found.argmax(dim=1).cpu()
        finite = torch.isfinite(found).all(dim=1).cpu()
        return (right[labels.cpu(), named] & finite).to(found.device)

    return hits
