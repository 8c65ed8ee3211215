"""Images of any number of channels: what is read, what is refused, and geometry that treats all alike."""

from __future__ import annotations

import io
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import downstream.detection.pictures as detection_pictures
import downstream.segmentation.pictures as segmentation_pictures
from downstream.detection import settings as detection_settings
from downstream.detection.jitter import draw_view, resize_for_test
from downstream.detection.source import open_split as open_coco
from downstream.segmentation.crops import SceneCrop
from downstream.segmentation.dataset import open_split as open_pairs
from downstream.segmentation.dataset import train_dataset as train_pairs
from downstream.segmentation.labels import ClassList
from downstream.segmentation.photometric import distort
from downstream.segmentation.settings import SceneCropSettings, SegmentationData
from mae_bench.augment import (
    Mixing,
    colour_jitter,
    erase,
    eval_transform,
    normalise,
    train_transform,
)
from mae_bench.data import UnreadableImageError, as_rgb, decode, open_source, train_dataset, val_dataset
from mae_bench.departures import phrases
from mae_bench.errors import MaeBenchError
from mae_bench.keys import Draws
from mae_bench.pretrain.task import MAEConfig
from mae_bench.results import DeviationRecord
from mae_bench.run import identity
from mae_bench.settings import DataSettings, EraseSettings, deviations, protocol_values, recipe_hash
from mae_bench.validation import validate
from mae_bench.yamlfile import dump, load
from tests.pictures import encoded, settings, smooth, write_tar
from tests.tiny_coco import dataset as coco_dataset
from tests.tiny_coco import settings_of
from tests.tiny_coco import write as write_coco
from tests.toy import toy_config, toy_run

Pixels = NDArray[np.uint8]
COUNTS = (1, 2, 4, 5)


def pixels(channels: int, seed: int = 0, height: int = 12, width: int = 10) -> Pixels:
    """Smooth pixels ``(H, W, C)``, every channel another; the first ones are the same for any C."""
    parts = [np.asarray(smooth(100 * seed + part, height, width)) for part in range(-(-channels // 3))]
    return np.concatenate(parts, axis=2)[:, :, :channels]


def array_file(array: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def planes(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


# ---------------------------------------------------------------- what is read

GREY, LA, RGB, RGBA = (pixels(channels) for channels in (1, 2, 3, 4))
MANY = pixels(5)
SIXTEEN = np.random.RandomState(0).randint(0, 65536, (12, 10, 4)).astype(np.uint16)
UPPER = (SIXTEEN >> 8).astype(np.uint8)


def of(array: Pixels, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return image if mode is None else Image.frombytes(mode, image.size, array.tobytes())


def pages(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF with a grey page for each channel."""
    first, *others = (Image.fromarray(array[:, :, page]) for page in range(array.shape[2]))
    return encoded(first, "TIFF", save_all=True, append_images=others, **options)


def as_pillow_reads(data: bytes, mode: str) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        stored = np.array(image)
    return stored if stored.ndim == 3 else stored[:, :, None]


def tiff(samples: int) -> bytes:
    """A TIFF of 2 x 2 pixels with so many samples each, of which those after the third have no meaning."""
    strip = bytes(range(4 * samples))
    entries = [
        (256, 3, [2]), (257, 3, [2]), (258, 3, [8] * samples), (259, 3, [1]), (262, 3, [2]), (273, 4, [0]),
        (277, 3, [samples]), (278, 3, [2]), (279, 4, [len(strip)]), (338, 3, [0] * (samples - 3)),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    directory, more = struct.pack("<H", len(entries)), b""
    for tag, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", start + len(more)), more + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    where = struct.pack("<HHII", 273, 4, 1, 0)
    assert where in directory
    directory = directory.replace(where, struct.pack("<HHII", 273, 4, 1, start + len(more)))
    return b"II*\0" + struct.pack("<I", 8) + directory + b"\0\0\0\0" + more + strip


PALETTE = of(RGB).quantize(9)
CMYK_JPEG = encoded(of(RGBA, "CMYK"), "JPEG")
GREY_JPEG = encoded(of(GREY), "JPEG")
STORED: dict[str, tuple[bytes, Pixels]] = {
    "png grey": (encoded(of(GREY)), GREY),
    "png of one bit": (encoded(of(GREY).point(lambda v: v // 128 * 255, "1")), GREY // 128 * 255),
    "png of 16 bits": (encoded(Image.fromarray(SIXTEEN[:, :, 0])), UPPER[:, :, :1]),
    "jpeg grey": (GREY_JPEG, as_pillow_reads(GREY_JPEG, "L")),
    "tiff grey": (encoded(of(GREY), "TIFF"), GREY),
    "tiff of 16 bits": (encoded(Image.fromarray(SIXTEEN[:, :, 0]), "TIFF"), UPPER[:, :, :1]),
    "pgm": (encoded(of(GREY), "PPM"), GREY),
    "png grey, alpha": (encoded(of(LA, "LA")), LA),
    "tiff of two pages": (pages(LA), LA),
    "png alpha": (encoded(of(RGBA)), RGBA),
    "png palette, alpha": (
        encoded(PALETTE, transparency=bytes(range(0, 90, 10))),
        np.array(Image.open(io.BytesIO(encoded(PALETTE, transparency=bytes(range(0, 90, 10))))).convert("RGBA")),
    ),
    "webp alpha": (encoded(of(RGBA), "WEBP", lossless=True, exact=True), RGBA),
    "tiff alpha": (encoded(of(RGBA), "TIFF"), RGBA),
    "tiff cmyk": (encoded(of(RGBA, "CMYK"), "TIFF"), RGBA),
    "tiff cmyk, packed": (encoded(of(RGBA, "CMYK"), "TIFF", compression="tiff_lzw"), RGBA),
    "jpeg cmyk": (CMYK_JPEG, as_pillow_reads(CMYK_JPEG, "CMYK")),
    "tiff of five pages": (pages(MANY), MANY),
    "tiff of four pages of 16 bits": (pages(SIXTEEN), UPPER),
    "npy of one": (array_file(GREY), GREY),
    "npy of three": (array_file(RGB), RGB),
    "npy of five": (array_file(MANY), MANY),
    "npy, columns first": (array_file(np.asfortranarray(MANY)), MANY),
    "npy of 16 bits": (array_file(SIXTEEN), UPPER),
    "npy of 16 bits, big endian": (array_file(SIXTEEN.astype(">u2")), UPPER),
}  # fmt: skip


@pytest.mark.parametrize("kind", STORED)
def test_an_image_is_read_as_it_is_stored(kind: str) -> None:
    data, expected = STORED[kind]
    found = decode(data, expected.shape[2])
    assert found.dtype == torch.uint8
    assert torch.equal(found, planes(expected))


def test_pillow_images_and_tensors_of_other_channels() -> None:
    assert torch.equal(decode(of(RGBA), 4), planes(RGBA))
    assert torch.equal(decode(of(GREY), 1), planes(GREY))
    tensor = planes(MANY)
    assert decode(tensor, 5) is tensor


def test_three_channels_are_rgb_whatever_the_file_holds() -> None:
    assert torch.equal(decode(encoded(of(GREY))), planes(GREY).expand(3, -1, -1))
    assert torch.equal(decode(encoded(of(RGBA))), planes(RGBA)[:3])
    assert torch.equal(decode(pages(MANY)), planes(MANY)[:1].expand(3, -1, -1))


# ---------------------------------------------------------------- what is refused


class Marker:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def two_sizes() -> bytes:
    first, second = of(GREY), of(pixels(1, 0, 6, 5))
    return encoded(first, "TIFF", save_all=True, append_images=[second])


PROMISE = array_file(GREY).replace(b"(12, 10, 1)", b"(12, 10, 9999999999)").replace(b" " * 10 + b"\n", b" \n")


@pytest.mark.parametrize(
    ("data", "channels", "reason"),
    [
        (encoded(of(RGB)), 1, "it has 3 channels, but data.channels is 1; give images of 1, or set data.channels=3"),
        (encoded(of(RGB), "JPEG"), 4, "it has 3 channels, but data.channels is 4"),
        (encoded(PALETTE), 1, "it has 3 channels, but data.channels is 1"),
        (encoded(PALETTE, transparency=3), 1, "it has 4 channels, but data.channels is 1"),
        (encoded(of(GREY)), 4, "it has 1 channel, but data.channels is 4; give images of 4, or set data.channels=1"),
        (encoded(of(LA, "LA")), 1, "it has 2 channels, but data.channels is 1"),
        (array_file(RGBA), 3, "it has 4 channels, but data.channels is 3"),
        (array_file(GREY), 3, "it has 1 channel, but data.channels is 3"),
        (planes(MANY), 3, "it has 5 channels, but data.channels is 3"),
        (of(RGBA), 5, "it has 4 channels, but data.channels is 5"),
        (pages(MANY), 4, "it has 5 channels, but data.channels is 4"),
        (two_sizes(), 2, "it has 1 channel, but data.channels is 2"),
        (tiff(4), 4, r"it has 4 channels, of which Pillow reads \d; store it as a NumPy file"),
        (tiff(6), 4, r"it has 6 channels, of which Pillow reads \d; store it as a NumPy file"),
        (encoded(Image.fromarray(SIXTEEN[:, :, 0].astype(np.int32)), "TIFF"), 1,
         "its pixels are int32 numbers, not of 8 or 16 bits"),
        (encoded(Image.fromarray(SIXTEEN[:, :, 0].astype(np.float32)), "TIFF"), 1, "its pixels are float32 numbers"),
        (array_file(RGBA.transpose(2, 0, 1)), 4,
         r"its array has the shape \(4, 12, 10\); store it as \(height, width, channels\)"),
        (array_file(GREY[:, :, 0]), 1, r"its array has the shape \(12, 10\); store it as"),
        (array_file(RGBA[None]), 4, r"its array has the shape \(1, 12, 10, 4\); store it as"),
        (array_file(RGBA[:0]), 4, r"its array of shape \(0, 10, 4\) holds no pixels"),
        (array_file(RGBA.astype(np.float32)), 4, "its array is of float32; store it as uint8 or uint16"),
        (array_file(RGBA.astype(np.int8)), 4, "its array is of int8; store it"),
        (array_file(RGBA.astype(np.uint32)), 4, "its array is of uint32; store it"),
        (array_file(RGBA > 9), 4, "its array is of bool; store it"),
        (array_file(RGBA)[:-1], 4, "expected 480 bytes got 479"),
        (array_file(RGBA)[:40], 4, "EOF"),
        (array_file(RGBA)[:6], 4, "EOF"),
        (array_file(RGBA).replace(b"|u1", b"|x9"), 4, "not a valid dtype"),
        (PROMISE, 1, "promises more pixels than memory|EOF"),
        (encoded(of(RGBA))[:80], 4, "."),
        (b"hello", 4, "not an image of a known format"),
        (b"", 4, "the file is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(data: Any, channels: int, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data, channels)


def test_a_numpy_file_is_never_unpickled(tmp_path: Path) -> None:
    data = array_file(np.array([[[Marker(tmp_path / "made")]]], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImageError, match=r"[Oo]bject arrays cannot be loaded"):
        decode(data, 1)
    assert not (tmp_path / "made").exists()
    np.load(io.BytesIO(data), allow_pickle=True)  # the file would have made it
    assert (tmp_path / "made").exists()


# ---------------------------------------------------------------- datasets


def write_arrays(folder: Path, channels: int, count: int = 2, kind: str = "npy") -> Path:
    """`count` images of each of two classes."""
    for place, name in enumerate(("ape", "bee")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            array = pixels(channels, 10 * place + index)
            data = array_file(array) if kind == "npy" else encoded(of(array))
            (folder / name / f"{index}.{kind}").write_bytes(data)
    return folder


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize(("channels", "kind"), [(1, "png"), (4, "png"), (5, "npy")])
def test_folders_of_other_channels(tmp_path: Path, channels: int, kind: str, cache: str) -> None:
    for split in ("train", "val"):
        write_arrays(tmp_path / "set" / split, channels, kind=kind)
    data = settings(channels=channels, cache=cache, augment={"crop": {"kind": "center"}, "flip": 0.0})
    train = train_dataset(data, tmp_path)
    train.prepare(np.arange(len(train)))
    assert train.classes == ["ape", "bee"]
    for index, seed in enumerate((0, 1, 10, 11)):
        assert torch.equal(train[index]["image"], planes(pixels(channels, seed))[:, 2:10, 1:9])
    assert train.subset([2]).with_transform(train.transform).channels == channels
    assert train.is_cheap()
    assert val_dataset(data, tmp_path)[3]["image"].shape == (channels, 8, 8)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_an_image_of_other_channels_is_named_with_what_to_set(tmp_path: Path, cache: str) -> None:
    write_arrays(tmp_path / "set" / "val", 4)
    images = val_dataset(settings(cache=cache), tmp_path)
    images.prepare(np.arange(len(images)))
    with pytest.raises(
        MaeBenchError,
        match=r"unreadable image .*set/val/ape/0.npy: it has 4 channels, but data.channels is 3; give images of "
        "3, or set data.channels=4. Mend",
    ):
        images[0]
    few = val_dataset(settings(channels=4, max_bad_images=1), tmp_path)
    (tmp_path / "set/val/ape/0.npy").write_bytes(array_file(MANY))
    assert few[0]["image"].shape == (4, 8, 8)
    (bad,) = few.bad_images()
    assert "it has 5 channels" in bad


def test_tar_files_and_shards_of_arrays(tmp_path: Path) -> None:
    values: dict[str, Any] = {"channels": 5, "evaluation": {"resize": None}}
    members = {f"{name}/{index}.npy": array_file(pixels(5, index)) for name in "ab" for index in (0, 1)}
    write_tar(tmp_path / "set/val.tar", members)
    tar = val_dataset(settings(source="tar", **values), tmp_path)
    assert [tar.source.label(index) for index in range(4)] == [0, 0, 1, 1]
    assert torch.equal(tar[3]["image"], planes(pixels(5, 1))[:, 2:10, 1:9])
    shard = {"0.npy": array_file(pixels(5, 7)), "0.cls": b"1", "1.npy": array_file(MANY), "1.cls": b"0"}
    write_tar(tmp_path / "shards/val.tar", shard)
    shards = val_dataset(settings(source="webdataset", root="shards", **values), tmp_path)
    assert torch.equal(shards[0]["image"], planes(pixels(5, 7))[:, 2:10, 1:9])


def test_in_a_shard_a_picture_goes_before_an_array(tmp_path: Path) -> None:
    picture = encoded(of(RGB))
    members = {"0.features.npy": array_file(MANY), "0.png": picture, "0.cls": b"0"}
    write_tar(tmp_path / "set/val.tar", members)
    source = open_source(settings(source="webdataset"), "val", tmp_path)
    assert source.read(0) == picture


def test_a_hugging_face_dataset_of_other_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {
        "image": [{"bytes": data, "path": None} for data in (encoded(of(RGBA)), array_file(pixels(4, 3)))],
        "label": [0, 1],
    }
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set/val.parquet")
    images = val_dataset(settings(source="hf", val="validation", channels=4), tmp_path)
    assert torch.equal(images[0]["image"], planes(RGBA)[:, 2:10, 1:9])
    assert torch.equal(images[1]["image"], planes(pixels(4, 3))[:, 2:10, 1:9])


def test_detection_images_of_other_channels(tmp_path: Path) -> None:
    content = coco_dataset()
    write_coco(tmp_path, content, content)
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].replace(".png", ".npy")
        array = pixels(5, entry["id"], entry["height"], entry["width"])
        (tmp_path / "images" / entry["file_name"]).write_bytes(array_file(array))
    write_json(tmp_path, content)
    source = open_coco(settings_of(channels=5), "val", tmp_path)
    assert torch.equal(source.read(0), planes(pixels(5, 5, *source.size(0))))
    with pytest.raises(UnreadableImageError, match=r"it has 5 channels, but data.channels is 3"):
        open_coco(settings_of(), "val", tmp_path).read(0)
    (tmp_path / "images/000005.npy").write_bytes(array_file(pixels(5, 5, 9, 9)))
    with pytest.raises(MaeBenchError, match=r"000005.npy is 9 pixels high and 9 wide, but .*val.json says"):
        source.read(0)


def write_json(folder: Path, content: Any) -> None:
    import json

    (folder / "val.json").write_text(json.dumps(content))


def test_upright_whatever_the_channels(tmp_path: Path) -> None:
    content = coco_dataset()
    write_coco(tmp_path, content, content)
    entry = next(entry for entry in content["images"] if entry["id"] == 5)
    lying = pixels(4, 1, entry["width"], entry["height"])
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images" / entry["file_name"]).write_bytes(encoded(of(lying), exif=exif))
    source = open_coco(settings_of(channels=4), "val", tmp_path)
    assert torch.equal(source.read(0), planes(np.rot90(lying, -1)))


def pairs(root: Path, channels: int) -> SegmentationData:
    """Two training and two validation pairs of `channels` channels."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for index in range(2):
            array = pixels(channels, index, 20, 30)
            (root / "images" / split / f"{index}.npy").write_bytes(array_file(array))
            labels = (np.indices((20, 30)).sum(0) // 5 % 2).astype(np.uint8)
            Image.fromarray(labels).save(root / "labels" / split / f"{index}.png")
    (root / "classes.txt").write_text("even\nodd\n")
    return pair_settings(root, channels=channels, photometric=False)


def pair_settings(root: Path, *, channels: int, photometric: bool) -> SegmentationData:
    return SegmentationData.model_validate(
        {
            "name": "pairs",
            "root": str(root),
            **{
                split: {"images": f"images/{split}", "labels": f"labels/{split}"}
                for split in ("train", "val")
            },
            "class_list": "classes.txt",
            "image_size": [24, 24],
            "channels": channels,
            "evaluation": {"stride": [16, 16]},
            "augment": {"base": [20, 40], "photometric": photometric},
        }
    )


def test_pairs_of_other_channels(tmp_path: Path) -> None:
    data = pairs(tmp_path, 5)
    image, labels = open_pairs(data, "val", tmp_path).read(1)
    assert torch.equal(image, planes(pixels(5, 1, 20, 30)))
    assert labels.shape == (20, 30)
    train = train_pairs(data, tmp_path, 0, mean=[0.5] * 5)
    assert train[0]["image"].shape == (5, 24, 24)
    assert train.is_cheap()
    with pytest.raises(MaeBenchError, match=r"data.channels is 5, but the backbone takes 3 channels"):
        train_pairs(data, tmp_path, 0, mean=[0.5] * 3)
    with pytest.raises(UnreadableImageError, match=r"it has 5 channels, but data.channels is 3"):
        open_pairs(data.model_copy(update={"channels": 3}), "val", tmp_path).read(0)


# ---------------------------------------------------------------- geometry is the same for every channel


def alike(function: Callable[[Tensor], Tensor], channels: int, height: int = 41, width: int = 33) -> Tensor:
    """`function` of an image of so many channels, compared with that of the first three, bit by bit."""
    three = planes(pixels(3, 9, height, width))
    own = planes(pixels(channels, 9, height, width))
    shared = min(channels, 3)
    assert torch.equal(own[:shared], three[:shared])
    expected, found = function(three), function(own)
    assert found.dtype == torch.uint8
    assert found.shape == (channels, *expected.shape[1:])
    assert torch.equal(found[:shared], expected[:shared])
    # Pixels may lie with planes or with channels innermost.
    assert torch.equal(function(own.permute(1, 2, 0).contiguous().permute(2, 0, 1)), found)
    return found


@pytest.mark.parametrize("channels", COUNTS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", ["random_resized", "random_resized_once", "pad", "center"])
def test_crops_resizing_and_mirroring(channels: int, interpolation: str, kind: str) -> None:
    data = settings(
        channels=channels,
        image_size=[43, 35],
        interpolation=interpolation,
        augment={"crop": {"kind": kind, "scale": [0.2, 1.0]}, "flip": 0.5},
        evaluation={"resize": 37},
    )
    transform = train_transform(data, [0.5] * channels)
    views = [alike(lambda image, key=key: transform(image, key), channels) for key in range(6)]  # type: ignore[misc]
    assert len({view.numpy().tobytes() for view in views}) > 1
    evaluate = eval_transform(data)
    alike(lambda image: evaluate(image, 0), channels)


@pytest.mark.parametrize("channels", COUNTS)
def test_large_scale_jitter_and_the_size_of_testing(channels: int) -> None:
    for key in range(8):
        view = draw_view(detection_settings.JitterSettings(), (48, 48), (41, 33), Draws(key))
        alike(view.of_image, channels)
    alike(
        lambda image: resize_for_test(
            image, detection_settings.TestSizeSettings(short_edge=50, long_edge=60)
        ),
        channels,
    )


@pytest.mark.parametrize("channels", COUNTS)
def test_scene_crops_are_padded_with_the_mean_pixel(channels: int) -> None:
    augment = SceneCropSettings(base=[40, 60], scale=[0.4, 1.6], photometric=False)
    mean = [0.1, 0.35, 0.6, 0.85, 0.2]
    labels = torch.zeros(41, 33, dtype=torch.uint8)
    padded = 0
    for key in range(8):
        found = alike(
            lambda image, key=key: SceneCrop(augment, (48, 32), mean[: len(image)])(image, labels, key)[0],  # type: ignore[misc]
            channels,
        )
        _, target = SceneCrop(augment, (48, 32), mean[:channels])(
            torch.zeros(channels, 41, 33, dtype=torch.uint8), labels, key
        )
        outside = target == 255
        padded += bool(outside.any())
        for plane, value in zip(found, mean, strict=False):
            assert (plane[outside] == round(255 * value)).all()
    assert padded


@pytest.mark.parametrize("channels", COUNTS)
def test_erasing_and_mixing_treat_channels_alike(channels: int) -> None:
    shared = min(channels, 3)

    def through(count: int) -> tuple[Tensor, Tensor]:
        images = torch.stack([planes(pixels(count, seed, 16, 16)) for seed in range(5)])
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        out = erase(normalise(images, [0.5] * count, [0.5] * count), EraseSettings(prob=0.5, mode="const"))
        erased = out == 0
        assert torch.equal(erased.any(1), erased.all(1))
        assert erased.any()
        mixed, targets = Mixing(4, mixup=0.8, cutmix=1.0)(out, torch.arange(5) % 4)
        return mixed, targets

    expected, found = through(3), through(channels)
    assert torch.equal(found[0][:, :shared], expected[0][:, :shared])
    assert torch.equal(found[1], expected[1])
    noisy = erase(torch.full((8, channels, 16, 16), 9.0), EraseSettings(prob=1.0))
    assert (noisy != 9).all(1).flatten(1).any(1).all()


# ---------------------------------------------------------------- colours are for RGB


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            {"rand_augment": "rand-m9"},
            "augment.rand_augment is for RGB and channels is 4; set data.augment.rand_augment=null",
        ),
        (
            {"color_jitter": 0.4},
            "augment.color_jitter is for RGB and channels is 4; set data.augment.color_jitter=0",
        ),
    ],
)
def test_recipes_with_colours_say_so_before_the_start(augment: dict[str, Any], message: str) -> None:
    values = {**settings(augment=augment).model_dump(), "channels": 4}
    with pytest.raises(MaeBenchError, match=message):
        validate(DataSettings, values)
    assert validate(DataSettings, {**values, "channels": 3}).augment.flip == 0.5


def test_the_photometric_distortion_says_so_too() -> None:
    with pytest.raises(
        ValueError,
        match=r"augment.photometric is for RGB and channels is 1; set data.augment.photometric=false",
    ):
        pair_settings(Path("/nowhere"), channels=1, photometric=True)


@pytest.mark.parametrize("channels", COUNTS)
def test_colours_of_other_images_are_refused(channels: int) -> None:
    image = planes(pixels(channels))
    with pytest.raises(MaeBenchError, match=f"color_jitter needs images of 3 channels, not {channels}; set"):
        colour_jitter(image, 0.4, Draws(0))
    with pytest.raises(MaeBenchError, match=f"distortion needs images of 3 channels, not {channels}; set"):
        distort(image, Draws(0))
    transform = train_transform(settings(augment={"rand_augment": "rand-m9"}))
    with pytest.raises(MaeBenchError, match=f"rand_augment needs images of 3 channels, not {channels}; set"):
        transform(image, 0)


def test_pretraining_wants_statistics_for_every_channel() -> None:
    values = {
        "task": "mae",
        "recipe": "test",
        "data": {"name": "set", "root": "set", "channels": 4},
        "model": {"arch": "vit_tiny_patch16_224"},
        "train": {"steps": 1, "batch": 1},
        "optim": {"lr": 0.1},
    }
    with pytest.raises(
        MaeBenchError, match=r"mean has 3 channels and data.channels is 4; give mean and std a"
    ):
        validate(MAEConfig, values)
    assert validate(MAEConfig, {**values, "mean": [0.5] * 4, "std": [0.5] * 4}).data.channels == 4


# ---------------------------------------------------------------- hashes and comparisons


def test_three_channels_leave_hash_and_identity_as_they_were() -> None:
    three, four = toy_config(), toy_config(data__channels=4)
    assert protocol_values(three)["data.channels"] == 3
    assert recipe_hash(three) == recipe_hash(toy_config(data__channels=3)) != recipe_hash(four)
    assert identity(three) != identity(four)
    # What `recipe_hash` gave for these settings before there was `data.channels`.
    assert recipe_hash(three) == "5e51ac13478bc0684ef2b1467e0d5a1177af28c6db4f6eb3d0907d6b4ccd43a1"
    assert [(d.key, d.published, d.ours) for d in deviations(four, three)] == [("data.channels", 3, 4)]
    assert phrases([DeviationRecord(key="data.channels", published=3, ours=4)]) == [
        "image channels 4 (published 3)"
    ]


def test_a_run_from_before_goes_on_and_one_of_other_channels_does_not(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    run.close()
    values = load(run.folder / "config.yaml").values
    del values["data"]["channels"]
    (run.folder / "config.yaml").write_text(dump(values))
    toy_run(tmp_path).close()
    for before, now in ((None, 4), (4, 3)):
        values["data"] |= {"channels": before} if before else {}
        (run.folder / "config.yaml").write_text(dump(values))
        other = toy_run(tmp_path / str(now), data__channels=now)
        other.close()
        (other.folder / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
        with pytest.raises(MaeBenchError, match=f"data.channels: {before or 3} there, {now} now"):
            toy_run(tmp_path / str(now), data__channels=now)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])]
)
def test_pictures_show_three_channels_or_one_as_grey(channels: int, shown: list[int]) -> None:
    image = planes(pixels(channels))
    colours = image[shown]
    assert torch.equal(as_rgb(image), colours)
    labels = torch.zeros(12, 10, dtype=torch.int64)
    classes = ClassList(["all"], [(1, 2, 3)])
    drawn = [segmentation_pictures.comparison(one, None, labels, classes) for one in (image, colours)]
    assert drawn[0].tobytes() == drawn[1].tobytes()
    categories = [{"id": 1, "name": "all"}]
    detection = {"image_id": 0, "category_id": 1, "bbox": [2.0, 2.0, 5.0, 6.0], "score": 0.9}
    drawn = [detection_pictures.draw(one, None, [detection], categories) for one in (image, colours)]
    assert drawn[0].tobytes() == drawn[1].tobytes()
