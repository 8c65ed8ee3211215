"""A `Table` as text, in one file per format: for the terminal, as Markdown, LaTeX, CSV, HTML and JSON.

Names come from recipes, folders and layouts, so every format escapes what is special to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mae_bench.errors import MaeBenchError, near
from mae_bench.render import csv, html, json, latex, markdown, terminal
from mae_bench.render.data import as_data
from mae_bench.tables.cells import Table

__all__ = ["FORMATS", "Format", "as_data", "format_of", "render", "render_all"]


@dataclass(frozen=True)
class Format:
    """One way to write tables.

    Both functions are given the characters a line may have (None: as many as the terminal has) and whether
    there may be escape sequences; only the terminal has use for them.
    """

    ending: str
    """Of its files, with the point."""
    one: Callable[[Table, int | None, bool], str]
    several: Callable[[Sequence[Table], int | None, bool], str]
    """Several tables in one document."""


FORMATS: dict[str, Format] = {
    "terminal": Format(
        ".txt",
        terminal.write,
        lambda tables, width, color: "\n\n".join(terminal.write(table, width, color) for table in tables),
    ),
    "markdown": Format(
        ".md",
        lambda table, width, color: markdown.write(table),
        lambda tables, width, color: "\n\n".join(map(markdown.write, tables)),
    ),
    "latex": Format(
        ".tex",
        lambda table, width, color: latex.write([table]),
        lambda tables, width, color: latex.write(tables),
    ),
    "csv": Format(
        ".csv",
        lambda table, width, color: csv.write([table]),
        lambda tables, width, color: csv.write(tables),
    ),
    "html": Format(
        ".html",
        lambda table, width, color: html.write([table]),
        lambda tables, width, color: html.write(tables),
    ),
    "json": Format(
        ".json",
        lambda table, width, color: json.write(as_data(table)),
        lambda tables, width, color: json.write([as_data(table) for table in tables]),
    ),
}


def render(table: Table, format: str, *, width: int | None = None, color: bool | None = None) -> str:
    """The table as text, without a line break at its end.

    Args:
        format: one of `FORMATS`.
        width: characters a terminal line may have; None: as many as the terminal has. Others have no width.
        color: whether terminal text may hold escape sequences, without which best and second are not shown;
            None: if standard output is a terminal.

    Raises:
        MaeBenchError: no such format.
    """
    return _format(format).one(table, width, _colored(color)).rstrip("\n")


def render_all(
    tables: Sequence[Table], format: str, *, width: int | None = None, color: bool | None = None
) -> str:
    """Several tables in one document; else as `render`. JSON is a list of what `render` gives."""
    return _format(format).several(tables, width, _colored(color)).rstrip("\n")


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise MaeBenchError(
            f"there is no table format '{name}'{near(name, FORMATS)} (known: {', '.join(FORMATS)})"
        )
    return FORMATS[name]


def _colored(color: bool | None) -> bool:
    return sys.stdout.isatty() if color is None else color


def format_of(file: str) -> str | None:
    """The format that a file's ending says; None if it says none."""
    ending = PurePath(file).suffix.lower()
    return next((name for name, format in FORMATS.items() if format.ending == ending), None)
