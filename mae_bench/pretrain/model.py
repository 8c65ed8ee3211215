"""The masked autoencoder: a plain ViT that sees a few patches, and a light decoder that paints the rest.

Legend: B images, N patches of V values, K visible and M = N - K hidden ones, P prefix tokens (class token,
registers), D the encoder's and E the decoder's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as nnf

from mae_bench.backbones.architecture import build, checked_arguments, positional_prefix
from mae_bench.errors import MaeBenchError
from mae_bench.pretrain import masking
from mae_bench.pretrain.decoder import MAEDecoder
from mae_bench.pretrain.masking import Masking
from mae_bench.pretrain.positions import sincos_2d, take_positions
from mae_bench.pretrain.principal import PrincipalComponents
from mae_bench.pretrain.targets import denormalise_patches, normalise_patches, patchify, unpatchify

if TYPE_CHECKING:
    from mae_bench.pretrain.task import MAEConfig

Positions = Literal["sincos", "learned"]
LossOn = Literal["masked", "all"]
MaskToken = Literal["decoder", "encoder"]


@dataclass(frozen=True)
class Reconstruction:
    """What the model makes of masked images.

    Attributes:
        prediction: ``(B, N, V)`` in the order of the patches, normalised where the targets are; where Q
            coefficients are the target, ``(B, N, Q)``.
        hidden: bool ``(B, N)``.
        images: ``(B, C, H, W)``: the prediction as pixels, normalisation of the patches undone with their
            true mean and variance.
    """

    prediction: Tensor
    hidden: Tensor
    images: Tensor


class MaskedAutoencoder(nn.Module):
    """MAE (He et al., arXiv:2111.06377).

    Args:
        encoder: any plain timm ViT; its weights are initialised anew, and with `sincos` its position
            embeddings are replaced and fixed.
        decoder_dim, decoder_depth, decoder_heads, decoder_mlp_ratio: size of the decoder.
        mask_ratio: share of the patches that is hidden (see `masking.kept_count`).
        kind: how patches are chosen.
        norm_pix: predict each patch normalised by its own mean and variance.
        pca: predict that many PCA coefficients of each patch (`mae_bench.pretrain.principal`); None: pixels.
        loss_on: which patches count; `all` is the ablation of arXiv:2111.06377, footnote 1.
        positions: of encoder and decoder.
        mask_token: where mask tokens come in. `encoder` is the ablation of Table 1c: the encoder works on
            every place, on mask tokens at the hidden ones, and the decoder has none of its own.

    Raises:
        MaeBenchError: sizes that do not divide, a ratio that leaves nothing visible or hidden.
    """

    mask_token: nn.Parameter | None
    """The encoder's, if it has one."""

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        decoder_mlp_ratio: float = 4.0,
        mask_ratio: float = 0.75,
        kind: Masking = "random",
        norm_pix: bool = True,
        loss_on: LossOn = "masked",
        positions: Positions = "sincos",
        mask_token: MaskToken = "decoder",
        pca: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.grid: tuple[int, int] = tuple(encoder.patch_embed.grid_size)
        self.patch: tuple[int, int] = tuple(encoder.patch_embed.patch_size)
        masking.check(kind, self.grid, mask_ratio)
        values = self.patch[0] * self.patch[1] * encoder.patch_embed.proj.in_channels
        if norm_pix and values == 1:
            raise MaeBenchError("norm_pix: a patch of one value has no variance; use false")
        self.kind, self.mask_ratio = kind, mask_ratio
        self.norm_pix, self.loss_on, self.learned = norm_pix, loss_on, positions == "learned"
        self.kept = masking.kept_count(self.grid[0] * self.grid[1], mask_ratio)
        in_encoder = mask_token == "encoder"
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim)) if in_encoder else None
        self.pca = PrincipalComponents(values, pca) if pca is not None else None
        self.decoder = MAEDecoder(
            encoder.embed_dim,
            values if pca is None else pca,
            self.grid,
            encoder.num_prefix_tokens,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            mlp_ratio=decoder_mlp_ratio,
            masks=not in_encoder,
        )
        self._initialise()

    def forward(self, images: Tensor, keys: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The mean squared error over the patches that count, a scalar.

        Args:
            images: normalised ``(B, C, H, W)``.
            keys: int64 ``(B,)``, from which the mask of each image follows.
            noise: ``(B, N)`` instead of `keys`; the smallest numbers stay visible.
        """
        return self.losses(images, keys, noise).mean()

    def losses(self, images: Tensor, keys: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """As `forward`, for each image: ``(B,)`` in the precision of `images`."""
        patches = patchify(images, self.patch)
        visible, hidden = self._mask(keys, noise)
        everywhere = self.loss_on == "all"
        latent = self._encode(patches, visible, hidden)
        prediction = self.decoder(latent, visible, hidden, everywhere)
        target = _take(patches, torch.cat([visible, hidden], dim=1) if everywhere else hidden)
        if self.pca is not None:
            target = self.pca(target)
        elif self.norm_pix:
            target = normalise_patches(target)
        return (prediction.to(target.dtype) - target).square().mean(dim=(1, 2))

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, keys: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Predict every patch of normalised images ``(B, C, H, W)``; arguments as for `forward`."""
        patches = patchify(images, self.patch)
        visible, hidden = self._mask(keys, noise)
        order = torch.cat([visible, hidden], dim=1)
        latent = self._encode(patches, visible, hidden)
        found = self.decoder(latent, visible, hidden, everywhere=True).to(images.dtype)
        prediction = torch.empty_like(found).scatter_(1, order[..., None].expand_as(found), found)
        is_hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, hidden, True)
        if self.pca is not None:
            pixels = self.pca.undo(prediction)
        else:
            pixels = denormalise_patches(prediction, patches) if self.norm_pix else prediction
        return Reconstruction(prediction, is_hidden, unpatchify(pixels, self.patch, self.grid))

    def encode(self, images: Tensor, keys: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The encoder's normalised output ``(B, P + K, D)`` on the visible patches.

        With mask tokens in the encoder ``(B, P + K + M, D)``, the visible places first.
        """
        return self._encode(patchify(images, self.patch), *self._mask(keys, noise))

    def no_weight_decay(self) -> set[str]:
        """Position embeddings that are learned; biases and norms are exempt anyway.

        Class and mask token are decayed, as in the authors' release.
        """
        return {"encoder.pos_embed", "decoder.pos_embed"} if self.learned else set()

    def _mask(self, keys: Tensor | None, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        if (keys is None) == (noise is None):
            raise ValueError("give keys or noise, one of the two")
        if noise is None:
            assert keys is not None
            noise = masking.noise(self.kind, keys, self.grid, self.mask_ratio)
        return masking.split(noise, self.kept)

    def _encode(self, patches: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Patches ``(B, N, V)`` to the encoder's output, see `encode`; `hidden` ones are never looked at."""
        vit = self.encoder
        # A patch holds its channels last, so the kernel is laid out that way: (D, C, p, q) to (D, V).
        weight = vit.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
        tokens = nnf.linear(_take(patches, visible), weight, vit.patch_embed.proj.bias)
        tokens = vit.patch_embed.norm(tokens)
        places, with_place = _table(vit), positional_prefix(vit)
        where = visible
        if self.mask_token is not None:
            # As the paper's encoder of Table 1c: a mask token in place of the embedding, then the position.
            masks = self.mask_token.expand(len(tokens), hidden.shape[1], -1)
            tokens, where = torch.cat([tokens, masks], dim=1), torch.cat([visible, hidden], dim=1)
        tokens = tokens + take_positions(places[0, with_place:], where)
        prefix: list[Tensor] = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        if prefix:
            first = torch.cat(prefix, dim=1)
            if with_place:
                first = first + places[:, :with_place]
            tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        encoded: Tensor = vit.norm(vit.blocks(vit.norm_pre(vit.pos_drop(tokens))))
        return encoded

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier-uniform linear layers, the patch embedding as one of them; tokens normal(0.02) (paper, A.1).

        The bias of the patch embedding stays as torch draws it, as in the authors' release.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.flatten(1))
        vit = self.encoder
        tokens = (vit.cls_token, vit.reg_token, self.decoder.mask_token, self.mask_token)
        for token in tokens:
            if token is not None:
                nn.init.normal_(token, std=0.02)
        for table, prefix in (
            (_table(self.encoder), positional_prefix(self.encoder)),
            (self.decoder.pos_embed, self.decoder.prefix),
        ):
            if self.learned:
                nn.init.normal_(table, std=0.02)
            else:
                table.zero_()
                table[0, prefix:] = sincos_2d(table.shape[-1], self.grid)
                table.requires_grad_(False)


def from_config(config: MAEConfig) -> MaskedAutoencoder:
    """The model of a recipe, with fresh weights drawn from torch's current random state.

    Raises:
        MaeBenchError: timm cannot build the encoder, or sizes do not fit.
    """
    arguments = checked_arguments(config.timm_arguments(), "model.args")
    arguments["img_size"] = (config.data.image_size[0], config.data.image_size[1])
    encoder = build(config.model.arch, arguments, channels=len(config.mean), where="model")
    if (
        not isinstance(encoder, VisionTransformer)
        or encoder.pos_embed is None
        or any(type(block) is not Block for block in encoder.blocks)
    ):
        raise MaeBenchError(
            f"model.arch: an MAE hides patches of a plain ViT with absolute positions (timm's "
            f"VisionTransformer), and {config.model.arch} is none"
        )
    return MaskedAutoencoder(
        encoder,
        decoder_dim=config.decoder.dim,
        decoder_depth=config.decoder.depth,
        decoder_heads=config.decoder.heads,
        decoder_mlp_ratio=config.decoder.mlp_ratio,
        mask_ratio=config.mask_ratio,
        kind=config.masking,
        norm_pix=config.norm_pix,
        loss_on=config.loss_on,
        positions=config.positions,
        mask_token=config.mask_token,
        pca=config.pca.coefficients if config.pca is not None else None,
    )


def _table(vit: VisionTransformer) -> nn.Parameter:
    """The encoder's position embeddings (1, places, D)."""
    assert vit.pos_embed is not None  # `build` refuses a ViT without them
    return vit.pos_embed


def _take(tokens: Tensor, which: Tensor) -> Tensor:
    """``(B, N, ...)`` and int64 ``(B, K)`` to ``(B, K, ...)``: whole rows are copied, nothing is expanded."""
    batch, count = tokens.shape[:2]
    first = torch.arange(batch, device=which.device)[:, None] * count
    return tokens.flatten(0, 1).index_select(0, (which + first).flatten()).unflatten(0, which.shape)
