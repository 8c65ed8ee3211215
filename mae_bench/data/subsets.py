"""A part of the training images, for learning from few labels.

What is drawn is a function of the subset's seed and of each image's place in the dataset, and of nothing
else: the images of a class are put into a random order, of which the first ones are taken. So with one seed
five images of each class contain two of each, and a tenth contains a hundredth.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_bench.data.classes import named_classes, read_lines
from mae_bench.data.listing import Names
from mae_bench.errors import MaeBenchError
from mae_bench.keys import SUBSET, keys_of
from mae_bench.settings import SubsetSettings


def choose(
    subset: SubsetSettings,
    names: Names,
    labels: NDArray[np.int64],
    classes: Sequence[str] | None,
    where: str,
    root: Path,
) -> NDArray[np.int64]:
    """The images of a subset, ascending.

    Args:
        names, labels: of all images, ``(N,)``.
        classes: names of the classes; None: the images have none, and count as one class.
        where: the split, as named in messages.
        root: folder that `subset.list` is relative to.

    Raises:
        MaeBenchError: a class with too few images, images of each class asked for where there are no classes,
            a list that cannot be read, with an image that is not there or named twice, or without an image of
            some class.
    """
    if subset.list is None:
        counts = np.bincount(labels, minlength=len(classes or [""])).tolist()
        return _drawn(labels, _wanted(subset, counts, classes, where), subset.seed)
    path = root / subset.list
    chosen = _listed(path, names, where)
    lacking = np.setdiff1d(np.arange(len(classes or [""])), labels[chosen]).tolist()
    if lacking and classes is not None:
        without = named_classes([classes[label] for label in lacking])
        raise MaeBenchError(f"{path} (data.subset.list) names no image of {without}. Every class needs one")
    return chosen


def _wanted(
    subset: SubsetSettings, counts: list[int], classes: Sequence[str] | None, where: str
) -> list[int]:
    """How many images of each class are taken."""
    if subset.fraction is not None:
        # As a decimal number, exactly as it was written: 0.15 of 10 images are 1.5, and half goes up.
        share = Fraction(str(subset.fraction))
        return [max(1, int(count * share + Fraction(1, 2))) for count in counts]
    if subset.per_class is None:
        raise ValueError("a subset without a size")
    if classes is None:
        raise MaeBenchError(
            "data.subset.per_class: the images have no classes here; give data.subset.fraction or "
            "data.subset.list"
        )
    few = [f"{classes[label]} ({count})" for label, count in enumerate(counts) if count < subset.per_class]
    if few:
        raise MaeBenchError(
            f"data.subset.per_class is {subset.per_class}, but {where} has fewer images of "
            f"{named_classes(few)}"
        )
    return [subset.per_class] * len(counts)


def _drawn(labels: NDArray[np.int64], wanted: list[int], seed: int) -> NDArray[np.int64]:
    """So many images of each class, at random."""
    order = np.lexsort((keys_of(seed, 0, len(labels), SUBSET), labels))
    starts = [0, *np.cumsum(np.bincount(labels, minlength=len(wanted))).tolist()]
    parts = [order[start : start + count] for (start, _), count in zip(pairwise(starts), wanted, strict=True)]
    return np.sort(np.concatenate(parts))


def _listed(path: Path, names: Names, where: str) -> NDArray[np.int64]:
    """The images that a list names, ascending."""
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, "data.subset.list"), start=1):
        name = line.strip().lstrip("/")
        if name and line_of.setdefault(name, number) != number:
            raise MaeBenchError(f"{path}, line {number}: '{name}' is already in line {line_of[name]}")
    if not line_of:
        raise MaeBenchError(f"{path} (data.subset.list) names no image")
    found: dict[int, int] = {}  # line -> image
    chosen = []
    for image, name in enumerate(names):
        lines = [line_of[one] for one in {name, name.rpartition("/")[2]} if one in line_of]
        if len(lines) == 2:
            raise MaeBenchError(f"{path}, line {max(lines)}: '{name}' is already in line {min(lines)}")
        if not lines:
            continue
        if lines[0] in found:
            raise MaeBenchError(
                f"{path}, line {lines[0]}: there are several such images in {where}: "
                f"'{names[found[lines[0]]]}' and '{name}'; give the whole path"
            )
        found[lines[0]] = image
        chosen.append(image)
    for name, number in line_of.items():
        if number not in found:
            raise MaeBenchError(f"{path}, line {number}: there is no image '{name}' in {where}")
    return np.array(chosen, dtype=np.int64)
