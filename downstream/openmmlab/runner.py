"""mmengine's Runner as a quiet part of a run: where its log goes, what it leaves alone, what errors say."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from itertools import count
from typing import Any

import torch
from torch import nn

from mae_bench import screen
from mae_bench.data.loaders import clear_errors
from mae_bench.errors import MaeBenchError

# What the engines' loggers warn of though it is as it should be.
_KNOWN = re.compile(
    r"Advance dataloader|dataset metainfo from the resumed checkpoint|Gradient accumulative may|"
    r"`save_param_scheduler` is True|`resume_param_scheduler` is True|"
    r"\"FileClient\" will be deprecated|\"HardDiskBackend\" is the alias"
)


numbers = count(1)
"""For names that are given once in a process: mmengine hands out what had the same name before."""


class _ToScreen(logging.Handler):
    """Warnings and errors of the engine on our screen; all else is in its log file."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not _KNOWN.search(message):
            screen.warn(f"mmengine: {message}")


@cache
def runner_class() -> Any:
    """A Runner that takes a model as it comes, writes no config of its own and logs into its file alone."""
    from mmengine.model import MMDistributedDataParallel
    from mmengine.runner import Runner

    class QuietRunner(Runner):
        def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **options: Any) -> Any:
            logger = super().build_logger(log_level, log_file, **options)
            files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
            logger.handlers[:] = [*files, _ToScreen()]
            return logger

        def wrap_model(self, settings: dict[str, Any] | None, model: nn.Module) -> nn.Module:
            if not self.distributed or torch.cuda.is_available():
                wrapped: nn.Module = super().wrap_model(settings, model)
                return wrapped
            # mmengine names a device to torch's wrapper, which for CPUs must have none.
            unused = bool((settings or self.cfg).get("find_unused_parameters", False))
            return MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)

        def load_or_resume(self) -> None:
            """As mmengine does, but that its reader prints what it reads instead of logging it."""
            said = io.StringIO()
            with redirect_stdout(said):
                super().load_or_resume()
            self.logger.info(said.getvalue().strip())

        def _init_model_weights(self) -> None:
            """Nothing: the weights are those that the model came with, the same on every process."""

        def dump_config(self) -> None:
            """Nothing: the native config stands in the run's folder."""

    return QuietRunner


@contextmanager
def undisturbed() -> Iterator[None]:
    """Take back in the end what mmengine changes for the whole process, and close what it opened.

    Loggers, message hubs, scopes and visualizers that it makes within this block are forgotten; threads of
    OpenCV, the way processes are started, cuDNN's flags and threads for the children are as they were.
    Warnings about the engines' own code are not shown.
    """
    import cv2
    import torch.multiprocessing as mp
    from mmengine.logging import MMLogger
    from mmengine.utils import ManagerMixin

    before = {cls: set(cls._instance_dict) for cls in _managers(ManagerMixin)}
    threads, method = cv2.getNumThreads(), mp.get_start_method(allow_none=True)
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        with warnings.catch_warnings():
            _ignore_third_parties()
            # What is logged before a Runner has made its own logger, which has a file.
            MMLogger.get_instance(f"mae-bench-screen-{next(numbers)}").handlers[:] = [_ToScreen()]
            yield
    finally:
        for cls in _managers(ManagerMixin):
            for name in set(cls._instance_dict) - before.get(cls, set()):
                for handler in getattr(cls._instance_dict.pop(name), "handlers", []):
                    handler.close()
        cv2.setNumThreads(threads)
        mp.set_start_method(method, force=True)
        cudnn.benchmark, cudnn.deterministic = flags[:2]
        torch.use_deterministic_algorithms(flags[2])
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _managers(cls: type[Any]) -> list[Any]:
    """Every class below `cls` that keeps its instances by name."""
    found = list(cls.__subclasses__())
    return [*found, *(deeper for one in found for deeper in _managers(one))]


def _ignore_third_parties() -> None:
    engines = r"(mmengine|mmcv|mmdet|mmseg|pycocotools)(\.|$)"
    for category in (DeprecationWarning, FutureWarning, UserWarning, ResourceWarning):
        warnings.filterwarnings("ignore", category=category, module=engines)
    # Python 3.12 warns of forking beside threads; loader processes use none of the parent's.
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)


# ---------------------------------------------------------------- errors


@contextmanager
def building(what: str) -> Iterator[None]:
    """Say in one sentence why an engine cannot build what a config says.

    Builders call what the config names with what it says, and so raise whatever these raise.
    """
    try:
        with plain_errors(what):
            yield
    except MaeBenchError:
        raise
    except Exception as error:
        text = " ".join(str(error.args[0] if error.args else error).split())
        # mmengine adds where its documentation tells of such errors.
        reason = text.partition(" Please check whether the value of")[0]
        raise MaeBenchError(f"{what} cannot be built: {reason or type(error).__name__}") from error


@contextmanager
def plain_errors(what: str, advice: str = "") -> Iterator[None]:
    """Say in one sentence what a user can do something about; faults of a program stay what they are.

    Args:
        what: that is being built or done.
        advice: what to do if memory runs out.
    """
    try:
        with clear_errors():
            yield
    except torch.OutOfMemoryError as error:
        raise MaeBenchError(
            f"memory ran out in {what}; {advice or 'take a smaller image or model'}"
        ) from error
    except MaeBenchError as error:
        raise _unpasted(error) from error.__cause__
    except (AssertionError, OSError) as error:
        told = re.search(r"failed to load image: *(.+)|cannot identify image file (.+)", str(error))
        if told is None:
            raise
        raise MaeBenchError(f"{(told[1] or told[2]).strip()} cannot be read as an image") from error


def _unpasted(error: MaeBenchError) -> MaeBenchError:
    """Our own error without the traceback that torch puts around it when a loader process raised it."""
    text = str(error)
    _, pasted, message = text.rpartition(f"{type(error).__name__}: ")
    return MaeBenchError(message.strip()) if pasted and "Original Traceback" in text else error
