"""The same little pictures in class folders, in iNaturalist's layout and in that of Places365."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mae_bench.data import open_source
from mae_bench.data.sources import Source, Split
from mae_bench.errors import MaeBenchError
from tests.pictures import encoded, settings, smooth

KINDS = {"ant": "Insecta", "bee": "Insecta", "cat": "Mammalia", "daisy": "Plantae"}
CLASSES = list(KINDS)
COUNTS = {
    "train": {"ant": 4, "bee": 3, "cat": 5, "daisy": 2},
    "val": {"ant": 1, "bee": 2, "cat": 1, "daisy": 2},
}
IDS = {"ant": 7, "bee": 12, "cat": 300, "daisy": 4000}


def write_layouts(root: Path) -> Path:
    """`folder`, `inat`, `torchvision` (iNaturalist's folders as it names them) and `places` below `root`."""
    seed = 0
    lists: dict[str, list[str]] = {"train": [], "val": []}
    sets: dict[str, dict[str, list[Any]]] = {}
    for split, counts in COUNTS.items():
        images, annotations = [], []
        number = 0
        for label, (name, count) in enumerate(counts.items()):
            for _ in range(count):
                seed, number = seed + 1, number + 1
                # The names of files sort in another way than the pictures were made in.
                file = f"{(seed * 37) % 101:03d}.png"
                inside = f"{KINDS[name]}/{IDS[name]}/{file}"
                place = f"{name[0]}/{name}/{file}" if split == "train" else f"Places365_val_{label}{file}"
                small, large = encoded(smooth(seed)), encoded(smooth(seed, 48, 40))
                for path, content in {
                    f"folder/{split}/{name}/{file}": small,
                    f"inat/train_val2018/{inside}": small,
                    f"torchvision/2018/{inside}": small,
                    f"places/{'data' if split == 'train' else 'val'}_256/{place}": small,
                    f"places/{'data' if split == 'train' else 'val'}_large/{place}": large,
                }.items():
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).write_bytes(content)
                images.append(
                    {"id": 1000 - number, "file_name": f"train_val2018/{inside}", "width": 10, "height": 12}
                )
                annotations.append({"id": number, "image_id": 1000 - number, "category_id": IDS[name]})
                lists[split].append(f"{'/' if split == 'train' else ''}{place} {label}")
        categories = [
            {"id": IDS[name], "name": name, "supercategory": KINDS[name]} for name in reversed(CLASSES)
        ]
        sets[split] = {
            "info": [{"year": 2018}],
            "images": images[::2] + images[1::2],
            "categories": categories,
            "annotations": annotations[::-1],
        }
    for folder in ("inat", "torchvision"):
        for split in sets:
            (root / folder / f"{split}2018.json").write_text(json.dumps(sets[split]))
    for split, name in (("train", "places365_train_standard.txt"), ("val", "places365_val.txt")):
        (root / "places" / name).write_text("\n".join(lists[split][::-1]) + "\n")
    lines = [f"/{name[0]}/{name} {label}" for label, name in enumerate(CLASSES)]
    (root / "places" / "categories_places365.txt").write_text("\n".join(lines[::-1]) + "\n")
    return root


FOLDER: dict[str, object] = {"root": "folder"}
INAT: dict[str, object] = {
    "source": "inat",
    "root": "inat",
    "train": "train2018.json",
    "val": "val2018.json",
}
TORCHVISION = INAT | {"root": "torchvision", "train_images": "2018", "val_images": "2018"}
PLACES: dict[str, object] = {
    "source": "filelist",
    "root": "places",
    "train": "places365_train_standard.txt",
    "val": "places365_val.txt",
    "train_images": "data_256",
    "val_images": "val_256",
    "class_list": "categories_places365.txt",
}
LARGE = PLACES | {"train_images": "data_large", "val_images": "val_large"}


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def contents(source: Source) -> list[tuple[bytes, int]]:
    """File and label of every image, in order."""
    return [(bytes(source.read(index)), source.label(index)) for index in range(len(source))]  # type: ignore[arg-type]


def opening_fails(
    layout: Mapping[str, Any], message: str, root: Path, split: Split = "train", **values: object
) -> None:
    """Opening the split fails, and the message holds these words."""
    with pytest.raises(MaeBenchError) as caught:
        open_source(settings(**{**layout, **values}), split, root)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
