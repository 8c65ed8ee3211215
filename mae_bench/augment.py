"""What happens to an image between decoding and the model.

Per image, in the loader, on uint8 tensors: crop, flip, colour jitter or RandAugment for training; resize
and centre crop for evaluation. Per batch, on the device: normalisation, then random erasing, then mixup or
cutmix. The order is that of timm's training transform, which the fine-tuning of MAE uses
(arXiv:2111.06377, Table 9).

The per-image part takes all its random numbers from the sample's key, and leaves every global generator as it
was. The per-batch part draws from the global generators of Python, NumPy and torch, as timm does: seed them
for each step. (`mae_bench.train.fit` does so.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import str_to_pil_interp
from torch import Tensor
from torch.nn import functional as nnf
from torchvision.transforms.v2 import functional as tvf

from mae_bench import crops
from mae_bench.errors import MaeBenchError
from mae_bench.keys import Draws
from mae_bench.settings import DataSettings, EraseSettings

Transform = Callable[[Tensor, int], Tensor]
"""(image uint8 (C, H, W), key of the sample) -> uint8 (C, h, w)."""


def train_transform(data: DataSettings, mean: Sequence[float] = IMAGENET_DEFAULT_MEAN) -> Transform:
    """The training augmentation of a recipe, as a picklable callable.

    Args:
        mean: the model's mean pixel, in [0, 1]; RandAugment fills with it what it moves out of the image.

    Raises:
        MaeBenchError: `rand_augment` is not in timm's notation.
    """
    return TrainTransform(data, mean)


def eval_transform(data: DataSettings) -> Transform:
    """The evaluation transform of a recipe, as a picklable callable; the key is not used."""
    return CentreTransform(data)


class TrainTransform:
    """Crop, flip, colour jitter or RandAugment. Raises MaeBenchError where the image does not allow it."""

    def __init__(self, data: DataSettings, mean: Sequence[float]) -> None:
        self.size = tuple(data.image_size)
        self.interpolation = data.interpolation
        self.augment = data.augment
        self.centre = CentreTransform(data)
        self.rand_augment = _rand_augment(data, mean) if data.augment.rand_augment is not None else None

    def __call__(self, image: Tensor, key: int = 0) -> Tensor:
        draws = Draws(key)
        image = self._crop(image, draws)
        if draws.uniform() < self.augment.flip:
            image = image.flip(-1)
        if self.augment.color_jitter > 0:
            image = colour_jitter(image, self.augment.color_jitter, draws)
        if self.rand_augment is not None:
            image = on_pil(self.rand_augment, image, draws)
        return image

    def _crop(self, image: Tensor, draws: Draws) -> Tensor:
        crop = self.augment.crop
        height, width = image.shape[-2:]
        if crop.kind == "center":
            return self.centre(image)
        if crop.kind == "fixed":
            image = self.centre.resized(image)
            box = crops.padded(image.shape[-2], image.shape[-1], self.size, 0, draws)
            return image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        if crop.kind == "pad":
            if min(height - self.size[0], width - self.size[1]) < -2 * crop.padding:
                raise MaeBenchError(
                    f"an image of {height}x{width} padded by {crop.padding} is smaller than data.image_size "
                    f"{self.size[0]}x{self.size[1]}; use augment.crop.kind random_resized or a larger padding"
                )
            box = crops.padded(height, width, self.size, crop.padding, draws)
            image = nnf.pad(image, [crop.padding] * 4)
            return image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        choose = crops.random_resized if crop.kind == "random_resized" else crops.random_resized_once
        box = choose(height, width, crop.scale, crop.ratio, draws)
        image = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        return resize(image, self.size[0], self.size[1], self.interpolation)


class CentreTransform:
    """Short side to `evaluation.resize`, then the centre.

    Where that would not cover `image_size` (a portrait image and a wide `image_size`, say) the image is
    enlarged until it does.

    Raises:
        MaeBenchError: without resizing, the image is smaller than `image_size`.
    """

    def __init__(self, data: DataSettings) -> None:
        self.size = tuple(data.image_size)
        self.interpolation = data.interpolation
        self.short = data.evaluation.resize

    def __call__(self, image: Tensor, key: int = 0) -> Tensor:
        image = self.resized(image)
        (height, width), (target_height, target_width) = image.shape[-2:], self.size
        top, left = round((height - target_height) / 2), round((width - target_width) / 2)
        return image[:, top : top + target_height, left : left + target_width]

    def resized(self, image: Tensor) -> Tensor:
        """The image before the cut, at least as large as `image_size` on both sides."""
        height, width = image.shape[-2:]
        target_height, target_width = self.size
        if self.short is not None:
            short = min(height, width)
            # As torchvision's Resize: the long side is cut down to whole pixels, not rounded.
            new_height, new_width = int(self.short * height / short), int(self.short * width / short)
            grow = max(target_height / new_height, target_width / new_width)
            if grow > 1:
                new_height, new_width = round(new_height * grow), round(new_width * grow)
            return resize(image, new_height, new_width, self.interpolation)
        if height < target_height or width < target_width:
            raise MaeBenchError(
                f"an image of {height}x{width} is smaller than data.image_size "
                f"{target_height}x{target_width}; give data.evaluation.resize"
            )
        return image


def resize(image: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """uint8 ``(C, h, w)`` to uint8 ``(C, height, width)``, antialiased, in whole numbers as Pillow does it.

    torch's kernel is called directly: torchvision's function for it costs more than the resizing of a small
    image, and takes a slower way for bilinear on some processors.
    """
    if image.shape[-2:] == (height, width):
        return image
    return nnf.interpolate(image[None], size=(height, width), mode=interpolation, antialias=True)[0]


def colour_jitter(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation, each times a factor within 1 +- `strength`, in random order.

    Raises:
        MaeBenchError: the image is not RGB.
    """
    if image.shape[0] != 3:
        raise MaeBenchError(
            f"color_jitter needs images of 3 channels, not {image.shape[0]}; set data.augment.color_jitter=0"
        )
    adjust: list[Callable[[Tensor, float], Tensor]] = [
        tvf.adjust_brightness,
        tvf.adjust_contrast,
        tvf.adjust_saturation,
    ]
    for which in draws.order(len(adjust)):
        image = adjust[which](image, draws.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


# ---------------------------------------------------------------- RandAugment


# Sections: magnitude, layers, probability, spread and limit of the magnitude, increasing, set of operations.
_NOTATION = re.compile(r"rand(-(m\d+|n\d+|p\d*\.?\d+|mstd\d*\.?\d+|mmax\d+|inc[01]|t[a-z0-9]+))*")


def _rand_augment(data: DataSettings, mean: Sequence[float]) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment with the parameters of timm's own training transform."""
    text = data.augment.rand_augment or ""
    # timm passes over sections that it does not understand.
    if not _NOTATION.fullmatch(text):
        raise MaeBenchError(
            f"data.augment.rand_augment: '{text}' is not in timm's notation, such as rand-m9-mstd0.5-inc1"
        )
    options = {
        "translate_const": int(min(data.image_size) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": str_to_pil_interp(data.interpolation),
    }
    transform = rand_augment_transform(text, options)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    # At the highest magnitude timm keeps 0 bits. Pillow used to answer with a black image, and now refuses.
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def on_pil(transform: Callable[[Image.Image], Image.Image], image: Tensor, draws: Draws) -> Tensor:
    """Apply a Pillow transform that draws from the global generators of Python and NumPy.

    They are seeded from `draws` for the call, and put back after it.
    """
    if image.shape[0] != 3:
        raise MaeBenchError(
            f"rand_augment needs images of 3 channels, not {image.shape[0]}; "
            "set data.augment.rand_augment=null"
        )
    python_state, numpy_state = random.getstate(), np.random.get_state()
    seed = draws.bits()
    random.seed(seed)
    np.random.seed(seed >> 32)
    try:
        out = transform(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    return torch.from_numpy(np.array(out)).permute(2, 0, 1)


# ---------------------------------------------------------------- batches, on the device


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in 0..255 to zero mean and unit deviation.

    Args:
        images: uint8 ``(B, C, H, W)``.
        mean: C means of pixels scaled to [0, 1].
        std: C standard deviations, likewise.

    Returns:
        float32 ``(B, C, H, W)`` on the same device.

    Raises:
        MaeBenchError: not uint8, or another number of channels than the model's.
    """
    if images.dtype != torch.uint8:
        raise MaeBenchError(f"normalise takes uint8 images, not {images.dtype}")
    if not images.shape[1] == len(mean) == len(std):
        raise MaeBenchError(
            f"the images have {images.shape[1]} channels, but the model's mean and std are for {len(mean)}"
        )
    scale = torch.tensor([1 / (255 * value) for value in std], device=images.device).view(-1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(
        -1, 1, 1
    )
    return torch.addcmul(shift, images.float(), scale)


def erase(images: Tensor, settings: EraseSettings | None) -> Tensor:
    """Random erasing (timm's; arXiv:1708.04896) of normalised images ``(B, C, H, W)``, in place."""
    if settings is None or settings.prob == 0:
        return images
    erasing = RandomErasing(
        probability=settings.prob, mode=settings.mode, max_count=settings.count, device=images.device
    )
    return erasing(images)


class Mixing:
    """Mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899) of a batch, with label smoothing; timm's.

    Images are paired first with last. In a batch of odd size the last image is set aside and stays unmixed
    (timm refuses such batches); its target is smoothed like the others.

    Args:
        classes: number of classes.
        mixup: alpha of mixup, 0: none.
        cutmix: alpha of cutmix, 0: none.
        prob: share of batches that are mixed.
        switch_prob: share of the mixed batches that get cutmix, where both are on.
        smoothing: label smoothing.
    """

    def __init__(
        self,
        classes: int,
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        smoothing: float = 0.0,
    ) -> None:
        self.classes, self.smoothing = classes, smoothing
        self._mix: Any = None
        if mixup > 0 or cutmix > 0:
            self._mix = Mixup(
                mixup_alpha=mixup,
                cutmix_alpha=cutmix,
                prob=prob,
                switch_prob=switch_prob,
                label_smoothing=smoothing,
                num_classes=classes,
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix normalised images ``(B, C, H, W)`` in place; labels int64 ``(B,)`` become ``(B, classes)``."""
        even = len(images) // 2 * 2 if self._mix is not None else 0
        mixed: list[Tensor] = []
        if even:
            mixed.append(self._mix(images[:even], labels[:even])[1])
        if even < len(images):
            mixed.append(mixup_target(labels[even:], self.classes, 1.0, self.smoothing))
        return images, torch.cat(mixed)
