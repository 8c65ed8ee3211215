"""Deformable attention at several scales (Zhu et al. 2021), by mmcv's own function in plain torch.

mmcv calls the operators only on a GPU, and that function elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.openmmlab.operators.arithmetic import working


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """What each query gathers, (B, queries, heads * D).

    Args:
        value: (B, keys, heads, D), the maps of all levels, flattened and one after the other.
        value_spatial_shapes: (levels, 2), height and width of each map.
        value_level_start_index: where each level begins among the keys, which follows from the sizes.
        sampling_locations: (B, queries, heads, levels, points, 2), x and y from 0 to 1 over the map.
        attention_weights: (B, queries, heads, levels, points).
        im2col_step: images that mmcv's kernel takes at once; without meaning here.
    """
    return _attend(value_spatial_shapes, *working(value, sampling_locations, attention_weights)).to(value)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Add the gradients of values, locations and weights; the rest as in `ms_deform_attn_forward`."""
    *leaves, grads = working(value, sampling_locations, attention_weights, grad_output)
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    with torch.enable_grad():
        gathered = _attend(value_spatial_shapes, *leaves)
    found = torch.autograd.grad(gathered, leaves, grads)
    for place, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), found, strict=True):
        place += gradient


def _attend(sizes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # The numbers as Python's: the function would wait for the GPU at each of them.
    gathered: Tensor = multi_scale_deformable_attn_pytorch(value, sizes.tolist(), locations, weights)
    return gathered
