"""The images of a linear probe: trained on, held out, reported; as pixels or as cached features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from downstream.classification.features import Features, features_of
from downstream.classification.frozen import FeatureDataset
from downstream.classification.heads import LinearProbe
from downstream.classification.scoring import gathered, hits_of, score
from downstream.classification.splits import Splits, unaugmented
from mae_bench.data import ImageDataset, holdout
from mae_bench.data.sources import SubsetSource
from mae_bench.run import Run

if TYPE_CHECKING:
    from downstream.classification.linear import LinearConfig

# Features scored at once.
ROWS = 4096


class ProbeData:
    """What a probe trains on and is scored on.

    Where no augmentation changes the images, the features of both splits are computed once (or read from the
    cache), and the backbone is not run again.

    Attributes:
        train: the images, or features, to train on, without those held out.
    """

    def __init__(self, splits: Splits, probe: LinearProbe, config: LinearConfig, run: Run) -> None:
        self._splits, self._data, self._run = splits, config.data, run
        self._held: ImageDataset | None = None
        self._held_features: Features | None = None
        self._val_features: Features | None = None
        self.train = splits.train
        if config.holdout is not None:
            self.train, self._held = holdout(splits.train, config.holdout, config.seed)
        if unaugmented(config.data):
            self._use_features(probe)

    def _use_features(self, probe: LinearProbe) -> None:
        probe.eval()
        part = probe.pooling
        whole = features_of(
            self._splits.train_as_evaluated, self._data, self._run, probe.backbone, part, probe.features
        )
        self._val_features = features_of(
            self._splits.val, self._data, self._run, probe.backbone, part, probe.features
        )
        probe.train()
        self.train = FeatureDataset(self.train, _part(whole, self.train))
        if self._held is not None:
            self._held_features = _part(whole, self._held)

    @property
    def held_images(self) -> int:
        """Number of images held out."""
        return len(self._held) if self._held is not None else 0

    def on_validation(self, probe: LinearProbe) -> Tensor:
        """bool (N, G, 2): which images of the reported set each classifier hits, as in `scoring.score`."""
        return self._score(probe, self._splits.val, self._val_features)

    def on_held_out(self, probe: LinearProbe) -> Tensor:
        """bool (N, G, 2): the same of the images held out of the training split, as they are evaluated."""
        from mae_bench.augment import eval_transform

        assert self._held is not None  # only a grid chooses, and a grid has a holdout
        return self._score(probe, self._held.with_transform(eval_transform(self._data)), self._held_features)

    def _score(self, probe: LinearProbe, dataset: ImageDataset, features: Features | None) -> Tensor:
        backbone = probe.backbone
        if features is None:
            return score(probe, dataset, self._data, self._run, (backbone.mean, backbone.std))
        run, images = self._run, len(features.values)
        own = range(images * run.rank // run.world, images * (run.rank + 1) // run.world)
        hits = []
        for start in range(own.start, own.stop, ROWS):
            rows = slice(start, min(start + ROWS, own.stop))
            logits = probe(features.values[rows].to(run.device))
            hits.append(hits_of(logits, features.labels[rows].to(run.device)))
        return gathered(torch.cat(hits), torch.tensor(own), images, run)


def _part(whole: Features, dataset: ImageDataset) -> Features:
    """The features of a part of the training split."""
    if not isinstance(dataset.source, SubsetSource):
        return whole
    return whole.rows(torch.from_numpy(dataset.source.indices))
