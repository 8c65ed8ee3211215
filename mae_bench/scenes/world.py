"""The generated worlds on disk: the folders of the real datasets, in miniature, made once and found again.

    <data root>/generated/<name>/
        world.json                       what was drawn, and by which generator

    a world of classes                   in the layout of ImageNet
        train/<class>/000000.png ...     labelled scenes
        val/<class>/000000.png ...
        unlabeled/scene/000000.png ...   scenes for pretraining, drawn apart from the others

    a world for dense tasks
        coco/ ade20k/                    in the layouts of these, see `mae_bench.scenes.dense`

    a world of many faces
        folder/ inat/ places/ ...        in the layouts of these, see `mae_bench.scenes.faces`

    a corrupted world                    in the layout of ImageNet-C, of another world's validation images
        <corruption>/<severity>/<class>/...

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mae_bench.corruptions import CORRUPTIONS, SEVERITIES, library
from mae_bench.errors import MaeBenchError
from mae_bench.scenes import dense, faces
from mae_bench.scenes.draw import draw
from mae_bench.scenes.shapes import CLASSES
from mae_bench.scenes.specs import (
    CHUNK,
    SPLITS,
    CorruptedSpec,
    DenseSpec,
    FacesSpec,
    Spec,
    WorldSpec,
    identity,
    named,
    scenes,
)

FOLDER = "generated"
"""Folder below the data root that holds the generated worlds."""
_LAYOUT = 1
"""To be raised when the files of a world change otherwise than in their pictures."""
_PROBE = 2 * len(CLASSES)


def digest(spec: Spec) -> str:
    """SHA-256 of the spec and of what this generator makes of it.

    The first scenes of the training split are drawn and hashed, so that a change of the drawing code is
    seen without anyone having to raise a version number. Corrupted worlds follow from the clean one and from
    the library that corrupts.

    Raises:
        MaeBenchError: the world is a corrupted one and the library is missing.
    """
    if isinstance(spec, CorruptedSpec):
        made_of = [
            _LAYOUT,
            spec.name,
            spec.per_class,
            digest(spec.clean),
            [*CORRUPTIONS],
            SEVERITIES,
            library(),
        ]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    state = hashlib.sha256(json.dumps([_LAYOUT, identity(spec), CLASSES], sort_keys=True).encode())
    probe = draw(spec.look, spec.size, spec.seed, SPLITS.index("train"), range(_PROBE))
    for scene in probe:
        state.update(scene.image.tobytes())
        state.update(scene.semantic.tobytes())
    if isinstance(spec, DenseSpec):
        state.update(json.dumps([dense.instances(probe, 1, 1), dense.class_list()]).encode())
        for scene in probe:
            state.update(dense.label_map(scene).tobytes())
    if isinstance(spec, FacesSpec):
        for part in faces.probe(spec):
            state.update(part)
    return state.hexdigest()


def location(data_root: Path, spec: Spec | str) -> Path:
    """The folder of a world, whether it is there or not."""
    return Path(data_root) / FOLDER / named(spec).name


def is_current(data_root: Path, spec: Spec | str) -> bool:
    """Whether the world is on disk as this generator would make it now."""
    spec = named(spec)
    return _recorded(location(data_root, spec)) == digest(spec)


def ensure(data_root: Path, spec: Spec | str, progress: Callable[[int], object] | None = None) -> Path:
    """The folder of a world, made first if it is missing or was made by a different generator.

    A second process that asks for the same world waits for the first. A build that is killed leaves the
    world as it was before, and its temporary folder is removed by the next build.

    Args:
        spec: a spec, or the name of one of `SPECS`.
        progress: called with the number of images written since the last call, `spec.images` in all;
            never called when the world is there.

    Raises:
        MaeBenchError: for an unknown name, a folder that is in the way, a disk that cannot be written, or a
            corrupted world where the library that corrupts is missing.
    """
    spec = named(spec)
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


def _build(place: Path, spec: Spec, wanted: str, progress: Callable[[int], object]) -> None:
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
        if isinstance(spec, DenseSpec):
            dense.write(building, spec, progress)
        elif isinstance(spec, FacesSpec):
            faces.write(building, spec, progress)
        elif isinstance(spec, CorruptedSpec):
            _write_corrupted(building, spec, progress)
        else:
            _write_classes(building, spec, progress)
        record = {"digest": wanted, "spec": asdict(spec), "classes": CLASSES}
        (building / "world.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if place.exists():
            os.rename(place, replaced)
        os.rename(building, place)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_corrupted(building: Path, spec: CorruptedSpec, progress: Callable[[int], object]) -> None:
    """Corrupt the validation images of the clean world, which is made first if it is missing."""
    from mae_bench.data import corrupting, sources  # these draw worlds themselves
    from mae_bench.settings import DataSettings

    data_root = building.parent.parent
    ensure(data_root, spec.clean)
    root = f"{FOLDER}/{spec.clean.name}/folder"
    clean: sources.Source = sources.open_source(
        DataSettings.model_validate({"name": spec.clean.name, "root": root}), "val", data_root
    )
    if spec.per_class is not None:
        labels = np.array([clean.label(index) for index in range(len(clean))])
        first = [np.flatnonzero(labels == label)[: spec.per_class] for label in range(len(clean.classes))]
        clean = sources.SubsetSource(clean, np.concatenate(first))
    corrupting.make(
        clean, building, resize=None, crop=None, source_name=f"{root}/val", workers=1, progress=progress
    )


def _write_classes(building: Path, spec: WorldSpec, progress: Callable[[int], object]) -> None:
    """Write each split as class folders of PNG files, named by their index in the split."""
    for split in SPLITS:
        names = ["scene"] if split == "unlabeled" else list(CLASSES)
        for name in names:
            (building / split / name).mkdir(parents=True)
        for index, scene in enumerate(scenes(spec, split)):
            name = names[0 if split == "unlabeled" else scene.label]
            # Quick to write, and half a kilobyte bigger at most than the smallest.
            Image.fromarray(scene.image).save(building / split / name / f"{index:06d}.png", compress_level=1)
            if (index + 1) % CHUNK == 0:
                progress(CHUNK)
        progress(spec.count(split) % CHUNK)
