"""Planted defects in classification data: each is found, and named, in every layout that can have it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mae_bench import scenes
from mae_bench.auditing import Report
from mae_bench.data import decode, joint_fingerprint, open_source
from mae_bench.data.surveying import survey
from mae_bench.datasets import DatasetFacts
from mae_bench.errors import MaeBenchError
from mae_bench.recipe import resolve
from mae_bench.settings import DataSettings, SubsetSettings
from mae_bench.survey import Identity
from tests.pictures import encoded, settings, smooth, write_tar, write_tree
from tests.surveys import checked, facts, kinds, told

CLASSES = sorted(scenes.CLASSES)
LAYOUTS: dict[str, dict[str, Any]] = {
    "folder": {},
    "inat": {"source": "inat", "train": "train2018.json", "val": "val2018.json"},
    "places": {
        "source": "filelist",
        "train": "places365_train_standard.txt",
        "val": "places365_val.txt",
        "train_images": "data_256",
        "val_images": "val_256",
        "class_list": "categories_places365.txt",
    },
}


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated world with four images of each class to train on and two to judge by."""
    root = tmp_path_factory.mktemp("faces")
    scenes.ensure(root, "tiny-faces")
    return root / scenes.FOLDER / "tiny-faces"


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    """Each of the three layouts."""
    return str(request.param)


@pytest.fixture
def data(layout: str, faces: Path, tmp_path: Path) -> DataSettings:
    """A copy of the world in that layout, to be spoiled, and its settings."""
    return copied(layout, faces, tmp_path)


def copied(layout: str, faces: Path, root: Path) -> DataSettings:
    shutil.copytree(faces / layout, root / "set")
    return settings(**LAYOUTS[layout], classes=10)


def check(data: DataSettings, root: Path, known: DatasetFacts | None = None, **options: Any) -> Report:
    return checked(survey(data, root), root, known, **options)


def image(data: DataSettings, split: Any, root: Path, item: int) -> Path:
    return Path(open_source(data, split, root).name(item))


def names(data: DataSettings, root: Path) -> list[str]:
    return list(open_source(data, "train", root).classes)


def only(report: Report, kind: str) -> str:
    """The one finding there is."""
    assert kinds(report) == [kind], report.as_text()
    return f"{report.findings[0].where}: {report.findings[0].message}"


# ---------------------------------------------------------------- nothing is wrong


def test_a_sound_dataset_has_no_findings(data: DataSettings, tmp_path: Path) -> None:
    classes = names(data, tmp_path)
    report = check(data, tmp_path, facts({"train": 40, "val": 20}, classes), workers=2)
    assert (report.findings, report.ok, report.checked) == ([], True, 60)
    assert {name: counts["per_class"]["median"] for name, counts in report.counts.items()} == {
        "train": 4,
        "val": 2,
    }
    assert report.counts["train"]["where"] == str(tmp_path / "set" / data.train)
    both = [open_source(data, split, tmp_path) for split in ("train", "val")]
    assert report.fingerprint == joint_fingerprint(*both)
    assert survey(data, tmp_path).identities == {
        split: Identity(source.fingerprint(), images, 10)
        for split, source, images in zip(("train", "val"), both, (40, 20), strict=True)
    }


def test_a_tar_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    members = {
        f"{name}/{number}.png": encoded(smooth(number * 7 + ord(name))) for number in (0, 1) for name in "ab"
    }
    write_tar(tmp_path / "set" / "train.tar", members)
    write_tar(
        tmp_path / "set" / "val.tar", {f"{name}/9.png": encoded(smooth(ord(name) + 300)) for name in "ab"}
    )
    data = settings(source="tar")
    assert (check(data, tmp_path).checked, check(data, tmp_path).resumed) == (6, 6)
    write_tar(tmp_path / "set" / "train.tar", members | {"a/1.png": members["a/1.png"][:99]})
    report = check(data, tmp_path)
    assert (report.checked, report.resumed) == (4, 2)  # the other file is as it was
    assert only(report, "unreadable").startswith(
        f"{tmp_path}/set/train/a/1.png: "
    ) or "train.tar:a/1.png" in only(report, "unreadable")


# ---------------------------------------------------------------- images


def truncated(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def without_its_end(path: Path) -> bytes:
    return path.read_bytes()[:-2]


def zeros_from_the_middle(path: Path) -> bytes:
    return truncated(path) + bytes(path.stat().st_size - path.stat().st_size // 2)


def broken_png(path: Path) -> bytes:
    """A PNG with one bit turned, on which torchvision's decoder ends the process."""
    content = bytearray(encoded(smooth(3, 32, 32)))
    content[len(content) // 2] ^= 1
    return bytes(content)


def empty(path: Path) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "Image is incomplete or truncated"),
        (without_its_end, "Image is incomplete or truncated"),
        (zeros_from_the_middle, "Image is incomplete or truncated"),
        (broken_png, "the checksum of its chunk IDAT is wrong"),
        (empty, "the file is empty"),
    ],
)
def test_a_broken_image_is_named_with_the_reason(
    data: DataSettings, tmp_path: Path, spoil: Callable[[Path], bytes], reason: str
) -> None:
    path = image(data, "train", tmp_path, 17)
    path.write_bytes(spoil(path))
    report = check(data, tmp_path, workers=2)
    assert only(report, "unreadable") == f"{path}: {reason}"
    assert report.bad_files() == [str(path)]


def test_damage_in_a_png_that_touches_no_pixel_is_passed_over() -> None:
    text = PngInfo()
    text.add_text("comment", "hello")
    content = encoded(smooth(3), pnginfo=text)
    damaged = content.replace(b"hello", b"hallo")
    assert damaged != content
    assert torch.equal(decode(damaged), decode(content))


def test_a_jpeg_that_was_cut_off_and_closed_again_is_noted(faces: Path, tmp_path: Path) -> None:
    """Its end marker is there, and the decoder fills up the rest: only what libjpeg prints tells."""
    data = copied("folder", faces, tmp_path)
    path = image(data, "train", tmp_path, 5)
    path.write_bytes(truncated(path) + b"\xff\xd9")
    report = check(data, tmp_path, workers=1)
    assert (kinds(report), report.ok) == (["(damaged)"], True)
    assert told(report, "damaged")[0].startswith(
        f"{path}: it can be read, but may be damaged: Corrupt JPEG data"
    )


def test_a_leaked_image_is_named_with_both_places(data: DataSettings, layout: str, tmp_path: Path) -> None:
    val = image(data, "val", tmp_path, 3)
    train = image(data, "train", tmp_path, 30)
    shutil.copy(val, train)  # another name, another class
    message = only(check(data, tmp_path, workers=2), "leak")
    assert f"the same file is in train and val: {train} (train, class '" in message
    assert f"{val} (val, class '" in message


@pytest.mark.parametrize("kind", ["PNG", "exif"])
def test_a_leaked_image_is_found_though_it_was_stored_otherwise(
    faces: Path, tmp_path: Path, kind: str
) -> None:
    data = copied("folder", faces, tmp_path)
    val, train = image(data, "val", tmp_path, 3), image(data, "train", tmp_path, 30)
    if kind == "PNG":
        pixels = decode(val.read_bytes()).permute(1, 2, 0).numpy()
        train.write_bytes(encoded(Image.fromarray(np.ascontiguousarray(pixels))))
    else:
        comment = b"\xff\xfe\x00\x07hello"  # a segment right after the start of the JPEG
        train.write_bytes(val.read_bytes()[:2] + comment + val.read_bytes()[2:])
    message = only(check(data, tmp_path), "leak")
    assert "the same picture, stored differently is in train and val" in message
    assert str(train) in message
    assert str(val) in message


def test_one_image_as_two_classes(data: DataSettings, tmp_path: Path) -> None:
    first, second = image(data, "train", tmp_path, 1), image(data, "train", tmp_path, 38)
    shutil.copy(first, second)
    message = only(check(data, tmp_path), "label-conflict")
    assert str(first) in message
    assert str(second) in message
    second.write_bytes(encoded(smooth(0), "JPEG"))
    shutil.copy(image(data, "train", tmp_path, 0), first)
    assert kinds(check(data, tmp_path)) == ["(duplicate)"]


# ---------------------------------------------------------------- classes and counts


def test_an_image_too_few(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path)
    image(data, "train", tmp_path, 17).unlink()
    report = check(data, tmp_path, facts({"train": 40, "val": 20}, CLASSES))
    assert "train has 39 images, but The Set has 40 there: 1 missing" in only(report, "wrong-count")
    assert report.counts["train"]["per_class"] == {"least": 3, "median": 4.0, "most": 4}


@pytest.mark.parametrize("layout", ["inat", "places"], indirect=True)
def test_an_image_that_is_listed_but_not_there(data: DataSettings, layout: str, tmp_path: Path) -> None:
    path = image(data, "train", tmp_path, 17)
    path.unlink()
    report = check(data, tmp_path, facts({"train": 40, "val": 20}))
    assert kinds(report) == ["wrong-count", "missing-file", "missing-file"]
    first, second = told(report, "missing-file")
    assert f"lacks 1 of the 40 images that {tmp_path / 'set' / data.train} lists" in first
    assert second == f"{path}: not there, but {data.train} lists it"
    assert report.checked == 59  # all others are looked at
    assert report.bad_files() == [str(path)]


def test_a_missing_class_is_named_and_the_rest_is_still_read(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path)
    shutil.rmtree(tmp_path / "set" / "val" / CLASSES[3])
    report = check(data, tmp_path, workers=2)
    message = only(report, "missing-class")
    assert message.startswith(
        f"data.val: classes do not match: {tmp_path}/set/val has no image of class {CLASSES[3]}"
    )
    assert (report.fingerprint, report.checked) == (None, 58)
    broken = image(data, "train", tmp_path, 5)
    broken.write_bytes(truncated(broken))
    assert kinds(check(data, tmp_path)) == ["missing-class", "unreadable"]


def test_a_class_that_is_missing_from_the_training_split(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path)
    shutil.rmtree(tmp_path / "set" / "train" / CLASSES[3])
    report = check(data, tmp_path, facts({"train": 40, "val": 20}, CLASSES))
    assert [kind for kind in kinds(report) if kind != "wrong-count"] == ["unknown-class"]
    assert (
        f"val has class {CLASSES[3]} that {tmp_path}/set/train does not have"
        in told(report, "unknown-class")[0]
    )
    first, *known = told(report, "wrong-count")
    assert first.startswith("data.train: data.classes is 10, but ")
    assert [message.rpartition("/")[2] for message in known] == [
        "train: train has 36 images, but The Set has 40 there: 4 missing",
        f"train: train has 9 classes, but The Set has 10: {', '.join(CLASSES[:3] + CLASSES[4:9])} and 1 more",
    ]


def test_a_category_that_is_missing_from_the_training_file(faces: Path, tmp_path: Path) -> None:
    data = copied("inat", faces, tmp_path)

    def drop(content: dict[str, Any]) -> None:
        gone = content["categories"].pop(3)
        of = {each["image_id"] for each in content["annotations"] if each["category_id"] == gone["id"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] not in of]
        content["images"] = [each for each in content["images"] if each["id"] not in of]

    val = {each["name"] for each in json.loads((tmp_path / "set" / data.val).read_text())["categories"]}
    edited(tmp_path / "set" / data.train, drop)
    train = {each["name"] for each in json.loads((tmp_path / "set" / data.train).read_text())["categories"]}
    (name,) = val - train
    report = check(data, tmp_path)
    assert (
        f"{data.train} lacks class {name}. Give both files the same list" in told(report, "missing-class")[0]
    )


def test_a_class_folder_that_is_empty(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path)
    for path in (tmp_path / "set" / "train" / CLASSES[3]).iterdir():
        path.unlink()
    (first, *_) = told(check(data, tmp_path), "missing-class")
    assert first == (
        f"data.train: {tmp_path}/set/train: no image in class {CLASSES[3]}. Fill or remove them (images are found by "
        "their extension)"
    )


def test_a_class_list_with_lines_exchanged(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", {"ant": 2, "bee": 2, "cat": 2})
    write_tree(tmp_path / "set" / "val", {"ant": 1, "bee": 1, "cat": 1}, first_seed=50)
    known = facts({"train": 6, "val": 3}, ["ant", "bee", "cat"])
    data = settings(class_list="names.txt")
    (tmp_path / "set" / "names.txt").write_text("ant\nbee\ncat\n")
    assert check(data, tmp_path, known).findings == []
    (tmp_path / "set" / "names.txt").write_text("ant\ncat\nbee\n")
    report = check(data, tmp_path, known)
    assert "the classes of train are not those of The Set: sorted by name they" in only(report, "class-order")


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_label_out_of_range_in_a_list(faces: Path, tmp_path: Path) -> None:
    data = copied("places", faces, tmp_path)
    path = tmp_path / "set" / data.val
    lines = path.read_text().splitlines()
    lines[4] = lines[4].rsplit(" ", 1)[0] + " 10"
    path.write_text("\n".join(lines))
    report = check(data, tmp_path)
    assert only(report, "label-range").startswith(f"data.val: {path}, line 5: the label 10 is not below 10")
    assert report.checked == 60


def test_a_category_that_there_is_not(faces: Path, tmp_path: Path) -> None:
    data = copied("inat", faces, tmp_path)
    path = tmp_path / "set" / data.val
    edited(path, lambda content: content["annotations"][2].update(category_id=77))
    message = only(check(data, tmp_path), "label-range")
    assert message.startswith(f"data.val: {path}: an annotation gives image ")
    assert "the category 77, but there is no category 77" in message


# ---------------------------------------------------------------- lists of another split


def test_lists_of_places_that_are_exchanged(faces: Path, tmp_path: Path) -> None:
    data = copied("places", faces, tmp_path)
    data = data.model_copy(update={"train": data.val, "val": data.train})
    report = check(data, tmp_path, facts({"train": 40, "val": 20}))
    assert kinds(report) == ["swapped", "swapped"]
    root = tmp_path / "set"
    assert told(report, "swapped")[0] == (
        f"data.train: {root}/places365_val.txt names images of {root}/val_256, the other split's folder, and none "
        f"of {root}/data_256: it is the list of another split. Look at data.train and data.val"
    )


def test_the_training_list_in_place_of_the_validation_list(faces: Path, tmp_path: Path) -> None:
    data = copied("places", faces, tmp_path)
    report = check(data.model_copy(update={"val": data.train}), tmp_path)
    assert "places365_train_standard.txt names images of" in only(report, "swapped")


def test_annotation_files_that_are_exchanged(faces: Path, tmp_path: Path) -> None:
    """All their images lie in one folder, so only their numbers tell."""
    data = copied("inat", faces, tmp_path)
    root = tmp_path / "set"
    (root / "train2018.json").rename(root / "x")
    (root / "val2018.json").rename(root / "train2018.json")
    (root / "x").rename(root / "val2018.json")
    report = check(data, tmp_path, facts({"train": 40, "val": 20}))
    assert kinds(report) == ["swapped", "swapped"]
    assert "train and val are exchanged" in report.findings[0].message
    assert kinds(check(data, tmp_path)) == [
        "(swapped)"
    ]  # without facts: more validation than training images


@pytest.fixture
def flat(tmp_path: Path) -> DataSettings:
    """A flat validation folder with a label file."""
    write_tree(tmp_path / "set" / "train", {"ant": 2, "bee": 2})
    folder = tmp_path / "set" / "val"
    folder.mkdir()
    for number in range(4):
        (folder / f"val_{number}.png").write_bytes(encoded(smooth(90 + number)))
    (tmp_path / "set" / "val.txt").write_text(
        "".join(f"val_{number}.png {number % 2}\n" for number in range(4))
    )
    return settings(val_labels="val.txt", classes=2)


def test_a_label_file_of_another_split(flat: DataSettings, tmp_path: Path) -> None:
    assert check(flat, tmp_path).findings == []
    path = tmp_path / "set" / "val.txt"
    path.write_text("".join(f"test_{number}.png {number % 2}\n" for number in range(4)))
    report = check(flat, tmp_path)
    assert only(report, "swapped") == (
        f"data.val: {path} names test_0.png, test_1.png and 2 more, and none of the 4 images of {tmp_path}/set/val: "
        "it is the label file of another split. Look at data.val_labels"
    )
    assert [counts["images"] for counts in report.counts.values()] == [4, 4]


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("val_3.png 2", "label-range", "line 4: class index 2 is not below the number of classes, 2"),
        ("val_3.png wasp", "unknown-class", "line 4: unknown class 'wasp'"),
        ("val_9.png 1", "missing-file", "line 4: there is no image 'val_9.png'"),
        ("val_3.png", "layout", "line 4: expected 'FILE CLASS'"),
    ],
)
def test_a_wrong_line_of_a_label_file(
    flat: DataSettings, tmp_path: Path, line: str, kind: str, message: str
) -> None:
    path = tmp_path / "set" / "val.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]) + line)
    assert message in only(check(flat, tmp_path), kind)


def test_a_split_that_is_not_there(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path).model_copy(update={"val": "valid"})
    report = check(data, tmp_path)
    assert "did you mean 'val'" in only(report, "layout")
    assert "mae-bench data where" not in only(report, "layout")
    assert (list(report.counts), report.checked) == (["train"], 40)


# ---------------------------------------------------------------- tasks


def test_of_a_subset_the_whole_split_is_checked(faces: Path, tmp_path: Path) -> None:
    data = copied("folder", faces, tmp_path)
    few = data.model_copy(update={"subset": SubsetSettings(per_class=1)})
    report = check(few, tmp_path)
    assert (report.checked, report.findings) == (60, [])
    taken = [open_source(few, split, tmp_path) for split in ("train", "val")]
    assert report.fingerprint == joint_fingerprint(*taken)
    # What tells the split apart is what is trained on, here ten images.
    train = survey(few, tmp_path).identities["train"]
    assert train == Identity(taken[0].fingerprint(), 10, 10)
    listed = data.model_copy(update={"subset": SubsetSettings(list="few.txt")})
    assert "few.txt" in only(check(listed, tmp_path), "layout")


@pytest.mark.parametrize(("recipe", "classes"), [("demo/imagenet-knn", 10), ("demo/mae", None)])
def test_tasks_tell_what_their_data_is(recipe: str, classes: int | None, tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", dict.fromkeys(CLASSES, 1))
    write_tree(tmp_path / "set" / "val", dict.fromkeys(CLASSES, 1), first_seed=50)
    resolved = resolve(recipe, ["data.root=set", "data.train=train"])
    found = resolved.adapter_class(resolved.config).survey(tmp_path)
    counts = [(each.name, each.size, each.classes and len(each.classes)) for each in found.parts]
    assert counts == [("train", 10, classes), ("val", 10, classes)]
    assert found.dataset == resolved.config.data.name  # type: ignore[attr-defined]
    train = open_source(resolved.config.data, "train", tmp_path, labelled=False)  # type: ignore[attr-defined]
    assert (found.fingerprint == train.fingerprint()) == (recipe == "demo/mae")


def test_pretraining_without_a_validation_split(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / "train" / f"{number}.png").write_bytes(encoded(smooth(number)))
    resolved = resolve("demo/mae", ["data.root=set", "data.train=train", "evaluate_on=train"])
    report = checked(resolved.adapter_class(resolved.config).survey(tmp_path), tmp_path)
    assert (report.checked, report.findings) == (3, [])


def test_a_task_that_cannot_tell_says_so() -> None:
    from tests.toy import Toy

    with pytest.raises(MaeBenchError, match="'toy' does not tell what its data is"):
        Toy(None).survey(Path("."))  # type: ignore[arg-type]
