"""Checkpoints of Hugging Face transformers' plain ViTs, recognised from their keys.

transformers spells a family's encoder in one way, whichever task's head stands on it; the task's model puts
one word before it (``vit.``, ``beit.``, ``vision_model.``). Its fifth version calls some modules otherwise
in memory, so both spellings are read; files keep the older one, which is what `Format.write` gives.

Names are those of transformers 5.24.0, whose models wrote the files that were looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mae_bench.backbones.formats.clip import as_rows, as_tables
from mae_bench.backbones.formats.contract import Format, State
from mae_bench.backbones.formats.dinov2 import position_apart, position_into_token
from mae_bench.backbones.formats.names import Pairs, Reasons, translated
from mae_bench.backbones.formats.spelling import Spelling, prefix_of, read, write
from mae_bench.backbones.formats.transformers_tensors import gates, kernel_of_rows, one_norm, rows_of_kernel

_HEAD: Reasons = ((r"(cls_|distillation_)?classifier\.(weight|bias)", "head"),)
_MASK: Reasons = ((r"embeddings\.mask_token", "mask token"),)
_POOLER: Reasons = ((r"pooler\.dense\.(weight|bias)", "pooler"),)
_DECODER: Reasons = (
    (r"decoder\.0\.(weight|bias)", "decoder"),  # SimMIM's
    (r"decoder\.(mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias))", "decoder"),  # MAE's
    # transformers 5 writes `decoder_encoder.layer` for what MAE's decoder calls `decoder_layers`.
    (
        r"decoder\.decoder_(layers|encoder\.layer)\.\d+"
        r"\.(attention|intermediate|output|mlp|layernorm_before|layernorm_after)\..*(weight|bias)",
        "decoder",
    ),
)
_SEGMENTATION: Reasons = ((r"(decode_head|auxiliary_head|fpn[1-4]?)\..+", "segmentation head"),)
_TEXT: Reasons = (
    (r"text_model\..+", "text tower"),
    (r"(visual|text)_projection\.(weight|bias)", "projection"),
    (r"logit_(scale|bias)", "temperature of the loss"),
    (r"(vision_model\.)?embeddings\.position_ids", "buffer"),
)
_MAP_POOLING: Reasons = (
    (
        r"head\.(probe|attention\.in_proj_(weight|bias)|attention\.out_proj\.(weight|bias)"
        r"|layernorm\.(weight|bias)|mlp\.fc[12]\.(weight|bias))",
        "attention pooling",
    ),
)

# ---------------------------------------------------------------- names


def _blocks(*places: str, inside: Pairs) -> Pairs:
    """Pairs within a block as pairs of names; the first place of the blocks is written, all are read."""
    return tuple((f"{place}.#.{theirs}", f"blocks.#.{ours}") for place in places for theirs, ours in inside)


def _attention(*parts: str, split_bias: bool = False) -> Pairs:
    """Pairs of queries, keys and values.

    Args:
        parts: what the three are called.
        split_bias: timm keeps the biases of queries and values apart, and keys have none.
    """
    leaf = "weight" if split_bias else "*"
    whole = ((f"{part}.{leaf}", f"attn.qkv.{leaf}@{place}/3") for place, part in enumerate(parts, 1))
    apart = ((f"{parts[0]}.bias", "attn.q_bias"), (f"{parts[2]}.bias", "attn.v_bias"))
    return (*whole, *(apart if split_bias else ()))


_FILES = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_PATCHES = "embeddings.patch_embeddings.projection"
_EMBEDDINGS: Pairs = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    (f"{_PATCHES}.*", "patch_embed.proj.*"),
    ("layernorm.*", "norm.*"),
)
_OUTPUT: Pairs = (("attention.output.dense.*", "attn.proj.*"), ("attention.o_proj.*", "attn.proj.*"))
_VIT_BLOCK: Pairs = (
    *_OUTPUT,
    ("layernorm_before.*", "norm1.*"),
    ("layernorm_after.*", "norm2.*"),
    ("intermediate.dense.*", "mlp.fc1.*"),
    ("mlp.fc1.*", "mlp.fc1.*"),
    ("output.dense.*", "mlp.fc2.*"),
    ("mlp.fc2.*", "mlp.fc2.*"),
)
_LATER = tuple(f"attention.{part}_proj" for part in "qkv")
_TABLE = "relative_position_bias_table"

VIT = Spelling(
    name="Hugging Face ViT (transformers)",
    layout="vit",
    kernel=f"{_PATCHES}.weight",
    pairs=(
        *_EMBEDDINGS,
        # timm's plain ViT has no distillation token; as a register with a position of its own it is the same.
        ("embeddings.distillation_token", "reg_token"),
        *_blocks("encoder.layer", "layers", inside=(*_attention(*_FILES), *_attention(*_LATER), *_VIT_BLOCK)),
    ),
    dropped=(*_HEAD, *_MASK, *_POOLER, *_DECODER),
)
BEIT = Spelling(
    name="Hugging Face BEiT (transformers)",
    layout="beit",
    kernel=f"{_PATCHES}.weight",
    pairs=(
        *_EMBEDDINGS,
        ("pooler.layernorm.*", "fc_norm.*"),
        (f"encoder.relative_position_bias.{_TABLE}", f"rel_pos_bias.{_TABLE}"),
        (f"shared_position_bias.{_TABLE}", f"rel_pos_bias.{_TABLE}"),
        *_blocks(
            "encoder.layer",
            "layers",
            inside=(
                *_attention(*_FILES, split_bias=True),
                *_attention(*_LATER, split_bias=True),
                *_VIT_BLOCK,
                ("lambda_1", "gamma_1"),
                ("lambda_2", "gamma_2"),
                (f"attention.attention.relative_position_bias.{_TABLE}", f"attn.{_TABLE}"),
                (f"relative_position_bias.{_TABLE}", f"attn.{_TABLE}"),
            ),
        ),
    ),
    dropped=(
        *_HEAD,
        *_MASK,
        *_SEGMENTATION,
        (r"lm_head\.(weight|bias)", "head"),
        (r"(.+\.)?relative_position_index", "buffer"),
    ),
    finish=one_norm,
)
_NORMS: Pairs = (("norm1.*", "norm1.*"), ("norm2.*", "norm2.*"))
DINOV2 = Spelling(
    name="Hugging Face DINOv2 (transformers)",
    layout="vit",
    kernel=f"{_PATCHES}.weight",
    pairs=(
        *_EMBEDDINGS,
        ("embeddings.register_tokens", "reg_token"),
        *_blocks(
            "encoder.layer",
            inside=(
                *(*_attention(*_FILES), *_attention(*_LATER), *_OUTPUT, *_NORMS),
                ("layer_scale1.lambda1", "ls1.gamma"),
                ("layer_scale2.lambda1", "ls2.gamma"),
                ("mlp.fc1.*", "mlp.fc1.*"),
                ("mlp.fc2.*", "mlp.fc2.*"),
            ),
        ),
    ),
    gated=_blocks(
        "encoder.layer",
        inside=(
            ("mlp.weights_in.*", "mlp.fc1.*"),
            ("mlp.weights_out.*", "mlp.fc2.*"),
            ("mlp.gate_proj.*", "mlp.fc1.*@1/2"),
            ("mlp.up_proj.*", "mlp.fc1.*@2/2"),
            ("mlp.down_proj.*", "mlp.fc2.*"),
        ),
    ),
    dropped=(*_HEAD, *_MASK),
    finish=position_into_token,
    undo=position_apart,
)
DINOV3 = Spelling(
    name="Hugging Face DINOv3 ViT (transformers)",
    layout="eva",
    kernel="embeddings.patch_embeddings.weight",
    pairs=(
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.register_tokens", "reg_token"),
        ("embeddings.patch_embeddings.*", "patch_embed.proj.*"),
        ("norm.*", "norm.*"),
        *_blocks(
            "layer",
            "model.layer",
            inside=(
                *(*_attention(*_LATER, split_bias=True), *_NORMS),
                ("attention.o_proj.*", "attn.proj.*"),
                ("layer_scale1.lambda1", "gamma_1"),
                ("layer_scale2.lambda1", "gamma_2"),
                ("mlp.up_proj.*", "mlp.fc1.*"),
                ("mlp.down_proj.*", "mlp.fc2.*"),
            ),
        ),
    ),
    gated=_blocks(
        "layer",
        "model.layer",
        inside=(("mlp.gate_proj.*", "mlp.fc1_g.*"), ("mlp.up_proj.*", "mlp.fc1_x.*")),
    ),
    dropped=_MASK,
    finish=gates,
)
_TOWER: Pairs = (
    ("embeddings.patch_embedding.*", "patch_embed.proj.*"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("post_layernorm.*", "norm.*"),
    *_blocks(
        "encoder.layers",
        inside=(
            *_attention(*(f"self_attn.{part}_proj" for part in "qkv")),
            ("self_attn.out_proj.*", "attn.proj.*"),
            ("layer_norm1.*", "norm1.*"),
            ("layer_norm2.*", "norm2.*"),
            ("mlp.fc1.*", "mlp.fc1.*"),
            ("mlp.fc2.*", "mlp.fc2.*"),
        ),
    ),
)
CLIP = Spelling(
    name="Hugging Face CLIP vision tower (transformers)",
    layout="vit",
    kernel="embeddings.patch_embedding.weight",
    # transformers has it so: pre_layrnorm.
    pairs=(("embeddings.class_embedding", "cls_token"), ("pre_layrnorm.*", "norm_pre.*"), *_TOWER),
    dropped=(*_HEAD, *_TEXT),
    finish=as_tables,
    undo=as_rows,
)
SIGLIP = Spelling(
    name="Hugging Face SigLIP vision tower (transformers)",
    layout="vit",
    kernel="embeddings.patch_embedding.weight",
    pairs=_TOWER,
    dropped=(*_HEAD, *_TEXT, *_MAP_POOLING),
    finish=as_tables,
    undo=as_rows,
)
SIGLIP2 = replace(
    SIGLIP,
    name="Hugging Face SigLIP 2 vision tower (transformers)",
    finish=kernel_of_rows,
    undo=rows_of_kernel,
)


# ---------------------------------------------------------------- telling them apart


def _matches(spelling: Spelling, kind: Callable[[State], bool], state: State) -> bool:
    """One encoder, with at least one block, of the right kind among those with such a kernel."""
    prefix = prefix_of(spelling, state)
    if prefix is None:
        return False
    inside = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    pairs = (*spelling.pairs, *spelling.gated)
    return any(translated(name, pairs).startswith("blocks.") for name in inside) and kind(state)


def _is_beit(state: State) -> bool:
    """BEiT's keys have no bias where its queries have one."""
    names = "\n".join(state)
    if re.search(r"\.lambda_1$|relative_position_bias_table$", names, re.MULTILINE):
        return True
    return bool(re.search(r"(query|q_proj)\.bias$", names, re.MULTILINE)) and not re.search(
        r"(key|k_proj)\.bias$", names, re.MULTILINE
    )


def _is_dinov2(state: State) -> bool:
    return any(name.endswith("layer_scale1.lambda1") for name in state)


def _is_clip(state: State) -> bool:
    return any(name.endswith("embeddings.class_embedding") for name in state)


def _has_kernel_of(dimensions: int, state: State) -> bool:
    kernels = [state[name] for name in state if name.endswith(SIGLIP.kernel)]
    return all(kernel.ndim == dimensions for kernel in kernels)


_KINDS: tuple[tuple[Spelling, Callable[[State], bool]], ...] = (
    (VIT, lambda state: not _is_dinov2(state) and not _is_beit(state)),
    (BEIT, lambda state: not _is_dinov2(state) and _is_beit(state)),
    (DINOV2, _is_dinov2),
    (DINOV3, lambda state: True),
    (CLIP, _is_clip),
    (SIGLIP, lambda state: not _is_clip(state) and _has_kernel_of(4, state)),
    (SIGLIP2, lambda state: not _is_clip(state) and _has_kernel_of(2, state)),
)

FORMATS: list[Format] = [
    Format(
        name=spelling.name,
        layouts=(spelling.layout,),
        matches=partial(_matches, spelling, kind),
        read=partial(read, spelling),
        write=partial(write, spelling),
    )
    for spelling, kind in _KINDS
]
"""The formats of this module, for the list of all."""
