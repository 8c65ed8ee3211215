"""AP, IoU or accuracy class by class, of one run or of several side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError, near
from mae_bench.figures.courses import short_names
from mae_bench.figures.style import COLORS, MARKERS, Legend, format_of, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scores of a class that are no per cent, and so have no place on the axis.
_COUNTS = ("pixels", "images")
_MOST_ROWS = 60


def draw_classes(
    runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, metric: str | None = None
) -> Path:
    """Draw a score of each class, the best of the first run on top.

    Args:
        runs: folders of finished runs on the same classes.
        output: file to write; its ending says the format.
        metric: ``box_ap``, ``mask_ap``, ``iou``, ... as in `details.per_class` of the results; None: the
            first.

    Raises:
        MaeBenchError: a run has no scores of classes, or the runs have different classes.
    """
    format_of(output)
    if not runs:
        raise MaeBenchError("name at least one run folder whose classes are to be drawn")
    folders = [Path(run) for run in runs]
    scores = [_per_class(folder) for folder in folders]
    for folder, own in zip(folders[1:], scores[1:], strict=True):
        if own.keys() != scores[0].keys():
            raise MaeBenchError(f"{folder} has other classes than {folders[0]}; draw them apart")
    known = [name for name in next(iter(scores[0].values())) if name not in _COUNTS]
    chosen = metric or known[0]
    if chosen not in known:
        raise MaeBenchError(f"classes have no '{chosen}'{near(chosen, known)} (known: {', '.join(known)})")
    return save(lambda: _figure(scores, short_names(folders), chosen), output)


def _per_class(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    from mae_bench.results import read_result

    found = read_result(folder).details.get("per_class")
    if not found:
        raise MaeBenchError(f"{folder} has no scores of single classes; detection and segmentation have them")
    return found


def _figure(scores: Sequence[Mapping[str, Mapping[str, Any]]], names: Sequence[str], metric: str) -> Figure:
    from matplotlib.figure import Figure

    def of_first(name: str) -> float:
        value = scores[0][name].get(metric)
        return -1.0 if value is None else float(value)

    classes = sorted(scores[0], key=lambda name: (-of_first(name), name))
    columns = -(-len(classes) // _MOST_ROWS)
    rows = -(-len(classes) // columns)
    legend = Legend(names)
    figure = Figure(figsize=(1.0 + 5.5 * columns, 1.0 + 0.2 * rows + legend.height), layout="constrained")
    grid = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for place, axes in enumerate(grid):
        here = classes[place * rows : (place + 1) * rows]
        for i, own in enumerate(scores):
            points = [(own[name].get(metric), at) for at, name in enumerate(here)]
            axes.plot(
                [value for value, _ in points if value is not None],
                [at for value, at in points if value is not None],
                label=plain(names[i]),
                color=COLORS[i % len(COLORS)],
                marker=MARKERS[(i + i // len(COLORS)) % len(MARKERS)],
                markersize=5,
                linestyle="none",
            )
        axes.set_yticks(range(len(here)), labels=[plain(name) for name in here], fontsize=7)
        axes.set_ylim(len(here) - 0.5, -0.5)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(plain(f"{_words(metric)} (%)"))
    legend.put(figure, grid[0].lines)
    return figure


def _words(metric: str) -> str:
    """``box AP50`` of ``box_ap50``."""
    return " ".join(
        part.upper() if part.startswith(("ap", "ar")) else part.replace("iou", "IoU")
        for part in metric.split("_")
    )
