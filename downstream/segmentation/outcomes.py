"""What came of every image of a segmentation: which class was taken for which, image by image.

The scores follow from counts of pixels over all images together, so no score belongs to a single image: for
other weights of the images the counts are added up anew.

Shapes: N images, K classes, R rows of weights, E counts that are not 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Outcomes, Saved, Weights, alike, both, checked

Floats = NDArray[np.float64]


def scores_of(right: Floats, truth: Floats, union: Floats) -> dict[str, Floats]:
    """``miou``, ``macc`` and ``aacc`` in percent, (R,), from pixels of each class, (R, K); NaN without any.

    Args:
        right: pixels that are of a class and were taken for it.
        truth: pixels that are of a class.
        union: pixels that are of a class or were taken for it.
    """
    with np.errstate(invalid="ignore"):
        return {
            "miou": 100 * _mean_where(right, union),
            "macc": 100 * _mean_where(right, truth),
            "aacc": 100 * (right.sum(axis=1) / truth.sum(axis=1)),
        }


def _mean_where(parts: Floats, wholes: Floats) -> Floats:
    """Mean of parts / wholes over the classes that have a whole."""
    there = wholes > 0
    ratios = np.divide(parts, wholes, out=np.zeros_like(wholes), where=there)
    mean: Floats = ratios.sum(axis=1) / there.sum(axis=1)
    return mean


class ImageConfusions(Saved):
    """Pixels of every image by their class in truth and the class that they were taken for.

    Args:
        samples: see `Saved`; `gathered` makes it.
        classes: names.
        starts: (N + 1,): image i has the counts ``starts[i]`` to ``starts[i + 1]``.
        cells: (E,), truth * (K + 1) + said, ascending in each image; said is K for no class.
        pixels: (E,), how many, above 0.
    """

    kind: ClassVar[str] = "confusion"

    def __init__(
        self,
        samples: str,
        classes: Sequence[str],
        starts: NDArray[np.integer[Any]],
        cells: NDArray[np.integer[Any]],
        pixels: NDArray[np.integer[Any]],
    ) -> None:
        self.samples = samples
        self.classes = list(classes)
        self.starts, self.cells, self.pixels = (array.astype(np.int64) for array in (starts, cells, pixels))
        self.size = len(starts) - 1
        self.metrics = ("miou", "macc", "aacc")
        if (
            self.starts[0] != 0
            or (np.diff(self.starts) < 0).any()
            or not self.starts[-1] == len(self.cells) == len(self.pixels)
            or (self.cells < 0).any()
            or (self.cells >= len(classes) * (len(classes) + 1)).any()
        ):
            raise ValueError("counts that do not fit together")

    @classmethod
    def gathered(
        cls,
        names: str,
        classes: Sequence[str],
        size: int,
        images: NDArray[np.int64],
        cells: NDArray[np.int64],
        pixels: NDArray[np.int64],
    ) -> Self:
        """Counts in any order, each with its image's number; `names` is a digest of the images' names."""
        order = np.lexsort([cells, images])
        images, cells, pixels = images[order], cells[order], pixels[order]
        samples = hashlib.sha256(names.encode())
        # What is there to be found, so that other label maps under the same names are other samples.
        keys = images * len(classes) + cells // (len(classes) + 1)
        places, which = np.unique(keys, return_inverse=True)
        samples.update(places.tobytes())
        samples.update(np.bincount(which, pixels, len(places)).tobytes())
        starts = np.searchsorted(images, np.arange(size + 1))
        return cls(samples.hexdigest(), classes, starts, cells, pixels)

    @cached_property
    def _areas(self) -> tuple[Floats, Floats, Floats]:
        """Right, truth and union of each image and class, (N, K)."""
        classes = len(self.classes)
        image = np.repeat(np.arange(self.size), np.diff(self.starts))
        truth, said = np.divmod(self.cells, classes + 1)

        def area(which: NDArray[np.bool_], of: NDArray[np.int64]) -> Floats:
            keys = image[which] * classes + of[which]
            counted = np.bincount(keys, self.pixels[which], self.size * classes)
            return counted.astype(np.float64, copy=False).reshape(self.size, classes)

        same, named = truth == said, said < classes
        right, whole = area(same, truth), area(np.ones_like(same), truth)
        return right, whole, whole + area(named & ~same, said)

    def score(self, weights: Weights) -> dict[str, Floats]:
        """The scores of the counts of all images together, each counted as often as its weight says."""
        weights = checked(weights, self.size)
        right, truth, union = (weights @ area for area in self._areas)
        return scores_of(right, truth, union)

    def total(self) -> NDArray[np.int64]:
        """(K, K + 1): the counts of all images together."""
        classes = len(self.classes)
        counts = np.zeros(classes * (classes + 1), dtype=np.int64)
        np.add.at(counts, self.cells, self.pixels)
        return counts.reshape(classes, classes + 1)

    def beside(self, other: Outcomes) -> ImageConfusions:
        """Of the same classes."""
        mine, theirs = alike(self, other)
        if mine.classes != theirs.classes:
            raise MaeBenchError(
                f"segmentations of {len(mine.classes)} and of {len(theirs.classes)} classes that are not the "
                "same cannot be judged together; compare runs on one dataset"
            )
        return ImageConfusions(
            both(mine, theirs),
            mine.classes,
            np.concatenate([mine.starts, mine.starts[-1] + theirs.starts[1:]]),
            np.concatenate([mine.cells, theirs.cells]),
            np.concatenate([mine.pixels, theirs.pixels]),
        )

    def facts(self) -> dict[str, Any]:
        """The classes."""
        return {"classes": self.classes}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The counts, in as few bytes as hold them."""
        whole = {"starts": self.starts, "cells": self.cells, "pixels": self.pixels}
        return {
            name: array.astype(np.min_scalar_type(int(array.max(initial=0)))) for name, array in whole.items()
        }

    @classmethod
    def restore(
        cls, samples: str, size: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `Saved`."""
        if len(arrays["starts"]) != size + 1:
            raise ValueError(f"counts of {len(arrays['starts']) - 1} images, not of {size}")
        classes = [str(name) for name in facts["classes"]]
        return cls(samples, classes, arrays["starts"], arrays["cells"], arrays["pixels"])
