"""Images as sequences of patches and back, and what the decoder has to predict.

Legend: B images, C channels, h x w patches of p x q pixels, N = h * w, V = p * q * C values in a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """``(B, C, h*p, w*q)`` to ``(B, N, V)``: patches row by row, so are their pixels, channels last."""
    batch, channels, height, width = images.shape
    p, q = patch
    h, w = height // p, width // q
    cut = images.reshape(batch, channels, h, p, w, q)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, h * w, p * q * channels)


def unpatchify(patches: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`: ``(B, N, V)`` to ``(B, C, h*p, w*q)``."""
    (p, q), (h, w) = patch, grid
    batch, _, values = patches.shape
    channels = values // (p * q)
    laid = patches.reshape(batch, h, w, p, q, channels)
    return laid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, h * p, w * q)


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch of ``(..., V)`` less its mean, over the root of its variance (arXiv:2111.06377, section 3).

    The variance is the unbiased one and has `EPSILON` added, as in the authors' release.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


def denormalise_patches(values: Tensor, original: Tensor) -> Tensor:
    """Undo `normalise_patches` on predictions ``(..., V)`` with the statistics of the `original` patches."""
    variance, mean = torch.var_mean(original, dim=-1, keepdim=True)
    return values * (variance + EPSILON).sqrt() + mean
