"""Whether the recipe behind a result is still the same.

A result holds its configuration and where that departed from the published protocol. Both together tell what
the protocol was then: what departed has the published value of the record, all else was as in the
configuration. So a protocol that was corrected since is told from a run that chose to depart.

A recipe that varies a protocol (the miniatures do) leaves no such record of its own. Where its values of
today differ from the run's, the run's command line says whether that was asked for.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from mae_bench import departures, recipe, resources, settings, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result
from mae_bench.settings import TaskConfig
from mae_bench.tracing.configurations import settings_of
from mae_bench.tracing.findings import Finding

# Keys that are named; of more there is a count.
_SHOWN = 6


@dataclass(frozen=True)
class RecipeState:
    """What became of a result's recipe.

    Attributes:
        asked_for: overrides that the run was started with, as far as can be told.
    """

    findings: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = ()
    asked_for: tuple[str, ...] = ()


def state(result: Result) -> RecipeState:
    """Compare a result's recipe and protocol with those of today."""
    try:
        config = settings_of(result.config)
    except MaeBenchError as error:
        said = "; ".join(str(error).splitlines()[:3])
        return RecipeState((Finding("recipe", f"its configuration is not valid any more: {said}", True),))
    known = resources.recipes()
    protocol = result.protocol or result.recipe
    if protocol not in known:
        where = "a file of your own" if protocol == result.recipe else f"of the protocol '{protocol}'"
        return RecipeState(unchecked=(f"recipe: it is {where}, not of the catalogue",))
    changed, departed, unchecked = _protocol_changes(result, config, protocol)
    findings = [Finding("recipe", _sentence(f"recipe {protocol} changed since", changed), True)] * bool(
        changed
    )
    asked: Sequence[str] = departed
    if result.recipe != protocol and result.recipe in known:
        own = _own_recipe(result, config)
        findings += own.findings
        unchecked += own.unchecked
        asked = own.asked_for
    return RecipeState(tuple(findings), tuple(unchecked), tuple(asked))


def _protocol_changes(
    result: Result, config: TaskConfig, protocol: str
) -> tuple[dict[str, tuple[Any, Any]], list[str], list[str]]:
    """What changed, key -> (then, now); the run's departures as overrides; what could not be checked."""
    try:
        now = today(protocol)
    except MaeBenchError as error:
        return {}, [], [f"recipe: {protocol} cannot be read here: {error}"]
    ours = settings.protocol_values(config)
    then = dict(ours)
    departed = set()
    # What an evaluation of a classifier records besides are the departures of that classifier's own training.
    for entry in result.deviations:
        own = _has_key(type(config), entry.key) and ours.get(entry.key) == entry.ours
        if own and entry.key not in departed:
            then[entry.key] = entry.published
            departed.add(entry.key)
    keys = dict.fromkeys([*now, *then])
    # A section that was left out has none of its keys, and they are none: the record says both as null.
    changed = {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}
    overrides = [override(key, ours[key]) for key in ours if key in departed]
    return changed, overrides, []


@cache
def today(name: str) -> dict[str, Any]:
    """What a recipe of the catalogue says is computed; read once, until ``today.cache_clear()``.

    Raises:
        MaeBenchError: its engine is not installed here.
    """
    return settings.protocol_values(recipe.resolve(name).config)


def _has_key(model: type[BaseModel], dotted: str) -> bool:
    """Whether a settings model knows a dotted path; below a plain mapping any."""
    name, _, rest = dotted.partition(".")
    if name not in model.model_fields:
        return False
    inner = settings.submodel(model.model_fields[name].annotation)
    return not rest or inner is None or _has_key(inner, rest)


def _own_recipe(result: Result, config: TaskConfig) -> RecipeState:
    """Of a recipe that varies a protocol: where its values of today differ from the run's unasked."""
    try:
        now = today(result.recipe)
    except MaeBenchError as error:
        return RecipeState(unchecked=(f"recipe: {result.recipe} cannot be read here: {error}",))
    ours = settings.protocol_values(config)
    asked = overrides_of(result.command, result.config)
    given = [text.partition("=")[0] for text in asked or ()]
    different = {
        key: (ours.get(key), now.get(key))
        for key in dict.fromkeys([*now, *ours])
        if ours.get(key) != now.get(key) and not any(key == at or key.startswith(f"{at}.") for at in given)
    }
    if not different:
        return RecipeState(asked_for=tuple(asked or ()))
    if asked is None:
        whether = "whether it was asked to or the recipe changed since is not recorded"
        said = _sentence(f"the run differs from recipe {result.recipe} as it is today", different)
        kept = tuple(override(key, then) for key, (then, _) in different.items() if key in ours)
        return RecipeState((Finding("recipe", f"{said}; {whether}"),), asked_for=kept)
    said = _sentence(f"recipe {result.recipe} changed since", different)
    return RecipeState((Finding("recipe", said, True),), asked_for=tuple(asked))


def overrides_of(command: Sequence[str], config: Mapping[str, Any]) -> list[str] | None:
    """The overrides on a command line of ours that began one run or the demo; None: it is neither."""
    words = list(command)
    if not words or PurePath(words[0]).name not in ("mae-bench", "__main__.py"):
        return None
    if words[1:2] == ["demo"]:
        # The one that the demo gives by itself, where nothing is there that corrupts images.
        sets = config.get("sets")
        return ["sets.c=null"] if isinstance(sets, Mapping) and sets.get("c") is None else []
    if words[1:2] not in (["run"], ["pretrain"]):
        return None
    task = next((words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--task", "--recipe")), "")
    if yamlfile.is_yaml_name(task):
        return None  # the file's values may be any
    overrides, skip = [], False
    for word in words[2:]:
        if skip or word.startswith("--"):
            # The word behind an option is its value, unless that stands in the option itself.
            skip = not skip and "=" not in word and word != "--force"
            continue
        overrides.append(word)
    return [text for text in overrides if "=" in text and text.partition("=")[0] != "seed"]


def override(key: str, value: Any) -> str:
    """``key.path=value`` that sets a key to a recorded value."""
    return f"{key}={yamlfile.inline(value)}"


def _sentence(beginning: str, changed: Mapping[str, tuple[Any, Any]]) -> str:
    """``BEGINNING: key 1 -> 2, other a -> b``."""
    said = [
        f"{key} {departures.show(then)} -> {departures.show(now)}"
        for key, (then, now) in list(changed.items())[:_SHOWN]
    ]
    more = len(changed) - len(said)
    return f"{beginning}: {', '.join(said)}{f' and {more} more' if more > 0 else ''}"
