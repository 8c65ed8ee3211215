"""Checkpoints whose encoder has timm's own names: MAE's, I-JEPA's, DeiT's and whatever timm itself saves.

* MAE pretraining release, with decoder: ``decoder_*`` and ``mask_token`` beside the encoder.
* MAE fine-tuned (and timm's average-pooled classifiers): ``fc_norm`` in place of ``norm``, and a head.
* Classifiers on the class token: ``norm`` and a head, which the MAE linear probe makes of BatchNorm
  (``head.0``) and a linear layer (``head.1``).
* DeiT III: a classifier whose LayerScale is called ``gamma_1`` and ``gamma_2``.
* The encoder alone, with class token (MAE without decoder, DINO, linear probes of MoCo v3) or without
  (I-JEPA, SigLIP).

timm's `Eva` has the same names where it has a table of positions beside rotary ones that are computed
(Perception Encoder, ``vit_*_rope_ape_*``): nothing in such a checkpoint tells it from a plain ViT's, so the
architecture that is asked for decides.
"""

from __future__ import annotations

import re

from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import TIMM, Pairs, Reasons, norm_from_fc_norm, put, take

HEAD: Reasons = (
    (r"head\.(weight|bias|1\.weight|1\.bias|0\.(running_mean|running_var|num_batches_tracked))", "head"),
)
_DECODER: Reasons = (
    (
        r"mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias)"
        r"|decoder_blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)",
        "decoder",
    ),
)
_EVA = "Eva encoder or classifier with a table of positions (timm)"
_POOLING: Reasons = ((r"attn_pool\..+", "attention pooling"),)
# The same pairs with DeiT III's names for LayerScale, which BEiT has too.
GAMMA: Pairs = (
    *((f"blocks.#.gamma_{number}", f"blocks.#.ls{number}.gamma") for number in (1, 2)),
    *((theirs, ours) for theirs, ours in TIMM if ".ls" not in theirs),
)
# Parts of names that timm's VisionTransformer never has, but its relatives do.
_FOREIGN = re.compile(
    r"(^|\.)(q_bias|v_bias|[qkv]_proj|relative_position\w*|rel_pos\w*|rope\w*|gamma_[12]|storage_tokens"
    r"|inner_attn_ln|blocks\.\d+\.proj)(\.|$)"
)


# ---------------------------------------------------------------- telling them apart


def is_vit(state: State, prefix: str = "", *, gamma: bool = False) -> bool:
    """Whether a plain ViT with absolute positions lies under `prefix` in names of timm's manner.

    Args:
        gamma: let LayerScale be called ``gamma_1`` and ``gamma_2``.
    """
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    foreign = (_FOREIGN.search(name) for name in inside)
    return (
        "pos_embed" in inside
        and any(name.startswith("patch_embed.proj.") for name in inside)
        and any(name.startswith("blocks.0.") for name in inside)
        and not any(match for match in foreign if match and not (gamma and match[2].startswith("gamma_")))
    )


def kind_of(state: State) -> str:
    """Which of the formats of this module a checkpoint has; "" for none."""
    if not is_vit(state, gamma=True) or _of_another_method(state):
        return ""
    if any(name.startswith("decoder_blocks.") for name in state):
        return "decoder" if "mask_token" in state else ""
    if any(re.search(r"\.gamma_[12]$", name) for name in state):
        return "gamma" if "blocks.0.attn.qkv.bias" in state else ""
    normed = any(name.startswith("norm.") for name in state)
    if not normed and any(name.startswith("fc_norm.") for name in state):
        return "pooled"
    if any(name.startswith("head.") for name in state):
        return "classifier"
    return "encoder" if "cls_token" in state else "tokenless"


def is_head(name: str) -> bool:
    """Whether a tensor is a classifier's head."""
    return any(re.fullmatch(pattern, name) for pattern, _ in HEAD)


def _of_another_method(state: State) -> bool:
    """Whether something stands beside the encoder by which a method is known."""
    projector = state.get("head.0.weight")
    return (
        "masked_embed" in state  # iBOT
        or "register_tokens" in state  # DINOv2
        or ("mask_token" in state and "blocks.0.ls1.gamma" in state)  # DINOv2
        or re.search(r"^blocks\.0\.0\.", "\n".join(state), re.MULTILINE) is not None  # DINOv2 in chunks
        or (projector is not None and projector.ndim == 2)  # MoCo v3
        or "fc.fc1.weight" in state  # MSN
        or any(
            name.startswith(("pred_head.", "head.projection.", "lm_head.")) for name in state
        )  # MaskFeat, BEiT
    )


def _format(name: str, kind: str, dropped: Reasons, *, pairs: Pairs = TIMM, back: bool = True) -> Format:
    def read(state: State, layout: Layout) -> Recognised:
        if layout == "eva":
            return norm_from_fc_norm(take(state, _EVA, dropped=dropped))
        found = take(state, name, pairs=pairs, dropped=dropped)
        return norm_from_fc_norm(found) if kind == "pooled" else found

    def write(encoder: State) -> dict[str, Tensor]:
        own = {re.sub(r"^norm\.", "fc_norm.", name): tensor for name, tensor in encoder.items()}
        return put(own if kind == "pooled" else encoder, pairs=pairs)

    return Format(name, ("vit", "eva"), lambda state: kind_of(state) == kind, read, write if back else None)


UNKNOWN = Format(
    "ViT of no known format",
    ("vit", "beit", "eva"),
    lambda state: False,
    lambda state, layout: take(state, "ViT of no known format", pairs=(), dropped=(*HEAD, *_POOLING)),
)
"""What a checkpoint is read as that has a ViT's blocks or patch embedding, but is of no format."""

FORMATS: list[Format] = [
    _format("MAE pretraining checkpoint with decoder", "decoder", _DECODER, back=False),
    _format("average-pooled ViT (fine-tuned MAE or timm)", "pooled", (*HEAD, *_POOLING)),
    _format("ViT classifier", "classifier", (*HEAD, *_POOLING), back=False),
    _format("DeiT III classifier", "gamma", HEAD, pairs=GAMMA),
    _format("ViT encoder without class token (I-JEPA, SigLIP or timm)", "tokenless", _POOLING),
    _format("ViT encoder (MAE pretraining or timm)", "encoder", _POOLING),
]
"""The formats of this module, for the list of all."""
