"""Which classes there are, in which order, and which class an image has; with the faults found on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_bench.data.listing import Listing, Names, some
from mae_bench.errors import MaeBenchError, near


def settle(
    listing: Listing, wanted: Sequence[str] | None, wanted_from: str, expected: int | None
) -> tuple[list[str], NDArray[np.int64]]:
    """The classes in their final order, and the label of each image ``(N,)``.

    Args:
        wanted: the class order to follow; None: that of the listing itself.
        wanted_from: where `wanted` comes from, as named in messages.
        expected: `data.classes`, the number of classes there must be.

    Raises:
        MaeBenchError: a class without images, one that `wanted` does not have, or another number than
            expected.
    """
    vocabulary = listing.vocabulary
    if listing.numbered and wanted is not None and len(vocabulary) <= len(wanted):
        vocabulary = list(wanted[: len(vocabulary)])
    counts = np.bincount(listing.ids, minlength=len(vocabulary))
    held = {name for name, count in zip(vocabulary, counts, strict=True) if count}
    if wanted is None:
        empty = [name for name in vocabulary if name not in held]
        if empty:
            raise MaeBenchError(
                f"{listing.where}: no image in {named_classes(empty)}. Fill or remove them"
                " (images are found by their extension)",
                kind="missing-class",
            )
        classes = list(vocabulary)
    else:
        classes = list(wanted)
        unknown = [name for name in vocabulary if name not in set(classes)]
        lacking = [name for name in classes if name not in held]
        if unknown or lacking:
            faults = []
            if lacking:
                faults.append(f"has no image of {named_classes(lacking)} of {wanted_from}")
            if unknown:
                faults.append(f"has {named_classes(unknown)} that {wanted_from} does not have")
            raise MaeBenchError(
                f"classes do not match: {listing.where} {' and '.join(faults)}",
                kind="missing-class" if lacking else "unknown-class",
            )
    if expected is not None and len(classes) != expected:
        raise MaeBenchError(
            f"data.classes is {expected}, but {listing.where} has {len(classes)} classes: {some(classes)}",
            kind="wrong-count",
        )
    number = {name: index for index, name in enumerate(classes)}
    remap = np.array([number.get(name, -1) for name in vocabulary], dtype=np.int64)
    return classes, remap[listing.ids]


def named_classes(names: Sequence[str]) -> str:
    """``class a``, or ``3 classes a, b, c``."""
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"


def read_class_list(path: Path) -> list[str]:
    """The class names of a text file, one a line, in order.

    Raises:
        MaeBenchError: missing, empty, or a name given twice (with both lines).
    """
    first_line: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, "data.class_list"), start=1):
        name = line.strip()
        if not name:
            continue
        if name in first_line:
            raise MaeBenchError(
                f"{path}, line {number}: class '{name}' is already in line {first_line[name]}"
            )
        first_line[name] = number
    if not first_line:
        raise MaeBenchError(f"{path} (data.class_list) holds no class names")
    return list(first_line)


def read_indexed_class_list(path: Path) -> list[str]:
    """The class names of a text file whose lines may end in the class's index, as ``/a/airfield 0``.

    Where every line ends in one, the indices give the order; else the lines do, as in `read_class_list`.

    Raises:
        MaeBenchError: see `read_class_list`; an index that is given twice, or one that no line has.
    """
    lines = [
        (number, line.rsplit(maxsplit=1))
        for number, line in enumerate(read_lines(path, "data.class_list"), start=1)
        if line.strip()
    ]
    if not lines or not all(len(parts) == 2 and _is_index(parts[1]) for _, parts in lines):
        return read_class_list(path)
    by_index: dict[int, tuple[int, str]] = {}
    line_of: dict[str, int] = {}
    for number, (name, token) in lines:
        index, name = int(token), name.strip()
        if index in by_index:
            raise MaeBenchError(
                f"{path}, line {number}: index {index} is already in line {by_index[index][0]}"
            )
        if line_of.setdefault(name, number) != number:
            raise MaeBenchError(f"{path}, line {number}: class '{name}' is already in line {line_of[name]}")
        by_index[index] = (number, name)
    holes = [str(index) for index in range(len(lines)) if index not in by_index]
    if holes:
        raise MaeBenchError(
            f"{path}: its lines end in indices up to {max(by_index)}, but no line has {some(holes)}; the "
            "classes must be numbered from 0 on without a gap"
        )
    return [by_index[index][1] for index in range(len(lines))]


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdecimal() and len(token) <= 9


def label_by_file(names: Names, where: str, path: Path, classes: Sequence[str]) -> Listing:
    """Give each image the class that a label file says: ``FILE CLASS`` a line.

    Args:
        names: the images found, relative to the split; FILE is such a name, or its last part.
        path: the label file; CLASS, the last word of a line, is a name among `classes` or else an index.

    Raises:
        MaeBenchError: a broken line (with its number), a class that is not known, a file listed twice or not
            found, an image that is not listed.
    """
    number = {name: index for index, name in enumerate(classes)}
    by_name: dict[str, int] = {}
    for index, name in enumerate(names):
        by_name[name] = by_name[os.path.basename(name)] = index
    labels = np.full(len(names), -1, dtype=np.int64)
    lines = np.zeros(len(names), dtype=np.int64)
    for line_number, line in enumerate(read_lines(path, "data.val_labels"), start=1):
        if not line.strip():
            continue
        at = f"{path}, line {line_number}"
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise MaeBenchError(f"{at}: expected 'FILE CLASS', got '{line.strip()}'")
        file, token = words[0].strip(), words[1]
        image = by_name.get(file)
        if image is None:
            raise MaeBenchError(f"{at}: there is no image '{file}' in {where}", kind="missing-file")
        if labels[image] >= 0:
            raise MaeBenchError(f"{at}: '{file}' is already in line {lines[image]}")
        labels[image] = _class_index(token, number, at)
        lines[image] = line_number
    unlisted = [name for name, label in zip(names, labels, strict=True) if label < 0]
    if unlisted:
        raise MaeBenchError(f"{path}: {len(unlisted)} images of {where} are not listed: {some(unlisted)}")
    return Listing(where, names, labels, list(classes))


def _class_index(token: str, number: dict[str, int], at: str) -> int:
    if token in number:
        return number[token]
    if token.isdecimal():
        if int(token) < len(number):
            return int(token)
        raise MaeBenchError(
            f"{at}: class index {token} is not below the number of classes, {len(number)}", kind="label-range"
        )
    raise MaeBenchError(f"{at}: unknown class '{token}'{near(token, number)}", kind="unknown-class")


def read_lines(path: Path, key: str) -> list[str]:
    """The lines of a text file that the setting `key` names.

    Raises:
        MaeBenchError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise MaeBenchError(f"{path} ({key}) cannot be read: {reason}") from error
