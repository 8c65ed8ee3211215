"""Forward passes without gradients, in parts that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Images in one part to begin with.
ON_GPU, ON_CPU = 256, 64


class InParts:
    """A function of a batch, carried out on parts of it.

    The size of a part starts from what suits the device and is halved for good when memory runs out, so
    that neither the batch of a recipe nor the size of a backbone needs a setting for it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.limit: int | None = None

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> Tensor:
        """``function(batch)`` for a batch of ``(B, ...)``; each result must depend on its own input alone.

        Raises:
            torch.OutOfMemoryError: not even one element fits.
        """
        limit = self.limit or (ON_GPU if batch.device.type == "cuda" else ON_CPU)
        done: list[Tensor] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + limit]
            try:
                done.append(self.function(part))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.limit = limit = len(part) // 2
            else:
                start += len(part)
                continue
            # Outside the handler, where the traceback no longer holds the tensors of the failed pass.
            torch.cuda.empty_cache()
        return torch.cat(done)
