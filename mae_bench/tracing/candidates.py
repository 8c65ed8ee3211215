"""What a run that was not made yet would look like in a table.

A made-up result of a recipe on a backbone, with everything that the rules of layouts ask for, is put
through the very code that sorts finished runs into cells: where it lands, the run would. This module imports
no torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from mae_bench import recipe, resources, settings
from mae_bench.adapter import Adapter
from mae_bench.errors import MaeBenchError
from mae_bench.results import BackboneRecord, Result
from mae_bench.runlist import Entry
from mae_bench.settings import TaskConfig
from mae_bench.tables.layouts import Layout, Rule

# Width and depth of plain ViTs, by the word in their names.
_SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24), "huge": (1280, 32)}


@dataclass(frozen=True)
class Candidate:
    """A run that could be made.

    Attributes:
        name: of the recipe.
        backbone: what ``--backbone`` would be.
        result: what it would leave, with zeros for numbers.
        before: the run that must be made first, whose folder is the backbone.
    """

    name: str
    backbone: str
    overrides: tuple[str, ...]
    result: Result
    before: Candidate | None = None

    def entries(self, seed: int, reason: str) -> tuple[Entry, ...]:
        """The run, and what must be made first, for a list of runs."""
        how: dict[str, Any] = {"task": self.name, "seed": seed, "overrides": list(self.overrides)}
        if self.before is None:
            return (Entry(**how, backbone=self.backbone, reason=reason),)
        first = self.before.entries(seed, f"needed by {self.name}")
        return (*first, Entry(**how, after=self.before.name, backbone=self.before.backbone, reason=reason))

    def command(self, seed: int, runs: str | None) -> str:
        """The command line; with a run to be made first, both.

        Args:
            runs: what ``--runs`` must say; None: nothing.
        """
        backbone = self.backbone if self.before is None else "RUN"
        line = command(self.name, backbone, seed, self.overrides, runs)
        if self.before is None:
            return line
        return f"{self.before.command(seed, runs)}; then, with its folder as RUN: {line}"


def command(task: str, backbone: str | None, seed: int, overrides: tuple[str, ...], runs: str | None) -> str:
    """The command line of a downstream task."""
    words = ["mae-bench", "run", "--task", task]
    words += [] if backbone is None else ["--backbone", backbone]
    words += ["--seed", str(seed), *([] if runs is None else ["--runs", runs])]
    return shlex.join([*words, *overrides])


@dataclass(frozen=True)
class Recipe:
    """A recipe of the catalogue with overrides, resolved."""

    config: TaskConfig
    adapter: type[Adapter[Any]]
    published: TaskConfig | None


@cache
def resolved(name: str, overrides: tuple[str, ...] = ()) -> Recipe | None:
    """A recipe; None where its engine is not installed or an override is not of it."""
    try:
        found = recipe.resolve(name, overrides)
        return Recipe(found.config, found.adapter_class, recipe.published(found.config))
    except MaeBenchError:
        return None


@cache
def by_task() -> dict[str, list[str]]:
    """Task -> recipes of downstream tasks, those that are a protocol themselves first, then by length."""
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for name in resources.recipes("tasks"):
        known = resolved(name)
        if known is not None and known.adapter.needs_backbone:
            rank = (known.config.protocol is not None, len(name), name)
            found.setdefault(known.adapter.task, []).append(rank)
    return {task: [name for *_, name in sorted(ranked)] for task, ranked in found.items()}


def rules_for(layout: Layout, column: str) -> list[Rule]:
    """The rules that may put a run into a column."""
    at = next(entry for entry in layout.columns if entry.key == column)
    return [
        rule
        for rule in layout.ours
        if rule.column == column
        or (rule.axis is not None and at.x is not None and rule.group in (None, at.group))
    ]


def recipes_for(layout: Layout, column: str) -> list[tuple[str, tuple[str, ...]]]:
    """Recipes that may fill a column with the overrides that its rules ask for, the likeliest first."""
    x = next(entry.x for entry in layout.columns if entry.key == column)
    given: dict[tuple[str, tuple[str, ...]], None] = {}
    for rule in rules_for(layout, column):
        known = rule.protocol is not None and resolved(rule.protocol) is not None
        for name in [str(rule.protocol)] if known else by_task().get(rule.task, []):
            given[name, tuple(_asked_for(rule, name, x))] = None
    # A recipe that does it by itself is meant for it.
    return sorted(given, key=lambda pair: len(pair[1]))


def _asked_for(rule: Rule, name: str, x: float | None) -> Iterator[str]:
    """Settings that a rule asks for and the recipe does not have: plain values below ``config``."""
    known = resolved(name)
    flat = settings.flatten(settings.plain(known.config)) if known is not None else {}
    wanted = {
        path.removeprefix("config."): value
        for path, value in rule.where.items()
        if path.startswith("config.")
    }
    if rule.axis is not None and not rule.axis.startswith("backbone."):
        wanted[rule.axis] = int(x) if x is not None and x == int(x) else x
    for path, value in wanted.items():
        if isinstance(value, bool | int | float) and flat.get(path) != value:
            yield f"{path}={str(value).lower() if isinstance(value, bool) else value}"


def candidate(name: str, overrides: tuple[str, ...], like: BackboneRecord, seed: int) -> Candidate | None:
    """A run of a recipe on a backbone; None if there can be no such run.

    Args:
        like: what is known of the backbone.
    """
    known = resolved(name, overrides)
    if known is None or (known.adapter.takes == "random:ARCH" and not like.spec.startswith("random:")):
        return None
    result = _without_backbone(name, overrides).model_copy(update={"backbone": like, "seed": seed})
    return Candidate(name, like.spec, overrides, result)


@cache
def _without_backbone(name: str, overrides: tuple[str, ...]) -> Result:
    known = resolved(name, overrides)
    assert known is not None  # the caller looked
    return made_up(known.config, known.adapter, known.published, None, 0)


def made_up(
    config: TaskConfig,
    adapter: type[Adapter[Any]],
    published: TaskConfig | None,
    like: BackboneRecord | None,
    seed: int,
) -> Result:
    """A result of a configuration, with zeros for numbers."""
    own = settings.deviations(config, published) if published is not None else []
    fields: dict[str, Any] = {
        "schema": 1,
        "task": adapter.task,
        "engine": adapter.engine,
        "recipe": config.recipe,
        "recipe_hash": settings.recipe_hash(config),
        "protocol": config.protocol or config.recipe,
        "deviations": [{"key": d.key, "published": d.published, "ours": d.ours} for d in own],
        "backbone": None if like is None else like.model_dump(),
        "seed": seed,
        "metrics": dict.fromkeys(adapter.metrics, 0.0),
        "units": {},
        "precision": "",
        "hardware": {},
        "wall_clock_s": 0.0,
        "versions": {},
        "started": "",
        "finished": "",
        "command": [],
        "config": settings.plain(config),
    }
    data = getattr(config, "data", None)
    if data is not None:
        fields["dataset"] = {"name": data.name, "fingerprint": "", "train_images": 0, "classes": 0}
    return Result.model_validate(fields)


def evaluating(
    made: Candidate, classifier: Result, folder: str, before: Candidate | None = None
) -> Candidate:
    """A candidate that evaluates a classifier, as its result would tell of it.

    Args:
        folder: of the classifier's run.
        before: the candidate that makes the classifier.
    """
    facts = {
        "run": folder,
        "recipe": classifier.recipe,
        "protocol": classifier.protocol,
        "recipe_hash": classifier.recipe_hash,
        "task": classifier.task,
        "dataset": classifier.dataset.name if classifier.dataset is not None else None,
        "seed": classifier.seed,
    }
    changes = {
        "backbone": classifier.backbone,
        "details": {"classifier": facts},
        "deviations": [*made.result.deviations, *classifier.deviations],
        "recipe_hash": settings.digest_of([made.result.recipe_hash, classifier.recipe_hash]),
    }
    result = made.result.model_copy(update=changes)
    return Candidate(made.name, f"run:{folder}", made.overrides, result, before)


def record(spec: str, arch: str) -> BackboneRecord:
    """What can be said of a backbone by its name alone."""
    word = next(iter(re.findall(rf"_({'|'.join(_SIZES)})_", arch)), None)
    width, depth = _SIZES[word] if word is not None else (None, None)
    return BackboneRecord(spec=spec, arch=arch, digest="", params=0, width=width, depth=depth)


def fits(name: str, like: BackboneRecord) -> bool:
    """Whether a recipe is for backbones of this size, or for any."""
    known = resolved(name)
    arch = getattr(known.config, "published_arch", None) if known is not None else None
    return arch is None or (arch.width, arch.depth) == (like.width, like.depth)
