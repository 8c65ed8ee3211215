"""Where recipes, table layouts, backbone aliases and facts about datasets are: in a checkout and in a wheel.

A checkout is preferred, because an editable install leaves a copy behind that grows stale. This module
imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from mae_bench.errors import MaeBenchError

Kind = Literal["pretrain", "tasks"]
KINDS: tuple[Kind, ...] = ("pretrain", "tasks")

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """The folder of recipes, names, facts about data, and lists of runs."""
    return _folder("configs")


def tables_dir() -> Path:
    """The folder of the table layouts and published numbers."""
    return _folder("tables")


def _folder(name: str) -> Path:
    # In an installed wheel the folder above the package is site-packages, where a stranger's may lie.
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    installed = _PACKAGE / "_data" / name
    if installed.is_dir():
        return installed
    raise MaeBenchError(
        f"the folder '{name}' of mae-bench is missing at {installed}; install mae-bench again"
    )


def recipes(kind: Kind | None = None) -> dict[str, Path]:
    """Name -> file of the recipes, sorted by name.

    Args:
        kind: ``pretrain`` or ``tasks``; None: both. The miniatures ``demo/NAME`` are of either kind, and
            stand in every answer.

    Raises:
        MaeBenchError: a name stands under both kinds.
    """
    found: dict[str, Path] = {}
    for folder in KINDS if kind is None else (kind,):
        for name, path in _yaml_files(configs_dir() / folder).items():
            if name in found:
                raise MaeBenchError(f"the recipe '{name}' stands twice: {found[name]} and {path}")
            found[name] = path
    found |= {f"demo/{name}": path for name, path in _yaml_files(configs_dir() / "demo").items()}
    return dict(sorted(found.items()))


def tables() -> dict[str, Path]:
    """Identity -> layout file of the tables, sorted."""
    return _yaml_files(tables_dir())


def backbones() -> dict[str, Path]:
    """Name -> file of the backbones that have a name of their own, sorted (`mae_bench.backbones.aliases`)."""
    return dict(sorted(_yaml_files(configs_dir() / "backbones").items()))


def datasets() -> dict[str, Path]:
    """Name -> file of the datasets that something is known of, sorted (`mae_bench.datasets`)."""
    return _yaml_files(configs_dir() / "datasets")


def suites() -> dict[str, Path]:
    """Name -> file of the lists of runs that have a name, sorted (`mae_bench.runlist`)."""
    return _yaml_files(configs_dir() / "suites")


def _yaml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def summary(path: Path) -> str:
    """The first line of a file's head comment, or an empty string."""
    first = _text(path).split("\n", 1)[0]
    return first.lstrip("#").strip() if first.startswith("#") else ""


def root_text(path: Path, key: str) -> str | None:
    """The text behind `key:` at the root of a YAML file, read without parsing the file.

    For listings, which must be quick and must not fail because one file is damaged.
    """
    found = re.search(rf"^{re.escape(key)}:[ \t]*(.*?)[ \t]*(?:[ \t]#.*)?$", _text(path), re.MULTILINE)
    return found.group(1).strip("\"'") if found else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
