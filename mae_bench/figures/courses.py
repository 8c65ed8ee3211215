"""The course of a training run as numbers by step and epoch: of our runs, and of references to compare with.

What is logged in training keeps its name (``loss``, ``lr``); what is measured in an evaluation is
``eval.NAME`` (``eval.top1``).
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_bench.errors import MaeBenchError

LOG_FILE = "metrics.jsonl"

# Names in the log of facebookresearch/mae (log.txt, a JSON object an epoch) -> ours.
_OFFICIAL = {
    "train_loss": "loss",
    "train_lr": "lr",
    "test_loss": "eval.loss",
    "test_acc1": "eval.top1",
    "test_acc5": "eval.top5",
}


@dataclass
class Course:
    """Metrics of one training run.

    Attributes:
        name: what a legend calls it.
        reference: whether it is something to compare with, rather than a run of ours.
        values: metric -> points (step, epoch, value) in the order of time; step or epoch is None where the
            log does not tell it.
    """

    name: str
    reference: bool = False
    values: dict[str, list[tuple[float | None, float | None, float]]] = field(default_factory=dict)

    def add(self, metric: str, step: float | None, epoch: float | None, value: Any) -> None:
        """Take a point; what is no finite number is no point."""
        number = _finite(value)
        if number is not None:
            self.values.setdefault(metric, []).append((step, epoch, float(number)))

    def points(self, metric: str, axis: str) -> tuple[list[float], list[float]]:
        """Places on the axis (``step`` or ``epoch``) and values; empty if the log does not tell them."""
        at = 0 if axis == "step" else 1
        placed = [
            (place, point[2]) for point in self.values.get(metric, []) if (place := point[at]) is not None
        ]
        return [place for place, _ in placed], [value for _, value in placed]


def read_run(folder: str | os.PathLike[str], name: str | None = None) -> Course:
    """The course of a run, finished or not, from its `metrics.jsonl`.

    A half-written last line, as a killed process leaves it, is no fault.

    Raises:
        MaeBenchError: no such folder, nothing logged in it, or a damaged line before the last.
    """
    path = Path(folder) / LOG_FILE
    if Path(folder).is_dir() and not path.exists():
        raise MaeBenchError(
            f"{folder} holds no {LOG_FILE}: it is no run folder, or a run that trains nothing"
        )
    course = Course(name or Path(folder).name)
    entries = _json_lines(path)
    per_step = _epochs_per_step(entries)
    for entry in entries:
        step, epoch = _finite(entry.get("step")), _finite(entry.get("epoch"))
        if epoch is None and step is not None and per_step:
            epoch = step * per_step
        for metric, value in entry.items():
            if metric == "eval" and isinstance(value, Mapping):
                for inner, number in value.items():
                    course.add(f"eval.{inner}", step, epoch, number)
            elif metric not in ("step", "epoch"):
                course.add(metric, step, epoch, value)
    if not course.values:
        raise MaeBenchError(f"{path} holds no numbers: the run has trained nothing, or not logged yet")
    return course


def read_reference(path: str | os.PathLike[str]) -> Course:
    """A curve to compare with: another run's folder, a log of facebookresearch/mae, or a CSV file.

    A CSV file has a header with ``step`` or ``epoch`` and any of our names of metrics (``loss``,
    ``eval.top1``); empty fields are no points. The log (log.txt) counts epochs from 0 and is written at the
    end of each, so that its first line stands at epoch 1.

    Raises:
        MaeBenchError: none of these, or it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        course = read_run(file)
    elif file.suffix.lower() == ".csv":
        course = _read_csv(file)
    else:
        course = _read_official(file)
    course.reference = True
    return course


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders: two, or as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return ["/".join(part) for part in parts]


def _read_official(path: Path) -> Course:
    course = Course(path.stem if path.stem != "log" else f"{path.parent.name}/{path.name}")
    for entry in _json_lines(path):
        epoch = _finite(entry.get("epoch"))
        for theirs, ours in _OFFICIAL.items():
            if theirs in entry and epoch is not None:
                course.add(ours, None, epoch + 1.0, entry[theirs])
    if not course.values:
        raise MaeBenchError(
            f"{path} is no reference curve: give a run folder, a log.txt of facebookresearch/mae "
            f"(with epoch and any of {', '.join(_OFFICIAL)}), or a .csv file"
        )
    return course


def _read_csv(path: Path) -> Course:
    course = Course(path.stem)
    with _opened(path) as file:
        rows = csv.DictReader(file)
        names = [name for name in rows.fieldnames or [] if name]
        places = {"step", "epoch"} & set(names)
        if not places or len(names) == len(places):
            raise MaeBenchError(
                f"{path}: a reference curve has a column 'step' or 'epoch' and at least one of a metric; "
                f"its header is {', '.join(names) or 'empty'}"
            )
        for row in rows:
            at = {place: _number(path, rows.line_num, place, row.get(place)) for place in places}
            for name in names:
                value = None if name in places else _number(path, rows.line_num, name, row.get(name))
                if value is not None:
                    course.add(name, at.get("step"), at.get("epoch"), value)
    return course


def _number(path: Path, line: int, name: str, text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        return _finite(float(text))
    except ValueError:
        raise MaeBenchError(f"{path}, line {line}: {name} is no number: '{text}'") from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    with _opened(path) as file:
        lines = file.read().splitlines()
    # All at once is several times as fast, where nothing is wrong.
    try:
        entries = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        entries = []
    if len(entries) == len(lines):
        return [entry for entry in entries if isinstance(entry, dict)]
    return list(_line_by_line(path, lines))


def _line_by_line(path: Path, lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if i == len(lines):
                return  # what a killed process left of its last line
            raise MaeBenchError(f"{path}, line {i}: not a line of JSON") from None
        if isinstance(entry, dict):
            yield entry


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8", errors="replace", newline="")
    except FileNotFoundError:
        raise MaeBenchError(f"{path}: there is no such file") from None
    except OSError as error:
        raise MaeBenchError(f"{path} cannot be read: {error.strerror or error}") from error


def _epochs_per_step(entries: Sequence[Mapping[str, Any]]) -> float | None:
    """From the latest entry that tells both; evaluations tell their step alone."""
    for entry in reversed(entries):
        step, epoch = _finite(entry.get("step")), _finite(entry.get("epoch"))
        if step and epoch is not None:
            return epoch / step
    return None


def _finite(value: Any) -> float | None:
    """The number, if it is one that has a place in a figure."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    # Larger whole numbers than these have no place among floats.
    return value if type(value) is int and abs(value) < 2**1000 else None
