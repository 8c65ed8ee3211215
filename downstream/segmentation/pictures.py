"""Pictures of segmentations: image, truth and prediction side by side, with a legend of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from downstream.segmentation.ade20k import Colour
from downstream.segmentation.labels import IGNORED, ClassList
from mae_bench.data import as_rgb

# Pictures narrower than this are enlarged by a whole number, wider ones than the other made smaller.
LEAST_WIDTH, MOST_WIDTH = 128, 512
GAP = 4
LINE = 16
SWATCH = 10
NO_CLASS: Colour = (0, 0, 0)


def painted(labels: Tensor, colours: Sequence[Colour]) -> Image.Image:
    """A label map ``(h, w)`` in colours; pixels without a class are black."""
    table = np.zeros((IGNORED + 1, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    table[IGNORED] = NO_CLASS
    return Image.fromarray(table[labels.cpu().numpy()])


def comparison(image: Tensor, truth: Tensor | None, prediction: Tensor, classes: ClassList) -> Image.Image:
    """Image, truth if there is one, and prediction; below them the classes of both, the largest first.

    Args:
        image: uint8 ``(C, h, w)``, of which the first three channels are shown, or one as grey.
        truth: classes ``(h, w)``, or `IGNORED`.
        prediction: likewise, of the same size.
    """
    maps = {"prediction": prediction} if truth is None else {"truth": truth, "prediction": prediction}
    photograph = Image.fromarray(as_rgb(image).cpu().permute(1, 2, 0).contiguous().numpy())
    cells = [_fitted(photograph, Image.Resampling.BILINEAR)]
    cells += [_fitted(painted(one, classes.colours), Image.Resampling.NEAREST) for one in maps.values()]
    width, height = cells[0].size
    total = GAP + len(cells) * (width + GAP)
    font = ImageFont.load_default()
    rows = _lines(present(*maps.values()), classes, total - GAP, font)
    picture = Image.new("RGB", (total, LINE + 2 * GAP + height + LINE * len(rows)), "white")
    pen = ImageDraw.Draw(picture)
    for column, (cell, caption) in enumerate(zip(cells, ("image", *maps), strict=True)):
        left = GAP + column * (width + GAP)
        pen.text((left, GAP), caption, fill="black", font=font)
        picture.paste(cell, (left, LINE + GAP))
    for row, entries in enumerate(rows):
        top = LINE + height + 2 * GAP + row * LINE
        for left, number in entries:
            swatch = (left, top + 2, left + SWATCH, top + 2 + SWATCH)
            pen.rectangle(swatch, fill=classes.colours[number], outline="grey")
            pen.text((left + SWATCH + GAP, top), classes.names[number], fill="black", font=font)
    return picture


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    width, height = max(one.width for one in pictures), sum(one.height for one in pictures)
    out = Image.new("RGB", (width, height), "white")
    top = 0
    for one in pictures:
        out.paste(one, (0, top))
        top += one.height
    return out


def present(*label_maps: Tensor) -> list[int]:
    """The classes in label maps ``(h, w)``, those with the most pixels first."""
    pixels = torch.cat([labels.reshape(-1).cpu().long() for labels in label_maps])
    counts = torch.bincount(pixels, minlength=IGNORED + 1)[:IGNORED]
    order: list[int] = torch.argsort(counts, descending=True, stable=True).tolist()
    return order[: int(counts.count_nonzero())]


def _fitted(picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
    width, height = picture.size
    if width < LEAST_WIDTH:
        factor = -(-LEAST_WIDTH // width)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if width > MOST_WIDTH:
        return picture.resize((MOST_WIDTH, max(1, round(height * MOST_WIDTH / width))), resampling)
    return picture


def _lines(
    numbers: Sequence[int], classes: ClassList, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[int, int]]]:
    """The legend, broken into lines: (left edge, class) of each entry."""
    lines: list[list[tuple[int, int]]] = []
    left = width
    for number in numbers:
        needed = SWATCH + 4 * GAP + int(font.getlength(classes.names[number]))
        if not lines or left + needed > width:
            lines.append([])
            left = GAP
        lines[-1].append((left, number))
        left += needed
    return lines
