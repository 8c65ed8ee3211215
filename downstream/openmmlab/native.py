"""Config files of the engines' own: read, with one sentence for what is wrong; and facts about engines."""

from __future__ import annotations

import ast
import gc
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

from mae_bench.errors import MaeBenchError, near
from mae_bench.files import write_atomic


def read(path: Path, options: Mapping[str, Any]) -> Any:
    """A config file and all it builds upon, as one `mmengine.Config`, with `options` laid over it.

    Args:
        options: dotted path -> value, as the engine's ``--cfg-options`` has it; or nested, which is the same.

    Raises:
        MaeBenchError: there is no such file, it is no config, Python stumbles over it, or an option leads
            nowhere.
    """
    from mmengine.config import Config

    if not path.is_file():
        raise MaeBenchError(f"native: there is no file {path}; give a config file of the engine")
    if path.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise MaeBenchError(f"native: {path} is no config file; the engine's end with .py, .yaml or .json")
    reason = None
    with warnings.catch_warnings():
        # A config that fails leaves a temporary file of mmengine's open: it is closed here, at once.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            # Config files are Python of the user's own choice, and may raise anything.
            config = Config.fromfile(str(path))
        except Exception as error:
            reason = _reason(error)
        if reason is not None:
            gc.collect()
    if reason is not None:
        raise MaeBenchError(f"native: {path} cannot be read: {reason}")
    for key, value in _dotted(options, config):
        before = _led_to(config, key, path)
        if isinstance(before, tuple) and isinstance(value, list):
            value = tuple(value)  # YAML has no tuples, and the engines insist on theirs
        try:
            config.merge_from_dict({key: value})
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise MaeBenchError(f"options: {path} does not take {key}: {_reason(error)}") from error
    return config


def _dotted(options: Mapping[str, Any], place: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that lies in nested options; a mapping for what is not there is a value."""
    for key, value in options.items():
        there = place
        for part in str(key).split("."):
            there = there.get(part) if hasattr(there, "get") else None
        if isinstance(value, Mapping) and value and isinstance(there, Mapping):
            yield from _dotted(value, there, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).partition(", the current sys.path is")[0]
    where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{where}{type(error).__name__}: {text}" if text else type(error).__name__


def _led_to(config: Any, key: str, path: Path) -> Any:
    """What is at the end of a dotted path, or None; raises MaeBenchError unless all before it is there."""
    place: Any = config
    *above, last = key.split(".")
    first = key.partition(".")[0]
    if first not in config and first not in _top_level():
        raise MaeBenchError(
            f"options: {path} has no {first}{near(first, list(config))}, so {key} sets nothing"
        )
    for done, part in enumerate(above):
        numbered = isinstance(place, list | tuple)
        keys = [str(number) for number in range(len(place))] if numbered else list(place)
        if part not in keys:
            missing = ".".join(above[: done + 1])
            raise MaeBenchError(f"options: {path} has no {missing}{near(part, keys)}, so {key} sets nothing")
        place = place[int(part)] if numbered else place[part]
    return place.get(last) if isinstance(place, Mapping) else None


def _top_level() -> set[str]:
    """What a config may have at its top, as mmengine's Runner asks for it."""
    import inspect

    from mmengine.runner import Runner

    more = {"custom_imports", "find_unused_parameters", "model_wrapper_cfg", "sync_bn", "compile"}
    more |= {"activation_checkpointing", "efficient_conv_bn_eval", "tta_model", "tta_pipeline", "crop_size"}
    return set(inspect.signature(Runner.__init__).parameters) | more


def text_of(config: Any) -> str:
    """A `mmengine.Config` as a Python file that `Config.fromfile` reads back.

    mmengine's own `pretty_text` lets a formatter lay it out, which takes seconds.
    """
    values = config.to_dict()
    return "".join(
        f"{key} = {pformat(value, width=100, sort_dicts=False)}\n" for key, value in values.items()
    )


def with_text(config: Any) -> Any:
    """The same config, with `text_of` in place of `pretty_text`, which mmengine asks for again and again."""
    from mmengine.config import Config

    kind = type("Config", (Config,), {"pretty_text": text_of(config)})
    return kind(config.to_dict())


def write_config(native: Any, path: Path, made_by: str) -> Path:
    """Write a `mmengine.Config` as a file that the engine's own tools read, with a comment at its head."""
    head = "".join(f"# {line}\n" for line in made_by.splitlines())
    return write_atomic(path, head + text_of(native))


def same_as_before(path: Path, fingerprint: str, what: str) -> str:
    """A line for the head of a config file that holds `fingerprint`, which an earlier one must have too.

    Args:
        path: where the file is, if the run has begun before.
        what: from which the config is made, for the message.

    Raises:
        MaeBenchError: the run began with another one.
    """
    if path.exists() and fingerprint not in path.read_text(encoding="utf-8"):
        raise MaeBenchError(
            f"{what}, or a file that it builds upon, says something else than when this run began ({path} "
            "holds what it was): put it as it was, or start afresh with --force"
        )
    return f"Made from {what}, whose values together have the fingerprint {fingerprint}."


def need(config: Any, keys: tuple[str, ...], path: Path) -> None:
    """Raise MaeBenchError unless the config has all of `keys`, which a training needs."""
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise MaeBenchError(
            f"native: {path} has no {', no '.join(missing)}; give a whole config for training, such as those "
            "in the engine's configs folder"
        )


def sha256_of(path: Path) -> str | None:
    """Digest of the content of a config file and of those it names as its base; None: one is not there."""
    digest = hashlib.sha256()
    waiting, seen = [path], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        try:
            content = file.read_bytes()
        except OSError:
            return None
        digest.update(content)
        waiting += [file.parent / base for base in _bases(content)]
    return digest.hexdigest()


def _bases(content: bytes) -> list[str]:
    """What a config file gives as ``_base_``, as far as these are names of files."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_base_"]:
            values = [node.value] if isinstance(node.value, ast.Constant) else getattr(node.value, "elts", [])
            names = [value.value for value in values if isinstance(value, ast.Constant)]
            return [name for name in names if isinstance(name, str) and "::" not in name]
    return []


def replace_everywhere(value: Any, kind: str, new: Mapping[str, Any]) -> int:
    """Put `new` in place of every dictionary of type `kind` below `value`; returns how many there were."""
    changed = 0
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    for child in children:
        if isinstance(child, dict) and str(child.get("type")).rpartition(".")[2] == kind:
            child.clear()
            child.update(new)
            changed += 1
        else:
            changed += replace_everywhere(child, kind, new)
    return changed


def engine_facts(name: str) -> dict[str, Any]:
    """What a result records of an engine: ``versions``, and in ``details`` whether mmcv is bridged."""
    import importlib

    from downstream.openmmlab.extension import bridged

    packages = (name, "mmengine", "mmcv")
    versions = {package: str(importlib.import_module(package).__version__) for package in packages}
    return {"versions": versions, "details": {"engine": {"name": name, **versions, "bridged": bridged()}}}


def engine_line(name: str) -> str:
    """The engine, its versions and whose operators it uses, for people."""
    facts = engine_facts(name)
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    operators = "torchvision's" if facts["details"]["engine"]["bridged"] else "compiled"
    return f"engine: {versions} with {operators} operators"
