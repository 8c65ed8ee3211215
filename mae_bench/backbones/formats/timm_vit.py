"""Checkpoints whose encoder has timm's own names: MAE's, I-JEPA's, DeiT's and whatever timm itself saves.

* MAE pretraining release, with decoder: ``decoder_*`` and ``mask_token`` beside the encoder.
* MAE fine-tuned (and timm's average-pooled classifiers): ``fc_norm`` in place of ``norm``, and a head.
* Classifiers on the class token: ``norm`` and a head, which the MAE linear probe makes of BatchNorm
  (``head.0``) and a linear layer (``head.1``).
* DeiT III: a classifier whose LayerScale is called ``gamma_1`` and ``gamma_2``.
* The encoder alone, with class token (MAE without decoder, DINO, linear probes of MoCo v3) or without
  (I-JEPA, SigLIP).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.pairs import TIMM, Pairs, Reasons, is_vit, put, take
from mae_bench.backbones.report import Entry

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
_POOLING: Reasons = ((r"attn_pool\..+", "attention pooling"),)
_CLASSIFIER = re.compile(r"(fc|head|norm)\..+")  # of hierarchical networks
# The same pairs with DeiT III's names for LayerScale, which BEiT has too.
GAMMA: Pairs = (
    *((f"blocks.#.gamma_{number}", f"blocks.#.ls{number}.gamma") for number in (1, 2)),
    *((theirs, ours) for theirs, ours in TIMM if ".ls" not in theirs),
)


# ---------------------------------------------------------------- telling them apart


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


def norm_from_fc_norm(found: Recognised) -> None:
    """Where the norm was trained after pooling, let it be the final norm of the tokens."""
    if any(name.startswith("norm.") for name in found.encoder):
        return
    for name in [name for name in found.encoder if name.startswith("fc_norm.")]:
        new = name.removeprefix("fc_")
        found.encoder[new] = found.encoder.pop(name)
        found.renamed[new] = found.renamed.pop(name, name)


def _format(name: str, kind: str, dropped: Reasons, *, pairs: Pairs = TIMM, back: bool = True) -> Format:
    def read(state: State, layout: Layout) -> Recognised:
        found = take(state, name, pairs=pairs, dropped=dropped)
        if kind == "pooled":
            norm_from_fc_norm(found)
        return found

    def write(encoder: State) -> dict[str, Tensor]:
        own = {re.sub(r"^norm\.", "fc_norm.", name): tensor for name, tensor in encoder.items()}
        return put(own if kind == "pooled" else encoder, pairs=pairs)

    return Format(name, ("vit",), lambda state: kind_of(state) == kind, read, write if back else None)


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


# ---------------------------------------------------------------- hierarchical networks


def without_classifier(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Recognised:
    """A hierarchical classifier's checkpoint (ResNet, ConvNeXt, Swin) without its head.

    Args:
        own: the tensors of the network that it is for, which has no head, and the norm that follows its last
            map as ``final_norm``.
    """
    found = Recognised("hierarchical encoder (timm)", {})
    before_pooling = any(name.startswith("norm.") for name in state)
    for name, tensor in state.items():
        final = name.replace("norm." if before_pooling else "head.norm.", "final_norm.", 1)
        if final.startswith("final_norm.") and final in own and final != name:
            found.encoder[final] = tensor
            found.renamed[final] = name
        elif name not in own and _CLASSIFIER.fullmatch(name):
            reason = "final norm" if re.match(r"(head\.)?norm\.", name) else "head"
            found.dropped.append(Entry(name, tuple(tensor.shape), reason))
        else:
            found.encoder[name] = tensor
    if found.dropped:
        found.format = "hierarchical classifier (timm)"
    return found
