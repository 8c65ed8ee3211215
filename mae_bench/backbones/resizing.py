"""What of a plain ViT's checkpoint depends on the grid or the patch, and how it is resampled.

Shapes: h x w patches, P prefix tokens, D width, A heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from mae_bench.backbones.architecture import (
    Plain,
    grid_for,
    is_plain,
    positional_prefix,
    resampled,
    set_grid,
)
from mae_bench.backbones.relative import entries, resized_table

Grid = tuple[int, int]
_KERNEL = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"

# Width and depth of the sizes that have a name (Dosovitskiy et al., arXiv:2010.11929; Touvron et al.,
# arXiv:2012.12877).
_SIZES = {
    (192, 12): "ViT-Ti",
    (384, 12): "ViT-S",
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
}


@dataclass
class Resizing:
    """How the tensors of one checkpoint are brought to the size that a plain ViT is to have.

    Attributes:
        net: the ViT.
        target: (rows, columns) of patches that it is to have.
        resize_patches: whether the patch kernel may be resampled.
        natives: tensor that depends on the grid -> the checkpoint's grid.
        fault: why a grid cannot be told, "" where all can; said once it is known that names fit.
    """

    net: Plain
    target: Grid
    resize_patches: bool
    natives: dict[str, Grid] = field(default_factory=dict)
    fault: str = ""

    @classmethod
    def of(
        cls,
        net: nn.Module,
        given: Mapping[str, Tensor],
        source: str,
        image_size: Grid | None,
        spec: str,
        resize_patches: bool,
    ) -> Resizing | None:
        """For a plain ViT, None for any other network.

        Raises:
            MaeBenchError: the patch size does not divide `image_size`.
        """
        if not is_plain(net):
            return None
        vit: Plain = net  # type: ignore[assignment]
        own: Grid = vit.patch_embed.grid_size
        target = grid_for(vit.patch_embed.patch_size, image_size, spec) if image_size else own
        made = cls(vit, target, resize_patches)
        for name, tensor in given.items():
            found: Grid | str | None = None
            if name == "pos_embed" and tensor.ndim == 3:
                found = _grid_of_positions(tensor, vit, source)
            elif name.endswith(_TABLE) and tensor.ndim == 2:
                found = _grid_of_table(tensor, own, source, name)
            if isinstance(found, str):
                made.fault = made.fault or found
            elif found is not None:
                made.natives[name] = found
        return made

    @property
    def image_size(self) -> Grid:
        """(height, width) in pixels of the target."""
        patch_h, patch_w = self.net.patch_embed.patch_size
        return self.target[0] * patch_h, self.target[1] * patch_w

    def allows(self, name: str, theirs: Tensor, ours: Tensor) -> bool:
        """Whether a tensor of another shape than the network's can be resampled."""
        if name in self.natives:
            along = 1 if name == "pos_embed" else 0
            if theirs.ndim != ours.ndim:
                return False
            pairs = enumerate(zip(theirs.shape, ours.shape, strict=True))
            return all(a == b for axis, (a, b) in pairs if axis != along)
        if name != _KERNEL or not self.resize_patches:
            return False
        return theirs.ndim == 4 and theirs.shape[:2] == ours.shape[:2]

    def change(self, name: str, tensor: Tensor) -> str:
        """``14x14 -> 32x32`` for what is resampled, else nothing."""
        if name in self.natives and self.natives[name] != self.target:
            return f"{_sides(self.natives[name])} -> {_sides(self.target)}"
        patch = tuple(self.net.patch_embed.patch_size)
        if name == _KERNEL and tuple(tensor.shape[2:]) != patch:
            return f"patches {_sides(tuple(tensor.shape[2:]))} -> {_sides(patch)}"
        return ""

    def shape(self, name: str, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a tensor once it is resampled."""
        if name == "pos_embed":
            count = positional_prefix(self.net) + self.target[0] * self.target[1]
            return (tensor.shape[0], count, tensor.shape[2])
        if name in self.natives:
            return (entries(self.target, 1), tensor.shape[1])
        return (*tensor.shape[:2], *self.net.patch_embed.patch_size)

    def applied(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor at the target's size; those that the checkpoint lacks are the network's own."""
        ready = dict(state)
        own: Grid = self.net.patch_embed.grid_size
        for name, tensor in state.items():
            native = self.natives.get(name, own)
            if name == "pos_embed":
                ready[name] = resampled(self.net, tensor, native, self.target)
            elif name.endswith(_TABLE) and native != self.target:
                ready[name] = resized_table(tensor, native, self.target)
        ready[_KERNEL] = resized_kernel(state[_KERNEL], tuple(self.net.patch_embed.patch_size))
        return ready

    def set_size(self) -> None:
        """Let the network stand at the target's size; its tensors are to be loaded afterwards."""
        set_grid(self.net, self.target)


def resized_kernel(kernel: Tensor, patch: tuple[int, ...]) -> Tensor:
    """A patch kernel (D, C, p, q) for patches of another size, by plain bicubic interpolation in fp32.

    ViTDet interpolates ViT-H's filters from 14x14 to 16x16 (arXiv:2203.16527, section 4).
    """
    if tuple(kernel.shape[2:]) == tuple(patch):
        return kernel
    return F.interpolate(kernel.float(), size=patch, mode="bicubic").to(kernel.dtype)


def size_fault(
    vit: Plain, given: Mapping[str, Tensor], source: str, arch: str, resize_patches: bool
) -> str | None:
    """How a checkpoint is of another model altogether, by width, depth and patch; None if it is not."""
    kernel = given.get(_KERNEL)
    if kernel is None or kernel.ndim != 4:
        return None
    blocks = [int(match[1]) for match in (re.match(r"blocks\.(\d+)\.", name) for name in given) if match]
    theirs = (kernel.shape[0], 1 + max(blocks, default=-1), tuple(kernel.shape[-2:]), kernel.shape[1])
    embed = vit.patch_embed
    ours = (vit.embed_dim, len(vit.blocks), tuple(embed.patch_size), embed.proj.in_channels)
    only_patch = theirs[:2] == ours[:2] and theirs[3] == ours[3]
    if theirs == ours or (resize_patches and only_patch):
        return None
    guess = f" ({_SIZES[theirs[:2]]}?)" if theirs[:2] in _SIZES else ""
    advice = ""
    if only_patch:
        patch = _sides(ours[2]) if ours[2][0] != ours[2][1] else ours[2][0]
        advice = f"; patch_size={patch} behind the question mark resamples its kernel"
    return (
        f"{source} does not fit {arch}: the checkpoint is {_in_words(*theirs)}{guess}, "
        f"{arch} is {_in_words(*ours)}{advice}"
    )


def _in_words(width: int, depth: int, patch: Sequence[int], channels: int) -> str:
    return f"{width} wide and {depth} deep with {patch[0]}x{patch[1]} patches of {channels} channels"


def _grid_of_positions(table: Tensor, vit: Plain, source: str) -> Grid | str:
    """Rows and columns of a checkpoint's position embeddings (1, P+N, D), or why they cannot be told."""
    own, prefix = vit.patch_embed.grid_size, positional_prefix(vit)
    total = table.shape[1]
    if total - prefix == own[0] * own[1]:
        return own
    side = _square(total - prefix)
    if side:
        return side, side
    fault = (
        f"{source}: pos_embed has {total} entries, of which {prefix} belong to prefix tokens; "
        f"{total - prefix} are no square grid"
    )
    bare = _square(total)
    if prefix and bare:
        return (
            f"{fault}, and all are one of {bare}x{bare}: no_embed_class=true if prefix tokens have "
            "no position of their own, class_token=false if there are none, img_size=HEIGHTxWIDTH if the "
            "grid is oblong"
        )
    with_class = _square(total - 1)
    if not prefix and with_class:
        grid = f"{with_class}x{with_class}"
        return f"{fault}, and with an entry for a class token it is {grid}: class_token=true"
    return f"{fault}, so say which image size it was made for: img_size=HEIGHTxWIDTH"


def _square(count: int) -> int:
    """The side of a square grid of so many cells; 0 if there is none."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _grid_of_table(table: Tensor, own: Grid, source: str, name: str) -> Grid | str:
    """Rows and columns of a table of relative positions (entries, A), or why they cannot be told."""
    if len(table) == entries(own, 1):
        return own
    reach = _square(len(table) - 3)
    if reach % 2 == 0:
        return (
            f"{source}: {name} has {len(table)} entries, which are those of no square grid, so say which "
            "image size it was made for: img_size=HEIGHTxWIDTH"
        )
    return (reach + 1) // 2, (reach + 1) // 2


def _sides(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
