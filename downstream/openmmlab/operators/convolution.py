"""Deformable convolution over torchvision's operator, with (`modulated`) and without a mask.

mmcv orders offsets and masks as torchvision does. The scratch tensors (`columns`, `ones`) of mmcv's kernels,
and the number of images that they take at once, have no meaning here.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor

from downstream.openmmlab.operators.arithmetic import working


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **shape: int
) -> None:
    """Fill `output` (B, C_out, H_out, W_out)."""
    output.copy_(_convolve(working(input, offset, weight), shape))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    """Add the gradients of the maps and of the offsets."""
    _add_gradients([input, offset, weight], [grad_input, grad_offset, None], grad_output, shape)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **shape: int,
) -> None:
    """Add `scale` times the gradient of the weights, which themselves do not matter to it."""
    weight = torch.zeros_like(grad_weight)
    _add_gradients([input, offset, weight], [None, None, grad_weight], grad_output * scale, shape)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    """Fill `output` (B, C_out, H_out, W_out)."""
    output.copy_(_convolve(working(input, offset, weight, mask, bias), shape))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **shape: int,
) -> None:
    """Add the gradients of all that goes in."""
    into = [grad_input, grad_offset, grad_weight, grad_mask, grad_bias if shape["with_bias"] else None]
    _add_gradients([input, offset, weight, mask, bias], into, grad_output, shape)


def _convolve(tensors: list[Tensor], shape: dict[str, int]) -> Tensor:
    """Maps, offsets and weights, then a mask and a bias or neither, in one type -> maps."""
    input, offset, weight, *rest = tensors
    mask, bias = rest or (None, None)
    named: dict[str, Any] = {
        argument: tuple(shape[next(name for name in names if name in shape)] for names in sides)
        for argument, sides in _SIDES.items()
    }
    with_bias = bias is not None and shape["with_bias"]
    return torchvision.ops.deform_conv2d(
        input, offset, weight, bias if with_bias else None, mask=mask, **named
    )


_SIDES = {
    "stride": (("dH", "stride_h"), ("dW", "stride_w")),
    "padding": (("padH", "pad_h"), ("padW", "pad_w")),
    "dilation": (("dilationH", "dilation_h"), ("dilationW", "dilation_w")),
}
"""argument of torchvision's function -> its names in mmcv's two operators, along height and width."""


def _add_gradients(
    tensors: list[Tensor], into: list[Tensor | None], grad_output: Tensor, shape: dict[str, int]
) -> None:
    """Add the gradient of each tensor to the one of the same place in `into`, where there is one."""
    *leaves, grads = working(*tensors, grad_output)
    leaves = [
        leaf.detach().requires_grad_(place is not None) for leaf, place in zip(leaves, into, strict=True)
    ]
    with torch.enable_grad():
        output = _convolve(leaves, shape)
    wanted = [(leaf, place) for leaf, place in zip(leaves, into, strict=True) if place is not None]
    found = torch.autograd.grad(output, [leaf for leaf, _ in wanted], grads)
    for (_, place), gradient in zip(wanted, found, strict=True):
        place += gradient
