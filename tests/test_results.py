"""The result schema, reading it back, and trees of runs with damage in them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mae_bench.errors import MaeBenchError
from mae_bench.results import (
    COLUMNS,
    Result,
    load_results,
    read_result,
    scan,
    write_json_atomic,
    write_result,
)
from tests.sample_runs import deviation, store, values


def test_a_result_reads_back_as_it_was_written(tmp_path: Path) -> None:
    result = Result.model_validate(
        values(deviations=[deviation("train.epochs", 100, 12.5)], details={"lr": 0.1})
    )
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    assert read_result(tmp_path / "result.json") == result


def test_the_file_begins_with_its_schema_version(tmp_path: Path) -> None:
    result = Result.model_validate(values())
    write_result(tmp_path, result)
    written = json.loads((tmp_path / "result.json").read_text())
    assert next(iter(written.items())) == ("schema", 1)
    # However it is dumped, for the run and the reader must agree on the name.
    for by_alias in (True, False):
        dumped = result.model_dump(mode="json", by_alias=by_alias)
        assert dumped == written
        assert "schema_version" not in dumped


def test_the_headline_is_the_first_metric() -> None:
    assert Result.model_validate(values(metrics={"top5": 90.0, "top1": 70.0})).headline == "top5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, r'seed: should be .*, not "0"'),
        ({"seeds": 1}, r"seeds: unknown key; did you mean 'seed'"),
        ({"metrics": {"top1": "high"}}, "metrics"),
        ({"backbone": {"digest": None}}, r"backbone\.digest: should be"),
    ],
)
def test_what_does_not_follow_the_schema_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "result.json").write_text(json.dumps(values() | change))
    with pytest.raises(MaeBenchError, match=message) as caught:
        read_result(tmp_path)
    assert str(tmp_path / "result.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, "task": "imag', "is damaged, it is not complete JSON"),
        ("", "is damaged, it is not complete JSON"),
        ("[]", "is not the result of a run"),
        ("{}", "is not the result of a run"),
        ('{"schema": 2}', "follows version 2 of the result schema; this mae-bench reads version 1"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(MaeBenchError, match=message):
        read_result(tmp_path)


def test_a_run_without_result_says_that_it_has_not_finished(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"no such file \(a run writes it when it finishes\)"):
        read_result(tmp_path)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="cannot be written as JSON"):
        write_json_atomic(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def tree_with_damage(root: Path) -> None:
    store(root, "imagenet-finetune/good", 83.6)
    store(root, "imagenet-finetune/other", 80.0, seed=1, backbone=None, steps=None)
    store(root, "nested/deep/run", 70.0, seed=2)
    (root / "half").mkdir()
    (root / "half" / "result.json").write_text('{"schema": 1, "ta')
    (root / "running").mkdir()
    (root / "running" / "config.yaml").write_text("task: x\n")
    (root / "not-a-run").mkdir()
    store(root, ".hidden/run", 1.0)


def test_scan_skips_and_names_damage(tmp_path: Path) -> None:
    tree_with_damage(tmp_path)
    tree = scan(tmp_path)
    assert [run.name for run in tree.runs] == [
        "imagenet-finetune/good",
        "imagenet-finetune/other",
        "nested/deep/run",
    ]
    assert tree.unfinished == ["running"]
    assert len(tree.problems) == 1
    assert str(tmp_path / "half" / "result.json") in tree.problems[0]


def test_a_copied_folder_counts_once(tmp_path: Path) -> None:
    store(tmp_path, "a/run", 83.6)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tree = scan(tmp_path)
    assert [run.name for run in tree.runs] == ["a/run"]
    assert len(tree.problems) == 1
    assert "is a copy of" in tree.problems[0]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    store(tmp_path / "elsewhere", "run", 83.6)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert [run.name for run in scan(tmp_path / "runs").runs] == ["linked/run"]


def test_a_missing_root_holds_no_runs(tmp_path: Path) -> None:
    tree = scan(tmp_path / "nothing")
    assert (tree.runs, tree.problems, tree.unfinished) == ([], [], [])


def test_load_results_has_one_row_a_run(tmp_path: Path) -> None:
    tree_with_damage(tmp_path)
    frame = load_results(tmp_path)
    assert list(frame.columns) == [*COLUMNS, "metric.top1"]
    assert list(frame["metric.top1"]) == [83.6, 80.0, 70.0]
    assert list(frame["seed"]) == [0, 1, 2]
    assert frame["backbone"].isna().tolist() == [False, True, False]
    assert frame.loc[0, "steps"] == 125100
    assert frame["steps"].isna().tolist() == [False, True, False]
    assert frame.loc[0, "command"] == "mae-bench run --task imagenet-finetune"
    assert frame.loc[0, "device"] == "a device"
    assert len(frame.attrs["problems"]) == 1
    assert frame.attrs["unfinished"] == ["running"]


def test_load_results_of_an_empty_root_has_the_documented_columns(tmp_path: Path) -> None:
    frame = load_results(tmp_path)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0


def test_a_metric_named_like_a_column_does_no_harm(tmp_path: Path) -> None:
    store(tmp_path, "run", metrics={"seed": 7.0})
    frame = load_results(tmp_path)
    assert (frame.loc[0, "seed"], frame.loc[0, "metric.seed"]) == (0, 7.0)


def test_importing_results_and_tables_is_light() -> None:
    code = (
        "import sys; import mae_bench.results, mae_bench.tables, mae_bench.render, mae_bench.figures;"
        "print([m for m in ('torch', 'timm', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
