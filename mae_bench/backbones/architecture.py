"""Building timm's plain Vision Transformers by name, without head, at their native size.

Plain means timm's `VisionTransformer` with ordinary patch embedding, ordinary pre-norm blocks and
absolute position embeddings. Other families are refused by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mae_bench.errors import MaeBenchError, near

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _count(text: Any) -> int:
    if isinstance(text, bool) or not re.fullmatch(r"\d+", str(text)):
        raise ValueError("a whole number")
    return int(text)


def _positive(text: Any) -> int:
    try:
        number = _count(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError("a whole number from 1 on")
    return number


def _float(text: Any) -> float:
    if isinstance(text, bool) or not re.fullmatch(r"\d+(\.\d*)?(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?", str(text)):
        raise ValueError("a number")
    return float(text)


def _bool(text: Any) -> bool:
    if str(text).lower() not in ("true", "false"):
        raise ValueError("true or false")
    return str(text).lower() == "true"


def _size(text: Any) -> int | tuple[int, int]:
    if isinstance(text, list | tuple) and len(text) == 2:
        return _positive(text[0]), _positive(text[1])
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(text))
    if match is None:
        raise ValueError("a side or HEIGHTxWIDTH in pixels")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "img_size": _size,
    "patch_size": _size,
    "embed_dim": _positive,
    "depth": _positive,
    "num_heads": _positive,
    "mlp_ratio": _float,
    "qkv_bias": _bool,
    "qk_norm": _bool,
    "init_values": _float,
    "class_token": _bool,
    "reg_tokens": _count,
    "no_embed_class": _bool,
    "pre_norm": _bool,
}
"""Arguments of timm's VisionTransformer that may vary an architecture, and how each is read."""


def checked_arguments(values: Mapping[str, Any], where: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of an architecture, read from text or checked as values.

    Args:
        others: what else may stand beside them, for the message about an unknown one.

    Raises:
        MaeBenchError: an unknown argument (with its near matches) or a value of the wrong kind.
    """
    checked = {}
    for name, value in values.items():
        if name not in ARGUMENTS:
            known = [*others, *ARGUMENTS]
            hint = near(name, known) or f"; there are {', '.join(known)}"
            raise MaeBenchError(f"{where}: unknown argument '{name}'{hint}")
        try:
            checked[name] = ARGUMENTS[name](value)
        except ValueError as error:
            raise MaeBenchError(f"{where}: {name} should be {error}, not '{value}'") from None
    return checked


def known_name(name: str, where: str) -> str:
    """`name` without its pretrained tag, once timm has it and it is not plainly another family.

    Raises:
        MaeBenchError: unknown to timm (with near matches), or the builder of another class.
    """
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise MaeBenchError(f"{where}: timm has no model '{base}'{near(base, timm.list_models())}")
    built = inspect.signature(timm.model_entrypoint(base)).return_annotation
    if inspect.isclass(built) and built is not VisionTransformer and issubclass(built, nn.Module):
        raise MaeBenchError(_not_plain(where, base, f"a {built.__name__}"))
    return base


def build(arch: str, arguments: Mapping[str, Any], *, channels: int, where: str) -> VisionTransformer:
    """A plain ViT with timm's initial weights, drawn from torch's current random state.

    Args:
        arch: timm's name; a pretrained tag is ignored.
        arguments: checked arguments (see `checked_arguments`).

    Raises:
        MaeBenchError: timm does not know the name or cannot build it so, or it is no plain ViT.
    """
    name = known_name(arch, where)
    options = {**arguments, "num_classes": 0, "in_chans": channels}
    if arguments.get("class_token") is False:
        options["global_pool"] = "avg"  # timm's default pools the class token and asserts that it is there
    try:
        model = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaeBenchError(f"{where}: timm cannot build {name} with {shown}: {reason}") from error
    vit = encoder_of(model, where, name)
    if "img_size" in arguments:
        grid_for(vit, as_pair(arguments["img_size"]), where)
    return vit


def encoder_of(model: nn.Module, where: str, name: str) -> VisionTransformer:
    """`model` as an encoder: head and attention pooling taken off, the norm before pooling.

    timm's average-pooled classifiers normalise after pooling (``fc_norm``); here that norm becomes the
    final norm of the tokens, so that every backbone gives normalised tokens.

    Raises:
        MaeBenchError: it is no plain ViT.
    """
    if type(model) is not VisionTransformer:
        raise MaeBenchError(_not_plain(where, name, f"a {type(model).__name__}"))
    if type(model.patch_embed) is not PatchEmbed:
        raise MaeBenchError(_not_plain(where, name, f"embedded by a {type(model.patch_embed).__name__}"))
    kinds = {type(block).__name__ for block in model.blocks if type(block) is not Block}
    if kinds:
        raise MaeBenchError(_not_plain(where, name, f"made of {', '.join(sorted(kinds))}"))
    if model.pos_embed is None:
        raise MaeBenchError(_not_plain(where, name, "without position embeddings"))
    model.reset_classifier(0)
    bare: Any = model
    bare.attn_pool = None
    if isinstance(bare.norm, nn.Identity):
        bare.norm, bare.fc_norm = bare.fc_norm, nn.Identity()
    return model


def _not_plain(where: str, name: str, found: str) -> str:
    return (
        f"{where}: only plain ViTs with absolute positions (timm's VisionTransformer) are supported, and "
        f"{name} is {found}"
    )


# ---------------------------------------------------------------- sizes and positions


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side or a pair."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def grid_for(vit: VisionTransformer, size: tuple[int, int], where: str) -> tuple[int, int]:
    """Rows and columns of patches in an image of `size` (height, width) pixels.

    Raises:
        MaeBenchError: the patch size does not divide it.
    """
    (height, width), (patch_h, patch_w) = size, vit.patch_embed.patch_size
    if height < patch_h or width < patch_w or height % patch_h or width % patch_w:
        nearest = [
            max(round(side / patch), 1) * patch for side, patch in ((height, patch_h), (width, patch_w))
        ]
        raise MaeBenchError(
            f"{where}: an image of {height}x{width} pixels cannot be cut into patches of {patch_h}x{patch_w}"
            f"; the nearest size that can is {nearest[0]}x{nearest[1]}"
        )
    return height // patch_h, width // patch_w


def positional_prefix(vit: VisionTransformer) -> int:
    """How many prefix tokens have an entry of their own in the position embeddings."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def positions(vit: VisionTransformer) -> nn.Parameter:
    """Position embeddings: (1, P+N, D), or (1, N, D) where prefix tokens have none of their own."""
    assert vit.pos_embed is not None  # `encoder_of` refuses the others
    return vit.pos_embed


def resampled(vit: VisionTransformer, table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, P+h*w, D) of grid `old` on grid `new`; prefix entries are kept.

    Bicubic with antialiasing, in fp32: timm's `resample_abs_pos_embed`.
    """
    return resample_abs_pos_embed(
        table, new_size=list(new), old_size=list(old), num_prefix_tokens=positional_prefix(vit)
    )


def set_grid(vit: VisionTransformer, new: tuple[int, int]) -> None:
    """Resample the position embeddings of `vit`, in place, to `new` rows and columns of patches."""
    old = vit.patch_embed.grid_size
    with torch.no_grad():
        table = resampled(vit, positions(vit), old, new).clone()
    vit.pos_embed = nn.Parameter(table, requires_grad=positions(vit).requires_grad)
    patch_h, patch_w = vit.patch_embed.patch_size
    vit.patch_embed.set_input_size(img_size=(new[0] * patch_h, new[1] * patch_w))
