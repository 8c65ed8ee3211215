"""From what a person names to the sides of a comparison: finished runs, those of several seeds as one side.

Runs are of one side if they differ in their seed alone: the same task, settings, weights and data. Texts that
name runs come from a person or from folders, so they are shown as they are and never read as anything else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_bench import departures, registry, screen, settings
from mae_bench.errors import MaeBenchError, near
from mae_bench.results import CONFIG_FILE, IMPORTED_KEY, RESULT_FILE, Result, StoredRun, read_result, scan
from mae_bench.tables.rows import identity, recipe_name, short_backbone

_SHORT = 8
# Settings in a side's name; what else differs is said below the table.
_FEW = 3


@dataclass(frozen=True, eq=False)
class Side:
    """What is compared: one training, done with one seed or with several."""

    label: str
    runs: tuple[StoredRun, ...]
    """One a seed, ordered by seed."""
    superseded: tuple[StoredRun, ...] = ()
    """Earlier runs of a seed that was run again; they do not count."""

    @property
    def result(self) -> Result:
        """That of any run: they differ in nothing that is said of the side."""
        return self.runs[0].result

    def values(self, metric: str) -> list[float]:
        """The metric of each seed."""
        return [run.result.metrics[metric] for run in self.runs]


def find_runs(named: Sequence[str | os.PathLike[str]], runs_root: Path) -> list[StoredRun]:
    """The finished runs that are named, in order.

    Args:
        named: run folders, or folders that hold several, as they are or below `runs_root`.

    Raises:
        MaeBenchError: there is no such folder, no finished run in it, or a run is named twice.
    """
    found: dict[Path, StoredRun] = {}
    for text in named:
        for run in _runs_at(_folder(text, runs_root), os.fspath(text), runs_root):
            place = run.folder.resolve()
            if place in found:
                raise MaeBenchError(f"the run {run.name} is named twice; name each run once")
            found[place] = run
    return list(found.values())


def into_sides(runs: Iterable[StoredRun]) -> list[Side]:
    """Runs by what they are of, in the order in which they come; each side has a name of its own.

    The latest run of a seed counts.
    """
    alike: dict[tuple[Any, ...], list[StoredRun]] = {}
    for run in runs:
        alike.setdefault(_kind(run.result), []).append(run)
    sides = []
    for members in alike.values():
        latest: dict[int, StoredRun] = {}
        for run in sorted(members, key=lambda run: (run.result.finished, run.name)):
            latest[run.result.seed] = run
        counted = tuple(latest[seed] for seed in sorted(latest))
        sides.append(Side("", counted, tuple(run for run in members if run not in counted)))
    labels = _labels(sides)
    return [Side(label, side.runs, side.superseded) for label, side in zip(labels, sides, strict=True)]


def settings_apart(sides: Sequence[Side]) -> list[list[str]]:
    """For each side, in words, the settings in which not all of them are alike: ``100 epochs``."""
    flat = [_deciding(side.result) for side in sides]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    changed = [key for key in keys if any(values.get(key) != flat[0].get(key) for values in flat)]
    return [departures.settings({key: values.get(key) for key in changed}) for values in flat]


# ---------------------------------------------------------------- folders


def _folder(text: str | os.PathLike[str], runs_root: Path) -> Path:
    for folder in (Path(text), runs_root / text):
        if folder.is_file() and folder.name == RESULT_FILE:
            return folder.parent
        if folder.is_dir():
            return folder
    known = {name for run in scan(runs_root).runs for name in _with_parents(run.name)}
    raise MaeBenchError(
        f"there is no folder '{os.fspath(text)}' here or in {runs_root}{near(os.fspath(text), known)}"
    )


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def _runs_at(folder: Path, text: str, runs_root: Path) -> list[StoredRun]:
    if (folder / RESULT_FILE).exists():
        return [StoredRun(folder, _name(folder, text, runs_root), read_result(folder))]
    if (folder / CONFIG_FILE).exists():
        raise MaeBenchError(f"{folder} is not finished; the command that began it goes on with it")
    tree = scan(folder)
    for problem in tree.problems:
        screen.warn(problem)
    if not tree.runs:
        unfinished = f", only unfinished ones ({', '.join(tree.unfinished[:3])})" if tree.unfinished else ""
        raise MaeBenchError(f"{folder} holds no finished run{unfinished}; name the folder of a run")
    return [StoredRun(run.folder, _name(run.folder, run.name, runs_root), run.result) for run in tree.runs]


def _name(folder: Path, text: str, runs_root: Path) -> str:
    """Relative to the runs root, if it lies there."""
    here, root = folder.resolve(), runs_root.resolve()
    return here.relative_to(root).as_posix() if here.is_relative_to(root) else text


# ---------------------------------------------------------------- what tells sides apart


def _kind(result: Result) -> tuple[Any, ...]:
    data = result.dataset.fingerprint if result.dataset else ""
    imported = any(entry.key == IMPORTED_KEY for entry in result.deviations)
    return result.task, result.engine, result.recipe_hash, identity(result), data, imported


def _deciding(result: Result) -> dict[str, Any]:
    """Dotted path -> value of the settings that decide what is computed."""
    adapter = registry.adapters().target(str(result.config.get("task")))
    without = settings.marked_paths(adapter.Config, "runtime")
    return {
        path: value
        for path, value in settings.flatten(result.config).items()
        if not any(path == entry or path.startswith(entry + ".") for entry in without)
    }


def _labels(sides: Sequence[Side]) -> list[str]:
    """The backbone of each; where that is not its alone, with what tells it from the others of the name."""
    labels = [short_backbone(side.result) for side in sides]
    for words_of in (_weights, _settings, _recipe, _place):
        alike: dict[str, list[int]] = {}
        for at, label in enumerate(labels):
            alike.setdefault(label, []).append(at)
        for members in alike.values():
            if len(members) > 1:
                for at, words in zip(members, words_of([sides[at] for at in members]), strict=True):
                    labels[at] += f", {words}" if words else ""
    return labels


def _weights(sides: Sequence[Side]) -> list[str]:
    digests = [identity(side.result) for side in sides]
    if len(set(digests)) == 1:
        return ["" for _ in sides]
    return [f"weights {digest[:_SHORT]}" for digest in digests]


def _settings(sides: Sequence[Side]) -> list[str]:
    return [", ".join(words[:_FEW]) for words in settings_apart(sides)]


def _recipe(sides: Sequence[Side]) -> list[str]:
    names = [recipe_name(side.result) for side in sides]
    return names if len(set(names)) > 1 else ["" for _ in sides]


def _place(sides: Sequence[Side]) -> list[str]:
    return [side.runs[0].name for side in sides]
