"""The ground truth of an annotation file, as the evaluation of faster-coco-eval takes it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_masks

from downstream.detection.records import Record, Size
from downstream.detection.run_lengths import areas
from mae_bench.errors import MaeBenchError

_LISTS = ("images", "categories", "annotations")


@dataclass(frozen=True)
class Truth:
    """Ground truth with all ids replaced by numbers from 1 on, in the order of the ids.

    Attributes:
        objects: `id`, `image_id` and `category_id` (all new), `iscrowd`, `area`, and `bbox` and `rle` (the
            mask as compressed run lengths) where they were asked for.
        sizes: height and width of each image, by its id in the file.
        images: new number of each image, by its id in the file.
        categories: new number of each category, by its id in the file.
        names: of the categories, by new number - 1; all differ.
    """

    objects: list[Record]
    sizes: dict[int, Size]
    images: dict[int, int]
    categories: dict[int, int]
    names: list[str]


def named(annotations: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    """What messages call the annotations."""
    return "the annotations" if isinstance(annotations, Mapping) else os.fspath(annotations)


def read_truth(annotations: str | os.PathLike[str] | Mapping[str, Any], kinds: Sequence[str]) -> Truth:
    """Ground truth in COCO's instances format; what is passed is not changed.

    Annotations of images or categories that are not listed count for nothing, as in pycocotools.

    Args:
        annotations: a file, or its content.
        kinds: `box` needs a box in every annotation, `mask` a segmentation.

    Raises:
        MaeBenchError: it is unreadable or malformed.
    """
    where = named(annotations)
    content = annotations if isinstance(annotations, Mapping) else _read(where)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise MaeBenchError(f"{where} is not in COCO's format: it needs the lists {', '.join(_LISTS)}")
    try:
        images = sorted(content["images"], key=lambda image: image["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        names = _distinct([(str(category["name"]), category["id"]) for category in categories])
    except (KeyError, TypeError) as error:
        raise MaeBenchError(
            f"{where}: images need id, height and width, categories id and name ({error!r})"
        ) from error
    new_images = {image["id"]: number for number, image in enumerate(images, start=1)}
    new_categories = {category["id"]: number for number, category in enumerate(categories, start=1)}
    objects: list[Record] = []
    for number, annotation in enumerate(content["annotations"], start=1):
        try:
            image, category = annotation["image_id"], annotation["category_id"]
            if image in new_images and category in new_categories:
                ids = {"image_id": new_images[image], "category_id": new_categories[category]}
                objects.append({"id": len(objects) + 1, **ids, **_object(annotation, kinds, sizes[image])})
        except KeyError as error:
            raise MaeBenchError(f"{where}: annotation number {number} has no {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise MaeBenchError(f"{where}: annotation number {number} is not valid: {error}") from error
    return Truth(objects, sizes, new_images, new_categories, names)


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise MaeBenchError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise MaeBenchError(f"{path} is not a JSON file: {error}") from error


def _distinct(pairs: list[tuple[str, int]]) -> list[str]:
    """Names of categories; those that several have get their id added."""
    count = Counter(name for name, _ in pairs)
    return [name if count[name] == 1 else f"{name} (id {number})" for name, number in pairs]


def _object(annotation: Mapping[str, Any], kinds: Sequence[str], size: Size) -> Record:
    """What is judged of an annotation.

    Raises:
        KeyError: something is missing.
        TypeError, ValueError: something is malformed.
    """
    judged: Record = {"iscrowd": int(annotation.get("iscrowd", 0))}
    area = annotation.get("area")
    if "mask" in kinds:
        judged["rle"] = _run_lengths(annotation["segmentation"], size)
        # COCO's own files state an area for each object; where a file does not, it is counted.
        area = coco_masks.area(judged["rle"]) if area is None else area
    if "box" in kinds:
        box = np.asarray(annotation["bbox"])
        if box.dtype.kind not in "iuf" or box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"bbox must be four finite numbers, not {annotation['bbox']!r}")
        judged["bbox"] = box.tolist()
        area = box[2] * box[3] if area is None else area
    judged["area"] = float(area)  # type: ignore[arg-type]
    if not math.isfinite(judged["area"]):
        raise ValueError(f"area must be a finite number, not {area!r}")
    return judged


def _run_lengths(outline: Any, size: Size) -> dict[str, Any]:
    """The mask of a list of polygons or of run lengths of either kind.

    Raises:
        KeyError, TypeError, ValueError: it is none of these, or does not fit the image.
    """
    height, width = size
    if isinstance(outline, list) and outline and all(isinstance(polygon, list) for polygon in outline):
        try:
            return dict(coco_masks.segmToRle(outline, width, height))
        except RuntimeError:
            raise ValueError("its polygons must be lists of numbers") from None
    if not isinstance(outline, Mapping):
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"its mask has the size {outline['size']}, but the image has {[height, width]}")
    code = dict(outline)
    if isinstance(outline["counts"], list):
        try:
            code = dict(coco_masks.segmToRle(code, width, height))
        except RuntimeError:
            raise ValueError("its run lengths must be whole numbers from 0 on") from None
    if not isinstance(code["counts"], str | bytes):
        raise ValueError("its run lengths must be a list of numbers, or text")
    if areas([code["counts"]], np.array([height * width]))[0] < 0:
        raise ValueError(f"the run lengths of its mask do not fill an image of {height} x {width} pixels")
    return code
