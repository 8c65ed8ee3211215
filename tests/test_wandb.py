"""Weights & Biases as a mirror of `metrics.jsonl`: offline, without an account or a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from mae_bench import tables, tracking
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result, parse_result, scan
from mae_bench.train import fit
from tests.launch import finish
from tests.sample_runs import store, values
from tests.toy import Toy, toy_config, toy_run

# What a run does with its mirror, without the training: wandb takes its time as it is.
PROGRAM = """
import os
import sys
from pathlib import Path
from PIL import Image
from mae_bench import tables, tracking
from mae_bench.results import read_result
from mae_bench.settings import TaskConfig, WandbSettings

os.environ |= {"WANDB_DISABLE_GIT": "true", "WANDB_CONSOLE": "off", "WANDB_X_DISABLE_STATS": "true"}
root = Path(sys.argv[1])
folder = root / "run"
config = TaskConfig(task="toy", recipe="toy", wandb=WandbSettings(project="mirror", mode="offline"))
mirror = tracking.Mirror(folder, config)
mirror.log(1, {"loss": 2.5, "lr": 0.1})
mirror.log(1, {"eval": {"top1": 83.6}})

def draw():
    Image.new("RGB", (8, 8), "red").save(folder / "seen.png")
    return [str(folder / "seen.png")]

mirror.finish(read_result(folder), draw)
print(tracking.push_table(tables.make_table("mae-table3", root), "team/shown", "offline", folder=root))
"""


@pytest.mark.slow
def test_an_offline_run_is_mirrored(tmp_path: Path) -> None:
    scores = {"per_class": {"strasse": {"iou": 51.5}, "himmel": {"iou": None}}}
    folder = store(tmp_path, "run", 83.6, details=scores)
    told = finish(["-c", PROGRAM, str(tmp_path)], Path.cwd())
    (mirrored,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = mirrored.read_bytes()
    for name in (b"loss", b"eval/top1", b"final/top1", b"provenance/recipe_hash"):
        assert name in content
    # The result to the byte, as JSON holds it within JSON.
    assert json.dumps((folder / "result.json").read_text())[1:-1].encode() in content
    assert mirrored.name == f"run-{json.loads((folder / 'wandb.json').read_text())['id']}.wandb"
    (classes,) = mirrored.parent.rglob("per_class*.table.json")
    assert json.loads(classes.read_text()) == {
        "columns": ["class", "iou"],
        "data": [["strasse", 51.5], ["himmel", None]],
    }
    (picture,) = mirrored.parent.rglob("seen*.png")
    assert picture.read_bytes() == (folder / "seen.png").read_bytes()
    # The table that was sent after it.
    place = Path(told.stdout.splitlines()[-1])
    assert place.parent == tmp_path / ".cache" / "wandb"
    assert [run.name for run in scan(tmp_path).runs] == ["run"]
    assert scan(tmp_path).unfinished == []
    (shown,) = place.rglob("table_*.table.json")
    rows = json.loads(shown.read_text())["data"]
    assert [row[0] for row in rows][-2:] == ["MAE", "ours: mae (timm)"]
    assert "83.6" in rows[-1]
    (cells,) = place.rglob("cells_*.table.json")
    numbers = json.loads(cells.read_text())
    assert numbers["columns"][:5] == ["row", "ours", "column", "unit", "value"]
    assert ["MAE", False, "ViT-B"] in [row[:3] for row in numbers["data"]]


def test_a_missing_wandb_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_wandb(name: str, package: str | None = None) -> object:
        return None if name == "wandb" else real(name, package)

    monkeypatch.setattr(tracking, "find_spec", without_wandb)
    with pytest.raises(MaeBenchError, match=r"not installed: pip install 'mae-bench\[wandb\]'"):
        toy_run(tmp_path, wandb={"project": "mirror"})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- with a stand-in for wandb's run


class Started:
    """Notes how runs are begun and what they are told; `failing` is where it raises."""

    entity, project, url = "team", "mirror", "https://wandb.example/run"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.failing = failing
        self.begun: list[dict[str, Any]] = []
        self.told: list[tuple[Any, ...]] = []
        self.summary = self
        monkeypatch.setattr(tracking, "_start", self.start)
        monkeypatch.setattr(tracking, "_images", lambda files: {"pictures": list(files)})

    def start(self, **options: Any) -> Started:
        self.fail("start")
        self.begun.append(options)
        self.id = options["id"]
        return self

    def log(self, told: dict[str, Any], step: int | None = None) -> None:
        self.fail("log")
        self.told.append((step, told))

    def update(self, told: dict[str, Any]) -> None:
        self.fail("summary")
        self.told.append(("summary", told))

    def finish(self, exit_code: int) -> None:
        self.fail("finish")
        self.told.append(("finish", exit_code))

    def fail(self, where: str) -> None:
        if self.failing == where:
            raise RuntimeError("no\nnetwork")


class Drawing(Toy):
    def visualize(self, run: Any, images: list[str], count: int) -> list[str]:
        return [str(run.folder / "drawn.png")]


def carried_out(root: Path, adapter: Toy | None = None, mode: str = "online") -> Any:
    config = toy_config(train__steps=3, wandb={"project": "mirror", "mode": mode})
    adapter = (adapter or Drawing)(config) if not isinstance(adapter, Toy) else adapter
    run = toy_run(root, adapter)
    try:
        run.record(deviations=[])
        run.finish(fit(adapter, run))
    finally:
        run.close()
    return run


def test_everything_is_told_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Started(monkeypatch)
    run = carried_out(tmp_path)
    assert [told[0] for told in wandb.told] == [1, 2, 3, 3, "summary", None, "finish"]
    assert wandb.told[3][1].keys() == {"eval/mse"}
    summary = wandb.told[4][1]
    assert {
        "final/mse",
        "provenance/recipe_hash",
        "provenance/data",
        "provenance/version/torch",
    } <= summary.keys()
    assert summary[tracking.RESULT_KEY] == (run.folder / "result.json").read_text()
    assert wandb.told[5][1] == {"pictures": [str(run.folder / "drawn.png")]}
    assert wandb.told[6] == ("finish", 0)
    (begun,) = wandb.begun
    assert begun["config"]["train"]["steps"] == 3
    assert (begun["project"], begun["mode"], begun["resume"]) == ("mirror", "online", "allow")


def test_a_task_that_draws_nothing_sends_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Started(monkeypatch)
    carried_out(tmp_path, Toy(toy_config(train__steps=3, wandb={"project": "mirror"})))
    assert [told[0] for told in wandb.told] == [1, 2, 3, 3, "summary", "finish"]


def test_a_run_that_goes_on_goes_on_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Started(monkeypatch)
    config = toy_config(
        train__steps=6, train__save_every_steps=1, wandb={"project": "mirror", "mode": "online"}
    )
    stopped = Drawing(config)
    stopped.raised_at = 5
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path, stopped)
    assert wandb.told[-1] == ("finish", 1)
    (folder,) = tmp_path.glob("toy/*")
    told = json.loads((folder / "wandb.json").read_text())
    assert told == {"entity": "team", "project": "mirror", "id": wandb.id, "url": "https://wandb.example/run"}
    carried_out(tmp_path, Drawing(config))
    steps = [step for step, _ in wandb.told if isinstance(step, int)]
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3, 4, 5, 6}
    first, second = wandb.begun
    assert first["id"] == second["id"]
    assert wandb.told[-1] == ("finish", 0)


def test_without_a_server_nothing_is_asked_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Started(monkeypatch)
    run = carried_out(tmp_path, mode="offline")
    assert wandb.begun[0]["resume"] is None
    assert json.loads((run.folder / "wandb.json").read_text())["url"] is None


@pytest.mark.parametrize("failing", ["start", "log", "summary", "finish"])
def test_no_fault_of_wandb_is_one_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    Started(monkeypatch, failing)
    run = carried_out(tmp_path)
    assert parse_result("", (run.folder / "result.json").read_bytes()).metrics.keys() == {"mse"}
    assert (run.folder / "metrics.jsonl").read_text().count("\n") == 4
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("warning: ") == 1
    assert "wandb fails, so this run is mirrored no further: no network; nothing is lost" in told


def test_pictures_that_cannot_be_drawn_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Toy):
        def visualize(self, run: Any, images: list[str], count: int) -> list[str]:
            raise MaeBenchError("no eyes")

    wandb = Started(monkeypatch)
    carried_out(tmp_path, Broken(toy_config(train__steps=3, wandb={"project": "mirror"})))
    assert "no pictures for wandb: no eyes" in capsys.readouterr().err
    assert wandb.told[-1] == ("finish", 0)


def test_looking_at_a_run_again_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Started(monkeypatch)
    run = toy_run(tmp_path, wandb={"project": "mirror"})
    assert run.device is not None
    run.close()
    assert (wandb.begun, wandb.told) == ([], [])


# ---------------------------------------------------------------- tables of it


@pytest.mark.parametrize(
    ("per_class", "table"),
    [
        ({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 3.0}}, (["class", "x", "y"], [["a", 1.0, 2.0], ["b", None, 3.0]])),
        ([1, 2], None),
        ({"a": 1.0}, None),
    ],
)  # fmt: skip
def test_scores_of_classes_are_a_table(per_class: Any, table: Any) -> None:
    assert tracking.class_table(Result.model_validate(values(details={"per_class": per_class}))) == table


def test_a_table_that_cannot_be_sent_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Started(monkeypatch, "start")
    with pytest.raises(MaeBenchError, match="wandb did not take the table for team/tables: no network"):
        tracking.push_table(tables.make_table("mae-table3", tmp_path), "team/tables", folder=tmp_path)
