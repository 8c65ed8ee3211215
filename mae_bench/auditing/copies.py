"""Images that are there more than once: in two splits, or in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mae_bench.auditing.reading import Items
from mae_bench.survey import Finding

# An item is named with its class; of more than so many copies only these are.
_NAMED = 4


def copy_findings(
    items: Items, content: NDArray[np.uint64], pixels: NDArray[np.uint64], disjoint: Sequence[str]
) -> list[Finding]:
    """Images of which there are several, whether the files are equal or only their pixels.

    Args:
        content: half of the SHA-256 of each item's content, ``(N, 2)``; 0 for what could not be read.
        pixels: digest of each item's pixels, likewise.
        disjoint: names of parts no two of which may share an image.
    """
    # Where one part has no digests of pixels, its files can only be compared by content.
    by_pixels = all(part.pixels is not None for part in items.parts)
    return [_finding(items, group, content, disjoint) for group in groups(pixels if by_pixels else content)]


def groups(digests: NDArray[np.uint64]) -> Iterator[list[int]]:
    """Rows ``(N, 2)`` that are equal and not 0: the numbers of two or more rows each, in order.

    Only the first halves are sorted, and only rows whose first half is not alone are looked at further.
    """
    order = np.argsort(digests[:, 0], kind="stable")
    halves = digests[order, 0]
    same = halves[1:] == halves[:-1]
    order = order[np.append(same, False) | np.append(False, same)]
    found: dict[tuple[int, int], list[int]] = {}
    for row in np.sort(order).tolist():
        first, second = digests[row].tolist()
        if first or second:
            found.setdefault((first, second), []).append(row)
    yield from (rows for rows in found.values() if len(rows) > 1)


def _finding(items: Items, group: list[int], content: NDArray[np.uint64], disjoint: Sequence[str]) -> Finding:
    parts = {items.parts[items.part_of(item)].name for item in group}
    shared = [name for name in disjoint if name in parts]
    equal = len(np.unique(content[group], axis=0)) == 1
    what = "the same file" if equal else "the same picture, stored differently"
    if len(shared) > 1:
        # One of each split is named first, as there may be many in one.
        seen: dict[str, int] = {}
        for item in group:
            seen.setdefault(items.parts[items.part_of(item)].name, item)
        first = [seen[name] for name in shared]
        listed = _listed(items, first + [item for item in group if item not in first], parts=True)
        message = f"{what} is in {' and '.join(shared)}: {listed}. Remove it from one"
        return Finding("leak", items.title(first[-1]), message)
    labels = {_label(items, item) for item in group}
    if len(parts) == 1 and len(labels) > 1:
        message = f"{what} has several labels: {_listed(items, group)}. Keep the right one"
        return Finding("label-conflict", items.title(group[-1]), message)
    message = f"{what} is there {len(group)} times: {_listed(items, group, parts=len(parts) > 1)}"
    return Finding("duplicate", items.title(group[-1]), message, note=True)


def _label(items: Items, item: int) -> int | None:
    part, number = items.locate(item)
    return None if part.labels is None else part.labels(number)


def _listed(items: Items, group: list[int], *, parts: bool = False) -> str:
    named = []
    for item in group[:_NAMED]:
        part, number = items.locate(item)
        about = [part.name] if parts else []
        if part.classes is not None and part.labels is not None:
            about.append(f"class '{part.classes[part.labels(number)]}'")
        named.append(part.title(number) + (f" ({', '.join(about)})" if about else ""))
    more = len(group) - len(named)
    return " and ".join(named) + (f" and {more} more" if more else "")
