"""A classifier: backbone, pooling, linear head.

Shapes: B images, P prefix tokens, N = h*w patch tokens, D width, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mae_bench.backbones import Backbone
from mae_bench.backbones.plain import PlainBackbone
from mae_bench.errors import MaeBenchError

Pooling = Literal["mean", "cls"]


def pool(prefix: Tensor, patches: Tensor, pooling: Pooling) -> Tensor:
    """(B, P, D), (B, h, w, D) -> (B, D): the class token, or the mean of the patch tokens."""
    return prefix[:, 0] if pooling == "cls" else patches.mean(dim=(1, 2))


def pooled(backbone: Backbone, images: Tensor, pooling: Pooling) -> Tensor:
    """Features (B, D) of normalised images (B, 3, H, W), after the backbone's final norm."""
    return pool(*backbone.tokens(images), pooling)


class Classifier(nn.Module):
    """A backbone with a linear head, trained from the last frozen block on.

    With `pooling="mean"` the backbone's final norm is taken away, and the mean of the patch tokens goes
    through a LayerNorm that starts afresh, as in the fine-tuning of MAE's PyTorch release (models_vit.py).
    With `"cls"` the class token is read after the final norm.

    Args:
        backbone: with what is not to be trained frozen already (`Backbone.trainable_from`).
        head_std: standard deviation of the head's initial weights (2e-5 in the release's fine-tuning).

    Raises:
        MaeBenchError: `"cls"` for a backbone without a class token.
    """

    def __init__(self, backbone: Backbone, classes: int, pooling: Pooling, head_std: float = 2e-5) -> None:
        super().__init__()
        check_pooling(backbone, pooling)
        self.backbone = backbone
        self.pooling = pooling
        if pooling == "mean":
            backbone.remove_norm()
            self.fc_norm: nn.Module = nn.LayerNorm(backbone.width, eps=1e-6)
        else:
            self.fc_norm = nn.Identity()
        self.head = nn.Linear(backbone.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=head_std)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), or their `frozen_tokens` (B, P+N, D), -> logits (B, C) in fp32."""
        backbone = self.backbone
        if isinstance(backbone, PlainBackbone):
            grid = backbone.grid(x) if x.ndim == 4 else None
            tokens = self.frozen_tokens(x) if x.ndim == 4 else x
            features = pool(*backbone.rest(tokens, backbone.frozen_blocks, grid), self.pooling)
        else:
            features = pooled(backbone, x, self.pooling)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(self.fc_norm(features.float()))
        return logits

    def frozen_tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, P+N, D) after the blocks that are frozen whole; without gradient if there are any.

        Of backbones that can be divided (`Backbone.splits`).
        """
        assert isinstance(self.backbone, PlainBackbone)
        frozen = self.backbone.frozen_blocks
        with torch.set_grad_enabled(torch.is_grad_enabled() and frozen == 0):
            return self.backbone.trunk(images, frozen)

    def layer_names(self) -> list[list[str]]:
        """Parameter names in depth order for layer decay: embeddings, each block, and last norm and head."""
        layers = [[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_names()]
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("backbone.")]
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names that the backbone exempts from weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


def check_pooling(backbone: Backbone, pooling: Pooling) -> None:
    """Raise MaeBenchError if the class token is asked for and the backbone has none."""
    if pooling == "cls" and not backbone.has_class_token:
        raise MaeBenchError(f"pooling: {backbone.spec} has no class token; use pooling=mean")
