"""Listing datasets in every container, and saying what is wrong with them."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_bench.data import decode, open_source, train_dataset
from mae_bench.data.decoding import UnreadableImageError
from mae_bench.data.listing import Names
from mae_bench.data.sources import Source
from mae_bench.errors import MaeBenchError
from tests.pictures import encoded, settings, smooth, tree_bytes, write_tar, write_tree

CLASSES = {"cat": 3, "ant": 2, "bee": 2}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`set/train` and `set/val` as class folders."""
    write_tree(tmp_path / "set" / "train", CLASSES)
    write_tree(tmp_path / "set" / "val", {"ant": 1, "bee": 1, "cat": 1}, first_seed=100)
    return tmp_path


def contents(source: Source) -> list[tuple[bytes, int]]:
    return [(bytes(source.read(index)), source.label(index)) for index in range(len(source))]  # type: ignore[arg-type]


def refused(message: str, **values: object) -> Callable[[Path, str], None]:
    """Opening the split fails, and the message holds these words."""

    def check(root: Path, split: str = "train") -> None:
        with pytest.raises(MaeBenchError) as caught:
            open_source(settings(**values), split, root)  # type: ignore[arg-type]
        assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)

    return check


# ---------------------------------------------------------------- class folders


def test_a_folder_tree_is_listed_by_class_and_name(tree: Path) -> None:
    source = open_source(settings(classes=3), "train", tree)
    assert source.classes == ["ant", "bee", "cat"]
    assert [source.label(i) for i in range(7)] == [0, 0, 1, 1, 2, 2, 2]
    assert source.name(2) == str(tree / "set/train/bee/000.png")
    assert source.read(2) == (tree / "set/train/bee/000.png").read_bytes()


def test_folders_are_sorted_as_strings_not_as_numbers(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", {"2": 1, "10": 1, "1": 1})
    assert open_source(settings(), "train", tmp_path).classes == ["1", "10", "2"]


def test_nested_class_folders_are_named_by_their_last_part(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", {"plants/fern": 1, "animals/wolf": 1, "animals/ape": 2})
    assert open_source(settings(), "train", tmp_path).classes == ["ape", "fern", "wolf"]
    write_tree(tmp_path / "set" / "train", {"plants/ape": 1})
    refused("'animals/ape' and 'plants/ape' have the same name")(tmp_path, "train")


def test_hidden_files_and_other_files_are_left_out(tree: Path) -> None:
    train = tree / "set" / "train"
    (train / "ant" / "._000.png").write_bytes(b"not an image")
    (train / "ant" / "notes.txt").write_text("no image either")
    write_tree(train, {".thumbnails": 2})
    (train / "bee" / "upper.JPEG").write_bytes(encoded(smooth(5), "JPEG"))
    source = open_source(settings(), "train", tree)
    assert len(source) == 8
    assert source.classes == ["ant", "bee", "cat"]


def test_class_list_gives_the_order(tree: Path) -> None:
    (tree / "set" / "names.txt").write_text("cat\nant\n\nbee\n")
    source = open_source(settings(class_list="names.txt"), "train", tree)
    assert source.classes == ["cat", "ant", "bee"]
    assert [source.label(i) for i in range(7)] == [1, 1, 2, 2, 0, 0, 0]


def test_lists_of_windows_programs_begin_with_a_mark(tree: Path) -> None:
    (tree / "set" / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\nant\r\nbee\r\n")
    assert open_source(settings(class_list="names.txt"), "train", tree).classes == ["cat", "ant", "bee"]


def test_an_unlabelled_folder_is_one_class(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    for index in range(3):
        (folder / f"{index}.png").write_bytes(encoded(smooth(index)))
    source = open_source(settings(classes=1000), "train", tmp_path, labelled=False)
    assert (len(source), len(source.classes), source.label(2)) == (3, 1, 0)
    write_tree(folder, {"deeper": 2})
    assert len(train_dataset(settings(), tmp_path, labelled=False)) == 5
    refused("'0.png' lies in no class folder.*val_labels")(tmp_path, "train")


# ---------------------------------------------------------------- what is wrong with folders


def test_a_missing_folder_says_what_is_expected_and_what_is_there(tree: Path) -> None:
    refused(
        r"set/training: no folder images there \(data.train = 'training' of data.root = 'set'\). "
        r"Expected .*: training/CLASS/IMAGE. .*/set holds train/, val/; did you mean 'train'",
        train="training",
    )(tree, "train")
    refused(f"{tree} holds set/; did you mean", root="sets")(tree, "train")
    (tree / ".mae-bench").mkdir()
    refused(f"{tree} holds set/; did you mean", root="sets")(tree, "train")


def test_a_missing_dataset_that_is_known_says_how_to_get_it(tree: Path) -> None:
    hint = ". `mae-bench data where inat-2018` shows how to get it"
    refused(f"holds set/{hint}$", root="inat18", name="inat-2018")(tree, "train")
    with pytest.raises(MaeBenchError) as error:  # the folder is there, only a split is not
        open_source(settings(name="inat-2018", train="training"), "train", tree)
    assert hint not in str(error.value)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    refused("train holds no image. Expected a folder for each class")(tmp_path, "train")


def test_an_empty_class_is_named(tree: Path) -> None:
    (tree / "set" / "train" / "dog").mkdir()
    refused("train: no image in class dog")(tree, "train")
    (tree / "set" / "train" / "eel").mkdir()
    (tree / "set" / "train" / "eel" / "image.heic").write_bytes(b"?")
    refused("train: no image in 2 classes dog, eel.*extension")(tree, "train")


def test_classes_that_differ_between_train_and_val(tree: Path) -> None:
    os.rename(tree / "set/val/bee", tree / "set/val/wasp")
    refused(
        "classes do not match: .*/val has no image of class bee of .*/train and has class wasp that .*/train does not"
    )(tree, "val")


def test_a_class_that_val_lacks_never_shifts_the_labels(tree: Path) -> None:
    for path in (tree / "set/val/ant").iterdir():
        path.unlink()
    refused("val has no image of class ant of")(tree, "val")
    (tree / "set/val/ant").rmdir()
    refused("val has no image of class ant of")(tree, "val")


def test_val_follows_train_also_after_train_changed(tree: Path) -> None:
    assert open_source(settings(), "val", tree).classes == ["ant", "bee", "cat"]
    write_tree(tree / "set" / "train", {"dog": 1})
    refused("val has no image of class dog")(tree, "val")


def test_val_alone_needs_no_train(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "val", {"a": 1, "b": 1})
    assert open_source(settings(), "val", tmp_path).classes == ["a", "b"]
    refused("data.classes is 3, but .*/val has 2 classes: a, b", classes=3)(tmp_path, "val")


def test_another_number_of_classes_than_expected(tree: Path) -> None:
    refused("data.classes is 10, but .*train has 3 classes: ant, bee, cat", classes=10)(tree, "train")


def test_faults_of_a_class_list(tree: Path) -> None:
    names = tree / "set" / "names.txt"
    refused(r"names.txt \(data.class_list\) cannot be read: No such file", class_list="names.txt")(
        tree, "train"
    )
    names.write_text("ant\nbee\nant\n")
    refused("names.txt, line 3: class 'ant' is already in line 1", class_list="names.txt")(tree, "train")
    names.write_text("ant\nbee\ndog\n")
    refused("no image of class dog of .*names.txt.* has class cat that", class_list="names.txt")(
        tree, "train"
    )
    names.write_text("\n")
    refused("holds no class names", class_list="names.txt")(tree, "train")
    names.write_bytes(b"\xff\xfe\x00")
    refused("cannot be read: not a UTF-8 text file", class_list="names.txt")(tree, "train")


# ---------------------------------------------------------------- flat validation folders


@pytest.fixture
def flat(tree: Path) -> Path:
    """Like `tree`, with a flat `set/flat` of three images."""
    folder = tree / "set" / "flat"
    folder.mkdir()
    for index in range(3):
        (folder / f"v {index}.png").write_bytes(encoded(smooth(200 + index)))
    return tree


def test_a_label_file_by_name_and_by_index(flat: Path) -> None:
    (flat / "set" / "labels.txt").write_text("v 2.png 1\n\nv 0.png cat\nv 1.png\tant\n")
    source = open_source(settings(val="flat", val_labels="labels.txt"), "val", flat)
    assert source.classes == ["ant", "bee", "cat"]
    assert [source.label(i) for i in range(3)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("v 0.png cat\nv1.png\n", "labels.txt, line 2: expected 'FILE CLASS', got 'v1.png'"),
        ("v 0.png cst\n", "labels.txt, line 1: unknown class 'cst'; did you mean 'cat'"),
        ("v 0.png 3\n", "labels.txt, line 1: class index 3 is not below the number of classes, 3"),
        ("v 9.png cat\n", "labels.txt, line 1: there is no image 'v 9.png' in .*/flat"),
        ("v 0.png cat\nv 0.png ant\n", "labels.txt, line 2: 'v 0.png' is already in line 1"),
        ("v 0.png cat\n", "labels.txt: 2 images of .*/flat are not listed: v 1.png, v 2.png"),
        ("v 0.png ant\nv 1.png ant\nv 2.png bee\n", "flat has no image of class cat of"),
    ],
)
def test_faults_of_a_label_file(flat: Path, lines: str, message: str) -> None:
    (flat / "set" / "labels.txt").write_text(lines)
    refused(message, val="flat", val_labels="labels.txt")(flat, "val")


def test_a_label_file_needs_to_know_the_classes(flat: Path) -> None:
    (flat / "set" / "labels.txt").write_text("v 0.png 0\nv 1.png 1\nv 2.png 0\n")
    values = {"train": "none", "val": "flat", "val_labels": "labels.txt"}
    refused("classes and their order are not known.*data.class_list", **values)(flat, "val")
    (flat / "set" / "names.txt").write_text("left\nright\n")
    source = open_source(settings(class_list="names.txt", **values), "val", flat)
    assert [source.label(i) for i in range(3)] == [0, 1, 0]


# ---------------------------------------------------------------- tar files


def test_a_tar_of_class_folders_is_the_same_dataset_as_the_folders(tree: Path) -> None:
    folder = open_source(settings(), "train", tree)
    files = tree_bytes(tree / "set" / "train")
    write_tar(tree / "packed" / "train.tar", dict(reversed(files.items())))
    packed = open_source(settings(root="packed", source="tar"), "train", tree)
    assert contents(packed) == contents(folder)
    assert packed.classes == folder.classes
    assert packed.fingerprint() == folder.fingerprint()
    assert packed.name(0) == f"{tree}/packed/train.tar:ant/000.png"


def test_a_folder_of_class_tars_and_a_tar_of_class_tars(tree: Path) -> None:
    folder = open_source(settings(), "train", tree)
    for name in CLASSES:
        write_tar(tree / "many" / "train" / f"{name}.tar", tree_bytes(tree / "set" / "train" / name))
    many = open_source(settings(root="many", source="tar"), "train", tree)
    inner = {f"./{path.name}": path.read_bytes() for path in sorted((tree / "many" / "train").iterdir())}
    write_tar(tree / "nested" / "train.tar", inner)
    nested = open_source(settings(root="nested", source="tar"), "train", tree)
    assert contents(many) == contents(nested) == contents(folder)
    assert many.fingerprint() == nested.fingerprint() == folder.fingerprint()


def test_tar_files_agree_with_the_reader_of_timm(tree: Path) -> None:
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    write_tar(tree / "packed" / "train.tar", tree_bytes(tree / "set" / "train"))
    ours = open_source(settings(root="packed", source="tar"), "train", tree)
    theirs = ReaderImageInTar(str(tree / "packed" / "train.tar"))
    pairs = [theirs[index] for index in range(len(theirs))]
    assert contents(ours) == [(file.read(), int(target)) for file, target in pairs]
    for state in theirs.tar_state.children.values():
        state.tf.close()
    theirs.tar_state.tf.close()


def test_a_flat_validation_tar_with_a_label_file(tree: Path) -> None:
    write_tar(tree / "set" / "flat.tar", {f"{i}.JPEG": encoded(smooth(i), "JPEG") for i in range(3)})
    write_tar(tree / "set" / "train.tar", tree_bytes(tree / "set" / "train"))
    (tree / "set" / "labels.txt").write_text("0.JPEG bee\n1.JPEG cat\n2.JPEG ant\n")
    source = open_source(
        settings(source="tar", train="train.tar", val="flat.tar", val_labels="labels.txt"), "val", tree
    )
    assert [source.label(i) for i in range(3)] == [1, 2, 0]


def test_faults_of_tar_files(tree: Path) -> None:
    values = {"root": "bad", "source": "tar"}
    files = tree_bytes(tree / "set" / "train")
    path = write_tar(tree / "bad" / "train.tar", files)
    whole = path.read_bytes()
    for end in (len(whole) // 2, 2048, 2048 + 700, 1024 + 100, 300):
        path.write_bytes(whole[:end])
        refused("train.tar: (cut off|not a readable tar file)", **values)(tree, "train")
    path.write_bytes(b"\x1f\x8b" + whole)
    refused("train.tar: not a readable tar file", **values)(tree, "train")
    refused("compressed tar files cannot be read at random", **values | {"train": "train.tar.gz"})(
        (path.rename(path.with_name("train.tar.gz")), tree)[1], "train"
    )
    write_tar(tree / "twice" / "train" / "a.tar", {"x.png": b"1"})
    write_tar(tree / "twice" / "train" / "b.tar", {"x.png": b"1", "./x.png": b"2"})
    refused("twice/train: 'b/x.png' is there twice", root="twice", source="tar")(tree, "train")
    refused("Expected train.tar with a folder", root="none", source="tar")(tree, "train")


def test_a_tar_with_links_is_refused(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train.tar", "w") as archive:
        info = tarfile.TarInfo("a/x.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    refused("'a/x.png' is a link", source="tar")(tmp_path, "train")


def test_a_tar_source_survives_pickling_and_forking(tree: Path) -> None:
    write_tar(tree / "packed" / "train.tar", tree_bytes(tree / "set" / "train"))
    source = open_source(settings(root="packed", source="tar"), "train", tree)
    assert source.read(0)
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)


# ---------------------------------------------------------------- webdataset shards


def shard(numbers: range, kind: str = "cls") -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"{number:05d}.png"] = encoded(smooth(number))
        text = (
            str(number % 3)
            if kind == "cls"
            else json.dumps({"label": number % 3, "coarse": "ab"[number % 2]})
        )
        members[f"{number:05d}.{kind}"] = text.encode()
    return members


def test_shards_in_a_folder_and_in_a_range(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "train" / "s-000.tar", shard(range(4)))
    write_tar(tmp_path / "set" / "train" / "s-001.tar", shard(range(4, 7)))
    folder = open_source(settings(source="webdataset"), "train", tmp_path)
    span = open_source(settings(source="webdataset", train="train/s-{000..001}.tar"), "train", tmp_path)
    expected = [(encoded(smooth(number)), number % 3) for number in range(7)]
    assert contents(folder) == contents(span) == expected
    assert folder.classes == ["0", "1", "2"]
    assert folder.name(5) == f"{tmp_path}/set/train/s-001.tar/00005.png"
    refused("s-002.tar is missing: 1 of the 3 files", source="webdataset", train="train/s-{000..002}.tar")(
        tmp_path, "train"
    )


def test_shards_with_json_and_named_classes(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "train.tar", shard(range(6), "json"))
    numbered = open_source(settings(source="webdataset"), "train", tmp_path)
    assert [numbered.label(i) for i in range(6)] == [0, 1, 2, 0, 1, 2]
    coarse = open_source(settings(source="webdataset", label_key="coarse"), "train", tmp_path)
    assert coarse.classes == ["a", "b"]
    (tmp_path / "set" / "names.txt").write_text("x\ny\nz\n")
    named = open_source(settings(source="webdataset", class_list="names.txt"), "train", tmp_path)
    assert (named.classes, named.label(2)) == (["x", "y", "z"], 2)
    refused("has no 'fine' .data.label_key., only coarse, label", source="webdataset", label_key="fine")(
        tmp_path, "train"
    )


def test_faults_of_shards(tmp_path: Path) -> None:
    path = tmp_path / "set" / "train.tar"
    write_tar(path, {"a.png": encoded(smooth(0)), "b.cls": b"1"})
    refused("train.tar, sample 'a' has neither a .cls nor a .json", source="webdataset")(tmp_path, "train")
    write_tar(path, {"a.png": encoded(smooth(0)), "a.cls": b"0", "b.cls": b"1"})
    refused("sample 'b' holds no image, only cls", source="webdataset")(tmp_path, "train")
    write_tar(path, {"a.png": encoded(smooth(0)), "a.json": b"{"})
    refused("sample 'a': its .json cannot be read", source="webdataset")(tmp_path, "train")
    write_tar(path, {"a.png": encoded(smooth(0)), "a.cls": b"2"})
    refused("no image in 2 classes 0, 1", source="webdataset")(tmp_path, "train")
    refused("Expected a folder of shards none/", source="webdataset", train="none")(tmp_path, "train")


# ---------------------------------------------------------------- Hugging Face


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`set/train.parquet` and `set/validation.parquet`, as pushed to a hub, readable without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["zebra", "ape"]),
            "id": datasets.Value("int64"),
        }
    )
    for split, count in (("train", 5), ("validation", 2)):
        rows = {
            "image": [{"bytes": encoded(smooth(i)), "path": None} for i in range(count)],
            "label": [i % 2 for i in range(count)],
            "id": list(range(count)),
        }
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / f"{split}.parquet")
    return tmp_path


def test_a_hugging_face_dataset_from_disk(parquet: Path) -> None:
    values = {"source": "hf", "val": "validation", "classes": 2}
    source = open_source(settings(**values), "train", parquet)
    assert source.classes == ["zebra", "ape"]
    assert contents(source) == [(encoded(smooth(i)), i % 2) for i in range(5)]
    assert source.name(3) == "set:train[3]"
    assert len(open_source(settings(**values), "val", parquet)) == 2
    assert len(open_source(settings(**values), "val", parquet, labelled=False)) == 2
    numbered = open_source(settings(source="hf", label_key="id"), "train", parquet)
    assert numbered.classes == ["0", "1", "2", "3", "4"]


def test_faults_of_a_hugging_face_dataset(parquet: Path) -> None:
    refused(r"split test .*test", source="hf", train="test")(parquet, "train")
    refused("no column 'fine' .data.label_key. among image, label, id", source="hf", label_key="fine")(
        parquet, "train"
    )
    refused("no column 'img' .data.image_key. among image, label, id", source="hf", image_key="img")(
        parquet, "train"
    )
    (parquet / "set" / "dataset_dict.json").write_text("{}")
    refused("was written by save_to_disk", source="hf")(parquet, "train")


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(r"pip install 'mae-bench\[hf\]'", source="hf")(tmp_path, "train")


# ---------------------------------------------------------------- fingerprints and names


def test_the_fingerprint_tells_names_labels_and_classes_apart(tree: Path) -> None:
    original = open_source(settings(), "train", tree).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", original)
    assert open_source(settings(), "train", tree).fingerprint() == original
    seen = {original}
    for before, after in (("ant/000.png", "ant/zzz.png"), ("ant/001.png", "bee/001b.png"), ("cat", "cow")):
        os.rename(tree / "set/train" / before, tree / "set/train" / after)
        seen.add(open_source(settings(), "train", tree).fingerprint())
    (tree / "set" / "names.txt").write_text("cow\nbee\nant\n")
    seen.add(open_source(settings(class_list="names.txt"), "train", tree).fingerprint())
    assert len(seen) == 5


def test_names_behave_like_a_list() -> None:
    plain = ["a", "", "dé/ñ.png", "x" * 100]
    names = Names(plain)
    assert list(names) == plain
    assert names[2] == plain[2]
    assert names[1:3] == plain[1:3]
    with pytest.raises(IndexError):
        names[4]


# ---------------------------------------------------------------- decoding


def pil_rgb(data: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    alpha = Image.fromarray(
        np.random.RandomState(1).randint(0, 256, (image.height, image.width), dtype=np.uint8)
    )
    out = image.convert(mode)
    out.putalpha(alpha)
    return out


RGB = smooth(3, 37, 53)
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
FILES = {
    "jpeg": encoded(RGB, "JPEG", quality=90),
    "jpeg 4:2:0": encoded(RGB, "JPEG", quality=60, subsampling=2),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg with orientation": encoded(RGB, "JPEG", exif=ROTATED),
    "png": encoded(RGB),
    "png grey": encoded(RGB.convert("L")),
    "png one bit": encoded(RGB.convert("1")),
    "png alpha": encoded(with_alpha(RGB, "RGBA")),
    "png grey alpha": encoded(with_alpha(RGB.convert("L"), "LA")),
    "png palette": encoded(PALETTE),
    "png palette of 4 bits": encoded(RGB.quantize(7), bits=4),
    "png palette, one colour transparent": encoded(PALETTE, transparency=3),
    "webp": encoded(RGB, "WEBP"),
    "webp alpha": encoded(with_alpha(RGB, "RGBA"), "WEBP", lossless=True),
    "gif": encoded(PALETTE, "GIF"),
    "gif transparent": encoded(PALETTE, "GIF", transparency=3),
    "gif animated": encoded(PALETTE, "GIF", save_all=True, append_images=[RGB.rotate(90)]),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "ppm": encoded(RGB, "PPM"),
}


@pytest.mark.parametrize("kind", FILES)
def test_decoding_gives_the_pixels_of_pillow(kind: str) -> None:
    ours = decode(FILES[kind])
    assert (ours.dtype, ours.shape) == (torch.uint8, (3, 37, 53))
    difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - pil_rgb(FILES[kind]))
    # The two may be linked to different versions of libjpeg.
    assert difference.max() <= (2 if kind.startswith("jpeg") else 0)


def test_without_torchvision_pillow_decodes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {kind: decode(data) for kind, data in FILES.items()}
    monkeypatch.setattr("mae_bench.data.decoding._FAST", {})
    for kind, data in FILES.items():
        slow = decode(data)
        assert slow.shape == fast[kind].shape
        assert (slow.int() - fast[kind].int()).abs().max() <= (2 if kind.startswith("jpeg") else 0)


def test_palette_with_alpha_for_each_colour_drops_the_alpha() -> None:
    data = encoded(PALETTE, transparency=bytes(range(200)))
    expected = np.asarray(PALETTE.convert("RGB"))
    assert np.array_equal(decode(data).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    values = np.random.RandomState(0).randint(0, 65536, (6, 7)).astype(np.uint16)
    grey = decode(encoded(Image.fromarray(values), kind))
    assert torch.equal(grey, torch.from_numpy((values >> 8).astype(np.uint8)).expand(3, 6, 7))


def test_the_name_of_a_file_does_not_choose_its_decoder(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", {"a": 1})
    (tmp_path / "set/train/a/000.png").rename(tmp_path / "set/train/a/000.JPEG")
    assert train_dataset(settings(), tmp_path, augment=False)[0]["image"].shape == (3, 8, 8)


def test_tensors_and_pillow_images_pass() -> None:
    tensor = torch.zeros(5, 4, 3, dtype=torch.uint8)
    assert decode(tensor, 5) is tensor
    assert np.array_equal(
        decode(RGB.convert("L")).permute(1, 2, 0).numpy(), np.asarray(RGB.convert("L").convert("RGB"))
    )
    with pytest.raises(
        MaeBenchError, match=r"uint8 tensors of shape \(C, H, W\), not torch.float32 \(1, 2\)"
    ):
        decode(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image of a known format"),
        (FILES["jpeg"][:-20], "incomplete or truncated"),
        (FILES["png"][:200], "corrupted"),
        (FILES["png"][:30], "."),
        (FILES["tiff"][:100], "."),
        (FILES["bmp"][:-50], "truncated"),
    ],
)
def test_broken_files_are_told(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode(data)
    assert ".cpp" not in str(caught.value)
