"""A training set whose images have gone through the frozen part of a network already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downstream.classification.features import Features, features_of
from downstream.classification.splits import Splits, unaugmented
from mae_bench import screen
from mae_bench.adapter import Batch
from mae_bench.augment import erase, normalise
from mae_bench.backbones.plain import PlainBackbone
from mae_bench.data import ImageDataset, key_of
from mae_bench.run import Run
from mae_bench.settings import AugmentSettings

if TYPE_CHECKING:
    from downstream.classification.classifier import Classifier
    from downstream.classification.partial import PartialConfig


class FeatureDataset(ImageDataset):
    """A dataset whose ``image`` is a row of features, float32 of any shape, in place of pixels.

    Args:
        dataset: where the features come from; its source names the samples.
    """

    def __init__(self, dataset: ImageDataset, features: Features) -> None:
        super().__init__(dataset.source, dataset.transform, seed=dataset.seed, channels=dataset.channels)
        self._features = features

    def fetch(self, epoch: int, index: int) -> tuple[dict[str, Any], dict[int, str]]:
        """The row of one image; nothing is read, so nothing is unreadable."""
        sample = {
            "image": self._features.values[index],
            "label": int(self._features.labels[index]),
            "key": key_of(self.seed, epoch, index),
            "index": int(index),
        }
        return sample, {}


def model_input(
    batch: Batch, statistics: tuple[Sequence[float], Sequence[float]], augment: AugmentSettings
) -> Tensor:
    """What goes into the model: pixels (B, C, H, W) uint8 normalised and erased, features as they are.

    Args:
        statistics: mean and std of the model's input.
    """
    inputs: Tensor = batch["image"]
    if inputs.dtype != torch.uint8:
        return inputs
    return erase(normalise(inputs, *statistics), augment.erase)


def kept_once(model: Classifier, splits: Splits, config: PartialConfig, run: Run) -> FeatureDataset | None:
    """The frozen blocks' output for every training image, or None (said) where it cannot be computed once."""
    backbone = model.backbone
    frozen = backbone.frozen_blocks
    if frozen == 0:
        return None
    if not isinstance(backbone, PlainBackbone):
        screen.say(f"the frozen blocks run for every image anew: {backbone.spec} cannot be divided there")
        return None
    if not unaugmented(config.data) or config.mix is not None:
        screen.say(f"the {frozen} frozen blocks run for every image anew: the recipe augments the images")
        return None
    height, width = config.data.image_size
    patches = (height // backbone.patch_size[0]) * (width // backbone.patch_size[1])
    images = len(splits.train)
    gib = images * (patches + backbone.prefix_tokens) * backbone.width * 4 / 2**30
    if gib > config.feature_cache_gib:
        screen.say(
            f"the {frozen} frozen blocks run for every image anew: their output for {images:,} images takes "
            f"{gib:.1f} GiB, more than feature_cache_gib = {config.feature_cache_gib:g}"
        )
        return None
    model.eval()
    features = features_of(
        splits.train_as_evaluated, config.data, run, backbone, f"trunk-{frozen}", model.frozen_tokens
    )
    model.train()
    return FeatureDataset(splits.train_as_evaluated, features)
