"""From plain values to settings, with every fault in plain words: the path, the value, where it was written.

This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mae_bench.errors import MaeBenchError, near
from mae_bench.settings import Settings, submodel

M = TypeVar("M", bound=Settings)


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line, or the command line."""

    where: str

    def __str__(self) -> str:
        return self.where


def validate(model: type[M], values: Mapping[str, Any], origins: Mapping[str, Origin] | None = None) -> M:
    """Build `model` from plain values.

    Args:
        origins: dotted path -> where the value was written, to be named in the message; "" for the whole.

    Raises:
        MaeBenchError: one line per fault, each with its dotted path and, where known, file and line.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults: dict[str, list[Any]] = {}
        for fault in error.errors():
            faults.setdefault(".".join(_key_path(fault, values)), []).append(fault)
        lines = [_sentence(model, path, same, origins or {}) for path, same in faults.items()]
        raise MaeBenchError("\n".join(lines)) from None


def _key_path(fault: Any, values: Mapping[str, Any]) -> list[str]:
    """The keys that lead to a fault; pydantic adds the member of a union that it tried ("int", "literal")."""
    path: list[str] = []
    current: Any = values
    for part in fault["loc"]:
        inside = (isinstance(current, Mapping) and part in current) or isinstance(part, int)
        if inside:
            current = current[part]
        if inside or fault["type"] == "missing":
            path.append(str(part))
    return path


def _sentence(
    model: type[BaseModel], dotted: str, faults: Sequence[Any], origins: Mapping[str, Origin]
) -> str:
    """The faults of one value (several if it is a union, one for each member) in plain words."""
    path = dotted.split(".")
    origin = next((origins[p] for p in _prefixes(path) if p in origins), origins.get(""))
    where = f" ({origin})" if origin else ""
    fault = faults[0]
    match fault["type"]:
        case "extra_forbidden":
            return f"{dotted}: unknown key{where}{_other_keys(model, path)}"
        case "missing":
            return f"{dotted}: missing{where}"
        case "value_error":
            told = str(fault["msg"]).removeprefix("Value error, ")
            return f"{dotted}: {told}{where}" if dotted else f"{told}{where}"
    wanted = " or ".join(dict.fromkeys(_wanted(fault) for fault in faults)).replace(" or be ", " or ")
    return f"{dotted}: should {wanted}, not {_show(fault.get('input'))}{where}"


_WANTED = {
    "string_type": "be text",
    "bool_type": "be true or false",
    "int_type": "be a whole number",
    "float_type": "be a number",
    "finite_number": "be a finite number",
    "list_type": "be a list",
    "dict_type": "be a mapping of keys",
    "model_type": "be a mapping of keys",
    "literal_error": "be {expected}",
    "greater_than": "be more than {gt:g}",
    "greater_than_equal": "be at least {ge:g}",
    "less_than": "be less than {lt:g}",
    "less_than_equal": "be at most {le:g}",
    "too_short": "have at least {min_length} elements",
    "too_long": "have at most {max_length} elements",
}


def _wanted(fault: Any) -> str:
    """What pydantic would have accepted, to stand behind "should"."""
    kind = fault["type"]
    if kind in _WANTED:
        return _WANTED[kind].format(**fault.get("ctx", {}))
    return "be " + str(fault["msg"]).removeprefix("Input should be ")


def _show(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _prefixes(path: Sequence[str]) -> Iterator[str]:
    for end in range(len(path), 0, -1):
        yield ".".join(path[:end])


def _other_keys(model: type[BaseModel], path: Sequence[str]) -> str:
    """A hint at the key that was meant: the same name elsewhere, else a similar one at this place."""
    everywhere = _key_paths(model)
    elsewhere = [known for known in everywhere if known.split(".")[-1] == path[-1]]
    if elsewhere:
        return "; did you mean " + " or ".join(f"'{known}'" for known in elsewhere) + "?"
    here = [part for part in path[:-1] if not part.isdigit()]
    return near(path[-1], [known.split(".")[-1] for known in everywhere if known.split(".")[:-1] == here])


def _key_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted paths of every key that a model knows, at any depth."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        inner = submodel(field.annotation)
        if inner is not None:
            paths += _key_paths(inner, f"{prefix}{name}.")
    return paths
