"""What a finished run must be to stand in a table: values at dotted paths of its result.

A layout asks the same few things of every run, and of thousands of runs most give the same answers. A
`RunIndex` keeps the runs by task and looks every path up once a run, for all tables that are built from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mae_bench.results import Result, StoredRun

_TASK, _METRICS = "task", "metrics"
_NOTHING: Mapping[str, Any] = {}


def lookup(result: Result, path: str) -> Any:
    """The value at a dotted path of a result; None if there is none."""
    value: Any = result
    for part in path.split("."):
        value = _below(value, part)
    return value


def _below(value: Any, part: str) -> Any:
    # A model keeps its fields in its dictionary, and asking what class it is of takes long.
    return value.get(part) if isinstance(value, dict) else getattr(value, "__dict__", _NOTHING).get(part)


def matches(result: Result, where: Mapping[str, Any]) -> bool:
    """Whether every dotted path of the result has the value, or fits the pattern, asked for."""
    return all(fits(lookup(result, path), wanted) for path, wanted in where.items())


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is the one wanted, fits the pattern, or one of a list of either.

    A list is matched as its items joined by commas.
    """
    if isinstance(wanted, list):
        return any(fits(value, one) for one in wanted)
    if isinstance(wanted, str) and value is not None:
        return fnmatchcase(as_text(value), wanted)
    return bool(value == wanted)


def as_text(value: Any) -> str:
    """A value as patterns see it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class RunIndex:
    """Runs by task, in the order in which they were given."""

    def __init__(self, runs: Iterable[StoredRun]) -> None:
        self._by_task: dict[str, list[StoredRun]] = {}
        self._places: dict[int, int] = {}
        for place, run in enumerate(runs):
            self._by_task.setdefault(run.result.task, []).append(run)
            self._places[id(run)] = place
        # (task, path) -> the values there of the runs of the task, as they are and as keys.
        self._found: dict[tuple[str, str], list[Any]] = {}
        self._columns: dict[tuple[str, str], list[Any]] = {}

    @classmethod
    def of(cls, runs: RunIndex | Iterable[StoredRun]) -> RunIndex:
        """The runs indexed, if they are not yet."""
        return runs if isinstance(runs, RunIndex) else cls(runs)

    def results(self, tasks: Iterable[str] | None = None) -> list[Result]:
        """The results of the runs of some tasks; None: of all runs."""
        chosen = self._by_task if tasks is None else dict.fromkeys(tasks)
        return [run.result for task in chosen for run in self._by_task.get(task, ())]

    def answers(
        self, tasks: Iterable[str], where: Sequence[str], name: Sequence[str]
    ) -> Iterator[tuple[StoredRun, tuple[Any, ...], tuple[Any, ...]]]:
        """The runs of some tasks, task by task, with their values at two lists of dotted paths.

        The values are in a form that can be a key; runs with equal ones look alike to who asks for no more.
        Before those of `where` stand the task and the names of the metrics.
        """
        for task in dict.fromkeys(tasks):
            if task in self._by_task:
                first = zip(*(self._column(task, path) for path in (_TASK, _METRICS, *where)), strict=True)
                second = zip(*(self._column(task, path) for path in (_TASK, *name)), strict=True)
                yield from zip(self._by_task[task], first, second, strict=True)

    def place(self, run: StoredRun) -> int:
        """The place of a run among those that were given."""
        return self._places[id(run)]

    def _column(self, task: str, path: str) -> list[Any]:
        """The values of all runs of a task at a path, hashable."""
        key = task, path
        if key not in self._columns:
            values = self._values(task, path)
            self._columns[key] = [*map(tuple, values)] if path == _METRICS else [*map(_hashable, values)]
        return self._columns[key]

    def _values(self, task: str, path: str) -> list[Any]:
        """The values of all runs of a task at a path; those above it are looked up once for all below."""
        key = task, path
        if key not in self._found:
            above, _, part = path.rpartition(".")
            values = self._values(task, above) if above else [run.result for run in self._by_task[task]]
            self._found[key] = [_below(value, part) for value in values]
        return self._found[key]


def _hashable(value: Any) -> Any:
    # 1, 1.0 and true are equal keys and different answers.
    if value is None or isinstance(value, str):
        return value
    return type(value).__name__, value if isinstance(value, int | float) else repr(value)
