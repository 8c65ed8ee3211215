"""A user's own module tried out once, so that a wrong shape is told before a run and not in the middle of it.

It runs on the CPU in evaluation mode on images of its own size and of a smaller, oblong one.

Shapes: B images, P prefix tokens, h x w patches, N = h*w, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from mae_bench.backbones.calling import raised
from mae_bench.backbones.own_module import STAGES, Surface
from mae_bench.errors import MaeBenchError


def try_out(net: nn.Module, surface: Surface, what: str, folder: Path) -> list[str]:
    """Run the module and compare every shape with what its surface promises; it is left as it was.

    Args:
        what: how messages begin.
        folder: where its code lies, for lines in messages.

    Returns:
        Remarks, a sentence each.

    Raises:
        MaeBenchError: a part raises, gives another shape than promised or values that are not finite, puts
            the patches in another order, or lets no gradient through.
    """
    trial = _Trial(net, surface, what, folder)
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            trial.forward(smooth_images(1, surface.channels, surface.image_size))
            trial.forward(smooth_images(2, surface.channels, trial.oblong))
            if not surface.hierarchical:
                trial.order()
        return trial.gradients()
    finally:
        net.train(was_training)


def smooth_images(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Images of values from -2 to 2 that differ from pixel to pixel, without drawing from a generator."""
    shape = (count, channels, *size)
    return (torch.arange(torch.Size(shape).numel()).double() * 0.7).sin().mul(2).float().reshape(shape)


class _Trial:
    """One module under trial."""

    def __init__(self, net: Any, surface: Surface, what: str, folder: Path) -> None:
        self.net, self.surface, self.what, self.folder = net, surface, what, folder
        rows, columns = (
            max(2, side // cell // 2)
            for side, cell in zip(surface.image_size, surface.patch_size, strict=True)
        )
        self.grid = (rows, columns + 1)
        self.oblong = (self.grid[0] * surface.patch_size[0], self.grid[1] * surface.patch_size[1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """What the module gives: normalised tokens (B, P+N, D); or four maps, and the last normalised."""
        norm = getattr(self.net, "norm", None)
        last = [("norm", norm)] if norm is not None else []
        if not self.surface.hierarchical:
            steps = [(f"blocks[{index}]", block) for index, block in enumerate(self.net.blocks)]
            return [self._through([*steps, *last], self._embed(images))]
        maps = self._pyramid(images)
        if norm is None:
            return maps
        # timm's norms of maps (B, D, h, w) have it in their name.
        cells = maps[-1] if "2d" in type(norm).__name__.lower() else maps[-1].permute(0, 2, 3, 1)
        return [*maps, self._through(last, cells)]

    def _through(self, steps: list[tuple[str, nn.Module]], x: Tensor) -> Tensor:
        """Tokens or cells (..., D) after some modules, none of which may change the shape."""
        for name, step in steps:
            given = tuple(x.shape)
            x = self._tensor(self._run(name, step, x), name)
            if tuple(x.shape) != given:
                self._wrong(f"{name} makes {tuple(x.shape)} of tokens {given}; the shape should stay")
        return x

    def _embed(self, images: Tensor) -> Tensor:
        tokens = self._tensor(self._run("embed", self.net.embed, images), "embed")
        patch_h, patch_w = self.surface.patch_size
        height, width = images.shape[2:]
        rows, columns = height // patch_h, width // patch_w
        prefix = self.surface.prefix_tokens
        wanted = (len(images), prefix + rows * columns, self.surface.width)
        if tuple(tokens.shape) != wanted:
            self._wrong(
                f"embed gives {tuple(tokens.shape)} for images {tuple(images.shape)}; it should be {wanted}: "
                f"{prefix} prefix token{'s' * (prefix != 1)} and {rows}x{columns} patches of "
                f"{patch_h}x{patch_w}, {self.surface.width} wide"
            )
        return tokens

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        maps = self._run("pyramid", self.net.pyramid, images)
        if not isinstance(maps, list | tuple) or len(maps) != STAGES:
            found = f"{len(maps)} maps" if isinstance(maps, list | tuple) else f"a {type(maps).__name__}"
            self._wrong(f"pyramid gives {found}; it should be {STAGES} maps")
        height, width = images.shape[2:]
        for index, (level, channels, stride) in enumerate(
            zip(maps, self.surface.widths, self.surface.strides, strict=True)
        ):
            wanted = (len(images), channels, height // stride, width // stride)
            shape = tuple(self._tensor(level, f"pyramid's map {index}").shape)
            if shape != wanted:
                self._wrong(
                    f"pyramid's map {index} is {shape} for images {tuple(images.shape)}; by widths and "
                    f"strides it should be {wanted}"
                )
        return list(maps)

    def order(self) -> None:
        """One patch of the image is changed, and the token that follows must be the one at its place."""
        (rows, columns), (patch_h, patch_w) = self.grid, self.surface.patch_size
        row, column, prefix = rows - 1, 0, self.surface.prefix_tokens
        images = smooth_images(1, self.surface.channels, self.oblong)
        other = images.clone()
        other[:, :, row * patch_h : (row + 1) * patch_h, column * patch_w : (column + 1) * patch_w] += 3.0
        change = (self._embed(other) - self._embed(images)).abs().sum((0, 2))  # (P+N,)
        most = int(change.argmax())
        if most == prefix + column * rows + row:
            self._wrong("embed gives the patches column by column; they should go row by row")
        if prefix and most == row * columns + column:
            self._wrong("embed gives the prefix tokens behind the patches; they should come first")

    def gradients(self) -> list[str]:
        """Which parameters a loss on the output would not train."""
        trained = [(name, p) for name, p in self.net.named_parameters() if p.is_floating_point()]
        before = [parameter.requires_grad for _, parameter in trained]
        try:
            for _, parameter in trained:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                parts = self.forward(smooth_images(2, self.surface.channels, self.oblong))
                out = torch.stack([part.sum() for part in parts]).sum()
                if not out.requires_grad:
                    self._wrong("its output carries no gradient; is a part of it under no_grad or detach?")
                found = torch.autograd.grad(out, [p for _, p in trained], allow_unused=True)
        finally:
            for (_, parameter), wanted in zip(trained, before, strict=True):
                parameter.requires_grad_(wanted)
        idle = [name for (name, _), gradient in zip(trained, found, strict=True) if gradient is None]
        if not idle:
            return []
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        return [f"no gradient reaches {', '.join(idle[:3])}{more}, so nothing would train them"]

    def _run(self, name: str, step: Callable[[Tensor], Any], x: Tensor) -> Any:
        try:
            return step(x)
        except Exception as error:  # Foreign code raises anything.
            raise MaeBenchError(
                f"{self.what}: {name} raised {raised(error, self.folder)} for an input {tuple(x.shape)}"
            ) from error

    def _tensor(self, value: Any, name: str) -> Tensor:
        if not isinstance(value, Tensor):
            self._wrong(f"{name} gives a {type(value).__name__}, not a tensor")
        if not bool(torch.isfinite(value).all()):
            self._wrong(f"{name} gives values that are not finite")
        return value

    def _wrong(self, fault: str) -> NoReturn:
        raise MaeBenchError(f"{self.what}: {fault}")
