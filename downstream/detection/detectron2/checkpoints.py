"""detectron2's checkpoints, written whole or not at all and read without running anything in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mae_bench import checkpoints
from mae_bench.files import write_atomic

_LAST = "last_checkpoint"


def checkpointer(model: nn.Module, folder: Path, keep: int, **parts: Any) -> Any:
    """A checkpointer of detectron2 for `model` and other `parts` that have a state.

    Args:
        folder: where the files are; of them the newest `keep` stay.
    """
    return _kind()(model, folder, keep, **parts)


@cache
def _kind() -> Any:
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):
        """Files hold what detectron2's do, under our names, which carry a digest of the content.

        ``last_checkpoint`` names the newest, as detectron2's ``--resume`` wants it. What is read are plain
        values and tensors alone.
        """

        def __init__(self, model: nn.Module, folder: Path, keep: int, **parts: Any) -> None:
            super().__init__(model, str(folder), **parts)
            self._folder, self._keep = folder, keep

        def save_step(self, step: int, elapsed: float) -> None:
            """Write the state after `step` steps and `elapsed` seconds; on the main process only.

            Raises:
                MaeBenchError: the disk is full or not writable; earlier checkpoints are intact.
            """
            state = {name: part.state_dict() for name, part in self.checkpointables.items()}
            state |= {"model": self.model.state_dict(), "iteration": step - 1, "elapsed": elapsed}
            path = checkpoints.save(self._folder, step, state, self._keep)
            write_atomic(self._folder / _LAST, path.name)

        def newest(self) -> tuple[int, float]:
            """Load the newest intact checkpoint; after how many steps and seconds it was saved, 0 for none.

            Raises:
                MaeBenchError: there are checkpoints and none is intact.
            """
            found = checkpoints.load_newest(self._folder)
            if found is None:
                return 0, 0.0
            self.model.load_state_dict(found["model"])
            for name, part in self.checkpointables.items():
                part.load_state_dict(found[name])
            return int(found["iteration"]) + 1, float(found["elapsed"])

        def _torch_load(self, f: str) -> Any:
            return torch.load(f, map_location="cpu", weights_only=True)

    return Checkpointer
