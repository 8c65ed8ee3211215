"""data2vec for images (arXiv:2202.03555), pretraining: BEiT's model with a head that gives a token's width.

Its fine-tuned models have BEiT's names and are read as those.
"""

from __future__ import annotations

from mae_bench.backbones.formats.beit import (
    PRETRAINING,
    has_tables,
    is_pretraining,
    note_shared_table,
    predicts_its_own_width,
)
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import take

_NAME = "data2vec pretraining checkpoint"


def _read(state: State, layout: Layout) -> Recognised:
    return note_shared_table(take(state, _NAME, dropped=PRETRAINING))


FORMATS = [
    Format(
        _NAME,
        ("beit",),
        lambda state: is_pretraining(state) and has_tables(state) and predicts_its_own_width(state),
        _read,
    )
]
