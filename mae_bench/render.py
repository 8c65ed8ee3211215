"""A `Table` as text: for the terminal, as Markdown, as LaTeX, as CSV.

Names come from recipes, folders and layouts, so every format escapes what is special to it.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

from mae_bench.errors import MaeBenchError, near
from mae_bench.layouts import Column
from mae_bench.tables import Cell, Row, Table

DASH = "\N{EN DASH}"


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
    if format not in FORMATS:
        raise MaeBenchError(
            f"there is no table format '{format}'{near(format, FORMATS)} (known: {', '.join(FORMATS)})"
        )
    text = FORMATS[format](table, width, sys.stdout.isatty() if color is None else color)
    return text.rstrip("\n")


def number(cell: Cell) -> str:
    """Mean and spread as shown in every format: ``83.6`` or ``83.6 ± 0.1``, with a ``?`` if unverified."""
    text = f"{cell.value:.{cell.decimals}f}"
    if cell.std is not None:
        text += f" ± {cell.std:.{cell.decimals}f}"
    return text if cell.verified else text + "?"


def seeds(cell: Cell) -> str:
    """`` (n=3)``, or nothing for a single run."""
    return f" (n={cell.n})" if cell.n > 1 else ""


def head(column: Column) -> str:
    """The column's label, with its unit unless that is per cent."""
    return column.label if column.unit in ("%", "") else f"{column.label} ({column.unit})"


def _sentences(table: Table) -> list[str]:
    """What stands below the footnotes."""
    return [text for text in (table.spread, table.ranking, *table.remarks) if text]


def _sections(rows: Sequence[Row]) -> list[list[Row]]:
    """Published rows, then ours; empty sections left out."""
    parts = [[row for row in rows if row.ours is ours] for ours in (False, True)]
    return [part for part in parts if part]


# ---------------------------------------------------------------- terminal


def _terminal(table: Table, width: int | None, color: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        width=width or shutil.get_terminal_size((120, 24)).columns,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
    )
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    grid.add_column(Text(table.row_label), overflow="fold")
    for fact in table.facts:
        grid.add_column(Text(fact.label), overflow="fold")
    for column in table.columns:
        marks = _bracketed(table.column_marks.get(column.key, ()))
        grid.add_column(Text(head(column) + marks), justify="right", overflow="fold")

    def cell_text(cell: Cell | None) -> Text:
        if cell is None:
            return Text(DASH, style="dim")
        style = {0: "", 1: "bold", 2: "underline"}[cell.rank]
        return Text.assemble((number(cell), style), seeds(cell), _bracketed(cell.marks))

    sections = _sections(table.rows)
    for section in sections:
        for row in section:
            facts = [Text(row.facts.get(fact.key, DASH)) for fact in table.facts]
            cells = [cell_text(row.cells.get(column.key)) for column in table.columns]
            grid.add_row(Text(row.label + _bracketed(row.marks)), *facts, *cells)
        if section is not sections[-1]:
            grid.add_section()
    console.print(Text(table.title, style="bold"))
    if table.caption:
        console.print(Text(table.caption))
    console.print(grid)
    for i, text in enumerate(table.footnotes, start=1):
        console.print(Text(f"[{i}] {text}"))
    # Without escape sequences nothing is bold or underlined, so there is nothing to explain.
    for text in filter(None, [table.spread, table.ranking if color else "", *table.remarks]):
        console.print(Text(text))
    output = console.file
    assert isinstance(output, io.StringIO)
    return re.sub(r"[ \t]+\n", "\n", output.getvalue())


def _bracketed(marks: Iterable[int]) -> str:
    return "".join(f" [{mark}]" for mark in marks)


# ---------------------------------------------------------------- Markdown


def _markdown(table: Table, width: int | None, color: bool) -> str:
    from rich.cells import cell_len

    escape = escape_markdown

    def marked(marks: Iterable[int]) -> str:
        return "".join(f"<sup>{mark}</sup>" for mark in marks)

    def cell_text(cell: Cell | None) -> str:
        if cell is None:
            return DASH
        around = {0: ("", ""), 1: ("**", "**"), 2: ("<u>", "</u>")}[cell.rank]
        return f"{around[0]}{number(cell)}{around[1]}{seeds(cell)}{marked(cell.marks)}"

    heads = [escape(table.row_label), *(escape(fact.label) for fact in table.facts)]
    left = len(heads)
    heads += [
        escape(head(column)) + marked(table.column_marks.get(column.key, ())) for column in table.columns
    ]
    lines = [heads]
    for row in table.rows:
        facts = [escape(row.facts.get(fact.key, DASH)) for fact in table.facts]
        cells = [cell_text(row.cells.get(column.key)) for column in table.columns]
        lines.append([escape(row.label) + marked(row.marks), *facts, *cells])
    widths = [max(3, *(cell_len(line[i]) for line in lines)) for i in range(len(heads))]

    def joined(line: Sequence[str]) -> str:
        spaces = [" " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)]
        padded = [
            text + space if i < left else space + text
            for i, (text, space) in enumerate(zip(line, spaces, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        ":" + "-" * (width - 1) if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    parts = [f"**{escape(table.title)}**" + (f" {escape(table.caption)}" if table.caption else "")]
    parts.append("\n".join([joined(lines[0]), "| " + " | ".join(rule) + " |", *map(joined, lines[1:])]))
    notes = [f"<sup>{i}</sup> {escape(text)}" for i, text in enumerate(table.footnotes, start=1)]
    if notes:
        parts.append("<br>\n".join(notes))
    parts += [escape(text) for text in _sentences(table)]
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    DASH: "--",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\n": " ",
}

# Inside a document \@nodocument is \relax; before \begin{document} it is not.
_LATEX_OPEN = r"""% Compiles as it is; elsewhere: \usepackage{booktabs}, then \input this file.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \def\maebenchend{}
\else
  \documentclass{article}
  \usepackage[T1]{fontenc}
  \usepackage{booktabs}
  \usepackage[a4paper,landscape,margin=15mm]{geometry}
  \def\maebenchend{\end{document}}
  \begin{document}
\fi
"""
_LATEX_CLOSE = "\\maebenchend\n"


def _latex(table: Table, width: int | None, color: bool) -> str:
    escape = escape_latex

    def marked(marks: Iterable[int]) -> str:
        joined = ",".join(map(str, marks))
        return rf"\textsuperscript{{{joined}}}" if joined else ""

    def cell_text(cell: Cell | None) -> str:
        if cell is None:
            return "--"
        around = {0: ("", ""), 1: (r"\textbf{", "}"), 2: (r"\underline{", "}")}[cell.rank]
        return f"{around[0]}{escape(number(cell))}{around[1]}{seeds(cell)}{marked(cell.marks)}"

    heads = [escape(table.row_label), *(escape(fact.label) for fact in table.facts)]
    left = len(heads)
    heads += [
        escape(head(column)) + marked(table.column_marks.get(column.key, ())) for column in table.columns
    ]
    body: list[str] = []
    for section in _sections(table.rows):
        body.append(r"\midrule")
        for row in section:
            facts = [escape(row.facts.get(fact.key, DASH)) for fact in table.facts]
            cells = [cell_text(row.cells.get(column.key)) for column in table.columns]
            body.append(" & ".join([escape(row.label) + marked(row.marks), *facts, *cells]) + r" \\")
    caption = ". ".join(part.rstrip(".") for part in (table.title, table.caption) if part) + "."
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', table.id)}}}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    notes = [rf"\textsuperscript{{{i}}} {escape(text)}" for i, text in enumerate(table.footnotes, start=1)]
    notes += [escape(text) for text in _sentences(table)]
    if notes:
        lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}", r"\footnotesize"]
        lines += ["\\par\n".join(notes), r"\end{minipage}"]
    return _LATEX_OPEN + "\n".join([*lines, r"\end{table}"]) + "\n" + _LATEX_CLOSE


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is; what its Latin fonts lack is named by number, ``U+4E2D``."""
    return "".join(_LATEX.get(character) or _latin(character) for character in text)


def _latin(character: str) -> str:
    return character if character.isprintable() and ord(character) < 0x180 else f"U+{ord(character):04X}"


# ---------------------------------------------------------------- CSV

CSV_COLUMNS = (
    "table", "row", "origin", "column", "unit", "better", "value", "std", "n", "rank", "departures",
    "verified", "source", "runs",
)  # fmt: skip
"""One line per filled cell: `origin` is ``published`` or ``ours``, `value` has more digits than the table
shows, `runs` are the run folders, joined by spaces."""


def _csv(table: Table, width: int | None, color: bool) -> str:
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.key)
            if cell is None:
                continue
            writer.writerow(
                [
                    table.id,
                    row.label,
                    "ours" if row.ours else "published",
                    column.label,
                    column.unit,
                    column.better or "",
                    f"{cell.value:.10g}",
                    "" if cell.std is None else f"{cell.std:.10g}",
                    cell.n if row.ours else "",
                    cell.rank or "",
                    cell.departures,
                    "yes" if cell.verified else "no",
                    cell.source,
                    " ".join(cell.runs),
                ]
            )
    return output.getvalue()


FORMATS: dict[str, Callable[[Table, int | None, bool], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
