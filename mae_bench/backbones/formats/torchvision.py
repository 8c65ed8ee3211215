"""torchvision's ViT: its own names, with the query, key and value of attention already in one tensor.

Names are those of torchvision.models.vision_transformer; files from before its version 0.12 call the layers
of an MLP ``linear_1`` and ``linear_2``.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, put, take

_LAYER = "encoder.layers.encoder_layer_#"
_PAIRS: Pairs = (
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("conv_proj.*", "patch_embed.proj.*"),
    ("encoder.ln.*", "norm.*"),
    (f"{_LAYER}.ln_1.*", "blocks.#.norm1.*"),
    (f"{_LAYER}.ln_2.*", "blocks.#.norm2.*"),
    (f"{_LAYER}.self_attention.in_proj_*", "blocks.#.attn.qkv.*"),
    (f"{_LAYER}.self_attention.out_proj.*", "blocks.#.attn.proj.*"),
    (f"{_LAYER}.mlp.0.*", "blocks.#.mlp.fc1.*"),
    (f"{_LAYER}.mlp.3.*", "blocks.#.mlp.fc2.*"),
    (f"{_LAYER}.mlp.linear_1.*", "blocks.#.mlp.fc1.*"),
    (f"{_LAYER}.mlp.linear_2.*", "blocks.#.mlp.fc2.*"),
)
_DROPPED: Reasons = ((r"heads\.(head|pre_logits)\.(weight|bias)", "head"),)
_NAME = "torchvision ViT"


def _matches(state: State) -> bool:
    return "encoder.pos_embedding" in state and any(name.startswith("conv_proj.") for name in state)


def _read(state: State, layout: Layout) -> Recognised:
    return take(state, _NAME, pairs=_PAIRS, dropped=_DROPPED)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, partial(put, pairs=_PAIRS))]
"""The formats of this module, for the list of all."""
