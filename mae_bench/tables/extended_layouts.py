"""A layout file that extends another: other columns, another title, published rows added or left out.

    extends: mae-table4
    title: Boxes alone
    columns: [box_b, box_l]
    drop: ["MoCo v3"]
    add:
    - {name: Somebody's, values: {box_b: 51.0}, source: [paper], verified: true}
    sources: {paper: "A paper, Table 1"}

Mappings are merged and lists replaced, as in recipes. Three things are read differently here: `columns` and
`facts` may hold keys of the layout that is extended, which choose and order; `drop` and `add` change its
published rows. What belongs to a column that is left out goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mae_bench import resources, yamlfile
from mae_bench.errors import MaeBenchError, near
from mae_bench.validation import Origin
from mae_bench.yamlfile import Document

ADD, DROP = "add", "drop"


def load(path: Path, find: Callable[[str], Path]) -> Document:
    """The values of a layout file, with those of the layout that it extends below them.

    Args:
        find: turns the name of a table into its file.

    Raises:
        MaeBenchError: the file or the one extended cannot be read, or names what that one does not have.
    """
    document = yamlfile.load(path, find)
    parent_name = resources.root_text(path, "extends")
    if parent_name is None:
        for key in (ADD, DROP):
            if key in document.values:
                raise MaeBenchError(
                    f"{key}: only a layout that extends another has it ({document.origins[key]})"
                )
        return document
    is_file = yamlfile.is_yaml_name(parent_name)
    parent = yamlfile.load(path.parent / parent_name if is_file else find(parent_name))
    values, origins = dict(document.values), document.origins
    if values.get("id") == parent.values.get("id"):
        values["id"] = path.stem
    for key, name in (("columns", "column"), ("facts", "fact")):
        if isinstance(values.get(key), list):
            values[key] = _chosen(key, name, values[key], _entries(parent, key), origins)
    gone = _keys(_entries(parent, "columns")) - _keys(values.get("columns"))
    facts_gone = _keys(_entries(parent, "facts")) - _keys(values.get("facts"))
    if values.get("published") == parent.values.get("published"):
        values["published"] = _without(_entries(parent, "published"), gone, facts_gone)
    if values.get("ours") == parent.values.get("ours"):
        values["ours"] = [rule for rule in _entries(parent, "ours") if rule.get("column") not in gone]
    _drop(values, origins)
    _add(values, origins)
    if values.get("settings") == parent.values.get("settings"):
        _fit_settings(values, gone)
    return Document(values, origins, document.path)


def _entries(document: Document, key: str) -> list[dict[str, Any]]:
    """The mappings of a list at the root; the layout itself is checked later."""
    found = document.values.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _keys(entries: Any) -> set[str]:
    return {str(entry.get("key")) for entry in entries or () if isinstance(entry, dict)}


def _chosen(
    at: str,
    name: str,
    wanted: Sequence[Any],
    known: Sequence[Mapping[str, Any]],
    origins: Mapping[str, Origin],
) -> list[Any]:
    """Entries by their keys; a mapping with a known key changes that entry, another is new."""
    by_key = {entry.get("key"): entry for entry in known}
    chosen: list[Any] = []
    for i, entry in enumerate(wanted):
        if isinstance(entry, str):
            if entry not in by_key:
                names = [str(key) for key in by_key]
                raise MaeBenchError(
                    f"{at}.{i}: the layout that is extended has no {name} '{entry}'{near(entry, names)}"
                    f" (it has {', '.join(names) or 'none'}; {origins[f'{at}.{i}']})"
                )
            chosen.append(by_key[entry])
        elif isinstance(entry, dict):
            chosen.append({**by_key.get(entry.get("key"), {}), **entry})
        else:
            chosen.append(entry)
    return chosen


def _without(rows: Sequence[Mapping[str, Any]], columns: set[str], facts: set[str]) -> list[dict[str, Any]]:
    """Published rows without some columns and facts; a row that is left without a number goes."""
    left = []
    for row in rows:
        row = dict(row)
        if isinstance(row.get("values"), dict):
            row["values"] = {key: value for key, value in row["values"].items() if key not in columns}
            if all(value is None for value in row["values"].values()):
                continue
        if isinstance(row.get("facts"), dict):
            row["facts"] = {key: value for key, value in row["facts"].items() if key not in facts}
        left.append(row)
    return left


def _drop(values: dict[str, Any], origins: Mapping[str, Origin]) -> None:
    """Leave out the published rows whose names fit one of the patterns of `drop`."""
    patterns = values.pop(DROP, [])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise MaeBenchError(f"{DROP}: should be a list of names of published rows ({origins[DROP]})")
    rows = values.get("published") or []
    names = [str(row.get("name")) if isinstance(row, dict) else "" for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise MaeBenchError(
                f"{DROP}: there is no published row '{pattern}'{near(pattern, names)} ({origins[DROP]})"
            )
    if patterns:
        values["published"] = [
            row
            for row, name in zip(rows, names, strict=True)
            if not any(fnmatchcase(name, pattern) for pattern in patterns)
        ]


def _add(values: dict[str, Any], origins: dict[str, Origin]) -> None:
    """Put the published rows of `add` behind the others; their faults name the line they were written on."""
    rows = values.pop(ADD, [])
    if not isinstance(rows, list):
        raise MaeBenchError(f"{ADD}: should be a list of published rows ({origins[ADD]})")
    if not rows:
        return
    before = list(values.get("published") or ())
    for path in [path for path in origins if path.startswith("published.")]:
        del origins[path]
    for i in range(len(rows)):
        origins[f"published.{len(before) + i}"] = origins[f"{ADD}.{i}"]
    values["published"] = [*before, *rows]


def _fit_settings(values: dict[str, Any], columns: set[str]) -> None:
    """In a table of settings, leave out the recipes of columns that are gone, and settings without a row."""
    settings = values.get("settings")
    if not isinstance(settings, dict):
        return
    names = {row.get("name") for row in values["published"] if isinstance(row, dict)}
    kept = {"recipes": lambda key: key not in columns, "rows": lambda key: key in names}
    for part, keeps in kept.items():
        if isinstance(settings.get(part), dict):
            settings = {**settings, part: {key: v for key, v in settings[part].items() if keeps(key)}}
    values["settings"] = settings
