"""Testing whole images: windows, sizes, mirroring.

The numbers of mmsegmentation are of `EncoderDecoder.slide_inference` of version 1.2.2, run outside of this repository
with `by_place` as its model.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from downstream.segmentation import inference
from downstream.segmentation.crops import resize_image
from downstream.segmentation.inference import largest, predict, size_of_view, slide, starts, whole
from downstream.segmentation.settings import InferenceSettings
from mae_bench.augment import normalise
from tests.closed_form import numbers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def by_place(images: Tensor) -> Tensor:
    """Three classes whose logits depend on the pixel and on its place in the window."""
    y = torch.arange(images.shape[2], dtype=images.dtype)[:, None]
    x = torch.arange(images.shape[3], dtype=images.dtype)
    return torch.stack([images[:, 0] * y + x, images[:, 1] * (x + 1) - y, images[:, 2] * y * x * 0.1], dim=1)


def by_pixel(images: Tensor) -> Tensor:
    """Three classes whose logits are a pixel's own channels."""
    return 2 * images


def photograph(height: int, width: int) -> Tensor:
    """A smooth uint8 image."""
    coarse = (numbers((1, 3, 5, 6), 61).float() + 1) * 127.5
    return nnf.interpolate(coarse, size=(height, width), mode="bilinear")[0].round().to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "window", "stride", "sums", "centre", "corner"),
    [
        (
            *((50, 61), (32, 32), (21, 16)),
            [-522.438149, -623.81539, 92.860012],
            [7.156975, -26.773017, -21.586043],
            [58.007424, -0.667221, 4.883207],
        ),
        (
            *((33, 95), (32, 48), (32, 31)),
            [595.142702, 198.360291, 1859.223011],
            [25.702763, -1.933329, -8.766307],
            [24.117479, 14.159266, 6.278599],
        ),
        (
            *((32, 32), (32, 32), (5, 5)),
            [-429.849598, 42.402253, -339.50645],
            [3.469174, -11.65147, 20.205722],
            [40.768525, -0.013249, -32.1156],
        ),
    ],
)
def test_sliding_windows_give_mmsegmentations_logits(
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    sums: list[float],
    centre: list[float],
    corner: list[float],
) -> None:
    logits = slide(by_place, numbers((1, 3, *size), 54).float(), window, stride)
    assert logits.shape == (3, *size)
    weighted = (logits.double() * numbers(size, 55)).sum((1, 2))
    assert weighted.tolist() == pytest.approx(sums, abs=2e-3)
    assert logits[:, size[0] // 2, size[1] // 2].tolist() == pytest.approx(centre, abs=1e-4)
    assert logits[:, -1, -1].tolist() == pytest.approx(corner, abs=1e-4)


def test_windows_average_as_counted_pixel_by_pixel() -> None:
    """A model that knows nothing but the place in the window: the mean over all windows, in plain Python."""
    (height, width), (wh, ww), (sh, sw) = (11, 17), (6, 8), (4, 3)
    logits = slide(by_place, torch.zeros(1, 3, height, width), (wh, ww), (sh, sw))
    tops, lefts = [0, 4, 5], [0, 3, 6, 9]
    assert (starts(height, wh, sh), starts(width, ww, sw)) == (tops, lefts)
    for y in range(height):
        for x in range(width):
            within = [
                (y - t, x - left) for t in tops for left in lefts if 0 <= y - t < wh and 0 <= x - left < ww
            ]
            assert logits[0, y, x] == pytest.approx(sum(col for _, col in within) / len(within), rel=1e-6)
            assert logits[1, y, x] == pytest.approx(-sum(row for row, _ in within) / len(within), rel=1e-6)


def test_windows_cover_every_length_and_end_with_it() -> None:
    for window in (4, 7):
        for stride in range(1, window + 1):
            for length in range(window, 40):
                begins = starts(length, window, stride)
                assert begins[0] == 0
                assert begins[-1] == length - window
                assert begins == sorted(set(begins))
                assert {place for begin in begins for place in range(begin, begin + window)} == set(
                    range(length)
                )
                # As many as are needed, and none more.
                assert len(begins) == 1 + -(-(length - window) // stride)


def test_an_image_smaller_than_the_window_is_padded_with_the_mean_pixel_and_cut_back() -> None:
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return by_place(images)

    image = numbers((1, 3, 5, 20), 56).float()
    logits = slide(model, image, (8, 8), (8, 8))
    assert logits.shape == (3, 5, 20)
    assert [tuple(images.shape) for images in seen] == [(3, 3, 8, 8)]
    assert torch.equal(seen[0][0, :, :5], image[0, :, :, :8])
    assert (seen[0][:, :, 5:] == 0).all()
    assert torch.equal(logits[:, :, :8], by_place(image[..., :8])[0])


def test_no_more_windows_than_allowed_go_through_at_once() -> None:
    sizes: list[int] = []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return by_pixel(images)

    image = numbers((1, 3, 40, 50), 57).float()
    logits = slide(model, image, (16, 16), (8, 8))
    assert sum(sizes) == 4 * 6
    assert max(sizes) == inference.WINDOWS
    assert (logits - by_pixel(image)[0]).abs().max() < 1e-6


def test_a_whole_image_is_padded_to_whole_patches_and_cut_back() -> None:
    shapes: list[tuple[int, ...]] = []

    def model(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape))
        return by_pixel(images)

    for height, width in [(33, 48), (16, 16), (1, 50)]:
        image = numbers((1, 3, height, width), 58).float()
        assert torch.equal(whole(model, image, 16), by_pixel(image)[0])
    assert shapes == [(1, 3, 48, 48), (1, 3, 16, 16), (1, 3, 16, 64)]


def test_sizes_follow_the_box_or_the_image() -> None:
    boxed = InferenceSettings(base=[512, 2048])
    assert size_of_view(512, 683, boxed, 1.0) == (512, 683)
    assert size_of_view(364, 500, boxed, 0.75) == (384, 527)
    assert size_of_view(300, 1700, boxed, 1.0) == (361, 2048)
    free = InferenceSettings(base=None)
    assert size_of_view(33, 47, free, 1.0) == (33, 47)
    assert size_of_view(33, 47, free, 1.5) == (50, 71)


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("size", [(33, 47), (64, 40), (16, 200)])
def test_a_prediction_has_the_size_of_the_image(mode: str, size: tuple[int, int]) -> None:
    """Logits at the tested size, resized to the image's own, and the largest there: step by step."""
    image = photograph(*size)
    config = InferenceSettings.model_validate({"mode": mode, "stride": [17, 20], "base": [32, 96]})
    got = predict(by_pixel, image, config, (32, 32), MEAN, STD, patch=16)
    pixels = normalise(resize_image(image, *size_of_view(*size, config, 1.0))[None], MEAN, STD)
    logits = nnf.interpolate(by_pixel(pixels), size=size, mode="bilinear", align_corners=False)[0]
    assert got.shape == size
    assert got.dtype == torch.int64
    two = logits.topk(2, dim=0).values
    clear = two[0] - two[1] > 1e-4
    assert clear.float().mean() > 0.99
    assert torch.equal(got[clear], logits.argmax(0)[clear])
    assert len(got.unique()) > 1


def test_several_sizes_and_mirroring_average_the_probabilities_at_the_images_own_size() -> None:
    size = (30, 45)
    image = photograph(*size)
    config = InferenceSettings(stride=[9, 12], base=[32, 96], scales=[0.75, 1.0, 1.5], flip=True)
    got = predict(by_place, image, config, (24, 24), MEAN, STD, patch=16)
    total = torch.zeros(3, *size)
    for short, long in [(24, 72), (32, 96), (48, 144)]:
        height, width = size_of_view(*size, InferenceSettings(base=[short, long]), 1.0)
        pixels = normalise(resize_image(image, height, width)[None], MEAN, STD)
        for mirrored in (False, True):
            logits = slide(by_place, pixels.flip(-1) if mirrored else pixels, (24, 24), (9, 12))
            logits = logits.flip(-1) if mirrored else logits
            logits = nnf.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
            total += logits.softmax(0)
    assert torch.equal(got, total.argmax(0))
    single = predict(
        by_place, image, InferenceSettings(stride=[9, 12], base=[32, 96]), (24, 24), MEAN, STD, patch=16
    )
    assert (got != single).float().mean() > 0.02


def test_mirroring_a_model_that_does_not_mind_changes_nothing() -> None:
    image = photograph(40, 52)
    plain = InferenceSettings(stride=[16, 16], base=[40, 80])
    mirrored = plain.model_copy(update={"flip": True})
    one, two = (
        predict(by_pixel, image, config, (24, 24), MEAN, STD, patch=8) for config in (plain, mirrored)
    )
    assert torch.equal(one, two)


def test_the_largest_of_many_classes_is_found_a_few_classes_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same as with all of them at once, the first of equals included."""
    logits = (numbers((23, 6, 8), 59) * 4).round().float()
    size = (13, 19)
    together = nnf.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    for at_once in (1, 4, 23, 100):
        monkeypatch.setattr(inference, "_NUMBERS_AT_ONCE", at_once * size[0] * size[1])
        assert torch.equal(largest(logits, size), together.argmax(0))
    assert torch.equal(largest(logits, (6, 8)), logits.argmax(0))


def test_lower_precision_of_the_model_is_averaged_in_full_precision() -> None:
    image = numbers((1, 3, 20, 20), 62).float()
    logits = slide(lambda images: by_pixel(images).bfloat16(), image, (8, 8), (3, 3))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, by_pixel(image)[0].bfloat16().float())
