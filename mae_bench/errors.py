"""The one exception for what a user can mend: a bad value, a missing file, an unreadable checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae_bench.survey import Kind


class MaeBenchError(Exception):
    """Something the user can mend.

    The message is one clear statement: what is wrong, where (path, key, line) and what to do.
    The command line prints it without a traceback and leaves with exit status `status`.

    Args:
        kind: where it is about data, what sort of fault (`mae_bench.survey.Kind`).
    """

    status: int = 2

    def __init__(self, *args: object, kind: Kind | None = None) -> None:
        super().__init__(*args)
        self.kind = kind


def near(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'a' or 'b'?"` for the nearest of `known`, else an empty string."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.5)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(f"'{match}'" for match in matches) + "?"
