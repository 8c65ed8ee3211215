"""Weighted k-nearest-neighbour classification, for several k in one pass.

Shapes: Q queries, N features in the bank, D their width, K the largest k, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Largest block of similarities held at once, in bytes.
BLOCK_BYTES = 256 * 2**20
# Queries compared at once.
QUERIES = 512


def nearest(queries: Tensor, bank: Tensor, k: int, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """The k most similar rows of `bank` for each query, by inner product.

    Args:
        queries: (Q, D).
        bank: (N, D) with N >= k; may lie on another device, it is moved block by block.

    Returns:
        Similarities and indices into `bank`, both (Q, k), most similar first.
    """
    rows = max(k, block_bytes // (4 * max(len(queries), 1)))
    best: Tensor | None = None
    where: Tensor | None = None
    for start in range(0, len(bank), rows):
        block = bank[start : start + rows].to(queries.device)
        similarity = queries @ block.T  # (Q, rows)
        index = torch.arange(start, start + len(block), device=queries.device).expand(len(queries), -1)
        if best is not None and where is not None:
            similarity, index = torch.cat([best, similarity], 1), torch.cat([where, index], 1)
        best, order = similarity.topk(min(k, similarity.shape[1]), dim=1)
        where = index.gather(1, order)
    assert best is not None  # the bank is not empty
    assert where is not None
    return best, where


def votes(similarity: Tensor, labels: Tensor, classes: int, ks: Sequence[int], temperature: float) -> Tensor:
    """Votes of the k nearest for their classes, each weighted by exp(similarity / temperature).

    Weighting after Wu et al., arXiv:1805.01978, section 3.3.

    Args:
        similarity: (Q, K), most similar first; of unit vectors, so at most 1.
        labels: (Q, K) classes of the neighbours.

    Returns:
        (len(ks), Q, C) sums of weights.
    """
    # Relative to the largest possible similarity, so that no temperature overflows.
    weight = ((similarity - 1.0) / temperature).exp()
    sums = similarity.new_zeros(len(ks), len(similarity), classes)
    for row, k in enumerate(ks):
        sums[row].scatter_add_(1, labels[:, :k], weight[:, :k])
    return sums


def near_at_hand(bank: Tensor, device: torch.device) -> Tensor:
    """The bank on `device` if it fits there, else as it is, to be moved block by block."""
    try:
        return bank.to(device)
    except torch.OutOfMemoryError:
        return bank


def hits(
    queries: Tensor,
    truth: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> Tensor:
    """Which queries are classified rightly: bool (Q, len(ks), 2) on the CPU, first and among the first five.

    Args:
        queries, truth: (Q, D) unit vectors and their classes (Q,).
        bank, bank_labels: (N, D) unit vectors and their classes (N,), N >= max(ks).
    """
    found = torch.empty(len(queries), len(ks), 2, dtype=torch.bool)
    bank_labels, truth = bank_labels.to(queries.device), truth.to(queries.device)
    bank = near_at_hand(bank, queries.device)
    for start in range(0, len(queries), QUERIES):
        part, wanted = queries[start : start + QUERIES], truth[start : start + QUERIES]
        similarity, where = nearest(part, bank, max(ks))
        ballots = votes(similarity, bank_labels[where], classes, ks, temperature)
        weight, named = ballots.topk(min(5, classes), dim=2)  # (len(ks), Q, 5)
        # A class without a vote is not named, even if fewer than five have one.
        right = (named == wanted[None, :, None]) & (weight > 0)
        both = torch.stack([right[:, :, 0], right.any(dim=2)], dim=2)  # (len(ks), Q, 2)
        found[start : start + QUERIES] = both.transpose(0, 1).cpu()
    return found
