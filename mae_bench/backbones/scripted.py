"""TorchScript archives, as OpenAI publishes CLIP: the tensors of their modules, without running their code.

An archive keeps a tree of objects as a pickle and the numbers beside it. Every class that the pickle names
stands here for a bag of attributes, and nothing but tensors is made of them.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}


def is_scripted(file: Path) -> bool:
    """Whether a file is an archive of TorchScript, which keeps its constants apart as no other does."""
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return _root(archive) is not None
    except zipfile.BadZipFile:
        return False


def read_scripted(file: Path) -> dict[str, Tensor]:
    """The tensors that the archive's modules hold, named as in their state_dict, parameters or not.

    Raises:
        MaeBenchError: the archive is damaged, or names anything but modules and tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            root = _root(archive) or ""
            with archive.open(f"{root}/data.pkl") as stream:
                tree = _Reader(stream, archive, root).load()
            return dict(_tensors(tree, ""))
    except _ForeignNameError as error:
        raise MaeBenchError(
            f"{file} holds more than weights ({error}), and unpickling that could run code, so it was not "
            "read; where you trust it, save its weights alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # Foreign bytes make the unpickler raise nearly anything.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MaeBenchError(
            f"{file} cannot be read as a TorchScript archive ({reason}); it is damaged, truncated or "
            f"something else ({file.stat().st_size:,} bytes are there)"
        ) from error


def _root(archive: zipfile.ZipFile) -> str | None:
    """The folder of the archive in which everything lies."""
    with_constants = [name for name in archive.namelist() if name.endswith("/constants.pkl")]
    return str(PurePosixPath(with_constants[0]).parent) if len(with_constants) == 1 else None


class _ForeignNameError(Exception):
    """An archive's pickle asks for a function or class that modules of tensors do not need."""


class _Module:
    """Stands for any object of the archive: attributes, or nothing where it keeps its state otherwise."""

    def __init__(self, *_arguments: object) -> None:
        self.held: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.held = {str(name): value for name, value in state.items()}


@dataclass(frozen=True)
class _Numbers:
    """The bytes of a tensor, or of several that share them."""

    data: bytes
    dtype: torch.dtype


class _Reader(pickle._Unpickler):
    """Python's unpickler, for which there is nothing in the world but modules and tensors."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        raise _ForeignNameError(ascii(f"{module}.{name}")[1:-1][:80])

    def persistent_load(self, pid: Any) -> _Numbers:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("numbers that are not kept as a tensor's")
        data = self.archive.read(f"{self.root}/data/{key}")
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"{count} numbers of {dtype} in {len(data)} bytes")
        return _Numbers(data, dtype)


def _first(value: object, *_type: object) -> object:
    return value


def _rebuilt(
    numbers: _Numbers, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_more: object
) -> Tensor:
    """A tensor of its own out of the bytes that it lies in."""
    if 0 in shape:
        return torch.zeros(shape, dtype=numbers.dtype)
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or last >= len(numbers.data) // numbers.dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape} that is larger than its bytes")
    flat = torch.frombuffer(bytearray(numbers.data), dtype=numbers.dtype)
    return flat.as_strided(shape, strides, offset).clone(memory_format=torch.contiguous_format)


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.held.items() if isinstance(module, _Module) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")
