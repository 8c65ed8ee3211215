"""Weighted k-nearest-neighbour classification with frozen features (Wu et al., arXiv:1805.01978)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from downstream.classification.settings import PoolingSettings
from mae_bench.adapter import Adapter, Metric
from mae_bench.published import notice_other_size
from mae_bench.settings import Count, DataSettings, Positive, TaskConfig

if TYPE_CHECKING:
    from torch import Tensor

    from downstream.classification.features import Features
    from downstream.classification.splits import Splits
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class KNNConfig(PoolingSettings, TaskConfig):
    """Settings of the kNN evaluation."""

    data: DataSettings
    k: Annotated[list[Count], Field(min_length=1)]
    """Numbers of neighbours, all evaluated in one pass."""
    headline_k: Count
    """The one of `k` that is the headline; fixed by the recipe, so that none is chosen by its accuracy."""
    temperature: Positive = 0.07
    """A neighbour's vote weighs exp(cosine similarity / temperature)."""

    @model_validator(mode="after")
    def _headline_among_k(self) -> KNNConfig:
        if self.headline_k not in self.k:
            raise ValueError(f"headline_k: {self.headline_k} is not one of k = {self.k}")
        if len(set(self.k)) != len(self.k):
            raise ValueError(f"k: a number stands twice in {self.k}")
        return self


class KNN(Adapter[KNNConfig]):
    """Votes of the nearest training images by cosine similarity; nothing is trained."""

    task = "imagenet-knn"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": Metric("%", label="top-1 accuracy"),
        "top5": Metric("%", label="top-5 accuracy"),
    }
    Config = KNNConfig
    seeded: ClassVar[bool] = False

    def run(self, run: Run) -> dict[str, float]:
        """Features of both splits (cached), then the votes.

        Raises:
            MaeBenchError: fewer training images than the largest k; see also `ImageDataset`.
        """
        from downstream.classification.classifier import check_pooling
        from downstream.classification.inspection import enough
        from downstream.classification.splits import Splits

        config = self.config
        backbone = self._backbone(run)
        check_pooling(backbone, config.pooling)
        notice_other_size(run, backbone, config.published_arch)
        splits = Splits(config.data, run, backbone.mean)
        enough(splits, "k", max(config.k))
        backbone = backbone.to(run.device).eval()
        hits = self._hits(self._features(splits, backbone, run), splits.classes, run)
        splits.record()
        run.record(
            dataset={"train_images": len(splits.train)},
            selection=f"k = {config.headline_k}, fixed by the recipe; no other k was chosen by its accuracy",
        )
        return self._metrics(hits, splits, run)

    def _backbone(self, run: Run) -> Backbone:
        height, width = self.config.data.image_size
        return run.backbone(image_size=(height, width), channels=self.config.data.channels)

    def _features(self, splits: Splits, backbone: Backbone, run: Run) -> tuple[Features, Features]:
        """Features of the training images and of the validation images."""
        from downstream.classification.classifier import pooled
        from downstream.classification.features import features_of

        def forward(images: Tensor) -> Tensor:
            return pooled(backbone, images, self.config.pooling)

        data, part = self.config.data, self.config.pooling
        bank = features_of(splits.train_as_evaluated, data, run, backbone, part, forward)
        return bank, features_of(splits.val, data, run, backbone, part, forward)

    def _hits(self, features: tuple[Features, Features], classes: int, run: Run) -> Tensor:
        """bool (N, len(k), 2), see `neighbours.hits`. Every process classifies a share of the N queries."""
        import torch
        from torch.nn.functional import normalize

        from downstream.classification.neighbours import hits
        from downstream.classification.scoring import gathered

        bank, queries = features
        images = len(queries.values)
        own = torch.arange(images * run.rank // run.world, images * (run.rank + 1) // run.world)
        mine = normalize(queries.values[own].to(run.device), dim=1)
        found = hits(
            mine,
            queries.labels[own],
            normalize(bank.values, dim=1),
            bank.labels,
            classes=classes,
            ks=self.config.k,
            temperature=self.config.temperature,
        )
        return gathered(found, own, images, run)

    def _metrics(self, hits: Tensor, splits: Splits, run: Run) -> dict[str, float]:
        """The headline k first, every k under its own name after it."""
        import torch

        from downstream.classification.scoring import outcomes_of
        from mae_bench.outcomes import own

        ks = self.config.k
        headline = hits[:, ks.index(self.config.headline_k)]  # (N, 2)
        names = {k: f"top1_k{k}" for k in ks}
        columns = torch.cat([headline, hits[:, :, 0]], dim=1)
        found = outcomes_of(columns, splits.val, ("top1", "top5", *names.values()))
        run.keep({"": found})
        units = {
            name: {"unit": "%", "higher_is_better": True, "label": f"top-1 accuracy, k = {k}"}
            for k, name in names.items()
        }
        run.record(units=units)
        return own(found)

    def check(self, run: Run) -> list[str]:
        """Both splits are looked at, one image of each is read, the weights are loaded."""
        from downstream.classification.inspection import inspect

        return inspect(self.config, self.config.data, run, self._backbone(run), ("k", max(self.config.k)))
