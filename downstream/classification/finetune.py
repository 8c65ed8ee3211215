"""End-to-end fine-tuning (MAE, arXiv:2111.06377, Table 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from downstream.classification.settings import MixSettings, PoolingSettings
from mae_bench.adapter import Batch, Metric, TrainedAdapter
from mae_bench.published import notice_other_size
from mae_bench.settings import Fraction, TrainedConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.classification.classifier import Classifier
    from mae_bench.augment import Mixing
    from mae_bench.backbones import Backbone
    from mae_bench.data import ImageDataset
    from mae_bench.run import Run

LAST_STEP = "last step (no step was chosen by its accuracy)"


class FinetuneConfig(PoolingSettings, TrainedConfig):
    """Settings of end-to-end fine-tuning."""

    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    label_smoothing: Fraction = 0.0
    mix: MixSettings | None = None
    """Mixup and CutMix; null: neither."""


class Finetune(TrainedAdapter[FinetuneConfig]):
    """Trains backbone and head together; soft-target cross-entropy, accuracy of the last step's weights."""

    task = "imagenet-finetune"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": Metric("%", label="top-1 accuracy"),
        "top5": Metric("%", label="top-5 accuracy"),
    }
    Config: ClassVar[type[FinetuneConfig]] = FinetuneConfig
    head_std: ClassVar[float] = 2e-5
    """Standard deviation of the head's initial weights (main_finetune.py)."""

    def backbone(self, run: Run) -> Backbone:
        """The backbone at the recipe's image size, with its stochastic depth."""
        height, width = self.config.data.image_size
        return run.backbone(
            image_size=(height, width),
            channels=self.config.data.channels,
            drop_path=self.config.drop_path,
        )

    def model(self, backbone: Backbone | None, run: Run) -> Classifier:
        """A `Classifier` over the whole backbone."""
        from downstream.classification.classifier import Classifier
        from downstream.classification.splits import Splits

        assert backbone is not None  # needs_backbone
        notice_other_size(run, backbone, self.config.published_arch)
        self._splits = Splits(self.config.data, run, backbone.mean)
        self._statistics = backbone.mean, backbone.std
        self._mixing = self._build_mixing(self._splits.classes)
        return Classifier(backbone, self._splits.classes, self.config.pooling, self.head_std)

    def _build_mixing(self, classes: int) -> Mixing:
        from mae_bench.augment import Mixing

        if self.config.mix is None:
            return Mixing(classes, smoothing=self.config.label_smoothing)
        mix = self.config.mix
        return Mixing(
            classes,
            mixup=mix.mixup,
            cutmix=mix.cutmix,
            prob=mix.prob,
            switch_prob=mix.switch_prob,
            smoothing=self.config.label_smoothing,
        )

    def train_set(self, run: Run) -> ImageDataset:
        """The training split with the recipe's augmentation."""
        return self._splits.train

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the mixed, smoothed targets; ``image`` is (B, C, H, W) uint8."""
        from downstream.classification.frozen import model_input

        images = model_input(batch, self._statistics, self.config.data.augment)
        images, targets = self._mixing(images, batch["label"])
        log_probabilities = model(images).float().log_softmax(dim=1)
        return {"loss": -(targets * log_probabilities).sum(dim=1).mean()}

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """Top-1 and top-5 on the validation split."""
        from downstream.classification.scoring import outcomes_of, score
        from mae_bench.outcomes import own

        self._splits.record()
        run.record(selection=LAST_STEP if self.config.train.ema is None else f"{LAST_STEP}, averaged weights")
        hits = score(model, self._splits.val, self.config.data, run, self._statistics)
        found = outcomes_of(hits[:, 0], self._splits.val)
        run.keep({"": found})
        return own(found)

    def check(self, run: Run) -> list[str]:
        """Both splits are looked at, one image is read, the weights are loaded."""
        from downstream.classification.inspection import inspect

        return inspect(
            self.config, self.config.data, run, self.backbone(run), ("train.batch", self.config.train.batch)
        )
