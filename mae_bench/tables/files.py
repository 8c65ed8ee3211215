"""Tables written into files: one, or all of them in one document or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mae_bench import render
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike, write_atomic
from mae_bench.tables.cells import Table


def deliver(table: Table, format: str | None, output: PathLike | None, default: str) -> str:
    """The table as text or, with `output`, the path of the file that it was written into.

    Args:
        format: one of `mae_bench.render.FORMATS`; None: what the ending of `output` says, else `default`.

    Raises:
        MaeBenchError: no such format, or an ending that says none.
    """
    if output is None:
        return render.render(table, format or default)
    text = render.render(table, format or _format_of(output), width=_PAGE, color=False)
    return str(write_atomic(output, text + "\n"))


def deliver_all(tables: Sequence[Table], format: str | None, output: PathLike | None, default: str) -> str:
    """All tables in one text; with `output` the path of that file.

    If its ending says no format, `output` is a folder that gets a file for each table.

    Raises:
        MaeBenchError: no such format, or nothing to write.
    """
    if not tables:
        raise MaeBenchError(
            "no finished run fits any table yet; with --rows published all tables are shown as published"
        )
    if output is None:
        return render.render_all(tables, format or default)
    told = render.format_of(str(output))
    if told is not None:
        text = render.render_all(tables, format or told, width=_PAGE, color=False)
        return str(write_atomic(output, text + "\n"))
    chosen = format or "markdown"
    ending = render.FORMATS[chosen].ending if chosen in render.FORMATS else ""
    for table in tables:
        text = render.render(table, chosen, width=_PAGE, color=False)
        write_atomic(Path(output) / f"{table.id}{ending}", text + "\n")
    return str(output)


# Characters a line of a file may have; it has no terminal to fit into.
_PAGE = 160


def _format_of(output: PathLike) -> str:
    told = render.format_of(str(output))
    if told is None:
        endings = ", ".join(format.ending for format in render.FORMATS.values())
        raise MaeBenchError(f"{output}: its ending says no format; known are {endings}, or give --format")
    return told
