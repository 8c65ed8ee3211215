"""From finished runs to the rows of a table: which run belongs in which cell, and what a row is called.

Runs share a cell only if they did the same thing: same recipe values, same weights, same data, different
seeds. Whatever differs in anything else gets a row of its own, with the difference in its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mae_bench import departures
from mae_bench.results import Result, StoredRun
from mae_bench.tables.conditions import RunIndex, lookup, matches
from mae_bench.tables.layouts import Layout, Rule
from mae_bench.tables.row_names import filled, row_name, short_backbone, variables

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
        found = [number(run.result, self.metric) for run in self.runs]
        values = [value for value in found if value is not None]
        # What is known of the backbone is one number, however many runs show it.
        return list(dict.fromkeys(values)) if "." in self.metric else values

    @property
    def skip(self) -> set[str]:
        return {self.axis} if self.axis is not None else set()


@dataclass(frozen=True)
class OurRow:
    """One row of ours: its name and, per column, the runs behind the cell."""

    name: str
    """What it shares with the rows of other recipes."""
    label: str
    groups: Mapping[str, Group]


@dataclass(frozen=True)
class OurRows:
    rows: list[OurRow]
    without_column: list[StoredRun]
    """Runs of a task of this table that no column takes."""


def our_rows(
    layout: Layout, runs: RunIndex | Iterable[StoredRun], keep: Callable[[Result], bool] | None = None
) -> OurRows:
    """Sort runs into rows and cells by the rules of the layout.

    Args:
        keep: which runs may stand in the table; None: all.
    """
    groups, without_column = _groups(layout, RunIndex.of(runs), keep)
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


def _groups(
    layout: Layout, index: RunIndex, keep: Callable[[Result], bool] | None
) -> tuple[list[Group], list[StoredRun]]:
    # Runs that answer alike to all that the layout asks have the same places, and the same name.
    places_of: dict[tuple[Any, ...], list[_Place] | None] = {}
    names_of: dict[tuple[Any, ...], str] = {}
    taken: list[tuple[int, StoredRun, list[_Place], str]] = []
    tasks = [rule.task for rule in layout.ours]
    for run, asked, called in index.answers(tasks, _place_paths(layout), _name_paths(layout)):
        if asked not in places_of:
            ours = matches(run.result, layout.runs)
            places_of[asked] = _places(layout, run.result) if ours else None
        places = places_of[asked]
        if places is None or (keep is not None and not keep(run.result)):
            continue
        if called not in names_of:
            names_of[called] = row_name(layout, run.result)
        taken.append((index.place(run), run, places, names_of[called]))
    alike: dict[tuple[_Place, str, tuple[str, str, str]], list[StoredRun]] = defaultdict(list)
    without_column = []
    for _, run, places, name in sorted(taken, key=lambda entry: entry[0]):
        if not places:
            without_column.append(run)
        same = _sameness(run.result)
        for place in places:
            alike[place, name, same].append(run)
    groups = []
    for (place, *_), members in alike.items():
        by_seed: dict[int, list[StoredRun]] = defaultdict(list)
        for run in sorted(members, key=lambda run: (run.result.finished, run.name)):
            by_seed[run.result.seed].append(run)
        latest = tuple(by_seed[seed][-1] for seed in sorted(by_seed))
        earlier = tuple(run for seed in sorted(by_seed) for run in by_seed[seed][:-1])
        groups.append(Group(*place, latest, earlier))
    return groups, without_column


def _sameness(result: Result) -> tuple[str, str, str]:
    """What runs that share a cell have in common, apart from their place: recipe, weights, data."""
    return result.recipe_hash, identity(result), result.dataset.fingerprint if result.dataset else ""


def _place_paths(layout: Layout) -> list[str]:
    """Every dotted path of a result on which it depends where a run stands in this layout."""
    paths = [*layout.runs]
    for rule in layout.ours:
        paths += rule.where
        paths += [_axis_path(rule.axis)] if rule.axis is not None else []
        paths += [rule.metric] if rule.metric is not None and "." in rule.metric else []
        paths += variables(rule.caveat or "")
    return list(dict.fromkeys(paths))


def _name_paths(layout: Layout) -> list[str]:
    """Every dotted path of a result on which the name of its row depends."""
    paths = ["backbone.spec"]
    for entry in layout.names:
        paths += [*entry.where, *variables(entry.name)]
    return list(dict.fromkeys(paths))


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
        if column is not None and number(result, metric) is not None:
            caveat = rule.caveat and filled(rule.caveat, result)
            found[metric] = (column, metric, rule.axis, rule.protocol, caveat)
    return list(found.values())


def _column_at(layout: Layout, rule: Rule, result: Result) -> str | None:
    at = lookup(result, _axis_path(str(rule.axis)))
    columns = (column for column in layout.columns if rule.group is None or column.group == rule.group)
    return next((column.key for column in columns if column.x == at), None)


def _axis_path(axis: str) -> str:
    """Where the value of an axis stands in a result: in the configuration, or among facts of the backbone."""
    return axis if axis.startswith("backbone.") else f"config.{axis}"


def number(result: Result, metric: str) -> float | None:
    """The number of a rule's `metric`: one of the metrics or, with a dot in it, a path of the result."""
    value = lookup(result, metric) if "." in metric else result.metrics.get(metric)
    return float(value) if isinstance(value, int | float) else None


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
    by_column: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_column[group.column].append(group)
    references = {}
    for column, here in by_column.items():
        counts = Counter(group.result.recipe_hash for group in here)
        newest_first = sorted(here, key=lambda group: group.result.finished, reverse=True)
        references[column] = min(
            newest_first,
            key=lambda group: (-counts[group.result.recipe_hash], len(group.result.deviations)),
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
    by_kind: dict[_Kind, list[Group]] = defaultdict(list)
    for group in groups:
        by_kind[_kind(group)].append(group)
    found: dict[tuple[_Kind, str], Group] = {}
    for kind, alike in by_kind.items():
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
        OurRow(label, ", ".join([label, *words]), lines[words])
        for words in sorted(lines, key=lambda w: (len(w), w))
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
