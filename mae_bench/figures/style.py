"""What all figures share: colours, markers, lines, and how a figure becomes a file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)))

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
        make().savefig(content, format=format, dpi=200, bbox_inches="tight", metadata=metadata)
    return write_atomic(output, content.getvalue())


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: it reads what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")
