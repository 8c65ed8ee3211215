"""Annotation files in COCO's format: what they say, their masks as pycocotools has them, and what is refused."""

from __future__ import annotations

import gc
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from downstream.detection.annotations import read_annotations
from downstream.detection.masks import decode, rasterise
from downstream.detection.source import open_split
from mae_bench.errors import MaeBenchError
from tests.tiny_coco import (
    HEIGHT,
    TWO_PARTS,
    WIDTH,
    annotation,
    dataset,
    write,
)


def test_masks_of_all_forms_are_those_of_pycocotools(tmp_path: Path) -> None:
    write(tmp_path)
    found = read_annotations(tmp_path / "train.json")
    reference = COCO(tmp_path / "train.json")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        for which, number in enumerate(found.ids.tolist()):
            expected = reference.annToMask(reference.anns[number])
            segmentation = found.segmentation(which)
            code = segmentation if isinstance(segmentation, dict) else rasterise(segmentation, HEIGHT, WIDTH)
            assert expected.any()
            np.testing.assert_array_equal(decode(code), expected)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop("id"), "annotation number 2 has no 'id'"),
        (lambda a: a.pop("image_id"), "annotation 17 has no 'image_id'"),
        (lambda a: a.pop("category_id"), "annotation 17 has no 'category_id'"),
        (lambda a: a.pop("bbox"), "annotation 17 needs a bbox"),
        (lambda a: a.pop("segmentation"), "annotation 17 has no segmentation, which Mask R-CNN"),
        (lambda a: a.update(segmentation=[]), "annotation 17 has no segmentation"),
        (lambda a: a.update(id="x"), "annotation x has the id 'x'; it must be a whole number"),
        (lambda a: a.update(id=900), "'annotations' has entries with the same id: 900"),
        (lambda a: a.update(image_id=6), "annotation 17 has the image_id 6, which 'images' does not list"),
        (lambda a: a.update(category_id=4), "annotation 17 has the category_id 4, which 'categories'"),
        (lambda a: a.update(bbox=[1, 2, -3, 4]), r"annotation 17 has the bbox \[1.0, 2.0, -3.0, 4.0\]"),
        (lambda a: a.update(bbox=[1, 2, math.nan, 4]), r"annotation 17 has the bbox \[1.0, 2.0, nan"),
        (lambda a: a.update(bbox=[1, 2, 3]), "annotation 17 needs a bbox"),
        (lambda a: a.update(bbox=[1, 2, "3", 4]), "annotation 17 needs a bbox"),
        (lambda a: a.update(iscrowd=2), "annotation 17 has iscrowd 2"),
        (lambda a: a.update(segmentation=[[1, 2, 3, 4]]), "annotation 17 has a polygon of 4 numbers"),
        (
            lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
            "annotation 17 has a polygon of 7 numbers",
        ),
        (lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, None]]), "annotation 17 has a polygon that holds"),
        (
            lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, math.nan]]),
            "annotation 17 has a polygon with a coord",
        ),
        (
            lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, 1e12]]),
            "annotation 17 has a polygon with a coord",
        ),
        (
            lambda a: a.update(segmentation=[1, 2, 3, 4, 5, 6]),
            "annotation 17 has a segmentation that is neither",
        ),
        (
            lambda a: a.update(segmentation={"size": [48, 64]}),
            "annotation 17 has a segmentation without 'counts'",
        ),
        (
            lambda a: a.update(segmentation={"counts": [3072]}),
            "annotation 17 has run lengths of the size None",
        ),
        (
            lambda a: a.update(segmentation={"size": [64, 48], "counts": [3072]}),
            "annotation 17 has run lengths for",
        ),
        (
            lambda a: a.update(segmentation={"size": [48, 64], "counts": [9]}),
            "annotation 17 has broken run lengths",
        ),
        (
            lambda a: a.update(segmentation={"size": [48, 64], "counts": [9, -1]}),
            "annotation 17 has broken run",
        ),
        (
            lambda a: a.update(segmentation={"size": [48, 64], "counts": "o0\xe9"}),
            "annotation 17 has broken run",
        ),
        (lambda a: a.update(segmentation={"size": [48, 64], "counts": "P"}), "annotation 17 has broken run"),
    ],
)
def test_an_invalid_annotation_is_named_with_its_file(
    tmp_path: Path, change: Callable[[dict], Any], complaint: str
) -> None:
    content = dataset()
    change(content["annotations"][1])
    data = write(tmp_path, content)
    with pytest.raises(MaeBenchError, match=re.escape(f"{tmp_path / 'train.json'}: ") + complaint):
        open_split(data, "train", tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["images"][0].pop("file_name"), "image 70 has no 'file_name'"),
        (lambda c: c["images"][0].update(height=0), "image 70 needs its 'height' in pixels, not 0"),
        (lambda c: c["images"][0].pop("width"), "image 70 needs its 'width' in pixels, not None"),
        (lambda c: c["images"][0].update(id=5), "'images' has entries with the same id: 5"),
        (lambda c: c["images"][0].pop("id"), "an image needs a whole number 'id'"),
        (
            lambda c: c["categories"].append({"id": 3, "name": "x"}),
            "'categories' has entries with the same id: 3",
        ),
        (lambda c: c["categories"].append({"id": 4}), "a category needs"),
        (lambda c: c.update(categories=[]), "'categories' is empty"),
        (lambda c: c.update(images=[], annotations=[]), "'images' is empty"),
        (lambda c: c.pop("annotations"), "no list 'annotations': not a dataset in COCO's instances format"),
        (lambda c: c["annotations"].append({"id": 99}), "'annotations' must hold objects"),
    ],
)
def test_an_invalid_file_is_told_what_it_lacks(
    tmp_path: Path, change: Callable[[dict], Any], complaint: str
) -> None:
    content = dataset()
    change(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(MaeBenchError, match=re.escape(f"{tmp_path / 'train.json'}: ") + complaint):
        read_annotations(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps(dataset())[:-400], "not JSON: it ends in the middle"),
        (json.dumps(dataset()).rsplit('"', 1)[0], "not JSON: it ends in the middle"),
        ("", "not JSON: it ends in the middle"),
        ("<html>Not found</html>", "not JSON: Expecting value: line 1 column 1"),
        ("\x80\x81", "not JSON: 'utf-8' codec"),
        (
            json.dumps([{"image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]),
            "a list, as detections",
        ),
        ("3", "not a dataset"),
        ('{"a": ' * 100_000, "not JSON: "),
    ],
)
def test_what_is_no_annotation_file_gets_one_sentence(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(MaeBenchError, match=re.escape(f"{path}: ") + complaint):
        read_annotations(path)


def test_objects_do_not_become_python_objects(tmp_path: Path) -> None:
    content = dataset()
    content["annotations"] = [annotation(number, 5, 3, TWO_PARTS) for number in range(2000)]
    (tmp_path / "train.json").write_text(json.dumps(content))
    del content
    gc.collect()
    before = len(gc.get_objects())
    found = read_annotations(tmp_path / "train.json")
    gc.collect()
    assert len(found.ids) == 2000
    assert len(gc.get_objects()) - before < 200
