"""Finished runs as one table of data: for pandas (`load_results`), and as a CSV or parquet file (`write`).

docs/results.md describes every column; `SCHEMA` is the version of that description, and stands in each row.
A column may be added without a new version; one that changes its meaning or goes away makes a new version.

This module imports no torch, and pandas only inside its functions.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike, write_atomic
from mae_bench.results import DeviationRecord, RunTree, StoredRun, collection_paused, scan
from mae_bench.settings import flatten

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1

COLUMNS: dict[str, str] = {
    "folder": "the run folder, relative to the runs root",
    "task": "name of the task",
    "recipe": "name of the recipe",
    "recipe_hash": "digest of everything that decides what is computed",
    "protocol": "recipe that holds the published protocol",
    "deviations": "number of settings that depart from it",
    "dataset": "name of the dataset",
    "dataset_fingerprint": "digest of its content",
    "train_images": "images in its training split",
    "backbone": "the backbone as given; missing if the task needs none",
    "arch": "architecture of the backbone",
    "digest": "digest of the backbone's weights",
    "params": "weights of the backbone",
    "seed": "seed",
    "selection": "how the reported number was chosen",
    "steps": "optimiser steps",
    "images_seen": "training images passed forward",
    "epochs": "epochs",
    "batch": "effective, global batch",
    "precision": "bf16, fp16 or fp32",
    "device": "name of the device",
    "wall_clock_s": "seconds of work",
    "started": "UTC",
    "finished": "UTC",
    "command": "the command line",
}
"""Columns of `load_results`. After them comes one column ``metric.NAME`` per metric of any run."""

MORE_COLUMNS: dict[str, str] = {
    "engine": "what trained; missing for a task that has one way alone",
    "val_images": "images in the validation split",
    "classes": "classes of the dataset",
    "width": "width of the backbone",
    "depth": "blocks of the backbone",
    "patch_size": "height and width of its patches in pixels, as JSON",
    "micro_batch": "images in one forward pass of one process",
    "departures": "the deviations, one a line: `KEY: OURS (published PUBLISHED)`, values as JSON",
    "notes": "remarks of the recipe and of the run, one a line",
    "units": "what each metric means, as JSON",
    "details": "facts that only this task has, as JSON",
}
"""Columns that a file has after those of `COLUMNS`, one row a run."""

PREFIXES: dict[str, str] = {
    "metric.": "a metric",
    "hardware.": "what it was computed on",
    "versions.": "a version of what the numbers depend on",
    "pretraining.": "what is known about how the backbone's weights came about",
    "config.": "a setting, by its dotted path",
}
"""Then come these, as many as the runs have, those of one prefix in alphabetical order."""

LONG_COLUMNS: dict[str, str] = {
    "metric": "name of the metric",
    "label": "as a person says it",
    "value": "the number",
    "unit": "`%`, or another; empty for a plain number",
    "higher_is_better": "whether more is better",
}
"""Columns of the long form after those of `COLUMNS`: one row for each metric of each run."""

_Kind = Literal["count", "number", "flag", "time", "text"]
# Counts may be missing: as Int64 a column with a gap stays one of whole numbers.
_COUNTS = ("train_images", "params", "steps", "images_seen", "batch")
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys((*_COUNTS, "schema", "deviations", "seed"), "count"),
    **dict.fromkeys(("val_images", "classes", "width", "depth", "micro_batch"), "count"),
    **dict.fromkeys(("epochs", "wall_clock_s", "value"), "number"),
    **dict.fromkeys(("started", "finished"), "time"),
    "higher_is_better": "flag",
}
_FIXED = {*COLUMNS, *MORE_COLUMNS, *LONG_COLUMNS, "schema"}


def load_results(runs_root: PathLike) -> pd.DataFrame:
    """All finished runs below `runs_root`, one row each, metrics as columns ``metric.NAME``.

    The columns are those of `COLUMNS`, then the metrics in the order in which they are met; a run without a
    metric has NaN there. ``frame.attrs["problems"]`` names the folders that were skipped, and why;
    ``frame.attrs["unfinished"]`` the ones without a result yet.
    """
    import pandas as pd

    tree = scan(runs_root)
    rows = [_short(run) | _metrics(run) for run in tree.runs]
    metrics = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *metrics])
    for name in _COUNTS:
        frame[name] = frame[name].astype("Int64")
    frame.attrs["problems"] = list(tree.problems)
    frame.attrs["unfinished"] = list(tree.unfinished)
    return frame


def as_frame(tree: RunTree, *, long: bool = False) -> pd.DataFrame:
    """Everything about every finished run of a tree, with a type for each column.

    Whole numbers are ``Int64``, numbers ``float64``, flags ``boolean``, times UTC timestamps, all else text.

    Args:
        long: one row for each metric of each run instead of one row a run.
    """
    import pandas as pd

    with collection_paused():
        if long:
            rows = [row for run in tree.runs for row in _by_metric(run)]
            names = ["schema", *COLUMNS, *LONG_COLUMNS]
        else:
            rows = [_whole(run) for run in tree.runs]
            free = {name for row in rows for name in row if name not in _FIXED}
            names = ["schema", *COLUMNS, *MORE_COLUMNS]
            names += [name for prefix in PREFIXES for name in sorted(free) if name.startswith(prefix)]
        return pd.DataFrame({name: _column(name, [row.get(name) for row in rows]) for name in names})


def write(output: PathLike, tree: RunTree, *, long: bool = False) -> Path:
    """Write `as_frame` into a .csv or .parquet file, completely or not at all.

    Raises:
        MaeBenchError: another ending, pyarrow is not installed (parquet), or the file cannot be written.
    """
    target = Path(output)
    ending = target.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise MaeBenchError(f"{target}: the name of the file must end in .csv or .parquet")
    if ending == ".parquet" and find_spec("pyarrow") is None:
        raise MaeBenchError("parquet files need pyarrow: pip install 'mae-bench[parquet]'")
    frame = as_frame(tree, long=long)
    if ending == ".csv":
        return write_atomic(
            target, frame.to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%dT%H:%M:%SZ")
        )
    content = frame.to_parquet(index=False, engine="pyarrow")
    assert content is not None  # it is given no path
    return write_atomic(target, content)


# ---------------------------------------------------------------- rows


def _short(run: StoredRun) -> dict[str, Any]:
    """What `COLUMNS` are."""
    result = run.result
    backbone, dataset = result.backbone, result.dataset
    row: dict[str, Any] = {name: getattr(result, name, None) for name in COLUMNS}
    return row | {
        "folder": run.name,
        "deviations": len(result.deviations),
        "dataset": dataset.name if dataset else None,
        "dataset_fingerprint": dataset.fingerprint if dataset else None,
        "train_images": dataset.train_images if dataset else None,
        "backbone": backbone.spec if backbone else None,
        "arch": backbone.arch if backbone else None,
        "digest": backbone.digest if backbone else None,
        "params": backbone.params if backbone else None,
        "device": result.hardware.get("device"),
        "command": shlex.join(result.command),
    }


def _metrics(run: StoredRun) -> dict[str, float]:
    return {f"metric.{name}": value for name, value in run.result.metrics.items()}


def _whole(run: StoredRun) -> dict[str, Any]:
    """One row with everything about a run."""
    result = run.result
    backbone, dataset = result.backbone, result.dataset
    more: dict[str, Any] = {
        "schema": SCHEMA,
        "engine": result.engine,
        "val_images": dataset.val_images if dataset else None,
        "classes": dataset.classes if dataset else None,
        "width": backbone.width if backbone else None,
        "depth": backbone.depth if backbone else None,
        "patch_size": backbone.patch_size if backbone else None,
        "micro_batch": result.micro_batch,
        "departures": "\n".join(map(_departure, result.deviations)),
        "notes": "\n".join(result.notes),
        "units": {name: unit.model_dump() for name, unit in result.units.items()},
        "details": result.details,
    }
    pretraining = (backbone.pretraining if backbone else None) or {}
    return {
        **_short(run),
        **more,
        **_metrics(run),
        **_prefixed("hardware.", result.hardware),
        **_prefixed("versions.", result.versions),
        **_prefixed("pretraining.", pretraining),
        **_prefixed("config.", result.config),
    }


def _by_metric(run: StoredRun) -> Iterable[dict[str, Any]]:
    result, about = run.result, {"schema": SCHEMA, **_short(run)}
    for name, value in result.metrics.items():
        unit = result.units.get(name)
        yield about | {
            "metric": name,
            "label": unit.label if unit else name,
            "value": value,
            "unit": unit.unit if unit else None,
            "higher_is_better": unit.higher_is_better if unit else None,
        }


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in flatten(values).items()}


def _departure(entry: DeviationRecord) -> str:
    return f"{entry.key}: {_json(entry.ours)} (published {_json(entry.published)})"


# ---------------------------------------------------------------- columns


def _column(name: str, values: Sequence[Any]) -> pd.Series[Any]:
    """Values of one column with the type that its name says, else with the one that all of them have."""
    import pandas as pd

    kind: _Kind = _KINDS.get(name, "text") if name in _FIXED else _kind_of(values)
    match kind:
        case "count":
            return pd.Series(pd.array(values, dtype="Int64"))
        case "number":
            return pd.Series([None if value is None else float(value) for value in values], dtype="float64")
        case "flag":
            return pd.Series(pd.array(values, dtype="boolean"))
        case "time":
            return pd.Series(pd.to_datetime(list(values), utc=True, errors="coerce", format="ISO8601"))
    return pd.Series([None if value is None else _text(value) for value in values], dtype="string")


def _kind_of(values: Sequence[Any]) -> _Kind:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "flag"
    if not kinds or not kinds <= {int, float}:
        return "text"
    if any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
        return "text"
    return "count" if kinds == {int} else "number"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
