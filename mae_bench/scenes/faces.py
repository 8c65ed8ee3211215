"""A generated world on disk in the layouts of iNaturalist, Places and the sets that test robustness.

    folder/{train,val}/<class>/train_00000001.jpg ...    class folders; the files below are these files
    inat/train_val2018/<Kind>/<id>/<hash>.jpg            with train2018.json and val2018.json
    places/data_256/<letter>/<class>/00000001.jpg        with places365_train_standard.txt
    places/val_256/Places365_val_00000001.jpg            with places365_val.txt, categories_places365.txt
    real.json                                            ReaL's labels of folder/val, by sorted file names
    imagenet-a/<class>/ imagenet-r/<class>/              five classes each: harder scenes; flat posters
    sketch/<class>/                                      all classes as line drawings
    imagenetv2-matched-frequency-format-val/<0..9>/      scenes like those of folder/val, drawn afresh

Sorted by label and file name, `folder`, `inat` and `places` hold the same images in the same order. What may
go wrong in reading the real files goes wrong here: category ids have holes and sort otherwise as text than as
numbers, and the records of the JSON files and the lines of the lists are in no particular order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae_bench.scenes.dense import same_file
from mae_bench.scenes.draw import Scene
from mae_bench.scenes.shapes import CLASSES
from mae_bench.scenes.specs import CHUNK, FacesSpec, scenes
from mae_bench.scenes.styles import FRESH, Fresh

CATEGORY_IDS = (3, 4, 7, 20, 21, 58, 100, 101, 345, 2820)
"""iNaturalist's category id of each class: in the order of the classes as numbers, not as text."""
KINDS = tuple("Curved" if name in ("crescent", "disc", "heart", "ring") else "Angular" for name in CLASSES)
"""iNaturalist's supercategory of each class, which is a folder's name too."""
QUALITY = 95
"""Of the JPEG files, whose colours are kept at full resolution: at this size little else is left."""
_INAT = {"train": "train2018.json", "val": "val2018.json"}
_PLACES = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}


def write(folder: Path, spec: FacesSpec, progress: Callable[[int], object]) -> None:
    """Write all layouts into `folder`.

    Args:
        progress: called with the number of images drawn since the last call.

    Raises:
        OSError: the disk cannot be written.
    """
    for split in ("train", "val"):
        for index, scene in enumerate(scenes(spec, split)):
            file, *twins = (folder / path for path in places_of(split, index))
            _save(scene.image, file)
            for twin in twins:
                twin.parent.mkdir(parents=True, exist_ok=True)
                same_file(file, twin)
            progress(1)
    for name, fresh in FRESH.items():
        for index, image in drawn_afresh(spec, fresh, spec.count("val")):
            label = index % len(CLASSES)
            place = folder / name / (str(label) if fresh.numbered else CLASSES[label])
            _save(image, place / f"{index:06d}.jpg")
            progress(1)
    for path, text in texts(spec).items():
        (folder / path).write_text(text, encoding="utf-8")


def _save(image: NDArray[np.uint8], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, quality=QUALITY, subsampling=0)


def drawn_afresh(spec: FacesSpec, fresh: Fresh, count: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Index and image (S, S, 3) of the scenes of a set, of the first `count` those of its classes.

    The class of an image is its index modulo ten.
    """
    numbers = [index for index in range(count) if index % len(CLASSES) in fresh.classes]
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        yield from zip(chunk, fresh.style(spec, fresh, chunk), strict=True)


def places_of(split: str, index: int) -> tuple[str, str, str]:
    """The paths of an image in the class folders, in iNaturalist's layout and in that of Places."""
    label, number = index % len(CLASSES), index + 1
    name = CLASSES[label]
    mixed = hashlib.sha256(f"{split} {index}".encode()).hexdigest()[:24]
    return (
        f"folder/{split}/{name}/{split}_{number:08d}.jpg",
        f"inat/train_val2018/{KINDS[label]}/{CATEGORY_IDS[label]}/{index:08x}{mixed}.jpg",
        f"places/data_256/{name[0]}/{name}/{index // len(CLASSES) + 1:08d}.jpg"
        if split == "train"
        else f"places/val_256/Places365_val_{number:08d}.jpg",
    )


def texts(spec: FacesSpec) -> dict[str, str]:
    """Path and content of every file that is no image, world.json apart."""
    files = {"places/categories_places365.txt": _lines(f"/{n[0]}/{n} {i}" for i, n in enumerate(CLASSES))}
    first = 1  # ids go on from split to split, as they do in iNaturalist's files
    for split in ("train", "val"):
        count = spec.count(split)
        files[f"inat/{_INAT[split]}"] = json.dumps(observations(spec, split, first))
        first += count
        # Official files of the training split begin with a slash, those of the validation split do not.
        images = "places/data_256" if split == "train" else "places/val_256/"
        of_places = ((places_of(split, index)[2], index % len(CLASSES)) for index in range(count))
        files[f"places/{_PLACES[split]}"] = _lines(
            f"{path.removeprefix(images)} {label}" for path, label in of_places
        )
    real = [reassessed(index, scene) for index, scene in enumerate(scenes(spec, "val"))]
    files["real.json"] = json.dumps(real)
    return files


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def observations(spec: FacesSpec, split: str, first: int) -> dict[str, Any]:
    """A split as a document of the iNaturalist competitions.

    Args:
        first: id of the first image, the others count on from it.
    """
    files = [(places_of(split, index)[1].removeprefix("inat/"), index) for index in range(spec.count(split))]
    files.sort(key=lambda file: file[0][::-1])  # by the ends of the names, which is no order of anything
    images = [
        {"id": first + place, "file_name": name, "width": spec.size, "height": spec.size, "license": 1}
        for place, (name, _) in enumerate(files)
    ]
    annotations = [
        {
            "id": 100_000 + first + place,
            "image_id": first + place,
            "category_id": CATEGORY_IDS[index % len(CLASSES)],
        }
        for place, (_, index) in enumerate(files)
    ]
    return {
        "info": {"description": "Generated scenes of mae-bench", "version": "1.0", "year": 2018},
        "licenses": [
            {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
        ],
        "images": images,
        "annotations": annotations[::-1],
        "categories": [
            {"id": identifier, "name": name, "supercategory": kind}
            for identifier, name, kind in zip(CATEGORY_IDS, CLASSES, KINDS, strict=True)
        ][::-1],
    }


def reassessed(index: int, scene: Scene) -> list[int]:
    """ReaL's labels of a validation image: its class, in some two classes that are in it, in a few none."""
    if index % 20 == 13:
        return []
    others = [item.category for item in scene.objects if item.category != scene.label]
    return sorted([scene.label, *others[: index % 3 == 0]])


def probe(spec: FacesSpec) -> Iterator[bytes]:
    """What identifies the layouts: the texts of a small world, and the first scenes of each other set."""
    yield json.dumps(texts(replace(spec, train_per_class=2, val_per_class=2))).encode()
    for name, fresh in FRESH.items():
        yield name.encode()
        for _, image in drawn_afresh(spec, fresh, 4):
            yield image.tobytes()
