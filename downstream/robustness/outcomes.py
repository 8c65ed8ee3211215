"""What came of every image of ImageNet-C under every corruption: its numbers for any weights of the images.

The cells of ImageNet-C show the same images, so the samples are the images and not the pictures made of them:
75 corrupted pictures of one image are no 75 samples. The other sets are plain `mae_bench.outcomes.Hits`.

Shapes: K cells, N images, R rows of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from downstream.robustness.corruption_error import corruption_metrics
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Outcomes, Saved, Weights, alike, both, checked, summed, unpacked

Cell = tuple[str, int]
"""Corruption and severity."""


class Corrupted(Saved):
    """Right or wrong for every image in every cell.

    Args:
        cells: in the order of `hits`.
        hits: bool (K, N).
    """

    kind: ClassVar[str] = "imagenet-c"

    def __init__(self, samples: str, cells: Sequence[Cell], hits: NDArray[np.bool_]) -> None:
        if len(cells) != len(hits):
            raise ValueError(f"{len(cells)} cells and hits of {len(hits)}")
        self.samples = samples
        self.cells = list(cells)
        self.hits = hits
        self.size = hits.shape[1]
        self.metrics = tuple(self.score(np.ones((1, self.size))))

    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """The errors, and where all cells are there the mCE, over weighted images."""
        weights = checked(weights, self.size)
        errors = 1 - summed(self.hits, weights) / weights.sum(axis=1)  # (K, R)
        by_cell: dict[str, dict[int, NDArray[np.float64]]] = {}
        for (corruption, severity), error in zip(self.cells, errors, strict=True):
            by_cell.setdefault(corruption, {})[severity] = error
        return corruption_metrics(by_cell)

    def beside(self, other: Outcomes) -> Corrupted:
        """Of the same cells."""
        mine, theirs = alike(self, other)
        if mine.cells != theirs.cells:
            raise MaeBenchError(
                f"ImageNet-C of {len(mine.cells)} and of {len(theirs.cells)} cells, which are not the same; "
                "compare runs over the same corruptions and severities"
            )
        return Corrupted(both(mine, theirs), mine.cells, np.concatenate([mine.hits, theirs.hits], axis=1))

    def facts(self) -> dict[str, Any]:
        """The cells."""
        return {"cells": [list(cell) for cell in self.cells]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The hits, eight to a byte."""
        return {"hits": np.packbits(self.hits, axis=1)}

    @classmethod
    def restore(
        cls, samples: str, size: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `Saved`."""
        cells = [(str(corruption), int(severity)) for corruption, severity in facts["cells"]]
        return cls(samples, cells, unpacked(arrays["hits"], size))
