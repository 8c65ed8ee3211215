"""Which classes there are, and label maps: from a PNG file to the number of a class for each pixel.

A label map in memory is uint8 ``(h, w)`` with classes 0..K-1 and `IGNORED` where a pixel has none. Files may
number them otherwise (see `LabelReader`).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from downstream.segmentation.ade20k import CLASSES, Colour
from mae_bench.data import UnreadableImageError
from mae_bench.data.listing import some
from mae_bench.errors import MaeBenchError

IGNORED = 255
"""A pixel that is left out of training and judging."""
MOST_CLASSES = IGNORED
"""As many as fit below `IGNORED`."""

# Pillow's modes of images with one whole number for each pixel; "P" gives indices into a palette.
_NUMBERED = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


# ---------------------------------------------------------------- class lists


@dataclass(frozen=True)
class ClassList:
    """Names and colours of the classes, in the order of their numbers."""

    names: list[str]
    colours: list[Colour]

    def __len__(self) -> int:
        return len(self.names)


def class_list(wanted: str, folder: Path) -> ClassList:
    """The classes of `data.class_list`: ``ade20k``, or a text file below `folder`.

    Raises:
        MaeBenchError: see `read_class_list`.
    """
    if wanted == "ade20k":
        return ClassList(list(CLASSES), list(CLASSES.values()))
    return read_class_list(folder / wanted)


def read_class_list(path: Path) -> ClassList:
    """The classes of a text file: one a line, in order, where wanted with a tab and its colour as ``R G B``.

    Classes without a colour get one that depends on their number alone, unless another class has it.

    Raises:
        MaeBenchError: the file cannot be read or is empty; a line without a name, a name given twice,
            something else than three numbers from 0 to 255 as colour (each with its line); more than 255
            classes.
    """
    first_line: dict[str, int] = {}
    given: list[Colour | None] = []
    for number, line in enumerate(_lines(path), start=1):
        name, _, colour = line.partition("\t")
        name, at = name.strip(), f"{path}, line {number}"
        if not name:
            raise MaeBenchError(
                f"{at}: no class name. Each line is a class, whose number is its place in the file"
            )
        if name in first_line:
            raise MaeBenchError(f"{at}: class '{name}' is already in line {first_line[name]}")
        first_line[name] = number
        given.append(_colour(colour.strip(), at) if colour.strip() else None)
    if not first_line:
        raise MaeBenchError(f"{path} (data.class_list) holds no class names")
    if len(first_line) > MOST_CLASSES:
        raise MaeBenchError(f"{path} has {len(first_line)} classes; there may be {MOST_CLASSES}")
    return ClassList(list(first_line), _coloured(given))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise MaeBenchError(
            f"{path} (data.class_list) cannot be read: {reason}. Give 'ade20k', or a file below data.root"
        ) from error


def _colour(text: str, at: str) -> Colour:
    if not re.fullmatch(r"\d{1,3} +\d{1,3} +\d{1,3}", text) or max(map(int, text.split())) > 255:
        raise MaeBenchError(f"{at}: '{text}' is no colour; expected 'R G B', each from 0 to 255")
    red, green, blue = map(int, text.split())
    return red, green, blue


def _coloured(given: list[Colour | None]) -> list[Colour]:
    """Colours for all: those given, and for class k the k-th generated one, or a later one if it is taken."""
    taken = {colour for colour in given if colour is not None}
    colours: list[Colour] = []
    for number, colour in enumerate(given):
        place = number
        while colour is None:
            candidate = generated_colour(place)
            colour = None if candidate in taken else candidate
            place += len(given)
        taken.add(colour)
        colours.append(colour)
    return colours


def generated_colour(number: int) -> Colour:
    """A colour for each number from 0 on; neighbours differ much, and none is black.

    The bits of number + 1 go to red, green and blue in turn, the lowest to the highest bit of a channel, as
    in the colour map of the Pascal VOC challenge.
    """
    channels = [0, 0, 0]
    for bit in range((number + 1).bit_length()):
        channels[bit % 3] |= ((number + 1) >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


# ---------------------------------------------------------------- label maps


class LabelReader:
    """Reads label maps of one dataset.

    Args:
        classes: number of classes, K.
        zero_is_ignored: 0 is no class in the files, and class k is stored as k + 1.
        ignore_label: a number of the files that stands for no class; None: there is none.
    """

    def __init__(self, classes: int, *, zero_is_ignored: bool, ignore_label: int | None) -> None:
        self.classes, self.ignore_label = classes, ignore_label
        self.first = 1 if zero_is_ignored else 0

    def of_predictions(self) -> LabelReader:
        """For predictions in the same numbers: a class is one even where `ignore_label` has its number."""
        hidden = self.ignore_label is not None and self.ignore_label < self.first + self.classes
        ignore_label = None if hidden else self.ignore_label
        return LabelReader(self.classes, zero_is_ignored=self.first == 1, ignore_label=ignore_label)

    def read(self, path: Path) -> Tensor:
        """The label map of a file, uint8 ``(h, w)``.

        Raises:
            OSError: the file cannot be read.
            UnreadableImageError: it is no readable image.
            MaeBenchError: it is a colour image, or holds numbers that are no class.
        """
        numbers = _numbers(path)
        labels = (numbers - self.first).astype(np.uint8)  # with zero_is_ignored 0 turns into 255, IGNORED
        beyond = numbers >= self.first + self.classes
        if beyond.any():
            unknown = numbers[beyond]
            unknown = unknown if self.ignore_label is None else unknown[unknown != self.ignore_label]
            if unknown.size:
                raise self._unknown(path, unknown)
            labels[beyond] = IGNORED
        if self.ignore_label is not None and self.ignore_label < self.first + self.classes:
            labels[numbers == self.ignore_label] = IGNORED
        return torch.from_numpy(labels)

    def _unknown(self, path: Path, numbers: NDArray[np.unsignedinteger]) -> MaeBenchError:
        values, counts = np.unique(numbers, return_counts=True)
        listed = some([f"{value} ({count} pixels)" for value, count in zip(values, counts, strict=True)])
        without = [
            *(["0"] if self.first else []),
            *([] if self.ignore_label is None else [str(self.ignore_label)]),
        ]
        also = f" (or {' or '.join(without)} for pixels without a class)" if without else ""
        return MaeBenchError(
            f"label map {path} holds {listed}, but the {self.classes} classes are numbered {self.first} to "
            f"{self.first + self.classes - 1}{also}; see data.class_list, data.zero_is_ignored and "
            "data.ignore_label",
            kind="label-range",
        )


def _numbers(path: Path) -> NDArray[np.unsignedinteger]:
    """The numbers in a file as they are, uint8 or uint16 ``(h, w)``."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, numbers = image.mode, np.asarray(image)
    except MemoryError:
        raise
    except Exception as error:  # broken files make Pillow raise nearly anything
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UnreadableImageError(f"label map {path} cannot be read: {reason}") from error
    if mode not in _NUMBERED:
        raise MaeBenchError(
            f"label map {path} is a colour image (mode {mode}); expected one number a pixel: a PNG in grey "
            "of up to 16 bits or with a palette",
            kind="annotation",
        )
    if mode == "I":
        numbers = np.clip(numbers, 0, (1 << 16) - 1).astype(np.uint16)
    elif numbers.dtype == np.bool_:
        numbers = numbers.astype(np.uint8)
    elif mode == "L" and data[:4] == b"\x89PNG" and data[24] < 8:
        # Pillow spreads grey of 2 and 4 bits over 0..255; byte 24 of a PNG file says how many there are.
        numbers = numbers // (255 // ((1 << data[24]) - 1))
    return numbers
