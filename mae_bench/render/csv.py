"""Tables as CSV, one line per filled cell, readable by pandas in one line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from mae_bench.tables.cells import Cell, Row, Table
from mae_bench.tables.layouts import Column

COLUMNS = (
    "table", "row", "origin", "column", "unit", "better", "value", "std", "n", "rank", "departures",
    "verified", "source", "runs", "group", "column_group", "facts", "text", "low", "high", "delta",
    "recipe_hash",
)  # fmt: skip
"""`origin` is ``published`` or ``ours``, `value` has more digits than the table shows, `runs` are the run
folders, joined by spaces; `group` and `column_group` are headings, `facts` the words beside the name, `text`
the words of a cell without a number, `low` and `high` the ends of the sampling error."""


def write(tables: Sequence[Table]) -> str:
    """All tables under one head."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                cell = row.cells.get(column.key)
                if cell is not None:
                    writer.writerow(_line(table, row, column, cell))
    return output.getvalue()


def _line(table: Table, row: Row, column: Column, cell: Cell) -> list[str | int]:
    low, high = cell.interval or (None, None)
    words = [f"{fact.label}: {row.facts[fact.key]}" for fact in table.facts if fact.key in row.facts]
    return [
        table.id,
        row.label,
        "ours" if row.ours else "published",
        column.label,
        column.unit,
        column.better or "",
        _number(cell.value if cell.text is None else None),
        _number(cell.std),
        cell.n if row.ours else "",
        cell.rank or "",
        cell.departures,
        "yes" if cell.verified else "no",
        cell.source,
        " ".join(cell.runs),
        row.group or "",
        column.group or "",
        "; ".join(words),
        cell.text or "",
        _number(low),
        _number(high),
        _number(cell.delta),
        cell.recipe_hash,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
