"""The type in which the bridged operators compute."""

from __future__ import annotations

import torch
from torch import Tensor


def working(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one floating-point type of at least 32 bits, the widest among them."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
