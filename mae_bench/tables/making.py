"""Making a table of published rows and our runs, each cell traceable to its source or its run folders.

`build` turns a layout and finished runs into a `Table`; `mae_bench.render` turns that into text. What is
compared with what follows one rule: a cell of ours counts as comparable with the published ones only if its
runs departed nowhere from the published protocol. Every other cell carries a numbered footnote in plain words
and takes no part in best and second best.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mae_bench import resources
from mae_bench.errors import MaeBenchError
from mae_bench.results import RunTree, StoredRun, collection_paused, scan
from mae_bench.tables import arranging, notes, views
from mae_bench.tables.cells import Table
from mae_bench.tables.conditions import RunIndex
from mae_bench.tables.layouts import Layout, load_layout
from mae_bench.tables.lines import our_lines, published_lines, ranked
from mae_bench.tables.rows import our_rows
from mae_bench.tables.views import View


def render_table(
    id_or_path: str | os.PathLike[str],
    runs_root: str | os.PathLike[str] = "runs",
    format: str = "markdown",
    *,
    view: View | None = None,
    width: int | None = None,
    color: bool | None = None,
) -> str:
    """A table as text: the layout's published rows and all fitting runs below `runs_root`.

    A run folder that cannot be read is named in a warning and left out.

    Args:
        id_or_path: name of a table (`list_tables`), or path of a layout file.
        format: one of `mae_bench.render.FORMATS`.
        view: which part is shown, and how; None: all of it.
        width: characters a terminal line may have; None: as many as the terminal has.
        color: whether the terminal text may hold escape sequences (bold, underline); None: if standard output
            is a terminal.

    Raises:
        MaeBenchError: no such table or format, a faulty layout, or a view that asks for what is not there.
    """
    from mae_bench import render, screen

    table = make_table(id_or_path, runs_root, view)
    for problem in table.problems:
        screen.warn(problem)
    return render.render(table, format, width=width, color=color)


def make_table(
    id_or_path: str | os.PathLike[str], runs_root: str | os.PathLike[str] = "runs", view: View | None = None
) -> Table:
    """Read a layout and all runs below `runs_root`, and build the table.

    Raises:
        MaeBenchError: no such table, a faulty layout, or a view that asks for what is not there.
    """
    layout = load_layout(id_or_path)
    tree = scan(Path(runs_root))
    return replace(build(layout, tree.runs, view), problems=tuple(tree.problems))


def all_tables(runs: str | os.PathLike[str] | RunTree = "runs", view: View | None = None) -> list[Table]:
    """Every table that comes with mae-bench and in which runs of ours stand, from one reading of the runs.

    Where the view shows published rows alone, every table that has some. Folders that could not be read are
    named in the first table.

    Args:
        runs: folder that holds the runs, or what `mae_bench.results.scan` found there.

    Raises:
        MaeBenchError: a faulty layout, or a view that is for one table.
    """
    view = view or View()
    for option, value in (("--select", view.select), ("--sort", view.sort), ("--delta", view.delta)):
        if value:
            raise MaeBenchError(f"{option} is for one table; it does not go with all of them")
    if view.group is not None and view.group != views.BY_SIZE:
        raise MaeBenchError(f"all tables can be grouped by {views.BY_SIZE} alone, not by '{view.group}'")
    # Ten thousand results are millions of objects, none of them garbage.
    with collection_paused():
        tree = runs if isinstance(runs, RunTree) else scan(Path(runs))
        index = RunIndex(tree.runs)
        layouts = [load_layout(name) for name in resources.tables()]
        views.check_conditions(layouts, view, index.results())
        intervals = arranging.Intervals() if view.intervals else None
        tables = [_build(layout, index, view, intervals) for layout in layouts]
    published = view.rows == "published"
    shown = [table for table in tables if any(published or row.ours for row in table.rows)]
    return [replace(table, problems=() if i else tuple(tree.problems)) for i, table in enumerate(shown)]


def build(layout: Layout, runs: RunIndex | Iterable[StoredRun], view: View | None = None) -> Table:
    """Set published rows and runs into a table by the rules of the layout.

    Args:
        runs: all runs there are; where many tables are built from them, indexed once.

    Raises:
        MaeBenchError: the view asks for what is not there.
    """
    view, index = view or View(), RunIndex.of(runs)
    tasks = [rule.task for rule in layout.ours]
    if view.where:
        views.check_conditions([layout], view, index.results(tasks))
    return _build(layout, index, view, arranging.Intervals() if view.intervals else None)


def _build(layout: Layout, index: RunIndex, view: View, intervals: arranging.Intervals | None) -> Table:
    columns = views.columns_shown(layout, view)
    part = view.part(layout)
    whole, layout = layout, layout.model_copy(update={"columns": columns})
    ours = our_rows(whole, index, views.run_filter(whole, view))
    lines = [*published_lines(whole, layout, view), *our_lines(layout, view, ours.rows)]
    problems: list[str] = []
    if intervals is not None:
        lines, problems = intervals.beside(lines)
    lines = ranked(layout, lines)
    facts = layout.facts
    if view.group is not None:
        lines, facts = arranging.grouped(layout, lines, view.group)
    if view.sort is not None:
        lines = arranging.ordered(layout, lines, view.sort)
    compared = ""
    if view.delta is not None:
        lines, compared = arranging.compared(layout, lines, view.delta)
    footnotes, column_marks, rows = notes.footnotes(layout, lines)
    without_column = [] if view.rows == "published" else ours.without_column
    return Table(
        id=layout.id,
        title=layout.title,
        caption=layout.caption,
        row_label=layout.row_label,
        facts=facts,
        columns=columns,
        rows=rows,
        column_marks=column_marks,
        footnotes=footnotes,
        spread=notes.spread(rows),
        ranking=notes.ranking(layout, rows, part=view.hides_rows),
        remarks=[
            *filter(None, [compared]),
            *notes.remarks(layout, lines, without_column, part),
            *problems,
        ],
        figure=layout.figure,
        paper=layout.paper,
        sampling=arranging.SAMPLING if any(c.interval for row in rows for c in row.cells.values()) else "",
    )
