"""What a finished run leaves behind: the schema of `result.json`, and a tree of runs read back.

A run folder holds `result.json` if and only if the run finished. The file is one JSON object, described
field by field by `Result`; its first key, ``schema``, is the version of this description. A field may be
added without a new version; one that changes its meaning or goes away makes a new version.

This module imports pandas only inside `load_results`, and torch never.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.settings import Count, NonNegative, Settings
from mae_bench.validation import validate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
RESULT_FILE = "result.json"
CONFIG_FILE = "config.yaml"

_Whole = Annotated[int, Field(ge=0)]

# ---------------------------------------------------------------- the schema


class DeviationRecord(Settings):
    """One key in which the run departs from the published protocol."""

    key: str
    """Dotted path in the configuration, for example ``train.epochs``."""
    published: Any
    ours: Any


class DatasetRecord(Settings):
    """The data the number was measured on."""

    name: str
    """Identity in tables, for example ``imagenet-1k``."""
    fingerprint: str
    """Digest of file names, labels and class list of both splits."""
    train_images: _Whole
    val_images: _Whole | None = None
    """Null for a task that is not measured on held-out images, such as pretraining."""
    classes: _Whole


class BackboneRecord(Settings):
    """The network that was transferred."""

    spec: str
    """As given: `timm:NAME`, `random:ARCH`, `run:FOLDER`, `file:PATH?arch=NAME`."""
    arch: str
    """Name of the architecture in timm."""
    digest: str
    """SHA-256 of the weights as loaded, before any training."""
    params: _Whole
    """Number of weights of the backbone, heads left out."""
    width: Count | None = None
    depth: _Whole | None = None
    """Number of blocks; 0 for a module of one's own that does not tell its blocks."""
    patch_size: list[Count] | None = None
    """Height and width in pixels."""
    pretraining: dict[str, Any] | None = None
    """What is known about how the weights came about; null for weights that do not say."""


class MetricRecord(Settings):
    """What a number means."""

    unit: str
    """``%``, or another unit; empty for a plain number."""
    higher_is_better: bool
    label: str


class Result(Settings):
    """The content of `result.json`."""

    model_config = ConfigDict(populate_by_name=True)

    # "schema" is the name of a method of every pydantic model, so the attribute carries another one.
    schema_version: int = Field(alias="schema", ge=SCHEMA, le=SCHEMA)
    task: str
    """Name of the task, for example ``imagenet-finetune``."""
    engine: str | None = None
    """What trained, as ``--engine`` names it; null for a task that has one way alone."""
    recipe: str
    """Name of the recipe that was run, for example ``demo/imagenet-finetune``."""
    recipe_hash: str
    """SHA-256 of every setting that decides what is computed (seed and backbone left out)."""
    protocol: str | None = None
    """Recipe that holds the published protocol; the run's own recipe if it is no variation."""
    deviations: list[DeviationRecord]
    """Where the configuration departs from `protocol`, in key order; empty: nowhere."""
    notes: list[str] = Field(default_factory=list)
    """Remarks of the recipe and of the run, in plain words."""
    dataset: DatasetRecord | None = None
    backbone: BackboneRecord | None = None
    """Null for a task that needs none."""
    seed: _Whole
    metrics: dict[str, float]
    """Finite numbers, headline first; accuracies in percent."""
    units: dict[str, MetricRecord]
    """What each metric means."""
    selection: str = ""
    """How the reported number was chosen, for example ``last epoch``."""
    steps: _Whole | None = None
    """Optimiser steps; null for a task that trains nothing."""
    images_seen: _Whole | None = None
    """Training images passed forward, repetitions counted."""
    epochs: NonNegative | None = None
    batch: Count | None = None
    """The effective, global batch."""
    micro_batch: Count | None = None
    """Images in one forward pass of one process."""
    precision: str
    """``bf16``, ``fp16`` or ``fp32``, as it was in fact."""
    hardware: dict[str, Any]
    """Device, its kind, number of processes, cores, threads, and the peak of memory in GiB: of tensors on a
    GPU, of the main process on a CPU."""
    wall_clock_s: NonNegative
    """Seconds of work, earlier parts of a resumed run included."""
    versions: dict[str, str]
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC."""
    command: list[str]
    """The command line, one string per argument."""
    config: dict[str, Any]
    """The resolved configuration as in `config.yaml`, so that a table can tell runs apart by any setting."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Facts that only this task has, for example the learning rate that a linear probe chose."""
    folder: str | None = Field(None, exclude=True)
    """Where the run is: told to the caller of `mae_bench.run` and `mae_bench.pretrain`, not in the file."""

    @model_serializer(mode="wrap")
    def _write_schema_first(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = dump(self)
        # By name or by alias, as the caller's `model_dump` asks for; the file always says "schema".
        version = values.pop("schema_version", None) or values.pop("schema", None)
        return {"schema": version, **values}

    @property
    def headline(self) -> str:
        """Name of the first metric, the one that tables show when nothing else is said."""
        return next(iter(self.metrics))


# ---------------------------------------------------------------- files


def write_json_atomic(path: str | os.PathLike[str], data: Any) -> Path:
    """Write plain values as indented JSON, completely or not at all (see `mae_bench.files.write_atomic`).

    Raises:
        MaeBenchError: the values hold NaN, infinity or something that JSON has no word for, or the file
            cannot be written.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise MaeBenchError(f"{os.fspath(path)} cannot be written as JSON: {error}") from error
    return write_atomic(path, text + "\n")


def write_result(folder: str | os.PathLike[str], result: Result) -> Path:
    """Write `result.json` into the run folder; from then on the run counts as finished."""
    return write_json_atomic(Path(folder) / RESULT_FILE, result.model_dump(mode="json"))


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read a `result.json`, given itself or its run folder.

    Raises:
        MaeBenchError: missing, damaged, of another schema version, or not as described by `Result`.
    """
    file = Path(path)
    if file.is_dir():
        file = file / RESULT_FILE
    return _parse(file, _content(file))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise MaeBenchError(f"{file}: there is no such file (a run writes it when it finishes)") from None
    except OSError as error:
        raise MaeBenchError(f"{file} cannot be read: {error.strerror or error}") from error


def _parse(file: Path, content: bytes) -> Result:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise MaeBenchError(f"{file} is damaged, it is not complete JSON ({error})") from None
    version = values.get("schema") if isinstance(values, dict) else None
    if version is None:
        raise MaeBenchError(f"{file} is not the result of a run: it has no 'schema'")
    if version != SCHEMA:
        raise MaeBenchError(
            f"{file} follows version {version} of the result schema; this mae-bench reads version {SCHEMA}"
        )
    try:
        return validate(Result, values)
    except MaeBenchError as error:
        raise MaeBenchError(
            f"{file} does not follow the result schema: {'; '.join(str(error).splitlines())}"
        ) from None


# ---------------------------------------------------------------- a tree of runs


@dataclass(frozen=True)
class StoredRun:
    """A finished run and where it was found."""

    folder: Path
    name: str
    """The folder relative to the runs root, with forward slashes."""
    result: Result


@dataclass(frozen=True)
class RunTree:
    """All run folders below a root, in the order of their names."""

    root: Path
    runs: list[StoredRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One sentence per run folder that was skipped, naming it."""
    unfinished: list[str] = field(default_factory=list)
    """Names of run folders without a `result.json`: still running, or interrupted."""


def scan(runs_root: str | os.PathLike[str]) -> RunTree:
    """Read every `result.json` below `runs_root`.

    A folder that holds `config.yaml` or `result.json` is a run and is not searched further; names that begin
    with a dot are left out. A damaged result is named in `problems` and skipped. The same result found twice
    (folders of two machines copied together) counts once, and the copy is named too. A root that does not
    exist holds no runs.
    """
    root = Path(runs_root)
    tree = RunTree(root)
    seen: dict[bytes, str] = {}
    for folder, finished in _run_folders(root):
        name = folder.relative_to(root).as_posix()
        file = folder / RESULT_FILE
        if not finished:
            tree.unfinished.append(name)
            continue
        try:
            content = _content(file)
            result = _parse(file, content)
        except MaeBenchError as error:
            tree.problems.append(str(error))
            continue
        first = seen.setdefault(hashlib.sha256(content).digest(), name)
        if first != name:
            tree.problems.append(f"{file} is a copy of {root / first / RESULT_FILE} and is not counted again")
            continue
        tree.runs.append(StoredRun(folder, name, result))
    return tree


def _run_folders(root: Path) -> Iterator[tuple[Path, bool]]:
    """Run folders below `root` and whether they finished, in the order of their names; links are followed."""
    visited: set[tuple[int, int]] = set()
    for at, folders, files in os.walk(root, followlinks=True):
        status = os.stat(at)
        identity = (status.st_dev, status.st_ino)
        if identity in visited:  # a link to a folder above itself
            folders.clear()
            continue
        visited.add(identity)
        if RESULT_FILE in files or CONFIG_FILE in files:
            folders.clear()
            yield Path(at), RESULT_FILE in files
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))


# ---------------------------------------------------------------- the tree as one table of data

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


def load_results(runs_root: str | os.PathLike[str]) -> pd.DataFrame:
    """All finished runs below `runs_root`, one row each, metrics as columns ``metric.NAME``.

    The columns are those of `COLUMNS`, then the metrics in the order in which they are met; a run without a
    metric has NaN there. ``frame.attrs["problems"]`` names the folders that were skipped, and why;
    ``frame.attrs["unfinished"]`` the ones without a result yet.
    """
    import pandas as pd

    tree = scan(runs_root)
    rows = [_flat(run) for run in tree.runs]
    metrics = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *metrics])
    # Counts may be missing; without this, pandas would turn a column of counts with one gap into floats.
    for name in ("train_images", "params", "steps", "images_seen", "batch"):
        frame[name] = frame[name].astype("Int64")
    frame.attrs["problems"] = list(tree.problems)
    frame.attrs["unfinished"] = list(tree.unfinished)
    return frame


def _flat(run: StoredRun) -> dict[str, Any]:
    result = run.result
    backbone, dataset = result.backbone, result.dataset
    row: dict[str, Any] = {name: getattr(result, name, None) for name in COLUMNS}
    row |= {
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
        "command": _shell(result.command),
    }
    return row | {f"metric.{name}": value for name, value in result.metrics.items()}


def _shell(command: Sequence[str]) -> str:
    import shlex

    return shlex.join(command)
