"""Supervised training from scratch (MAE, arXiv:2111.06377, appendix A.2 and Table 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from downstream.classification.finetune import Finetune
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class Scratch(Finetune):
    """Fine-tuning that starts from an untrained backbone, `random:ARCH`, and from nothing else."""

    task = "imagenet-scratch"
    takes: ClassVar[str] = "random:ARCH"
    head_std: ClassVar[float] = 0.02
    """As timm initialises the other linear layers; the appendix does not say."""

    def backbone(self, run: Run) -> Backbone:
        """The untrained backbone.

        Raises:
            MaeBenchError: a backbone that is not `random:`.
        """
        spec = self.config.backbone
        if spec is not None and not spec.startswith("random:"):
            raise MaeBenchError(
                f"backbone: {self.config.recipe} trains from scratch, so it takes random:ARCH and not {spec} "
                "(imagenet-finetune starts from pretrained weights)"
            )
        return super().backbone(run)
