"""What a user's or a repository's code returned, as a backbone with its load report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_bench.backbones import families, others
from mae_bench.backbones.agreement import compare
from mae_bench.backbones.architecture import (
    LAYOUTS,
    build,
    encoder_of,
    grid_for,
    is_plain,
    known_name,
    layout_of,
)
from mae_bench.backbones.arguments import normalisation, same_channels
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats import Recognised, recognise, recognise_hierarchical, suggest
from mae_bench.backbones.formats.contract import Layout
from mae_bench.backbones.formats.hierarchical import channels_of
from mae_bench.backbones.loading import Request
from mae_bench.backbones.own_kinds import wrap_own
from mae_bench.backbones.own_module import has_surface, surface_of
from mae_bench.backbones.report import UNCHECKED, LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.trying import try_out
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError

RESERVED = ("weights", "key", "allow", "mean", "std")
"""Arguments behind the question mark that are ours, and not the factory's."""

_KERNEL = "patch_embed.proj.weight"


@dataclass(frozen=True)
class Made:
    """A module that foreign code built.

    Attributes:
        net: the module.
        source: how the load report names where it comes from.
        what: how messages begin, ``SPEC: vit returned a Net``.
        folder: where the code lies, for lines in messages.
        model_args: with which arguments and code it was built.
    """

    net: nn.Module
    source: str
    what: str
    folder: Path
    model_args: Mapping[str, Any]


def taken(made: Made, request: Request, mine: Mapping[str, str]) -> Backbone:
    """The module itself as a backbone: one of timm's models, or one with the small surface.

    Args:
        mine: values of `RESERVED`.

    Raises:
        MaeBenchError: it is neither, does not keep what its surface promises, or the weights do not fit.
    """
    given = _tensors(made)
    if not has_surface(made.net) and type(made.net).__module__.startswith("timm."):
        return _of_timm(made, given, request, mine)
    surface = surface_of(made.net, f"{made.what}, which")
    same_channels(request, surface.channels)
    size = request.image_size or surface.image_size
    grid_for(surface.patch_size, size, request.spec)
    made.net.float()
    own = (surface.mean, surface.std) if surface.mean is not None and surface.std is not None else None
    arch = type(made.net).__name__
    found = _from_file(made, mine) or Recognised(UNCHECKED, given)
    report = _fitted(made.net, found, made, request, mine, arch)
    _count_once(made.net, found, report)
    report.notes += try_out(made.net, surface, made.what, made.folder)
    report.image_size = size
    _settle_colours(report, mine, own, arch, surface.channels, request.spec)
    return wrap_own(made.net, surface, spec=request.spec, report=report, model_args=made.model_args)


def translated(made: Made, request: Request, mine: Mapping[str, str]) -> Backbone:
    """The module's tensors in timm's architecture that computes the same; the module itself is not used.

    Args:
        mine: ``arch`` if the tensors are not to tell it, ``allow``, ``mean`` and ``std``.

    Raises:
        MaeBenchError: the tensors are in no known format, or do not fit.
    """
    state = _tensors(made)
    name = mine.get("arch") or suggest(state)
    if name is None:
        raise MaeBenchError(
            f"{made.what}, whose {len(state)} tensors ({', '.join(list(state)[:3])}, ...) do not tell which "
            "architecture of timm's computes the same: add arch=NAME, or give it the surface of python:"
        )
    arch = known_name(name, request.spec)
    layout = layout_of(arch)
    net: nn.Module
    if layout is not None:
        found = recognise(state, made.what, layout)
        kernel = found.encoder.get(_KERNEL)
        channels = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3
        net = build(arch, {}, channels=channels, where=request.spec)
    else:
        channels = channels_of(state, arch)
        net = others.build(arch, channels=channels, image_size=None, where=request.spec)
        found = recognise_hierarchical(state, net.state_dict())
    same_channels(request, channels)
    report = _fitted(net, found, made, request, mine, arch)
    if not is_plain(net):
        report.image_size = _size_of(net)
    _settle_colours(report, mine, None, name, channels, request.spec)
    backbone = families.wrap(net, spec=request.spec, arch=arch, report=report)
    if not report.resized:
        report.notes.append(compare(made.net.float(), backbone, made.folder))
    return backbone


def _of_timm(made: Made, given: dict[str, Tensor], request: Request, mine: Mapping[str, str]) -> Backbone:
    """One of timm's models as the family that it is."""
    net: Any = made.net
    cfg: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    arch = str(cfg.get("architecture") or type(net).__name__)
    if not is_plain(net):
        # What follows the last map is not taken off a network that exists: a new one gets its tensors.
        if "weights" in mine:
            raise MaeBenchError(f"{made.what}, a model of timm's: use file:{mine['weights']}?arch={arch}")
        return translated(made, request, {**mine, "arch": arch})
    if getattr(net, "rope", None) is not None and not net.dynamic_img_size:
        raise MaeBenchError(
            f"{made.what}, whose rotary positions are kept for one grid: build it with dynamic_img_size=True"
        )
    layout = next(layout for layout, kind in LAYOUTS.items() if type(net) is kind)
    vit = encoder_of(net, request.spec, arch)
    channels = vit.patch_embed.proj.in_channels
    same_channels(request, channels)
    vit.float()
    found = _from_file(made, mine, layout)
    if found is None:
        found = recognise(given, made.what, layout)
        found.format = UNCHECKED
    report = _fitted(vit, found, made, request, mine, arch)
    own = (tuple(cfg["mean"]), tuple(cfg["std"])) if "mean" in cfg else None
    _settle_colours(report, mine, own, arch, channels, request.spec)
    return families.wrap(vit, spec=request.spec, arch=arch, report=report, model_args=dict(made.model_args))


# ---------------------------------------------------------------- weights


def _tensors(made: Made) -> dict[str, Tensor]:
    """The module's tensors, once each of them is known to hold numbers."""
    state: dict[str, Any] = {}
    for name, value in (*made.net.named_parameters(), *made.net.state_dict().items()):
        if not isinstance(value, Tensor):
            raise MaeBenchError(
                f"{made.what}, whose state holds a {type(value).__name__} ({name}), no tensor"
            )
        if nn.parameter.is_lazy(value) or value.is_meta:
            raise MaeBenchError(f"{made.what}, whose {name} holds no values yet")
        if not bool(torch.isfinite(value).all()):
            raise MaeBenchError(f"{made.what}, whose {name} holds values that are not finite")
        state[name] = value.detach()
    return state


def _from_file(made: Made, mine: Mapping[str, str], layout: Layout | None = None) -> Recognised | None:
    """The tensors of ``weights=PATH`` under the module's names, or timm's of a layout; None without."""
    if "weights" not in mine:
        if "key" in mine:
            raise MaeBenchError(
                f"{made.what}: key= says which network of weights=PATH is meant, and there is none"
            )
        return None
    state, info = read_checkpoint(mine["weights"], key=mine.get("key"))
    if layout is not None:
        return recognise(state, str(info.path), layout)
    own = made.net.state_dict().keys()
    # Names are made bare when a file is read; a module may have such a part of its own ("backbone.").
    outer = info.prefix.split(".")[:-1]
    prefixes = ["".join(f"{part}." for part in outer[start:]) for start in range(len(outer) + 1)]
    prefix = max(reversed(prefixes), key=lambda one: len(own & {one + name for name in state}))
    found = Recognised("checkpoint of the module", {prefix + name: tensor for name, tensor in state.items()})
    found.notes += [*info.notes, *([f"not read: {', '.join(info.ignored)}"] if info.ignored else [])]
    return found


def _fitted(
    net: nn.Module, found: Recognised, made: Made, request: Request, mine: Mapping[str, str], arch: str
) -> LoadReport:
    return fit_weights(
        net,
        found,
        spec=request.spec,
        source=mine.get("weights", made.source),
        arch=arch,
        image_size=request.image_size,
        allow=mine.get("allow", ""),
    )


def _count_once(net: nn.Module, found: Recognised, report: LoadReport) -> None:
    """Count what a module holds under several names once."""
    names: dict[int, list[str]] = {}
    sizes: dict[int, int] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        sizes[id(tensor)] = tensor.numel()
    came = {key for key, own in names.items() if any(name in found.encoder for name in own)}
    report.total_parameters = sum(sizes.values())
    report.loaded_parameters = sum(sizes[key] for key in came)


# ---------------------------------------------------------------- input


def _settle_colours(
    report: LoadReport,
    mine: Mapping[str, str],
    own: tuple[tuple[float, ...], tuple[float, ...]] | None,
    name: str,
    channels: int,
    where: str,
) -> None:
    """Normalisation as given, else as the module has it, else by `name` or as is usual; the last is noted.

    Args:
        name: of timm's architecture, with a tag if that is known.
    """
    if own is not None and not {"mean", "std"} & set(mine):
        report.mean, report.std = own
        return
    report.mean, report.std = normalisation(mine, name, channels, where)
    if "mean" not in mine and "." not in name:
        usual = "ImageNet's mean and std are" if channels == 3 else "0.5 and 0.5 are"
        report.notes.append(f"nothing says how its images were normalised; {usual} used")


def _size_of(net: Any) -> tuple[int, int]:
    _, height, width = net.pretrained_cfg["input_size"]
    return int(height), int(width)
