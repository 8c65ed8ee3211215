"""What detectron2 says while it works: all of it into a file, warnings and errors on the screen too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_bench import screen

_LOGGERS = ("detectron2", "fvcore")


class _OnScreen(logging.Handler):
    """Shows warnings; exceptions go on their way and are told by whoever catches them."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is None:
            screen.warn(f"{record.name}: {' '.join(record.getMessage().split())}")


@contextmanager
def kept_in(file: Path) -> Iterator[None]:
    """Append what detectron2's loggers say to `file`; their state is put back at the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = logging.FileHandler(file, encoding="utf-8")
    whole.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    shown = _OnScreen(logging.WARNING)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(whole)
        logger.addHandler(shown)
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(whole)
            logger.removeHandler(shown)
            logger.setLevel(level)
            logger.propagate = propagate
        whole.close()
