"""The small surface of a user's own module: its attributes read and checked, and tried out once.

Plain: ``patch_size``, ``embed_dim``, ``blocks`` (each tokens -> tokens) and ``embed(images)`` -> (B, P+N, D),
the prefix tokens before the patches, which go row by row with their positions added, at any size that the
patch divides. Hierarchical: ``pyramid(images)`` -> four maps (B, D_i, h_i, w_i), ``widths`` and ``strides``.
What may stand beside them is in `Surface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from mae_bench.errors import MaeBenchError, near

STAGES = 4
PLAIN = ("patch_size", "embed_dim", "blocks", "embed")
HIERARCHICAL = ("pyramid", "widths", "strides")
_USUAL_SIDE = 224


@dataclass(frozen=True)
class Surface:
    """What a module says of itself.

    Attributes:
        hierarchical: whether it has ``pyramid`` and no ``embed``.
        patch_size: (height, width) in pixels; of a hierarchical one its coarsest stride.
        width: D; of a hierarchical one that of its last map.
        prefix_tokens: ``num_prefix_tokens``, 0 if not given.
        class_token: ``has_class_token``, False if not given.
        channels: ``in_chans``, 3 if not given.
        image_size: ``img_size`` as (height, width); if not given, the multiple of the patch nearest to 224.
        mean, std: of the input per channel on a scale of 0 to 1; None where not given.
        widths, strides: of the four maps; empty for a plain one.
    """

    hierarchical: bool
    patch_size: tuple[int, int]
    width: int
    prefix_tokens: int
    class_token: bool
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    widths: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


def has_surface(net: object) -> bool:
    """Whether a module has all of one of the two surfaces, whatever of it may be wrong."""
    return any(all(hasattr(net, name) for name in names) for names in (PLAIN, HIERARCHICAL))


def surface_of(net: nn.Module, what: str) -> Surface:
    """The module's surface.

    Args:
        what: how messages begin, for example ``python:nets:vit: nets.vit returned a Net, which``.

    Raises:
        MaeBenchError: something of the surface is missing or of the wrong kind.
    """
    hierarchical = hasattr(net, "pyramid") and not hasattr(net, "embed")
    _all_there(net, HIERARCHICAL if hierarchical else PLAIN, what)
    read = _Reader(net, what)
    widths: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    if hierarchical:
        read.callable_("pyramid")
        widths, strides = read.four("widths"), read.four("strides")
        if list(strides) != sorted(set(strides)):
            read.wrong("strides", f"{STAGES} numbers of pixels, from the finest map to the coarsest")
        read.modules("blocks", needed=False)
        patch, width = (strides[-1], strides[-1]), widths[-1]
    else:
        read.callable_("embed")
        patch, width = read.pair("patch_size"), read.whole("embed_dim")
        read.modules("blocks", needed=True)
    norm = getattr(net, "norm", None)
    if norm is not None and not isinstance(norm, nn.Module):
        read.wrong("norm", "a module (or not there)")
    prefix, channels = read.whole("num_prefix_tokens", 0, least=0), read.whole("in_chans", 3)
    mean, std = read.normalisation(channels)
    surface = Surface(
        hierarchical=hierarchical,
        patch_size=patch,
        width=width,
        prefix_tokens=prefix,
        class_token=read.flag("has_class_token"),
        channels=channels,
        image_size=read.image_size(patch),
        mean=mean,
        std=std,
        widths=widths,
        strides=strides,
    )
    if surface.class_token and not prefix:
        read.wrong("has_class_token", "False, since num_prefix_tokens is 0")
    return surface


def _all_there(net: nn.Module, wanted: Sequence[str], what: str) -> None:
    missing = [name for name in wanted if not hasattr(net, name)]
    if not missing:
        return
    own = [name for name in dir(net) if name not in dir(nn.Module) and not name.startswith("_")]
    own = list(dict.fromkeys([*own, *(name for name, _ in net.named_children())]))
    hint = next((text for name in missing if (text := near(name, own))), "")
    if len(missing) == len(wanted):
        raise MaeBenchError(
            f"{what} has neither the plain surface ({', '.join(PLAIN)}) nor the hierarchical one "
            f"({', '.join(HIERARCHICAL)}), and is no model of timm's{hint}"
        )
    kind = "hierarchical" if wanted is HIERARCHICAL else "plain"
    raise MaeBenchError(f"{what} lacks {' and '.join(missing)} of the {kind} surface{hint}")


class _Reader:
    """Attributes of one module, each of the kind it should be."""

    def __init__(self, net: nn.Module, what: str) -> None:
        self.net, self.what = net, what

    def wrong(self, name: str, wanted: str) -> NoReturn:
        found = getattr(self.net, name)
        shown = repr(found)
        if isinstance(found, nn.Module) or len(shown) > 40:
            shown = f"a {type(found).__name__}"
        raise MaeBenchError(f"{self.what} has {name} = {shown}; it should be {wanted}")

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = getattr(self.net, name, default)
        if not _is_whole(value, least):
            self.wrong(name, f"a whole number from {least} on")
        return int(value)  # type: ignore[arg-type]

    def flag(self, name: str) -> bool:
        value = getattr(self.net, name, False)
        if not isinstance(value, bool):
            self.wrong(name, "True or False")
        return bool(value)

    def pair(self, name: str) -> tuple[int, int]:
        """A whole number, or a pair of them: height and width."""
        value = getattr(self.net, name)
        pair = (value, value) if _is_whole(value) else value
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(_is_whole(side) for side in pair)):
            self.wrong(name, "a number of pixels, or a pair of them: height and width")
        return int(pair[0]), int(pair[1])

    def four(self, name: str) -> tuple[int, ...]:
        value = getattr(self.net, name)
        if not (
            isinstance(value, tuple | list) and len(value) == STAGES and all(_is_whole(n) for n in value)
        ):
            self.wrong(name, f"{STAGES} whole numbers, one for each map")
        return tuple(int(number) for number in value)

    def callable_(self, name: str) -> None:
        if not callable(getattr(self.net, name)):
            self.wrong(name, "a method that takes images (B, C, H, W)")

    def modules(self, name: str, needed: bool) -> None:
        """A column of blocks, each registered in the module, so that its parameters are known."""
        blocks = getattr(self.net, name, None)
        if blocks is None and not needed:
            return
        kinds = (nn.ModuleList, nn.Sequential) if needed else (nn.ModuleList, nn.Sequential, list, tuple)
        registered = {id(module) for module in self.net.modules()}
        if (
            not isinstance(blocks, kinds)
            or not all(isinstance(block, nn.Module) for block in blocks)
            or not blocks
        ):
            self.wrong(name, "a torch.nn.ModuleList of one block or more, in their order")
        elif not all(id(block) in registered for block in blocks):
            self.wrong(name, "a list of modules that are registered in it")

    def normalisation(self, channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        found: dict[str, tuple[float, ...]] = {}
        for name in ("mean", "std"):
            value = getattr(self.net, name, None)
            if value is None:
                continue
            try:
                found[name] = tuple(float(number) for number in value)
            except (TypeError, ValueError):
                found[name] = ()
            if len(found[name]) != channels or (name == "std" and min(found[name]) <= 0):
                self.wrong(name, f"{channels} numbers{' above 0' if name == 'std' else ''}, one a channel")
        if len(found) == 1:
            raise MaeBenchError(f"{self.what} has {next(iter(found))} alone; it should have mean and std")
        return found.get("mean"), found.get("std")

    def image_size(self, patch: tuple[int, int]) -> tuple[int, int]:
        if getattr(self.net, "img_size", None) is None:
            height, width = (max(1, round(_USUAL_SIDE / side)) * side for side in patch)
            return height, width
        size = self.pair("img_size")
        if any(side % cell for side, cell in zip(size, patch, strict=True)):
            self.wrong("img_size", f"a multiple of {patch[0]}x{patch[1]} pixels")
        return size


def _is_whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
