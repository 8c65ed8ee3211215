"""Annotation files in COCO's format for instances, read into a few flat arrays.

The training set of COCO has 860,000 objects. As Python objects they would take several gigabytes, and each
loader process would copy them, since every look at one writes to its reference count. Here each object is
taken apart as soon as the JSON parser has it, and what is kept lies in arrays that forked processes share.

Checked is what training relies on; what COCO's own files contain, such as boxes without width and outlines
that leave the image, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.detection.collecting import Collector, Outlines
from downstream.detection.masks import Polygons, RunLengths
from downstream.detection.run_lengths import areas
from mae_bench.data.listing import Names, some
from mae_bench.errors import MaeBenchError


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says of N images and M objects, images by ascending id.

    Attributes:
        path: the file.
        categories: ``id`` and ``name`` of each category, by ascending id; label k is number k - 1.
        image_ids: ``(N,)``.
        names: file name of each image.
        sizes: height and width of each image, ``(N, 2)``.
        starts: image i has the objects ``starts[i]`` to ``starts[i + 1]``, in the order of the file;
            ``(N + 1,)``.
        ids: id of each object, ``(M,)``.
        labels: 1 to the number of categories, ``(M,)``.
        crowd: whether an object stands for a group, ``(M,)``.
        boxes: x, y, width and height as the file gives them, ``(M, 4)``.
        rows: place of each object among `outlines`, ``(M,)``.
        outlines: the segmentations, in the order of the file.
    """

    path: Path
    categories: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    names: Names
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    rows: NDArray[np.int64]
    outlines: Outlines

    def objects(self, image: int) -> range:
        """The objects of image number `image`."""
        return range(int(self.starts[image]), int(self.starts[image + 1]))

    def segmentation(self, which: int) -> Polygons | RunLengths:
        """The polygons of an object, or the run lengths of its mask."""
        return self.outlines[int(self.rows[which])]

    def trainable(self) -> NDArray[np.int64]:
        """The images that show an object that is no crowd, in order."""
        image = np.repeat(np.arange(len(self.image_ids)), np.diff(self.starts))
        return np.unique(image[~self.crowd])

    def digest(self) -> str:
        """SHA-256 of categories, image names and sizes, and of every object."""
        state = hashlib.sha256(json.dumps(self.categories).encode())
        for name in self.names:
            state.update(name.encode("utf-8", "surrogatepass") + b"\0")
        arrays = (self.image_ids, self.sizes, self.starts, self.ids, self.labels, self.crowd, self.boxes)
        for array in (*arrays, self.rows, *self.outlines.arrays()):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file.

    Raises:
        MaeBenchError: the file is missing, no JSON, cut off or in another format, or an entry is invalid;
            says which.
    """
    collector = Collector(path)
    root = _parse(path, collector)
    for key in ("images", "categories", "annotations"):
        if not isinstance(root.get(key), list):
            raise MaeBenchError(
                f"{path}: no list '{key}': not a dataset in COCO's instances format, which has images, "
                "categories and annotations"
            )
    if root["annotations"] != list(range(len(collector))):
        raise MaeBenchError(
            f"{path}: 'annotations' must hold objects with id, image_id, category_id, bbox and segmentation, "
            "and nothing else"
        )
    categories = _categories(path, root["categories"])
    images = _images(path, root["images"])
    return _put_together(path, categories, images, collector)


def _parse(path: Path, collector: Collector) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] == "[":
            raise MaeBenchError(
                f"{path}: a list, as detections are saved in, not a dataset with images, categories and "
                "annotations"
            )
        root = json.loads(text, object_hook=collector)
    except FileNotFoundError:
        raise MaeBenchError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise MaeBenchError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        cut_off = not text[error.pos :].strip() or error.msg.startswith("Unterminated")
        reason = "it ends in the middle; copy or download it again" if cut_off else str(error)
        raise MaeBenchError(f"{path}: not JSON: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise MaeBenchError(f"{path}: not JSON: {error}") from error
    if not isinstance(root, dict):
        raise MaeBenchError(f"{path}: not a dataset with images, categories and annotations")
    return root


def _categories(path: Path, entries: list[Any]) -> list[dict[str, Any]]:
    """``id`` and ``name`` of each, by ascending id."""
    for entry in entries:
        if not (isinstance(entry, dict) and _whole(entry.get("id")) and isinstance(entry.get("name"), str)):
            raise MaeBenchError(
                f"{path}: a category needs a whole number 'id' and a text 'name', unlike {entry!r}"
            )
    if not entries:
        raise MaeBenchError(f"{path}: 'categories' is empty; list what the objects may be")
    _refuse_repeated(path, "categories", np.array([entry["id"] for entry in entries], dtype=np.int64))
    return [
        {"id": entry["id"], "name": entry["name"]} for entry in sorted(entries, key=lambda each: each["id"])
    ]


def _images(path: Path, entries: list[Any]) -> list[dict[str, Any]]:
    """The images by ascending id."""
    for entry in entries:
        if not isinstance(entry, dict) or not _whole(entry.get("id")):
            raise MaeBenchError(f"{path}: an image needs a whole number 'id', unlike {entry!r}")
        where = f"{path}: image {entry['id']}"
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise MaeBenchError(f"{where} has no 'file_name'; give its path below the folder of images")
        for key in ("height", "width"):
            if not _whole(entry.get(key)) or entry[key] <= 0:
                raise MaeBenchError(f"{where} needs its '{key}' in pixels, not {entry.get(key)!r}")
    if not entries:
        raise MaeBenchError(f"{path}: 'images' is empty")
    _refuse_repeated(path, "images", np.array([entry["id"] for entry in entries], dtype=np.int64))
    return sorted(entries, key=lambda each: int(each["id"]))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


def _refuse_repeated(path: Path, where: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = [str(value) for value in values[counts > 1]]
        raise MaeBenchError(
            f"{path}: '{where}' has entries with the same id: {some(repeated)}; ids must differ"
        )


def _put_together(
    path: Path, categories: list[dict[str, Any]], images: list[dict[str, Any]], found: Collector
) -> Annotations:
    image_ids = np.array([image["id"] for image in images], dtype=np.int64)
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)
    category_ids = np.array([category["id"] for category in categories], dtype=np.int64)
    ids = np.asarray(found.ids)
    _refuse_repeated(path, "annotations", ids)
    image_of = _look_up(path, "image_id", "images", image_ids, found.image_ids, ids)
    labels = _look_up(path, "category_id", "categories", category_ids, found.category_ids, ids) + 1
    boxes = np.asarray(found.boxes).reshape(-1, 4)
    _check_boxes(path, boxes, ids)
    outlines = found.outlines()
    _check_outlines(path, outlines, sizes[image_of], ids)
    order = np.argsort(image_of, kind="stable")
    return Annotations(
        path=path,
        categories=categories,
        image_ids=image_ids,
        names=Names(image["file_name"] for image in images),
        sizes=sizes,
        starts=np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=len(images)))]).astype(
            np.int64
        ),
        ids=ids[order],
        labels=labels[order],
        crowd=np.asarray(found.crowd)[order].astype(np.bool_),
        boxes=boxes[order],
        rows=order.astype(np.int64),
        outlines=outlines,
    )


def _look_up(
    path: Path, key: str, table: str, known: NDArray[np.int64], asked: Any, ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Place of each id of `asked` in `known`, which ascends."""
    values = np.asarray(asked)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wrong = np.flatnonzero(known[place] != values)
    if len(wrong):
        raise MaeBenchError(
            f"{path}: annotation {ids[wrong[0]]} has the {key} {values[wrong[0]]}, which '{table}' does not "
            "list; add it there or remove the annotation",
            kind="label-range" if table == "categories" else "annotation",
        )
    return place.astype(np.int64)


def _check_boxes(path: Path, boxes: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
    if len(wrong):
        raise MaeBenchError(
            f"{path}: annotation {ids[wrong[0]]} has the bbox {boxes[wrong[0]].tolist()}; it must be "
            "[x, y, width, height] in pixels, width and height not negative"
        )


def _check_outlines(path: Path, outlines: Outlines, sizes: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """`sizes` (M, 2) are those of the images that the objects are in."""
    wrong = outlines.astray()
    if len(wrong):
        raise MaeBenchError(
            f"{path}: annotation {ids[wrong[0]]} has a polygon with a coordinate that is no number of "
            "pixels; mend or remove it"
        )
    coded = np.flatnonzero(outlines.coded())
    given, wanted = outlines.code_sizes[coded], sizes[coded]
    for place in np.flatnonzero((given != wanted).any(axis=1))[:1]:
        raise MaeBenchError(
            f"{path}: annotation {ids[coded[place]]} has run lengths for {given[place].tolist()} pixels "
            f"(height, width), but its image has {wanted[place].tolist()}"
        )
    for place in np.flatnonzero(areas(outlines.counts(coded), wanted.prod(axis=1)) < 0)[:1]:
        raise MaeBenchError(
            f"{path}: annotation {ids[coded[place]]} has broken run lengths: they do not fill its image "
            "exactly. Mend or remove it"
        )
