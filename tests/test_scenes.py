"""The generated world: what a scene tells about itself must be what its picture shows."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_bench.errors import MaeBenchError
from mae_bench.scenes import (
    CLASSES,
    SPECS,
    Look,
    Scene,
    WorldSpec,
    digest,
    ensure,
    is_current,
    location,
    scenes,
)
from mae_bench.scenes import draw as drawing
from mae_bench.scenes import world as worlds
from mae_bench.scenes.draw import draw
from mae_bench.scenes.plan import uniform
from mae_bench.scenes.shapes import SHAPES, TABLE_REACH, TABLE_SIDE, distances

SMALL = WorldSpec("small", unlabeled=70, train_per_class=2, val_per_class=1, size=24, seed=3)
CROWDED = Look(others=6, other_radius=(0.1, 0.3), least_visible=0.5)


def drawn(look: Look, side: int = 32, count: int = 200) -> list[Scene]:
    return draw(look, side, 0, 1, range(count))


# ---------------------------------------------------------------- scenes


@pytest.mark.parametrize("look", [Look(), CROWDED], ids=["usual", "crowded"])
def test_boxes_masks_and_semantic_map_agree(look: Look) -> None:
    for scene in drawn(look):
        union = np.zeros((32, 32), dtype=int)
        for place, item in enumerate(scene.objects):
            ys, xs = np.nonzero(item.mask)
            assert item.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert (scene.semantic[item.mask] == item.category + 1).all()
            assert item.depth == place
            union += item.mask
        assert union.max() <= 1, "visible masks overlap"
        assert ((union == 1) == (scene.semantic > 0)).all()


def test_the_main_object_is_the_largest_and_gives_the_class() -> None:
    for index, scene in enumerate(drawn(Look())):
        assert scene.label == scene.objects[scene.main].category == index % len(CLASSES)
        extents = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (item.box for item in scene.objects)]
        assert max(extents) == extents[scene.main]


def test_occlusion_hides_parts_and_drops_what_is_mostly_hidden() -> None:
    plenty = drawn(CROWDED)
    covered = [item.covered for scene in plenty for item in scene.objects]
    assert max(covered) > 0.3, "nothing is occluded"
    assert all(0 <= part < 1 for part in covered)
    assert all(
        item.covered <= 0.5
        for scene in plenty
        for item in scene.objects
        if item is not scene.objects[scene.main]
    )
    # The nearest object is hidden by nothing.
    assert all(scene.objects[-1].covered == 0 for scene in plenty)


def test_an_object_can_be_seen_in_the_picture() -> None:
    """Inside the main object the luminance differs from the background just as the look promises."""
    light = np.array([0.299, 0.587, 0.114])
    contrasts = []
    for scene in drawn(Look(others=0)):
        luma = scene.image @ light / 255
        inside = scene.objects[0].mask
        contrasts.append(abs(luma[inside].mean() - np.median(luma[~inside])))
    assert np.mean(contrasts) > 0.25
    assert min(contrasts) > 0.08


def test_pictures_vary() -> None:
    images = np.stack([scene.image for scene in drawn(Look())]).astype(float)
    assert images.mean(axis=(1, 2, 3)).std() > 15, "all equally bright"
    assert len({image.tobytes() for image in images}) == len(images)


def test_a_scene_depends_on_seed_split_and_index_only() -> None:
    one, few = draw(Look(), 32, 0, 1, [57])[0], draw(Look(), 32, 0, 1, range(40, 60))[17]
    assert (one.image == few.image).all()
    for other in (
        draw(Look(), 32, 1, 1, [57])[0],
        draw(Look(), 32, 0, 2, [57])[0],
        draw(Look(), 32, 0, 1, [67])[0],
    ):
        assert (one.image != other.image).any()


def test_the_same_scene_at_a_larger_size_has_the_same_objects() -> None:
    for small, large in zip(drawn(Look(), 32, 20), drawn(Look(), 96, 20), strict=True):
        a, b = small.objects[small.main], large.objects[large.main]
        assert a.category == b.category
        np.testing.assert_allclose(np.array(b.box) / 3, a.box, atol=1.5)


def test_random_numbers_are_splitmix64() -> None:
    """Row and column streams worked out with Python's integers."""

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    step = 0x9E3779B97F4A7C15
    stream = mix((7 * step + 3) % 2**64)
    row = mix((stream + 12 * step) % 2**64)
    expected = [(mix((row + (k + 1) * step) % 2**64) >> 11) / 2**53 for k in range(4)]
    assert uniform(7, 2, np.array([11]), 4)[0].tolist() == expected
    many = uniform(0, 0, np.arange(20_000), 3)
    np.testing.assert_allclose(many.mean(axis=0), 0.5, atol=0.01)
    assert abs(np.corrcoef(many.T) - np.eye(3)).max() < 0.03


# ---------------------------------------------------------------- shapes


def test_distance_tables_are_right_where_the_answer_is_known() -> None:
    axis = (np.arange(TABLE_SIDE) + 0.5) / TABLE_SIDE * 2 * TABLE_REACH - TABLE_REACH
    x, y = np.meshgrid(axis, axis)
    radius = np.hypot(x, y)
    table = dict(zip(CLASSES, distances(), strict=True))
    np.testing.assert_allclose(table["disc"], radius - 0.9, atol=2e-3)
    np.testing.assert_allclose(table["ring"], np.maximum(radius - 0.95, 0.5 - radius), atol=2e-3)
    diamond = (abs(x) + abs(y) - 1) / np.sqrt(2)
    near = (diamond < 0) | (abs(abs(x) - abs(y)) < 1)  # elsewhere a corner is nearest
    np.testing.assert_allclose(table["square"][near], diamond[near], atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_are_as_large_as_the_unit_circle_and_differ(name: str) -> None:
    for outline in SHAPES[name]():
        assert np.hypot(*outline.T).max() <= 1.1
    table = distances()[CLASSES.index(name)]
    assert 0.03 < (table < 0).mean() < 0.3
    for other, theirs in zip(CLASSES, distances(), strict=True):
        if other != name:
            both = ((table < 0) & (theirs < 0)).sum() / ((table < 0) | (theirs < 0)).sum()
            assert both < 0.85, f"{name} and {other} are alike"


# ---------------------------------------------------------------- the world on disk


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_layout_is_imagenets(tmp_path: Path) -> None:
    seen: list[int] = []
    place = ensure(tmp_path, SMALL, progress=seen.append)
    assert place == tmp_path / "generated" / "small" == location(tmp_path, SMALL)
    assert sum(seen) == SMALL.images == 70 + 20 + 10
    assert sorted(entry.name for entry in (place / "train").iterdir()) == list(CLASSES)
    assert sorted(entry.name for entry in (place / "val").iterdir()) == list(CLASSES)
    assert len(list((place / "unlabeled" / "scene").glob("*.png"))) == 70
    for split, each in (("train", 2), ("val", 1)):
        for name in CLASSES:
            assert len(list((place / split / name).glob("*.png"))) == each
    for scene, split in ((next(scenes(SMALL, "train")), "train"), (next(scenes(SMALL, "val")), "val")):
        with Image.open(place / split / CLASSES[scene.label] / "000000.png") as image:
            assert image.mode == "RGB"
            assert (np.asarray(image) == scene.image).all()


def test_two_builds_are_equal_byte_for_byte_and_the_second_call_builds_nothing(tmp_path: Path) -> None:
    first, second = ensure(tmp_path / "a", SMALL), ensure(tmp_path / "b", SMALL)
    assert contents(first) == contents(second)
    calls: list[int] = []
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    ensure(tmp_path / "a", SMALL, progress=calls.append)
    assert calls == []
    assert before == {file: file.stat().st_mtime_ns for file in first.rglob("*")}


def test_a_changed_spec_or_generator_makes_the_world_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ensure(tmp_path, SMALL)
    old = contents(place)
    assert is_current(tmp_path, SMALL)
    reseeded = replace(SMALL, seed=4, val_per_class=2)
    assert not is_current(tmp_path, reseeded)
    ensure(tmp_path, reseeded)
    assert len(list((place / "val").rglob("*.png"))) == 20
    assert (place / "train/disc/000003.png").read_bytes() != old["train/disc/000003.png"]

    paint = drawing._paint
    monkeypatch.setattr(drawing, "_paint", lambda *given: 255 - paint(*given))
    assert not is_current(tmp_path, reseeded)
    ensure(tmp_path, reseeded)
    assert is_current(tmp_path, reseeded)
    assert sorted(os.listdir(place.parent)) == [".small.lock", "small"]


def test_a_damaged_record_is_mended(tmp_path: Path) -> None:
    record = ensure(tmp_path, SMALL) / "world.json"
    assert json.loads(record.read_text())["spec"]["unlabeled"] == 70
    record.write_text("{")
    ensure(tmp_path, SMALL)
    assert json.loads(record.read_text())["digest"] == digest(SMALL)


def test_a_failed_build_leaves_the_old_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ensure(tmp_path, SMALL)
    old = contents(place)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worlds.Image.Image, "save", full)
    with pytest.raises(MaeBenchError, match=r"No space left on device.*--data-root"):
        ensure(tmp_path, replace(SMALL, seed=9))
    assert contents(place) == old
    assert not list(place.parent.glob(".small.building-*"))


BUILD = """
import sys
from pathlib import Path
from mae_bench.scenes import WorldSpec, ensure
ensure(Path(sys.argv[1]), WorldSpec("big", unlabeled=20_000, train_per_class=2, val_per_class=1),
       progress=lambda n: print(n, flush=True))
"""


def test_a_killed_build_leaves_nothing_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"64\n"
        child.send_signal(signal.SIGKILL)
    folder = tmp_path / "generated"
    assert not (folder / "big").exists()
    assert list(folder.glob(".big.building-*"))
    spec = WorldSpec("big", unlabeled=10, train_per_class=1, val_per_class=1)
    ensure(tmp_path, spec)
    assert is_current(tmp_path, spec)
    assert not list(folder.glob(".big.building-*"))


def _ensure_together(root: str, start: float) -> int:
    time.sleep(max(0.0, start - time.time()))
    written: list[int] = []
    ensure(Path(root), SMALL, progress=written.append)
    return sum(written)


def test_processes_that_ask_at_once_build_it_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        start = time.time() + 1.5
        written = pool.starmap(_ensure_together, [(str(tmp_path), start)] * 3)
    assert sorted(written) == [0, 0, SMALL.images]
    assert is_current(tmp_path, SMALL)


def test_user_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"no generated world 'shape'.*did you mean 'shapes'"):
        ensure(tmp_path, "shape")
    (tmp_path / "generated" / "small").mkdir(parents=True)
    (tmp_path / "generated" / "small" / "holiday.png").touch()
    with pytest.raises(MaeBenchError, match="in the way"):
        ensure(tmp_path, SMALL)
    assert (tmp_path / "generated" / "small" / "holiday.png").exists()
    (tmp_path / "file").touch()
    with pytest.raises(MaeBenchError, match="cannot make the generated world"):
        ensure(tmp_path / "file", SMALL)


def test_named_worlds_have_enough_to_judge_by() -> None:
    assert SPECS["shapes"].count("val") >= 1000
    assert SPECS["tiny"].images < 600
    assert SPECS["faces"].count("train") == 1000
    assert SPECS["faces"].count("val") == 100
    assert SPECS["tiny-faces"].images == 120
    assert SPECS["faces-c"].images == 15 * 5 * 50
    assert SPECS["tiny-faces-c"].images == 15 * 5 * 20
    assert all(name == spec.name for name, spec in SPECS.items())
