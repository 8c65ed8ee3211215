"""What a person sees while work goes on: lines, warnings, progress with a rate and the time left.

On a terminal progress is a bar; elsewhere (a log file, a batch job) a plain line now and then. Processes
other than the first stay silent. Imports no torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# Seconds between two plain lines of one piece of work.
PLAIN_INTERVAL = 10.0


def is_main_process() -> bool:
    """Whether this is the first process of a distributed launch (torchrun and accelerate set RANK)."""
    return os.environ.get("RANK", "0") == "0"


class _Screen:
    """The shared console and the one live display that all bars of this process stand in."""

    def __init__(self) -> None:
        self._console: Console | None = None
        self._live: Progress | None = None
        self._open_bars = 0

    @property
    def console(self) -> Console:
        if self._console is None or self._console.file is not sys.stderr:
            from rich.console import Console

            self._console = Console(stderr=True, file=sys.stderr, highlight=False, soft_wrap=True)
        return self._console

    def open_bar(self, description: str, unit: str, total: float, start: float) -> tuple[Progress, TaskID]:
        if self._live is None:
            self._live = _columns(self.console)
            self._live.start()
        self._open_bars += 1
        return self._live, self._live.add_task(
            description, total=total, completed=int(start), unit=unit, rate="", note=""
        )

    def close_bar(self, task: TaskID) -> None:
        if self._live is None:
            return
        self._live.remove_task(task)
        self._open_bars -= 1
        if self._open_bars == 0:
            self._live.stop()
            self._live = None


_screen = _Screen()


def _columns(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def say(text: str) -> None:
    """One line to standard error."""
    if is_main_process():
        _screen.console.print(text, markup=False)


def warn(text: str) -> None:
    """One line that a person should act on."""
    if is_main_process():
        _screen.console.print(f"warning: {text}", markup=False, style="yellow")


class Work:
    """A piece of long work; `advance` it as units get done."""

    def __init__(self, description: str, total: float, unit: str, start: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._start = float(start)
        self._began = self._last_line = time.monotonic()
        self._note = ""
        self._visible = is_main_process()
        self._bar: tuple[Progress, TaskID] | None = None
        if self._visible and _screen.console.is_terminal:
            self._bar = _screen.open_bar(description, unit, total, start)

    @property
    def rate(self) -> float:
        """Units a second since this process began the work."""
        return (self.done - self._start) / max(time.monotonic() - self._began, 1e-9)

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        self.done += amount
        if self._bar is not None:
            live, task = self._bar
            live.update(task, completed=self.done, rate=f"{_short(self.rate)}/s", note=self._note)
        elif self._visible and time.monotonic() - self._last_line >= PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            self._plain_line()

    def note(self, text: str) -> None:
        """Show `text` (a loss, say) beside the progress."""
        self._note = text

    def close(self) -> None:
        """Take the bar off the screen; without a terminal, say how long it took if it was long."""
        if self._bar is not None:
            _screen.close_bar(self._bar[1])
            self._bar = None
        elif self._visible and self._last_line > self._began:
            self._plain_line()

    def _plain_line(self) -> None:
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("nan")
        line = (
            f"{self.description}: {self.done:g} of {self.total:g} {self.unit}, "
            f"{_short(self.rate)}/s, {duration(left)} left"
        )
        say(line + (f", {self._note}" if self._note else ""))


@contextmanager
def progress(description: str, total: float, unit: str = "", start: float = 0) -> Iterator[Work]:
    """Show a piece of work: ``with progress("features", 5000, "images") as work: work.advance(64)``."""
    work = Work(description, total, unit, start)
    try:
        yield work
    finally:
        work.close()


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8 s``, ``3 min 20 s``, ``5 h 2 min``."""
    if seconds != seconds:
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
