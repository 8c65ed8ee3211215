"""Judging detections: equal to pycocotools, and plain words for what cannot be judged."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import math
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCOeval_faster
from faster_coco_eval.core import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from downstream.detection.judge import NUMBERS, judge, judge_file, require_masks_seen
from downstream.detection.predictions import Collector, paste, read_detections, to_records
from downstream.detection.run_lengths import areas
from mae_bench.errors import MaeBenchError
from tests.closed_form import numbers
from tests.detections import CATEGORIES, compressed, scene

# ---------------------------------------------------------------- equal to pycocotools


def by_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]], kind: str) -> COCOeval:
    """Evaluated as detectron2 does it: for masks, boxes are taken out, so that areas are those of masks."""
    left_out = {"box": "segmentation", "mask": "bbox"}[kind]
    records = [{key: value for key, value in record.items() if key != left_out} for record in found]
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = copy.deepcopy(truth)
        objects.createIndex()
        evaluation = COCOeval(objects, objects.loadRes(records), {"box": "bbox", "mask": "segm"}[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(truth: dict[str, Any], found: list[dict[str, Any]]) -> None:
    scores = judge(truth, found)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for kind in ("box", "mask"):
        expected = by_pycocotools(truth, found, kind)
        for name, value in zip(NUMBERS, expected.stats, strict=True):
            ours = scores.metrics.get(f"{kind}_{name}", -100.0)
            assert ours == pytest.approx(100 * value, abs=1e-9), f"{kind}_{name}"
        of_classes = expected.eval["precision"][:, :, :, 0, -1]
        for index, category_id in enumerate(expected.params.catIds):
            ours_of_class = scores.per_class.get(names[category_id], {})
            if (of_classes[:, :, index] < 0).all():
                assert ours_of_class == {}
                continue
            assert ours_of_class[f"{kind}_ap"] == pytest.approx(
                100 * of_classes[:, :, index].mean(), abs=1e-9
            )
            assert ours_of_class[f"{kind}_ap50"] == pytest.approx(
                100 * of_classes[0, :, index].mean(), abs=1e-9
            )


@pytest.mark.parametrize("seed", range(12))
def test_every_number_is_that_of_pycocotools(seed: int) -> None:
    truth, found = scene(seed)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    assert max(np.unique([record["image_id"] for record in found], return_counts=True)[1]) > 100
    assert_equal(truth, found)


def test_the_scenes_are_neither_hopeless_nor_solved() -> None:
    values = judge(*scene(0)).metrics
    assert 5 < values["box_ap"] < values["mask_ap"] < 95
    assert len(values) == 24
    assert len(set(values.values())) > 15


def test_tied_scores_across_images_are_counted_in_the_order_of_image_ids() -> None:
    truth, found = scene(3)
    for record in found:
        record["score"] = 0.5
    assert_equal(truth, found)
    truth["images"].reverse()
    assert judge(truth, found) == judge(dict(truth, images=truth["images"][::-1]), found)


def test_scores_that_differ_by_less_than_single_precision_are_not_tied() -> None:
    truth, found = scene(4)
    draws = random.Random(0)
    for record in found:
        record["score"] = 0.5 + draws.random() * 1e-12
    assert_equal(truth, found)


def test_objects_of_one_size_only_leave_the_other_sizes_out() -> None:
    truth, found = scene(5, side=30)  # no object reaches 32 x 32 pixels
    assert_equal(truth, found)
    scores = judge(truth, found)
    assert "box_ap_small" in scores.metrics
    assert not [name for name in scores.metrics if name.endswith(("medium", "large"))]
    assert {f"{kind}_{name}" for kind in ("box", "mask") for name in NUMBERS if name[-1] not in "lme"} <= set(
        scores.metrics
    )


def test_ids_that_mislead_the_evaluations_do_no_harm() -> None:
    truth, found = scene(6)
    expected = judge(truth, found)
    # To pycocotools a match with annotation 0 is no match; a float64 cannot tell neighbours above 2 ** 53.
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number // 2
    for entry in (*truth["images"], *truth["annotations"], *found):
        key = "id" if "height" in entry else "image_id"
        entry[key] += 2**60
    assert judge(truth, found) == expected


def test_an_area_that_is_not_stated_is_counted() -> None:
    truth, found = scene(7)
    expected = judge(truth, found)
    for annotation in truth["annotations"]:
        del annotation["area"]
    assert judge(truth, found) == expected


def test_one_kind_alone_gives_the_same_numbers() -> None:
    truth, found = scene(8)
    both = judge(truth, found)
    for kind, unused in (("box", "segmentation"), ("mask", "bbox")):
        without = [{key: value for key, value in record.items() if key != unused} for record in found]
        alone = judge(truth, without, kinds=(kind,))
        assert alone.metrics == {name: v for name, v in both.metrics.items() if name.startswith(kind)}


def test_files_and_their_contents_are_judged_alike_silently_and_left_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    truth, found = scene(9)
    before = copy.deepcopy((truth, found))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert judge(truth, found) == judge_file(tmp_path / "truth.json", tmp_path / "found.json")
    assert (truth, found) == before
    assert capfd.readouterr() == ("", "")


def test_no_detection_at_all_has_ap_zero() -> None:
    scores = judge(scene(0)[0], [])
    assert scores.metrics["box_ap"] == scores.metrics["mask_ar100"] == 0
    assert scores.per_class["fig"] == {"box_ap": 0, "box_ap50": 0, "mask_ap": 0, "mask_ap50": 0}


def test_an_evaluation_that_does_not_see_masks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_masks_seen.cache_clear()
    monkeypatch.setattr(COCOeval_faster, "computeIoU", lambda self, image, category: np.zeros((1, 1)))
    with pytest.raises(MaeBenchError, match=r"faster-coco-eval .* does not compare masks as expected"):
        judge(*scene(0))
    monkeypatch.undo()
    judge(*scene(0))


def test_categories_of_one_name_are_told_apart() -> None:
    truth, found = scene(1)
    truth["categories"] = [dict(category, name="fruit") for category in CATEGORIES]
    assert set(judge(truth, found).per_class) == {"fruit (id 3)", "fruit (id 12)", "fruit (id 1000)"}


# ---------------------------------------------------------------- what cannot be judged


def broken(**changes: object) -> Callable[[list[dict[str, Any]]], None]:
    def change(found: list[dict[str, Any]]) -> None:
        found[4].update(changes)

    return change


def cut_short(found: list[dict[str, Any]]) -> None:
    mask = found[4]["segmentation"]
    mask["counts"] = mask["counts"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken(image_id=-1), "the annotations have no image with id -1"),
        (broken(image_id="7"), "the annotations have no image with id '7'"),
        (broken(image_id=[1]), r"the annotations have no image with id \[1\]"),
        (broken(category_id=4), "the annotations have no category with id 4"),
        (broken(score=math.nan), "its score must be a finite number, not nan"),
        (broken(score="high"), "its score must be a finite number, not 'high'"),
        (broken(score=None), "its score must be a finite number, not None"),
        (broken(bbox=[1, 2, 3]), r"its bbox must be .* not \[1, 2, 3\]"),
        (broken(bbox=[1, 2, 3, math.inf]), r"its bbox must be .* not \[1, 2, 3, inf\]"),
        (broken(bbox=[1, 2, -3, 4]), r"its bbox must be .* not \[1, 2, -3, 4\]"),
        (broken(bbox="wide"), "its bbox must be .* not 'wide'"),
        (broken(segmentation=[[1, 1, 2, 2, 3, 1]]), "its segmentation must be run lengths"),
        (
            broken(segmentation={"size": [1, 1], "counts": "1"}),
            r"its mask has the size \[1, 1\], but the image has",
        ),
        (
            lambda found: found[4]["segmentation"].update(counts=[1, 2]),
            "the counts of its mask must be compressed",
        ),
        (
            lambda found: found[4]["segmentation"].update(counts="1é"),
            "the run lengths of its mask do not fill",
        ),
        (lambda found: found[4]["segmentation"].update(counts=""), "the run lengths of its mask do not fill"),
        (cut_short, "the run lengths of its mask do not fill an image of"),
        (lambda found: found[4].pop("score"), "it has no score"),
        (lambda found: found.__setitem__(4, 5), "it must be a dictionary with .*, not 5"),
    ],
)
def test_a_faulty_detection_is_named(
    change: Callable[[list[dict[str, Any]]], None], message: str, tmp_path: Path
) -> None:
    truth, found = scene(2)
    change(found)
    with pytest.raises(MaeBenchError, match=f"the detections: detection number 5 is not valid: {message}"):
        judge(truth, found)
    (tmp_path / "found.json").write_text(json.dumps(found))
    with pytest.raises(MaeBenchError, match=r"found\.json: detection number 5 is not valid"):
        judge(truth, tmp_path / "found.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": []}, "its segmentation is neither a list of polygons nor run lengths"),
        ({"segmentation": [["a"]]}, "its polygons must be lists of numbers"),
        (
            {"segmentation": {"size": [2, 2], "counts": [4]}},
            r"its mask has the size \[2, 2\], but the image has",
        ),
        ({"bbox": [1, 2]}, r"bbox must be four finite numbers, not \[1, 2\]"),
        ({"area": math.nan}, "area must be a finite number, not nan"),
    ],
)
def test_a_faulty_annotation_is_named(changes: dict[str, Any], message: str) -> None:
    truth, found = scene(2)
    truth["annotations"][2].update(changes)
    with pytest.raises(MaeBenchError, match=f"annotation number 3 is not valid: {message}"):
        judge(truth, found)


@pytest.mark.parametrize("counts", [[1, 2], [-1, 10**6], ["a"], "1"])
def test_run_lengths_of_an_annotation_must_fill_its_image(counts: Any) -> None:
    truth, found = scene(2)
    image = truth["images"][3]
    annotation = next(each for each in truth["annotations"] if each["image_id"] == image["id"])
    annotation["segmentation"] = {"size": [image["height"], image["width"]], "counts": counts}
    with pytest.raises(MaeBenchError, match=r"its run lengths must be whole|do not fill an image"):
        judge(truth, found)


def test_a_missing_key_of_an_annotation_is_named() -> None:
    truth, found = scene(2)
    del truth["annotations"][2]["segmentation"]
    with pytest.raises(MaeBenchError, match="the annotations: annotation number 3 has no segmentation"):
        judge(truth, found)
    judge(truth, found, kinds=("box",))


def test_nothing_to_find_is_an_error() -> None:
    truth, found = scene(2)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(MaeBenchError, match="no image shows an object that is no crowd"):
        judge(truth, found)
    with pytest.raises(MaeBenchError, match="no image shows an object that is no crowd"):
        judge(dict(truth, annotations=[]), [])


def test_files_that_are_no_annotations_or_detections(tmp_path: Path) -> None:
    truth, found = scene(2)
    path = tmp_path / "a.json"
    with pytest.raises(MaeBenchError, match=r"a\.json cannot be read: No such file"):
        judge(truth, path)
    with pytest.raises(MaeBenchError, match=r"a\.json cannot be read: No such file"):
        judge(path, found)
    path.write_text("[{")
    with pytest.raises(MaeBenchError, match=r"a\.json is not a JSON file"):
        judge(truth, path)
    with pytest.raises(MaeBenchError, match=r"a\.json is not a JSON file"):
        judge(path, found)
    path.write_text(json.dumps({"annotations": []}))
    with pytest.raises(MaeBenchError, match=r"a\.json must hold a list of detections .* not a dict"):
        judge(truth, path)
    with pytest.raises(MaeBenchError, match=r"a\.json is not in COCO's format: it needs the lists images"):
        judge(path, found)


# ---------------------------------------------------------------- run lengths


def runs_of(code: bytes) -> list[int] | None:
    """The runs one by one; None: malformed."""
    runs: list[int] = []
    place = 0
    while place < len(code):
        value = shift = 0
        more = True
        while more:
            if place == len(code) or not 48 <= code[place] < 112:
                return None
            group = code[place] - 48
            value |= (group & 31) << shift
            shift, place, more = shift + 5, place + 1, bool(group & 32)
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def test_areas_are_those_of_the_masks_and_faulty_codes_are_found() -> None:
    draws = random.Random(0)
    codes, pixels = [], []
    for _ in range(3000):
        height, width = draws.randint(1, 90), draws.randint(1, 90)
        density = draws.choice([0, 0.02, 0.5, 1])
        mask = np.array([draws.random() < density for _ in range(height * width)], np.uint8)
        code = bytearray(compressed(np.asfortranarray(mask.reshape(height, width)))["counts"].encode())
        for _ in range(draws.choice([0, 0, 1, 2])):
            place = draws.randrange(len(code))
            if draws.random() < 0.5:
                code[place] = draws.randrange(48, 112) if draws.random() < 0.9 else draws.randrange(256)
            else:
                del code[place:]
                break
        codes.append(bytes(code[:400]) if draws.random() < 0.1 else bytes(code))
        pixels.append(height * width)
    found = areas(codes, np.array(pixels)).tolist()
    expected = []
    for code, count in zip(codes, pixels, strict=True):
        runs = runs_of(code)
        sound = bool(runs) and min(runs) >= 0 and sum(runs) == count
        expected.append(sum(runs[1::2]) if sound else -1)
    assert found == expected
    assert 500 < sum(area < 0 for area in found) < 2500
    assert areas([], np.zeros(0, np.int64)).tolist() == []


def test_runs_that_are_negative_but_add_up_are_found() -> None:
    # 6, 5, -3, ...: each character is one number; the sum is that of the image.
    def written(*values: int) -> bytes:
        return bytes(48 + (value & 31) for value in values)

    assert areas([written(6, 5, 1)], np.array([12])).tolist() == [5]
    assert areas([written(6, 9, -3)], np.array([12])).tolist() == [-1]
    assert areas([written(-1, 9, 4)], np.array([12])).tolist() == [-1]
    assert areas([written(6, 5, 1, -6, 7)], np.array([19])).tolist() == [-1]


# ---------------------------------------------------------------- from a detector to records


# Made by detectron2@02b5c4e, layers/mask_ops.py, paste_masks_in_image on a CPU, from `masks_and_boxes`: the
# number of pixels of each mask, and the digest of all. No value that is read lies nearer to 0.5 than 3e-5,
# so rounding cannot change a pixel.
PASTED = {
    (37, 53): ([1029, 0, 393, 41, 36, 210, 84, 126, 30, 26, 28, 137], "5b291b74990a107b"),
    (5, 7): ([19, 0, 5, 2, 3, 3, 4, 1, 4, 2, 1, 1], "6a7ed669198e8c1d"),
}


def masks_and_boxes(height: int, width: int, stream: int) -> tuple[torch.Tensor, torch.Tensor]:
    masks = ((numbers((12, 28, 28), 1) + 1) / 2).float()
    drawn = (numbers((12, 4), stream).float() + 1) / 2
    size = torch.tensor([width, height])
    begin = drawn[:, :2] * size * 0.8
    end = begin + 1 + drawn[:, 2:] * (size - begin - 1)
    boxes = torch.cat([begin, end], dim=1)
    boxes[0] = torch.tensor([0, 0, width, height])
    boxes[1] = torch.tensor([1.25, 2.5, 1.5, 3.0])
    return masks, boxes


@pytest.mark.parametrize(("size", "stream"), [((37, 53), 2), ((5, 7), 4)])
def test_masks_are_pasted_as_by_detectron2(size: tuple[int, int], stream: int) -> None:
    pasted = paste(*masks_and_boxes(*size, stream), size)
    pixels, digest = PASTED[size]
    assert pasted.dtype == torch.uint8
    assert pasted.flatten(1).sum(1).tolist() == pixels
    assert hashlib.sha256(pasted.numpy().tobytes()).hexdigest()[:16] == digest


def test_a_mask_of_ones_fills_its_box_and_one_of_zeros_nothing() -> None:
    boxes = torch.tensor([[2.0, 3, 30, 31], [2.5, 3.5, 10.5, 9.5], [0, 0, 40, 40]])
    masks = torch.ones(3, 28, 28)
    masks[2] = 0
    pasted = paste(masks, boxes, (40, 40))
    assert pasted[0, 3:31, 2:30].all()
    assert pasted.flatten(1).sum(1).tolist() == [784, 59, 0]  # as detectron2@02b5c4e
    assert paste(masks[:0], boxes[:0], (4, 6)).shape == (0, 4, 6)


def detected() -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([[10.0, 20, 50.3, 60.7], [-5, 0, 0, 9], [90, 70, 300, 300]]),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([2, 1, 5]),
        "masks": ((numbers((3, 28, 28), 5) + 1) / 2).float(),
    }


def test_records_are_in_the_pixels_of_the_original_image() -> None:
    categories = sorted(CATEGORIES, key=lambda category: category["id"])
    records = to_records(detected(), 17, categories, (80, 100), (160, 50))
    assert [record["category_id"] for record in records] == [7, 1000]  # the box off the image is left out
    assert [record["image_id"] for record in records] == [17, 17]
    first, cut = (torch.tensor(record["bbox"]) for record in records)
    torch.testing.assert_close(first, torch.tensor([5.0, 40, 20.15, 81.4]))
    torch.testing.assert_close(cut, torch.tensor([45.0, 140, 5, 20]))
    corners = [[x, y, x + w, y + h] for x, y, w, h in (record["bbox"] for record in records)]
    pasted = paste(detected()["masks"][[0, 2]], torch.tensor(corners), (160, 50))
    for record, mask in zip(records, pasted, strict=True):
        assert (coco_masks.decode(record["segmentation"]) == mask.numpy()).all()
    assert json.loads(json.dumps(records)) == records
    assert records[0]["score"] == detected()["scores"][0].item()


def test_no_detection_gives_no_record() -> None:
    none = {name: values[:0] for name, values in detected().items()}
    assert to_records(none, 1, CATEGORIES, (8, 8), (8, 8)) == []


# ---------------------------------------------------------------- files


def collect(folder: Path, shares: list[list[list[dict[str, Any]]]]) -> bytes:
    """The file that processes write of their shares, each a list of images' records."""
    folder.mkdir()
    meeting = threading.Barrier(len(shares), timeout=20)

    def process(rank: int) -> None:
        run: Any = SimpleNamespace(
            folder=folder, rank=rank, world=len(shares), is_main=rank == 0, barrier=meeting.wait
        )
        collector = Collector(run)
        for records in shares[rank]:
            collector.add(records)
        assert collector.finish() == folder / "detections.json"

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in folder.iterdir()] == ["detections.json"]
    return (folder / "detections.json").read_bytes()


def test_one_or_two_processes_write_the_same_file(tmp_path: Path) -> None:
    truth, found = scene(10)
    images = [[each for each in found if each["image_id"] == image["id"]] for image in truth["images"]]
    once = collect(tmp_path / "one", [images])
    assert collect(tmp_path / "two", [images[5:], images[:5]]) == once
    read = read_detections(tmp_path / "one" / "detections.json")
    in_order = sorted(found, key=lambda record: record["image_id"])
    assert read == in_order
    assert judge(truth, read) == judge(truth, found)


def test_no_detection_makes_a_file_with_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(collect(tmp_path / "none", [[[]], [[]]])) == []


def test_parts_of_a_killed_run_do_not_get_into_the_file(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(folder=tmp_path, rank=0, world=1, is_main=True, barrier=lambda: None)
    for rank in (0, 1):
        (tmp_path / f"detections-{rank}.json.part").write_text("[3, ")
    collector = Collector(run)
    collector.add(scene(0)[1][:1])
    collector.finish()
    assert len(read_detections(tmp_path / "detections.json")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["detections.json"]


def test_an_image_that_two_processes_saw_is_a_fault(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(folder=tmp_path, rank=0, world=1, is_main=True, barrier=lambda: None)
    collector = Collector(run)
    collector.add(scene(0)[1][:1])
    collector.add(scene(0)[1][:1])
    with pytest.raises(RuntimeError, match="was added twice"):
        collector.finish()
