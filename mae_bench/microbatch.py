"""How many images go through a model at once: the largest exact divisor of the batch that fits in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mae_bench import data, norms, screen
from mae_bench.data import Samples
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from mae_bench.run import Run

# On a CPU a larger micro-batch is not faster, and its memory cannot be tried out without risk.
CPU_LIMIT = 256
# Share of a CPU's free memory that the activations of a micro-batch may take.
CPU_SHARE = 0.4


def choose_micro_batch(
    batch: int,
    wanted: int | Literal["auto"],
    *,
    run: Run,
    model: nn.Module,
    step: Callable[[nn.Module, dict[str, Any]], dict[str, Tensor]],
    samples: Samples,
) -> int:
    """The micro-batch of one process.

    With `auto`, passes forward and back of falling sizes are tried on the unwrapped model, with memory set
    aside for gradients, optimiser and averages, until one fits; the smallest of all processes counts.

    Args:
        batch: the effective, global batch.
        wanted: `train.micro_batch`.
        samples: the training set, from whose first samples a batch is made to try with.

    Raises:
        MaeBenchError: `batch` is not divisible, or not even one image fits.
    """
    if batch % run.world:
        raise MaeBenchError(f"train.batch: {batch} is not divisible by the {run.world} processes")
    share = batch // run.world
    if wanted != "auto":
        if share % wanted:
            raise MaeBenchError(
                f"train.micro_batch: {wanted} does not divide the {share} images of each process "
                f"(train.batch {batch} / {run.world} processes); use one of {_some(divisors(share))}"
            )
        return wanted
    candidates = divisors(share)
    if run.device.type == "cpu":
        limit = min(CPU_LIMIT, _cpu_fit(run, model, step, samples))
        candidates = [size for size in candidates if size <= max(limit, 1)]
    for size in candidates:
        if _fits(size, run, model, step, samples):
            chosen = _least(run, size)
            if chosen != share:
                screen.say(f"micro-batch {chosen}: {share // chosen} of them make a step of {batch} images")
            return chosen
        screen.say(f"{size} images at once do not fit in memory; trying fewer")
    raise MaeBenchError("not even one image fits in the memory of the device")


def divisors(number: int) -> list[int]:
    """All divisors, largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def _least(run: Run, size: int) -> int:
    return int(run.gather(torch.tensor([size])).min())


def _some(sizes: list[int]) -> str:
    return ", ".join(str(size) for size in sizes[:8])


def _batch_of(size: int, run: Run, samples: Samples) -> dict[str, Any]:
    few = [samples[(0, index)] for index in range(min(size, 4, len(samples)))]
    return data.to_device(samples.collate([few[index % len(few)] for index in range(size)]), run.device)


def _forward(
    size: int,
    run: Run,
    model: nn.Module,
    step: Callable[..., dict[str, Tensor]],
    samples: Samples,
) -> None:
    with run.autocast():
        loss = step(model, _batch_of(size, run, samples))["loss"]
    loss.backward()


def _fits(
    size: int,
    run: Run,
    model: nn.Module,
    step: Callable[..., dict[str, Tensor]],
    samples: Samples,
) -> bool:
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    reserved = None
    try:
        # Two optimiser moments, an average and a reducer's buckets will come on top of the gradients.
        reserved = torch.empty(
            4 * trained if run.device.type == "cuda" else 0, dtype=torch.uint8, device=run.device
        )
        with norms.apart(model):  # processes try by themselves, each in its own time
            _forward(size, run, model, step, samples)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        del reserved
        model.zero_grad(set_to_none=True)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _cpu_fit(run: Run, model: nn.Module, step: Callable[..., dict[str, Tensor]], samples: Samples) -> int:
    """How many images' activations fit in `CPU_SHARE` of the free memory, from counting those of two."""
    import psutil

    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        if not _fits(2, run, model, step, samples):
            return 1
    own = sum(param.untyped_storage().nbytes() for param in model.parameters())
    per_image = max(sum(held.values()) - own, 1) / 2
    return int(psutil.virtual_memory().available * CPU_SHARE / per_image / max(run.world, 1))
