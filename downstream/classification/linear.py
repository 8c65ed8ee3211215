"""Linear probing (MAE, arXiv:2111.06377, Table 10), for one learning rate or a grid of them in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from pydantic import Field, model_validator

from downstream.classification.settings import PoolingSettings
from mae_bench.adapter import Batch, Metric, TrainedAdapter
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_other_size
from mae_bench.settings import Count, Positive, TrainedConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.classification.heads import LinearProbe
    from mae_bench.backbones import Backbone
    from mae_bench.data import ImageDataset
    from mae_bench.optim import ParamGroup
    from mae_bench.run import Run


class LinearConfig(PoolingSettings, TrainedConfig):
    """Settings of linear probing."""

    norm_batch: Count
    """Features from which the BatchNorm before the classifier takes its statistics in training. It divides
    `train.micro_batch`, so that the result is the same for any number of processes."""
    learning_rates: Annotated[list[Positive], Field(min_length=2)] | None = None
    """Rates trained side by side, in the unit of `optim` (`blr` or `lr`); null: the one of `optim`."""
    holdout: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training images that is not trained on and chooses among `learning_rates`."""

    @model_validator(mode="after")
    def _consistent(self) -> LinearConfig:
        micro = self.train.micro_batch
        if micro == "auto" or micro % self.norm_batch:
            raise ValueError(
                f"train.micro_batch: should be a multiple of norm_batch = {self.norm_batch}, not {micro}"
            )
        if self.optim.layer_decay is not None:
            raise ValueError("optim.layer_decay: a linear probe has one layer; leave it out")
        if self.learning_rates is None and self.holdout is not None:
            raise ValueError("holdout: there is one learning rate and nothing to choose; leave it out")
        if self.learning_rates is not None:
            self._check_grid(self.learning_rates)
        return self

    def _check_grid(self, rates: list[float]) -> None:
        if len(set(rates)) != len(rates):
            raise ValueError("learning_rates: a rate stands there twice")
        if self.holdout is None:
            raise ValueError(
                "holdout: give the share of the training images that chooses among learning_rates, as 0.01"
            )
        # Both would make a rate's result depend on the other rates, or not be a multiple of optim's curve.
        if self.train.clip_grad is not None:
            raise ValueError("train.clip_grad: clips all learning_rates together; leave it out")
        if self.optim.min_lr != 0:
            raise ValueError("optim.min_lr: must be 0 with learning_rates, whose curves are multiples of one")

    @property
    def base_rate(self) -> float:
        """The rate of `optim`, as written there."""
        rate = self.optim.blr if self.optim.blr is not None else self.optim.lr
        assert rate is not None  # OptimSettings wants one of the two
        return rate

    @property
    def rates(self) -> list[float]:
        """The rates that are trained."""
        return self.learning_rates if self.learning_rates is not None else [self.base_rate]


class Linear(TrainedAdapter[LinearConfig]):
    """Linear classifiers on frozen features; a grid chooses on images held out of the training split."""

    task = "imagenet-linear"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": Metric("%", label="top-1 accuracy"),
        "top5": Metric("%", label="top-5 accuracy"),
    }
    Config = LinearConfig

    def model(self, backbone: Backbone | None, run: Run) -> LinearProbe:
        """A `LinearProbe` with one classifier for each rate."""
        from downstream.classification.classifier import check_pooling
        from downstream.classification.heads import HeadGrid, LinearProbe
        from downstream.classification.splits import Splits

        assert backbone is not None  # needs_backbone
        config = self.config
        check_pooling(backbone, config.pooling)
        notice_other_size(run, backbone, config.published_arch)
        self._splits = Splits(config.data, run, backbone.mean)
        self._statistics = backbone.mean, backbone.std
        backbone.freeze("all")
        assert isinstance(config.train.micro_batch, int)  # LinearConfig refuses auto
        passes = max(1, config.train.batch // (run.world * config.train.micro_batch))
        grid = HeadGrid(backbone.width, self._splits.classes, len(config.rates), config.norm_batch, passes)
        self._probe = LinearProbe(backbone, config.pooling, grid)
        return self._probe

    def train_set(self, run: Run) -> ImageDataset:
        """Training images without those held out; their features, if no augmentation changes the images."""
        from downstream.classification.probing import ProbeData

        self._data = ProbeData(self._splits, self._probe, self.config, run)
        return self._data.train

    def groups(self, model: nn.Module) -> list[ParamGroup]:
        """Two groups for each classifier, weight and bias, with its rate as a multiple of that of `optim`."""
        heads = cast("LinearProbe", model).grid.heads
        groups: list[ParamGroup] = []
        for index, (head, rate) in enumerate(zip(heads, self.config.rates, strict=True)):
            for name, param in head.named_parameters():
                groups.append(
                    {
                        "params": [param],
                        "names": [f"grid.heads.{index}.{name}"],
                        "weight_decay": self.config.optim.weight_decay if param.ndim > 1 else 0.0,
                        "lr_scale": rate / self.config.base_rate,
                    }
                )
        return groups

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum of the classifiers' cross-entropies; ``image`` is (B, C, H, W) uint8, or features (B, D)."""
        from downstream.classification.frozen import model_input
        from downstream.classification.heads import grid_losses

        logits = model(model_input(batch, self._statistics, self.config.data.augment))
        losses = grid_losses(logits, batch["label"])
        return {"loss": losses.sum(), "lowest_loss": losses.detach().min()}

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """Top-1 and top-5 on the validation split, of the only rate or of that chosen on held-out images."""
        from downstream.classification.scoring import outcomes_of, percentages
        from mae_bench.outcomes import own

        self._splits.record()
        probe = cast("LinearProbe", model)
        hits = self._data.on_validation(probe)
        chosen, held_out = 0, {}
        if self.config.learning_rates is None:
            run.record(selection="last step (no step was chosen by its accuracy), one learning rate")
        else:
            held = percentages(self._data.on_held_out(probe))
            chosen = self._choose(percentages(hits), held, probe.grid.diverged.tolist(), run)
            held_out = {"holdout_top1": float(held[chosen, 0])}
        found = outcomes_of(hits[:, chosen], self._splits.val)
        run.keep({"": found})
        return {**own(found), **held_out}

    def _choose(self, reported: Tensor, held: Tensor, diverged: list[bool], run: Run) -> int:
        """Which rate is best on the held-out images, put on record; of equals, the lowest.

        Args:
            reported, held: (G, 2) top-1 and top-5 on the reported and on the held-out images, in percent.
        """
        rates = self.config.rates
        candidates = [index for index in range(len(rates)) if not diverged[index]]
        if not candidates:
            raise MaeBenchError("learning_rates: every one of them diverged; give lower ones")
        best = min(candidates, key=lambda index: (-float(held[index, 0]), rates[index]))
        names = [f"{rate:.12g}" for rate in rates]
        label = {"unit": "%", "higher_is_better": True, "label": "top-1 accuracy on held-out training images"}
        run.record(
            selection=f"last step; learning rate {names[best]} of {len(rates)}, chosen on "
            f"{self._data.held_images:,} images held out of the training split, never on the reported set",
            details={
                "learning_rate": rates[best],
                "holdout_top1": dict(zip(names, held[:, 0].tolist(), strict=True)),
                "reported_top1_not_used_for_choosing": dict(zip(names, reported[:, 0].tolist(), strict=True)),
                "diverged": {name: gone for name, gone in zip(names, diverged, strict=True) if gone},
            },
            units={"holdout_top1": label},
        )
        return best

    def check(self, run: Run) -> list[str]:
        """Both splits are looked at, one image of each is read, the weights are loaded."""
        from downstream.classification.inspection import inspect

        backbone = self.backbone(run)
        assert backbone is not None  # needs_backbone
        lines = inspect(
            self.config, self.config.data, run, backbone, ("train.batch", self.config.train.batch)
        )
        unit = "learning rate" if self.config.optim.blr is None else "base learning rate"
        return [*lines, f"{unit}: {', '.join(f'{rate:g}' for rate in self.config.rates)}"]
