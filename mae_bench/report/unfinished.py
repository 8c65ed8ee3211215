"""Runs that still go on, or were interrupted: what is known of them, for the curves they logged so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_bench import registry, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.figures.courses import LOG_FILE
from mae_bench.results import CONFIG_FILE, RunTree


@dataclass(frozen=True)
class UnfinishedRun:
    """A run folder with a log and no result yet."""

    folder: Path
    name: str
    task: str
    recipe: str
    backbone: str | None
    seed: str


def gather(tree: RunTree) -> tuple[list[UnfinishedRun], list[str]]:
    """The unfinished runs that logged something, and a sentence per configuration that cannot be read."""
    found, problems = [], []
    for name in tree.unfinished:
        folder = tree.root / name
        log = folder / LOG_FILE
        if not log.is_file() or not log.stat().st_size:
            continue
        try:
            found.append(_read(folder, name))
        except MaeBenchError as error:
            problems.append(str(error))
    return found, problems


def _read(folder: Path, name: str) -> UnfinishedRun:
    values = yamlfile.load(folder / CONFIG_FILE).values

    def told(key: str) -> str:
        return str(values.get(key, ""))

    backbone = told("backbone") if values.get("backbone") is not None else None
    return UnfinishedRun(folder, name, _task(told("task")), told("recipe"), backbone, told("seed"))


def _task(adapter: str) -> str:
    """What results call the task of an adapter; its own name where it is not installed here."""
    catalogue = registry.adapters()
    return str(catalogue.target(adapter).task) if adapter in catalogue.entries else adapter


def as_data(run: UnfinishedRun, backbone: int, dataset: int) -> dict[str, Any]:
    """The run as the page's program wants it.

    Args:
        backbone: its place in the pool of backbones.
        dataset: the same of data; where nothing is told stands null.
    """
    return {
        "name": run.name,
        "task": run.task,
        "recipe": run.recipe,
        "engine": None,
        "hash": "",
        "backbone": backbone,
        "dataset": dataset,
        "seed": run.seed,
        "unfinished": True,
    }
