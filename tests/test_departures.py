"""Departures from a protocol in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from mae_bench import resources
from mae_bench.departures import dataset, phrases, sentence, settings, show
from mae_bench.recipe import resolve
from mae_bench.results import DeviationRecord
from mae_bench.settings import AugmentSettings, EraseSettings, SubsetSettings, deviations


def records(*triples: tuple[str, Any, Any]) -> list[DeviationRecord]:
    return [DeviationRecord(key=key, published=published, ours=ours) for key, published, ours in triples]


@pytest.mark.parametrize(
    ("triple", "words"),
    [
        (("train.epochs", 100.0, 12.0), "12 of 100 epochs"),
        (("train.epochs", 100, 200), "200 epochs (published 100)"),
        (("train.epochs", 100, 0.5), "0.5 of 100 epochs"),
        (("train.batch", 1024, 64), "batch 64 of 1024"),
        (("train.batch", 1024, 4096), "batch 4096 (published 1024)"),
        (("data.name", "imagenet-1k", "generated/shapes"), "on generated/shapes, not ImageNet-1K"),
        (("task", "detection.torchvision", "detection.mmdet"), "engine mmdet, not torchvision"),
        (("data.classes", 1000, 10), "10 of 1000 classes"),
        (("data.image_size", [224, 224], [32, 32]), "image size 32 x 32 (published 224 x 224)"),
        (("optim.blr", 5e-4, 1e-6), "base learning rate 1e-6 (published 0.0005)"),
        (("optim.betas", [0.9, 0.999], [0.9, 0.95]), "betas 0.9, 0.95 (published 0.9, 0.999)"),
        (("train.ema", 0.9999, None), "no weight averaging (published 0.9999)"),
        (("train.clip_grad", None, 1.0), "gradient clipping 1 (published none)"),
        (("data.augment.flip", 0.5, 0.0), "flip 0 (published 0.5)"),
        (("data.evaluation.mode", "slide", "whole"), "evaluation whole (published slide)"),
        (("data.evaluation.scales", [1.0], [0.5, 1.0]), "scales at evaluation 0.5, 1 (published 1)"),
        (("data.evaluation.flip", False, True), "mirrored pictures at evaluation on (published off)"),
        (("evaluate_on", "val", "test"), "split evaluated test (published val)"),
        (("model.heads.cascade", False, True), "cascade on (published off)"),
        (("head.depth", 2, 4), "head.depth: 4 (published 2)"),
        (("head.bias", True, False), "head.bias: off (published on)"),
    ],
)
def test_one_key(triple: tuple[str, Any, Any], words: str) -> None:
    assert phrases(records(triple)) == [words]


def test_keys_that_make_up_one_thing_are_said_together() -> None:
    assert phrases(records(("train.epochs", 100, None), ("train.steps", None, 300))) == [
        "300 steps instead of 100 epochs"
    ]
    assert phrases(records(("optim.lr", None, 0.001), ("optim.blr", 5e-4, None))) == [
        "learning rate 0.001 instead of base learning rate 0.0005"
    ]
    assert phrases(records(("optim.warmup_epochs", 5, None), ("optim.warmup_steps", None, 10))) == [
        "warm-up steps 10 instead of warm-up epochs 5"
    ]


FRACTION, PER_CLASS, LIST, DRAW = (f"data.subset.{key}" for key in ("fraction", "per_class", "list", "seed"))


@pytest.mark.parametrize(
    ("triples", "words"),
    [
        ([(FRACTION, None, 0.01), (DRAW, None, 0)], "1 % of the training images"),
        ([(FRACTION, None, 0.07), (DRAW, None, 2)], "7 % of the training images (draw 2)"),
        ([(PER_CLASS, None, 1), (DRAW, None, 0)], "1 training image a class"),
        ([(PER_CLASS, None, 5), (DRAW, None, 1)], "5 training images a class (draw 1)"),
        ([(LIST, None, "1percent.txt"), (DRAW, None, 0)], "the training images of the list 1percent.txt"),
        (
            [(FRACTION, 0.01, None), (DRAW, 0, None)],
            "all training images (published 1 % of the training images)",
        ),
        ([(FRACTION, 0.01, 0.1)], "10 % of the training images (published 1 % of the training images)"),
        (
            [(FRACTION, 0.01, None), (PER_CLASS, None, 5)],
            "5 training images a class (published 1 % of the training images)",
        ),
        ([(DRAW, 0, 3)], "draw 3 of the training images (published draw 0 of the training images)"),
    ],
)
def test_a_part_of_the_training_images_is_one_phrase(triples: list[tuple[str, Any, Any]], words: str) -> None:
    assert phrases(records(*triples)) == [words]
    assert sentence(records(("train.batch", 1024, 64), *triples)) == f"{words}, batch 64 of 1024"


def test_the_settings_of_a_subset_are_those_of_its_phrase() -> None:
    # A new way of choosing images needs words.
    assert set(SubsetSettings.model_fields) == {"fraction", "per_class", "list", "seed"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({FRACTION: 0.1, DRAW: 0, "train.batch": 64}, ["10 % of the training images", "batch 64"]),
        ({FRACTION: None, DRAW: None}, ["all training images"]),
        ({DRAW: 1}, ["draw 1 of the training images"]),
        ({FRACTION: None, LIST: "few.txt"}, ["the training images of the list few.txt"]),
    ],
)
def test_a_part_of_the_training_images_names_a_row(values: dict[str, Any], words: list[str]) -> None:
    assert settings(values) == words


def test_a_section_left_out_or_added_is_one_phrase() -> None:
    with_erase = AugmentSettings(erase=EraseSettings())
    without = AugmentSettings()

    def inside_data(ours: AugmentSettings, published: AugmentSettings) -> list[DeviationRecord]:
        found = deviations(ours, published)
        return records(*((f"data.augment.{d.key}", d.published, d.ours) for d in found))

    assert phrases(inside_data(without, with_erase)) == ["no random erasing"]
    assert phrases(inside_data(with_erase, without)) == [
        "random erasing added (prob 0.25, mode pixel, count 1)"
    ]
    weaker = AugmentSettings(erase=EraseSettings(prob=0.1))
    assert phrases(inside_data(weaker, with_erase)) == ["probability of random erasing 0.1 (published 0.25)"]


def test_a_sentence_begins_with_the_data_and_ends_with_what_has_no_words() -> None:
    text = sentence(
        records(
            ("a.b", 1, 2),
            ("train.batch", 1024, 64),
            ("data.name", "imagenet-1k", "generated/shapes"),
            ("train.epochs", 100, 12),
        )
    )
    assert text == (
        "on generated/shapes, not ImageNet-1K; 12 of 100 epochs, batch 64 of 1024, a.b: 2 (published 1)"
    )
    assert sentence([]) == ""


def test_the_axis_of_a_figure_is_no_departure() -> None:
    assert sentence(records(("blocks", 4.0, 1.0)), skip={"blocks"}) == ""


def test_settings_name_a_row() -> None:
    assert settings(
        {
            "train.epochs": None,
            "train.steps": 300,
            "train.batch": 64,
            "data.name": "cifar-10",
            "data.augment.erase.prob": None,
            "data.augment.erase.mode": None,
            "train.ema": None,
            "a.b": 1,
        }
    ) == [
        "on CIFAR-10",
        "300 steps",
        "batch 64",
        "no weight averaging",
        "a.b 1",
        "no random erasing",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1e-6"),
        (1e10, "1e10"),
        (0.25, "0.25"),
        (None, "none"),
        ({"a": 1}, "a 1"),
        ("x", "x"),
        ([1], "1"),
    ],
)
def test_values_look_as_a_person_writes_them(value: Any, text: str) -> None:
    assert show(value) == text


def test_datasets_of_the_recipes_have_their_usual_spelling() -> None:
    recipes = [
        name for name in resources.recipes("tasks") if name.startswith(("imagenet-f", "inat", "places"))
    ]
    names = {resolve(recipe).config.data.name for recipe in recipes}  # type: ignore[attr-defined]
    spelled = {name: dataset(name) for name in names}
    assert spelled["inat-2018"] == "iNaturalist 2018"
    assert [name for name, words in spelled.items() if words == name] == []
