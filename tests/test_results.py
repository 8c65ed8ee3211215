"""The result schema, reading it back, and trees of runs with damage in them."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mae_bench import results, tables
from mae_bench.errors import MaeBenchError
from mae_bench.exporting import COLUMNS, load_results
from mae_bench.results import (
    Result,
    parse_result,
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


def said(content: bytes) -> str | dict:
    """What reading some bytes at one go, or in steps if it must, comes to."""
    try:
        return parse_result("result.json", content).model_dump()
    except MaeBenchError as error:
        return str(error)


def said_in_steps(content: bytes) -> str | dict:
    try:
        return results._parse_in_steps("result.json", content).model_dump()
    except MaeBenchError as error:
        return str(error)


def text(**changes: object) -> str:
    return json.dumps(values(**changes))


WHOLE = text()


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        text(epochs=100, wall_clock_s=7, metrics={"top1": 80}),  # whole numbers where numbers are due
        text(seed=0.0),
        text(seed=True),
        text(schema=True),
        text(schema=1.0),
        text(schema="1"),
        text(config={"big": 2**100, "small": 1e-320, "text": "\u2028 ß \U0001f600", "none": None}),
        text(metrics={"top1": math.nan}),
        text(metrics={}),
        text(hardware={"nan": math.inf}),
        text(command="mae-bench"),
        text(patch_size=[16, 16]),
        text(dataset={"train_images": -1}),
        text(extra=1),
        WHOLE.replace('"seed": 0', '"seed": 0, "seed": 1'),
        WHOLE.replace('"seed": 0', '"seed": 1, "seed": "0"'),
        WHOLE.replace('"schema": 1', '"schema": 2, "schema": 1'),
        WHOLE.replace('"schema": 1', '"schema": 1, "schema": 2'),
        WHOLE.replace('"schema": 1', '"schema_version": 1'),
        WHOLE.replace('"schema": 1', '"schema": 1, "schema_version": 1'),
        WHOLE.replace('"schema": 1', '"schema": 01'),
        WHOLE.replace('"top1": 83.6', '"top1": 1e999'),
        WHOLE.replace('"top1": 83.6', '"top1": 83.'),
        WHOLE.replace('"a device"', '"a\tdevice"'),
        WHOLE.replace('"a device"', '"a\\ud800 device"'),
        WHOLE.replace('"a device"', "'a device'"),
        WHOLE.replace('"a device"', "[" * 150 + "]" * 150),
        WHOLE.replace('"a device"', "[" * 300 + "]" * 300),
        WHOLE.replace('"a device"', "[" * 100_000),
        WHOLE + "}",
        WHOLE + "\n\n",
        WHOLE[:-1] + ",}",
        "\ufeff" + WHOLE,
        " \n" + WHOLE,
    ],
    ids=lambda content: "",
)
def test_reading_at_one_go_comes_to_the_same_as_in_steps(content: str) -> None:
    encoded = content.encode()
    # NaN is no equal of itself.
    assert repr(said(encoded)) == repr(said_in_steps(encoded))


def test_numbers_are_read_to_the_last_bit() -> None:
    generator = random.Random(0)
    drawn = {f"m{i}": generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300) for i in range(2000)}
    read = parse_result("result.json", text(metrics=drawn).encode())
    assert read.metrics == drawn


@pytest.mark.parametrize(
    "content",
    [
        WHOLE.encode("utf-16"),
        WHOLE.replace("a device", "ein Gerät").encode("latin-1"),
        b"\x00" * 100,
        WHOLE.encode()[:-40],
    ],
)
def test_other_bytes_too(content: bytes) -> None:
    assert said(content) == said_in_steps(content)


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


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_text(""), "is damaged, it is not complete JSON"),
        (
            lambda file: file.write_bytes(b'{"schema": 1, "task": "\xff"}'),
            "is damaged, it is not complete JSON",
        ),
        (lambda file: file.write_text("[" * 200_000), "is damaged, it is not complete JSON"),
        (lambda file: file.mkdir(), "cannot be read: Is a directory"),
        (lambda file: file.symlink_to("nowhere"), "cannot be read: it is a link to nothing"),
        (lambda file: file.symlink_to(file.name), "cannot be read: Too many levels of symbolic links"),
        (pipe, "cannot be read: it is not an ordinary file"),
        (lambda file: file.write_text(text(metrics={})), "metrics: should have at least 1 element"),
    ],
)
def test_no_damage_is_fatal(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    store(tmp_path, "a", 1.0)
    (tmp_path / "broken").mkdir()
    damage(tmp_path / "broken" / "result.json")
    store(tmp_path, "z", 2.0)
    tree = scan(tmp_path)
    assert [run.name for run in tree.runs] == ["a", "z"]
    (problem,) = tree.problems
    assert problem.startswith(f"{tmp_path / 'broken' / 'result.json'} ")
    assert message in problem


@pytest.mark.parametrize("name", ["open", "scandir"])
def test_what_is_not_open_to_us_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store(tmp_path, "a", 1.0)
    store(tmp_path, "closed/run", 2.0)
    real = getattr(os, name)

    def refuse(path: str, *arguments: object) -> object:
        # As for a file or folder without permission; whoever runs the tests may be allowed everything.
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(results.os, name, refuse)
    tree = scan(tmp_path)
    assert [run.name for run in tree.runs] == ["a"]
    assert tree.problems == [
        f"{tmp_path}/closed/run/result.json cannot be read: Permission denied"
        if name == "open"
        else f"{tmp_path}/closed cannot be searched: Permission denied"
    ]


def test_a_folder_that_goes_away_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, "a/run", 1.0)
    store(tmp_path, "b/run", 2.0)
    real = os.scandir

    def late(path: str) -> object:
        if str(path).endswith("/a"):
            shutil.rmtree(tmp_path / "b")
        return real(path)

    monkeypatch.setattr(results.os, "scandir", late)
    assert [run.name for run in scan(tmp_path).runs] == ["a/run"]


def test_names_that_are_not_unicode_can_be_shown(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    store(tmp_path, f"{odd}/run", 1.0)
    (tmp_path / odd / "half").mkdir()
    (tmp_path / odd / "half" / "result.json").write_text("{")
    tree = scan(tmp_path)
    (found,) = tree.runs
    assert found.name == "caf?/run"
    assert read_result(found.folder) == found.result
    "".join(tree.problems).encode()
    assert load_results(tmp_path)["folder"].tolist() == ["caf?/run"]


def test_the_root_itself_may_be_a_run(tmp_path: Path) -> None:
    store(tmp_path, "run", 1.0)
    (found,) = scan(tmp_path / "run").runs
    assert (found.name, found.folder) == (".", tmp_path / "run")


@pytest.mark.parametrize("searching", [True, False])
def test_the_search_for_garbage_goes_on_as_before(tmp_path: Path, searching: bool) -> None:
    before, frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        (gc.enable if searching else gc.disable)()
        scan(tmp_path)
        assert gc.isenabled() == searching
        assert gc.get_freeze_count() == frozen
    finally:
        (gc.enable if before else gc.disable)()


# ---------------------------------------------------------------- results of two machines


def two_machines(place: Path) -> tuple[Path, Path]:
    """Seeds 0 and 1 on one machine, 1 and 2 on the other; the same weights at other paths."""
    for machine, seeds, top1 in (("one", (0, 1), 80.0), ("two", (1, 2), 90.0)):
        for seed in seeds:
            # A seed that both ran ended later on the second.
            store(
                place / machine,
                f"imagenet-finetune/run-s{seed}",
                top1 + seed,
                seed=seed,
                finished=f"2026-02-0{1 + (machine == 'two')}T00:00:00+00:00",
                backbone={"spec": f"run:/{machine}/runs/mae"},
            )
    return place / "one", place / "two"


@pytest.mark.parametrize("below", ["other", "a/b/c", "imagenet-finetune/from-two"])
def test_folders_of_two_machines_merge_by_copying(tmp_path: Path, below: str) -> None:
    one, two = two_machines(tmp_path)
    shutil.copytree(two, one / below)
    tree = scan(one)
    assert len(tree.runs) == 4
    assert tree.problems == []
    table = tables.make_table("mae-table3", one)
    (cell,) = (cell for row in table.rows if row.ours for cell in row.cells.values())
    # Seeds 0, 1 and 2; of seed 1 the later run.
    assert (cell.n, cell.value) == (3, pytest.approx((80 + 91 + 92) / 3))
    assert any("Where a seed was run again the latest run counts" in remark for remark in table.remarks)


def test_a_folder_of_the_same_name_may_be_renamed(tmp_path: Path) -> None:
    one, two = two_machines(tmp_path)
    shutil.copytree(two / "imagenet-finetune/run-s1", one / "imagenet-finetune/run-s1 (copy)")
    assert [(run.name, run.result.metrics["top1"]) for run in scan(one).runs] == [
        ("imagenet-finetune/run-s0", 80.0),
        ("imagenet-finetune/run-s1", 81.0),
        ("imagenet-finetune/run-s1 (copy)", 91.0),
    ]


def test_merging_twice_counts_once(tmp_path: Path) -> None:
    one, two = two_machines(tmp_path)
    shutil.copytree(two, one / "two")
    shutil.copytree(two, one / "zwei")
    tree = scan(one)
    assert len(tree.runs) == 4
    assert [problem.partition(" is a copy of ")[2] for problem in tree.problems] == [
        f"{one}/two/imagenet-finetune/run-s{seed}/result.json and is not counted again" for seed in (1, 2)
    ]


def test_other_weights_at_the_same_path_stay_apart(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        spec = {"spec": "run:runs/mae", "digest": machine * 20}
        store(tmp_path, f"{machine}/run", 80.0, backbone=spec)
    table = tables.make_table("mae-table3", tmp_path)
    assert [cell.n for row in table.rows if row.ours for cell in row.cells.values()] == [1, 1]


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
        "import sys; import mae_bench.results, mae_bench.exporting, mae_bench.tracking, mae_bench.tables, mae_bench.render, mae_bench.figures;"
        "print([m for m in ('torch', 'timm', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
