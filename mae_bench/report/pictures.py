"""Pictures that runs drew (reconstructions, detections, label maps), scaled down and as text for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_bench.results import StoredRun

MOST_WIDTH = 1200
MOST_HEIGHT = 2400
# A picture of more pixels is not opened: nothing that we draw is as large.
_MOST_PIXELS = 60_000_000
_QUALITY = 88

_WHAT = {
    "reconstructions.png": "reconstructions: original, masked, reconstruction, and with the visible patches",
    "detections.png": "detections: boxes and masks drawn over validation images",
    "segmentation.png": "label maps drawn over validation images",
}


@dataclass(frozen=True)
class Picture:
    """One embedded picture."""

    run: str
    file: str
    alt: str
    width: int
    height: int
    uri: str
    """``data:image/...``"""


@dataclass(frozen=True)
class Pictures:
    shown: list[Picture]
    left_out: int
    """Pictures that the limits kept out."""
    problems: list[str]


def gather(runs: Sequence[StoredRun], most: int, megabytes: float) -> Pictures:
    """The pictures of all runs, newest runs first, every task once before any twice.

    Args:
        most: how many pictures at most.
        megabytes: how much of the page they may take.
    """
    shown: list[Picture] = []
    problems: list[str] = []
    left_out, used = 0, 0
    for run, path in _in_turn(runs):
        if len(shown) >= most:
            left_out += 1
            continue
        try:
            picture = _embedded(run, path)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's words for a damaged PNG
            problems.append(f"{path} is no picture that can be shown: {error}")
            continue
        if used + len(picture.uri) > megabytes * 1e6:
            left_out += 1
            continue
        used += len(picture.uri)
        shown.append(picture)
    return Pictures(shown, left_out, problems)


def _in_turn(runs: Sequence[StoredRun]) -> Iterator[tuple[StoredRun, Path]]:
    """The PNG files in run folders: the newest of each task, then the second of each, and so on.

    Folders below a run hold raw label maps and checkpoints, no pictures to look at.
    """
    of_task: dict[str, list[tuple[StoredRun, Path]]] = {}
    for run in sorted(runs, key=lambda run: (run.result.finished, run.name), reverse=True):
        for path in sorted(run.folder.glob("*.png")):
            of_task.setdefault(run.result.task, []).append((run, path))
    for turn in range(max(map(len, of_task.values()), default=0)):
        for task in sorted(of_task):
            if turn < len(of_task[task]):
                yield of_task[task][turn]


def _embedded(run: StoredRun, path: Path) -> Picture:
    from PIL import Image

    # Only the decoder of the format that a run writes, whatever the file holds.
    with Image.open(path, formats=["PNG"]) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than a report shows")
        image = opened.convert("RGBA" if opened.mode in ("RGBA", "LA", "PA") else "RGB")
    scale = min(1.0, MOST_WIDTH / image.width, MOST_HEIGHT / image.height)
    if scale < 1.0:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    kind, content = _smallest(image)
    what = _WHAT.get(path.name, f"the picture {path.name}")
    backbone = f" on {run.result.backbone.spec}" if run.result.backbone else ""
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    alt = f"{what[0].upper()}{what[1:]} (run {run.name}: {run.result.task}{backbone})"
    return Picture(run.name, path.name, alt, image.width, image.height, uri)


def _smallest(image: object) -> tuple[str, bytes]:
    """The picture as PNG or, if that is smaller and nothing is transparent, as JPEG."""
    from PIL import Image

    assert isinstance(image, Image.Image)
    png = io.BytesIO()
    image.save(png, format="PNG", optimize=True)
    if image.mode != "RGB":
        return "png", png.getvalue()
    jpeg = io.BytesIO()
    # Full colour resolution: boxes and captions are thin coloured lines.
    image.save(jpeg, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    if len(jpeg.getvalue()) < len(png.getvalue()):
        return "jpeg", jpeg.getvalue()
    return "png", png.getvalue()
