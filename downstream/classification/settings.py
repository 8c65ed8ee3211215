"""Settings that the classification tasks share, and what they tell a person before work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mae_bench.settings import HANDLING, Count, Fraction, NonNegative, Settings

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class PublishedArch(Settings):
    """The backbone that a recipe's values were published for."""

    name: str
    """As a person says it, for example ``ViT-B``."""
    width: Count
    depth: Count


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


def notice_other_size(run: Run, backbone: Backbone, published: PublishedArch | None) -> None:
    """Warn, and note in the result, that the recipe's values were published for another size of backbone."""
    from mae_bench import screen

    text = other_size(run, backbone, published)
    if text is not None:
        screen.warn(text)
        run.record(notes=[text])


def other_size(run: Run, backbone: Backbone, published: PublishedArch | None) -> str | None:
    """A sentence if the backbone is not of the size that the recipe is meant for, else None."""
    if published is None or (backbone.width, backbone.depth) == (published.width, published.depth):
        return None
    fitting = _recipe_for(run.config.recipe, backbone)
    advice = f"; use the recipe {fitting}" if fitting else ""
    return (
        f"{run.config.recipe} has the values published for {published.name} (width {published.width}, depth "
        f"{published.depth}); {backbone.spec} has width {backbone.width} and depth {backbone.depth}{advice}"
    )


def _recipe_for(recipe: str, backbone: Backbone) -> str | None:
    """The recipe of the same task that is meant for the size of `backbone`, if there is one."""
    from mae_bench.recipe import resolve
    from mae_bench.resources import recipes

    stem = recipe.removesuffix("-large").removesuffix("-huge")
    for name in (stem, f"{stem}-large", f"{stem}-huge"):
        if name == recipe or name not in recipes("tasks"):
            continue
        arch = getattr(resolve(name).config, "published_arch", None)
        if arch is not None and (arch.width, arch.depth) == (backbone.width, backbone.depth):
            return name
    return None
