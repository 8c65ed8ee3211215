"""Plain pickles of NumPy arrays, as model zoos publish them, read without running anything that is in them.

Python's unpickler calls whatever functions a file names. Here every name stands for a harmless class of
this module, or the file is refused: not even NumPy's own functions are called, whose state setters trust
the bytes they get. Arrays are built afterwards, from a type out of a short list, a shape and exactly as
many bytes.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_bench.errors import MaeBenchError

# How torch.save began before its files became zip archives (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_TORCH = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_TYPES = {"b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}


def is_plain_pickle(head: bytes) -> bool:
    """Whether a file that begins with `head` is a binary pickle, and none of torch.save."""
    return head.startswith(b"\x80") and _LEGACY_TORCH not in head[:32]


def read_arrays(file: Path) -> Any:
    """What the pickle `file` holds: dicts, lists and plain values, its NumPy arrays as tensors.

    Raises:
        MaeBenchError: the file is truncated or damaged, or names anything but arrays and dicts.
    """
    try:
        with file.open("rb") as stream:
            return _finished(_Reader(stream, encoding="latin1").load())
    except _ForeignNameError as error:
        raise MaeBenchError(
            f"{file} holds more than weights ({error}), and unpickling that could run code, so it was not "
            "read; where you trust it, save its weights alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # Foreign bytes make the unpickler raise nearly anything, MemoryError too.
        reason = next(iter(str(error).splitlines()), "")
        raise MaeBenchError(
            f"{file} cannot be read as a torch checkpoint, nor as a pickle of NumPy arrays "
            f"({reason or type(error).__name__}); it is damaged, truncated or something else "
            f"({file.stat().st_size:,} bytes are there)"
        ) from error


class _ForeignNameError(Exception):
    """A pickle asks for a function or class that arrays do not need."""


class _Type:
    """Stands for a NumPy data type: the text it was named by, and its byte order."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.order, subtype, names, fields, *_sizes = state
        if subtype is not None or names is not None or fields is not None:
            raise ValueError("an array of records, not of numbers")

    def numpy(self) -> np.dtype[Any]:
        if self.name not in _TYPES or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of type {self.name!r}, not of plain numbers")
        return np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """Stands for an array: called as NumPy's functions are that make an empty one, and filled thereafter."""

    def __init__(self, *_blank: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.type: object = None
        self.fortran: object = False
        self.data: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.shape, self.type, self.fortran, self.data = state

    def tensor(self) -> torch.Tensor:
        if not isinstance(self.type, _Type):
            raise ValueError("an array without a type")
        dtype, shape = self.type.numpy(), tuple(int(side) for side in self.shape)
        # The protocols before 3 know no bytes; they write text of as many characters.
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if not isinstance(data, bytes | bytearray) or min(shape, default=0) < 0:
            raise ValueError("an array without its numbers")
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
        values = np.frombuffer(data, dtype).reshape(shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C"))


class _FromBuffer(_Array):
    """An array of pickle protocol 5: its bytes come first."""

    def __init__(self, data: object, kind: object, shape: tuple[int, ...], order: str) -> None:
        self.data, self.type, self.shape, self.fortran = data, kind, shape, order == "F"


class _Scalar(_Array):
    """A number that is an array of no dimension."""

    def __init__(self, kind: object, data: object) -> None:
        self.data, self.type, self.shape, self.fortran = data, kind, (), False


class _NdArray:
    """The class of arrays, which their pickles name but nothing here needs."""

    def __init__(self, *_anything: object) -> None:
        raise ValueError("an array that is not made as NumPy makes it")

    def __setstate__(self, state: object) -> None:
        raise ValueError("an array that is not made as NumPy makes it")


class _Text:
    """``_codecs.encode(text, "latin1")`` and ``bytes()``, which is how protocol 2 writes bytes."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("bytes in a form that arrays do not need")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise ValueError("bytes that are more than bytes")


class _Dict(dict[Any, Any]):
    """A dict that forgets what else a state dict carries (``_metadata``)."""

    def __setstate__(self, state: object) -> None:
        pass


_NAMES: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _NdArray,
    ("_codecs", "encode"): _Text,
    ("__builtin__", "bytes"): _Text,
    ("collections", "OrderedDict"): _Dict,
}
for _home in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _NAMES |= {
        (f"{_home}.multiarray", "_reconstruct"): _Array,
        (f"{_home}.multiarray", "scalar"): _Scalar,
        (f"{_home}.numeric", "_frombuffer"): _FromBuffer,
    }


class _Reader(pickle._Unpickler):
    """Python's unpickler, for which there is nothing in the world but the classes above.

    It is the one written in Python: damaged files make the one in C ask for gigabytes, and print errors of
    its own. What takes time here is reading bytes, which is as fast in both.
    """

    def find_class(self, module: str, name: str) -> type:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _ForeignNameError(ascii(f"{module}.{name}")[1:-1][:80]) from None

    def persistent_load(self, pid: object) -> Any:
        raise _ForeignNameError("an object kept elsewhere")


def _finished(value: Any) -> Any:
    """The same with tensors in place of the stand-ins of arrays."""
    if isinstance(value, _Array):
        return value.tensor()
    if isinstance(value, dict):
        return {key: _finished(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finished(inner) for inner in value]
    return value
