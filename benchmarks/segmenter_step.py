"""Images per second of a ViT-B UperNet training step on 512 x 512 crops: ours against mmsegmentation's.

    python benchmarks/segmenter_step.py --reference /path/to/packages [--batch 2] [--rounds 3] [--threads 2]

The folder given as the reference holds importable mmseg, mmengine and mmcv (mmcv-lite is enough:
``pip install --no-deps --target FOLDER mmengine mmcv-lite mmsegmentation`` and what these import). The model
is that of mmsegmentation's configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py with BN for SyncBN,
ours the recipe's of the same values. A step is forward, loss, backward and AdamW on images in memory; ours
includes the normalisation of the uint8 pixels; theirs gets floats, and computes the pixel accuracy besides
the loss as its training does. Both run in this process, in the order A B A B ..., after one step each that
is not counted; the medians are compared, both in the same precision. On a GPU the largest memory of a step
is given too, on top of the weights and optimiser states of both.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import io
import logging
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from downstream.segmentation.segmenter import build, loss
from downstream.segmentation.settings import SegmenterSettings
from mae_bench.allocator import keep_freed_memory
from mae_bench.augment import normalise
from mae_bench.backbones import load_backbone
from mae_bench.backbones.architecture import IMAGENET_MEAN, IMAGENET_STD
from mae_bench.optim import build_optimizer, parameter_groups
from mae_bench.precision import autocast, suit_attention
from mae_bench.settings import OptimSettings

CONFIG = ".mim/configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py"
CLASSES, SIDE, LR = 150, 512, 1e-4
Step = Callable[[], float]


def lend_operators() -> None:
    """A stand-in for mmcv's compiled operators, which this model does not call."""

    class Operators(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return None

    module = Operators("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    sys.modules["mmcv._ext"] = module


def plain_norms(config: dict[str, Any]) -> None:
    """Replace SyncBN, which needs several processes, by BN in a nested configuration."""
    for value in config.values():
        if isinstance(value, dict):
            if value.get("type") == "SyncBN":
                value["type"] = "BN"
            plain_norms(value)


def reference_model(path: str) -> nn.Module:
    """mmsegmentation's model, with its own first weights."""
    sys.path.append(path)
    lend_operators()
    import mmseg.models
    from mmengine.config import Config
    from mmseg.registry import MODELS

    config = Config.fromfile(Path(mmseg.__file__).parent / CONFIG).model
    config.update(data_preprocessor=None, pretrained=None)
    config.neck.norm_cfg = {"type": "BN"}
    plain_norms(config)
    model: nn.Module = MODELS.build(config)
    model.init_weights()  # type: ignore[operator]
    return model


def reference_step(path: str, precision: str, batch: int, device: torch.device) -> Step:
    """One training step of mmsegmentation's model."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        model: Any = reference_model(path).to(device).train()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    images = normalise(pixels(batch, device), IMAGENET_MEAN, IMAGENET_STD)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels(batch, device)]

    def step() -> float:
        with autocast(precision, device):  # type: ignore[arg-type]
            losses = model.loss(images, samples)
            total = losses["decode.loss_ce"] + losses["aux.loss_ce"]
        value = float(total.detach())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step


def our_step(precision: str, batch: int, device: torch.device) -> Step:
    """One training step of ours."""
    config = SegmenterSettings(blocks=[3, 5, 7, 11], layer_scale=1.0)
    backbone = load_backbone("random:vit_base_patch16_224", drop_path=0.1)
    model = build(backbone, CLASSES, config, (SIDE, SIDE)).to(device).train()
    suit_attention(model, device, precision)
    settings = OptimSettings(lr=LR, weight_decay=0.05)
    optimizer = build_optimizer(parameter_groups(model, settings), settings)
    for group in optimizer.param_groups:
        group["lr"] = LR
    images, target = pixels(batch, device), labels(batch, device)

    def step() -> float:
        with autocast(precision, device):  # type: ignore[arg-type]
            logits = model(normalise(images, IMAGENET_MEAN, IMAGENET_STD))
            total = loss(logits, target, config.auxiliary_weight)["loss"]
        value = float(total.detach())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step


def pixels(batch: int, device: torch.device) -> Tensor:
    """uint8 noise ``(batch, 3, 512, 512)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator).to(device)


def labels(batch: int, device: torch.device) -> Tensor:
    """int64 ``(batch, 512, 512)``: random classes in cells of 32 x 32 pixels."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(0, CLASSES, (batch, SIDE // 32, SIDE // 32), generator=generator)
    return cells.repeat_interleave(32, 1).repeat_interleave(32, 2).to(device)


def seconds(step: Step, device: torch.device, clock: Callable[[], float]) -> tuple[float, float]:
    """How long one step takes, and its largest GPU memory beyond what was held before, in GiB."""
    held = 0
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    took = clock() - began
    peak = (torch.cuda.max_memory_allocated() - held) / 2**30 if device.type == "cuda" else 0.0
    return took, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", required=True, help="folder with importable mmseg, mmengine and mmcv")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="steps of each in a comparison")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["bf16", "fp32"])
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
    print(
        f"ViT-B/16 UperNet step at {SIDE} x {SIDE}, batch {options.batch}, {device.type}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} alternating steps"
        f"{', processor time' if options.cpu_time else ''}"
    )
    for precision in options.precision:
        theirs = reference_step(options.reference, precision, options.batch, device)
        ours = our_step(precision, options.batch, device)
        rounds = [
            (seconds(theirs, device, clock), seconds(ours, device, clock)) for _ in range(1 + options.rounds)
        ][1:]
        reference, mine = (statistics.median(pair[side][0] for pair in rounds) for side in (0, 1))
        spread = " ".join(f"{a[0] / b[0]:.2f}" for a, b in rounds)
        print(
            f"  {precision}: reference {options.batch / reference:6.2f} images/s   ours "
            f"{options.batch / mine:6.2f} images/s   ratio {reference / mine:.2f}   (each round: {spread})",
            flush=True,
        )
        if device.type == "cuda":
            memory = [max(pair[side][1] for pair in rounds) for side in (0, 1)]
            print(
                f"    memory of a step: reference {memory[0]:.2f} GiB   ours {memory[1]:.2f} GiB", flush=True
            )


if __name__ == "__main__":
    main()
