"""The source ``hf:``: plain ViTs of Hugging Face transformers, as timm's.

Their weights go into timm's architecture of the same computation, so that everything which a task does with
a backbone (other sizes, windows, layer decay, freezing) works as with any other. transformers itself is not
needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mae_bench.backbones.architecture import as_pair, build
from mae_bench.backbones.arguments import built_with, normalisation, same_channels, split
from mae_bench.backbones.families import wrap
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.formats.spelling import prefix_of, read
from mae_bench.backbones.huggingface_config import Described, describe
from mae_bench.backbones.huggingface_files import ModelFiles, find, read_json
from mae_bench.backbones.loading import Request
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError

_ASK = "give mean= and std=, per channel and on a scale of 0 to 1"


def from_hf(request: Request) -> Backbone:
    """``hf:OWNER/NAME`` or ``hf:FOLDER``: a ViT of transformers with its weights.

    Arguments are ``revision`` (branch, tag or commit on the hub), ``mean`` and ``std``, which win over those
    of the image processor that comes with the model, ``patch_size``, to which the patch kernel is resampled,
    ``img_size`` and ``allow``.

    Raises:
        MaeBenchError: the files cannot be had or read, the model is of no known type, its weights do not fit
            its config exactly, or nothing says how its images are normalised.
    """
    mine, rest = split(request, ("revision", "mean", "std", "allow"))
    wrong = [name for name in rest if name not in ("patch_size", "img_size")]
    if wrong:
        raise MaeBenchError(
            f"{request.spec}: hf: takes no '{wrong[0]}'; the model's config.json settles that"
        )
    files = find(request.body, mine.get("revision"), request.spec)
    described = describe(read_json(files.config, request.spec), f"{request.spec}: {files.config}")
    same_channels(request, described.channels)
    mean, std, notes = _input(request, files, described)
    state, _ = read_checkpoint(files.weights)
    found = _encoder(state, described, files)
    arguments = _with_patches(described.arguments, rest.get("patch_size"))
    net = build(described.arch, arguments, channels=described.channels, where=request.spec)
    described.settle(net)
    if described.spelling.layout == "beit" and not any(name.startswith("norm.") for name in found.encoder):
        bare: Any = net
        bare.norm = nn.Identity()
        notes.append("the model has no final norm, so tokens are as the last block leaves them")
    report = fit_weights(
        net,
        found,
        spec=request.spec,
        source=files.name,
        arch=described.arch,
        image_size=request.image_size or (as_pair(rest["img_size"]) if "img_size" in rest else None),
        allow=mine.get("allow", ""),
        resize_patches="patch_size" in rest,
    )
    report.mean, report.std = mean, std
    report.notes += [*described.notes, *notes]
    return wrap(net, spec=request.spec, arch=described.arch, report=report, model_args=built_with(arguments))


def _with_patches(arguments: Mapping[str, Any], patch: int | tuple[int, int] | None) -> dict[str, Any]:
    """The arguments with patches of another size, and the image size next below that these divide."""
    if patch is None:
        return dict(arguments)
    sides = zip(arguments["img_size"], as_pair(patch), strict=True)
    size = tuple(max(side // cell, 1) * cell for side, cell in sides)
    return {**arguments, "patch_size": patch, "img_size": size}


def _encoder(state: State, described: Described, files: ModelFiles) -> Recognised:
    if prefix_of(described.spelling, state) is None:
        shown = f"{', '.join(list(state)[:4])}{' ...' if len(state) > 4 else ''}"
        raise MaeBenchError(
            f"{files.weights} does not hold the one encoder that {files.config.name} describes "
            f"({described.spelling.name}): its {len(state)} tensors are {shown}"
        )
    return read(described.spelling, state, described.spelling.layout)


# ---------------------------------------------------------------- images


def _input(
    request: Request, files: ModelFiles, described: Described
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Mean, standard deviation, and what there is to say of them and of the size of images."""
    processor = read_json(files.processor, request.spec) if files.processor is not None else {}
    # Of models with a text tower, one file may hold the image processor beside the tokenizer.
    images = processor.get("image_processor", processor)
    notes = _cropped(images, described.arguments["img_size"]) if isinstance(images, Mapping) else []
    if {"mean", "std"} & set(request.arguments):
        mean, std = normalisation(request.arguments, described.arch, described.channels, request.spec)
        return mean, std, [*notes, "mean and std are as given, not those of the model's image processor"]
    if files.processor is None:
        raise MaeBenchError(
            f"{request.spec}: nothing beside its weights says how images are normalised (no "
            f"preprocessor_config.json); {_ASK}"
        )
    mean, std = _normalisation(images, described.channels, f"{request.spec}: {files.processor}")
    return mean, std, [*notes, f"mean and std are those of {files.processor.name}"]


def _normalisation(images: Any, channels: int, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of an image processor, on a scale of 0 to 1."""
    if not isinstance(images, Mapping):
        raise MaeBenchError(f"{where} describes no image processor; {_ASK}")
    factor = images.get("rescale_factor", 1 / 255)
    scaled = images.get("do_rescale", True) is True and isinstance(factor, int | float)
    if not scaled or abs(factor * 255 - 1) > 1e-6:
        raise MaeBenchError(f"{where} does not bring pixels to a scale of 0 to 1; {_ASK}")
    if images.get("do_normalize", True) is False:
        return (0.0,) * channels, (1.0,) * channels
    values = []
    for key in ("image_mean", "image_std"):
        given = images.get(key)
        numbers: list[Any] = given if isinstance(given, list) else [given] * channels
        if len(numbers) != channels or not all(type(number) in (int, float) for number in numbers):
            raise MaeBenchError(f"{where}: {key} is {given!r}, not {channels} numbers; {_ASK}")
        values.append(tuple(float(number) for number in numbers))
    mean, std = values
    if min(std) <= 0:
        raise MaeBenchError(f"{where}: image_std is {list(std)}, which should be above 0; {_ASK}")
    return mean, std


def _cropped(images: Mapping[str, Any], own: tuple[int, int]) -> list[str]:
    """A note where the image processor gives images of another size than the positions stand for."""
    key = "crop_size" if images.get("do_center_crop") and images.get("crop_size") else "size"
    size = images.get(key)
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    if not all(type(side) is int for side in sides) or sides == own:
        return []
    return [
        f"its image processor gives {sides[0]}x{sides[1]} pixels; its positions stand for {own[0]}x{own[1]}"
    ]
