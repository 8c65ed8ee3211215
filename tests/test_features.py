"""Frozen features on disk: used again, never when anything that decides them differs, never when damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from downstream.classification.classifier import pooled
from downstream.classification.features import Features, cache_key, features_of
from downstream.classification.inference import InParts
from downstream.classification.scoring import gathered, hits_of, percentages, score
from downstream.classification.splits import Splits
from mae_bench.augment import normalise
from mae_bench.backbones import Backbone
from mae_bench.data import evaluation_batches
from mae_bench.errors import MaeBenchError
from mae_bench.run import Run
from tests.colours import KNN, TRAIN, VAL, open_run, write_colours


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_colours(tmp_path)
    return open_run(tmp_path, KNN)


def backbone_of(run: Run) -> Backbone:
    return run.backbone(image_size=(16, 16)).eval()


def counted(backbone: Backbone, seen: list[int], part: str = "cls") -> Callable[[Tensor], Tensor]:
    def forward(images: Tensor) -> Tensor:
        seen.append(len(images))
        return pooled(backbone, images, part)  # type: ignore[arg-type]

    return forward


def extracted(run: Run, seen: list[int], part: str = "cls", split: str = "train_as_evaluated") -> Features:
    backbone = backbone_of(run)
    dataset = getattr(Splits(run.config.data, run, backbone.mean), split)  # type: ignore[attr-defined]
    return features_of(
        dataset,
        run.config.data,
        run,
        backbone,
        part,
        counted(backbone, seen, part),  # type: ignore[attr-defined]
    )


def cache_files(run: Run) -> list[Path]:
    return sorted((run.runs_root / ".cache" / "features").iterdir())


def test_features_are_those_of_the_images_in_order(run: Run) -> None:
    features = extracted(run, [])
    backbone = backbone_of(run)
    dataset = Splits(run.config.data, run, backbone.mean).train_as_evaluated  # type: ignore[attr-defined]
    assert features.values.shape == (3 * TRAIN, 24)
    assert features.labels.tolist() == dataset.labels.tolist()
    for index in (0, 17, 35):
        image = normalise(dataset[index]["image"][None], backbone.mean, backbone.std)
        with torch.no_grad():
            expected = pooled(backbone, image, "cls")[0]
        torch.testing.assert_close(features.values[index], expected, rtol=1e-4, atol=1e-5)


def test_the_second_time_nothing_is_computed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    first = extracted(run, seen)
    assert sum(seen) == 3 * TRAIN
    again = extracted(run, seen)
    assert sum(seen) == 3 * TRAIN
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.labels, again.labels)
    assert "read from" in capsys.readouterr().err


def test_another_part_or_split_is_another_file(run: Run) -> None:
    seen: list[int] = []
    for part, split in [("cls", "train_as_evaluated"), ("mean", "train_as_evaluated"), ("cls", "val")]:
        extracted(run, seen, part, split)
    assert sum(seen) == 3 * (2 * TRAIN + VAL)
    assert len(cache_files(run)) == 3


def test_everything_that_decides_the_features_is_in_the_key(run: Run) -> None:
    backbone = backbone_of(run)
    data = run.config.data  # type: ignore[attr-defined]
    splits = Splits(data, run, backbone.mean)
    key = cache_key(splits.val, data, "fp32", backbone, "cls")
    changed = [
        cache_key(splits.train_as_evaluated, data, "fp32", backbone, "cls"),
        cache_key(splits.val, data, "bf16", backbone, "cls"),
        cache_key(splits.val, data, "fp32", backbone, "mean"),
        cache_key(splits.val, data.model_copy(update={"interpolation": "bilinear"}), "fp32", backbone, "cls"),
        cache_key(splits.val, data.model_copy(update={"image_size": [12, 12]}), "fp32", backbone, "cls"),
    ]
    backbone.digest = "0" * 64
    changed.append(cache_key(splits.val, data, "fp32", backbone, "cls"))
    assert len({key, *changed}) == 1 + len(changed)


def test_images_of_the_same_names_are_told_apart_by_their_pixels(tmp_path: Path) -> None:
    write_colours(tmp_path)
    splits = tmp_path / "colours"
    shutil.rmtree(splits / "val")
    shutil.copytree(splits / "train", splits / "val")
    run = open_run(tmp_path, KNN)
    backbone = backbone_of(run)
    data = run.config.data  # type: ignore[attr-defined]
    both = Splits(data, run, backbone.mean)

    def key(split: str) -> str:
        return cache_key(getattr(both, split), data, "fp32", backbone, "cls")

    assert both.train.fingerprint() == both.val.fingerprint()
    assert key("train_as_evaluated") == key("val")
    shutil.copy(splits / "val" / "red" / "1.png", splits / "val" / "red" / "2.png")
    assert both.train.fingerprint() == both.val.fingerprint()
    assert key("train_as_evaluated") != key("val")


def test_images_held_in_memory_have_the_same_key(tmp_path: Path) -> None:
    write_colours(tmp_path)
    keys = set()
    for cache in ("none", "memory"):
        run = open_run(tmp_path, KNN, f"data.cache={cache}")
        backbone = backbone_of(run)
        data = run.config.data  # type: ignore[attr-defined]
        dataset = Splits(data, run, backbone.mean).val
        keys.add(cache_key(dataset, data, "fp32", backbone, "cls"))
        list(evaluation_batches(dataset, batch=8, workers=0))
        keys.add(cache_key(dataset, data, "fp32", backbone, "cls"))
        run.close()
    assert len(keys) == 1


@pytest.mark.parametrize("damage", ["cut short", "one bit", "other images"])
def test_a_damaged_file_is_said_and_replaced(
    run: Run, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    good = extracted(run, seen)
    (path,) = cache_files(run)
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        content[-5] ^= 1
        path.write_bytes(content)
    else:
        extracted(run, seen, split="val")
        (other,) = [file for file in cache_files(run) if file != path]
        path.write_bytes(other.read_bytes())
    before = sum(seen)
    again = extracted(run, seen)
    assert sum(seen) - before == 3 * TRAIN
    assert torch.equal(again.values, good.values)
    assert "is damaged" in capsys.readouterr().err
    extracted(run, seen)
    assert sum(seen) - before == 3 * TRAIN


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.runs_root / ".cache").write_text("a file where the folder should be")
    assert len(extracted(run, []).values) == 3 * TRAIN
    assert "could not be kept" in capsys.readouterr().err


def test_features_with_stand_ins_are_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_colours(tmp_path)
    (tmp_path / "colours" / "train" / "blue" / "3.png").write_bytes(b"no image")
    run = open_run(tmp_path, KNN, "data.max_bad_images=1")
    assert len(extracted(run, []).values) == 3 * TRAIN
    assert not (run.runs_root / ".cache").exists()
    assert "3.png" in capsys.readouterr().err


def test_parts_shrink_until_they_fit() -> None:
    tried: list[int] = []

    def small_memory(batch: Tensor) -> Tensor:
        tried.append(len(batch))
        if len(batch) > 10:
            raise torch.OutOfMemoryError("pretend")
        return batch * 2

    in_parts = InParts(small_memory)
    batch = torch.arange(100.0)
    assert torch.equal(in_parts(batch), batch * 2)
    assert tried[:4] == [64, 32, 16, 8]
    tried.clear()
    in_parts(batch)
    assert max(tried) == 8


def test_not_even_one_fits() -> None:
    def no_memory(batch: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("pretend")

    with pytest.raises(torch.OutOfMemoryError):
        InParts(no_memory)(torch.arange(3.0))


def test_hits_of_several_classifiers() -> None:
    labels = torch.tensor([0, 7, 3])
    perfect = torch.nn.functional.one_hot(labels, 8).float()
    second = perfect * 0.5 + torch.nn.functional.one_hot(torch.tensor([1, 1, 1]), 8)
    broken = torch.full((3, 8), float("nan"))
    hits = hits_of(torch.stack([perfect, second, broken], dim=1), labels)
    assert hits.shape == (3, 3, 2)
    assert hits.sum(dim=0).tolist() == [[3, 3], [0, 3], [0, 0]]


def test_an_incomplete_count_is_an_error(run: Run) -> None:
    hits = torch.tensor([[True, True], [False, True], [False, False]])
    assert torch.equal(gathered(hits, torch.tensor([2, 0, 1]), 3, run), hits[[1, 2, 0]])
    assert percentages(hits[[0, 1, 2, 0]]).tolist() == [50.0, 75.0]
    with pytest.raises(MaeBenchError, match="3 images were scored and the set has 4"):
        gathered(hits, torch.arange(3), 4, run)
    with pytest.raises(MaeBenchError, match="each to be scored once"):
        gathered(hits, torch.tensor([0, 1, 1]), 3, run)


def test_score_counts_every_image(run: Run) -> None:
    backbone = backbone_of(run)
    data = run.config.data  # type: ignore[attr-defined]
    dataset = Splits(data, run, backbone.mean).val

    def by_colour(images: Tensor) -> Tensor:
        # Channels in the order of the classes blue, green, red: each image's strongest colour.
        return images.mean(dim=(2, 3)).flip(1)

    hits = score(by_colour, dataset, data, run, (backbone.mean, backbone.std))
    expected = [
        by_colour(normalise(dataset[i]["image"][None], backbone.mean, backbone.std)) for i in range(3 * VAL)
    ]
    right = [int(one.argmax()) == i // VAL for i, one in enumerate(expected)]
    assert hits[:, 0, 0].tolist() == right
    assert hits[:, 0, 1].all()
    assert sum(right) > 2 * VAL
