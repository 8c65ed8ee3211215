"""Images per second of a ViTDet-B Mask R-CNN training step: ours against a checkout of detectron2.

    python benchmarks/detector_step.py --reference /path/to/detectron2 [--size 512] [--rounds 3] [--threads 2]

A step is forward, backward and AdamW on images in memory, with seven objects each; ours gets uint8 pixels and
bitmaps, theirs floats and polygons, as its loader gives them. Both run in this process, in the order
A B A B ..., after one step each that is not counted; the medians are compared. Both compute in the same
precision, with the recipe's 512 regions and 256 anchors of an image. Memory is the peak of two steps in a
process that does nothing else.

The checkout is not changed and its C extension need not be compiled: of it only names are asked for, while
the model's RoI align is torchvision's. Its pure-Python requirements (fvcore, iopath, omegaconf, hydra-core,
pycocotools, ...) must be importable.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from downstream.detection.detector import build
from downstream.detection.settings import DetectorSettings
from mae_bench.allocator import keep_freed_memory
from mae_bench.backbones import load_backbone
from mae_bench.optim import build_optimizer, parameter_groups
from mae_bench.precision import autocast, resolve, suit_attention
from mae_bench.settings import OptimSettings

LR, WEIGHT_DECAY, LAYER_DECAY, CLASSES, OBJECTS = 1e-4, 0.1, 0.7, 80, 7
Step = Callable[[], float]


def reference_step(path: str, size: int, batch: int, precision: str, device: torch.device) -> Step:
    """One training step of the checkout at `path`."""
    sys.path.insert(0, path)
    sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config, solver, structures, events, vit = (
            importlib.import_module(f"detectron2.{name}")
            for name in ("config", "solver.build", "structures", "utils.events", "modeling.backbone.vit")
        )
        lazy = config.LazyConfig.load(str(Path(path) / "configs/common/models/mask_rcnn_vitdet.py")).model
    sys.path.remove(path)
    lazy.backbone.net.img_size = lazy.backbone.square_pad = size
    model: nn.Module = config.instantiate(lazy).to(device).train()
    groups = solver.get_default_optimizer_params(
        model,
        base_lr=LR,
        weight_decay_norm=0.0,
        lr_factor_func=partial(vit.get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=LAYER_DECAY),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)
    inputs = []
    for image, boxes, labels in scenes(size, batch):
        objects = structures.Instances((size, size))
        objects.gt_boxes = structures.Boxes(boxes)
        objects.gt_classes = labels - 1
        objects.gt_masks = structures.PolygonMasks([[corners(box).numpy()] for box in boxes])
        inputs.append({"image": image, "instances": objects.to(device)})

    def losses() -> dict[str, Tensor]:
        with events.EventStorage():
            out: dict[str, Tensor] = model(inputs)
        return out

    return training_step(losses, optimizer, precision, device)


def our_step(size: int, batch: int, precision: str, device: torch.device) -> Step:
    """One training step of ours."""
    config = DetectorSettings.model_validate({"attention": {"window_padding": "attended"}})
    backbone = load_backbone("random:vit_base_patch16_224", drop_path=0.1)
    model = build(backbone, CLASSES, config, (size, size)).to(device).train()
    suit_attention(model, device, precision)
    optim = OptimSettings(lr=LR, weight_decay=WEIGHT_DECAY, layer_decay=LAYER_DECAY, decay_biases=True)
    optimizer = build_optimizer(parameter_groups(model, optim), optim)
    for group in optimizer.param_groups:
        group["lr"] = LR * group["lr_scale"]
    drawn = scenes(size, batch)
    images = [image.to(device) for image, _, _ in drawn]
    targets = [
        {
            "boxes": boxes.to(device),
            "labels": labels.to(device),
            "masks": torch.stack([rectangle(box, size) for box in boxes]).to(device),
        }
        for _, boxes, labels in drawn
    ]
    return training_step(lambda: model(images, targets), optimizer, precision, device)


def training_step(
    losses: Callable[[], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    precision: str,
    device: torch.device,
) -> Step:
    """Forward, backward and update; returns the sum of the losses."""

    def step() -> float:
        with autocast(resolve(precision, device), device):  # type: ignore[arg-type]
            loss = torch.stack([one.float() for one in losses().values()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def scenes(size: int, batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Image uint8 (3, size, size), boxes (7, 4) and labels (7,) of each image."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(batch):
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
        first = torch.rand(OBJECTS, 2, generator=generator) * size * 0.6
        boxes = torch.cat(
            [first, first + size * (0.05 + 0.35 * torch.rand(OBJECTS, 2, generator=generator))], 1
        )
        drawn.append((image, boxes, torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)))
    return drawn


def corners(box: Tensor) -> Tensor:
    """The four corners of a box, as a polygon (8,)."""
    x0, y0, x1, y1 = box.double()
    return torch.stack([x0, y0, x1, y0, x1, y1, x0, y1])


def rectangle(box: Tensor, size: int) -> Tensor:
    """The bitmap uint8 (size, size) of a filled box."""
    place = torch.arange(size) + 0.5
    across, down = ((place > box[axis]) & (place < box[axis + 2]) for axis in (0, 1))
    return (down[:, None] & across[None]).to(torch.uint8)


def seconds(step: Step, device: torch.device, clock: Callable[[], float]) -> float:
    """How long one step takes."""
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def peak(precision: str, options: argparse.Namespace, side: str) -> float:
    """GiB that two steps take at most in a process of their own: weights, optimiser and all the rest."""
    command = [sys.executable, __file__, "--reference", options.reference, "--peak-of", side]
    command += ["--size", str(options.size), "--batch", str(options.batch), "--device", options.device]
    done = subprocess.run([*command, "--precision", precision], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def own_peak(step: Step, device: torch.device) -> float:
    """The same, in this process; of a CPU on Linux only."""
    for _ in range(2):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage: on Linux its peak begins with what the process that started this one held.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", required=True, help="checkout of facebookresearch/detectron2")
    parser.add_argument("--size", type=int, help="side of the images; default: 512, on a GPU 1024")
    parser.add_argument("--batch", type=int, default=1, help="images in a step")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each in a comparison")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["bf16", "fp32"])
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time: for a machine that others use too"
    )
    parser.add_argument("--peak-of", choices=["reference", "ours"], help="print only the memory of one")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    options.size = options.size or (1024 if device.type == "cuda" else 512)
    torch.manual_seed(0)
    reference = partial(reference_step, options.reference, options.size, options.batch)
    ours = partial(our_step, options.size, options.batch)
    if options.peak_of:
        print(
            own_peak((ours if options.peak_of == "ours" else reference)(options.precision[0], device), device)
        )
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    if device.type == "cpu":
        keep_freed_memory()
    print(
        f"ViTDet-B Mask R-CNN step, {options.batch} x {options.size} x {options.size}, {device.type}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} alternating steps"
        f"{', processor time' if options.cpu_time else ''}"
    )
    for precision in options.precision:
        memory = [peak(precision, options, side) for side in ("reference", "ours")]
        pair = reference(precision, device), ours(precision, device)
        rounds = range(1 + options.rounds)
        times = [[seconds(step, device, clock) for step in pair] for _ in rounds][1:]
        theirs, mine = (statistics.median(column) for column in zip(*times, strict=True))
        spread = " ".join(f"{a / b:.2f}" for a, b in times)
        print(
            f"  {precision}  reference {options.batch / theirs:6.3f} images/s {memory[0]:5.2f} GiB   "
            f"ours {options.batch / mine:6.3f} images/s {memory[1]:5.2f} GiB   "
            f"ratio {theirs / mine:.2f}   (each round: {spread})",
            flush=True,
        )
        del pair


if __name__ == "__main__":
    main()
