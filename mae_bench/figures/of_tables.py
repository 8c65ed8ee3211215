"""Figures from tables: a curve per row, a panel per group of columns."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.figures.style import COLORS, MARKERS, WIDTH, Legend, format_of, plain, save
from mae_bench.tables import Cell, Row, Table, make_table
from mae_bench.tables.layouts import Column, FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_HEIGHT = 3.3  # inches, the axis and its labels included
_CAPTION_WIDTH = 140  # characters
_CAPTION_LINE = 0.12  # inches


def draw_table(
    id_or_path: str | os.PathLike[str],
    runs_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> Path:
    """Draw a table's figure with all fitting runs below `runs_root` in it.

    Args:
        id_or_path: name of a table, or path of a layout file.
        output: the file to write; its ending (`FORMATS`) says the format.

    Raises:
        MaeBenchError: no such table, one that is no figure, or an unknown ending.
    """
    return draw(make_table(id_or_path, runs_root), output)


def draw(table: Table, output: str | os.PathLike[str]) -> Path:
    """Draw the figure of a table into a file, completely or not at all.

    Raises:
        MaeBenchError: the table is not meant to be drawn or is empty, or the file's ending is unknown.
    """
    format_of(output)
    settings = table.figure
    if settings is None:
        raise MaeBenchError(f"the table '{table.id}' has no figure: its layout holds no 'figure' section")
    if not any(cell for row in table.rows for cell in _placed(table, row)):
        raise MaeBenchError(
            f"the table '{table.id}' has nothing to draw yet: no finished run fits it; "
            f"`mae-bench table {table.id}` says what it holds"
        )
    lost = [column.label for column in table.columns if column.x is not None and column.x <= 0]
    if settings.x_scale == "log" and lost:
        raise MaeBenchError(
            f"the table '{table.id}' cannot be drawn on a logarithmic axis: x of {', '.join(lost)} is not "
            "above 0; use x_scale sqrt or linear"
        )
    return save(lambda: _figure(table, settings), output)


def _figure(table: Table, settings: FigureSettings) -> Figure:
    # A Figure of its own, not pyplot's: nothing global is opened, and no window system is asked for.
    from matplotlib.figure import Figure

    panels = _panels(table)
    drawn = [i for i, row in enumerate(table.rows) if any(_placed(table, row))]
    legend = Legend([_label(table, table.rows[i]) for i in drawn], table.title)
    caption = _caption(table)
    height = _PANEL_HEIGHT * len(panels) + legend.height + _CAPTION_LINE * len(caption)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    curves: dict[int, Any] = {}
    for axes, (name, columns) in zip(grid, panels.items(), strict=True):
        for i in drawn:
            curve = _curve(axes, table, i, columns, joined=settings.kind == "curves")
            if curve is not None:
                curves.setdefault(i, curve)
        _axes(axes, columns, settings)
        axes.set_ylabel(plain(settings.y_label))
        if name:
            axes.set_title(plain(name), loc="left", fontsize=10)
    grid[-1].set_xlabel(plain(settings.x_label))
    legend.put(figure, [curves[i] for i in drawn])
    if caption:
        figure.supxlabel(plain("\n".join(caption)), x=0.01, ha="left", fontsize=7, color="0.3")
    return figure


def _panels(table: Table) -> dict[str | None, list[Column]]:
    """The columns that have a place on the axis, by the heading above them: a panel each."""
    panels: dict[str | None, list[Column]] = {}
    for column in table.columns:
        if column.x is not None:
            panels.setdefault(column.group, []).append(column)
    return panels


def _placed(table: Table, row: Row) -> Iterator[tuple[str, Cell]]:
    """The cells of a row that have a place on the axis, by column."""
    return (
        (column.key, row.cells[column.key])
        for column in table.columns
        if column.x is not None and column.key in row.cells
    )


def _axes(axes: Axes, columns: Sequence[Column], settings: FigureSettings) -> None:
    names = [column.label if settings.ticks == "label" else f"{column.x:g}" for column in columns]
    if settings.x_scale == "sqrt":
        axes.set_xscale("function", functions=(_root, _square))
    elif settings.x_scale == "log":
        axes.set_xscale("log")
    axes.set_xticks([column.x or 0.0 for column in columns], labels=[plain(name) for name in names])
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _curve(axes: Axes, table: Table, index: int, columns: Sequence[Column], *, joined: bool) -> Any:
    """One row: published ones solid, ours dashed, with hollow markers if a cell of it is not comparable.

    Returns:
        What a legend shows of it; None if it has no point here.
    """
    row = table.rows[index]
    points = [
        (column.x, row.cells[column.key])
        for column in columns
        if column.x is not None and column.key in row.cells
    ]
    if not points:
        return None
    comparable = not any(cell.departures for _, cell in points)
    color = COLORS[index % len(COLORS)]
    for x, cell in points:
        if not cell.verified:
            axes.annotate(
                "?", (x, cell.value), xytext=(5, 3), textcoords="offset points", color="0.3", fontsize=9
            )
    return axes.errorbar(
        [x for x, _ in points],
        [cell.value for _, cell in points],
        yerr=[cell.std or 0.0 for _, cell in points] if any(cell.std for _, cell in points) else None,
        label=plain(_label(table, row)),
        color=color,
        marker=MARKERS[(index + index // len(COLORS)) % len(MARKERS)],
        markerfacecolor=color if comparable else "white",
        markersize=6,
        linewidth=1.8,
        linestyle=("--" if row.ours else "-") if joined else "none",
        capsize=3,
    )


def _label(table: Table, row: Row) -> str:
    """The row's name with the numbers of all footnotes of its points."""
    marks = set(row.marks)
    for key, cell in _placed(table, row):
        # A footnote at the head of a column holds for all its cells.
        marks |= {*cell.marks, *table.column_marks.get(key, ())}
    return row.label + "".join(f" [{mark}]" for mark in sorted(marks))


def _caption(table: Table) -> list[str]:
    """Lines of footnotes and remarks, to stand under the axes."""
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, start=1)]
    cells = [cell for row in table.rows for _, cell in _placed(table, row)]
    if any(cell.n > 1 for cell in cells):
        notes.append("Points are means over seeds, bars one standard deviation to either side.")
    if any(cell.departures for cell in cells):
        notes.append(
            "Hollow markers: a number of the curve departs from the published protocol (see its footnote)."
        )
    return [line for text in [*notes, *table.remarks] for line in textwrap.wrap(text, _CAPTION_WIDTH)]


def _root(values: Any) -> Any:
    import numpy as np

    # Odd on both sides of zero, so that the axis has a margin left of it.
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    import numpy as np

    return np.sign(values) * np.square(values)
