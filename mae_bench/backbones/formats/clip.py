"""CLIP's image tower (Radford et al., arXiv:2103.00020) in the names of OpenAI's CLIP and of open_clip.

The tower lies under ``visual.`` beside the text tower, or is there alone. Whether its MLPs use QuickGELU
(OpenAI's weights and those fine-tuned from them, also DFN's and MetaCLIP's) or GELU (LAION's and others) its
weights do not show: timm has an architecture for each.

open_clip's towers that are timm's models lie under ``visual.trunk.`` in whatever names timm gives them;
`trunk` takes them out for the other formats to recognise.
"""

from __future__ import annotations

import re
from typing import Any

import timm
from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, pattern_of, put, take
from mae_bench.backbones.report import Entry

_NAME = "CLIP image tower (OpenAI, open_clip)"
_VISUAL, _TRUNK = "visual.", "visual.trunk."
_BLOCK: Pairs = (
    ("ln_1.*", "norm1.*"),
    ("ln_2.*", "norm2.*"),
    ("attn.in_proj_*", "attn.qkv.*"),
    ("attn.out_proj.*", "attn.proj.*"),
    ("mlp.c_fc.*", "mlp.fc1.*"),
    ("mlp.c_proj.*", "mlp.fc2.*"),
    ("ls_1.gamma", "ls1.gamma"),
    ("ls_2.gamma", "ls2.gamma"),
)
_PAIRS: Pairs = (
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.weight", "patch_embed.proj.weight"),
    ("ln_pre.*", "norm_pre.*"),
    ("ln_post.*", "norm.*"),
    *((f"transformer.resblocks.#.{theirs}", f"blocks.#.{ours}") for theirs, ours in _BLOCK),
)
_RESBLOCK = pattern_of(f"transformer.resblocks.#.{theirs}" for theirs, _ in _BLOCK)
_BESIDE: Reasons = (
    (
        rf"text\..+|text_decoder\..+|{_RESBLOCK}|transformer\.resblocks\.\d+\.attn_mask|attn_mask"
        r"|token_embedding\.weight|positional_embedding|ln_final\.(weight|bias)|text_projection(\.weight|\.bias)?",
        "text tower",
    ),
    (r"logit_(scale|bias)", "temperature of the loss"),
    (r"input_resolution|context_length|vocab_size", "number that the authors keep beside the weights"),
)
_POOLING = r"attn_pool(_contrastive)?\.(query|ln_[qk]\.(weight|bias)|attn\.\w+(\.\w+)?)"
_TRUNK_BESIDE: Reasons = (
    *_BESIDE,
    (r"visual\.head\.(proj\.(weight|bias)|mlp\.fc[12]\.(weight|bias))", "projection"),
)


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    return f"{prefix}class_embedding" in state and any(
        name.startswith(f"{prefix}transformer.resblocks.0.") for name in state
    )


def _prefix(state: State) -> str:
    return _VISUAL if f"{_VISUAL}class_embedding" in state else ""


def as_tables(found: Recognised) -> None:
    """Class token (D,) and position embeddings (P+N, D) as (1, 1, D) and (1, P+N, D), in place."""
    token, table = found.encoder.get("cls_token"), found.encoder.get("pos_embed")
    if token is not None and token.ndim == 1:
        found.encoder["cls_token"] = token[None, None]
    if table is not None and table.ndim == 2:
        found.encoder["pos_embed"] = table[None]


def as_rows(encoder: State) -> dict[str, Tensor]:
    """The way back of `as_tables`."""
    state = {**encoder, "pos_embed": encoder["pos_embed"][0]}
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"][0, 0]
    return state


def _read(state: State, layout: Layout) -> Recognised:
    prefix = _prefix(state)
    own = re.escape(prefix)
    dropped: Reasons = ((f"{own}proj", "projection"), (f"{own}{_POOLING}", "attention pooling"))
    if any(name.startswith(f"{prefix}attn_pool.") for name in state):
        # open_clip's CoCa has no norm but that of what was pooled.
        dropped += ((rf"{own}ln_post\.(weight|bias)", "attention pooling"),)
    found = take(state, _NAME, prefix=prefix, pairs=_PAIRS, dropped=(*dropped, *(_BESIDE if prefix else ())))
    as_tables(found)
    found.notes.append(
        "CLIP's weights do not show whether they were trained with QuickGELU, as OpenAI's were, or with "
        "GELU, as LAION's: timm's *_clip_quickgelu_* are for the former, *_clip_* for the latter"
    )
    return found


def _write(encoder: State) -> dict[str, Tensor]:
    """The image tower alone, under the name it has beside the text tower."""
    return put(as_rows(encoder), prefix=_VISUAL, pairs=_PAIRS)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, _write)]
"""The formats of this module, for the list of all."""


def with_quickgelu(arch: str, state: State) -> str:
    """The architecture with QuickGELU, if timm has it, for OpenAI's own files: a number tells them."""
    quick = arch.replace("_clip_", "_clip_quickgelu_")
    return quick if "input_resolution" in state and timm.is_model(quick) else arch


def trunk(state: State) -> tuple[dict[str, Tensor], list[Entry], dict[str, str]] | None:
    """timm's model within a model of open_clip; None where there is none.

    Returns:
        Its tensors and whatever is not known; what belongs to the rest of the model; and the names that the
        tensors have in the file.
    """
    if not any(name.startswith(_TRUNK) for name in state):
        return None
    inside: dict[str, Tensor] = {}
    dropped: list[Entry] = []
    names: dict[str, Any] = {}
    for name, tensor in state.items():
        reason = next((why for pattern, why in _TRUNK_BESIDE if re.fullmatch(pattern, name)), "")
        if reason:
            dropped.append(Entry(name, tuple(tensor.shape), reason))
        else:
            bare = name.removeprefix(_TRUNK)
            inside[bare], names[bare] = tensor, name
    return inside, dropped, names
