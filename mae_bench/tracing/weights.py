"""Whether the weights behind a result are still the same, told without loading them into a network.

What a pretraining run of ours exported, and what a classification left, are files that can be digested as
they lie. Weights that a hub keeps are not looked at: nothing here goes to the network. This module imports no
torch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mae_bench.backbones import aliases
from mae_bench.errors import MaeBenchError
from mae_bench.files import sha256_file
from mae_bench.results import RESULT_FILE, Result, read_result
from mae_bench.tables.rows import lookup
from mae_bench.tracing.findings import Finding

_ENCODER = "encoder.safetensors"
_MODEL = "model.safetensors"
_REPORT = "load_report.json"
_BLOCK = 1 << 24
_LONGEST_HEADER = 100_000_000
# How safetensors calls what torch calls otherwise.
_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
# Sources that are not looked at -> why.
_ELSEWHERE = {
    "timm": "they are kept by timm, and only loading them would tell",
    "hf": "they are kept by the Hugging Face hub, and only loading them would tell",
    "torchhub": "they are kept by torch.hub, and only loading them would tell",
    "python": "a function of your own makes them, and only calling it would tell",
}


@dataclass(frozen=True)
class WeightsState:
    """What became of the weights."""

    findings: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = ()


def state(result: Result, folder: Path, runs_root: Path) -> WeightsState:
    """Compare the weights behind a result with those that lie there today.

    Args:
        folder: the run's.
        runs_root: where other runs are looked for that are not where they were.
    """
    classifier = lookup(result, "details.classifier.run")
    if classifier is not None:
        return _of_classifier(result, str(classifier), runs_root)
    if result.backbone is None:
        return WeightsState()
    spec = result.backbone.spec
    source, colon, rest = spec.partition(":")
    path = rest.rpartition("?")[0] or rest
    if source == "random":
        return WeightsState()  # drawn from the seed, and nothing to change
    if source == "run":
        return _of_pretraining(result, folder, Path(path), runs_root)
    if source == "file":
        return _of_file(folder, Path(path).expanduser())
    if not colon and aliases.known(spec):
        return WeightsState(unchecked=(f"weights: {spec} is a published backbone, kept elsewhere",))
    return WeightsState(unchecked=(f"weights: {_ELSEWHERE.get(source, f'{source}: is not known here')}",))


# ---------------------------------------------------------------- runs of ours


def here(path: Path, runs_root: Path) -> Path | None:
    """The folder of a run as another run names it: where it was, else the same below the runs root."""
    path = path.expanduser()
    below = [runs_root.joinpath(*path.parts[start:]) for start in range(1, len(path.parts))]
    return next((place for place in (path, *below) if place.is_dir()), None)


def _of_pretraining(result: Result, folder: Path, named: Path, runs_root: Path) -> WeightsState:
    found = here(named, runs_root)
    if found is None or not (found / _ENCODER).is_file():
        return WeightsState(unchecked=(f"weights: {named} is not here any more, or has no {_ENCODER}",))
    findings = []
    if not (found / RESULT_FILE).is_file():
        findings.append(Finding("weights", f"{found} was begun afresh and has not finished", True))
    else:
        then, now = lookup(result, "backbone.pretraining.recipe_hash"), _recipe_hash(found)
        if then is not None and now is not None and then != now:
            said = f"{found} was pretrained by recipe {then[:8]} then, and holds one of {now[:8]} now"
            findings.append(Finding("weights", said, True))
    report = load_report(folder)
    if report is None or report.get("converted") or report.get("dropped"):
        return WeightsState(
            tuple(findings), ("weights: the run's load report does not tell what was in the file",)
        )
    then = str(report.get("digest_before"))
    try:
        now = tensors_digest(found / _ENCODER)
    except MaeBenchError as error:
        return WeightsState((*findings, Finding("weights", str(error), True)))
    if now != then:
        said = f"{found / _ENCODER} changed since: {then[:12]} -> {now[:12]}"
        findings.append(Finding("weights", said, True))
    return WeightsState(tuple(findings))


def _of_classifier(result: Result, named: str, runs_root: Path) -> WeightsState:
    found = here(Path(named), runs_root)
    if found is None or not (found / _MODEL).is_file():
        return WeightsState(unchecked=(f"weights: {named} is not here any more, or has no {_MODEL}",))
    then = str(lookup(result, "details.classifier.digest"))
    now = _file_digest(found / _MODEL, _stamp(found / _MODEL))
    if then == now:
        return WeightsState()
    said = f"{found / _MODEL} changed since: {then[:12]} -> {now[:12]}"
    return WeightsState((Finding("weights", said, True),))


def _recipe_hash(folder: Path) -> str | None:
    try:
        return read_result(folder).recipe_hash
    except MaeBenchError:
        return None  # a damaged result is named among the problems of the tree


def load_report(folder: Path) -> dict[str, Any] | None:
    """The load report of a run; None if it has none, or one that says no digest."""
    try:
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("digest_before") else None


# ---------------------------------------------------------------- files


def _of_file(folder: Path, path: Path) -> WeightsState:
    if not path.exists():
        return WeightsState((Finding("weights", f"{path} is not there any more"),))
    report = load_report(folder)
    comparable = report is not None and not any(report.get(key) for key in ("converted", "dropped"))
    if path.suffix == ".safetensors" and comparable and report is not None:
        then, now = str(report["digest_before"]), tensors_digest(path)
        if then == now:
            return WeightsState()
        return WeightsState((Finding("weights", f"{path} changed since: {then[:12]} -> {now[:12]}", True),))
    return WeightsState(unchecked=(f"weights: {path} is there; only loading it would tell if it changed",))


def tensors_digest(path: Path) -> str:
    """The digest of a safetensors file's tensors that load reports hold.

    As `mae_bench.backbones.weights.digest` takes it: of names, types, shapes and bytes, in the order of the
    names, so that it does not depend on how the file is laid out.

    Raises:
        MaeBenchError: the file cannot be read, or is no whole safetensors file.
    """
    return _tensors_digest(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file, so that one that did not is read once."""
    try:
        status = path.stat()
    except OSError as error:
        raise MaeBenchError(f"{path} cannot be read: {error.strerror or error}") from error
    return status.st_mtime_ns, status.st_size


@lru_cache
def _file_digest(path: Path, _stamp: tuple[int, int]) -> str:
    return sha256_file(path)


@lru_cache
def _tensors_digest(path: Path, stamp: tuple[int, int]) -> str:
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > min(_LONGEST_HEADER, stamp[1] - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for name in sorted(header):
                entry = header[name]
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end <= stamp[1] - 8 - size:
                    raise ValueError(f"{name} lies outside of it")
                kind, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
                total.update(f"{name}\0torch.{kind}\0{shape}\0".encode())
                file.seek(8 + size + begin)
                left = end - begin
                while left:
                    block = file.read(min(left, _BLOCK))
                    if not block:
                        raise ValueError("it ends too early")
                    total.update(block)
                    left -= len(block)
    except OSError as error:
        raise MaeBenchError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise MaeBenchError(f"{path} is no whole safetensors file ({error})") from None
    return total.hexdigest()
