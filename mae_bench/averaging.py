"""The moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a model's floating-point weights; buffers are copied as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move each average towards the model by ``1 - decay``."""
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                ours.append(self.weights[name])
                theirs.append(value.detach())
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(ours, theirs, 1.0 - self.decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model holds the averaged weights within the block."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
