"""What a segmenter says of a whole image: sliding window or all at once, at several sizes, mirrored.

The image is resized as for training, without the random factor. Where windows overlap, their logits are
averaged. Logits are brought to the original size (bilinear, corners not aligned), and the largest wins there.
With several sizes or mirroring, the probabilities at the original size are averaged, as mmsegmentation does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

from downstream.segmentation.crops import fitted, resize_image, scaled
from downstream.segmentation.settings import InferenceSettings
from mae_bench.augment import normalise

Forward = Callable[[Tensor], Tensor]
"""(normalised images (B, 3, H, W)) -> logits (B, K, H, W), at the size of the images."""

WINDOWS = 4
"""Windows that go through the model at once."""
# Logits at the original size that are made at once to find the largest of them: 256 MiB as float32.
_NUMBERS_AT_ONCE = 1 << 26


@torch.no_grad()
def predict(
    forward: Forward,
    image: Tensor,
    settings: InferenceSettings,
    canvas: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    patch: int,
) -> Tensor:
    """The class of every pixel of an image, int64 ``(h, w)``.

    Args:
        forward: the model; may run in lower precision, the rest is float32.
        image: uint8 ``(C, h, w)``, on the model's device.
        settings: `data.evaluation`.
        canvas: height and width of the window, `data.image_size`.
        mean: of the backbone, for pixels in [0, 1].
        std: likewise.
        patch: side of the backbone's patches; with mode `whole` images are padded to a multiple of it.
    """
    size = (int(image.shape[-2]), int(image.shape[-1]))
    mirrorings = (False, True) if settings.flip else (False,)
    views = [(factor, mirrored) for factor in settings.scales for mirrored in mirrorings]
    total: Tensor | None = None
    for factor, mirrored in views:
        pixels = resize_image(image, *size_of_view(*size, settings, factor))
        pixels = normalise((pixels.flip(-1) if mirrored else pixels)[None], mean, std)
        if settings.mode == "slide":
            logits = slide(forward, pixels, canvas, settings.stride)
        else:
            logits = whole(forward, pixels, patch)
        if mirrored:
            logits = logits.flip(-1)
        if len(views) == 1:
            return largest(logits, size)
        part = _resized(logits, size).softmax(0)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.argmax(0)


def size_of_view(height: int, width: int, settings: InferenceSettings, factor: float) -> tuple[int, int]:
    """Height and width at which an image is tested, with a factor on the box, or on the image without one."""
    if settings.base is None:
        return scaled(height, width, factor)
    return fitted(height, width, [max(1, int(side * factor)) for side in settings.base])


def slide(forward: Forward, image: Tensor, window: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Logits ``(K, h, w)`` of a normalised image ``(1, 3, h, w)``, the mean over the windows at a pixel.

    Windows follow each other by `stride`; the last of a row or column ends with the image, so that all lie
    inside. An image smaller than the window is padded to it at the right and at the bottom with zeros (the
    mean pixel), as in training; mmsegmentation sends it through at its own size.
    """
    height, width = image.shape[-2:]
    image = _padded(image, max(height, window[0]), max(width, window[1]))
    tops = starts(image.shape[-2], window[0], stride[0])
    lefts = starts(image.shape[-1], window[1], stride[1])
    total = torch.empty(0)
    for places in _batches([(top, left) for top in tops for left in lefts]):
        cuts = [image[0, :, top : top + window[0], left : left + window[1]] for top, left in places]
        logits = forward(torch.stack(cuts))
        if not total.numel():
            total = torch.zeros(logits.shape[1], *image.shape[-2:], device=logits.device)
        for (top, left), part in zip(places, logits, strict=True):
            total[:, top : top + window[0], left : left + window[1]] += part
    seen = [
        torch.tensor(_times_seen(begins, side, length), dtype=torch.float32, device=total.device)
        for begins, side, length in zip((tops, lefts), window, image.shape[-2:], strict=True)
    ]
    total /= seen[0][:, None] * seen[1]
    return total[:, :height, :width]


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side of `length` >= `window` pixels."""
    last = length - window
    return [*range(0, last, stride), last]


def whole(forward: Forward, image: Tensor, patch: int) -> Tensor:
    """Logits ``(K, h, w)`` of one normalised image ``(1, 3, h, w)`` in one piece, padded to whole patches."""
    height, width = image.shape[-2:]
    logits = forward(_padded(image, -(-height // patch) * patch, -(-width // patch) * patch))
    return logits[0, :, :height, :width].float()


def largest(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Which of ``(K, h, w)`` is largest at each pixel after resizing to `size` (the first of several): int64.

    A few classes at a time: 150 classes of a photograph of 12 megapixels would take 7 GB.
    """
    if logits.shape[-2:] == size:
        return logits.argmax(0)
    at_once = max(1, _NUMBERS_AT_ONCE // (size[0] * size[1]))
    best, winner = _resized(logits[:at_once], size).max(0)
    for first in range(at_once, len(logits), at_once):
        value, index = _resized(logits[first : first + at_once], size).max(0)
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index + first, winner)
    return winner


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return nnf.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return nnf.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))


def _times_seen(begins: Sequence[int], window: int, length: int) -> list[int]:
    return [sum(begin <= place < begin + window for begin in begins) for place in range(length)]


def _batches(places: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(places), WINDOWS):
        yield places[first : first + WINDOWS]
