"""Little images and datasets for the tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mae_bench.settings import DataSettings


def smooth(seed: int, height: int = 12, width: int = 10) -> Image.Image:
    """A smooth colour image that no other seed gives."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file's content."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tree(
    root: Path, classes: Mapping[str, int], *, first_seed: int = 0, size: tuple[int, int] = (12, 10)
) -> Path:
    """Class folders with so many PNG images each."""
    seed = first_seed
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:03d}.png").write_bytes(encoded(smooth(seed, *size)))
            seed += 1
    return root


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A plain tar file with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree_bytes(root: Path) -> dict[str, bytes]:
    """Relative path -> content of all files below `root`, sorted."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def settings(**values: object) -> DataSettings:
    """Settings of a small dataset called `set`, at 8x8 without resizing."""
    base = {
        "name": "tiny",
        "root": "set",
        "image_size": [8, 8],
        "evaluation": {"resize": None},
        "workers": 0,
    }
    return DataSettings.model_validate(base | values)
