"""The verbs that are about finished runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mae_bench.cli_options import Format, Runs, Shelf, TableFormat


def table(
    table_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="A table, or the path of a layout; none: list them.", show_default=False
        ),
    ] = None,
    runs: Runs = None,
    format: TableFormat = Format.terminal,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure", metavar="FILE", help="Draw it instead: .png, .svg or .pdf.", show_default=False
        ),
    ] = None,
) -> None:
    """Print a paper's table with your runs in it."""
    if table_id is None:
        from mae_bench import listing

        typer.echo(listing.as_text(Shelf.tables))
        return
    from mae_bench import api

    if figure is not None:
        typer.echo(api.figure(table_id, figure, runs_root=runs))
    else:
        typer.echo(api.table(table_id, runs_root=runs, format=format))


def add_to(app: typer.Typer) -> None:
    """Make these functions commands of the command line."""
    for verb in (table,):
        app.command()(verb)
