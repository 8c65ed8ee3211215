"""Average precision and recall of detections that are matched already, for any weights of the images.

With weights, every detection and every object counts as often as its image. Precision can only rise where an
object is found, and recall changes nowhere else; so a curve is computed at those detections alone, which are
few, and what is wrong in between comes from one running sum over all detections.

Shapes: D detections, N images, K classes, A = 4 areas, T = 10 overlaps, P found objects on a curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

NUMBERS = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
"""The twelve numbers in COCO's order."""

# COCO's settings, by name and number.
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0, 1, 101)
MOST_DETECTIONS = 100
"""Of a class in an image."""


@dataclass(frozen=True)
class Found:
    """Detections by class, in each by falling score; of equal ones by image, then by their order there.

    Attributes:
        image: number of the image, (D,).
        rank: place among the detections of its class in its image, from 0 on, (D,).
        score: (D,).
        per_class: how many there are of each class, (K,).
    """

    image: Integers
    rank: Integers
    score: Floats
    per_class: Integers

    @property
    def label(self) -> Integers:
        """Class of each detection, (D,)."""
        return np.repeat(np.arange(len(self.per_class)), self.per_class)


@dataclass(frozen=True)
class Matches:
    """What became of detections and objects by one kind of overlap.

    Attributes:
        inside: whether a detection's own area is in the range, (D, A).
        matched: whether it takes an object, (D, A, T).
        ignored: whether that one is ignored, (D, A, T).
        cells: image * K + class where there are objects, ascending or not, each once, (E,).
        counts: how many objects are not ignored there, (E, A).
    """

    inside: Flags
    matched: Flags
    ignored: Flags
    cells: Integers
    counts: Integers

    def numbers(self) -> list[str]:
        """Which of `NUMBERS` there are: of a size without an object there is none."""
        there = [bool(counts.any()) for counts in self.counts.T]
        absent = tuple(f"_{name}" for name, some in zip(AREAS, there, strict=True) if not some)
        return [number for number in NUMBERS if not number.endswith(absent)]


@dataclass(frozen=True)
class _Curve:
    """One area and overlap, all classes.

    Attributes:
        at: place of each found object's detection among all, (P,).
        image, label: of these, (P,).
        first: place of its class's first found object, (P,).
        begins: whether it is that, (P,).
        change_image, change: detections that count here though their own area does not say so (1), or do not
            though it does (-1), (C,).
        changes: how many of them are before the class of each found object and up to it, (2, P).
    """

    at: Integers
    image: Integers
    label: Integers
    first: Integers
    begins: Flags
    change_image: Integers
    change: Integers
    changes: Integers


class Curves:
    """The curves of one kind of overlap.

    Args:
        images: N.
    """

    def __init__(self, found: Found, matches: Matches, images: int) -> None:
        self.classes = len(found.per_class)
        self._image, self._rank = found.image, found.rank
        self._starts = np.concatenate([[0], np.cumsum(found.per_class)])
        self._inside = matches.inside
        self._object_image, self._object_label = np.divmod(matches.cells, self.classes)
        self._counts = matches.counts.astype(np.float64)
        label = found.label
        self._curves = [
            [self._curve(label, matches, area, overlap) for overlap in range(len(OVERLAPS))]
            for area in range(len(AREAS))
        ]

    def _curve(self, label: Integers, matches: Matches, area: int, overlap: int) -> _Curve:
        matched, ignored = matches.matched[:, area, overlap], matches.ignored[:, area, overlap]
        inside = matches.inside[:, area]
        at = np.flatnonzero(matched & ~ignored)
        change_at = np.flatnonzero(matched & (inside == ignored))
        own = label[at]
        first = np.searchsorted(own, own)
        before = np.searchsorted(change_at, self._starts[own])
        upto = np.searchsorted(change_at, at, side="right")
        return _Curve(
            at=at,
            image=self._image[at],
            label=own,
            first=first,
            begins=first == np.arange(len(at)),
            change_image=self._image[change_at],
            change=np.where(inside[change_at], -1, 1),
            changes=np.stack([before, upto]),
        )

    def numbers(self, weights: Floats) -> dict[str, float]:
        """COCO's twelve numbers as fractions, for weights (N,); NaN for a size without an object."""
        objects = np.stack(
            [
                _sums(self._object_label, weights[self._object_image] * counts, self.classes)
                for counts in self._counts.T
            ]
        )  # (A, K)
        precision = np.full((len(AREAS), len(OVERLAPS), self.classes), np.nan)
        recall = np.full_like(precision, np.nan)
        for area, overlap, curve, before in self._walk(weights):
            there = objects[area] > 0
            precision[area, overlap, there] = _average(curve, weights, before, objects[area])[there]
            recall[area, overlap, there] = _found(curve, weights, objects[area])[there]
        early = {most: self._early(weights, objects[0], most) for most in (1, 10)}
        named: dict[str, Any] = {"ap": precision[0], "ap50": precision[0, 0], "ap75": precision[0, 5]}
        named |= {f"ap_{size}": precision[area] for area, size in _sizes()}
        named |= {f"ar{most}": found for most, found in early.items()}
        named["ar100"] = recall[0]
        named |= {f"ar_{size}": recall[area] for area, size in _sizes()}
        return {name: _mean(values) for name, values in named.items()}

    def _walk(self, weights: Floats) -> Iterator[tuple[int, int, _Curve, Floats]]:
        """Area, overlap, curve, and how much counts of a class up to each found object by its own area."""
        heavy = weights[self._image]
        for area, curves in enumerate(self._curves):
            running = np.concatenate([[0.0], np.cumsum(heavy * self._inside[:, area])])
            for overlap, curve in enumerate(curves):
                yield area, overlap, curve, running[curve.at + 1] - running[self._starts[curve.label]]

    def _early(self, weights: Floats, objects: Floats, most: int) -> Floats:
        """(T, K): recall by the first so many detections of a class in each image."""
        rows = []
        for curve in self._curves[0]:
            early = self._rank[curve.at] < most
            found = _sums(curve.label[early], weights[curve.image[early]], self.classes)
            rows.append(_ratio(found, objects, np.nan))
        return np.stack(rows)


def _average(curve: _Curve, weights: Floats, before: Floats, objects: Floats) -> Floats:
    """(K,): precision averaged over `RECALLS`; 0 for a class without objects.

    Args:
        before: see `Curves._walk`.
        objects: of each class, (K,).
    """
    changes = np.concatenate([[0.0], np.cumsum(weights[curve.change_image] * curve.change)])
    counted = before + changes[curve.changes[1]] - changes[curve.changes[0]]
    running = np.concatenate([[0.0], np.cumsum(weights[curve.image])])
    right = running[1:] - running[curve.first]
    precision = _ratio(right, counted, 0.0)
    # The best from here on in its class: classes are lifted above each other, the last ones lowest.
    lift = 2.0 * (len(objects) - 1 - curve.label)
    best = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
    reached = np.searchsorted(RECALLS, _ratio(right, objects[curve.label], 0.0), side="right")
    newly = np.diff(reached, prepend=0)
    newly[curve.begins] = reached[curve.begins]
    return _sums(curve.label, best * newly, len(objects)) / len(RECALLS)


def _found(curve: _Curve, weights: Floats, objects: Floats) -> Floats:
    """(K,): recall by all detections."""
    return _ratio(_sums(curve.label, weights[curve.image], len(objects)), objects, np.nan)


def _sums(label: Integers, values: Floats, classes: int) -> Floats:
    """(K,): the sum of the values of each class."""
    return np.bincount(label, values, classes).astype(np.float64, copy=False)


def _ratio(parts: Floats, wholes: Floats, otherwise: float) -> Floats:
    """parts / wholes, or `otherwise` where there is no whole."""
    return np.divide(parts, wholes, out=np.full(len(wholes), otherwise), where=wholes > 0)


def _mean(values: Floats) -> float:
    """Mean over what exists, NaN if nothing does."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _sizes() -> list[tuple[int, str]]:
    return [(number, name) for number, name in enumerate(AREAS) if name != "all"]
