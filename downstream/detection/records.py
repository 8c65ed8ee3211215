"""Records of detections, as COCO's result files have them, checked column by column.

A record is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation": {"size",
"counts"}}``. What is judged is checked first: the evaluation, made for speed, would answer a wrong file with
a wrong number, and a mask whose run lengths do not fill its image with an endless loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.detection.run_lengths import areas
from mae_bench.errors import MaeBenchError

Record = dict[str, Any]
Size = tuple[int, int]
"""Height and width."""

_NO_RECORD = "it must be a dictionary with image_id, category_id, bbox, score and segmentation"


def check_records(
    records: Sequence[Record],
    sizes: Mapping[int, Size],
    categories: Mapping[int, Any],
    kinds: Sequence[str],
    where: str,
) -> NDArray[np.int64] | None:
    """Refuse records that cannot be judged.

    Args:
        records: what is to be judged.
        sizes: height and width of every image, by its id.
        categories: anything, by the ids of the categories.
        kinds: `box` needs a box in every record, `mask` a mask.
        where: where the records are from, for the message.

    Returns:
        With `mask` in `kinds`: how many pixels each mask has, ``(n,)``.

    Raises:
        MaeBenchError: a record is invalid; says which and why.
    """
    if not records:
        return np.zeros(0, dtype=np.int64)
    if _fields_sound(records, sizes, categories) and ("box" not in kinds or _boxes_sound(records)):
        if "mask" not in kinds:
            return None
        pixels = _pixels(records, sizes)
        if pixels is not None:
            return pixels
    for number, record in enumerate(records, start=1):
        fault = _fault(record, sizes, categories, kinds)
        if fault is not None:
            raise MaeBenchError(f"{where}: detection number {number} is not valid: {fault}")
    raise AssertionError("the records are faulty together, but each is sound")


def _fields_sound(
    records: Sequence[Record], sizes: Mapping[int, Size], categories: Mapping[int, Any]
) -> bool:
    try:
        images = {record["image_id"] for record in records}
        kinds = {record["category_id"] for record in records}
        scores = np.array([record["score"] for record in records])
    except (KeyError, TypeError, ValueError):
        return False
    known = images <= sizes.keys() and kinds <= categories.keys()
    return known and scores.dtype.kind in "iuf" and scores.ndim == 1 and bool(np.isfinite(scores).all())


def _boxes_sound(records: Sequence[Record]) -> bool:
    try:
        boxes = np.array([record["bbox"] for record in records])
    except (KeyError, TypeError, ValueError):
        return False
    if boxes.dtype.kind not in "iuf" or boxes.shape != (len(records), 4):
        return False
    return bool(np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all())


def _pixels(records: Sequence[Record], sizes: Mapping[int, Size]) -> NDArray[np.int64] | None:
    """How many pixels each mask has; None if a mask is invalid."""
    try:
        masks = [record["segmentation"] for record in records]
        stated = np.array([mask["size"] for mask in masks])
        expected = np.array([sizes[record["image_id"]] for record in records], dtype=np.int64)
        if stated.shape != expected.shape or not (stated == expected).all():
            return None
        found = areas([mask["counts"] for mask in masks], expected.prod(axis=1))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if (found >= 0).all() else None


def _fault(
    record: object, sizes: Mapping[int, Size], categories: Mapping[int, Any], kinds: Sequence[str]
) -> str | None:
    """What is wrong with a record, in words; None: nothing."""
    if not isinstance(record, dict):
        return f"{_NO_RECORD}, not {_short(record)}"
    needed = ["image_id", "category_id", "score"]
    needed += [{"box": "bbox", "mask": "segmentation"}[kind] for kind in kinds]
    missing = [key for key in needed if key not in record]
    if missing:
        return f"it has no {', '.join(missing)}"
    if not _known(record["image_id"], sizes):
        return f"the annotations have no image with id {_short(record['image_id'])}"
    if not _known(record["category_id"], categories):
        return f"the annotations have no category with id {_short(record['category_id'])}"
    if not _is_number(record["score"]):
        return f"its score must be a finite number, not {_short(record['score'])}"
    checks: dict[str, Callable[[], str | None]] = {
        "box": lambda: _box_fault(record["bbox"]),
        "mask": lambda: _mask_fault(record["segmentation"], sizes[record["image_id"]]),
    }
    return next((fault for kind in kinds if (fault := checks[kind]()) is not None), None)


def _box_fault(box: object) -> str | None:
    sound = isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(value) for value in box)
    if sound and min(box[2:]) >= 0:  # type: ignore[index]
        return None
    return (
        f"its bbox must be four finite numbers x, y, width, height, width and height >= 0, not {_short(box)}"
    )


def _mask_fault(mask: object, size: Size) -> str | None:
    if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
        return f"its segmentation must be run lengths with size and counts, not {_short(mask)}"
    if not isinstance(mask["size"], list | tuple) or tuple(mask["size"]) != tuple(size):
        return f"its mask has the size {_short(mask['size'])}, but the image has {list(size)} (height, width)"
    if not isinstance(mask["counts"], str | bytes):
        return f"the counts of its mask must be compressed run lengths (text), not {_short(mask['counts'])}"
    if areas([mask["counts"]], np.array([math.prod(size)]))[0] < 0:
        return f"the run lengths of its mask do not fill an image of {size[0]} x {size[1]} pixels"
    return None


def _known(value: object, known: Mapping[int, Any]) -> bool:
    return isinstance(value, int) and value in known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
