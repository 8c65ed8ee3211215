"""All tables: what was published, which of our runs they take, and that they can be written in every format."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from mae_bench import render, resources
from mae_bench.tables import build, make_table
from mae_bench.tables.cells import Table
from mae_bench.tables.layouts import Layout
from mae_bench.tables.layouts import load_layout as load
from mae_bench.tables.rows import our_rows
from tests.launch import ROOT
from tests.rule_runs import runs_for
from tests.sample_runs import store

TABLES = sorted(resources.tables())
load_layout = functools.cache(load)

# ---------------------------------------------------------------- published numbers

# Table -> published rows, numbers in them, rows that stand in no source that was read.
TOTALS = {
    "mae-table7": (3, 21, 0),
    "mae-table12": (9, 9, 0),
    "vitdet-table1": (4, 16, 0),
    "vitdet-table2": (17, 48, 0),
    "vitdet-table6": (10, 36, 0),
    "vitdet-zoo": (11, 55, 0),
    "vitdet-lvis": (19, 46, 0),
    "benchmarking-detection": (11, 32, 1),
    "benchmarking-detection-design": (7, 7, 0),
    "ssl-summary": (120, 321, 4),
    "frozen-transfer": (14, 73, 0),
    "segmentation-linear": (13, 20, 0),
    "attentive-probing": (18, 36, 0),
    "reproductions": (42, 57, 0),
    "short-schedules": (31, 63, 0),
    "light-vits": (26, 40, 0),
    "small-scale-cifar10-ablations": (14, 28, 0),
    "small-scale-cifar10-methods": (26, 27, 0),
    "small-scale-cifar100": (24, 24, 0),
    "small-scale-tiny-imagenet": (22, 22, 0),
    "small-scale-imagenette": (9, 9, 0),
    "small-scale-imagenet100": (4, 7, 0),
    "summary": (0, 0, 0),
    "summary-frozen": (0, 0, 0),
}

# Numbers read in the sources by hand: table, row, backbone (empty: no such column), column, number.
SAMPLE = [
    # He et al., arXiv:2111.06377, Tables 7 and 12.
    ("mae-table7", "pixels, not normalised", "", "in1k_l", 85.1),
    ("mae-table7", "pixels, not normalised", "", "coco_b", 49.5),
    ("mae-table7", "pixels, normalised", "", "ade_l", 53.6),
    ("mae-table7", "dVAE tokens", "", "coco_l", 53.2),
    ("mae-table7", "dVAE tokens", "", "in1k_h", 86.9),
    ("mae-table12", "iGPT", "iGPT-XL", "linear", 72.0),
    ("mae-table12", "BEiT", "ViT-L/16", "linear", 52.1),
    ("mae-table12", "MAE", "ViT-H/14", "linear", 76.6),
    ("mae-table12", "MAE (PyTorch release)", "ViT-H/14", "linear", 77.2),
    # Li et al., arXiv:2203.16527, Tables 1, 2, 6, 7, 8 and 10, and detectron2's README.
    ("vitdet-table1", "(a) FPN over four blocks", "", "box_l", 54.4),
    ("vitdet-table1", "(c) simple feature pyramid", "", "mask_b", 45.5),
    ("vitdet-table2", "(a) shifted windows", "", "box_b", 50.1),
    ("vitdet-table2", "(b) bottleneck convolutional blocks", "", "box_l", 54.6),
    ("vitdet-table2", "(c) global: the first 4 blocks", "", "mask_l", 47.1),
    ("vitdet-table2", "(d) 24 global blocks", "", "box_l", 55.1),
    ("vitdet-table2", "(d) 12 global blocks", "", "box_b", 50.4),
    ("vitdet-table6", "ViTDet Cascade", "ViT-H", "ms_box", 61.3),
    ("vitdet-zoo", "Cascade Mask R-CNN", "ViT-L", "mask", 50.0),
    ("vitdet-zoo", "Mask R-CNN", "ViT-B", "train_time", 0.314),
    ("vitdet-lvis", "Mask R-CNN", "ViT-L", "rare", 26.7),
    ("vitdet-lvis", "ViTDet, as a system", "ViT-H", "mask", 48.1),
    # Li et al., arXiv:2111.11429, text; He et al., Table 4; MIMDet's README.
    ("benchmarking-detection", "random", "", "box_b", 48.9),
    ("benchmarking-detection", "MoCo v3", "", "mask_l", 44.0),
    ("benchmarking-detection", "MIMDet, from MAE", "", "box_l", 54.3),
    ("benchmarking-detection-design", "no relative position biases", "", "box_l", 53.0),
    # The papers and READMEs that the rows name.
    ("ssl-summary", "MAE", "ViT-B/16", "fpn_box", 50.3),
    ("ssl-summary", "MAE", "ViT-B/16", "vitdet_box", 51.6),
    ("ssl-summary", "MAE", "ViT-H/14", "knn", 49.4),
    ("ssl-summary", "DINO", "ViT-B/16", "other_box", 50.1),
    ("ssl-summary", "iBOT", "ViT-B/16", "linear", 79.5),
    ("ssl-summary", "I-JEPA", "ViT-H/14", "linear", 79.3),
    ("ssl-summary", "DINOv2", "ViT-g/14", "frozen", 49.0),
    ("ssl-summary", "Hiera (MAE)", "Hiera-L", "vitdet_mask", 48.6),
    ("ssl-summary", "SynCLR", "ViT-L/14", "upernet", 57.7),
    ("frozen-transfer", "MAE", "ViT-H/14", "v2", 64.8),
    ("frozen-transfer", "DINOv2", "ViT-g/14", "real", 89.6),
    ("frozen-transfer", "DINOv2", "ViT-L/14", "inat21", 85.1),
    ("segmentation-linear", "DINO", "ViT-B/8", "multi", 35.2),
    ("attentive-probing", "CAE", "ViT-L/16", "attentive", 81.2),
    ("attentive-probing", "DINOv3", "ViT-L/16", "linear", 86.6),
    ("reproductions", "MAE", "ViT-L/16", "finetune", 85.2),
    ("reproductions", "MoCo v3", "ViT-B/16", "linear", 76.9),
    ("short-schedules", "MAE (lightly)", "ViT-B/16", "knn", 11.2),
    ("short-schedules", "MAE (mmselfsup)", "ViT-B/16", "linear", 60.8),
    ("light-vits", "MAE-Lite", "ViT-Ti/16", "finetune", 78.0),
    ("light-vits", "TinyMIM", "ViT-S/16", "ade20k", 48.4),
    ("small-scale-cifar10-ablations", "blocks, 75 %", "", "linear", 57.22),
    ("small-scale-cifar10-methods", "MAE (Tan 2024)", "light ViT, under 3.65M parameters", "finetune", 96.41),
    ("small-scale-cifar10-methods", "DINO (lightly)", "ResNet-18", "knn", 81.3),
    ("small-scale-cifar100", "MAE (mmpretrain)", "ViT-B/16", "finetune", 90.06),
    ("small-scale-tiny-imagenet", "MAE, random, 75 %", "ViT-Lite-7/4", "finetune", 55.0),
    ("small-scale-imagenette", "SwAV", "ResNet-18", "knn", 90.2),
    ("small-scale-imagenet100", "BYOL", "ResNet-18", "linear", 80.32),
]


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name: str) -> None:
    published = load_layout(name).published
    numbers = sum(value is not None for row in published for value in row.values.values())
    assert (len(published), numbers, sum(not row.verified for row in published)) == TOTALS[name]


@pytest.mark.parametrize(("name", "row", "backbone", "column", "number"), SAMPLE)
def test_numbers_as_printed(name: str, row: str, backbone: str, column: str, number: float) -> None:
    """The first row of that name and backbone that has the column; rows differ in length and data too."""
    found = [
        entry.values[column]
        for entry in load_layout(name).published
        if (entry.name, entry.facts.get("backbone", "")) == (row, backbone) and column in entry.values
    ]
    assert found[0] == number


def test_what_stands_in_no_source_is_marked_and_not_ranked() -> None:
    unverified = {
        (name, row.name, row.facts.get("backbone"))
        for name in TOTALS
        for row in load_layout(name).published
        if not row.verified
    }
    assert unverified == {
        ("benchmarking-detection", "random", None),
        ("ssl-summary", "data2vec 2.0", "ViT-B/16"),
        ("ssl-summary", "data2vec 2.0", "ViT-H/14"),
        ("ssl-summary", "CMAE", "ViT-B/16"),
        ("ssl-summary", "MixMAE (MixMIM)", "Swin-B/W16"),
    }
    table = build(load_layout("benchmarking-detection"), [])
    (cell,) = [row.cells["mask_l"] for row in table.rows if row.label == "random" and "mask_l" in row.cells]
    assert (cell.verified, cell.rank) == (False, 0)
    assert "44.9?" in render.render(table, "markdown")


def test_five_recipes_of_detection_never_share_a_column() -> None:
    """iBOT's, CAE's and EVA's detectors, and that of 25 epochs, are the footnoted ones."""
    columns = ("fpn_box", "vitdet_box", "other_box")
    rows = [row for row in load_layout("ssl-summary").published if set(columns) & set(row.values)]
    for row in rows:
        several = [key for key in columns if key in row.values]
        # Only MAE's own weights were put through both of the recipes that stand here too.
        assert (
            several == ["fpn_box", "vitdet_box"]
            if row.name == "MAE" and len(several) > 1
            else len(several) == 1
        )
        assert ("COCO: " in (row.note or "")) == ("other_box" in row.values), row.name


def test_heads_on_frozen_features_are_no_fine_tuning() -> None:
    for row in load_layout("ssl-summary").published:
        if row.name.startswith(("DINOv2", "DINOv3")):
            assert "upernet" not in row.values, row.name
        assert not {"upernet", "frozen"} <= set(row.values), row.name


def test_a_linear_probe_names_its_protocol_where_it_is_told() -> None:
    """They are told for these, in the notes of the table."""
    layout = load_layout("ssl-summary")
    named = {row.facts["linear_protocol"] for row in layout.published if "linear_protocol" in row.facts}
    assert named == {
        "MAE", "MoCo v3", "DINO", "BEiT", "BEiT v2", "MAE-CT", "CAE", "MSN", "I-JEPA", "DINOv2",
    }  # fmt: skip
    assert all(
        any(f"{name}:" in text or f"{name} and" in text for text in layout.notes)
        for name in named - {"DINOv2"}
    )


# ---------------------------------------------------------------- our runs


@pytest.mark.parametrize("name", TABLES)
def test_every_rule_takes_a_run(name: str) -> None:
    """A rule that an earlier one shadows, or that asks for what cannot be, would never fire."""
    layout = load_layout(name)
    dead = [
        rule for rule in layout.ours if not any(_takes(layout, rule, run) for run in runs_for(layout, rule))
    ]
    assert dead == []


def _takes(layout: Layout, rule: Any, run: Any) -> bool:
    groups = [group for row in our_rows(layout, [run]).rows for group in row.groups.values()]
    return any(
        (group.protocol, group.axis, group.caveat is None) == (rule.protocol, rule.axis, rule.caveat is None)
        and rule.column in (None, group.column)
        and group.metric == (rule.metric or "a_metric")
        for group in groups
    )


def _whole(layout: Layout) -> Table:
    runs = [next(iter(runs_for(layout, rule))) for rule in layout.ours]
    return build(layout, runs)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_in_every_format(name: str) -> None:
    layout = load_layout(name)
    for table in (build(layout, []), _whole(layout)):
        for format in render.FORMATS:
            text = render.render(table, format, width=120, color=False)
            assert text.strip()
            if format == "json":
                json.loads(text)
    if layout.ours:
        assert any(row.ours for row in _whole(layout).rows)


LARGE = {"spec": "timm:vit_large_patch16_224.mae", "arch": "vit_large_patch16_224", "digest": "1" * 64}


def _cells(name: str, root: Path) -> dict[str, dict[str, tuple[float, str]]]:
    return {
        row.label: {key: (cell.value, cell.departures) for key, cell in row.cells.items()}
        for row in make_table(name, root).rows
        if row.ours
    }


def test_one_row_for_a_backbone_over_all_tasks(tmp_path: Path) -> None:
    store(tmp_path, "a", 83.5)
    store(tmp_path, "b", 67.9, task="imagenet-linear", recipe="imagenet-linear", protocol="imagenet-linear")
    model = {"heads": {"cascade": False}, "pyramid": {"kind": "simple"}}
    store(
        tmp_path, "c", task="detection", recipe="coco", protocol="coco", metrics={"box_ap": 51.5, "mask_ap": 45.8},
        dataset={"name": "coco"}, config={"model": model},
    )  # fmt: skip
    store(
        tmp_path, "d", task="segmentation", recipe="ade20k", protocol="ade20k", metrics={"miou": 48.0},
        dataset={"name": "ade20k"}, config={"model": {"head": "uper"}},
    )  # fmt: skip
    store(tmp_path, "e", 75.2, recipe="inat18", protocol="inat18", dataset={"name": "inat-2018"})
    classifier = {"dataset": "imagenet-1k", "task": "imagenet-finetune", "protocol": "imagenet-finetune"}
    store(
        tmp_path, "f", task="imagenet-robustness", recipe="imagenet-robustness", protocol="imagenet-robustness",
        metrics={"in_a_top1": 35.7, "in_v2_top1": 72.0}, details={"classifier": classifier},
        dataset={"name": "imagenet-robustness"},
    )  # fmt: skip
    # A part of the labels is another task, and stands in no other column.
    store(
        tmp_path, "g", 50.0, recipe="imagenet-finetune-1pct", config={"data": {"subset": {"fraction": 0.01}}}
    )
    ours = _cells("summary", tmp_path)
    assert ours == {
        "timm:vit_base_patch16_224.mae": {
            "finetune": (83.5, ""), "linear": (67.9, ""), "pct1": (50.0, ""), "box": (51.5, ""), "mask": (45.8, ""),
            "upernet": (48.0, ""), "inat18": (75.2, ""), "in_a": (35.7, ""), "in_v2": (72.0, ""),
        }
    }  # fmt: skip
    by_method = _cells("ssl-summary", tmp_path)["ours: timm:vit_base_patch16_224.mae"]
    assert {key: value for key, (value, _) in by_method.items()} == {
        "finetune": 83.5, "linear": 67.9, "vitdet_box": 51.5, "vitdet_mask": 45.8, "upernet": 48.0, "inat18": 75.2,
    }  # fmt: skip
    assert all("recipe " in departures for _, departures in by_method.values())


def test_a_run_by_the_recipe_of_another_size_says_so(tmp_path: Path) -> None:
    store(tmp_path, "a", 85.0, backbone=LARGE)
    store(
        tmp_path,
        "b",
        75.0,
        backbone=LARGE,
        task="imagenet-linear",
        recipe="imagenet-linear",
        protocol="imagenet-linear",
    )
    words = "by the protocol of {0}, not of {0}-large"
    (row,) = _cells("summary", tmp_path).values()
    assert row == {
        "finetune": (85.0, words.format("imagenet-finetune")),
        "linear": (75.0, words.format("imagenet-linear")),
    }
    (row,) = _cells("mae-table12", tmp_path).values()
    assert row == {"linear": (75.0, words.format("imagenet-linear"))}


def test_table7_names_rows_by_the_target(tmp_path: Path) -> None:
    def pretrained(norm_pix: bool, digest: str) -> dict[str, Any]:
        facts = {"method": "MAE", "norm_pix": norm_pix, "dataset": "imagenet-1k"}
        return {"spec": f"run:runs/{digest}", "digest": digest * 64, "pretraining": facts}

    store(tmp_path, "a", 83.2, backbone=pretrained(False, "1"))
    store(tmp_path, "b", 83.6, backbone=pretrained(True, "2"))
    assert _cells("mae-table7", tmp_path) == {
        "ours: pixels, not normalised": {"in1k_b": (83.2, "")},
        "ours: pixels, normalised": {"in1k_b": (83.6, "")},
    }


def test_a_frozen_head_stands_apart_from_a_fine_tuned_one(tmp_path: Path) -> None:
    for name, freeze in (("a", True), ("b", False)):
        store(
            tmp_path, name, task="segmentation", recipe="ade20k-linear", protocol="ade20k-linear",
            metrics={"miou": 30.0}, dataset={"name": "ade20k"}, recipe_hash=name * 64,
            config={"model": {"head": "linear", "freeze": freeze}},
        )  # fmt: skip
    for name, column in (
        ("segmentation-linear", "linear"),
        ("frozen-transfer", "ade"),
        ("ssl-summary", "frozen"),
    ):
        (row,) = _cells(name, tmp_path).values()
        assert list(row) == [column], name


# ---------------------------------------------------------------- what is told of them


def test_the_page_on_published_numbers_names_every_table() -> None:
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if not name.startswith("demo-") and f"`{name}`" not in text] == []
