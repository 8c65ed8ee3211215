"""How the rows of our runs are called: by the names of the layout, else by the backbone as it was given."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePosixPath

from mae_bench import departures
from mae_bench.results import Result
from mae_bench.tables.conditions import lookup, matches
from mae_bench.tables.layouts import Layout

_BRACES = re.compile(r"\{([^{}]+)\}")


def row_name(layout: Layout, result: Result) -> str:
    """The name of a run's row by the layout's `names`; else its backbone, shortened."""
    for entry in layout.names:
        if matches(result, entry.where):
            return filled(entry.name, result)
    return short_backbone(result)


def filled(text: str, result: Result) -> str:
    """A text of the layout with what stands in braces, as in `RowName`, taken from a result."""
    return _BRACES.sub(lambda found: _filled(found[1], result), text)


def variables(text: str) -> list[str]:
    """Paths that stand in braces; ``{backbone}`` and ``{tag}`` follow from ``backbone.spec``."""
    return ["backbone.spec" if name in ("backbone", "tag") else name for name in _BRACES.findall(text)]


def _filled(variable: str, result: Result) -> str:
    if variable == "backbone":
        return short_backbone(result)
    if variable == "tag":
        spec = result.backbone.spec if result.backbone else ""
        return spec.rpartition(".")[2]
    value = lookup(result, variable)
    return "?" if value is None else departures.show(value)


def short_backbone(result: Result) -> str:
    """The backbone as given, a path in it cut to its last two parts; ``scratch`` if there is none."""
    return "scratch" if result.backbone is None else _short_spec(result.backbone.spec)


@cache
def _short_spec(spec: str) -> str:
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in ("run", "file"):
        return spec
    path, mark, query = rest.partition("?")
    return f"{kind}:{'/'.join(PurePosixPath(path).parts[-2:])}{mark}{query}"
