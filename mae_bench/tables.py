"""Tables: published rows and our runs beside them, each cell traceable to its source or its run folders.

`build` turns a layout and finished runs into a `Table`; `mae_bench.render` turns that into text. What is
compared with what follows one rule: a cell of ours counts as comparable with the published ones only if its
runs departed nowhere from the published protocol. Every other cell carries a numbered footnote in plain words
and takes no part in best and second best.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mae_bench import departures
from mae_bench.layouts import Column, FactColumn, FigureSettings, Layout, PublishedRow, load_layout
from mae_bench.layouts import list_tables as list_tables
from mae_bench.results import Result, StoredRun, scan
from mae_bench.rows import Group, OurRow, lookup, our_rows, recipe_name, reference_recipes


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    value: float
    """Mean over seeds."""
    std: float | None = None
    """Sample standard deviation over seeds; None for a single run and for published numbers."""
    n: int = 1
    """Number of seeds."""
    decimals: int = 1
    rank: int = 0
    """1: best of its column, 2: second, 0: neither, or not compared."""
    marks: tuple[int, ...] = ()
    """Numbers of its footnotes."""
    departures: str = ""
    """In which it is not comparable, in plain words; empty: comparable."""
    verified: bool = True
    source: str = ""
    """Where a published number stands."""
    runs: tuple[str, ...] = ()
    """Run folders behind the number, relative to the runs root, ordered by seed."""
    recipe_hash: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    label: str
    ours: bool
    cells: Mapping[str, Cell]
    """Column key -> cell; a column without one shows a dash."""
    facts: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table, ready to be rendered or drawn."""

    id: str
    title: str
    caption: str
    row_label: str
    facts: Sequence[FactColumn]
    columns: Sequence[Column]
    rows: Sequence[Row]
    column_marks: Mapping[str, tuple[int, ...]]
    """Footnotes that hold for every cell of a column."""
    footnotes: Sequence[str]
    """Footnote number i is at index i - 1."""
    spread: str
    """What the number behind ± means; empty if there is none."""
    ranking: str
    """What bold and underlined mean; empty if nothing is ranked."""
    remarks: Sequence[str]
    """Sentences about the table as a whole: how to read it, what was left out, sources."""
    figure: FigureSettings | None = None
    problems: Sequence[str] = ()
    """Run folders that could not be read."""


def render_table(
    id_or_path: str | os.PathLike[str],
    runs_root: str | os.PathLike[str] = "runs",
    format: str = "markdown",
    *,
    width: int | None = None,
    color: bool | None = None,
) -> str:
    """A table as text: the layout's published rows and all fitting runs below `runs_root`.

    A run folder that cannot be read is named in a warning and left out.

    Args:
        id_or_path: name of a table (`list_tables`), or path of a layout file.
        format: ``terminal``, ``markdown``, ``latex`` or ``csv``.
        width: characters a terminal line may have; None: as many as the terminal has.
        color: whether the terminal text may hold escape sequences (bold, underline); None: if standard output
            is a terminal.

    Raises:
        MaeBenchError: no such table or format, or a faulty layout.
    """
    from mae_bench import render, screen

    table = make_table(id_or_path, runs_root)
    for problem in table.problems:
        screen.warn(problem)
    return render.render(table, format, width=width, color=color)


def make_table(id_or_path: str | os.PathLike[str], runs_root: str | os.PathLike[str] = "runs") -> Table:
    """Read a layout and all runs below `runs_root`, and build the table.

    Raises:
        MaeBenchError: no such table, or a faulty layout.
    """
    layout = load_layout(id_or_path)
    tree = scan(Path(runs_root))
    return replace(build(layout, tree.runs), problems=tuple(tree.problems))


def build(layout: Layout, runs: Iterable[StoredRun]) -> Table:
    """Set published rows and runs into a table by the rules of the layout."""
    ours = our_rows(layout, runs)
    groups = [group for row in ours.rows for group in row.groups.values()]
    prefix = "ours: " if layout.published else ""
    rows = [_published_row(layout, row) for row in layout.published]
    rows += [_our_row(layout, row, prefix) for row in ours.rows]
    _rank(layout, rows, groups)
    footnotes, column_marks, rows = _footnotes(layout, rows)
    return Table(
        id=layout.id,
        title=layout.title,
        caption=layout.caption,
        row_label=layout.row_label,
        facts=layout.facts,
        columns=layout.columns,
        rows=rows,
        column_marks=column_marks,
        footnotes=footnotes,
        spread=_spread(rows),
        ranking=_ranking(layout, rows),
        remarks=list(_remarks(layout, rows, groups, ours.without_column)),
        figure=layout.figure,
    )


# ---------------------------------------------------------------- rows


def _published_row(layout: Layout, row: PublishedRow) -> Row:
    cells = {
        column.key: Cell(
            value,
            decimals=max(column.decimals, _printed_decimals(value)),
            verified=row.verified,
            source=_source(layout, row),
        )
        for column in layout.columns
        if (value := row.values.get(column.key)) is not None
    }
    return Row(row.name, ours=False, cells=cells, facts=row.facts)


def _printed_decimals(value: float) -> int:
    """Digits behind the point that the number was printed with."""
    return len(f"{value:.6f}".rstrip("0").partition(".")[2])


def _our_row(layout: Layout, row: OurRow, prefix: str) -> Row:
    cells = {}
    for column in layout.columns:
        if column.key not in row.groups:
            continue
        group = row.groups[column.key]
        values = group.values
        cells[column.key] = Cell(
            statistics.fmean(values),
            std=statistics.stdev(values) if len(values) > 1 else None,
            n=len(values),
            decimals=column.decimals,
            departures=_departures(layout, group),
            runs=tuple(run.name for run in group.runs),
            recipe_hash=group.result.recipe_hash,
        )
    facts = {}
    for fact in layout.facts:
        found = [lookup(group.result, fact.ours) for group in row.groups.values()] if fact.ours else []
        words = dict.fromkeys(departures.show(value) for value in found if value is not None)
        if words:
            facts[fact.key] = ", ".join(words)
    return Row(prefix + row.label, ours=True, cells=cells, facts=facts)


def _departures(layout: Layout, group: Group) -> str:
    result, words = group.result, [group.caveat or ""]
    if layout.comparison == "recipe":
        return "; ".join(filter(None, [_recipe_words(result), *words]))
    if group.protocol is not None and result.protocol != group.protocol:
        words.append(f"by the protocol of {result.protocol}, not of {group.protocol}")
    words.append(departures.sentence(result.deviations, group.skip))
    return "; ".join(filter(None, words))


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


def _rank(layout: Layout, rows: list[Row], groups: Sequence[Group]) -> None:
    """Mark best and second of each column, among the cells that can be compared."""
    references = reference_recipes(groups)
    for column in layout.columns:
        here = [(i, row.cells[column.key]) for i, row in enumerate(rows) if column.key in row.cells]
        chosen: list[tuple[int, Cell]] = []
        if layout.comparison == "protocol":
            chosen = [(i, cell) for i, cell in here if not cell.departures and cell.verified]
        if not chosen and column.key in references:
            recipe = references[column.key].result.recipe_hash
            chosen = [(i, cell) for i, cell in here if rows[i].ours and cell.recipe_hash == recipe]
        if column.better is None or len(chosen) < 2:
            continue
        # As shown: two numbers that read the same are a tie.
        shown = {i: round(cell.value, cell.decimals) for i, cell in chosen}
        order = sorted(set(shown.values()), reverse=column.better == "higher")
        for i, cell in chosen:
            rank = order.index(shown[i]) + 1
            if rank <= 2:
                rows[i] = replace(rows[i], cells={**rows[i].cells, column.key: replace(cell, rank=rank)})


# ---------------------------------------------------------------- footnotes and remarks


def _footnotes(layout: Layout, rows: list[Row]) -> tuple[list[str], dict[str, tuple[int, ...]], list[Row]]:
    """Number the footnotes in reading order; one that holds for a whole column goes to the column's head."""
    texts: list[str] = []

    def number(text: str) -> tuple[int, ...]:
        if not text:
            return ()
        text = text if text.endswith(".") else text + "."
        if text not in texts:
            texts.append(text)
        return (texts.index(text) + 1,)

    column_marks: dict[str, tuple[int, ...]] = {}
    for column in layout.columns:
        cells = [row.cells[column.key] for row in rows if column.key in row.cells]
        shared = {cell.departures for cell in cells}
        if len(shared) == 1 and cells[0].departures:
            column_marks[column.key] = number(cells[0].departures)
    notes = [row.note or "" for row in layout.published]
    notes += [""] * (len(rows) - len(notes))
    marked = []
    for row, note in zip(rows, notes, strict=True):
        marks = number(note)
        numbered = {
            key: replace(cell, marks=() if key in column_marks else number(cell.departures))
            for key, cell in _in_order(layout, row)
        }
        marked.append(replace(row, marks=marks, cells=numbered))
    return texts, column_marks, marked


def _in_order(layout: Layout, row: Row) -> Iterator[tuple[str, Cell]]:
    return ((column.key, row.cells[column.key]) for column in layout.columns if column.key in row.cells)


def _remarks(
    layout: Layout, rows: Sequence[Row], groups: Sequence[Group], without_column: Sequence[StoredRun]
) -> Iterator[str]:
    cells = [cell for row in rows for cell in row.cells.values()]
    if not rows:
        tasks = ", ".join(dict.fromkeys(rule.task for rule in layout.ours))
        yield f"No finished run fits this table yet; it shows runs of {tasks}."
    if not all(cell.verified for cell in cells):
        yield "? marks a published number that was not found in a source; it is not compared."
    yield from layout.notes
    yield from _recipe_notes(layout, groups)
    repeated = list({run.name: run for group in groups for run in group.superseded}.values())
    if repeated:
        yield f"Where a seed was run again the latest run counts; not counted: {_names(repeated)}."
    if without_column:
        yield f"Not shown, for want of a column: {_names(without_column)}."
    if layout.published:
        yield f"Sources of the published rows: {_sources(layout)}."


def _spread(rows: Sequence[Row]) -> str:
    if not any(cell.n > 1 for row in rows for cell in row.cells.values()):
        return ""
    return "Mean ± standard deviation over n seeds; a single run where no n is given."


def _ranking(layout: Layout, rows: Sequence[Row]) -> str:
    cells = [cell for row in rows for cell in row.cells.values()]
    if not any(cell.rank for cell in cells):
        return ""
    text = "Best of a column in bold, second underlined"
    if layout.comparison == "recipe":
        return text + ", among our runs of the same recipe."
    if any(cell.departures for cell in cells):
        return text + "; numbers that depart from the published protocol (see footnotes) are not compared."
    return text + "."


def _recipe_notes(layout: Layout, groups: Sequence[Group]) -> Iterator[str]:
    """What the recipes say about the paper: a number without a footnote may rest on such a choice."""
    if layout.comparison == "recipe":
        return
    recipes: dict[str, list[str]] = {}
    for group in groups:
        for note in group.result.notes:
            recipes.setdefault(note, [])
            if group.result.recipe not in recipes[note]:
                recipes[note].append(group.result.recipe)
    for note, names in recipes.items():
        yield f"{', '.join(sorted(names))}: {note}"


def _names(runs: Sequence[StoredRun]) -> str:
    first = ", ".join(run.name for run in runs[:3])
    return first + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")


def _sources(layout: Layout) -> str:
    """Every source with the names of its rows; the names are left out where one source holds all."""
    rows: dict[str, list[str]] = {}
    for row in layout.published:
        rows.setdefault(_source(layout, row), []).append(row.name)
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{source} ({', '.join(dict.fromkeys(names))})" for source, names in rows.items())


def _source(layout: Layout, row: PublishedRow) -> str:
    return " and ".join(layout.sources[key] for key in row.source)
