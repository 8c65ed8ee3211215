"""Focal losses (Lin et al. 2017) and their gradients.

`target` (N,) holds the class of each row; `weight` (C,) a factor for each class, or it is empty. `alpha`
weighs what belongs to a class, 1 - alpha what does not. `gamma` takes weight from what is classified well.

mmcv's kernels clamp a probability at the smallest normal number before its logarithm is taken; here the
logarithm of the sigmoid is exact, as in torchvision's and mmdet's own Python functions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.openmmlab.operators.arithmetic import working


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with the loss of each logit; a target of C is of no class (background)."""
    logits, classes = working(input, weight)
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability) ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * probability**gamma * F.logsigmoid(-logits)
    output.copy_(_of_target(positive, negative, target, classes))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each loss by its logit."""
    logits, classes = working(input, weight)
    p = logits.sigmoid()
    q = (-logits).sigmoid()  # 1 - p, without its rounding
    positive = -alpha * q**gamma * (q - gamma * p * F.logsigmoid(logits))
    negative = -(1 - alpha) * p**gamma * (gamma * q * F.logsigmoid(-logits) - p)
    grad_input.copy_(_of_target(positive, negative, target, classes))


def _of_target(positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(N, C): `positive` in the target's column and `negative` elsewhere, times the weight of the target."""
    of_class = target[:, None] == torch.arange(positive.shape[1], device=target.device)
    chosen = torch.where(of_class, positive, negative)
    return chosen * weight[target][:, None] if len(weight) else chosen


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N,) with the loss of each row; a negative target has none.

    Args:
        input: probabilities (N, C), the softmax of the logits.
    """
    probabilities, classes = working(input, weight)
    p, factor = _at_target(probabilities, target, classes)
    output.copy_(-alpha * factor * (1 - p) ** gamma * _log(p))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each row's loss by its logits; `buff` is scratch."""
    probabilities, classes = working(input, weight)
    p, factor = _at_target(probabilities, target, classes)
    rest = (1 - p).clamp(min=torch.finfo(p.dtype).tiny)  # a negative power of it stays finite
    slope = alpha * factor * (gamma * rest ** (gamma - 1) * p * _log(p) - rest**gamma)
    of_class = target[:, None] == torch.arange(probabilities.shape[1], device=target.device)
    grad_input.copy_(slope[:, None] * (of_class.to(probabilities) - probabilities))


def _at_target(probabilities: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The probability (N,) of the target and its weight (N,), which is 0 where the target is negative."""
    index = target.clamp(min=0)
    factor = weight[index] if len(weight) else torch.ones_like(probabilities[:, 0])
    return probabilities.gather(1, index[:, None])[:, 0], factor * (target >= 0)


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
