"""The tensors of our detector in detectron2's model."""

from __future__ import annotations

from torch import nn

from downstream.detection.formats import from_detectron2

_TRUNK = "backbone."
"""What stands before the names of body and pyramid, which are our own modules there too."""


def our_name(name: str) -> str:
    """What our detector calls the tensor that the model made by our configuration calls `name`."""
    if name.startswith(_TRUNK):
        return name.removeprefix(_TRUNK)
    ours = from_detectron2(name)
    if ours is None:
        raise RuntimeError(f"detectron2's {name} has no counterpart")
    return ours


def take(model: nn.Module, detector: nn.Module) -> None:
    """Give `model`, detectron2's, all weights of `detector`, ours, made with the same settings."""
    own = detector.state_dict()
    model.load_state_dict({name: own[our_name(name)] for name in model.state_dict()})
