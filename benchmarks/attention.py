"""Fused attention against plain products on this CPU, forward and backward, bf16 and fp32.

    python benchmarks/attention.py

Prints milliseconds (median of alternating runs) and the ratio; it is why `mae_bench.precision.suit_attention`
turns the fused kernel off for bf16 training on a CPU.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# (batch, heads, tokens, width of a head): the demo's encoder and decoder, then ViT-B on a quarter of the
# patches and on all.
SHAPES = [(256, 3, 17, 32), (256, 2, 65, 32), (16, 12, 50, 64), (16, 12, 197, 64)]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def milliseconds(kernel: object, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    began = time.perf_counter()
    kernel(q, k, v).sum().backward()  # type: ignore[operator]
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    torch.manual_seed(0)
    print(f"{'shape':>20} {'type':>6} {'fused ms':>9} {'plain ms':>9} {'fused / plain':>14}")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            times: dict[str, list[float]] = {"fused": [], "plain": []}
            for _ in range(12):
                times["fused"].append(milliseconds(scaled_dot_product_attention, shape, dtype))
                times["plain"].append(milliseconds(plain, shape, dtype))
            fused, ours = (statistics.median(times[name][2:]) for name in ("fused", "plain"))
            kind = str(dtype).removeprefix("torch.")
            print(f"{shape!s:>20} {kind[:6]:>6} {fused:9.1f} {ours:9.1f} {fused / ours:14.2f}")


if __name__ == "__main__":
    main()
