"""Batches: in an order that is a pure function of the step, read by processes that get out of the way."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import warnings
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mae_bench.data.dataset import Samples
from mae_bench.errors import MaeBenchError
from mae_bench.keys import permutation

Batches = Generator[dict[str, Any], None, None]

MOST_WORKERS = 16


def steps_per_epoch(images: int, batch: int) -> int:
    """How many full batches there are in an epoch; the rest of each epoch's order is left out.

    Raises:
        MaeBenchError: not even one.
    """
    if batch > images:
        raise MaeBenchError(f"train.batch: {batch} is more than the {images} training images")
    return images // batch


def training_batches(
    dataset: Samples,
    *,
    batch: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    workers: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> Batches:
    """Endless micro-batches of one process, step after step.

    Step t takes images t * batch to (t + 1) * batch of a stream of orders, one for each epoch, of which the
    last ``len(dataset) % batch`` are dropped. The images of a step are cut into `world` equal parts, and each
    part into micro-batches; so their union is the same for any number of processes and any micro-batch.

    Args:
        batch: the effective, global batch.
        micro_batch: images in one yielded batch.
        rank: index of this process.
        world: number of processes.
        start_step: the first step wanted; what comes before is not read.
        workers: loader processes; see `loader_processes`.
        seed: decides the order.

    Yields:
        What ``dataset.collate`` makes of the samples. Close the generator to end the loader processes.

    Raises:
        MaeBenchError: sizes that do not divide, too few images, or (while iterating) unreadable images.
    """
    steps_per_epoch(len(dataset), batch)
    if batch % (world * micro_batch):
        raise MaeBenchError(
            f"train.batch: {batch} is not divisible by {world} processes x micro-batches of {micro_batch}"
        )
    order = _TrainingOrder(len(dataset), batch, micro_batch, rank, world, start_step, seed)
    return _load(dataset, order, np.arange(len(dataset)), loader_processes(workers, dataset, world))


def evaluation_batches(
    dataset: Samples,
    *,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int | Literal["auto"] = "auto",
) -> Batches:
    """The images of one process in order, each once over all processes, without padding.

    Process r has a contiguous part, so gathering in rank order gives the order of the dataset. Parts differ
    by at most one image, and may be empty; the last batch is as small as it comes out.

    Args:
        batch: images in one yielded batch.
        rank: index of this process.
        world: number of processes.
        workers: loader processes; see `loader_processes`.

    Yields:
        As `training_batches`.
    """
    own = np.arange(len(dataset) * rank // world, len(dataset) * (rank + 1) // world)
    parts = [(0, own[start : start + batch]) for start in range(0, len(own), batch)]
    return _load(dataset, parts, own, min(loader_processes(workers, dataset, world), len(parts)))


def loader_processes(workers: int | Literal["auto"], dataset: Samples, world: int = 1) -> int:
    """How many loader processes a training process gets; 0 means that it reads the images itself.

    A number is taken as it is. `auto` divides the cores that this process may use by the training processes
    on this machine, and takes at most `MOST_WORKERS`. Without a GPU the cores are needed for training, so
    then it is 1 (enough to read while the model computes), or 0 if images are tiny, which then cost less to
    read than to hand over. The batches are the same in any case.
    """
    if workers != "auto":
        return workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # set by torchrun and accelerate
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // local)
    if torch.cuda.is_available():
        return min(share, MOST_WORKERS)
    return 0 if share == 1 or dataset.is_cheap() else 1


# ---------------------------------------------------------------- order

Part = tuple[int, NDArray[np.int64]]  # epoch, indices


class _TrainingOrder(Sampler[Part]):
    """(epoch, indices) of every micro-batch of one process, from `start_step` on, without end."""

    def __init__(
        self, images: int, batch: int, micro_batch: int, rank: int, world: int, start_step: int, seed: int
    ) -> None:
        self.images, self.batch, self.micro_batch = images, batch, micro_batch
        self.rank, self.world, self.start_step, self.seed = rank, world, start_step, seed

    def __iter__(self) -> Iterator[Part]:
        per_epoch = self.images // self.batch
        share = self.batch // self.world
        epoch, within = divmod(self.start_step, per_epoch)
        while True:
            order = permutation(self.seed, epoch, self.images)
            for step in range(within, per_epoch):
                begin = step * self.batch + self.rank * share
                for start in range(begin, begin + share, self.micro_batch):
                    yield epoch, order[start : start + self.micro_batch]
            epoch, within = epoch + 1, 0


# ---------------------------------------------------------------- loading


class _Batcher(Dataset[dict[str, Any]]):
    """Turns (epoch, indices) into a batch, with what went wrong as values.

    torch would raise a loader process's exception in the parent with its traceback pasted into the message.
    """

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__((0, np.array([index])))

    def __getitems__(self, part: Part) -> dict[str, Any]:
        epoch, indices = part
        samples: list[dict[str, Any]] = []
        bad: dict[int, str] = {}
        try:
            for index in indices.tolist():
                sample, passed_over = self.dataset.fetch(epoch, index)
                samples.append(sample)
                bad |= passed_over
            return {**self.dataset.collate(samples), "bad": bad}
        except MaeBenchError as error:
            return {"error": str(error)}


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def _load(
    dataset: Samples, order: Sampler[Part] | list[Part], needed: NDArray[np.int64], workers: int
) -> Batches:
    """Check and prepare now; the generator that comes back starts the loader processes when first asked."""
    dataset.prepare(needed)
    loader = DataLoader(
        _Batcher(dataset),
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent if workers else None,
        # Fork shares images held in memory, and starts at once. Other systems than Linux choose themselves.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # else torch draws a seed from the global generator of the run
    )
    batches = _batches(loader, dataset)
    _open.add(batches)
    return batches


_open: weakref.WeakSet[Batches] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End loader processes before Python waits for them, as those of abandoned batches would wait for it."""
    for batches in list(_open):
        batches.close()


def _batches(loader: DataLoader[dict[str, Any]], dataset: Samples) -> Batches:
    with clear_errors():
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads. Loader processes use none of the parent's.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            batches = iter(loader)
        try:
            for batch in batches:
                if "error" in batch:
                    raise MaeBenchError(batch["error"])
                dataset.note_bad(batch.pop("bad"))
                yield batch
        finally:
            # The loader processes end with the last reference, and a traceback would keep this one.
            del batches


@contextmanager
def clear_errors() -> Iterator[None]:
    """Tell in a sentence when a loader process died."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MaeBenchError(
            f"a loader process died: {error}. If it ran out of (shared) memory, lower data.workers (0 reads "
            "in the training process) or raise the limit (docker: --shm-size)"
        ) from error


def leave_signals_to_parent(worker: int) -> None:
    """Let the parent end in order on Ctrl-C or on a scheduler's SIGTERM to the whole group.

    Loader processes outlive the first SIGTERM, so that the parent can still save; the second ends them, and
    so does the end of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)


def _end_next_time(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`, those in lists and mappings too."""
    return {key: _moved(value, device) for key, value in batch.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return to_device(value, device)
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value
