"""The recipes of iNaturalist, Places and few labels: the published values, the data, and what is left open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mae_bench.published import other_size
from mae_bench.recipe import find, published, resolve
from mae_bench.resources import recipes
from mae_bench.settings import deviations, flatten, plain

SIZES = {"": "imagenet-finetune", "-large": "imagenet-finetune-large", "-huge": "imagenet-finetune-huge",
         "-huge-448": "imagenet-finetune-huge-448"}  # fmt: skip
ARCHS = {"": (768, 12), "-large": (1024, 24), "-huge": (1280, 32), "-huge-448": (1280, 32)}

# He et al., arXiv:2111.06377, Table 6: ViT-B, ViT-L, ViT-H and ViT-H at 448 pixels.
TABLE6: dict[str, tuple[float, ...] | None] = {
    "inat17": (70.5, 75.7, 79.3, 83.4),
    "inat18": (75.4, 80.1, 83.0, 86.8),
    "inat19": (80.5, 83.4, 85.7, 88.3),
    "inat21": None,
    "places205": (63.9, 65.8, 65.9, 66.8),
    "places365": (57.9, 59.4, 59.8, 60.3),
}
# visipedia/inat_comp, the years' README.md; Places205 and Places365 after their catalogues.
CLASSES = {
    "inat17": 5089,
    "inat18": 8142,
    "inat19": 1010,
    "inat21": 10000,
    "places205": 205,
    "places365": 365,
}
DATA: dict[str, dict[str, Any]] = {
    "inat17": {"name": "inat-2017", "source": "inat", "train": "train2017.json", "val": "val2017.json"},
    "inat18": {"name": "inat-2018", "source": "inat", "train": "train2018.json", "val": "val2018.json"},
    "inat19": {"name": "inat-2019", "source": "inat", "train": "train2019.json", "val": "val2019.json"},
    "inat21": {"name": "inat-2021", "source": "inat", "train": "train.json", "val": "val.json"},
    "places205": {
        "name": "places205", "source": "filelist", "train": "train_places205.csv", "val": "val_places205.csv",
        "train_images": "images256", "val_images": "images256",
    },
    "places365": {
        "name": "places365", "source": "filelist", "train": "places365_train_standard.txt", "val": "places365_val.txt",
        "train_images": "data_256", "val_images": "val_256", "class_list": "categories_places365.txt",
    },
}  # fmt: skip
FINETUNED = [f"{name}{size}" for name in TABLE6 for size in SIZES]
FROZEN = [f"{name}-{how}" for name in TABLE6 for how in ("linear", "knn")]
FEW = [f"imagenet-{how}-{share}pct" for how in ("finetune", "linear") for share in (1, 10)]
DEMO = ["demo/inat18-finetune", "demo/places365-linear", "demo/places365-knn", "demo/imagenet-finetune-5shot"]
ALL = [*FINETUNED, *FROZEN, "inat21-mini", *FEW, *DEMO]


def values(name: str) -> dict[str, Any]:
    return flatten(plain(resolve(name).config))


def parts(recipe: str) -> tuple[str, str]:
    """``inat18``, ``-huge`` of ``inat18-huge``."""
    name, dash, rest = recipe.partition("-")
    return name, dash + rest


def test_every_recipe_of_these_datasets_is_looked_at() -> None:
    shipped = {
        name for name in recipes("tasks") if name.startswith(("inat", "places")) or name.endswith("pct")
    }
    assert shipped == {name for name in ALL if not name.startswith("demo/")}


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    resolved = resolve(name)
    head = find(name).read_text(encoding="utf-8").split("extends:")[0]
    for part in ("Source", "Command", "Cost", "Expected", *(["Data"] if "demo" not in name else [])):
        assert f"# {part}" in head, f"{name} lacks {part} in its head comment"
    assert f"mae-bench run --task {name} " in head
    assert max(map(len, head.splitlines())) <= 120
    if "demo" not in name:
        assert resolved.config.notes, "every recipe here has a choice to tell of"


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("demo/")])
def test_lists_are_the_recipes_own_and_not_its_parents(name: str) -> None:
    text = find(name).read_text(encoding="utf-8")
    assert "\nnotes:\n" in text
    assert "\nexpected:" in text or name.endswith("-knn")


@pytest.mark.parametrize("recipe", FINETUNED)
def test_fine_tuning_is_that_of_imagenet_but_for_the_data(recipe: str) -> None:
    name, size = parts(recipe)
    config: Any = resolve(recipe).config
    allowed = {"data.name", "data.classes"}
    assert {entry.key for entry in deviations(config, resolve(SIZES[size]).config)} == allowed
    assert (config.published_arch.width, config.published_arch.depth) == ARCHS[size]
    top1 = TABLE6[name]
    assert [(entry.metric, entry.value) for entry in config.expected] == (
        [("top1", top1[list(SIZES).index(size)])] if top1 is not None else []
    )
    first = config.notes[0]
    assert SIZES[size] in first
    assert ("leaves both open (appendix A.5)" in first) is (top1 is not None)


@pytest.mark.parametrize("recipe", FROZEN)
def test_frozen_features_are_judged_as_on_imagenet(recipe: str) -> None:
    _, how = parts(recipe)
    config: Any = resolve(recipe).config
    parent = resolve(f"imagenet{how}").config
    assert {entry.key for entry in deviations(config, parent)} == {"data.name", "data.classes"}
    assert config.expected == [], "nothing published is by this protocol"
    assert config.published_arch is None
    assert not set(config.notes) & set(parent.notes)


@pytest.mark.parametrize("recipe", [*FINETUNED, *FROZEN])
def test_data_lies_as_its_makers_have_it(recipe: str) -> None:
    name, how = parts(recipe)
    expected = DATA[name] | {"root": name, "classes": CLASSES[name]}
    if (name, how) == ("places365", "-huge-448"):
        expected |= {"train_images": "data_large", "val_images": "val_large"}
    data = plain(resolve(recipe).config)["data"]
    assert {key: data[key] for key in expected} == expected
    at_448 = how == "-huge-448"
    assert data["image_size"] == ([448, 448] if at_448 else [224, 224])
    assert data["evaluation"]["resize"] == (448 if at_448 else 256)


def test_the_small_training_set_of_2021_is_another_dataset() -> None:
    small, whole = (plain(resolve(name).config)["data"] for name in ("inat21-mini", "inat21"))
    changed = {key for key in small if small[key] != whole[key]}
    assert changed == {"name", "train"}
    assert (small["name"], small["train"]) == ("inat-2021-mini", "train_mini.json")


def override(recipe: str) -> list[list[str]]:
    """The overrides that a recipe's head tells, by line."""
    head = find(recipe).read_text(encoding="utf-8").split("# Command")[0].split("# Data")[1]
    lines = [line.partition(": ")[2] for line in head.splitlines() if "data." in line and ": " in line]
    return [
        [word.strip("'") for word in line.split(" ") if word.startswith(("data.", "'data."))]
        for line in lines
    ]


@pytest.mark.parametrize("recipe", [*(name for name in FINETUNED if "-" not in name), "inat21-mini"])
def test_the_other_layouts_that_the_head_tells_are_valid(recipe: str) -> None:
    told = override(recipe)
    assert len(told) >= (1 if recipe == "places205" else 2)
    for overrides in told:
        assert overrides
        resolve(recipe, overrides)


def test_a_backbone_of_another_size_is_sent_to_its_recipe() -> None:
    run: Any = SimpleNamespace(config=resolve("inat18").config)
    large: Any = SimpleNamespace(width=1024, depth=24, spec="timm:x")
    said = other_size(run, large, run.config.published_arch)
    assert said is not None
    assert said.endswith("use the recipe inat18-large")
    probe: Any = SimpleNamespace(config=resolve("inat18-linear").config)
    assert other_size(probe, large, probe.config.published_arch) is None


# ---------------------------------------------------------------- few labels

# Images of ImageNet-1K: 1,281,167. Its smallest class has 732, so every class keeps some of a hundredth.
IMAGES = 1_281_167


@pytest.mark.parametrize(("name", "fraction"), [(name, 0.01 if "-1pct" in name else 0.1) for name in FEW])
def test_few_labels(name: str, fraction: float) -> None:
    config: Any = resolve(name).config
    subset = config.data.subset
    assert (subset.fraction, subset.seed) == (fraction, 0)
    held_out = getattr(config, "holdout", None) or 0.0
    assert config.train.batch <= IMAGES * fraction * (1 - held_out)
    assert config.expected == []
    assert config.published_arch is None
    against = published(config)
    assert against is not None
    assert config.protocol == name.rsplit("-", 1)[0]
    changed = {entry.key for entry in deviations(config, against)} - {
        "data.subset.fraction",
        "data.subset.seed",
    }
    assert (
        changed
        == {
            "imagenet-finetune-1pct": {"train.batch"},
            "imagenet-finetune-10pct": set(),
            "imagenet-linear-1pct": {"train.batch", "learning_rates", "holdout"},
            "imagenet-linear-10pct": {"train.batch", "learning_rates", "holdout"},
        }[name]
    )


@pytest.mark.parametrize("name", FEW)
def test_lists_and_shots_take_the_place_of_the_draw(name: str) -> None:
    for way, key, value in (
        ("{per_class: 5}", "per_class", 5),
        ("{list: 1percent.txt}", "list", "1percent.txt"),
    ):
        subset = resolve(name, [f"data.subset={way}"]).config.data.subset  # type: ignore[attr-defined]
        assert getattr(subset, key) == value
        assert subset.fraction is None


def test_one_image_a_class_goes_without_holding_out() -> None:
    overrides = ["data.subset={per_class: 1}", "learning_rates=null", "holdout=null", "optim.blr=10"]
    head = find("imagenet-linear-1pct").read_text(encoding="utf-8")
    assert "'data.subset={per_class: 1}' learning_rates=null holdout=null optim.blr=10" in head
    config: Any = resolve("imagenet-linear-1pct", overrides).config
    assert config.train.batch <= 1000


# ---------------------------------------------------------------- miniatures


@pytest.mark.parametrize(
    ("name", "protocol", "root"),
    [
        ("demo/inat18-finetune", "inat18", "generated/faces/inat"),
        ("demo/places365-linear", "places365-linear", "generated/faces/places"),
        ("demo/places365-knn", "places365-knn", "generated/faces/places"),
        ("demo/imagenet-finetune-5shot", "imagenet-finetune-1pct", "generated/shapes"),
    ],
)
def test_miniatures_name_what_they_are_miniatures_of(name: str, protocol: str, root: str) -> None:
    config: Any = resolve(name).config
    assert (config.protocol, config.data.root) == (protocol, root)
    real = resolve(protocol).config
    assert config.data.source == real.data.source  # type: ignore[attr-defined]
    for key in ("train", "val", "train_images", "val_images", "class_list"):
        assert getattr(config.data, key) == getattr(real.data, key)  # type: ignore[attr-defined]
    assert config.data.name.startswith("generated-")
