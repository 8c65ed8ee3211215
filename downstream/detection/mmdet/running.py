"""What both adapters do with a config of MMDetection: build its model, test it, and open it again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from downstream.detection.mmdet import inference
from downstream.openmmlab.building import build_model, load_trained
from downstream.openmmlab.modules import supplying
from downstream.openmmlab.runner import undisturbed
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_departures

if TYPE_CHECKING:
    from downstream.detection.evaluation import Finder
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run

CONFIG_FILE = "mmdet_config.py"


def built(native: Any, backbone: Backbone, run: Run) -> nn.Module:
    """The model of a native config over `backbone`, with its first weights."""
    from mae_bench.norms import synchronised

    with supplying(backbone):
        model = build_model(native, seed=run.config.seed)
    notice_departures(run, model.backbone.departures)  # type: ignore[union-attr, arg-type]
    return synchronised(model) if native.get("sync_bn") is not None else model


def opened(run: Run) -> Any:
    """The native config that a run wrote, as a `mmengine.Config`.

    Raises:
        MaeBenchError: there is none.
    """
    from mmengine.config import Config

    path = run.folder / CONFIG_FILE
    if not path.exists():
        raise MaeBenchError(f"{path}: there is no such file; a run writes it before it trains")
    with undisturbed():
        return Config.fromfile(path)


def finder(
    run: Run, backbone: Backbone, categories: list[dict[str, Any]], context: inference.Context = nullcontext
) -> Finder:
    """What finds objects in an image with the weights that a finished run reported.

    Args:
        context: what the model computes in, such as autocast.

    Raises:
        MaeBenchError: the run has left no weights.
    """
    native = opened(run)
    model = load_trained(built(native, backbone, run), run)
    return inference.finder(native, model, categories, run, context)
