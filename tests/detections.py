"""Generated ground truth and detections with everything that makes judging them hard."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_masks

# Ids have holes; class 7 has no object, class 90 neither object nor detection.
CATEGORIES = [
    {"id": 1000, "name": "pear"},
    {"id": 3, "name": "fig"},
    {"id": 7, "name": "nut"},
    {"id": 90, "name": "plum"},
    {"id": 12, "name": "date"},
]
SHOWN = [1000, 3, 12]


def bitmap(draws: random.Random, height: int, width: int) -> np.ndarray:
    """A rectangle with a notch, perhaps empty."""
    mask = np.zeros((height, width), dtype=np.uint8)
    top, left = draws.randrange(height // 2), draws.randrange(width // 2)
    bottom, right = draws.randint(top, height), draws.randint(left, width)
    mask[top:bottom, left:right] = 1
    mask[top : (top + bottom) // 2, left : (left + right) // 2] = draws.randrange(2)
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """As result files have it."""
    code = coco_masks.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def box_of(mask: np.ndarray) -> list[float]:
    """x, y, width and height."""
    return [float(value) for value in coco_masks.toBbox(compressed(mask))]


def counted(mask: np.ndarray) -> dict[str, Any]:
    """As annotations of crowds have it: a list of run lengths."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def polygons(draws: random.Random, box: list[float]) -> list[list[float]]:
    """One or two outlines that reach over the box's edges."""
    x, y, width, height = box
    return [
        [
            round(value, 2)
            for _ in range(draws.randint(3, 6))
            for value in (x + draws.uniform(-0.1, 1.1) * width, y + draws.uniform(-0.1, 1.1) * height)
        ]
        for _ in range(draws.randint(1, 2))
    ]


def scene(seed: int, images: int = 14, side: int = 240) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Content of an annotation file and of a file of detections."""
    draws = random.Random(seed)
    truth: dict[str, Any] = {"images": [], "categories": list(CATEGORIES), "annotations": []}
    found: list[dict[str, Any]] = []
    ids = draws.sample(range(1, 10 * images), images)
    for number, image_id in enumerate(ids):
        height, width = draws.randint(20, side), draws.randint(20, side)
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": "a.png"})
        own = []
        for _ in range(0 if number in (0, 1) else draws.randint(1, 8)):  # two images without any object
            mask = bitmap(draws, height, width)
            box = box_of(mask)
            crowd = draws.random() < 0.2
            outline = counted(mask) if crowd else compressed(mask)
            if not crowd and draws.random() < 0.6 and box[2] > 1:
                outline = polygons(draws, box)
                mask = coco_masks.decode(coco_masks.segmToRle(outline, width, height))
            own.append(
                {
                    "id": len(truth["annotations"]) + len(own) + 1,
                    "image_id": image_id,
                    "category_id": draws.choice(SHOWN),
                    "bbox": box,
                    "area": float(mask.sum()),
                    "iscrowd": int(crowd),
                    "segmentation": outline,
                }
            )
        truth["annotations"] += own
        if number in (0, 2):  # an image without detection, with and without objects
            continue
        for _ in range(130 if number == 3 else draws.randint(1, 25)):  # once more than 100 of a class
            mask = bitmap(draws, height, width)
            category = 3 if number == 3 else draws.choice([*SHOWN, 7])
            score = draws.random() ** 2
            if own and draws.random() < 0.6:
                target = draws.choice(own)
                code = target["segmentation"]
                mask = coco_masks.decode(coco_masks.segmToRle(code, width, height))
                mask = np.roll(mask, draws.randint(-2, 2), axis=draws.randrange(2))
                category, score = target["category_id"], draws.random() ** 0.5
            found.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [abs(edge + draws.uniform(-1, 1)) for edge in box_of(mask)],
                    "score": round(score, 1),  # many are equal
                    "segmentation": compressed(mask),
                }
            )
    draws.shuffle(found)
    return truth, found
