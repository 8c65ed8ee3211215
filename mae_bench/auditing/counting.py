"""How many images and classes there are, and how many there should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_bench.data.listing import some
from mae_bench.datasets import DatasetFacts, digest_of
from mae_bench.survey import Finding, Part, Survey


def counts_of(part: Part) -> dict[str, Any]:
    """Images and classes of a part; of classes also how many images the smallest, middle and largest have."""
    counts: dict[str, Any] = {"where": part.where, "images": part.size}
    if part.classes is not None:
        counts["classes"] = len(part.classes)
    per_class = _per_class(part)
    if per_class is not None and len(per_class):
        counts["per_class"] = {
            "least": int(per_class.min()),
            "median": float(np.median(per_class)),
            "most": int(per_class.max()),
        }
    return counts


def _per_class(part: Part) -> NDArray[np.int64] | None:
    if part.classes is None or part.labels is None:
        return None
    labels = np.fromiter(map(part.labels, range(part.size)), np.int64, part.size)
    return np.bincount(labels, minlength=len(part.classes)).astype(np.int64)


def count_findings(survey: Survey, facts: DatasetFacts | None) -> list[Finding]:
    """What numbers of images and classes, and the order of classes, give away.

    Where nothing is known of the dataset, only what is odd in itself.
    """
    found = [finding for part in survey.parts for finding in _empty_classes(part)]
    sizes = {part.name: part.size for part in survey.parts}
    if facts is None:
        if sizes.get("val", 0) > sizes.get("train", sizes.get("val", 0)):
            message = (
                f"val has {sizes['val']:,} images and train {sizes['train']:,}: is one taken for the other?"
            )
            found.append(Finding("swapped", "val", message, note=True))
        return found
    found += _image_counts(survey, facts)
    told: list[list[str]] = []
    for part in survey.parts:
        if part.classes is not None and list(part.classes) not in told:
            told.append(list(part.classes))
            found += _class_list(part, part.classes, facts)
    return found


def _empty_classes(part: Part) -> list[Finding]:
    per_class = _per_class(part)
    if per_class is None or part.classes is None:
        return []
    return [
        Finding(
            "missing-class", part.where, f"{part.name} has no image of the class '{part.classes[number]}'"
        )
        for number in np.flatnonzero(per_class == 0).tolist()
    ]


def _image_counts(survey: Survey, facts: DatasetFacts) -> list[Finding]:
    where = {part.name: part.where for part in survey.parts}
    sizes = {part.name: part.size for part in survey.parts if part.name in facts.images}
    wrong = {name: size for name, size in sizes.items() if size != facts.images[name]}
    found = []
    for name, size in wrong.items():
        expected = facts.images[name]
        # The other one is sound or missing, or stands here in exchange; else the numbers agree by chance.
        alike = [one for one in facts.images if one != name and facts.images[one] == size]
        other = next((one for one in alike if sizes.get(one, size) in (size, expected)), None)
        if other is not None:
            both = sizes.get(other) == expected
            hint = f"{name} and {other} are exchanged" if both else f"{other} stands in the place of {name}"
            message = (
                f"{name} has {size:,} images, which is what {other} of {facts.title} has; {name} has "
                f"{expected:,} there: {hint}. Look at data.{name} and data.{other}, and at their label files"
            )
            found.append(Finding("swapped", where[name], message))
            continue
        differ = f"{expected - size:,} missing" if size < expected else f"{size - expected:,} too many"
        message = f"{name} has {size:,} images, but {facts.title} has {expected:,} there: {differ}"
        found.append(Finding("wrong-count", where[name], message))
    return found


def _class_list(part: Part, classes: Sequence[str], facts: DatasetFacts) -> list[Finding]:
    if facts.classes is not None and len(classes) != facts.classes:
        message = (
            f"{part.name} has {len(classes):,} classes, but {facts.title} has {facts.classes:,}: "
            f"{some(classes)}"
        )
        return [Finding("wrong-count", part.where, message)]
    if facts.classes_digest in (None, digest_of(classes)):
        return []
    by_name = digest_of(sorted(classes)) == facts.classes_digest
    rest = (
        "sorted by name they would be, so the order of the class list is wrong"
        if by_name
        else "names or order differ, and a label does not mean what it means to weights trained on it"
    )
    message = f"the classes of {part.name} are not those of {facts.title}: {rest}. They are {some(classes)}"
    return [Finding("class-order", part.where, message)]
