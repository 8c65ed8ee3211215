"""Settings that the classification tasks share, and what they tell a person before work starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mae_bench.settings import HANDLING, Fraction, NonNegative, PublishedArch, Settings


class MixSettings(Settings):
    """Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899), by timm."""

    mixup: NonNegative = 0.8
    """Parameter of the Beta distribution; 0: never."""
    cutmix: NonNegative = 1.0
    """Parameter of the Beta distribution; 0: never."""
    prob: Fraction = 1.0
    """Probability that a batch is mixed at all."""
    switch_prob: Fraction = 0.5
    """Probability of CutMix rather than mixup, where both are on."""


class PoolingSettings(Settings):
    """From tokens to one vector."""

    pooling: Literal["mean", "cls"]
    """`mean`: average of the patch tokens; `cls`: the class token."""
    published_arch: PublishedArch | None = Field(None, json_schema_extra=HANDLING)
    """The size of backbone that the recipe is meant for; another one gives a warning. Null: any."""
