"""Decoded images kept in memory, for datasets that fit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae_bench import screen
from mae_bench.data.decoding import UnreadableImageError, decode
from mae_bench.data.sources import Source, SubsetSource

# Images are packed into blocks of about this size. Forked loader processes share the blocks as they are; a
# million small tensors would be copied into each of them, with the allocator's pages they lie in.
BLOCK_BYTES = 64 << 20


class RememberedSource:
    """A source whose images, once held, are read from memory as uint8 tensors ``(C, H, W)``.

    Every training process holds its own copy; its loader processes share that copy where they are forked.

    Args:
        base: where the images come from.
        channels: C, see `mae_bench.data.decode`.
    """

    def __init__(self, base: Source, channels: int = 3) -> None:
        self.base = base
        self.channels = channels
        self.classes = base.classes
        self._blocks: list[Tensor] = []
        self._places = np.full((len(base), 5), -1, dtype=np.int64)  # block, offset, H, W, C

    def __len__(self) -> int:
        return len(self.base)

    def label(self, index: int) -> int:
        """The class of the image."""
        return self.base.label(index)

    def name(self, index: int) -> str:
        """The name that the base source gives."""
        return self.base.name(index)

    def fingerprint(self) -> str:
        """The base source's fingerprint."""
        return self.base.fingerprint()

    def read(self, index: int) -> bytes | Image.Image | Tensor:
        """The decoded image if it is held, else what the base source reads."""
        block, offset, height, width, channels = self._places[index].tolist()
        if block < 0:
            return self.base.read(index)
        flat = self._blocks[block][offset : offset + height * width * channels]
        return flat.view(height, width, channels).permute(2, 0, 1)

    def hold(self, indices: np.ndarray) -> None:
        """Decode those of `indices` that are not held yet; unreadable ones wait until they are read."""
        wanted = indices[self._places[indices, 0] < 0]
        if not len(wanted):
            return
        waiting: list[tuple[int, Tensor]] = []
        size = 0
        with screen.progress("decoding into memory", len(wanted), "images") as work:
            for index in np.unique(wanted).tolist():
                work.advance()
                try:
                    image = decode(self.base.read(index), self.channels)
                except (UnreadableImageError, OSError):
                    continue
                if size + image.numel() > BLOCK_BYTES and waiting:
                    self._pack(waiting)
                    waiting, size = [], 0
                waiting.append((index, image))
                size += image.numel()
        if waiting:
            self._pack(waiting)

    def _pack(self, images: list[tuple[int, Tensor]]) -> None:
        offset = 0
        for index, image in images:
            channels, height, width = image.shape
            self._places[index] = (len(self._blocks), offset, height, width, channels)
            offset += image.numel()
        # Rows of pixels, the layout in which decoded images come and resizing is fastest.
        self._blocks.append(torch.cat([image.permute(1, 2, 0).reshape(-1) for _, image in images]))


def hold(source: Source, indices: np.ndarray) -> None:
    """Load images of `source` into memory if it is one that remembers, itself or below a subset."""
    while isinstance(source, SubsetSource):
        indices = source.indices[indices]
        source = source.base
    if isinstance(source, RememberedSource):
        source.hold(indices)
