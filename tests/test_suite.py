"""Suites: lists of runs, planned before the first starts and carried out one after the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mae_bench import api, cli, resources, roots, runlist, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result, read_result
from mae_bench.run import folder_for
from mae_bench.runlist import Entry
from mae_bench.stopping import InterruptedRunError
from mae_bench.suite import Step, plan
from mae_bench.suite import suite as carry_out
from tests.launch import finish, start
from tests.recorded_runs import BASE, finished

KNN, FINETUNE, ROBUST = "demo/imagenet-knn", "demo/imagenet-finetune", "demo/imagenet-robustness"
RANDOM = "random:vit_tiny_patch16_224?patch_size=8&img_size=32&embed_dim=16&depth=1&num_heads=2"


def listed(tmp_path: Path, *entries: str) -> str:
    path = tmp_path / "list.yaml"
    path.write_text("runs:\n" + "".join(f"- {{{entry}}}\n" for entry in entries))
    return str(path)


def places(tmp_path: Path) -> roots.Roots:
    return roots.Roots(tmp_path / "data", tmp_path / "runs")


def planned(tmp_path: Path, *entries: str, backbones: Sequence[str] = (), **how: Any) -> list[Step]:
    return plan(runlist.read(listed(tmp_path, *entries)), backbones, places(tmp_path), **how)


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["backbone: x"], "runs.0: give task (a downstream task) or recipe (a pretraining), and not both (list.yaml:2)"),
        ([f"task: {KNN}, recipe: demo/mae"],
         "runs.0: give task (a downstream task) or recipe (a pretraining), and not both (list.yaml:2)"),
        (["recipe: demo/mae, backbone: x"], "runs.0: a pretraining takes no backbone (list.yaml:2)"),
        ([f"task: {KNN}", f"task: {KNN}, sed: 1"], "runs.1.sed: unknown key (list.yaml:3); did you mean 'seed'?"),
        ([f"task: {KNN}, seed: -1"], "runs.0.seed: should be at least 0, not -1 (list.yaml:2)"),
        ([f"task: {ROBUST}, after: {FINETUNE}", f"task: {FINETUNE}"],
         f"runs.0.after: no earlier entry is '{FINETUNE}'; the run that it goes on from must stand before it (list.yaml:2)"),
        ([f"task: {FINETUNE}", f"task: {ROBUST}, after: demo/imagenet-finetun"],
         f"runs.1.after: no earlier entry is 'demo/imagenet-finetun'; did you mean '{FINETUNE}'? (list.yaml:3)"),
    ],
)  # fmt: skip
def test_a_faulty_list_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MaeBenchError) as told:
        runlist.read(listed(tmp_path, *entries))
    assert str(told.value) == message


def test_an_empty_list_and_an_unknown_name(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("runs: []\n")
    with pytest.raises(MaeBenchError, match="runs: should have at least 1 elements"):
        runlist.read(path)
    with pytest.raises(MaeBenchError, match="there is no suite 'papr'; did you mean 'paper'"):
        runlist.read("papr")


def test_a_list_that_was_written_reads_back(tmp_path: Path) -> None:
    entries = [
        Entry(recipe="demo/mae", name="x: y", reason="a 'quoted' \"reason\": {odd}"),
        Entry(task=KNN, after="demo/mae", seed=3, overrides=["k=[5]", "headline_k=5"], replaces="2026"),
    ]
    path = runlist.write(tmp_path / "due.yaml", entries, "what: is due")
    assert runlist.read(path).entries == entries
    assert runlist.read(path).title == "what: is due"
    with pytest.raises(MaeBenchError, match=r"let its name end in \.yaml"):
        runlist.write(tmp_path / "due.txt", entries, "")
    with pytest.raises(MaeBenchError, match="there is no run to list"):
        runlist.write(tmp_path / "due.yaml", [], "")


@pytest.mark.parametrize("name", list(resources.suites()))
def test_shipped_suites_can_be_planned_where_the_data_is(tmp_path: Path, name: str) -> None:
    steps = []
    where = places(tmp_path)
    for folder in _wanted(name, where):
        folder.mkdir(parents=True)
    backbones = [] if name == "demo" else ["mae-vit-base"]
    steps = plan(runlist.read(name), backbones, where)
    listed = runlist.read(name).entries
    assert [step.entry for step in steps] == listed
    assert resources.summary(resources.suites()[name])
    assert f"mae-bench suite {name}" in resources.suites()[name].read_text()


def _wanted(name: str, where: roots.Roots) -> set[Path]:
    from mae_bench import recipe, settings

    wanted = set()
    for entry in runlist.read(name).entries:
        config = recipe.resolve(entry.what, entry.overrides).config
        wanted |= {where.data_root / holder["root"] for holder, _ in roots.with_root(settings.plain(config))}
    return wanted


# ---------------------------------------------------------------- planning


def test_entries_without_a_backbone_take_each(tmp_path: Path) -> None:
    steps = planned(
        tmp_path, f"task: {KNN}", f"task: {KNN}, backbone: '{RANDOM}'", backbones=[BASE.spec, "mae-vit-base"]
    )
    assert [step.config.backbone for step in steps] == [BASE.spec, "mae-vit-base", RANDOM]
    assert [step.folder for step in steps] == [folder_for(step.config, tmp_path / "runs") for step in steps]


def test_seeds_are_of_what_draws_something(tmp_path: Path) -> None:
    steps = planned(tmp_path, f"task: {KNN}", f"task: {FINETUNE}", f"task: {FINETUNE}, seed: 7",
                    backbones=[BASE.spec], seed=4, seeds=2)  # fmt: skip
    assert [(step.entry.what, step.config.seed) for step in steps] == [
        (KNN, 4), (FINETUNE, 4), (FINETUNE, 5), (FINETUNE, 7),
    ]  # fmt: skip


def test_after_is_the_folder_of_the_run_of_the_same_backbone_and_seed(tmp_path: Path) -> None:
    steps = planned(
        tmp_path, "recipe: demo/mae", f"task: {FINETUNE}, after: demo/mae", f"task: {FINETUNE}",
        f"task: {ROBUST}, after: {FINETUNE}, overrides: [sets.c=null]", backbones=[BASE.spec], seeds=2,
    )  # fmt: skip
    folders = {step.folder: step for step in steps}
    assert len(steps) == 2 + 2 + 2 + 4
    for step in steps:
        if step.parent is not None:
            parent = folders[step.parent.folder]
            assert step.config.backbone == f"run:{parent.folder}"
            assert step.config.seed == parent.config.seed
    robust = [step for step in steps if step.entry.what == ROBUST]
    assert [step.backbone for step in robust] == [None, None, BASE.spec, BASE.spec]


def test_after_chooses_by_backbone_and_seed(tmp_path: Path) -> None:
    (step,) = planned(
        tmp_path, f"task: {FINETUNE}", f"task: {ROBUST}, after: {FINETUNE}, backbone: '{RANDOM}', seed: 1",
        backbones=[BASE.spec, RANDOM], seeds=2,
    )[4:]  # fmt: skip
    assert step.parent is not None
    assert (step.parent.backbone, step.parent.config.seed) == (RANDOM, 1)
    with pytest.raises(
        MaeBenchError, match=f"runs.1 .*: after: no run of {FINETUNE} before it is with seed 9"
    ):
        planned(
            tmp_path, f"task: {FINETUNE}", f"task: {ROBUST}, after: {FINETUNE}, seed: 9", backbones=[RANDOM]
        )


def test_the_same_run_twice_is_one(tmp_path: Path) -> None:
    assert len(planned(tmp_path, f"task: {KNN}", f"task: {KNN}, reason: again", backbones=[RANDOM])) == 1


def test_one_name_is_for_one_run(tmp_path: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"runs.0 .*: name: .*/one would hold several runs .*leave name out"
    ):
        planned(tmp_path, f"task: {KNN}, name: one", backbones=[RANDOM, BASE.spec])


def test_all_mistakes_are_told_before_anything_starts(tmp_path: Path, calls: list[Any]) -> None:
    path = listed(
        tmp_path, "task: demo/imagenet-kn", f"task: {KNN}, overrides: [k=off]", "task: imagenet-knn",
        f"task: {KNN}, backbone: 'tim:x'", f"task: {KNN}, backbone: 'run:gone'", "recipe: imagenet-knn",
        f"task: demo/imagenet-scratch, backbone: '{BASE.spec}'", f"task: {ROBUST}, after: imagenet-knn",
        "task: mae-vit-base", f"task: {KNN}, engine: mmdet", f"task: {KNN}, backbone: 'file:none.pth?arch=x'",
        f"task: {KNN}",
    )  # fmt: skip
    with pytest.raises(MaeBenchError) as told:
        carry_out(path, [RANDOM], places(tmp_path))
    lines = str(told.value).splitlines()
    expected = [
        "runs.0 (demo/imagenet-kn): unknown recipe 'demo/imagenet-kn'; did you mean 'demo/imagenet-knn'",
        'runs.1 (demo/imagenet-knn): k: should be a list, not "off"',
        f"runs.2 (imagenet-knn): there is no data in {tmp_path}/data/imagenet; `mae-bench data where imagenet-knn`",
        "runs.3 (demo/imagenet-knn): backbone 'tim:x': there is no source 'tim'; did you mean 'timm'?",
        "runs.4 (demo/imagenet-knn): backbone run:gone: there is no gone",
        "runs.5 (imagenet-knn): 'imagenet-knn' is a downstream task: mae-bench run --task imagenet-knn",
        f"runs.6 (demo/imagenet-scratch): it trains from scratch and takes random:ARCH, not {BASE.spec}",
        "runs.8 (mae-vit-base): 'mae-vit-base' is a pretraining recipe: mae-bench pretrain --recipe",
        "runs.9 (demo/imagenet-knn): --engine mmdet: demo/imagenet-knn has one way of training alone",
        "runs.10 (demo/imagenet-knn): backbone file:none.pth?arch=x: there is no none.pth",
    ]
    assert [
        line.split(" (/")[0][: len(wanted)] for line, wanted in zip(lines, expected, strict=True)
    ] == expected
    assert all(
        line.endswith(f"list.yaml:{number})")
        for line, number in zip(lines, [2, 3, 4, 5, 6, 7, 8, 10, 11, 12], strict=True)
    )
    assert calls == []


def test_a_backbone_is_asked_for_and_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(
        MaeBenchError, match="it needs a backbone: give --backbone SPEC, or backbone in the list"
    ):
        planned(tmp_path, f"task: {KNN}")
    with pytest.raises(MaeBenchError, match="--backbone random:x: every run of the list names its own"):
        planned(tmp_path, f"task: {KNN}, backbone: '{RANDOM}'", backbones=["random:x"])


# ---------------------------------------------------------------- carrying out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Calls of `api.run` and `api.pretrain`, which leave a result of zeros at once."""
    made: list[tuple[str, str | None, dict[str, Any]]] = []

    def run(task: str, backbone: str | None, overrides: Sequence[str], **how: Any) -> Result:
        made.append((task, backbone, how))
        like = None if backbone is None else BASE.model_copy(update={"spec": backbone})
        seed, root = how["seed"] or 0, Path(how["runs_root"])
        folder = finished(root.with_name("scratch"), task, overrides, like=like, seed=seed, folder=f"r{len(made)}",
                          finished=f"run {len(made)}")  # fmt: skip
        wanted = (
            root / how["name"] if how["name"] else folder_for(_config(task, overrides, backbone, seed), root)
        )
        wanted.mkdir(parents=True, exist_ok=True)
        os.replace(folder / "result.json", wanted / "result.json")
        return read_result(wanted)

    monkeypatch.setattr(api, "run", run)
    monkeypatch.setattr(api, "pretrain", lambda recipe, overrides, **how: run(recipe, None, overrides, **how))
    return made


def _config(task: str, overrides: Sequence[str], backbone: str | None, seed: int) -> Any:
    from mae_bench import recipe

    extra = {"seed": seed} | ({} if backbone is None else {"backbone": backbone})
    return recipe.resolve(task, overrides, extra).config


def states(report: Any) -> list[str]:
    return [outcome.state for outcome in report.outcomes]


def test_runs_are_made_in_order_and_found_finished(tmp_path: Path, calls: list[Any]) -> None:
    path = listed(
        tmp_path, "recipe: demo/mae, name: mine", f"task: {FINETUNE}, after: demo/mae",
        f"task: {ROBUST}, after: {FINETUNE}, overrides: [sets.c=null]",
    )  # fmt: skip
    report = carry_out(path, [], places(tmp_path), data_root="given")
    assert report.ok
    assert states(report) == ["done"] * 3
    assert [call[0] for call in calls] == ["demo/mae", FINETUNE, ROBUST]
    assert calls[1][1] == f"run:{tmp_path}/runs/mine"
    assert calls[2][1] == f"run:{report.planned[1].folder}"
    assert all(how["data_root"] == "given" and not how["force"] for *_, how in calls)
    again = carry_out(path, [], places(tmp_path))
    assert states(again) == ["found finished"] * 3
    assert again.as_text().splitlines()[-1] == "3 found finished"


def test_one_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = api.run

    def run(task: str, *more: Any, **how: Any) -> Result:
        if task == FINETUNE:
            raise MaeBenchError("the disk\nis full")
        if task == "demo/imagenet-linear":
            raise ZeroDivisionError("a fault")
        return good(task, *more, **how)

    monkeypatch.setattr(api, "run", run)
    entries = [
        f"task: {FINETUNE}",
        f"task: {ROBUST}, after: {FINETUNE}",
        "task: demo/imagenet-linear",
        f"task: {KNN}",
    ]
    path = listed(tmp_path, *entries)
    report = carry_out(path, [RANDOM], places(tmp_path))
    assert not report.ok
    assert states(report) == ["failed", "not tried", "failed", "done"]
    assert [outcome.reason for outcome in report.outcomes] == [
        "the disk is full", f"{FINETUNE} has no result", "a fault", "",
    ]  # fmt: skip
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "MaeBenchError" not in told
    assert report.as_text().splitlines()[-1] == "2 failed, 1 not tried, 1 done"
    stopped = carry_out(path, [RANDOM], places(tmp_path), keep_going=False)
    assert states(stopped) == ["failed", "not tried", "not tried", "not tried"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MaeBenchError, match="the disk"):
        carry_out(path, [RANDOM], places(tmp_path))


@pytest.mark.parametrize("asked", [KeyboardInterrupt(), InterruptedRunError("stopped", 143)])
def test_being_asked_to_stop_is_no_failure(
    tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch, asked: BaseException
) -> None:
    def run(*_: Any, **__: Any) -> Result:
        raise asked

    monkeypatch.setattr(api, "run", run)
    with pytest.raises(type(asked)):
        carry_out(listed(tmp_path, f"task: {KNN}"), [RANDOM], places(tmp_path))


def test_a_stale_result_is_replaced_once(tmp_path: Path, calls: list[Any]) -> None:
    path = listed(tmp_path, f"task: {KNN}")
    carry_out(path, [RANDOM], places(tmp_path))
    stale = listed(tmp_path, f"task: {KNN}, replaces: run 1")
    (step,) = plan(runlist.read(stale), [RANDOM], places(tmp_path))
    assert (step.replaced, step.finished) == (True, False)
    assert states(carry_out(stale, [RANDOM], places(tmp_path))) == ["done"]
    assert calls[-1][2]["force"]
    assert states(carry_out(stale, [RANDOM], places(tmp_path))) == ["found finished"]
    assert not calls[-1][2]["force"]


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["suite", *words])


def test_the_command_line(tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = listed(tmp_path, f"task: {KNN}", "task: demo/imagenet-linear")
    where = ["--runs", str(tmp_path / "runs"), "--data-root", str(tmp_path / "data")]
    answer = invoke(path, "--backbone", RANDOM, "--dry-run", *where)
    assert (answer.exit_code, calls) == (0, [])
    assert answer.stdout == (
        f"to do     {KNN}, {RANDOM}, seed 0\nto do     demo/imagenet-linear, {RANDOM}, seed 0\n2 runs, 2 to do\n"
    )
    assert invoke(path, "--backbone", RANDOM, "--backbone", BASE.spec, "--seeds", "2", *where).exit_code == 0
    assert len(calls) == 2 + 1 + 2 + 2  # the neighbours of given weights draw nothing
    assert "done      " in invoke(path, "--backbone", RANDOM, "--dry-run", *where).stdout

    def failing(*_: Any, **__: Any) -> Result:
        raise MaeBenchError("no")

    monkeypatch.setattr(api, "run", failing)
    answer = invoke(path, "--backbone", RANDOM, "--seed", "5", *where)
    assert answer.exit_code == 1
    assert "2 failed" in answer.stdout
    assert invoke("papr").exit_code == 2


MINIATURE = f"""
runs:
- {{task: tiny-knn.yaml, backbone: "{RANDOM}", seed: 0}}
- {{task: tiny-knn.yaml, backbone: "{RANDOM}", seed: 1}}
- {{task: tiny-knn.yaml, backbone: "{RANDOM}", seed: 2}}
"""


@pytest.mark.slow
def test_a_suite_that_is_killed_goes_on(tmp_path: Path) -> None:
    knn = resources.recipes()[KNN]
    (tmp_path / "tiny-knn.yaml").write_text(
        f"extends: {knn}\ndata: {{name: generated-tiny, root: generated/tiny, workers: 0}}\n"
    )
    (tmp_path / "few.yaml").write_text(MINIATURE)
    command = ["-m", "mae_bench", "suite", "few.yaml"]
    process = start(command, tmp_path)
    results = tmp_path / "runs" / "tiny-knn"
    deadline = time.monotonic() + 120
    while not list(results.glob("*/result.json")):
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        assert time.monotonic() < deadline, "the first run does not finish"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in results.glob("*/result.json")}
    assert 1 <= len(before) < 3
    done = finish(command, tmp_path)
    lines = done.stdout.splitlines()
    assert sum(line.startswith("found finished") for line in lines) == len(before)
    assert sum(line.startswith("done") for line in lines) == 3 - len(before)
    assert len(list(results.glob("*/result.json"))) == 3
    assert all(path.read_bytes() == content for path, content in before.items())
    versions = read_result(next(iter(before))).versions
    assert len(versions["mae-bench source"]) == 16
    assert yamlfile.load(next(results.glob("*/config.yaml"))).values["recipe"] == "tiny-knn"
