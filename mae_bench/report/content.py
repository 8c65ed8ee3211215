"""Runs and tables as plain values, for the page to show.

What many runs have in common (departures, dataset, backbone, hardware, versions) stands once, in a pool, and
each run names its place there: 5,000 runs of a few recipes stay a few megabytes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_bench import departures, resources
from mae_bench.render import as_data
from mae_bench.report import unfinished
from mae_bench.report.unfinished import UnfinishedRun
from mae_bench.results import BackboneRecord, Result, RunTree, StoredRun
from mae_bench.tables import Table, build, layouts
from mae_bench.tables.conditions import RunIndex
from mae_bench.tables.sizes import named_size, size_of
from mae_bench.tables.views import View

_POOLS = ("departures", "notes", "datasets", "backbones", "hardware", "versions", "units")
_PEAK = "peak_memory_gib"


@dataclass
class Pool:
    """Values that stand once, whoever repeats them."""

    values: list[Any] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, value: Any) -> int:
        """Where the value stands."""
        key = json.dumps(value, sort_keys=True, default=str)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


# ---------------------------------------------------------------- runs


def runs_as_data(runs: Sequence[StoredRun], going: Sequence[UnfinishedRun] = ()) -> dict[str, Any]:
    """The runs, those that are not finished, and the pools that they point into."""
    pools = {name: Pool() for name in _POOLS}
    listed = [_run(run, pools) for run in runs]
    still = [_going(run, pools) for run in going]
    return {
        "runs": listed,
        "unfinished": still,
        "pools": {name: pool.values for name, pool in pools.items()},
    }


def _going(run: UnfinishedRun, pools: dict[str, Pool]) -> dict[str, Any]:
    known = None if run.backbone is None else {"spec": run.backbone}
    return unfinished.as_data(run, pools["backbones"].place(known), pools["datasets"].place(None))


def _run(run: StoredRun, pools: dict[str, Pool]) -> dict[str, Any]:
    result = run.result
    return {
        "name": run.name,
        "task": result.task,
        "engine": result.engine,
        "recipe": result.recipe,
        "hash": result.recipe_hash,
        "protocol": result.protocol,
        "departures": pools["departures"].place(departures.phrases(result.deviations)),
        "notes": pools["notes"].place(result.notes),
        "dataset": pools["datasets"].place(result.dataset.model_dump() if result.dataset else None),
        "backbone": pools["backbones"].place(_backbone(result.backbone)),
        "seed": result.seed,
        "metrics": result.metrics,
        "units": pools["units"].place({name: unit.model_dump() for name, unit in result.units.items()}),
        "selection": result.selection,
        "steps": result.steps,
        "images": result.images_seen,
        "epochs": result.epochs,
        "batch": result.batch,
        "precision": result.precision,
        "hardware": pools["hardware"].place(_hardware(result)),
        "memory": result.hardware.get(_PEAK),
        "seconds": result.wall_clock_s,
        "versions": pools["versions"].place(result.versions),
        "started": result.started,
        "finished": result.finished,
        "command": shlex.join(result.command),
    }


def _backbone(backbone: BackboneRecord | None) -> dict[str, Any] | None:
    if backbone is None:
        return None
    known = backbone.pretraining or {}
    return {
        "spec": backbone.spec,
        "arch": backbone.arch,
        "digest": backbone.digest,
        "params": backbone.params,
        "size": size_of(backbone),
        "pretraining": {key: departures.show(value) for key, value in known.items()},
    }


def _hardware(result: Result) -> dict[str, str]:
    """The machine; the peak of memory is the run's own, and stands apart."""
    return {key: departures.show(value) for key, value in result.hardware.items() if key != _PEAK}


# ---------------------------------------------------------------- tables


def all_tables(runs: Sequence[StoredRun], intervals: bool = False) -> list[Table]:
    """Every table that comes with mae-bench with the runs in it, those with rows of ours first.

    Args:
        intervals: whether the sampling error is worked out, which takes a while.
    """
    index, view = RunIndex(runs), View(intervals=intervals)
    tables = [build(layouts.load_layout(name), index, view) for name in resources.tables()]
    return sorted(tables, key=lambda table: not any(row.ours for row in table.rows))


def tables_as_data(tables: Iterable[Table], runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """The tables by `mae_bench.render.as_data`; rows and columns have the size of backbone that they tell."""
    results = {run.name: run.result for run in runs}
    found = []
    for table in tables:
        data = as_data(table)
        for column in data["columns"]:
            column["size"] = named_size(column["label"])
        # Where the columns are sizes, a row holds several.
        sized = any(column["size"] for column in data["columns"])
        for row in data["rows"]:
            row["size"] = None if sized else _row_size(row, results)
        found.append(data)
    return found


def _row_size(row: dict[str, Any], results: dict[str, Result]) -> str | None:
    """Of a row of ours, that of its runs' backbone; of a published one, what its words say."""
    for cell in row["cells"].values():
        for name in cell["runs"]:
            backbone = results[name].backbone
            return None if backbone is None else size_of(backbone)
    told = [named_size(text) for text in (*row["facts"].values(), row["label"])]
    return next((size for size in told if size), None)


# ---------------------------------------------------------------- the whole


def overview(tree: RunTree) -> dict[str, Any]:
    """What runs there are: counts, tasks, when."""
    results = [run.result for run in tree.runs]
    # Without backbone weights of their own (pretraining) there is nothing to count.
    weights = {result.backbone.digest for result in results if result.backbone}
    times = sorted(result.finished for result in results)
    tasks: dict[str, list[Result]] = {}
    for result in results:
        tasks.setdefault(result.task, []).append(result)
    return {
        "runs": len(results),
        "backbones": len(weights),
        "hours": sum(result.wall_clock_s for result in results) / 3600,
        "first": times[0] if times else None,
        "last": times[-1] if times else None,
        "tasks": [
            {
                "task": task,
                "runs": len(members),
                "backbones": len({member.backbone.digest for member in members if member.backbone}),
                "recipes": sorted({member.recipe for member in members}),
                "last": max(member.finished for member in members),
            }
            for task, members in sorted(tasks.items())
        ],
        "unfinished": tree.unfinished,
        "root": Path(tree.root).name or str(tree.root),
    }
