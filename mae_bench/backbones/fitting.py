"""Fitting a checkpoint's tensors into a network: exactly, or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_bench.backbones.architecture import grid_for, positional_prefix, resampled, set_grid
from mae_bench.backbones.formats import Recognised
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.weights import digest
from mae_bench.errors import MaeBenchError

# Width and depth of the sizes that have a name (Dosovitskiy et al., arXiv:2010.11929; Touvron et al.,
# arXiv:2012.12877).
_SIZES = {
    (192, 12): "ViT-Ti",
    (384, 12): "ViT-S",
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
}


def fit_weights(
    vit: VisionTransformer,
    found: Recognised,
    *,
    spec: str,
    source: str,
    arch: str,
    image_size: tuple[int, int] | None,
) -> LoadReport:
    """Copy the tensors into `vit`, resampling its position embeddings to `image_size` if that is given.

    `vit` must stand at the image size that the architecture is made for: a position table of as many
    entries is taken to have its grid, any other to be square.

    Raises:
        MaeBenchError: a tensor is missing or unexpected, of another shape or not finite; nothing is
            loaded then.
    """
    _same_size(vit, found.encoder, source, arch)
    report = LoadReport(spec=spec, source=source, format=found.format, arch=arch, dropped=found.dropped)
    own = vit.state_dict()
    _check(own, found, report)
    native = _grid_of_table(vit, found.encoder["pos_embed"], source)
    target = grid_for(vit, image_size, spec) if image_size else vit.patch_embed.grid_size
    ready = {name: tensor.to(own[name].dtype) for name, tensor in found.encoder.items()}
    ready["pos_embed"] = resampled(vit, ready["pos_embed"], native, target)
    set_grid(vit, target)
    vit.load_state_dict(ready, strict=True)
    loaded = vit.state_dict()
    report.digest_after = digest(loaded)
    for name in own:
        was = _changes(name, found, own[name].dtype)
        shape = tuple(loaded[name].shape)
        if name == "pos_embed" and native != target:
            grids = f"{native[0]}x{native[1]} -> {target[0]}x{target[1]}"
            report.resized.append(Entry(name, shape, ", ".join([grids, *was])))
        elif was:
            report.converted.append(Entry(name, shape, ", ".join(was)))
        else:
            report.matched.append(Entry(name, shape))
    patch_h, patch_w = vit.patch_embed.patch_size
    report.image_size = (target[0] * patch_h, target[1] * patch_w)
    return report


def fit_exactly(net: nn.Module, found: Recognised, *, spec: str, source: str, arch: str) -> LoadReport:
    """Copy the tensors into a network that has no position embeddings to resample.

    Raises:
        MaeBenchError: a tensor is missing or unexpected, of another shape or not finite; nothing is
            loaded then.
    """
    report = LoadReport(spec=spec, source=source, format=found.format, arch=arch, dropped=found.dropped)
    own = net.state_dict()
    _check(own, found, report)
    net.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in found.encoder.items()}, strict=True
    )
    report.digest_after = digest(net.state_dict())
    for name, tensor in own.items():
        was = _changes(name, found, tensor.dtype)
        entry = Entry(name, tuple(tensor.shape), ", ".join(was))
        (report.converted if was else report.matched).append(entry)
    return report


def _check(own: Mapping[str, Tensor], found: Recognised, report: LoadReport) -> None:
    """Refuse tensors that do not fit a network's own; put the counts and the digest into the report."""
    report.total_parameters = sum(tensor.numel() for tensor in own.values())
    _exactly_these(own, found.encoder, report)
    _same_shapes(own, found.encoder, report.source, report.arch)
    _finite(found.encoder, report.source)
    report.digest_before = digest(found.encoder)
    report.loaded_parameters = report.total_parameters


def _changes(name: str, found: Recognised, dtype: torch.dtype) -> list[str]:
    """In words, how a tensor differs from what the file holds, its grid aside."""
    words = [f"from {found.renamed[name]}"] if name in found.renamed else []
    given = found.encoder[name].dtype
    if given != dtype:
        words.append(f"{given} -> {dtype}".replace("torch.", ""))
    return words


def _same_size(vit: VisionTransformer, state: Mapping[str, Tensor], source: str, arch: str) -> None:
    """Say it in terms of width, depth and patch where the checkpoint is of another model altogether."""
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return
    blocks = [int(match[1]) for match in (re.match(r"blocks\.(\d+)\.", name) for name in state) if match]
    theirs = (kernel.shape[0], 1 + max(blocks, default=-1), tuple(kernel.shape[-2:]), kernel.shape[1])
    ours = (
        vit.embed_dim,
        len(vit.blocks),
        tuple(vit.patch_embed.patch_size),
        vit.patch_embed.proj.in_channels,
    )
    if theirs == ours:
        return
    guess = f" ({_SIZES[theirs[:2]]}?)" if theirs[:2] in _SIZES else ""
    raise MaeBenchError(
        f"{source} does not fit {arch}: the checkpoint is {_in_words(*theirs)}{guess}, "
        f"{arch} is {_in_words(*ours)}"
    )


def _in_words(width: int, depth: int, patch: Sequence[int], channels: int) -> str:
    return f"{width} wide and {depth} deep with {patch[0]}x{patch[1]} patches of {channels} channels"


def _exactly_these(own: Mapping[str, Tensor], given: Mapping[str, Tensor], report: LoadReport) -> None:
    report.missing = [Entry(name, tuple(own[name].shape)) for name in own if name not in given]
    report.unexpected = [Entry(name, tuple(given[name].shape)) for name in given if name not in own]
    if not report.missing and not report.unexpected:
        return
    report.loaded_parameters = sum(tensor.numel() for name, tensor in own.items() if name in given)
    faults = [
        f"{len(entries)} {word} ({_first(entries)})"
        for word, entries in (("missing", report.missing), ("unexpected", report.unexpected))
        if entries
    ]
    raise MaeBenchError(
        f"{report.source} ({report.format}) does not fit {report.arch}: of its {len(given)} tensors and the "
        f"model's {len(own)}, {' and '.join(faults)}; {report.coverage:.1f} % of the model's parameters "
        "would come from it, so it was not loaded"
    )


def _first(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries[:4]) + (", ..." if len(entries) > 4 else "")


def _same_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, arch: str) -> None:
    faults = []
    for name, tensor in own.items():
        theirs, ours = list(given[name].shape), list(tensor.shape)
        if name == "pos_embed" and len(theirs) == 3:
            theirs[1] = ours[1] = 0  # the number of positions may differ: they are resampled
        if theirs != ours:
            faults.append(f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}")
        elif given[name].is_floating_point() != tensor.is_floating_point():
            faults.append(f"{name} is of type {str(given[name].dtype).removeprefix('torch.')}")
    if faults:
        raise MaeBenchError(
            f"{source} does not fit {arch}: {'; '.join(faults[:4])}"
            f"{f'; and {len(faults) - 4} more' if len(faults) > 4 else ''}"
        )


def _finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise MaeBenchError(
                f"{source}: {name} holds values that are not finite; the training behind it diverged, or the "
                "file is damaged"
            )


def _grid_of_table(vit: VisionTransformer, table: Tensor, source: str) -> tuple[int, int]:
    """Rows and columns of a checkpoint's position embeddings (1, P+N, D)."""
    count = table.shape[1] - positional_prefix(vit)
    native: tuple[int, int] = vit.patch_embed.grid_size
    if count == native[0] * native[1]:
        return native
    side = math.isqrt(max(count, 0))
    if count < 1 or side * side != count:
        raise MaeBenchError(
            f"{source}: pos_embed has {table.shape[1]} entries, of which {positional_prefix(vit)} belong to "
            f"prefix tokens; {count} are no square grid, so say which image size it was made for: "
            "img_size=HEIGHTxWIDTH"
        )
    return side, side
