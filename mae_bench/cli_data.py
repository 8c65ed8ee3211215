"""The commands about data: `mae-bench data check`, `where`, `fingerprint`, `corrupt`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mae_bench.cli_options import DataRoot, Overrides, Runs
from mae_bench.errors import MaeBenchError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Check data, say where it is expected and how to get it, tell it apart, corrupt it.",
)

Task = Annotated[
    str, typer.Argument(metavar="TASK", help="Name of a recipe (`list recipes`) or path of a YAML file.")
]
Workers = Annotated[
    str,
    typer.Option("--workers", metavar="N", help="Processes that work; auto: one for each core, up to 16."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def check(
    task: Task,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Where the report goes, as JSON; default: .mae-bench/TASK.json in the data root.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Lists and counts only; read no image.")] = False,
    json: Json = False,
) -> None:
    """Read all of a task's data and say what is wrong with it; status 1 if anything is."""
    from mae_bench import api

    found = api.data_check(
        task,
        overrides or (),
        data_root=data_root,
        runs_root=runs,
        report=report,
        workers=_number(workers),
        quick=quick,
    )
    typer.echo(found.as_json() if json else found.as_text())
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def where(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            help="Recipes, YAML files or datasets; none: a table of all datasets.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Say where data is expected, whether it is there, and how to obtain it."""
    from mae_bench import whereabouts

    shown = whereabouts.as_json if json else whereabouts.as_text
    typer.echo(shown(tasks or (), data_root))


@app.command()
def fingerprint(
    task: Task, overrides: Overrides = None, data_root: DataRoot = None, json: Json = False
) -> None:
    """Print the digest of a task's data that its results carry."""
    from mae_bench import api

    found = api.data_fingerprint(task, overrides or (), data_root=data_root)
    typer.echo(found.as_json() if json else found.as_text())


@app.command()
def corrupt(
    task: Task,
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="The folder to make.")],
    overrides: Overrides = None,
    corruptions: Annotated[
        str | None,
        typer.Option("--corruptions", metavar="A,B", help="Only these; default: all 15.", show_default=False),
    ] = None,
    severities: Annotated[
        str | None,
        typer.Option("--severities", metavar="1,3", help="Only these; default: 1 to 5.", show_default=False),
    ] = None,
    workers: Workers = "auto",
    data_root: DataRoot = None,
) -> None:
    """Make a set like ImageNet-C of a task's validation images; it is not the official one."""
    from mae_bench import api

    made = api.data_corrupt(
        task,
        output,
        overrides or (),
        corruptions=_values(corruptions, "--corruptions"),
        severities=[_whole(text, "--severities") for text in _values(severities, "--severities") or ()]
        or None,
        workers=_number(workers),
        data_root=data_root,
    )
    typer.echo(made)


def _values(text: str | None, option: str) -> list[str] | None:
    """The values of a list with commas; None where none is given, which means all."""
    if text is None:
        return None
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise MaeBenchError(f"{option} {text}: should be values with commas between them")
    return values


def _whole(text: str, option: str) -> int:
    if not text.isdecimal():
        raise MaeBenchError(f"{option} {text}: should be a whole number")
    return int(text)


def _number(workers: str) -> int | Literal["auto"]:
    return "auto" if workers == "auto" else _whole(workers, "--workers")
