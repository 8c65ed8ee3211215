"""A tiny dataset in COCO's format, with everything that the format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as reference_masks

from downstream.detection.jitter import View
from downstream.detection.settings import DetectionData

HEIGHT, WIDTH = 48, 64
SQUARE = [[10, 10, 30, 10, 30, 25, 10, 25]]
TWO_PARTS = [[2.5, 3.25, 20.1, 5, 12.7, 17.3], [40, 30, 55.5, 31, 50, 44.4, 42, 40]]
OVER_THE_EDGE = [[-8.5, 20, 12, 14, 15, 60, -3, 55]]


def box_of(polygons: list[list[float]]) -> list[float]:
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]


def annotation(number: int, image: int, category: int = 3, segmentation: Any = SQUARE, **more: Any) -> dict:
    box = box_of(segmentation) if isinstance(segmentation, list) else [0, 0, 5, 5]
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
    return {**entry, "segmentation": segmentation, "area": box[2] * box[3], **more}


def run_lengths() -> list[int]:
    """A bar of four columns by ten rows from (8, 20) on, as COCO writes uncompressed run lengths."""
    counts = [20 * HEIGHT + 8]
    for _ in range(3):
        counts += [10, HEIGHT - 10]
    return [*counts, 10, HEIGHT * WIDTH - sum(counts) - 10]


def dataset() -> dict[str, Any]:
    """Four images out of order: one without annotations, one with a crowd only."""
    code = {"size": [HEIGHT, WIDTH], "counts": run_lengths()}
    packed = reference_masks.frPyObjects(code, HEIGHT, WIDTH)
    compressed = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    return {
        "info": {"year": 2017},
        "images": [
            {"id": number, "file_name": f"{number:06d}.png", "height": HEIGHT, "width": WIDTH, "license": 1}
            for number in (70, 5, 12, 41)
        ],
        "annotations": [
            annotation(900, 70, 90, TWO_PARTS),
            annotation(17, 5, 3, SQUARE),
            annotation(800, 70, 3, code, iscrowd=1),
            annotation(3, 70, 13, compressed),
            annotation(4, 12, 13, code, iscrowd=1),
            annotation(5, 5, 90, OVER_THE_EDGE),
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 3, "name": "car", "supercategory": "vehicle"},
            {"id": 13, "name": "stop sign", "supercategory": "outdoor"},
        ],
    }


def picture(height: int = HEIGHT, width: int = WIDTH, shift: int = 0) -> NDArray[np.uint8]:
    rows, columns = np.arange(height)[:, None, None] * 37, np.arange(width)[None, :, None] * 53
    return ((rows + columns + np.arange(3) * 101 + shift) ** 2 % 251).astype(np.uint8)


def write(
    folder: Path, train: dict[str, Any] | None = None, val: dict[str, Any] | None = None
) -> DetectionData:
    """A dataset on disk, and the settings that name it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, content in (("train", train or dataset()), ("val", val or dataset())):
        (folder / f"{name}.json").write_text(json.dumps(content))
        for entry in content["images"]:
            if isinstance(entry.get("file_name"), str):
                pixels = picture(entry.get("height", 9), entry.get("width", 9), entry["id"])
                Image.fromarray(pixels).save(folder / "images" / entry["file_name"])
    return settings_of()


def settings_of(**more: Any) -> DetectionData:
    return DetectionData(
        **{
            "name": "mine",
            "root": ".",
            "train": {"images": "images", "annotations": "train.json"},
            "val": {"images": "images", "annotations": "val.json"},
            "image_size": [64, 64],
            "evaluation": {"short_edge": 64, "long_edge": 64},
            **more,
        }
    )


def whole(height: int = HEIGHT, width: int = WIDTH) -> View:
    return View((height, width), (height, width), 0, 0, (height, width))
