"""Which code made a number: a digest of the sources, and in a git checkout the commit.

The version says little while it stands still: a digest of the files that were run tells two states of the
code apart wherever they are installed. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

VERSION, SOURCE, COMMIT = "mae-bench", "mae-bench source", "mae-bench commit"
"""Keys of ``versions`` in `result.json`."""
PACKAGES = ("mae_bench", "downstream")
CHANGED = "+changes"
"""Stands behind a commit from which the files differ."""

_HOME = Path(__file__).resolve().parents[2]
# So many characters of a digest are kept.
_DIGITS = 16
# git on a slow disk must not hold up a run that is done.
_PATIENCE_S = 10.0


def code() -> dict[str, str]:
    """What ``versions`` of a result says of this code besides its version."""
    found = {SOURCE: source_digest()}
    made_of = commit()
    return found if made_of is None else {**found, COMMIT: made_of}


@cache
def source_digest(home: Path = _HOME) -> str:
    """SHA-256 over paths and contents of the packages' .py files, 16 hex digits; read once a process.

    Args:
        home: folder that holds the packages, a checkout or ``site-packages``.
    """
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((home / package).rglob("*.py")):
            content = path.read_bytes()
            total.update(f"{path.relative_to(home).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:_DIGITS]


@cache
def commit(home: Path = _HOME) -> str | None:
    """The commit of the checkout, with `CHANGED` behind it if the code or the recipes differ from it.

    None where this is no checkout of the project, or git is not there or does not answer.
    """
    # Without its own pyproject.toml the folder above is site-packages, perhaps inside a stranger's checkout.
    if not (home / "pyproject.toml").is_file() or not (home / ".git").exists():
        return None
    named = _git(home, "rev-parse", "HEAD")
    if not named:
        return None
    changes = _git(home, "status", "--porcelain", "--", *PACKAGES, "configs", "tables")
    return named + (CHANGED if changes else "") if changes is not None else named


def _git(home: Path, *arguments: str) -> str | None:
    """What git answers; None if it is not there, fails, or takes too long."""
    # Only looking: a lock would disturb whoever works in the checkout.
    surroundings = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(home), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env=surroundings,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
