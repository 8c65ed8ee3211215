"""Objects of an annotation file, taken apart while the file is parsed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from downstream.detection.masks import Polygons, RunLengths, compress
from mae_bench.errors import MaeBenchError

_OF_OBJECTS = ("image_id", "category_id", "segmentation")
_OF_IMAGES = ("id", "file_name", "height", "width")
# A coordinate from here on is a mistake; the rasteriser would need memory for the whole way there.
_FAR = 1e6


@dataclass(frozen=True)
class Outlines:
    """Segmentations of M objects in flat arrays: polygons, or compressed run lengths.

    Attributes:
        points: x and y of all points of all polygons in turn. In double precision: the rasteriser rounds to
            fifths of a pixel, and coordinates given in tenths lie on the border.
        polygon_ends: where each polygon's points end, counted in points, after a leading 0.
        object_ends: where each object's polygons end, after a leading 0; ``(M + 1,)``.
        codes: all compressed run lengths in turn.
        code_ends: where each object's run lengths end, after a leading 0; ``(M + 1,)``.
        code_sizes: height and width that each object's run lengths are for, ``(M, 2)``; 0 with polygons.
    """

    points: NDArray[np.float64]
    polygon_ends: NDArray[np.int64]
    object_ends: NDArray[np.int64]
    codes: bytes
    code_ends: NDArray[np.int64]
    code_sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.object_ends) - 1

    def __getitem__(self, row: int) -> Polygons | RunLengths:
        """The segmentation of one object."""
        if self.code_sizes[row, 0]:
            (counts,) = self.counts(np.array([row]))
            return RunLengths(size=self.code_sizes[row].tolist(), counts=counts)
        ends = self.polygon_ends[self.object_ends[row] : self.object_ends[row + 1] + 1].tolist()
        points = self.points.reshape(-1, 2)
        return [points[start:end] for start, end in pairwise(ends)]

    def coded(self) -> NDArray[np.bool_]:
        """Which objects are given as run lengths, ``(M,)``."""
        return self.code_sizes[:, 0] > 0

    def counts(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The compressed run lengths of some objects."""
        bounds = zip(self.code_ends[rows].tolist(), self.code_ends[rows + 1].tolist(), strict=True)
        return [self.codes[start:end] for start, end in bounds]

    def astray(self) -> NDArray[np.int64]:
        """The objects with a coordinate that is no number, or one that no image reaches, in order."""
        points = np.flatnonzero(~(np.abs(self.points) < _FAR)) // 2
        polygons = np.searchsorted(self.polygon_ends, points, side="right") - 1
        return np.unique(np.searchsorted(self.object_ends, polygons, side="right") - 1)

    def arrays(self) -> list[NDArray[Any]]:
        """Everything that tells two of these apart."""
        codes = np.frombuffer(self.codes, dtype=np.uint8)
        return [self.points, self.polygon_ends, self.object_ends, codes, self.code_ends, self.code_sizes]


class Collector:
    """An `object_hook` of the JSON parser that keeps the objects in arrays and puts their number in place.

    Of images it keeps what is used; everything else stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.crowd = array("b")
        self.boxes = array("d")
        self._points, self._polygon_ends, self._object_ends = array("d"), array("q", [0]), array("q", [0])
        self._codes, self._code_ends, self._code_sizes = bytearray(), array("q", [0]), array("q")

    def __len__(self) -> int:
        return len(self.ids)

    def outlines(self) -> Outlines:
        """The segmentations of all objects, without a copy."""
        return Outlines(
            points=np.asarray(self._points),
            polygon_ends=np.asarray(self._polygon_ends),
            object_ends=np.asarray(self._object_ends),
            codes=bytes(self._codes),
            code_ends=np.asarray(self._code_ends),
            code_sizes=np.asarray(self._code_sizes).reshape(-1, 2),
        )

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any] | int:
        if not entry.keys().isdisjoint(_OF_OBJECTS):
            return self._object(entry)
        if "file_name" in entry:
            return {key: entry[key] for key in _OF_IMAGES if key in entry}
        return entry

    def _object(self, entry: dict[str, Any]) -> int:
        for key, values in (
            ("id", self.ids),
            ("image_id", self.image_ids),
            ("category_id", self.category_ids),
        ):
            if key not in entry:
                self._refuse(entry, f"has no '{key}': not in COCO's instances format, or broken")
            try:
                values.append(entry[key])
            except (TypeError, OverflowError):
                self._refuse(entry, f"has the {key} {entry[key]!r}; it must be a whole number")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._refuse(entry, f"has iscrowd {crowd!r}; it must be 0 or 1")
        self.crowd.append(crowd)
        self._box(entry)
        segmentation = entry.get("segmentation")
        if not segmentation:
            self._refuse(
                entry,
                "has no segmentation, which Mask R-CNN is trained on and mask AP is counted on; give "
                "polygons or run lengths, or remove the annotation",
            )
        if isinstance(segmentation, dict):
            self._run_lengths(entry, segmentation)
        else:
            self._polygons(entry, segmentation)
            self._code_sizes.extend((0, 0))
        self._object_ends.append(len(self._polygon_ends) - 1)
        self._code_ends.append(len(self._codes))
        return len(self.ids) - 1

    def _box(self, entry: dict[str, Any]) -> None:
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4:
            try:
                return self.boxes.extend(box)
            except TypeError:
                pass
        self._refuse(entry, f"needs a bbox [x, y, width, height] in pixels, not {box!r}")

    def _polygons(self, entry: dict[str, Any], segmentation: Any) -> None:
        if not isinstance(segmentation, list) or not all(isinstance(each, list) for each in segmentation):
            self._refuse(entry, "has a segmentation that is neither a list of polygons nor run lengths")
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                self._refuse(
                    entry,
                    f"has a polygon of {len(polygon)} numbers; it must be x and y of three points or more. "
                    "Mend or remove it",
                )
            try:
                self._points.extend(polygon)
            except TypeError:
                self._refuse(entry, "has a polygon that holds something else than numbers; mend or remove it")
            self._polygon_ends.append(len(self._points) // 2)

    def _run_lengths(self, entry: dict[str, Any], segmentation: dict[str, Any]) -> None:
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not (isinstance(size, list) and len(size) == 2 and all(_is_side(side) for side in size)):
            self._refuse(entry, f"has run lengths of the size {size!r}; it must be [height, width]")
        try:
            if isinstance(counts, str):
                self._codes += counts.encode("ascii")
            elif isinstance(counts, list):
                self._codes += compress(counts, *size)["counts"]
            else:
                self._refuse(entry, "has a segmentation without 'counts'; give its run lengths")
        except ValueError as error:
            self._refuse(entry, f"has broken run lengths: {error}. Mend or remove it")
        self._code_sizes.extend(size)

    def _refuse(self, entry: dict[str, Any], fault: str) -> NoReturn:
        which = (
            f"annotation {entry['id']}" if "id" in entry else f"annotation number {len(self.image_ids) + 1}"
        )
        raise MaeBenchError(f"{self.path}: {which} {fault}")


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31
