"""Pictures of detections beside ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.detection.pictures import GAP, SHARE_OF_MASK, colour_of, draw, sheet
from tests.detections import compressed

CATEGORIES = [{"id": 4, "name": "fig"}, {"id": 9, "name": "pear"}]


def truth(height: int, width: int) -> dict[str, torch.Tensor]:
    """One pear in the lower right quarter."""
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    masks[0, height // 2 :, width // 2 :] = 1
    box = torch.tensor([[width // 2, height // 2, width, height]], dtype=torch.float32)
    return {"boxes": box, "labels": torch.tensor([2]), "masks": masks}


def record(score: float, height: int, width: int, category: int = 9) -> dict[str, Any]:
    """A detection of the same."""
    mask = truth(height, width)["masks"][0].numpy()
    box = [float(width // 2), float(height // 2), width / 2, height / 2]
    segmentation = compressed(np.asfortranarray(mask))
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score, "segmentation": segmentation}


def cells(picture: Image.Image, height: int, width: int, columns: int) -> list[np.ndarray]:
    """The enlarged images in the picture; above them is the caption."""
    pixels = np.asarray(picture)
    top = pixels.shape[0] - height - GAP
    return [
        pixels[top : top + height, GAP + column * (width + GAP) :][:, :width] for column in range(columns)
    ]


def test_truth_is_left_detections_right_and_small_images_enlarged_by_a_whole_factor() -> None:
    image = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    picture = draw(image, truth(64, 64), [record(0.875, 64, 64, category=4)], CATEGORIES)
    assert picture.width == 2 * 320 + 3 * GAP
    left, right = cells(picture, 320, 320, 2)
    for cell, label in ((left, 2), (right, 1)):
        colour = np.array(colour_of(label))
        assert (cell[:100] == 200).all()
        mixed = np.round((1 - SHARE_OF_MASK) * 200 + SHARE_OF_MASK * colour)
        assert (cell[240, 240] == mixed).all()
        assert (cell[319, 200] == colour).all()  # the box's lower edge
        assert (cell[155, 161] == colour).all()  # the plate of the label, above the box


def test_a_large_image_keeps_its_size_and_gets_larger_letters() -> None:
    def caption_height(side: int) -> int:
        picture = draw(torch.zeros(3, side, side, dtype=torch.uint8), None, [], CATEGORIES)
        assert picture.width == side + 2 * GAP
        return picture.height - side

    assert caption_height(1600) > 1.5 * caption_height(400)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (300, 7), (33, 47)])
def test_images_of_any_shape_are_drawn_and_do_not_change(height: int, width: int) -> None:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    draw(image, truth(height, width), [record(0.9, height, width)], CATEGORIES)
    assert int(image.max()) == 0


def test_only_what_reaches_the_threshold_is_drawn_and_the_caption_says_so() -> None:
    image = torch.full((3, 320, 320), 200, dtype=torch.uint8)
    low, high = record(0.4, 320, 320, category=4), record(0.6, 320, 320, category=9)
    both = draw(image, None, [high, low], CATEGORIES)
    assert np.array_equal(both, draw(image, None, [low, high], CATEGORIES))
    colour = tuple(cells(both, 320, 320, 1)[0][319, 200])
    assert colour == colour_of(2)
    assert (
        tuple(cells(draw(image, None, [high, low], CATEGORIES, threshold=0.9), 320, 320, 1)[0][319, 200])
        == colour
    )
    assert tuple(cells(draw(image, None, [low], CATEGORIES), 320, 320, 1)[0][319, 200]) == colour_of(1)


def test_of_detections_below_the_threshold_the_best_five_are_drawn() -> None:
    image = torch.full((3, 320, 320), 200, dtype=torch.uint8)
    boxes = [dict(record(0.1 + 0.01 * n, 320, 320), bbox=[0.0, 40.0 * n, 30.0, 20.0]) for n in range(1, 8)]
    (cell,) = cells(draw(image, None, boxes, CATEGORIES), 320, 320, 1)
    drawn = [bool((cell[round(each["bbox"][1] + 19), 20] == colour_of(2)).all()) for each in boxes]
    assert drawn == [False, False, True, True, True, True, True]


def test_nothing_found_leaves_the_image_as_it_is() -> None:
    image = torch.full((3, 320, 320), 200, dtype=torch.uint8)
    assert (cells(draw(image, None, [], CATEGORIES), 320, 320, 1)[0] == 200).all()


def test_a_label_at_the_edge_stays_in_the_picture() -> None:
    image = torch.full((3, 320, 320), 200, dtype=torch.uint8)
    for box in ([0.0, 0.0, 320.0, 320.0], [310.0, 2.0, 10.0, 10.0], [310.0, 315.0, 10.0, 5.0]):
        thing = {key: v for key, v in record(0.9, 320, 320).items() if key != "segmentation"} | {"bbox": box}
        (cell,) = cells(draw(image, None, [thing], CATEGORIES), 320, 320, 1)
        plate = (cell == colour_of(2)).all(axis=-1)
        assert plate.sum() > 300  # "pear 0.90" has room
        assert (cell != 200).any(axis=-1).sum() > plate.sum()  # and its letters are there


def test_classes_have_colours_of_their_own() -> None:
    colours = np.array([colour_of(label) for label in range(1, 81)])
    assert len(np.unique(colours, axis=0)) == 80
    apart = np.abs(colours[:12, None] - colours[None, :12]).sum(-1) + 1000 * np.eye(12)
    assert apart.min() >= 60


def test_a_sheet_holds_every_row() -> None:
    rows = [Image.new("RGB", (30, 10), "red"), Image.new("RGB", (20, 15), "blue")]
    picture = sheet(rows)
    assert picture.size == (30, 25)
    assert [picture.getpixel(place) for place in ((29, 9), (19, 24), (25, 24))] == [
        (255, 0, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]
    with pytest.raises(ValueError, match="no picture"):
        sheet([])
