"""The linear probe: a frozen backbone, BatchNorm without affine parameters, and a grid of linear classifiers.

Shapes: B images, D features, C classes, G classifiers of the grid.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.classification.classifier import pooled
from downstream.classification.inference import InParts
from mae_bench.norms import processes

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone


# Logits beyond this are those of a classifier whose learning rate is far too high. It is taken out while its
# weights are still finite, so that it can stop neither the others nor the saving of the state.
DIVERGED = 1e8


class StepNorm(nn.BatchNorm1d):
    """BatchNorm without affine parameters (eps 1e-6), the same however a step is shared out.

    In training a feature is standardised with the `norm_batch` features it comes with. Once a step the
    running statistics move, by BatchNorm's momentum, towards the mean of what all groups of `norm_batch` in
    it have, on whatever process and in however many passes. An ordinary BatchNorm moves with every group that
    passes its own process, so what it remembers in the end depends on the number of processes.

    Args:
        norm_batch: features from which statistics are taken.
        passes: forward passes that each process makes in a step.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, norm_batch: int, passes: int = 1) -> None:
        super().__init__(width, eps=1e-6, momentum=0.1, affine=False)
        self.norm_batch, self.passes = norm_batch, passes
        self._passed = 0  # of the step that is under way; training is taken up again between steps

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, D); in training `norm_batch` divides B."""
        if not self.training:
            return super().forward(features)
        groups = features.split(self.norm_batch)
        self._remember(groups)
        return torch.cat([F.batch_norm(group, None, None, training=True, eps=self.eps) for group in groups])

    @torch.no_grad()
    def _remember(self, groups: Sequence[Tensor]) -> None:
        each = [torch.stack([group.mean(dim=0), group.var(dim=0)]) for group in groups]
        found = torch.stack(each).mean(dim=0)
        if processes() > 1:
            dist.all_reduce(found)
            found /= processes()
        assert self.momentum is not None  # set above
        # With shares that fall like this, the passes of a step weigh the same and together `momentum`.
        share = self.momentum / (self.passes - self.momentum * (self.passes - 1 - self._passed))
        self._passed = (self._passed + 1) % self.passes
        self.running_mean.lerp_(found[0], share)
        self.running_var.lerp_(found[1], share)


class HeadGrid(nn.Module):
    """G linear classifiers, each with parameters of its own, on features standardised together.

    BatchNorm without affine parameters (eps 1e-6) and weights from a normal distribution of standard
    deviation 0.01 are those of MAE's linear probe (arXiv:2111.06377, appendix A.1; main_linprobe.py). All
    classifiers start from the same weights, so that they differ by their learning rate alone.

    Of several classifiers, one whose logits exceed `DIVERGED` gets no more gradient and is marked in the
    buffer `diverged` (G,), on all processes; a single one is left to stop the run by its loss.

    Args:
        norm_batch, passes: see `StepNorm`.
    """

    diverged: Tensor

    def __init__(self, width: int, classes: int, heads: int, norm_batch: int, passes: int = 1) -> None:
        super().__init__()
        self.norm = StepNorm(width, norm_batch, passes)
        first = nn.Linear(width, classes)
        nn.init.trunc_normal_(first.weight, std=0.01)
        nn.init.zeros_(first.bias)
        # Copies draw no random numbers, so the first weights do not depend on how many there are.
        self.heads = nn.ModuleList(copy.deepcopy(first) for _ in range(heads))
        self.register_buffer("diverged", torch.zeros(heads, dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> logits (B, G, C), always in fp32, lest rounding blur what differs between close rates."""
        with torch.autocast(features.device.type, enabled=False):
            features = self.norm(features.float())
            logits = torch.stack([head(features) for head in self.heads], dim=1)
        if self.training and len(self.heads) > 1:
            self.diverged |= _anywhere(~(logits.detach().abs() <= DIVERGED).all(dim=2).all(dim=0))
            logits = torch.where(self.diverged[None, :, None], torch.zeros_like(logits), logits)
        return logits


def _anywhere(flags: Tensor) -> Tensor:
    """Which flags (G,) are set on any process."""
    if processes() == 1:
        return flags
    counts = flags.int()
    dist.all_reduce(counts)
    return counts > 0


class LinearProbe(nn.Module):
    """A frozen backbone, always in evaluation mode, under a `HeadGrid`."""

    def __init__(self, backbone: Backbone, pooling: Literal["mean", "cls"], grid: HeadGrid) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.pooling = pooling
        self.grid = grid
        self._in_parts = InParts(self.features)

    def train(self, mode: bool = True) -> LinearProbe:
        """Set the mode of the classifiers; the backbone stays as it was pretrained."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, or their features (B, D) -> logits (B, G, C)."""
        logits: Tensor = self.grid(self._in_parts(x) if x.ndim == 4 else x)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> (B, D)."""
        return pooled(self.backbone, images, self.pooling)


def grid_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every classifier of a grid.

    Args:
        logits: (B, G, C).
        labels: (B,) class indices.

    Returns:
        (G,) means over the batch, computed one by one as if each classifier were trained alone: the same
        numbers, bit for bit.
    """
    return torch.stack([F.cross_entropy(logits[:, head], labels) for head in range(logits.shape[1])])
