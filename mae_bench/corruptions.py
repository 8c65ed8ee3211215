"""The corruptions of ImageNet-C (Hendrycks and Dietterich, arXiv:1903.12261), made here, image by image.

They are those of imagecorruptions-imaug, the fork of imagecorruptions that is still released: it runs without
a warning on current NumPy, SciPy, scikit-image, OpenCV and Pillow, on images of 32 pixels and more, and needs
no ImageMagick. (imagecorruptions 1.1.2 of 2020 fails on these; corrupt-tta 0.1.7 draws motion blur and
snow by simpler rules and is more than ten times slower at glass blur.) It departs from the code that made the
official files in motion blur, which is its own, in elastic_transform, which leaves out the random affine map
and takes other strengths, in pixelate, which enlarges without smoothing, and in frost, which draws from six
pictures instead of five and enlarges them a little. So nothing that is measured on its images is a number on
ImageNet-C.

Imports nothing heavy, so that settings may read the names and worker processes start in no time.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from mae_bench.errors import MaeBenchError, near

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

CORRUPTIONS = {
    "gaussian_noise": "noise",
    "shot_noise": "noise",
    "impulse_noise": "noise",
    "defocus_blur": "blur",
    "glass_blur": "blur",
    "motion_blur": "blur",
    "zoom_blur": "blur",
    "snow": "weather",
    "frost": "weather",
    "fog": "weather",
    "brightness": "weather",
    "contrast": "digital",
    "elastic_transform": "digital",
    "pixelate": "digital",
    "jpeg_compression": "digital",
}
"""The fifteen corruptions that mCE is made of, in the official order, and the group of each."""
EXTRA = {"speckle_noise": "noise", "gaussian_blur": "blur", "spatter": "weather", "saturate": "digital"}
"""Four more, which ImageNet-C holds for validation; no part of mCE."""
SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 32
"""Pixels that either side of an image must have."""
LIBRARY = "imagecorruptions-imaug"
# These take their random numbers from generators of their own unless they are given a seed.
_SEEDED = ("glass_blur", "impulse_noise")


def library() -> tuple[str, str]:
    """Name and version of the library that the corruptions come from.

    Raises:
        MaeBenchError: it is not installed.
    """
    try:
        return LIBRARY, metadata.version(LIBRARY)
    except metadata.PackageNotFoundError as error:
        raise MaeBenchError(
            f'corrupting images needs the package {LIBRARY}: pip install "mae-bench[corruptions]"'
        ) from error


def ready() -> None:
    """Load the library, which takes some seconds.

    Raises:
        MaeBenchError: it is not installed, or something that it needs cannot be loaded.
    """
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        name, version = library()
        raise MaeBenchError(
            f"{name} {version} is installed but cannot be loaded: {error} (where the system has no libGL, "
            "put opencv-python-headless in the place of opencv-python)"
        ) from error


def check(corruption: str, severity: int) -> None:
    """Raise MaeBenchError unless there is such a corruption and such a severity."""
    known = {**CORRUPTIONS, **EXTRA}
    if corruption not in known:
        raise MaeBenchError(
            f"there is no corruption '{corruption}' (there are {', '.join(known)}){near(corruption, known)}"
        )
    if severity not in SEVERITIES:
        raise MaeBenchError(f"there is no severity {severity} of a corruption; give one of 1 to 5")


def corrupt(image: NDArray[np.uint8], corruption: str, severity: int, key: int) -> NDArray[np.uint8]:
    """One image ``(H, W, 3)`` corrupted, as a function of the arguments and of the library's version alone.

    NumPy's global generator, which the library draws from, is left as it was. (Numba's, which compiled
    functions draw from, is not: glass_blur seeds it.)

    Args:
        image: uint8 RGB, at least 32 pixels high and wide.
        corruption: one of `CORRUPTIONS` or `EXTRA`.
        severity: 1 to 5.
        key: what the random numbers follow from, together with corruption and severity: another integer for
            each image.

    Raises:
        MaeBenchError: no such corruption or severity, another kind of image, or the library is missing.
    """
    check(corruption, severity)
    if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < LEAST_SIDE:
        raise MaeBenchError(
            f"corruptions need uint8 images of shape (H, W, 3) with H and W of {LEAST_SIDE} or more, not "
            f"{image.dtype} {tuple(image.shape)}"
        )
    ready()
    import imagecorruptions
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(f"{key} {corruption} {severity}".encode()).digest()[:4], "big")
    given = {"seed": seed} if corruption in _SEEDED else {}
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        return np.asarray(
            imagecorruptions.corrupt(image, corruption_name=corruption, severity=severity, **given)
        )
    finally:
        np.random.set_state(before)


# ---------------------------------------------------------------- files, in worker processes


@dataclass(frozen=True)
class Preparation:
    """What is done to an image before it is corrupted, and how the result is written."""

    resize: int | None
    """Short side in pixels; null: the image keeps its size."""
    crop: int | None
    """Side of the square that is cut from the middle; null: nothing is cut off."""
    quality: int
    """Of the JPEG files, 1 to 95."""


@dataclass(frozen=True)
class Job:
    """The corrupted files to make of one image."""

    name: str
    """The image as named in messages."""
    picture: bytes | Image.Image
    """The content of its file, or what that shows."""
    key: int
    preparation: Preparation
    wanted: list[tuple[str, int, Path]]
    """Corruption, severity and file of each."""
    unfinished: Path
    """A folder for files that are not whole yet, on the same file system."""


def prepare(image: Image.Image, preparation: Preparation) -> NDArray[np.uint8]:
    """The pixels ``(H, W, 3)`` to corrupt: those of torchvision's Resize and CenterCrop on Pillow images.

    Raises:
        MaeBenchError: the image is smaller than the crop.
    """
    import numpy as np
    from PIL import Image

    image = image.convert("RGB")
    if preparation.resize is not None:
        short = min(image.size)
        size = tuple(int(preparation.resize * side / short) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    side = preparation.crop
    if side is not None:
        if min(image.size) < side:
            raise MaeBenchError(f"it is {image.width} x {image.height} pixels, less than the crop of {side}")
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)


def write(job: Job) -> int:
    """Make the files of a job, each whole or not at all, and give their number.

    Raises:
        MaeBenchError: the image cannot be read or corrupted, or a file cannot be written; names it.
    """
    from PIL import Image

    try:
        picture = job.picture
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        pixels = prepare(image, job.preparation)
    except Exception as error:  # broken files make image libraries raise nearly anything
        raise MaeBenchError(f"{job.name} cannot be corrupted: {error}") from error
    for corruption, severity, file in job.wanted:
        corrupted = Image.fromarray(corrupt(pixels, corruption, severity, job.key))
        unfinished = job.unfinished / f"{os.getpid()}.jpg"
        try:
            corrupted.save(unfinished, "JPEG", quality=job.preparation.quality, optimize=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, file)
        except OSError as error:
            raise MaeBenchError(f"{file} cannot be written: {error.strerror or error}") from error
    return len(job.wanted)


def begin() -> None:
    """Set up a worker process: one thread, no answer to Ctrl-C, and an end when its parent ends."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers in order
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
