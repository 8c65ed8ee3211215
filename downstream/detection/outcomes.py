"""What came of every image of a detection: which detections found which objects, image by image.

Average precision is no mean over images, so it is computed anew for other weights of them (`curves`), from
matches that were made once (`matching`). With weight 2 an image's detections count as those of two copies of
it; where scores are equal within a class and an image, copies could also be looked at in another order.

Shapes: D detections, N images, K classes, A = 4 areas, T = 10 overlaps, R rows of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from downstream.detection.curves import AREAS, OVERLAPS, Curves, Flags, Found, Matches
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Outcomes, Saved, Weights, alike, both, checked


class Detections(Saved):
    """Detections with their matches, by boxes, by masks or by both.

    Args:
        size: N.
        classes: names.
        matches: ``box``, ``mask`` -> matches of all of `found`.
    """

    kind: ClassVar[str] = "detections"

    def __init__(
        self, samples: str, size: int, classes: Sequence[str], found: Found, matches: Mapping[str, Matches]
    ) -> None:
        self.samples, self.size = samples, size
        self.classes = list(classes)
        self.found, self.matches = found, dict(matches)
        self.metrics = tuple(f"{kind}_{number}" for kind, one in matches.items() for number in one.numbers())

    @cached_property
    def _curves(self) -> dict[str, Curves]:
        return {kind: Curves(self.found, matches, self.size) for kind, matches in self.matches.items()}

    def _numbers(self, weights: NDArray[np.float64]) -> dict[str, float]:
        return {
            f"{kind}_{name}": 100 * value
            for kind, curves in self._curves.items()
            for name, value in curves.numbers(weights).items()
        }

    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """COCO's numbers of weighted images, row by row."""
        rows = [self._numbers(row) for row in checked(weights, self.size)]
        return {name: np.array([row[name] for row in rows]) for name in self.metrics}

    def beside(self, other: Outcomes) -> Detections:
        """Of the same classes, by what both have of boxes and masks."""
        mine, theirs = alike(self, other)
        if mine.classes != theirs.classes:
            raise MaeBenchError(
                f"detections of {len(mine.classes)} and of {len(theirs.classes)} classes that are not the "
                "same cannot be judged together; compare runs on one dataset"
            )
        shared = [kind for kind in mine.matches if kind in theirs.matches]
        if not shared:
            raise MaeBenchError("detections by boxes alone and by masks alone have no metric in common")
        scores = np.concatenate([mine.found.score, theirs.found.score])
        # Stable: of equal scores mine come first, as images with lower numbers do.
        order = np.lexsort([-scores, np.concatenate([mine.found.label, theirs.found.label])])
        found = Found(
            image=np.concatenate([mine.found.image, mine.size + theirs.found.image])[order],
            rank=np.concatenate([mine.found.rank, theirs.found.rank])[order],
            score=scores[order],
            per_class=mine.found.per_class + theirs.found.per_class,
        )
        further = mine.size * len(mine.classes)
        matches = {kind: _pooled(mine.matches[kind], theirs.matches[kind], order, further) for kind in shared}
        return Detections(both(mine, theirs), mine.size + theirs.size, mine.classes, found, matches)

    def facts(self) -> dict[str, Any]:
        """Classes and kinds."""
        return {"classes": self.classes, "kinds": list(self.matches)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """In as few bytes as hold them; flags eight to a byte."""
        found = self.found
        narrow = found.score.astype(np.float32)
        arrays: dict[str, NDArray[Any]] = {
            "image": _small(found.image),
            "rank": _small(found.rank),
            "score": narrow if (narrow == found.score).all() else found.score,
            "per_class": _small(found.per_class),
        }
        for kind, matches in self.matches.items():
            arrays |= {
                f"{kind}.inside": np.packbits(matches.inside, axis=1),
                f"{kind}.matched": np.packbits(matches.matched.reshape(len(found.image), -1), axis=1),
                f"{kind}.ignored": np.packbits(matches.ignored.reshape(len(found.image), -1), axis=1),
                f"{kind}.cells": _small(matches.cells),
                f"{kind}.counts": _small(matches.counts),
            }
        return arrays

    @classmethod
    def restore(
        cls, samples: str, size: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `Saved`."""
        classes = [str(name) for name in facts["classes"]]
        image, rank, per_class = (arrays[name].astype(np.int64) for name in ("image", "rank", "per_class"))
        score = arrays["score"].astype(np.float64)
        if (
            not len(image) == len(rank) == len(score) == per_class.sum()
            or len(per_class) != len(classes)
            or image.max(initial=0) >= size
        ):
            raise ValueError("detections that do not fit together")
        matches = {kind: _matches(arrays, kind, len(image), size * len(classes)) for kind in facts["kinds"]}
        return cls(samples, size, classes, Found(image, rank, score, per_class), matches)


def _matches(arrays: Mapping[str, NDArray[Any]], kind: str, found: int, cells: int) -> Matches:
    shape = found, len(AREAS), len(OVERLAPS)

    def flags(name: str, *shape: int) -> Flags:
        bits = np.unpackbits(arrays[f"{kind}.{name}"], axis=1, count=int(np.prod(shape[1:])))
        return bits.astype(np.bool_).reshape(shape)

    one = Matches(
        inside=flags("inside", *shape[:2]),
        matched=flags("matched", *shape),
        ignored=flags("ignored", *shape),
        cells=arrays[f"{kind}.cells"].astype(np.int64),
        counts=arrays[f"{kind}.counts"].astype(np.int64),
    )
    if one.counts.shape != (len(one.cells), len(AREAS)) or one.cells.max(initial=0) >= cells:
        raise ValueError(f"objects of {kind} that do not fit together")
    return one


def _pooled(mine: Matches, theirs: Matches, order: NDArray[np.int64], further: int) -> Matches:
    """Both kinds of matches, detections in `order`, cells of the second `further` on."""
    return Matches(
        inside=np.concatenate([mine.inside, theirs.inside])[order],
        matched=np.concatenate([mine.matched, theirs.matched])[order],
        ignored=np.concatenate([mine.ignored, theirs.ignored])[order],
        cells=np.concatenate([mine.cells, theirs.cells + further]),
        counts=np.concatenate([mine.counts, theirs.counts]),
    )


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers from 0 on in as few bytes as hold them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
