"""Departures from a published protocol in plain words: `12 of 100 epochs, batch 64 of 1024`.

A run records its departures as triples (key, published value, our value). A reader of a table should not
need to know our configuration keys, so the common ones have phrases here; any other key is still said, as
`key: ours (published x)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mae_bench.results import IMPORTED_KEY, DeviationRecord

DATASET_KEY = "data.name"
# The adapter: what else computes the same task is another engine.
TASK_KEY = "task"
# The part of the training images that is trained on; below it stand three ways of saying which, and a seed.
SUBSET_KEY = "data.subset"

_DATASETS = {
    "ade20k": "ADE20K",
    "cifar-10": "CIFAR-10",
    "cifar-100": "CIFAR-100",
    "coco": "COCO",
    "imagenet-1k": "ImageNet-1K",
    "imagenet-a": "ImageNet-A",
    "imagenet-c": "ImageNet-C",
    "imagenet-r": "ImageNet-R",
    "imagenet-real": "ImageNet-ReaL",
    "imagenet-sketch": "ImageNet-Sketch",
    "imagenet-v2": "ImageNet-V2",
    "imagenette": "Imagenette",
    "inat-2017": "iNaturalist 2017",
    "inat-2018": "iNaturalist 2018",
    "inat-2019": "iNaturalist 2019",
    "inat-2021": "iNaturalist 2021",
    "inat-2021-mini": "iNaturalist 2021 (mini)",
    "places205": "Places205",
    "places365": "Places365",
    "tiny-imagenet": "Tiny-ImageNet",
}

# Things that are counted: "12 of 100 epochs".
_COUNTS = {
    "train.epochs": "epochs",
    "train.steps": "steps",
    "data.classes": "classes",
}

# Things that have a value: "batch 64 of 1024" for sizes, "weight decay 0.1 (published 0.05)" for the rest.
_SIZES = {"train.batch": "batch"}
_VALUES = {
    "data.image_size": "image size",
    "data.channels": "image channels",
    "optim.name": "optimiser",
    "optim.lr": "learning rate",
    "optim.blr": "base learning rate",
    "optim.schedule": "schedule",
    "optim.warmup_epochs": "warm-up epochs",
    "optim.warmup_steps": "warm-up steps",
    "optim.min_lr": "final learning rate",
    "optim.weight_decay": "weight decay",
    "optim.layer_decay": "layer decay",
    "optim.betas": "betas",
    "optim.momentum": "momentum",
    "optim.trust_coefficient": "trust coefficient",
    "train.clip_grad": "gradient clipping",
    "train.ema": "weight averaging",
    "precision": "precision",
    "pooling": "pooling",
    "blocks": "tuned blocks",
    "drop_path": "stochastic depth",
    "label_smoothing": "label smoothing",
    "mix.mixup": "mixup",
    "mix.cutmix": "cutmix",
    "mix.prob": "probability of mixing",
    "mix.switch_prob": "probability of cutmix",
    "norm_batch": "batch of the BatchNorm",
    "learning_rates": "learning rates tried",
    "holdout": "share of training images held out",
    "k": "neighbours",
    "headline_k": "reported neighbours",
    "temperature": "temperature",
    "data.augment.crop.kind": "crop",
    "data.augment.crop.scale": "crop scale",
    "data.augment.crop.ratio": "crop aspect ratio",
    "data.augment.crop.padding": "crop padding",
    "data.augment.flip": "flip",
    "data.augment.color_jitter": "colour jitter",
    "data.augment.rand_augment": "RandAugment",
    "data.augment.erase.prob": "probability of random erasing",
    "data.interpolation": "interpolation",
    "data.evaluation.resize": "evaluation resize",
    "data.max_bad_images": "unreadable images allowed",
    "data.augment.scale": "scale of pictures",
    "data.augment.photometric": "photometric distortion",
    "data.evaluation.mode": "evaluation",
    "data.evaluation.base": "size at evaluation",
    "data.evaluation.short_edge": "short edge at evaluation",
    "data.evaluation.long_edge": "long edge at evaluation",
    "data.evaluation.scales": "scales at evaluation",
    "data.evaluation.stride": "stride of windows at evaluation",
    "data.evaluation.flip": "mirrored pictures at evaluation",
    "evaluate_on": "split evaluated",
    "model.head": "head",
    "model.heads.cascade": "cascade",
    "model.freeze": "frozen backbone",
    "model.blocks": "blocks of the maps",
    "model.pyramid.kind": "feature pyramid",
    "model.attention.window": "attention window",
    "model.attention.global_blocks": "blocks of global attention",
    "model.attention.relative_positions": "relative positions",
    "model.relative_positions": "relative positions",
    "model.layer_scale": "LayerScale",
    "model.dropout": "dropout",
    "optim.milestones": "steps of the schedule",
    "mask_ratio": "masking ratio",
    "masking": "sampling of the mask",
    "mask_token": "mask token in",
    "loss_on": "loss on",
    "norm_pix": "normalised pixels",
    "decoder.depth": "decoder depth",
    "decoder.dim": "decoder width",
}

# Sections that are there or not: "no random erasing".
_SECTIONS = {"data.augment.erase": "random erasing", "mix": "mixup and cutmix"}

# Two ways of saying one thing, of which a recipe uses one: (this, or that).
_EITHER = [
    ("train.epochs", "train.steps"),
    ("optim.lr", "optim.blr"),
    ("optim.warmup_epochs", "optim.warmup_steps"),
]

_ORDER = [DATASET_KEY, TASK_KEY, SUBSET_KEY, *_COUNTS, *_SIZES, *_VALUES]


def phrases(deviations: Iterable[DeviationRecord], skip: Collection[str] = ()) -> list[str]:
    """One phrase per departure, what weighs most first.

    Args:
        skip: keys that are no departure in this place, for example the axis of a figure.
    """
    left = {entry.key: (entry.published, entry.ours) for entry in deviations if entry.key not in skip}
    said = [*_said_together(left), *((key, _phrase(key, *pair)) for key, pair in left.items())]
    return [text for _, text in sorted(said, key=lambda pair: _weight(pair[0]))]


def sentence(deviations: Iterable[DeviationRecord], skip: Collection[str] = ()) -> str:
    """All departures in one line, the dataset first; empty if there are none."""
    records = list(deviations)
    data = phrases((entry for entry in records if entry.key == DATASET_KEY), skip)
    others = phrases((entry for entry in records if entry.key != DATASET_KEY), skip)
    return "; ".join([*data, *([", ".join(others)] if others else [])])


def settings(values: Mapping[str, Any]) -> list[str]:
    """Settings of ours to name a row by: `12 epochs`, `batch 64`, `on CIFAR-10`, `no random erasing`.

    Args:
        values: dotted path -> value.
    """
    left = dict(values)
    # "300 steps" says by itself that the length is not given in epochs.
    for pair in _EITHER:
        if all(key in left for key in pair):
            for key in pair:
                if left[key] is None:
                    del left[key]
    for section in _SECTIONS:
        inside = [key for key in left if key.startswith(section + ".") and left[key] is None]
        if inside:
            left = {key: value for key, value in left.items() if key not in inside} | {section: None}
    part = _taken(left, f"{SUBSET_KEY}.")
    if part:
        left[SUBSET_KEY] = _part(part)
    return [_setting(key, left[key]) for key in sorted(left, key=_weight)]


def _setting(key: str, value: Any) -> str:
    if key == SUBSET_KEY:
        return str(value)
    if key == IMPORTED_KEY:
        return "run by mae-bench" if value is None else str(value)
    if key == DATASET_KEY:
        return f"on {dataset(value)}"
    if key == TASK_KEY:
        return f"engine {_engine(value)}"
    if key in _COUNTS:
        return f"{show(value)} {_COUNTS[key]}"
    name = _name(key)
    return f"no {name}" if value is None else f"{name} {show(value)}"


def _engine(adapter: Any) -> str:
    """``mmdet`` of ``detection.mmdet``."""
    return str(adapter).rpartition(".")[2]


def dataset(name: Any) -> str:
    """The usual spelling of a dataset's name."""
    return _DATASETS.get(str(name), str(name))


def show(value: Any) -> str:
    """A setting's value as a person writes it: 1e-6, 224 x 224, none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if isinstance(value, Sequence) and not isinstance(value, str):
        sizes = len(value) == 2 and all(isinstance(item, int) for item in value)
        return (" x " if sizes else ", ").join(show(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items())
    return str(value)


def _said_together(left: dict[str, tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Phrases for departures that several keys make up; takes those keys out of `left`."""
    said = []
    part = _taken(left, f"{SUBSET_KEY}.")
    if part:
        said.append((SUBSET_KEY, _part_phrase(part)))
    for this, that in _EITHER:
        if this not in left or that not in left:
            continue
        for ours_key, published_key in ((this, that), (that, this)):
            ours, published = left[ours_key][1], left[published_key][0]
            if ours is not None and published is not None and left[published_key][1] is None:
                text = f"{_amount(ours_key, ours)} instead of {_amount(published_key, published)}"
                said.append((this, text))
                del left[this], left[that]
                break
    for section, name in _SECTIONS.items():
        inside = [key for key in left if key == section or key.startswith(section + ".")]
        if not inside:
            continue
        if all(left[key][1] is None for key in inside):
            said.append((inside[0], f"no {name}"))
        elif all(left[key][0] is None for key in inside):
            with_what = ", ".join(f"{key.rsplit('.', 1)[-1]} {show(left[key][1])}" for key in inside)
            said.append((inside[0], f"{name} added ({with_what})"))
        else:
            continue
        for key in inside:
            del left[key]
    return said


def _taken(left: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What stands below a prefix, without it; taken out of `left`."""
    return {key.removeprefix(prefix): left.pop(key) for key in list(left) if key.startswith(prefix)}


def _part(subset: Mapping[str, Any]) -> str:
    """The training images that a subset takes, from those of its settings that are known to differ."""
    seed = subset.get("seed")
    draw = f" (draw {seed})" if seed else ""
    if subset.get("fraction") is not None:
        return f"{show(100 * subset['fraction'])} % of the training images{draw}"
    if subset.get("per_class") is not None:
        count = subset["per_class"]
        return f"{count} training {'image' if count == 1 else 'images'} a class{draw}"
    if subset.get("list") is not None:
        return f"the training images of the list {subset['list']}"
    return f"draw {seed} of the training images" if set(subset) == {"seed"} else "all training images"


def _part_phrase(subset: Mapping[str, tuple[Any, Any]]) -> str:
    """How the part of the training images departs; values are (published, ours)."""
    published, ours = ({key: pair[side] for key, pair in subset.items()} for side in (0, 1))
    of_all = all(value is None for value in published.values())
    return _part(ours) if of_all else f"{_part(ours)} (published {_part(published)})"


def _amount(key: str, value: Any) -> str:
    return f"{show(value)} {_COUNTS[key]}" if key in _COUNTS else f"{_name(key)} {show(value)}"


def _phrase(key: str, published: Any, ours: Any) -> str:
    fewer = _is_number(published) and _is_number(ours) and ours < published
    if key == DATASET_KEY:
        return f"on {dataset(ours)}, not {dataset(published)}"
    if key == TASK_KEY:
        return f"engine {_engine(ours)}, not {_engine(published)}"
    if key == IMPORTED_KEY:
        return f"{ours}, where other settings are not recorded"
    if key in _COUNTS and ours is not None:
        if fewer:
            return f"{show(ours)} of {show(published)} {_COUNTS[key]}"
        return f"{show(ours)} {_COUNTS[key]} (published {show(published)})"
    if key in _SIZES and fewer:
        return f"{_SIZES[key]} {show(ours)} of {show(published)}"
    name = _name(key)
    if ours is None:
        return f"no {name} (published {show(published)})"
    if key in _VALUES or key in _SIZES:
        return f"{name} {show(ours)} (published {show(published)})"
    return f"{name}: {show(ours)} (published {show(published)})"


def _name(key: str) -> str:
    return _SECTIONS.get(key) or _COUNTS.get(key) or _SIZES.get(key) or _VALUES.get(key) or key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _weight(key: str) -> tuple[int, str]:
    return (_ORDER.index(key), "") if key in _ORDER else (len(_ORDER), key)
