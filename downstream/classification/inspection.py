"""What `check` finds out about data and weights without training."""

from __future__ import annotations

from downstream.classification.classifier import check_pooling
from downstream.classification.settings import PoolingSettings
from downstream.classification.splits import Splits
from mae_bench.backbones import Backbone
from mae_bench.errors import MaeBenchError
from mae_bench.published import other_size
from mae_bench.run import Run
from mae_bench.settings import DataSettings


def inspect(
    settings: PoolingSettings, data: DataSettings, run: Run, backbone: Backbone, needed: tuple[str, int]
) -> list[str]:
    """One line each for the splits, an image of each, the backbone, and its size.

    Args:
        needed: a key of the recipe and how many training images it asks for.

    Raises:
        MaeBenchError: the first thing that would stop the run.
    """
    splits = Splits(data, run, backbone.mean)
    enough(splits, *needed)
    lines = [
        f"data {data.name}: {len(splits.train):,} training and {len(splits.val):,} validation images of "
        f"{splits.classes:,} classes"
    ]
    for dataset in (splits.train, splits.val):
        shape = tuple(dataset[0]["image"].shape)
        if shape[0] != backbone.channels:
            raise MaeBenchError(
                f"{dataset.source.name(0)} has {shape[0]} channels, {backbone.spec} takes {backbone.channels}"
            )
    lines.append(f"images reach the model as {shape[0]} x {shape[1]} x {shape[2]} (channels, height, width)")
    check_pooling(backbone, settings.pooling)
    cell = "cells" if backbone.hierarchical else "patches"
    cells = f"{cell} of {' x '.join(map(str, backbone.patch_size))}"
    lines.append(
        f"backbone {backbone.spec}: width {backbone.width}, depth {backbone.depth}, {cells}, "
        f"{backbone.report.percent()} % of the weights loaded"
    )
    different = other_size(run, backbone, settings.published_arch)
    return [*lines, *([f"note: {different}"] if different else [])]


def enough(splits: Splits, key: str, needed: int) -> None:
    """Raise MaeBenchError if `key` of the recipe asks for more training images than there are."""
    if needed > len(splits.train):
        raise MaeBenchError(f"{key}: {needed} is more than the {len(splits.train)} training images")
