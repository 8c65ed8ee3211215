"""From the bytes of an image file to a uint8 tensor, with the pixels that Pillow's ``convert("RGB")`` gives.

JPEG and PNG are decoded by torchvision, straight into a tensor; everything else (BMP, GIF, TIFF, WebP, ...)
by Pillow, because torchvision does not read it, fills transparent GIF pixels otherwise, or may have been
built without it. The decoder is chosen by the first bytes: ImageNet holds a PNG that is called ``.JPEG``.

torchvision 0.29 announces that its decoders will move to TorchCodec, whose ones turn images by their EXIF
orientation and cannot be told not to. Where torchvision has none, Pillow decodes everything: the same pixels
at about half the speed.

Of files with several frames the first is taken; transparency is dropped, not blended. EXIF orientation is not
applied, as in the reference implementation of MAE, whose loader ignores it. Images of 16 bits a channel keep
the upper 8 bits (Pillow clips 16-bit greyscale at 255 instead, which is white almost everywhere).
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import torch
import torchvision  # noqa: F401 - registers torch.ops.image
from PIL import Image
from torch import Tensor

from mae_bench.errors import MaeBenchError

# First bytes -> the operator behind torchvision's `decode_jpeg` or `decode_png`. The functions themselves add
# a deprecation warning to every call, and a quarter to the time that a small image takes.
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_FAST = {
    magic: getattr(torch.ops.image, name)
    for magic, name in ((b"\xff\xd8\xff", "decode_jpeg"), (b"\x89PNG\r\n\x1a\n", "decode_png"))
    if hasattr(torch.ops.image, name)
}


class UnreadableImageError(MaeBenchError):
    """An image that cannot be decoded; the message is the reason, without the path."""


def decode(data: bytes | Image.Image | Tensor) -> Tensor:
    """One image as uint8 ``(C, H, W)``; C is 3 unless `data` is a tensor already.

    Args:
        data: the content of an image file, a Pillow image, or a uint8 tensor ``(C, H, W)``, which is returned
            as it is.

    Raises:
        UnreadableImageError: `data` is empty, broken, cut off or of an unknown format.
    """
    if isinstance(data, Tensor):
        if data.dtype != torch.uint8 or data.ndim != 3:
            raise MaeBenchError(
                "an image source must give uint8 tensors of shape (C, H, W), "
                f"not {data.dtype} {tuple(data.shape)}"
            )
        return data
    if isinstance(data, Image.Image):
        return _from_pil(data)
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        for magic, operator in _FAST.items():
            if data.startswith(magic):
                # torch warns about memory that it may not write to; `bytearray` is a copy that it may.
                buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                return _upper_byte(operator(buffer, _RGB, False))
        with Image.open(io.BytesIO(data)) as image:
            return _from_pil(image)
    except MemoryError:
        raise
    except Exception as error:
        # Broken files make image libraries raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise UnreadableImageError(_reason(error)) from error


def _upper_byte(image: Tensor) -> Tensor:
    if image.dtype == torch.uint16:
        return (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _from_pil(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return grey[None].repeat(3, 1, 1)
    with warnings.catch_warnings():
        # "Palette images with Transparency ... should be converted to RGBA": we do drop the transparency.
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    """The message without torchvision's C++ file names and without Python's object addresses."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    text = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0] if str(error) else "")
    return text or type(error).__name__
