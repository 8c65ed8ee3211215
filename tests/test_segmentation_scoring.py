"""The count of which class was taken for which, and the scores that follow from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.segmentation.dataset import SegmentationSource, open_split
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.scoring import Confusion, score_saved
from downstream.segmentation.settings import SegmentationData
from mae_bench.errors import MaeBenchError
from tests.closed_form import numbers


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and truth of 7 classes: 4 is only predicted, 6 is in neither, some pixels are ignored."""
    truth = ((numbers((40, 50), 51) + 1) * 3).long()
    truth[truth == 4] = 0
    prediction = torch.where(numbers((40, 50), 52) > 0.2, truth, ((numbers((40, 50), 53) + 1) * 2.5).long())
    truth[:7, :9] = IGNORED
    return prediction, truth


def counted(prediction: torch.Tensor, truth: torch.Tensor, classes: int) -> list[list[int]]:
    """Pixel by pixel; the last column is no class."""
    counts = [[0] * (classes + 1) for _ in range(classes)]
    for said, true in zip(prediction.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True):
        if true != IGNORED:
            counts[true][classes if said == IGNORED else said] += 1
    return counts


def test_pixels_are_counted_as_one_by_one() -> None:
    confusion, expected = Confusion(7), np.zeros((7, 8), dtype=int)
    for seed, (height, width) in enumerate([(1, 1), (13, 7), (40, 31)]):
        random = np.random.RandomState(seed)
        truth = torch.from_numpy(random.choice([0, 1, 2, 3, 5, 6, IGNORED], (height, width)).astype(np.uint8))
        prediction = torch.from_numpy(random.choice([*range(7), IGNORED], (height, width)))
        confusion.add(prediction, truth)
        expected += counted(prediction, truth, 7)
    assert confusion.counts.dtype == torch.int64
    assert confusion.counts.tolist() == expected.tolist()


def test_scores_are_those_of_mmsegmentation() -> None:
    """IoUMetric of mmsegmentation 1.2.2 (intersect_and_union, total_area_to_metrics) on the same maps."""
    confusion = Confusion(7)
    confusion.add(*maps())
    metrics = confusion.metrics()
    assert metrics["miou"] == pytest.approx(28.793632984161377, rel=1e-6)
    assert metrics["macc"] == pytest.approx(47.786036133766174, rel=1e-6)
    assert metrics["aacc"] == pytest.approx(48.838409781455994, rel=1e-6)
    scores = list(confusion.per_class("abcdefg").values())
    iou = [
        0.4313967823982239,
        0.3057692348957062,
        0.3222835958003998,
        0.3179999887943268,
        0.0,
        0.3501683473587036,
    ]
    recall = [
        0.5271903276443481,
        0.49226006865501404,
        0.511695921421051,
        0.5079872012138367,
        None,
        0.3501683473587036,
    ]
    for score, one, other in zip(scores[:6], iou, recall, strict=True):
        assert score["iou"] == pytest.approx(100 * one, rel=1e-6)
        assert score["accuracy"] == (None if other is None else pytest.approx(100 * other, rel=1e-6))
    assert scores[6] == {"iou": None, "accuracy": None, "pixels": 0}
    assert sum(score["pixels"] for score in scores) == 40 * 50 - 7 * 9


def test_counts_of_several_processes_add_up_to_the_same_scores() -> None:
    prediction, truth = maps()
    whole = Confusion(7)
    whole.add(prediction, truth)
    parts = [Confusion(7), Confusion(7)]
    for place, row in enumerate(range(0, 40, 8)):
        parts[place % 2].add(prediction[row : row + 8], truth[row : row + 8])
    together = Confusion(7, parts[0].counts + parts[1].counts)
    assert torch.equal(together.counts, whole.counts)
    assert together.metrics() == whole.metrics()


def test_a_count_beyond_the_whole_numbers_of_float32_stays_exact() -> None:
    counts = torch.zeros(2, 3, dtype=torch.int64)
    counts[0, 0] = 2**53 - 3
    confusion = Confusion(2, counts)
    for _ in range(2):
        confusion.add(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.uint8))
    assert confusion.counts[0, 0] == 2**53 - 1


def test_a_perfect_prediction_scores_100_whatever_classes_occur() -> None:
    truth = maps()[1]
    confusion = Confusion(150)
    confusion.add(truth, truth)
    assert confusion.metrics() == {"miou": 100.0, "macc": 100.0, "aacc": 100.0}


def test_what_cannot_be_counted_is_refused() -> None:
    truth = torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="prediction"):
        Confusion(3).add(torch.zeros(2, 3), truth)
    for prediction, target in [(truth + 4, truth), (truth, truth + 3), (torch.full((2, 2), -1), truth)]:
        with pytest.raises(ValueError, match="none of 3 classes"):
            Confusion(3).add(prediction, target)
    nothing = Confusion(3)
    nothing.add(truth, torch.full_like(truth, IGNORED))
    with pytest.raises(MaeBenchError, match="no pixel"):
        nothing.metrics()


# ---------------------------------------------------------------- saved predictions


@pytest.fixture
def source(tmp_path: Path) -> SegmentationSource:
    """Three pairs of odd sizes in ADE20K's numbering (0 is no class, class k is k + 1), and predictions."""
    for seed, (name, size) in enumerate({"v1": (51, 68), "v2": (36, 50), "v3": (30, 41)}.items()):
        random = np.random.RandomState(seed)
        labels = Image.fromarray(random.choice([0, 1, 2, 3, 7, 150], size).astype(np.uint8))
        for folder in ("labels", "predictions"):
            (tmp_path / folder).mkdir(exist_ok=True)
            labels.save(tmp_path / folder / f"{name}.png")
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", size[::-1]).save(tmp_path / "images" / f"{name}.jpg")
    split = {"images": "images", "labels": "labels"}
    data = SegmentationData.model_validate(
        {"name": "x", "root": str(tmp_path), "train": split, "val": split, "zero_is_ignored": True}
    )
    return open_split(data, "val", tmp_path)


def test_saved_predictions_that_equal_the_truth_score_exactly_100(
    source: SegmentationSource, tmp_path: Path
) -> None:
    confusion = score_saved(source, tmp_path / "predictions")
    assert confusion.metrics() == {"miou": 100.0, "macc": 100.0, "aacc": 100.0}


def test_disturbed_predictions_score_as_counted_one_by_one(
    source: SegmentationSource, tmp_path: Path
) -> None:
    """A stripe of another class, and pixels said to be no class, which count as wrong."""
    expected = np.zeros((150, 151), dtype=int)
    for name in ("v1", "v2", "v3"):
        path = tmp_path / "predictions" / f"{name}.png"
        said = np.array(Image.open(path))
        truth = said.copy()
        said[3:9] = 4
        said[20:22] = 0
        Image.fromarray(said).save(path)
        shifted = [
            torch.from_numpy(np.where(one == 0, IGNORED, one.astype(int) - 1)) for one in (said, truth)
        ]
        expected += counted(shifted[0], shifted[1], 150)
    confusion = score_saved(source, tmp_path / "predictions")
    assert confusion.counts.tolist() == expected.tolist()
    right = expected[:, :150].diagonal()
    union = expected.sum(1) + expected[:, :150].sum(0) - right
    miou = 100 * (right[union > 0] / union[union > 0]).mean()
    assert confusion.metrics()["miou"] == pytest.approx(miou, rel=1e-12)
    assert 50 < miou < 95
    assert confusion.metrics()["aacc"] == pytest.approx(100 * right.sum() / expected.sum(), rel=1e-12)


def test_a_saved_prediction_scores_as_the_prediction_itself_where_a_class_is_ignored(tmp_path: Path) -> None:
    """The number of the ignored label is a class that a model may still predict, if never rightly."""
    truth, said = np.array([[0, 1, 2, 1]], dtype=np.uint8), np.array([[0, 1, 1, 2]], dtype=np.uint8)
    for folder, content in {"images": truth, "labels": truth, "said": said}.items():
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "x.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    split = {"images": "images", "labels": "labels"}
    data = SegmentationData.model_validate(
        {"name": "x", "root": str(tmp_path), "train": split, "val": split}
        | {"class_list": "classes.txt", "ignore_label": 2}
    )
    source = open_split(data, "val", tmp_path)
    direct = Confusion(3)
    direct.add(torch.from_numpy(said), source.read(0)[1])
    assert direct.counts.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(score_saved(source, tmp_path / "said").counts, direct.counts)


def test_faults_of_saved_predictions_name_the_file(source: SegmentationSource, tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    Image.new("L", (49, 36)).save(folder / "v2.png")
    with pytest.raises(
        MaeBenchError, match=r"predictions/v2.png has 49x36 pixels, but the label map .*v2.png 50x36"
    ):
        score_saved(source, folder)
    Image.new("L", (50, 36), 151).save(folder / "v2.png")
    with pytest.raises(MaeBenchError, match=r"predictions/v2.png holds 151 \(1800 pixels\)"):
        score_saved(source, folder)
    (folder / "v2.png").unlink()
    with pytest.raises(MaeBenchError, match=r"predictions/v2.png cannot be read"):
        score_saved(source, folder)
