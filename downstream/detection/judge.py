"""Average precision and recall of detections, as COCO defines them, by faster-coco-eval.

The numbers are those of pycocotools on the same detections. Three things are decided here, before either
would see the data:

- The size of a detected mask is the number of its pixels, not the area of its box, as detectron2 has it too
  (it decides what counts for small, medium and large objects).
- Images, categories, annotations and detections are numbered anew, in their order. Ids that a float64 cannot
  hold, an annotation with id 0 (which either evaluation would take for no match) and annotations that share
  an id then do no harm.
- Numbers that do not exist (-1 in COCO: there is no object of that size) are left out.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray

from downstream.detection.curves import NUMBERS, Matches
from downstream.detection.matching import Matcher
from downstream.detection.outcomes import Detections
from downstream.detection.predictions import read_detections
from downstream.detection.records import Record, check_records
from downstream.detection.truth import named, read_truth
from mae_bench.errors import MaeBenchError

KINDS = ("box", "mask")
_IOU_TYPES = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True)
class Scores:
    """What detections are worth.

    Attributes:
        metrics: ``KIND_NUMBER`` (`box_ap`, `mask_ar_small`, ...) in percent. Numbers of a size of which there
            is no object are left out; `ap`, `ap50`, `ap75`, `ar1`, `ar10` and `ar100` are always there.
        per_class: name of the class -> `box_ap`, `box_ap50`, `mask_ap`, `mask_ap50` in percent; classes
            without an object are left out.
        outcomes: what came of every image, where that was asked for.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    outcomes: Detections | None = None


def judge_file(
    annotations: str | os.PathLike[str],
    detections: str | os.PathLike[str],
    *,
    kinds: Sequence[str] = KINDS,
    samples: str | None = None,
) -> Scores:
    """Judge the detections that a run has saved; see `judge`."""
    return judge(annotations, detections, kinds=kinds, samples=samples)


def judge(
    annotations: str | os.PathLike[str] | Mapping[str, Any],
    detections: str | os.PathLike[str] | list[Record],
    *,
    kinds: Sequence[str] = KINDS,
    samples: str | None = None,
) -> Scores:
    """Average precision and recall of detections on all images of the annotations.

    At most 100 detections of a class in an image count; crowd regions are no objects to find, and detections
    in them are no mistakes.

    Args:
        annotations: file in COCO's instances format, or its content.
        detections: file of COCO's results format (a list of records, see `records`), or its content. Neither
            is changed.
        kinds: `box`, `mask` or both.
        samples: digest of the annotations, to be put on the outcomes; None: none are wanted.

    Raises:
        MaeBenchError: a file is unreadable or malformed, a detection names an unknown image or category, or
            there is no object to find.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be among {KINDS}, not {kinds}")
    with _no_collection():  # what was made inside is gone before the collector looks again
        return _judge(annotations, detections, kinds, samples)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for cycles, which, among millions of records, takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _judge(
    annotations: str | os.PathLike[str] | Mapping[str, Any],
    detections: str | os.PathLike[str] | list[Record],
    kinds: Sequence[str],
    samples: str | None,
) -> Scores:
    if "mask" in kinds:
        require_masks_seen()
    truth = read_truth(annotations, kinds)
    if isinstance(detections, list):
        records, where = detections, "the detections"
    else:
        records, where = read_detections(detections), os.fspath(detections)
    pixels = check_records(records, truth.sizes, truth.categories, kinds, where)
    found = [
        {
            "id": number,
            "image_id": truth.images[record["image_id"]],
            "category_id": truth.categories[record["category_id"]],
            "score": record["score"],
        }
        for number, record in enumerate(records, start=1)
    ]
    matcher = None
    if samples is not None:
        matcher = Matcher(truth.objects, found, len(truth.images), len(truth.names))
    matches: dict[str, Matches] = {}
    cells = _number_cells([*truth.objects, *found], len(truth.images))
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for kind in kinds:
        _add_shapes(found, records, pixels if kind == "mask" else None)
        evaluated = _evaluate(truth.objects, found, cells, truth.names, kind)
        if evaluated.stats[0] < 0:
            raise MaeBenchError(
                f"{named(annotations)}: no image shows an object that is no crowd: nothing to find"
            )
        for name, value in zip(NUMBERS, evaluated.stats, strict=True):
            if value >= 0:
                metrics[f"{kind}_{name}"] = 100 * float(value)
        for name, numbers in _by_class(evaluated.eval["precision"], truth.names, kind).items():
            per_class.setdefault(name, {}).update(numbers)
        if matcher is not None:
            matches[kind] = matcher.match(evaluated.ious, truth.objects, found)
    outcomes = None
    if matcher is not None and samples is not None:
        outcomes = Detections(samples, len(truth.images), truth.names, matcher.found, matches)
    return Scores(metrics, per_class, outcomes)


def _number_cells(entries: list[Record], images: int) -> int:
    """Number, for each class, the images that have anything of that class; their number replaces the image's.

    Of an image without object and detection of a class, nothing follows for that class, but the evaluation
    looks at every class in every image. Classes need not agree on what image a number stands for, and the
    order of images, which decides between equal scores, is kept.

    Args:
        entries: objects and detections.
        images: how many there are.

    Returns:
        How many images the class with most of them has.
    """
    classes = np.array([entry["category_id"] for entry in entries], dtype=np.int64)
    keys = classes * (images + 1) + np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    cells, cell_of = np.unique(keys, return_inverse=True)
    class_of = cells // (images + 1)
    numbers = np.arange(len(cells)) - np.searchsorted(class_of, class_of) + 1
    for entry, number in zip(entries, numbers[cell_of].tolist(), strict=True):
        entry["image_id"] = number
    return int(numbers.max(initial=0))


def _add_shapes(found: list[Record], records: list[Record], pixels: NDArray[np.int64] | None) -> None:
    """Give each detection its box, or its mask of so many `pixels`, and the area that sorts it into sizes."""
    if pixels is None:
        for detection, record in zip(found, records, strict=True):
            box = record["bbox"]
            detection["bbox"], detection["area"] = box, box[2] * box[3]
    else:
        for detection, record, area in zip(found, records, pixels.tolist(), strict=True):
            detection["rle"], detection["area"] = record["segmentation"], area


@cache
def require_masks_seen() -> None:
    """Let faster-coco-eval judge one mask that is right.

    It is given masks as run lengths under the name `rle`, by which it keeps them itself: from the documented
    name it would decode and encode every mask again. Versions before 1.7 do not look there, and find nothing.

    Raises:
        MaeBenchError: the right mask has not AP 1.
    """
    mask = {"size": [2, 2], "counts": coco_masks.encode(np.eye(2, dtype=np.uint8, order="F"))["counts"]}
    thing = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 2, "score": 1.0, "rle": mask}
    if _evaluate([dict(thing)], [dict(thing)], 1, ["thing"], "mask").stats[0] != 1:
        raise MaeBenchError(
            f"faster-coco-eval {metadata.version('faster-coco-eval')} does not compare masks as expected; "
            "install another version: pip install 'faster-coco-eval>=1.7.1'"
        )


def _evaluate(
    objects: list[Record], found: list[Record], cells: int, names: Sequence[str], kind: str
) -> COCOeval_faster:
    """Run the evaluation of one kind; objects and detections have their box, or their mask as `rle`."""
    # The size of an image is asked for with masks, and used for polygons, of which there are none any more.
    images = [{"id": number, "height": 1, "width": 1} for number in range(1, cells + 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    shared = {"images": images, "categories": categories}
    truth, detections = (COCO({**shared, "annotations": entries}) for entries in (objects, found))
    evaluation = COCOeval_faster(truth, detections, _IOU_TYPES[kind])
    # More threads only wait for each other: they compare masks while they hold the interpreter's lock.
    evaluation.rle_iou_max_workers = 1
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _by_class(precision: NDArray[np.float64], names: list[str], kind: str) -> dict[str, dict[str, float]]:
    """AP and AP at IoU 0.5 of each class that has objects.

    Args:
        precision: ``(10 IoUs, 101 recalls, classes, 4 sizes, 3 numbers of detections)``; -1: no such object.
    """
    by_class = precision[:, :, :, 0, -1]
    return {
        name: {
            f"{kind}_ap": 100 * float(by_class[:, :, index].mean()),
            f"{kind}_ap50": 100 * float(by_class[0, :, index].mean()),
        }
        for index, name in enumerate(names)
        if by_class[0, 0, index] >= 0
    }
