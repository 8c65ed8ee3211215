"""Images per second and peak memory of each engine on one recipe, on this machine.

    python benchmarks/engines.py [--task coco|ade20k] [--size 256] [--batch 2] [--steps 20] [--rounds 3]
                                 [--backbone random:vit_small_patch16_224] [--threads 2]

Every engine that is installed here trains the same recipe by the command line, in a process of its own, in
the order A B C A B C ...: its own pipeline reads and augments the images of the generated world, its own loop
trains. The rate is that of the training alone, from the last line of `metrics.jsonl`, loading included;
memory is `hardware.peak_memory_gib` of the result, the judging included: on a CPU what the process held, on a
GPU what tensors took. Medians of the rounds are printed, and ratios to the recipe's own engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from mae_bench import recipe, registry
from mae_bench.data import make_if_generated

TASKS = ("coco", "ade20k")


def installed(task: str) -> list[str]:
    """The engines of a recipe that are here, its own first."""
    own = recipe.resolve(task).config.task
    siblings = recipe.engines(own)
    there = [name for name, adapter in siblings.items() if not registry.adapters().entry(adapter).missing()]
    return sorted(there, key=lambda name: (siblings[name] != own, name))


def overrides(task: str, size: int, batch: int, steps: int) -> list[str]:
    """The recipe with its own model and heads, on generated scenes; 128 of 512 regions of an image."""
    common = [
        f"data.name=generated-{task}", f"data.root=generated/tiny-scenes/{task}",
        f"data.image_size=[{size},{size}]",
        f"train.steps={steps}", f"train.batch={batch}", f"train.micro_batch={batch}",
        f"train.log_every_steps={steps}", "optim.warmup_steps=2", "published_arch=null",
    ]  # fmt: skip
    if task == "coco":
        return [*common, "data.classes=null", "model.heads.batch=128", f"data.evaluation.short_edge={size}",
                f"data.evaluation.long_edge={size}", f"optim.milestones=[{steps - 1}]"]  # fmt: skip
    return [*common, "data.class_list=classes.txt", "model.blocks=quarters", "data.evaluation.mode=whole",
            "data.evaluation.base=null", f"data.augment.base=[{size},{size}]"]  # fmt: skip


def measure(task: str, engine: str, seed: int, args: argparse.Namespace, place: Path) -> tuple[float, float]:
    """Images a second and peak GiB of one training."""
    command = [
        sys.executable, "-m", "mae_bench", "run", "--task", task, "--engine", engine,
        "--backbone", args.backbone, "--seed", str(seed),
        "--data-root", str(place / "data"), "--runs", str(place / "runs"),
        "--name", f"{task}-{engine}-{seed}", *overrides(task, args.size, args.batch, args.steps),
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} failed:\n{done.stderr[-4000:]}")
    folder = place / "runs" / f"{task}-{engine}-{seed}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rate = [line["images_per_s"] for line in lines if "images_per_s" in line][-1]
    hardware = json.loads((folder / "result.json").read_text())["hardware"]
    return float(rate), float(hardware["peak_memory_gib"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, action="append", help="default: both")
    parser.add_argument("--backbone", default="random:vit_small_patch16_224")
    parser.add_argument(
        "--size", type=int, default=256, help="side of the canvas in pixels, a multiple of 32"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for task in args.task or TASKS:
            make_if_generated(f"generated/tiny-scenes/{task}", place / "data")
            engines = installed(task)
            rates: dict[str, list[float]] = defaultdict(list)
            memory: dict[str, list[float]] = defaultdict(list)
            for seed in range(args.rounds):
                for engine in engines:
                    rate, peak = measure(task, engine, seed, args, place)
                    rates[engine].append(rate)
                    memory[engine].append(peak)
                    print(f"{task} round {seed} {engine}: {rate:.2f} images/s, {peak:.2f} GiB", flush=True)
            for engine in engines:
                rate, peak = statistics.median(rates[engine]), statistics.median(memory[engine])
                ratio = rate / statistics.median(rates[engines[0]])
                shown = f"{rate:.2f} images/s, {ratio:.2f} of {engines[0]}; peak {peak:.2f} GiB"
                print(f"{task} {engine}: {shown}")


if __name__ == "__main__":
    main()
