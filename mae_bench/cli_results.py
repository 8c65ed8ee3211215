"""The verbs that are about finished runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from mae_bench.cli_options import DataRoot, Format, Runs, Shelf
from mae_bench.errors import MaeBenchError


class Axis(StrEnum):
    """What a learning curve is drawn over."""

    step = "step"
    epoch = "epoch"


class Whose(StrEnum):
    """Whose rows a table shows."""

    all = "all"
    ours = "ours"
    published = "published"


class ComparisonFormat(StrEnum):
    """How a comparison is written."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


def table(
    table_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="A table, or the path of a layout; none: list them.", show_default=False
        ),
    ] = None,
    runs: Runs = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="How it is written; default: what the ending of --output says, else terminal.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write it there; with --all a folder too.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All tables in which runs of yours stand.")
    ] = False,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            metavar="COLUMN,...",
            help="Columns by key or label, in this order.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="PATH=PATTERN",
            help="Only rows of runs like this: backbone=timm:*, arch=*_large_*, recipe_hash=1a2b3c4d, any "
            "dotted path of result.json, a column of words, or name; may be repeated.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[Whose, typer.Option("--rows", help="Whose rows are shown.")] = Whose.all,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="COLUMN[:asc|desc]",
            help="Order of the rows by a column, best first.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="size|COLUMN",
            help="Rows under headings: by size of the backbone, or words.",
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        str | None,
        typer.Option(
            "--delta",
            metavar="ROW",
            help="Show the difference to this row behind each number.",
            show_default=False,
        ),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Show the sampling error of your numbers, by bootstrap.")
    ] = False,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure", metavar="FILE", help="Draw it instead: .png, .svg or .pdf.", show_default=False
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            "--wandb",
            metavar="ENTITY/PROJECT",
            help="Send it to Weights & Biases instead.",
            show_default=False,
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Say instead what each number stands on, what changed since, and what would fill empty "
            "cells; without ID of all tables. Status 1 if a number is stale.",
        ),
    ] = False,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            metavar="FILE.yaml",
            help="With --audit: write the runs that are due as a list for `suite`.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Print a paper's table with your runs in it."""
    if audit:
        _audit([] if table_id is None else [table_id], runs, data_root, format or Format.terminal, save)
        return
    if save is not None or data_root is not None:
        raise MaeBenchError(f"{'--save' if save is not None else '--data-root'} belongs to --audit")
    if table_id is None and not everything:
        from mae_bench import listing

        typer.echo(listing.as_text(Shelf.tables))
        return
    from mae_bench import api
    from mae_bench.tables.views import View, parse_where

    names = [name.strip() for name in select.split(",")] if select is not None else []
    view = View(names, parse_where(where or ()), rows.value, sort, group, delta, intervals)
    written = format.value if format is not None else None if output is not None else "terminal"
    if everything:
        if table_id is not None or figure is not None or wandb is not None:
            other = table_id or ("--figure" if figure is not None else "--wandb")
            raise MaeBenchError(f"--all is for all tables; it does not go with {other}")
        typer.echo(api.all_tables(runs_root=runs, format=written, view=view, output=output))
    elif figure is not None:
        typer.echo(api.figure(str(table_id), figure, runs_root=runs, view=view))
    elif wandb is not None:
        typer.echo(api.push_table(str(table_id), wandb, runs_root=runs, view=view))
    else:
        typer.echo(api.table(str(table_id), runs_root=runs, format=written, view=view, output=output))


def _audit(tables: list[str], runs: str | None, data_root: str | None, format: str, save: str | None) -> None:
    """What `table --audit` does; leaves with 1 if a number is stale."""
    from mae_bench import api
    from mae_bench.tracing.telling import tell

    found = api.audit(tables, runs_root=runs, data_root=data_root, save=save)
    typer.echo(tell(found, format))
    if not found.ok:
        raise typer.Exit(1)


def compare(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run folders, or folders of several runs, as they are or below --runs."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="A metric of result.json; may be repeated. Default: the task's headline.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="RUN",
            help="Compare each with this one; default: each with each.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[float, typer.Option("--level", metavar="X", help="Level of the intervals.")] = 0.95,
    resamples: Annotated[
        int, typer.Option("--resamples", metavar="N", help="Resamples of the images.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Decides the resamples.")] = 0,
    format: Annotated[ComparisonFormat, typer.Option("--format", help="How it is written.")] = (
        ComparisonFormat.terminal
    ),
    runs: Runs = None,
) -> None:
    """Test whether backbones differ, on the images that their runs were judged on."""
    from mae_bench import api

    found = api.compare(
        folders,
        metrics=metric or (),
        baseline=baseline,
        level=level,
        resamples=resamples,
        seed=seed,
        format=format,
        runs_root=runs,
    )
    typer.echo(found)


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

    along: Literal["step", "epoch"] | None = axis.value if axis else None
    drawn = api.draw_curves(folders, output, metrics=metric or (), references=reference or (), axis=along)
    typer.echo(drawn)


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


def report(
    runs: Runs = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The page: .html.")
    ] = "report.html",
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", help="Pictures that are embedded at most.")
    ] = 60,
    max_mb: Annotated[
        float, typer.Option("--max-mb", metavar="MB", help="Megabytes that the pictures may take.")
    ] = 20.0,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With the sampling error of our numbers; takes a while.")
    ] = False,
) -> None:
    """Write one HTML page with all tables, figures, pictures, curves and runs."""
    from mae_bench import api

    path = api.report(output, runs_root=runs, pictures=pictures, max_mb=max_mb, intervals=intervals)
    typer.echo(path)


def export(
    output: Annotated[str, typer.Argument(metavar="FILE", help="The file: .csv or .parquet.")],
    runs: Runs = None,
    long: Annotated[
        bool, typer.Option("--long", help="One row for each metric of each run, not one row a run.")
    ] = False,
) -> None:
    """Write everything about every finished run as one table of data."""
    from mae_bench import api

    typer.echo(api.export_results(output, runs_root=runs, long=long))


importing = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make run folders from records that other programs keep.",
)


@importing.callback()
def _importing() -> None:
    """A group even with one command."""


@importing.command("wandb")
def import_wandb(
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="A project of wandb.")],
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping",
            metavar="FILE.yaml",
            help="What the names of its runs mean; default: take only what mae-bench logged.",
            show_default=False,
        ),
    ] = None,
    runs: Runs = None,
    force: Annotated[bool, typer.Option("--force", help="Write folders of earlier imports anew.")] = False,
) -> None:
    """Make run folders of the runs of a project on Weights & Biases."""
    from mae_bench import api

    typer.echo(api.import_wandb(project, mapping, runs_root=runs, force=force).as_text())


def add_to(app: typer.Typer) -> None:
    """Make these functions commands of the command line."""
    for verb in (table, compare, report, export):
        app.command()(verb)
    app.add_typer(drawing, name="draw")
    app.add_typer(importing, name="import")
