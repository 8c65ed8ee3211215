"""Images per second of a ViT-B/16 MAE training step: ours against a checkout of facebookresearch/mae.

    python benchmarks/mae_step.py --reference /path/to/mae [--batch 32] [--rounds 5] [--threads 2]

A step is forward, backward and AdamW on 224 x 224 images that are in memory already; ours includes the
normalisation of the uint8 pixels, theirs gets floats. Both run in this process, in the order A B A B ...,
after one step each that is not counted; the medians are compared. The reference runs as its own training
script does: fp32 on a CPU, fp16 autocast with loss scaling on a GPU. The checkout is not changed: what it
needs of older libraries (timm's Block with `qk_scale`, `numpy.float`) is lent to it while it is imported.
On a CPU the allocator is set up as our training loop does it, for both: the reference gains by that too.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import timm.models.vision_transformer as timm_vit
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from mae_bench.allocator import keep_freed_memory
from mae_bench.augment import normalise
from mae_bench.backbones.architecture import IMAGENET_MEAN, IMAGENET_STD, build
from mae_bench.optim import build_optimizer, parameter_groups
from mae_bench.precision import autocast, resolve, suit_attention
from mae_bench.pretrain.model import MaskedAutoencoder
from mae_bench.settings import OptimSettings

LR = 1.5e-4
Step = Callable[[], float]


@contextmanager
def older_libraries() -> Iterator[None]:
    """Lend what the reference expects of timm 0.3.2 and NumPy 1.19, and take it back."""
    block = timm_vit.Block

    class OldBlock(block):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, qk_scale: float | None = None, **kwargs: Any) -> None:
            assert qk_scale is None
            super().__init__(*args, **kwargs)

    had_float = "float" in vars(np)
    timm_vit.Block = OldBlock
    if not had_float:
        np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        timm_vit.Block = block
        if not had_float:
            del np.float  # type: ignore[attr-defined]


def reference_step(path: str, batch: int, device: torch.device) -> Step:
    """One training step of the checkout at `path`."""
    sys.path.insert(0, path)
    with older_libraries():
        model: nn.Module = importlib.import_module("models_mae").mae_vit_base_patch16(norm_pix_loss=True)
    sys.path.remove(path)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.05), lr=LR, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    images = normalise(pixels(batch, device), IMAGENET_MEAN, IMAGENET_STD)

    def step() -> float:
        with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
            loss = model(images, mask_ratio=0.75)[0]
        value = float(loss)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return value

    return step


def our_step(precision: str, batch: int, device: torch.device) -> Step:
    """One training step of ours."""
    encoder = build("vit_base_patch16_224", {}, channels=3, where="benchmark")
    model = MaskedAutoencoder(encoder).to(device).train()
    resolved = resolve(precision, device)  # type: ignore[arg-type]
    suit_attention(model, device, resolved)
    settings = OptimSettings(lr=LR, betas=[0.9, 0.95], weight_decay=0.05)
    optimizer = build_optimizer(parameter_groups(model, settings), settings)
    for group in optimizer.param_groups:
        group["lr"] = LR
    scaler = torch.amp.GradScaler(device.type, enabled=resolved == "fp16")
    images, keys = pixels(batch, device), torch.arange(batch, device=device)

    def step() -> float:
        with autocast(resolved, device):
            loss = model(normalise(images, IMAGENET_MEAN, IMAGENET_STD), keys)
        value = float(loss)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return value

    return step


def pixels(batch: int, device: torch.device) -> Tensor:
    """uint8 noise ``(batch, 3, 224, 224)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=generator).to(device)


def seconds(step: Step, device: torch.device, clock: Callable[[], float]) -> float:
    """How long one step takes."""
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", required=True, help="checkout of facebookresearch/mae")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each in a comparison")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["auto", "fp32"], choices=["auto", "bf16", "fp32"])
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time: for a machine that others use too"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = time.process_time if options.cpu_time else time.perf_counter
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    theirs = reference_step(options.reference, options.batch, device)
    print(
        f"ViT-B/16 MAE step, batch {options.batch}, {device.type}, {torch.get_num_threads()} threads, "
        f"median of {options.rounds} alternating steps{', processor time' if options.cpu_time else ''}"
    )
    for precision in options.precision:
        ours = our_step(precision, options.batch, device)
        rounds = range(1 + options.rounds)
        times = [(seconds(theirs, device, clock), seconds(ours, device, clock)) for _ in rounds][1:]
        reference, mine = (statistics.median(column) for column in zip(*times, strict=True))
        spread = " ".join(f"{a / b:.2f}" for a, b in times)
        name = f"{precision} ({resolve(precision, device)})"
        print(
            f"  reference {options.batch / reference:6.2f} images/s   ours {name} "
            f"{options.batch / mine:6.2f} images/s   ratio {reference / mine:.2f}   (each round: {spread})",
            flush=True,
        )


if __name__ == "__main__":
    main()
