"""The verbs that are about finished runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mae_bench.cli_options import Format, Runs, Shelf, TableFormat


class Axis(StrEnum):
    """What a learning curve is drawn over."""

    step = "step"
    epoch = "epoch"


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


RunFolders = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders.")]
FigureFile = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="The figure: .png, .svg or .pdf.")
]
drawing = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Draw runs: their learning curves, or a score of each class.",
)


@drawing.command()
def curves(
    folders: RunFolders,
    output: FigureFile,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="A name in metrics.jsonl, such as loss or top1; may be repeated. Default: the training loss "
            "and the first that is evaluated.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="PATH",
            help="A curve to compare with: a run folder, a log.txt of facebookresearch/mae, or a .csv with "
            "step or epoch; may be repeated.",
            show_default=False,
        ),
    ] = None,
    axis: Annotated[
        Axis | None, typer.Option("--axis", help="Default: epochs where all tell them.", show_default=False)
    ] = None,
) -> None:
    """Draw what runs logged in training, finished or not."""
    from mae_bench import api

    how = {"metrics": metric or (), "references": reference or (), "axis": axis.value if axis else None}
    typer.echo(api.draw_curves(folders, output, **how))


@drawing.command()
def classes(
    folders: RunFolders,
    output: FigureFile,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="box_ap, mask_ap, iou, accuracy, ...; default: the first there is.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw AP or IoU of each class, of one run or of several side by side."""
    from mae_bench import api

    typer.echo(api.draw_classes(folders, output, metric=metric))


def add_to(app: typer.Typer) -> None:
    """Make these functions commands of the command line."""
    for verb in (table,):
        app.command()(verb)
    app.add_typer(drawing, name="draw")
