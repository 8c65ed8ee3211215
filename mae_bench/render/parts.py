"""What every format shows: numbers with what belongs to them, heads of columns, sections of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mae_bench.tables.cells import Cell, Row, Table
from mae_bench.tables.layouts import Column

DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def number(cell: Cell) -> str:
    """Mean and spread as shown in every format: ``83.6`` or ``83.6 ± 0.1``, with a ``?`` if unverified.

    In a table of settings a cell may hold words instead.
    """
    if cell.text is not None:
        return cell.text if cell.verified else cell.text + "?"
    text = f"{cell.value:.{cell.decimals}f}"
    if cell.std is not None:
        text += f" ± {cell.std:.{cell.decimals}f}"
    return text if cell.verified else text + "?"


def seeds(cell: Cell) -> str:
    """`` (n=3)``, or nothing for a single run."""
    return f" (n={cell.n})" if cell.n > 1 else ""


def interval(cell: Cell) -> str:
    """`` [83.3, 83.9]``, or nothing where the sampling error was not asked for or is not known."""
    if cell.interval is None:
        return ""
    low, high = (f"{end:.{cell.decimals}f}" for end in cell.interval)
    return f" [{low}, {high}]"


def delta(cell: Cell) -> str:
    """`` (+0.4)``, or nothing where the cell is compared with no other."""
    if cell.delta is None:
        return ""
    size = f"{abs(cell.delta):.{cell.decimals}f}"
    if not size.strip("0."):
        return f" (±{size})"
    return f" ({'+' if cell.delta > 0 else _MINUS}{size})"


def behind(cell: Cell) -> str:
    """All that stands behind the number."""
    return seeds(cell) + interval(cell) + delta(cell)


def head(column: Column) -> str:
    """The column's label, with its unit unless that is per cent."""
    return column.label if column.unit in ("%", "") else f"{column.label} ({column.unit})"


def column_heads(columns: Sequence[Column]) -> list[str]:
    """Heads for formats without headings over columns: a heading stands before each label of its group."""
    return [head(column) if column.group is None else f"{column.group}: {head(column)}" for column in columns]


def column_groups(columns: Sequence[Column]) -> list[tuple[str | None, int]]:
    """Headings over neighbouring columns and how many each spans; empty if there are none."""
    spans = [(name, len(list(members))) for name, members in groupby(columns, lambda column: column.group)]
    return spans if any(name is not None for name, _ in spans) else []


def sentences(table: Table) -> list[str]:
    """What stands below the footnotes."""
    return [text for text in (table.spread, table.sampling, table.ranking, *table.remarks) if text]


@dataclass(frozen=True)
class Section:
    """Rows that stand together, under a heading if the table has groups of rows."""

    heading: str | None
    rows: list[Row]


def sections(table: Table) -> list[Section]:
    """The groups of a table in the order of their first rows; without groups published rows, then ours.

    Rows that were sorted stand as they are, in one section.
    """
    if any(row.group is not None for row in table.rows):
        grouped: dict[str, list[Row]] = {}
        for row in table.rows:
            grouped.setdefault(row.group or "", []).append(row)
        return [Section(name, rows) for name, rows in grouped.items()]
    runs = [Section(None, list(rows)) for _, rows in groupby(table.rows, lambda row: row.ours)]
    return runs if len(runs) <= 2 else [Section(None, list(table.rows))]
