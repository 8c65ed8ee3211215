"""Checkpoints in several files beside an index, as the Hugging Face hub has large models.

The index (``*.safetensors.index.json`` or ``*.bin.index.json``) says in which file each tensor lies; what is
in the files must be exactly that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mae_bench.errors import MaeBenchError

_SAFE, _ANY = "*.safetensors.index.json", "*.index.json"


def file_of(folder: Path) -> Path:
    """The one file of a folder that stands for its weights: an index of shards, else a safetensors file.

    Raises:
        MaeBenchError: the folder holds neither, several of a kind, or is something else (a run, a
            distributed checkpoint).
    """
    if (folder / "config.yaml").exists():
        raise MaeBenchError(
            f"{folder} is a folder of a run, not a checkpoint; it is loaded with run:{folder}"
        )
    if (folder / ".metadata").exists():
        raise MaeBenchError(
            f"{folder} is a distributed checkpoint; put it into one file with python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE"
        )
    safe = sorted(folder.glob("*.safetensors"))
    for found in (sorted(folder.glob(_SAFE)), sorted(folder.glob(_ANY)), safe):
        if len(found) == 1:
            if found == safe and "-of-" in safe[0].stem:
                break
            return found[0]
        if found:
            listed = ", ".join(path.name for path in found[:4])
            missing = "" if found != safe else " without an index"
            raise MaeBenchError(
                f"{folder} holds {len(found)} files{missing} ({listed}); say which one is meant"
            )
    if safe:
        raise MaeBenchError(
            f"{folder} holds {safe[0].name} without its index; download the whole folder again"
        )
    raise MaeBenchError(
        f"{folder} is a folder, not a checkpoint file; one of our runs is loaded with run:{folder}"
    )


def read_shards(index: Path, read: Callable[[Path], Any]) -> dict[str, Tensor]:
    """The tensors of all files that `index` names.

    Args:
        read: gives what a file holds.

    Raises:
        MaeBenchError: no index, a file is missing, or a file holds other tensors than the index says.
    """
    places = _weight_map(index)
    files: dict[str, set[str]] = {}
    for name, file in places.items():
        files.setdefault(file, set()).add(name)
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise MaeBenchError(
            f"{index}: {len(missing)} of {len(files)} files of weights are not there "
            f"({', '.join(missing[:4])}); download them to the same folder"
        )
    state: dict[str, Tensor] = {}
    for file, names in files.items():
        inside = read(index.parent / file)
        if not isinstance(inside, Mapping):
            raise MaeBenchError(f"{index.parent / file} holds a {type(inside).__name__}, not named weights")
        wrong = sorted(names ^ {str(name) for name in inside})
        if wrong:
            said = f"in {places[wrong[0]]}" if wrong[0] in places else "nowhere"
            fault = "lacks" if wrong[0] in names else "holds"
            raise MaeBenchError(
                f"{index.parent / file} {fault} {wrong[0]}, which by {index.name} is {said}; files and index "
                "are not of one checkpoint, so download them again"
            )
        state.update(inside)
    return state


def _weight_map(index: Path) -> dict[str, str]:
    """Name of each tensor -> name of its file, which lies beside the index."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MaeBenchError(
            f"{index} is JSON or text, not weights, nor an index of files of weights (a 'weight_map')"
        ) from None
    if not isinstance(places, dict) or not places or not all(isinstance(v, str) for v in places.values()):
        raise MaeBenchError(f"{index}: its 'weight_map' does not say which file each tensor lies in")
    for file in places.values():
        if Path(file).name != file or file in ("", ".", ".."):
            raise MaeBenchError(f"{index}: {file!r} is not the name of a file beside it, so it was not read")
    return places
