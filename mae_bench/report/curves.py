"""The curves of runs, thinned out so that a page can hold those of thousands.

What `metrics.jsonl` logged is read by `mae_bench.figures.courses`. Of a longer curve the first and the last
point stay, and of every stretch between them the lowest and the highest, in their order: a spike of one step
survives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mae_bench.errors import MaeBenchError
from mae_bench.figures.courses import LOG_FILE, Course, read_run
from mae_bench.report.unfinished import UnfinishedRun
from mae_bench.results import MetricRecord, StoredRun

MOST_POINTS = 200
"""Points that a curve keeps."""
LEAST_POINTS = 40
# Runs up to which each curve keeps all its points; beyond it they share.
_FULL_RUNS = 1000


def thinned(steps: Sequence[float], values: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """At most `limit` points of a curve, with its ends and every peak of a stretch.

    Args:
        steps: (N,), rising.
        values: (N,), finite.
        limit: at least 4.
    """
    count = len(values)
    if count <= limit:
        return list(steps), list(values)
    stretches = (limit - 2) // 2
    kept = [0]
    for i in range(stretches):
        start = 1 + i * (count - 2) // stretches
        stop = 1 + (i + 1) * (count - 2) // stretches
        inside = range(start, stop)
        kept += sorted({min(inside, key=values.__getitem__), max(inside, key=values.__getitem__)})
    kept.append(count - 1)
    return [steps[i] for i in kept], [values[i] for i in kept]


def gather(
    runs: Sequence[StoredRun], going: Sequence[UnfinishedRun] = ()
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """The curves of all runs by task, the points that a curve keeps, and a sentence per log that is damaged.

    A task is ``{"task", "metrics": [{"key", "label", "unit"}], "runs": [{"run", "per_step", "curves"}]}``:
    `run` is the run's place in `runs` and, after them, `going`; `per_step` its epochs a step (null if not
    told), and `curves` has the steps and the values of each metric.
    """
    every: list[tuple[int, StoredRun | UnfinishedRun, str, Mapping[str, MetricRecord]]] = [
        (place, run, run.result.task, run.result.units) for place, run in enumerate(runs)
    ]
    every += [(place, run, run.task, {}) for place, run in enumerate(going, start=len(runs))]
    logged = [one for one in every if (one[1].folder / LOG_FILE).is_file()]
    limit = max(LEAST_POINTS, min(MOST_POINTS, MOST_POINTS * _FULL_RUNS // max(1, len(logged))))
    tasks: dict[str, dict[str, Any]] = {}
    problems = []
    for place, run, name, units in logged:
        try:
            course = read_run(run.folder, run.name)
        except MaeBenchError as error:
            problems.append(str(error))
            continue
        entry = _run_curves(place, course, limit)
        if not entry["curves"]:
            continue
        task = tasks.setdefault(name, {"task": name, "metrics": {}, "runs": []})
        task["runs"].append(entry)
        for key in entry["curves"]:
            task["metrics"].setdefault(key, _named(key, units))
    for task in tasks.values():
        task["metrics"] = list(task["metrics"].values())
    return [tasks[name] for name in sorted(tasks)], limit, problems


def _run_curves(place: int, course: Course, limit: int) -> dict[str, Any]:
    curves = {}
    for metric in course.values:
        steps, values = course.points(metric, "step")
        if steps:
            kept = thinned(steps, values, limit)
            curves[metric] = [[_short(step) for step in kept[0]], [_short(value) for value in kept[1]]]
    return {"run": place, "per_step": _epochs_per_step(course), "curves": curves}


def _epochs_per_step(course: Course) -> float | None:
    for points in course.values.values():
        for step, epoch, _ in reversed(points):
            if step and epoch is not None:
                return _short(epoch / step)
    return None


def _named(key: str, units: Mapping[str, MetricRecord]) -> dict[str, str]:
    """What a metric is called, and its unit; the run knows those that it was judged by."""
    known = units.get(key.removeprefix("eval.")) if key.startswith("eval.") else None
    if known is None:
        names = {"loss": "training loss", "lr": "learning rate", "images_per_s": "images per second",
                 "eval.loss": "evaluation loss"}  # fmt: skip
        return {"key": key, "label": names.get(key, key), "unit": ""}
    return {"key": key, "label": f"{known.label} (evaluation)", "unit": known.unit}


def _short(value: float) -> float:
    """Six digits, more than a screen can show; whole numbers without a point."""
    if type(value) is int:
        return value
    short = float(f"{value:.6g}")
    return int(value) if value == int(value) and abs(value) < 1e15 else short
