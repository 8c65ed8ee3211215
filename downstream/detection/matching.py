"""Which detections find an object, by COCO's rules: what the evaluation of faster-coco-eval keeps to itself.

An object is found by one detection, that of the highest score first, which takes the object it overlaps most.
This is decided anew for each of ten overlaps and four ranges of area, outside of which objects are ignored: a
detection of an ignored object, or of a crowd, is neither right nor wrong. The overlaps themselves are those
that the evaluation has measured.

Shapes: D detections, M objects, T = 10 overlaps, A = 4 areas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.detection.curves import AREAS, MOST_DETECTIONS, OVERLAPS, Found, Matches
from downstream.detection.records import Record

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Candidates:
    """Pairs of a detection and an object that overlap by the lowest of `OVERLAPS` or more.

    In the order in which they are decided: by rank of the detection, detection, overlap and object.
    """

    found: Integers
    objects: Integers
    overlaps: NDArray[np.float64]
    ranks: Integers


class Matcher:
    """Matches the detections of a file with the objects of another, for each kind of overlap.

    Args:
        objects, found: objects and detections with `image_id` and `category_id` numbered from 1 on, objects
            with `iscrowd` and `area`, detections with `score`. Nothing of them is kept.
        images, classes: how many there are.
    """

    def __init__(self, objects: Sequence[Record], found: Sequence[Record], images: int, classes: int) -> None:
        self.images, self.classes = images, classes
        scores = np.array([one["score"] for one in found], dtype=np.float64)
        cells = self._cells(found)
        order = np.lexsort([-scores, cells])  # stable: of equal scores the earlier in the file comes first
        cells = cells[order]
        ranks = np.arange(len(cells)) - np.searchsorted(cells, cells)
        kept = ranks < MOST_DETECTIONS
        self._which, self._found_cells, self._ranks = order[kept], cells[kept], ranks[kept]
        label, image = np.divmod(self._found_cells, images)
        # Within a class by score, then by image, as all images together are looked at.
        self._together = np.lexsort([-scores[self._which], label])
        self.found = Found(
            image=image[self._together],
            rank=self._ranks[self._together],
            score=scores[self._which][self._together],
            per_class=np.bincount(label, minlength=classes),
        )
        cells = self._cells(objects)
        self._object_order = np.argsort(cells, kind="stable")
        self._object_cells = cells[self._object_order]
        crowd = np.array([one["iscrowd"] for one in objects], dtype=np.bool_)
        self._crowd = crowd[self._object_order]
        areas = np.array([one["area"] for one in objects], dtype=np.float64)[self._object_order]
        self._ignored = self._crowd[:, None] | ~_inside(areas)  # (M, A)

    def _cells(self, entries: Sequence[Record]) -> Integers:
        """Class and image of each entry as one number."""
        labels = np.array([one["category_id"] for one in entries], dtype=np.int64) - 1
        return labels * self.images + np.array([one["image_id"] for one in entries], dtype=np.int64) - 1

    def match(
        self, ious: Mapping[tuple[int, int], Any], objects: Sequence[Record], found: Sequence[Record]
    ) -> Matches:
        """What is found by one kind of overlap.

        Args:
            ious: (image, class) -> (detections, objects), the overlaps that the evaluation measured.
            objects, found: those given before, with the numbers of images that `ious` has, and the area of
                each detection.
        """
        candidates = self._candidates(ious, objects)
        matched, ignored = self._decide(candidates)
        areas = np.array([one["area"] for one in found], dtype=np.float64)
        cells, which = np.unique(self._object_cells, return_inverse=True)
        counts = np.zeros((len(cells), len(AREAS)), dtype=np.int64)
        np.add.at(counts, which, ~self._ignored)
        label, image = np.divmod(cells, self.images)
        return Matches(
            inside=_inside(areas[self._which])[self._together],
            matched=matched[self._together],
            ignored=ignored[self._together],
            cells=image * self.classes + label,
            counts=counts,
        )

    def _candidates(self, ious: Mapping[tuple[int, int], Any], objects: Sequence[Record]) -> _Candidates:
        numbers = np.array([(one["image_id"], one["category_id"]) for one in objects])[self._object_order]
        cells, firsts = np.unique(self._object_cells, return_index=True)
        starts = np.searchsorted(self._found_cells, cells)
        rows: list[Integers] = [np.empty(0, dtype=np.int64)]
        columns: list[Integers] = [np.empty(0, dtype=np.int64)]
        overlaps: list[NDArray[np.float64]] = [np.empty(0)]
        for (image, label), first, start in zip(
            numbers[firsts].tolist(), firsts.tolist(), starts.tolist(), strict=True
        ):
            measured = ious[image, label]
            if not len(measured):
                continue  # no detection of this class in this image
            measured = np.asarray(measured)
            row, column = np.nonzero(measured >= OVERLAPS[0])
            rows.append(row + start)
            columns.append(column + first)
            overlaps.append(measured[row, column])
        found, which, overlap = np.concatenate(rows), np.concatenate(columns), np.concatenate(overlaps)
        ranks = self._ranks[found]
        order = np.lexsort([which, overlap, found, ranks])
        return _Candidates(found[order], which[order], overlap[order], ranks[order])

    def _decide(self, all_: _Candidates) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(D, A, T) twice: which detections take an object, and where that one is ignored.

        Detections of one rank are all of different images or classes and take nothing from each other, so
        they are decided at once.
        """
        shape = len(AREAS), len(OVERLAPS)
        matched = np.zeros((len(self._which), *shape), dtype=np.bool_)
        ignored = np.zeros_like(matched)
        free = np.ones((len(self._crowd), *shape), dtype=np.bool_)
        for rank in range(MOST_DETECTIONS):
            own = slice(*np.searchsorted(all_.ranks, [rank, rank + 1]))
            found, objects, overlaps = all_.found[own], all_.objects[own], all_.overlaps[own]
            if not len(found):
                continue
            wanted = overlaps[:, None, None] >= OVERLAPS
            wanted = wanted & (free[objects] | self._crowd[objects, None, None])
            counted = wanted & ~self._ignored[objects][:, :, None]
            # The last candidate of a detection is the one that overlaps most.
            place = np.arange(len(found))[:, None, None]
            which, starts = np.unique(found, return_index=True)
            best_counted = np.maximum.reduceat(np.where(counted, place, -1), starts)
            best = np.where(
                best_counted >= 0, best_counted, np.maximum.reduceat(np.where(wanted, place, -1), starts)
            )
            matched[which] = best >= 0
            ignored[which] = (best >= 0) & (best_counted < 0)
            _, area, overlap = at = np.nonzero(best >= 0)
            free[objects[best[at]], area, overlap] = False
        return matched, ignored


def _inside(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) -> (n, A): whether each area is in each range, both ends of which belong to it."""
    lowest, highest = np.array(list(AREAS.values())).T
    return (areas[:, None] >= lowest) & (areas[:, None] <= highest)
