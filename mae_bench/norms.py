"""Batch normalisation whose statistics are those of all processes' images together.

Dense tasks train with one or two images a process, too few for statistics of their own; the published
recipes normalise over all processes (SyncBN).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def synchronised(module: nn.Module) -> nn.Module:
    """`module` with its batch norms replaced by ones that share statistics among processes.

    On one process nothing changes. Where processes talk over NCCL, and so compute on CUDA devices, it is
    torch's SyncBatchNorm, which exists for CUDA only. Elsewhere, on CPUs, it is `SharedBatchNorm2d`, which
    computes the same with two small reductions a layer. Parameters, running statistics and names in
    the state dict stay as they are. Call it on every process, before the model
    is wrapped for distributed training.

    Returns:
        `module` itself, or what replaces it where it is a batch norm.
    """
    if processes() == 1:
        return module
    if dist.get_backend() == "nccl":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    if type(module) is nn.BatchNorm2d:
        return SharedBatchNorm2d.from_plain(module)
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    return module


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Let this process pass data through `module` on its own, as when it tries how many images fit in memory.

    Norms that share statistics would wait for the other processes; in here they use their running ones.
    """
    sharing = [
        part
        for part in module.modules()
        if isinstance(part, SharedBatchNorm2d | nn.SyncBatchNorm) and part.training
    ]
    for part in sharing:
        part.eval()
    try:
        yield
    finally:
        for part in sharing:
            part.train()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that in training takes mean and variance over the images of all processes.

    Every process must call it the same number of times, in the same order; batches may differ in size.
    """

    @classmethod
    def from_plain(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """The same layer, with the same parameters and buffers."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters.update(norm._parameters)
        shared._buffers.update(norm._buffers)
        return shared.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape and type."""
        if not self.training or processes() == 1:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics are sums of many
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums: Tensor = _Sum.apply(torch.cat([values.sum(axes), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean.view(shape)
        variance: Tensor = _Sum.apply(centred.square().sum(axes)) / total
        self._remember(mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        gain = (variance + self.eps).rsqrt()
        if self.affine:
            gain = gain * self.weight
            return torch.addcmul(self.bias.view(shape), centred, gain.view(shape)).to(x.dtype)
        return (centred * gain.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is the gradient that comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad
