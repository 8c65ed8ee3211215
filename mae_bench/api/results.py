"""What is made of finished runs, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mae_bench import roots
from mae_bench.files import PathLike

if TYPE_CHECKING:
    import pandas as pd


def table(table_id: str, *, runs_root: PathLike | None = None, format: str = "markdown") -> str:
    """A table of the catalogue (`mae-table3`, ...) with the finished runs below `runs_root` in it.

    Args:
        table_id: a table's name, or the path of a layout file.
        format: ``terminal``, ``markdown``, ``latex`` or ``csv``.

    Raises:
        MaeBenchError: no such table or format, or a faulty layout.
    """
    from mae_bench import tables

    return tables.render_table(table_id, roots.find(runs=runs_root).runs, format)


def figure(table_id: str, output: PathLike, *, runs_root: PathLike | None = None) -> str:
    """Draw a table that has a figure (`mae-fig9`, ...) into `output`, a .png, .svg or .pdf; returns its path.

    Raises:
        MaeBenchError: no such table, one without a figure, or an unknown ending.
    """
    from mae_bench import figures

    return str(figures.draw_table(table_id, roots.find(runs=runs_root).runs, output))


def load_results(runs_root: PathLike | None = None) -> pd.DataFrame:
    """Every finished run below `runs_root`, one row a run; see `mae_bench.results.load_results`."""
    from mae_bench.results import load_results as load

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
