"""Tables as an HTML page that needs no script and no network, light or dark as the reader's system is.

Each table is a `<section>`, which another page may take as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from mae_bench.render.parts import (
    DASH,
    Section,
    column_groups,
    delta,
    head,
    interval,
    number,
    sections,
    seeds,
    sentences,
)
from mae_bench.tables.cells import Cell, Row, Table

_STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --faint: #595959; --line: #8c8c8c;
  --ours: #e8f1fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --faint: #a6a6a6; --line: #737373; --ours: #14293d; --page: #161616; }
}
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, sans-serif; }
section { margin-bottom: 3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink);
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; font-weight: bold; }
caption p { margin: 0; font-weight: normal; }
th, td { padding: .25rem .75rem; text-align: right; font-weight: normal; vertical-align: baseline; }
thead th { font-weight: bold; border-bottom: 1px solid var(--line); }
thead th[scope=colgroup] { text-align: center; }
th.words, td.words, tbody th { text-align: left; }
tbody + tbody { border-top: 1px solid var(--line); }
tbody th[scope=rowgroup] { font-style: italic; padding-top: .75rem; }
tbody th { max-width: 24rem; overflow-wrap: anywhere; }
tr.ours { background: var(--ours); }
.best { font-weight: bold; }
.second { text-decoration: underline; }
.more { color: var(--faint); font-size: .875em; }
td.none { color: var(--faint); }
sup a { color: inherit; }
.notes { color: var(--faint); font-size: .875rem; max-width: 60rem; }
.notes p { margin: .25rem 0; }
@media print { body { margin: 0; max-width: none; } tr.ours { background: none; } }
"""
_CLASSES = {0: "", 1: "best", 2: "second"}
_WORDS = {1: "best of the column", 2: "second best of the column"}


def write(tables: Sequence[Table]) -> str:
    """A page with all tables."""
    title = escape(tables[0].title if len(tables) == 1 else "Tables")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>\n{_STYLE}</style>",
            "</head>",
            "<body>",
            *(_section(table) for table in tables),
            "</body>",
            "</html>\n",
        ]
    )


def _section(table: Table) -> str:
    identity = re.sub(r"[^A-Za-z0-9_-]", "-", table.id)
    caption = escape(table.title) + (f"<p>{escape(table.caption)}</p>" if table.caption else "")
    notes = [
        f'<p id="{identity}-{i}"><sup>{i}</sup> {escape(text)}</p>'
        for i, text in enumerate(table.footnotes, start=1)
    ]
    notes += [f"<p>{escape(text)}</p>" for text in sentences(table)]
    return "\n".join(
        [
            f'<section id="{identity}">',
            f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}">',
            "<table>",
            f"<caption>{caption}</caption>",
            *_head(table, identity),
            *(line for section in sections(table) for line in _body(table, section, identity)),
            "</table>",
            "</div>",
            *(['<div class="notes">', *notes, "</div>"] if notes else []),
            "</section>",
        ]
    )


def _head(table: Table, identity: str) -> list[str]:
    spans = column_groups(table.columns)
    down = ' rowspan="2"' if spans else ""
    words = [table.row_label, *(fact.label for fact in table.facts)]
    first = [f'<th scope="col" class="words"{down}>{escape(text)}</th>' for text in words]
    marks = [_marked(table.column_marks.get(column.key, ()), identity) for column in table.columns]
    labels = [
        f'<th scope="col">{escape(head(column))}{mark}</th>'
        for column, mark in zip(table.columns, marks, strict=True)
    ]
    if not spans:
        return ["<thead>", "<tr>" + "".join([*first, *labels]) + "</tr>", "</thead>"]
    over = [
        f'<th scope="colgroup" colspan="{count}">{escape(name)}</th>'
        if name
        else f'<td colspan="{count}"></td>'
        for name, count in spans
    ]
    rows = ["".join([*first, *over]), "".join(labels)]
    return ["<thead>", *(f"<tr>{row}</tr>" for row in rows), "</thead>"]


def _body(table: Table, section: Section, identity: str) -> list[str]:
    lines = ["<tbody>"]
    if section.heading is not None:
        across = 1 + len(table.facts) + len(table.columns)
        lines.append(f'<tr><th scope="rowgroup" colspan="{across}">{escape(section.heading)}</th></tr>')
    lines += [_row(table, row, identity) for row in section.rows]
    return [*lines, "</tbody>"]


def _row(table: Table, row: Row, identity: str) -> str:
    cells = [f'<th scope="row">{escape(row.label)}{_marked(row.marks, identity)}</th>']
    cells += [f'<td class="words">{escape(row.facts.get(fact.key, DASH))}</td>' for fact in table.facts]
    cells += [_cell(row.cells.get(column.key), identity) for column in table.columns]
    opening = '<tr class="ours">' if row.ours else "<tr>"
    return opening + "".join(cells) + "</tr>"


def _cell(cell: Cell | None, identity: str) -> str:
    if cell is None:
        return f'<td class="none">{DASH}</td>'
    text = escape(number(cell))
    if cell.rank:
        text = f'<span class="{_CLASSES[cell.rank]}" title="{_WORDS[cell.rank]}">{text}</span>'
    told = [*cell.runs] or [cell.source]
    title = f' title="{escape("; ".join(filter(None, told)))}"' if any(told) else ""
    more = "".join(escape(part) for part in (seeds(cell), interval(cell), delta(cell)))
    shown = f'<span class="more">{more}</span>' if more else ""
    return f"<td{title}>{text}{shown}{_marked(cell.marks, identity)}</td>"


def _marked(marks: Iterable[int], identity: str) -> str:
    links = ",".join(f'<a href="#{identity}-{mark}">{mark}</a>' for mark in marks)
    return f"<sup>{links}</sup>" if links else ""
