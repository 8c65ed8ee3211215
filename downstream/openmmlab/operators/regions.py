"""RoIAlign over torchvision's operator, which computes what mmcv's does.

Regions are (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from downstream.openmmlab.operators.arithmetic import working
from downstream.openmmlab.operators.missing import MissingOperatorError

_MAX = 0


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (K, C, aligned_height, aligned_width) with means over the bins of each region.

    Args:
        input: maps (B, C, H, W).
        argmax_y, argmax_x: of `pool_mode` 0 (maxima instead of means), which is not offered.
        spatial_scale: pixels of the map to a pixel of the image.
        sampling_ratio: points a bin along each side; 0: about one to a pixel of the map.
        aligned: pixels have their centres at 0.5, 1.5, ...; else at 0, 1, ..., and no side of a region is
            less than 1.

    Raises:
        MissingOperatorError: `pool_mode` is 0.
    """
    if pool_mode == _MAX:
        raise MissingOperatorError("roi_align_forward with pool_mode='max'")
    maps, regions = working(input, rois)
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(maps, regions, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the maps to `grad_input` (B, C, H, W); the rest as in `roi_align_forward`."""
    grads, regions = working(grad_output, rois)
    if torch.are_deterministic_algorithms_enabled():
        # On a GPU torchvision's backward operator adds in any order and so refuses; its Python function takes
        # another way then. Pooling is linear in the maps, so its gradient can be had at any, such as zeros.
        maps = grads.new_zeros(grad_input.shape, requires_grad=True)
        with torch.enable_grad():
            size = (aligned_height, aligned_width)
            pooled = torchvision.ops.roi_align(maps, regions, size, spatial_scale, sampling_ratio, aligned)
        (added,) = torch.autograd.grad(pooled, maps, grads)
    else:
        added = torch.ops.torchvision._roi_align_backward(
            grads,
            regions,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    grad_input += added
