"""The annotation files of the iNaturalist competitions: JSON with images, categories and annotations.

https://github.com/visipedia/inat_comp has the format, which is COCO's with one category an image. Names of
files look like ``train_val2018/Aves/2820/IMAGE.jpg`` (2017 to 2019) and ``train/CATEGORY/IMAGE.jpg`` (2021),
relative to the folder in which the archives were unpacked. The training set of 2021 has 2.7 million images:
the file is read element by element into flat arrays, never as a whole.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mae_bench.data.classes import named_classes
from mae_bench.data.json_lists import read_lists
from mae_bench.data.listing import FolderReader, Listing, Names, Opened, astray, some
from mae_bench.errors import MaeBenchError

_FAR = 1 << 62


def list_inaturalist(path: Path, root: Path, folder: str | None, labelled: bool) -> Opened:
    """The images of an annotation file, by label and then by name; nobody looks whether they are there.

    The classes are all categories by ascending id. The names of images leave out the folder that all of them
    lie in, so that a split has the same names wherever its images are.

    Args:
        path: the annotation file.
        root: the folder that names in it are relative to.
        folder: a folder below `root` in place of the first part of the names, or None.
        labelled: False: categories and annotations are not looked at, and the images are sorted by name.

    Raises:
        MaeBenchError: the file is broken, or not in this format; an id that is not known or given twice, an
            image with no category or with two, a name that is not below `root` or given twice.
    """
    found = _Collector(path)
    takers = {"images": found.image, "categories": found.category, "annotations": found.annotation}
    if not labelled:
        takers = {"images": found.image}
    keys = read_lists(path, takers)
    _check_keys(path, takers.keys() - keys, keys)
    image_ids = np.asarray(found.image_ids)
    _refuse_repeated(path, "images", image_ids)
    vocabulary = _vocabulary(path, found.categories) if labelled else ["unlabelled"]
    ids = _labels(path, found, image_ids) if labelled else np.zeros(len(image_ids), dtype=np.int64)
    if folder is None and len(found.first_parts) == 1:
        (folder,) = found.first_parts
    names = found.names if folder is not None else found.written()
    twice = names.repeated()
    if twice:
        first, second = twice
        raise MaeBenchError(
            f"{path}: the images {image_ids[first]} and {image_ids[second]} are one file, "
            f"'{names[second]}'; remove one"
        )
    order = names.order(ids)
    listing = Listing(str(path), names.take(order), ids[order], vocabulary)
    where = root / (folder or "")
    return listing, f"{where}/", FolderReader(where, listing.names)


def compare_categories(path: str, train: list[str], val: list[str], train_path: str) -> None:
    """Raise a MaeBenchError if the classes of a validation file are not those of the training file."""
    if train == val:
        return
    faults: list[str] = []
    kind: Literal["missing-class", "class-order"] = "missing-class"
    for where, own, other in ((train_path, train, val), (path, val, train)):
        there = set(own)
        lacking = [name for name in other if name not in there]
        if lacking:
            faults.append(f"{where} lacks {named_classes(lacking)}")
    if not faults:
        kind = "class-order"
        pairs = enumerate(zip(train, val, strict=True))
        differing = [f"{label}: '{one}' / '{two}'" for label, (one, two) in pairs if one != two]
        faults.append(f"in order (label: training / validation), {some(differing, 4)}")
    told = f"the categories of {train_path} and {path} differ: {', '.join(faults)}"
    raise MaeBenchError(f"{told}. Give both files the same list", kind=kind)


class _Collector:
    """Takes the elements of the lists into flat arrays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_ids = array("q")
        self.names = Names()
        """Without their first parts, where they have more than one."""
        self.first_parts: dict[str, int] = {}
        """First part, or '' -> its number."""
        self.first_of = array("q")
        self.categories: dict[int, str] = {}
        self.image_of, self.category_of = array("q"), array("q")

    def image(self, entry: Any) -> None:
        """Take an element of `images`."""
        number = self._whole(entry, "id", "an image")
        name = entry.get("file_name")
        if not isinstance(name, str):
            raise MaeBenchError(f"{self.path}: image {number} has no 'file_name'; give its path")
        fault = astray(name)
        if fault:
            raise MaeBenchError(
                f"{self.path}: the file_name of image {number}, '{name}', {fault}; it must be a path below "
                "data.root"
            )
        self.image_ids.append(number)
        first, slash, rest = name.partition("/")
        self.names.append(rest.lstrip("/") if slash else name)
        self.first_of.append(self.first_parts.setdefault(first if slash else "", len(self.first_parts)))

    def written(self) -> Names:
        """The names with their first parts, as the file gives them."""
        heads = [f"{first}/" if first else "" for first in self.first_parts]
        return Names(heads[first] + name for first, name in zip(self.first_of, self.names, strict=True))

    def category(self, entry: Any) -> None:
        """Take an element of `categories`."""
        number = self._whole(entry, "id", "a category")
        name = entry.get("name")
        if not isinstance(name, str):
            raise MaeBenchError(f"{self.path}: category {number} has no 'name'")
        if number in self.categories:
            raise MaeBenchError(f"{self.path}: 'categories' has the id {number} twice; ids must differ")
        self.categories[number] = name

    def annotation(self, entry: Any) -> None:
        """Take an element of `annotations`."""
        self.image_of.append(self._whole(entry, "image_id", "an annotation"))
        self.category_of.append(self._whole(entry, "category_id", "an annotation"))

    def _whole(self, entry: Any, key: str, what: str) -> int:
        value = entry.get(key) if isinstance(entry, dict) else None
        if type(value) is not int or not -_FAR < value < _FAR:
            raise MaeBenchError(
                f"{self.path}: {what} needs a whole number '{key}', unlike {str(entry)[:200]}"
            )
        return value


def _check_keys(path: Path, missing: set[str], keys: set[str]) -> None:
    if "annotations" in missing and "images" in keys:
        raise MaeBenchError(
            f"{path} has no 'annotations': it is the file of a test set, whose labels are not published. "
            "Take the validation file"
        )
    if missing:
        raise MaeBenchError(
            f"{path}: no {' and no '.join(repr(key) for key in sorted(missing))}: not an annotation file of "
            "an iNaturalist competition, which has images, categories and annotations"
        )


def _refuse_repeated(path: Path, where: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1]
    if len(repeated):
        raise MaeBenchError(f"{path}: '{where}' has the id {repeated[0]} twice; ids must differ")


def _vocabulary(path: Path, categories: dict[int, str]) -> list[str]:
    """Names of the categories by ascending id; those that several have get the id in brackets."""
    if not categories:
        raise MaeBenchError(f"{path}: 'categories' is empty; list what the images may show")
    often = Counter(categories.values())
    return [name if often[name] == 1 else f"{name} ({number})" for number, name in sorted(categories.items())]


def _labels(path: Path, found: _Collector, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label of each image, ``(N,)``."""
    order = np.argsort(image_ids)
    image_of, category_of = np.asarray(found.image_of), np.asarray(found.category_of)
    image = _look_up(path, "image", image_ids[order], image_of, category_of, image_of)
    label = _look_up(
        path, "category", np.array(sorted(found.categories), np.int64), category_of, category_of, image_of
    )
    counts = np.bincount(image, minlength=len(image_ids))
    for place in np.flatnonzero(counts != 1)[:1].tolist():
        which = f"{path}: image {image_ids[order[place]]} ('{found.names[order[place]]}')"
        if counts[place] == 0:
            raise MaeBenchError(f"{which} has no annotation, so no class; annotate or remove it")
        raise MaeBenchError(
            f"{which} has {counts[place]} annotations; there must be one an image (a file of bounding boxes "
            "has several)"
        )
    labels = np.empty(len(image_ids), dtype=np.int64)
    labels[order[image]] = label
    return labels


def _look_up(
    path: Path,
    kind: str,
    known: NDArray[np.int64],
    asked: NDArray[np.int64],
    category_of: NDArray[np.int64],
    image_of: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Place of each id of `asked` in `known`, which ascends."""
    place = np.searchsorted(known, asked)
    place[place == len(known)] = 0
    wrong = np.flatnonzero(known[place] != asked) if len(known) else np.arange(len(asked))
    if len(wrong):
        one = wrong[0]
        raise MaeBenchError(
            f"{path}: an annotation gives image {image_of[one]} the category {category_of[one]}, but there "
            f"is no {kind} {asked[one]}; add it to the file or remove the annotation",
            kind="label-range" if kind == "category" else "missing-file",
        )
    return place.astype(np.int64)
