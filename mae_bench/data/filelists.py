"""Text files with ``FILE LABEL`` a line, as Places205 and Places365 come with.

``/a/airfield/00000001.jpg 0`` in places365_train_standard.txt, ``Places365_val_00000001.jpg 165`` in
places365_val.txt, ``a/abbey/gsun_0001.jpg 0`` in train_places205.csv: a path below a folder of images, and
the number of a class. The same list stands for the small and for the large images.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_bench.data.listing import FolderReader, Listing, Names, Opened, astray
from mae_bench.errors import MaeBenchError

SEPARATORS = " \t,"


@dataclass(frozen=True)
class Bound:
    """How many classes there are, and what says so."""

    classes: int
    source: str


def list_file(path: Path, folder: Path, bound: Bound | None, labelled: bool) -> Opened:
    """The images of a list, by label and then by name; nobody looks whether they are there.

    Args:
        path: the list.
        folder: what its files are relative to; a leading ``/`` of theirs means nothing.
        bound: labels are below this; None: any number is a class.
        labelled: False: labels may be left out and are not looked at; images are sorted by name.

    Raises:
        MaeBenchError: no text file, a line without a label or with one that is no class, a path that leaves
            the folder, a file listed twice; says in which line.
    """
    names, labels, lines = Names(), array("q"), array("q")
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if not text:
                    continue
                name, label = _parts(text)
                if labelled:
                    fault = _fault(text, label, bound)
                    if fault:
                        message = f"{path}, line {number}: {fault}"
                        raise MaeBenchError(message, kind="label-range" if label.isdecimal() else "layout")
                    labels.append(int(label))
                elif not label.isdecimal():
                    name = text.lstrip("/")
                fault = astray(name)
                if fault:
                    raise MaeBenchError(
                        f"{path}, line {number}: '{name}' {fault}; it must be a path below {folder}"
                    )
                names.append(name)
                lines.append(number)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise MaeBenchError(f"{path} cannot be read: {reason}") from error
    twice = names.repeated()
    if twice:
        first, second = twice
        raise MaeBenchError(
            f"{path}, line {lines[second]}: '{names[second]}' is already in line {lines[first]}"
        )
    ids = np.array(labels, dtype=np.int64) if labelled else np.zeros(len(names), dtype=np.int64)
    order = names.order(ids)
    names, ids = names.take(order), ids[order]
    if labelled:
        listing = Listing.numbers(str(path), names, ids, bound.classes if bound else None)
    else:
        listing = Listing.unlabelled(str(path), names)
    return listing, f"{folder}/", FolderReader(folder, listing.names)


def _parts(text: str) -> tuple[str, str]:
    """File and label of a line; the label is empty where there is none."""
    cut = max(text.rfind(separator) for separator in SEPARATORS)
    if cut < 0:
        return text.lstrip("/"), ""
    return text[:cut].rstrip(SEPARATORS).lstrip("/"), text[cut + 1 :]


def _fault(text: str, label: str, bound: Bound | None) -> str | None:
    """What is wrong with the label of a line."""
    if not label:
        return f"expected 'FILE LABEL', got '{text}' (the lists of test sets have no labels)"
    if not (label.isascii() and label.isdecimal()):
        return f"the label '{label}' is not the number of a class; expected 'FILE LABEL'"
    if len(label) > 9:
        return f"the label {label} is too large for the number of a class"
    if bound is not None and int(label) >= bound.classes:
        return f"the label {label} is not below {bound.classes}, the number of classes of {bound.source}"
    return None
