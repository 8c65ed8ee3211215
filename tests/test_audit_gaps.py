"""Empty cells of tables, and the commands that would fill them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mae_bench import cli, recipe, runlist, settings, yamlfile
from mae_bench.results import BackboneRecord, scan
from mae_bench.tables import layouts
from mae_bench.tables.rows import our_rows
from mae_bench.tracing import candidates
from mae_bench.tracing.findings import Gap
from mae_bench.tracing.gaps import GapFinder, seed_hints
from tests.recorded_runs import BASE, finished

LARGE = candidates.record("timm:vit_large_patch16_224.mae", "vit_large_patch16_224").model_copy(
    update={"digest": "e" * 64}
)
SMALL = candidates.record("run:runs/mine", "vit_small_patch16_224").model_copy(update={"digest": "a" * 64})
RANDOM = candidates.record("random:vit_base_patch16_224", "vit_base_patch16_224")


def gaps(root: Path, table: str, option: str | None = None) -> dict[tuple[str, str], Gap]:
    layout = layouts.load_layout(table)
    runs = scan(root).runs
    found = GapFinder(layout, our_rows(layout, runs).rows, runs, option).gaps()
    return {(gap.row, gap.column): gap for gap in found}


def run_of(task: str, backbone: str, *overrides: str) -> str:
    return shlex.join(["mae-bench", "run", "--task", task, "--backbone", backbone, "--seed", "0", *overrides])


def test_sizes_of_a_named_backbone_have_their_recipes_and_weights(tmp_path: Path) -> None:
    finished(tmp_path, "imagenet-finetune")
    found = gaps(tmp_path, "mae-table3")
    assert {column: gap.command for (_, column), gap in found.items()} == {
        "vit_l": run_of("imagenet-finetune-large", LARGE.spec),
        "vit_h": run_of("imagenet-finetune-huge", "timm:vit_huge_patch14_224.mae"),
        "vit_h448": run_of("imagenet-finetune-huge-448", "timm:vit_huge_patch14_224.mae"),
    }
    (entry,) = found["mae (timm)", "vit_l"].entries
    assert (entry.task, entry.seed, entry.overrides) == ("imagenet-finetune-large", 0, [])
    assert entry.reason == "empty cell of mae-table3: mae (timm), vit_l"


def test_an_untrained_backbone_comes_in_every_size(tmp_path: Path) -> None:
    finished(tmp_path, "imagenet-scratch", like=RANDOM)
    found = gaps(tmp_path, "mae-table3")
    assert found["scratch", "vit_l"].command == run_of(
        "imagenet-scratch-large", "random:vit_large_patch16_224"
    )


def test_a_backbone_of_ones_own_in_another_size_is_not_known(tmp_path: Path) -> None:
    own = BASE.model_copy(update={"spec": "run:runs/mine"})
    finished(tmp_path, "imagenet-finetune", like=own)
    gap = gaps(tmp_path, "mae-table3")["run:runs/mine", "vit_l"]
    assert (gap.command, gap.entries) == ("", ())
    assert gap.why == (
        "it needs a backbone *_large_patch16* of the same name: "
        "mae-bench run --task imagenet-finetune-large --backbone ... --seed 0"
    )


@pytest.mark.parametrize(
    ("like", "have", "column", "task"),
    [
        (BASE, "inat18", "places365", "places365"),
        (LARGE, "inat18-large", "places365", "places365-large"),
        (SMALL, "inat18", "inat19", "inat19"),
    ],
)
def test_the_recipe_is_for_the_backbones_size(
    tmp_path: Path, like: BackboneRecord, have: str, column: str, task: str
) -> None:
    finished(tmp_path, have, like=like)
    found = {key: gap for (_, key), gap in gaps(tmp_path, "mae-table6").items()}
    assert found[column].command == run_of(task, like.spec)
    assert have.partition("-")[0] not in found


def test_a_row_that_departs_is_filled_by_departing_alike(tmp_path: Path) -> None:
    finished(tmp_path, "inat18")
    finished(tmp_path, "inat18", ["train.epochs=12"])
    found = gaps(tmp_path, "mae-table6")
    rows = {row for row, _ in found}
    assert len(rows) == 2
    (departing,) = [row for row in rows if row.endswith("12 epochs")]
    assert found[departing, "inat19"].command == run_of("inat19", BASE.spec, "train.epochs=12.0")


def test_an_axis_is_an_override(tmp_path: Path) -> None:
    finished(tmp_path, "imagenet-partial-large", ["blocks=4"], like=LARGE)
    found = {column: gap for (_, column), gap in gaps(tmp_path, "mae-fig9").items()}
    assert "b4" not in found
    assert found["b12"].command == run_of("imagenet-partial-large", LARGE.spec, "blocks=12")
    assert found["b05"].command == run_of("imagenet-partial-large", LARGE.spec, "blocks=0.5")


def test_a_column_that_asks_for_a_setting_gets_it(tmp_path: Path) -> None:
    finished(tmp_path, "imagenet-linear-1pct")
    found = {column: gap for (_, column), gap in gaps(tmp_path, "lowshot").items()}
    assert "--task imagenet-linear-10pct " in found["pct10"].command
    assert found["i5"].command.endswith("data.subset.per_class=5") or "another row" in found["i5"].why


def test_recipes_of_a_tables_own_are_the_ones_that_are_named(tmp_path: Path) -> None:
    finished(tmp_path, "demo/imagenet-knn", like=SMALL)
    found = {column: gap for (_, column), gap in gaps(tmp_path, "demo-transfer").items()}
    assert found["linear"].command == run_of("demo/imagenet-linear", SMALL.spec)
    assert found["finetune"].command == run_of("demo/imagenet-finetune", SMALL.spec)
    assert found["scratch"].why == "its task trains from scratch and takes random:ARCH alone"


def test_robustness_takes_the_classifier_that_is_there(tmp_path: Path) -> None:
    finished(tmp_path, "demo/inat18-finetune", like=SMALL)
    classifier = finished(tmp_path, "demo/imagenet-finetune", like=SMALL)
    gap = next(gap for (_, column), gap in gaps(tmp_path, "demo-more").items() if column == "in_a")
    assert gap.command == run_of("demo/imagenet-robustness", f"run:{classifier}")
    (entry,) = gap.entries
    assert entry.backbone == f"run:{classifier}"


def test_robustness_without_a_classifier_names_what_comes_first(tmp_path: Path) -> None:
    finished(tmp_path, "demo/inat18-finetune", like=SMALL)
    gap = next(gap for (_, column), gap in gaps(tmp_path, "demo-more").items() if column == "in_a")
    first, second = gap.entries
    assert (first.task, first.backbone) == ("demo/imagenet-finetune", SMALL.spec)
    assert (second.task, second.after) == ("demo/imagenet-robustness", "demo/imagenet-finetune")
    assert gap.command == (
        f"{run_of('demo/imagenet-finetune', SMALL.spec)}; then, with its folder as RUN: "
        f"{run_of('demo/imagenet-robustness', 'RUN')}"
    )
    path = runlist.write(tmp_path / "due.yaml", gap.entries, "due")
    assert runlist.read(path).entries == [first, second]


def test_the_runs_folder_stands_in_the_command_if_it_was_given(tmp_path: Path) -> None:
    finished(tmp_path, "inat18")
    found = gaps(tmp_path, "mae-table6", "my runs")
    assert " --runs 'my runs'" in next(iter(found.values())).command


def test_a_column_that_nothing_can_fill_says_so(tmp_path: Path) -> None:
    layout = tmp_path / "own.yaml"
    layout.write_text(
        "id: own\ntitle: own\ncolumns:\n- {key: a, label: a}\n- {key: b, label: b}\n- {key: c, label: c}\n"
        "ours:\n- {task: imagenet-knn, column: a}\n- {task: no-such-task, column: b}\n"
    )
    finished(tmp_path / "runs", "imagenet-knn")
    found = gaps(tmp_path / "runs", str(layout))
    # Column c has no rule: it is of published rows alone.
    assert {column: (gap.command, gap.why) for (_, column), gap in found.items()} == {
        "b": ("", "no recipe of configs/tasks puts this row's backbone there")
    }


def test_what_is_named_fills_the_cells(tmp_path: Path) -> None:
    """Carry out, as made-up results, what is named for a table with one run: no cell is empty then."""
    finished(tmp_path, "inat18")
    for gap in gaps(tmp_path, "mae-table6").values():
        (entry,) = gap.entries
        assert entry.task is not None
        finished(tmp_path, entry.task, entry.overrides, seed=entry.seed or 0)
    assert gaps(tmp_path, "mae-table6") == {}


def test_seeds_that_some_cells_have(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        finished(tmp_path, "imagenet-finetune", seed=seed)
    finished(tmp_path, "imagenet-finetune-large", like=LARGE, folder="large")
    layout = layouts.load_layout("mae-table3")
    assert seed_hints(our_rows(layout, scan(tmp_path).runs).rows) == [
        "mae (timm), vit_l: one seed, where others have up to 3 (--seeds 3 with the command of large)"
    ]


def test_a_task_that_draws_nothing_needs_no_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        finished(tmp_path, "demo/imagenet-finetune", seed=seed)
    finished(tmp_path, "demo/imagenet-knn")
    layout = layouts.load_layout("demo-transfer")
    assert seed_hints(our_rows(layout, scan(tmp_path).runs).rows) == []


def test_the_command_line_writes_a_list_that_a_suite_takes(tmp_path: Path) -> None:
    runs, due = tmp_path / "runs", tmp_path / "due.yaml"
    finished(runs, "demo/imagenet-knn", like=RANDOM)
    answer = CliRunner().invoke(
        cli.app, ["table", "demo-transfer", "--audit", "--runs", str(runs), "--save", str(due)]
    )
    assert answer.exit_code == 0, answer.output
    assert [entry.task for entry in runlist.read(due).entries] == [
        "demo/imagenet-linear",
        "demo/imagenet-partial",
        "demo/imagenet-finetune",
        "demo/imagenet-scratch",
    ]
    planned = CliRunner().invoke(cli.app, ["suite", str(due), "--runs", str(runs), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.splitlines()[-1] == "4 runs, 4 to do"


def test_an_unfinished_run_goes_on_by_its_command(tmp_path: Path) -> None:
    """The settings that the audit names are those of the folder, so that the same run goes on."""
    from mae_bench.roots import Roots
    from mae_bench.tracing.audit import audit

    config = recipe.resolve("demo/imagenet-knn", [], {"backbone": RANDOM.spec}).config
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "config.yaml").write_text(yamlfile.dump(settings.plain(config)))
    ((line,),) = [
        table.unfinished for table in audit(["demo-transfer"], Roots(tmp_path / "no", tmp_path)).tables
    ]
    words = shlex.split(line.partition(": ")[2])
    again = recipe.resolve(words[words.index("--task") + 1]).config
    assert settings.identity_hash(again) == settings.identity_hash(config)
    assert words[words.index("--name") + 1] == "begun"
