"""From the bytes of an image file to a uint8 tensor of as many channels as the recipe wants.

Three channels are the pixels that Pillow's ``convert("RGB")`` gives. JPEG and PNG are then decoded by
torchvision, straight into a tensor; everything else (BMP, GIF, TIFF, WebP, ...) by Pillow, because
torchvision does not read it, fills transparent GIF pixels otherwise, or may have been built without it. The
decoder is chosen by the first bytes: ImageNet holds a PNG that is called ``.JPEG``.

torchvision 0.29 announces that its decoders will move to TorchCodec, whose ones turn images by their EXIF
orientation and cannot be told not to. Where torchvision has none, Pillow decodes everything: the same pixels
at about half the speed.

Of files with several frames the first is taken; transparency is dropped, not blended. EXIF orientation is not
applied, as in the reference implementation of MAE, whose loader ignores it. Images of 16 bits a channel keep
the upper 8 bits (Pillow clips 16-bit greyscale at 255 instead, which is white almost everywhere).

Any other number of channels is what the file itself holds, as Pillow reads it, transparency included. Nothing
is converted: an image of another number is refused. NumPy files hold any number, three among them.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib

import numpy as np
import torch
import torchvision  # noqa: F401 - registers torch.ops.image
from PIL import Image, ImageSequence
from torch import Tensor

from mae_bench.errors import MaeBenchError

# First bytes -> the operator behind torchvision's `decode_jpeg` or `decode_png`. The functions themselves add
# a deprecation warning to every call, and a quarter to the time that a small image takes.
_READ_RGB = 3  # torchvision.io.ImageReadMode.RGB
_PNG = b"\x89PNG\r\n\x1a\n"
_FAST = {
    magic: getattr(torch.ops.image, name)
    for magic, name in ((b"\xff\xd8\xff", "decode_jpeg"), (_PNG, "decode_png"))
    if hasattr(torch.ops.image, name)
}
_NUMPY = b"\x93NUMPY"
_SAMPLES_PER_PIXEL = 277  # a tag of TIFF


class UnreadableImageError(MaeBenchError):
    """An image that cannot be decoded; the message is the reason, without the path."""


def decode(data: bytes | Image.Image | Tensor, channels: int = 3) -> Tensor:
    """One image as uint8 ``(C, H, W)``.

    Args:
        data: the content of an image file or of a NumPy file ``(H, W, C)``, a Pillow image, or a uint8 tensor
            ``(C, H, W)``, which is returned as it is.
        channels: C. 3: RGB, to which the colours of image files are converted; else what the file holds.

    Raises:
        UnreadableImageError: `data` is empty, broken, cut off, of an unknown format or of other channels.
    """
    if isinstance(data, Tensor):
        if data.dtype != torch.uint8 or data.ndim != 3:
            raise MaeBenchError(
                "an image source must give uint8 tensors of shape (C, H, W), "
                f"not {data.dtype} {tuple(data.shape)}"
            )
        return _checked(data, channels)
    if isinstance(data, Image.Image):
        return _from_pil(data, channels)
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        if data.startswith(_NUMPY):
            return _from_numpy(data, channels)
        for magic, operator in _FAST.items() if channels == 3 else ():
            if data.startswith(magic):
                if magic == _PNG:
                    _check_sums(data)
                # torch warns about memory that it may not write to; `bytearray` is a copy that it may.
                buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                return _upper_byte(operator(buffer, _READ_RGB, False))
        with Image.open(io.BytesIO(data)) as image:
            return _from_pil(image, channels)
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        # Broken files make image libraries raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise UnreadableImageError(_reason(error)) from error


def _check_sums(data: bytes) -> None:
    """Refuse a PNG file with damage in a chunk that matters: torchvision 0.29 ends the process on it."""
    at, kind = len(_PNG), b""
    while at + 12 <= len(data) and kind != b"IEND":  # length, kind, content, checksum
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            return  # cut off; the decoder says so, if it matters
        wrong = zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4])
        if wrong and kind[:1].isupper():  # others hold no pixels, and decoders pass over them
            raise UnreadableImageError(f"the checksum of its chunk {kind.decode('latin-1')} is wrong")
        at = end + 4


def as_rgb(image: Tensor) -> Tensor:
    """Three channels to look at, of ``(C, H, W)``: the first three, or the first one as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def _checked(image: Tensor, channels: int) -> Tensor:
    found = image.shape[0]
    if found != channels:
        counted = f"{found} channel{'' if found == 1 else 's'}"
        raise UnreadableImageError(
            f"it has {counted}, but data.channels is {channels}; give images of {channels}, or set "
            f"data.channels={found}"
        )
    return image


def _upper_byte(image: Tensor) -> Tensor:
    if image.dtype == torch.uint16:
        return (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    if channels != 3:
        return _checked(_as_stored(image), channels)
    if image.mode.startswith("I;16"):
        return _grey(image)[None].repeat(3, 1, 1)
    with warnings.catch_warnings():
        # "Palette images with Transparency ... should be converted to RGBA": we do drop the transparency.
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _grey(image: Image.Image) -> Tensor:
    """Pixels ``(H, W)`` of one band, of 16 bits the upper 8."""
    if image.mode.startswith("I;16"):
        return torch.from_numpy((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("L")))  # also from black and white, which are bits


_GREY = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N")


def _as_stored(image: Image.Image) -> Tensor:
    """Pixels ``(C, H, W)`` of what the image holds: bands, a palette's colours, pages of a grey TIFF."""
    samples, bands = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 0), len(image.getbands())
    if samples > bands:
        raise UnreadableImageError(
            f"it has {samples} channels, of which Pillow reads {bands}; store it as a NumPy file"
        )
    if image.mode in _GREY:
        return torch.stack(_pages(image))
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    pixels = np.array(image)
    if pixels.dtype != np.uint8:
        raise UnreadableImageError(
            f"its pixels are {pixels.dtype} numbers, not of 8 or 16 bits; store it as a NumPy file of uint8"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _pages(image: Image.Image) -> list[Tensor]:
    """The pages of a TIFF if all are grey and of one size (else they are no channels), or the first image."""
    first, size = _grey(image), image.size
    if image.format != "TIFF" or getattr(image, "n_frames", 1) == 1:
        return [first]
    pages = [
        _grey(page) if page.mode in _GREY and page.size == size else None
        for page in ImageSequence.Iterator(image)
    ]
    whole = [page for page in pages if page is not None]
    return whole if len(whole) == len(pages) else [first]


def _from_numpy(data: bytes, channels: int) -> Tensor:
    """A NumPy file ``(H, W, C)`` of uint8, or of uint16 whose upper 8 bits are kept, without unpickling."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except MemoryError:
        raise UnreadableImageError("its header promises more pixels than memory can hold") from None
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise UnreadableImageError(f"its array is of {array.dtype}; store it as uint8 or uint16")
    if array.ndim != 3 or (array.shape[2] != channels and array.shape[0] == channels):
        raise UnreadableImageError(
            f"its array has the shape {array.shape}; store it as (height, width, channels)"
        )
    if not array.size:
        raise UnreadableImageError(f"its array of shape {array.shape} holds no pixels")
    pixels = array if array.dtype.itemsize == 1 else (array >> 8).astype(np.uint8)
    return _checked(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), channels)


def _reason(error: Exception) -> str:
    """The message without torchvision's C++ file names and without Python's object addresses."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    text = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0] if str(error) else "")
    return text or type(error).__name__
