"""Calling a user's own code: its arguments from text, and whatever it raises as one sentence."""

from __future__ import annotations

import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_bench import yamlfile
from mae_bench.errors import MaeBenchError, near


def keywords(arguments: Mapping[str, str], where: str) -> dict[str, Any]:
    """Values behind the question mark of ``--backbone``, read as YAML (``depth=4`` is a number).

    Raises:
        MaeBenchError: a value that is no YAML.
    """
    return {name: yamlfile.parse_value(text, f"{where}: {name}") for name, text in arguments.items()}


def called(
    function: Callable[..., Any], arguments: Mapping[str, Any], name: str, folder: Path, where: str
) -> Any:
    """What `function` returns for keyword `arguments`.

    Args:
        name: how messages call it, ``module.function``.
        folder: where its code lies; a line there is named before one of a library's.

    Raises:
        MaeBenchError: it takes no such argument, needs another, or raises anything.
    """
    _accepts(function, arguments, name, where)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:  # Foreign code raises anything, and may leave.
        raise MaeBenchError(f"{where}: {name} raised {raised(error, folder)}") from error


def raised(error: BaseException, folder: Path) -> str:
    """``ValueError: bad depth (models.py, line 12)``: the deepest line in `folder`, else of all."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if _lies_in(frame.filename, folder)]
    place = next(reversed(inside or frames), None)
    return f"{text} ({Path(place.filename).name}, line {place.lineno})" if place else text


def kind_of(value: object) -> str:
    """``a dict``, ``an int``, ``None``."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Let imports look into `folder` first, as ``python -m`` does for the current one."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seed the CPU generators of torch, NumPy and Python meanwhile, and put them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _accepts(function: Callable[..., Any], arguments: Mapping[str, Any], name: str, where: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some builtins have none; the call itself will tell.
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        known = [key for key, parameter in signature.parameters.items() if parameter.kind in kinds]
        wrong = next((key for key in arguments if key not in known), None)
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        if wrong is None:
            raise MaeBenchError(f"{where}: {name}: {error}; {takes}") from error
        raise MaeBenchError(
            f"{where}: {name} takes no argument '{wrong}'{near(wrong, known) or f'; {takes}'}"
        ) from error


def _lies_in(file: str, folder: Path) -> bool:
    path = Path(file)
    return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts
