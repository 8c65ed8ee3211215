"""Checkpoints of hierarchical networks in timm's names: timm's own, and those of official code.

* Swin and Swin V2 (microsoft/Swin-Transformer), and SimMIM's (microsoft/SimMIM) under ``encoder.``: there
  down-sampling closes a stage, in timm it opens the next.
* ConvNeXt and ConvNeXt V2 (facebookresearch/ConvNeXt-V2), and the encoder that FCMAE pretrains, under
  ``encoder.``. Its convolutions are sparse ones with kernels (K*K, C_in, C_out), or (K*K, C) in depth.
* Hiera (facebookresearch/hiera), and its MAE with a norm of the fused maps and a decoder.

They are no plain ViTs, and so no `Format`; which of them a network can hold, its own names tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import timm
from torch import Tensor

from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, rename, take
from mae_bench.backbones.report import Entry

_ENCODER = "encoder."
_TIMM = "hierarchical encoder (timm)"
_CLASSIFIER = re.compile(r"(fc|head|norm)\..+")

# ---------------------------------------------------------------- Swin

_SWIN: Pairs = (
    *((name, name) for name in ("patch_embed.proj.*", "patch_embed.norm.*", "norm.*")),
    *(
        (f"layers.#.blocks.#.{name}", f"layers.#.blocks.#.{name}")
        for name in (
            *("norm1.*", "norm2.*", "attn.qkv.*", "attn.proj.*", "mlp.fc1.*", "mlp.fc2.*"),
            "attn.relative_position_bias_table",
            *("attn.q_bias", "attn.v_bias", "attn.logit_scale", "attn.cpb_mlp.#.*"),  # Swin V2
        )
    ),
    *(
        (f"layers.{stage}.downsample.{name}", f"layers.{stage + 1}.downsample.{name}")
        for stage in range(3)
        for name in ("norm.*", "reduction.weight")
    ),
)
_BESIDE_SWIN: Reasons = (
    (r"decoder\.0\.(weight|bias)", "decoder"),
    (r"(encoder\.)?mask_token", "mask token"),
    (r".+\.attn\.relative_position_index", "index of relative positions, computed"),
    (r".+\.attn\.relative_coords_table", "relative positions, computed"),
    (r".+\.attn_mask", "mask of shifted windows, computed"),
)


# ---------------------------------------------------------------- ConvNeXt

_CONVNEXT: Pairs = (
    ("downsample_layers.0.#.*", "stem.#.*"),
    ("downsample_layers.#.#.*", "stages.#.downsample.#.*"),
    ("downsample_layers.#.0.ln.*", "stages.#.downsample.0.*"),
    ("downsample_layers.#.1.kernel", "stages.#.downsample.1.weight"),
    *(
        (f"stages.#.#.{theirs}", f"stages.#.blocks.#.{ours}")
        for theirs, ours in (
            ("dwconv.*", "conv_dw.*"),
            ("dwconv.kernel", "conv_dw.weight"),
            ("norm.*", "norm.*"),
            ("norm.ln.*", "norm.*"),
            ("pwconv#.*", "mlp.fc#.*"),
            ("pwconv#.linear.*", "mlp.fc#.*"),
            ("grn.gamma", "mlp.grn.weight"),
            ("grn.beta", "mlp.grn.bias"),
            ("gamma", "gamma"),  # LayerScale, of the first version alone
        )
    ),
)
_BESIDE_CONVNEXT: Reasons = (
    (
        r"(proj|pred)\.(weight|bias)|mask_token"
        r"|decoder\.\d+\.((dwconv|norm|pwconv[12])\.(weight|bias)|grn\.(gamma|beta))",
        "decoder",
    ),
)


def _make_dense(found: Recognised) -> None:
    """Kernels of sparse convolutions as dense ones, and rows of numbers as vectors (in place).

    The places of a sparse kernel are counted down the columns, one column after the other.
    """
    for ours, theirs in found.renamed.items():
        tensor = found.encoder[ours]
        side = math.isqrt(len(tensor)) if tensor.ndim else 0
        if theirs.endswith(".kernel") and side * side == len(tensor):
            turned = tensor.unflatten(0, (side, side)).permute(*reversed(range(tensor.ndim + 1)))
            found.encoder[ours] = turned.contiguous() if tensor.ndim == 3 else turned[:, None].contiguous()
        elif ours.endswith((".bias", ".grn.weight")):
            found.encoder[ours] = tensor.flatten()


# ---------------------------------------------------------------- Hiera

_HIERA: Pairs = (("encoder_norm.*", "norm.*"),)
_BESIDE_HIERA: Reasons = (
    (
        r"mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias)"
        r"|decoder_blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)",
        "decoder",
    ),
    (r"multi_scale_fusion_heads\.\d+\.(weight|bias)", "fusion of the maps for the decoder"),
)


# ---------------------------------------------------------------- all of them


def recognise_hierarchical(state: State, own: Mapping[str, Tensor]) -> Recognised:
    """The encoder in a checkpoint of a hierarchical network, without its head.

    Args:
        own: the tensors of the network that it is for, which has no head, and the norm that follows its last
            map as ``final_norm``.

    Raises:
        MaeBenchError: two tensors of the checkpoint would have one name.
    """
    return _without_classifier(_in_timms_names(state), own)


def channels_of(state: State, arch: str) -> int:
    """How many channels the convolution takes that timm calls the first; 3 where none has its name."""
    first = timm.get_pretrained_cfg_value(arch, "first_conv")
    name = first if isinstance(first, str) else next(iter(first or ()), "")
    kernel = _in_timms_names(state).encoder.get(f"{name}.weight")
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def _in_timms_names(state: State) -> Recognised:
    prefix = _ENCODER if any(name.startswith(_ENCODER) for name in state) else ""
    if f"{prefix}layers.0.downsample.reduction.weight" in state:
        words = "SimMIM pretraining checkpoint (Swin)" if prefix else "Swin (official names)"
        return take(state, words, prefix=prefix, pairs=_SWIN, dropped=_BESIDE_SWIN)
    if f"{prefix}downsample_layers.0.0.weight" in state:
        words = "FCMAE pretraining checkpoint (ConvNeXt V2)" if prefix else "ConvNeXt (official names)"
        found = take(state, words, prefix=prefix, pairs=_CONVNEXT, dropped=_BESIDE_CONVNEXT)
        _make_dense(found)
        return found
    if {"encoder_norm.weight", "decoder_pos_embed"} <= set(state):
        found = take(state, "MAE pretraining checkpoint (Hiera)", pairs=_HIERA, dropped=_BESIDE_HIERA)
        found.notes.append("the final norm is the one of the fused maps, before the decoder")
        return found
    return Recognised(_TIMM, dict(state))


def _without_classifier(found: Recognised, own: Mapping[str, Tensor]) -> Recognised:
    """Leave out what follows the last map, unless the network has it; the norm there gets its name."""
    before_pooling = any(name.startswith("norm.") for name in found.encoder)
    for name in list(found.encoder):
        final = name.replace("norm." if before_pooling else "head.norm.", "final_norm.", 1)
        if final.startswith("final_norm.") and final in own and final != name:
            rename(found, name, final)
        elif name not in own and _CLASSIFIER.fullmatch(name):
            reason = "final norm" if re.match(r"(head\.)?norm\.", name) else "head"
            tensor = found.encoder.pop(name)
            found.dropped.append(Entry(found.renamed.pop(name, name), tuple(tensor.shape), reason))
    if found.dropped and found.format == _TIMM:
        found.format = "hierarchical classifier (timm)"
    return found
