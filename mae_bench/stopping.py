"""Being asked to stop: signals as a flag that the loop reads, and what a run says when it leaves."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from mae_bench.errors import MaeBenchError


class InterruptedRunError(MaeBenchError):
    """The run was asked to stop; it has saved and can go on. `status` is the exit status to leave with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stopper:
    """Turns SIGTERM and Ctrl-C into a flag that the loop reads between steps; a second one stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deferring = True
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stopper:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        except ValueError:
            # Signals can only be handled in the main thread; in a notebook's thread they keep their meaning.
            self._old.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None or not self.deferring:
            raise KeyboardInterrupt
        self.signal = number
