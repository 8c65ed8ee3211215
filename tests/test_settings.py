"""What a user reads when a value of a recipe is wrong, and what stands in the hash of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench import recipe, settings
from mae_bench.errors import MaeBenchError
from mae_bench.settings import TrainedConfig, deviations, protocol_values, recipe_hash
from tests.plugins import Site

RECIPE = """\
# A toy.
task: toy
data:
  name: points
  root: points
train:
  epochs: 10
  batch: 256
optim:
  blr: 1e-4
"""


@pytest.fixture(autouse=True)
def _toy(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site.toy()
    monkeypatch.chdir(tmp_path)


def resolve(text: str = RECIPE, *overrides: str) -> Any:
    Path("toy.yaml").write_text(text, encoding="utf-8")
    return recipe.resolve("toy.yaml", overrides).config


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(MaeBenchError) as caught:
        resolve(text, *overrides)
    return str(caught.value)


def test_numbers_are_what_they_look_like() -> None:
    config = resolve(RECIPE, "train.batch=010", "optim.min_lr=1e-4", "data.name=off", "blocks=2")
    assert (config.optim.blr, config.train.batch, config.optim.min_lr) == (1e-4, 10, 1e-4)
    assert config.data.name == "off"
    assert (config.blocks, type(config.blocks)) == (2.0, float)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=off", 'optim.lr: should be a number, not "off" (override)'),
        ("optim.lr=true", "optim.lr: should be a number, not true (override)"),
        ("optim.lr=1e-3", "optim: give lr or blr, not both (null takes one away) (toy.yaml:9)"),
        ("optim.blr=null", "optim: give lr or blr (toy.yaml:9)"),
        ("optim.blr=0", "optim.blr: should be more than 0, not 0 (override)"),
        ("optim.blr=.inf", "optim.blr: should be a finite number, not Infinity (override)"),
        ("optim.warmpu_epochs=1", "optim.warmpu_epochs: unknown key (override); "
         "did you mean 'warmup_epochs' or 'warmup_steps' or 'warmup_factor'?"),
        ("ema=0.9", "ema: unknown key (override); did you mean 'train.ema'?"),
        ("optim.name=adam", "optim.name: should be 'adamw', 'sgd' or 'lars', not \"adam\" (override)"),
        ("optim=adamw", 'optim: should be a mapping of keys, not "adamw" (override)'),
        ("optim={name: sgd}", "optim: give lr or blr (override)"),
        ("train.batch=256.0", "train.batch: should be a whole number, not 256.0 (override)"),
        ("train.batch='256'", 'train.batch: should be a whole number, not "256" (override)'),
        ("train.batch=1_000", 'train.batch: should be a whole number, not "1_000" (override)'),
        ("train.micro_batch=all", "train.micro_batch: should be a whole number or 'auto', not \"all\" (override)"),
        ("train.micro_batch=0", "train.micro_batch: should be at least 1 or 'auto', not 0 (override)"),
        ("train.compile=yes", 'train.compile: should be true or false, not "yes" (override)'),
        ("data.image_size=[32]", "data.image_size: should have at least 2 elements, not [32] (override)"),
        ("data.image_size=[32, x]", 'data.image_size.1: should be a whole number, not "x" (override)'),
        ("data.image_size=32", "data.image_size: should be a list, not 32 (override)"),
        ("data.image_size.0=32", 'data.image_size: should be a list, not {"0": 32} (override)'),
        ("data.augment=null", "data.augment: should be a mapping of keys, not null (override)"),
        ("data.augment.erase.prob=2", "data.augment.erase.prob: should be at most 1, not 2 (override)"),
        ("data.augment.erase.prb=0.5", "data.augment.erase.prb: unknown key (override); did you mean 'prob'?"),
        ("notes=text", 'notes: should be a list, not "text" (override)'),
        ("expected=[{metric: top1, valu: 1}]",
         "expected.0.value: missing (override)\n"
         "expected.0.source: missing (override)\n"
         "expected.0.valu: unknown key (override); did you mean 'value'?"),
        ("seed=-1", "seed: should be at least 0, not -1 (override)"),
        ("data.name=007", "data.name: should be text, not 7 (override)"),
    ],
)  # fmt: skip
def test_messages_for_overrides(override: str, message: str) -> None:
    assert refusal(RECIPE, override) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  batch: 256", "  batch: yes", 'train.batch: should be a whole number, not "yes" (toy.yaml:8)'),
        ("  batch: 256", "", "train.batch: missing (toy.yaml:6)"),
        ("  batch: 256", "  batch: 256\n  epochs: 2",
         "toy.yaml: the key 'train.epochs' stands twice, on line 7 and on line 9"),
        ("  batch: 256", "  batch: 256\n  bach: 2",
         "train.bach: unknown key (toy.yaml:9); did you mean 'batch' or 'micro_batch'?"),
        ("optim:\n  blr: 1e-4\n", "", "optim: missing (toy.yaml)"),
        ("blr: 1e-4", "blr: 1e-4\n  optim.lr: 2",
         "optim.optim.lr: unknown key (toy.yaml:11); did you mean 'optim.lr'?"),
        ("task: toy", "task: toi", "task: unknown adapter 'toi'; did you mean 'toy' or 'toy.picky'? (toy.yaml:2)"),
        ("task: toy", "", "task: should be the name of an adapter, not null (toy.yaml)"),
        ("task: toy", "task: [toy]", "task: should be the name of an adapter, not [toy] (toy.yaml:2)"),
    ],
)  # fmt: skip
def test_messages_for_a_file(old: str, new: str, message: str) -> None:
    assert old in RECIPE
    assert refusal(RECIPE.replace(old, new)) == message


def test_every_fault_is_told_at_once() -> None:
    assert refusal(RECIPE, "optim.blr=x", "train.batch=0", "foo=1").splitlines() == [
        "train.batch: should be at least 1, not 0 (override)",
        'optim.blr: should be a number, not "x" (override)',
        "foo: unknown key (override)",
    ]


def test_a_missing_file() -> None:
    Path("toy.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(MaeBenchError) as caught:
        recipe.resolve("toi.yaml")
    assert str(caught.value) == "toi.yaml does not exist; did you mean 'toy'?"


def test_runtime_values_do_not_change_the_recipe_hash() -> None:
    plain = resolve()
    runtime = resolve(RECIPE, "seed=3", "train.micro_batch=8", "data.root=/elsewhere", "wandb={project: p}")
    changed = resolve(RECIPE, "optim.blr=2e-4")
    assert recipe_hash(plain) == recipe_hash(runtime) != recipe_hash(changed)


def test_whole_and_decimal_numbers_hash_alike() -> None:
    assert recipe_hash(resolve(RECIPE, "train.epochs=3")) == recipe_hash(
        resolve(RECIPE.replace("epochs: 10", "epochs: 3.0"))
    )


def test_deviations_are_named_by_key() -> None:
    published = resolve()
    ours = resolve(RECIPE, "train.epochs=1", "data.augment.erase={prob: 0.1}", "seed=9")
    assert [(d.key, d.published, d.ours) for d in deviations(ours, published)] == [
        ("train.epochs", 10.0, 1.0),
        ("data.augment.erase.prob", None, 0.1),
        ("data.augment.erase.mode", None, "pixel"),
        ("data.augment.erase.count", None, 1),
    ]


def test_what_is_written_resolves_to_the_same() -> None:
    from mae_bench import yamlfile

    config = resolve(RECIPE, "data.augment.erase={}", "optim.min_lr=1e-6", "wandb={}", "notes=[a, off]")
    again = resolve(yamlfile.dump(settings.plain(config)))
    assert again == config
    assert protocol_values(again) == protocol_values(config)


def test_settings_cannot_be_changed_once_built() -> None:
    config: TrainedConfig = resolve()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
