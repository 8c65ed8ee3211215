"""Figures from tables: a curve per row, as PNG, SVG or PDF.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which people with any common form of colour
blindness tell apart; markers and line styles repeat the distinction. Text stays text in SVG and PDF.
"""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.layouts import FigureSettings
from mae_bench.tables import Row, Table, make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Otherwise every drawing gets identifiers of its own, and equal figures differ.
    "svg.hashsalt": "mae-bench",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
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
    path = Path(output)
    format = path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise MaeBenchError(f"{path}: a figure's file ends in {', '.join('.' + known for known in FORMATS)}")
    if table.figure is None:
        raise MaeBenchError(f"the table '{table.id}' has no figure: its layout holds no 'figure' section")
    placed = {column.key for column in table.columns if column.x is not None}
    if not any(placed & row.cells.keys() for row in table.rows):
        raise MaeBenchError(
            f"the table '{table.id}' has nothing to draw yet: no finished run fits it; "
            f"`mae-bench table {table.id}` says what it holds"
        )
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure = _figure(table, table.figure)
        output_bytes = io.BytesIO()
        # A date would make equal figures differ.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        figure.savefig(output_bytes, format=format, dpi=200, bbox_inches="tight", metadata=metadata)
    return write_atomic(path, output_bytes.getvalue())


def _figure(table: Table, settings: FigureSettings) -> Figure:
    # A Figure of its own, not pyplot's: nothing global is opened, and no window system is asked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(table.rows):
        _curve(axes, table, row, i)
    placed = [column for column in table.columns if column.x is not None]
    names = [column.label if settings.ticks == "label" else f"{column.x:g}" for column in placed]
    if settings.x_scale == "sqrt":
        axes.set_xscale("function", functions=(_root, _square))
    axes.set_xticks([column.x or 0.0 for column in placed], labels=names)
    axes.minorticks_off()
    axes.set_xlabel(settings.x_label)
    axes.set_ylabel(settings.y_label)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    # The legend stands outside, so that it never lies on a curve, in as many columns as the names allow.
    longest = max((len(row.label) for row in table.rows), default=0)
    figure.legend(
        frameon=False,
        loc="outside upper left",
        ncols=1 if longest > 36 else 2,
        title=_plain(table.title),
        title_fontproperties={"size": 11, "weight": "bold"},
        alignment="left",
    )
    _caption(figure, table)
    return figure


def _curve(axes: Axes, table: Table, row: Row, index: int) -> None:
    """One row: published ones solid, ours dashed, with hollow markers if a cell of it is not comparable."""
    points = [
        (column.x, row.cells[column.key])
        for column in table.columns
        if column.x is not None and column.key in row.cells
    ]
    if not points:
        return
    marks = sorted({*row.marks, *(mark for _, cell in points for mark in cell.marks)})
    marks += [mark for mark in _column_marks(table) if row.ours and mark not in marks]
    label = row.label + "".join(f" [{mark}]" for mark in marks)
    comparable = not any(cell.departures for _, cell in points)
    color = _COLORS[index % len(_COLORS)]
    axes.errorbar(
        [x for x, _ in points],
        [cell.value for _, cell in points],
        yerr=[cell.std or 0.0 for _, cell in points] if any(cell.std for _, cell in points) else None,
        label=_plain(label),
        color=color,
        marker=_MARKERS[(index + index // len(_COLORS)) % len(_MARKERS)],
        markerfacecolor=color if comparable else "white",
        markersize=6,
        linewidth=1.8,
        linestyle="--" if row.ours else "-",
        capsize=3,
    )


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
        figure.supxlabel(_plain("\n".join(lines)), x=0.01, ha="left", fontsize=7, color="0.3")


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: it reads what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _root(values: Any) -> Any:
    import numpy as np

    # Odd on both sides of zero, so that the axis has a margin left of it.
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    import numpy as np

    return np.sign(values) * np.square(values)
