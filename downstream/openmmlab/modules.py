"""What is registered with mmengine for every task: parameter groups, autocast, batches from the middle on.

Native configs name these as ``MaeBenchGroups`` and so on; `register` makes the names known. Where a
registered backbone gets its weights from is here too: from a run that carries one out, else from its spec.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from mae_bench.optim import parameter_groups
from mae_bench.settings import OptimSettings

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone
    from mae_bench.optim import ParamGroup

# ---------------------------------------------------------------- whence the weights come

_supplied: ContextVar[Backbone | None] = ContextVar("_supplied", default=None)


@contextmanager
def supplying(backbone: Backbone) -> Iterator[None]:
    """Within this block the first registered backbone that is built takes `backbone`, as a run loaded it."""
    token = _supplied.set(backbone)
    try:
        yield
    finally:
        _supplied.reset(token)


def backbone_of(spec: str, *, seed: int = 0, **options: Any) -> Backbone:
    """What a registered backbone is made of: what is supplied, else what `spec` says.

    Args:
        seed: for what is drawn at random.
        options: of `mae_bench.backbones.load_backbone`.

    Raises:
        MaeBenchError: see `load_backbone`.
    """
    from mae_bench.backbones import load_backbone

    given = _supplied.get()
    if given is None:
        return load_backbone(spec, seed=seed, **options)
    _supplied.set(None)
    return given


# ---------------------------------------------------------------- parameter groups


class _Named:
    """What `parameter_groups` asks of a model, answered for an engine's model whose `backbone` is ours.

    All outside of the backbone is the last layer, as in our own models. A part of the model (its neck, say)
    may have `no_weight_decay` and `weight_decay_anyway` as a backbone has.
    """

    def __init__(self, model: nn.Module, decayed_types: list[str]) -> None:
        self.model, self.decayed_types = model, decayed_types
        self.named_parameters, self.named_modules = model.named_parameters, model.named_modules

    def layer_names(self) -> list[list[str]]:
        own: list[list[str]] = self.model.backbone.layer_names()  # type: ignore[operator, union-attr]
        layers = [[f"backbone.{name}" for name in layer] for layer in own]
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("backbone.")]
        return layers

    def no_weight_decay(self) -> set[str]:
        return self._of_parts("no_weight_decay")

    def weight_decay_anyway(self) -> set[str]:
        by_type = {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if type(module).__name__ in self.decayed_types
            for name, _ in module.named_parameters()
        }
        return by_type | self._of_parts("weight_decay_anyway")

    def _of_parts(self, question: str) -> set[str]:
        return {
            f"{part}.{name}"
            for part, module in self.model.named_children()
            if hasattr(module, question)
            for name in getattr(module, question)()
        }


def groups(
    model: nn.Module, optim: OptimSettings, decayed_types: list[str] | None = None
) -> list[ParamGroup]:
    """The parameter groups of `mae_bench.optim.parameter_groups` for an engine's model over our backbone.

    Args:
        model: unwrapped; its `backbone` has `layer_names` and `no_weight_decay`.
        decayed_types: class names of norms whose gains and biases are decayed in any case.
    """
    return parameter_groups(cast(nn.Module, _Named(model, decayed_types or [])), optim)


# ---------------------------------------------------------------- registered


@cache
def register() -> None:
    """Make ``MaeBenchGroups``, ``MaeBenchAutocast`` and ``MaeBenchBatchesFrom`` known to mmengine."""
    _register_groups()
    _register_autocast()
    _register_batches()


def _register_groups() -> None:
    from mmengine.model import is_model_wrapper
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(name="MaeBenchGroups")
    class Groups:
        """Builds the optimiser over `groups`; `paramwise_cfg` holds the values of ours that decide them."""

        def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any]) -> None:
            self.wrapper = copy.deepcopy(optim_wrapper_cfg)
            self.optimizer = self.wrapper.pop("optimizer")
            self.values = dict(paramwise_cfg)
            self.decayed_types = list(self.values.pop("decayed_types", ()))

        def __call__(self, model: nn.Module) -> Any:
            plain: nn.Module = model.module if is_model_wrapper(model) else model  # type: ignore[assignment]
            peak, decay = self.optimizer["lr"], self.optimizer["weight_decay"]
            optim = OptimSettings(lr=peak, weight_decay=decay, **self.values)
            params = [
                {
                    "params": group["params"],
                    "lr": peak * group["lr_scale"],
                    "weight_decay": group["weight_decay"],
                }
                for group in groups(plain, optim, self.decayed_types)
            ]
            optimizer = OPTIMIZERS.build({**self.optimizer, "params": params})
            return OPTIM_WRAPPERS.build({**self.wrapper, "optimizer": optimizer})


def _register_autocast() -> None:
    from mmengine.optim import OptimWrapper
    from mmengine.registry import OPTIM_WRAPPERS

    @OPTIM_WRAPPERS.register_module(name="MaeBenchAutocast")
    class Autocast(OptimWrapper):
        """Autocast without scaling of the loss, on any device; mmengine's AmpOptimWrapper refuses CPUs."""

        def __init__(self, dtype: str = "bfloat16", **options: Any) -> None:
            super().__init__(**options)
            self.dtype = getattr(torch, dtype)

        @contextmanager
        def optim_context(self, model: nn.Module) -> Iterator[None]:
            device = next(model.parameters()).device.type
            with super().optim_context(model), torch.autocast(device, dtype=self.dtype):
                yield


def _register_batches() -> None:
    from mmengine.registry import DATA_SAMPLERS
    from torch.utils.data import BatchSampler, Sampler

    @DATA_SAMPLERS.register_module(name="MaeBenchBatchesFrom")
    class BatchesFrom(Sampler[list[int]]):
        """The batches of another batch sampler without its `first` ones, the first time round.

        A run that goes on need not read again what it has been trained on.

        Args:
            inner: the native batch sampler; None: torch's own.
        """

        def __init__(
            self,
            sampler: Any,
            batch_size: int,
            first: int,
            drop_last: bool = False,
            inner: dict[str, Any] | None = None,
        ) -> None:
            self.batches = (
                BatchSampler(sampler, batch_size, drop_last)
                if inner is None
                else DATA_SAMPLERS.build(inner, default_args={"sampler": sampler, "batch_size": batch_size})
            )
            # mmengine looks here for what it tells the epoch, and for how large a batch is.
            self.sampler, self.batch_size, self.first = sampler, batch_size, first

        def __iter__(self) -> Iterator[list[int]]:
            first, self.first = self.first, 0
            return islice(iter(self.batches), first, None)

        def __len__(self) -> int:
            return len(self.batches)
