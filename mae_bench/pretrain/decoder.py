"""The light decoder of a masked autoencoder; it is thrown away after pretraining.

Legend: B images, N patches of V values, K visible and M = N - K hidden ones, P prefix tokens (class token,
registers), D the encoder's and E the decoder's width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mae_bench.errors import MaeBenchError
from mae_bench.pretrain.positions import take_positions


class MAEDecoder(nn.Module):
    """Transformer blocks over visible tokens and mask tokens, and a linear prediction of the target.

    Args:
        width_in: D.
        values: V, how many numbers are predicted for a patch.
        grid: rows and columns of patches.
        prefix: P; prefix tokens have no position.
        masks: whether mask tokens come in here; without them the encoder gives a token for every patch.
    """

    mask_token: nn.Parameter | None

    def __init__(
        self,
        width_in: int,
        values: int,
        grid: tuple[int, int],
        prefix: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        masks: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise MaeBenchError(f"decoder.dim: {dim} is not divisible by decoder.heads {heads}")
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.prefix = prefix
        self.embed = nn.Linear(width_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if masks else None
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + grid[0] * grid[1], dim))
        self.blocks = nn.Sequential(
            *(Block(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(dim)
        self.pred = nn.Linear(dim, values)

    def forward(self, latent: Tensor, visible: Tensor, hidden: Tensor, everywhere: bool) -> Tensor:
        """Predict patches.

        The tokens keep the order in which they come, visible before hidden: attention does not see the order,
        and nothing has to be sorted back.

        Args:
            latent: ``(B, P + K, D)``; without mask tokens of its own ``(B, P + K + M, D)``, `visible` first.
            visible: int64 ``(B, K)``.
            hidden: int64 ``(B, M)``.
            everywhere: whether the visible patches are predicted too.

        Returns:
            ``(B, M, V)`` in the order of `hidden`, or with `everywhere` ``(B, K + M, V)``, `visible` first.
        """
        tokens = self.embed(latent)
        if self.mask_token is not None:
            masks = self.mask_token.expand(len(latent), hidden.shape[1], -1)
            tokens = torch.cat([tokens, masks], dim=1)
        order = torch.cat([visible, hidden], dim=1)
        places = torch.cat(
            [
                self.pos_embed[:, : self.prefix].expand(len(latent), -1, -1),
                take_positions(self.pos_embed[0, self.prefix :], order),
            ],
            dim=1,
        )
        tokens = self.blocks(tokens + places)
        wanted = tokens[:, self.prefix :] if everywhere else tokens[:, -hidden.shape[1] :]
        prediction: Tensor = self.pred(self.norm(wanted))
        return prediction
