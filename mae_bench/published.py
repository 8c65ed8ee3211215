"""Whether a backbone is of the size that a recipe's values were published for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mae_bench.settings import PublishedArch

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


def notice_other_size(run: Run, backbone: Backbone, published: PublishedArch | None) -> None:
    """Warn, and note in the result, that the recipe's values were published for another size of backbone."""
    from mae_bench import screen

    text = other_size(run, backbone, published)
    if text is not None:
        screen.warn(text)
        run.record(notes=[text])


def notice_departures(run: Run, departures: Sequence[str]) -> None:
    """Warn, and note in the result, what of a recipe's values a backbone does not allow, a sentence each."""
    from mae_bench import screen

    for text in departures:
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
