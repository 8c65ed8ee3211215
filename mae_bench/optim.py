"""Parameter groups, layer decay, optimisers, and the learning rate as a pure function of progress."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, overload

import torch
from torch import Tensor, nn

from mae_bench.errors import MaeBenchError
from mae_bench.settings import OptimSettings


class ParamGroup(TypedDict):
    """Parameters that share weight decay and learning-rate scale; `names` is for people and tests."""

    params: list[nn.Parameter]
    names: list[str]
    weight_decay: float
    lr_scale: float


def parameter_groups(model: nn.Module, optim: OptimSettings) -> list[ParamGroup]:
    """Group the trainable parameters of `model` by weight decay and learning-rate scale.

    Biases, one-dimensional parameters (norm gains, LayerScale) and the names in `model.no_weight_decay()`
    (positions, class token) are not decayed, as in the MAE recipes, unless `decay_biases`, `decay_norms` or
    `decay_positions` asks for it, as detectron2's ViTDet does; the names in `model.weight_decay_anyway()`,
    where a model has it, are decayed in any case. With `layer_decay` the scale of layer i of n+1 is
    ``layer_decay ** (n - i)`` (Clark et al., arXiv:2003.10555, as used by BEiT and MAE), where
    `model.layer_names()` gives the layers in depth order: embeddings, blocks, and last the head.

    Raises:
        MaeBenchError: `layer_decay` is set and the model does not name its layers, or leaves out a parameter.
    """
    trainable = {name: param for name, param in model.named_parameters() if param.requires_grad}
    decayed = _decayed(model, optim, trainable)
    scales = _layer_scales(model, optim.layer_decay, trainable)
    groups: dict[tuple[float, float], ParamGroup] = {}
    for name, param in trainable.items():
        decay = optim.weight_decay if name in decayed else 0.0
        key = (scales[name], decay)
        group = groups.setdefault(
            key, {"params": [], "names": [], "weight_decay": decay, "lr_scale": scales[name]}
        )
        group["params"].append(param)
        group["names"].append(name)
    return list(groups.values())


_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def _decayed(model: nn.Module, optim: OptimSettings, trainable: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of the parameters that weight decay applies to."""
    positions = set(getattr(model, "no_weight_decay", set)())
    anyway = set(getattr(model, "weight_decay_anyway", set)())
    in_norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }

    def applies(name: str, param: nn.Parameter) -> bool:
        if name in anyway:
            return True
        if name in positions:
            return optim.decay_positions
        if name in in_norms:
            return optim.decay_norms
        if name.rpartition(".")[2] == "bias":
            return optim.decay_biases
        return param.ndim > 1 or optim.decay_norms

    return {name for name, param in trainable.items() if applies(name, param)}


def _layer_scales(model: nn.Module, layer_decay: float | None, names: Iterable[str]) -> dict[str, float]:
    if layer_decay is None:
        return dict.fromkeys(names, 1.0)
    layer_names: Callable[[], list[list[str]]] | None = getattr(model, "layer_names", None)
    if layer_names is None:
        raise MaeBenchError(
            f"optim.layer_decay: {type(model).__name__} does not name its layers; set it to null"
        )
    layers = layer_names()
    scales = {
        name: layer_decay ** (len(layers) - 1 - index) for index, layer in enumerate(layers) for name in layer
    }
    lost = [name for name in names if name not in scales]
    if lost:
        raise MaeBenchError(f"optim.layer_decay: no layer holds the parameter {lost[0]}")
    return scales


def lr_at(
    step: int,
    total_steps: int,
    *,
    peak: float,
    min_lr: float = 0.0,
    warmup_steps: float = 0.0,
    warmup_factor: float = 0.0,
    schedule: Literal["cosine", "constant", "multistep", "poly"] = "cosine",
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    power: float = 1.0,
) -> float:
    """Learning rate of the (0-based) `step`: linear warm-up, then the schedule over the steps left.

    ``cosine``: half a cosine to `min_lr`. ``multistep``: times `gamma` from each of `milestones` on
    (detectron2's WarmupParamScheduler over MultiStepParamScheduler). ``poly``: (1 - progress) ** `power` down
    to `min_lr`, as mmengine's LinearLR and PolyLR count: warm-up and decay are complete on the last of their
    steps, not on the one after it.

    `warmup_steps` may be fractional (a number of epochs times steps per epoch). Warm-up starts from
    `warmup_factor` of the peak.
    """
    last_counts = 1 if schedule == "poly" else 0
    if step < warmup_steps:
        done = min(step / max(warmup_steps - last_counts, 1e-12), 1.0)
        return peak * (warmup_factor + (1 - warmup_factor) * done)
    if schedule == "constant":
        return peak
    if schedule == "multistep":
        return peak * gamma ** bisect.bisect_right(milestones, step)
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps - last_counts, 1e-12), 1.0)
    left = (1.0 - progress) ** power if schedule == "poly" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return min_lr + (peak - min_lr) * left


def scheduled_lr(
    optim: OptimSettings, step: int, total_steps: int, *, peak: float, warmup_steps: float
) -> float:
    """`lr_at` with the schedule of a recipe; peak and warm-up depend on batch and epochs (see `Plan`)."""
    return lr_at(
        step,
        total_steps,
        peak=peak,
        min_lr=optim.min_lr,
        warmup_steps=warmup_steps,
        warmup_factor=optim.warmup_factor,
        schedule=optim.schedule,
        milestones=optim.milestones,
        gamma=optim.gamma,
        power=optim.power,
    )


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al., arXiv:1708.03888).

    For a parameter w of two or more dimensions with gradient g, the update is
    ``g' = r (g + wd w)`` with ``r = trust |w| / |g + wd w|`` (1 where either norm is zero), then
    ``m = momentum m + g'`` and ``w = w - lr m``. Parameters of one dimension get neither decay nor scaling,
    as in the linear probe of MAE (main_linprobe.py).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                update = param.grad
                if param.ndim > 1:
                    update = update.add(param, alpha=group["weight_decay"])
                    update = update * self._trust(param, update, group["trust_coefficient"])
                state = self.state[param]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(param)
                momentum: Tensor = state["momentum"]
                momentum.mul_(group["momentum"]).add_(update)
                param.add_(momentum, alpha=-group["lr"])
        return loss

    @staticmethod
    def _trust(param: Tensor, update: Tensor, coefficient: float) -> Tensor:
        param_norm, update_norm = param.norm(), update.norm()
        scalable = (param_norm > 0) & (update_norm > 0)
        return torch.where(scalable, coefficient * param_norm / update_norm, torch.ones_like(param_norm))


def build_optimizer(groups: list[ParamGroup], optim: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser of a recipe over `groups`; its learning rate is set before every step from `lr_at`."""
    plain: list[dict[str, Any]] = [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr_scale": group["lr_scale"]}
        for group in groups
    ]
    if optim.name == "adamw":
        beta1, beta2 = optim.betas
        # The fused kernel does one pass over memory instead of many; it exists for CPU and CUDA.
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        return torch.optim.AdamW(plain, lr=0.0, betas=(beta1, beta2), fused=fused)
    if optim.name == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=optim.momentum)
    return LARS(plain, momentum=optim.momentum, trust_coefficient=optim.trust_coefficient)
