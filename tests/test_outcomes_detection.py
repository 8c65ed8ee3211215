"""What a detection run keeps of every image: AP of weighted images is the judge's on images copied as often."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.detection.judge import judge
from downstream.detection.outcomes import Detections
from mae_bench import outcomes
from mae_bench.errors import MaeBenchError
from tests.detections import scene

Scene = tuple[dict[str, Any], list[dict[str, Any]]]


def kept(truth: dict[str, Any], found: list[dict[str, Any]], **options: Any) -> Detections:
    found_of_images = judge(truth, found, samples="0" * 64, **options).outcomes
    assert found_of_images is not None
    return found_of_images


def without_ties(seed: int, **options: Any) -> Scene:
    """A scene in which all scores differ: where they are equal, copies could stand in more than one order."""
    truth, found = scene(seed, **options)
    draws = np.random.RandomState(seed).permutation(len(found))
    for record, draw in zip(found, draws.tolist(), strict=True):
        record["score"] += draw / (100 * len(found))
    return truth, found


def copied(truth: dict[str, Any], found: list[dict[str, Any]], times: list[int]) -> Scene:
    """Each image, by ascending id, as often as `times` says, with its objects and detections."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    originals = sorted(truth["images"], key=lambda image: image["id"])
    for original, count in zip(originals, times, strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append({**original, "id": new})
            objects += [
                {**copy.deepcopy(one), "image_id": new}
                for one in truth["annotations"]
                if one["image_id"] == original["id"]
            ]
            detections += [{**one, "image_id": new} for one in found if one["image_id"] == original["id"]]
    for number, one in enumerate(objects, start=1):
        one["id"] = number
    return {**truth, "images": images, "annotations": objects}, detections


def scored(found: outcomes.Outcomes, weights: Any) -> dict[str, float]:
    row = np.asarray(weights, dtype=np.float64)[None]
    return {name: float(values[0]) for name, values in found.score(row).items()}


# ---------------------------------------------------------------- equal to the judge


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", [240, 30])
def test_weights_of_one_give_the_judges_numbers(seed: int, side: int) -> None:
    """Crowds, equal scores, images without objects or detections, classes that do not occur, more than 100."""
    truth, found = scene(seed, side=side)
    metrics = judge(truth, found).metrics
    own = outcomes.own(kept(truth, found))
    assert list(own) == list(metrics)
    for name, value in metrics.items():
        assert own[name] == pytest.approx(value, abs=1e-9), name


def test_all_scores_equal_and_all_boxes_equal() -> None:
    truth, found = scene(3)
    for record in found:
        record["score"] = 0.5
    for name, value in judge(truth, found).metrics.items():
        assert outcomes.own(kept(truth, found))[name] == pytest.approx(value, abs=1e-9)
    # Objects and detections that all overlap equally: which takes which is a matter of order alone.
    for entry in (*truth["annotations"], *found):
        entry["bbox"] = [3.0, 4.0, 40.0, 50.0]
    metrics = judge(truth, found, kinds=("box",)).metrics
    assert metrics["box_ap50"] > 5
    for name, value in outcomes.own(kept(truth, found, kinds=("box",))).items():
        assert value == pytest.approx(metrics[name], abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_whole_weights_are_copies_of_images(seed: int) -> None:
    truth, found = without_ties(seed)
    times = np.random.RandomState(seed).poisson(1.0, len(truth["images"])).tolist()
    times[3:5] = [2, 3]
    expected = judge(*copied(truth, found, times)).metrics
    values = scored(kept(truth, found), times)
    for name, value in values.items():
        if name in expected:
            assert value == pytest.approx(expected[name], abs=1e-9), name
        else:
            assert np.isnan(value), name  # no object of that size was drawn
    assert values["box_ap"] != pytest.approx(judge(truth, found).metrics["box_ap"], abs=1e-3)


def test_only_the_proportions_of_weights_matter() -> None:
    found = kept(*scene(1))
    weights = np.random.RandomState(0).dirichlet(np.ones(found.size))
    fine = scored(found, weights)
    for name, value in scored(found, 1000 * weights).items():
        assert value == pytest.approx(fine[name], abs=1e-9)


def test_images_of_weight_0_are_not_there() -> None:
    truth, found = scene(2)
    some = [1.0] * 7 + [0.0] * 7
    expected = judge(*copied(truth, found, [int(one) for one in some])).metrics
    values = scored(kept(truth, found), some)
    assert {name: value for name, value in values.items() if name in expected} == pytest.approx(
        expected, abs=1e-9
    )


def test_images_without_an_object_have_no_number() -> None:
    truth, found = scene(2)
    (shown,) = (one["image_id"] for one in truth["annotations"][:1])
    ids = sorted(image["id"] for image in truth["images"])
    without = [float(not any(one["image_id"] == image for one in truth["annotations"])) for image in ids]
    assert shown in ids
    assert sum(without) > 0
    assert all(np.isnan(value) for value in scored(kept(truth, found), without).values())


# ---------------------------------------------------------------- beside each other, on disk


def test_two_beside_each_other_are_pooled() -> None:
    truth, found = without_ties(4)
    other = [{**record, "score": record["score"] ** 2} for record in found[::2]]
    mine, theirs = kept(truth, found), kept(truth, other)
    pooled = mine.beside(theirs)
    assert pooled.size == 2 * mine.size
    nothing, once = np.zeros(mine.size), np.ones(mine.size)
    assert scored(pooled, np.r_[once, nothing]) == pytest.approx(outcomes.own(mine), abs=1e-9)
    assert scored(pooled, np.r_[nothing, once]) == pytest.approx(outcomes.own(theirs), abs=1e-9)
    # Every second image of the other run: judged literally so.
    swapped = np.arange(mine.size) % 2
    ids = sorted(image["id"] for image in truth["images"])
    from_other = {image for image, swap in zip(ids, swapped, strict=True) if swap}
    mixed = [record for record in found if record["image_id"] not in from_other]
    mixed += [record for record in other if record["image_id"] in from_other]
    expected = judge(truth, mixed).metrics
    assert scored(pooled, np.r_[1 - swapped, swapped]) == pytest.approx(expected, abs=1e-9)


def test_detections_of_other_classes_are_not_pooled() -> None:
    truth, found = scene(0)
    renamed = {**truth, "categories": [{**one, "name": f"x{one['id']}"} for one in truth["categories"]]}
    with pytest.raises(MaeBenchError, match="5 and of 5 classes that are not the same"):
        kept(truth, found).beside(kept(renamed, found))
    boxes, masks = (kept(truth, found, kinds=(kind,)) for kind in ("box", "mask"))
    with pytest.raises(MaeBenchError, match="no metric in common"):
        boxes.beside(masks)
    assert boxes.beside(kept(truth, found)).metrics == boxes.metrics


def test_a_file_gives_back_what_was_kept(tmp_path: Path) -> None:
    mine = kept(*scene(5))
    outcomes.write(tmp_path, {"": mine})
    back = outcomes.read(tmp_path, (Detections,))[""]
    assert isinstance(back, Detections)
    weights = np.random.RandomState(1).poisson(1.0, (4, mine.size)).astype(np.float64)
    before, after = mine.score(weights), back.score(weights)
    assert back.metrics == mine.metrics
    assert (back.samples, back.size, back.classes) == (mine.samples, mine.size, mine.classes)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", lambda array: array + 100),
        ("score", lambda array: array[1:]),
        ("per_class", lambda array: array[:-1]),
        ("box.counts", lambda array: array[:, :3]),
        ("box.cells", lambda array: array.astype(np.int64) + 10**6),
        ("mask.matched", lambda array: array[1:]),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(name: str, change: Any) -> None:
    mine = kept(*scene(5))
    arrays = mine.arrays()
    with pytest.raises(ValueError, match=r"fit together|reshape"):
        Detections.restore(mine.samples, mine.size, mine.facts(), {**arrays, name: change(arrays[name])})


def test_no_detection_at_all() -> None:
    truth, _ = scene(0)
    own = outcomes.own(kept(truth, []))
    assert own == pytest.approx(judge(truth, []).metrics, abs=0)
    assert set(own.values()) == {0.0}
