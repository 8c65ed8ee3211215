"""Backbones: where weights come from, and the one surface that every task sees.

A source turns what follows ``SOURCE:`` in ``--backbone`` into a `Backbone`; sources of other packages
enter by the entry point group ``mae_bench.backbones``, as the table `SOURCES` below does. This module
imports no torch, since listing the sources must be instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_bench.backbones.dense import DenseViT, quarters
    from mae_bench.backbones.hierarchical import HierarchicalBackbone
    from mae_bench.backbones.loading import Request, load_backbone
    from mae_bench.backbones.report import LoadReport
    from mae_bench.backbones.surface import Backbone

__all__ = [
    "SOURCES",
    "Backbone",
    "DenseViT",
    "HierarchicalBackbone",
    "LoadReport",
    "Request",
    "load_backbone",
    "quarters",
]

SOURCES = {
    "timm": "mae_bench.backbones.sources:from_timm",
    "random": "mae_bench.backbones.sources:from_random",
    "run": "mae_bench.backbones.sources:from_run",
    "file": "mae_bench.backbones.sources:from_file",
    "hf": "mae_bench.backbones.huggingface:from_hf",
    "python": "mae_bench.backbones.python_source:from_python",
    "torchhub": "mae_bench.backbones.torchhub:from_torchhub",
}
"""Source name -> ``module:function``; the function takes a `Request` and returns a `Backbone`."""

_HOMES = {
    "Backbone": "mae_bench.backbones.surface",
    "DenseViT": "mae_bench.backbones.dense",
    "HierarchicalBackbone": "mae_bench.backbones.hierarchical",
    "LoadReport": "mae_bench.backbones.report",
    "Request": "mae_bench.backbones.loading",
    "load_backbone": "mae_bench.backbones.loading",
    "quarters": "mae_bench.backbones.dense",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
