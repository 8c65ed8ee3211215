"""The generated world for dense tasks: its files must say of each scene what the scene says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco_masks
from PIL import Image

from mae_bench import scenes
from mae_bench.data import make_if_generated
from mae_bench.errors import MaeBenchError
from mae_bench.scenes import CLASSES, SPECS, DenseSpec, Scene
from mae_bench.scenes import dense as layouts
from mae_bench.scenes.draw import draw
from mae_bench.scenes.outlines import Mask, compressed, polygons, runs
from mae_bench.scenes.specs import SCATTERED, identity

TINY = SPECS["tiny-scenes"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.ensure(tmp_path_factory.mktemp("data"), "tiny-scenes")


def blobs(count: int = 60) -> list[Mask]:
    """Masks of every kind, 20 x 27 pixels: sums of waves above a threshold, with holes, specks and corners."""
    y, x = np.mgrid[:20, :27]
    waves = [np.sin(x * (0.2 + i % 7 / 9) + i) * np.cos(y * (0.15 + i % 5 / 7) - i) for i in range(count)]
    return [wave > np.quantile(wave, 0.3 + i % 4 * 0.2) for i, wave in enumerate(waves)]


def filled(outlines: list[list[int]], shape: tuple[int, ...]) -> Mask:
    """The mask that pycocotools' rule makes of polygons."""
    encoded = coco_masks.frPyObjects(outlines, *shape)
    return np.asarray(coco_masks.decode(coco_masks.merge(encoded)), dtype=bool)


# ---------------------------------------------------------------- outlines and runs


def test_polygons_fill_exactly_the_mask() -> None:
    whole = 0
    for mask in blobs():
        outlines = polygons(mask)
        if outlines is None:
            continue
        whole += 1
        assert (filled(outlines, mask.shape) == mask).all()
    assert 20 < whole < 60, "the masks are of one kind only"


def test_polygons_hold_corners_only_and_one_outline_for_each_part() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:3, 2:5] = True
    mask[5, 0] = True
    assert polygons(mask) == [[0, 5, 1, 5, 1, 6, 0, 6], [2, 1, 5, 1, 5, 3, 2, 3]]


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        outlines = polygons(mask)
        assert outlines is not None
        assert [len(outline) for outline in outlines] == [8, 8]
        assert (filled(outlines, mask.shape) == mask).all()


def test_a_mask_with_a_hole_has_no_polygons() -> None:
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    assert polygons(mask) is None
    mask[2, 3:] = False  # now the hole is a bay
    assert polygons(mask) == [[0, 0, 5, 0, 5, 2, 2, 2, 2, 3, 5, 3, 5, 5, 0, 5]]


def test_runs_are_cocos() -> None:
    for mask in [*blobs(), np.zeros((3, 4), dtype=bool), np.ones((3, 4), dtype=bool)]:
        theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert compressed(runs(mask)).encode() == theirs["counts"]
    long = np.zeros((300, 400), dtype=bool)
    long[:, 200] = True  # runs and differences that take several characters, of both signs
    long[7, 300:] = True
    theirs = coco_masks.encode(np.asfortranarray(long.astype(np.uint8)))
    assert compressed(runs(long)).encode() == theirs["counts"]


# ---------------------------------------------------------------- scenes


def test_scattered_scenes_hold_several_objects_of_like_size_anywhere() -> None:
    plenty = draw(SCATTERED, 64, 1, 1, range(200))
    numbers = [len(scene.objects) for scene in plenty]
    assert min(numbers) >= 1
    assert max(numbers) == 5
    assert np.mean([number >= 2 for number in numbers]) > 0.97
    items = [item for scene in plenty for item in scene.objects]
    centres = np.array([[(x0 + x1) / 2, (y0 + y1) / 2] for x0, y0, x1, y1 in (item.box for item in items)])
    assert np.histogramdd(centres, bins=(4, 4), range=((0, 64), (0, 64)))[0].min() > 10, "some place is empty"
    cut = [min(item.box) == 0 or max(item.box) == 64 for item in items]
    assert 0.2 < np.mean(cut) < 0.6
    assert 0.1 < np.mean([item.covered > 0.1 for item in items]) < 0.4
    assert max(item.covered for item in items) <= 0.7


def test_the_main_object_of_a_scattered_scene_is_the_nearest() -> None:
    for index, scene in enumerate(draw(SCATTERED, 64, 1, 1, range(60))):
        assert scene.main == len(scene.objects) - 1
        assert scene.label == scene.objects[-1].category == index % len(CLASSES)


def test_parameters_that_came_later_leave_the_digest_of_the_first_worlds_alone() -> None:
    first = {
        "main_radius", "other_radius", "others", "shift", "turn", "contrast", "least_visible",
    }  # fmt: skip
    assert set(identity(SPECS["shapes"])["look"]) == first
    assert identity(SPECS["tiny-scenes"])["look"].items() >= {("fewest", 1), ("margin", 0.06)}


# ---------------------------------------------------------------- COCO


def document(world: Path, split: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((world / f"coco/annotations/instances_{split}2017.json").read_text())
    return loaded


def whole(split: str) -> list[Scene]:
    return list(scenes.scenes(TINY, split))


@pytest.mark.parametrize(("split", "first"), [("train", 1), ("val", 25)])
def test_coco_files_and_ids(world: Path, split: str, first: int) -> None:
    told = document(world, split)
    assert set(told) == {"info", "licenses", "images", "annotations", "categories"}
    files = sorted(entry.name for entry in (world / f"coco/{split}2017").iterdir())
    ids = range(first, first + TINY.count(split))
    assert [image["id"] for image in told["images"]] == list(ids)
    assert [image["file_name"] for image in told["images"]] == files == [f"{i:012d}.png" for i in ids]
    for image, scene in zip(told["images"], whole(split), strict=True):
        with Image.open(world / f"coco/{split}2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 64)
            assert (np.asarray(picture) == scene.image).all()
    assert [category["name"] for category in told["categories"]] == list(CLASSES)
    numbers = [category["id"] for category in told["categories"]]
    assert numbers == sorted(set(numbers))
    assert numbers != list(range(1, 11)), "there are holes in the ids"


def test_annotation_ids_occur_once(world: Path) -> None:
    ids = [record["id"] for split in ("train", "val") for record in document(world, split)["annotations"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_say_what_the_scenes_say(world: Path, split: str) -> None:
    coco = COCO(str(world / f"coco/annotations/instances_{split}2017.json"))
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    kinds: set[str] = set()
    for image_id, scene in zip(coco.getImgIds(), whole(split), strict=True):
        crowded = image_id % layouts.CROWD_EVERY == 0
        by_class: dict[str, list[Mask]] = {}
        for item in scene.objects:
            by_class.setdefault(CLASSES[item.category], []).append(item.mask)
        wanted = [
            (name, crowded and len(masks) > 1, mask)
            for name, masks in by_class.items()
            for mask in ([np.logical_or.reduce(masks)] if crowded and len(masks) > 1 else masks)
        ]
        records = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        for record, (name, crowd, mask) in zip(records, wanted, strict=True):
            assert names[record["category_id"]] == name
            assert record["iscrowd"] == crowd
            assert (np.asarray(coco.annToMask(record), dtype=bool) == mask).all()
            assert record["area"] == mask.sum()
            x, y, width, height = record["bbox"]
            ys, xs = np.nonzero(mask)
            assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            shape = record["segmentation"]
            kind = "polygons" if isinstance(shape, list) else type(shape["counts"]).__name__
            assert (kind == "list") == crowd
            kinds.add(kind)
    assert kinds == {"polygons", "str", "list"}, "a way of writing masks does not occur"


def test_objects_of_one_class_are_a_crowd_in_some_images_only(world: Path) -> None:
    crowds = [record["image_id"] for record in document(world, "train")["annotations"] if record["iscrowd"]]
    assert crowds
    assert all(image_id % layouts.CROWD_EVERY == 0 for image_id in crowds)


# ---------------------------------------------------------------- ADE20K


@pytest.mark.parametrize(
    ("split", "part", "stem"), [("train", "training", "ADE_train"), ("val", "validation", "ADE_val")]
)
def test_label_maps_are_ade20ks(world: Path, split: str, part: str, stem: str) -> None:
    files = sorted((world / "ade20k/annotations" / part).iterdir())
    assert [file.name for file in files] == [f"{stem}_{i:08d}.png" for i in range(1, TINY.count(split) + 1)]
    for file, scene in zip(files, whole(split), strict=True):
        with Image.open(file) as picture:
            assert picture.mode == "L"
            labels = np.asarray(picture)
        shown = scene.semantic > 0
        assert (labels[shown] == scene.semantic[shown] + 1).all()
        for y, x in np.argwhere(~shown).tolist():
            beside = [
                shown[j, i]
                for j, i in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
                if 0 <= j < 64 and 0 <= i < 64
            ]
            assert labels[y, x] == (0 if any(beside) else 1)


def test_both_layouts_share_the_files_of_the_images(world: Path) -> None:
    coco, ade = (
        world / "coco/val2017/000000000025.png",
        world / "ade20k/images/validation/ADE_val_00000001.png",
    )
    assert coco.samefile(ade)


def test_without_links_the_images_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    place = scenes.ensure(tmp_path, DenseSpec("few", train=2, val=1))
    one, other = (
        place / "coco/train2017/000000000002.png",
        place / "ade20k/images/training/ADE_train_00000002.png",
    )
    assert not one.samefile(other)
    assert one.read_bytes() == other.read_bytes()


def test_the_class_list_names_each_label_with_a_colour_of_its_own(world: Path) -> None:
    lines = (world / "ade20k/classes.txt").read_text().splitlines()
    names, colours = zip(*(line.split("\t") for line in lines), strict=True)
    assert names == ("background", *CLASSES)
    assert len(set(colours)) == len(colours)
    assert all(0 <= int(part) <= 255 for colour in colours for part in colour.split(" "))


# ---------------------------------------------------------------- made when it is asked for


def test_a_root_inside_a_world_makes_the_world(tmp_path: Path) -> None:
    make_if_generated("coco", tmp_path)
    make_if_generated(str(tmp_path / "generated/tiny-scenes"), tmp_path)
    assert not (tmp_path / "generated").exists()
    make_if_generated("generated/tiny-scenes/ade20k", tmp_path)
    assert scenes.is_current(tmp_path, "tiny-scenes")
    assert (tmp_path / "generated/tiny-scenes/ade20k/images/training/ADE_train_00000024.png").is_file()
    with pytest.raises(MaeBenchError, match=r"no generated world 'scene' .*did you mean 'scenes'"):
        make_if_generated("generated/scene/coco", tmp_path)


def test_two_dense_worlds_are_equal_byte_for_byte_and_annotations_count(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = scenes.ensure(tmp_path, "tiny-scenes")
    files = sorted(file.relative_to(world) for file in world.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((world / file).read_bytes() == (again / file).read_bytes() for file in files)
    monkeypatch.setattr(layouts, "CROWD_EVERY", 2)
    assert not scenes.is_current(tmp_path, "tiny-scenes"), "a change of the annotations goes unnoticed"
