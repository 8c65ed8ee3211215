"""The shipped classification recipes: valid, documented, and with the values that were published."""

from __future__ import annotations

from typing import Any

import pytest

from downstream import ADAPTERS
from mae_bench import registry
from mae_bench.errors import MaeBenchError
from mae_bench.optim import lr_at
from mae_bench.plan import peak_lr
from mae_bench.recipe import find, published, resolve
from mae_bench.resources import recipes, root_text
from mae_bench.settings import deviations, flatten, plain

RECIPES = sorted(
    name
    for name, path in recipes().items()
    # test_transfer_recipes.py looks at those with few labels.
    if "imagenet-" in name and root_text(path, "task") != "robustness.imagenet" and not name.endswith("pct")
)
OFFICIAL = [name for name in RECIPES if not name.startswith("demo/")]

# He et al., arXiv:2111.06377, Tables 9 to 11, and facebookresearch/mae @ efb2a80, FINETUNE.md, where a recipe's notes
# say that they follow the release.
PUBLISHED: dict[str, dict[str, Any]] = {
    "imagenet-finetune": {
        "train.epochs": 100, "train.batch": 1024, "optim.name": "adamw", "optim.blr": 5e-4, "optim.layer_decay": 0.65,
        "optim.weight_decay": 0.05, "optim.betas": [0.9, 0.999], "optim.warmup_epochs": 5, "optim.min_lr": 1e-6,
        "drop_path": 0.1, "mix.mixup": 0.8, "mix.cutmix": 1.0, "mix.prob": 1.0, "mix.switch_prob": 0.5,
        "label_smoothing": 0.1, "pooling": "mean", "data.augment.rand_augment": "rand-m9-mstd0.5-inc1",
        "data.augment.erase.prob": 0.25, "data.augment.erase.mode": "pixel", "data.evaluation.resize": 256,
        "data.augment.crop.scale": [0.08, 1.0], "data.augment.color_jitter": 0.0,
    },
    "imagenet-finetune-large": {
        "train.epochs": 50, "optim.blr": 1e-3, "optim.layer_decay": 0.75, "drop_path": 0.2, "train.batch": 1024,
    },
    "imagenet-finetune-huge": {
        "train.epochs": 50, "optim.blr": 1e-3, "optim.layer_decay": 0.75, "drop_path": 0.3, "train.batch": 1024,
    },
    "imagenet-finetune-huge-448": {
        "data.image_size": [448, 448], "data.evaluation.resize": 448, "train.epochs": 50, "optim.blr": 1e-3,
        "optim.layer_decay": 0.75, "drop_path": 0.3,
    },
    "imagenet-linear": {
        "train.epochs": 90, "train.batch": 16384, "optim.name": "lars", "optim.blr": 0.1, "optim.weight_decay": 0.0,
        "optim.momentum": 0.9, "optim.trust_coefficient": 0.001, "optim.warmup_epochs": 10, "optim.min_lr": 0.0,
        "pooling": "cls", "data.augment.crop.kind": "random_resized_once", "data.evaluation.resize": 256,
    },
    "imagenet-linear-large": {"train.epochs": 50, "optim.blr": 0.1, "train.batch": 16384},
    "imagenet-linear-huge": {"train.epochs": 50, "optim.blr": 0.1, "train.batch": 16384},
    "imagenet-linear-sweep": {"train.epochs": 90, "optim.blr": 0.1, "train.batch": 16384, "protocol": "imagenet-linear"},
    "imagenet-partial": {
        "train.epochs": 100, "train.batch": 1024, "optim.blr": 1e-3, "optim.layer_decay": 0.75, "drop_path": 0.1,
        "optim.weight_decay": 0.05, "optim.warmup_epochs": 5, "mix.mixup": 0.8, "mix.cutmix": 1.0,
        "label_smoothing": 0.1, "data.augment.erase": None, "pooling": "cls",
    },
    "imagenet-partial-large": {"train.epochs": 50, "optim.blr": 1e-3, "optim.layer_decay": 0.75, "drop_path": 0.1},
    "imagenet-partial-huge": {"train.epochs": 50, "optim.blr": 1e-3, "optim.layer_decay": 0.75, "drop_path": 0.2},
    "imagenet-scratch": {
        "train.epochs": 300, "train.batch": 4096, "train.ema": 0.9999, "optim.blr": 1e-4, "optim.betas": [0.9, 0.95],
        "optim.weight_decay": 0.3, "optim.warmup_epochs": 20, "optim.layer_decay": None, "drop_path": 0.1,
        "mix.mixup": 0.8, "mix.cutmix": 1.0, "label_smoothing": 0.1,
    },
    "imagenet-scratch-large": {"train.epochs": 200, "drop_path": 0.2, "train.ema": 0.9999, "optim.weight_decay": 0.3},
    "imagenet-scratch-huge": {"train.epochs": 200, "drop_path": 0.2, "train.ema": 0.9999, "optim.weight_decay": 0.3},
    "imagenet-knn": {"k": [10, 20, 100, 200], "headline_k": 20, "temperature": 0.07, "pooling": "cls"},
}  # fmt: skip
EXPECTED = {
    "imagenet-finetune": 83.6,
    "imagenet-finetune-large": 85.9,
    "imagenet-finetune-huge": 86.9,
    "imagenet-finetune-huge-448": 87.8,
    "imagenet-linear": 68.0,
    "imagenet-linear-large": 75.8,
    "imagenet-linear-huge": 76.6,
    "imagenet-partial-large": 84.2,
    "imagenet-scratch": 82.3,
    "imagenet-scratch-large": 82.6,
    "imagenet-scratch-huge": 83.1,
}
SIZES = {"": (768, 12), "-large": (1024, 24), "-huge": (1280, 32)}


def test_the_catalogue_has_every_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    # An adapter can be read without the engine that it needs.
    monkeypatch.setattr(registry.Entry, "missing", lambda self: [])
    catalogue = registry.adapters()
    assert set(ADAPTERS) <= set(catalogue.entries)
    found = {name: (catalogue.load(name).task, catalogue.load(name).engine) for name in ADAPTERS}
    raw = {"mmdet": "detection", "detectron2": "detection", "mmseg": "segmentation"}
    for name, (task, engine) in found.items():
        family, _, last = name.partition(".")
        if family in ("detection", "segmentation", "native"):
            assert (task, engine) == (raw[last] if family == "native" else family, last)
        elif family == "robustness":
            assert (task, engine) == (f"{last}-robustness", None)
        else:
            assert (task, engine) == (name.replace(".", "-"), None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_says_where_it_comes_from(name: str) -> None:
    resolved = resolve(name)
    assert resolved.config.task in ADAPTERS
    assert resolved.adapter_class.task in name
    head = find(name).read_text(encoding="utf-8").split("task:")[0].split("extends:")[0]
    for part in ("Source", "Command", "Cost", "Expected"):
        assert f"# {part}" in head, f"{name} lacks {part} in its head comment"
    assert f"mae-bench run --task {name} " in head


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_values(name: str) -> None:
    values = flatten(plain(resolve(name).config))
    assert {key: values[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert [entry.value for entry in resolve(name).config.expected] == (
        [EXPECTED[name]] if name in EXPECTED else []
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_recipe_knows_its_size_of_backbone(name: str) -> None:
    arch = resolve(name).config.published_arch  # type: ignore[attr-defined]
    if name == "imagenet-knn":
        assert arch is None
        return
    size = next(size for size in ("-large", "-huge", "") if size in name)
    assert (arch.width, arch.depth) == SIZES[size]


def test_peak_rates() -> None:
    # lr = blr x batch / 256: 2e-3 and 4e-3 are in mmpretrain's files too, 6.4 in FINETUNE.md.
    rates = {
        "imagenet-finetune": 2e-3,
        "imagenet-finetune-large": 4e-3,
        "imagenet-linear": 6.4,
        "imagenet-scratch": 1.6e-3,
    }
    for name, rate in rates.items():
        config: Any = resolve(name).config
        assert peak_lr(config) == pytest.approx(rate)
        assert lr_at(0, 100, peak=peak_lr(config), warmup_steps=5) == 0


def test_a_sweep_departs_from_its_protocol_and_an_official_recipe_does_not() -> None:
    sweep = resolve("imagenet-linear-sweep").config
    against = published(sweep)
    assert against is not None
    assert {entry.key for entry in deviations(sweep, against)} == {"learning_rates", "holdout"}
    assert 0.1 in sweep.learning_rates  # type: ignore[attr-defined]
    for name in OFFICIAL:
        config = resolve(name).config
        if config.protocol is None:
            own = published(config)
            assert own is not None
            assert deviations(config, own) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rates=null", "holdout: there is one learning rate and nothing to choose"),
        ("holdout=null", "holdout: give the share of the training images"),
        ("learning_rates=[0.1, 0.1]", "learning_rates: a rate stands there twice"),
        ("learning_rates=[0.1]", "learning_rates: should have at least 2"),
        ("train.micro_batch=auto", "train.micro_batch: should be a multiple of norm_batch = 512"),
        ("norm_batch=300", "train.micro_batch: should be a multiple of norm_batch = 300"),
        ("train.clip_grad=1.0", "train.clip_grad: clips all learning_rates together"),
        ("optim.min_lr=0.1", "optim.min_lr: must be 0 with learning_rates"),
        ("optim.layer_decay=0.5", "optim.layer_decay: a linear probe has one layer"),
        ("holdout=1.5", "holdout: should be less than 1"),
        ("pooling=max", "pooling: should be 'mean' or 'cls'"),
    ],
)
def test_settings_that_make_no_sense(override: str, message: str) -> None:
    with pytest.raises(MaeBenchError) as error:
        resolve("imagenet-linear-sweep", [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("headline_k=7", "headline_k: 7 is not one of k"),
        ("k=[20, 20]", "k: a number stands twice"),
        ("temperature=0", "temperature: should be more than 0"),
    ],
)
def test_knn_settings_that_make_no_sense(override: str, message: str) -> None:
    with pytest.raises(MaeBenchError) as error:
        resolve("imagenet-knn", [override])
    assert message in str(error.value)
