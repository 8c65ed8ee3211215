"""The plan of a training: how many steps, of which batches, at which learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from mae_bench import data
from mae_bench.settings import FitConfig


@dataclass(frozen=True)
class Plan:
    """How many steps there are, of which batches, at which learning rate."""

    steps_per_epoch: int
    total_steps: int
    batch: int
    micro_batch: int
    accumulate: int
    peak_lr: float
    warmup_steps: float

    @classmethod
    def of(cls, config: FitConfig, images: int, micro_batch: int, world: int) -> Plan:
        """The plan of a recipe for a training set of `images` on `world` processes."""
        per_epoch = data.steps_per_epoch(images, config.train.batch)
        if config.train.steps is not None:
            total = config.train.steps
        else:
            total = max(1, round(config.train.epochs * per_epoch)) if config.train.epochs else 0
        if config.optim.warmup_steps is not None:
            warmup: float = config.optim.warmup_steps
        else:
            warmup = (config.optim.warmup_epochs or 0.0) * per_epoch
        return cls(
            steps_per_epoch=per_epoch,
            total_steps=total,
            batch=config.train.batch,
            micro_batch=micro_batch,
            accumulate=config.train.batch // (world * micro_batch),
            peak_lr=peak_lr(config),
            warmup_steps=warmup,
        )


def peak_lr(config: FitConfig) -> float:
    """The rate after warm-up: `lr`, or `blr` scaled linearly with the batch (arXiv:1706.02677)."""
    if config.optim.lr is not None:
        return config.optim.lr
    assert config.optim.blr is not None  # OptimSettings wants exactly one of the two
    return config.optim.blr * config.train.batch / 256
