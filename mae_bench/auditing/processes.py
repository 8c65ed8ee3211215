"""Processes that read the items of a survey, whatever that does to them.

Image libraries crash on some broken files, and memory runs out on others. So a process has one batch at a
time and says in shared memory which item it has in hand: the item that ended a process is known and reported,
and the rest of its batch goes to a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_bench.auditing.reading import ENTRY, Batch, Items, read
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding

BATCH = 64
# Seconds after which a reading process without news is let be, to see whether to stop.
_PATIENCE = 0.5


class Readers:
    """Processes that read items; they start with the context and end with it.

    Args:
        stamps: the stamp of each item when it was read, 0 where it was not; ``(N,)``.
        workers: how many processes; 0: none, the items are read by this one.
    """

    def __init__(self, items: Items, stamps: NDArray[np.uint64], workers: int) -> None:
        self.items, self.stamps = items, stamps
        starts = range(0, len(items), BATCH)
        self._waiting = deque(range(start, min(start + BATCH, len(items))) for start in starts)
        forked = workers if hasattr(os, "fork") else 0
        self._team = [_Worker(items, stamps) for _ in range(min(forked, len(self._waiting)))]

    def __enter__(self) -> Readers:
        for worker in self._team:
            worker.start(self._team)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._team:
            worker.end()

    def batches(self) -> Iterator[Batch]:
        """What came of all items, in the order in which it comes; empty batches now and then.

        Raises:
            MaeBenchError: a process ended with no item in hand.
        """
        if not self._team:
            yield from (read(self.items, several, self.stamps) for several in self._waiting)
            return
        while True:
            for worker in self._team:
                if worker.task is None and self._waiting:
                    worker.give(self._waiting.popleft())
            busy = [worker for worker in self._team if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], timeout=_PATIENCE)
            if not ready:
                yield Batch(np.zeros(0, ENTRY))
            for worker in busy:
                if worker.pipe in ready:
                    yield self._from(worker)

    def _from(self, worker: _Worker) -> Batch:
        task, batch = worker.task, worker.take()
        if batch is not None:
            return batch
        assert task is not None  # only busy ones are asked
        item, ending = worker.last_words()
        if item not in task:
            raise MaeBenchError(f"a process that reads images ended ({ending}) with none in hand; try again")
        self._waiting.extend(part for part in (range(task.start, item), range(item + 1, task.stop)) if part)
        worker.start(self._team)
        # The stamp stays 0: the next check tries again.
        lost = Batch(np.zeros(1, ENTRY))
        lost.entries["item"] = item
        message = f"reading it ends the process ({ending}): the file is broken, or memory is short"
        lost.findings[item] = [Finding("unreadable", self.items.title(item), message)]
        return lost


class _Worker:
    """A process that reads batches of items, and its end of the line."""

    pipe: Connection[Any, Any]

    def __init__(self, items: Items, stamps: NDArray[np.uint64]) -> None:
        self._items, self._stamps = items, stamps
        self._in_hand = RawValue("q", -1)
        self._process: Any = None
        self.task: range | None = None

    def start(self, team: Sequence[_Worker]) -> None:
        """Start the process; `team` are all, of whose lines it must hold no end."""
        self._in_hand.value = -1
        ours, theirs = multiprocessing.Pipe()
        foreign = [ours, *(worker.pipe for worker in team if worker is not self and worker._process)]
        arguments = (theirs, foreign, self._items, self._stamps, self._in_hand)
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_serve, args=arguments, daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads. These processes use none of the parent's.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            self._process.start()
        theirs.close()
        self.pipe, self.task = ours, None

    def give(self, task: range) -> None:
        """Have some items read."""
        self.task = task
        with suppress(OSError):  # if it has ended, `take` finds out
            self.pipe.send(task)

    def take(self) -> Batch | None:
        """What came of the items; None: the process has ended."""
        self.task = None
        try:
            batch = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(batch, str):
            raise RuntimeError(
                f"a fault of the check itself, at {self._items.title(self._in_hand.value)}:\n{batch}"
            )
        return batch

    def last_words(self) -> tuple[int, str]:
        """The item that an ended process had in hand, and how it ended."""
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode
        return int(self._in_hand.value), f"signal {-code}" if code < 0 else f"status {code}"

    def end(self) -> None:
        """End the process, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()


def _serve(
    pipe: Connection[Any, Any],
    foreign: list[Connection[Any, Any]],
    items: Items,
    stamps: NDArray[np.uint64],
    in_hand: Any,
) -> None:
    """What a process does until its line is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends in order, and this process with it
    for line in foreign:
        line.close()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    warnings.simplefilter("ignore")
    heard = _listen()

    def note(item: int) -> None:
        in_hand.value = item

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(read(items, task, stamps, heard, note))
        except Exception:
            pipe.send(traceback.format_exc())
            return
        note(-1)


def _listen() -> Callable[[], str]:
    """Turn standard error into a file, and give the first line of what was printed since the last call.

    libjpeg's complaints of corrupt data, among them that an image ends too early, come this way and no other:
    what it decodes after one is grey or shifted, and torchvision takes it for whole.
    """
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

    def heard() -> str:
        if not os.lseek(2, 0, os.SEEK_CUR):
            return ""
        lines = os.pread(2, 1 << 12, 0).decode(errors="replace").strip().splitlines()
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        return lines[0] if lines else ""

    return heard
