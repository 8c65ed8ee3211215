"""Large-scale jitter: where images go, and that outlines, bitmaps and pixels go there together.

The numbers of detectron2 come from facebookresearch/detectron2@02b5c4e: `RandomFlip`, `ResizeScale`,
`FixedSizeCrop` and `ResizeShortestEdge` of detectron2/data/transforms, with the draws given by replacing
`numpy.random.uniform`. Images and masks are the closed formulas below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as nnf

from downstream.detection.jitter import View, draw_view, evaluation_size
from downstream.detection.masks import decode, patch_of_polygons, patch_of_run_lengths, rasterise
from downstream.detection.settings import DetectionData, JitterSettings
from mae_bench.data import Draws, key_of


class Given(Draws):
    """Draws that are given."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self.values.pop(0)


def view_of(
    image: tuple[int, int],
    canvas: Sequence[int],
    scale: float,
    offset: float,
    flip: bool = False,
    flip_first: bool = True,
) -> View:
    draws = Given(0.0, (scale - 0.1) / 1.9, offset)
    return draw_view(JitterSettings(flip=float(flip), flip_first=flip_first), canvas, image, draws)


# image, canvas, scale, offset -> size of the resized image, top and left of the crop
DETECTRON2 = [
    ((480, 640), (512, 768), 0.1, 0.0, (51, 68), (0, 0)),
    ((480, 640), (1024, 1024), 0.437, 0.25, (336, 447), (0, 0)),
    ((480, 640), (512, 768), 1.0, 0.7, (512, 683), (0, 0)),
    ((480, 640), (1024, 1024), 1.5001, 0.37, (1152, 1536), (47, 189)),
    ((480, 640), (1024, 1024), 1.9999, 0.999, (1536, 2048), (511, 1023)),
    ((427, 640), (512, 768), 0.9999, 0.5, (512, 767), (0, 0)),
    ((427, 640), (1024, 1024), 1.5001, 0.37, (1025, 1536), (0, 189)),
    ((427, 640), (512, 768), 1.9999, 0.999, (1024, 1535), (511, 766)),
    ((640, 359), (1024, 1024), 0.9999, 0.5, (1024, 574), (0, 0)),
    ((640, 359), (512, 768), 1.5001, 0.37, (768, 431), (95, 0)),
    ((640, 359), (1024, 1024), 1.9999, 0.999, (2048, 1149), (1023, 125)),
    ((1200, 1600), (1024, 1024), 0.437, 0.25, (336, 447), (0, 0)),
    ((37, 901), (1024, 1024), 0.1, 0.0, (4, 102), (0, 0)),
    ((37, 901), (512, 768), 1.9999, 0.999, (63, 1536), (0, 767)),
    ((333, 500), (512, 768), 1.5001, 0.37, (767, 1152), (94, 142)),
    ((333, 500), (1024, 1024), 1.9999, 0.999, (1364, 2048), (340, 1023)),
    ((1024, 1024), (1024, 1024), 1.5001, 0.37, (1536, 1536), (189, 189)),
]


@pytest.mark.parametrize(("image", "canvas", "scale", "offset", "resized", "corner"), DETECTRON2)
def test_sizes_and_offsets_are_detectron2s(
    image: tuple[int, int],
    canvas: tuple[int, int],
    scale: float,
    offset: float,
    resized: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    view = view_of(image, canvas, scale, offset)
    assert view.resized == resized
    assert (view.top, view.left) == corner
    assert view.crop == (min(resized[0], canvas[0]), min(resized[1], canvas[1]))


@pytest.mark.parametrize(
    ("image", "square", "usual"),
    [
        ((480, 640), (768, 1024), (800, 1067)),
        ((427, 640), (683, 1024), (800, 1199)),
        ((640, 359), (1024, 574), (1333, 748)),
        ((37, 901), (42, 1024), (55, 1333)),
        ((333, 500), (682, 1024), (800, 1201)),
        ((1024, 1024), (1024, 1024), (800, 800)),
    ],
)
def test_the_size_of_testing_is_detectron2s(
    image: tuple[int, int], square: tuple[int, int], usual: tuple[int, int]
) -> None:
    data = DetectionData.model_validate(
        {
            "name": "any",
            "root": ".",
            "train": {"images": "", "annotations": ""},
            "val": {"images": "", "annotations": ""},
        }
    )
    assert evaluation_size(data.evaluation, image) == square
    wide = data.evaluation.model_copy(update={"short_edge": 800, "long_edge": 1333})
    assert evaluation_size(wide, image) == usual


ROWS, COLUMNS = np.arange(50)[:, None], np.arange(70)[None]
PIXELS = ((ROWS[..., None] * 37 + COLUMNS[..., None] * 53 + np.arange(3) * 101) ** 2 % 251).astype(np.uint8)
DISC = ((ROWS - 20) ** 2 + (COLUMNS - 30) ** 2 < 200).astype(np.uint8)
POINTS = np.array([[3.25, 4.5], [60.0, 10.0], [33.3, 44.4], [-2.0, 51.0]])


# Mirrored, on a canvas of 64 x 96. Pixels: first, middle and last row, at column 0, a third, and the last.
# Of the mask: number of pixels, and the sum of their places in the flattened mask modulo 997.
@pytest.mark.parametrize(
    ("flip_first", "scale", "offset", "points", "pixels", "disc"),
    [
        (
            True,
            0.4,
            0.3,
            [[34.328571, 2.34], [5.142857, 5.2], [18.874286, 23.088], [37.028571, 26.52]],
            [
                *([81, 94, 104], [125, 117, 137], [76, 131, 119], [115, 154, 153], [139, 121, 108]),
                *([130, 185, 157], [153, 119, 131], [129, 84, 150], [122, 104, 94]),
            ],
            (168, 65695),
        ),
        (
            True,
            1.7,
            0.6,
            [[110.942857, -17.19], [-12.285714, -5.2], [45.691429, 69.792], [122.342857, 84.18]],
            [
                *([103, 181, 120], [44, 130, 66], [132, 37, 183], [146, 167, 129], [116, 163, 31]),
                *([76, 58, 184], [234, 210, 165], [119, 124, 168], [40, 26, 115]),
            ],
            (2495, 1191214),
        ),
        (
            False,
            1.7,
            0.6,
            [[122.942857, -17.19], [-0.285714, -5.2], [57.691429, 69.792], [134.342857, 84.18]],
            [
                *([192, 112, 77], [181, 157, 126], [64, 188, 171], [71, 112, 180], [105, 143, 132]),
                *([80, 163, 143], [79, 77, 146], [95, 120, 217], [104, 143, 102]),
            ],
            (2495, 1185262),
        ),
    ],
)
def test_pixels_points_and_bitmaps_go_where_detectron2_puts_them(
    flip_first: bool,
    scale: float,
    offset: float,
    points: list[list[float]],
    pixels: list[list[int]],
    disc: tuple[int, int],
) -> None:
    view = view_of((50, 70), (64, 96), scale, offset, flip=True, flip_first=flip_first)
    np.testing.assert_allclose(view.of_points(POINTS), points, atol=1e-6)
    image = view.of_image(torch.from_numpy(PIXELS).permute(2, 0, 1))
    height, width = view.crop
    assert image.shape == (3, height, width)
    seen = [image[:, r, c].tolist() for r in (0, height // 2, height - 1) for c in (0, width // 3, width - 1)]
    np.testing.assert_allclose(seen, pixels, atol=1)  # Pillow rounds its weights otherwise
    rows, columns = view.shown()
    bitmap = DISC[rows[:, None], columns]
    places = np.arange(bitmap.size).reshape(bitmap.shape) % 997
    assert (int(bitmap.sum()), int((bitmap * places).sum())) == disc


def test_a_view_takes_three_draws_in_either_order() -> None:
    for number in range(50):
        views = [
            draw_view(JitterSettings(flip_first=first), (64, 64), (48, 80), Draws(key_of(0, 0, number)))
            for first in (True, False)
        ]
        assert views[0].flip == views[1].flip
        assert (views[0].resized, views[0].top, views[0].left) == (
            views[1].resized,
            views[1].top,
            views[1].left,
        )


def test_flips_scales_and_offsets_are_spread_as_set() -> None:
    jitter = JitterSettings(flip=0.25, scale=[0.5, 1.5])
    views = [draw_view(jitter, (100, 100), (100, 100), Draws(key_of(1, 0, number))) for number in range(4000)]
    assert abs(np.mean([view.flip for view in views]) - 0.25) < 0.03
    sides = np.array([view.resized[0] for view in views])
    assert sides.min() == 50
    assert sides.max() == 150
    assert abs(sides.mean() - 100) < 2
    enlarged = [view for view in views if view.resized[0] > 120]
    assert abs(np.mean([view.left / (view.resized[1] - 100) for view in enlarged]) - 0.5) < 0.05
    assert all(view.left == view.top for view in enlarged)


# ---------------------------------------------------------------- masks in a view


@st.composite
def outlines(draw: st.DrawFn) -> np.ndarray:
    """A star-shaped polygon in or near an image of 60 x 80 pixels, on a grid that binary numbers can hold."""
    corners = draw(st.integers(3, 12))
    centre = draw(st.integers(-5, 85)), draw(st.integers(-5, 65))
    radii = np.array(draw(st.lists(st.integers(4, 30), min_size=corners, max_size=corners)))
    angles = np.arange(corners) * (2 * math.pi / corners)
    points = np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)
    return np.round(points * 64) / 64


@st.composite
def views(draw: st.DrawFn) -> View:
    canvas = draw(st.integers(20, 120)), draw(st.integers(20, 120))
    scale, offset = draw(st.floats(0.3, 2.0)), draw(st.floats(0, 1))
    flip, first = draw(st.booleans()), draw(st.booleans())
    return view_of((60, 80), canvas, scale, offset, flip, first)


@settings(max_examples=150)
@given(st.lists(outlines(), min_size=1, max_size=3), st.integers(1, 60), st.integers(1, 80))
def test_drawing_around_an_object_gives_the_pixels_of_the_whole_canvas(
    polygons: list[np.ndarray], height: int, width: int
) -> None:
    mask = np.zeros((height, width), dtype=np.uint8)
    patch = patch_of_polygons(polygons, height, width)
    patch.put(mask)
    np.testing.assert_array_equal(mask, decode(rasterise(polygons, height, width)))
    rows, columns = mask.nonzero()
    if not len(rows):
        assert patch.box() is None
    else:
        assert patch.box() == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@settings(max_examples=100)
@given(outlines(), views())
def test_run_lengths_in_a_view_are_the_whole_bitmap_resampled(outline: np.ndarray, view: View) -> None:
    code = rasterise([outline], 60, 80)
    mask = np.zeros(view.crop, dtype=np.uint8)
    rows, columns = view.shown()
    patch_of_run_lengths(code, rows, columns).put(mask)
    np.testing.assert_array_equal(mask, decode(code)[rows[:, None], columns])


def core(mask: np.ndarray, depth: int) -> np.ndarray:
    """What of the mask lies more than `depth` pixels from its border; the canvas's border is none."""
    outside = nnf.max_pool2d(1 - torch.from_numpy(mask)[None, None].float(), 2 * depth + 1, 1, depth)
    return outside[0, 0].numpy() == 0


def border(mask: np.ndarray) -> int:
    """Number of pixels of the mask that touch its border."""
    return int((mask.astype(bool) & ~core(mask, 1)).sum())


@settings(max_examples=150)
@given(outlines(), views())
def test_an_outline_in_a_view_agrees_with_its_bitmap_but_at_the_border(
    outline: np.ndarray, view: View
) -> None:
    drawn, resampled = np.zeros(view.crop, dtype=np.uint8), np.zeros(view.crop, dtype=np.uint8)
    patch_of_polygons([view.of_points(outline)], *view.crop).put(drawn)
    patch_of_run_lengths(rasterise([outline], 60, 80), *view.shown()).put(resampled)
    tolerance = 1 + math.ceil(max(view.resized[0] / 60, view.resized[1] / 80))
    assert resampled[core(drawn, tolerance)].all()
    assert drawn[core(resampled, tolerance)].all()
    if core(drawn, tolerance).any():
        assert abs(int(drawn.sum()) - int(resampled.sum())) <= tolerance * border(drawn)
