"""Reading and writing YAML as plain values, by the rules of YAML 1.2's core schema.

PyYAML follows YAML 1.1, in which ``1e-4`` is text, ``010`` is eight, ``12:30`` is 750, ``off`` is false and
the last of two equal keys wins without a word. Here a value is what it looks like: numbers are decimal
(``0x`` and ``0o`` apart), the only truth values are ``true`` and ``false``, a key stands once, and tags and
merge keys are refused, since a recipe holds values only. Every value keeps the file and line it came from.

This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mae_bench.errors import MaeBenchError, near
from mae_bench.validation import Origin

_NULL, _BOOL, _INT, _FLOAT, _TEXT, _LIST, _MAPPING = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")
)

# Core schema, section 10.3.2 of the YAML 1.2.2 specification: tag, pattern, first characters.
_CORE_SCHEMA: list[tuple[str, str, list[str] | None]] = [
    (_NULL, r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
]


class _Loader(yaml.BaseLoader):
    """PyYAML's reader with no types of its own, so that only the core schema's apply."""


class _FastLoader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """The same by libyaml, where PyYAML was built with it: some eight times as fast."""


class _Dumper(yaml.SafeDumper):
    """A writer that quotes whatever text either YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


for _tag, _pattern, _first in _CORE_SCHEMA:
    _compiled = re.compile(rf"^(?:{_pattern})\Z")
    for _reader in (_Loader, _FastLoader):
        _reader.add_implicit_resolver(_tag, _compiled, _first)
    _Dumper.add_implicit_resolver(_tag, _compiled, _first)


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    short = all(value is None or isinstance(value, bool | int | float) for value in data)
    return dumper.represent_sequence(_LIST, data, flow_style=short or None)


def _represent_text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    # Only double quotes keep line breaks of every kind and control characters as they are, on one line.
    return dumper.represent_scalar(_TEXT, data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Document:
    """What a YAML file holds.

    Attributes:
        values: nested plain values (dict, list, str, int, float, bool, None).
        origins: dotted path -> where it was written; list elements by their index, the whole file under "".
        path: the file.
    """

    values: dict[str, Any]
    origins: dict[str, Origin]
    path: Path


@dataclass
class _Reading:
    """One source being turned into values."""

    name: str
    origins: dict[str, Origin] = field(default_factory=dict)
    open_nodes: set[int] = field(default_factory=set)

    def at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def value(self, node: yaml.Node, path: str) -> Any:
        """The plain value of a node; notes where everything below `path` was written."""
        if path:
            self.origins[path] = Origin(self.at(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open_nodes:
            raise MaeBenchError(f"{self.at(node)}: an anchor that contains itself")
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            self._plain_tag(node, _LIST)
            return [self.value(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        finally:
            self.open_nodes.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        match node.tag:
            case "tag:yaml.org,2002:null":
                return None
            case "tag:yaml.org,2002:bool":
                return text.lower() == "true"
            case "tag:yaml.org,2002:int":
                if text[:2] in ("0o", "0x"):
                    return int(text[2:], 8 if text[1] == "o" else 16)
                return int(text)
            case "tag:yaml.org,2002:float":
                # Python spells .inf and .nan without the dot.
                return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        self._plain_tag(node, _TEXT)
        return text

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        self._plain_tag(node, _MAPPING)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            dotted = f"{path}.{key}" if path else key
            if key in lines:
                raise MaeBenchError(
                    f"{self.name}: the key '{dotted}' stands twice, on line {lines[key]} and on line {line}"
                )
            lines[key] = line
            values[key] = self.value(value_node, dotted)
            self.origins[dotted] = Origin(f"{self.name}:{line}")
        return values

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT or not node.value:
            raise MaeBenchError(f"{self.at(node)}: a key must be text; put it in quotes if it is meant so")
        if node.value == "<<" and not node.style:
            raise MaeBenchError(f"{self.at(node)}: merge keys (<<) are not part of YAML 1.2; use 'extends'")
        return str(node.value)

    def _plain_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag != expected:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise MaeBenchError(f"{self.at(node)}: the tag {tag} is not allowed; a recipe holds values only")


def load(
    path: str | Path, find: Callable[[str], Path] | None = None, not_handed_down: Collection[str] = ()
) -> Document:
    """Read a YAML file whose root is a mapping.

    A key ``extends`` at the root names a file (relative to this one) whose values stand below these: mappings
    are merged at every depth, everything else is replaced. The file extended may not extend another.

    Args:
        find: turns a name in ``extends`` that is no YAML file name into a path; None: file names only.
        not_handed_down: keys at the root that hold for the file alone in which they stand.

    Raises:
        MaeBenchError: the file is missing or not valid YAML, a key stands twice, or the root is no mapping.
    """
    document = _load_one(Path(path))
    if "extends" not in document.values:
        return document
    where = document.origins["extends"]
    name = document.values["extends"]
    if not isinstance(name, str):
        raise MaeBenchError(f"extends: should be the name of one file, not {inline(name)} ({where})")
    try:
        parent_path = document.path.parent / name if find is None or is_yaml_name(name) else find(name)
        parent = _load_one(parent_path)
    except MaeBenchError as error:
        raise MaeBenchError(f"extends: {error} ({where})") from None
    if "extends" in parent.values:
        raise MaeBenchError(
            f"extends: {name} extends another file itself ({parent.origins['extends']}); "
            f"only one level is allowed ({where})"
        )
    own = {key: value for key, value in document.values.items() if key != "extends"}
    for key in not_handed_down:
        parent.values.pop(key, None)
    origins = {
        path: origin
        for path, origin in parent.origins.items()
        if path.partition(".")[0] not in not_handed_down
    }
    values = _merge(parent.values, own, origins, document.origins)
    return Document(values, origins | {"": document.origins[""]}, document.path)


def _load_one(path: Path) -> Document:
    """Read one file without looking at ``extends``."""
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        # Without the ending, which would make every name near to every other.
        siblings = sorted(sibling.stem for sibling in path.parent.glob(f"*{path.suffix}"))
        raise MaeBenchError(f"{name} does not exist{near(path.stem, siblings)}") from None
    except UnicodeDecodeError:
        raise MaeBenchError(f"{name} is not UTF-8 text") from None
    except OSError as error:
        raise MaeBenchError(f"{name} cannot be read: {error.strerror or error}") from None
    reading = _Reading(name)
    root = _compose(text, name)
    if not isinstance(root, yaml.MappingNode):
        raise MaeBenchError(f"{name} should hold keys and values (key: value), and holds {_kind(root)}")
    values = reading.value(root, "")
    return Document(values, reading.origins | {"": Origin(name)}, path)


def _compose(text: str, name: str) -> yaml.Node | None:
    """The one YAML document in `text` as nodes."""
    try:
        return yaml.compose(text, Loader=_FastLoader)
    except yaml.YAMLError:
        return _compose_slowly(text, name)


def _compose_slowly(text: str, name: str) -> yaml.Node | None:
    """The same by PyYAML's own reader, which says best what is wrong and where."""
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark and "\n" in text else name
        problem = error.problem or error.context
        raise MaeBenchError(f"{where}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise MaeBenchError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None


def _kind(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _merge(
    below: Mapping[str, Any],
    above: Mapping[str, Any],
    origins: dict[str, Origin],
    above_origins: Mapping[str, Origin],
    prefix: str = "",
) -> dict[str, Any]:
    """`above` laid over `below`; `origins` (those of `below`) is brought up to date on the way."""
    merged = dict(below)
    for key, value in above.items():
        path = f"{prefix}{key}"
        origins[path] = above_origins[path]
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = _merge(old, value, origins, above_origins, path + ".")
            continue
        merged[key] = value
        for stale in [p for p in origins if p.startswith(path + ".")]:
            del origins[stale]
        origins.update({p: o for p, o in above_origins.items() if p.startswith(path + ".")})
    return merged


def parse_value(text: str, name: str = "value") -> Any:
    """The value of one override: a scalar or a flow collection (``[1, 2]``, ``{prob: 0.5}``).

    Args:
        name: what messages call the text.

    Raises:
        MaeBenchError: the text is empty or not valid YAML.
    """
    root = _compose(text, name)
    if root is None:
        raise MaeBenchError(f"{name}: no value given; write null for none and '' for empty text")
    return _Reading(name).value(root, "")


def dump(values: Mapping[str, Any]) -> str:
    """Nested plain values as YAML that reads back identically, keys in the order given."""
    return _dump(values, default_flow_style=False)


def inline(value: Any) -> str:
    """One value on one line, as YAML that reads back identically."""
    return _dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _dump(value: Any, default_flow_style: bool) -> str:
    return str(
        yaml.dump(
            value,
            Dumper=_Dumper,
            default_flow_style=default_flow_style,
            sort_keys=False,
            allow_unicode=True,
            width=float("inf"),
        )
    )


def is_yaml_name(name: str) -> bool:
    """Whether `name` is that of a YAML file rather than of a recipe."""
    return name.endswith((".yaml", ".yml"))


def shown(path: Path) -> str:
    """A path as messages give it: relative where it lies below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
