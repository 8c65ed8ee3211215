"""MSN (Assran et al., arXiv:2204.07141): an encoder under timm's names with a projector behind it.

Names are those of facebookresearch/msn, whose evaluations take the ``target_encoder`` of its two, as we do.
"""

from __future__ import annotations

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, take
from mae_bench.backbones.formats.timm_vit import is_vit

_NAME = "MSN pretraining checkpoint"
_DROPPED: Reasons = (
    (r"fc\.fc[123]\.(weight|bias)", "projector"),
    (r"fc\.bn[12]\.(weight|bias|running_mean|running_var|num_batches_tracked)", "projector"),
)


def _matches(state: State) -> bool:
    return "fc.fc1.weight" in state and is_vit(state)


def _read(state: State, layout: Layout) -> Recognised:
    return take(state, _NAME, dropped=_DROPPED)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read)]
"""The formats of this module, for the list of all. It cannot be written: a projector belongs to it."""
