"""From the name of a recipe and overrides to validated settings, with where each value was written.

This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_bench import registry, resources, roots, settings, validation, yamlfile
from mae_bench.adapter import Adapter
from mae_bench.errors import MaeBenchError, near
from mae_bench.resources import Kind
from mae_bench.roots import Placed
from mae_bench.settings import TaskConfig
from mae_bench.validation import Origin

OVERRIDE = Origin("override")
DEFAULT = Origin("default")

_KEY_PATH = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Resolved:
    """A recipe ready to run.

    Attributes:
        config: the validated settings, an instance of the adapter's `Config`.
        origins: dotted path -> where the value was written; a path that is not in it has its default.
        adapter_class: what the recipe's `task` names.
        path: the recipe's file.
    """

    config: TaskConfig
    origins: dict[str, Origin]
    adapter_class: type[Adapter[Any]]
    path: Path


def find(name_or_path: str, kind: Kind | None = None) -> Path:
    """The file of a recipe, given by its name or as the path of a YAML file.

    Raises:
        MaeBenchError: there is none (with near matches), or it is a recipe of the other kind.
    """
    if yamlfile.is_yaml_name(name_or_path):
        return Path(name_or_path)
    known = resources.recipes(kind)
    if name_or_path in known:
        return known[name_or_path]
    everything = resources.recipes()
    if name_or_path in everything:
        raise MaeBenchError(_other_kind(name_or_path, kind))
    hint = near(name_or_path, known) or "; `mae-bench list recipes` shows all"
    raise MaeBenchError(
        f"unknown recipe '{name_or_path}'{hint} "
        "(a YAML file of your own is given by its path, ending in .yaml)"
    )


def _other_kind(name: str, kind: Kind | None) -> str:
    if kind == "pretrain":
        return f"'{name}' is a downstream task: mae-bench run --task {name} --backbone ..."
    return f"'{name}' is a pretraining recipe: mae-bench pretrain --recipe {name}"


def resolve(
    name_or_path: str,
    overrides: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    kind: Kind | None = None,
    engine: str | None = None,
    named: Mapping[str, Placed] | None = None,
) -> Resolved:
    """Read a recipe, lay overrides over it and validate the whole against its adapter's settings.

    Args:
        overrides: ``key.path=value`` with the value in YAML; a mapping replaces the one that was there.
        extra: further values by their dotted path, from options such as `--seed`.
        kind: ``pretrain`` or ``tasks`` to accept only recipes of that kind; None: both.
        engine: what is to train, for a task with several engines; None: as the recipe says.
        named: folders of this machine that stand for roots (`mae_bench.roots`); None: roots stay as written.

    Raises:
        MaeBenchError: no such recipe, adapter or engine, an unknown key, a wrong type, a missing value: one
            line for each fault, with its dotted path and where it was written.
    """
    path = find(name_or_path, kind)
    # What a recipe should give is no promise of one that extends it, on other data or with other values.
    document = yamlfile.load(path, find=find, not_handed_down=("expected",))
    values, origins = document.values, dict(document.origins)
    for dotted, value in _parse_overrides(overrides, extra or {}).items():
        _set(values, origins, dotted, value)
    if "recipe" not in values:
        values["recipe"] = _name_of(path)
        origins["recipe"] = Origin("name of the file")
    if engine is not None:
        values["task"] = _with_engine(values, origins, engine)
        origins["task"] = Origin("--engine")
    adapter_class = _adapter(values, origins)
    if kind == "pretrain" and adapter_class.needs_backbone:
        raise MaeBenchError(_other_kind(name_or_path, kind))
    if isinstance(values.get("backbone"), str):
        values["backbone"] = registry.normalise_backbone(values["backbone"])
    config = validation.validate(adapter_class.Config, values, origins)
    config = roots.put(config, origins, named or {})
    return Resolved(config, origins, adapter_class, path)


def published(config: TaskConfig) -> TaskConfig | None:
    """The recipe with the published protocol as it stands in its file, to tell how a run departs from it.

    That is the recipe named by `protocol`, else the run's own recipe without its overrides; None if neither
    is one of the catalogue (a YAML file of the user's own that names no protocol).
    """
    if config.protocol is not None:
        return resolve(config.protocol).config
    if config.recipe in resources.recipes():
        return resolve(config.recipe).config
    return None


def _name_of(path: Path) -> str:
    """The recipe's name in the catalogue, or the stem of a file that is not in it."""
    resolved = path.resolve()
    names = (name for name, known in resources.recipes().items() if known.resolve() == resolved)
    return next(names, path.stem)


def _parse_overrides(overrides: Sequence[str], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value; a path may be given once."""
    parsed = dict(extra)
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or not _KEY_PATH.fullmatch(dotted):
            raise MaeBenchError(f"'{text}' is no override; write key.path=value, for example train.epochs=10")
        if dotted in parsed:
            raise MaeBenchError(f"{dotted}: given twice, as {yamlfile.inline(parsed[dotted])} and as {value}")
        parsed[dotted] = yamlfile.parse_value(value, name=f"override '{text}'")
    return parsed


def _set(values: dict[str, Any], origins: dict[str, Origin], dotted: str, value: Any) -> None:
    """Write one override into nested values; mappings on the way are made where there is none."""
    *parents, last = dotted.split(".")
    current = values
    for depth, parent in enumerate(parents, start=1):
        inner = current.get(parent)
        if not isinstance(inner, dict):
            inner = current[parent] = {}
            origins[".".join(parents[:depth])] = OVERRIDE
        current = inner
    current[last] = value
    for stale in [path for path in origins if path.startswith(dotted + ".")]:
        del origins[stale]
    origins[dotted] = OVERRIDE
    origins.update(
        dict.fromkeys(settings.flatten(value, dotted + "."), OVERRIDE) if isinstance(value, dict) else {}
    )


def _adapter(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> type[Adapter[Any]]:
    """The class that the recipe's `task` names."""
    where = origins.get("task", origins[""])
    name = values.get("task")
    if not isinstance(name, str):
        raise MaeBenchError(f"task: should be the name of an adapter, not {yamlfile.inline(name)} ({where})")
    catalogue = registry.adapters()
    try:
        loaded = catalogue.load(name)
    except MaeBenchError as error:
        raise MaeBenchError(f"task: {error} ({where})") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Adapter)):
        entry = catalogue.entry(name)
        raise MaeBenchError(f"the adapter '{name}' of {entry.origin}: {entry.target} is no mae_bench Adapter")
    return loaded


def _with_engine(values: Mapping[str, Any], origins: Mapping[str, Origin], engine: str) -> str:
    """The name of the adapter that does what the recipe's `task` does on another engine."""
    known = registry.adapters().entries
    name = str(values.get("task"))
    # The recipe's own engine may not be installed; asking for another one is the way out then.
    installed = name not in known or not known[name].missing()
    if installed and _adapter(values, origins).engine is None:
        raise MaeBenchError(f"--engine {engine}: {values['recipe']} has one way of training alone")
    siblings = engines(name)
    if engine not in siblings:
        raise MaeBenchError(
            f"--engine {engine}: {values['recipe']} can be trained by {', '.join(siblings)}"
            f"{near(engine, siblings)}"
        )
    return siblings[engine]


def engines(task: str) -> dict[str, str]:
    """Engine -> adapter, for all adapters that do what the adapter `task` does; whether installed or not."""
    family = task.partition(".")[0]
    names = registry.adapters().entries
    return {name.partition(".")[2]: name for name in names if name.startswith(f"{family}.")}


def describe(resolved: Resolved) -> str:
    """The resolved settings as YAML, each value with a comment that says where it comes from."""
    lines = list(_lines(settings.plain(resolved.config), resolved.origins))
    width = min(max(len(text) for text, _ in lines), 60)
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)


def _lines(
    values: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str = "", depth: int = 0
) -> list[tuple[str, Origin | None]]:
    lines: list[tuple[str, Origin | None]] = []
    indent = "  " * depth
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines.append((f"{indent}{key}:", None))
            lines += _lines(value, origins, path + ".", depth + 1)
            continue
        # Texts and mappings in a list are long: one line each.
        tall = isinstance(value, list) and any(isinstance(item, str | Mapping) for item in value)
        lines.append(
            (
                f"{indent}{key}:" if tall else f"{indent}{key}: {yamlfile.inline(value)}",
                origins.get(path, DEFAULT),
            )
        )
        lines += [(f"{indent}  - {yamlfile.inline(item)}", None) for item in value] if tall else []
    return lines
