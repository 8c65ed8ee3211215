"""Time of a linear-probe step with a grid of 16 learning rates against one: frozen ViT-B/16, 1000 classes.

    python benchmarks/linear_grid.py [--batch 32] [--rounds 5] [--threads 2]

A step is what `imagenet-linear` does with images in memory: normalise, frozen forward pass, classifiers,
backward, LARS. Both kinds of step run in this process, in the order A B A B ..., after one each that is not
counted; the medians are compared. The batch is small, so the classifiers weigh more than in the recipe, where
one LARS update is shared by 16384 images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from downstream.classification.heads import HeadGrid, LinearProbe, grid_losses
from mae_bench.augment import normalise
from mae_bench.backbones import load_backbone
from mae_bench.optim import LARS
from mae_bench.precision import autocast, resolve, suit_attention

CLASSES, RATES = 1000, 16
LIMIT = 1.3


def probe_step(probe: LinearProbe, batch: int, device: torch.device) -> Callable[[], None]:
    """One training step of `probe` on images in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, 224, 224), generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    optimizer = LARS(
        [{"params": list(head.parameters()), "lr": 0.1} for head in probe.grid.heads], momentum=0.9
    )
    precision = resolve("auto", device)

    def step() -> None:
        with autocast(precision, device):
            losses = grid_losses(probe(normalise(images, probe.backbone.mean, probe.backbone.std)), labels)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=32, help="images in a step")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve("auto", device)
    backbone = load_backbone("random:vit_base_patch16_224")
    backbone.freeze("all")
    suit_attention(backbone, device, precision)
    steps = {}
    for heads in (1, RATES):
        grid = HeadGrid(backbone.width, CLASSES, heads, chosen.batch)
        probe = LinearProbe(backbone, "cls", grid).to(device).train()
        steps[heads] = probe_step(probe, chosen.batch, device)
        steps[heads]()
    seconds: dict[int, list[float]] = {heads: [] for heads in steps}
    for _ in range(chosen.rounds):
        for heads, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[heads].append(time.perf_counter() - began)
    one, many = (statistics.median(seconds[heads]) for heads in (1, RATES))
    print(f"{'rates':>5} {'s a step':>9} {'images/s':>9}   (batch {chosen.batch}, {precision}, {device})")
    for heads, median in ((1, one), (RATES, many)):
        print(f"{heads:5d} {median:9.3f} {chosen.batch / median:9.1f}")
    print(f"{RATES} rates cost {many / one:.3f} times one (aim: less than {LIMIT})")


if __name__ == "__main__":
    main()
