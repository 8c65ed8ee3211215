"""Lists of files as Places has them: the images in their order, and what is wrong with a list."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from mae_bench.data import decode, open_source
from mae_bench.data.sources import Split
from tests.layouts import CLASSES, FOLDER, LARGE, PLACES, contents, opening_fails, write_layouts
from tests.pictures import encoded, settings, smooth

NAMED = [f"/{name[0]}/{name}" for name in CLASSES]


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """The four layouts of the same pictures."""
    return write_layouts(tmp_path)


refused = partial(opening_fails, PLACES)


# ---------------------------------------------------------------- the same images in the same order


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_list_gives_what_the_class_folders_give(layouts: Path, split: Split) -> None:
    ours = open_source(settings(**PLACES, classes=4), split, layouts)
    twin = open_source(settings(**FOLDER), split, layouts)
    assert contents(ours) == contents(twin)
    assert ours.classes == NAMED
    for index in range(len(twin)):
        assert torch.equal(decode(ours.read(index)), decode(twin.read(index)))
        assert Path(ours.name(index)).read_bytes() == twin.read(index)


@pytest.mark.parametrize("split", ["train", "val"])
def test_large_images_are_the_same_images_in_another_folder(layouts: Path, split: Split) -> None:
    small = open_source(settings(**PLACES), split, layouts)
    large = open_source(settings(**LARGE), split, layouts)
    assert small.fingerprint() == large.fingerprint()
    for index in range(len(small)):
        assert large.label(index) == small.label(index)
        assert decode(small.read(index)).shape == (3, 12, 10)
        assert decode(large.read(index)).shape == (3, 48, 40)
        assert Path(large.name(index)).name == Path(small.name(index)).name
    assert large.name(0).startswith(f"{layouts}/places/{'data' if split == 'train' else 'val'}_large/")


def test_torchvisions_folders(layouts: Path) -> None:
    expected = contents(open_source(settings(**PLACES), "train", layouts))
    (layouts / "places/data_256").rename(layouts / "places/data_256_standard")
    renamed = settings(**(PLACES | {"train_images": "data_256_standard"}))
    assert contents(open_source(renamed, "train", layouts)) == expected


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", "   "])
def test_separators_blank_lines_and_spaces_in_names(tmp_path: Path, separator: str) -> None:
    folder = tmp_path / "set" / "images256" / "a b"
    folder.mkdir(parents=True)
    for index in range(4):
        (folder / f"my {index}, x.jpg").write_bytes(encoded(smooth(index)))
    lines = [
        f"{'/' * (index % 2)}a b/my {index}, x.jpg{separator}{index % 2}\r\n\n" for index in (3, 2, 1, 0)
    ]
    (tmp_path / "set" / "train.csv").write_text("\ufeff" + "".join(lines))
    values = {"source": "filelist", "train": "train.csv", "train_images": "images256", "classes": 2}
    source = open_source(settings(**values), "train", tmp_path)
    assert contents(source) == [(encoded(smooth(index)), index % 2) for index in (0, 2, 1, 3)]
    assert source.classes == ["0", "1"]
    assert source.name(0) == f"{folder}/my 0, x.jpg"


def test_without_a_folder_files_lie_below_the_root(layouts: Path) -> None:
    for folder in list((layouts / "places/data_256").iterdir()):
        folder.rename(layouts / "places" / folder.name)
    source = open_source(settings(**(PLACES | {"train_images": None})), "train", layouts)
    assert source.name(0).startswith(f"{layouts}/places/a/ant/")


def test_without_labels_lists_of_test_sets_can_be_read(layouts: Path) -> None:
    path = layouts / "places/places365_train_standard.txt"
    labelled = path.read_text()
    names = []
    for text in (labelled, re.sub(r" \d+\n", "\n", labelled)):
        path.write_text(text)
        source = open_source(settings(**PLACES), "train", layouts, labelled=False)
        assert source.classes == ["unlabelled"]
        names.append([source.name(index) for index in range(len(source))])
    assert names[0] == names[1] == sorted(names[0])
    assert len(names[0]) == 14


# ---------------------------------------------------------------- classes


def test_without_a_class_list_classes_are_numbers(layouts: Path) -> None:
    values = settings(**(PLACES | {"class_list": None}))
    for split in ("train", "val"):
        source = open_source(values, split, layouts)
        assert source.classes == ["0", "1", "2", "3"]
    refused("train_standard.txt: no image in 2 classes 4, 5", layouts, class_list=None, classes=6)


@pytest.mark.parametrize(
    ("lines", "classes"),
    [
        ("b 1\na 0\n\nd 3\nc\t2\n", ["a", "b", "c", "d"]),
        ("d\nc\nb\na\n", ["d", "c", "b", "a"]),
        ("zone 0\nzone B\nzone 2\nzone 3\n", ["zone 0", "zone B", "zone 2", "zone 3"]),
        ("two words 1\none 0\nx 2\ny 3\n", ["one", "two words", "x", "y"]),
    ],
)
def test_a_class_list_by_index_or_by_line(layouts: Path, lines: str, classes: list[str]) -> None:
    (layouts / "places/categories_places365.txt").write_text(lines)
    source = open_source(settings(**PLACES), "val", layouts)
    assert source.classes == classes
    assert [source.label(index) for index in range(6)] == [0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a 0\nb 1\nc 1\nd 3\n", "categories_places365.txt, line 3: index 1 is already in line 2"),
        ("a 0\nb 1\na 2\nd 3\n", "categories_places365.txt, line 3: class 'a' is already in line 1"),
        ("a 0\nb 1\nc 2\nd 4\n", "indices up to 4, but no line has 3; the classes must be numbered from 0"),
        ("a 1\nb 2\n", "indices up to 2, but no line has 0"),
        ("", "holds no class names"),
        ("a\nb\na\n", "line 3: class 'a' is already in line 1"),
        (
            "a 0\nb 1\nc 2\n",
            r"line \d+: the label 3 is not below 3, the number of classes of .*365.txt .data",
        ),
        ("a 0\nb 1\nc 2\nd 3\ne 4\n", "train_standard.txt has no image of class e of .*categories_places365"),
    ],
)
def test_faults_of_a_class_list_with_indices(layouts: Path, lines: str, message: str) -> None:
    (layouts / "places/categories_places365.txt").write_text(lines)
    refused(message, layouts)


def test_class_folders_whose_names_end_in_numbers_keep_them(layouts: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(CLASSES):
            folder = layouts / "folder" / split / name
            folder.rename(folder.with_name(f"zone {3 - number}"))
    (layouts / "folder/names.txt").write_text("zone 1\nzone 0\nzone 3\nzone 2\n")
    source = open_source(settings(**FOLDER, class_list="names.txt"), "train", layouts)
    assert source.classes == ["zone 1", "zone 0", "zone 3", "zone 2"]


# ---------------------------------------------------------------- what is wrong with a list


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "/a/x.jpg 0\n/a/y.jpg\n",
            "standard.txt, line 2: expected 'FILE LABEL', got '/a/y.jpg' .the lists of",
        ),
        ("file,label\n", "line 1: the label 'label' is not the number of a class; expected 'FILE LABEL'"),
        ("x.jpg 0\nx y.jpg\n", "line 2: the label 'y.jpg' is not the number of a class"),
        ("x.jpg -1\n", "line 1: the label '-1' is not the number of a class"),
        ("x.jpg 1.0\n", "line 1: the label '1.0' is not the number of a class"),
        ("x.jpg \u0663\n", "line 1: the label '\u0663' is not the number of a class"),
        (
            "x.jpg 0\n\ny.jpg 4\n",
            "line 3: the label 4 is not below 4, the number of classes of .*places365.txt",
        ),
        ("x.jpg " + "9" * 5000, "line 1: the label 9+ is too large"),
        ("a/x.jpg 0\nb.jpg 1\n/a/x.jpg 1\n", "line 3: 'a/x.jpg' is already in line 1"),
        ("../x.jpg 0\n", "line 1: '../x.jpg' leaves the folder of images by '..'; it must be a path below"),
        ("a/ 0\n", "line 1: 'a/' names no file"),
        ("/ 0\n", "line 1: '' names no file"),
        ("\n \n", "standard.txt holds no image. Expected places365_train_standard.txt, a text file with"),
    ],
)
def test_faults_of_a_list(layouts: Path, text: str, message: str) -> None:
    (layouts / "places/places365_train_standard.txt").write_text(text)
    refused(message, layouts)


def test_labels_beyond_the_number_of_classes(layouts: Path) -> None:
    refused(r"line \d+: the label 3 is not below 3, .* of data.classes", layouts, class_list=None, classes=3)
    refused("data.classes is 205, but .*standard.txt has 4 classes", layouts, classes=205)
    (layouts / "places/places365_val.txt").write_text("x.jpg 7\n")
    refused("has 4 classes 4, 5, 6, 7 that .*train_standard.txt does not", layouts, "val", class_list=None)


def test_a_list_that_is_no_text(layouts: Path) -> None:
    (layouts / "places/places365_train_standard.txt").write_bytes(b"\xff\xd8\xff\xe0")
    refused("train_standard.txt cannot be read: not a UTF-8 text file", layouts)


def test_a_missing_list_names_what_is_there(layouts: Path) -> None:
    refused(
        r"places365_train.txt: no file there \(data.train = 'places365_train.txt' of data.root = 'places'\). Expected "
        "places365_train.txt, a text file with 'FILE LABEL' a line. .* holds categories_places365.txt, data_256/",
        layouts,
        train="places365_train.txt",
    )


# ---------------------------------------------------------------- images that are not there


def test_another_folder_of_images_is_named(layouts: Path) -> None:
    refused(
        "places/data_256_standard is missing, the folder of the images that .*standard.txt lists. "
        r"'a/ant/\d+.png' is in .*places/data_256: set data.train_images=data_256$",
        layouts,
        train_images="data_256_standard",
    )
    refused("set data.val_images=val_256$", layouts, "val", val_images="val_small")
    refused("places lacks 14 of the 14 images .*set data.train_images=data_256$", layouts, train_images=None)
    refused("places/val_256 lacks 14 of the 14 .*train_images=data_256$", layouts, train_images="val_256")
    for folder in ("data_256", "data_large"):
        (layouts / "places" / folder).rename(layouts / folder)
    refused(
        "places/data_256 is missing, .*Unpack the images there, or set data.train_images .*/places holds val_256/, val_l",
        layouts,
    )


def test_missing_images_are_counted(layouts: Path) -> None:
    for path in (layouts / "places/data_256/c/cat").iterdir():
        path.unlink()
    refused(
        r"data_256 lacks 5 of the 14 images that .*standard.txt lists: c/cat/\d+.png, c/cat/\d+.png, "
        r"c/cat/\d+.png and 2 more. 'c/cat/\d+.png' is in .*places/data_large",
        layouts,
    )
    (layouts / "places/data_large").rename(layouts / "large")
    refused("and 2 more. Complete it, or set data.train_images to the folder below", layouts)
    assert len(open_source(settings(**PLACES, max_bad_images=5), "train", layouts)) == 14
