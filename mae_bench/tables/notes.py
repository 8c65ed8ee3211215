"""What is said around a table: footnotes, what ± and bold mean, what was left out, where numbers stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mae_bench.results import IMPORTED_KEY, StoredRun
from mae_bench.tables.layouts import Layout, PublishedRow
from mae_bench.tables.rows import Group, OurRow, identity

if TYPE_CHECKING:
    from mae_bench.tables.cells import Cell, Line, Row

_HASH = 8
_NAMED = 3


def footnotes(
    layout: Layout, lines: Sequence[Line]
) -> tuple[list[str], dict[str, tuple[int, ...]], list[Row]]:
    """Number the footnotes in reading order; one that holds for a whole column goes to the column's head.

    Returns:
        The texts, column -> marks, and the rows with their marks.
    """
    numbers: dict[str, int] = {}

    def number(text: str) -> tuple[int, ...]:
        if not text:
            return ()
        text = text if text.endswith(".") else text + "."
        return (numbers.setdefault(text, len(numbers) + 1),)

    column_marks: dict[str, tuple[int, ...]] = {}
    for column in layout.columns:
        cells = [line.row.cells[column.key] for line in lines if column.key in line.row.cells]
        shared = {cell.departures for cell in cells}
        if len(shared) == 1 and cells[0].departures:
            column_marks[column.key] = number(cells[0].departures)
    marked = []
    for line in lines:
        marks = number(line.note)
        cells_of = line.row.cells
        numbered: dict[str, Cell] = {}
        for column in layout.columns:
            if column.key in cells_of:
                cell = cells_of[column.key]
                said = () if column.key in column_marks else number(cell.departures)
                numbered[column.key] = replace(cell, marks=said) if said else cell
        marked.append(replace(line.row, marks=marks, cells=numbered))
    return list(numbers), column_marks, marked


def spread(rows: Sequence[Row]) -> str:
    """What ± means; empty if there is none."""
    if not any(cell.n > 1 for row in rows for cell in row.cells.values()):
        return ""
    return "Mean ± standard deviation over n seeds; a single run where no n is given."


def ranking(layout: Layout, rows: Sequence[Row], part: bool) -> str:
    """What bold and underlined mean; empty if nothing is ranked.

    Args:
        part: whether rows were left out.
    """
    cells = [cell for row in rows for cell in row.cells.values()]
    if not any(cell.rank for cell in cells):
        return ""
    shown = " of the rows shown" if part else ""
    text = f"Best{shown} of a column in bold, second underlined"
    if layout.comparison == "recipe":
        return text + ", among our runs of the same recipe."
    if any(cell.departures for cell in cells):
        return text + "; numbers that depart from the published protocol (see footnotes) are not compared."
    return text + "."


def remarks(
    layout: Layout, lines: Sequence[Line], without_column: Sequence[StoredRun], part: str
) -> Iterator[str]:
    """Sentences about the table as a whole.

    Args:
        part: which part of the table is shown, in words; empty: all of it.
    """
    groups = [group for line in lines for group in line.groups.values()]
    cells = [cell for line in lines for cell in line.row.cells.values()]
    if part:
        yield f"Part of the table: {part}."
    if not lines:
        tasks = ", ".join(dict.fromkeys(rule.task for rule in layout.ours))
        yield f"No finished run fits this table yet; it shows runs of {tasks}."
    if not all(cell.verified for cell in cells):
        yield "? marks a published number that was not found in a source; it is not compared."
    yield from layout.notes
    yield from _recipe_notes(layout, groups)
    yield from _several_recipes([line.ours for line in lines if line.ours is not None])
    repeated = list({run.name: run for group in groups for run in group.superseded}.values())
    if repeated:
        yield f"Where a seed was run again the latest run counts; not counted: {_names(repeated)}."
    if without_column:
        yield f"Not shown, for want of a column: {_names(without_column)}."
    published = [line.published for line in lines if line.published is not None]
    if published:
        yield f"Sources of the published rows: {_sources(layout, published)}."


def _recipe_notes(layout: Layout, groups: Sequence[Group]) -> Iterator[str]:
    """What the recipes say about the paper: a number without a footnote may rest on such a choice."""
    if layout.comparison == "recipe":
        return
    recipes: dict[str, set[str]] = {}
    for group in groups:
        for note in group.result.notes:
            if note.startswith(f"{IMPORTED_KEY} from "):
                continue  # its footnote says so
            recipes.setdefault(note, set()).add(group.result.recipe)
    for note, names in recipes.items():
        yield f"{', '.join(sorted(names))}: {note}"


def _several_recipes(rows: Iterable[OurRow]) -> Iterator[str]:
    """Which runs have rows of their own because their recipes differ, and how to choose one of them."""
    recipes: dict[tuple[str, str, str], dict[str, None]] = {}
    names: dict[tuple[str, str, str], str] = {}
    for row in rows:
        for column, group in row.groups.items():
            place = (row.name, column, identity(group.result))
            names[place] = row.name
            recipes.setdefault(place, {})[group.result.recipe_hash] = None
    several: dict[str, dict[str, None]] = {}
    for place, hashes in recipes.items():
        if len(hashes) > 1:
            several.setdefault(names[place], {}).update(hashes)
    if not several:
        return
    said = [
        f"{name} by {len(hashes)} recipes ({', '.join(digest[:_HASH] for digest in [*hashes][:_NAMED])}"
        f"{', ...' if len(hashes) > _NAMED else ''})"
        for name, hashes in [*several.items()][:_NAMED]
    ]
    more = f" and of {len(several) - _NAMED} more names" if len(several) > _NAMED else ""
    first = next(iter(next(iter(several.values()))))[:_HASH]
    yield (
        "Runs of different recipes are never averaged and stand in rows of their own: "
        f"{', '.join(said)}{more}; choose one with --where recipe_hash={first}."
    )


def _names(runs: Sequence[StoredRun]) -> str:
    first = ", ".join(run.name for run in runs[:_NAMED])
    return first + (f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else "")


def _sources(layout: Layout, published: Sequence[PublishedRow]) -> str:
    """Every source with the names of its rows; the names are left out where one source holds all."""
    rows: dict[str, list[str]] = {}
    for row in published:
        rows.setdefault(source(layout, row), []).append(row.name)
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{text} ({', '.join(dict.fromkeys(names))})" for text, names in rows.items())


def source(layout: Layout, row: PublishedRow) -> str:
    """Where a published row stands."""
    return " and ".join(layout.sources[key] for key in row.source)
