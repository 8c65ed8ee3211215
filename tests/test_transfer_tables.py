"""The tables of transfer, robustness and few labels: the published numbers, and which of our runs they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench.tables import Cell, Row, make_table
from mae_bench.tables.layouts import load_layout
from tests.sample_runs import deviation, store

# ---------------------------------------------------------------- published numbers

# (row, backbone; empty where the table has no such column), then a value per column as printed; None: not there.
NUMBERS: dict[str, tuple[tuple[str, ...], list[tuple[str, str, tuple[float | None, ...]]]]] = {
    # He et al., arXiv:2111.06377, Table 6, turned round.
    "mae-table6": (
        ("inat17", "inat18", "inat19", "places205", "places365"),
        [
            ("MAE, ViT-B", "", (70.5, 75.4, 80.5, 63.9, 57.9)),
            ("MAE, ViT-L", "", (75.7, 80.1, 83.4, 65.8, 59.4)),
            ("MAE, ViT-H", "", (79.3, 83.0, 85.7, 65.9, 59.8)),
            ("MAE, ViT-H, 448 pixels", "", (83.4, 86.8, 88.3, 66.8, 60.3)),
            ("previous best", "", (75.4, 81.2, 84.1, 66.0, 58.0)),
        ],
    ),
    # He et al., arXiv:2111.06377, Table 13, turned round.
    "mae-table13": (
        ("in_c", "in_a", "in_r", "in_sketch"),
        [
            ("supervised, ViT-B", "", (45.8, 27.2, 49.4, 35.6)),
            ("supervised, ViT-L", "", (42.3, 29.6, 50.9, 37.5)),
            ("supervised, ViT-H", "", (41.3, 33.1, 50.3, 38.0)),
            ("MAE, ViT-B", "", (51.7, 35.9, 48.3, 34.5)),
            ("MAE, ViT-L", "", (41.8, 57.1, 59.9, 45.3)),
            ("MAE, ViT-H", "", (33.8, 68.2, 64.4, 49.6)),
            ("MAE, ViT-H, 448 pixels", "", (36.8, 76.7, 66.5, 50.9)),
            ("previous best", "", (42.5, 35.8, 48.7, 36.0)),
        ],
    ),
    # MAE Table 13; README of Siamese-Image-Modeling (1 - mCE there); README of EVA-02.
    "robustness-finetune": (
        ("in_c", "in_a", "in_r", "in_sketch"),
        [
            ("MAE", "ViT-B/16", (51.7, 35.9, 48.3, 34.5)),
            ("MoCo v3", "ViT-B/16", (44.6, 32.4, 49.8, 35.9)),
            ("SiameseIM", "ViT-B/16", (42.9, 43.8, 52.5, 38.3)),
            ("EVA-02", "ViT-B/14 448px", (None, 78.1, 76.8, 57.7)),
            ("EVA-02", "ViT-L/14 448px", (None, 87.7, 89.9, 70.1)),
        ],
    ),
    # DINOv2, arXiv:2304.07193, Table 6; notes that quote DINOv3.
    "robustness-linear": (
        ("in_c", "in_a", "in_r", "in_sketch"),
        [
            ("OpenCLIP", "ViT-G/14", (45.3, 63.8, 87.8, 66.4)),
            ("MAE", "ViT-H/14", (61.4, 10.2, 34.4, 21.9)),
            ("DINO", "ViT-B/8", (56.6, 23.9, 37.0, 25.5)),
            ("iBOT", "ViT-L/16", (43.9, 41.5, 51.0, 38.5)),
            ("DINOv2", "ViT-S/14", (54.4, 33.5, 53.7, 41.2)),
            ("DINOv2", "ViT-B/14", (42.7, 55.1, 63.3, 50.6)),
            ("DINOv2", "ViT-L/14", (31.5, 71.3, 74.4, 59.3)),
            ("DINOv2", "ViT-g/14", (28.2, 75.9, 78.8, 62.5)),
            ("DINOv3", "ViT-7B/16", (19.6, 86.9, 91.1, 71.3)),
            ("DINOv2 (measured by DINOv3)", "ViT-g/14", (24.1, 81.7, 81.1, 65.4)),
        ],
    ),
    # TinyMIM, Table 4.
    "robustness-tinymim": (
        ("in1k", "in_a", "in_r", "in_c"),
        [
            ("DeiT", "ViT-T", (72.2, 8.0, 32.7, 54.0)),
            ("MAE", "ViT-T", (71.8, 7.0, 36.5, 55.2)),
            ("TinyMIM", "ViT-T", (75.8, 11.0, 39.8, 50.1)),
            ("DeiT", "ViT-S", (79.9, 18.3, 42.3, 41.4)),
            ("MAE", "ViT-S", (80.6, 20.1, 45.6, 40.6)),
            ("TinyMIM", "ViT-S", (83.0, 27.5, 48.8, 35.8)),
            ("MAE", "ViT-B", (83.6, 33.6, 50.0, 37.8)),
            ("TinyMIM", "ViT-B", (85.0, 43.0, 54.6, 32.7)),
        ],
    ),
    # DINO Table 6, iBOT Table 7, MSN Table 5, MAE Table 6, Hiera Table 9.
    "transfer-finetune": (
        ("inat17", "inat18", "inat19", "places205", "places365"),
        [
            ("supervised", "ViT-S/16", (None, 70.7, 76.6, None, None)),
            ("DINO", "ViT-S/16", (None, 72.0, 78.2, None, None)),
            ("BEiT", "ViT-S/16", (None, 68.5, 76.5, None, None)),
            ("iBOT", "ViT-S/16", (None, 73.7, 78.5, None, None)),
            ("supervised", "ViT-B/16", (None, 73.2, 77.7, None, None)),
            ("BEiT", "ViT-B/16", (None, 72.3, 79.2, None, None)),
            ("DINO", "ViT-B/16", (None, 72.6, 78.6, None, None)),
            ("iBOT", "ViT-B/16", (None, 74.6, 79.6, None, None)),
            ("MSN", "ViT-B/16", (None, 72.1, 78.1, None, None)),
            ("MAE", "ViT-B/16", (70.5, 75.4, 80.5, 63.9, 57.9)),
            ("MAE", "ViT-L/16", (75.7, 80.1, 83.4, 65.8, 59.4)),
            ("MAE", "ViT-H/14", (79.3, 83.0, 85.7, 65.9, 59.8)),
            ("MAE", "ViT-H/14 448px", (83.4, 86.8, 88.3, 66.8, 60.3)),
            ("Hiera (MAE)", "Hiera-B", (73.3, 77.9, 83.0, None, 58.9)),
            ("Hiera (MAE)", "Hiera-B+", (74.7, 79.9, 83.1, None, 59.2)),
            ("Hiera (MAE)", "Hiera-L", (76.8, 80.9, 84.3, None, 59.6)),
            ("Hiera (MAE)", "Hiera-H", (79.6, 83.5, 85.7, None, 60.0)),
            ("Hiera (MAE)", "Hiera-H 448px", (83.8, 87.3, 88.5, None, 60.6)),
        ],
    ),
    # I-JEPA, arXiv:2301.08243, Tables 3 and 5; DINOv2, arXiv:2304.07193, Table 7.
    "transfer-linear": (
        ("inat18", "inat21", "places205"),
        [
            ("data2vec", "ViT-L/16", (28.1, None, 54.6)),
            ("MAE", "ViT-H/14", (32.9, None, 55.0)),
            ("I-JEPA", "ViT-H/14", (47.6, None, 58.4)),
            ("DINO", "ViT-B/8", (55.9, None, 57.9)),
            ("iBOT", "ViT-L/16", (57.3, None, 60.4)),
            ("I-JEPA", "ViT-H/14", (50.5, None, 57.8)),
            ("I-JEPA", "ViT-G/16", (55.3, None, 59.1)),
            ("OpenCLIP", "ViT-G/14", (73.0, 76.0, 69.8)),
            ("MAE", "ViT-H/14", (31.0, 32.3, 52.4)),
            ("DINO", "ViT-B/8", (59.6, 68.3, 60.4)),
            ("iBOT", "ViT-L/16", (66.3, 74.6, 64.4)),
            ("DINOv2", "ViT-S/14", (69.0, 74.2, 62.9)),
            ("DINOv2", "ViT-B/14", (76.4, 81.1, 66.2)),
            ("DINOv2", "ViT-L/14", (80.4, 85.1, 67.3)),
            ("DINOv2", "ViT-g/14", (81.6, 85.7, 67.5)),
        ],
    ),
    # I-JEPA Table 2, README of Siamese-Image-Modeling; MSN, arXiv:2204.07141, Table 1.
    "lowshot": (
        ("i1", "i2", "i5", "pct1", "pct10"),
        [
            ("data2vec", "ViT-L/16", (None, None, None, 73.3, None)),
            ("MAE", "ViT-L/16", (None, None, None, 67.1, None)),
            ("MAE", "ViT-H/14", (None, None, None, 71.5, None)),
            ("I-JEPA", "ViT-L/16", (None, None, None, 69.4, None)),
            ("I-JEPA", "ViT-H/14", (None, None, None, 73.3, None)),
            ("I-JEPA", "ViT-H/16 448px", (None, None, None, 77.3, None)),
            ("iBOT", "ViT-B/16", (None, None, None, 69.7, None)),
            ("DINO", "ViT-B/8", (None, None, None, 70.0, None)),
            ("MSN", "ViT-B/4", (None, None, None, 75.7, None)),
            ("MoCo v3", "ViT-B/16", (None, None, None, 63.4, None)),
            ("MAE", "ViT-B/16", (None, None, None, 51.1, None)),
            ("SiameseIM", "ViT-B/16", (None, None, None, 65.1, None)),
            ("iBOT", "ViT-B/16", (46.1, 56.2, 64.7, None, None)),
            ("DINO", "ViT-B/16", (41.8, 51.9, 61.4, None, None)),
            ("MAE", "ViT-B/16", (8.2, 25.0, 40.5, None, None)),
            ("MAE", "ViT-L/16", (12.3, 19.3, 42.3, None, None)),
            ("MAE", "ViT-H/14", (11.6, 18.6, 32.8, None, None)),
            ("MSN", "ViT-B/16", (49.8, 58.9, 65.5, None, None)),
            ("MSN", "ViT-L/7", (57.1, 66.4, 72.1, None, None)),
        ],
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_published_numbers(name: str) -> None:
    columns, expected = NUMBERS[name]
    layout = load_layout(name)
    assert tuple(column.key for column in layout.columns) == columns
    found = [
        (row.name, row.facts.get("backbone", ""), tuple(row.values.get(key) for key in columns))
        for row in layout.published
    ]
    assert found == expected
    assert all(row.verified for row in layout.published)


def test_only_errors_are_better_when_lower() -> None:
    for name in (*NUMBERS, "demo-more"):
        lower = {column.key for column in load_layout(name).columns if column.better == "lower"}
        assert lower <= {"in_c", "in_c_error"}
        assert lower or not any(column.key.startswith("in_c") for column in load_layout(name).columns)


def test_an_error_on_another_scale_stands_in_no_table_of_mce() -> None:
    for name in NUMBERS:
        label = next((c.label for c in load_layout(name).columns if c.key == "in_c"), None)
        assert label in (None, "IN-C (own evaluation)" if name == "robustness-tinymim" else "IN-C mCE")
    assert load_layout("robustness-tinymim").ours == []


# ---------------------------------------------------------------- our runs

LARGE = {"spec": "timm:vit_large_patch16_224.mae", "arch": "vit_large_patch16_224", "digest": "1" * 64}
HUGE = {"spec": "timm:vit_huge_patch14_224.mae", "arch": "vit_huge_patch14_224", "digest": "2" * 64}
SMALL = {"spec": "timm:vit_small_patch16_224.dino", "arch": "vit_small_patch16_224", "digest": "3" * 64}
BASE = "ours: timm:vit_base_patch16_224.mae"
SUBSET = [deviation("data.subset.fraction", None, 0.01), deviation("data.subset.seed", None, 0)]


def ours(name: str, root: Path) -> dict[str, Row]:
    return {row.label: row for row in make_table(name, root).rows if row.ours}


def only_cell(rows: dict[str, Row]) -> Cell:
    (row,) = rows.values()
    (cell,) = row.cells.values()
    return cell


def transfer(root: Path, recipe: str, top1: float, dataset: str, **changes: Any) -> None:
    """A finished run of a recipe that is its own protocol."""
    given = {"recipe": recipe, "protocol": recipe, "dataset": {"name": dataset}, **changes}
    store(root, f"{recipe}-{len(list(root.glob('*')))}", top1, **given)


def test_table6_has_a_row_for_each_backbone(tmp_path: Path) -> None:
    transfer(tmp_path, "inat18", 75.5, "inat-2018")
    transfer(tmp_path, "places365", 58.1, "places365")
    transfer(tmp_path, "inat18-large", 80.0, "inat-2018", backbone=LARGE)
    transfer(tmp_path, "inat18-huge", 83.1, "inat-2018", backbone=HUGE)
    at_448 = {"data": {"image_size": [448, 448]}}
    transfer(tmp_path, "inat18-huge-448", 86.5, "inat-2018", backbone=HUGE, config=at_448)
    rows = ours("mae-table6", tmp_path)
    found = {label: {key: cell.value for key, cell in row.cells.items()} for label, row in rows.items()}
    assert found == {
        "ours: timm:vit_huge_patch14_224.mae": {"inat18": 83.1},
        "ours: timm:vit_huge_patch14_224.mae, 448 pixels": {"inat18": 86.5},
        "ours: timm:vit_large_patch16_224.mae": {"inat18": 80.0},
        BASE: {"inat18": 75.5, "places365": 58.1},
    }
    assert not any(cell.departures for row in rows.values() for cell in row.cells.values())


@pytest.mark.parametrize(
    ("recipe", "backbone", "words"),
    [
        ("inat18", LARGE, "by the protocol of inat18, not of inat18-large"),
        ("imagenet-finetune", {}, "by the protocol of imagenet-finetune, not of inat18"),
        ("inat18", SMALL, ""),
    ],
)
def test_table6_says_when_another_recipe_was_run(
    recipe: str, backbone: dict[str, str], words: str, tmp_path: Path
) -> None:
    transfer(tmp_path, recipe, 70.0, "inat-2018", backbone=backbone)
    assert only_cell(ours("mae-table6", tmp_path)).departures == words


@pytest.mark.parametrize("name", ["mae-table3", "mae-fig9", "demo-transfer"])
def test_tables_of_other_data_take_no_runs_on_inaturalist(name: str, tmp_path: Path) -> None:
    for task in ("finetune", "partial"):
        transfer(tmp_path, "inat18", 75.5, "inat-2018", task=f"imagenet-{task}")
    transfer(tmp_path, "demo/inat18-finetune", 75.5, "generated-inat")
    built = make_table(name, tmp_path)
    assert not any(row.ours for row in built.rows)
    assert not any("Not shown" in text for text in built.remarks)


def test_table3_says_that_a_run_saw_a_hundredth_of_the_images(tmp_path: Path) -> None:
    few = [*SUBSET, deviation("train.batch", 1024, 256)]
    store(tmp_path, "few", 51.0, recipe="imagenet-finetune-1pct", deviations=few, recipe_hash="b" * 64)
    store(tmp_path, "all", 83.6)
    rows = ours("mae-table3", tmp_path)
    assert rows["ours: mae (timm)"].cells["vit_b"].departures == ""
    few_row = rows["ours: mae (timm), 1 % of the training images, batch 256"]
    assert few_row.cells["vit_b"].departures == "1 % of the training images, batch 256 of 1024"
    assert few_row.cells["vit_b"].rank == 0


def robust(root: Path, folder: str, metrics: dict[str, float], **changes: Any) -> None:
    """A finished run of imagenet-robustness on the classifier of a finished run of imagenet-finetune."""
    classifier = {"recipe": "imagenet-finetune", "protocol": "imagenet-finetune", "dataset": "imagenet-1k"}
    details = {"classifier": {**classifier, "task": "imagenet-finetune", **changes.pop("classifier", {})}}
    for key, value in changes.pop("sets", {}).items():
        details["sets"] = {key: value}
    given: dict[str, Any] = {
        "task": "imagenet-robustness",
        "recipe": "imagenet-robustness",
        "protocol": "imagenet-robustness",
        "dataset": {"name": "imagenet-robustness", "train_images": 0},
        "details": details,
        "units": {},
        "epochs": None,
        "batch": None,
    }
    store(root, folder, metrics=metrics, **{**given, **changes})


ALL_FOUR = {
    "in_c_mce": 50.0,
    "in_c_error": 40.0,
    "in_a_top1": 36.0,
    "in_r_top1": 49.0,
    "in_sketch_top1": 35.0,
}
NOT_FOR_ITS_SIZE = "the classifier was not trained by a recipe of the paper for its size"
WHOLE = "a whole classifier, as it was given; how it was trained is not recorded"
MADE_HERE = "the corruptions were made here, not those of the published files"


def test_table13_takes_each_metric_into_its_column(tmp_path: Path) -> None:
    robust(tmp_path, "run", ALL_FOUR)
    row = ours("mae-table13", tmp_path)[BASE]
    assert {key: cell.value for key, cell in row.cells.items()} == {
        "in_c": 50.0,
        "in_a": 36.0,
        "in_r": 49.0,
        "in_sketch": 35.0,
    }
    assert {cell.departures for cell in row.cells.values()} == {""}
    # Of 33.8 (ViT-H) and 36.8 (448) the lower is better, and 50.0 is neither first nor second.
    ranks = {built.label: built.cells["in_c"].rank for built in make_table("mae-table13", tmp_path).rows}
    assert [label for label, rank in ranks.items() if rank] == ["MAE, ViT-H", "MAE, ViT-H, 448 pixels"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classifier": {"protocol": "imagenet-finetune-large"}}, NOT_FOR_ITS_SIZE),
        ({"backbone": LARGE}, NOT_FOR_ITS_SIZE),
        ({"backbone": SMALL}, NOT_FOR_ITS_SIZE),
        ({"backbone": LARGE, "classifier": {"protocol": "imagenet-finetune-large"}}, ""),
        ({"backbone": HUGE, "classifier": {"protocol": "imagenet-finetune-huge-448"}}, ""),
        ({"classifier": {"protocol": "mine"}}, NOT_FOR_ITS_SIZE),
        ({"deviations": [deviation("train.epochs", 100.0, 12.0)]}, "12 of 100 epochs"),
        ({"recipe": "imagenet-a", "protocol": "imagenet-a"}, ""),
        (
            {"classifier": {"protocol": None, "task": None, "dataset": None, "whole": "timm:deit"}},
            WHOLE,
        ),
    ],
)
def test_table13_says_how_the_classifier_came_about(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    robust(tmp_path, "run", {"in_a_top1": 36.0}, **changes)
    assert only_cell(ours("mae-table13", tmp_path)).departures == words


def test_corruptions_made_here_are_not_compared_and_leave_the_other_sets_alone(tmp_path: Path) -> None:
    robust(tmp_path, "run", ALL_FOUR, sets={"c": {"made_locally": "corruptions made locally by x"}})
    row = ours("mae-table13", tmp_path)[BASE]
    assert {key: cell.departures for key, cell in row.cells.items()} == {
        "in_c": MADE_HERE,
        "in_a": "",
        "in_r": "",
        "in_sketch": "",
    }
    assert row.cells["in_c"].rank == 0
    cell = ours("robustness-finetune", tmp_path)[BASE].cells["in_c"]
    assert cell.departures.endswith(f"; {MADE_HERE}")


@pytest.mark.parametrize(
    ("classifier", "table"),
    [
        ({"task": "imagenet-linear", "recipe": "imagenet-linear"}, "robustness-linear"),
        ({"task": "imagenet-finetune"}, "robustness-finetune"),
    ],
)
def test_robustness_goes_to_the_table_of_its_classifier(
    classifier: dict[str, str], table: str, tmp_path: Path
) -> None:
    robust(tmp_path, "run", ALL_FOUR, classifier=classifier)
    recipe = classifier.get("recipe", "imagenet-finetune")
    for name in ("robustness-linear", "robustness-finetune"):
        rows = ours(name, tmp_path)
        assert list(rows) == ([BASE] if name == table else [])
    assert ours(table, tmp_path)[BASE].cells["in_c"].departures == (
        f"recipe imagenet-robustness, classifier of {recipe}"
    )


def test_classifiers_of_two_recipes_are_two_rows(tmp_path: Path) -> None:
    robust(tmp_path, "a", ALL_FOUR)
    other = {"recipe": "mine", "protocol": "mine"}
    robust(tmp_path, "b", ALL_FOUR, classifier=other, recipe_hash="b" * 64)
    assert sorted(ours("robustness-finetune", tmp_path)) == [
        f"{BASE}, imagenet-robustness, classifier of imagenet-finetune",
        f"{BASE}, imagenet-robustness, classifier of mine",
    ]


def test_departures_from_two_protocols_are_not_set_against_each_other(tmp_path: Path) -> None:
    # Most runs of the column have 10 epochs; ViT-L has the 50 of its own protocol, not the 100 of theirs.
    short = {"deviations": [deviation("train.epochs", 100.0, 10.0)], "recipe_hash": "b" * 64}
    transfer(tmp_path, "inat18", 60.0, "inat-2018", **short)
    transfer(tmp_path, "inat18", 50.0, "inat-2018", backbone=SMALL, **short)
    transfer(tmp_path, "inat18-large", 80.0, "inat-2018", backbone=LARGE)
    labels = [f"ours: timm:vit_{size}_patch16_224" for size in ("base", "large", "small")]
    assert sorted(ours("transfer-finetune", tmp_path)) == [
        f"{labels[0]}.mae",
        f"{labels[1]}.mae",
        f"{labels[2]}.dino",
    ]


def test_classifiers_of_two_tasks_are_told_apart_by_their_recipes(tmp_path: Path) -> None:
    demo = {"recipe": "demo/imagenet-robustness", "protocol": "imagenet-robustness"}
    for task, rate in (("finetune", 2e-3), ("linear", 1e-3)):
        classifier = {
            "recipe": f"demo/imagenet-{task}",
            "protocol": f"imagenet-{task}",
            "task": f"imagenet-{task}",
        }
        departures = [deviation(f"of.{task}", 1.0, 2.0), deviation("optim.lr", None, rate)]
        digest = task[0] * 64
        robust(
            tmp_path, task, ALL_FOUR, classifier=classifier, deviations=departures, recipe_hash=digest, **demo
        )
    assert list(ours("demo-more", tmp_path)) == [
        f"{BASE.removeprefix('ours: ')}, demo/imagenet-robustness, classifier of demo/imagenet-{task}"
        for task in ("finetune", "linear")
    ]


def test_a_classifier_of_another_dataset_is_not_shown(tmp_path: Path) -> None:
    robust(tmp_path, "run", ALL_FOUR, classifier={"dataset": "generated-shapes"})
    for name in ("mae-table13", "robustness-finetune", "robustness-linear"):
        assert ours(name, tmp_path) == {}


def few(root: Path, task: str, subset: dict[str, Any], top1: float, recipe: str, more: list[Any]) -> None:
    found = [deviation(f"data.subset.{key}", None, value) for key, value in subset.items()]
    count = len(list(root.glob("*")))
    store(
        root,
        f"{recipe}-{count}",
        top1,
        task=task,
        recipe=recipe,
        protocol=task,
        recipe_hash=f"{count:064d}",
        finished=f"2026-01-{count + 2:02d}T00:00:00+00:00",
        deviations=[*found, *more],
        dataset={"train_images": 12811},
        config={"data": {"subset": subset, "image_size": [224, 224]}},
    )


def test_few_labels_of_each_kind_have_their_column_and_each_task_its_row(tmp_path: Path) -> None:
    tuned, linear = [deviation("train.batch", 1024, 256)], [deviation("holdout", None, 0.1)]
    for subset, top1 in (({"fraction": 0.01, "seed": 0}, 51.0), ({"per_class": 5, "seed": 0}, 40.0)):
        few(tmp_path, "imagenet-finetune", subset, top1, "imagenet-finetune-1pct", tuned)
        few(tmp_path, "imagenet-linear", subset, top1 - 10, "imagenet-linear-1pct", linear)
    few(tmp_path, "imagenet-finetune", {"fraction": 0.1, "seed": 0}, 70.0, "imagenet-finetune-10pct", [])
    store(tmp_path, "whole", 83.6)  # all images: not a run of this table's columns
    rows = ours("lowshot", tmp_path)
    assert {label: {k: cell.value for k, cell in row.cells.items()} for label, row in rows.items()} == {
        f"{BASE}, fine-tuned": {"pct1": 51.0, "i5": 40.0, "pct10": 70.0},
        f"{BASE}, linear": {"pct1": 41.0, "i5": 30.0},
    }
    assert rows[f"{BASE}, fine-tuned"].cells["pct1"].departures == (
        "recipe imagenet-finetune-1pct (3 settings depart from imagenet-finetune): 100 epochs, batch 1024, "
        "12811 training images of ImageNet-1K"
    )


def test_published_lists_are_told_from_the_draw(tmp_path: Path) -> None:
    draw, listed = {"fraction": 0.01, "seed": 0}, {"list": "1percent.txt", "seed": 0}
    few(tmp_path, "imagenet-finetune", listed, 52.0, "imagenet-finetune-1pct", [])
    few(tmp_path, "imagenet-finetune", draw, 51.0, "imagenet-finetune-1pct", [])
    rows = ours("lowshot", tmp_path)
    assert {label: row.cells["pct1"].value for label, row in rows.items()} == {
        f"{BASE}, fine-tuned": 51.0,
        f"{BASE}, fine-tuned, the training images of the list 1percent.txt": 52.0,
    }


def test_transfer_tables_take_runs_by_their_data(tmp_path: Path) -> None:
    transfer(tmp_path, "inat18", 75.5, "inat-2018")
    transfer(tmp_path, "places205-linear", 40.0, "places205", task="imagenet-linear")
    (row,) = ours("transfer-finetune", tmp_path).values()
    assert {key: cell.value for key, cell in row.cells.items()} == {"inat18": 75.5}
    (row,) = ours("transfer-linear", tmp_path).values()
    assert {key: cell.value for key, cell in row.cells.items()} == {"places205": 40.0}
    assert row.facts["protocol"] == "places205-linear"


def test_the_demo_has_its_own_tables(tmp_path: Path) -> None:
    demo = {"backbone": {"spec": "run:runs/demo/mae", "digest": "5" * 64}}
    for recipe, task, data in (
        ("inat18-finetune", "finetune", "generated-inat"),
        ("imagenet-finetune-5shot", "finetune", "generated-shapes"),
        ("imagenet-finetune", "finetune", "generated-shapes"),
        ("places365-linear", "linear", "generated-places"),
        ("places365-knn", "knn", "generated-places"),
    ):
        common = {"task": f"imagenet-{task}", "protocol": "real", "dataset": {"name": data}}
        store(tmp_path, recipe, 50.0, recipe=f"demo/{recipe}", **common, **demo)
    of_demo = {"recipe": "demo/imagenet-finetune", "dataset": "generated-shapes"}
    robust(tmp_path, "r", ALL_FOUR, recipe="demo/imagenet-robustness", classifier=of_demo, **demo)
    (row,) = make_table("demo-more", tmp_path).rows
    assert row.label == "MAE (run:demo/mae)"
    assert set(row.cells) == {column.key for column in load_layout("demo-more").columns}
    assert row.cells["in_c_error"].value == 40.0
    (row,) = make_table("demo-transfer", tmp_path).rows
    assert row.cells.keys() == {"finetune"}
    assert row.cells["finetune"].runs == ("imagenet-finetune",)
