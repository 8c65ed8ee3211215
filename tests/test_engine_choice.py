"""Which engine trains: `--engine`, what is said of one that is missing, what the record and tables say of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mae_bench
from mae_bench import recipe, registry, screen
from mae_bench.departures import settings as words
from mae_bench.errors import MaeBenchError
from mae_bench.registry import ADAPTER_GROUP
from mae_bench.results import read_result
from tests.plugins import Site

TASKS = """
    from mae_bench.adapter import Adapter, Metric
    from mae_bench.errors import MaeBenchError
    from mae_bench.settings import TaskConfig

    class Plain(Adapter[TaskConfig]):
        task, Config, needs_backbone = "toy", TaskConfig, False
        engine = "plain"
        metrics = {"score": Metric()}
        def run(self, run):
            return {"score": 1.0}

    class Fancy(Plain):
        engine = "fancy"

    class Broken(Plain):
        engine = "broken"
        def ready(self):
            raise MaeBenchError("broken cannot be imported: install it again")
"""
TABLE = """
    M = "engines_pack.tasks:"
    TASKS = {
        "toys.plain": M + "Plain",
        "toys.fancy": M + "Fancy",
        "toys.broken": M + "Broken",
        "toys.absent": M + "Fancy [absent] + nowhere_x (git clone somewhere)",
    }
"""
EXTRAS = ["Provides-Extra: absent", 'Requires-Dist: absent-pack>=2; extra == "absent"']


@pytest.fixture(autouse=True)
def _engines(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.module("engines_pack.tasks", TASKS)
    site.module("engines_pack.table", TABLE)
    site.distribution("engines-pack", {ADAPTER_GROUP: {"engines": "engines_pack.table:TASKS"}}, EXTRAS)
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text("# A toy.\ntask: toys.plain\n", encoding="utf-8")


def refusal(engine: str, task: str = "toy.yaml") -> str:
    with pytest.raises(MaeBenchError) as caught:
        mae_bench.run(task, engine=engine, runs_root="runs")
    return str(caught.value)


def test_the_engine_takes_the_place_of_the_recipes_own() -> None:
    resolved = recipe.resolve("toy.yaml", engine="fancy")
    assert (resolved.config.task, resolved.adapter_class.engine) == ("toys.fancy", "fancy")
    assert str(resolved.origins["task"]) == "--engine"
    assert recipe.resolve("toy.yaml").config.task == "toys.plain"


def test_each_engine_has_a_run_of_its_own_and_the_result_names_it() -> None:
    own = mae_bench.run("toy.yaml", runs_root="runs")
    other = mae_bench.run("toy.yaml", engine="fancy", runs_root="runs")
    assert (own.engine, other.engine) == ("plain", "fancy")
    assert own.recipe_hash != other.recipe_hash
    assert own.folder is not None
    assert other.folder is not None
    assert own.folder != other.folder
    assert read_result(Path(other.folder) / "result.json").engine == "fancy"
    # What stands in the folder repeats the run with its engine.
    assert recipe.resolve(str(Path(other.folder) / "config.yaml")).config.task == "toys.fancy"


def test_an_unknown_engine_is_told_which_there_are() -> None:
    assert refusal("fanci") == (
        "--engine fanci: toy can be trained by absent, broken, fancy, plain; did you mean 'fancy'?"
    )


def test_a_missing_engine_is_one_sentence_and_leaves_no_folder() -> None:
    assert refusal("absent") == (
        "task: the adapter 'toys.absent' needs absent-pack>=2, nowhere_x, not installed here: "
        'pip install "engines-pack[absent]", then git clone somewhere (--engine)'
    )
    assert not Path("runs").exists()


def test_a_broken_engine_stops_before_any_work() -> None:
    assert refusal("broken") == "broken cannot be imported: install it again"
    assert not Path("runs").exists()


def test_another_engine_is_the_way_out_where_the_recipes_own_is_missing() -> None:
    Path("absent.yaml").write_text("# A toy.\ntask: toys.absent\n", encoding="utf-8")
    assert recipe.resolve("absent.yaml", engine="plain").config.task == "toys.plain"


def test_a_package_that_no_index_has_is_looked_for(site: Site) -> None:
    entry = registry.adapters().entry("toys.absent")
    # A folder without modules, such as the checkout that holds the package, is none.
    (site.folder / "nowhere_x").mkdir()
    assert entry.missing() == ["absent-pack>=2", "nowhere_x"]
    site.module("nowhere_x.__init__", "")
    registry.forget()
    assert entry.missing() == ["absent-pack>=2"]
    assert entry.install == 'pip install "engines-pack[absent]"'


def test_a_distribution_with_the_same_package_will_do(site: Site) -> None:
    needs = ["Provides-Extra: lite", 'Requires-Dist: mmcv-lite>=999; extra == "lite"']
    site.module("lite_table", "TASKS = {'lite': 'engines_pack.tasks:Fancy [lite]'}")
    site.distribution("lite-pack", {ADAPTER_GROUP: {"lite": "lite_table:TASKS"}}, needs)
    registry.forget()
    entry = registry.adapters().entry("lite")
    assert entry.missing() == ["mmcv-lite>=999"]
    folder = site.folder / "mmcv-999.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: mmcv\nVersion: 999.1\n", encoding="utf-8")
    registry.forget()
    assert entry.missing() == []


def test_rows_of_another_engine_say_so() -> None:
    assert words({"task": "detection.mmdet", "train.steps": 9}) == ["engine mmdet", "9 steps"]


def test_the_demo_takes_every_engine_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(screen, "warn", told.append)
    demo = import_module("mae_bench.demo")  # the package has a function of the same name
    monkeypatch.setattr(demo, "DENSE", ("toy.yaml",))
    made: list[tuple[Any, ...]] = demo._other_engines()
    assert made == [("toy.yaml", "broken"), ("toy.yaml", "fancy")]
    assert told == [
        "toy.yaml is not shown with --engine absent: task: the adapter 'toys.absent' needs absent-pack>=2, "
        'nowhere_x, not installed here: pip install "engines-pack[absent]", then git clone somewhere (--engine)'
    ]
