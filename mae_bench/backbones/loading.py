"""From the text after ``--backbone`` to a `Backbone`.

The text is ``SOURCE:BODY?key=value&key=value``: ``timm:vit_base_patch16_224.mae``,
``random:vit_tiny_patch16_224?patch_size=4&img_size=32``, ``file:mae.pth?arch=vit_base_patch16_224``,
``run:runs/mae-vit-base/s0-1a2b3c4d``, or just that folder; or the name of an alias, which stands for such a
text.

This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError, near

if TYPE_CHECKING:
    from mae_bench.backbones.surface import Backbone


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
        spec: the whole text, for messages and records.
        source: the name before the colon.
        body: what stands between the colon and the question mark.
        arguments: ``key=value`` pairs after the question mark, values as written; a source refuses the
            ones it does not know.
        image_size: (height, width) in pixels to which the position embeddings are resampled when the
            backbone is built; None keeps the size of the weights.
        channels: image channels of the task; None takes those of the weights.
        seed: for what is drawn at random.
        model_args: further arguments of the architecture, as values; they win over `arguments`.
    """

    spec: str
    source: str
    body: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    seed: int = 0
    model_args: Mapping[str, Any] = field(default_factory=dict)


def load_backbone(
    spec: str,
    *,
    image_size: int | Sequence[int] | None = None,
    drop_path: float = 0.0,
    channels: int | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
) -> Backbone:
    """The backbone that `spec` names, with its weights and its load report.

    Args:
        spec: ``timm:NAME``, ``hf:OWNER/NAME``, ``torchhub:REPO:ENTRY``, ``file:PATH?arch=NAME``,
            ``run:FOLDER`` (or the folder), ``python:MODULE:FACTORY``, ``random:ARCH``, or the name of an
            alias (`mae_bench.backbones.aliases`).
        image_size: side, or (height, width), in pixels to which position embeddings are resampled now;
            None keeps the size of the weights, and other sizes are resampled at run time.
        drop_path: stochastic-depth rate of the last block; it grows linearly from 0 at the first.
        channels: image channels of the task; None takes those of the weights (3 for random weights).
        seed: of whatever is drawn at random: all of ``random:``, and what was allowed to be missing.
        model_args: further arguments of the architecture (``random:`` and ``file:``).

    Raises:
        MaeBenchError: the source, architecture or file is unknown or unreadable, or the weights do not
            fit the architecture exactly.
    """
    from mae_bench import registry
    from mae_bench.backbones import aliases

    sources = registry.backbone_sources()
    meant = aliases.resolve(spec)
    source, body, arguments = parse_spec(spec if meant is None else meant, sources.entries)
    request = Request(
        spec=spec if meant is not None or spec.startswith(f"{source}:") else f"{source}:{spec}",
        source=source,
        body=body,
        arguments=arguments,
        image_size=_pair(image_size),
        channels=channels,
        seed=seed,
        model_args=dict(model_args or {}),
    )
    open_source: Callable[[Request], Backbone] = sources.load(source)
    import torch  # not at the top: whoever only reads a spec needs none

    with torch.random.fork_rng(devices=[]):
        # What the source lets be missing keeps drawn values: the same in every process and on every day.
        torch.default_generator.manual_seed(seed)
        backbone = open_source(request)
    backbone.report.family = backbone.family
    backbone.set_drop_path(drop_path)
    return backbone


def parse_spec(spec: str, known: Mapping[str, object]) -> tuple[str, str, dict[str, str]]:
    """Split a backbone's text into source, body and arguments; a folder stands for ``run:FOLDER``.

    Args:
        known: names of the sources there are.

    Raises:
        MaeBenchError: no such source, nothing after the colon, or arguments not of the form
            ``key=value&key=value``.
    """
    if not spec.strip():
        raise MaeBenchError("backbone: the text is empty; `mae-bench list backbones` shows what it may be")
    source, colon, rest = spec.partition(":")
    if not colon or source not in known:
        if Path(spec).expanduser().is_dir():
            return "run", spec, {}
        raise MaeBenchError(_unknown(spec, source if colon else "", known))
    body, question, query = rest.rpartition("?")
    if not question:
        body, query = rest, ""
    if not body:
        raise MaeBenchError(f"backbone '{spec}': nothing stands after '{source}:'")
    return source, body, arguments_of(query, spec) if question else {}


def arguments_of(query: str, spec: str) -> dict[str, str]:
    """``key=value&key=value`` as a dictionary.

    Args:
        spec: the whole text, for messages.

    Raises:
        MaeBenchError: it is not of this form, or a key is given twice.
    """
    arguments: dict[str, str] = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise MaeBenchError(f"backbone '{spec}': arguments are key=value joined by &, not '{part}'")
        if key in arguments:
            raise MaeBenchError(f"backbone '{spec}': '{key}' is given twice")
        arguments[key] = value
    return arguments


def _unknown(spec: str, source: str, known: Mapping[str, object]) -> str:
    if Path(spec).expanduser().is_file():
        return f"backbone '{spec}': for a checkpoint file say its architecture too: file:{spec}?arch=NAME"
    if source and not re.search(r"[/\\.]", source):
        there = f"; there are {', '.join(sorted(known))}" if known else "; none is installed"
        return f"backbone '{spec}': there is no source '{source}'{near(source, known) or there}"
    if re.search(r"[/\\]", spec):
        return f"backbone '{spec}': there is no such folder"
    from mae_bench.backbones import aliases

    return (
        f"backbone '{spec}': say where it comes from: timm:{spec} (pretrained by timm), random:{spec} "
        "(untrained), run:FOLDER, file:PATH?arch=NAME, or an alias of `mae-bench list backbones`"
        f"{near(spec.partition('?')[0], aliases.names())}"
    )


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
