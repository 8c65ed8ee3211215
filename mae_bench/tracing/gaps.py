"""Empty cells of our rows, and the command that would fill each.

A command is named only after its made-up result (`mae_bench.tracing.candidates`) was seen to land in that
very cell. This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from mae_bench import settings
from mae_bench.backbones import aliases
from mae_bench.departures import DATASET_KEY, TASK_KEY
from mae_bench.results import BackboneRecord, Result, StoredRun
from mae_bench.tables.layouts import Layout
from mae_bench.tables.rows import Group, OurRow, identity, matches, our_rows, row_name
from mae_bench.tracing.candidates import (
    Candidate,
    by_task,
    candidate,
    command,
    evaluating,
    fits,
    recipes_for,
    record,
    resolved,
    rules_for,
)
from mae_bench.tracing.findings import Gap
from mae_bench.tracing.recipes import override

# No run can have this name, since a folder cannot.
_CANDIDATE = "\0candidate"
_SIZED = re.compile(r"_(tiny|small|base|large|huge)_patch\d+")
_OTHER_SIZES = ("_base_patch16", "_large_patch16", "_huge_patch14")


class GapFinder:
    """Looks for what would fill the empty cells of one table.

    Args:
        rows: of ours, as `our_rows` made them of all runs.
        runs: all finished runs, among which are classifiers that could be evaluated.
        option: what ``--runs`` must say in a command; None: nothing.
    """

    def __init__(
        self, layout: Layout, rows: Sequence[OurRow], runs: Sequence[StoredRun], option: str | None
    ) -> None:
        self._layout, self._rows, self._option = layout, rows, option
        self._runs = runs
        self._known: dict[str, list[BackboneRecord]] = {}
        self._recipes = {column.key: recipes_for(layout, column.key) for column in layout.columns}

    def gaps(self) -> list[Gap]:
        """The empty cells, row by row."""
        return [
            self._gap(row, column.key)
            for row in self._rows
            for column in self._layout.columns
            if column.key not in row.groups and rules_for(self._layout, column.key)
        ]

    def _gap(self, row: OurRow, column: str) -> Gap:
        seed = min(run.result.seed for group in row.groups.values() for run in group.runs)
        beside = []
        for made in self._tried(row, column, seed):
            label = self._lands(made.result, row, column)
            if label == row.label:
                return self._filled(row, column, made, seed)
            beside += [(made, label)] if label is not None else []
        for made, _ in beside:
            for other in self._departing(row, made, seed):
                if self._lands(other.result, row, column) == row.label:
                    return self._filled(row, column, other, seed)
        for made, label in beside:
            line = made.command(seed, self._option)
            return Gap(row.label, column, why=f"it would be filled in another row, '{label}', by: {line}")
        return self._nothing(row, column, seed)

    def _filled(self, row: OurRow, column: str, made: Candidate, seed: int) -> Gap:
        reason = f"empty cell of {self._layout.id}: {row.label}, {column}"
        return Gap(row.label, column, made.command(seed, self._option), entries=made.entries(seed, reason))

    def _nothing(self, row: OurRow, column: str, seed: int) -> Gap:
        """The cell with the reason why no command is named, and what there is to say instead."""
        specs = {group.result.backbone.arch for group in row.groups.values() if group.result.backbone}
        patterns = [rule.where.get("backbone.arch") for rule in rules_for(self._layout, column)]
        other = patterns and all(
            isinstance(pattern, str) and not any(fnmatchcase(arch, pattern) for arch in specs)
            for pattern in patterns
        )
        if not other:
            takers = [resolved(name) for name, _ in self._recipes[column]]
            if takers and all(one is not None and one.adapter.takes == "random:ARCH" for one in takers):
                return Gap(row.label, column, why="its task trains from scratch and takes random:ARCH alone")
            why = "no recipe of configs/tasks puts this row's backbone there"
            return Gap(row.label, column, why=why)
        wanted = " or ".join(dict.fromkeys(str(pattern) for pattern in patterns))
        if self._layout.rows == "weights":
            return Gap(row.label, column, why=f"it is for other backbones: {wanted}")
        name, overrides = self._recipes[column][0]
        line = command(name, "...", seed, overrides, self._option)
        return Gap(row.label, column, why=f"it needs a backbone {wanted} of the same name: {line}")

    # ------------------------------------------------------------ what could be run

    def _tried(self, row: OurRow, column: str, seed: int) -> Iterator[Candidate]:
        """Runs that may fill the cell, the likeliest first."""
        pairs = self._recipes[column]
        for like in self._backbones(row):
            for name, asked in sorted(pairs, key=lambda pair: not fits(pair[0], like)):
                yield from self._of_recipe(name, asked, like, seed)

    def _departing(self, row: OurRow, made: Candidate, seed: int) -> Iterator[Candidate]:
        """A run that stood in another row, with the departures of this one."""
        more = self._departures(row, made.name, made.overrides)
        if more and made.result.backbone is not None:
            yield from self._of_recipe(made.name, (*made.overrides, *more), made.result.backbone, seed)

    def _of_recipe(
        self, name: str, overrides: tuple[str, ...], like: BackboneRecord, seed: int
    ) -> Iterator[Candidate]:
        plain = candidate(name, (), like, seed)
        if plain is None or not _may_stand(self._layout, plain.result):
            return  # before the overrides are tried, which takes longer
        known, made = resolved(name, overrides), candidate(name, overrides, like, seed)
        if known is None or made is None:
            return
        if not known.adapter.evaluates:
            yield made
            return
        wanted = identity(Result.model_construct(backbone=like))
        tasks = known.adapter.evaluates["task"]
        there = [
            run
            for run in self._runs
            if run.result.seed == seed
            and matches(run.result, known.adapter.evaluates)
            and identity(run.result) == wanted
        ]
        for run in sorted(there, key=lambda run: tasks.index(run.result.task)):
            yield evaluating(made, run.result, str(run.folder))
        for classifier in (one for task in tasks for one in by_task().get(task, [])):
            before = candidate(classifier, (), like, seed)
            demo = classifier.startswith("demo/") == name.startswith("demo/")
            suits = before is not None and demo and fits(classifier, like)
            if suits and before is not None and matches(before.result, known.adapter.evaluates):
                yield evaluating(made, before.result, _CANDIDATE, before)

    def _departures(self, row: OurRow, name: str, asked: tuple[str, ...]) -> tuple[str, ...]:
        """The row's departures from its protocol, as overrides of a recipe that does not have them yet."""
        known = resolved(name, asked)
        if known is None:
            return ()
        flat = settings.flatten(settings.plain(known.config))
        given = {text.partition("=")[0] for text in asked}
        ours = {
            entry.key: entry.ours
            for group in row.groups.values()
            for entry in group.result.deviations
            if entry.key not in group.skip and entry.key not in (DATASET_KEY, TASK_KEY)
        }
        return tuple(
            override(key, value)
            for key, value in ours.items()
            if key in flat and flat[key] != value and key not in given
        )

    def _backbones(self, row: OurRow) -> list[BackboneRecord]:
        """The row's own backbones; then, where a row is a name, those of other sizes that have it."""
        if row.label not in self._known:
            self._known[row.label] = list(self._found(row))
        return self._known[row.label]

    def _found(self, row: OurRow) -> Iterator[BackboneRecord]:
        results = [group.result for group in row.groups.values()]
        own = {result.backbone.spec: result.backbone for result in results if result.backbone is not None}
        yield from own.values()
        if self._layout.rows != "name":
            return
        known = [*_published(), *(other for like in own.values() for other in _resized(like))]
        for like in known:
            same = any(
                row_name(self._layout, result)
                == row_name(self._layout, result.model_copy(update={"backbone": like}))
                for result in results
                if result.backbone is not None
            )
            if same and like.spec not in own:
                yield like

    # ------------------------------------------------------------ where it would stand

    def _lands(self, result: Result, row: OurRow, column: str) -> str | None:
        """The label of the row in which a result would stand in this column: the row's own, if it is that."""
        rules = [rule for rule in rules_for(self._layout, column) if rule.task == result.task]
        ours = matches(result, self._layout.runs)
        if not ours or not any(matches(result, rule.where) for rule in rules):
            return None
        own = [group.runs[0] for group in row.groups.values()]
        beside = list(own)
        if self._layout.comparison == "recipe":
            # Rows are told apart by how they differ from the recipe that most of the column follow.
            beside += [other.groups[column].runs[0] for other in self._rows if column in other.groups]
        trial = StoredRun(Path(_CANDIDATE), _CANDIDATE, result)
        found = our_rows(self._layout, [*{run.name: run for run in beside}.values(), trial]).rows
        for line in found:
            there = line.groups.get(column)
            if there is not None and any(run.name == _CANDIDATE for run in there.runs):
                names = {run.name for group in line.groups.values() for run in group.runs}
                return row.label if {run.name for run in own} <= names else line.label
        return None


def _may_stand(layout: Layout, result: Result) -> bool:
    """Whether a result has what no override gives it: the data and the recipe that the table is about."""
    asked = ("dataset.name", "recipe")
    wanted: dict[str, Any] = {path: layout.runs[path] for path in asked if path in layout.runs}
    return matches(result, wanted)


@cache
def _published() -> tuple[BackboneRecord, ...]:
    """The published backbones, by what timm calls them and by their names of their own."""
    found = []
    for name in aliases.names():
        alias = aliases.load(name)
        if alias.backbone.startswith("timm:"):
            found.append(record(alias.backbone, alias.architecture))
        found.append(record(name, alias.architecture))
    return tuple(found)


def _resized(like: BackboneRecord) -> Iterator[BackboneRecord]:
    """Untrained plain ViTs of the other sizes of the paper."""
    if like.spec.startswith("random:") and _SIZED.search(like.arch):
        for size in _OTHER_SIZES:
            arch = _SIZED.sub(size, like.arch)
            yield record(_SIZED.sub(size, like.spec), arch)


def seed_hints(rows: Sequence[OurRow]) -> list[str]:
    """Cells of a single run, where other cells of the table have several seeds."""
    most = max((len(group.runs) for row in rows for group in row.groups.values()), default=1)
    if most < 2:
        return []
    return [
        f"{row.label}, {column}: one seed, where others have up to {most} ({_more_seeds(group, most)})"
        for row in rows
        for column, group in row.groups.items()
        if len(group.runs) == 1 and _draws(group)
    ]


def _draws(group: Group) -> bool:
    """Whether another seed would give another number."""
    known = resolved(group.result.recipe)
    spec = group.result.backbone.spec if group.result.backbone is not None else ""
    return known is None or known.adapter.seeded or spec.startswith("random:")


def _more_seeds(group: Group, most: int) -> str:
    return f"--seeds {most} with the command of {group.runs[0].name}"
