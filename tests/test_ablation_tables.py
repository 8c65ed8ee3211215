"""The tables of MAE's ablations and its figures 5, 7 and 8: the published numbers, and our runs among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench.render import FORMATS
from mae_bench.tables import Row, make_table, render_table
from mae_bench.tables.layouts import load_layout
from tests.sample_runs import deviation, store

NAMES = [*(f"mae-table1{letter}" for letter in "abcdef"), "mae-table2", "mae-fig5", "mae-fig7", "mae-fig8"]

# ---------------------------------------------------------------- published numbers

# He et al., arXiv:2111.06377: how many numbers a table holds, their sum, and a few of them (row, column).
NUMBERS: dict[str, tuple[int, float, dict[tuple[str, str], float]]] = {
    "mae-table1a": (10, 778.1, {("1 block", "lin"): 65.5, ("8 blocks", "ft"): 84.9}),
    "mae-table1b": (10, 783.4, {("128", "lin"): 69.1, ("1024", "ft"): 84.3}),
    "mae-table1c": (6, 306.5, {("encoder with [M]", "lin"): 59.6, ("encoder with [M]", "flops"): 3.3}),
    "mae-table1d": (8, 631.5, {("PCA", "ft"): 84.6, ("dVAE token", "lin"): 71.6}),
    "mae-table1e": (8, 622.1, {("none", "lin"): 65.7, ("crop + color jit", "ft"): 84.3}),
    "mae-table1f": (8, 611.3, {("block, 75 %", "lin"): 63.9, ("grid, 75 %", "ft"): 84.0}),
    "mae-table2": (15, 692.5, {("ViT-L, with [M]", "hours"): 42.4, ("ViT-H, with [M]", "hours"): 119.6}),
    "mae-fig5": (20, 1510.4, {("MAE, ViT-L/16", "lin_10"): 54.6, ("MAE, ViT-L/16", "ft_60"): 85.0}),
    "mae-fig7": (10, 759.9, {("MAE, ViT-L/16", "lin_100"): 57.3, ("MAE, ViT-L/16", "ft_1600"): 85.1}),
    "mae-fig8": (
        11,
        918.14,
        {("MAE", "vit_h"): 86.9, ("supervised (ViT paper)", "vit_l"): 76.53},
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers(name: str) -> None:
    count, total, few = NUMBERS[name]
    rows = load_layout(name).published
    numbers = [value for row in rows for value in row.values.values() if value is not None]
    assert len(numbers) == count
    assert sum(map(float, numbers)) == pytest.approx(total)
    for (label, column), value in few.items():
        assert value in [row.values[column] for row in rows if row.name == label]


def test_only_what_was_not_read_is_marked() -> None:
    unverified = {
        (name, row.name) for name in NAMES for row in load_layout(name).published if not row.verified
    }
    assert unverified == {("mae-fig8", "supervised on JFT-300M (ViT paper)")}
    assert "87.12?" in render_table("mae-fig8", "nowhere", "markdown")


@pytest.mark.parametrize("name", NAMES[:6])
def test_the_default_is_one_row_and_marked(name: str) -> None:
    (row,) = [row for row in load_layout(name).published if "The default" in (row.note or "")]
    assert (row.values["ft"], row.values["lin"]) == (84.9, 73.5)


# ---------------------------------------------------------------- our runs

DEFAULTS: dict[str, Any] = {
    "method": "MAE",
    "arch": "vit_large_patch16_224",
    "dataset": "imagenet-1k",
    "decoder_depth": 8,
    "decoder_width": 512,
    "mask_token": "decoder",
    "relative_flops": 1.0,
    "target": "pixel (w/o norm)",
    "norm_pix": False,
    "augmentation": "crop, rand size",
    "masking": "random",
    "mask_ratio": 0.75,
    "epochs": 800.0,
    "recipe": "mae-vit-large-ablation",
    "protocol": "mae-vit-large-ablation",
    "departs": [],
    "wall_clock_h": 100.0,
    "device": "a device",
    "processes": 8,
}


def pretrained(root: Path, name: str, ft: float, lin: float | None = None, **changes: Any) -> None:
    """Runs of fine-tuning and linear probing on a backbone pretrained as the ablations', with changes."""
    facts = {**DEFAULTS, **changes}
    backbone = {
        "spec": f"run:runs/{name}",
        "arch": facts["arch"],
        "digest": f"{len(list(root.glob('*'))):064d}",
        "pretraining": facts,
    }
    for task, value in (("imagenet-finetune", ft), ("imagenet-linear", lin)):
        if value is not None:
            recipe = f"{task}-large"
            store(
                root,
                f"{name}-{task}",
                value,
                task=task,
                recipe=recipe,
                protocol=recipe,
                recipe_hash=f"{len(task):064d}",
                backbone=backbone,
            )


def ours(name: str, root: Path) -> dict[str, Row]:
    return {row.label: row for row in make_table(name, root).rows if row.ours}


def numbers(row: Row) -> dict[str, float]:
    return {key: cell.value for key, cell in row.cells.items()}


# Table -> facts in which our backbone differs, the settings it departs in, and what its row is called.
ROWS: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("mae-table1a", {"decoder_depth": 1}, ["decoder.depth"], "1 block"),
    ("mae-table1a", {"decoder_depth": 3}, ["decoder.depth"], "3 blocks"),
    ("mae-table1b", {"decoder_width": 256}, ["decoder.dim"], "256"),
    ("mae-table1c", {"mask_token": "encoder", "relative_flops": 3.243}, ["mask_token"], "encoder with [M]"),
    ("mae-table1d", {"target": "pixel (w/ norm)"}, ["norm_pix"], "pixel (w/ norm)"),
    ("mae-table1d", {"target": "PCA, 96 coefficients"}, ["pca.coefficients", "pca.images"], "PCA"),
    ("mae-table1e", {"augmentation": "none"}, ["data.augment.crop.kind", "data.augment.flip"], "none"),
    ("mae-table1f", {"masking": "grid"}, ["masking"], "grid, 75 %"),
    ("mae-table1f", {"masking": "block", "mask_ratio": 0.5}, ["mask_ratio", "masking"], "block, 50 %"),
]


@pytest.mark.parametrize(("name", "facts", "departs", "label"), ROWS)
def test_a_row_by_its_setting(
    name: str, facts: dict[str, Any], departs: list[str], label: str, tmp_path: Path
) -> None:
    pretrained(tmp_path, "a", 84.5, 72.5, **facts, departs=departs)
    row = ours(name, tmp_path)[f"ours: {label}"]
    found = numbers(row)
    assert (found["ft"], found["lin"]) == (84.5, 72.5)
    assert {cell.departures for cell in row.cells.values()} == {""}
    assert row.facts == {"backbone": "vit_large_patch16_224", "epochs": "800"}
    assert found.get("flops") == facts.get("relative_flops")


def test_the_row_of_one_table_is_not_in_the_others(tmp_path: Path) -> None:
    pretrained(tmp_path, "a", 84.5, 72.5, decoder_depth=4, departs=["decoder.depth"])
    for name in (*NAMES[1:6], "mae-fig5", "mae-fig7"):
        assert ours(name, tmp_path) == {}, name
    assert set(ours("mae-table1a", tmp_path)) == {"ours: 4 blocks"}


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "vit_base_patch16_224", "departs": ["decoder.depth", "model.arch"]},
        {"epochs": 100.0, "departs": ["decoder.depth", "train.epochs"]},
        {"protocol": "mae-vit-base", "recipe": "mae-vit-base", "departs": ["decoder.depth"]},
        {"protocol": "mine", "recipe": "mine", "departs": None},
    ],
)
def test_a_pretraining_that_differs_in_more_is_said_to(changes: dict[str, Any], tmp_path: Path) -> None:
    pretrained(tmp_path, "a", 99.0, 99.0, decoder_depth=4, **changes)
    (row,) = ours("mae-table1a", tmp_path).values()
    facts = {**DEFAULTS, **changes}
    for cell in row.cells.values():
        assert cell.departures == (
            f"pretrained by {facts['recipe']} ({facts['arch']}, {facts['epochs']:g} epochs, pixel (w/o norm)), "
            "which departs from mae-vit-large-ablation in more than this table varies"
        )
        assert cell.rank == 0


def test_another_recipe_of_fine_tuning_is_said_too(tmp_path: Path) -> None:
    backbone = {"spec": "run:a", "arch": "vit_large_patch16_224", "pretraining": DEFAULTS}
    store(tmp_path, "base", 84.0, backbone=backbone, deviations=[deviation("train.epochs", 100, 12)])
    (row,) = ours("mae-table1a", tmp_path).values()
    words = row.cells["ft"].departures
    assert words == "by the protocol of imagenet-finetune, not of imagenet-finetune-large; 12 of 100 epochs"


def test_backbones_without_these_facts_are_not_shown(tmp_path: Path) -> None:
    store(tmp_path, "timm", 83.6)
    store(
        tmp_path,
        "old",
        83.0,
        backbone={"spec": "run:old", "pretraining": {"method": "MAE", "mask_ratio": 0.75}},
    )
    for name in (*NAMES[:7], "mae-fig5", "mae-fig7"):
        assert ours(name, tmp_path) == {}, name
        assert not any("Not shown" in text for text in make_table(name, tmp_path).remarks), name


# ---------------------------------------------------------------- hours


def test_hours_of_the_pretraining_stand_beside_its_accuracy_unranked(tmp_path: Path) -> None:
    pretrained(tmp_path, "fast", 84.8, decoder_depth=1, departs=["decoder.depth"], wall_clock_h=2.5)
    row = ours("mae-table2", tmp_path)["ours: vit_large_patch16_224"]
    assert numbers(row) == {"ft": 84.8, "hours": 2.5}
    assert row.facts == {"decoder_depth": "1", "device": "a device"}
    assert row.cells["ft"].departures == ""
    assert row.cells["hours"].departures.startswith(
        "on 8 x a device, for 800 epochs of imagenet-1k: hours on other"
    )
    ranks = [
        row.cells["hours"].rank for row in make_table("mae-table2", tmp_path).rows if "hours" in row.cells
    ]
    assert len(ranks) == 7
    assert not any(ranks)


def test_hours_are_of_one_pretraining_however_often_it_was_fine_tuned(tmp_path: Path) -> None:
    backbone = {"spec": "run:a", "arch": "vit_large_patch16_224", "pretraining": DEFAULTS}
    both = {"recipe": "imagenet-finetune-large", "protocol": "imagenet-finetune-large", "backbone": backbone}
    store(tmp_path, "s0", 84.0, **both, deviations=[deviation("train.batch", 1024, 64)])
    store(tmp_path, "s1", 85.0, seed=1, **both, deviations=[deviation("train.batch", 1024, 64)])
    (row,) = ours("mae-table2", tmp_path).values()
    assert (row.cells["ft"].value, row.cells["ft"].n) == (84.5, 2)
    assert (row.cells["hours"].value, row.cells["hours"].n, row.cells["hours"].std) == (100.0, 1, None)
    assert row.cells["ft"].departures == "batch 64 of 1024"
    assert "batch" not in row.cells["hours"].departures


# ---------------------------------------------------------------- figures


def test_ratios_share_a_curve_in_two_panels(tmp_path: Path) -> None:
    for ratio in (0.1, 0.5, 0.75):
        departs = [] if ratio == 0.75 else ["mask_ratio"]
        pretrained(tmp_path, f"m{ratio}", 80 + ratio, 60 + ratio, mask_ratio=ratio, departs=departs)
    pretrained(
        tmp_path, "b", 70.0, mask_ratio=0.1, arch="vit_base_patch16_224", departs=["mask_ratio", "model.arch"]
    )
    rows = ours("mae-fig5", tmp_path)
    assert {label: numbers(row) for label, row in rows.items()} == {
        "ours: vit_base_patch16_224, 800 epochs": {"ft_10": 70.0},
        "ours: vit_large_patch16_224, 800 epochs": {
            "ft_10": 80.1,
            "ft_50": 80.5,
            "ft_75": 80.75,
            "lin_10": 60.1,
            "lin_50": 60.5,
            "lin_75": 60.75,
        },
    }
    large = rows["ours: vit_large_patch16_224, 800 epochs"]
    assert {cell.departures for cell in large.cells.values()} == {""}
    groups = {column.group for column in load_layout("mae-fig5").columns}
    assert groups == {"Fine-tuning", "Linear probing"}


def test_lengths_share_a_curve(tmp_path: Path) -> None:
    for epochs in (100.0, 800.0):
        departs = [] if epochs == 800 else ["train.epochs"]
        pretrained(tmp_path, f"e{epochs}", epochs / 10, epochs=epochs, departs=departs)
    (row,) = ours("mae-fig7", tmp_path).values()
    assert numbers(row) == {"ft_100": 10.0, "ft_800": 80.0}


def test_sizes_share_a_curve(tmp_path: Path) -> None:
    for arch, recipe in (("base_patch16", "imagenet-finetune"), ("large_patch16", "imagenet-finetune-large")):
        backbone = {
            "spec": f"run:{arch}",
            "arch": f"vit_{arch}_224",
            "pretraining": {"method": "MAE", "epochs": 1600.0, "target": "pixel (w/ norm)"},
        }
        store(tmp_path, arch, 85.0, recipe=recipe, protocol=recipe, backbone=backbone)
    (label,) = ours("mae-fig8", tmp_path)
    assert label == "ours: MAE, 1600 epochs, pixel (w/ norm)"
    row = ours("mae-fig8", tmp_path)[label]
    assert numbers(row) == {"vit_b": 85.0, "vit_l": 85.0}
    assert {cell.departures for cell in row.cells.values()} == {""}


# ---------------------------------------------------------------- every format


@pytest.mark.parametrize("name", [*NAMES, "mae-fig9", "demo-masking"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_with_and_without_runs(name: str, format: str, tmp_path: Path) -> None:
    pretrained(tmp_path, "a", 77.77, 66.66)
    for runs in (tmp_path / "nowhere", tmp_path):
        text = render_table(name, runs, format, width=200, color=False)
        assert load_layout(name).title.split(":")[0].split()[-1] in text or format == "csv"
    shown = "77.8" in text or "77.77" in text
    assert shown == (name not in ("demo-masking", "mae-fig9"))
