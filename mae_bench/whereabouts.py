"""Where data is expected on this machine, whether it is there, and how to obtain it: what `data where` shows.

This module imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mae_bench import datasets, recipe, resources, roots, settings, yamlfile
from mae_bench.datasets import DatasetFacts
from mae_bench.errors import MaeBenchError, near
from mae_bench.roots import GENERATED, Roots

State = Literal["present", "part", "missing", "drawn", "hub"]

_STATES: dict[State, str] = {
    "present": "there",
    "part": "part of it",
    "missing": "missing",
    "drawn": "drawn when needed",
    "hub": "on the Hugging Face hub",
}


@dataclass(frozen=True)
class Whereabouts:
    """A dataset on this machine.

    Attributes:
        dataset: its name; or recipe and setting that name its folder, where that is one set of several.
        folder: where it is expected.
        state: whether it is there: its folder and all that must lie in it.
        lacking: what is not there.
        origin: where the folder was written; None: it follows from the data root.
        facts: what is known of it.
    """

    dataset: str
    folder: Path
    state: State
    lacking: list[str]
    origin: str | None
    facts: DatasetFacts | None


def find(names: Sequence[str], places: Roots) -> list[Whereabouts]:
    """The data of each of `names`; of all datasets if there is none."""
    return [one for name in names for one in of(name, places)] if names else every(places)


def every(places: Roots) -> list[Whereabouts]:
    """All datasets that something is known of, where recipes expect them."""
    known = ((name, datasets.facts(name)) for name in datasets.known())
    return [_look(name, facts.root, facts, places) for name, facts in known if facts is not None]


def of(name: str, places: Roots) -> list[Whereabouts]:
    """The data of a recipe, of a YAML file, or of a dataset by its name.

    Raises:
        MaeBenchError: there is nothing of that name, the recipe is not valid, or it names no data.
    """
    facts = datasets.facts(name)
    if facts is not None and name not in resources.recipes():
        return [_look(name, facts.root, facts, places)]
    if not yamlfile.is_yaml_name(name) and name not in resources.recipes():
        known = [*resources.recipes(), *datasets.known()]
        hint = near(name, known) or "; `mae-bench list recipes` and `mae-bench data where` show all"
        raise MaeBenchError(f"there is no recipe and no dataset '{name}'{hint}")
    values = settings.plain(recipe.resolve(name).config)
    found = []
    for holder, path in roots.with_root(values):
        if path == "data.root" and "name" in holder:
            dataset = str(holder["name"])
        else:
            key = path.removesuffix(".root")
            dataset = _by_root(holder["root"], key.split(".")[-1]) or f"{values['recipe']}, {key}"
        hub = holder.get("source") == "hf"
        found.append(_look(dataset, holder["root"], datasets.facts(dataset), places, hub))
    if not found:
        raise MaeBenchError(f"{name} names no folder of data")
    return found


def _by_root(root: str, key: str) -> str | None:
    """The dataset that recipes expect in the folder `root`; of several the one whose name ends in `key`."""
    known = {name: datasets.facts(name) for name in datasets.known()}
    names = [name for name, facts in known.items() if facts is not None and facts.root == root]
    return next((name for name in names if name.endswith(f"-{key}")), next(iter(names), None))


def _look(
    dataset: str, root: str, facts: DatasetFacts | None, places: Roots, hub: bool = False
) -> Whereabouts:
    placed = roots.placed(root, places.named)
    folder = places.data_root / root if placed is None else placed.folder
    # A file of the same name with .tar is the same to a recipe with data.source=tar.
    wanted = {name: folder / name for name in facts.holds} if facts is not None else {}
    lacking = [
        name
        for name, path in wanted.items()
        if not path.exists() and not path.with_name(f"{path.name}.tar").exists()
    ]
    state: State = "part" if lacking else "present"
    if not folder.exists() or (wanted and len(lacking) == len(wanted)):
        state = "drawn" if Path(root).parts[:1] == (GENERATED,) else "hub" if hub else "missing"
    return Whereabouts(dataset, folder, state, lacking, None if placed is None else str(placed.origin), facts)


# ---------------------------------------------------------------- shown


def as_text(names: Sequence[str], data_root: str | os.PathLike[str] | None) -> str:
    """For a person: a table of all datasets, or a card for each of the data of `names`."""
    places = roots.find(data_root)
    if not names:
        return "\n".join([*_table(every(places)), "", *_footer(places)])
    return "\n\n".join(card(one) for one in find(names, places))


def as_json(names: Sequence[str], data_root: str | os.PathLike[str] | None) -> str:
    """The same for programs: a list."""
    places = roots.find(data_root)
    found = [_plain(one) for one in find(names, places)]
    return json.dumps(found, indent=2, ensure_ascii=False)


def _table(found: Sequence[Whereabouts]) -> list[str]:
    rows = [("dataset", "", "classes", "images", "licence", "folder")]
    for one in found:
        facts = one.facts
        if facts is not None:
            classes = f"{facts.classes:,}" if facts.classes else ""
            state = _STATES[one.state]
            rows.append((one.dataset, state, classes, _counts(facts), facts.licence, str(one.folder)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if column == 2 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _counts(facts: DatasetFacts) -> str:
    """``train 50,000, val 10,000``; the number alone where there is one part."""
    if len(facts.images) == 1:
        return f"{next(iter(facts.images.values())):,}"
    return ", ".join(f"{part} {count:,}" for part, count in facts.images.items())


def _footer(places: Roots) -> list[str]:
    file = roots.config_file()
    if places.file is not None:
        used = f"{file} counts" + (f": roots {', '.join(places.named)}" if places.named else "")
    elif file.exists():
        used = f"{file} does not count, for --data-root is given"
    else:
        used = f"there is no {file}, which could name other folders (docs/data-check.md)"
    return [used, "mae-bench data where NAME shows layout, terms and download of one of them"]


def card(one: Whereabouts) -> str:
    """All about one dataset. Lines of shell begin at the margin, so that they can be copied."""
    facts = one.facts
    title = one.dataset if facts is None else f"{one.dataset}: {facts.title}"
    lines = [title, f"  expected in {one.folder} ({_STATES[one.state]})"]
    if one.origin is not None:
        lines.append(f"  as {one.origin} says")
    if one.state == "part":
        lines.append(f"  not there: {', '.join(one.lacking)}")
    if facts is None:
        return "\n".join([*lines, f"  nothing is known of '{one.dataset}': no counts, terms or download"])
    if facts.classes is not None:
        lines.append(f"  classes     {facts.classes:,}")
    if facts.images:
        lines.append(f"  images      {_counts(facts)}")
    lines += [f"  homepage    {facts.homepage}", f"  licence     {facts.licence}", f"  {facts.terms.strip()}"]
    lines += ["", "layout, below the folder that holds it", facts.expects.rstrip()]
    if facts.download:
        lines += ["", "download, after reading the terms"]
        lines += datasets.download_lines(facts, one.folder)
    for heading, items in (("notes", facts.notes), ("where this was read", facts.source)):
        if items:
            lines += ["", heading, *(f"- {item}" for item in items)]
    return "\n".join(lines)


def _plain(one: Whereabouts) -> dict[str, Any]:
    known = None if one.facts is None else settings.plain(one.facts)
    if known is not None and one.facts is not None:
        known["download"] = datasets.download_lines(one.facts, one.folder)
    return {
        "dataset": one.dataset,
        "folder": str(one.folder),
        "state": one.state,
        "lacking": one.lacking,
        "origin": one.origin,
        "facts": known,
    }
