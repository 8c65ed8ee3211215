"""How the rows of a table are arranged, and what is set beside their numbers: groups, order, differences,
sampling error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mae_bench import screen
from mae_bench.errors import MaeBenchError, near
from mae_bench.tables.cells import Line, Row
from mae_bench.tables.layouts import Column, FactColumn, Layout
from mae_bench.tables.rows import Group
from mae_bench.tables.sizes import SIZES, named_size, size_of
from mae_bench.tables.views import BY_SIZE, fact_column, sort_order

if TYPE_CHECKING:
    from mae_bench.outcomes import Outcomes

LEVEL, RESAMPLES = 0.95, 1000
SAMPLING = (
    f"In brackets the sampling error: {100 * LEVEL:g} % interval of {RESAMPLES} bootstrap resamples of the "
    "validation samples, for the trained models as they are; what another seed of training gives is the "
    "spread behind ±."
)
_NOT_TOLD = "not told"
_SHOWN = 4

# ---------------------------------------------------------------- groups


def grouped(layout: Layout, lines: Sequence[Line], by: str) -> tuple[list[Line], list[FactColumn]]:
    """Rows under headings: the size of the backbone, or the words of a column, which then is not shown.

    Returns:
        The rows, those of a group together, and the columns of words that are left.

    Raises:
        MaeBenchError: there is no such column of words.
    """
    if by == BY_SIZE:
        marked = [_under(line, _size(layout, line)) for line in lines]
        order = {size: place for place, size in enumerate(SIZES)}
        return _together(marked, lambda group: order.get(group, len(order))), list(layout.facts)
    fact = fact_column(layout, by)
    if fact is None:
        known = [BY_SIZE, *(fact.key for fact in layout.facts)]
        raise MaeBenchError(
            f"--group {by}: the table '{layout.id}' can be grouped by {' or '.join(known)}{near(by, known)}"
        )
    marked = [_under(line, line.row.facts.get(fact.key)) for line in lines]
    left = [other for other in layout.facts if other is not fact]
    return _together(marked, lambda group: int(group == _NOT_TOLD)), left


def _under(line: Line, heading: str | None) -> Line:
    return replace(line, row=replace(line.row, group=heading or _NOT_TOLD))


def _together(lines: Sequence[Line], weight: Callable[[str], int]) -> list[Line]:
    """Groups by weight, then in the order of their first rows."""
    first: dict[str, int] = {}
    for line in lines:
        first.setdefault(line.row.group or "", len(first))
    return sorted(lines, key=lambda line: (weight(line.row.group or ""), first[line.row.group or ""]))


def _size(layout: Layout, line: Line) -> str | None:
    """The size of a row's backbone; None where it is not told, or where the row holds several."""
    if line.groups:
        backbones = [group.result.backbone for group in line.groups.values()]
        sizes = {size_of(backbone) for backbone in backbones if backbone is not None}
        return sizes.pop() if len(sizes) == 1 else None
    told = [named_size(text) for text in (*line.row.facts.values(), line.row.label)]
    by_name = next((size for size in told if size is not None), None)
    if by_name is not None:
        return by_name
    columns = {named_size(column.label) for column in layout.columns if column.key in line.row.cells}
    return columns.pop() if len(columns) == 1 else None


# ---------------------------------------------------------------- order


def ordered(layout: Layout, lines: Sequence[Line], by: str) -> list[Line]:
    """Rows sorted by a column, within their groups; rows without anything in it come last.

    Raises:
        MaeBenchError: there is no such column or direction.
    """
    column, largest_first = sort_order(layout, by)
    key = _sort_key(column)
    filled = [line for line in lines if key(line.row) is not None]
    filled.sort(key=lambda line: key(line.row) or ("",), reverse=largest_first)
    arranged = [*filled, *(line for line in lines if key(line.row) is None)]
    # Groups stay where they are; Python's sorting keeps the order within them.
    places: dict[str | None, int] = {}
    for line in lines:
        places.setdefault(line.row.group, len(places))
    return sorted(arranged, key=lambda line: places[line.row.group])


def _sort_key(column: Column | FactColumn | None) -> Callable[[Row], tuple[float | str, ...] | None]:
    """What a row is sorted by: a number, or words in any case."""
    if column is None:
        return lambda row: (row.label.casefold(),)
    key = column.key
    if isinstance(column, FactColumn):
        return lambda row: (row.facts[key].casefold(),) if key in row.facts else None

    def of_cell(row: Row) -> tuple[float | str, ...] | None:
        cell = row.cells.get(key)
        if cell is None:
            return None
        return (cell.value,) if cell.text is None else (cell.text.casefold(),)

    return of_cell


# ---------------------------------------------------------------- differences


def compared(layout: Layout, lines: Sequence[Line], label: str) -> tuple[list[Line], str]:
    """Every number with its difference to that of one row, and a sentence that says which.

    Raises:
        MaeBenchError: no row shown, or more than one, is called so.
    """
    base = _row_called(lines, label)
    found = []
    for line in lines:
        if line is base:
            found.append(line)
            continue
        cells = {
            key: replace(cell, delta=cell.value - base.row.cells[key].value)
            if key in base.row.cells and cell.text is None and base.row.cells[key].text is None
            else cell
            for key, cell in line.row.cells.items()
        }
        found.append(replace(line, row=replace(line.row, cells=cells)))
    return found, f"In parentheses with a sign: the difference to {_full_name(base.row)}."


def _row_called(lines: Sequence[Line], label: str) -> Line:
    """The one row of this name; else of this name and these words, of this pattern, with this in its name."""
    wanted = label.casefold().strip()
    parts = {part.strip() for part in wanted.split(",")}
    ways: list[Callable[[Row], bool]] = [
        lambda row: wanted in (row.label.casefold(), _bare(row)),
        lambda row: parts <= {_bare(row), *(text.casefold() for text in row.facts.values())},
        lambda row: fnmatchcase(_bare(row), wanted) or fnmatchcase(_full_name(row).casefold(), wanted),
        lambda row: wanted in _full_name(row).casefold(),
    ]
    for way in ways:
        found = [line for line in lines if way(line.row)]
        if len(found) == 1:
            return found[0]
        if found:
            names = "; ".join(f"'{_full_name(line.row)}'" for line in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise MaeBenchError(f"--delta {label}: {len(found)} rows are called so ({names}{more})")
    names_known = [line.row.label for line in lines]
    raise MaeBenchError(f"--delta {label}: no row that is shown is called so{near(label, names_known)}")


def _bare(row: Row) -> str:
    return row.label.removeprefix("ours: ").casefold()


def _full_name(row: Row) -> str:
    return ", ".join([row.label, *row.facts.values()])


# ---------------------------------------------------------------- sampling error


class Intervals:
    """Sampling errors of cells, each computed once for all tables that show it."""

    def __init__(self) -> None:
        from mae_bench.resampling import Resampling

        self._resampling = Resampling(level=LEVEL, resamples=RESAMPLES)
        self._known: dict[tuple[str, ...], tuple[float, float] | str] = {}
        # By folder: one bootstrap gives all metrics of the same outcomes.
        self._saved: dict[Path, Mapping[str, Outcomes]] = {}

    def beside(self, lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
        """The rows with their intervals, and remarks on the numbers that have none."""
        without: dict[str, list[str]] = {}
        found = []
        # AP takes minutes a run, an accuracy no time.
        with screen.progress("sampling errors", sum(len(line.groups) for line in lines), "numbers") as work:
            for line in lines:
                cells = dict(line.row.cells)
                for key, group in line.groups.items():
                    ends = self._ends(group)
                    if isinstance(ends, str):
                        without.setdefault(ends, []).append(group.runs[0].name)
                    else:
                        cells[key] = replace(cells[key], interval=ends)
                    work.advance(1)
                found.append(replace(line, row=replace(line.row, cells=cells)))
        return found, list(_without_interval(without))

    def _ends(self, group: Group) -> tuple[float, float] | str:
        """The interval of a cell, or why there is none."""
        key = (group.metric, *(str(run.folder) for run in group.runs))
        if key not in self._known:
            self._known[key] = self._computed(group)
        return self._known[key]

    def _computed(self, group: Group) -> tuple[float, float] | str:
        from mae_bench import outcomes

        found = []
        for run in group.runs:
            adapter = str(run.result.config.get("task", run.result.task))
            try:
                if run.folder not in self._saved:
                    self._saved[run.folder] = outcomes.of_run(run.folder, adapter)
            except MaeBenchError as error:
                return str(error)
            sets = self._saved[run.folder].values()
            saved = next((one for one in sets if group.metric in one.metrics), None)
            if saved is None:
                return f"no outcomes of single samples were saved for {group.metric}"
            found.append(saved)
        try:
            for run, saved in zip(group.runs, found, strict=True):
                outcomes.check_of_one_run(run.name, run.result.metrics, group.metric, saved)
            return self._resampling.interval(found, group.metric)
        except MaeBenchError as error:
            return str(error)


def _without_interval(reasons: dict[str, list[str]]) -> Iterable[str]:
    for reason, names in reasons.items():
        names = list(dict.fromkeys(names))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"Without a sampling error: {', '.join(names[:_SHOWN])}{more} ({reason.rstrip('.')})."
