"""Checkpoint formats of plain ViTs, recognised from their keys, as the encoder's tensors in timm's names.

Each format says exactly which keys an encoder may leave behind; whatever else a file holds is unexpected.

* MAE pretraining release, with decoder: ``decoder_*`` and ``mask_token`` beside the encoder.
* MAE fine-tuned (and timm's average-pooled classifiers): ``fc_norm`` in place of ``norm``, and a head.
* Classifiers on the class token: ``norm`` and a head, which the MAE linear probe makes of BatchNorm
  (``head.0``) and a linear layer (``head.1``).
* The encoder alone: MAE pretraining release without decoder, and timm's without head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mae_bench.backbones.report import Entry
from mae_bench.errors import MaeBenchError

_DECODER = re.compile(
    r"mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias)"
    r"|decoder_blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
_HEAD = re.compile(r"head\.(weight|bias|1\.weight|1\.bias|0\.(running_mean|running_var|num_batches_tracked))")
_POOLING = re.compile(r"attn_pool\..+")
_CLASSIFIER = re.compile(r"(fc|head|norm)\..+")  # of hierarchical networks


@dataclass
class Recognised:
    """A checkpoint's encoder under timm's names.

    Attributes:
        format: what the checkpoint is, in words.
        encoder: tensors of the encoder, and whatever is not known.
        renamed: name now -> name in the file.
        dropped: tensors that the format may hold besides the encoder.
    """

    format: str
    encoder: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: list[Entry] = field(default_factory=list)


def recognise(state: Mapping[str, Tensor], where: str) -> Recognised:
    """Take the encoder out of a checkpoint.

    Args:
        where: the file's name, for messages.

    Raises:
        MaeBenchError: the checkpoint holds no ViT encoder (a classification head alone, another network).
    """
    with_decoder = "mask_token" in state and any(name.startswith("decoder_blocks.") for name in state)
    found = Recognised("", {})
    for name, tensor in state.items():
        reason = _why_dropped(name, with_decoder)
        if reason:
            found.dropped.append(Entry(name, tuple(tensor.shape), reason))
        else:
            found.encoder[name] = tensor
    if not any(name.startswith(("patch_embed.", "blocks.")) for name in found.encoder):
        only_head = not found.encoder and any(entry.note == "head" for entry in found.dropped)
        raise MaeBenchError(
            f"{where} holds {'only a classification head' if only_head else 'no ViT encoder'}: "
            f"its {len(state)} tensors are {', '.join(list(state)[:5])}{' ...' if len(state) > 5 else ''}"
        )
    pooled = _norm_from_fc_norm(found)
    heads = any(entry.note == "head" for entry in found.dropped)
    if with_decoder:
        found.format = "MAE pretraining checkpoint with decoder"
    elif pooled:
        found.format = "average-pooled ViT (fine-tuned MAE or timm)"
    elif heads:
        found.format = "ViT classifier"
    else:
        found.format = "ViT encoder (MAE pretraining or timm)"
    return found


def _why_dropped(name: str, with_decoder: bool) -> str:
    if with_decoder and _DECODER.fullmatch(name):
        return "decoder"
    if _HEAD.fullmatch(name):
        return "head"
    if _POOLING.fullmatch(name):
        return "attention pooling"
    return ""


def _norm_from_fc_norm(found: Recognised) -> bool:
    """Where the norm was trained after pooling, let it be the final norm of the tokens."""
    if any(name.startswith("norm.") for name in found.encoder):
        return False
    pooled = [name for name in found.encoder if name.startswith("fc_norm.")]
    for name in pooled:
        new = name.removeprefix("fc_")
        found.encoder[new] = found.encoder.pop(name)
        found.renamed[new] = name
    return bool(pooled)


def without_classifier(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Recognised:
    """A hierarchical classifier's checkpoint (ResNet, ConvNeXt, Swin) without what follows the last map.

    Args:
        own: the tensors of the network that it is for, which has neither head nor final norm.
    """
    found = Recognised("hierarchical encoder (timm)", {})
    for name, tensor in state.items():
        if name not in own and _CLASSIFIER.fullmatch(name):
            reason = "final norm" if re.match(r"(head\.)?norm\.", name) else "head"
            found.dropped.append(Entry(name, tuple(tensor.shape), reason))
        else:
            found.encoder[name] = tensor
    if found.dropped:
        found.format = "hierarchical classifier (timm)"
    return found
