"""The command line: one verb, one command, one call of `mae_bench.api`.

What is heavy is imported inside the commands, so that help, `list` and every usage error answer at once.
"""

from __future__ import annotations

import errno
import signal
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mae_bench import cli_data, cli_results
from mae_bench.cli_options import DataRoot, Format, Overrides, Runs, Shelf, TableFormat
from mae_bench.errors import MaeBenchError

# Faults of the machine that a person can mend, told in one line as a bad value is.
_MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class _Verbs(TyperGroup):
    """The commands, with mistakes told in one clear statement instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MaeBenchError as error:
            # A run that was asked to stop has its own status, and is no error.
            _leave(str(error) if error.status > 128 else f"error: {error}", error.status)
        except OSError as error:
            if error.errno not in _MENDABLE:
                raise
            _leave(f"error: {error.strerror}: {error.filename}" if error.filename else f"error: {error}", 2)
        except KeyboardInterrupt:
            _leave("interrupted; the same command goes on from what is saved", 128 + signal.SIGINT)


def _leave(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status) from None


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pretrain masked autoencoders and measure how vision backbones transfer.",
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe (`list recipes`) or path of a YAML file.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of the run; default: the recipe's.", show_default=False)
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        metavar="N",
        min=1,
        help="Run N seeds one after the other, from --seed on, each in a folder of its own.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Run folder below --runs; default: made from the values.", show_default=False
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Start the run afresh; an earlier folder is moved aside, not deleted.")
]
BackboneSpec = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="SPEC",
        help="timm:NAME, hf:REPO, torchhub:REPO:ENTRY, file:PATH?arch=NAME, python:MODULE:FACTORY, "
        "random:ARCH, the folder of a pretraining run (for robustness: of a finished classification), or an "
        "alias (`list backbones`).",
        show_default=False,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="What trains: torchvision, mmdet or detectron2 for detection, native or mmseg for segmentation; "
        "default: the recipe's.",
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        from mae_bench import __version__

        typer.echo(f"mae-bench {__version__}")
        raise typer.Exit


@app.command("list")
def list_(
    what: Annotated[Shelf | None, typer.Argument(help="Only these.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show adapters, recipes, backbones and tables."""
    from mae_bench import listing

    typer.echo(listing.as_json(what) if json else listing.as_text(what))
    for problem in listing.problems():
        typer.echo(f"warning: {problem}", err=True)


@app.command()
def show(recipe: RecipeName, overrides: Overrides = None, engine: Engine = None) -> None:
    """Show where each value of a recipe comes from."""
    from mae_bench import recipe as recipes
    from mae_bench import roots

    resolved = recipes.resolve(recipe, overrides or (), engine=engine, named=roots.find().named)
    typer.echo(recipes.describe(resolved))


@app.command()
def check(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a recipe (`list recipes`) or path of a YAML file; none: --backbone alone.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    backbone: BackboneSpec = None,
    engine: Engine = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FILE", help="Save the whole load report, as JSON.", show_default=False
        ),
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = None,
) -> None:
    """Validate recipe, data and weights, or a backbone alone; train nothing."""
    from mae_bench import api

    lines = api.check(
        recipe,
        backbone,
        overrides or (),
        engine=engine,
        report=report,
        data_root=data_root,
        runs_root=runs,
    )
    for line in lines:
        typer.echo(line)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="A recipe of configs/pretrain.")],
    overrides: Overrides = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    name: Name = None,
    seed: Seed = None,
    seeds: Seeds = None,
    force: Force = False,
) -> None:
    """Pretrain a masked autoencoder, or resume it."""
    from mae_bench import api

    how: dict[str, Any] = {"data_root": data_root, "runs_root": runs}
    how |= {"seed": seed, "name": name, "force": force}
    if seeds is None:
        api.pretrain(recipe, overrides or (), **how)
    else:
        api.pretrain_seeds(recipe, overrides or (), seeds=seeds, **how)


@app.command()
def run(
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="A recipe of configs/tasks.")],
    overrides: Overrides = None,
    backbone: BackboneSpec = None,
    engine: Engine = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    name: Name = None,
    seed: Seed = None,
    seeds: Seeds = None,
    force: Force = False,
) -> None:
    """Run a downstream task on a backbone, or resume it."""
    from mae_bench import api

    how: dict[str, Any] = {"engine": engine, "data_root": data_root, "runs_root": runs}
    how |= {"seed": seed, "name": name, "force": force}
    if seeds is None:
        api.run(task, backbone, overrides or (), **how)
    else:
        api.run_seeds(task, backbone, overrides or (), seeds=seeds, **how)


@app.command()
def visualize(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Image files; none: validation images.", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many validation images.")] = 8,
    data_root: DataRoot = None,
) -> None:
    """Draw a run's pictures, such as reconstructions."""
    from mae_bench import api

    for path in api.visualize(folder, images or (), count, data_root=data_root):
        typer.echo(path)


@app.command()
def judge(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    data_root: DataRoot = None,
) -> None:
    """Judge a run's saved predictions again, without its model."""
    from mae_bench import api

    for name, value in api.judge(folder, data_root=data_root).items():
        typer.echo(f"{name:<16} {value:.4f}")


@app.command()
def demo(
    data_root: DataRoot = None,
    runs: Runs = None,
    format: TableFormat = Format.terminal,
    engines: Annotated[
        bool, typer.Option("--engines", help="Train detection and segmentation by every engine installed.")
    ] = False,
) -> None:
    """All of it in miniature; nothing to download."""
    from mae_bench import api

    report = api.demo(data_root=data_root, runs_root=runs, format=format, engines=engines)
    typer.echo(report.table)
    for path in report.pictures:
        typer.echo(path)


@app.command()
def suite(
    listed: Annotated[
        str, typer.Argument(metavar="LIST", help="A name (`list suites`), or the path of a list of runs.")
    ],
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="SPEC",
            help="For the runs that name none, as `run` takes it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    seed: Seed = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            help="N seeds, from --seed on, of each run that names none.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done and what is to do; run nothing.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--stop", help="Whether others go on after one that failed.")
    ] = True,
) -> None:
    """Make the runs of a list, one after the other; the same command goes on. Status 1 if one failed."""
    from mae_bench import api

    how: dict[str, Any] = {"data_root": data_root, "runs_root": runs, "seed": seed, "seeds": seeds}
    report = api.suite(listed, backbone or (), dry_run=dry_run, keep_going=keep_going, **how)
    typer.echo(report.as_text())
    if not report.ok:
        raise typer.Exit(1)


cli_results.add_to(app)
app.add_typer(cli_data.app, name="data")


def main() -> None:
    """Entry point of the console script `mae-bench`."""
    app()
