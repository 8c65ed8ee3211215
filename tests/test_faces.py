"""The generated world in the layouts of iNaturalist, Places and the robustness sets, and its corrupted twin."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_bench import corruptions, scenes
from mae_bench.corruptions import CORRUPTIONS, SEVERITIES
from mae_bench.data import Source, corrupting, make_if_generated
from mae_bench.data.corrupting import made_locally
from mae_bench.errors import MaeBenchError
from mae_bench.scenes import CLASSES, SPECS, CorruptedSpec, FacesSpec, digest, styles
from mae_bench.scenes import faces as layouts
from mae_bench.scenes.draw import draw

TINY = SPECS["tiny-faces"]
assert isinstance(TINY, FacesSpec)
SPLITS = ("train", "val")
SETS = {
    "imagenet-a": ["crescent", "cross", "heart", "square", "triangle"],
    "imagenet-r": ["arrow", "disc", "hourglass", "ring", "star"],
    "sketch": list(CLASSES),
    "imagenetv2-matched-frequency-format-val": [str(label) for label in range(10)],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.ensure(tmp_path_factory.mktemp("data"), "tiny-faces")


def by_folder(world: Path, split: str) -> list[tuple[int, str, Path]]:
    """Label, name and file of the images of the class folders."""
    names = sorted(entry.name for entry in (world / "folder" / split).iterdir())
    return [
        (names.index(file.parent.name), file.name, file) for file in (world / "folder" / split).rglob("*.jpg")
    ]


def by_inat(world: Path, split: str) -> list[tuple[int, str, Path]]:
    document = json.loads((world / f"inat/{split}2018.json").read_text())
    ids = sorted(category["id"] for category in document["categories"])
    category_of = {record["image_id"]: record["category_id"] for record in document["annotations"]}
    return [
        (ids.index(category_of[image["id"]]), image["file_name"], world / "inat" / image["file_name"])
        for image in document["images"]
    ]


def by_places(world: Path, split: str) -> list[tuple[int, str, Path]]:
    lists = {"train": ("places365_train_standard.txt", "data_256"), "val": ("places365_val.txt", "val_256")}
    listed, images = lists[split]
    lines = [line.rsplit(" ", 1) for line in (world / "places" / listed).read_text().splitlines()]
    return [(int(label), name, world / "places" / images / name.lstrip("/")) for name, label in lines]


# ---------------------------------------------------------------- the three twins


@pytest.mark.parametrize("split", SPLITS)
def test_twins_hold_the_same_images_in_the_same_order(world: Path, split: str) -> None:
    folder, *others = (sorted(listed(world, split)) for listed in (by_folder, by_inat, by_places))
    assert len(folder) == TINY.count(split)
    for other in others:
        assert [label for label, _, _ in other] == [label for label, _, _ in folder]
        assert [file.read_bytes() for _, _, file in other] == [file.read_bytes() for _, _, file in folder]


@pytest.mark.parametrize("split", SPLITS)
def test_files_show_the_scenes_of_the_look_of_shapes(world: Path, split: str) -> None:
    assert TINY.look == SPECS["shapes"].look
    for index, scene in enumerate(scenes.scenes(TINY, split)):
        file = world / "folder" / split / CLASSES[scene.label] / f"{split}_{index + 1:08d}.jpg"
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
            assert np.abs(np.asarray(image).astype(int) - scene.image).mean() < 4


def test_no_image_is_in_two_splits_or_sets(world: Path) -> None:
    sets = ["folder/train", "folder/val", *SETS]
    contents = [file.read_bytes() for name in sets for file in (world / name).rglob("*.jpg")]
    assert len(contents) == TINY.images == len(set(contents))
    shapes = draw(SPECS["shapes"].look, 32, SPECS["shapes"].seed, 2, range(20))
    assert not {s.image.tobytes() for s in shapes} & {s.image.tobytes() for s in scenes.scenes(TINY, "val")}


def test_annotations_are_those_of_inaturalist(world: Path) -> None:
    image_ids: list[int] = []
    for split in SPLITS:
        document = json.loads((world / f"inat/{split}2018.json").read_text())
        categories = {category["id"]: category for category in document["categories"]}
        assert [categories[key]["name"] for key in sorted(categories)] == list(CLASSES)
        assert {record["image_id"] for record in document["annotations"]} == {
            image["id"] for image in document["images"]
        }
        assert len(document["annotations"]) == len(document["images"])
        for image in document["images"]:
            assert (image["width"], image["height"]) == (32, 32)
        category_of = {record["image_id"]: record["category_id"] for record in document["annotations"]}
        for image in document["images"]:
            top, kind, category, _ = image["file_name"].split("/")
            assert top == "train_val2018"
            assert int(category) == category_of[image["id"]]
            assert kind == categories[int(category)]["supercategory"]
        image_ids += [image["id"] for image in document["images"]]
    assert len(set(image_ids)) == len(image_ids)


def test_what_may_go_wrong_in_reading_goes_wrong_here(world: Path) -> None:
    ids = layouts.CATEGORY_IDS
    assert list(ids) == sorted(ids) != sorted(ids, key=str)
    assert max(ids) >= len(ids)
    assert sorted(range(10), key=lambda label: (layouts.KINDS[label], ids[label])) != list(range(10))
    document = json.loads((world / "inat/train2018.json").read_text())
    for key, order in (("images", "file_name"), ("annotations", "image_id"), ("categories", "id")):
        values = [record[order] for record in document[key]]
        assert values != sorted(values), key
    lines = (world / "places/places365_train_standard.txt").read_text().splitlines()
    assert lines != sorted(lines)


def test_lists_are_those_of_places(world: Path) -> None:
    listed = (world / "places/categories_places365.txt").read_text().splitlines()
    assert listed == [f"/{name[0]}/{name} {label}" for label, name in enumerate(CLASSES)]
    train = (world / "places/places365_train_standard.txt").read_text().splitlines()
    assert train[0] == "/a/arrow/00000001.jpg 0"
    val = (world / "places/places365_val.txt").read_text().splitlines()
    assert val[:2] == ["Places365_val_00000001.jpg 0", "Places365_val_00000002.jpg 1"]
    assert len(list((world / "places/val_256").iterdir())) == len(val) == TINY.count("val")


# ---------------------------------------------------------------- the sets that test robustness


@pytest.mark.parametrize("name", SETS)
def test_each_set_has_its_classes(world: Path, name: str) -> None:
    files = list((world / name).rglob("*.jpg"))
    held = Counter(file.parent.name for file in files)
    assert held == dict.fromkeys(SETS[name], TINY.val_per_class)
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def pixels(world: Path, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted((world / name).rglob("*.jpg"))]).astype(
        int
    )


def test_sketches_are_grey_lines_on_light_paper(world: Path) -> None:
    images = pixels(world, "sketch")
    assert np.abs(images - images[..., :1]).max() <= 2
    dark = (images[..., 0] < 128).mean(axis=(1, 2))
    assert (dark > 0.03).all()
    assert (dark < 0.35).all()


def test_posters_are_flat_and_scenes_are_not() -> None:
    """Of neighbouring pixels in a row most are equal where colours are flat."""
    label = {"imagenet-r": styles.FRESH["imagenet-r"], "sketch": styles.FRESH["sketch"]}
    assert isinstance(TINY, FacesSpec)
    poster = np.stack([image for _, image in layouts.drawn_afresh(TINY, label["imagenet-r"], 20)])
    shaded = np.stack([scene.image for scene in scenes.scenes(TINY, "val")])

    def equal(images: np.ndarray) -> float:
        return float((images[:, :, 1:] == images[:, :, :-1]).all(axis=-1).mean())

    assert equal(poster) > 0.4 > 0.2 > equal(shaded)


def test_adversarial_scenes_are_fuller() -> None:
    usual = draw(TINY.look, 32, TINY.seed, 3, range(60))
    full = draw(styles.CLUTTERED, 32, TINY.seed, 3, range(60))
    covered = [np.mean([(scene.semantic > 0).mean() for scene in some]) for some in (usual, full)]
    assert covered[1] > 1.3 * covered[0]
    assert np.mean([len(scene.objects) for scene in full]) > 4
    assert [scene.label for scene in full] == [index % 10 for index in range(60)]


def test_reassessed_labels_follow_the_order_of_sorted_file_names(world: Path) -> None:
    real = json.loads((world / "real.json").read_text())
    names = {file.name: file.parent.name for file in (world / "folder/val").rglob("*.jpg")}
    assert len(real) == len(names) == TINY.count("val")
    for name, labels, scene in zip(sorted(names), real, scenes.scenes(TINY, "val"), strict=True):
        seen = {item.category for item in scene.objects}
        assert set(labels) <= seen
        assert not labels or CLASSES.index(names[name]) in labels
    sizes = Counter(map(len, real))
    assert sizes[0] >= 1
    assert sizes[1] > sizes[2] >= 1
    assert set(sizes) == {0, 1, 2}


# ---------------------------------------------------------------- building


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_second_build_is_equal_and_counts_its_images(world: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    assert contents(scenes.ensure(tmp_path, "tiny-faces", seen.append)) == contents(world)
    assert sum(seen) == TINY.images


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (layouts, "KINDS", ("Aves",) * 10),
        (layouts, "CATEGORY_IDS", tuple(range(10))),
        (styles, "CLUTTERED", replace(styles.CLUTTERED, others=4)),
        (styles, "_smaller", lambda canvas: np.zeros((32, 32, 3), dtype=np.uint8)),
    ],
)
def test_the_digest_covers_texts_and_styles(
    module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(TINY)
    monkeypatch.setattr(module, name, value)
    assert digest(TINY) != before


# ---------------------------------------------------------------- the corrupted world

SMALL = FacesSpec("small", train_per_class=1, val_per_class=1, seed=5)
SMALL_C = CorruptedSpec("small-c", clean=SMALL)


@pytest.mark.slow
def test_the_corrupted_world_has_the_layout_of_imagenet_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPECS, "small", SMALL)
    monkeypatch.setitem(SPECS, "small-c", SMALL_C)
    make_if_generated("generated/small-c", tmp_path)
    place = tmp_path / "generated/small-c"
    assert scenes.is_current(tmp_path, SMALL), "the clean world is made first"
    assert scenes.is_current(tmp_path, SMALL_C)
    assert not list(place.rglob(".*"))
    clean = {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for file in (tmp_path / "generated/small/folder/val").rglob("*.jpg")
    }
    folders = [place / name / str(severity) for name in CORRUPTIONS for severity in SEVERITIES]
    assert len(folders) == 75
    assert sum(1 for _ in place.rglob("*.jpg")) == SMALL_C.images == 75 * len(clean)
    for folder in folders:
        there = {f"{file.parent.name}/{file.name}": file for file in folder.rglob("*.jpg")}
        assert there.keys() == clean.keys()
        for name, file in there.items():
            with Image.open(file) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
            assert file.read_bytes() != clean[name]
    label = made_locally(place)
    assert label is not None
    assert label["complete"]
    assert label["source"]["name"] == "generated/small/folder/val"
    before = contents(place)
    make_if_generated("generated/small-c", tmp_path)
    assert contents(place) == before


def test_the_corrupted_world_may_hold_a_part_of_each_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = FacesSpec("pair", train_per_class=1, val_per_class=2, seed=5)
    monkeypatch.setitem(SPECS, "pair", clean)
    taken: list[str] = []

    def note(source: Source, *_: object, **__: object) -> None:
        taken.extend(source.name(index) for index in range(len(source)))

    monkeypatch.setattr(corrupting, "make", note)
    part, whole = CorruptedSpec("pair-c", clean=clean, per_class=1), CorruptedSpec("pair-c", clean=clean)
    scenes.ensure(tmp_path, part)
    folders = sorted((tmp_path / "generated/pair/folder/val").iterdir())
    assert [Path(name) for name in taken] == [sorted(folder.iterdir())[0] for folder in folders]
    assert part.images == whole.images // 2 == 75 * 10
    assert digest(part) != digest(whole)


def test_the_corrupted_world_follows_the_library_and_the_clean_world(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(SMALL_C)
    assert digest(CorruptedSpec("small-c", clean=replace(SMALL, seed=6))) != before
    monkeypatch.setattr(corruptions.metadata, "version", lambda name: "9.9")
    assert digest(SMALL_C) != before


def test_without_the_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise corruptions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(corruptions.metadata, "version", missing)
    with pytest.raises(MaeBenchError, match=r'pip install "mae-bench\[corruptions\]"'):
        make_if_generated("generated/tiny-faces-c", tmp_path)
    assert not list(tmp_path.rglob("*faces*"))
