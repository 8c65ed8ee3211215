"""Partial fine-tuning: the last k blocks (MAE, arXiv:2111.06377, section 4.3, Figure 9, appendix A.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field

from downstream.classification.finetune import Finetune, FinetuneConfig
from mae_bench.settings import HANDLING, NonNegative

if TYPE_CHECKING:
    from downstream.classification.classifier import Classifier
    from mae_bench.backbones import Backbone
    from mae_bench.data import ImageDataset
    from mae_bench.run import Run


class PartialConfig(FinetuneConfig):
    """Settings of partial fine-tuning: those of fine-tuning, and how much is tuned."""

    blocks: NonNegative
    """How many of the last blocks are trained, with the final norm and the head: 0 the head alone, 0.5 the
    last MLP too, 1 the last block, and so on up to all of them (then the embeddings are trained as well)."""
    feature_cache_gib: NonNegative = Field(4.0, json_schema_extra=HANDLING)
    """Largest size of the frozen blocks' output for the whole training set that is computed once and kept, in
    memory and on disk, where no augmentation changes the images."""


class Partial(Finetune):
    """Fine-tuning of the last blocks. The frozen ones run without gradients and, if they can, once."""

    task = "imagenet-partial"
    Config = PartialConfig

    @property
    def _settings(self) -> PartialConfig:
        return cast(PartialConfig, self.config)

    def model(self, backbone: Backbone | None, run: Run) -> Classifier:
        """A `Classifier` of which only the last blocks are trainable."""
        assert backbone is not None  # needs_backbone
        backbone.trainable_from(self._settings.blocks)
        self._model = super().model(backbone, run)
        return self._model

    def train_set(self, run: Run) -> ImageDataset:
        """The training images, or what the frozen blocks make of them if that can be computed once."""
        from downstream.classification.frozen import kept_once

        kept = kept_once(self._model, self._splits, self._settings, run)
        return kept if kept is not None else self._splits.train

    def check(self, run: Run) -> list[str]:
        """As for fine-tuning, and whether the backbone has that many blocks."""
        from downstream.classification.inspection import inspect

        backbone = self.backbone(run)
        backbone.trainable_from(self._settings.blocks)
        trained = sum(param.numel() for param in backbone.parameters() if param.requires_grad)
        lines = inspect(
            self.config, self.config.data, run, backbone, ("train.batch", self.config.train.batch)
        )
        return [
            *lines,
            f"blocks {self._settings.blocks:g}: {trained / 1e6:.1f} M of the backbone's weights are trained",
        ]
