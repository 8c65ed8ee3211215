"""Which part of a table is shown, and how: columns, rows, order, groups, what is set beside the numbers.

A `View` holds the choices of one rendering, as `mae-bench table` takes them. A condition on runs leaves
published rows alone, which know nothing of runs; one on a column of words of the table, or on `name`, holds
for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from mae_bench import departures
from mae_bench.errors import MaeBenchError, near
from mae_bench.results import BackboneRecord, DatasetRecord, Result
from mae_bench.settings import Settings
from mae_bench.tables.conditions import as_text, lookup
from mae_bench.tables.layouts import Column, FactColumn, Layout

Whose = Literal["all", "ours", "published"]
WHOSE: tuple[Whose, ...] = ("all", "ours", "published")
BY_SIZE = "size"
NAME = "name"
SHORT_PATHS = {
    "arch": "backbone.arch",
    "backbone": "backbone.spec",
    "dataset": "dataset.name",
    "params": "backbone.params",
}
"""Words for what is asked most often, and where it stands in `result.json`."""
FACTS = "facts."
"""Before the key of a column of words that is named as one of `SHORT_PATHS`."""
# Digests are given by their first characters, as tables show them.
_DIGESTS = {"recipe_hash", "backbone.digest", "dataset.fingerprint"}
_RECORDS: dict[str, type[Settings]] = {"backbone": BackboneRecord, "dataset": DatasetRecord}
# Results that a near match of a wrong path is looked for in.
_LOOKED_AT = 100


@dataclass(frozen=True)
class View:
    """What is shown of a table; as it comes, everything in the order of the layout."""

    select: Sequence[str] = ()
    """Keys or labels of columns, in the order wanted; empty: all."""
    where: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    """Path -> a pattern with ``*``, or several of which one must fit; every path must."""
    rows: Whose = "all"
    sort: str | None = None
    """``COLUMN``, ``COLUMN:asc`` or ``COLUMN:desc``; a column of words and ``name`` will do too."""
    group: str | None = None
    """``size``, or key or label of a column of words: rows stand under headings."""
    delta: str | None = None
    """The row that the others are compared with, by its label or a pattern of it."""
    intervals: bool = False
    """Whether the sampling error is shown."""

    @property
    def conditions(self) -> dict[str, list[str]]:
        """Path as given -> the patterns of which one must fit."""
        return {
            path: [patterns] if isinstance(patterns, str) else list(patterns)
            for path, patterns in self.where.items()
        }

    @property
    def hides_rows(self) -> bool:
        """Whether rows may have been left out."""
        return self.rows != "all" or bool(self.where)

    def part(self, layout: Layout) -> str:
        """What of the table is shown, in words; empty if it is all."""
        words = [] if self.rows == "all" else [f"{self.rows} rows alone"]
        words += [f"{path} {' or '.join(patterns)}" for path, patterns in self.conditions.items()]
        if self.select and len(self.select) < len(layout.columns):
            words.append(f"{len(self.select)} of {len(layout.columns)} columns")
        return ", ".join(words)


def parse_where(entries: Iterable[str]) -> dict[str, list[str]]:
    """``PATH=PATTERN``, any number of each path, as `View.where`.

    Raises:
        MaeBenchError: an entry is not of that form.
    """
    where: dict[str, list[str]] = {}
    for entry in entries:
        path, mark, pattern = entry.partition("=")
        if not mark or not path.strip() or not pattern.strip():
            raise MaeBenchError(f"--where {entry}: should be PATH=PATTERN, for example backbone=timm:*")
        where.setdefault(path.strip(), []).append(pattern.strip())
    return where


# ---------------------------------------------------------------- columns


def columns_shown(layout: Layout, view: View) -> list[Column]:
    """The columns selected, in the order wanted.

    Raises:
        MaeBenchError: there is no such column.
    """
    if not view.select:
        return list(layout.columns)
    chosen = [_column(layout, name, "--select") for name in view.select]
    return list({column.key: column for column in chosen}.values())


def _column(layout: Layout, name: str, option: str) -> Column:
    found = _named(name, layout.columns)
    if found is None:
        known = {column.label: None for column in layout.columns} | {c.key: None for c in layout.columns}
        listed = ", ".join(column.key for column in layout.columns)
        raise MaeBenchError(
            f"{option}: the table '{layout.id}' has no column '{name}'{near(name, known)} (it has {listed})"
        )
    return found


def fact_column(layout: Layout, name: str) -> FactColumn | None:
    """The column of words of this key or label."""
    return _named(name, layout.facts)


def fact_asked(layout: Layout, path: str) -> FactColumn | None:
    """The column of words that a condition is about; None: it is about runs, or about names."""
    if path.startswith(FACTS):
        return fact_column(layout, path.removeprefix(FACTS))
    return None if path in SHORT_PATHS else fact_column(layout, path)


def _named(name: str, columns: Sequence[Any]) -> Any:
    """By its key, else by its label in any case; None if there is none, or the label is that of several."""
    by_key = [column for column in columns if column.key == name]
    by_label = [column for column in columns if column.label.casefold() == name.casefold()]
    return by_key[0] if by_key else by_label[0] if len(by_label) == 1 else None


def sort_order(layout: Layout, wanted: str) -> tuple[Column | FactColumn | None, bool]:
    """What to sort by (None: the names of the rows) and whether the largest comes first.

    Without a direction the best comes first, and words from A to Z.

    Raises:
        MaeBenchError: no such column or direction.
    """
    name, direction = wanted, ""
    if _named(wanted, [*layout.columns, *layout.facts]) is None and ":" in wanted:
        name, _, direction = wanted.rpartition(":")
        if direction not in ("asc", "desc"):
            raise MaeBenchError(f"--sort {wanted}: behind the colon stands asc or desc, not '{direction}'")
    if name == NAME:
        return None, direction == "desc"
    fact = fact_column(layout, name)
    if fact is not None:
        return fact, direction == "desc"
    column = _column(layout, name, "--sort")
    return column, direction == "desc" if direction else column.better != "lower"


# ---------------------------------------------------------------- rows


def takes_published(layout: Layout, view: View, name: str, facts: Mapping[str, str]) -> bool:
    """Whether a published row is shown."""
    if view.rows == "ours":
        return False
    for path, patterns in view.conditions.items():
        fact = fact_asked(layout, path)
        if path == NAME and not _fits(name, patterns):
            return False
        if fact is not None and not _fits(facts.get(fact.key), patterns):
            return False
    return True


def run_filter(layout: Layout, view: View) -> Callable[[Result], bool] | None:
    """Says of a result whether it may stand in the table; None: all may.

    `name` is asked of the rows, once they have one.
    """
    if view.rows == "published":
        return lambda result: False
    wanted: dict[str, list[str]] = {}
    for path, patterns in view.conditions.items():
        fact = fact_asked(layout, path)
        if path == NAME:
            continue
        if fact is not None and fact.ours is None:
            return lambda result: False
        wanted[full_path(path) if fact is None else str(fact.ours)] = patterns
    if not wanted:
        return None
    return lambda result: all(
        _fits(lookup(result, path), patterns, digest=path in _DIGESTS) for path, patterns in wanted.items()
    )


def takes_name(view: View, label: str) -> bool:
    """Whether a row of ours of this name is shown."""
    patterns = view.conditions.get(NAME)
    return patterns is None or _fits(label, patterns)


def full_path(path: str) -> str:
    """The dotted path that a short word stands for."""
    return SHORT_PATHS.get(path, path)


def _fits(value: Any, patterns: Sequence[str], digest: bool = False) -> bool:
    """Whether a value fits one of the patterns, as it stands in the file or as a table shows it."""
    texts = {as_text(value), departures.show(value)}
    return any(
        fnmatchcase(text, f"{pattern}*" if digest else pattern) for text in texts for pattern in patterns
    )


def check_conditions(layouts: Sequence[Layout], view: View, results: Sequence[Result]) -> None:
    """See to it that every condition asks for something that there is.

    Raises:
        MaeBenchError: a path is neither a column of words of the tables nor in any of the results.
    """
    for path in view.conditions:
        dotted = full_path(path)
        if path == NAME or any(fact_asked(layout, path) for layout in layouts) or _is_field(dotted):
            continue
        if not results and not path.startswith(FACTS):
            continue
        if any(lookup(result, dotted) is not None for result in results):
            continue
        facts = [fact.key for layout in layouts for fact in layout.facts]
        known = {*SHORT_PATHS, *facts, *(f"{FACTS}{key}" for key in facts), NAME}
        for result in results[:_LOOKED_AT]:
            known.update(_paths(result.model_dump(exclude={"units", "command", "notes", "deviations"})))
        raise MaeBenchError(
            f"--where {path}: no run of this table has it in its result.json, and it is no column of words"
            f"{near(path, sorted(known))}"
        )


def _is_field(dotted: str) -> bool:
    """Whether every result has this field, be it null; what stands in free parts only results can tell."""
    first, _, rest = dotted.partition(".")
    if first in _RECORDS and rest:
        return rest in _RECORDS[first].model_fields
    return first in Result.model_fields and not rest


def _paths(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of everything in nested values."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
