"""What stands behind the question mark of ``--backbone``, for the sources that come with this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import get_pretrained_cfg

from mae_bench.backbones.architecture import IMAGENET_MEAN, IMAGENET_STD, checked_arguments
from mae_bench.backbones.loading import Request
from mae_bench.errors import MaeBenchError


def only(request: Request, allowed: tuple[str, ...]) -> None:
    """Raise a MaeBenchError where there are arguments besides the ones allowed."""
    wrong = [name for name in [*request.arguments, *request.model_args] if name not in allowed]
    if wrong:
        raise MaeBenchError(
            f"{request.spec}: {request.source}: takes no '{wrong[0]}'; its weights settle that"
        )


def split(request: Request, mine: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """The source's own arguments, and the checked ones of the architecture.

    Raises:
        MaeBenchError: an unknown argument, or a value of the wrong kind.
    """
    own = {name: value for name, value in request.arguments.items() if name in mine}
    others = {name: value for name, value in request.arguments.items() if name not in mine}
    return own, checked_arguments({**others, **request.model_args}, request.spec, others=mine)


def seed_of(request: Request, text: str | None) -> int:
    """The seed that was given as text, else the request's."""
    if text is None:
        return request.seed
    if not text.isdecimal():
        raise MaeBenchError(f"{request.spec}: seed should be a whole number, not '{text}'")
    return int(text)


def built_with(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of an architecture's arguments outlives the build; the image size is kept elsewhere."""
    return {name: value for name, value in arguments.items() if name != "img_size"}


def same_channels(request: Request, channels: int) -> None:
    """Raise a MaeBenchError where the task has images of other channels than the weights take."""
    if request.channels is not None and request.channels != channels:
        raise MaeBenchError(
            f"{request.spec}: its weights take {channels} image channels, and the task gives "
            f"{request.channels}"
        )


def normalisation(
    given: Mapping[str, str], arch: str, channels: int, where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel: as given, else of the tag of `arch`, else ImageNet's.

    Images that are not of three channels have no customary values; 0.5 and 0.5 maps [0, 1] to [-1, 1].

    Raises:
        MaeBenchError: only one of them is given, or not a number for each channel, or timm does not know
            the tag.
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
    if name == "mean" and not all(0 <= value <= 1 for value in values):
        raise MaeBenchError(
            f"{where}: mean is on a scale of 0 to 1, not {given[name]}; divide mean and std by 255 where "
            "they are for pixels of 0 to 255"
        )
    return values
