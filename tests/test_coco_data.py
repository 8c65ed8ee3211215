"""COCO-format datasets: splits, images, and the samples made of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO

from downstream.detection.dataset import DetectionDataset, train_dataset, val_dataset
from downstream.detection.jitter import View
from downstream.detection.source import open_split
from mae_bench.data import evaluation_batches, training_batches
from mae_bench.errors import MaeBenchError
from tests.tiny_coco import (
    HEIGHT,
    TWO_PARTS,
    WIDTH,
    annotation,
    box_of,
    dataset,
    picture,
    settings_of,
    whole,
    write,
)

# ---------------------------------------------------------------- splits


def test_images_come_by_id_and_labels_follow_the_category_ids(tmp_path: Path) -> None:
    data = write(tmp_path)
    source = open_split(data, "val", tmp_path)
    assert [source.image_id(index) for index in range(len(source))] == [5, 12, 41, 70]
    assert source.classes == ["car", "stop sign", "toothbrush"]
    assert source.categories[2] == {"id": 90, "name": "toothbrush"}
    assert Path(source.name(3)) == tmp_path / "images/000070.png"
    assert source.size(0) == (HEIGHT, WIDTH)
    found = source.annotations
    objects = found.objects(3)
    assert found.ids[objects.start : objects.stop].tolist() == [900, 800, 3]  # in the order of the file
    assert found.labels[objects.start : objects.stop].tolist() == [3, 1, 2]
    assert found.crowd[objects.start : objects.stop].tolist() == [False, True, False]
    assert [found.ids[which] for which in source.targets(3)] == [900, 3]
    assert len(found.objects(2)) == 0
    assert source.objects == 4


def test_training_takes_images_with_an_object_that_is_no_crowd(tmp_path: Path) -> None:
    data = write(tmp_path)
    kept = open_split(data, "train", tmp_path)
    assert [kept.image_id(index) for index in range(len(kept))] == [5, 70]
    assert kept.objects == 4
    everything = open_split(settings_of(filter_empty=False), "train", tmp_path)
    assert [everything.image_id(index) for index in range(len(everything))] == [5, 12, 41, 70]
    assert len(open_split(data, "val", tmp_path)) == 4


def test_what_is_missing_on_disk_is_named_with_its_setting(tmp_path: Path) -> None:
    data = write(tmp_path)
    misspelt = settings_of(train={"images": "images", "annotations": "trian.json"})
    with pytest.raises(
        MaeBenchError, match=r"missing \(data.train.annotations = 'trian.json'\).*mean 'train.json'"
    ):
        open_split(misspelt, "train", tmp_path)
    elsewhere = settings_of(val={"images": "pictures", "annotations": "val.json"})
    with pytest.raises(MaeBenchError, match=r"pictures is missing \(data.val.images = 'pictures'\)"):
        open_split(elsewhere, "val", tmp_path)
    (tmp_path / "images/000012.png").unlink()
    with pytest.raises(
        MaeBenchError, match=r"images lacks 1 of the 4 images that .*val.json lists: 000012.png"
    ):
        open_split(data, "val", tmp_path)
    assert len(open_split(settings_of(max_bad_images=1), "val", tmp_path)) == 4


def test_images_may_lie_in_folders_below(tmp_path: Path) -> None:
    content = dataset()
    data = write(tmp_path, content, content)
    (tmp_path / "images/a").mkdir()
    for entry in content["images"]:
        (tmp_path / "images" / entry["file_name"]).rename(tmp_path / "images/a" / entry["file_name"])
        entry["file_name"] = f"a/{entry['file_name']}"
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert open_split(data, "val", tmp_path).read(0).shape == (3, HEIGHT, WIDTH)


def test_a_label_means_the_same_in_both_splits(tmp_path: Path) -> None:
    val = dataset()
    val["categories"][0]["name"] = "brush"
    val["categories"].append({"id": 14, "name": "hydrant"})
    data = write(tmp_path, dataset(), val)
    with pytest.raises(MaeBenchError, match=r"differ .*: 14: none / hydrant, 90: toothbrush / brush"):
        open_split(data, "train", tmp_path)
    with pytest.raises(MaeBenchError, match=r"train.json lists 3 categories, but data.classes is 80"):
        open_split(settings_of(classes=80), "train", tmp_path)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    content = dataset()
    content["annotations"] = [entry for entry in content["annotations"] if entry["iscrowd"]]
    data = write(tmp_path, content)
    with pytest.raises(MaeBenchError, match=r"train.json: no image shows an object that is no crowd"):
        open_split(data, "train", tmp_path)


def test_the_fingerprint_tells_annotations_apart_and_not_pixels(tmp_path: Path) -> None:
    def fingerprint(name: str, change: Callable[[dict], Any]) -> str:
        content = dataset()
        change(content)
        data = write(tmp_path / name, dataset(), content)
        return open_split(data, "val", tmp_path / name).fingerprint()

    def move_a_point(content: dict) -> None:
        content["annotations"][0]["segmentation"] = [[2.5, 3.25, 20.1, 5, 12.7, 17.31], TWO_PARTS[1]]

    changes: list[Callable[[dict], Any]] = [
        move_a_point,
        lambda c: c["annotations"][1].update(iscrowd=1),
        lambda c: c["annotations"][1].update(category_id=13),
        lambda c: c["categories"][0].update(name="brush"),
        lambda c: c["images"][0].update(file_name="other.png"),
        lambda c: c["annotations"][2]["segmentation"].update(counts=[0, HEIGHT * WIDTH]),
    ]
    plain = fingerprint("plain", lambda c: None)
    assert len({plain, *(fingerprint(str(n), change) for n, change in enumerate(changes))}) == 1 + len(
        changes
    )
    assert fingerprint("same", lambda c: c["images"][0].update(license=2)) == plain
    for path in (tmp_path / "plain/images").iterdir():
        Image.fromarray(picture(shift=9)).save(path)
    data = settings_of()
    assert open_split(data, "val", tmp_path / "plain").fingerprint() == plain
    assert open_split(data, "train", tmp_path / "plain").fingerprint() != plain  # fewer images


def test_the_truth_of_an_image_is_all_that_is_annotated(tmp_path: Path) -> None:
    source = open_split(write(tmp_path), "val", tmp_path)
    reference = COCO(tmp_path / "val.json")
    truth = source.truth(3)
    assert truth["labels"].tolist() == [3, 1, 2]  # a crowd in the middle
    left, top, width, height = box_of(TWO_PARTS)
    expected = torch.tensor([left, top, left + width, top + height])
    torch.testing.assert_close(truth["boxes"][0], expected)
    for mask, number in zip(truth["masks"], (900, 800, 3), strict=True):
        assert int(mask.sum()) == reference_masks.area(reference.annToRLE(reference.anns[number]))
    assert source.truth(2)["masks"].shape == (0, HEIGHT, WIDTH)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_images_of_every_kind_come_as_rgb(tmp_path: Path, mode: str) -> None:
    data = write(tmp_path)
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "images/000005.png")
    pixels = open_split(data, "val", tmp_path).read(0)
    assert pixels.dtype == torch.uint8
    expected = image.convert("RGBA").convert("RGB")  # without what lies behind
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_an_image_of_another_size_than_annotated_is_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    Image.fromarray(picture(HEIGHT, WIDTH + 1)).save(tmp_path / "images/000005.png")
    dataset = DetectionDataset(
        open_split(data, "val", tmp_path), settings_of(max_bad_images=9), training=False
    )
    with pytest.raises(
        MaeBenchError, match=r"000005.png is 48 pixels high and 65 wide, but .*val.json says 48 and 64"
    ):
        dataset[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_by_their_exif_data(tmp_path: Path, orientation: int) -> None:
    data = write(tmp_path)
    upright = Image.fromarray(picture())
    undo = [None, 0, 3, 1, 5, 2, 6, 4]  # Pillow's transpositions that make the file, by orientation - 1
    turn = undo[orientation - 1]
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "images/000005.png", exif=exif)
    pixels = open_split(data, "val", tmp_path).read(0)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), picture())


def test_an_image_annotated_lying_on_its_side_is_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "images/000005.png", exif=exif)
    with pytest.raises(MaeBenchError, match=r"000005.png is 64 pixels high and 48 wide.*its EXIF data says"):
        open_split(data, "val", tmp_path).read(0)


def test_broken_exif_data_does_not_make_an_image_unreadable(tmp_path: Path) -> None:
    data = write(tmp_path)
    Image.fromarray(picture()).save(tmp_path / "images/000005.png", "JPEG", exif=b"Exif\0\0MM\0*\xff\xff")
    assert open_split(data, "val", tmp_path).read(0).shape == (3, HEIGHT, WIDTH)


def test_an_unreadable_image_is_replaced_by_the_next_if_that_is_allowed(tmp_path: Path) -> None:
    data = write(tmp_path)
    (tmp_path / "images/000005.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(MaeBenchError, match=r"unreadable image .*000005.png"):
        val_dataset(data, tmp_path)[0]
    lenient = settings_of(max_bad_images=2)
    assert val_dataset(lenient, tmp_path)[0]["image_id"] == 12
    (tmp_path / "images/000012.png").unlink()
    assert val_dataset(lenient, tmp_path)[0]["image_id"] == 41


# ---------------------------------------------------------------- samples


def train_target(dataset: DetectionDataset, index: int, view: View) -> dict[str, torch.Tensor]:
    target = dataset.target(index, view)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape[1:] == view.crop
    assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
    return target


def test_boxes_lie_tightly_around_what_the_crop_leaves_of_the_masks(tmp_path: Path) -> None:
    data = write(tmp_path)
    dataset = train_dataset(data, tmp_path)
    target = train_target(dataset, 0, whole())
    assert target["labels"].tolist() == [1, 3]
    assert target["boxes"][0].tolist() == [10, 10, 30, 25]
    assert target["masks"][0].sum() == 20 * 15
    assert target["masks"][0, 10:25, 10:30].all()
    # The crop from row 20 and column 12 on shows five rows of the square, and nothing left of column 12.
    view = View((HEIGHT, WIDTH), (HEIGHT, WIDTH), 20, 12, (28, 52))
    target = train_target(dataset, 0, view)
    assert target["boxes"][0].tolist() == [0, 0, 18, 5]
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_objects_without_a_pixel_left_are_dropped_and_crowds_are_no_targets(tmp_path: Path) -> None:
    data = write(tmp_path)
    dataset = train_dataset(data, tmp_path)
    assert train_target(dataset, 1, whole())["labels"].tolist() == [3, 2]
    right_half = View((HEIGHT, WIDTH), (HEIGHT, WIDTH), 0, 32, (HEIGHT, 32))
    assert train_target(dataset, 1, right_half)["labels"].tolist() == [3]
    assert train_target(dataset, 0, right_half)["boxes"].shape == (0, 4)


def test_a_training_sample_follows_from_its_key(tmp_path: Path) -> None:
    data = write(tmp_path)
    first, again = train_dataset(data, tmp_path, seed=3), train_dataset(data, tmp_path, seed=3)
    seen = set()
    for epoch in range(8):
        one, other = first[(epoch, 1)], again[(epoch, 1)]
        assert one["key"] == other["key"]
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        torch.testing.assert_close(one["target"], other["target"], rtol=0, atol=0)
        assert one["image"].is_contiguous()
        assert one["image"].shape[1:] == one["target"]["masks"].shape[1:]
        assert max(one["image"].shape[1:]) <= 64
        seen.add(tuple(one["image"].shape))
    assert len(seen) > 2
    other_seed = train_dataset(data, tmp_path, seed=4)
    assert any(not torch.equal(other_seed[(n, 1)]["image"], first[(n, 1)]["image"]) for n in range(3))


def test_batches_are_lists_and_the_same_from_a_loader_process(tmp_path: Path) -> None:
    data = write(tmp_path)
    dataset = train_dataset(data, tmp_path)
    here, there = (
        training_batches(dataset, batch=2, micro_batch=2, workers=workers, seed=1) for workers in (0, 1)
    )
    for _ in range(2):
        one, other = next(here), next(there)
        assert isinstance(one["image"], list)
        assert one["key"].dtype == one["index"].dtype == torch.int64
        assert one.keys() == {"image", "target", "key", "index"}
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    here.close()
    there.close()


def test_evaluation_samples_hold_what_scaling_back_needs(tmp_path: Path) -> None:
    write(tmp_path)
    data = settings_of(image_size=[96, 96], evaluation={"short_edge": 60, "long_edge": 96})
    batches = list(evaluation_batches(val_dataset(data, tmp_path), batch=3, workers=0))
    assert [batch["image_id"] for batch in batches] == [[5, 12, 41], [70]]
    assert batches[0]["size"] == [(HEIGHT, WIDTH)] * 3
    assert [tuple(image.shape) for image in batches[0]["image"]] == [(3, 60, 80)] * 3
    assert batches[1].keys() == {"image", "size", "image_id", "key", "index"}


def test_a_dataset_can_be_sent_to_another_process(tmp_path: Path) -> None:
    data = write(tmp_path)
    dataset = train_dataset(data, tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(copy[1], dataset[1], rtol=0, atol=0)


def test_oddities_of_coco_itself_are_taken(tmp_path: Path) -> None:
    content = dataset()
    flat = [[5.0, 5.0, 5.0, 9.0, 5.0, 7.0]]
    content["annotations"] = [annotation(1, 5, 3, flat), annotation(2, 5, 3, [[200, 9, 210, 9, 210, 30]])]
    del content["annotations"][0]["iscrowd"]
    data = write(tmp_path, content)
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "train.json").read_bytes())
    target = train_target(
        DetectionDataset(open_split(data, "train", tmp_path), data, training=True), 0, whole()
    )
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)
