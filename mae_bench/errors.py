"""The one exception for what a user can mend: a bad value, a missing file, an unreadable checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MaeBenchError(Exception):
    """Something the user can mend.

    The message is one clear statement: what is wrong, where (path, key, line) and what to do.
    The command line prints it without a traceback and leaves with exit status `status`.
    """

    status: int = 2


def near(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'a' or 'b'?"` for the nearest of `known`, else an empty string."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.5)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(f"'{match}'" for match in matches) + "?"
