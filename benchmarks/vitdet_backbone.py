"""Images per second of a ViTDet ViT-B, forward and backward: ours against a checkout of detectron2.

    python benchmarks/vitdet_backbone.py --reference /path/to/detectron2 [--size 512] [--batch 1]

Windows of 14 patches but in the last block of each quarter, decomposed relative positions, and the padding
attended to as detectron2 does. Both hold the same weights and run in this process on the same images, in the
order A B A B ..., after one pass each that is not counted; the medians are compared, and the difference of
their maps is printed. The checkout needs no compiling, but what detectron2 imports (fvcore, iopath and
others) must be importable. It is not changed: the compiled module and the old name of timm's layers that it
asks for are lent to it. On a CPU the allocator is set up as our training loop does it, for both.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType

import timm.layers
import torch
from torch import Tensor, nn

from mae_bench.allocator import keep_freed_memory
from mae_bench.backbones import DenseViT, load_backbone, quarters
from mae_bench.precision import autocast, suit_attention

DEPTH, WIDTH, HEADS, PATCH, WINDOW = 12, 768, 12, 16, 14
Run = Callable[[Tensor], Tensor]


def reference(path: str, side: int) -> nn.Module:
    """detectron2's ViT-B for images of `side` pixels, from the checkout at `path`."""
    sys.path.insert(0, path)
    lent = {"detectron2._C": ModuleType("detectron2._C"), "timm.models.layers": timm.layers}
    missing = {name: module for name, module in lent.items() if name not in sys.modules}
    sys.modules.update(missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vit = importlib.import_module("detectron2.modeling.backbone.vit").ViT
        model: nn.Module = vit(
            img_size=side,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            use_rel_pos=True,
            rel_pos_zero_init=False,
            window_size=WINDOW,
            window_block_indexes=[index for index in range(DEPTH) if index not in quarters(DEPTH)],
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
    for name in missing:
        del sys.modules[name]
    sys.path.remove(path)
    return model


def ours(theirs: nn.Module, side: int) -> DenseViT:
    """Our ViT-B with the weights of `theirs`."""
    model = DenseViT(
        load_backbone("random:vit_base_patch16_224"),
        window=WINDOW,
        global_blocks=quarters(DEPTH),
        window_padding="attended",
        relative="decomposed",
        grid=(side // PATCH, side // PATCH),
    )
    state = {f"backbone.vit.{name}": value for name, value in theirs.state_dict().items()}
    state["backbone.vit.pos_embed"] = state["backbone.vit.pos_embed"][:, 1:]
    model.load_state_dict(state)
    return model


def seconds(run: Run, model: nn.Module, images: Tensor, clock: Callable[[], float]) -> float:
    """How long a forward and a backward pass take."""
    for param in model.parameters():
        param.grad = None
    began = clock()
    run(images).float().square().mean().backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def peak(run: Run, model: nn.Module, images: Tensor) -> str:
    """Peak memory of a pass on a GPU, in GiB; nothing elsewhere."""
    if not images.is_cuda:
        return ""
    torch.cuda.reset_peak_memory_stats()
    seconds(run, model, images, time.perf_counter)
    return f" {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", required=True, help="checkout of detectron2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, help="side in pixels; default: 512 on a CPU, else 1024")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each in a comparison")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
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
    side = options.size or (512 if device.type == "cpu" else 1024)
    torch.manual_seed(0)
    theirs = reference(options.reference, side).to(device).train()
    mine = ours(theirs, side).to(device).train()
    images = torch.randn(options.batch, 3, side, side, device=device)
    print(
        f"ViT-B/16 backbone of ViTDet, {options.batch} x {side} x {side}, {device.type}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} alternating passes"
        f"{', processor time' if options.cpu_time else ''}"
    )
    for precision in options.precision:
        suit_attention(mine, device, precision)

        def run_theirs(images: Tensor, precision: str = precision) -> Tensor:
            with autocast(precision, device):  # type: ignore[arg-type]
                found: Tensor = theirs(images)["last_feat"]
            return found

        def run_mine(images: Tensor, precision: str = precision) -> Tensor:
            with autocast(precision, device):  # type: ignore[arg-type]
                return mine(images, [DEPTH - 1])[0]

        with torch.no_grad():
            expected, found = run_theirs(images).float(), run_mine(images).float()
        times = [
            (seconds(run_theirs, theirs, images, clock), seconds(run_mine, mine, images, clock))
            for _ in range(1 + options.rounds)
        ][1:]
        slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"  {precision}: reference {options.batch / slow:6.3f} images/s{peak(run_theirs, theirs, images)}"
            f"   ours {options.batch / fast:6.3f} images/s{peak(run_mine, mine, images)}"
            f"   ratio {slow / fast:.2f}   (each round: {' '.join(f'{a / b:.2f}' for a, b in times)})"
            f"   largest difference {((expected - found).abs().max() / expected.abs().max()).item():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
