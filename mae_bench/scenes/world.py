"""The generated world on disk: the folders of ImageNet, in miniature, made once and found again.

    <data root>/generated/<name>/
        world.json                       what was drawn, and by which generator
        train/<class>/000000.png ...     labelled scenes
        val/<class>/000000.png ...
        unlabeled/scene/000000.png ...   scenes for pretraining, drawn apart from the others

A world is built in a temporary folder beside its place and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mae_bench.errors import MaeBenchError, near
from mae_bench.scenes.draw import Scene, draw
from mae_bench.scenes.plan import Look
from mae_bench.scenes.shapes import CLASSES

FOLDER = "generated"
"""Folder below the data root that holds the generated worlds."""
SPLITS = ("unlabeled", "train", "val")
_LAYOUT = 1
"""To be raised when the files of a world change otherwise than in their pictures."""
_CHUNK = 64
_PROBE = 2 * len(CLASSES)


@dataclass(frozen=True)
class WorldSpec:
    """What a world holds. Two worlds with equal specs are equal, byte for byte."""

    name: str
    unlabeled: int
    """Scenes for pretraining; their classes are balanced, but not told."""
    train_per_class: int
    val_per_class: int
    size: int = 32
    """Side of an image in pixels."""
    seed: int = 0
    look: Look = field(default_factory=Look)

    @property
    def images(self) -> int:
        """Number of images in all splits."""
        return sum(self.count(split) for split in SPLITS)

    def count(self, split: str) -> int:
        """Number of images in a split."""
        per_class = {"train": self.train_per_class, "val": self.val_per_class}
        return self.unlabeled if split == "unlabeled" else per_class[split] * len(CLASSES)


SPECS: dict[str, WorldSpec] = {
    spec.name: spec
    for spec in (
        WorldSpec("shapes", unlabeled=12_000, train_per_class=200, val_per_class=200),
        WorldSpec("tiny", unlabeled=200, train_per_class=20, val_per_class=8),
    )
}
"""The worlds that recipes name: `generated/shapes` is the demo's, `generated/tiny` is for tests."""


def scenes(spec: WorldSpec, split: str) -> Iterator[Scene]:
    """The scenes of a split ('unlabeled', 'train' or 'val') in order, drawn as they are asked for."""
    for start in range(0, spec.count(split), _CHUNK):
        chunk = range(start, min(start + _CHUNK, spec.count(split)))
        yield from draw(spec.look, spec.size, spec.seed, SPLITS.index(split), chunk)


def digest(spec: WorldSpec) -> str:
    """SHA-256 of the spec and of what this generator makes of it.

    The first scenes of the training split are drawn and hashed, so that a change of the drawing code is
    seen without anyone having to raise a version number.
    """
    state = hashlib.sha256(json.dumps([_LAYOUT, asdict(spec), CLASSES], sort_keys=True).encode())
    for scene in draw(spec.look, spec.size, spec.seed, SPLITS.index("train"), range(_PROBE)):
        state.update(scene.image.tobytes())
        state.update(scene.semantic.tobytes())
    return state.hexdigest()


def location(data_root: Path, spec: WorldSpec | str) -> Path:
    """The folder of a world, whether it is there or not."""
    return Path(data_root) / FOLDER / _named(spec).name


def is_current(data_root: Path, spec: WorldSpec | str) -> bool:
    """Whether the world is on disk as this generator would make it now."""
    spec = _named(spec)
    return _recorded(location(data_root, spec)) == digest(spec)


def ensure(data_root: Path, spec: WorldSpec | str, progress: Callable[[int], object] | None = None) -> Path:
    """The folder of a world, made first if it is missing or was made by a different generator.

    A second process that asks for the same world waits for the first. A build that is killed leaves the
    world as it was before, and its temporary folder is removed by the next build.

    Args:
        spec: a spec, or the name of one of `SPECS`.
        progress: called with the number of images written since the last call, `spec.images` in all;
            never called when the world is there.

    Raises:
        MaeBenchError: for an unknown name, a folder that is in the way, or a disk that cannot be written.
    """
    spec = _named(spec)
    place = location(data_root, spec)
    wanted = digest(spec)
    try:
        if _recorded(place) == wanted:
            return place
        with _alone(place):
            if _recorded(place) != wanted:
                _build(place, spec, wanted, progress or (lambda _: None))
    except OSError as error:
        raise MaeBenchError(
            f"cannot make the generated world in {place}: {error.strerror or error}; "
            "free or unlock that folder, or choose another with --data-root"
        ) from error
    return place


def _named(spec: WorldSpec | str) -> WorldSpec:
    if isinstance(spec, WorldSpec):
        return spec
    if spec not in SPECS:
        raise MaeBenchError(
            f"there is no generated world '{spec}' (there are {', '.join(SPECS)}){near(spec, SPECS)}"
        )
    return SPECS[spec]


def _recorded(place: Path) -> str | None:
    """The digest that a world on disk was made with; None where there is none or its record is damaged."""
    try:
        record: Any = json.loads((place / "world.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record.get("digest") if isinstance(record, dict) else None


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a world; the system lets go of it when the process ends, however that happens."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(place: Path, spec: WorldSpec, wanted: str, progress: Callable[[int], object]) -> None:
    """Draw and write a world beside its place, then put it there; the caller holds the lock."""
    if place.exists() and not (place / "world.json").is_file():
        raise MaeBenchError(
            f"{place} is in the way: it holds no world.json, so it was not generated; move it elsewhere"
        )
    for leftover in place.parent.glob(f".{place.name}.building-*"):
        shutil.rmtree(leftover)
    building = Path(tempfile.mkdtemp(prefix=f".{place.name}.building-", dir=place.parent))
    replaced = building.with_name(building.name + "-replaced")
    try:
        building.chmod(0o755)
        for split in SPLITS:
            _write_images(building / split, spec, split, progress)
        record = {"digest": wanted, "spec": asdict(spec), "classes": CLASSES}
        (building / "world.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if place.exists():
            os.rename(place, replaced)
        os.rename(building, place)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_images(folder: Path, spec: WorldSpec, split: str, progress: Callable[[int], object]) -> None:
    """Write a split as class folders of PNG files, named by their index in the split."""
    names = ["scene"] if split == "unlabeled" else list(CLASSES)
    for name in names:
        (folder / name).mkdir(parents=True)
    for index, scene in enumerate(scenes(spec, split)):
        name = names[0 if split == "unlabeled" else scene.label]
        # Quick to write, and half a kilobyte bigger at most than the smallest.
        Image.fromarray(scene.image).save(folder / name / f"{index:06d}.png", compress_level=1)
        if (index + 1) % _CHUNK == 0:
            progress(_CHUNK)
    progress(spec.count(split) % _CHUNK)
