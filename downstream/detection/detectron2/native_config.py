"""A configuration file of detectron2 with our backbone, dataset and classes in place of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.detection.detectron2.config import text_of
from downstream.detection.detectron2.native_settings import NativeConfig
from mae_bench import screen
from mae_bench.errors import MaeBenchError, near

if TYPE_CHECKING:
    from omegaconf import DictConfig

_OURS = "downstream.detection.detectron2"
STRIDES = [4, 8, 16, 32]
"""Of the maps that detectron2's configurations pool from."""


def read(path: Path) -> DictConfig:
    """The configuration in a file of detectron2's LazyConfig.

    Raises:
        MaeBenchError: it cannot be read, or lacks a part that a training needs.
    """
    from detectron2.config import LazyConfig

    try:
        config: DictConfig = LazyConfig.load(str(path))
    except Exception as error:
        # A Python file is a user's program; whatever it raises, its line is told and nothing has begun.
        first = next(iter(str(error).splitlines()), "")
        why = f"{type(error).__name__}: {first}"
        raise MaeBenchError(f"{path} cannot be read by detectron2 ({why})") from error
    lacking = [
        name for name in ("model", "dataloader", "optimizer", "lr_multiplier", "train") if name not in config
    ]
    if lacking:
        raise MaeBenchError(
            f"{path} has no {', '.join(lacking)}; it should be a whole LazyConfig of detectron2"
        )
    return config


def lay_over(config: DictConfig, options: Mapping[str, Any]) -> None:
    """Set values by their dotted paths, as detectron2's command line does.

    Raises:
        MaeBenchError: there is nothing that could have such a value.
    """
    from omegaconf import OmegaConf

    for path, value in options.items():
        parent, _, name = path.rpartition(".")
        owner = OmegaConf.select(config, parent) if parent else config
        known = owner is not None and OmegaConf.is_config(owner)
        # A call may take an argument that the file leaves at its default.
        if not known or not (OmegaConf.is_list(owner) or name in owner or "_target_" in owner):
            keys = list(owner) if known else list(config)
            raise MaeBenchError(f"options: the file has no {path}{near(name, map(str, keys))}")
        OmegaConf.update(config, path, value, merge=True)


def swap(
    config: DictConfig,
    settings: NativeConfig,
    *,
    spec: str,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> str:
    """Put our backbone and our classes into ``config.model``.

    Args:
        spec: of the backbone.
        classes: K.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.

    Returns:
        Which pyramid the file brings: ``simple`` or ``fpn``.

    Raises:
        MaeBenchError: the model is none that a backbone can be swapped in, or has no masks.
    """
    model = config.model
    if "roi_heads" not in model or "mask_head" not in model.roi_heads:
        raise MaeBenchError("native: its model is no Mask R-CNN (model.roi_heads.mask_head is missing)")
    node = model.get("backbone", {})
    place, target = ("net", "flat") if "net" in node else ("bottom_up", "four")
    if place not in node:
        raise MaeBenchError(
            "native: its model.backbone has neither 'net' (a pyramid over a plain ViT) nor 'bottom_up' (a "
            "feature pyramid network), so there is no place for the backbone"
        )
    names: Any = node[place].get("out_feature", "last_feat") if place == "net" else _names(node)
    node[place] = {
        "_target_": f"{_OURS}.maps.{target}",
        "spec": spec,
        "seed": settings.seed,
        "drop_path": settings.drop_path,
        "canvas": list(settings.data.image_size),
        "settings": {
            "attention": settings.attention.model_dump(mode="json"),
            "checkpointing": settings.checkpointing,
        },
        ("out_feature" if place == "net" else "out_features"): names,
    }
    for owner in _having(model, "num_classes"):
        if isinstance(owner.get("num_classes"), int) and "${" not in str(owner._get_node("num_classes")):
            owner.num_classes = classes
    model.pixel_mean = [round(255 * value, 6) for value in mean]
    model.pixel_std = [round(255 * value, 6) for value in std]
    model.input_format = "RGB"
    return "simple" if place == "net" else "fpn"


def _names(node: DictConfig) -> list[str]:
    names = [str(name) for name in node.get("in_features", [])]
    if len(names) != len(STRIDES):
        raise MaeBenchError(
            f"native: its feature pyramid network takes {len(names)} maps ({', '.join(names)}); a backbone "
            f"gives {len(STRIDES)}, of strides 4 to 32"
        )
    return names


def _having(node: Any, key: str) -> Iterator[Any]:
    """Every dictionary within that has `key`."""
    from omegaconf import DictConfig, ListConfig

    if isinstance(node, DictConfig):
        if key in node:
            yield node
        for name in node:
            yield from _having(node._get_node(name), key)
    elif isinstance(node, ListConfig):
        for place in range(len(node)):
            yield from _having(node._get_node(place), key)


def follow_depth(config: DictConfig, depth: int) -> None:
    """Let the layer decay of detectron2's ViT, where the file has it, count the blocks of our backbone."""
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

    params = config.optimizer.get("params", {})
    rate = params.get("lr_factor_func")
    if not isinstance(rate, partial) or rate.func is not get_vit_lr_decay_rate:
        return
    before = rate.keywords.get("num_layers")
    if before != depth:
        params.lr_factor_func = partial(rate.func, **{**rate.keywords, "num_layers": depth})
        screen.say(f"the file's layer decay is for {before} blocks; it follows the backbone's {depth}")


def use_data(
    config: DictConfig, train: DictConfig, test: DictConfig, *, size: int, seed: int, workers: int | str
) -> None:
    """Let the file's loaders read other records.

    Args:
        train, test: for ``dataset`` of the loaders.
        size: number of training images.
        seed: of their order, which the file leaves open.
        workers: loader processes; ``auto``: the file's.
    """
    loaders = config.dataloader
    loaders.train.dataset, loaders.test.dataset = train, test
    loaders.train.mapper.image_format = loaders.test.mapper.image_format = "RGB"
    if "sampler" not in loaders.train:
        loaders.train.sampler = {
            "_target_": f"{_OURS}.data.sampler",
            "size": size,
            "seed": seed,
            "start": 0,
        }
    if workers != "auto":
        loaders.train.num_workers = loaders.test.num_workers = workers


def essence(config: DictConfig) -> str:
    """What of a whole configuration decides the result: all but paths, the device and loader processes."""
    kept = copy.deepcopy(config)
    # Other values may refer to these, so that they stay, empty.
    for loader in (kept.dataloader.train, kept.dataloader.test):
        loader.dataset, loader.num_workers = {"names": ""}, 0
    kept.train.output_dir = kept.train.device = ""
    return text_of(kept)
