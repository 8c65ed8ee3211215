"""What all figures share: colours, markers, lines, and how a figure becomes a file."""

from __future__ import annotations

import io
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
WIDTH = 7.0
"""Of a figure, in inches."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)))

# Characters of a legend's name that have room in half a figure's width, in all of it, and in its bold title.
_HALF, _WHOLE, _TITLE = 36, 80, 60
_LEGEND_LINE = 0.21  # inches
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Otherwise every drawing gets identifiers of its own, and equal figures differ.
    "svg.hashsalt": "mae-bench",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def format_of(output: str | os.PathLike[str]) -> str:
    """The format that a file's ending asks for.

    Raises:
        MaeBenchError: none of `FORMATS`.
    """
    format = Path(output).suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise MaeBenchError(
            f"{output}: a figure's file ends in {', '.join('.' + known for known in FORMATS)}"
        )
    return format


def save(make: Callable[[], Figure], output: str | os.PathLike[str]) -> Path:
    """Make a figure in the style of all and write it, completely or not at all."""
    from matplotlib import rc_context

    format = format_of(output)
    content = io.BytesIO()
    with rc_context(_STYLE):
        # A date would make equal figures differ.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            make().savefig(content, format=format, dpi=200, bbox_inches="tight", metadata=metadata)
    _retell(told, output, format)
    return write_atomic(output, content.getvalue())


def _retell(told: Sequence[warnings.WarningMessage], output: str | os.PathLike[str], format: str) -> None:
    """Put into a sentence what matplotlib says about characters of names; other warnings stay as they are."""
    from mae_bench import screen

    missing = [one for one in told if "missing from font" in str(one.message)]
    for one in told:
        if one not in missing:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    # In an SVG names stay text, for which whoever shows it finds a font.
    if missing and format != "svg":
        screen.warn(f"{output}: names hold characters that the font of figures lacks; boxes stand for them")


class Legend:
    """The names of curves above a figure, so that they never lie on a curve; long ones in several lines."""

    def __init__(self, names: Sequence[str], title: str = "") -> None:
        self.names = ["\n".join(textwrap.wrap(name, _WHOLE)) or name for name in names]
        self.title = "\n".join(textwrap.wrap(title, _TITLE))
        self.columns = 1 if max(map(len, self.names), default=0) > _HALF else 2

    @property
    def height(self) -> float:
        """Inches that it takes."""
        lines = sum(name.count("\n") + 1 for name in self.names) / self.columns
        return _LEGEND_LINE * (-(-lines // 1) + self.title.count("\n") + bool(self.title))

    def put(self, figure: Figure, handles: Sequence[Any]) -> None:
        """Add it; `handles` in the order of the names."""
        figure.legend(
            list(handles),
            # Names that begin with an underscore are left out by matplotlib.
            [plain(f" {name}" if name.startswith("_") else name) for name in self.names],
            frameon=False,
            loc="outside upper left",
            ncols=self.columns,
            title=plain(self.title) or None,
            title_fontproperties={"size": 11, "weight": "bold"},
            alignment="left",
        )


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: it reads what stands between dollar signs as mathematics.

    Characters that no SVG may hold, such as a terminal's escapes, are replaced.
    """
    text = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.replace("$", r"\$")
