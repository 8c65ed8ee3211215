"""The course of a training run as numbers by step and epoch: of our runs, and of references to compare with.

What is logged in training keeps its name (``loss``, ``lr``); what is measured in an evaluation is
``eval.NAME`` (``eval.top1``).
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
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
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self.values.setdefault(metric, []).append((step, epoch, float(value)))

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
    course = Course(name or Path(folder).name)
    entries = list(_json_lines(path))
    per_step = _epochs_per_step(entries)
    for entry in entries:
        step = entry.get("step")
        epoch = entry.get("epoch", step * per_step if step is not None and per_step else None)
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
        epoch = entry.get("epoch")
        for theirs, ours in _OFFICIAL.items():
            if theirs in entry and isinstance(epoch, int | float):
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
        return float(text)
    except ValueError:
        raise MaeBenchError(f"{path}, line {line}: {name} is no number: '{text}'") from None


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with _opened(path) as file:
        lines = file.read().splitlines()
    for i, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
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


def _epochs_per_step(entries: Iterable[Mapping[str, Any]]) -> float | None:
    """From the latest entry that tells both; evaluations tell their step alone."""
    ratio = None
    for entry in entries:
        if entry.get("step") and isinstance(entry.get("epoch"), int | float):
            ratio = entry["epoch"] / entry["step"]
    return ratio
