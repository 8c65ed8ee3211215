"""The sources ``timm:``, ``random:`` and ``file:`` for hierarchical backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg

from mae_bench.backbones.arguments import normalisation, only, same_channels, seed_of
from mae_bench.backbones.fitting import fit_exactly
from mae_bench.backbones.formats import without_classifier
from mae_bench.backbones.hierarchical import Family, HierarchicalBackbone, build
from mae_bench.backbones.hub import described, pretrained
from mae_bench.backbones.loading import Request
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.weights import digest, read_checkpoint
from mae_bench.errors import MaeBenchError


def from_timm(request: Request, family: Family) -> HierarchicalBackbone:
    """``timm:NAME``, as `mae_bench.backbones.sources.from_timm` for plain ViTs."""
    arch = _taken(request, request.body, family)
    same_channels(request, 3)
    net = build(arch, family, 3, request.spec)
    model, state = pretrained(request, arch, family)
    found = without_classifier(state, net.state_dict())
    report = fit_exactly(net, found, spec=request.spec, source=described(model, arch), arch=arch)
    cfg: dict[str, Any] = model.pretrained_cfg
    report.image_size = (cfg["input_size"][1], cfg["input_size"][2])
    report.mean, report.std = tuple(cfg["mean"]), tuple(cfg["std"])
    return HierarchicalBackbone(net, spec=request.spec, arch=arch, channels=3, report=report)


def from_random(request: Request, family: Family) -> HierarchicalBackbone:
    """``random:ARCH``, as for plain ViTs; arguments are ``seed``, ``mean`` and ``std``."""
    arch = _taken(request, request.body, family)
    only(request, ("seed", "mean", "std"))
    channels = request.channels or 3
    seed = seed_of(request, request.arguments.get("seed"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = build(arch, family, channels, request.spec)
    state = net.state_dict()
    report = LoadReport(spec=request.spec, source=f"seed {seed}", format="random", arch=arch)
    report.missing = [Entry(name, tuple(tensor.shape)) for name, tensor in state.items()]
    report.total_parameters = sum(tensor.numel() for tensor in state.values())
    report.digest_before = report.digest_after = digest(state)
    report.image_size = _native_size(arch)
    report.mean, report.std = normalisation(request.arguments, request.body, channels, request.spec)
    return HierarchicalBackbone(net, spec=request.spec, arch=arch, channels=channels, report=report)


def from_file(request: Request, family: Family) -> HierarchicalBackbone:
    """``file:PATH?arch=NAME`` with timm's names (for ResNets also torchvision's: they are the same).

    Arguments are ``arch``, ``mean`` and ``std``.
    """
    name = request.arguments["arch"]
    arch = _taken(request, name, family)
    only(request, ("arch", "mean", "std"))
    same_channels(request, 3)
    path = Path(request.body).expanduser()
    state, info = read_checkpoint(path)
    net = build(arch, family, 3, request.spec)
    found = without_classifier(state, net.state_dict())
    report = fit_exactly(net, found, spec=request.spec, source=str(path), arch=arch)
    report.image_size = _native_size(arch)
    report.mean, report.std = normalisation(request.arguments, name, 3, request.spec)
    if info.ignored:
        report.notes.append(f"not read: {', '.join(info.ignored)}")
    return HierarchicalBackbone(net, spec=request.spec, arch=arch, channels=3, report=report)


def _taken(request: Request, name: str, family: Family) -> str:
    """The architecture's name, once the task is known to take hierarchical backbones."""
    arch = name.partition(".")[0]
    if not request.hierarchical:
        raise MaeBenchError(
            f"{request.spec}: only plain ViTs (timm's VisionTransformer) fit this task, and {arch} is a "
            f"{family.__name__}; hierarchical backbones are taken by object detection"
        )
    return arch


def _native_size(arch: str) -> tuple[int, int]:
    cfg: Any = get_pretrained_cfg(arch)
    _, height, width = cfg.input_size
    return int(height), int(width)
