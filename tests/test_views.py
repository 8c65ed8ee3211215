"""Which part of a table is shown, and how: columns, rows, order, groups, differences, sampling error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mae_bench
from mae_bench import outcomes
from mae_bench.cli import app
from mae_bench.errors import MaeBenchError
from mae_bench.render import FORMATS
from mae_bench.resampling import interval
from mae_bench.results import scan
from mae_bench.tables import all_tables, arranging, build, make_table
from mae_bench.tables.cells import Table
from mae_bench.tables.layouts import load_layout
from mae_bench.tables.rows import Group
from mae_bench.tables.sizes import named_size, size_of
from mae_bench.tables.views import View, parse_where
from tests import rich_table
from tests.sample_runs import deviation, store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layout and the runs of `rich_table`."""
    folder = tmp_path_factory.mktemp("views")
    (folder / "rich.yaml").write_text(rich_table.LAYOUT)
    rich_table.filled(folder / "runs")
    return folder


def shown(place: Path, **view: Any) -> Table:
    return make_table(place / "rich.yaml", place / "runs", View(**view))


def labels(table: Table) -> list[str]:
    return [row.label for row in table.rows]


# ---------------------------------------------------------------- columns


def test_columns_by_key_or_label_in_the_order_wanted(place: Path) -> None:
    table = shown(place, select=["Error", "ft"])
    assert [column.key for column in table.columns] == ["err", "ft"]
    assert "Part of the table: 2 of 4 columns." in table.remarks


def test_rows_without_anything_in_the_columns_selected_are_left_out(place: Path) -> None:
    assert labels(shown(place, select=["err"])) == ["MAE", "MAE", "ours: mae"]


def test_an_unknown_column_answers_with_near_ones(place: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"--select: .*'rich' has no column 'Liner'; did you mean 'Linear'"
    ):
        shown(place, select=["Liner"])


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(("rows", "expected"), [("ours", 6), ("published", 4), ("all", 10)])
def test_whose_rows(place: Path, rows: str, expected: int) -> None:
    table = shown(place, rows=rows)
    assert len(table.rows) == expected
    assert any("Sources of the published rows" in text for text in table.remarks) is (rows != "ours")


OURS = ["ours: mae", "ours: mae, recipe aaaaaaaa", "ours: mae, recipe eeeeeeee", "ours: dino"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"backbone": "*.dino"}, ["ours: dino", "ours: dino, 12 epochs, batch 64"]),
        ({"backbone.spec": "*.dino"}, ["ours: dino", "ours: dino, 12 epochs, batch 64"]),
        ({"arch": "vit_large*"}, ["ours: mae_l"]),
        ({"seed": "9"}, ["ours: mae"]),
        ({"seed": ["1", "2"]}, ["ours: mae"]),
        ({"recipe_hash": "eeee"}, ["ours: mae"]),
        ({"recipe_hash": "a", "seed": "0", "backbone": "*.mae"}, ["ours: mae"]),
        ({"config.data.image_size": "224,224", "arch": "*large*"}, ["ours: mae_l"]),
        ({"epochs": "100", "arch": "*large*"}, ["ours: mae_l"]),
        ({"name": "dino*"}, ["ours: dino", "ours: dino, 12 epochs, batch 64"]),
        ({"engine": "none", "arch": "*large*"}, ["ours: mae_l"]),
        ({"engine": "mmdet"}, []),
        ({"dataset": "coco"}, []),
    ],
)
def test_conditions_on_runs(place: Path, where: Any, expected: list[str]) -> None:
    assert labels(shown(place, where=where, rows="ours")) == expected


def test_a_condition_on_runs_leaves_published_rows_alone(place: Path) -> None:
    table = shown(place, where={"backbone": "*.dino"})
    assert [row.label for row in table.rows if not row.ours] == ["MAE", "MAE", "Rumour", "Larger <pictures>"]
    assert "Part of the table: backbone *.dino." in table.remarks


def test_a_condition_on_words_of_the_table_holds_for_all_rows(place: Path) -> None:
    assert labels(shown(place, where={"data": "IN1K"})) == [
        "MAE", "MAE", "ours: dino", "ours: dino, 12 epochs, batch 64",
    ]  # fmt: skip
    assert labels(shown(place, where={"facts.backbone": "ViT-L"})) == ["MAE", "Larger <pictures>"]
    assert labels(shown(place, where={"name": "MAE"})) == ["MAE", "MAE"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("backbon", "--where backbon: no run of this table has it .*; did you mean 'backbone'"),
        ("facts.backbon", "did you mean 'facts.backbone'"),
        ("config.data.imagesize", "did you mean 'config.data.image_size'"),
        ("backbone.archs", "did you mean .*'backbone.arch'"),
    ],
)
def test_a_condition_on_nothing_is_refused(place: Path, path: str, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        shown(place, where={path: "x"})


def test_conditions_are_written_with_an_equals_sign() -> None:
    assert parse_where(["a=1", "b.c=x=y*", "a=2"]) == {"a": ["1", "2"], "b.c": ["x=y*"]}
    for faulty in ("a", "=x", "a="):
        with pytest.raises(MaeBenchError, match=f"--where {faulty}: should be PATH=PATTERN"):
            parse_where([faulty])


# ---------------------------------------------------------------- best and second among what is shown


def ranks(table: Table, column: str) -> list[tuple[str, int]]:
    return [(row.label, row.cells[column].rank) for row in table.rows if column in row.cells]


def test_ranks_are_among_the_rows_shown(place: Path) -> None:
    assert ranks(shown(place), "ft")[:2] == [("MAE", 0), ("MAE", 2)]
    table = shown(place, where={"backbone": "*.mae"})
    assert ranks(table, "ft") == [
        ("MAE", 2),
        ("MAE", 1),
        ("Rumour", 0),
        ("Larger <pictures>", 0),
        ("ours: mae, recipe aaaaaaaa", 2),
        ("ours: mae, recipe eeeeeeee", 0),
    ]
    assert table.ranking.startswith("Best of the rows shown of a column in bold")


def test_what_is_not_comparable_is_not_ranked_however_the_table_is_cut(place: Path) -> None:
    """A number that departs stays out even where it would be the best that is left."""
    for view in (
        {"where": {"seed": "9"}},
        {"where": {"name": ["Larger*", "Rumour", "MAE"]}},
        {"rows": "ours"},
    ):
        for row in shown(place, **view).rows:
            for cell in row.cells.values():
                assert not (cell.rank and (cell.departures or not cell.verified))


def test_runs_of_one_recipe_on_other_data_are_not_compared(tmp_path: Path) -> None:
    for name, top1, print_ in (("a", 60.0, "1"), ("b", 50.0, "1"), ("c", 70.0, "2")):
        backbone = {"spec": f"timm:{name}", "digest": name * 64}
        store(
            tmp_path,
            name,
            top1,
            task="imagenet-knn",
            recipe="demo/imagenet-knn",
            backbone=backbone,
            dataset={"fingerprint": print_ * 64},
        )
    assert dict(ranks(make_table("demo-transfer", tmp_path), "knn")) == {
        "timm:a": 1,
        "timm:b": 2,
        "timm:c": 0,
    }


# ---------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("ft", "Rumour", "ours: mae"),
        ("ft:asc", "ours: dino, 12 epochs, batch 64", "ours: mae"),
        ("Fine-tuned:desc", "Rumour", "ours: mae"),
        ("name", "Larger <pictures>", "Rumour"),
        ("name:desc", "Rumour", "Larger <pictures>"),
        ("data", "MAE", "ours: mae_l"),
    ],
)
def test_order_of_rows_with_empty_ones_last(place: Path, sort: str, first: str, last: str) -> None:
    sorted_ = labels(shown(place, sort=sort))
    assert (sorted_[0], sorted_[-1]) == (first, last)
    assert len(sorted_) == 10


def test_where_lower_is_better_the_lowest_comes_first(place: Path) -> None:
    values = [row.cells["err"].value for row in shown(place, sort="err").rows if "err" in row.cells]
    assert values == [41.8, 50.95, 51.7]


def test_a_faulty_order_is_refused(place: Path) -> None:
    with pytest.raises(MaeBenchError, match="behind the colon stands asc or desc, not 'up'"):
        shown(place, sort="ft:up")
    with pytest.raises(MaeBenchError, match="--sort: the table 'rich' has no column 'fine'"):
        shown(place, sort="fine")


# ---------------------------------------------------------------- groups


def groups(table: Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in table.rows:
        found.setdefault(str(row.group), []).append(row.label)
    return found


def test_groups_by_size_of_the_backbone(place: Path) -> None:
    found = groups(shown(place, group="size"))
    assert list(found) == ["Base", "Large"]
    assert found["Large"] == ["MAE", "Larger <pictures>", "ours: mae_l"]


def test_groups_by_words_whose_column_is_then_a_heading(place: Path) -> None:
    table = shown(place, group="Data")
    assert list(groups(table)) == ["IN1K", "not told"]
    assert [fact.key for fact in table.facts] == ["backbone"]


def test_order_holds_within_groups(place: Path) -> None:
    found = groups(shown(place, group="size", sort="ft"))
    assert list(found) == ["Base", "Large"]
    assert found["Large"] == ["Larger <pictures>", "ours: mae_l", "MAE"]


def test_an_unknown_group_answers_with_what_there_is(place: Path) -> None:
    with pytest.raises(
        MaeBenchError, match="can be grouped by size or backbone or data; did you mean 'size'"
    ):
        shown(place, group="sise")


def test_a_row_of_several_sizes_is_under_none(tmp_path: Path) -> None:
    store(tmp_path, "b", 83.0)
    store(tmp_path, "l", 85.0, backbone=rich_table.LARGE | {"spec": "timm:vit_large_patch16_224.mae"})
    table = make_table("mae-table3", tmp_path, View(group="size"))
    assert groups(table)["not told"][-1] == "ours: mae (timm)"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("ViT-B/16", "Base"),
        ("vit_large_patch16_224", "Large"),
        ("ViT-H448", "Huge"),
        ("Swin-L", "Large"),
        ("ViT-S and ViT-B", None),
        ("ResNet-50", None),
        ("data2vec", None),
    ],
)
def test_sizes_that_names_tell(text: str, size: str | None) -> None:
    assert named_size(text) == size


@pytest.mark.parametrize(
    ("params", "size"), [(5e6, "Tiny"), (25e6, "Small"), (89e6, "Base"), (1.1e9, "Giant")]
)
def test_sizes_by_the_number_of_weights(params: float, size: str) -> None:
    from mae_bench.results import BackboneRecord

    record = BackboneRecord(spec="x", arch="resnet50", digest="0", params=int(params))
    assert size_of(record) == size


# ---------------------------------------------------------------- differences


def test_differences_to_a_row(place: Path) -> None:
    table = shown(place, delta="MAE, ViT-B")
    deltas = {row.label: row.cells["ft"].delta for row in table.rows[1:] if "ft" in row.cells}
    assert deltas["MAE"] == pytest.approx(2.3)
    assert deltas["ours: dino"] == pytest.approx(80.04 - 83.6)
    assert all(cell.delta is None for cell in table.rows[0].cells.values())
    assert table.remarks[0] == "In parentheses with a sign: the difference to MAE, ViT-B, IN1K."


@pytest.mark.parametrize("label", ["mae_l", "ours: mae_l", "*_L", "mae_"])
def test_a_row_is_named_by_its_label_or_a_part_of_it(place: Path, label: str) -> None:
    assert "the difference to ours: mae_l, vit_large" in shown(place, delta=label).remarks[0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("mae, IN1K", "--delta mae, IN1K: 2 rows are called so .'MAE, ViT-B, IN1K'; 'MAE, ViT-L, IN1K'"),
        ("Rumor", "--delta Rumor: no row that is shown is called so; did you mean 'Rumour'"),
    ],
)
def test_no_row_or_several_to_compare_with(place: Path, label: str, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        shown(place, delta=label)


# ---------------------------------------------------------------- sampling error


def with_outcomes(root: Path, name: str, right: np.ndarray[Any, Any], **changes: Any) -> outcomes.Hits:
    hits = outcomes.Hits("s" * 64, {"top1": right})
    folder = store(root, name, 100 * float(right.mean()), **changes)
    outcomes.write(folder, {"": hits})
    return hits


def test_intervals_are_those_of_the_bootstrap_over_the_seeds_of_a_cell(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    config = {"task": "classification.finetune", "data": {"image_size": [224, 224]}}
    config["task"] = adapter_of_hits()
    hits = [
        with_outcomes(tmp_path / "runs", f"s{seed}", drawn.random(400) < 0.8, seed=seed, config=config)
        for seed in (0, 1)
    ]
    (tmp_path / "rich.yaml").write_text(rich_table.LAYOUT)
    table = make_table(tmp_path / "rich.yaml", tmp_path / "runs", View(intervals=True))
    cell = next(row for row in table.rows if row.ours).cells["ft"]
    assert cell.interval == interval(hits, "top1", level=arranging.LEVEL, resamples=arranging.RESAMPLES)
    assert "sampling error" in table.sampling
    assert "spread" in table.sampling
    assert "standard deviation over n seeds" in table.spread
    assert not any("Without a sampling error" in text for text in table.remarks)


def test_a_run_is_read_once_for_all_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read once is resampled once: AP of boxes and of masks come from the same evaluations."""
    hits = outcomes.Hits("same", {"top1": np.arange(10) < 7, "top5": np.arange(10) < 9})
    config = {"task": adapter_of_hits()}
    outcomes.write(store(tmp_path, "run", metrics=outcomes.own(hits), config=config), {"": hits})
    read, of_run = [], outcomes.of_run

    def counted(folder: Path, adapter: str) -> Any:
        read.append(folder)
        return of_run(folder, adapter)

    monkeypatch.setattr(outcomes, "of_run", counted)
    runs, intervals = tuple(scan(tmp_path).runs), arranging.Intervals()
    for metric in hits.metrics:
        assert intervals._ends(Group("a", metric, None, None, None, runs)) == interval([hits], metric)
    assert len(read) == 1


def adapter_of_hits() -> str:
    """The name of an adapter that saves right and wrong and nothing else."""
    from mae_bench.recipe import resolve

    return str(resolve("imagenet-finetune").config.task)


def test_runs_without_outcomes_are_named(place: Path) -> None:
    table = shown(place, intervals=True, where={"arch": "*large*"})
    assert table.remarks[-1] == (
        "Without a sampling error: large (no outcomes of single samples were saved for top1)."
    )
    assert table.sampling == ""


def test_a_damaged_file_of_outcomes_is_told_and_not_fatal(tmp_path: Path) -> None:
    folder = store(tmp_path / "runs", "run", 80.0, config={"task": adapter_of_hits()})
    (folder / outcomes.FILE).write_bytes(b"nothing")
    (tmp_path / "rich.yaml").write_text(rich_table.LAYOUT)
    table = make_table(tmp_path / "rich.yaml", tmp_path / "runs", View(intervals=True))
    assert table.remarks[-1].startswith("Without a sampling error: run (")
    assert outcomes.FILE in table.remarks[-1]


# ---------------------------------------------------------------- recipes


def test_runs_of_different_recipes_are_offered_as_a_choice(place: Path) -> None:
    told = [text for text in shown(place).remarks if "never averaged" in text]
    assert told == [
        "Runs of different recipes are never averaged and stand in rows of their own: mae by 2 recipes "
        "(aaaaaaaa, eeeeeeee), dino by 2 recipes (aaaaaaaa, bbbbbbbb); choose one with --where recipe_hash=aaaaaaaa."
    ]
    chosen = shown(place, where={"recipe_hash": "aaaaaaaa"})
    assert not any("never averaged" in text for text in chosen.remarks)
    assert [label for label in labels(chosen) if label.startswith("ours: mae")] == ["ours: mae"]


def test_how_a_number_was_chosen_is_compared(place: Path) -> None:
    cells = {cell.runs: cell for row in shown(place).rows for cell in row.cells.values()}
    assert cells["picked",].departures == (
        "how the number was chosen: best of all epochs (published last step)"
    )
    assert cells["dino",].departures == ""


def test_a_published_row_with_a_protocol_of_its_own_says_so(place: Path) -> None:
    row = shown(place).rows[3]
    assert row.cells["ft"].departures == (
        "by a protocol of its own: 50 epochs, image size 384 x 384, chosen as best of 3 seeds"
    )


# ---------------------------------------------------------------- all tables, and the command line


def test_all_tables_are_those_with_runs(tmp_path: Path) -> None:
    store(tmp_path, "run", 83.0)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "result.json").write_text("{")
    made = {table.id: table for table in all_tables(tmp_path)}
    assert "mae-table3" in made
    assert "mae-table4" not in made
    assert [len(table.problems) for table in made.values()] == [1] + [0] * (len(made) - 1)
    tree = scan(tmp_path)
    assert made["mae-table3"].rows == build(load_layout("mae-table3"), tree.runs).rows


def test_all_tables_as_published(tmp_path: Path) -> None:
    made = {table.id for table in all_tables(tmp_path, View(rows="published"))}
    assert {"mae-table3", "mae-table4", "mae-table9"} <= made
    assert "demo-transfer" not in made


def run_cli(place: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["table", *arguments, "--runs", str(place / "runs")])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_line_takes_all_options_at_once(place: Path) -> None:
    text = run_cli(
        place, str(place / "rich.yaml"), "--select", "err, ft", "--where", "backbone=*.mae", "--where", "seed=0",
        "--where", "seed=1", "--rows", "all", "--sort", "ft:asc", "--group", "size", "--delta", "MAE, ViT-B",
        "--format", "markdown",
    )  # fmt: skip
    assert "| **Base** " in text
    assert "83.5 ± 0.1 (n=2) (−0.1)" in text.replace("**", "").replace("<u>", "").replace("</u>", "")  # noqa: RUF001
    assert r"Part of the table: backbone \*.mae, seed 0 or 1, 2 of 4 columns." in text


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_written_as_its_ending_says(place: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"out/table{FORMATS[name].ending}"
    assert run_cli(place, str(place / "rich.yaml"), "--output", str(file)).strip() == str(file)
    expected = mae_bench.table(str(place / "rich.yaml"), runs_root=place / "runs", format=name)
    if name != "terminal":  # as wide as a page, not as the terminal
        assert file.read_text() == expected + "\n"


def test_all_tables_into_a_folder_or_one_file(place: Path, tmp_path: Path) -> None:
    run_cli(place, "--all", "--output", str(tmp_path / "many"), "--format", "latex")
    files = {path.name for path in (tmp_path / "many").iterdir()}
    assert "mae-table3.tex" in files
    run_cli(place, "--all", "-o", str(tmp_path / "one.html"))
    assert (tmp_path / "one.html").read_text().count("<table>") == len(files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mae-table3", "--output", "t.docx"], "t.docx: its ending says no format; known are .txt, .md"),
        (["mae-table3", "--all"], "--all is for all tables; it does not go with mae-table3"),
        (["--all", "--select", "ft"], "--select is for one table"),
        (["--all", "--group", "data"], "all tables can be grouped by size alone, not by 'data'"),
        (["mae-table3", "--where", "seed"], "--where seed: should be PATH=PATTERN"),
    ],
)
def test_bad_options_are_one_sentence(
    place: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["table", *arguments, "--runs", str(place / "runs")])
    assert done.exit_code != 0
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "t.docx").exists()


def test_no_run_for_any_table_says_what_would_show_something(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="with --rows published all tables are shown as published"):
        mae_bench.all_tables(runs_root=tmp_path)


def test_a_figure_takes_a_view_too(tmp_path: Path) -> None:
    common = {"task": "imagenet-partial", "recipe": "p", "protocol": "imagenet-partial-large"}
    for blocks in (1, 4):
        own = [deviation("blocks", 4.0, float(blocks))]
        config = {"blocks": float(blocks)}
        store(tmp_path / "runs", f"r{blocks}", 70.0 + blocks, config=config, deviations=own, **common)
    view = mae_bench.View(rows="published")
    drawn = mae_bench.figure("mae-fig9", tmp_path / "a.svg", runs_root=tmp_path / "runs", view=view)
    whole = mae_bench.figure("mae-fig9", tmp_path / "b.svg", runs_root=tmp_path / "runs")
    assert "ours: " not in Path(drawn).read_text()
    assert "ours: " in Path(whole).read_text()


def test_outcomes_of_another_run_give_no_interval(tmp_path: Path) -> None:
    folder = store(tmp_path / "runs", "run", 80.0, config={"task": adapter_of_hits()})
    outcomes.write(folder, {"": outcomes.Hits("s" * 64, {"top1": np.arange(10) < 4})})
    (tmp_path / "rich.yaml").write_text(rich_table.LAYOUT)
    table = make_table(tmp_path / "rich.yaml", tmp_path / "runs", View(intervals=True))
    assert all(cell.interval is None for row in table.rows for cell in row.cells.values())
    assert (
        "outcomes.npz gives top1 40 and result.json says 80, so they are not of one run" in table.remarks[-1]
    )
