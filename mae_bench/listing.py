"""What there is: adapters, recipes, backbone sources and tables, and what of it is not installed.

Names are read from catalogues and file heads; nothing that they name is imported. This module imports no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypedDict

from mae_bench import layouts, registry, resources
from mae_bench.registry import Catalogue


class Item(TypedDict):
    """One line of a listing: `about` says what it is, `needs` what must be installed first."""

    name: str
    about: str
    needs: str


def _catalogue(catalogue: Catalogue) -> list[Item]:
    return [
        Item(name=entry.name, about=f"{entry.origin}: {entry.target}", needs=_needs(catalogue, entry.name))
        for entry in catalogue.entries.values()
    ]


def _needs(catalogue: Catalogue, name: str) -> str:
    """What a name still needs, and the command that installs it."""
    if name not in catalogue.entries:
        return f"a package with the {catalogue.noun} '{name}'"
    entry = catalogue.entries[name]
    missing = entry.missing()
    return f"{', '.join(missing)}: {entry.install}" if missing else ""


def _recipes() -> list[Item]:
    adapters = registry.adapters()
    items = []
    for name, path in resources.recipes().items():
        task = resources.root_text(path, "task")
        parent = resources.root_text(path, "extends")
        if task is None and parent is not None and (path.parent / parent).is_file():
            task = resources.root_text(path.parent / parent, "task")
        needs = _needs(adapters, task) if task else ""
        items.append(Item(name=name, about=resources.summary(path), needs=needs))
    return items


def _tables() -> list[Item]:
    return [Item(name=name, about=title, needs="") for name, title in layouts.list_tables().items()]


_SHELVES: dict[str, Callable[[], list[Item]]] = {
    "adapters": lambda: _catalogue(registry.adapters()),
    "recipes": _recipes,
    "backbones": lambda: _catalogue(registry.backbone_sources()),
    "tables": _tables,
}


def collect(shelf: str | None = None) -> dict[str, list[Item]]:
    """Shelf -> items of ``adapters``, ``recipes``, ``backbones``, ``tables``, or of one of them."""
    return {name: items() for name, items in _SHELVES.items() if shelf in (None, name)}


def as_text(shelf: str | None = None) -> str:
    """The listing for a person: a headed block for each shelf, names in a column."""
    blocks = []
    for name, items in collect(shelf).items():
        width = max((len(item["name"]) for item in items), default=0)
        lines = [f"  {item['name']:<{width}}  {_about(item)}".rstrip() for item in items]
        blocks.append("\n".join([name, *(lines or ["  none"])]))
    return "\n\n".join(blocks)


def _about(item: Item) -> str:
    return f"{item['about']} (needs {item['needs']})" if item["needs"] else item["about"]


def as_json(shelf: str | None = None) -> str:
    """The listing for programs, with what could not be read under ``problems``."""
    content: dict[str, Any] = {**collect(shelf), "problems": problems()}
    return json.dumps(content, indent=2, ensure_ascii=False)


def problems() -> list[str]:
    """One sentence for each plug-in or name that cannot be used."""
    return [*registry.adapters().problems, *registry.backbone_sources().problems]
