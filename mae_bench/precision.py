"""Numeric precision: what `auto` means on a device, and the autocast context that follows from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mae_bench.errors import MaeBenchError

Precision = Literal["bf16", "fp16", "fp32"]


def resolve(wanted: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> Precision:
    """The precision to compute in.

    `auto` is bf16 where the device computes it fast (CUDA from compute capability 8.0; CPUs with
    avx512_bf16 or AMX), fp16 with loss scaling on older GPUs, and fp32 elsewhere.

    Raises:
        MaeBenchError: fp16 was asked for on a device without it.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise MaeBenchError(f"precision: fp16 needs a CUDA device, this is {device.type}; use auto")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16"
    return "fp32"


def suit_attention(model: nn.Module, device: torch.device, precision: str) -> None:
    """Choose the attention kernel that trains fastest: PyTorch's fused one, except for bf16 on a CPU.

    There the backward pass of the fused kernel takes up to ten times as long as plain matrix products and a
    softmax (benchmarks/attention.py measures it). Both compute the same up to the rounding of bf16.
    """
    fused = not (device.type == "cpu" and precision == "bf16")
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010  (timm declares it Final, for TorchScript alone)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware (Linux only; elsewhere False)."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return False
    for line in info.read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split())
            return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The autocast context of `precision`; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
