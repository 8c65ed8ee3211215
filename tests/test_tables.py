"""Tables: what goes into which cell, what is said about it, and how it looks in every format."""

# ruff: noqa: RUF001  (the expected tables show en dashes where nothing is)

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mae_bench import resources
from mae_bench.errors import MaeBenchError
from mae_bench.render import render
from mae_bench.render.csv import COLUMNS as CSV_COLUMNS
from mae_bench.results import scan
from mae_bench.tables import Row, Table, build, make_table, render_table
from mae_bench.tables.layouts import list_tables, load_layout
from tests.sample_runs import deviation, store

LAYOUT = """\
id: small
title: A small table
caption: Top-1 (%).
columns:
- {key: b, label: ViT-B}
- {key: l, label: ViT-L}
sources:
  paper: "A paper, Table 1"
  memory: memory
published:
- {name: MAE, values: {b: 83.6, l: 85.95}, source: [paper], verified: true, note: 1600 epochs}
- {name: Rumour, values: {b: 99.9}, source: [memory], verified: false}
rows: name
names:
- {where: {backbone.spec: "timm:*.*"}, name: "{tag}"}
ours:
- {task: imagenet-finetune, metric: top1, column: b, where: {backbone.arch: "*_base_*"}}
- {task: imagenet-finetune, metric: top1, column: l, where: {backbone.arch: "*_large_*"}}
"""
LARGE = {"spec": "timm:vit_large_patch16_224.mae", "arch": "vit_large_patch16_224", "digest": "1" * 64}
SHORT: dict[str, Any] = {
    "recipe_hash": "b" * 64,
    "deviations": [deviation("train.batch", 1024, 64), deviation("train.epochs", 100, 12)],
}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(LAYOUT)
    return path


def table(layout: Path, root: Path) -> Table:
    return build(load_layout(layout), scan(root).runs)


def ours(built: Table) -> dict[str, Row]:
    return {row.label: row for row in built.rows if row.ours}


def filled(root: Path) -> Path:
    """Three seeds of ViT-B, one short run, one ViT-L."""
    for seed, top1 in enumerate([83.4, 83.6, 83.9]):
        store(root, f"base-{seed}", top1, seed=seed)
    store(root, "short", 80.04, **SHORT)
    store(root, "large", 86.1, backbone=LARGE, recipe_hash="c" * 64)
    return root


# ---------------------------------------------------------------- what goes into a cell


def test_seeds_make_mean_and_sample_standard_deviation(layout: Path, tmp_path: Path) -> None:
    cell = ours(table(layout, filled(tmp_path / "runs")))["ours: mae"].cells["b"]
    assert cell.value == pytest.approx((83.4 + 83.6 + 83.9) / 3)
    assert cell.std == pytest.approx(0.2516611478)
    assert (cell.n, cell.runs) == (3, ("base-0", "base-1", "base-2"))


def test_a_single_run_has_no_spread(layout: Path, tmp_path: Path) -> None:
    cell = ours(table(layout, filled(tmp_path / "runs")))["ours: mae"].cells["l"]
    assert (cell.value, cell.std, cell.n) == (86.1, None, 1)


def test_a_seed_run_again_counts_once_and_the_table_says_so(layout: Path, tmp_path: Path) -> None:
    store(tmp_path / "runs", "early", 10.0, finished="2026-01-02T00:00:00+00:00")
    store(tmp_path / "runs", "late", 83.0, finished="2026-01-03T00:00:00+00:00")
    built = table(layout, tmp_path / "runs")
    cell = ours(built)["ours: mae"].cells["b"]
    assert (cell.value, cell.n, cell.runs) == (83.0, 1, ("late",))
    assert "Where a seed was run again the latest run counts; not counted: early." in built.remarks


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (SHORT, ["ours: mae", "ours: mae, 12 epochs, batch 64"]),
        ({"recipe_hash": "b" * 64}, ["ours: mae, recipe aaaaaaaa", "ours: mae, recipe bbbbbbbb"]),
        (
            {"recipe_hash": "b" * 64, "recipe": "mine"},
            ["ours: mae, imagenet-finetune", "ours: mae, mine"],
        ),
        (
            {"backbone": {"digest": "2" * 64}},
            ["ours: mae, weights 22222222", "ours: mae, weights dddddddd"],
        ),
        (
            {"backbone": {"digest": "2" * 64, "spec": "timm:deit_base_patch16_224.mae"}},
            ["ours: mae, timm:deit_base_patch16_224.mae", "ours: mae, timm:vit_base_patch16_224.mae"],
        ),
        (
            {"recipe_hash": "a" * 63 + "b"},
            [f"ours: mae, recipe {'a' * 64}", f"ours: mae, recipe {'a' * 63}b"],
        ),
        ({"dataset": {"fingerprint": "3" * 64}}, ["ours: mae, data 33333333", "ours: mae, data ffffffff"]),
    ],
)
def test_runs_that_differ_in_more_than_their_seed_never_share_a_cell(
    layout: Path, tmp_path: Path, change: dict[str, Any], names: list[str]
) -> None:
    store(tmp_path / "runs", "one", 83.0)
    store(tmp_path / "runs", "two", 70.0, seed=1, **change)
    rows = ours(table(layout, tmp_path / "runs"))
    assert list(rows) == names
    assert all(row.cells["b"].n == 1 for row in rows.values())


def test_random_weights_of_different_seeds_are_one_backbone(layout: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        backbone = {"spec": "random:vit_base_patch16_224", "digest": str(seed) * 64}
        store(tmp_path / "runs", f"run-{seed}", 50.0 + seed, seed=seed, backbone=backbone)
    rows = ours(table(layout, tmp_path / "runs"))
    assert list(rows) == ["ours: random:vit_base_patch16_224"]
    assert rows["ours: random:vit_base_patch16_224"].cells["b"].n == 2


def test_runs_without_a_column_are_named_and_foreign_tasks_are_not(layout: Path, tmp_path: Path) -> None:
    store(tmp_path / "runs", "tiny", backbone={"arch": "vit_tiny_patch16_224"})
    store(tmp_path / "runs", "knn", task="imagenet-knn")
    built = table(layout, tmp_path / "runs")
    assert ours(built) == {}
    assert "Not shown, for want of a column: tiny." in built.remarks


def test_only_runs_of_the_table_are_looked_at(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT + 'runs: {recipe: "demo/*"}\n')
    store(tmp_path / "runs", "real", 83.0)
    store(tmp_path / "runs", "demo", 60.0, recipe="demo/imagenet-finetune")
    built = table(layout, tmp_path / "runs")
    assert [row.cells["b"].runs for row in ours(built).values()] == [("demo",)]
    assert not any("Not shown" in text for text in built.remarks)


def test_two_sets_of_weights_with_one_name_are_two_rows(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT.replace("rows: name\n", "rows: weights\n"))
    for digest, folder in (("1", "a/one"), ("2", "b/one")):
        backbone = {"digest": digest * 64, "spec": f"timm:vit_base_patch{digest}_224.mae"}
        store(tmp_path / "runs", folder, 83.0, backbone=backbone)
    assert list(ours(table(layout, tmp_path / "runs"))) == [
        "ours: mae, timm:vit_base_patch1_224.mae",
        "ours: mae, timm:vit_base_patch2_224.mae",
    ]


# ---------------------------------------------------------------- what is said about a cell


def test_departures_are_marked_and_explained(layout: Path, tmp_path: Path) -> None:
    built = table(layout, filled(tmp_path / "runs"))
    assert built.footnotes == ["1600 epochs.", "12 of 100 epochs, batch 64 of 1024."]
    assert [row.marks for row in built.rows] == [(1,), (), (), ()]
    rows = ours(built)
    assert rows["ours: mae, 12 epochs, batch 64"].cells["b"].marks == (2,)
    assert rows["ours: mae"].cells["b"].marks == ()


def test_another_dataset_is_named(layout: Path, tmp_path: Path) -> None:
    changed = [deviation("data.name", "imagenet-1k", "generated/shapes")]
    store(tmp_path / "runs", "run", 50.0, deviations=changed)
    built = table(layout, tmp_path / "runs")
    assert built.footnotes[-1] == "on generated/shapes, not ImageNet-1K."
    assert list(ours(built)) == ["ours: mae, on generated/shapes"]


def test_another_protocol_than_the_columns_is_named(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT.replace("column: l,", "column: l, protocol: imagenet-finetune-large,"))
    store(tmp_path / "runs", "run", 85.0, backbone=LARGE)
    built = table(layout, tmp_path / "runs")
    assert built.footnotes[-1] == "by the protocol of imagenet-finetune, not of imagenet-finetune-large."


@pytest.mark.parametrize("comparison", ["protocol", "recipe"])
def test_a_rule_can_say_why_its_runs_are_not_comparable(
    layout: Path, tmp_path: Path, comparison: str
) -> None:
    first = '- {task: imagenet-finetune, metric: top1, column: b, where: {engine: odd}, caveat: "odd engine"}'
    layout.write_text(LAYOUT.replace("ours:\n", f"ours:\n{first}\n") + f"comparison: {comparison}\n")
    store(tmp_path / "runs", "odd", 90.0, engine="odd")
    store(tmp_path / "runs", "even", 83.0, recipe_hash="b" * 64, recipe="even")
    rows = ours(table(layout, tmp_path / "runs"))
    cells = {cell.runs[0]: cell for row in rows.values() for cell in row.cells.values()}
    assert cells["odd"].departures.split("; ")[-1] == "odd engine"
    assert "odd engine" not in cells["even"].departures
    assert cells["odd"].rank == 0


def test_the_notes_of_the_recipes_stand_below_the_table(layout: Path, tmp_path: Path) -> None:
    store(tmp_path / "runs", "a", 83.0, notes=["Erasing as in the release."])
    store(tmp_path / "runs", "b", 85.0, notes=["Erasing as in the release."], backbone=LARGE, recipe="large")
    assert "imagenet-finetune, large: Erasing as in the release." in table(layout, tmp_path / "runs").remarks


def ranks(built: Table, column: str) -> dict[str, int]:
    return {row.label: row.cells[column].rank for row in built.rows if column in row.cells}


def test_best_and_second_among_what_can_be_compared(layout: Path, tmp_path: Path) -> None:
    store(tmp_path / "runs", "short", 95.0, **SHORT)
    store(tmp_path / "runs", "full", 83.4)
    built = table(layout, tmp_path / "runs")
    # Neither the unverified 99.9 nor the short run's 95.0 is comparable.
    assert ranks(built, "b") == {
        "MAE": 1,
        "Rumour": 0,
        "ours: mae": 2,
        "ours: mae, 12 epochs, batch 64": 0,
    }
    assert ranks(built, "l") == {"MAE": 0}, "a single number is not the best of anything"


def test_numbers_that_read_the_same_tie(layout: Path, tmp_path: Path) -> None:
    store(tmp_path / "runs", "full", 83.62)
    assert ranks(table(layout, tmp_path / "runs"), "b") == {"MAE": 1, "Rumour": 0, "ours: mae": 1}


def test_lower_is_better_where_the_column_says_so(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT.replace("label: ViT-B}", "label: ViT-B, better: lower}"))
    store(tmp_path / "runs", "full", 83.4)
    assert ranks(table(layout, tmp_path / "runs"), "b") == {"MAE": 2, "Rumour": 0, "ours: mae": 1}
    layout.write_text(LAYOUT.replace("label: ViT-B}", "label: ViT-B, better: null}"))
    assert set(ranks(table(layout, tmp_path / "runs"), "b").values()) == {0}


def test_without_anything_published_runs_of_one_recipe_are_compared(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT.replace("b: 83.6, ", ""))
    store(tmp_path / "runs", "a", 60.0, **SHORT)
    store(tmp_path / "runs", "b", 50.0, **SHORT, backbone={"spec": "timm:vit_base_patch16_224.dino"})
    store(tmp_path / "runs", "c", 70.0, recipe_hash="e" * 64, deviations=[deviation("train.epochs", 100, 50)])
    assert ranks(table(layout, tmp_path / "runs"), "b") == {
        "Rumour": 0,
        "ours: mae, 12 epochs, batch 64": 1,
        "ours: dino, 12 epochs, batch 64": 2,
        "ours: mae, 50 epochs": 0,
    }


def test_a_footnote_of_a_whole_column_stands_in_its_head(layout: Path, tmp_path: Path) -> None:
    layout.write_text(LAYOUT.replace("b: 83.6, ", "").replace("b: 99.9", ""))
    for name, tag in (("a", "mae"), ("b", "dino")):
        backbone = {"spec": f"timm:vit_base_patch16_224.{tag}"}
        store(tmp_path / "runs", name, 60.0, **SHORT, backbone=backbone)
    built = table(layout, tmp_path / "runs")
    assert built.column_marks == {"b": (1,)}
    assert all(row.cells["b"].marks == () for row in ours(built).values())


def test_damaged_runs_are_named_and_do_not_stop_the_table(
    layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path / "runs")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "result.json").write_text('{"schema": 1,')
    assert len(make_table(layout, tmp_path / "runs").problems) == 1
    assert "86.1" in render_table(layout, tmp_path / "runs", "markdown")
    assert "half/result.json is damaged" in "".join(capsys.readouterr().err.split("\n"))


# ---------------------------------------------------------------- renderings


def test_a_terminal_shows_bold_and_underline_and_explains_them(layout: Path, tmp_path: Path) -> None:
    root = filled(tmp_path / "runs")
    text = render_table(layout, root, "terminal", width=200, color=True)
    assert "\x1b[1m86.1\x1b[0m" in text
    assert "\x1b[4m85.95\x1b[0m" in text
    assert "Best of a column in bold" in text
    plain = render_table(layout, root, "terminal", width=200, color=False)
    assert "\x1b" not in plain
    assert "bold" not in plain


def test_csv_is_read_by_pandas_in_one_line(layout: Path, tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.read_csv(io.StringIO(render_table(layout, filled(tmp_path / "runs"), "csv")))
    assert tuple(frame.columns) == CSV_COLUMNS
    assert frame.set_index(["row", "column"])["value"]["ours: mae", "ViT-L"] == 86.1


def test_an_empty_table_says_what_would_fill_it(layout: Path, tmp_path: Path) -> None:
    start, end = LAYOUT.index("published:"), LAYOUT.index("rows: name")
    layout.write_text(LAYOUT[:start] + LAYOUT[end:])
    built = table(layout, tmp_path / "runs")
    assert built.rows == []
    assert list(built.remarks) == ["No finished run fits this table yet; it shows runs of imagenet-finetune."]
    for format in ("terminal", "markdown", "latex", "csv"):
        assert render(built, format, color=False)


def test_unknown_formats_are_refused_with_the_near_one(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="no table format 'markdwn'; did you mean 'markdown'"):
        render_table(layout, tmp_path, "markdwn")


NASTY = r"a_b|c*d\e{f}$g%h#i&j<k>`l`^m~n[o]"


def nasty(layout: Path, root: Path) -> Path:
    layout.write_text(LAYOUT.replace("name: MAE", f"name: '{NASTY}'"))
    store(root, "run", 83.0, backbone={"spec": f"other:{NASTY} 漢"})
    return root


def test_names_are_escaped_in_markdown(layout: Path, tmp_path: Path) -> None:
    text = render_table(layout, nasty(layout, tmp_path / "runs"), "markdown")
    assert r"| a\_b\|c\*d\\e{f}$g%h#i&amp;j&lt;k&gt;\`l\`^m\~n\[o\]<sup>1</sup> " in text


def test_names_stand_unchanged_in_terminal_and_csv(layout: Path, tmp_path: Path) -> None:
    root = nasty(layout, tmp_path / "runs")
    assert NASTY in render_table(layout, root, "terminal", width=200, color=False)
    rows = list(csv.DictReader(io.StringIO(render_table(layout, root, "csv"))))
    assert rows[0]["row"] == NASTY


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX is installed")
@pytest.mark.parametrize("standing", ["alone", "included"])
def test_latex_compiles(layout: Path, tmp_path: Path, standing: str) -> None:
    nasty(layout, filled(tmp_path / "runs"))
    (tmp_path / "table.tex").write_text(render_table(layout, tmp_path / "runs", "latex"))
    if standing == "included":
        (tmp_path / "paper.tex").write_text(
            "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
            "before\\input{table}\\input{table}after\\end{document}\n"
        )
    file = "table.tex" if standing == "alone" else "paper.tex"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / file).with_suffix(".pdf").stat().st_size > 1000


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: A small table\n", "", "title: missing"),
        ("title: A small", "titel: x\ntitle: A small", "titel: unknown key"),
        ("b: 83.6", "b: high", r"published\.0 \(MAE\): 'high' in 'b' is no number"),
        ("b: 83.6", "b: [1]", r"published\.0\.values"),
        ("b: 83.6", "base: 83.6", r"published\.0 \(MAE\): no column 'base'"),
        ("source: [paper]", "source: [papr]", r"no source 'papr'; did you mean 'paper'"),
        ("source: [paper]", "source: []", r"published\.0\.source"),
        ("verified: true, ", "", r"published\.0\.verified: missing"),
        ("{key: l, label", "{key: b, label", "the key 'b' stands twice"),
        ("column: b, where", "column: c, where", "no column 'c'"),
        ("column: b, where", "where", "give exactly one of column and axis"),
        ("column: b, where", "axis: blocks, where", "'b' needs an x for the axis"),
    ],
)
def test_a_faulty_layout_is_one_sentence_with_its_path(
    layout: Path, old: str, new: str, message: str
) -> None:
    assert old in LAYOUT
    layout.write_text(LAYOUT.replace(old, new, 1))
    with pytest.raises(MaeBenchError, match=message) as caught:
        load_layout(layout)
    assert "small.yaml" in str(caught.value)


def test_unknown_tables_answer_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="no table 'mae-tabel3'; did you mean 'mae-table3'"):
        load_layout("mae-tabel3")
    with pytest.raises(MaeBenchError, match="no such table layout"):
        load_layout(tmp_path / "missing.yaml")


def test_every_shipped_layout_is_listed_and_loads() -> None:
    listed = list_tables()
    assert {"mae-table3", "mae-fig9", "demo-transfer", "small-scale-cifar10"} <= set(listed)
    for name, title in listed.items():
        loaded = load_layout(name)
        assert (loaded.id, loaded.title) == (name, title)
        used = {key for row in loaded.published for key in row.source}
        assert used == set(loaded.sources), f"{name}: every source belongs to a row"


def test_protocols_that_layouts_name_are_recipes() -> None:
    recipes = resources.recipes("tasks")
    for name in list_tables():
        named = {rule.protocol for rule in load_layout(name).ours if rule.protocol is not None}
        assert named <= set(recipes), name


# ---------------------------------------------------------------- shipped tables

TABLE3 = """\
MAE Table 3: end-to-end fine-tuning on ImageNet-1K
Top-1 accuracy (%) on the validation set.

 Method                        Pretraining data   ViT-B      ViT-L      ViT-H   ViT-H448
 ───────────────────────────────────────────────────────────────────────────────────────
 scratch (MAE paper) [1]       –                   82.3       82.6       83.1          –
 DINO                          IN1K                82.8          –          –          –
 MoCo v3                       IN1K                83.2       84.1          –          –
 BEiT                          IN1K+DALLE          83.2       85.2          –          –
 MAE [2]                       IN1K                83.6       85.9       86.9       87.8

 ours: mae (timm)              –                   83.6   85.8 [3]   86.8 [4]   87.5 [5]
 ours: run:mae/s0              generated            9.5          –          –          –
 ours: random initialisation   –                   81.0          –          –          –
 ours: scratch                 –                   82.2          –          –          –

[1] Supervised, 300 epochs (ViT-B) or 200 (ViT-L, ViT-H), with averaged weights.
[2] Pretrained for 1600 epochs on normalised pixels.
[3] by the protocol of imagenet-finetune, not of imagenet-finetune-large.
[4] by the protocol of imagenet-finetune, not of imagenet-finetune-huge.
[5] by the protocol of imagenet-finetune, not of imagenet-finetune-huge-448.
The authors' PyTorch release reports 83.664, 85.952 and 86.928 for its ViT-B, ViT-L and ViT-H
checkpoints, and 83.57 ± 0.08 (ViT-B) and 85.87 ± 0.07 (ViT-L) over four seeds of fine-tuning
(facebookresearch/mae, FINETUNE.md).
Sources of the published rows: He et al., arXiv:2111.06377, Table 3."""


def test_mae_table3(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    store(root, "a", 83.6)
    store(root, "b", 85.8, backbone=LARGE)
    huge = {"spec": "timm:vit_huge_patch14_224.mae", "arch": "vit_huge_patch14_224", "digest": "3" * 64}
    store(root, "c", 86.8, backbone=huge)
    store(root, "d", 87.5, backbone=huge, config={"data": {"image_size": [448, 448]}})
    store(root, "e", 9.5, backbone={"spec": "run:runs/mae/s0", "pretraining": {"dataset": "generated"}})
    untrained = {"spec": "random:vit_base_patch16_224"}
    store(root, "f", 81.0, backbone=untrained)
    scratch = {"task": "imagenet-scratch", "recipe": "imagenet-scratch", "protocol": "imagenet-scratch"}
    store(root, "g", 82.2, backbone=untrained, **scratch)
    assert render_table("mae-table3", root, "terminal", width=100, color=False) == TABLE3


def test_demo_transfer_compares_within_a_recipe(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    data = {"name": "generated/shapes", "train_images": 2000}
    for task, hash_, pretrained, untrained in (("knn", "1", 19.7, 13.4), ("finetune", "2", 48.5, 40.5)):
        common = {
            "task": f"imagenet-{task}",
            "recipe": f"demo/imagenet-{task}",
            "protocol": f"imagenet-{task}",
            "recipe_hash": hash_ * 64,
            "deviations": [deviation("data.name", "imagenet-1k", "generated/shapes")],
            "dataset": data,
            "epochs": None if task == "knn" else 10.0,
            "batch": None if task == "knn" else 64,
        }
        store(
            root,
            f"{task}/mae",
            pretrained,
            **common,
            backbone={"spec": "run:runs/demo/mae", "digest": "5" * 64},
        )
        for seed in (0, 1):
            backbone = {"spec": "random:vit_demo", "digest": str(seed) * 64}
            store(root, f"{task}/random-{seed}", untrained + seed, seed=seed, backbone=backbone, **common)
    built = make_table("demo-transfer", root)
    assert {row.label: {key: cell.rank for key, cell in row.cells.items()} for row in built.rows} == {
        "MAE (run:demo/mae)": {"knn": 1, "finetune": 1},
        "ViT, random initialisation": {"knn": 2, "finetune": 2},
    }
    assert built.column_marks == {"knn": (1,), "finetune": (2,)}
    assert list(built.footnotes) == [
        "recipe demo/imagenet-knn (1 setting departs from imagenet-knn): 2000 training images of generated/shapes.",
        "recipe demo/imagenet-finetune (1 setting departs from imagenet-finetune): 10 epochs, batch 64, 2000 training "
        "images of generated/shapes.",
    ]
    assert built.ranking == "Best of a column in bold, second underlined, among our runs of the same recipe."


def test_demo_runs_with_other_settings_get_their_own_row(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    here = [deviation("data.name", "imagenet-1k", "generated/shapes")]
    common = {"task": "imagenet-linear", "recipe": "demo/imagenet-linear", "protocol": "imagenet-linear"}
    store(root, "usual-0", 30.0, **common, deviations=here)
    store(root, "usual-1", 31.0, **common, deviations=here, backbone={"digest": "1" * 64, "spec": "timm:x"})
    more = [*here, deviation("train.epochs", 90, 3)]
    store(root, "short", 20.0, **common, deviations=more, recipe_hash="b" * 64)
    assert [row.label for row in make_table("demo-transfer", root).rows] == [
        "timm:vit_base_patch16_224.mae",
        "timm:vit_base_patch16_224.mae, 3 epochs",
        "timm:x",
    ]


def test_small_scale_table_names_the_recipe_of_our_runs(tmp_path: Path) -> None:
    store(
        tmp_path / "runs",
        "run",
        88.124,
        recipe="cifar10-finetune",
        protocol="cifar10-finetune",
        dataset={"name": "cifar-10", "train_images": 50000},
        backbone={"spec": "run:runs/cifar10/s0", "pretraining": {"epochs": 400.0}},
    )
    built = make_table("small-scale-cifar10", tmp_path / "runs")
    row = built.rows[-1]
    assert (row.label, dict(row.facts)) == ("ours: run:cifar10/s0", {"epochs": "400"})
    assert f"{row.cells['finetune'].value:.2f}" == "88.12"
    assert row.cells["finetune"].departures == (
        "recipe cifar10-finetune: 100 epochs, batch 1024, 50000 training images of CIFAR-10"
    )
    assert built.ranking == "", "recipes differ from row to row, so nothing is best"
