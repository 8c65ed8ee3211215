"""The operators of `mmcv._ext` that we offer, by the names under which mmcv's Python files call them.

They are torchvision's, or plain torch, so that they run on every device that torch runs on. fp16 and bf16
tensors are computed in fp32 and rounded once, at the end. Offered are all that Mask R-CNN, Cascade R-CNN and
UperNet call, the suppressions and losses of other detectors, and deformable convolution and attention. Not
offered is RoIPool: torchvision's rounds the corners of a region to whole pixels, mmcv's does not, so the
numbers would differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torchvision

from downstream.openmmlab.operators import attention, boxes, convolution, focal, regions
from downstream.openmmlab.operators.missing import MissingOperatorError


def get_compiler_version() -> str:
    """What stands in the place of the compiler in mmcv's report of the environment."""
    return f"none, bridged over torchvision {torchvision.__version__}"


def get_compiling_cuda_version() -> str:
    """The CUDA that torch was built for, since torch runs the operators."""
    return torch.version.cuda or "not available"


OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        get_compiler_version,
        get_compiling_cuda_version,
        boxes.nms,
        boxes.softnms,
        boxes.nms_match,
        boxes.bbox_overlaps,
        regions.roi_align_forward,
        regions.roi_align_backward,
        focal.sigmoid_focal_loss_forward,
        focal.sigmoid_focal_loss_backward,
        focal.softmax_focal_loss_forward,
        focal.softmax_focal_loss_backward,
        convolution.deform_conv_forward,
        convolution.deform_conv_backward_input,
        convolution.deform_conv_backward_parameters,
        convolution.modulated_deform_conv_forward,
        convolution.modulated_deform_conv_backward,
        attention.ms_deform_attn_forward,
        attention.ms_deform_attn_backward,
    )
}
"""name in `mmcv._ext` -> what is called, with the parameters that mmcv's Python files give it."""


def lacking(name: str) -> Callable[..., NoReturn]:
    """A function in the place of an operator that we do not offer; it may be imported, but not called.

    Raises:
        AttributeError: `name` is one of Python's own (``__path__``, ...), which the module does not have.
    """
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*args: object, **kwargs: object) -> NoReturn:
        raise MissingOperatorError(name)

    return call
