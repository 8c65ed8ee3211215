"""The one surface of a backbone that every task sees, here over timm's plain Vision Transformer.

Shapes: B images, C channels, H x W pixels, P prefix tokens (class token first, then registers),
h x w patches, N = h*w, D width, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_bench.backbones.architecture import grid_for, positions, resampled
from mae_bench.backbones.report import LoadReport
from mae_bench.errors import MaeBenchError


class Backbone(nn.Module):
    """A plain ViT without head, at any image size that its patch size divides.

    Attributes:
        vit: timm's model.
        spec: the text that named it, for example ``timm:vit_base_patch16_224.mae``.
        arch: timm's name of the architecture.
        model_args: arguments with which timm built it, besides name, image size, channels and classes.
        patch_size: (height, width) in pixels.
        depth: L.
        width: D.
        prefix_tokens: P.
        image_size: (height, width) in pixels for which the position embeddings stand; at another size
            they are resampled in every forward pass.
        channels: C.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
        hierarchical: False; a plain ViT has one resolution.
        digest: SHA-256 of the weights as loaded.
        report: what was loaded from where.
        pretraining: facts about the pretraining run, where they are known.
        frozen_blocks: how many blocks from the first on are frozen whole, so that
            ``trunk(images, frozen_blocks)`` stays the same; 0 where the embeddings are trained.
    """

    hierarchical: Literal[False] = False

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        spec: str,
        arch: str,
        report: LoadReport,
        model_args: Mapping[str, Any] | None = None,
        pretraining: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.spec = spec
        self.arch = arch
        self.model_args = dict(model_args or {})
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.depth = len(vit.blocks)
        self.width: int = vit.embed_dim
        self.prefix_tokens: int = vit.num_prefix_tokens
        self.channels: int = vit.patch_embed.proj.in_channels
        self.image_size = report.image_size
        self.mean = report.mean
        self.std = report.std
        self.digest = report.digest_after
        self.report = report
        self.pretraining = dict(pretraining) if pretraining is not None else None
        self.frozen_blocks = 0
        self._frozen: tuple[str, ...] = ()

    # ------------------------------------------------------------ features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `tokens`."""
        return self.tokens(images)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of normalised images (B, C, H, W) after the final norm.

        Returns:
            Prefix tokens (B, P, D) and patch tokens (B, h, w, D).

        Raises:
            MaeBenchError: the patch size does not divide H and W, or C is not the backbone's.
        """
        return self.rest(self.trunk(images, self.depth), self.depth, self.grid(images))

    def maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch tokens after each of `blocks` (counted from 0, negative from the end), before the final norm.

        Returns:
            One map (B, D, h, w) for each of `blocks`, in their order.

        Raises:
            MaeBenchError: there is no such block; as for `tokens`.
        """
        wanted = [block + self.depth if block < 0 else block for block in blocks]
        wrong = [block for block, index in zip(blocks, wanted, strict=True) if not 0 <= index < self.depth]
        if wrong:
            raise MaeBenchError(f"{self.spec} has blocks 0 to {self.depth - 1}, so none of number {wrong[0]}")
        height, width = self.grid(images)
        x = self.trunk(images, 0)
        found: dict[int, Tensor] = {}
        for index in range(max(wanted, default=-1) + 1):
            x = self.vit.blocks[index](x)
            if index in wanted:
                patches = x[:, self.prefix_tokens :]
                found[index] = patches.transpose(1, 2).unflatten(2, (height, width)).contiguous()
        return [found[index] for index in wanted]

    def trunk(self, images: Tensor, blocks: int) -> Tensor:
        """Tokens (B, P+N, D) after the first `blocks` blocks, positions added, without the final norm.

        With `rest` it divides the network where a task stops training it, so that the frozen part can be
        computed once. All L blocks give the features before the final norm.
        """
        x = self.vit.norm_pre(self._embed(images))
        for index in range(blocks):
            x = self.vit.blocks[index](x)
        return x

    def rest(self, x: Tensor, blocks: int, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Go on from `trunk`: what `tokens` would have given.

        Args:
            x: tokens (B, P+N, D) after the first `blocks` blocks.
            grid: (h, w); None takes that of `image_size`.

        Returns:
            Prefix tokens (B, P, D) and patch tokens (B, h, w, D), after the final norm.
        """
        for index in range(blocks, self.depth):
            x = self.vit.blocks[index](x)
        x = self.vit.norm(x)
        height, width = grid or self.vit.patch_embed.grid_size
        return x[:, : self.prefix_tokens], x[:, self.prefix_tokens :].unflatten(1, (height, width))

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(h, w) for images (B, C, H, W).

        Raises:
            MaeBenchError: as for `tokens`.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise MaeBenchError(
                f"{self.spec} takes images of {self.channels} channels (B, {self.channels}, H, W), not "
                f"{tuple(images.shape)}"
            )
        return grid_for(self.vit, (images.shape[2], images.shape[3]), self.spec)

    def _embed(self, images: Tensor) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P+N, D)."""
        vit = self.vit
        grid = self.grid(images)
        x = vit.patch_embed.norm(
            vit.patch_embed.proj(images).flatten(2).transpose(1, 2).contiguous()
        )  # (B, N, D)
        table: Tensor = positions(vit)
        if grid != vit.patch_embed.grid_size:
            table = resampled(vit, table, vit.patch_embed.grid_size, grid)
        prefix = [
            token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None
        ]
        if vit.no_embed_class:
            x = torch.cat([*prefix, x + table], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + table
        return vit.pos_drop(x)

    # ------------------------------------------------------------ training

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, in depth order: embeddings, block 0, ..., block L-1, final norm.

        The last is empty where a task took the final norm away (``backbone.vit.norm = nn.Identity()``).
        """
        layers: list[list[str]] = [[] for _ in range(self.depth + 2)]
        for name, _ in self.named_parameters():
            part, _, inner = name.removeprefix("vit.").partition(".")
            if part == "blocks":
                layers[1 + int(inner.split(".")[0])].append(name)
            else:
                layers[-1 if part == "norm" else 0].append(name)
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of the class token, the registers and the position embeddings, as in the MAE recipes."""
        exempt = {"vit.cls_token", "vit.reg_token", "vit.pos_embed"}
        return {name for name, _ in self.named_parameters() if name in exempt}

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (arXiv:1603.09382): 0 in the first block, linearly up to `rate` in the last."""
        if not 0 <= rate < 1:
            raise MaeBenchError(f"drop_path should be at least 0 and less than 1, not {rate}")
        for index, block in enumerate(self.vit.blocks):
            own = rate * index / max(self.depth - 1, 1)
            for name in ("drop_path1", "drop_path2"):
                setattr(block, name, DropPath(own) if own > 0 else nn.Identity())
        self.train(self.training)

    def freeze(self, blocks: float | Literal["all"] = "all") -> None:
        """Freeze the embeddings and the first `blocks` blocks; ``"all"`` freezes the final norm as well.

        0 freezes nothing, not even the embeddings. A half, as in L - 0.5, freezes the attention of the
        next block and leaves its MLP (with norm and LayerScale) trainable. Frozen parts need no gradient
        and stay in evaluation mode whatever `train` says.

        Raises:
            MaeBenchError: not a multiple of 0.5 between 0 and L.
        """
        if blocks != "all" and (not 0 <= blocks <= self.depth or blocks * 2 != int(blocks * 2)):
            raise MaeBenchError(f"{self.spec} has {self.depth} blocks, so {blocks} of them cannot be frozen")
        whole = self.depth if blocks == "all" else int(blocks)
        if blocks == "all":
            self._frozen = ("vit",)
        elif blocks == 0:
            self._frozen = ()
        else:
            frozen = [name for name, _ in self.vit.named_children() if name not in ("blocks", "norm")]
            frozen += ["cls_token", "reg_token", "pos_embed", *(f"blocks.{index}" for index in range(whole))]
            if blocks != whole:
                frozen += [f"blocks.{whole}.{part}" for part in ("norm1", "attn", "ls1", "drop_path1")]
            self._frozen = tuple(f"vit.{name}" for name in frozen)
        self.frozen_blocks = whole
        for name, param in self.named_parameters():
            param.requires_grad_(not any(f"{name}.".startswith(f"{prefix}.") for prefix in self._frozen))
        self.train(self.training)

    def trainable_from(self, blocks: float) -> None:
        """Leave the last `blocks` blocks and the final norm trainable, as in partial fine-tuning.

        0 leaves nothing, 0.5 the last MLP and the final norm, L everything, embeddings included (MAE,
        arXiv:2111.06377, section 4.3 and figure 9).

        Raises:
            MaeBenchError: not a multiple of 0.5 between 0 and L.
        """
        if not 0 <= blocks <= self.depth or blocks * 2 != int(blocks * 2):
            raise MaeBenchError(
                f"{self.spec} has {self.depth} blocks, so the last {blocks} cannot be tuned: give a number "
                f"of blocks up to {self.depth}, or a half more (0.5 is the last MLP)"
            )
        self.freeze("all" if blocks == 0 else self.depth - blocks)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode on what is not frozen."""
        super().train(mode)
        if mode:
            for name, module in self.named_modules():
                if any(f"{name}.".startswith(f"{prefix}.") for prefix in self._frozen):
                    module.eval()
        return self
