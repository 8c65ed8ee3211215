"""Pictures of detections beside ground truth: boxes with class and score over translucent masks.

One row an image: what the annotations say on the left, what was detected on the right. A class has the same
colour in both.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from downstream.detection.records import Record
from mae_bench.data import as_rgb

Colour = tuple[int, int, int]

# A picture narrower than this is enlarged by a whole number.
LEAST_WIDTH = 320
GAP = 4
SHARE_OF_MASK = 0.45
"""How much of the class's colour a masked pixel takes."""
FEW = 5
"""So many detections are shown where none reaches the threshold."""

# Steps of the hue by the golden ratio never come near an earlier one soon; brightness tells rounds apart.
_GOLDEN = 0.618034
_BRIGHTNESS = (1.0, 0.75, 0.9)


@dataclass(frozen=True)
class _Thing:
    """An object to draw: corners in the image's pixels, label from 1 on, a mask ``(h, w)`` or none."""

    box: tuple[float, float, float, float]
    label: int
    text: str
    mask: NDArray[np.uint8] | None


def draw(
    image: Tensor,
    truth: Mapping[str, Tensor] | None,
    detections: Sequence[Record],
    categories: Sequence[Mapping[str, Any]],
    *,
    threshold: float = 0.5,
) -> Image.Image:
    """One image with ground truth on the left and detections on the right, under captions.

    Args:
        image: uint8 ``(C, h, w)``, of which the first three channels are shown, or one as grey.
        truth: `boxes` ``(n, 4)``, `labels` ``(n,)`` from 1 on, and perhaps `masks` uint8 ``(n, h, w)``;
            None: detections alone are drawn.
        detections: records of this image, in its pixels. Those from `threshold` on are drawn; if there are
            none, the best five.
        categories: `id` and `name`; that of label k is number k - 1.
    """
    columns = []
    if truth is not None:
        objects = _true_things(truth, categories)
        columns.append((f"ground truth: {_counted(len(objects), 'object')}", objects))
    chosen, caption = _choose(detections, threshold)
    columns.append((caption, _found_things(chosen, categories)))

    height, width = image.shape[-2:]
    factor = max(1, -(-LEAST_WIDTH // width))
    cell_width, cell_height = width * factor, height * factor
    font = ImageFont.load_default(size=max(11, cell_width // 50))
    line = _line_height(font)
    picture = Image.new(
        "RGB",
        (GAP + len(columns) * (cell_width + GAP), line + cell_height + 3 * GAP),
        "white",
    )
    pen = ImageDraw.Draw(picture)
    for column, (caption, things) in enumerate(columns):
        left = GAP + column * (cell_width + GAP)
        pen.text((left, GAP), caption, fill="black", font=font)
        picture.paste(_cell(image, things, factor, font), (left, line + 2 * GAP))
    return picture


def sheet(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other on one."""
    if not rows:
        raise ValueError("there is no picture to put on the sheet")
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    return picture


def colour_of(label: int) -> Colour:
    """The colour of a class, by its label from 1 on."""
    red, green, blue = colorsys.hsv_to_rgb(
        (label - 1) * _GOLDEN % 1, 0.85, _BRIGHTNESS[(label - 1) // 12 % len(_BRIGHTNESS)]
    )
    return round(255 * red), round(255 * green), round(255 * blue)


# ---------------------------------------------------------------- what is drawn


def _true_things(truth: Mapping[str, Tensor], categories: Sequence[Mapping[str, Any]]) -> list[_Thing]:
    masks = truth["masks"].cpu().numpy() if "masks" in truth else [None] * len(truth["labels"])
    return [
        _Thing(tuple(box), label, str(categories[label - 1]["name"]), mask)
        for box, label, mask in zip(truth["boxes"].tolist(), truth["labels"].tolist(), masks, strict=True)
    ]


def _choose(detections: Sequence[Record], threshold: float) -> tuple[list[Record], str]:
    """What to draw, the most certain last and so on top, and a caption that says what was left out."""
    ordered = sorted(detections, key=lambda record: float(record["score"]))
    chosen = [record for record in ordered if record["score"] >= threshold]
    if chosen:
        return chosen, f"detections: {len(chosen)} of {len(ordered)} with score from {threshold:g} on"
    if ordered:
        few = ordered[-FEW:]
        return few, f"detections: none with score from {threshold:g} on; best {len(few)} of {len(ordered)}"
    return [], "detections: none"


def _found_things(records: Sequence[Record], categories: Sequence[Mapping[str, Any]]) -> list[_Thing]:
    labels = {category["id"]: label for label, category in enumerate(categories, start=1)}
    things = []
    for record in records:
        label = labels[record["category_id"]]
        x, y, width, height = record["bbox"]
        mask = coco_masks.decode(record["segmentation"]) if "segmentation" in record else None
        text = f"{categories[label - 1]['name']} {record['score']:.2f}"
        things.append(_Thing((x, y, x + width, y + height), label, text, mask))
    return things


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------- drawing


def _cell(image: Tensor, things: Sequence[_Thing], factor: int, font: Any) -> Image.Image:
    """The image enlarged, with masks below boxes below labels."""
    pixels = as_rgb(image).cpu().permute(1, 2, 0).numpy().copy()
    for thing in things:
        if thing.mask is not None:
            inside = thing.mask.astype(bool)
            colour = np.array(colour_of(thing.label))
            pixels[inside] = np.round((1 - SHARE_OF_MASK) * pixels[inside] + SHARE_OF_MASK * colour)
    height, width = pixels.shape[:2]
    size = width * factor, height * factor
    cell = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(cell)
    line_width = max(2, cell.width // 300)
    for thing in things:
        # Corners lie between pixels; the last pixel inside is the one before x1 and y1.
        x0, y0, x1, y1 = (round(value * factor) for value in thing.box)
        corners = x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)
        pen.rectangle(corners, outline=colour_of(thing.label), width=line_width)
    for thing in things:
        _label(pen, thing, factor, font, cell.size)
    return cell


def _label(pen: ImageDraw.ImageDraw, thing: _Thing, factor: int, font: Any, size: tuple[int, int]) -> None:
    """The thing's text on a plate of its colour, above its box; inside the box where there is no room."""
    colour = colour_of(thing.label)
    width, height = round(pen.textlength(thing.text, font=font)) + 4, _line_height(font)
    left = min(max(round(thing.box[0] * factor), 0), max(size[0] - width, 0))
    top = round(thing.box[1] * factor) - height
    if top < 0:
        top = min(max(round(thing.box[1] * factor), 0), max(size[1] - height, 0))
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    # Brightness as the eye weighs it (ITU-R BT.601).
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128
    pen.text((left + 2, top), thing.text, fill="black" if bright else "white", font=font)


def _line_height(font: Any) -> int:
    ascent, descent = font.getmetrics()
    return int(ascent + descent)
