"""A whole detector from a file: every tensor accounted for, or an error that says what is another."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from downstream.detection.facts import State, facts
from downstream.detection.formats import BACKBONE, POSITIONS, RELATIVE, from_detectron2
from mae_bench import screen
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.weights import digest, read_checkpoint
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from downstream.detection.detector import Detector

_ATTENTION = re.compile(re.escape(BACKBONE) + r"\.blocks\.(\d+)\.attn")
_MEAN, _STD = "pixel_mean", "pixel_std"
_CELL_ANCHORS = re.compile(r"proposal_generator\.anchor_generator\.cell_anchors\.\d+")


def load_detector(detector: Detector, path: str | os.PathLike[str], *, classes: Sequence[str]) -> LoadReport:
    """Load the weights of `path` into `detector`, all of them or none.

    The file holds a detector in the key format of detectron2's ViTDet (``.pth``, or the ``.pkl`` of its model
    zoo), or is ``model.safetensors`` of a run of ours; which one its keys tell. Reading it runs nothing in
    it.

    Tables of relative positions for another grid or window are interpolated linearly, as both networks do in
    every pass. Of detectron2's position table the entry of the class token, which it never reads, is
    left out. Where patches attend to the padding of windows in detectron2, and not here, a warning says so.

    Args:
        classes: names of the data's classes in order of their labels.

    Raises:
        MaeBenchError: the file cannot be read or is no detector, or it is one of other classes, another
            backbone, other settings (which are named); nothing is loaded then.
    """
    source = os.fspath(path)
    found, info = read_checkpoint(path)
    own = detector.state_dict()
    report = LoadReport(
        f"detector {source}",
        source,
        format="",
        arch=_arch(detector),
        image_size=detector.canvas,
        mean=tuple(detector.mean),
        std=tuple(detector.std),
    )
    state, was = _recognised(found, report)
    _fits(detector, own, state, report, classes)
    report.digest_before = digest(state)
    ready = dict(state)
    words = {name: [f"from {theirs}"] for name, theirs in was.items() if theirs != name}
    if was:
        _without_class_token(detector, ready, words, report)
    resized = _relative_positions(own, ready, report)
    _accounted(own, ready, report)

    detector.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in ready.items()})
    loaded = detector.state_dict()
    report.digest_after = digest(loaded)
    report.total_parameters = report.loaded_parameters = sum(tensor.numel() for tensor in own.values())
    for name, tensor in loaded.items():
        said = words.get(name, [])
        if ready[name].dtype != tensor.dtype:
            said = [*said, f"{ready[name].dtype} -> {tensor.dtype}".replace("torch.", "")]
        if name in resized:
            kind, said = report.resized, [resized[name], *said]
        else:
            kind = report.converted if said else report.matched
        kind.append(Entry(name, tuple(tensor.shape), ", ".join(said)))
    if info.ignored:
        report.notes.append(f"the file holds more, which was left aside: {', '.join(info.ignored)}")
    if was:
        report.notes.append(
            f"the file names no classes; its {len(classes)} are taken to be the data's, in order of their ids"
        )
        _tell_of_padding(detector, report)
    return report


# ---------------------------------------------------------------- what the file is


def _recognised(found: State, report: LoadReport) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under our names, and for each what detectron2 calls it; no such names for our own files."""
    if any(name.startswith("roi_heads.") for name in found) and any(
        name.startswith("body.") for name in found
    ):
        report.format = "detector of a run of ours"
        return dict(found), {}
    if not any(name.startswith("backbone.net.") for name in found) or not any(
        name.startswith("roi_heads.") for name in found
    ):
        raise MaeBenchError(f"{report.source} holds no detector that is known here: {_what_else(found)}")
    cascade = any(name.startswith("roi_heads.box_head.0.") for name in found)
    report.format = f"detectron2's ViTDet {'Cascade ' if cascade else ''}Mask R-CNN"
    _same_normalisation(found, report)
    state: dict[str, Tensor] = {}
    was: dict[str, str] = {}
    for name, tensor in found.items():
        if name in (_MEAN, _STD):
            report.dropped.append(Entry(name, tuple(tensor.shape), "the backbone's normalisation, the same"))
        elif _CELL_ANCHORS.fullmatch(name):
            report.dropped.append(Entry(name, tuple(tensor.shape), "anchors are computed"))
        else:
            ours = from_detectron2(name) or name
            state[ours], was[ours] = tensor, name
    return state, was


def _what_else(found: State) -> str:
    if any(name.startswith(("backbone.bottom_up.", "backbone.fpn_")) for name in found):
        return "it is detectron2's, but not of ViTDet with a plain backbone and the simple pyramid"
    if any("blocks." in name or "patch_embed." in name for name in found):
        return "it looks like a backbone without heads; give it with --backbone and leave detector out"
    return f"its {len(found)} tensors are {', '.join(list(found)[:4])}{' ...' if len(found) > 4 else ''}"


def _same_normalisation(found: State, report: LoadReport) -> None:
    """Refuse a detector whose pixels were normalised otherwise; it holds means on a scale of 0 to 255."""
    for name, ours in ((_MEAN, report.mean), (_STD, report.std)):
        if name in found:
            theirs = [round(float(value) / 255, 4) for value in found[name].flatten()]
            if len(theirs) != len(ours) or max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) > 2e-3:
                raise MaeBenchError(
                    f"{report.source}: {name} / 255 is {theirs}, but the backbone's is {list(ours)}; give "
                    "the backbone with mean=R,G,B&std=R,G,B as the detector was trained"
                )


# ---------------------------------------------------------------- whether it fits


def _fits(detector: Detector, own: State, given: State, report: LoadReport, classes: Sequence[str]) -> None:
    """Say in terms of classes, backbone and settings what was another when the file was made."""
    ours, theirs = facts(own), facts(given)
    if theirs["classes"] not in (None, ours["classes"]):
        shown = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        raise MaeBenchError(
            f"{report.source}: heads of {theirs['classes']} classes do not fit the {len(classes)} classes of "
            f"the data ({shown}); use data of the detector's own classes, or leave detector out and train "
            "heads anew"
        )
    if theirs["backbone"] != ours["backbone"]:
        its, mine = (one["backbone"] or "no plain ViT" for one in (theirs, ours))
        raise MaeBenchError(
            f"{report.source} does not fit: its backbone is {its}, {report.arch} is {mine}; give a backbone "
            "of its size with --backbone"
        )
    others = [
        f"{key}={_yaml(theirs[key])} (here {_yaml(ours[key])})"
        for key in ours
        if key.startswith("model.") and theirs[key] not in (None, ours[key])
    ]
    attentions, longer = _attentions(detector), theirs["longer_tables"]
    whole = [block for block, attention in attentions.items() if attention.window is None]
    # Where windows are larger than the canvas, it is the windows' tables that are longer.
    if longer and longer not in (whole, [block for block in attentions if block not in whole]):
        others.append(f"model.attention.global_blocks={longer} (here {whole})")
    if others:
        raise MaeBenchError(f"{report.source} does not fit: it was made with {', '.join(others)}")


def _attentions(detector: Detector) -> dict[int, Any]:
    """The attention of each block of a plain ViT."""
    found = ((_ATTENTION.fullmatch(name), module) for name, module in detector.named_modules())
    return {int(match[1]): module for match, module in found if match}


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _accounted(own: State, given: State, report: LoadReport) -> None:
    """Refuse what does not fit tensor by tensor, naming the first ones with their shapes."""
    report.missing = [Entry(name, tuple(own[name].shape)) for name in own if name not in given]
    report.unexpected = [Entry(name, tuple(given[name].shape)) for name in given if name not in own]
    faults = [
        f"{len(entries)} {word} ({_first(entries)})"
        for word, entries in (("missing", report.missing), ("unexpected", report.unexpected))
        if entries
    ]
    wrong = [
        f"{name} is {_kind(tensor)}, not {_kind(own[name])}"
        for name, tensor in given.items()
        if name in own and _kind(tensor) != _kind(own[name])
    ]
    faults += [
        f"{len(wrong)} of another shape ({'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''})"
    ] * bool(wrong)
    if faults:
        raise MaeBenchError(
            f"{report.source} ({report.format}) does not fit this detector over {report.arch}: of its "
            f"{len(given)} tensors and the detector's {len(own)}, {' and '.join(faults)}; give the "
            "backbone and the settings under 'model' with which it was made"
        )
    for name, tensor in given.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise MaeBenchError(
                f"{report.source}: {name} holds values that are not finite; the training behind it diverged, "
                "or the file is damaged"
            )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _first(entries: Sequence[Entry]) -> str:
    shown = ", ".join(f"{entry.name} {entry.shape}" for entry in entries[:3])
    return shown + (", ..." if len(entries) > 3 else "")


# ---------------------------------------------------------------- what is changed


def _without_class_token(
    detector: Detector, ready: dict[str, Tensor], words: dict[str, list[str]], report: LoadReport
) -> None:
    """Drop the first entry of detectron2's position table, where it has one for the class token.

    Raises:
        MaeBenchError: the table is for another number of patches than the backbone's.
    """
    table, own = ready.get(POSITIONS), detector.state_dict().get(POSITIONS)
    if table is None or table.ndim != 3 or own is None:
        return
    if table.shape[1] == own.shape[1] + 1:
        ready[POSITIONS] = table[:, 1:]
        words[POSITIONS].append("without the entry of the class token, which is never read")
    elif table.shape[1] != own.shape[1]:
        raise MaeBenchError(
            f"{report.source}: its position table is for {table.shape[1] - 1} patches and a class token, "
            f"that of {report.arch} as given for {own.shape[1]}; give the backbone at the size of image the "
            "table is for (img_size=224 has 196 patches of 16 pixels)"
        )


def _relative_positions(own: State, ready: dict[str, Tensor], report: LoadReport) -> dict[str, str]:
    """Interpolate tables of relative positions of another length; returns what was done to which."""
    resized: dict[str, str] = {}
    for name, table in list(ready.items()):
        if not RELATIVE.fullmatch(name) or name not in own or table.ndim != 2:
            continue
        length = len(own[name])
        if len(table) != length and table.shape[1:] == own[name].shape[1:]:
            values = nnf.interpolate(table.float().t()[None], size=length, mode="linear")[0].t()
            ready[name] = values.to(table.dtype)
            resized[name] = f"{len(table)} -> {length} distances"
    if resized:
        report.notes.append(
            "it was made for other windows or another canvas; its relative positions were interpolated"
        )
    return resized


def _tell_of_padding(detector: Detector, report: LoadReport) -> None:
    """Warn where the padding of windows is hidden: detectron2's patches attended to it in training."""
    body: Any = detector.body
    grids = [side // patch for side, patch in zip(detector.canvas, body.patch_size, strict=True)]
    windows = {attention.window for attention in _attentions(detector).values() if attention.hide_padding}
    if any(side % window for side in grids for window in windows - {None}):
        said = (
            "detectron2's ViTDet was trained with patches that attend to the padding of windows; for the "
            "same numbers set model.attention.window_padding=attended"
        )
        report.notes.append(said)
        screen.warn(said)


def _arch(detector: Detector) -> str:
    """The architecture's name of the backbone within, for messages and the record."""
    body: Any = detector.body
    return str(getattr(body, "backbone", body).arch)
