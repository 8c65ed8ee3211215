"""From finished runs to the rows of a table: which run belongs in which cell, and what a row is called.

Runs share a cell only if they did the same thing: same recipe values, same weights, same data, different
seeds. Whatever differs in anything else gets a row of its own, with the difference in its name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel

from mae_bench import departures
from mae_bench.layouts import Layout, Rule
from mae_bench.results import Result, StoredRun

_SHORT = 8


@dataclass(frozen=True)
class Group:
    """The runs behind one cell: equal in all but their seed, one run a seed, ordered by seed."""

    column: str
    metric: str
    axis: str | None
    """Key of the configuration that chose the column; no departure from anything."""
    protocol: str | None
    """Recipe that holds the published protocol of the column, if the layout says one."""
    caveat: str | None
    """Why it is not comparable, if the layout's rule says so."""
    runs: tuple[StoredRun, ...]
    superseded: tuple[StoredRun, ...] = ()
    """Earlier runs of a seed that was run again."""

    @property
    def result(self) -> Result:
        """A run that stands for all: they differ in nothing that a row's name or a footnote says."""
        return self.runs[0].result

    @property
    def values(self) -> list[float]:
        return [run.result.metrics[self.metric] for run in self.runs]

    @property
    def skip(self) -> set[str]:
        return {self.axis} if self.axis is not None else set()


@dataclass(frozen=True)
class OurRow:
    """One row of ours: its name and, per column, the runs behind the cell."""

    label: str
    groups: Mapping[str, Group]


@dataclass(frozen=True)
class OurRows:
    rows: list[OurRow]
    without_column: list[StoredRun]
    """Runs of a task of this table that no column takes."""


def our_rows(layout: Layout, runs: Iterable[StoredRun]) -> OurRows:
    """Sort runs into rows and cells by the rules of the layout."""
    groups, without_column = _groups(layout, runs)
    named: dict[str, dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        weights = identity(group.result) if layout.rows == "weights" else ""
        named[row_name(layout, group.result)][weights].append(group)
    references = _references(groups) if layout.comparison == "recipe" else {}
    rows = []
    for name, by_weights in named.items():
        words = _weights_words([members[0] for members in by_weights.values()])
        for weights, members in by_weights.items():
            label = f"{name}, {words[weights]}" if len(by_weights) > 1 else name
            rows += _lines(label, members, references)
    return OurRows(rows, without_column)


# ---------------------------------------------------------------- runs into groups


def _groups(layout: Layout, runs: Iterable[StoredRun]) -> tuple[list[Group], list[StoredRun]]:
    alike: dict[tuple[Any, ...], list[StoredRun]] = defaultdict(list)
    without_column = []
    tasks = {rule.task for rule in layout.ours}
    for run in runs:
        if run.result.task not in tasks or not matches(run.result, layout.runs):
            continue
        places = _places(layout, run.result)
        if not places:
            without_column.append(run)
            continue
        result = run.result
        data = result.dataset.fingerprint if result.dataset else ""
        name = row_name(layout, result)
        for place in places:
            alike[*place, name, result.recipe_hash, identity(result), data].append(run)
    groups = []
    for (column, metric, axis, protocol, caveat, *_), members in alike.items():
        by_seed: dict[int, list[StoredRun]] = defaultdict(list)
        for run in sorted(members, key=lambda run: (run.result.finished, run.name)):
            by_seed[run.result.seed].append(run)
        latest = tuple(by_seed[seed][-1] for seed in sorted(by_seed))
        earlier = tuple(run for seed in sorted(by_seed) for run in by_seed[seed][:-1])
        groups.append(Group(column, metric, axis, protocol, caveat, latest, earlier))
    return groups, without_column


# Column, metric, axis key, protocol and caveat.
_Place = tuple[str, str, str | None, str | None, str | None]


def _places(layout: Layout, result: Result) -> list[_Place]:
    """Where the first rule that takes the run puts it, for each metric shown."""
    found: dict[str, _Place] = {}
    for rule in layout.ours:
        metric = rule.metric or result.headline
        if metric in found or rule.task != result.task or not matches(result, rule.where):
            continue
        column = rule.column if rule.column is not None else _column_at(layout, rule, result)
        if column is not None and metric in result.metrics:
            found[metric] = (column, metric, rule.axis, rule.protocol, rule.caveat)
    return list(found.values())


def _column_at(layout: Layout, rule: Rule, result: Result) -> str | None:
    at = lookup(result, f"config.{rule.axis}")
    return next((column.key for column in layout.columns if column.x == at), None)


def matches(result: Result, where: Mapping[str, Any]) -> bool:
    """Whether every dotted path of the result has the value, or fits the pattern, asked for."""
    return all(_fits(lookup(result, path), wanted) for path, wanted in where.items())


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(value, one) for one in wanted)
    if isinstance(wanted, str) and value is not None:
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return fnmatchcase(text, wanted)
    return bool(value == wanted)


def lookup(result: Result, path: str) -> Any:
    """The value at a dotted path of a result; None if there is none."""
    value: Any = result
    for part in path.split("."):
        if isinstance(value, BaseModel):
            value = getattr(value, part, None)
        elif isinstance(value, Mapping):
            value = value.get(part)
        else:
            return None
    return value


def identity(result: Result) -> str:
    """What tells the weights behind a result from others.

    Random weights are drawn from the run's seed, so that they differ from seed to seed as they should; they
    are told apart by their architecture alone.
    """
    backbone = result.backbone
    if backbone is None:
        return ""
    return backbone.spec if backbone.spec.startswith("random:") else backbone.digest


def recipe_name(result: Result) -> str:
    """The recipe behind a number, and that of the classifier, where a finished one was evaluated."""
    trained = lookup(result, "details.classifier.recipe")
    return result.recipe if trained is None else f"{result.recipe}, classifier of {trained}"


def reference_recipes(groups: Sequence[Group]) -> dict[str, Group]:
    """Column -> a group of the recipe that most of its cells follow (then: fewest departures, newest)."""
    references = {}
    for column in dict.fromkeys(group.column for group in groups):
        here = [group for group in groups if group.column == column]
        counts: dict[str, int] = defaultdict(int)
        for group in here:
            counts[group.result.recipe_hash] += 1
        newest_first = sorted(here, key=lambda group: group.result.finished, reverse=True)
        references[column] = min(
            newest_first, key=lambda group: (-counts[group.result.recipe_hash], len(group.result.deviations))
        )
    return references


# ---------------------------------------------------------------- groups into lines


# Task, and the protocols that the departures of a run are from: its own, and that of its classifier.
_Kind = tuple[str, str | None, str | None]


def _kind(group: Group) -> _Kind:
    result = group.result
    return result.task, result.protocol, lookup(result, "details.classifier.protocol")


def _references(groups: Sequence[Group]) -> dict[tuple[_Kind, str], Group]:
    """(Kind, column) -> the group that the others of this kind and column are told apart from.

    Departures from two protocols say nothing of how two runs differ.
    """
    found: dict[tuple[_Kind, str], Group] = {}
    for kind in dict.fromkeys(map(_kind, groups)):
        alike = [group for group in groups if _kind(group) == kind]
        found |= {(kind, column): group for column, group in reference_recipes(alike).items()}
    return found


def _lines(label: str, groups: list[Group], references: Mapping[tuple[_Kind, str], Group]) -> list[OurRow]:
    """The rows of one name: one if nothing conflicts, else one for each way of differing."""
    by_words: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        reference = references.get((_kind(group), group.column))
        by_words[tuple(_differences(group, reference))].append(group)
    lines: dict[tuple[str, ...], dict[str, Group]] = defaultdict(dict)
    for words, members in by_words.items():
        by_column: dict[str, list[Group]] = defaultdict(list)
        for group in members:
            by_column[group.column].append(group)
        for column, rivals in by_column.items():
            for group, more in zip(rivals, _told_apart(rivals), strict=True):
                lines[*words, *more][column] = group
    return [
        OurRow(", ".join([label, *words]), lines[words]) for words in sorted(lines, key=lambda w: (len(w), w))
    ]


def _differences(group: Group, reference: Group | None) -> list[str]:
    """Words for the settings in which a group differs from the published protocol, or from a reference."""
    ours = {entry.key: entry.ours for entry in group.result.deviations if entry.key not in group.skip}
    if reference is None:
        base: dict[str, Any] = {}
    else:
        base = {entry.key: entry.ours for entry in reference.result.deviations if entry.key not in group.skip}
        # Where only the reference departs, our value is the published one.
        ours |= {entry.key: entry.published for entry in reference.result.deviations if entry.key not in ours}
        base |= {entry.key: entry.published for entry in group.result.deviations if entry.key not in base}
    changed = {key: value for key, value in ours.items() if key not in base or base[key] != value}
    return departures.settings(changed)


def _told_apart(rivals: Sequence[Group]) -> list[list[str]]:
    """Words for what tells each group from the others of the same row, column and departures."""
    if len(rivals) == 1:
        return [[]]
    results = [rival.result for rival in rivals]
    metrics = len({rival.metric for rival in rivals}) > 1
    words: list[list[str]] = [[] for _ in rivals]
    if len({identity(result) for result in results}) > 1:
        weights = _weights_words(rivals)
        for said, result in zip(words, results, strict=True):
            said.append(weights[identity(result)])
    recipes = len({recipe_name(result) for result in results}) > 1
    pairs = {(recipe_name(result), result.recipe_hash) for result in results}
    hashes = len(pairs) > len({recipe for recipe, _ in pairs})
    prints = [result.dataset.fingerprint if result.dataset else "" for result in results]
    several_data = len(set(prints)) > 1
    short = _shortened([*(result.recipe_hash for result in results), *prints])
    for said, rival, data in zip(words, rivals, prints, strict=True):
        result = rival.result
        if recipes:
            said.append(recipe_name(result))
        if hashes:
            said.append(f"recipe {short[result.recipe_hash]}")
        if several_data and data:
            said.append(f"data {short[data]}")
        if metrics:
            said.append(rival.metric)
    return words


def _weights_words(groups: Sequence[Group]) -> dict[str, str]:
    """Weights -> the backbone as given where that is theirs alone, else their digest."""
    owners: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        owners[short_backbone(group.result)].add(identity(group.result))
    short = _shortened(identity(group.result) for group in groups)
    words = {}
    for group in groups:
        spec, weights = short_backbone(group.result), identity(group.result)
        words[weights] = spec if len(owners[spec]) == 1 else f"weights {short[weights]}"
    return words


def _shortened(digests: Iterable[str]) -> dict[str, str]:
    """Digest -> its first characters, as many as tell all of them apart."""
    whole = set(digests)
    length = _SHORT
    while len({digest[:length] for digest in whole}) < len(whole):
        length += _SHORT
    return {digest: digest[:length] for digest in whole}


# ---------------------------------------------------------------- names


def row_name(layout: Layout, result: Result) -> str:
    """The name of a run's row by the layout's `names`; else its backbone, shortened."""
    for entry in layout.names:
        if matches(result, entry.where):
            return re.sub(r"\{([^{}]+)\}", lambda found: _filled(found[1], result), entry.name)
    return short_backbone(result)


def _filled(variable: str, result: Result) -> str:
    if variable == "backbone":
        return short_backbone(result)
    if variable == "tag":
        spec = result.backbone.spec if result.backbone else ""
        return spec.rpartition(".")[2]
    value = lookup(result, variable)
    return "?" if value is None else departures.show(value)


def short_backbone(result: Result) -> str:
    """The backbone as given, a path in it cut to its last two parts; ``scratch`` if there is none."""
    if result.backbone is None:
        return "scratch"
    kind, colon, rest = result.backbone.spec.partition(":")
    if not colon or kind not in ("run", "file"):
        return result.backbone.spec
    path, mark, query = rest.partition("?")
    return f"{kind}:{'/'.join(PurePosixPath(path).parts[-2:])}{mark}{query}"
