"""What an engine builds of a native config: its model with our backbone in it, its loaders."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from downstream.openmmlab.modules import register
from downstream.openmmlab.runner import building, undisturbed
from mae_bench.errors import MaeBenchError
from mae_bench.norms import SharedBatchNorm2d
from mae_bench.train import seed_everything

if TYPE_CHECKING:
    from mae_bench.run import Run


def build_model(native: Any, *, seed: int) -> nn.Module:
    """The model of a native config with its first weights, on the CPU.

    What is drawn follows from `seed`, so that it is the same on every process. Batch norms that the config
    wants synchronised share their statistics as ours do (`mae_bench.norms`), on CPUs too. `init_weights` is
    called here, once; `fit` does not repeat it, so weights loaded in between stay.

    Raises:
        MaeBenchError: of our backbone; or the engine cannot build such a model.
    """
    from mmengine.registry import MODELS

    register()
    with undisturbed(), building("the model"), scope(native.get("default_scope", "mmengine")):
        seed_everything(seed)
        values = copy.deepcopy(native.model)
        if native.get("data_preprocessor") is not None:
            values.setdefault("data_preprocessor", native.data_preprocessor)
        model: nn.Module = MODELS.build(values)
        initialise = getattr(model, "init_weights", None)
        if initialise is not None:
            initialise()
    return _settled(model)


def build_loader(native: Any, key: str) -> Any:
    """The `DataLoader` that a native config has under `key`, such as ``test_dataloader``.

    Raises:
        MaeBenchError: the engine cannot build it.
    """
    from mmengine.runner import Runner

    register()
    values = copy.deepcopy(native[key])
    with building(key), scope(native.get("default_scope", "mmengine")):
        return Runner.build_dataloader(values, seed=native.get("randomness", {}).get("seed"))


def load_trained(model: nn.Module, run: Run) -> nn.Module:
    """`model` with the weights that the run reported, on its device, ready to predict.

    Raises:
        MaeBenchError: the run has none.
    """
    from safetensors.torch import load_file

    file = run.folder / "model.safetensors"
    if not file.exists():
        raise MaeBenchError(f"{file}: there is no such file; a run writes its weights when it has finished")
    model.load_state_dict(load_file(file))
    return model.to(run.device).eval()


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Look names up in the registries of `name` first."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(name):
        yield


def _settled(module: nn.Module) -> nn.Module:
    """`module` with norms that share their statistics by what these processes talk over."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_backend() == "nccl":
        return module  # torch's own, which is for CUDA alone
    if isinstance(module, nn.SyncBatchNorm):
        return SharedBatchNorm2d.from_plain(module)  # type: ignore[arg-type]
    for name, child in module.named_children():
        setattr(module, name, _settled(child))
    return module
