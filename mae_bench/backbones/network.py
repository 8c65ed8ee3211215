"""What backbones over whole networks have in common: blocks found by name, in a network run as one.

L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError

SLOTS = ("drop_path", "drop_path1", "drop_path2", "drop_path3")
"""Where timm's blocks keep their stochastic depth."""


def blocks_of(net: nn.Module) -> list[str]:
    """Names of the blocks of one of timm's networks, in depth order: what has room for stochastic depth."""
    found: list[str] = []
    for name, module in net.named_modules():
        within = any(name.startswith(f"{other}.") for other in found)
        if not within and any(hasattr(module, slot) for slot in SLOTS):
            found.append(name)
    return found


def set_rate(block: nn.Module, rate: float) -> None:
    """Set the rate of stochastic depth wherever one of timm's blocks has room for it."""
    for module in list(block.modules()):
        for slot in SLOTS:
            if hasattr(module, slot):
                setattr(module, slot, DropPath(rate) if rate > 0 else nn.Identity())


class NetworkBackbone(Backbone):
    """A backbone over a network that is run as one.

    Attributes:
        net: the network.
    """

    def __init__(self, net: nn.Module, *, blocks: Sequence[str], norm: str | None, **facts: Any) -> None:
        """Wrap a network.

        Args:
            blocks: names of the blocks within `net`, in depth order.
            norm: name of the final norm within `net`; None for none.
        """
        super().__init__(depth=len(blocks), **facts)
        self.net: Any = net
        self._blocks = [f"net.{name}" for name in blocks]
        self._norm = norm

    def layer_names(self) -> list[list[str]]:
        """Stem, block 0, ..., block L-1, final norm; see `Backbone.layer_names`.

        What stands between two blocks, as that which takes a map to the next stage, belongs to the later one.
        """
        layers: list[list[str]] = [[] for _ in range(self.depth + 2)]
        passed = 0
        inside = {f"{block}.": number for number, block in enumerate(self._blocks, start=1)}
        for name, _ in self.named_parameters():
            own = next((number for prefix, number in inside.items() if name.startswith(prefix)), None)
            if own is not None:
                passed = own
            else:
                own = passed + 1 if passed else 0
            layers[own].append(name)
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names that timm exempts: a Swin's relative position biases, a Hiera's positions."""
        exempt: set[str] = getattr(self.net, "no_weight_decay", set)()
        return {
            name
            for name, _ in self.named_parameters()
            if any(name == f"net.{one}" or name.endswith(f".{one}") for one in exempt)
        }

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth in every block; see `Backbone.set_drop_path`."""
        for own, name in zip(self.depths(rate), self._blocks, strict=True):
            set_rate(self.get_submodule(name), own)
        self.train(self.training)

    def normed(self, x: Tensor) -> Tensor:
        """Tokens or cells (..., D) after the final norm, where there is one."""
        if self._norm is None:
            return x
        norm = self.net.get_submodule(self._norm)
        # timm's norms of maps (B, D, h, w) have it in their name.
        if "2d" in type(norm).__name__.lower():
            out: Tensor = norm(x.movedim(-1, 1)).movedim(1, -1)
        else:
            out = norm(x)
        return out

    def checkpoint_activations(self) -> None:
        """Compute activations again on the way back: less memory, more time.

        Raises:
            MaeBenchError: the network cannot.
        """
        if not hasattr(self.net, "set_grad_checkpointing"):
            raise MaeBenchError(
                f"{self.spec}: {self.arch} cannot compute its activations again (no set_grad_checkpointing); "
                "set model.checkpointing=false"
            )
        self.net.set_grad_checkpointing(True)

    def remove_norm(self) -> None:
        """Take the final norm away."""
        if self._norm is not None:
            parent, _, own = self._norm.rpartition(".")
            setattr(self.net.get_submodule(parent), own, nn.Identity())
            self._norm = None

    def _parts(self, blocks: int) -> list[str]:
        found = list(self._blocks[:blocks])
        for name in (name for layer in self.layer_names()[: blocks + 1] for name in layer):
            module = name.rpartition(".")[0]
            # A parameter of the network itself, as positions are, names no module of its own.
            found.append(name if module == "net" else module)
        return found
