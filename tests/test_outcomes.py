"""What runs keep of every sample: their own numbers follow from it, whoever computed it and where it was cut off."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from downstream.robustness import classifiers, counting, ledger
from downstream.robustness.corruption_error import ALEXNET
from downstream.robustness.outcomes import Corrupted
from downstream.segmentation.outcomes import ImageConfusions
from downstream.segmentation.scoring import Confusion, counted
from mae_bench import api, outcomes
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Hits
from tests.colours import BACKBONE, DATA, FINETUNE, KNN, LINEAR, PARTIAL, write_colours, write_recipe
from tests.kept_outcomes import assert_kept, kept
from tests.launch import ROOT, environment
from tests.robust_sets import ROBUSTNESS, SETS, nearest, write_folders, write_sets

SAMPLES = hashlib.sha256(b"three images").hexdigest()


def hits(**columns: list[int]) -> Hits:
    return Hits(SAMPLES, {name: np.array(column, dtype=np.bool_) for name, column in columns.items()})


# ---------------------------------------------------------------- right or wrong


def test_hits_of_weighted_samples() -> None:
    found = hits(top1=[1, 0, 1], top5=[1, 1, 1])
    assert outcomes.own(found) == {"top1": 100 * 2 / 3, "top5": 100.0}
    values = found.score(np.array([[1.0, 1, 2], [0, 5, 0], [0.5, 0.25, 0.25]]))
    assert values["top1"].tolist() == [75.0, 0.0, 75.0]
    assert values["top5"].tolist() == [100.0, 100.0, 100.0]
    for weights in (np.ones(3), np.ones((2, 4))):
        with pytest.raises(ValueError, match=r"weights of 3 samples are \(R, 3\)"):
            found.score(weights)


def test_hits_beside_each_other() -> None:
    pooled = hits(top1=[1, 0, 1], top5=[1, 1, 1]).beside(hits(top1=[0, 0, 1], other=[0, 0, 0]))
    assert (pooled.size, pooled.metrics) == (6, ("top1",))
    assert pooled.score(np.array([[1.0, 0, 0, 0, 1, 1]]))["top1"].tolist() == [pytest.approx(200 / 3)]
    assert pooled.samples != SAMPLES
    with pytest.raises(MaeBenchError, match="for top1 and for top5 have no metric in common"):
        hits(top1=[1]).beside(hits(top5=[1]))
    with pytest.raises(MaeBenchError, match="of the kinds Hits and Corrupted"):
        hits(top1=[1]).beside(Corrupted("", [("fog", 1)], np.ones((1, 1), dtype=np.bool_)))


@pytest.mark.parametrize("size", [1, 8, 1003])
def test_a_file_gives_back_what_was_written(tmp_path: Path, size: int) -> None:
    draws = np.random.RandomState(0)
    sets = {
        name: Hits(SAMPLES, {metric: draws.rand(size) < 0.7 for metric in ("a", "b")}) for name in ("", "x")
    }
    path = outcomes.write(tmp_path, sets)
    assert path == tmp_path / outcomes.FILE
    back = outcomes.read(tmp_path)
    assert list(back) == ["", "x"]
    for name, one in sets.items():
        assert (back[name].samples, back[name].size, back[name].metrics) == (SAMPLES, size, ("a", "b"))
        assert np.array_equal(back[name].hits, one.hits)  # type: ignore[attr-defined]
    before = path.read_bytes()
    outcomes.write(tmp_path, sets)
    assert path.read_bytes() == before


def test_fifty_thousand_images_are_a_few_kilobytes(tmp_path: Path) -> None:
    draws = np.random.RandomState(0)
    found = Hits(SAMPLES, {"top1": draws.rand(50_000) < 0.8, "top5": draws.rand(50_000) < 0.9})
    assert outcomes.write(tmp_path, {"": found}).stat().st_size < 13_000


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def of_objects(path: Path) -> None:
    contents = np.frombuffer(json.dumps({"schema": 1, "sets": []}).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {"contents": contents, "0.hits": np.array([{}], dtype=object)}
    np.savez(path, **arrays)


def without_contents(path: Path) -> None:
    np.savez(path, hits=np.ones(3))


def too_short(path: Path) -> None:
    wrong = Hits(SAMPLES, {"top1": np.ones(20, dtype=np.bool_)})
    wrong.size = 30
    outcomes.write(path.parent, {"": wrong})


def something_else(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def packed_otherwise(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] ^= 128  # how the first array is compressed
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [cut, of_objects, without_contents, too_short, something_else, packed_otherwise]
)
def test_a_damaged_file_is_told_in_words(tmp_path: Path, damage: Any) -> None:
    path = outcomes.write(tmp_path, {"": hits(top1=[1, 0, 1])})
    damage(path)
    with pytest.raises(
        MaeBenchError, match=r"outcomes\.npz is damaged .*; copy it again, or run again"
    ) as told:
        outcomes.read(tmp_path)
    assert "unsafely" not in str(told.value)


def test_other_kinds_and_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = Corrupted(SAMPLES, [("fog", 1)], np.ones((1, 3), dtype=np.bool_))
    outcomes.write(tmp_path, {"c": cells})
    with pytest.raises(MaeBenchError, match="of the kind 'imagenet-c', and its task knows hits"):
        outcomes.read(tmp_path)
    monkeypatch.setattr(outcomes, "SCHEMA", 2)
    with pytest.raises(
        MaeBenchError, match="follows version 1 of its layout; this mae-bench reads version 2"
    ):
        outcomes.read(tmp_path, (Corrupted,))


def test_a_run_that_kept_none(tmp_path: Path) -> None:
    assert outcomes.of_run(tmp_path, "imagenet.finetune") == {}
    assert outcomes.for_metric(tmp_path, "no such adapter", "top1") is None


def test_looking_at_outcomes_imports_no_torch(tmp_path: Path) -> None:
    outcomes.write(tmp_path, {"": hits(top1=[1, 0, 1])})
    program = (
        "import sys\nfrom pathlib import Path\nfrom mae_bench import outcomes\n"
        "import downstream.robustness.outcomes, downstream.segmentation.outcomes, downstream.detection.outcomes\n"
        f"print(outcomes.for_metric(Path({str(tmp_path)!r}), 'imagenet.knn', 'top1').size, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3", "False"]


# ---------------------------------------------------------------- classification


QUICK: dict[str, dict[str, Any]] = {
    "finetune": {**FINETUNE, "train": {"epochs": 1, "batch": 18, "micro_batch": 18}},
    "scratch": {
        **FINETUNE, "task": "imagenet.scratch", "train": {"epochs": 1, "batch": 18, "micro_batch": 18}
    },
    "partial": {**PARTIAL, "train": {"epochs": 1, "batch": 18, "micro_batch": 18}},
    "linear": {**LINEAR, "train": {"epochs": 1, "batch": 18, "micro_batch": 18}},
    "grid": {
        **LINEAR,
        "learning_rates": [0.1, 1.0, 5.0],
        "holdout": 0.25,
        "norm_batch": 9,
        "train": {"epochs": 3, "batch": 18, "micro_batch": 9},
    },
    "knn": KNN,
}  # fmt: skip


@pytest.mark.parametrize("name", list(QUICK))
def test_every_classification_task_keeps_its_hits(tmp_path: Path, name: str) -> None:
    root = write_colours(tmp_path)
    api.run(write_recipe(root, QUICK[name]), BACKBONE, data_root=root, runs_root=root / "runs", name=name)
    assert_kept(root / "runs" / name, *(["holdout_top1"] if name == "grid" else []))
    (one,) = kept(root / "runs" / name).values()
    assert one.size == 21
    if name == "knn":
        assert one.metrics == ("top1", "top5", "top1_k1", "top1_k5")


def test_samples_are_the_same_whatever_is_trained_on(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    changes: dict[str, Any] = {
        "plain": {},
        "fewer": {"data": {**DATA, "subset": {"per_class": 4}}, "k": [1], "headline_k": 1},
        "class": {"pooling": "mean"},
    }
    found = {}
    for name, change in changes.items():
        recipe = write_recipe(root, {**KNN, **change}, name)
        api.run(recipe, BACKBONE, data_root=root, runs_root=root / "runs", name=name)
        found[name] = kept(root / "runs" / name)[""].samples
    assert len(set(found.values())) == 1
    (root / "colours" / "val" / "red" / "0.png").unlink()
    api.run(write_recipe(root, KNN, "less"), BACKBONE, data_root=root, runs_root=root / "runs", name="less")
    assert kept(root / "runs" / "less")[""].samples != found["plain"]


# ---------------------------------------------------------------- robustness


def evaluated(root: Path, runs: Path, sets: dict[str, Any] = SETS) -> Path:
    runs.mkdir(exist_ok=True)
    recipe = write_recipe(runs, {**ROBUSTNESS, "sets": sets}, "robust")
    api.run(recipe, BACKBONE, data_root=root, runs_root=runs, name="run")
    return runs / "run"


@pytest.fixture
def nearest_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "open_classifier", lambda run: nearest())


def test_a_robustness_run_keeps_every_set_and_loses_nothing_when_killed(
    tmp_path: Path, nearest_colour: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sets(tmp_path / "data")
    whole = evaluated(root, tmp_path / "whole")
    assert_kept(whole)
    found = kept(whole)
    assert {name: one.size for name, one in found.items()} == {
        "c": 3, "a": 5, "r": 3, "sketch": 6, "v2": 6, "real": 16
    }  # fmt: skip
    assert len(found["c"].metrics) == 2 + 2 * 15
    assert found["a"].metrics == ("in_a_top1",)

    count, left = counting._Counter.count, [30]

    def stopping(self: Any, cell: Any, work: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return count(self, cell, work)

    monkeypatch.setattr(counting._Counter, "count", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluated(root, tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob(outcomes.FILE))
    left[0] = 80 - 30
    again = evaluated(root, tmp_path / "killed")
    assert (again / outcomes.FILE).read_bytes() == (whole / outcomes.FILE).read_bytes()


def test_a_ledger_of_before_hits_were_kept_is_counted_again(
    tmp_path: Path, nearest_colour: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / "imagenet-a", {"blue": ["blue", "red"], "red": ["red"]})
    run = evaluated(tmp_path, tmp_path / "runs", {"a": SETS["a"]})
    path = run / ledger.LEDGER_FILE
    entry = json.loads(path.read_text())
    assert kept(run)["a"].hits.tolist() == [[True, False, True]]  # type: ignore[attr-defined]
    for name in (outcomes.FILE, "result.json"):
        (run / name).unlink()
    path.write_text(json.dumps({key: value for key, value in entry.items() if key != "hits"}) + "\n")
    evaluated(tmp_path, tmp_path / "runs", {"a": SETS["a"]})
    assert "a: an earlier version kept no more than its sum; it is counted again" in capsys.readouterr().err
    assert_kept(run)


def test_hits_in_a_ledger_that_do_not_add_up_are_damage(tmp_path: Path) -> None:
    named = np.array([True] * 5 + [False] * 6)
    count = ledger.Count("a", "i", "w", "h", 5, 11, 0.1, [], ledger.packed(named))
    assert np.array_equal(count.named(), named)
    for wrong in (replace(count, right=6), replace(count, scored=30), replace(count, hits="!")):
        (tmp_path / ledger.LEDGER_FILE).write_text(json.dumps(asdict(wrong)) + "\n")
        with pytest.raises(MaeBenchError, match="line 1 is damaged"):
            ledger.Ledger(tmp_path, "w")


def test_samples_of_imagenet_c_are_images_and_not_pictures() -> None:
    draws = np.random.RandomState(0)
    cells = [(name, severity) for name in ALEXNET for severity in range(1, 6)]
    found = Corrupted("s", cells, draws.rand(75, 40) < 0.6)
    weights = draws.poisson(1.0, (3, 40)).astype(np.float64)
    values = found.score(weights)
    for row, own in enumerate(weights):
        errors = 1 - (found.hits * own).sum(axis=1) / own.sum()
        by_corruption = errors.reshape(15, 5).sum(axis=1) / np.array([sum(ALEXNET[name]) for name in ALEXNET])
        assert values["in_c_error"][row] == pytest.approx(100 * errors.mean(), abs=1e-9)
        assert values["in_c_mce"][row] == pytest.approx(100 * by_corruption.mean(), abs=1e-9)
    with pytest.raises(MaeBenchError, match="ImageNet-C of 75 and of 5 cells, which are not the same"):
        found.beside(Corrupted("s", cells[:5], found.hits[:5]))


def test_cells_with_other_images_are_not_kept(
    tmp_path: Path, nearest_colour: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_sets(tmp_path / "data")
    image = root / "imagenet-c/fog/2/blue/0.png"
    image.rename(image.with_name("other.png"))
    sets = {"c": {"root": "imagenet-c", "corruptions": ["fog"]}, "a": SETS["a"]}
    assert list(kept(evaluated(root, tmp_path / "runs", sets))) == ["a"]
    assert "do not have the same names under all corruptions" in " ".join(capsys.readouterr().err.split())


# ---------------------------------------------------------------- segmentation


def labelled(images: int, classes: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Prediction and truth of images that show few classes each; 255 is none, the last class never occurs."""
    draws = np.random.RandomState(seed)
    pairs = []
    for _ in range(images):
        shown = draws.choice(classes - 1, 3)
        truth = draws.choice([*shown, 255], (9, 11)).astype(np.uint8)
        said = np.where(draws.rand(9, 11) < 0.6, truth, draws.choice([*shown, 255, 2], (9, 11)))
        pairs.append((torch.from_numpy(said), torch.from_numpy(truth)))
    return pairs


def gathered(pairs: list[tuple[torch.Tensor, torch.Tensor]], classes: int) -> ImageConfusions:
    entries = []
    for image, pair in reversed(list(enumerate(pairs))):  # in whatever order they come
        counts = counted(*pair, classes).flatten()
        entries += [(image, cell, int(counts[cell])) for cell in counts.nonzero()[:, 0].tolist()]
    images, cells, pixels = np.array(entries).T
    names = [f"class {index}" for index in range(classes)]
    return ImageConfusions.gathered("names", names, len(pairs), images, cells, pixels)


def test_weighted_confusions_are_those_of_copied_images(tmp_path: Path) -> None:
    pairs, draws = labelled(12, 7), np.random.RandomState(1)
    found = gathered(pairs, 7)
    outcomes.write(tmp_path, {"": found})
    back = outcomes.read(tmp_path, (ImageConfusions,))[""]
    for times in ([1] * 12, draws.poisson(1.0, 12).tolist(), [0] * 11 + [3]):
        expected = Confusion(7)
        for pair, count in zip(pairs, times, strict=True):
            for _ in range(count):
                expected.add(*pair)
        values = back.score(np.array([times], dtype=np.float64))
        assert {name: float(value[0]) for name, value in values.items()} == expected.metrics()
    assert Confusion.of(found).metrics() == outcomes.own(found) == outcomes.own(back)
    assert np.isnan(found.score(np.zeros((1, 12)))["miou"]).all()


def test_confusions_beside_each_other_and_of_other_label_maps() -> None:
    pairs = labelled(5, 7)
    mine, theirs = gathered(pairs, 7), gathered([(truth, truth) for _, truth in pairs], 7)
    assert mine.samples == theirs.samples
    assert mine.samples != gathered(labelled(5, 7, seed=1), 7).samples
    pooled = mine.beside(theirs)
    first = np.r_[np.ones(5), np.zeros(5)]
    values = pooled.score(np.stack([first, 1 - first]))
    assert values["miou"].tolist() == [outcomes.own(mine)["miou"], 100.0]
    with pytest.raises(MaeBenchError, match="of 7 and of 8 classes that are not the same"):
        mine.beside(gathered(pairs, 8))
