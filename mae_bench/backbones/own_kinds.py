"""Backbones over a user's own module, plain or hierarchical, by its small surface (`own_module`).

Shapes: B images, P prefix tokens, N patches, D width, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from mae_bench.backbones.hierarchical import HierarchicalBackbone
from mae_bench.backbones.network import SLOTS
from mae_bench.backbones.own_module import Surface
from mae_bench.backbones.plain import Context, PlainBackbone
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError


def wrap_own(
    net: nn.Module,
    surface: Surface,
    *,
    spec: str,
    report: LoadReport,
    model_args: Mapping[str, Any],
) -> Backbone:
    """A user's own module as a backbone, once its surface was read and tried out."""
    facts: dict[str, Any] = {
        "spec": spec,
        "arch": type(net).__name__,
        "family": f"your own, {'hierarchical' if surface.hierarchical else 'plain'}",
        "report": report,
        "channels": surface.channels,
        "model_args": model_args,
    }
    return OwnHierarchical(net, surface, **facts) if surface.hierarchical else OwnPlain(net, surface, **facts)


class OwnPlain(PlainBackbone):
    """A column of blocks of a user's own, which may be parts of a model that it keeps under another name."""

    def __init__(self, net: nn.Module, surface: Surface, **facts: Any) -> None:
        blocks: Any = net.blocks
        super().__init__(net, patch_size=surface.patch_size, depth=len(blocks), width=surface.width, **facts)
        self.prefix_tokens = surface.prefix_tokens
        self.has_class_token = surface.class_token
        self._whole_drops: list[nn.Module] = []

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P+N, D)."""
        out: Tensor = self.vit.embed(images)
        return out

    def block(self, index: int, x: Tensor, context: Context) -> Tensor:
        """Tokens (B, P+N, D) after block `index`."""
        out: Tensor = self.vit.blocks[index](x)
        drop = self._whole_drops[index] if self._whole_drops else None
        # What a block of unknown make adds to its input is dropped whole.
        return out if drop is None else x + drop(out - x)

    def normed(self, x: Tensor) -> Tensor:
        """Tokens (..., D) after the final norm, where there is one."""
        norm = getattr(self.vit, "norm", None)
        return x if norm is None else norm(x)

    def layer_names(self) -> list[list[str]]:
        """Embeddings, block 0, ..., block L-1, final norm; told by the parameters, whatever their names."""
        place = {id(p): index + 1 for index, block in enumerate(self.vit.blocks) for p in block.parameters()}
        norm = getattr(self.vit, "norm", None)
        if norm is not None:
            place |= {id(p): self.depth + 1 for p in norm.parameters()}
        layers: list[list[str]] = [[] for _ in range(self.depth + 2)]
        for name, param in self.named_parameters():
            layers[place.get(id(param), 0)].append(name)
        return layers

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth: where timm's blocks have it, else of a block as a whole."""
        rates = self.depths(rate)
        if any(hasattr(block, slot) for block in self.vit.blocks for slot in SLOTS):
            super().set_drop_path(rate)
            return
        # Held in a plain list, since they have no weights and the module is not to change its names.
        self._whole_drops = [DropPath(own) for own in rates] if rate > 0 else []
        self.train(self.training)

    def remove_norm(self) -> None:
        """Take the final norm away."""
        if getattr(self.vit, "norm", None) is not None:
            self.vit.norm = nn.Identity()

    def train(self, mode: bool = True) -> OwnPlain:
        """Set training mode on what is not frozen."""
        super().train(mode)
        for index, drop in enumerate(self._whole_drops):
            drop.train(mode and index >= self._frozen_whole())
        return self

    def _frozen_whole(self) -> int:
        return self.depth if self._frozen == ("",) else self.frozen_blocks

    def _parts(self, blocks: int) -> list[str]:
        """Parameters of the embeddings and the first `blocks` blocks, and the modules that hold no others."""
        norm = getattr(self.vit, "norm", None)
        behind = [*list(self.vit.blocks)[blocks:], *([norm] if norm is not None else [])]
        later = {id(module) for part in behind for module in part.modules()}
        modules = [
            name
            for name, module in self.named_modules()
            if name and not any(id(inner) in later for inner in module.modules())
        ]
        return [*modules, *(name for layer in self.layer_names()[: blocks + 1] for name in layer)]


class OwnHierarchical(HierarchicalBackbone):
    """Four maps of a user's own module; its blocks are those that it names, in depth order."""

    def __init__(self, net: nn.Module, surface: Surface, **facts: Any) -> None:
        names = {id(module): name for name, module in net.named_modules()}
        given: Any = getattr(net, "blocks", None)
        super().__init__(
            net,
            widths=surface.widths,
            strides=surface.strides,
            norm="norm" if getattr(net, "norm", None) is not None else None,
            blocks=[names[id(block)] for block in (() if given is None else given)],
            **facts,
        )

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth in the blocks, which must have a place for it where `rate` is not 0."""
        blocks = [self.get_submodule(name) for name in self._blocks]
        if rate > 0 and not any(hasattr(block, slot) for block in blocks for slot in SLOTS):
            raise MaeBenchError(
                f"{self.spec}: its blocks have no stochastic depth (no module called drop_path), so set "
                "drop_path=0"
            )
        super().set_drop_path(rate)

    def _maps(self, images: Tensor) -> list[Tensor]:
        return list(self.net.pyramid(images))
