"""Figures from tables: a curve per row, a panel per group of columns."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.figures.style import COLORS, MARKERS, format_of, plain, save
from mae_bench.layouts import Column, FigureSettings
from mae_bench.tables import Row, Table, make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAPTION_WIDTH = 140


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
    placed = {column.key for column in table.columns if column.x is not None}
    if not any(placed & row.cells.keys() for row in table.rows):
        raise MaeBenchError(
            f"the table '{table.id}' has nothing to draw yet: no finished run fits it; "
            f"`mae-bench table {table.id}` says what it holds"
        )
    return save(lambda: _figure(table, settings), output)


def _figure(table: Table, settings: FigureSettings) -> Figure:
    # A Figure of its own, not pyplot's: nothing global is opened, and no window system is asked for.
    from matplotlib.figure import Figure

    panels = _panels(table)
    figure = Figure(figsize=(7.0, 2.0 + 3.0 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    legend: dict[str, Any] = {}
    for axes, (name, columns) in zip(grid, panels.items(), strict=True):
        for i, row in enumerate(table.rows):
            _curve(axes, table, row, i, columns, joined=settings.kind == "curves")
        _axes(axes, columns, settings)
        axes.set_ylabel(plain(name or settings.y_label))
        handles, labels = axes.get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True)) | legend
    grid[-1].set_xlabel(plain(settings.x_label))
    # The legend stands outside, so that it never lies on a curve, in as many columns as the names allow.
    longest = max((len(row.label) for row in table.rows), default=0)
    order = [label for row in table.rows for label in legend if label == _label(table, row)]
    figure.legend(
        [legend[label] for label in order],
        order,
        frameon=False,
        loc="outside upper left",
        ncols=1 if longest > 36 else 2,
        title=plain(table.title),
        title_fontproperties={"size": 11, "weight": "bold"},
        alignment="left",
    )
    _caption(figure, table)
    return figure


def _panels(table: Table) -> dict[str | None, list[Column]]:
    """The columns that have a place on the axis, by the heading above them: a panel each."""
    panels: dict[str | None, list[Column]] = {}
    for column in table.columns:
        if column.x is not None:
            panels.setdefault(column.group, []).append(column)
    return panels


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


def _curve(
    axes: Axes, table: Table, row: Row, index: int, columns: Sequence[Column], *, joined: bool
) -> None:
    """One row: published ones solid, ours dashed, with hollow markers if a cell of it is not comparable."""
    points = [(column.x, row.cells[column.key]) for column in columns if column.key in row.cells]
    if not points:
        return
    comparable = not any(cell.departures for _, cell in points)
    color = COLORS[index % len(COLORS)]
    axes.errorbar(
        [x for x, _ in points],
        [cell.value for _, cell in points],
        yerr=[cell.std or 0.0 for _, cell in points] if any(cell.std for _, cell in points) else None,
        label=_label(table, row),
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
    placed = [column.key for column in table.columns if column.x is not None]
    marks = sorted(
        {*row.marks, *(mark for key in placed if key in row.cells for mark in row.cells[key].marks)}
    )
    marks += [mark for mark in _column_marks(table) if row.ours and mark not in marks]
    return plain(row.label + "".join(f" [{mark}]" for mark in marks))


def _column_marks(table: Table) -> list[int]:
    return sorted({mark for marks in table.column_marks.values() for mark in marks})


def _caption(figure: Figure, table: Table) -> None:
    """Footnotes and remarks under the axes, wrapped."""
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, start=1)]
    if table.spread:
        notes.append("Points are means over seeds, bars one standard deviation to either side.")
    if any(cell.departures for row in table.rows for cell in row.cells.values()):
        notes.append(
            "Hollow markers: a number of the curve departs from the published protocol (see its footnote)."
        )
    lines = [line for text in [*notes, *table.remarks] for line in textwrap.wrap(text, _CAPTION_WIDTH)]
    if lines:
        figure.supxlabel(plain("\n".join(lines)), x=0.01, ha="left", fontsize=7, color="0.3")


def _root(values: Any) -> Any:
    import numpy as np

    # Odd on both sides of zero, so that the axis has a margin left of it.
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    import numpy as np

    return np.sign(values) * np.square(values)
