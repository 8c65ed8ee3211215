"""MaskFeat (arXiv:2112.09133): the ViTs of PySlowFast, pretrained and fine-tuned, and OpenMMLab's port.

PySlowFast's pretraining model has no norm after its blocks: the one in front of the prediction head takes
its place. The names within the blocks are those of timm's VisionTransformer.
"""

from __future__ import annotations

import re

from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, rename, take
from mae_bench.backbones.formats.openmmlab import PAIRS as OPENMMLAB

_PRETRAINED = "MaskFeat pretraining checkpoint (PySlowFast)"
_FINE_TUNED = "MaskFeat classifier (PySlowFast)"
_PORTED = "MaskFeat pretraining checkpoint (OpenMMLab)"
_AFFINE = r"\.(weight|bias)"
_PRETRAINING: Reasons = (
    (r"mask_token", "mask token"),
    (r"hogs\.\d+\.(weight_x|weight_y|gkern)", "filters of the target"),
    (rf"pred_head\.projections\.\d+{_AFFINE}", "head"),
)
_CLASSIFIER: Reasons = ((rf"head\.projection{_AFFINE}", "head"),)
_PORT: Reasons = (
    (r"backbone\.mask_token", "mask token"),
    (r"target_generator\.(weight_x|weight_y|gaussian_kernel)", "filters of the target"),
    (rf"neck\.fc{_AFFINE}", "head"),
)


def _is_pyslowfast_vit(state: State) -> bool:
    """Its image ViT: its MViTs (and Hiera) pool or widen, and its video models cut patches in time too."""
    kernel = state.get("patch_embed.proj.weight")
    return (
        kernel is not None
        and kernel.ndim == 4
        and "blocks.0.attn.qkv.weight" in state
        and not any(
            re.fullmatch(r"blocks\.\d+\.(attn\.(pool|norm)_[qkv]|proj)\.weight", name) for name in state
        )
    )


def _read_pretraining(state: State, layout: Layout) -> Recognised:
    found = take(state, _PRETRAINED, dropped=_PRETRAINING)
    norms = {
        name: int(match[1])
        for name in found.encoder
        if (match := re.fullmatch(rf"pred_head\.transforms\.(\d+)\.0{_AFFINE}", name))
    }
    for name, place in norms.items():
        if place == max(norms.values()):  # the model ends with the block that the last head looks at
            rename(found, name, f"norm.{name.rpartition('.')[2]}")
    if norms:
        found.notes.append("the final norm is the one in front of the prediction head")
    return found


def _write_pretraining(encoder: State) -> dict[str, Tensor]:
    return {re.sub(r"^norm\.", "pred_head.transforms.0.0.", name): encoder[name] for name in encoder}


def _read_classifier(state: State, layout: Layout) -> Recognised:
    return take(state, _FINE_TUNED, dropped=_CLASSIFIER)


def _read_port(state: State, layout: Layout) -> Recognised:
    return take(state, _PORTED, prefix="backbone.", pairs=OPENMMLAB, dropped=_PORT)


FORMATS = [
    Format(
        _PRETRAINED,
        ("vit",),
        lambda state: _is_pyslowfast_vit(state) and "pred_head.transforms.0.0.weight" in state,
        _read_pretraining,
        _write_pretraining,
    ),
    Format(
        _FINE_TUNED,
        ("vit",),
        lambda state: _is_pyslowfast_vit(state) and "head.projection.weight" in state,
        _read_classifier,
    ),
    Format(
        _PORTED,
        ("vit",),
        lambda state: {"target_generator.weight_x", "backbone.layers.0.ln1.weight"} <= set(state),
        _read_port,
    ),
]
