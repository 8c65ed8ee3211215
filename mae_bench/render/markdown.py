"""Tables as Markdown, with the few HTML tags that Markdown has no marks for (underlined, superscript)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mae_bench.render.parts import DASH, behind, column_heads, number, sections, sentences
from mae_bench.tables.cells import Cell, Table

_AROUND = {0: ("", ""), 1: ("**", "**"), 2: ("<u>", "</u>")}


def write(table: Table) -> str:
    """Title, table, footnotes and remarks; headings over columns stand in the heads of the columns."""
    lines = [[*(escape(text) for text in _words(table)), *_heads(table)]]
    left = 1 + len(table.facts)
    for section in sections(table):
        if section.heading is not None:
            lines.append([f"**{escape(section.heading)}**", *[""] * (len(lines[0]) - 1)])
        for row in section.rows:
            facts = [escape(row.facts.get(fact.key, DASH)) for fact in table.facts]
            cells = [_cell(row.cells.get(column.key)) for column in table.columns]
            lines.append([escape(row.label) + _marked(row.marks), *facts, *cells])
    parts = [f"**{escape(table.title)}**" + (f" {escape(table.caption)}" if table.caption else "")]
    parts.append(_grid(lines, left))
    notes = [f"<sup>{i}</sup> {escape(text)}" for i, text in enumerate(table.footnotes, start=1)]
    if notes:
        parts.append("<br>\n".join(notes))
    parts += [escape(text) for text in sentences(table)]
    return "\n\n".join(parts) + "\n"


def _words(table: Table) -> list[str]:
    return [table.row_label, *(fact.label for fact in table.facts)]


def _heads(table: Table) -> list[str]:
    heads = zip(table.columns, column_heads(table.columns), strict=True)
    return [escape(text) + _marked(table.column_marks.get(column.key, ())) for column, text in heads]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return DASH
    before, after = _AROUND[cell.rank]
    return f"{before}{escape(number(cell))}{after}{escape(behind(cell))}{_marked(cell.marks)}"


def _marked(marks: Iterable[int]) -> str:
    return "".join(f"<sup>{mark}</sup>" for mark in marks)


def _grid(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of cells as a table whose columns stand under each other; the first `left` are set left."""
    from rich.cells import cell_len

    sizes = [[cell_len(text) for text in line] for line in lines]
    widths = [max(3, *column) for column in zip(*sizes, strict=True)]

    def joined(line: Sequence[str], size: Sequence[int]) -> str:
        spaces = [" " * (width - own) for own, width in zip(size, widths, strict=True)]
        padded = [
            text + space if i < left else space + text
            for i, (text, space) in enumerate(zip(line, spaces, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        ":" + "-" * (width - 1) if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    written = list(map(joined, lines, sizes))
    return "\n".join([written[0], "| " + " | ".join(rule) + " |", *written[1:]])


_SPACE = re.compile(r"\s+")
_SPECIAL = re.compile(r"([\\`*_\[\]|~])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = _SPECIAL.sub(r"\\\1", _SPACE.sub(" ", text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
