"""Judging detections: `downstream.detection.judge` against pycocotools, boxes and masks.

    pip install pycocotools
    python benchmarks/coco_eval.py [--images 5000] [--detections 100] [--classes 80]

Ground truth and detections are generated: ellipses in images of 480 x 640, about seven objects an image; half
of the detections lie on an object, half anywhere. Timed is the whole way from two files to twelve numbers:
reading, for ours also checking, evaluating, accumulating, summarising; each way once, for it takes minutes.
The numbers of both must agree to 1e-9. Processor time is the fairer ratio on a machine that has other work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faster_coco_eval.core import mask as coco_masks

from downstream.detection.judge import NUMBERS, judge_file

HEIGHT, WIDTH = 480, 640
CORNERS = [(math.cos(math.tau * turn / 24), math.sin(math.tau * turn / 24)) for turn in range(24)]


def ellipse(box: list[float]) -> list[float]:
    """A polygon inside of a box x, y, width, height."""
    x, y, width, height = box
    return [
        value
        for cosine, sine in CORNERS
        for value in (x + width / 2 * (1 + cosine), y + height / 2 * (1 + sine))
    ]


def inside(x: float, y: float, width: float, height: float) -> list[float]:
    """The box, cut at the edges of the image, at least two pixels wide."""
    x, y = min(max(x, 0), WIDTH - 2), min(max(y, 0), HEIGHT - 2)
    return [x, y, max(min(width, WIDTH - x), 2), max(min(height, HEIGHT - y), 2)]


def any_box(draws: random.Random) -> list[float]:
    """A box of any size from 8 pixels on, small ones more often."""
    width, height = (8 * math.exp(draws.uniform(0, 3.6)) for _ in range(2))
    return inside(draws.uniform(0, WIDTH - width), draws.uniform(0, HEIGHT - height), width, height)


def generate(folder: Path, images: int, detections: int, classes: int) -> tuple[Path, Path]:
    """Write annotations and detections; the same every time."""
    draws = random.Random(0)
    truth: dict[str, list[Any]] = {
        "images": [{"id": number, "height": HEIGHT, "width": WIDTH} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
        "annotations": [],
    }
    found = []
    for image in range(1, images + 1):
        kinds = [draws.randint(1, classes) for _ in range(3)]
        own = []
        for _ in range(draws.randint(1, 13)):
            box = any_box(draws)
            polygon = ellipse(box)
            own.append(
                {
                    "id": len(truth["annotations"]) + len(own) + 1,
                    "image_id": image,
                    "category_id": draws.choice(kinds),
                    "bbox": box,
                    "area": float(coco_masks.area(coco_masks.frPyObjects([polygon], HEIGHT, WIDTH))[0]),
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
        truth["annotations"] += own
        for number in range(detections):
            if number % 2:
                box, kind = any_box(draws), draws.choice([*kinds, draws.randint(1, classes)])
            else:
                target = draws.choice(own)
                kind = target["category_id"]
                x, y, width, height = target["bbox"]
                noise = [draws.gauss(0, 0.15) for _ in range(4)]
                box = inside(
                    x + noise[0] * width,
                    y + noise[1] * height,
                    width * math.exp(noise[2]),
                    height * math.exp(noise[3]),
                )
            code = coco_masks.frPyObjects([ellipse(box)], HEIGHT, WIDTH)[0]
            mask = {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
            score = draws.random() ** (3 if number % 2 else 1)
            found.append(
                {"image_id": image, "category_id": kind, "bbox": box, "score": score, "segmentation": mask}
            )
    paths = folder / "annotations.json", folder / "detections.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


def by_pycocotools(annotations: Path, detections: Path, kind: str) -> list[float]:
    """The twelve numbers, in percent."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        records = json.loads(detections.read_text())
        if kind == "mask":  # so that the area is the mask's
            for record in records:
                del record["bbox"]
        evaluation = COCOeval(truth, truth.loadRes(records), {"box": "bbox", "mask": "segm"}[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats]


def by_ours(annotations: Path, detections: Path, *kinds: str) -> list[float]:
    """The twelve numbers of each kind, in percent."""
    scores = judge_file(annotations, detections, kinds=kinds)
    return [scores.metrics[f"{kind}_{name}"] for kind in kinds for name in NUMBERS]


@dataclass
class Cost:
    """Seconds on the clock and of the processor."""

    clock: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.clock + other.clock, self.processor + other.processor)


def timed(call: Callable[..., list[float]], *arguments: Any) -> tuple[Cost, list[float]]:
    clock, processor = time.perf_counter(), time.process_time()
    numbers = call(*arguments)
    return Cost(time.perf_counter() - clock, time.process_time() - processor), numbers


def report(name: str, ours: Cost, theirs: Cost, difference: float) -> None:
    print(
        f"{name:>6} {ours.clock:8.1f} {theirs.clock:12.1f} {theirs.clock / ours.clock:6.2f} "
        f"{ours.processor:10.1f} {theirs.processor:12.1f} {theirs.processor / ours.processor:6.2f} "
        f"{difference:11.1e}",
        flush=True,
    )
    assert difference < 1e-9, "the numbers differ"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("--images", 5000), ("--detections", 100), ("--classes", 80)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = generate(Path(folder), options.images, options.detections, options.classes)
        size = sum(path.stat().st_size for path in files) / 1e6
        print(f"{options.images} images x {options.detections} detections, {size:.0f} MB")
        print(f"{'':>6} {'seconds':>8} {'pycocotools':>12} {'ratio':>6}", end=" ")
        print(f"{'processor':>10} {'pycocotools':>12} {'ratio':>6} {'difference':>11}")
        reference, expected = Cost(), []
        for kind in ("box", "mask"):
            ours, numbers = timed(by_ours, *files, kind)
            theirs, known = timed(by_pycocotools, *files, kind)
            report(kind, ours, theirs, apart(numbers, known))
            reference, expected = reference + theirs, expected + known
        ours, numbers = timed(by_ours, *files, "box", "mask")
        report("both", ours, reference, apart(numbers, expected))


def apart(one: list[float], other: list[float]) -> float:
    """The largest difference."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
