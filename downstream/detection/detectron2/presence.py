"""Whether detectron2 is here and is one that we know: asked, and imported, before any work starts.

It is on no package index. A checkout on the path is enough: everything that Mask R-CNN needs is Python or
torchvision's. Where it was built, its compiled operators are there for configurations that ask for them;
where it was not, those operators raise when they are used, naming themselves.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType

from mae_bench.errors import MaeBenchError

NEEDS = 'pip install "mae-bench[detectron2]"'
CHECKOUT = "git clone https://github.com/facebookresearch/detectron2, and put that folder on PYTHONPATH"
COMPILED = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"

_API = {
    "detectron2.config": ("LazyConfig", "LazyCall", "instantiate"),
    "detectron2.layers.batch_norm": ("LayerNorm",),
    "detectron2.modeling.backbone.vit": ("SimpleFeaturePyramid", "get_vit_lr_decay_rate"),
    "detectron2.modeling.roi_heads": ("StandardROIHeads", "CascadeROIHeads", "FastRCNNConvFCHead"),
    "detectron2.solver": ("WarmupParamScheduler", "LRMultiplier"),
    "detectron2.engine": ("SimpleTrainer", "AMPTrainer", "create_ddp_model"),
    "detectron2.evaluation": ("COCOEvaluator",),
    "detectron2.data.datasets": ("register_coco_instances",),
    "detectron2.checkpoint": ("DetectionCheckpointer",),
}
"""What we use of detectron2. All of it is there since ViTDet was added, after the last release (0.6)."""

_BESIDES = ("shapely",)
"""What detectron2 asks for only while it works: polygons are cropped with it."""

_LOUD = r"(detectron2|fvcore|iopath|omegaconf|pycocotools|timm|torch)\b"
"""Modules that warn while detectron2 works."""

_broken: list[str] = []
"""Why it could not be imported; a second try would only stumble over what the first has registered."""


def ready() -> None:
    """Import detectron2 with all that we use of it.

    Raises:
        MaeBenchError: it or a package that it needs is not installed, it is too old, or cannot be imported.
    """
    if not found():
        raise MaeBenchError(f"detectron2 cannot be imported here: {NEEDS}, then {_way()}")
    if not _broken and not all(name in sys.modules for name in _API):
        _import()
    if _broken:
        raise MaeBenchError(_broken[0])


def found() -> bool:
    """Whether there is such a package; a folder of that name without modules, such as a checkout, is none."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def compiled() -> bool:
    """Whether detectron2's compiled operators are there and can be loaded."""
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return False
    return True


def versions() -> dict[str, str]:
    """Versions of detectron2 and of what it is built on, as far as they have one."""
    known = {"detectron2": str(importlib.import_module("detectron2").__version__)}
    for name in ("fvcore", "iopath", "omegaconf"):
        known[name] = metadata.version(name)
    return known


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what detectron2 makes Python and PyTorch warn of: names that are about to be taken away."""
    told_once = logging.getLogger("torch.fx._symbolic_trace")
    before = told_once.level
    told_once.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=_LOUD)
        try:
            yield
        finally:
            told_once.setLevel(before)


def _import() -> None:
    """Import what we use, and note in `_broken` why that failed.

    Whatever detectron2 raises when it is imported, it cannot be used and the user is told why, so that every
    exception is caught here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name, attributes in _API.items():
                module = importlib.import_module(name)
                lacking = [attribute for attribute in attributes if not hasattr(module, attribute)]
                if lacking:
                    _broken.append(_too_old(f"{name}.{lacking[0]}"))
                    return
            for name in _BESIDES:
                importlib.import_module(name)
            _model_zoo()
        except Exception as error:
            _broken.append(_sentence(error))


def _sentence(error: Exception) -> str:
    """Why it cannot be imported, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.partition(".")[0] == "detectron2":
            return _too_old(error.name)
        return f"detectron2 needs the package {error.name}, which is not installed: {NEEDS}"
    first = next(iter(str(error).splitlines()), "")
    why = f"{type(error).__name__}: {first}"
    return f"detectron2 ({_place()}) cannot be imported ({why}): {NEEDS}, then {_way()}"


def _too_old(name: str) -> str:
    return f"detectron2 ({_place()}) is too old, it has no {name}: {_way()}"


def _place() -> str:
    spec = importlib.util.find_spec("detectron2")
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else "not found"


def _way() -> str:
    return f"{CHECKOUT}; or, compiled, {COMPILED}"


# ---------------------------------------------------------------- configurations of its model zoo


def _model_zoo() -> None:
    """Let configurations that build on detectron2's own (`model_zoo.get_config`) find them.

    Its `model_zoo` asks `pkg_resources` for the folder, which setuptools has no longer; and in a checkout
    that was never built there is no link to that folder. What stands in for it answers for this one module
    and is offered to no other.
    """
    stand_in = ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = _own_config
    absent = "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None
    if absent:
        sys.modules["pkg_resources"] = stand_in
    try:
        zoo = importlib.import_module("detectron2.model_zoo.model_zoo")
    finally:
        if absent:
            del sys.modules["pkg_resources"]
    vars(zoo)["pkg_resources"] = stand_in


def _own_config(package: str, path: str) -> str:
    """The path of a file ``configs/...`` of detectron2, beside its model zoo or at the top of a checkout."""
    inside = os.path.join(os.path.dirname(str(importlib.import_module(package).__file__)), path)
    return inside if os.path.exists(inside) else os.path.join(os.path.dirname(_place()), path)
