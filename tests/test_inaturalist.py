"""The annotation files of iNaturalist: the images in their order, and what is wrong with a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_bench.data import decode, open_source, train_dataset, val_dataset
from mae_bench.data.json_lists import read_lists
from mae_bench.data.sources import Split
from mae_bench.errors import MaeBenchError
from tests.layouts import (
    CLASSES,
    FOLDER,
    IDS,
    INAT,
    TORCHVISION,
    contents,
    edit_json,
    opening_fails,
    write_layouts,
)
from tests.pictures import encoded, settings, smooth

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """The four layouts of the same pictures."""
    return write_layouts(tmp_path)


refused = partial(opening_fails, INAT)


# ---------------------------------------------------------------- the same images in the same order


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", [INAT, TORCHVISION])
def test_the_json_gives_what_the_class_folders_give(
    layouts: Path, split: Split, layout: dict[str, object]
) -> None:
    ours = open_source(settings(**layout, classes=4), split, layouts)
    twin = open_source(settings(**FOLDER), split, layouts)
    assert contents(ours) == contents(twin)
    assert ours.classes == twin.classes == CLASSES
    for index in range(len(twin)):
        assert torch.equal(decode(ours.read(index)), decode(twin.read(index)))
        assert Path(ours.name(index)).name == Path(twin.name(index)).name
        assert Path(ours.name(index)).read_bytes() == twin.read(index)


def test_both_layouts_are_the_same_dataset(layouts: Path) -> None:
    prints = {
        open_source(settings(**layout), "train", layouts).fingerprint() for layout in (INAT, TORCHVISION)
    }
    assert len(prints) == 1
    assert open_source(settings(**FOLDER), "train", layouts).fingerprint() not in prints


def test_names_are_where_the_images_are(layouts: Path) -> None:
    first = open_source(settings(**INAT), "train", layouts).name(0)
    assert first.startswith(f"{layouts}/inat/train_val2018/Insecta/7/")
    first = open_source(settings(**TORCHVISION), "train", layouts).name(0)
    assert first.startswith(f"{layouts}/torchvision/2018/Insecta/7/")


def test_datasets_of_an_annotation_file(layouts: Path) -> None:
    values = settings(**INAT)
    train, val = train_dataset(values, layouts), val_dataset(values, layouts)
    assert train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 5 + [3] * 2
    assert val.labels.tolist() == [0, 1, 1, 2, 3, 3]
    assert train[3]["image"].shape == (3, 8, 8)


def write_2021(root: Path) -> list[bytes]:
    """`train.json` as in 2021, whose folders of categories lie in the folder of the split."""
    pictures = [encoded(smooth(seed)) for seed in range(4)]
    images, annotations = [], []
    for index, picture in enumerate(pictures):
        folder = f"train/0000{index % 2}_Animalia_Chordata_Aves_Genus_kind"
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{index}.jpg").write_bytes(picture)
        images.append({"id": index, "file_name": f"{folder}/{index}.jpg", "latitude": None})
        annotations.append({"id": index, "image_id": index, "category_id": index % 2})
    categories = [{"id": number, "name": f"bird {number}", "image_dir_name": "x"} for number in range(2)]
    content = {"images": images, "categories": categories, "annotations": annotations, "licenses": []}
    (root / "train.json").write_text(json.dumps(content, indent=1))
    return pictures


def test_the_layout_of_2021_and_torchvisions_of_it(tmp_path: Path) -> None:
    pictures = write_2021(tmp_path / "set")
    expected = [(pictures[index], label) for label, index in ((0, 0), (0, 2), (1, 1), (1, 3))]
    values = {"source": "inat", "train": "train.json"}
    source = open_source(settings(**values), "train", tmp_path)
    assert contents(source) == expected
    assert source.classes == ["bird 0", "bird 1"]
    (tmp_path / "set" / "train").rename(tmp_path / "set" / "2021_train")
    source = open_source(settings(**values, train_images="2021_train"), "train", tmp_path)
    assert contents(source) == expected


def test_images_in_no_common_folder(tmp_path: Path) -> None:
    write_2021(tmp_path / "set")

    def leave_out_the_split(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = image["file_name"].removeprefix("train/")

    edit_json(tmp_path / "set" / "train.json", leave_out_the_split)
    for folder in list((tmp_path / "set" / "train").iterdir()):
        folder.rename(tmp_path / "set" / folder.name)
    source = open_source(settings(source="inat", train="train.json"), "train", tmp_path)
    assert [Path(source.name(index)).name for index in range(4)] == ["0.jpg", "2.jpg", "1.jpg", "3.jpg"]
    assert source.name(0).startswith(f"{tmp_path}/set/00000_Animalia")
    assert source.read(0) == encoded(smooth(0))


def test_images_in_no_folder_at_all(tmp_path: Path) -> None:
    write_2021(tmp_path / "set")
    edit_json(
        tmp_path / "set" / "train.json",
        lambda content: [
            image.update(file_name=image["file_name"].rpartition("/")[2]) for image in content["images"]
        ],
    )
    (tmp_path / "set" / "flat").mkdir()
    for path in list((tmp_path / "set" / "train").rglob("*.jpg")):
        path.rename(tmp_path / "set" / "flat" / path.name)
    source = open_source(settings(source="inat", train="train.json", train_images="flat"), "train", tmp_path)
    assert source.name(1) == f"{tmp_path}/set/flat/2.jpg"


def test_without_labels_only_the_images_matter(layouts: Path) -> None:
    edit_json(layouts / "inat/train2018.json", lambda content: content.pop("annotations"))
    source = open_source(settings(**INAT), "train", layouts, labelled=False)
    names = [source.name(index) for index in range(len(source))]
    assert (len(names), source.classes, names) == (14, ["unlabelled"], sorted(names))


def test_the_training_file_decides_and_val_alone_does_without(layouts: Path) -> None:
    (layouts / "inat/train2018.json").unlink()
    assert open_source(settings(**INAT), "val", layouts).classes == CLASSES


def test_names_that_several_categories_have_get_their_ids(layouts: Path) -> None:
    def same(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            if category["name"] in ("ant", "cat"):
                category["name"] = "beast"

    for split in ("train", "val"):
        edit_json(layouts / f"inat/{split}2018.json", same)
    for split in ("train", "val"):
        source = open_source(settings(**INAT), split, layouts)
        assert source.classes == ["beast (7)", "bee", "beast (300)", "daisy"]


def test_a_class_list_may_give_another_order(layouts: Path) -> None:
    (layouts / "inat/order.txt").write_text("daisy\ncat\nbee\nant\n")
    source = open_source(settings(**INAT, class_list="order.txt"), "val", layouts)
    assert [source.label(index) for index in range(6)] == [3, 2, 2, 1, 0, 0]


# ---------------------------------------------------------------- what is wrong with a file


def first(key: str, **values: object) -> Change:
    """Change an element."""
    return lambda content: content[key][0].update(values)


def without(key: str, entry: str) -> Change:
    """Take something from an element."""
    return lambda content: content[key][0].pop(entry)


FAULTS: dict[str, tuple[Change, str]] = {
    "test set": (lambda all: all.pop("annotations"), "has no 'annotations': it is the file of a test set"),
    "test set without categories": (
        lambda all: (all.pop("annotations"), all.pop("categories"))[0],
        "has no 'annotations': it is the file of a test set",
    ),
    "no keys": (
        lambda all: (all.pop("images"), all.pop("categories"))[0],
        "train2018.json: no 'categories' and no 'images': not an annotation file of an iNaturalist",
    ),
    "no list": (lambda all: all.update(images={}), "train2018.json: 'images' is not a list"),
    "no images": (
        lambda all: all.update(images=[], annotations=[]),
        "holds no image. Expected train2018.json, an annotation",
    ),
    "no categories": (lambda all: all.update(categories=[]), "'categories' is empty"),
    "image without id": (without("images", "id"), "an image needs a whole number 'id', unlike .*file_name"),
    "image that is a number": (
        lambda all: all["images"].append(3),
        "an image needs a whole .*'id', unlike 3",
    ),
    "id in words": (first("images", id="7"), "an image needs a whole number 'id', unlike"),
    "id of any size": (first("images", id=1 << 70), "an image needs a whole number 'id', unlike"),
    "image without name": (without("images", "file_name"), "image 999 has no 'file_name'"),
    "absolute": (first("images", file_name="/etc/x.jpg"), "of image 999, '/etc/x.jpg', is an absolute path"),
    "leaves": (
        first("images", file_name="a/../../x.jpg"),
        "image 999, 'a/../../x.jpg', leaves the folder .* by '..'; it must be a path below data.root",
    ),
    "no file": (first("images", file_name="a/"), "'a/', names no file"),
    "no character": (first("images", file_name="a/\ud83d.jpg"), "holds a character that no file's name"),
    "nul": (first("images", file_name="a/\0.jpg"), "holds a character that no file's name"),
    "category without name": (without("categories", "name"), "category 4000 has no 'name'"),
    "category twice": (first("categories", id=7), "'categories' has the id 7 twice"),
    "image twice": (first("images", id=997), "'images' has the id 997 twice; ids must differ"),
    "file twice": (
        lambda all: all["images"][0].update(file_name=all["images"][1]["file_name"]),
        r"the images 999 and 997 are one file, 'Insecta/7/\d+.png'; remove one",
    ),
    "annotation without category": (
        without("annotations", "category_id"),
        "an annotation needs a whole number 'category_id', unlike .*'id': 14",
    ),
    "unknown category": (
        first("annotations", category_id=8),
        "annotation gives image 986 the category 8, but there is no category 8; add it",
    ),
    "unknown image": (
        first("annotations", image_id=5),
        "annotation gives image 5 the category 4000, but there is no image 5; add it",
    ),
    "no annotation": (
        lambda all: all["annotations"].pop(0),
        "image 986 .'Plantae/4000/.*.png'. has no annotation, so no class",
    ),
    "two annotations": (
        first("annotations", image_id=999),
        "image 986 .* has no annotation|image 999 .* has 2 annotations",
    ),
    "boxes": (
        lambda all: all["annotations"].append(all["annotations"][0]),
        "image 986 .'Plantae/.*'. has 2 annotations; there must be one an image .a file of bounding boxes",
    ),
    "empty class": (
        lambda all: all["categories"].append({"id": 9000, "name": "eel"}),
        "train2018.json: no image in class eel",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_an_annotation_file(layouts: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    edit_json(layouts / "inat/train2018.json", change)
    refused(message, layouts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train2018.json: not JSON: it ends in the middle; copy or download it again"),
        ("[]", "the JSON is not an object with images, categories, annotations"),
        ("images", "the JSON is not an object"),
        ('{"images": [{"id": 1', "not JSON: it ends in the middle"),
        ('{"categories": [{"id": 1, "name": "ant"}, {"id', "not JSON: it ends in the middle"),
        ('{"categories": [', "not JSON: it ends in the middle"),
        ('{"categories": [}', "not JSON: Expecting value, at character 16 of the file"),
        ('{"categories": [] "images": []}', "not JSON: ',' or '}' is missing, at character 18"),
        ('{"categories": [], "categories": []}', "has 'categories' twice"),
        ("{categories: []}", "not JSON: a key in double quotes is missing, at character 1"),
        ('{"categories": []} {}', "not JSON: something follows the end of the object, at character 19"),
        ('{"info": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON: values are nested too deeply"),
    ],
)
def test_files_that_are_no_json(layouts: Path, text: str, message: str) -> None:
    (layouts / "inat/train2018.json").write_text(text)
    refused(message, layouts)


def test_an_archive_in_place_of_the_json(layouts: Path) -> None:
    (layouts / "inat/train2018.json").write_bytes(b"\x1f\x8b\x08\x00\xff")
    refused("not a UTF-8 text; unpack it first if it is an archive", layouts)


def test_a_missing_file_names_what_is_there(layouts: Path) -> None:
    refused(
        r"train2019.json: no file there \(data.train = 'train2019.json' of data.root = 'inat'\). "
        "Expected train2019.json, an annotation file .* holds train2018.json, train_val2018/, val2018.json; did you",
        layouts,
        train="train2019.json",
    )
    refused("no file there .*holds train2018.json", layouts, train="train_val2018")
    with pytest.raises(MaeBenchError, match=r"none\.json: no such file"):
        read_lists(layouts / "none.json", {})


def test_another_number_of_classes(layouts: Path) -> None:
    refused("data.classes is 8142, but .*train2018.json has 4 classes: ant, bee", layouts, classes=8142)


def test_categories_that_differ_between_train_and_val(layouts: Path) -> None:
    edit_json(layouts / "inat/val2018.json", first("categories", name="aster"))
    refused(
        r"the categories of .*train2018.json and .*val2018.json differ: .*train2018.json lacks class aster, "
        ".*val2018.json lacks class daisy. Give both files the same list",
        layouts,
        "val",
    )
    edit_json(layouts / "inat/val2018.json", first("categories", name="daisy"))
    edit_json(layouts / "inat/val2018.json", lambda all: all["categories"].append({"id": 1, "name": "elk"}))
    refused("differ: .*train2018.json lacks class elk. Give both", layouts, "val")


def test_categories_in_another_order(layouts: Path) -> None:
    def exchange(content: dict[str, Any]) -> None:
        one, two = content["categories"][:2]
        one["name"], two["name"] = two["name"], one["name"]

    edit_json(layouts / "inat/val2018.json", exchange)
    with pytest.raises(
        MaeBenchError, match=r"differ: in order \(label: training / validation\), \d: '"
    ) as error:
        open_source(settings(**INAT), "val", layouts)
    assert error.value.kind == "class-order"


def test_a_class_that_val_lacks(layouts: Path) -> None:
    def drop(content: dict[str, Any]) -> None:
        gone = [each["image_id"] for each in content["annotations"] if each["category_id"] == IDS["cat"]]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] not in gone]
        content["images"] = [each for each in content["images"] if each["id"] not in gone]

    edit_json(layouts / "inat/val2018.json", drop)
    refused("val2018.json has no image of class cat of .*train2018.json", layouts, "val")


# ---------------------------------------------------------------- images that are not there


def test_another_folder_of_images_is_named(layouts: Path) -> None:
    (layouts / "inat/train_val2018").rename(layouts / "inat/2018")
    refused(
        "inat/train_val2018 is missing, the folder of the images that .*train2018.json lists. "
        "'Insecta/7/.*.png' is in .*/inat/2018: set \"data.train_images='2018'\"$",
        layouts,
    )
    refused("set \"data.val_images='2018'\"$", layouts, "val")
    (layouts / "inat/2018").rename(layouts / "inat/2021_train")
    refused("is in .*/inat/2021_train: set data.train_images=2021_train$", layouts)
    (layouts / "inat/2021_train").rename(layouts / "elsewhere")
    (layouts / "inat/train_val2017").mkdir()
    refused(
        "Unpack the images there, or set data.train_images to the folder below .*/inat that holds them. "
        ".*/inat holds train_val2017/; did you mean 'train_val2017'",
        layouts,
    )


def test_images_below_the_root_itself(layouts: Path) -> None:
    for folder in list((layouts / "inat/train_val2018").iterdir()):
        folder.rename(layouts / "inat" / folder.name)
    refused("is in .*/inat: set data.train_images=.$", layouts)
    assert len(open_source(settings(**INAT, train_images="."), "train", layouts)) == 14


def test_missing_images_are_counted_and_some_are_allowed(layouts: Path) -> None:
    gone = sorted((layouts / "inat/train_val2018/Mammalia/300").iterdir())[:2]
    present = [path.name for path in gone]
    twin = open_source(settings(**FOLDER), "train", layouts)
    of_train = {Path(twin.name(index)).name for index in range(len(twin))}
    for path in gone:
        path.unlink()
    missing = sum(name in of_train for name in present)
    refused(
        f"train_val2018 lacks {missing} of the 14 images that .*train2018.json lists: Mammalia/300/.*.png. Complete it",
        layouts,
    )
    source = open_source(settings(**INAT, max_bad_images=2), "train", layouts)
    assert len(source) == 14
    with pytest.raises(OSError, match="No such file"):
        [source.read(index) for index in range(14)]


def test_many_missing_images_are_cut_short(layouts: Path) -> None:
    for path in (layouts / "inat/train_val2018").rglob("*.png"):
        path.unlink()
    refused("lacks 14 of the 14 images .*: Insecta/7/.* and 11 more", layouts)


def test_folders_of_images_belong_to_files_that_name_images(layouts: Path) -> None:
    for key in ("train_images", "val_images"):
        with pytest.raises(MaeBenchError, match=f"data.{key}: only for source inat or filelist, not folder"):
            open_source(settings(**FOLDER, **{key: "x"}), "train", layouts)
    with pytest.raises(MaeBenchError, match=r"data\.val_labels: only for source folder or tar, not inat"):
        open_source(settings(**INAT, val_labels="x"), "val", layouts)


# ---------------------------------------------------------------- reading piece by piece


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_lists_are_read_the_same_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr("mae_bench.data.json_lists.PIECE", piece)
    values = [1, -2.5e-3, 'a\\"]}', "J\u00e9\U0001f600", None, True, {"x": [1, {"y": "}, {"}]}, [], {}]
    content = {"before": {"deep": [1, [2]]}, "empty": [], "values": values, "number": 123456, "more": [7, 89]}
    for text in (
        json.dumps(content),
        json.dumps(content, indent=3, ensure_ascii=False),
        json.dumps(content, separators=(",", ":")),
    ):
        (tmp_path / "file.json").write_text(text, encoding="utf-8-sig")
        found: dict[str, list[Any]] = {"values": [], "more": [], "empty": []}
        keys = read_lists(tmp_path / "file.json", {key: taken.append for key, taken in found.items()})
        assert found == {"values": values, "more": [7, 89], "empty": []}
        assert keys == content.keys()
    (tmp_path / "file.json").write_text("{ }")
    assert read_lists(tmp_path / "file.json", {}) == set()


def test_a_fault_far_inside_is_told_without_reading_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_bench.data.json_lists.PIECE", 4096)
    start = '{"values": [' + "1, " * 1000 + '{"a" 1}, '
    (tmp_path / "file.json").write_bytes(start.encode() + b"2, " * 10_000 + b"\xff")
    with pytest.raises(MaeBenchError, match=f"Expecting ':' delimiter, at character {len(start) - 4} of"):
        read_lists(tmp_path / "file.json", {"values": lambda value: None})
