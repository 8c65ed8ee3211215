"""Every classification task from recipe to result on a dataset that is learnt in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from downstream.classification.frozen import FeatureDataset
from downstream.classification.linear import Linear
from downstream.classification.partial import Partial
from mae_bench import api, outcomes
from mae_bench.errors import MaeBenchError
from mae_bench.published import other_size
from mae_bench.recipe import resolve
from mae_bench.results import Result, read_result
from mae_bench.train import fit
from tests.colours import (
    AUGMENTED,
    BACKBONE,
    DATA,
    FINETUNE,
    KNN,
    LINEAR,
    PARTIAL,
    TRAIN,
    VAL,
    open_run,
    write_colours,
    write_recipe,
)
from tests.launch import ROOT, finish, on_two_processes

GRID = ["learning_rates=[0.1, 1.0, 5.0]", "holdout=0.25", "norm_batch=9", "train.micro_batch=9"]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_colours(tmp_path)


def carried_out(
    root: Path, values: dict[str, Any], *overrides: str, backbone: str = BACKBONE, **options: Any
) -> Result:
    recipe = write_recipe(root, values)
    return api.run(recipe, backbone, overrides, data_root=root, runs_root=root / "runs", **options)


def losses(runs: Path) -> list[float]:
    (path,) = runs.rglob("metrics.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


def results_below(runs: Path) -> list[Result]:
    return [read_result(path) for path in sorted(runs.rglob("result.json"))]


# ---------------------------------------------------------------- each task


def test_finetune(world: Path) -> None:
    result = carried_out(world, FINETUNE)
    assert result.metrics["top1"] > 80
    assert result.metrics["top5"] == 100
    assert result.selection.startswith("last step")
    assert result.dataset is not None
    assert (result.dataset.train_images, result.dataset.val_images, result.dataset.classes) == (
        3 * TRAIN,
        3 * VAL,
        3,
    )
    found = losses(world / "runs")
    assert sum(found[-5:]) < sum(found[:5])


def test_scratch_reports_the_averaged_weights(world: Path) -> None:
    values = {**FINETUNE, "task": "imagenet.scratch", "train": {**FINETUNE["train"], "ema": 0.9}}
    result = carried_out(world, values)
    assert result.task == "imagenet-scratch"
    assert result.metrics["top1"] > 80
    assert "raw_top1" in result.metrics
    assert "averaged weights" in result.selection


def test_scratch_takes_no_pretrained_backbone(world: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"takes random:ARCH and not timm:vit_tiny_patch16_224"):
        carried_out(world, {**FINETUNE, "task": "imagenet.scratch"}, backbone="timm:vit_tiny_patch16_224")


@pytest.mark.parametrize("blocks", [0, 0.5, 1, 2])
def test_partial(world: Path, blocks: float) -> None:
    result = carried_out(world, PARTIAL, f"blocks={blocks}")
    assert result.task == "imagenet-partial"
    assert result.config["blocks"] == blocks
    assert result.metrics["top1"] > 60


def test_too_many_blocks(world: Path) -> None:
    with pytest.raises(MaeBenchError, match="has 2 blocks, so the last 3"):
        carried_out(world, PARTIAL, "blocks=3")


def test_knn(world: Path) -> None:
    result = carried_out(world, KNN)
    assert list(result.metrics) == ["top1", "top5", "top1_k1", "top1_k5"]
    assert result.metrics["top1"] == result.metrics["top1_k5"] > 60
    assert result.units["top1_k1"].label == "top-1 accuracy, k = 1"
    assert result.steps is None
    assert "k = 5, fixed by the recipe" in result.selection
    assert result.dataset is not None
    assert (result.dataset.train_images, result.dataset.val_images) == (3 * TRAIN, 3 * VAL)


def test_more_neighbours_than_images(world: Path) -> None:
    with pytest.raises(MaeBenchError, match="k: 37 is more than the 36 training images"):
        carried_out(world, KNN, "k=[5, 37]")


def test_linear_with_one_rate(world: Path) -> None:
    result = carried_out(world, LINEAR)
    assert list(result.metrics) == ["top1", "top5"]
    assert result.metrics["top1"] > 80
    assert "one learning rate" in result.selection


def test_linear_with_augmentation(world: Path) -> None:
    augment = {"crop": {"kind": "random_resized_once", "scale": [0.5, 1.0]}}
    result = carried_out(world, {**LINEAR, "data": {**DATA, "augment": augment}})
    assert result.metrics["top1"] > 80
    assert not (world / "runs" / ".cache").exists()


def test_linear_grid_chooses_on_images_held_out_of_train(world: Path) -> None:
    result = carried_out(world, LINEAR, *GRID)
    held, reported = result.details["holdout_top1"], result.details["reported_top1_not_used_for_choosing"]
    assert list(held) == list(reported) == ["0.1", "1", "5"]
    chosen = f"{result.details['learning_rate']:g}"
    assert held[chosen] == max(held.values()) == result.metrics["holdout_top1"]
    assert result.metrics["top1"] == reported[chosen]
    assert f"learning rate {chosen} of 3, chosen on 9 images held out" in result.selection
    assert result.dataset is not None
    assert result.dataset.train_images == 3 * TRAIN - 9
    # The lowest rate has hardly begun to learn, so the choice is one.
    assert held["0.1"] < held[chosen]


def test_the_choice_never_looks_at_the_reported_set(world: Path) -> None:
    run = open_run(world, LINEAR, *GRID)
    adapter = run.adapter
    assert isinstance(adapter, Linear)
    fit(adapter, run)
    held = torch.tensor([[50.0, 90.0], [70.0, 90.0], [70.0, 100.0]])
    reported = torch.tensor([[99.0, 99.0], [10.0, 20.0], [80.0, 90.0]])
    nothing = [False, False, False]
    # The best on the held-out images, of equals the lowest rate, whatever the reported set says.
    chosen = adapter._choose(reported, held, nothing, run)
    assert chosen == 1
    assert adapter._choose(reported, held, [False, True, False], run) == 2
    with pytest.raises(MaeBenchError, match="every one of them diverged"):
        adapter._choose(reported, held, [True, True, True], run)


@pytest.mark.parametrize("augment", [DATA["augment"], {"crop": {"kind": "random_resized_once"}}])
def test_held_out_images_are_not_trained_on(world: Path, augment: dict[str, Any]) -> None:
    run = open_run(world, {**LINEAR, "data": {**DATA, "augment": augment}}, *GRID)
    adapter = run.adapter
    assert isinstance(adapter, Linear)
    adapter.model(adapter.backbone(run), run)
    trained = adapter.train_set(run)
    held = adapter._data._held
    assert held is not None
    names = [{dataset.source.name(index) for index in range(len(dataset))} for dataset in (trained, held)]
    assert len(names[0]) == 3 * TRAIN - 9
    assert len(names[1]) == 9
    assert not names[0] & names[1]
    assert all("/train/" in name for name in names[0] | names[1])
    # Labels and features went the same way.
    for index in (0, 5, len(trained) - 1):
        assert trained[(0, index)]["label"] == trained.source.label(index)


def test_a_rate_does_not_depend_on_the_others(world: Path) -> None:
    heads = []
    for others in ("[5.0, 20.0]", "[5.0, 0.2, 0.5]"):
        run = open_run(world, LINEAR, f"learning_rates={others}", *GRID[1:])
        fit(run.adapter, run)  # type: ignore[arg-type]
        heads.append(load_file(run.folder / "model.safetensors"))
    for name in ("grid.heads.0.weight", "grid.heads.0.bias"):
        assert torch.equal(heads[0][name], heads[1][name])
        assert heads[0][name].any()


# ---------------------------------------------------------------- what is computed once


def test_knn_and_probe_share_features(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    carried_out(world, {**KNN, "pooling": "mean"})
    assert "read from" not in capsys.readouterr().err
    carried_out(world, LINEAR)
    assert capsys.readouterr().err.count("read from") == 2
    assert len(list((world / "runs" / ".cache" / "features").iterdir())) == 2


def test_partial_computes_the_frozen_blocks_once_or_says_why_not(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for gib in (1, 0):
        run = open_run(world, PARTIAL, f"feature_cache_gib={gib}", "train.epochs=3")
        adapter = run.adapter
        assert isinstance(adapter, Partial)
        fit(adapter, run)
        found[gib] = load_file(run.folder / "model.safetensors")
        adapter.model(adapter.backbone(run), run)
        assert isinstance(adapter.train_set(run), FeatureDataset) == bool(gib)
        # The limit does not decide the result, so both are the same run.
        run.close()
        shutil.rmtree(run.folder)
    assert "more than feature_cache_gib = 0" in capsys.readouterr().err
    for name, value in found[1].items():
        torch.testing.assert_close(value, found[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", [{"mix": {}}, {"data": {**DATA, "augment": AUGMENTED}}])
def test_partial_runs_the_frozen_blocks_anew_for_images_that_change(
    world: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = carried_out(world, {**PARTIAL, **change}, "train.epochs=2")
    assert result.steps == 4
    assert "1 frozen blocks run for every image anew" in capsys.readouterr().err


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(world: Path) -> None:
    # 21 validation images, which two does not divide; the BatchNorm's statistics come from 9 images in any case.
    linear = {**LINEAR, "norm_batch": 9, "train": {**LINEAR["train"], "micro_batch": 9, "epochs": 3}}
    linear["data"] = {**DATA, "augment": {"crop": {"kind": "random_resized_once", "scale": [0.5, 1.0]}}}
    recipes = [write_recipe(world, KNN, "knn"), write_recipe(world, linear, "linear")]
    for recipe in recipes:
        api.run(recipe, BACKBONE, data_root=world, runs_root=world / "one")
    finish(on_two_processes(["-m", "tests.colours_main", str(world), *recipes]), ROOT)

    found = {place: {r.recipe: r for r in results_below(world / place)} for place in ("one", "two")}
    assert found["two"]["knn"].hardware["processes"] == 2
    assert found["two"]["knn"].metrics == found["one"]["knn"].metrics
    one, two = (next((world / place).glob(f"knn/*/{outcomes.FILE}")) for place in ("one", "two"))
    assert two.read_bytes() == one.read_bytes()
    assert losses(world / "two") == pytest.approx(losses(world / "one"), rel=1e-4)
    one, two = (load_file(next((world / place).rglob("model.safetensors"))) for place in ("one", "two"))
    for name in ("grid.heads.0.weight", "grid.norm.running_mean", "grid.norm.running_var"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    for metric, value in found["one"]["linear"].metrics.items():
        assert found["two"]["linear"].metrics[metric] == pytest.approx(value, abs=100 / 21 + 1e-6), metric
    features = {place: sorted((world / place / ".cache" / "features").iterdir()) for place in ("one", "two")}
    for ours, theirs in zip(*features.values(), strict=True):
        assert ours.name == theirs.name
        torch.testing.assert_close(load_file(ours), load_file(theirs), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- before the start


def test_check_looks_at_data_and_weights(world: Path) -> None:
    recipe = write_recipe(world, {**LINEAR, "published_arch": {"name": "ViT-B", "width": 768, "depth": 12}})
    lines = "\n".join(api.check(recipe, BACKBONE, data_root=world, runs_root=world / "runs"))
    assert "36 training and 21 validation images of 3 classes" in lines
    assert "images reach the model as 3 x 16 x 16" in lines
    assert "width 24, depth 2, patches of 4 x 4" in lines
    assert "has the values published for ViT-B (width 768, depth 12)" in lines
    assert not (world / "runs").exists()


@pytest.mark.parametrize("values", [FINETUNE, PARTIAL, KNN], ids=["finetune", "partial", "knn"])
def test_check_of_the_other_tasks(world: Path, values: dict[str, Any]) -> None:
    lines = api.check(write_recipe(world, values), BACKBONE, data_root=world, runs_root=world / "runs")
    assert any("36 training and 21 validation images" in line for line in lines)


@pytest.mark.parametrize(
    ("values", "override", "message"),
    [
        (KNN, "k=[5, 100]", "k: 100 is more than the 36 training images"),
        (FINETUNE, "train.batch=54", "train.batch: 54 is more than the 36"),
        (KNN, "data.classes=4", "data.classes"),
    ],
)
def test_check_finds_what_would_stop_the_run(
    world: Path, values: dict[str, Any], override: str, message: str
) -> None:
    with pytest.raises(MaeBenchError) as error:
        api.check(
            write_recipe(world, values), BACKBONE, [override], data_root=world, runs_root=world / "runs"
        )
    assert message in str(error.value)


def test_check_finds_an_unreadable_image(world: Path) -> None:
    (world / "colours" / "val" / "blue" / "0.png").write_bytes(b"no image")
    with pytest.raises(MaeBenchError, match=r"unreadable image .*blue/0\.png"):
        api.check(write_recipe(world, KNN), BACKBONE, data_root=world, runs_root=world / "runs")


def test_a_recipe_for_another_size_is_noticed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**KNN, "published_arch": {"name": "ViT-B", "width": 768, "depth": 12}}
    result = carried_out(world, values)
    assert "warning: colours has the values published for ViT-B" in capsys.readouterr().err
    assert any("published for ViT-B" in note for note in result.notes)


@pytest.mark.parametrize(
    ("recipe", "width", "depth", "advice"),
    [
        ("imagenet-finetune", 768, 12, None),
        ("imagenet-finetune", 1024, 24, "use the recipe imagenet-finetune-large"),
        ("imagenet-finetune-large", 768, 12, "use the recipe imagenet-finetune"),
        ("imagenet-linear", 1280, 32, "use the recipe imagenet-linear-huge"),
        ("imagenet-linear", 384, 12, "has width 384 and depth 12"),
        ("imagenet-knn", 384, 12, None),
    ],
)
def test_the_recipe_for_the_size_is_named(recipe: str, width: int, depth: int, advice: str | None) -> None:
    config: Any = resolve(recipe).config
    run: Any = SimpleNamespace(config=config)
    backbone: Any = SimpleNamespace(width=width, depth=depth, spec="timm:some")
    text = other_size(run, backbone, config.published_arch)
    assert text is None if advice is None else text is not None and text.endswith(advice)
