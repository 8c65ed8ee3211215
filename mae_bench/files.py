"""Writing files so that a crash never leaves half of one, and telling files apart by their content."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from mae_bench.errors import MaeBenchError

PathLike = str | Path
"""What functions of the package take as a path."""


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write ``data`` to ``path`` completely or not at all; text is written as UTF-8.

    The bytes go to a temporary file in the same folder and are flushed to the disk; then the file is renamed
    over ``path``. A reader sees the old content or the new, never a mixture. Missing parent folders are made.

    Raises:
        MaeBenchError: the folder or the file cannot be written; what stood at ``path`` before is untouched.
    """
    target = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files only their owner can read; a result should be as readable as any file.
        temporary = str(target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"))
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise MaeBenchError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    _sync_folder(target.parent)
    return target


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of the file's bytes, as 64 hex digits.

    Raises:
        MaeBenchError: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MaeBenchError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (Windows does not)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
