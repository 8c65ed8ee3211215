"""The command line: what it says and leaves with, and that it answers without importing torch."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mae_bench import api, cli
from mae_bench.errors import MaeBenchError
from mae_bench.tables.views import View
from tests.launch import environment

HEAVY = {"torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "matplotlib", "PIL"}
VERBS = ["list", "show", "check", "pretrain", "run", "visualize", "judge", "table", "demo"]


class Answer(SimpleNamespace):
    """What a command left: `status`, `out`, `err`, and the modules it imported (`imports`)."""


def command(*arguments: str, cwd: Path) -> Answer:
    """Run the command line in a process of its own, with Python reporting every import."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mae_bench", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stderr.splitlines()
    imports = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    err = "\n".join(line for line in lines if not line.startswith("import time:"))
    return Answer(status=done.returncode, out=done.stdout, err=err, imports=imports)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        *[([verb, "--help"], 0) for verb in VERBS],
        (["list"], 0),
        (["list", "recipes", "--json"], 0),
        (["table"], 0),
        (["show", "imagenet-finetune"], 0),
    ],
)
def test_it_answers_without_torch(arguments: list[str], status: int, tmp_path: Path) -> None:
    answer = command(*arguments, cwd=tmp_path)
    assert answer.status == status
    assert answer.out or answer.err
    assert "Traceback" not in answer.err
    assert not answer.imports & HEAVY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frob"], "Error: No such command 'frob'."),
        (["run"], "Error: Missing option '--task'."),
        (["run", "--task", "imagenet-knn", "--frob"], "Error: No such option: --frob"),
        (["run", "--task", "imagenet-knn", "--seed", "x"], "Error: Invalid value for '--seed': "),
        (["table", "mae-table3", "--format", "pdf"],
         "Error: Invalid value for '--format': "),
        (["show", "imagenet-nn"], "error: unknown recipe 'imagenet-nn'; did you mean 'imagenet-knn' or "),
        (["show", "nowhere.yaml"], "error: nowhere.yaml does not exist"),
        (["run", "--task", "imagenet-finetune", "--backbone", "random:vit_tiny_patch16_224", "optim.lr=off"],
         'error: optim.lr: should be a number, not "off" (override)'),
        (["run", "--task", "imagenet-finetune", "epochs"],
         "error: 'epochs' is no override; write key.path=value, for example train.epochs=10"),
        (["run", "--task", "imagenet-finetune", "--backbone", "tim:x"],
         "error: backbone 'tim:x': there is no source 'tim'; did you mean 'timm'?"),
        (["run", "--task", "imagenet-finetune"],
         "error: imagenet-finetune needs a backbone: --backbone timm:NAME, hf:REPO, torchhub:REPO:ENTRY, file:PATH?arch=NAME, "
         "python:MODULE:FACTORY, random:ARCH, the folder of a pretraining run or an alias"),
        (["run", "--task", "imagenet-robustness"],
         "error: imagenet-robustness needs a backbone: --backbone the folder of a finished classification run, "
         "timm:NAME with its head, or file:PATH?arch=NAME"),
        (["run", "--task", "imagenet-scratch"], "error: imagenet-scratch needs a backbone: --backbone random:ARCH"),
        (["check"], "error: say what to check: a recipe, --backbone SPEC, or both"),
        (["check", "--backbone", "tim:x"], "error: backbone 'tim:x': there is no source 'tim'; did you mean 'timm'?"),
        (["check", "optim.lr=1", "--backbone", "random:x"],
         "error: 'optim.lr=1' sets a value of a recipe: name the recipe before it"),
        (["check", "imagenet-finetune", "--backbone", "nowhere/run"], "error: backbone 'nowhere/run': there is no such folder"),
        (["pretrain", "--recipe", "imagenet-knn"],
         "error: 'imagenet-knn' is a downstream task: mae-bench run --task imagenet-knn --backbone ..."),
        (["run", "--task", "demo/coco", "--engine", "mmdt", "--backbone", "random:x"],
         "error: --engine mmdt: demo/coco can be trained by detectron2, mmdet, torchvision; did you mean 'mmdet'?"),
        (["run", "--task", "imagenet-knn", "--engine", "mmdet", "--backbone", "random:x"],
         "error: --engine mmdet: imagenet-knn has one way of training alone"),
        (["check", "--engine", "mmdet", "--backbone", "random:x"],
         "error: --engine mmdet trains a recipe, and none is named"),
        (["visualize", "nowhere"], "error: nowhere is not a run folder (no config.yaml in it)"),
    ],
)  # fmt: skip
def test_mistakes_in_use_answer_without_torch(arguments: list[str], message: str, tmp_path: Path) -> None:
    answer = command(*arguments, cwd=tmp_path)
    # Only the beginning, where the rest is Click's own wording or names whatever recipes there are.
    assert answer.err.splitlines()[-1].startswith(message)
    assert (answer.status, answer.out) == (2, "")
    assert not answer.imports & HEAVY


def test_list_as_json_is_for_programs(tmp_path: Path) -> None:
    answer = command("list", "--json", cwd=tmp_path)
    listing = json.loads(answer.out)
    assert list(listing) == [
        "adapters",
        "recipes",
        "backbones",
        "aliases",
        "capabilities",
        "tables",
        "suites",
        "problems",
    ]
    assert listing["problems"] == []
    knn = next(item for item in listing["recipes"] if item["name"] == "imagenet-knn")
    assert knn["needs"] == ""
    assert "nearest-neighbour" in knn["about"]
    assert {"timm", "random", "run", "file", "python", "torchhub"} <= {
        item["name"] for item in listing["backbones"]
    }


def test_every_recipe_says_what_it_is(tmp_path: Path) -> None:
    listing = json.loads(command("list", "recipes", "--json", cwd=tmp_path).out)
    assert [item["name"] for item in listing["recipes"] if not item["about"]] == []


# ---------------------------------------------------------------- what the verbs hand on


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of the functions behind the verbs, which do nothing here."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    answers: dict[str, Any] = {
        "check": ["first", "second"],
        "visualize": ["a.png", "b.png"],
        "judge": {"box_ap": 51.6, "mask_ar_medium": 100 / 3},
        "table": "| a |",
        "demo": SimpleNamespace(table="| d |", pictures=["c.png"]),
    }
    verbs = ("pretrain", "run", "check", "visualize", "judge", "table", "demo")
    for name in (*verbs, "pretrain_seeds", "run_seeds"):

        def record(*positional: Any, _name: str = name, **named: Any) -> Any:
            made.append((_name, positional, named))
            return answers.get(_name)

        monkeypatch.setattr(api, name, record)
    return made


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


def test_run_hands_everything_on(calls: list[Any]) -> None:
    done = invoke(
        "run", "--task", "t", "--backbone", "timm:x", "--data-root", "d", "a.b=1", "--runs", "r", "--seed", "3",
        "--name", "n", "--force", "--engine", "mmdet", "c=2",
    )  # fmt: skip
    assert done.exit_code == 0
    assert calls == [
        ("run", ("t", "timm:x", ["a.b=1", "c=2"]),
         {"engine": "mmdet", "data_root": "d", "runs_root": "r", "seed": 3, "name": "n", "force": True}),
    ]  # fmt: skip


def test_pretrain_and_its_defaults(calls: list[Any]) -> None:
    assert invoke("pretrain", "--recipe", "p").exit_code == 0
    assert calls == [
        ("pretrain", ("p", ()),
         {"data_root": None, "runs_root": None, "seed": None, "name": None, "force": False}),
    ]  # fmt: skip


def test_several_seeds(calls: list[Any]) -> None:
    assert (
        invoke("run", "--task", "t", "--backbone", "b", "--seeds", "3", "--seed", "7", "k=1").exit_code == 0
    )
    assert invoke("pretrain", "--recipe", "p", "--seeds", "2", "--name", "n").exit_code == 0
    assert invoke("run", "--task", "t", "--seeds", "0").exit_code == 2
    roots = {"data_root": None, "runs_root": None}
    assert calls == [
        ("run_seeds", ("t", "b", ["k=1"]),
         {"seeds": 3, "engine": None, **roots, "seed": 7, "name": None, "force": False}),
        ("pretrain_seeds", ("p", ()), {"seeds": 2, **roots, "seed": None, "name": "n", "force": False}),
    ]  # fmt: skip


def test_the_verbs_that_answer(calls: list[Any]) -> None:
    assert invoke("check", "p", "--backbone", "b", "k=1").stdout == "first\nsecond\n"
    assert invoke("check", "--backbone", "b", "--report", "r.json").stdout == "first\nsecond\n"
    assert invoke("visualize", "runs/x", "one.png", "--count", "3").stdout == "a.png\nb.png\n"
    assert invoke("judge", "runs/y").stdout == "box_ap           51.6000\nmask_ar_medium   33.3333\n"
    assert invoke("table", "mae-table3", "--format", "csv", "--runs", "r").stdout == "| a |\n"
    assert invoke("demo").stdout == "| d |\nc.png\n"
    assert calls == [
        ("check", ("p", "b", ["k=1"]),
         {"engine": None, "report": None, "data_root": None, "runs_root": None}),
        ("check", (None, "b", ()),
         {"engine": None, "report": "r.json", "data_root": None, "runs_root": None}),
        ("visualize", ("runs/x", ["one.png"], 3), {"data_root": None}),
        ("judge", ("runs/y",), {"data_root": None}),
        ("table", ("mae-table3",), {"runs_root": "r", "format": "csv", "view": View([]), "output": None}),
        ("demo", (), {"data_root": None, "runs_root": None, "format": "terminal", "engines": False}),
    ]  # fmt: skip


class StoppedError(MaeBenchError):
    status = 130


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (MaeBenchError("no such thing\nand another"), 2, "error: no such thing\nand another\n"),
        (StoppedError("stopped by SIGINT at step 3"), 130, "stopped by SIGINT at step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from what is saved\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2,
         "error: No space left on device: runs/x\n"),
    ],
)  # fmt: skip
def test_what_a_person_can_mend_is_told_plainly(
    raised: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(api, "run", fail)
    done = invoke("run", "--task", "t")
    assert (done.exit_code, done.stderr) == (status, told)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    monkeypatch.setattr(api, "run", fail)
    assert isinstance(invoke("run", "--task", "t").exception, FileNotFoundError)


# ---------------------------------------------------------------- the verbs as functions


def test_the_verbs_are_functions_of_the_package(tmp_path: Path) -> None:
    program = (
        "import sys, mae_bench\n"
        "import mae_bench.run, mae_bench.pretrain\n"
        "from mae_bench import run, pretrain\n"
        "from mae_bench.run import Run\n"
        "assert not {'torch', 'pandas'} & set(sys.modules)\n"
        "print(all(callable(getattr(mae_bench, n)) for n in mae_bench.__all__ if n != '__version__'))\n"
        "print(run.__module__, pretrain.__module__, mae_bench.run is run, Run.__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == "True\nmae_bench.api.running mae_bench.api.running True mae_bench.run\n"
