"""Names by a table of pairs: what a format calls the tensors of a plain ViT and timm's names, both ways.

In a pair, ``#`` stands for a number that both names have and ``*`` for ``weight`` or ``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from torch import Tensor

from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.report import Entry

Pairs = tuple[tuple[str, str], ...]
"""Their name, timm's name. Where several of theirs stand for one of timm's, the first is written."""

Reasons = tuple[tuple[str, str], ...]
"""Pattern of a tensor's whole name -> what the tensor belongs to, which is why it is left out."""

_OWN = (
    *("cls_token", "reg_token", "pos_embed", "patch_embed.proj.*", "norm_pre.*", "norm.*", "fc_norm.*"),
    *(f"blocks.#.{module}.*" for module in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    *("blocks.#.attn.q_norm.*", "blocks.#.attn.k_norm.*", "blocks.#.ls1.gamma", "blocks.#.ls2.gamma"),
)
TIMM: Pairs = tuple((name, name) for name in _OWN)
"""timm's own names, for formats that only put something before them."""

# Parts of names that timm's VisionTransformer never has, but its relatives do.
_FOREIGN = re.compile(
    r"(^|\.)(q_bias|v_bias|[qkv]_proj|relative_position\w*|rel_pos\w*|rope\w*|gamma_[12]|storage_tokens|inner_attn_ln)"
    r"(\.|$)"
)


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


def take(
    state: State, name: str, *, prefix: str = "", pairs: Pairs = TIMM, dropped: Reasons = ()
) -> Recognised:
    """The encoder in timm's names; what neither a pair nor a reason knows keeps its own name.

    Args:
        name: of the format.
        prefix: what stands before the encoder's names, in addition to the pairs.
        dropped: why tensors are left out, by their names in `state`.
    """
    found = Recognised(name, {})
    for theirs, tensor in state.items():
        reason = next((why for pattern, why in dropped if re.fullmatch(pattern, theirs)), "")
        ours = _translated(theirs.removeprefix(prefix), pairs) if theirs.startswith(prefix) else ""
        if reason:
            found.dropped.append(Entry(theirs, tuple(tensor.shape), reason))
        elif ours and ours not in found.encoder:
            found.encoder[ours] = tensor
            if ours != theirs:
                found.renamed[ours] = theirs
        else:
            found.encoder[theirs] = tensor
    return found


def put(encoder: State, *, prefix: str = "", pairs: Pairs = TIMM) -> dict[str, Tensor]:
    """The way back of `take`: their names for an encoder's tensors."""
    back = _turned(pairs)
    return {prefix + (_translated(name, back) or name): tensor for name, tensor in encoder.items()}


def put_gated(encoder: State, *, prefix: str = "", pairs: Pairs, gated: Pairs) -> dict[str, Tensor]:
    """As `put`, with the pairs `gated` first where an MLP is a SwiGLU: its ``fc1`` holds gate and value."""
    blocks = {
        name.partition(".mlp.")[0]
        for name, tensor in encoder.items()
        if name.endswith(".mlp.fc2.weight")
        and encoder[name.replace(".fc2.", ".fc1.")].shape[0] == 2 * tensor.shape[1]
    }
    within = {name: tensor for name, tensor in encoder.items() if name.partition(".mlp.")[0] in blocks}
    rest = {name: tensor for name, tensor in encoder.items() if name not in within}
    return {**put(rest, prefix=prefix, pairs=pairs), **put(within, prefix=prefix, pairs=(*gated, *pairs))}


def pattern_of(pairs: Iterable[tuple[str, str]]) -> str:
    """A pattern of any of their names, for a reason."""
    return f"({'|'.join(_pattern(theirs) for theirs, _ in pairs)})"


@cache
def _turned(pairs: Pairs) -> Pairs:
    return tuple((ours, theirs) for theirs, ours in pairs)


@cache
def _compiled(pairs: Pairs) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(_pattern(source)), re.sub(r"[#*]", "{}", target)) for source, target in pairs]


def _translated(name: str, pairs: Pairs) -> str:
    for pattern, target in _compiled(pairs):
        match = pattern.fullmatch(name)
        if match is not None:
            return target.format(*match.groups())
    return ""


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)")
