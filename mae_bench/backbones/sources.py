"""The sources of backbones that come with this package; each takes a `Request` and returns a `Backbone`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae_bench.backbones import hierarchical_sources as hierarchical
from mae_bench.backbones.architecture import (
    build,
    checked_arguments,
    encoder_of,
    grid_for,
    known_name,
    set_grid,
)
from mae_bench.backbones.arguments import built_with, normalisation, only, same_channels, seed_of, split
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats import recognise
from mae_bench.backbones.hierarchical import HierarchicalBackbone, family_of
from mae_bench.backbones.hub import described, pretrained
from mae_bench.backbones.loading import Request
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.weights import ENCODER_FILE, digest, read_checkpoint
from mae_bench.errors import MaeBenchError, near


def from_timm(request: Request) -> Backbone | HierarchicalBackbone:
    """``timm:NAME``: a backbone with the weights that timm downloads (or has cached) for it.

    Raises:
        MaeBenchError: timm does not know the name, has no weights for it or cannot get them, or it is neither
            a plain ViT nor, where the task takes those, of a hierarchical family.
    """
    only(request, ())
    family = family_of(request.body)
    if family is not None:
        return hierarchical.from_timm(request, family)
    arch = known_name(request.body, request.spec)
    model, state = pretrained(request, arch, VisionTransformer)
    vit = encoder_of(model, request.spec, arch)
    same_channels(request, vit.patch_embed.proj.in_channels)
    report = fit_weights(
        vit,
        recognise(state, request.spec),
        spec=request.spec,
        source=described(model, arch),
        arch=arch,
        image_size=request.image_size,
    )
    cfg: dict[str, Any] = model.pretrained_cfg
    report.mean, report.std = tuple(cfg["mean"]), tuple(cfg["std"])
    return Backbone(vit, spec=request.spec, arch=arch, report=report)


def from_random(request: Request) -> Backbone | HierarchicalBackbone:
    """``random:ARCH``: timm's initial weights, drawn from a seed; the floor of every table.

    ``random:FOLDER`` is the untrained twin of a finished pretraining run: its architecture and normalisation.
    Arguments are those of `architecture.ARGUMENTS`, ``seed``, ``mean`` and ``std``.

    Raises:
        MaeBenchError: timm does not know the name or cannot build it so, or it is no plain ViT.
    """
    if Path(request.body).expanduser().is_dir():
        request = _like_the_run(request)
    family = family_of(request.body)
    if family is not None:
        return hierarchical.from_random(request, family)
    mine, rest = split(request, ("seed", "mean", "std"))
    seed = seed_of(request, mine.get("seed"))
    channels = request.channels or 3
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: torch.manual_seed would reseed every accelerator too.
        torch.default_generator.manual_seed(seed)
        vit = build(request.body, rest, channels=channels, where=request.spec)
    target = (
        grid_for(vit, request.image_size, request.spec) if request.image_size else vit.patch_embed.grid_size
    )
    arch = known_name(request.body, request.spec)
    state = vit.state_dict()
    report = LoadReport(spec=request.spec, source=f"seed {seed}", format="random", arch=arch)
    report.missing = [Entry(name, tuple(tensor.shape)) for name, tensor in state.items()]
    report.total_parameters = sum(tensor.numel() for tensor in state.values())
    report.digest_before = digest(state)
    set_grid(vit, target)
    report.digest_after = digest(vit.state_dict())
    report.image_size = _pixels(vit)
    report.mean, report.std = normalisation(mine, request.body, channels, request.spec)
    return Backbone(vit, spec=request.spec, arch=arch, report=report, model_args=built_with(rest))


def from_file(request: Request) -> Backbone | HierarchicalBackbone:
    """``file:PATH?arch=NAME``: a checkpoint in a format that `formats` knows.

    Arguments are ``arch``, those of `architecture.ARGUMENTS`, ``mean`` and ``std``. The normalisation is
    that of timm's weights where `arch` has a tag, else ImageNet's.

    Raises:
        MaeBenchError: the file cannot be read safely, is in no known format, or does not fit `arch`.
    """
    family = family_of(request.arguments.get("arch", ""))
    if family is not None:
        return hierarchical.from_file(request, family)
    mine, rest = split(request, ("arch", "mean", "std"))
    if "arch" not in mine:
        raise MaeBenchError(
            f"{request.spec}: say which architecture it is, for example "
            f"file:{request.body}?arch=vit_base_patch16_224"
        )
    path = Path(request.body).expanduser()
    arch = known_name(mine["arch"], request.spec)
    state, info = read_checkpoint(path)
    found = recognise(state, str(path))
    channels = _channels_of(found.encoder)
    same_channels(request, channels)
    mean, std = normalisation(mine, mine["arch"], channels, request.spec)
    vit = build(arch, rest, channels=channels, where=request.spec)
    report = fit_weights(
        vit, found, spec=request.spec, source=str(path), arch=arch, image_size=request.image_size
    )
    report.mean, report.std = mean, std
    if info.wrapper or info.prefix:
        report.notes.append(
            f"the weights lay under '{info.wrapper}' with names that began with '{info.prefix}'"
        )
    if info.ignored:
        report.notes.append(f"not read: {', '.join(info.ignored)}")
    if "mean" not in mine and "." not in mine["arch"]:
        report.notes.append(
            "the file does not say how its images were normalised; ImageNet's mean and std are used"
        )
    return Backbone(vit, spec=request.spec, arch=arch, report=report, model_args=built_with(rest))


def from_run(request: Request) -> Backbone:
    """``run:FOLDER``: the encoder that a finished pretraining run of ours exported.

    Raises:
        MaeBenchError: no such folder, not a run, not finished, or not one that leaves an encoder.
    """
    only(request, ())
    file = _exported(Path(request.body).expanduser(), request.spec)
    state, info = read_checkpoint(file)
    header = _header(info.metadata, file)
    same_channels(request, header.channels)
    options = checked_arguments({**header.model_args, "img_size": header.image_size}, str(file))
    vit = build(header.arch, options, channels=header.channels, where=request.spec)
    report = fit_weights(
        vit,
        recognise(state, str(file)),
        spec=request.spec,
        source=str(file),
        arch=header.arch,
        image_size=request.image_size,
    )
    report.mean, report.std = header.mean, header.std
    return Backbone(
        vit,
        spec=request.spec,
        arch=header.arch,
        report=report,
        model_args=built_with(options),
        pretraining=header.pretraining,
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


def _channels_of(state: Mapping[str, Tensor]) -> int:
    kernel = state.get("patch_embed.proj.weight")
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def _pixels(vit: VisionTransformer) -> tuple[int, int]:
    (rows, columns), (patch_h, patch_w) = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    return rows * patch_h, columns * patch_w
