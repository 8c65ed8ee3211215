"""Whole classifiers: timm's with their pretrained head, and files of weights with one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from torch import Tensor, nn

from downstream.robustness.classes import of_a_whole
from downstream.robustness.classifiers import TrainedClassifier
from mae_bench.backbones.architecture import LAYOUTS, known_name, layout_of
from mae_bench.backbones.arguments import normalisation, only, split
from mae_bench.backbones.fitting import fit_weights
from mae_bench.backbones.formats import Recognised
from mae_bench.backbones.hub import described, pretrained
from mae_bench.backbones.loading import Request
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError
from mae_bench.settings import DataSettings, EvalTransform


def from_timm(request: Request) -> TrainedClassifier:
    """``timm:NAME`` with the head that was trained with it; ``classes=FILE`` where it is not ImageNet-1K's.

    Raises:
        MaeBenchError: timm cannot get it, it has no head, or not every tensor of it was in timm's file.
    """
    only(request, ("classes",))
    model, state, _ = pretrained(request)
    arch = str(model.pretrained_cfg["architecture"])
    if not model.num_classes:
        raise MaeBenchError(
            f"{request.spec} has no head, so nothing in it classifies; fine-tune it, and give that run"
        )
    report = fit_weights(
        model,
        Recognised("classifier of timm", dict(state)),
        spec=request.spec,
        source=described(model, arch),
        arch=arch,
    )
    report.mean, report.std = tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])
    data, words = _timms_transform(model.pretrained_cfg, arch)
    return _whole(request, model, report, data, words)


def from_file(request: Request) -> TrainedClassifier:
    """``file:PATH?arch=NAME``: encoder and head under timm's names, as in MAE's fine-tuned checkpoints.

    Arguments besides those of the architecture: ``pooling`` (mean or cls; by default what the checkpoint's
    last norm says), ``mean`` and ``std``, ``resize`` (short side before the centre crop), ``key``, and
    ``classes``.
    Where `arch` has a tag of timm, normalisation and transform are that tag's; else they are those of MAE's
    fine-tuning: ImageNet's mean and std, 256 / 224 of the image size up to 224 pixels and none above.

    Raises:
        MaeBenchError: the file cannot be read safely, has no head, or does not fit `arch` tensor by tensor.
    """
    mine, rest = split(request, ("arch", "pooling", "mean", "std", "resize", "key", "classes"))
    if "arch" not in mine:
        raise MaeBenchError(
            f"{request.spec}: say which architecture it is, for example "
            f"file:{request.body}?arch=vit_base_patch16_224"
        )
    arch = known_name(mine["arch"], request.spec)
    state, info = read_checkpoint(Path(request.body).expanduser(), key=mine.get("key"))
    net = _network(request, arch, mine.get("pooling"), rest, state)
    report = fit_weights(
        net,
        Recognised("classifier under timm's names", dict(state)),
        spec=request.spec,
        source=request.body,
        arch=arch,
    )
    report.notes += info.notes
    report.mean, report.std = normalisation(mine, mine["arch"], 3, request.spec)
    data, words = _files_transform(request, mine, net)
    return _whole(request, net, report, data, words)


def _whole(
    request: Request, model: Any, report: LoadReport, data: DataSettings, words: str
) -> TrainedClassifier:
    outputs = int(model.num_classes)
    classes, classes_from = of_a_whole(request.spec, request.arguments.get("classes"), outputs)
    head = sum(param.numel() for param in model.get_classifier().parameters())
    notes = [f"{request.spec}: {words}", *report.notes]
    notes += [f"{entry.name} was resampled ({entry.note})" for entry in report.resized]
    facts = {
        "backbone": {
            "spec": request.spec,
            "arch": report.arch,
            "digest": report.digest_after,
            "params": sum(param.numel() for param in model.parameters()) - head,
            "width": int(model.num_features),
            "depth": len(model.blocks) if isinstance(getattr(model, "blocks", None), nn.Module) else None,
            "pretraining": None,
        },
        "notes": notes,
        "details": {
            "classifier": {"whole": request.spec, "format": report.format, "digest": report.digest_after}
        },
    }
    return TrainedClassifier(
        spec=request.spec,
        model=model.requires_grad_(False).eval(),
        classes=classes,
        classes_from=classes_from,
        data=data,
        mean=report.mean,
        std=report.std,
        digest=report.digest_after,
        facts=facts,
        origin=f"{request.spec}: a whole classifier of {outputs:,} classes, {words}",
        report=report,
    )


# ---------------------------------------------------------------- networks


def _network(
    request: Request, arch: str, pooling: str | None, rest: Mapping[str, Any], state: Mapping[str, Tensor]
) -> nn.Module:
    """The network of a checkpoint, with as many outputs as its head has and the pooling of its training."""
    known = timm.get_pretrained_cfg(arch)
    head = known.classifier if known is not None else None
    weight = state.get(f"{head}.weight")
    if weight is None:
        raise MaeBenchError(
            f"{request.spec}: {request.body} holds no {head or 'head'}.weight, so there is nothing that "
            "classifies; fine-tune it, and give that run"
        )
    options: dict[str, Any] = {**rest, "num_classes": len(weight)}
    if layout_of(arch) == "vit":
        options |= _pooling(request, pooling, state)
    elif pooling is not None:
        raise MaeBenchError(f"{request.spec}: pooling is of plain ViTs (timm's VisionTransformer) alone")
    if rest and layout_of(arch) is None:
        raise MaeBenchError(f"{request.spec}: {arch} is no plain ViT, so it takes no '{next(iter(rest))}'")
    try:
        return timm.create_model(arch, pretrained=False, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaeBenchError(f"{request.spec}: timm cannot build {arch} so: {reason}") from error


def _pooling(request: Request, given: str | None, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """timm's arguments for the pooling: a norm behind it (``fc_norm``) is that of the mean of the patches."""
    behind = "fc_norm.weight" in state
    pooling = given or ("mean" if behind else "cls")
    if pooling not in ("mean", "cls"):
        raise MaeBenchError(f"{request.spec}: pooling should be mean or cls, not '{pooling}'")
    if behind and pooling == "cls":
        raise MaeBenchError(
            f"{request.spec}: its fc_norm says that it was trained on the mean of the patches; pooling=mean"
        )
    return {"global_pool": "avg" if pooling == "mean" else "token", "fc_norm": behind}


# ---------------------------------------------------------------- transforms


def _timms_transform(cfg: Mapping[str, Any], arch: str) -> tuple[DataSettings, str]:
    """The evaluation transform of timm's weights: `crop_pct` of the short side is kept."""
    known = resolve_data_config(pretrained_cfg=dict(cfg), verbose=False)
    _, height, width = known["input_size"]
    data = _data(arch, (height, width), math.floor(max(height, width) / known["crop_pct"]), known)
    words = f"short side to {data.evaluation.resize} pixels (crop_pct {known['crop_pct']:g} of timm's)"
    if known["crop_mode"] != "center":
        words += f"; timm's crop_mode {known['crop_mode']} is not followed"
    if data.interpolation != known["interpolation"]:
        words += f"; bicubic where timm says {known['interpolation']}"
    return data, words


def _files_transform(request: Request, mine: Mapping[str, str], net: Any) -> tuple[DataSettings, str]:
    size = _image_size(net)
    if "." in mine["arch"] and "resize" not in mine:
        # The tag is known: `normalisation` has looked it up.
        known: Any = timm.get_pretrained_cfg(mine["arch"])
        return _timms_transform({**known.to_dict(), "input_size": (3, *size)}, mine["arch"])
    if "resize" in mine:
        if not mine["resize"].isdecimal() or int(mine["resize"]) < 1:
            raise MaeBenchError(
                f"{request.spec}: resize should be a number of pixels, not '{mine['resize']}'"
            )
        short, words = int(mine["resize"]), "as given"
    else:
        side = max(size)
        short, words = (side * 256 // 224 if side <= 224 else side), "as in MAE's fine-tuning"
    return _data(mine["arch"], size, short, {}), f"short side to {short} pixels ({words})"


def _image_size(net: Any) -> tuple[int, int]:
    if type(net) in LAYOUTS.values():
        rows, columns = net.patch_embed.grid_size
        return rows * net.patch_embed.patch_size[0], columns * net.patch_embed.patch_size[1]
    _, height, width = net.default_cfg["input_size"]
    return height, width


def _data(arch: str, size: tuple[int, int], short: int, known: Mapping[str, Any]) -> DataSettings:
    interpolation = known.get("interpolation")
    values = {
        "name": arch,
        "root": "",
        "image_size": list(size),
        "interpolation": interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        "evaluation": EvalTransform(resize=short),
    }
    return DataSettings.model_validate(values)
