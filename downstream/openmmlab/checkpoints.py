"""mmengine's checkpoints: written whole or not at all, and read without ever running what a file says.

mmengine writes into the file that it will read, and reads by `torch.load`, which from torch 2.6 on takes
tensors and plain values alone. Its log history is neither; `safe_globals` names what that takes, and no more.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_bench.errors import MaeBenchError

_STATISTICS = ("min", "max", "mean", "current", "statistics", "data")


@contextmanager
def safe_globals() -> Iterator[None]:
    """Within this block `torch.load` takes mmengine's log history and numpy's numbers and arrays too.

    Raises:
        MaeBenchError: a file holds anything else; nothing of it was run.
    """
    from mmengine.logging import HistoryBuffer

    multiarray = import_module(type(np.zeros(0)).__reduce__(np.zeros(0))[0].__module__)
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_method, "builtins.getattr")]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        # numpy 2 renamed the module; files of both say which one they were written with.
        allowed += [(getattr(multiarray, name), f"{module}.{name}") for name in ("_reconstruct", "scalar")]
    allowed += [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "?")]
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    except pickle.UnpicklingError as error:
        unwanted = _named(str(error))
        raise MaeBenchError(
            f"a checkpoint asks for more than tensors and numbers{unwanted} and was not loaded; take it from "
            "where it came from again, or do without it"
        ) from error


def _method(owner: object, name: str) -> Any:
    """What `getattr` may be in a checkpoint: the statistics that a log history names by itself."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError("Unsupported global: GLOBAL getattr")
    return getattr(owner, name)


def _named(message: str) -> str:
    """``(it names `os.system`)`` from torch's message, if that is what it complains of."""
    found = re.search(r"(?i)unsupported (?:global: )?GLOBAL (\S+)", message)
    return f" (it names {found[1].rstrip('.,')})" if found else ""


def write(runner: Any, path: Path) -> None:
    """Let mmengine write the state of `runner`, in the middle of a loop's iteration, as `path`."""
    runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)


def progress_of(path: Path) -> dict[str, Any]:
    """How far the run of a checkpoint had come: ``iter``, ``epoch``, and what our hook put beside them.

    Raises:
        MaeBenchError: it is no checkpoint of mmengine that our hook wrote.
    """
    with safe_globals():
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    try:
        return {"iter": state["meta"]["iter"], "epoch": state["meta"]["epoch"], **state["mae_bench"]}
    except (KeyError, TypeError) as error:
        raise MaeBenchError(f"{path} is no checkpoint of this run; start afresh with --force") from error
