"""The parts of a table: cells, rows, the table itself; what `mae_bench.render` turns into text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mae_bench.tables.layouts import Column, FactColumn, FigureSettings, PublishedRow
from mae_bench.tables.rows import Group, OurRow


@dataclass(frozen=True)
class Cell:
    """One number of a table, or some words."""

    value: float
    """Mean over seeds; NaN where the cell holds words."""
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
    text: str | None = None
    """Words that stand in place of a number, in a table of settings."""
    interval: tuple[float, float] | None = None
    """Where the number would lie with other samples, from lower to upper end: the sampling error."""
    delta: float | None = None
    """What it is more than the cell of the row that the table is compared with."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    label: str
    ours: bool
    cells: Mapping[str, Cell]
    """Column key -> cell; a column without one shows a dash."""
    facts: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[int, ...] = ()
    group: str | None = None
    """The heading it stands under, in a table with groups of rows."""


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
    paper: str | None = None
    sampling: str = ""
    """What the numbers in brackets mean; empty if there are none."""


@dataclass(frozen=True)
class Line:
    """A row on its way into a table, with what it was made of."""

    row: Row
    note: str = ""
    published: PublishedRow | None = None
    ours: OurRow | None = None
    groups: Mapping[str, Group] = field(default_factory=dict)
    """Column shown -> the runs behind its cell."""
