r"""Tables as LaTeX with booktabs, as a paper prints them: `\input` one, or compile the file as it is.

A table that is wider than the line is set smaller, and scaled only if even small print is too wide; a long
one goes on in a second table of the same number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mae_bench.render.parts import Section, behind, column_groups, head, number, sections, sentences
from mae_bench.tables.cells import Cell, Row, Table

_SPECIAL = {
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
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{MINUS SIGN}": "$-$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\ge$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": r"\textquoteright{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    "\N{BULLET}": r"\textbullet{}",
    "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψω", (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
), strict=True))  # fmt: skip

# Two signs that the fonts would make one of; an en dash has a name.
_LIGATURE = re.compile(r"([-,])(?=\1)")
# Latin letters for which LaTeX's T1 encoding has no sign.
_NOT_IN_T1 = "\u0126\u0127\u0138\u013f\u0140\u0149\u0166\u0167\u017f"
# In words longer than this a line may break behind a separator, or else here and there; others are left as
# they are.
_LONG_WORD = 16
_BREAKS = re.compile(r"(?<=[/_.:,=?@-])(?=[^/_.:,=?@-])|(?<=[^/_.:,=?@-]{12})(?=[^/_.:,=?@-]{4})")
# Names of rows longer than this are folded, in a column of a fixed width.
_LONG_NAME = 44
# A landscape page of A4: lines of rows, the share of one that a line of notes takes, and its characters.
_LINES_A_PAGE = 32
_SMALL = 0.8
_NOTE_LINE = 170

# Inside a document \@nodocument is \relax; before \begin{document} it is not.
_OPEN = r"""% Compiles as it is; elsewhere: \usepackage{booktabs,graphicx}, then \input this file.
% With \usepackage{colortbl} our rows stand on light grey.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \def\maebenchend{}
\else
  \documentclass{article}
  \usepackage[T1]{fontenc}
  \IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
  \usepackage{booktabs,graphicx,colortbl}
  \usepackage[a4paper,landscape,margin=15mm]{geometry}
  \def\maebenchend{\end{document}}
  \begin{document}
\fi
\providecommand{\maebenchours}{}
\ifx\rowcolor\undefined\else\renewcommand{\maebenchours}{\rowcolor[gray]{0.93}}\fi
% The largest of three sizes of print that fits into the line, else the smallest scaled.
\providecommand{\maebenchfit}[1]{%
  \sbox0{\normalsize #1}%
  \ifdim\wd0>\linewidth \sbox0{\small #1}\fi
  \ifdim\wd0>\linewidth \sbox0{\footnotesize #1}\fi
  \ifdim\wd0>\linewidth \resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
"""
_CLOSE = "\\maebenchend\n"


def write(tables: Sequence[Table]) -> str:
    """All tables, each a float of its own, in one file."""
    # Many floats in a row are more than TeX keeps waiting.
    return document("\\clearpage\n".join(_table(table) for table in tables))


def document(floats: str) -> str:
    r"""What stands in a file that compiles as it is and may be ``\input`` too."""
    return _OPEN + floats + _CLOSE


@dataclass
class _Page:
    """What one float holds."""

    sections: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    used: float = 0.0
    """Lines of print."""


def _table(table: Table) -> str:
    caption = ". ".join(part.rstrip(".") for part in (table.title, table.caption) if part) + "."
    folded = _is_folded(table)
    kinds = "".join([r"p{.3\linewidth}" if folded else "l", "l" * len(table.facts), "r" * len(table.columns)])
    lines: list[str] = []
    for i, page in enumerate(_pages(table)):
        lines += [r"\begin{table}", r"\centering"]
        if i == 0:
            lines.append(rf"\caption{{{escape(caption, breaks=True)}}}")
            lines.append(rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', table.id)}}}")
        else:
            lines.append(r"\addtocounter{table}{-1}")
            lines.append(rf"\caption{{{escape(table.title)} (continued).}}")
        if page.sections or i == 0:
            lines += [
                r"\par\smallskip",
                rf"\maebenchfit{{\begin{{tabular}}{{{kinds}}}",
                r"\toprule",
                *_heads(table),
                *(line for section in page.sections for line in _body(table, section, folded)),
                r"\bottomrule",
                r"\end{tabular}}",
            ]
        lines += [*_notes(page.notes), r"\end{table}"]
    return "\n".join(lines) + "\n"


def _is_folded(table: Table) -> bool:
    return any(len(row.label) > _LONG_NAME for row in table.rows)


def _pages(table: Table) -> list[_Page]:
    """Rows, then notes, cut where a page is full."""
    pages = [_Page()]
    folded = _is_folded(table)
    for part in sections(table):
        begun = False
        for row in part.rows:
            lines = 1 + len(row.label) // _LONG_NAME if folded else 1
            if pages[-1].used + lines > _LINES_A_PAGE:
                pages.append(_Page())
                begun = False
            if not begun:
                pages[-1].sections.append(Section(part.heading, []))
                pages[-1].used += 0.5 if part.heading is None else 1.5
                begun = True
            pages[-1].sections[-1].rows.append(row)
            pages[-1].used += lines
    notes = [rf"\textsuperscript{{{i}}} {_note(text)}" for i, text in enumerate(table.footnotes, start=1)]
    for text in [*notes, *map(_note, sentences(table))]:
        room = _SMALL * (1 + len(text) // _NOTE_LINE)
        if pages[-1].used + room > _LINES_A_PAGE and pages[-1].used > 0:
            pages.append(_Page())
        pages[-1].notes.append(text)
        pages[-1].used += room
    return pages


def _note(text: str) -> str:
    return escape(text, breaks=True)


def _heads(table: Table) -> list[str]:
    words = [escape(table.row_label), *(escape(fact.label) for fact in table.facts)]
    heads = [
        *words,
        *(escape(head(column)) + _marked(table.column_marks.get(column.key, ())) for column in table.columns),
    ]
    lines, spans = [], column_groups(table.columns)
    if spans:
        over = [
            rf"\multicolumn{{{count}}}{{c}}{{{escape(name)}}}" if name else " & ".join([""] * count)
            for name, count in spans
        ]
        lines.append(" & ".join([*[""] * len(words), *over]) + r" \\")
        at, rules = len(words) + 1, []
        for name, count in spans:
            rules += [rf"\cmidrule(lr){{{at}-{at + count - 1}}}"] if name else []
            at += count
        lines.append("".join(rules))
    return [*lines, " & ".join(heads) + r" \\"]


def _body(table: Table, section: Section, folded: bool) -> list[str]:
    lines = [r"\midrule"]
    if section.heading is not None:
        across = 1 + len(table.facts) + len(table.columns)
        lines.append(rf"\multicolumn{{{across}}}{{l}}{{\textit{{{escape(section.heading)}}}}} \\")
    return [*lines, *(_row(table, row, folded) for row in section.rows)]


def _row(table: Table, row: Row, folded: bool) -> str:
    facts = [escape(row.facts[fact.key]) if fact.key in row.facts else "--" for fact in table.facts]
    cells = [_cell(row.cells.get(column.key)) for column in table.columns]
    name = (r"\raggedright " if folded else "") + escape(row.label, folded) + _marked(row.marks)
    line = " & ".join([name, *facts, *cells]) + r" \\"
    return rf"\maebenchours {line}" if row.ours else line


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    before, after = {0: ("", ""), 1: (r"\textbf{", "}"), 2: (r"\underline{", "}")}[cell.rank]
    return f"{before}{escape(number(cell))}{after}{escape(behind(cell))}{_marked(cell.marks)}"


def _marked(marks: Iterable[int]) -> str:
    joined = ",".join(map(str, marks))
    return rf"\textsuperscript{{{joined}}}" if joined else ""


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    begin = [r"\par\medskip", r"\begin{minipage}{\linewidth}", r"\footnotesize\emergencystretch=3em"]
    return [*begin, "\\par\n".join(notes), r"\end{minipage}"]


# ---------------------------------------------------------------- names


def escape(text: str, breaks: bool = False) -> str:
    """Text that LaTeX sets as it is; what its Latin fonts lack is named by number, ``U+4E2D``.

    Args:
        breaks: whether a line may break inside long words.
    """
    return " ".join(_word(word, breaks) for word in re.split(r"[ \t\r\n]+", text))


def _word(word: str, breaks: bool) -> str:
    parts = _BREAKS.split(word) if breaks and len(word) > _LONG_WORD else [word]
    return r"\allowbreak{}".join(_LIGATURE.sub(r"\1{}", "".join(map(_sign, part))) for part in parts)


def _sign(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _GREEK:
        return rf"$\{_GREEK[character]}$"
    latin = character.isprintable() and ord(character) < 0x180 and character not in _NOT_IN_T1
    return character if latin else f"U+{ord(character):04X}"
