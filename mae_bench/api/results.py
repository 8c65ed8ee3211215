"""What is made of finished runs, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mae_bench import roots
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike

if TYPE_CHECKING:
    import pandas as pd

    from mae_bench.importing.from_wandb import Imported
    from mae_bench.tables.views import View
    from mae_bench.tracing.findings import Audit


def table(
    table_id: str,
    *,
    runs_root: PathLike | None = None,
    format: str | None = None,
    view: View | None = None,
    output: PathLike | None = None,
) -> str:
    """A table of the catalogue (`mae-table3`, ...) with the finished runs below `runs_root` in it.

    Args:
        table_id: a table's name, or the path of a layout file.
        format: ``terminal``, ``markdown``, ``latex``, ``csv``, ``html`` or ``json``; None: what the ending of
            `output` says, else ``markdown``.
        view: which part is shown, and how (docs/tables.md); None: all of it.
        output: file to write the table into.

    Returns:
        The table, or the path of `output`.

    Raises:
        MaeBenchError: no such table or format, a faulty layout, or a view that asks for what is not there.
    """
    from mae_bench import screen, tables
    from mae_bench.tables import files

    made = tables.make_table(table_id, roots.find(runs=runs_root).runs, view)
    for problem in made.problems:
        screen.warn(problem)
    return files.deliver(made, format, output, "markdown")


def all_tables(
    *,
    runs_root: PathLike | None = None,
    format: str | None = None,
    view: View | None = None,
    output: PathLike | None = None,
) -> str:
    """Every table of the catalogue in which runs of ours stand; else as `table`.

    Args:
        output: a file for all of them, or a folder that gets a file for each.
    """
    from mae_bench import screen, tables
    from mae_bench.tables import files

    made = tables.all_tables(roots.find(runs=runs_root).runs, view)
    for problem in (problem for one in made for problem in one.problems):
        screen.warn(problem)
    return files.deliver_all(made, format, output, "markdown")


def push_table(
    table_id: str, project: str, *, runs_root: PathLike | None = None, view: View | None = None
) -> str:
    """Send a table to wandb as a table; returns the address of the run that holds it.

    Args:
        project: ``ENTITY/PROJECT``.

    Raises:
        MaeBenchError: as `table`; wandb is not installed, nobody is logged in, or it cannot be reached.
    """
    from mae_bench import tables, tracking

    places = roots.find(runs=runs_root)
    return tracking.push_table(tables.make_table(table_id, places.runs, view), project, folder=places.runs)


def audit(
    tables: Sequence[str] = (),
    *,
    runs_root: PathLike | None = None,
    data_root: PathLike | None = None,
    save: PathLike | None = None,
) -> Audit:
    """What the numbers of tables stand on, what changed since, and what would fill their empty cells.

    Args:
        tables: names, or paths of layouts; none: all tables that come with mae-bench.
        save: file for the list of runs that are due, which `suite` takes; nothing is written if none is.

    Returns:
        Its ``ok`` says whether nothing is stale (docs/audit.md).

    Raises:
        MaeBenchError: no such table, a faulty layout, or the list cannot be written.
    """
    from mae_bench import runlist, screen
    from mae_bench.tracing.audit import audit as look

    places = roots.find(data_root, runs_root)
    found = look(tables, places, None if runs_root is None else str(runs_root))
    if save is not None and found.entries():
        about = ", ".join(tables) or "all tables"
        screen.say(f"saved in {runlist.write(save, found.entries(), f'what is due for {about}')}")
    elif save is not None:
        screen.say(f"{save} is not written: no run is due")
    return found


def figure(
    table_id: str, output: PathLike, *, runs_root: PathLike | None = None, view: View | None = None
) -> str:
    """Draw a table that has a figure (`mae-fig9`, ...) into `output`, a .png, .svg or .pdf; returns its path.

    Args:
        view: which part is drawn; None: all of it.

    Raises:
        MaeBenchError: no such table, one without a figure, an unknown ending, or a view with what no figure
            shows.
    """
    from mae_bench import figures, tables

    if view is not None and (view.intervals or view.delta is not None):
        asked = "--intervals" if view.intervals else "--delta"
        raise MaeBenchError(f"a figure shows no sampling errors and no differences: leave {asked} away")
    made = tables.make_table(table_id, roots.find(runs=runs_root).runs, view)
    return str(figures.draw(made, output))


def load_results(runs_root: PathLike | None = None) -> pd.DataFrame:
    """Every finished run below `runs_root`, one row a run; see `mae_bench.exporting.load_results`."""
    from mae_bench.exporting import load_results as load

    return load(roots.find(runs=runs_root).runs)


def draw_curves(
    runs: Sequence[PathLike],
    output: PathLike,
    *,
    metrics: Sequence[str] = (),
    references: Sequence[PathLike] = (),
    axis: Literal["step", "epoch"] | None = None,
) -> str:
    """Draw the learning curves of run folders into `output`; returns its path.

    Arguments and errors: see `mae_bench.figures.of_runs.draw_curves`.
    """
    from mae_bench import figures

    return str(figures.draw_curves(runs, output, metrics=metrics, references=references, axis=axis))


def draw_classes(runs: Sequence[PathLike], output: PathLike, *, metric: str | None = None) -> str:
    """Draw a score of each class, of run folders side by side, into `output`; returns its path.

    Arguments and errors: see `mae_bench.figures.of_classes.draw_classes`.
    """
    from mae_bench import figures

    return str(figures.draw_classes(runs, output, metric=metric))


def compare(
    runs: Sequence[PathLike],
    *,
    metrics: Sequence[str] = (),
    baseline: PathLike | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    runs_root: PathLike | None = None,
    format: str = "markdown",
) -> str:
    """Whether finished runs differ on the images they were judged on: differences, intervals and tests.

    Arguments and errors: see `mae_bench.comparing.compare`, which gives the numbers themselves.
    """
    from mae_bench import comparing

    report = comparing.compare(
        runs,
        roots.find(runs=runs_root).runs,
        metrics=metrics,
        baseline=baseline,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    return comparing.render(report, format)


def report(
    output: PathLike = "report.html",
    *,
    runs_root: PathLike | None = None,
    pictures: int = 60,
    max_mb: float = 20.0,
    intervals: bool = False,
) -> str:
    """Write one self-contained HTML page with all runs below `runs_root` into `output`; returns its path.

    Args:
        pictures: how many of the pictures that runs drew are embedded at most.
        max_mb: megabytes that these may take.
        intervals: whether the sampling error of our numbers is worked out, from the outcomes that runs saved.

    Raises:
        MaeBenchError: `output` does not end in .html or cannot be written, or a limit is below zero.
    """
    from mae_bench.report import Limits, write

    limits = Limits(pictures, max_mb)
    return str(write(roots.find(runs=runs_root).runs, output, limits, intervals=intervals))


def export_results(output: PathLike, *, runs_root: PathLike | None = None, long: bool = False) -> str:
    """Write everything about every finished run below `runs_root` into a .csv or .parquet file.

    Folders that cannot be read are named in warnings and left out. docs/results.md describes the columns.

    Args:
        long: one row for each metric of each run instead of one row a run.

    Returns:
        The path of the file.

    Raises:
        MaeBenchError: another ending, no such runs folder, pyarrow is not there (parquet), or it cannot be
            written.
    """
    from mae_bench import exporting, screen
    from mae_bench.results import scan

    root = roots.find(runs=runs_root).runs
    if not root.is_dir():
        raise MaeBenchError(f"{root}: there is no such folder of runs; name it with --runs")
    tree = scan(root)
    written = exporting.write(output, tree, long=long)
    for problem in tree.problems:
        screen.warn(problem)
    screen.say(f"{len(tree.runs)} finished runs of {root}")
    return str(written)


def import_wandb(
    project: str,
    mapping: PathLike | None = None,
    *,
    runs_root: PathLike | None = None,
    force: bool = False,
) -> Imported:
    """Make run folders of the runs of a project on Weights & Biases; see docs/wandb.md.

    What was imported before stays as it is. A run that does not fit is named in a warning.

    Args:
        project: ``ENTITY/PROJECT``.
        mapping: a YAML file that says what the names there mean; None takes what mae-bench logged itself.
        force: write folders of earlier imports anew.

    Raises:
        MaeBenchError: a faulty mapping, no such project, nobody is logged in, or wandb does not answer.
    """
    from mae_bench import screen
    from mae_bench.importing.from_wandb import import_project

    done = import_project(project, mapping, roots.find(runs=runs_root).runs, force=force)
    for skipped in done.skipped:
        screen.warn(f"skipped: {skipped}")
    return done
