"""The journey of a newcomer through the Python functions: pretrain, transfer, tabulate, look; shortened recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import mae_bench
from mae_bench.errors import MaeBenchError

TINY = ["data.root=generated/tiny", "train.batch=20"]
TASKS = {
    "demo/imagenet-knn": ["data.root=generated/tiny", "k=[5,20]"],
    "demo/imagenet-linear": [*TINY, "train.epochs=2", "train.micro_batch=20", "norm_batch=20"],
    "demo/imagenet-partial": [*TINY, "train.epochs=1"],
    "demo/imagenet-finetune": [*TINY, "train.epochs=1"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and `runs`, in which everything has been run once."""
    place = tmp_path_factory.mktemp("journey")
    roots = {"data_root": place / "data", "runs_root": place / "runs"}
    mae_bench.pretrain("demo/mae", [*TINY, "train.steps=4"], **roots, name="demo/mae")
    for backbone in (str(place / "runs/demo/mae"), f"random:{place / 'runs/demo/mae'}"):
        for task, overrides in TASKS.items():
            mae_bench.run(task, backbone, overrides, **roots)
    return place


@pytest.mark.slow
def test_every_run_left_what_it_should(place: Path) -> None:
    frame = mae_bench.load_results(place / "runs")
    assert frame.attrs["problems"] == []
    assert sorted(frame["recipe"]) == sorted(["demo/mae", *TASKS, *TASKS])
    for folder in frame["folder"]:
        names = {path.name for path in (place / "runs" / folder).iterdir()}
        assert {"config.yaml", "result.json"} <= names
        result = json.loads((place / "runs" / folder / "result.json").read_text())
        assert result["deviations"], "overrides depart from the published protocol"
        assert result["dataset"]["fingerprint"]
        if result["recipe"] != "demo/mae":
            assert "load_report.json" in names
            assert result["backbone"]["digest"]
            assert 0 <= result["metrics"]["top1"] <= 100


@pytest.mark.slow
def test_the_table_has_a_row_for_each_backbone(place: Path) -> None:
    text = mae_bench.table("demo-transfer", runs_root=place / "runs", format="csv")
    assert "random initialisation" in text
    frame = mae_bench.load_results(place / "runs")
    for value in frame.loc[frame["recipe"] == "demo/imagenet-knn", "metric.top1"]:
        assert f"{value:.1f}" in text or str(value) in text


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(place / "runs/demo/mae")
    task, overrides = "demo/imagenet-knn", TASKS["demo/imagenet-knn"]
    roots = {"data_root": place / "data", "runs_root": place / "runs"}
    again = mae_bench.run(task, folder, overrides, **roots)
    assert "already finished" in capsys.readouterr().err
    assert again.folder is not None
    assert Path(again.folder).is_relative_to(place)
    afresh = mae_bench.run(task, folder, overrides, **roots, force=True)
    assert afresh.metrics == again.metrics
    assert afresh.started >= again.finished


@pytest.mark.slow
def test_running_the_written_configuration_repeats_the_run(place: Path) -> None:
    (folder,) = (place / "runs/demo/imagenet-finetune").glob("run-*")
    first = json.loads((folder / "result.json").read_text())
    again = mae_bench.run(
        str(folder / "config.yaml"), data_root=place / "data", runs_root=place / "elsewhere"
    )
    assert again.metrics == first["metrics"]
    assert again.recipe_hash == first["recipe_hash"]


@pytest.mark.slow
def test_pictures_of_the_pretraining(place: Path) -> None:
    (path,) = mae_bench.visualize(place / "runs/demo/mae", count=3, data_root=place / "data")
    with Image.open(path) as picture:
        assert picture.width > 4 * 32
    with pytest.raises(MaeBenchError, match="is not a run folder"):
        mae_bench.visualize(place)


@pytest.mark.slow
def test_checking_leaves_nothing_behind(place: Path) -> None:
    before = sorted(place.rglob("*"))
    lines = mae_bench.check(
        "demo/imagenet-finetune",
        str(place / "runs/demo/mae"),
        [*TINY, "seed=7"],
        data_root=place / "data",
        runs_root=place / "runs",
    )
    assert sorted(place.rglob("*")) == before
    assert lines[0] == "recipe demo/imagenet-finetune: every value is valid"
    assert any("200" in line for line in lines), lines


@pytest.mark.slow
def test_another_seed_makes_a_mean_of_two(place: Path) -> None:
    roots = {"data_root": place / "data", "runs_root": place / "runs"}
    overrides = TASKS["demo/imagenet-finetune"]
    mae_bench.run("demo/imagenet-finetune", str(place / "runs/demo/mae"), overrides, **roots, seed=1)
    assert "±" in mae_bench.table("demo-transfer", runs_root=place / "runs", format="markdown")
