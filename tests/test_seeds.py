"""Several seeds with one command: ordinary runs in their own folders, found again, and told apart."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

import mae_bench
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result, scan
from mae_bench.seeds import spread
from tests.launch import finish, on_two_processes
from tests.sample_runs import values

TASK, KNN = "demo/imagenet-linear", "demo/imagenet-knn"
LINEAR = [
    "data.root=generated/tiny",
    "train.batch=20",
    "train.micro_batch=20",
    "norm_batch=20",
    "train.epochs=2",
]
OF_KNN = ["data.root=generated/tiny", "k=[5,20]"]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def backbone(data_root: Path) -> str:
    """The folder of a pretraining run of two steps."""
    runs = data_root.parent / "pretrained"
    overrides = ["data.root=generated/tiny", "train.batch=20", "train.steps=2"]
    result = mae_bench.pretrain("demo/mae", overrides, data_root=data_root, runs_root=runs, name="mae")
    assert result.folder is not None
    return result.folder


def several(backbone: str, data_root: Path, runs: Path, **options: Any) -> list[Result]:
    task, overrides = options.pop("task", TASK), options.pop("overrides", LINEAR)
    options = {"seeds": 2, **options}
    return mae_bench.run_seeds(task, backbone, overrides, data_root=data_root, runs_root=runs, **options)


def folders(root: Path) -> list[str]:
    return [run.name for run in scan(root).runs]


# ---------------------------------------------------------------- the closing line


def result(seed: int, **metrics: float) -> Result:
    units = {
        "top1": {"unit": "%", "higher_is_better": True, "label": "top-1"},
        "loss": {"unit": "", "higher_is_better": False, "label": "loss"},
    }
    return Result.model_validate(values(seed=seed, metrics=metrics, units=units))


def test_the_spread_is_the_sample_standard_deviation() -> None:
    # The four seeds of facebookresearch/mae, FINETUNE.md (ViT-B), which gives 83.57 and, by this formula, 0.09;
    # the file's 0.08 is the population's.
    top1 = [83.63, 83.66, 83.52, 83.46]
    results = [result(seed, top1=value) for seed, value in enumerate(top1)]
    assert statistics.pstdev(top1) == pytest.approx(0.081, abs=5e-4)
    assert spread(results, ["top1"]) == (
        "imagenet-finetune: top1 83.57 ± 0.09 (mean ± standard deviation over 4 seeds: 0, 1, 2, 3)"
    )


def test_a_plain_number_keeps_its_digits() -> None:
    results = [result(5, loss=0.4001, top1=50.0), result(6, loss=0.4003, top1=52.0)]
    assert spread(results, ["loss", "top1"]) == (
        "imagenet-finetune: loss 0.4002 ± 0.00014, top1 51.00 ± 1.41 "
        "(mean ± standard deviation over 2 seeds: 5, 6)"
    )


# ---------------------------------------------------------------- runs


def test_each_seed_is_a_run_of_its_own_and_is_found_again(
    backbone: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    single = mae_bench.run(TASK, backbone, LINEAR, data_root=data_root, runs_root=runs, seed=3)
    results = several(backbone, data_root, runs, seed=3)
    told = capsys.readouterr().err
    assert "seed 3, 1 of 2" in told
    assert told.count("already finished") == 1, "the run of seed 3 is the one that was there"
    assert [found.seed for found in results] == [3, 4]
    assert results[0].metrics == single.metrics
    assert results[0].folder == single.folder
    assert sorted(folders(runs)) == sorted(str(Path(str(r.folder)).relative_to(runs)) for r in results)
    mean = statistics.fmean(found.metrics["top1"] for found in results)
    (line,) = [line for line in told.splitlines() if "over 2 seeds: 3, 4" in line]
    assert f"top1 {mean:.2f} ± " in line
    again = several(backbone, data_root, runs, seed=3)
    assert capsys.readouterr().err.count("already finished") == 2
    assert [found.metrics for found in again] == [found.metrics for found in results]
    assert [found.started for found in again] == [found.started for found in results]
    # A table takes them as seeds of one number.
    assert "(n=2)" in mae_bench.table("demo-transfer", runs_root=runs, format="markdown")


def test_a_name_is_a_folder_of_seeds(backbone: str, data_root: Path, tmp_path: Path) -> None:
    # The seed may stand among the overrides, as for a single run.
    results = several(backbone, data_root, tmp_path, overrides=[*LINEAR, "seed=1"], name="three/linear")
    assert [found.seed for found in results] == [1, 2]
    assert folders(tmp_path) == ["three/linear/s1", "three/linear/s2"]
    more = several(backbone, data_root, tmp_path, seeds=3, name="three/linear")
    assert [found.seed for found in more] == [0, 1, 2]
    assert more[1].started == results[0].started
    with pytest.raises(MaeBenchError, match=r"three/linear holds the runs of several seeds \(s0, s1, s2\)"):
        mae_bench.run(TASK, backbone, LINEAR, data_root=data_root, runs_root=tmp_path, name="three/linear")
    assert folders(tmp_path) == [f"three/linear/s{seed}" for seed in range(3)]


def test_a_run_of_that_name_is_left_alone(backbone: str, data_root: Path, tmp_path: Path) -> None:
    mae_bench.run(TASK, backbone, LINEAR, data_root=data_root, runs_root=tmp_path, name="one")
    with pytest.raises(MaeBenchError, match=r"one is the folder of one run, .* choose another --name"):
        several(backbone, data_root, tmp_path, name="one")
    assert folders(tmp_path) == ["one"]


def test_what_does_not_depend_on_the_seed_is_run_once(
    backbone: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = several(backbone, data_root, tmp_path, task=KNN, overrides=OF_KNN, seeds=3)
    told = capsys.readouterr().err
    assert [found.seed for found in results] == [0]
    assert "demo/imagenet-knn draws nothing and the weights are given" in told
    assert "±" not in told


def test_untrained_weights_depend_on_the_seed_whatever_the_task(
    backbone: str, data_root: Path, tmp_path: Path
) -> None:
    results = several(f"random:{backbone}", data_root, tmp_path, task=KNN, overrides=OF_KNN)
    assert [found.seed for found in results] == [0, 1]
    assert len({found.backbone.digest for found in results if found.backbone}) == 2


def test_pretraining_takes_several_seeds_too(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = mae_bench.pretrain_seeds(
        "demo/mae",
        ["data.root=generated/tiny", "train.batch=20", "train.steps=2"],
        seeds=2,
        data_root=data_root,
        runs_root=tmp_path,
        name="mae",
    )
    assert folders(tmp_path) == ["mae/s0", "mae/s1"]
    assert results[0].metrics != results[1].metrics
    assert re.search(r"demo/mae: \w+ [0-9.]+ ± [0-9.]+", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds: at least one is needed, not 0"),
        ({"overrides": [*LINEAR, "seed=1"], "seed": 2}, "seed: given twice"),
        ({"overrides": [*LINEAR, "train.epoch=3"]}, "train.epoch"),
    ],
)
def test_a_mistake_is_told_before_the_first_run(
    backbone: str, data_root: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MaeBenchError, match=re.escape(message)):
        several(backbone, data_root, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_run_the_seeds_together(backbone: str, data_root: Path, tmp_path: Path) -> None:
    arguments = ["-m", "mae_bench", "run", "--task", TASK, "--backbone", backbone, "--seeds", "2"]
    arguments += ["--name", "both", "--runs", str(tmp_path), "--data-root", str(data_root)]
    arguments += ["data.root=generated/tiny", "train.batch=20", "train.micro_batch=10", "norm_batch=10"]
    done = finish(on_two_processes([*arguments, "train.epochs=1"]), tmp_path)
    assert len(re.findall("over 2 seeds: 0, 1", done.stderr)) == 1
    found = {run.name: run.result for run in scan(tmp_path).runs}
    assert {name: result.seed for name, result in found.items()} == {"both/s0": 0, "both/s1": 1}
    assert {result.hardware["processes"] for result in found.values()} == {2}
