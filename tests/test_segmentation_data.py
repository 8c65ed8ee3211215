"""Segmentation data: class lists, label maps, pairs of files, and the training augmentation.

Numbers of mmsegmentation and OpenCV come from mmsegmentation 1.2.2, mmcv-lite 2.1.0 and opencv-python-headless
5.0.0, run outside of this repository on the inputs written here.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from downstream.segmentation import photometric, pictures
from downstream.segmentation.ade20k import CLASSES
from downstream.segmentation.crops import SceneCrop, fitted, is_mixed, nearest, resize_image
from downstream.segmentation.dataset import open_split, train_dataset, val_dataset
from downstream.segmentation.labels import (
    IGNORED,
    ClassList,
    LabelReader,
    class_list,
    generated_colour,
    read_class_list,
)
from downstream.segmentation.settings import SceneCropSettings, SegmentationData
from mae_bench.data import evaluation_batches, training_batches
from mae_bench.errors import MaeBenchError
from mae_bench.keys import Draws, key_of
from tests.closed_form import numbers
from tests.pictures import smooth

MEAN = (0.485, 0.456, 0.406)


def label_map(seed: int, height: int, width: int, classes: int) -> np.ndarray:
    """Patches of 3 x 3 pixels of random classes."""
    coarse = np.random.RandomState(seed).randint(
        0, classes, (-(-height // 3), -(-width // 3)), dtype=np.uint8
    )
    return coarse.repeat(3, 0).repeat(3, 1)[:height, :width]


def write_pairs(
    root: Path, split: str, sizes: dict[str, tuple[int, int]], *, classes: int = 4, extension: str = ".png"
) -> None:
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        image, labels = (
            root / "images" / split / f"{name}{extension}",
            root / "labels" / split / f"{name}.png",
        )
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        smooth(seed, height, width).save(image)
        Image.fromarray(label_map(seed, height, width, classes)).save(labels)


def settings(root: Path, **values: Any) -> SegmentationData:
    splits = {name: {"images": f"images/{name}", "labels": f"labels/{name}"} for name in ("train", "val")}
    return SegmentationData.model_validate(
        {
            "name": "pairs",
            "root": str(root),
            **splits,
            "class_list": "classes.txt",
            "image_size": [32, 40],
            "evaluation": {"stride": [20, 20]},
            "augment": {"base": [36, 90]},
            "workers": 0,
            **values,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of 6 training and 3 validation pairs of odd sizes and 4 classes."""
    write_pairs(tmp_path, "train", {f"{kind}/{n}": (31 + 7 * n, 45 + n) for kind in "ab" for n in range(3)})
    write_pairs(tmp_path, "val", {"x": (33, 29), "y": (17, 51), "z": (40, 40)}, extension=".JPG")
    (tmp_path / "classes.txt").write_text("sky\nsea\t1 2 3\nsand\nship\n")
    return tmp_path


# ---------------------------------------------------------------- classes


def test_ade20k_has_its_150_classes_in_order() -> None:
    names = list(CLASSES)
    assert (len(names), names[0], names[7], names[12], names[149]) == (150, "wall", "bed", "person", "flag")
    assert CLASSES["wall"] == (120, 120, 120)
    assert CLASSES["flag"] == (92, 0, 255)
    assert names == [name.strip() for name in names]
    # The sum of k (R + G + B) over the colours of the official colour map, k from 1.
    assert sum(k * sum(colour) for k, colour in enumerate(CLASSES.values(), start=1)) == 4_469_351


def test_a_class_list_gives_names_colours_and_generated_colours(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    taken = generated_colour(2)
    path.write_text(f"first class\nsecond\t{' '.join(map(str, taken))}\nthird\r\nfourth\t 0 10  255 \n\n")
    found = read_class_list(path)
    assert found.names == ["first class", "second", "third", "fourth"]
    assert found.colours[0] == generated_colour(0)
    assert found.colours[1] == taken
    assert found.colours[2] == generated_colour(2 + 4)
    assert found.colours[3] == (0, 10, 255)
    assert len({generated_colour(number) for number in range(255)} | {(0, 0, 0)}) == 256
    assert class_list("classes.txt", tmp_path) == found
    assert class_list("ade20k", tmp_path).names == list(CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "line 3: class 'a' is already in line 1"),
        ("a\n\nb\n", "line 2: no class name"),
        ("a\n\t1 2 3\n", "line 2: no class name"),
        ("a\t1 2\n", "line 1: '1 2' is no colour"),
        ("a\nb\t1 2 256\n", "line 2: '1 2 256' is no colour"),
        ("a\tred\n", "line 1: 'red' is no colour"),
        ("\n", "holds no class names"),
        ("".join(f"{n}\n" for n in range(256)), "has 256 classes; there may be 255"),
    ],
)
def test_a_broken_class_list_is_one_sentence_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(MaeBenchError, match=message):
        read_class_list(path)


def test_a_missing_class_list_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"classes.txt \(data.class_list\) cannot be read.*'ade20k'"):
        class_list("classes.txt", tmp_path)


# ---------------------------------------------------------------- label maps


def png(array: np.ndarray, mode: str | None = None, bits: int | None = None) -> bytes:
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray(array).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([value for k in range(256) for value in (255 - k, k, 7)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({"bits": bits} if bits else {}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["grey", "palette", "palette of 4 bits", "16 bits", "grey of 4 bits", "1 bit"]
)
def test_numbers_are_read_as_they_stand_in_a_file(tmp_path: Path, kind: str) -> None:
    numbers_in = np.array([[0, 1, 2], [3, 1, 0]], dtype=np.uint8)
    if kind == "1 bit":
        numbers_in = numbers_in % 2
    content = {
        "grey": lambda: png(numbers_in),
        "palette": lambda: png(numbers_in, "P"),
        "palette of 4 bits": lambda: png(numbers_in, "P", bits=4),
        "16 bits": lambda: png(numbers_in.astype(np.uint16)),
        "grey of 4 bits": lambda: grey_of_4_bits(numbers_in),
        "1 bit": lambda: png(numbers_in.astype(bool)),
    }[kind]()
    path = tmp_path / "map.png"
    path.write_bytes(content)
    read = LabelReader(4, zero_is_ignored=False, ignore_label=255).read(path)
    assert read.dtype == torch.uint8
    assert read.tolist() == numbers_in.tolist()
    shifted = LabelReader(3, zero_is_ignored=True, ignore_label=255).read(path)
    assert shifted.tolist() == [[IGNORED if n == 0 else n - 1 for n in row] for row in numbers_in.tolist()]


def grey_of_4_bits(array: np.ndarray) -> bytes:
    """A PNG file that Pillow does not write: grey, 4 bits a pixel, no filter."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in array.tolist():
        row = row + [0] * (len(row) % 2)
        rows += b"\0" + bytes(16 * a + b for a, b in zip(row[::2], row[1::2], strict=True))
    height, width = array.shape
    head = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_all_numbers_of_16_bits_have_the_meaning_that_the_settings_give_them(tmp_path: Path) -> None:
    """Every number, with and without shift and ignored label: class, ignored or refused."""
    path = tmp_path / "map.png"
    for zero, ignore in [
        (False, None),
        (False, 255),
        (False, 0),
        (True, None),
        (True, 255),
        (True, 2),
        (False, 40_000),
    ]:
        reader = LabelReader(5, zero_is_ignored=zero, ignore_label=ignore)
        for number in [*range(9), 254, 255, 256, 257, 40_000, 65_535]:
            path.write_bytes(png(np.full((2, 3), number, dtype=np.uint16)))
            shifted = number - 1 if zero else number
            if number == ignore or (zero and number == 0):
                expected: int | None = IGNORED
            else:
                expected = shifted if 0 <= shifted < 5 else None
            if expected is None:
                with pytest.raises(MaeBenchError, match=rf"holds {number} \(6 pixels\), but the 5 classes"):
                    reader.read(path)
            else:
                assert reader.read(path).unique().tolist() == [expected]


def test_255_classes_fit(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(png(np.array([[0, 1, 254, 255, 256]], dtype=np.uint16)))
    shifted = LabelReader(255, zero_is_ignored=True, ignore_label=256).read(path)
    assert shifted.tolist() == [[IGNORED, 0, 253, 254, IGNORED]]
    path.write_bytes(png(np.array([[0, 1, 254, 255]], dtype=np.uint8)))
    plain = LabelReader(255, zero_is_ignored=False, ignore_label=255).read(path)
    assert plain.tolist() == [[0, 1, 254, IGNORED]]


def test_a_label_map_with_unknown_numbers_names_the_file_and_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(png(np.array([[0, 1, 150], [151, 200, 200]], dtype=np.uint8)))
    with pytest.raises(MaeBenchError) as error:
        LabelReader(150, zero_is_ignored=True, ignore_label=255).read(path)
    assert str(error.value).startswith(
        f"label map {path} holds 151 (1 pixels), 200 (2 pixels), but the 150 classes"
    )
    assert "numbered 1 to 150 (or 0 or 255 for pixels without a class)" in str(error.value)


def test_a_colour_image_is_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(png(np.zeros((2, 2, 3), dtype=np.uint8)))
    with pytest.raises(MaeBenchError, match=r"map.png is a colour image"):
        LabelReader(4, zero_is_ignored=False, ignore_label=None).read(path)


# ---------------------------------------------------------------- pairs of files


def test_pairs_are_found_in_nested_folders_and_sorted(folder: Path) -> None:
    source = open_split(settings(folder), "train", folder)
    assert [source.stem(i) for i in range(len(source))] == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    assert source.name(1) == str(folder / "images/train/a/1.png")
    assert source.label_path(1) == folder / "labels/train/a/1.png"
    assert source.classes == ["sky", "sea", "sand", "ship"]
    image, labels = source.read(1)
    assert (image.shape, labels.shape) == ((3, 38, 46), (38, 46))
    assert labels.tolist() == label_map(1, 38, 46, 4).tolist()


def test_the_fingerprint_depends_on_names_and_classes_and_nothing_else(folder: Path) -> None:
    def fingerprint() -> str:
        return open_split(settings(folder), "val", folder).fingerprint()

    first = fingerprint()
    (folder / "classes.txt").write_text("sky\nsea\nsand\nship\n")
    assert fingerprint() == first
    (folder / "classes.txt").write_text("sky\nsea\nsand\nshop\n")
    other = fingerprint()
    (folder / "images/val/x.JPG").rename(folder / "images/val/w.jpg")
    (folder / "labels/val/x.png").rename(folder / "labels/val/w.png")
    assert len({first, other, fingerprint()}) == 3


def add(path: str) -> Callable[[Path], object]:
    return lambda root: smooth(1).save(root / path)


def remove(*paths: str) -> Callable[[Path], object]:
    return lambda root: [(root / path).unlink() for path in paths]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("labels/val/y.png"), "1 images of .*images/val have no label map in .*: y.JPG"),
        (remove("images/val/y.JPG"), "1 label maps of .*labels/val have no image in .*: y.png"),
        (add("images/val/y.bmp"), "y.JPG and y.bmp have the same stem|y.bmp and y.JPG have the same stem"),
        (remove(*(f"images/val/{n}.JPG" for n in "xyz")), r"images/val \(data.val.images\) holds no file"),
        (remove(*(f"labels/val/{n}.png" for n in "xyz")), r"labels/val \(data.val.labels\) holds no file"),
    ],
)
def test_broken_pairs_are_one_sentence_that_names_files(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(MaeBenchError, match=message):
        open_split(settings(folder), "val", folder)


def test_a_missing_folder_and_one_folder_for_both_are_refused(folder: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"no folder .*/nowhere \(data.val.labels\)"):
        open_split(settings(folder, val={"images": "images/val", "labels": "nowhere"}), "val", folder)
    with pytest.raises(MaeBenchError, match="are the same folder"):
        open_split(settings(folder, val={"images": "images/val", "labels": "images/val"}), "val", folder)


def test_an_image_and_a_label_map_of_different_sizes_are_both_named(folder: Path) -> None:
    Image.fromarray(label_map(0, 17, 50, 4)).save(folder / "labels/val/y.png")
    source = open_split(settings(folder), "val", folder)
    with pytest.raises(
        MaeBenchError, match=r"images/val/y.JPG has 51x17 pixels, but .*labels/val/y.png 50x17"
    ):
        source.read(1)


def test_an_unreadable_label_map_counts_as_an_unreadable_image(folder: Path) -> None:
    (folder / "labels/val/y.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(MaeBenchError, match=r"unreadable image .*y.JPG: label map .*y.png cannot be read"):
        val_dataset(settings(folder), folder)[1]
    put_up_with = val_dataset(settings(folder, max_bad_images=1), folder)
    assert put_up_with[1]["image"].shape == (3, 40, 40)
    assert len(put_up_with.bad_images()) == 1


# ---------------------------------------------------------------- batches


def test_training_batches_are_the_same_whatever_the_workers(folder: Path) -> None:
    data = settings(folder)
    seen = []
    for workers in (0, 2):
        dataset = train_dataset(data, folder, 3, mean=MEAN)
        batches = training_batches(dataset, batch=4, micro_batch=4, seed=3, workers=workers)
        seen.append([next(batches) for _ in range(3)])
        batches.close()
    for one, two in zip(*seen, strict=True):
        assert one["image"].shape == (4, 3, 32, 40)
        assert one["image"].dtype == torch.uint8
        assert one["target"].shape == (4, 32, 40)
        assert one["target"].dtype == torch.uint8
        assert one["image"].is_contiguous()
        assert one["target"].is_contiguous()
        assert all(torch.equal(one[name], two[name]) for name in ("image", "target", "key", "index"))
    assert not torch.equal(seen[0][0]["image"], seen[0][1]["image"])


def test_evaluation_batches_hold_pairs_as_they_are(folder: Path) -> None:
    dataset = val_dataset(settings(folder), folder)
    batches = list(evaluation_batches(dataset, batch=1, workers=0))
    assert [tuple(batch["target"][0].shape) for batch in batches] == [(33, 29), (17, 51), (40, 40)]
    for index, batch in enumerate(batches):
        image, target = dataset.source.read(index)
        assert torch.equal(batch["image"][0], image)
        assert torch.equal(batch["target"][0], target)
        assert batch["index"].tolist() == [index]


# ---------------------------------------------------------------- resizing


@pytest.mark.parametrize(
    ("height", "width", "box", "expected"),
    [  # mmcv.image.geometric.rescale_size
        (512, 683, (512, 2048), (512, 683)),
        (683, 512, (512, 2048), (683, 512)),
        (225, 336, (512, 2048), (512, 765)),
        (300, 1700, (512, 2048), (361, 2048)),
        (364, 500, (332, 1331), (332, 456)),
        (1051, 1400, (798, 3193), (798, 1063)),
        (7, 3, (20, 100), (47, 20)),
    ],
)
def test_an_image_is_made_as_large_as_fits_into_the_box(
    height: int, width: int, box: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted(height, width, box) == expected


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [  # cv2.resize with INTER_NEAREST; the second is where floor(x * 6 / 34) would differ in place 17
        (11, 6, [0, 1, 3, 5, 7, 9]),
        (6, 34, [0] * 6 + [1] * 6 + [2] * 6 + [3] * 5 + [4] * 6 + [5] * 5),
        (41, 7, [0, 5, 11, 17, 23, 29, 35]),
    ],
)
def test_label_maps_are_resized_as_opencv_does_it(count: int, wanted: int, expected: list[int]) -> None:
    assert nearest(count, wanted).tolist() == expected


def test_images_are_resized_between_their_pixels_without_antialiasing() -> None:
    """Against bilinear interpolation written out, pixel by pixel."""
    image = (numbers((3, 9, 13), 60).add(1).mul(127.5)).round().to(torch.uint8)
    for height, width in [(4, 6), (9, 20), (31, 13), (5, 30)]:
        got = resize_image(image, height, width)
        for y in range(height):
            for x in range(width):
                at = [
                    min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
                    for place, old, new in ((y, 9, height), (x, 13, width))
                ]
                (top, left), (dy, dx) = map(int, at), (at[0] % 1, at[1] % 1)
                below, right = min(top + 1, 8), min(left + 1, 12)
                value = (
                    image[:, top, left] * (1 - dy) * (1 - dx)
                    + image[:, top, right] * (1 - dy) * dx
                    + image[:, below, left] * dy * (1 - dx)
                    + image[:, below, right] * dy * dx
                )
                assert (got[:, y, x] - value).abs().max() <= 1.01


# ---------------------------------------------------------------- the crop


def test_the_rule_of_the_largest_class_over_all_small_crops() -> None:
    """Every label map of four pixels of three classes and ignored ones, against a count in plain Python."""
    values = (0, 1, 2, IGNORED)
    for code in range(4**4):
        labels = [values[code // 4**place % 4] for place in range(4)]
        counted = [label for label in labels if label != IGNORED]
        shares = [counted.count(label) / len(counted) for label in set(counted)]
        for largest in (0.5, 0.6, 0.75, 0.99):
            expected = len(shares) > 1 and max(shares) < largest
            assert is_mixed(np.array(labels, dtype=np.uint8).reshape(2, 2), largest) == expected


class Scripted(Draws):
    """Draws that are written down: `below` takes from a list and counts."""

    def __init__(self, values: list[int]) -> None:
        super().__init__(0)
        self.values = values
        self.asked: list[int] = []

    def below(self, count: int) -> int:
        self.asked.append(count)
        return self.values.pop(0)


def test_a_crop_that_one_class_fills_is_drawn_again_up_to_ten_times() -> None:
    labels = np.zeros((8, 30), dtype=np.uint8)
    labels[:, 20:] = 1
    crop = SceneCrop(SceneCropSettings(), (8, 10), MEAN)
    draws = Scripted([0, 3, 0, 11, 0, 15])
    assert crop._place(labels, 8, 30, draws)[:2] == (0, 15)  # half and half; 3 and 11 show one class too much
    draws = Scripted([0, 1] * 11)
    top, left, target = crop._place(labels, 8, 30, draws)
    assert (top, left, target.max(), draws.asked) == (0, 1, 0, [1, 21] * 11)
    draws = Scripted([0, 1])
    whatever = SceneCrop(SceneCropSettings(largest_class=1), (8, 10), MEAN)
    assert whatever._place(labels, 8, 30, draws)[:2] == (0, 1)


def coordinates(height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image whose red is the row and green the column, and labels that follow both."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, width)
    image = torch.stack([rows, columns, torch.full_like(rows, 9)])
    return image, (rows // 8 * 5 + columns // 8) % 4


def test_image_and_labels_are_cut_flipped_and_padded_alike() -> None:
    """At factor 1 a crop's pixels say where they come from; the label of each must be that of its place."""
    image, labels = coordinates(40, 70)
    plain = SceneCropSettings(scale=[1, 1], base=[40, 70], photometric=False)
    flipped = places = 0
    for index in range(60):
        out, target = SceneCrop(plain, (32, 48), MEAN)(image, labels, key_of(0, 0, index))
        assert (out.shape, target.shape) == ((3, 32, 48), (32, 48))
        assert torch.equal(target, labels[out[0].long(), out[1].long()])
        flipped += int(out[1, 0, 0] > out[1, 0, 1])
        places += int(out[0, 0, 0] > 0)
    assert 15 < flipped < 45
    assert places > 30
    wide = SceneCrop(plain, (64, 64), MEAN)(image, labels, key_of(0, 0, 1))
    assert torch.equal(wide[1][:40], labels[wide[0][0, :40].long(), wide[0][1, :40].long()])
    assert (wide[1][40:] == IGNORED).all()
    assert (wide[0][:, 40:] == torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]).all()


def test_the_factor_is_within_its_range_and_everything_follows_from_the_key() -> None:
    image, labels = coordinates(100, 120)
    settings_in = SceneCropSettings(
        scale=[0.5, 2], base=[100, 400], largest_class=1, flip=0, photometric=False
    )
    crop = SceneCrop(settings_in, (40, 40), MEAN)
    steps = []
    for index in range(80):
        out, target = crop(image, labels, key_of(1, 2, index))
        again = crop(image, labels, key_of(1, 2, index))
        assert torch.equal(out, again[0])
        assert torch.equal(target, again[1])
        steps.append(float(out[0, -1, 0]) - float(out[0, 0, 0]))
    factors = [39 / step for step in steps]  # rows of the original that 40 rows of the crop span
    assert 0.48 < min(factors) < 0.65
    assert 1.7 < max(factors) < 2.1


# ---------------------------------------------------------------- colours


def colours_in() -> Tensor:
    """4 x 3 pixels: three special ones, and nine of any colour."""
    image = ((numbers((4, 3, 3), 50) + 1) * 127.5).round().to(torch.uint8)
    image[0] = torch.tensor([[90, 90, 90], [0, 0, 0], [255, 200, 200]])
    return image.permute(2, 0, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [  # PhotoMetricDistortion of mmsegmentation with its draws replaced by these
        (
            {"added": 17.5, "factor": 1.3, "contrast_first": True, "saturation": 1.4, "turn": -9},
            "139 139 139 22 22 22 255 255 255 40 255 191 7 197 0 185 255 234 "
            "0 245 131 178 0 214 158 201 18 247 0 255 143 231 55 170 139 255",
        ),
        (
            {"added": -20.25, "saturation": 0.6, "turn": 13, "factor": 1.45},
            "100 100 100 0 0 0 255 255 255 156 210 255 66 165 123 237 240 255 "
            "87 184 218 184 73 121 84 169 81 255 129 147 118 203 137 255 203 255",
        ),
        (
            {"turn": 17},
            "90 90 90 0 0 0 255 231 200 61 101 230 0 135 113 151 141 249 "
            "17 110 172 148 9 51 37 138 47 232 35 28 64 161 99 217 116 228",
        ),
        (
            {"saturation": 0.5},
            "90 90 90 0 0 0 255 228 228 146 213 230 68 135 86 195 220 249 "
            "94 172 159 148 79 139 111 138 88 232 130 184 122 161 112 191 173 228",
        ),
    ],
)
def test_colours_are_distorted_as_in_mmsegmentation(changes: dict[str, Any], expected: str) -> None:
    """Within the rounding of its 8-bit hue and saturation, which contrast stretches."""
    got = photometric.apply(colours_in(), **changes).permute(1, 2, 0).reshape(-1)
    difference = (got.int() - torch.tensor([int(value) for value in expected.split()])).abs()
    assert difference.max() <= 5
    assert difference.float().mean() <= 1


def test_hue_and_saturation_are_those_of_the_colour_circle() -> None:
    """Against Python's colorsys, to one grey level."""
    image = colours_in().repeat(1, 40, 1)  # more rows than are computed at a time
    for saturation, turn in [(0.5, 0), (1.5, 0), (None, 17), (None, -18), (1.3, -7)]:
        got = photometric.apply(image, saturation=saturation, turn=turn)
        for place in [(y, x) for y in (0, 1, 2, 3, 63, 64, 159) for x in range(3)]:
            hue, chroma, value = colorsys.rgb_to_hsv(*(image[:, *place] / 255).tolist())
            chroma = min(1.0, chroma * (saturation or 1))
            expected = colorsys.hsv_to_rgb((hue + (turn or 0) / 180) % 1, chroma, value)
            assert (got[:, *place] / 255 - torch.tensor(expected)).abs().max() < 1.01 / 255, (place, turn)


def test_each_distortion_is_drawn_with_probability_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(photometric, "apply", lambda image, **changes: seen.append(changes))
    for index in range(2000):
        photometric.distort(torch.zeros(3, 1, 1, dtype=torch.uint8), Draws(key_of(0, 0, index)))
    ranges = {"added": (-32, 32), "factor": (0.5, 1.5), "saturation": (0.5, 1.5), "turn": (-18, 17)}
    for name, (low, high) in ranges.items():
        values = [changes[name] for changes in seen if changes[name] is not None]
        assert 880 < len(values) < 1120
        assert low <= min(values) < low + (high - low) / 50
        assert high - (high - low) / 50 < max(values) <= high
    assert 880 < sum(changes["contrast_first"] for changes in seen) < 1120


def test_without_a_distortion_the_image_is_left_alone() -> None:
    image = colours_in()
    assert photometric.apply(image) is image
    untouched = [photometric.distort(image, Draws(key_of(0, 0, index))) is image for index in range(200)]
    assert 4 < sum(untouched) < 26  # one in 16


# ---------------------------------------------------------------- pictures


def test_a_picture_shows_image_truth_prediction_and_a_legend() -> None:
    classes = ClassList(["sky", "sea", "sand"], [(10, 20, 30), (40, 50, 60), (70, 80, 90)])
    image = torch.full((3, 20, 150), 200, dtype=torch.uint8)
    truth = torch.zeros(20, 150, dtype=torch.uint8)
    truth[:, 100:] = IGNORED
    prediction = torch.full((20, 150), 2)
    picture = pictures.comparison(image, truth, prediction, classes)
    pixels = np.asarray(picture)
    y = pictures.LINE + pictures.GAP + 5
    left = [pictures.GAP + column * (150 + pictures.GAP) for column in range(3)]
    assert [pixels[y, x + 5].tolist() for x in left] == [[200] * 3, [10, 20, 30], [70, 80, 90]]
    assert pixels[y, left[1] + 120].tolist() == [0, 0, 0]
    legend = pixels[pictures.LINE + 2 * pictures.GAP + 20 :].reshape(-1, 3).tolist()
    assert [70, 80, 90] in legend
    assert [10, 20, 30] in legend
    assert [40, 50, 60] not in legend
    assert pictures.present(truth, prediction) == [2, 0]
    without = np.asarray(pictures.comparison(image, None, prediction, classes))
    assert without[y, left[1] + 5].tolist() == [70, 80, 90]
    assert without.shape[1] == left[2]
    assert pictures.stacked([picture, picture]).size == (picture.width, 2 * picture.height)


def test_the_legend_breaks_its_lines_and_odd_sizes_are_brought_to_a_readable_width() -> None:
    classes = class_list("ade20k", Path())
    labels = torch.arange(150, dtype=torch.uint8).view(1, 150).repeat(3, 1)
    for height, width, cell in [(3, 150, 150), (40, 15, 135), (900, 1500, 512)]:
        truth = torch.zeros(height, width, dtype=torch.uint8)
        truth[:3, :150] = labels[:height, :width]
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        picture = pictures.comparison(image, truth, truth, classes)
        assert picture.width == 4 * pictures.GAP + 3 * cell
