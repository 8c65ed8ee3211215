"""A generated world for dense tasks on disk, in the layouts of COCO and ADE20K.

    coco/train2017/000000000001.png ...                one image, one file: the ADE20K half links to it
    coco/val2017/...
    coco/annotations/instances_train2017.json ...
    ade20k/images/training/ADE_train_00000001.png ...  (validation: ADE_val_00000001.png)
    ade20k/annotations/training/...                    label maps of the same names
    ade20k/classes.txt                                 a class a line: name, tab, colour

As in the real sets, category ids have holes, some objects of one class are given as a crowd, masks come as
polygons or as runs, and label 0 is no class.
"""

from __future__ import annotations

import colorsys
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae_bench.scenes.draw import Scene
from mae_bench.scenes.outlines import Mask, compressed, polygons, runs
from mae_bench.scenes.shapes import CLASSES
from mae_bench.scenes.specs import CHUNK, DenseSpec, scenes

CATEGORY_IDS = (1, 2, 3, 5, 6, 9, 13, 14, 21, 22)
"""Category id of each class; ids are left out, as they are in COCO."""
CROWD_EVERY = 4
"""In the images whose id this number divides, objects of one class become a crowd."""
_COCO = {"train": "train2017", "val": "val2017"}
_ADE = {"train": ("training", "ADE_train"), "val": ("validation", "ADE_val")}


def write(folder: Path, spec: DenseSpec, progress: Callable[[int], object]) -> None:
    """Write both layouts into `folder`.

    Args:
        progress: called with the number of images written since the last call.

    Raises:
        OSError: the disk cannot be written.
    """
    (folder / "ade20k").mkdir(parents=True)
    (folder / "coco/annotations").mkdir(parents=True)
    (folder / "ade20k/classes.txt").write_text(class_list(), encoding="utf-8")
    first_image = first_annotation = 1  # ids go on from split to split, so that none occurs twice
    for split in ("train", "val"):
        drawn = list(scenes(spec, split))
        document = instances(drawn, first_image, first_annotation)
        first_image += len(drawn)
        first_annotation += len(document["annotations"])
        file = folder / f"coco/annotations/instances_{_COCO[split]}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        _write_images(folder, split, drawn, [record["file_name"] for record in document["images"]], progress)


def _write_images(
    folder: Path,
    split: str,
    drawn: Sequence[Scene],
    names: Sequence[str],
    progress: Callable[[int], object],
) -> None:
    part, stem = _ADE[split]
    images, linked, labels = (
        folder / "coco" / _COCO[split],
        folder / "ade20k/images" / part,
        folder / "ade20k/annotations" / part,
    )
    for place in (images, linked, labels):
        place.mkdir(parents=True)
    for number, (scene, of_coco) in enumerate(zip(drawn, names, strict=True), start=1):
        file, name = images / of_coco, f"{stem}_{number:08d}.png"
        Image.fromarray(scene.image).save(file, compress_level=1)
        same_file(file, linked / name)
        Image.fromarray(label_map(scene)).save(labels / name, compress_level=1)
        if number % CHUNK == 0:
            progress(CHUNK)
    progress(len(drawn) % CHUNK)


def same_file(file: Path, other: Path) -> None:
    """Let `other` be the same file; a copy of it where the file system has no links."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


# ---------------------------------------------------------------- COCO


def instances(split: Iterable[Scene], first_image: int, first_annotation: int) -> dict[str, Any]:
    """The scenes of a split as a document of COCO's instances format.

    Args:
        first_image: id of the first image, the others count on from it; files are named by their ids.
        first_annotation: id of the first annotation, likewise.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(split, start=first_image):
        height, width = scene.semantic.shape
        name = f"{image_id:012d}.png"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width, "license": 1})
        for category, mask, crowd in _regions(scene, crowded=image_id % CROWD_EVERY == 0):
            record = {"id": first_annotation + len(annotations), "image_id": image_id}
            annotations.append({**record, **_annotation(category, mask, crowd)})
    return {
        "info": {"description": "Generated scenes of mae-bench", "version": "1.0"},
        "licenses": [
            {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
        ],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": identifier, "name": name, "supercategory": "shape"}
            for identifier, name in zip(CATEGORY_IDS, CLASSES, strict=True)
        ],
    }


def _regions(scene: Scene, crowded: bool) -> list[tuple[int, Mask, bool]]:
    """Class, visible mask (S, S) and whether it is a crowd, of what is annotated in a scene.

    Args:
        crowded: make one crowd of the objects of a class where there are several.
    """
    regions: list[tuple[int, Mask, bool]] = []
    for category in dict.fromkeys(item.category for item in scene.objects):
        masks = [item.mask for item in scene.objects if item.category == category]
        if crowded and len(masks) > 1:
            regions.append((category, np.logical_or.reduce(masks), True))
        else:
            regions += [(category, mask, False) for mask in masks]
    return regions


def _annotation(category: int, mask: Mask, crowd: bool) -> dict[str, Any]:
    """What COCO says of an object: polygons; compressed runs where it has holes; runs where it is a crowd."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(xs[0]), int(ys[0])
    outlines = None if crowd else polygons(mask)
    lengths = runs(mask)
    counts: list[int] | str = lengths if crowd else compressed(lengths)
    return {
        "category_id": CATEGORY_IDS[category],
        "bbox": [x, y, int(xs[-1]) + 1 - x, int(ys[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": int(crowd),
        "segmentation": outlines or {"size": list(mask.shape), "counts": counts},
    }


# ---------------------------------------------------------------- ADE20K


def label_map(scene: Scene) -> NDArray[np.uint8]:
    """Labels (S, S): 1 background, 2 on the classes in order, and 0 (no class) where an edge runs.

    The edges of objects are smooth, so the pixels of the background that touch one show both; they are
    neither trained on nor judged.
    """
    shown = np.pad(scene.semantic > 0, 1)
    touched = shown[:-2, 1:-1] | shown[2:, 1:-1] | shown[1:-1, :-2] | shown[1:-1, 2:]
    labels: NDArray[np.uint8] = scene.semantic + np.uint8(1)
    labels[touched & (scene.semantic == 0)] = 0
    return labels


def class_list() -> str:
    """Names and colours of the classes that `label_map` tells apart, from label 1 on, a line each."""
    colours = [(120, 120, 120)]
    for place in range(len(CLASSES)):
        red, green, blue = colorsys.hsv_to_rgb(place / len(CLASSES), 0.8, 0.95 - 0.3 * (place % 2))
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    lines = zip(("background", *CLASSES), colours, strict=True)
    return "".join(f"{name}\t{' '.join(map(str, colour))}\n" for name, colour in lines)
