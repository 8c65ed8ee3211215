"""The figures of tables as SVG that can stand inside a page, several beside each other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mae_bench import figures
from mae_bench.errors import MaeBenchError
from mae_bench.tables import Table

MOST_CURVES = 28
"""Curves that a figure of the page holds at most: seven colours times four markers or dashes."""

_NAMESPACE = re.compile(r"^\{[^}]*\}")
# Where one element of an SVG points to another of it.
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True)
class Drawing:
    """One figure."""

    table: str
    """Identity of the table it is drawn from."""
    title: str
    svg: str
    """Markup of our own making, with the names in it escaped."""


@dataclass(frozen=True)
class Drawings:
    """The figures of all tables."""

    shown: list[Drawing]
    crowded: list[str]
    """A sentence per figure that has more curves than anybody can tell apart."""
    problems: list[str]
    """A sentence per figure that could not be drawn."""


def draw_all(tables: Sequence[Table]) -> Drawings:
    """The figure of every table that has one and anything of ours in it."""
    drawings: list[Drawing] = []
    crowded, problems = [], []
    with tempfile.TemporaryDirectory() as folder:
        for table in tables:
            if table.figure is None or not any(row.ours and row.cells for row in table.rows):
                continue
            if len(table.rows) > MOST_CURVES:
                crowded.append(
                    f"{table.title}: {len(table.rows)} curves are more than can be told apart; "
                    f"mae-bench table {table.id} --figure FILE draws them all the same"
                )
                continue
            try:
                path = figures.draw(table, Path(folder) / f"{len(drawings)}.svg")
            except MaeBenchError as error:
                problems.append(f"the figure of {table.id} is left out: {error}")
                continue
            svg = inlined(path.read_text(encoding="utf-8"), f"drawing-{len(drawings)}", table.title)
            drawings.append(Drawing(table.id, table.title, svg))
    return Drawings(drawings, crowded, problems)


def inlined(svg: str, name: str, title: str) -> str:
    """An SVG file as an element of a page: its identifiers and styles are its own, and it has a title.

    Args:
        name: stands before every identifier; no other figure of the page may have it.
    """
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        for key, value in list(element.attrib.items()):
            plain = _NAMESPACE.sub("", key)
            del element.attrib[key]
            element.attrib[plain] = _renamed(plain, value, name)
        if element.tag == "style" and element.text:
            # A rule for every element would hold for the whole page.
            element.text = re.sub(r"(^|\})\s*([^{}]+)\{", rf"\1#{name} \2{{", element.text)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == "metadata"]:
            parent.remove(child)
    # A drawing keeps its proportions in any width.
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib |= {"id": name, "role": "img", "aria-label": title, "class": "drawing"}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)
