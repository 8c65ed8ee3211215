"""The sources of backbones that come with this package; each takes a `Request` and returns a `Backbone`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mae_bench.backbones import families, others
from mae_bench.backbones.architecture import (
    Plain,
    as_pair,
    build,
    checked_arguments,
    grid_for,
    is_plain,
    known_name,
    layout_of,
    set_grid,
)
from mae_bench.backbones.arguments import built_with, normalisation, only, same_channels, seed_of, split
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats import Recognised, recognise, recognise_hierarchical, suggest
from mae_bench.backbones.formats.hierarchical import channels_of
from mae_bench.backbones.hub import described, pretrained
from mae_bench.backbones.loading import Request
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.weights import ENCODER_FILE, digest, read_checkpoint
from mae_bench.errors import MaeBenchError, near

_PATCH = ("patch_size",)


def from_timm(request: Request) -> Backbone:
    """``timm:NAME`` and ``timm:hf-hub:OWNER/NAME``: weights that timm downloads (or has cached).

    Arguments are ``patch_size``, to which the patch kernel is resampled, ``img_size``, ``mean``, ``std`` and
    ``allow``.

    Raises:
        MaeBenchError: timm does not know the name, has no weights for it or cannot get them, or they do not
            fit.
    """
    only(request, ("mean", "std", "allow", "patch_size", "img_size"))
    mine, rest = split(request, ("mean", "std", "allow"))
    model, state, own = pretrained(request)
    rest = {**own, **rest}
    arch = str(model.pretrained_cfg["architecture"])
    channels = _channels_of(state, arch)
    same_channels(request, channels)
    net, found = _network(request, arch, rest, channels, state, request.spec)
    report = fit_weights(
        net,
        found,
        spec=request.spec,
        source=described(model, arch),
        arch=arch,
        image_size=_wanted_size(request, rest),
        allow=mine.get("allow", ""),
        resize_patches="patch_size" in request.arguments,
    )
    cfg: dict[str, Any] = model.pretrained_cfg
    report.mean, report.std = (
        normalisation(mine, arch, channels, request.spec)
        if "mean" in mine or "std" in mine
        else (tuple(cfg["mean"]), tuple(cfg["std"]))
    )
    if not is_plain(net):
        report.image_size = (cfg["input_size"][1], cfg["input_size"][2])
    return families.wrap(net, spec=request.spec, arch=arch, report=report, model_args=built_with(rest))


def from_random(request: Request) -> Backbone:
    """``random:ARCH``: timm's initial weights, drawn from a seed; the floor of every table.

    ``random:FOLDER`` is the untrained twin of a finished pretraining run: its architecture and normalisation.
    Arguments are those of `architecture.ARGUMENTS`, ``seed``, ``mean`` and ``std``.

    Raises:
        MaeBenchError: timm does not know the name or cannot build it so.
    """
    if Path(request.body).expanduser().is_dir():
        request = _like_the_run(request)
    mine, rest = split(request, ("seed", "mean", "std"))
    seed = seed_of(request, mine.get("seed"))
    channels = request.channels or 3
    arch = known_name(request.body, request.spec)
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: torch.manual_seed would reseed every accelerator too.
        torch.default_generator.manual_seed(seed)
        net = _built(request, arch, rest, channels)
    target = None
    if is_plain(net):
        vit: Any = net
        target = vit.patch_embed.grid_size
        if request.image_size:
            target = grid_for(vit.patch_embed.patch_size, request.image_size, request.spec)
    state = net.state_dict()
    report = LoadReport(spec=request.spec, source=f"seed {seed}", format="random", arch=arch)
    report.missing = [Entry(name, tuple(tensor.shape)) for name, tensor in state.items()]
    report.total_parameters = sum(tensor.numel() for tensor in state.values())
    report.digest_before = digest(state)
    if target is not None:
        set_grid(cast(Plain, net), target)
        report.image_size = _pixels(net)
    else:
        report.image_size = request.image_size or _native_size(net)
    report.digest_after = digest(net.state_dict())
    report.mean, report.std = normalisation(mine, request.body, channels, request.spec)
    return families.wrap(net, spec=request.spec, arch=arch, report=report, model_args=built_with(rest))


def from_file(request: Request) -> Backbone:
    """``file:PATH?arch=NAME``: a checkpoint in a format that `formats` knows.

    Arguments are ``arch``, those of `architecture.ARGUMENTS` (``patch_size`` resamples the patch kernel where
    the file's is of another size), ``mean`` and ``std``, ``key`` for the network that is meant where a file
    holds several, and ``allow``. The normalisation is that of timm's weights where `arch` has a tag, else
    ImageNet's.

    Raises:
        MaeBenchError: the file cannot be read safely, is in no known format, or does not fit `arch`.
    """
    mine, rest = split(request, ("arch", "mean", "std", "key", "allow"))
    path = Path(request.body).expanduser()
    if "arch" not in mine:
        raise MaeBenchError(_which_architecture(request, path, mine.get("key")))
    arch = known_name(mine["arch"], request.spec)
    state, info = read_checkpoint(path, key=mine.get("key"))
    channels = request.channels or 3
    if layout_of(arch) is not None:
        found = recognise(state, str(path), layout_of(arch) or "vit")
        channels = _channels_of(found.encoder, arch)
        same_channels(request, channels)
        net: nn.Module = build(arch, rest, channels=channels, where=request.spec)
    else:
        channels = _channels_of(state, arch)
        same_channels(request, channels)
        net, found = _network(request, arch, rest, channels, state, str(path))
    mean, std = normalisation(mine, mine["arch"], channels, request.spec)
    report = fit_weights(
        net,
        found,
        spec=request.spec,
        source=str(path),
        arch=arch,
        image_size=request.image_size,
        allow=mine.get("allow", ""),
        resize_patches="patch_size" in rest,
    )
    report.mean, report.std = mean, std
    if not is_plain(net):
        report.image_size = _native_size(net)
    report.notes += info.notes
    if info.wrapper or info.prefix:
        where = f"under '{info.wrapper}'" if info.wrapper else "in the file"
        began = f" with names that began with '{info.prefix}'" if info.prefix else ""
        report.notes.append(f"the weights lay {where}{began}")
    if info.ignored:
        report.notes.append(f"not read: {', '.join(info.ignored)}")
    if "mean" not in mine and "." not in mine["arch"]:
        report.notes.append(
            "the file does not say how its images were normalised; ImageNet's mean and std are used"
        )
    return families.wrap(net, spec=request.spec, arch=arch, report=report, model_args=built_with(rest))


def from_run(request: Request) -> Backbone:
    """``run:FOLDER``: the encoder that a finished pretraining run of ours exported.

    Its one argument is ``patch_size``, to which the patch kernel is resampled.

    Raises:
        MaeBenchError: no such folder, not a run, not finished, or not one that leaves an encoder.
    """
    only(request, _PATCH)
    file = _exported(Path(request.body).expanduser(), request.spec)
    state, info = read_checkpoint(file)
    header = _header(info.metadata, file)
    same_channels(request, header.channels)
    patch = checked_arguments(dict(request.arguments), request.spec)
    options = checked_arguments({**header.model_args, "img_size": header.image_size}, str(file))
    net = build(header.arch, {**options, **patch}, channels=header.channels, where=request.spec)
    report = fit_weights(
        net,
        recognise(state, str(file), layout_of(header.arch) or "vit"),
        spec=request.spec,
        source=str(file),
        arch=header.arch,
        image_size=request.image_size,
        resize_patches=bool(patch),
    )
    report.mean, report.std = header.mean, header.std
    return families.wrap(
        net,
        spec=request.spec,
        arch=header.arch,
        report=report,
        model_args=built_with({**options, **patch}),
        pretraining=header.pretraining,
    )


# ---------------------------------------------------------------- networks


def _built(request: Request, arch: str, rest: Mapping[str, Any], channels: int) -> nn.Module:
    """The network of an architecture, plain or not, with timm's initial weights."""
    if layout_of(arch) is not None:
        return build(arch, rest, channels=channels, where=request.spec)
    if rest:
        raise MaeBenchError(
            f"{request.spec}: {arch} is no plain ViT, so it takes no '{next(iter(rest))}'; name timm's "
            "architecture of the wanted size"
        )
    return others.build(arch, channels=channels, image_size=request.image_size, where=request.spec)


def _network(
    request: Request,
    arch: str,
    rest: Mapping[str, Any],
    channels: int,
    state: Mapping[str, Tensor],
    where: str,
) -> tuple[nn.Module, Recognised]:
    """An architecture's network, and a checkpoint's encoder under its names."""
    net = _built(replace(request, image_size=None), arch, rest, channels)
    if is_plain(net):
        return net, recognise(state, where, layout_of(arch) or "vit")
    return net, recognise_hierarchical(state, net.state_dict())


def _wanted_size(request: Request, rest: Mapping[str, Any]) -> tuple[int, int] | None:
    if request.image_size is not None or "img_size" not in rest:
        return request.image_size
    return as_pair(rest["img_size"])


def _which_architecture(request: Request, path: Path, key: str | None) -> str:
    """The question which architecture a file is of, with the answer that its tensors suggest."""
    guess = suggest(read_checkpoint(path, key=key)[0])
    looks = f"it looks like file:{request.body}?arch={guess}" if guess else ""
    return f"{request.spec}: say which architecture it is, " + (
        looks or f"a name of timm's, for example file:{request.body}?arch=vit_base_patch16_224"
    )


# ---------------------------------------------------------------- folders


@dataclass(frozen=True)
class _Header:
    """What the header of an exported encoder says of it."""

    arch: str
    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model_args: dict[str, Any]
    pretraining: dict[str, Any]


def _header(metadata: Mapping[str, str], file: Path) -> _Header:
    try:
        height, width = (int(side) for side in metadata["image_size"].split(","))
        mean, std = (tuple(float(v) for v in metadata[key].split(",")) for key in ("mean", "std"))
        return _Header(
            arch=metadata["arch"],
            image_size=(height, width),
            channels=int(metadata["channels"]),
            mean=mean,
            std=std,
            model_args=dict(json.loads(metadata["model_args"])),
            pretraining=dict(json.loads(metadata["pretraining"])),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise MaeBenchError(
            f"{file}: its header does not describe the encoder ({error}); export it again"
        ) from error


def _like_the_run(request: Request) -> Request:
    """``random:FOLDER`` as the ``random:ARCH?...`` that it stands for; arguments given win over the run's."""
    file = _exported(Path(request.body).expanduser(), request.spec)
    header = _header(read_checkpoint(file)[1].metadata, file)
    normalisation = {
        name: ",".join(map(str, values)) for name, values in (("mean", header.mean), ("std", header.std))
    }
    same_channels(request, header.channels)
    return replace(
        request,
        body=header.arch,
        channels=header.channels,
        arguments={**normalisation, **request.arguments},
        model_args={**header.model_args, "img_size": header.image_size, **request.model_args},
    )


def _exported(folder: Path, spec: str) -> Path:
    """The encoder file of a finished run."""
    if not folder.is_dir():
        raise MaeBenchError(f"{spec}: no such folder as {folder}{near(folder.name, _beside(folder))}")
    file = folder / ENCODER_FILE
    if not (folder / "config.yaml").exists():
        inner = sorted(path.parent for path in folder.glob(f"**/{ENCODER_FILE}"))
        hint = f"; there is one in {inner[0]}" if inner else ""
        raise MaeBenchError(f"{spec}: {folder} is not a run folder (no config.yaml in it){hint}")
    if not (folder / "result.json").exists():
        raise MaeBenchError(
            f"{spec}: this run has not finished (no result.json in {folder}); resume it with mae-bench "
            f"pretrain --recipe {folder / 'config.yaml'} --runs {folder.parent} --name {folder.name}"
        )
    if not file.exists():
        raise MaeBenchError(
            f"{spec}: {folder} holds no {ENCODER_FILE}; only pretraining runs leave an encoder to load"
        )
    return file


def _beside(folder: Path) -> list[str]:
    return [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []


# ---------------------------------------------------------------- small things


def _channels_of(state: Mapping[str, Tensor], arch: str) -> int:
    """How many channels the first convolution takes; 3 where there is none to be seen."""
    if layout_of(arch) is None:
        return channels_of(state, arch)
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None:
        kernel = next((tensor for tensor in state.values() if tensor.ndim == 4), None)
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def _pixels(vit: Any) -> tuple[int, int]:
    (rows, columns), (patch_h, patch_w) = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    return rows * patch_h, columns * patch_w


def _native_size(net: Any) -> tuple[int, int]:
    _, height, width = net.pretrained_cfg["input_size"]
    return int(height), int(width)
