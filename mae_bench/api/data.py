"""What is known of data, and what is done with it, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mae_bench import roots
from mae_bench.files import PathLike

if TYPE_CHECKING:
    from mae_bench.auditing import Report
    from mae_bench.datacheck import Fingerprint
    from mae_bench.whereabouts import Whereabouts


def data_check(
    task: str,
    overrides: Sequence[str] = (),
    *,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    report: PathLike | None = None,
    workers: int | Literal["auto"] = "auto",
    quick: bool = False,
) -> Report:
    """Read all data of a task and say what is wrong with it (docs/data-check.md).

    What has been read already is not read again as long as it does not change.

    Args:
        task: a recipe's name, or the path of a YAML file; it needs no backbone here.
        report: file for the whole report, as JSON; None: ``.mae-bench/TASK.json`` in the data root, or in the
            runs folder where data cannot be written.
        workers: processes that read; 0: this one.
        quick: lists and counts only; no image is read.

    Returns:
        Findings and counts; its ``ok`` says whether nothing is wrong.

    Raises:
        MaeBenchError: no such task, or one whose data cannot be checked.
    """
    from mae_bench import datacheck

    places = roots.find(data_root, runs_root)
    return datacheck.check(task, overrides, places, report=report, workers=workers, quick=quick)


def data_where(*names: str, data_root: PathLike | None = None) -> list[Whereabouts]:
    """Where the data of recipes, YAML files or datasets is expected, if it is there, and what is known of it.

    Args:
        names: none: all datasets that something is known of.
    """
    from mae_bench import whereabouts

    return whereabouts.find(names, roots.find(data_root))


def data_fingerprint(
    task: str, overrides: Sequence[str] = (), *, data_root: PathLike | None = None
) -> Fingerprint:
    """The digest of a task's data that its results carry as ``dataset.fingerprint``; no image is read.

    Raises:
        MaeBenchError: not all of the data can be opened.
    """
    from mae_bench import datacheck

    return datacheck.fingerprint(task, overrides, roots.find(data_root))


def data_corrupt(
    task: str,
    output: PathLike,
    overrides: Sequence[str] = (),
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    workers: int | Literal["auto"] = "auto",
    data_root: PathLike | None = None,
) -> str:
    """Make a set like ImageNet-C of a task's validation images, or go on making it; returns its folder.

    Images are resized and cut as the recipe evaluates them. The set is not the official one, and says so.

    Args:
        output: folder to make.
        corruptions: names; None: all 15 that count in mCE.
        severities: numbers from 1 to 5; None: all.

    Raises:
        MaeBenchError: the library that corrupts is not installed, a value is out of range, or the folder
            holds something else.
    """
    from mae_bench import datacheck

    places = roots.find(data_root)
    made = datacheck.corrupt(
        task, output, overrides, places, corruptions=corruptions, severities=severities, workers=workers
    )
    return str(made)
