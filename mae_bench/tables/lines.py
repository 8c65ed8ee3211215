"""The rows of a table with their cells: published ones, ours, and which are best.

A cell of ours counts as comparable with the published ones only if its runs departed nowhere from the
published protocol; every other one says in plain words where they did, and takes no part in best and second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mae_bench import departures
from mae_bench.results import Result
from mae_bench.tables import notes, views
from mae_bench.tables.cells import Cell, Line, Row
from mae_bench.tables.conditions import fits, lookup
from mae_bench.tables.hyperparameters import hyperparameter_rows
from mae_bench.tables.layouts import Layout, PublishedRow, RowProtocol
from mae_bench.tables.rows import Group, OurRow, recipe_name, reference_recipes
from mae_bench.tables.views import View


def published_lines(whole: Layout, layout: Layout, view: View) -> list[Line]:
    """The published rows that are shown; without their columns selected they would be empty."""
    made = hyperparameter_rows(whole) if whole.settings is not None else None
    lines = []
    for i, row in enumerate(layout.published):
        if not views.takes_published(layout, view, row.name, row.facts):
            continue
        built = _published_row(layout, row) if made is None else made[i]
        if view.select and not any(column.key in built.cells for column in layout.columns):
            continue
        lines.append(Line(built, row.note or "", published=row))
    return lines


def _published_row(layout: Layout, row: PublishedRow) -> Row:
    own = _own_protocol(row.protocol) if row.protocol is not None else ""
    cells = {
        column.key: Cell(
            value,
            decimals=max(column.decimals, _printed_decimals(value)),
            verified=row.verified,
            source=notes.source(layout, row),
            departures=own,
        )
        for column in layout.columns
        if isinstance(value := row.values.get(column.key), int | float)
    }
    return Row(row.name, ours=False, cells=cells, facts=row.facts)


def _printed_decimals(value: float) -> int:
    """Digits behind the point that the number was printed with."""
    return len(f"{value:.6f}".rstrip("0").partition(".")[2])


def _own_protocol(protocol: RowProtocol) -> str:
    """In which a published row departs from its table, in words."""
    keys: dict[str, Any] = {
        "train.epochs": protocol.epochs,
        "train.batch": protocol.batch,
        "data.image_size": protocol.image_size,
    }
    keys |= {departures.DATASET_KEY: protocol.data, departures.TASK_KEY: protocol.engine}
    words = departures.settings({key: value for key, value in keys.items() if value is not None})
    words += [f"chosen as {protocol.selection}"] if protocol.selection is not None else []
    words += [protocol.other] if protocol.other is not None else []
    return f"by a protocol of its own: {', '.join(words)}"


def our_lines(layout: Layout, view: View, rows: Sequence[OurRow]) -> list[Line]:
    """Rows of ours with a number in one of the columns shown."""
    prefix = "ours: " if layout.published else ""
    lines = []
    for row in rows:
        groups = {c.key: row.groups[c.key] for c in layout.columns if c.key in row.groups}
        if groups and views.takes_name(view, row.label):
            lines.append(Line(_our_row(layout, prefix + row.label, groups), ours=row, groups=groups))
    return lines


def _our_row(layout: Layout, label: str, groups: Mapping[str, Group]) -> Row:
    cells = {}
    for column in layout.columns:
        if column.key not in groups:
            continue
        group = groups[column.key]
        values = group.values
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        cells[column.key] = Cell(
            mean,
            std=math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None,
            n=len(values),
            decimals=column.decimals,
            departures=_departures(layout, group),
            runs=tuple(run.name for run in group.runs),
            recipe_hash=group.result.recipe_hash,
        )
    facts = {}
    for fact in layout.facts:
        found = [lookup(group.result, fact.ours) for group in groups.values()] if fact.ours else []
        words = dict.fromkeys(departures.show(value) for value in found if value is not None)
        if words:
            facts[fact.key] = ", ".join(words)
    return Row(label, ours=True, cells=cells, facts=facts)


def _departures(layout: Layout, group: Group) -> str:
    result = group.result
    if "." in group.metric:  # a fact about the backbone, however it was used here
        return group.caveat or ""
    words = [group.caveat or "", _selection(layout, result)]
    if layout.comparison == "recipe":
        return "; ".join(filter(None, [_recipe_words(result), *words]))
    if group.protocol is not None and result.protocol != group.protocol:
        words.append(f"by the protocol of {result.protocol}, not of {group.protocol}")
    words.append(departures.sentence(result.deviations, group.skip))
    return "; ".join(filter(None, words))


def _selection(layout: Layout, result: Result) -> str:
    """How our number was chosen, if the published ones were chosen otherwise."""
    if layout.selection is None or fits(result.selection, layout.selection):
        return ""
    ours = result.selection or "not recorded"
    return f"how the number was chosen: {ours} (published {layout.selection.strip('*; ')})"


def _recipe_words(result: Result) -> str:
    """The recipe of a run and its size in numbers, for tables without one published protocol."""
    words = f"recipe {recipe_name(result)}"
    if result.deviations:
        count = len(result.deviations)
        settings = "1 setting departs" if count == 1 else f"{count} settings depart"
        # The departures of a finished classifier that was evaluated are from the protocol of its training.
        words += f" ({settings} from {lookup(result, 'details.classifier.protocol') or result.protocol})"
    sizes = []
    if result.epochs is not None:
        sizes.append(f"{departures.show(result.epochs)} epochs")
    if result.batch is not None:
        sizes.append(f"batch {result.batch}")
    if result.dataset is not None and result.dataset.train_images:
        name = departures.dataset(result.dataset.name)
        sizes.append(f"{result.dataset.train_images} training images of {name}")
    return words + (f": {', '.join(sizes)}" if sizes else "")


# ---------------------------------------------------------------- best and second


def ranked(layout: Layout, lines: Sequence[Line]) -> list[Line]:
    """Mark best and second of each column, among the cells shown that can be compared."""
    ranks: dict[int, dict[str, int]] = {}
    references: dict[str, Group] | None = None
    for column in layout.columns:
        found = [(i, line.row.cells.get(column.key)) for i, line in enumerate(lines)]
        here = [(i, cell) for i, cell in found if cell is not None and cell.text is None]
        chosen: list[tuple[int, Cell]] = []
        if layout.comparison == "protocol":
            chosen = [(i, cell) for i, cell in here if not cell.departures and cell.verified]
        if not chosen and references is None:
            references = reference_recipes([group for line in lines for group in line.groups.values()])
        reference = (references or {}).get(column.key)
        if not chosen and reference is not None:
            chosen = [(i, cell) for i, cell in here if _same_measure(lines[i], column.key, reference)]
        if column.better is None or len(chosen) < 2:
            continue
        # As shown: two numbers that read the same are a tie.
        shown = {i: round(cell.value, cell.decimals) for i, cell in chosen}
        order = sorted(set(shown.values()), reverse=column.better == "higher")[:2]
        for i, value in shown.items():
            if value in order:
                ranks.setdefault(i, {})[column.key] = order.index(value) + 1
    marked = list(lines)
    for i, by_column in ranks.items():
        row = marked[i].row
        cells = {key: replace(row.cells[key], rank=rank) for key, rank in by_column.items()}
        marked[i] = replace(marked[i], row=replace(row, cells={**row.cells, **cells}))
    return marked


def _same_measure(line: Line, column: str, reference: Group) -> bool:
    """Whether a cell of ours was made as the reference was: recipe, data, metric, and nothing against it."""
    group = line.groups.get(column)
    if group is None or group.caveat is not None:
        return False
    ours, theirs = group.result, reference.result
    same_data = (ours.dataset and ours.dataset.fingerprint) == (theirs.dataset and theirs.dataset.fingerprint)
    return ours.recipe_hash == theirs.recipe_hash and same_data and group.metric == reference.metric
