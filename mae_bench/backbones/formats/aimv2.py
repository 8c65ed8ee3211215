"""AIMv2 (Fini et al., arXiv:2411.14402) in the names of apple/ml-aim, which the published files have.

Its MLPs are gated: ``fc1`` is the gate, ``fc3`` the value. In AIMv2-LiT the image tower lies under
``image_encoder.`` beside the text tower, with attention pooling as its head.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, put, take

_BLOCK: Pairs = (
    ("norm_1.*", "norm1.*"),
    ("norm_2.*", "norm2.*"),
    ("attn.qkv.*", "attn.qkv.*"),
    ("attn.proj.*", "attn.proj.*"),
    ("mlp.fc1.*", "mlp.fc1_g.*"),
    ("mlp.fc3.*", "mlp.fc1_x.*"),
    ("mlp.fc2.*", "mlp.fc2.*"),
)
_PAIRS: Pairs = (
    ("preprocessor.pos_embed", "pos_embed"),
    ("preprocessor.patchifier.proj.*", "patch_embed.proj.*"),
    ("preprocessor.patchifier.norm.*", "patch_embed.norm.*"),
    ("trunk.post_trunk_norm.*", "norm.*"),
    *((f"trunk.blocks.#.{theirs}", f"blocks.#.{ours}") for theirs, ours in _BLOCK),
)
_TOWER = "image_encoder."
_DROPPED: Reasons = (
    (r"text_encoder\..+", "text tower"),
    (r"(image|text)_projector\.weight", "projection"),
    (r"log_logit_scale", "temperature of the loss"),
    (r"(image_encoder\.)?head\.(cls_token|(k|v|linear)\.(weight|bias))", "attention pooling"),
)
_NAME, _KERNEL = "AIMv2 (official names)", "preprocessor.patchifier.proj.weight"


def _prefix(state: State) -> str:
    return _TOWER if f"{_TOWER}{_KERNEL}" in state else ""


def _matches(state: State) -> bool:
    return f"{_prefix(state)}{_KERNEL}" in state and f"{_prefix(state)}trunk.blocks.0.norm_1.weight" in state


def _read(state: State, layout: Layout) -> Recognised:
    return take(state, _NAME, prefix=_prefix(state), pairs=_PAIRS, dropped=_DROPPED)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, partial(put, pairs=_PAIRS))]
"""The formats of this module, for the list of all."""
