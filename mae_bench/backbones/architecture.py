"""Building timm's plain Vision Transformers by name, without head, at their native size.

Plain means a column of blocks over patches of one size: timm's `VisionTransformer` (ViT, DeiT, DINO, MoCo
v3, MAE, DINOv2, CLIP, SigLIP, AIMv2, I-JEPA), `Beit` (BEiT, data2vec, SimMIM) and `Eva` (EVA, DINOv3, PE).
Whatever else timm has is built by `mae_bench.backbones.others`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.beit import Beit, gen_relative_position_index
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_bench.backbones.formats.contract import Layout
from mae_bench.backbones.relative import resized_table
from mae_bench.errors import MaeBenchError, near

Plain = VisionTransformer | Beit | Eva
"""timm's classes of plain ViTs."""

LAYOUTS: dict[Layout, type[nn.Module]] = {"vit": VisionTransformer, "beit": Beit, "eva": Eva}
"""Whose names the tensors of a plain ViT have -> the class."""

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
    # of Beit and Eva
    "use_abs_pos_emb": _bool,
    "use_rel_pos_bias": _bool,
    "use_shared_rel_pos_bias": _bool,
    "use_rot_pos_emb": _bool,
    "rope_rotate_half": _bool,
    "rope_temperature": _float,
    "num_reg_tokens": _count,
    "swiglu_mlp": _bool,
    "swiglu_align_to": _count,
    "scale_mlp": _bool,
    "scale_attn_inner": _bool,
    "qkv_fused": _bool,
}
"""Arguments of timm's plain ViTs that may vary an architecture, and how each is read."""


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
    """`name` without its pretrained tag, once timm has it.

    Raises:
        MaeBenchError: unknown to timm (with near matches).
    """
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise MaeBenchError(f"{where}: timm has no model '{base}'{near(base, timm.list_models())}")
    return base


def layout_of(name: str) -> Layout | None:
    """Whose names the tensors of an architecture have; None if timm does not build a plain ViT of it."""
    base = name.partition(".")[0]
    if not timm.is_model(base):
        return None
    built = inspect.signature(timm.model_entrypoint(base)).return_annotation
    return next((layout for layout, kind in LAYOUTS.items() if built is kind), None)


def build(arch: str, arguments: Mapping[str, Any], *, channels: int, where: str) -> Plain:
    """A plain ViT with timm's initial weights, drawn from torch's current random state.

    Args:
        arch: timm's name; a pretrained tag is ignored.
        arguments: checked arguments (see `checked_arguments`).

    Raises:
        MaeBenchError: timm does not know the name or cannot build it so, or it is no plain ViT.
    """
    name = known_name(arch, where)
    layout = layout_of(name)
    if layout is None:
        raise MaeBenchError(
            f"{where}: {name} is no plain ViT (timm's VisionTransformer, Beit or Eva), as is needed here"
        )
    taken = inspect.signature(LAYOUTS[layout]).parameters
    wrong = [argument for argument in arguments if argument not in taken]
    if wrong:
        raise MaeBenchError(
            f"{where}: {name} is timm's {LAYOUTS[layout].__name__}, which takes no '{wrong[0]}'"
            f"{near(wrong[0], [known for known in ARGUMENTS if known in taken])}"
        )
    options = {**arguments, "num_classes": 0, "in_chans": channels}
    if arguments.get("class_token") is False:
        options["global_pool"] = "avg"  # timm's default pools the class token and asserts that it is there
    if layout == "eva":
        # Rotary positions are made for the grid of each image, instead of kept for one.
        options["dynamic_img_size"] = True
    try:
        model = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaeBenchError(f"{where}: timm cannot build {name} with {shown}: {reason}") from error
    vit = encoder_of(model, where, name)
    if "img_size" in arguments:
        grid_for(vit.patch_embed.patch_size, as_pair(arguments["img_size"]), where)
    return vit


def is_plain(model: nn.Module) -> bool:
    """Whether `model` is one of `Plain` that cuts its image into patches by one convolution."""
    return type(model) in LAYOUTS.values() and type(model.patch_embed) is PatchEmbed


def encoder_of(model: nn.Module, where: str, name: str) -> Plain:
    """`model` as an encoder: head and attention pooling taken off, the norm before pooling.

    timm's average-pooled classifiers normalise after pooling (``fc_norm``); here that norm becomes the
    final norm of the tokens, so that every backbone gives normalised tokens.

    Raises:
        MaeBenchError: it is no plain ViT.
    """
    if not is_plain(model):
        inside = type(getattr(model, "patch_embed", None)).__name__
        raise MaeBenchError(
            f"{where}: {name} is no plain ViT but a {type(model).__name__} that cuts images by a {inside}"
        )
    bare: Any = model
    bare.reset_classifier(0)
    if getattr(bare, "attn_pool", None) is not None:
        bare.attn_pool = None
    if isinstance(bare.norm, nn.Identity):
        bare.norm, bare.fc_norm = bare.fc_norm, nn.Identity()
    plain: Plain = bare
    return plain


# ---------------------------------------------------------------- sizes and positions


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side or a pair."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def grid_for(patch_size: tuple[int, int], size: tuple[int, int], where: str) -> tuple[int, int]:
    """Rows and columns of patches of `patch_size` in an image of `size`, (height, width) in pixels each.

    Raises:
        MaeBenchError: the patch size does not divide it.
    """
    (height, width), (patch_h, patch_w) = size, patch_size
    if height < patch_h or width < patch_w or height % patch_h or width % patch_w:
        nearest = [
            max(round(side / patch), 1) * patch for side, patch in ((height, patch_h), (width, patch_w))
        ]
        raise MaeBenchError(
            f"{where}: an image of {height}x{width} pixels cannot be cut into patches of {patch_h}x{patch_w}"
            f"; the nearest size that can is {nearest[0]}x{nearest[1]}"
        )
    return height // patch_h, width // patch_w


def positional_prefix(vit: Plain) -> int:
    """How many prefix tokens have an entry of their own in the position embeddings."""
    prefix: int = vit.num_prefix_tokens
    return 0 if getattr(vit, "no_embed_class", False) else prefix


def resampled(vit: Plain, table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, P+h*w, D) of grid `old` on grid `new`; prefix entries are kept.

    Bicubic with antialiasing, in fp32: timm's `resample_abs_pos_embed`.
    """
    return resample_abs_pos_embed(
        table, new_size=list(new), old_size=list(old), num_prefix_tokens=positional_prefix(vit)
    )


def set_grid(vit: Plain, new: tuple[int, int]) -> None:
    """Resample whatever of `vit` depends on the grid, in place, to `new` rows and columns of patches."""
    old, (patch_h, patch_w) = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    table = vit.pos_embed
    if table is not None:
        with torch.no_grad():
            moved = resampled(vit, table, old, new).clone()
        vit.pos_embed = nn.Parameter(moved, requires_grad=table.requires_grad)
    if isinstance(vit, Beit) and old != new:
        blocks: Any = vit.blocks
        for holder in (vit.rel_pos_bias, *(block.attn for block in blocks)):
            if getattr(holder, "relative_position_bias_table", None) is not None:
                _set_table(holder, new)
    vit.patch_embed.set_input_size(img_size=(new[0] * patch_h, new[1] * patch_w))


def _set_table(holder: Any, new: tuple[int, int]) -> None:
    """A BEiT's table of relative positions for another grid, with timm's index into it."""
    table = holder.relative_position_bias_table
    with torch.no_grad():
        moved = resized_table(table, tuple(holder.window_size), new)
    holder.relative_position_bias_table = nn.Parameter(moved, requires_grad=table.requires_grad)
    holder.window_size = new
    holder.window_area = new[0] * new[1]
    index = gen_relative_position_index(new, device=table.device)
    holder.register_buffer("relative_position_index", index, persistent=False)
