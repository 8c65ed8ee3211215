"""Which of timm's architectures a checkpoint's tensors belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mae_bench.backbones.formats.contract import Layout, Recognised

CLASSES: Mapping[Layout, str] = {"vit": "VisionTransformer", "beit": "Beit", "eva": "Eva"}
"""timm's class of each layout."""

EXAMPLES: Mapping[Layout, str] = {
    "vit": "vit_base_patch16_224",
    "beit": "beit_base_patch16_224",
    "eva": "eva02_base_patch14_224",
}
"""An architecture of each layout, for messages."""

# Names of architectures that a layout's tensors may belong to, the most ordinary first.
_KINDS: Mapping[Layout, tuple[str, ...]] = {
    "vit": (
        r"vit_[a-z0-9]+_patch\d+_\d+",
        r"vit_[a-z0-9]+_patch\d+(_reg4)?_dinov2",
        r"deit3_[a-z]+_patch\d+_\d+",
        r"vit_[a-z]+_patch\d+_clip_\d+",
        r"vit_[a-z]+_patch\d+_gap_\d+",
        r"vit_[a-z0-9]+_patch\d+_siglip_\d+",
        r"aimv2_[a-z0-9]+_patch\d+_\d+",
        r"vit_[a-z0-9]+_patch\d+_reg\d_gap_\d+",
    ),
    "beit": (r"beit_[a-z]+_patch\d+_\d+", r"beitv2_[a-z]+_patch\d+_\d+", r"eva_large_patch\d+_\d+"),
    "eva": (
        r"eva02_[a-z]+_patch\d+_\d+",
        r"eva_giant_patch\d+_\d+",
        r"vit_[a-z_]+_patch\d+_dinov3(_qkvb)?",
        r"vit_pe_(core|lang|spatial)_[a-z]+_patch\d+_\d+",
        r"eva(02)?_[a-z]+_patch\d+_clip_\d+",
    ),
}
# Width of the blocks -> what names of architectures call it. What is not here is not narrowed down.
_WIDTHS = {
    192: ("tiny",),
    384: ("small",),
    512: ("medium",),
    768: ("base",),
    1024: ("large",),
    1152: ("so400m",),
    1280: ("huge",),
    1408: ("giant",),
    1536: ("giant", "giantopt", "gigantic", "huge"),
}
# What an encoder is made without: the buffers of relative positions, and what follows its tokens.
_LEFT_OUT = re.compile(r"(fc_norm|head|head_dist|attn_pool)\..+|(.+\.)?relative_position_index|mask_token")


def arch_of(found: Recognised, layout: Layout) -> str | None:
    """The first architecture whose tensors have these names and shapes; its image size, if it can be had."""
    kernel = found.encoder.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return None
    theirs, entries = _shapes(found.encoder), _entries(found.encoder)
    first = {name: shape for name, shape in theirs.items() if not re.match(r"blocks\.[1-9]", name)}
    fitting = None
    for arch in _candidates(layout, kernel.shape[0], kernel.shape[-1]):
        # One block is built at once, and all of them only where that one fits.
        if _made(arch, 1)[0] != first or _made(arch)[0] != theirs:
            continue
        if _made(arch)[1] == entries:
            return arch
        fitting = fitting or arch
    return fitting


def _candidates(layout: Layout, width: int, patch: int) -> Iterator[str]:
    for kind in _KINDS[layout]:
        for arch in _known():
            parts = arch.split("_")
            narrowed = width not in _WIDTHS or any(part in parts for part in _WIDTHS[width])
            if re.fullmatch(kind, arch) and narrowed and f"patch{patch}" in parts:
                yield arch


class _NothingFilled(TorchFunctionMode):
    """Initial values are not drawn: on the meta device that takes most of the time, and changes nothing."""

    _FILLING = frozenset(
        {"add_", "clamp_", "div_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in self._FILLING:
            return next(iter((*args, *given.values())))
        return func(*args, **given)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Networks that are made within have tensors without values, and are made at once."""
    with torch.device("meta"), _NothingFilled():
        yield


@cache
def _known() -> tuple[str, ...]:
    return tuple(sorted(timm.list_models(), key=lambda name: (len(name), name)))


@cache
def _made(arch: str, depth: int | None = None) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes of an architecture's encoder, and how many entries its tables of positions have."""
    options: dict[str, Any] = {} if depth is None else {"depth": depth}
    with shapes_alone():
        model = timm.create_model(arch, num_classes=0, **options)
    state = model.state_dict()
    normed = any(name.startswith("norm.") for name in state)
    for name in [name for name in state if name.startswith("fc_norm.") and not normed]:
        state[name.removeprefix("fc_")] = state[name]
    return _shapes(state), _entries(state)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of an encoder's tensors, whatever its number of positions."""
    shapes = {}
    for name, tensor in state.items():
        if _LEFT_OUT.fullmatch(name):
            continue
        table = name == "pos_embed" or name.endswith("relative_position_bias_table")
        shapes[name] = (
            tuple(tensor.shape[2 if name == "pos_embed" else 1 :]) if table else tuple(tensor.shape)
        )
    return shapes


def _entries(state: Mapping[str, Tensor]) -> int:
    tables = [t for n, t in state.items() if n == "pos_embed" or n.endswith("relative_position_bias_table")]
    return max((table.shape[-2] for table in tables if table.ndim > 1), default=0)
