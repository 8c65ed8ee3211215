"""Transformer blocks of timm's plain ViTs, with their attention taken out of their hands.

Shapes: B images, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import Attention, LayerScale
from timm.layers.attention import AttentionRope
from timm.models import beit, eva
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

PRE_NORM = (Block, beit.Block, eva.EvaBlock)
POST_NORM = (ResPostBlock, eva.EvaBlockPostNorm)
ATTENTIONS = (Attention, beit.Attention, eva.EvaAttention, AttentionRope)

ATTENTION_HALF = ("norm1", "attn", "ls1", "gamma_1", "drop_path1")
"""What of a block belongs to its attention; a kind of block has some of these."""


def known(block: nn.Module) -> bool:
    """Whether `through` can take `block` apart."""
    return type(block) in (*PRE_NORM, *POST_NORM) and type(block.attn) in ATTENTIONS


def through(block: Any, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """What `block` makes of tokens (B, T, D) where `attend` stands in place of its attention."""
    if isinstance(block, POST_NORM):
        x = x + block.drop_path1(block.norm1(attend(x)))
        out: Tensor = x + block.drop_path2(block.norm2(block.mlp(x)))
        return out
    first, second = _scales(block)
    x = x + block.drop_path1(first(attend(block.norm1(x))))
    out = x + block.drop_path2(second(block.mlp(block.norm2(x))))
    return out


def _scales(block: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """LayerScale of the attention and of the MLP, whatever it is called."""
    if isinstance(block, Block):
        return block.ls1, block.ls2
    return _times(block.gamma_1), _times(block.gamma_2)


def _times(gamma: Tensor | None) -> Callable[[Tensor], Tensor]:
    return nn.Identity() if gamma is None else gamma.mul


def add_layer_scale(block: Any, width: int, value: float) -> bool:
    """Give `block` LayerScale where it has none, frozen where its norms are.

    Returns:
        Whether it has LayerScale now; a block that normalises its output has no place for it.
    """
    if isinstance(block, POST_NORM):
        return False
    like: Tensor = block.norm1.weight
    for number in (1, 2):
        if isinstance(block, Block):
            if isinstance(getattr(block, f"ls{number}"), nn.Identity):
                scale = LayerScale(width, init_values=value, device=like.device, dtype=like.dtype)
                scale.gamma.requires_grad_(like.requires_grad)
                setattr(block, f"ls{number}", scale)
        elif getattr(block, f"gamma_{number}") is None:
            gamma = nn.Parameter(like.new_full((width,), value), requires_grad=like.requires_grad)
            setattr(block, f"gamma_{number}", gamma)
    return True
