"""Scores of a segmenter, from an exact count of which class was taken for which.

As in the benchmark's own evaluation, pixels are counted over all images together, and pixels without a class
in the truth do not count. A class that occurs in neither truth nor prediction has no intersection over union
and is left out of the mean; one that is only predicted has 0. Accuracy of a class is its recall; classes that
do not occur in the truth have none. These are the rules of mmsegmentation's IoUMetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from downstream.segmentation.dataset import SegmentationSource
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.outcomes import ImageConfusions, scores_of
from mae_bench.errors import MaeBenchError


class ClassScores(TypedDict):
    """Of one class, in percent; None where it does not apply."""

    iou: float | None
    accuracy: float | None
    pixels: int
    """Pixels that have this class in truth."""


class Confusion:
    """How often which class was taken for which.

    Attributes:
        counts: int64 ``(K, K + 1)``, on the CPU: pixels of each class in truth (row) that were taken for each
            class (column); the last column counts those taken for none. Counts of several processes add up.
    """

    def __init__(self, classes: int, counts: Tensor | None = None) -> None:
        self.classes = classes
        shape = (classes, classes + 1)
        self.counts = torch.zeros(shape, dtype=torch.int64) if counts is None else counts.cpu()
        if self.counts.shape != shape or self.counts.dtype != torch.int64:
            raise ValueError(f"counts of {classes} classes are int64 {shape}")

    @classmethod
    def of(cls, found: ImageConfusions) -> Confusion:
        """The counts of all images together."""
        return cls(len(found.classes), torch.from_numpy(found.total()))

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """Count one image; see `counted`."""
        self.counts += counted(prediction, target, self.classes)

    def metrics(self) -> dict[str, float]:
        """``miou``, ``macc`` and ``aacc`` (share of pixels that are right), in percent.

        Raises:
            MaeBenchError: there is no pixel to judge by.
        """
        right, truth, union = self._areas()
        if not truth.sum():
            raise MaeBenchError(
                "no pixel of the validation labels has a class; see data.zero_is_ignored and "
                "data.ignore_label"
            )
        scores = scores_of(right.numpy()[None], truth.numpy()[None], union.numpy()[None])
        return {name: float(values[0]) for name, values in scores.items()}

    def per_class(self, names: Sequence[str]) -> dict[str, ClassScores]:
        """Scores of each class under its name."""
        right, truth, union = (area.tolist() for area in self._areas())
        return {
            name: {
                "iou": 100 * right[k] / union[k] if union[k] else None,
                "accuracy": 100 * right[k] / truth[k] if truth[k] else None,
                "pixels": int(truth[k]),
            }
            for k, name in enumerate(names)
        }

    def _areas(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each class, in pixels, float64 ``(K,)``: intersection of truth and prediction, truth, union."""
        said = self.counts[:, :-1]
        right, truth = said.diagonal(), self.counts.sum(1)
        return right.double(), truth.double(), (truth + said.sum(0) - right).double()


def counted(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Which class was taken for which in one image, as `Confusion.counts`, on the CPU.

    Args:
        prediction: whole numbers ``(h, w)``, 0..K-1, or `IGNORED` for no class.
        target: whole numbers ``(h, w)``, 0..K-1, or `IGNORED`: such pixels do not count.

    Raises:
        ValueError: different sizes, or a number that is no class.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)}, but target {tuple(target.shape)}")
    target = target.to(prediction.device)
    counts = target != IGNORED
    truth, said = target[counts].long(), prediction[counts].long()
    said[said == IGNORED] = classes
    for name, numbers, most in (("target", truth, classes - 1), ("prediction", said, classes)):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) <= most:
            raise ValueError(f"{name} has numbers that are none of {classes} classes")
    pairs = torch.bincount(truth * (classes + 1) + said, minlength=classes * (classes + 1))
    return pairs.view(classes, classes + 1).cpu()


def score_saved(source: SegmentationSource, folder: Path) -> Confusion:
    """Count predictions that were saved as label maps, numbered and named as those of the dataset.

    A number that stands for no class in the dataset's files is a wrong answer where the truth has a class.

    Raises:
        MaeBenchError: a prediction is missing, cannot be read, has another size than the truth, or holds
            numbers that are no class.
    """
    confusion, reader = Confusion(len(source.classes)), source.reader.of_predictions()
    for index in range(len(source)):
        path = folder / f"{source.stem(index)}.png"
        try:
            prediction = reader.read(path)
            target = source.reader.read(source.label_path(index))
        except OSError as error:
            raise MaeBenchError(f"{error.filename} cannot be read: {error.strerror}") from error
        if prediction.shape != target.shape:
            raise MaeBenchError(
                f"{path} has {prediction.shape[1]}x{prediction.shape[0]} pixels, but the label map "
                f"{source.label_path(index)} {target.shape[1]}x{target.shape[0]}"
            )
        confusion.add(prediction, target)
    return confusion
