"""Tables for the terminal, as wide as it is: what is too wide is folded, or follows below."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mae_bench.render.parts import DASH, behind, column_groups, head, number, sections
from mae_bench.tables.cells import Cell, Table
from mae_bench.tables.layouts import Column

_RESET = "\x1b[0m"
_BOLD, _DIM, _UNDERLINE, _CYAN = (f"\x1b[{code}m" for code in (1, 2, 4, 36))
_STYLES = {0: "", 1: _BOLD, 2: _UNDERLINE}
_GAP = "   "
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# A name is broken only if it is longer than this.
_LONGEST_WORD = 30


@dataclass(frozen=True)
class _Text:
    """The text of a cell, and how its beginning looks."""

    text: str
    style: str = ""
    styled: int = 0
    """Characters from the start that are styled."""


_Column = list[_Text | None]
"""Its head, then a cell for each row; None: room between sections."""


@dataclass(frozen=True)
class _Block:
    """Columns that find room beside each other."""

    columns: list[_Column]
    left: int
    """Columns, from the first, that are set left."""
    over: list[tuple[str | None, int]]
    """Headings over the other columns, and how many each spans; empty: there are none."""
    lowest: list[int]
    """Widths that no column should go below."""


def write(table: Table, width: int | None, color: bool) -> str:
    """The table with its footnotes and remarks.

    Without `color` best and second are not told; rows of ours are by their names.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    lines = [_styled(line, _BOLD, color) for line in _wrapped(_printable(table.title), width)]
    lines += _wrapped(_printable(table.caption), width) if table.caption else []
    for block in _blocks(table, width):
        lines += ["", *_grid(block, width, color)]
    lines.append("")
    # Without escape sequences nothing is bold or underlined, so there is nothing to explain.
    ranking = table.ranking if color else ""
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, start=1)]
    for text in filter(None, [*notes, table.spread, table.sampling, ranking, *table.remarks]):
        lines += _wrapped(_printable(text), width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


# ---------------------------------------------------------------- what stands in the grid


def _blocks(table: Table, width: int) -> Iterator[_Block]:
    """The table in as many blocks as its columns need, each with the names of the rows."""
    names, words, numbers = _columns(table)
    low_words, lows = ([_narrowest(column) for column in some] for some in ([names, *words], numbers))
    start = 0
    while start < len(numbers):
        # The words stand in the first block alone.
        beside = [names, *words] if start == 0 else [names]
        low = low_words[: len(beside)]
        room = width - 1 - sum(low) - len(_GAP) * len(low)
        end = start + 1
        while end < len(numbers) and sum(lows[start : end + 1]) + len(_GAP) * (end - start) <= room:
            end += 1
        over = column_groups(table.columns[start:end])
        columns = [*beside, *numbers[start:end]]
        yield _Block(columns, len(beside), over, [*low, *_below(over, lows[start:end])])
        start = end


def _columns(table: Table) -> tuple[_Column, list[_Column], list[_Column]]:
    """The names of the rows, the columns of words, and those of numbers."""
    names: _Column = [_Text(_printable(table.row_label))]
    words: list[_Column] = [[_Text(_printable(fact.label))] for fact in table.facts]
    numbers: list[_Column] = [[_head(table, column)] for column in table.columns]
    for i, part in enumerate(sections(table)):
        if i > 0:
            for column in (names, *words, *numbers):
                column.append(None)
        if part.heading is not None:
            names.append(_Text(_printable(part.heading), _BOLD, len(part.heading)))
            for column in (*words, *numbers):
                column.append(_Text(""))
        for row in part.rows:
            label = _printable(row.label)
            names.append(_Text(label + _bracketed(row.marks), _CYAN if row.ours else "", len(label)))
            for fact, column in zip(table.facts, words, strict=True):
                column.append(_Text(_printable(row.facts.get(fact.key, DASH))))
            for shown, column in zip(table.columns, numbers, strict=True):
                column.append(_cell(row.cells.get(shown.key)))
    return names, words, numbers


def _below(over: Sequence[tuple[str | None, int]], lows: Sequence[int]) -> list[int]:
    """Lowest widths with which the headings over the columns find room too."""
    widths, at = list(lows), 0
    for name, count in over:
        span = sum(widths[at : at + count]) + len(_GAP) * (count - 1)
        longest = max(map(_size, (name or "").split()), default=0)
        widths[at + count - 1] += max(0, min(longest, _LONGEST_WORD) - span)
        at += count
    return widths


def _head(table: Table, column: Column) -> _Text:
    return _Text(_printable(head(column)) + _bracketed(table.column_marks.get(column.key, ())))


def _cell(cell: Cell | None) -> _Text:
    if cell is None:
        return _Text(DASH, _DIM, 1)
    shown = _printable(number(cell))
    return _Text(shown + behind(cell) + _bracketed(cell.marks), _STYLES[cell.rank], len(shown))


def _bracketed(marks: Iterable[int]) -> str:
    return "".join(f" [{mark}]" for mark in marks)


def _printable(text: str) -> str:
    """Text on one line without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else _UNKNOWN for sign in text)


# ---------------------------------------------------------------- the grid


def _grid(block: _Block, width: int, color: bool) -> Iterator[str]:
    """Lines of text: heads, a rule, rows."""
    wanted = [max(_size(cell.text) for cell in column if cell) for column in block.columns]
    widths = _fitting(
        [max(pair) for pair in zip(wanted, block.lowest, strict=True)],
        block.lowest,
        width - 1 - len(_GAP) * (len(wanted) - 1),
    )
    yield from _over(block, widths)
    heads, *rows = zip(*block.columns, strict=True)
    bold = [_Text(cell.text, _BOLD, len(cell.text)) for cell in heads if cell]
    yield from _row(bold, widths, block.left, color)
    yield " " + "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    for row in rows:
        cells = [cell for cell in row if cell]
        if cells:
            yield from _row(cells, widths, block.left, color)
        else:
            yield ""


def _over(block: _Block, widths: Sequence[int]) -> Iterator[str]:
    """The headings over the columns, each in the middle of its columns and with a rule below."""
    if not block.over:
        return
    spans, at = [], block.left
    for name, count in block.over:
        spans.append((name, sum(widths[at : at + count]) + len(_GAP) * (count - 1)))
        at += count
    start = " " + " " * (sum(widths[: block.left]) + len(_GAP) * block.left)
    folded = [_wrapped(_printable(name or ""), span) for name, span in spans]
    for at in range(max(map(len, folded))):
        words = [lines[at] if at < len(lines) else "" for lines in folded]
        middle = []
        for text, (_, span) in zip(words, spans, strict=True):
            before = (span - _size(text)) // 2
            middle.append(" " * before + text + " " * (span - _size(text) - before))
        yield start + _GAP.join(middle)
    yield start + _GAP.join(("─" if name else " ") * span for name, span in spans)


def _fitting(wanted: Sequence[int], lowest: Sequence[int], room: int) -> list[int]:
    """Widths of columns that fit into the room: the widest give way, not below their lowest if possible."""
    widths = list(wanted)
    for floor in (lowest, [1] * len(widths)):
        while sum(widths) > room:
            free = [i for i, width in enumerate(widths) if width > floor[i]]
            if not free:
                break
            widths[max(free, key=lambda i: widths[i])] -= 1
    return widths


def _narrowest(column: _Column) -> int:
    """The longest word of a column, if that is not too long to be kept whole."""
    return min(
        _LONGEST_WORD, max((_size(word) for cell in column if cell for word in cell.text.split()), default=1)
    )


def _row(cells: Sequence[_Text], widths: Sequence[int], left: int, color: bool) -> Iterator[str]:
    """One row of cells, on as many lines as the longest of them is folded into."""
    folded = [
        [cell.text] if _size(cell.text) <= width else _wrapped(cell.text, width)
        for cell, width in zip(cells, widths, strict=True)
    ]
    styled = [cell.styled for cell in cells]
    for at in range(max(map(len, folded))):
        parts = []
        for i, (lines, width) in enumerate(zip(folded, widths, strict=True)):
            text = lines[at] if at < len(lines) else ""
            space = " " * (width - _size(text))
            if color and cells[i].style and text and styled[i] > 0:
                # A blank was dropped where the text was folded.
                text, styled[i] = (
                    cells[i].style + text[: styled[i]] + _RESET + text[styled[i] :],
                    styled[i] - len(text) - 1,
                )
            parts.append(text + space if i < left else space + text)
        yield " " + _GAP.join(parts)


def _styled(text: str, style: str, color: bool) -> str:
    return f"{style}{text}{_RESET}" if color else text


def _size(text: str) -> int:
    """Places on the screen."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _wrapped(text: str, width: int) -> list[str]:
    """Text in lines, broken between words, or inside those that are wider than a line."""
    lines = [""]
    for word in text.split():
        if lines[-1] and _size(lines[-1]) + 1 + _size(word) <= width:
            lines[-1] += " " + word
            continue
        if lines[-1]:
            lines.append("")
        while _size(word) > width:
            end = next(n for n in range(len(word), 0, -1) if n == 1 or _size(word[:n]) <= width)
            lines[-1:] = [word[:end], ""]
            word = word[end:]
        lines[-1] = word
    return lines
