"""Checkpoints: written whole or not at all, few kept, and proved intact before they are believed.

A file's name carries the digest of its content (``step-00001000-1a2b3c4d5e6f7a8b.pt``), so one rename
publishes both, and a file cut short or changed on disk is recognised when it is read.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_bench import screen
from mae_bench.errors import MaeBenchError
from mae_bench.files import sha256_file

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every checkpoint in `folder`, newest first."""
    found = [
        (int(match[1]), path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))
    ]
    return sorted(found, reverse=True)


def last_good(folder: Path) -> str:
    """A sentence that names the newest checkpoint, for whoever has to go back to it."""
    found = listed(folder)
    return f"The last good checkpoint is {found[0][1]}." if found else "No checkpoint had been written yet."


def refuse_broken(params: Iterable[Tensor], step: int, folder: Path, advice: str) -> None:
    """Raise MaeBenchError, which ends with `advice`, unless all of `params` are finite after `step`."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(params))])
    if not bool(torch.isfinite(norms).all()):
        raise MaeBenchError(
            f"the weights are not finite after step {step:,}, so they were not saved. {last_good(folder)} "
            f"{advice}"
        )


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint of `step` and drop all but the newest `keep`.

    Raises:
        MaeBenchError: the disk is full or not writable; the checkpoints already there are untouched.
    """
    return put(folder, step, lambda path: torch.save(state, path), keep)


def put(folder: Path, step: int, write: Callable[[Path], None], keep: int) -> Path:
    """As `save`, where `write` fills the file that becomes the checkpoint.

    Raises:
        MaeBenchError: as `save`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".pt")
    temporary = Path(name)
    try:
        os.close(handle)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        target = folder / f"step-{step:08d}-{sha256_file(temporary)[:16]}.pt"
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer.
        reason = (
            "the disk is full"
            if getattr(error, "errno", None) == errno.ENOSPC
            else str(error).splitlines()[0]
        )
        raise MaeBenchError(
            f"checkpoint of step {step} could not be written to {folder} ({reason}); "
            "earlier checkpoints are intact: make room and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    drop_all_but(folder, keep)
    return target


def drop_all_but(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for _, old in listed(folder)[keep:]:
        old.unlink()


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest checkpoint that is intact, or None where there is none at all.

    A damaged one is named and passed over for the one before it.

    Raises:
        MaeBenchError: there are checkpoints and none is intact.
    """
    path = newest_intact(folder)
    if path is None:
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def newest_intact(folder: Path) -> Path | None:
    """The file of the newest checkpoint that is intact; see `load_newest`.

    Raises:
        MaeBenchError: as `load_newest`.
    """
    candidates = listed(folder)
    for _, path in candidates:
        match = _NAME.fullmatch(path.name)
        if match is not None and sha256_file(path).startswith(match[2]):
            return path
        screen.warn(f"{path} is damaged (its content does not match its digest); trying the one before")
    if candidates:
        raise MaeBenchError(
            f"no checkpoint in {folder} is intact; start afresh with --force (the folder is kept aside)"
        )
    return None
