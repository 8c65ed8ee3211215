"""What there is: adapters, recipes, backbones and tables, and what of it is not installed.

Names are read from catalogues and file heads; nothing that they name is imported. This module imports no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypedDict

from mae_bench import registry, resources
from mae_bench.backbones import capabilities
from mae_bench.registry import Catalogue
from mae_bench.tables import layouts


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


def _suites() -> list[Item]:
    return [
        Item(name=name, about=resources.summary(path), needs="") for name, path in resources.suites().items()
    ]


def _aliases() -> list[Item]:
    items = []
    for name, path in resources.backbones().items():
        about = [resources.root_text(path, "title") or "", resources.root_text(path, "licence") or ""]
        about += ["a file"] if resources.root_text(path, "file") else []
        items.append(Item(name=name, about="; ".join(about), needs=""))
    return items


_SHELVES: dict[str, dict[str, Callable[[], list[Item]]]] = {
    "adapters": {"adapters": lambda: _catalogue(registry.adapters())},
    "recipes": {"recipes": _recipes},
    "backbones": {"backbones": lambda: _catalogue(registry.backbone_sources()), "aliases": _aliases},
    "tables": {"tables": _tables},
    "suites": {"suites": _suites},
}
"""What `list` can show alone -> heading -> what stands below it."""


def collect(shelf: str | None = None) -> dict[str, list[Item]]:
    """Heading -> items of every shelf, or of one, by its name in `Shelf`.

    With the sources of backbones (``backbones``) go the ones that have a name of their own (``aliases``).
    """
    return {
        heading: items()
        for name, parts in _SHELVES.items()
        if shelf in (None, name)
        for heading, items in parts.items()
    }


def as_text(shelf: str | None = None) -> str:
    """The listing for a person: a headed block for each heading, names in a column."""
    blocks = []
    for heading, items in collect(shelf).items():
        width = max((len(item["name"]) for item in items), default=0)
        lines = [f"{item['name']:<{width}}  {_about(item)}".rstrip() for item in items]
        blocks.append(_block(heading, lines or ["none"]))
        if heading == "aliases":
            blocks.append(_block("capabilities", capabilities.as_lines()))
    return "\n\n".join(blocks)


def _block(heading: str, lines: list[str]) -> str:
    return "\n".join([heading, *(f"  {line}" for line in lines)])


def _about(item: Item) -> str:
    return f"{item['about']} (needs {item['needs']})" if item["needs"] else item["about"]


def as_json(shelf: str | None = None) -> str:
    """The listing for programs, with what could not be read under ``problems``.

    With backbones, what each family of them can do stands under ``capabilities``.
    """
    content: dict[str, Any] = {}
    for heading, items in collect(shelf).items():
        content[heading] = items
        if heading == "aliases":
            content["capabilities"] = capabilities.rows()
    return json.dumps({**content, "problems": problems()}, indent=2, ensure_ascii=False)


def problems() -> list[str]:
    """One sentence for each plug-in or name that cannot be used."""
    return [*registry.adapters().problems, *registry.backbone_sources().problems]
