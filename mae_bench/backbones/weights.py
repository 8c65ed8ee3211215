"""Files of weights: read without ever running what is in them, written whole or not at all.

A file is told apart by its first bytes, never by its name: safetensors; a file of torch.save, which is
read with torch's weights-only unpickler and a short list of harmless types besides tensors; a TorchScript
archive (`mae_bench.backbones.scripted`); a plain pickle of NumPy arrays (`mae_bench.backbones.pickles`); or
an index of several files (`mae_bench.backbones.shards`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mae_bench.backbones.architecture import checked_arguments
from mae_bench.backbones.pickles import is_plain_pickle, read_arrays
from mae_bench.backbones.scripted import is_scripted, read_scripted
from mae_bench.backbones.shards import file_of, read_shards
from mae_bench.backbones.wrappers import network_in
from mae_bench.errors import MaeBenchError, near
from mae_bench.files import write_atomic

ENCODER_FILE = "encoder.safetensors"
"""What a pretraining run leaves in its folder, and the `run:` source reads."""

# The MAE releases and most training scripts keep their argparse.Namespace and a NumPy accuracy in the file.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
    # Where a script kept its paths as such: pure ones stand for them, which touch no disk.
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
]


@dataclass(frozen=True)
class CheckpointInfo:
    """Where in a file the weights lay.

    Attributes:
        path: the file; of several, their index.
        container: ``safetensors``, ``torch``, ``torchscript``, ``pickle`` or ``shards``.
        wrapper: key under which the weights lay ("" for none).
        prefix: what stood before every name and was removed ("" for nothing).
        metadata: the header of a safetensors file.
        ignored: other entries of the file, for example ``optimizer`` and ``epoch``.
        notes: which network was taken where the file holds several, a sentence each.
    """

    path: Path
    container: str
    wrapper: str = ""
    prefix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_checkpoint(
    path: str | os.PathLike[str], key: str | None = None
) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """The named tensors of a checkpoint, on the CPU, and where they lay in it.

    Wrappers are opened and the names made bare, as `mae_bench.backbones.wrappers` says. Nothing in the file
    is executed.

    Args:
        path: a file, the index of several, or a folder that holds one of them.
        key: which of the networks in the file (see `wrappers.network_in`); by default the one that its
            training code evaluates.

    Raises:
        MaeBenchError: the file is missing, empty, truncated, no checkpoint at all (a web page, a Git LFS
            pointer), holds Python objects that only running code could rebuild, holds no tensors, or several
            networks of which none is said to be meant.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file_of(file)
    payload, container, metadata = _read(file)
    network = network_in(payload, str(file), key)
    return network.state, CheckpointInfo(
        file,
        container,
        network.wrapper,
        network.prefix,
        metadata,
        tuple(network.ignored),
        tuple(network.notes),
    )


def save_encoder(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write an encoder in timm's key format, so that ``run:FOLDER`` can load it; whole or not at all.

    Args:
        path: usually ``FOLDER/encoder.safetensors``.
        state: timm's names -> tensors, without head.
        metadata: ``arch`` (timm's name), ``image_size`` (height, width) of the position embeddings,
            ``channels``, ``mean``, ``std``, ``model_args`` (arguments of timm.create_model besides name,
            img_size, in_chans and num_classes) and ``pretraining`` (facts about the run, or None).

    Raises:
        MaeBenchError: the file cannot be written, or `model_args` holds what `run:` could not build.
        ValueError: `metadata` lacks one of these keys or has another.
    """
    wanted = {"arch", "image_size", "channels", "mean", "std", "model_args", "pretraining"}
    if set(metadata) != wanted:
        raise ValueError(f"encoder metadata must hold exactly {sorted(wanted)}, not {sorted(metadata)}")
    header = {
        "arch": str(metadata["arch"]),
        "image_size": ",".join(str(int(side)) for side in metadata["image_size"]),
        "channels": str(int(metadata["channels"])),
        "mean": ",".join(repr(float(value)) for value in metadata["mean"]),
        "std": ",".join(repr(float(value)) for value in metadata["std"]),
        "model_args": json.dumps(dict(metadata["model_args"]), sort_keys=True),
        "pretraining": json.dumps(metadata["pretraining"], sort_keys=True),
    }
    checked_arguments(metadata["model_args"], f"{os.fspath(path)}: model_args")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return write_atomic(path, safetensors.torch.save(tensors, header))


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


# ---------------------------------------------------------------- telling files apart


def _first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        beside = file.parent.iterdir() if file.parent.is_dir() else ()
        others = [entry.name for entry in beside if entry.suffix and entry.is_file()]
        raise MaeBenchError(f"{file}: no such file{near(file.name, others)}") from None
    except OSError as error:
        raise MaeBenchError(f"{file} cannot be read: {error.strerror or error}") from error
    if not head:
        raise MaeBenchError(f"{file} is empty; copy or download it again")
    return head


def _looks_like_safetensors(head: bytes) -> bool:
    # Eight bytes of header length, then the header, a JSON object.
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def _looks_like_json(head: bytes) -> bool:
    blank = set(b"\t\n\r")
    return head.lstrip().startswith((b"{", b"[")) and all(byte >= 32 or byte in blank for byte in head)


def _refuse_other_kinds(file: Path, head: bytes) -> None:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise MaeBenchError(
            f"{file} is a web page saved under a checkpoint's name: the download gave a log-in, licence or "
            "error page; open the link in a browser to see which"
        )
    if text.startswith(b"version https://git-lfs"):
        raise MaeBenchError(
            f"{file} is a Git LFS pointer, not the file itself; run 'git lfs pull' where it came from"
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        raise MaeBenchError(f"{file} is a compressed archive; unpack it first")
    if head.startswith(b"PK") and not zipfile.is_zipfile(file):
        raise MaeBenchError(
            f"{file} is truncated ({file.stat().st_size:,} bytes are there); download it again"
        )
    if not head.startswith((b"PK", b"\x80")):
        raise MaeBenchError(f"{file} is not a checkpoint: it begins with {head[:16]!r}")


# ---------------------------------------------------------------- reading


def _read(file: Path, indexed: bool = True) -> tuple[Any, str, dict[str, str]]:
    """What a file holds, in which container, and the header of that.

    Args:
        indexed: whether it may be an index of others.
    """
    head = _first_bytes(file)
    if _looks_like_safetensors(head):
        tensors, metadata = _read_safetensors(file)
        return tensors, "safetensors", metadata
    if indexed and _looks_like_json(head):
        return read_shards(file, lambda shard: _read(shard, indexed=False)[0]), "shards", {}
    _refuse_other_kinds(file, head)
    if is_plain_pickle(head):
        return read_arrays(file), "pickle", {}
    if is_scripted(file):
        return read_scripted(file), "torchscript", {}
    return _read_torch(file, zipped=head.startswith(b"PK")), "torch", {}


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except safetensors.SafetensorError as error:
        raise MaeBenchError(
            f"{file} is a damaged or truncated safetensors file ({file.stat().st_size:,} bytes are there; "
            f"{error}); download it again"
        ) from error


def _read_torch(file: Path, zipped: bool) -> Any:
    # By this ending of a name alone torch.load takes another reader; it sees no name where it gets a stream.
    misnamed = file.suffix == ".safetensors"
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # torch warns of pickle protocols that it knows less well; what it cannot read still raises.
            warnings.simplefilter("ignore")
            if misnamed:
                with file.open("rb") as stream:
                    return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # Foreign bytes make the unpickler raise nearly anything.
        names = re.findall(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else []
        if names:
            raise MaeBenchError(
                f"{file} holds more than weights ({names[0]}), and unpickling that could run code, so it was "
                "not read; where you trust it, save its weights alone with safetensors.torch.save_file"
            ) from error
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
        if isinstance(error, pickle.UnpicklingError):
            reason = "its pickle is malformed or not of torch.save"
        raise MaeBenchError(
            f"{file} cannot be read as a torch checkpoint ({reason or type(error).__name__}); "
            f"it is damaged, truncated or something else ({file.stat().st_size:,} bytes are there)"
        ) from error
