"""What a finished run leaves behind: the schema of `result.json`, and a tree of runs read back.

A run folder holds `result.json` if and only if the run finished. The file is one JSON object, described
field by field by `Result`; its first key, ``schema``, is the version of this description. A field may be
added without a new version; one that changes its meaning or goes away makes a new version.

This module imports no torch and no pandas; runs as a table of data are `mae_bench.exporting`'s.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.settings import Count, NonNegative, Settings
from mae_bench.validation import validate

SCHEMA = 1
RESULT_FILE = "result.json"
CONFIG_FILE = "config.yaml"

NOT_RECORDED = "not recorded"
"""What a text says that cannot be known, in the result of a run imported from elsewhere."""
IMPORTED_KEY = "imported"
"""Key of the deviation that such a run carries, so that no table takes it for comparable."""

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
    """Digest of file names, labels and class list of both splits; begins with `NOT_RECORDED` where nobody
    took it."""
    train_images: _Whole | None
    """Null where it is not known, as of a run imported from elsewhere; so too `classes`."""
    val_images: _Whole | None = None
    """Null for a task that is not measured on held-out images, such as pretraining."""
    classes: _Whole | None


class BackboneRecord(Settings):
    """The network that was transferred."""

    spec: str
    """As given: `timm:NAME`, `random:ARCH`, `run:FOLDER`, `file:PATH?arch=NAME`."""
    arch: str
    """Name of the architecture in timm."""
    digest: str
    """SHA-256 of the weights as loaded, before any training; begins with `NOT_RECORDED` where nobody took
    it."""
    params: _Whole | None
    """Number of weights of the backbone, heads left out; null where it is not known."""
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
    metrics: Annotated[dict[str, float], Field(min_length=1)]
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
    """``bf16``, ``fp16`` or ``fp32``, as it was in fact, or `NOT_RECORDED`."""
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
        text = json_text(data)
    except (TypeError, ValueError) as error:
        raise MaeBenchError(f"{os.fspath(path)} cannot be written as JSON: {error}") from error
    return write_atomic(path, text)


def json_text(data: Any) -> str:
    """Plain values as the indented JSON of the files of a run.

    Raises:
        ValueError: they hold NaN or infinity.
        TypeError: they hold something that JSON has no word for.
    """
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


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
    return parse_result(str(file), _content(str(file)))


def _content(file: str) -> bytes:
    try:
        with open(file, "rb", buffering=0, opener=_open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise MaeBenchError(f"{file} cannot be read: it is not an ordinary file")
            return stream.readall()
    except FileNotFoundError:
        if os.path.islink(file):
            raise MaeBenchError(f"{file} cannot be read: it is a link to nothing") from None
        raise MaeBenchError(f"{file}: there is no such file (a run writes it when it finishes)") from None
    except OSError as error:
        raise MaeBenchError(f"{file} cannot be read: {error.strerror or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    # To open a named pipe would otherwise wait for somebody to write into it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# How the files begin that `write_result` writes.
_OUR_HEAD = re.compile(rb'\s*\{\s*"schema"\s*:')


def parse_result(file: str, content: bytes) -> Result:
    """The result in `content`; `file` is for messages.

    Nearly every file is read from its bytes at one go. One that cannot be read so is read again in steps,
    of which each has its own message; the first way accepts nothing that the second does not.
    """
    if _OUR_HEAD.match(content):
        try:
            return Result.__pydantic_validator__.validate_json(content)
        except ValidationError:
            pass  # told below, in words
    return _parse_in_steps(file, content)


def _parse_in_steps(file: str, content: bytes) -> Result:
    try:
        values = json.loads(content)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
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
    with collection_paused():
        for name, finished in _run_folders(root, tree.problems):
            shown = _printable(name) or "."
            if not finished:
                tree.unfinished.append(shown)
                continue
            file = os.path.join(root, name, RESULT_FILE)
            try:
                content = _content(file)
                result = parse_result(file, content)
            except MaeBenchError as error:
                tree.problems.append(_printable(str(error)))
                continue
            digest = hashlib.sha256(content).digest()
            if digest in seen:
                copy = f"{file} is a copy of {root / seen[digest] / RESULT_FILE} and is not counted again"
                tree.problems.append(_printable(copy))
                continue
            seen[digest] = shown
            tree.runs.append(StoredRun(root / name, shown, result))
    return tree


def _run_folders(root: Path, problems: list[str]) -> Iterator[tuple[str, bool]]:
    """Run folders below `root`, relative to it, and whether they finished, in the order of their names.

    Links are followed, each folder once. One that cannot be looked into is named in `problems`.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        name = waiting.pop()
        at = os.path.join(root, name)
        try:
            status = os.stat(at)
            with os.scandir(at) as found:
                entries = list(found)
        except FileNotFoundError:
            continue  # no runs yet, or a folder that somebody removed meanwhile
        except OSError as error:
            problems.append(_printable(f"{at} cannot be searched: {error.strerror or error}"))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in visited:  # a link to a folder above itself
            continue
        visited.add(identity)
        files = [entry.name for entry in entries if entry.name in (RESULT_FILE, CONFIG_FILE)]
        if files:
            yield name, RESULT_FILE in files
            continue
        below = sorted(entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry))
        waiting += [f"{name}/{inner}" if name else inner for inner in reversed(below)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles
        return False


def _printable(text: str) -> str:
    """`text` with a question mark for what is not Unicode in it, as file names may hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for reference cycles meanwhile: results hold none, and many of them make it slow."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            if not gc.get_freeze_count():
                # All that was read counts as old from here on, or the next searches would go through it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
