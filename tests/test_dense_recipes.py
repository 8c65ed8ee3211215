"""The recipes of detection and segmentation, and the tables that their runs stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench.recipe import find, published, resolve
from mae_bench.resources import recipes
from mae_bench.settings import deviations, flatten, plain
from mae_bench.tables import Row, make_table
from mae_bench.tables.layouts import load_layout
from tests.sample_runs import deviation, store

# Those that take an engine's own file are tested with the engine.
RECIPES = [
    name
    for name in recipes("tasks")
    if name.partition("-")[0] in ("coco", "ade20k") and not name.endswith("-native")
]
OURS = {"coco-12ep", "ade20k-20k", "ade20k-huge", "ade20k-linear", "ade20k-linear-finetune"}
SIZES = {"": ("ViT-B", 768, 12), "-large": ("ViT-L", 1024, 24), "-huge": ("ViT-H", 1280, 32)}

# detectron2@02b5c4e2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_{b_100ep,l_100ep,h_75ep}.py.
VITDET: dict[str, dict[str, Any]] = {
    "": {
        "train.steps": 184375, "optim.milestones": [163889, 177546], "optim.warmup_steps": 250,
        "optim.layer_decay": 0.7, "drop_path": 0.1, "optim.decay_norms": False, "optim.decay_positions": False,
    },
    "-large": {
        "train.steps": 184375, "optim.milestones": [163889, 177546], "optim.warmup_steps": 250,
        "optim.layer_decay": 0.8, "drop_path": 0.4, "optim.decay_norms": False, "optim.decay_positions": False,
    },
    "-huge": {
        "train.steps": 138281, "optim.milestones": [122916, 133159], "optim.warmup_steps": 187.5,
        "optim.layer_decay": 0.9, "drop_path": 0.5, "optim.decay_norms": True, "optim.decay_positions": True,
    },
}  # fmt: skip
COMMON = {
    "train.batch": 64, "optim.lr": 1e-4, "optim.weight_decay": 0.1, "optim.betas": [0.9, 0.999],
    "optim.warmup_factor": 0.001, "optim.gamma": 0.1, "optim.decay_biases": True, "train.clip_grad": None,
    "model.attention.window": 14, "model.attention.global_blocks": "quarters",
    "model.attention.relative_positions": True, "data.augment.scale": [0.1, 2.0], "data.augment.flip_first": True,
    "data.image_size": [1024, 1024], "model.proposals.convs": 2, "model.heads.box_convs": 4,
    "model.heads.box_fcs": 1, "model.heads.box_width": 1024, "model.heads.mask_convs": 4,
    "model.heads.score": 0.05, "model.pyramid.channels": 256, "model.pyramid.norm": "layer",
}  # fmt: skip
# open-mmlab/mmsegmentation, configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py.
UPERNET = {
    "train.steps": 160000, "train.batch": 16, "optim.lr": 1e-4, "optim.weight_decay": 0.05,
    "optim.layer_decay": 0.65, "optim.schedule": "poly", "optim.power": 1.0, "optim.warmup_steps": 1500,
    "optim.warmup_factor": 1e-6, "optim.min_lr": 0.0, "drop_path": 0.1, "model.blocks": [3, 5, 7, 11],
    "model.channels": 768, "model.layer_scale": 1.0, "model.relative_positions": True, "model.final_norm": False,
    "model.auxiliary_weight": 0.4, "model.auxiliary_channels": 256, "model.dropout": 0.1,
    "data.augment.scale": [0.5, 2.0], "data.augment.base": [512, 2048], "data.augment.largest_class": 0.75,
    "data.augment.flip": 0.5, "data.augment.photometric": True, "data.evaluation.stride": [256, 256],
    "data.evaluation.mode": "slide",
}  # fmt: skip
# Recipe -> table, row, and column of each expected number.
PRINTED: dict[str, tuple[str, str, list[str]]] = {
    "coco": ("vitdet-table", "ViTDet ViT-B", ["mrcnn_box", "mrcnn_mask"]),
    "coco-large": ("vitdet-table", "ViTDet ViT-L", ["mrcnn_box", "mrcnn_mask"]),
    "coco-huge": ("vitdet-table", "ViTDet ViT-H", ["mrcnn_box", "mrcnn_mask"]),
    "coco-cascade": ("vitdet-table", "ViTDet ViT-B", ["casc_box", "casc_mask"]),
    "coco-cascade-large": ("vitdet-table", "ViTDet ViT-L", ["casc_box", "casc_mask"]),
    "coco-cascade-huge": ("vitdet-table", "ViTDet ViT-H", ["casc_box", "casc_mask"]),
    "coco-absolute": ("vitdet-table4", "IN-1K, MAE", ["box_b", "mask_b"]),
    "coco-absolute-large": ("vitdet-table4", "IN-1K, MAE", ["box_l", "mask_l"]),
    "coco-vit-fpn": ("mae-table4", "MAE", ["box_b", "mask_b"]),
    "coco-vit-fpn-large": ("mae-table4", "MAE", ["box_l", "mask_l"]),
    "ade20k": ("mae-table5", "MAE", ["vit_b"]),
    "ade20k-large": ("mae-table5", "MAE", ["vit_l"]),
}


def values(name: str) -> dict[str, Any]:
    return flatten(plain(resolve(name).config))


def size_of(name: str) -> str:
    return next(size for size in ("-large", "-huge", "") if name.endswith(size))


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_says_where_it_comes_from(name: str) -> None:
    resolved = resolve(name)
    config: Any = resolved.config
    assert resolved.adapter_class.task == ("detection" if name.startswith("coco") else "segmentation")
    assert {entry.metric for entry in config.expected} <= set(resolved.adapter_class.metrics)
    head = find(name).read_text(encoding="utf-8").split("task:")[0].split("extends:")[0]
    for part in ("Source", "Command", "Cost", "Expected"):
        assert f"# {part}" in head, f"{name} lacks {part} in its head comment"
    assert f"mae-bench run --task {name} --backbone" in head
    if name == "ade20k-linear":
        assert config.published_arch is None, "it is meant for every size"
    else:
        assert tuple(config.published_arch.model_dump().values()) == SIZES[size_of(name)]
    if name in OURS - {"ade20k-linear"}:
        assert "ours" in head


@pytest.mark.parametrize("kind", ["coco", "coco-cascade"])
@pytest.mark.parametrize("size", list(VITDET))
def test_vitdets_values(kind: str, size: str) -> None:
    wanted = COMMON | VITDET[size] | {"model.heads.cascade": kind == "coco-cascade"}
    ours = values(kind + size)
    assert {key: ours[key] for key in wanted} == wanted


def test_upernets_values() -> None:
    ours = values("ade20k")
    assert {key: ours[key] for key in UPERNET} == UPERNET


@pytest.mark.parametrize("size", ["", "-large"])
def test_the_older_protocol_departs_where_its_paper_does(size: str) -> None:
    newer, older = values("coco" + size), values("coco-vit-fpn" + size)
    changed = {key for key in newer if newer[key] != older[key]}
    changed -= {"recipe", "notes", "expected"}
    assert changed == {
        "data.augment.flip_first", "model.attention.window_padding", "model.pyramid.kind", "model.pyramid.norm",
        "optim.lr", "optim.layer_decay", "optim.schedule", "optim.milestones", "optim.warmup_steps",
        "optim.warmup_epochs", *(["drop_path"] if size else []),
    }  # fmt: skip
    assert (older["optim.lr"], older["optim.warmup_epochs"]) == (8e-5, 0.25)


@pytest.mark.parametrize(
    ("name", "keys"),
    [("coco-12ep", {"train.steps", "optim.milestones"}), ("ade20k-20k", {"train.steps"})],
)
def test_a_short_schedule_departs_from_its_protocol_in_length_alone(name: str, keys: set[str]) -> None:
    config: Any = resolve(name).config
    against: Any = published(config)
    assert {entry.key for entry in deviations(config, against)} == keys
    assert config.expected == []
    if config.optim.milestones:
        shares = [step / config.train.steps for step in config.optim.milestones]
        assert shares == pytest.approx(
            [step / against.train.steps for step in against.optim.milestones], abs=1e-4
        )


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_expects_stands_in_the_table(name: str) -> None:
    config: Any = resolve(name).config
    if name in OURS:
        assert config.expected == []
        return
    table, row, columns = PRINTED[name]
    printed = next(entry for entry in load_layout(table).published if entry.name == row)
    assert [entry.value for entry in config.expected] == [printed.values[column] for column in columns]
    assert printed.verified


# ---------------------------------------------------------------- tables


def arch(size: str) -> dict[str, Any]:
    name = {"": "vit_base_patch16_224", "-large": "vit_large_patch16_224"}[size]
    return {"spec": f"timm:{name}.mae", "arch": name, "digest": size.ljust(64, "1")}


def detected(root: Path, recipe: str, box: float, mask: float, **changes: Any) -> None:
    config = plain(resolve(recipe).config)
    units = {name: {"unit": "%", "higher_is_better": True, "label": name} for name in ("box_ap", "mask_ap")}
    given: dict[str, Any] = {
        "task": "detection",
        "recipe": recipe,
        "protocol": recipe,
        "recipe_hash": recipe.ljust(64, "0"),
        "dataset": {"name": "coco"},
        "backbone": arch(size_of(recipe)),
        "metrics": {"box_ap": box, "mask_ap": mask},
        "units": units,
        "config": config,
    }
    store(root, f"{recipe}-{changes.get('seed', 0)}", **{**given, **changes})


def ours(table: str, root: Path) -> dict[str, dict[str, float]]:
    built = make_table(table, root)
    return {row.label: {key: cell.value for key, cell in row.cells.items()} for row in built.rows if row.ours}


def test_one_detection_run_fills_box_and_mask(tmp_path: Path) -> None:
    detected(tmp_path, "coco-vit-fpn", 50.1, 44.7)
    detected(tmp_path, "coco-vit-fpn-large", 53.0, 47.0)
    assert ours("mae-table4", tmp_path) == {
        "ours: mae (timm)": {"box_b": 50.1, "box_l": 53.0, "mask_b": 44.7, "mask_l": 47.0}
    }


def test_vitdet_runs_stand_in_the_table_of_their_setting(tmp_path: Path) -> None:
    detected(tmp_path, "coco", 51.5, 45.8)
    detected(tmp_path, "coco-cascade", 53.9, 46.6)
    detected(tmp_path, "coco-absolute", 51.1, 45.4)
    assert ours("vitdet-table", tmp_path) == {
        "ours: timm:vit_base_patch16_224.mae": {
            "mrcnn_box": 51.5, "mrcnn_mask": 45.8, "casc_box": 53.9, "casc_mask": 46.6,
        }
    }  # fmt: skip
    assert ours("vitdet-table4", tmp_path) == {"ours: mae (timm)": {"box_b": 51.1, "mask_b": 45.4}}


def test_a_run_by_another_protocol_carries_a_footnote(tmp_path: Path) -> None:
    detected(tmp_path, "coco", 51.5, 45.8)
    row: Row = next(row for row in make_table("mae-table4", tmp_path).rows if row.ours)
    said = "by the protocol of coco, not of coco-vit-fpn"
    assert {key: cell.departures for key, cell in row.cells.items()} == {"box_b": said, "mask_b": said}


def test_a_seed_that_was_run_again_is_named_once(tmp_path: Path) -> None:
    detected(tmp_path / "runs/early", "coco", 51.5, 45.8)
    detected(tmp_path / "runs/late", "coco", 51.7, 45.9, finished="2026-01-03T00:00:00+00:00")
    built = make_table("vitdet-table", tmp_path / "runs")
    assert "Where a seed was run again the latest run counts; not counted: early/coco-0." in built.remarks
    assert ours("vitdet-table", tmp_path / "runs") == {
        "ours: timm:vit_base_patch16_224.mae": {"mrcnn_box": 51.7, "mrcnn_mask": 45.9}
    }


def test_the_demo_compares_both_dense_tasks(tmp_path: Path) -> None:
    for place, (spec, gain) in enumerate((("run:runs/demo/mae", 10.0), ("random:vit_demo", 0.0))):
        backbone = {"spec": spec, "digest": str(place) * 64, "arch": "vit_demo"}
        for task, metrics in (("detection", ["box_ap", "mask_ap"]), ("segmentation", ["miou", "macc"])):
            recipe = {"detection": "demo/coco", "segmentation": "demo/ade20k"}[task]
            store(
                tmp_path,
                f"{task}-{place}",
                task=task,
                recipe=recipe,
                recipe_hash=task.ljust(64, "0"),
                protocol=recipe.removeprefix("demo/"),
                deviations=[deviation("data.name", "coco", "generated-scenes")],
                dataset={"name": "generated-scenes", "train_images": 1000},
                backbone=backbone,
                metrics={name: 20 + gain + i for i, name in enumerate(metrics)},
                units={name: {"unit": "%", "higher_is_better": True, "label": name} for name in metrics},
            )
    built = make_table("demo-dense", tmp_path)
    assert {row.label: {key: cell.rank for key, cell in row.cells.items()} for row in built.rows} == {
        "MAE (run:demo/mae)": {"box_ap": 1, "mask_ap": 1, "miou": 1, "macc": 1},
        "ViT, random initialisation": {"box_ap": 2, "mask_ap": 2, "miou": 2, "macc": 2},
    }
    assert built.column_marks == {"box_ap": (1,), "mask_ap": (1,), "miou": (2,), "macc": (2,)}
