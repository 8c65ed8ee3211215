"""Learning curves: the course of runs, over each other and over references, a panel per metric."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae_bench import screen
from mae_bench.errors import MaeBenchError, near
from mae_bench.figures.courses import Course, read_reference, read_run, short_names
from mae_bench.figures.style import COLORS, DASHES, WIDTH, Legend, format_of, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mae_bench.results import Result

Axis = Literal["step", "epoch"]

_MOST_PANELS = 4
_PANEL_HEIGHT = 2.6  # inches


@dataclass(frozen=True)
class Published:
    """A number that a run's recipe names as published, drawn as a level line."""

    metric: str
    value: float
    source: str


def draw_curves(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = (),
    references: Sequence[str | os.PathLike[str]] = (),
    axis: Axis | None = None,
) -> Path:
    """Draw the learning curves of runs, finished or not.

    Args:
        runs: run folders.
        output: file to write; its ending says the format.
        metrics: names in `metrics.jsonl`, ``eval.NAME`` (or NAME alone) for evaluations; none: the training
            loss and what is evaluated first.
        references: curves to compare with, see `mae_bench.figures.courses.read_reference`.
        axis: None: epochs, or steps where a curve does not tell its epochs.

    Raises:
        MaeBenchError: a run logged nothing, no curve has a metric, or a curve cannot be placed on the axis.
    """
    format_of(output)
    if not runs:
        raise MaeBenchError("name at least one run folder whose curves are to be drawn")
    if len(runs) > len(COLORS) * len(DASHES):
        screen.warn(f"{len(runs)} curves: colours and dashes repeat after {len(COLORS) * len(DASHES)}")
    names = short_names([Path(run) for run in runs])
    courses = [read_run(run, name) for run, name in zip(runs, names, strict=True)]
    courses += _references([Path(reference) for reference in references])
    shown = _metrics(courses, metrics)
    along = axis or _common_axis(courses, shown)
    for course in courses:
        _placed(course, shown, along)
    results = [result for run in runs if (result := _result(Path(run))) is not None]
    published = [level for result in results for level in _published(result)]
    labels = {
        f"eval.{name}": f"{unit.label} ({unit.unit})" if unit.unit else unit.label
        for result in results
        for name, unit in result.units.items()
    }
    return save(lambda: _figure(courses, shown, along, published, labels), output)


def _references(paths: Sequence[Path]) -> list[Course]:
    """The curves to compare with; what would be called the same gets as much of its path as it takes."""
    courses = [read_reference(path) for path in paths]
    called = [course.name for course in courses]
    if len(set(called)) < len(called):
        for course, name in zip(courses, short_names(paths), strict=True):
            course.name = name
    return courses


def _metrics(courses: Sequence[Course], asked: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(name for course in courses for name in course.values))
    if not asked:
        evaluated = [name for name in known if name.startswith("eval.") and name != "eval.loss"]
        return [name for name in ("loss", *evaluated[:1]) if name in known] or known[:1]
    found = []
    for name in asked:
        match = next((known_name for known_name in (name, f"eval.{name}") if known_name in known), None)
        if match is None:
            raise MaeBenchError(f"no curve has '{name}'{near(name, known)} (known: {', '.join(known)})")
        found.append(match)
    if len(found) > _MOST_PANELS:
        raise MaeBenchError(f"{len(found)} metrics are too many for one figure; at most {_MOST_PANELS}")
    return list(dict.fromkeys(found))


def _common_axis(courses: Sequence[Course], metrics: Sequence[str]) -> Axis:
    has_epochs = all(
        course.points(name, "epoch")[0] for course in courses for name in metrics if name in course.values
    )
    return "epoch" if has_epochs else "step"


def _placed(course: Course, metrics: Sequence[str], axis: Axis) -> None:
    for name in metrics:
        if name in course.values and not course.points(name, axis)[0]:
            other = "epoch" if axis == "step" else "step"
            raise MaeBenchError(f"{course.name} does not tell the {axis} of {name}; use --axis {other}")


def _result(folder: Path) -> Result | None:
    """Of a run that is finished."""
    from mae_bench.results import RESULT_FILE, read_result

    return read_result(folder) if (folder / RESULT_FILE).exists() else None


def _published(result: Result) -> list[Published]:
    """What the run's recipe names as published, if it departs from the protocol in nothing."""
    if result.deviations:
        return []
    return [
        Published(entry["metric"], float(entry["value"]), str(entry["source"]))
        for entry in result.config.get("expected") or []
        if entry["metric"] in result.metrics
    ]


def _figure(
    courses: Sequence[Course],
    metrics: Sequence[str],
    axis: Axis,
    published: Sequence[Published],
    labels: Mapping[str, str],
) -> Figure:
    from matplotlib.figure import Figure

    drawn = [
        i for i, course in enumerate(courses) if any(course.points(metric, axis)[0] for metric in metrics)
    ]
    levels = [level for level in dict.fromkeys(published) if f"eval.{level.metric}" in metrics]
    names = [_name(courses[i]) for i in drawn] + [_level_name(level) for level in levels]
    legend = Legend(names)
    figure = Figure(figsize=(WIDTH, 0.5 + _PANEL_HEIGHT * len(metrics) + legend.height), layout="constrained")
    grid = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    curves: dict[int, Any] = {}
    level_lines: dict[Published, Any] = {}
    for axes, metric in zip(grid, metrics, strict=True):
        for i in drawn:
            for line in _curve(axes, courses[i], i, metric, axis):
                curves.setdefault(i, line)
        for level in levels:
            if metric == f"eval.{level.metric}":
                level_lines[level] = _level(axes, level)
        axes.set_ylabel(plain(labels.get(metric, metric.removeprefix("eval."))))
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    grid[-1].set_xlabel({"step": "Step", "epoch": "Epoch"}[axis])
    legend.put(figure, [curves[i] for i in drawn] + [level_lines[level] for level in levels])
    return figure


def _name(course: Course) -> str:
    return f"{course.name} (reference)" if course.reference else course.name


def _level_name(level: Published) -> str:
    return f"published {level.value:g}: {level.source}"


def _curve(axes: Axes, course: Course, index: int, metric: str, axis: Axis) -> Sequence[Any]:
    """The lines that were drawn: one, or none without points."""
    places, values = course.points(metric, axis)
    if not places:
        return []
    color = "0.35" if course.reference else COLORS[index % len(COLORS)]
    turn = index // len(COLORS) if not course.reference else index
    return axes.plot(
        places,
        values,
        label=plain(_name(course)),
        color=color,
        linestyle=DASHES[(turn + (1 if course.reference else 0)) % len(DASHES)],
        linewidth=1.4,
        # A few evaluations are points, not a course.
        marker="o" if len(places) < 25 else None,
        markersize=4,
    )


def _level(axes: Axes, level: Published) -> Any:
    return axes.axhline(
        level.value, color="0.2", linestyle=":", linewidth=1.2, label=plain(_level_name(level))
    )
