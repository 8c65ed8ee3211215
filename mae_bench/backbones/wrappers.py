"""The network in a checkpoint's payload: wrappers opened, one network of several chosen, names made bare.

Training code keeps its weights under a key (``model``, ``state_dict``, ``teacher`` ...) and within modules
that put something before every name. Which network is taken where there are several:

* ``teacher`` before ``student`` (DINO, iBOT, DINOv2, DINOv3) and ``target_encoder`` before ``encoder``
  (I-JEPA): the averaged network is what these papers evaluate.
* The trained network (``model``, ``state_dict`` ...) before its moving average (``model_ema``,
  ``state_dict_ema`` ...), which is what timm's own validation takes unless it is told otherwise.
* Nothing else: two networks that no rule puts in order are an error, and the user chooses.

The choice is noted and can be overridden by naming another network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mae_bench.errors import MaeBenchError, near

_PLAIN = (
    *("model", "state_dict", "network", "net", "module", "backbone", "encoder", "params", "weights"),
    *("model_state", "model_state_dict", "network_state_dict"),
)
_AVERAGED = (
    *("model_ema", "state_dict_ema", "ema", "ema_state_dict", "ema_model", "ema_network", "params_ema"),
    *("model_ema_state_dict", "ema_model_state_dict"),
)
# Which of two networks is taken, where a checkpoint has both.
_BEFORE = {
    ("teacher", "student"),
    ("teacher_backbone", "student_backbone"),
    ("target_encoder", "encoder"),
    ("ema_model", "online_model"),  # the wrapper of ema-pytorch, which holds both
    *((plain, averaged) for plain in _PLAIN for averaged in _AVERAGED),
}
_KNOWN = {*_PLAIN, *_AVERAGED, *(name for pair in _BEFORE for name in pair)}
# Names that a network has within another module. Where all names begin so, that is removed.
_OUTER = re.compile(
    r"(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|model|net|network|backbone|encoder)\."
)
# Modules that wrap any other, and change nothing but its names.
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LIGHTNING = "pytorch-lightning_version"
_DEEPEST = 8  # levels of keys that are looked into; a damaged file may hold itself
_COUNTERS = {"n_averaged", "initted", "step"}  # of moving averages, beside the network


@dataclass
class Network:
    """A checkpoint's network.

    Attributes:
        state: its tensors, names made bare.
        wrapper: keys under which they lay, joined by dots ("" for none).
        prefix: what stood before every name and was removed.
        ignored: what else the file holds.
        notes: which of several networks was taken, a sentence each.
    """

    state: dict[str, Tensor]
    wrapper: str
    prefix: str
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def network_in(payload: Any, where: str, key: str | None = None) -> Network:
    """The network of a checkpoint's payload.

    Args:
        where: the file's name, for messages.
        key: which network, where not the one that is taken of itself: a key of the file (``student``,
            ``state_dict_ema``), what its names begin with (``momentum_encoder``), or several joined by dots.

    Raises:
        MaeBenchError: no named tensors, several networks that no rule puts in order, or none called `key`.
    """
    found = Network({}, "", "")
    lightning = isinstance(payload, Mapping) and _LIGHTNING in payload
    inner, rest = _opened(payload, where, key or "", found)
    if not isinstance(inner, Mapping):
        raise MaeBenchError(
            f"{where} holds a {type(inner).__name__}, not named weights; save model.state_dict()"
        )
    found.state = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    found.ignored += [str(name) for name in inner if str(name) not in found.state]
    if not found.state:
        if rest:
            raise _no_such(where, rest, _paths(payload))
        nested = [str(name) for name, value in inner.items() if _holds_tensors(value)]
        hint = f"; there are tensors under {_listed(nested)}, chosen by key=NAME" if nested else ""
        raise MaeBenchError(f"{where} holds no weights; its entries are {_listed(inner)}{hint}")
    if len({_WRAPPED.sub("", name) for name in found.state}) != len(found.state):
        raise MaeBenchError(f"{where} holds two tensors of one name, wrapped and not; save one network alone")
    _make_bare(found)
    start = _start(found, rest) if rest else _branch(found.state, lightning)
    if start is None and rest:
        raise _no_such(where, rest, [*_paths(payload), *_modules(found.state)])
    if start and not rest:
        found.notes += _noted(start, [name for name in _modules(found.state) if name in _KNOWN])
    if start:
        _take(found, start)
    return found


# ---------------------------------------------------------------- keys of the file


def _opened(payload: Any, where: str, key: str, found: Network) -> tuple[Any, str]:
    """The innermost mapping, and what of `key` is left to be found among its names."""
    opened: list[str] = []
    while isinstance(payload, Mapping):
        inside = [name for name, value in payload.items() if isinstance(name, str) and _holds_tensors(value)]
        asked = max((name for name in inside if f"{key}.".startswith(f"{name}.")), key=len, default=None)
        known = [name for name in inside if name in _KNOWN]
        if key and asked is not None:
            chosen, key = asked, key[len(asked) + 1 :]
        elif known and len(opened) < _DEEPEST:
            chosen = _first(known, where)
            found.notes += _noted(chosen, known)
        else:
            break
        found.ignored += [str(name) for name in payload if name != chosen]
        opened.append(chosen)
        payload = payload[chosen]
    found.wrapper = ".".join(opened)
    return payload, key


def _first(known: list[str], where: str) -> str:
    """Of several networks the one that stands before all others."""
    ahead = [name for name in known if all((name, other) in _BEFORE for other in known if other != name)]
    if len(ahead) == 1:
        return ahead[0]
    both = "both " if len(known) == 2 else ""
    listed = " and ".join(f"'{name}'" for name in known)
    options = " or ".join(f"key={name}" for name in known)
    raise MaeBenchError(f"{where} holds weights under {both}{listed}; say which are meant: {options}")


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    return (
        isinstance(value, Mapping)
        and depth < _DEEPEST
        and any(isinstance(inner, Tensor) or _holds_tensors(inner, depth + 1) for inner in value.values())
    )


def _paths(payload: Any, depth: int = 0) -> list[str]:
    """Keys, joined by dots, under which there are tensors."""
    paths = []
    for name, value in payload.items() if isinstance(payload, Mapping) and depth < _DEEPEST else ():
        if isinstance(name, str) and _holds_tensors(value):
            paths += [name, *(f"{name}.{inner}" for inner in _paths(value, depth + 1))]
    return paths


# ---------------------------------------------------------------- names within the network


def _make_bare(found: Network) -> None:
    """Remove what wrapping modules put into the names, and the counters that they keep."""
    for name in sorted(_COUNTERS & found.state.keys()):
        if len(found.state) > 1 and found.state[name].ndim == 0:
            del found.state[name]
            found.ignored.append(name)
    while (first := _OUTER.match(next(iter(found.state)))) is not None:
        if not all(name.startswith(first[0]) for name in found.state):
            break
        found.state = {name.removeprefix(first[0]): tensor for name, tensor in found.state.items()}
        found.prefix += first[0]
    found.state = {_WRAPPED.sub("", name): tensor for name, tensor in found.state.items()}


def _start(found: Network, key: str) -> str | None:
    """What the names of a network begin with that is called `key`; "" if that is gone from them already."""
    if found.prefix.startswith(f"{key}."):
        return ""
    inner = key.removeprefix(found.prefix)
    return inner if any(name.startswith(f"{inner}.") for name in found.state) else None


def _branch(state: Mapping[str, Tensor], lightning: bool) -> str | None:
    """Which of the modules at the top is the network, where there are several by rule."""
    tops = _modules(state)
    for before, after in sorted(_BEFORE):
        if before in tops and after in tops:
            return before
    towers = [name for name in tops if name in ("model", "net", "network", "backbone", "encoder")]
    # A LightningModule holds its network beside losses, heads and metrics.
    return towers[0] if lightning and len(towers) == 1 and len(tops) > 1 else None


def _take(found: Network, start: str) -> None:
    """Keep the tensors whose names begin with `start`; the others are ignored, module by module."""
    others = [name for name in found.state if not name.startswith(f"{start}.")]
    for top, count in _modules(others).items():
        found.ignored.append(f"{top} ({count} tensor{'s' * (count > 1)})")
    found.prefix += f"{start}."
    inside = {name: tensor for name, tensor in found.state.items() if name.startswith(f"{start}.")}
    found.state = {name.removeprefix(f"{start}."): tensor for name, tensor in inside.items()}
    _make_bare(found)


def _modules(names: Iterable[str]) -> dict[str, int]:
    """Modules at the top of the names, with how many tensors each has."""
    counts: dict[str, int] = {}
    for name in names:
        top = name.partition(".")[0]
        counts[top] = counts.get(top, 0) + 1
    return counts


# ---------------------------------------------------------------- words


def _noted(chosen: str, others: Iterable[str]) -> list[str]:
    rest = sorted(name for name in others if name != chosen)
    if not rest:
        return []
    options = " or ".join(f"key={name}" for name in rest)
    return [f"of several networks in the file '{chosen}' was taken; another one is by {options}"]


def _no_such(where: str, key: str, known: Iterable[str]) -> MaeBenchError:
    names = list(known)
    hint = near(key, names).removesuffix("?")
    return MaeBenchError(f"{where} holds no network called '{key}'{hint}; there is {_listed(names)}")


def _listed(names: Iterable[Any]) -> str:
    shown = [f"'{name}'" for name in names]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return (", ".join(shown[:6]) + more) if shown else "none"
