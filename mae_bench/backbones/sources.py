"""The sources of backbones that come with this package; each takes a `Request` and returns a `Backbone`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_bench.backbones.architecture import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    build,
    checked_arguments,
    encoder_of,
    grid_for,
    known_name,
    set_grid,
)
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats import recognise
from mae_bench.backbones.loading import Request
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.weights import ENCODER_FILE, digest, read_checkpoint
from mae_bench.errors import MaeBenchError, near


def from_timm(request: Request) -> Backbone:
    """``timm:NAME``: a plain ViT with the weights that timm downloads (or has cached) for it.

    Raises:
        MaeBenchError: timm does not know the name, has no weights for it or cannot get them, or it is no
            plain ViT.
    """
    _only(request, ())
    arch = _with_weights(request)
    with _what_timm_loads() as loaded:
        try:
            model: Any = timm.create_model(request.body, pretrained=True)
        except Exception as error:  # Whatever the network, the hub or its client raises.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise MaeBenchError(
                f"{request.spec}: timm could not get these weights ({reason}). Without a network, copy the "
                f"checkpoint here and use file:PATH?arch={request.body}"
            ) from error
    if not loaded:
        raise MaeBenchError(
            f"{request.spec}: timm loaded it in a way that cannot be checked; use file: with its file"
        )
    vit = encoder_of(model, request.spec, arch)
    _same_channels(request, vit.patch_embed.proj.in_channels)
    found = recognise(loaded[-1], request.spec)
    cfg: dict[str, Any] = model.pretrained_cfg
    tag = cfg.get("tag") or ""
    source = f"timm {arch}.{tag}" if tag else f"timm {arch}"
    report = fit_weights(
        vit, found, spec=request.spec, source=source, arch=arch, image_size=request.image_size
    )
    report.mean, report.std = tuple(cfg["mean"]), tuple(cfg["std"])
    return Backbone(vit, spec=request.spec, arch=arch, report=report)


def from_random(request: Request) -> Backbone:
    """``random:ARCH``: timm's initial weights, drawn from a seed; the floor of every table.

    ``random:FOLDER`` is the untrained twin of a finished pretraining run: its architecture and normalisation.
    Arguments are those of `architecture.ARGUMENTS`, ``seed``, ``mean`` and ``std``.

    Raises:
        MaeBenchError: timm does not know the name or cannot build it so, or it is no plain ViT.
    """
    if Path(request.body).expanduser().is_dir():
        request = _like_the_run(request)
    mine, rest = _split(request, ("seed", "mean", "std"))
    seed = _seed(request, mine.get("seed"))
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
    report.mean, report.std = _normalisation(mine, request.body, channels, request.spec)
    return Backbone(vit, spec=request.spec, arch=arch, report=report, model_args=_model_args(rest))


def from_file(request: Request) -> Backbone:
    """``file:PATH?arch=NAME``: a checkpoint in a format that `formats` knows.

    Arguments are ``arch``, those of `architecture.ARGUMENTS`, ``mean`` and ``std``. The normalisation is
    that of timm's weights where `arch` has a tag, else ImageNet's.

    Raises:
        MaeBenchError: the file cannot be read safely, is in no known format, or does not fit `arch`.
    """
    mine, rest = _split(request, ("arch", "mean", "std"))
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
    _same_channels(request, channels)
    mean, std = _normalisation(mine, mine["arch"], channels, request.spec)
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
    return Backbone(vit, spec=request.spec, arch=arch, report=report, model_args=_model_args(rest))


def from_run(request: Request) -> Backbone:
    """``run:FOLDER``: the encoder that a finished pretraining run of ours exported.

    Raises:
        MaeBenchError: no such folder, not a run, not finished, or not one that leaves an encoder.
    """
    _only(request, ())
    file = _exported(Path(request.body).expanduser(), request.spec)
    state, info = read_checkpoint(file)
    header = _header(info.metadata, file)
    _same_channels(request, header.channels)
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
        model_args=_model_args(options),
        pretraining=header.pretraining,
    )


# ---------------------------------------------------------------- timm


def _with_weights(request: Request) -> str:
    """The architecture of ``timm:NAME``, once timm is known to offer weights by that name."""
    arch = known_name(request.body, request.spec)
    offered = [
        name for name in timm.list_models(f"{arch}.*", pretrained=True) if name.partition(".")[0] == arch
    ]
    if not offered:
        raise MaeBenchError(f"{request.spec}: timm has no weights for {arch}; untrained it is random:{arch}")
    if "." in request.body and request.body not in offered:
        hint = near(request.body, offered) or f"; there are {', '.join(offered[:6])}"
        raise MaeBenchError(f"{request.spec}: timm has no weights of this name{hint}")
    return arch


@contextmanager
def _what_timm_loads() -> Iterator[list[dict[str, Tensor]]]:
    """Collect the tensors that timm hands to `load_state_dict` meanwhile.

    timm loads leniently for some models and says nothing of what did not match; with the tensors in hand
    the load is checked as strictly as that of a file.
    """
    seen: list[dict[str, Tensor]] = []

    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(state_dict))
        return nn.Module.load_state_dict(self, state_dict, *args, **kwargs)

    # VisionTransformer inherits the method, so removing ours brings the inherited one back.
    setattr(VisionTransformer, "load_state_dict", load_state_dict)  # noqa: B010
    try:
        yield seen
    finally:
        delattr(VisionTransformer, "load_state_dict")


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
    _same_channels(request, header.channels)
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


# ---------------------------------------------------------------- arguments


def _only(request: Request, allowed: tuple[str, ...]) -> None:
    wrong = [name for name in [*request.arguments, *request.model_args] if name not in allowed]
    if wrong:
        raise MaeBenchError(
            f"{request.spec}: {request.source}: takes no '{wrong[0]}'; its weights settle that"
        )


def _split(request: Request, mine: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """The source's own arguments, and the checked ones of the architecture."""
    own = {name: value for name, value in request.arguments.items() if name in mine}
    others = {name: value for name, value in request.arguments.items() if name not in mine}
    return own, checked_arguments({**others, **request.model_args}, request.spec, others=mine)


def _seed(request: Request, text: str | None) -> int:
    if text is None:
        return request.seed
    if not text.isdecimal():
        raise MaeBenchError(f"{request.spec}: seed should be a whole number, not '{text}'")
    return int(text)


def _model_args(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of an architecture's arguments outlives the build; the image size is kept elsewhere."""
    return {name: value for name, value in arguments.items() if name != "img_size"}


def _same_channels(request: Request, channels: int) -> None:
    if request.channels is not None and request.channels != channels:
        raise MaeBenchError(
            f"{request.spec}: its weights take {channels} image channels, and the task gives "
            f"{request.channels}"
        )


def _channels_of(state: Mapping[str, Tensor]) -> int:
    kernel = state.get("patch_embed.proj.weight")
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def _normalisation(
    given: Mapping[str, str], arch: str, channels: int, where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel: as given, else of the tag of `arch`, else ImageNet's.

    Images that are not of three channels have no customary values; 0.5 and 0.5 maps [0, 1] to [-1, 1].
    """
    if ("mean" in given) != ("std" in given):
        raise MaeBenchError(f"{where}: give mean and std together")
    if "mean" in given:
        return _per_channel("mean", given, channels, where), _per_channel("std", given, channels, where)
    if "." in arch:
        try:
            known: Any = get_pretrained_cfg(arch, allow_unregistered=False)
        except RuntimeError as error:
            raise MaeBenchError(f"{where}: {error} Leave the tag out, or give mean and std") from error
        return tuple(known.mean), tuple(known.std)
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)


def _per_channel(name: str, given: Mapping[str, str], channels: int, where: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in given[name].split(","))
    except ValueError:
        values = ()
    if len(values) != channels or (name == "std" and min(values) <= 0):
        wanted = f"{channels} numbers{' above 0' if name == 'std' else ''} joined by commas"
        raise MaeBenchError(f"{where}: {name} should be {wanted}, not '{given[name]}'")
    return values


def _pixels(vit: VisionTransformer) -> tuple[int, int]:
    (rows, columns), (patch_h, patch_w) = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    return rows * patch_h, columns * patch_w
