"""Fitting a checkpoint's tensors into a network: exactly, or not at all.

What does not fit stops the load, and the message says with which ``allow=`` exactly that would pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mae_bench.backbones.formats import Recognised
from mae_bench.backbones.formats.beit import SHARED_TABLE, expand_shared
from mae_bench.backbones.formats.dinov3 import without_zero_biases
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.backbones.resizing import Resizing, size_fault
from mae_bench.backbones.weights import digest
from mae_bench.errors import MaeBenchError

_NAMED = 4  # so many tensors are named in `allow=`; more go by a digest of their names


def fit_weights(
    net: nn.Module,
    found: Recognised,
    *,
    spec: str,
    source: str,
    arch: str,
    image_size: tuple[int, int] | None = None,
    allow: str = "",
    resize_patches: bool = False,
) -> LoadReport:
    """Copy the tensors into `net`, resampling what depends on the grid of a plain ViT.

    A plain ViT must stand at the image size that the architecture is made for: a position table of as many
    entries is taken to have its grid, any other to be square. It stands at `image_size` afterwards.

    Args:
        net: an encoder of `architecture.build`, or any other network, which is fitted as it is.
        image_size: (height, width) in pixels for a plain ViT; None: that of the architecture.
        allow: what may be missing or unexpected all the same: names joined by commas, or the words
            that the message gave (see `allowance`).
        resize_patches: resample the patch kernel where the checkpoint's is for patches of another size.

    Raises:
        MaeBenchError: a tensor is missing or unexpected and not allowed to be, of another shape or not
            finite; nothing is loaded then.
    """
    found = suited(net.state_dict(), found)
    resizing = Resizing.of(net, found.encoder, source, image_size, spec, resize_patches)
    report = match(
        net.state_dict(), found, spec=spec, source=source, arch=arch, allow=allow, resizing=resizing
    )
    fitting = {name: found.encoder[name] for name in net.state_dict() if name in found.encoder}
    _finite(fitting, source)
    report.digest_before = digest(fitting)
    own = net.state_dict()
    ready = {name: tensor.to(own[name].dtype) for name, tensor in fitting.items()}
    if resizing is not None:
        kept = {name: tensor for name, tensor in own.items() if name not in fitting}
        ready = {**resizing.applied({**kept, **ready})}
        resizing.set_size()
    else:
        ready = {**own, **ready}
    net.load_state_dict(ready, strict=True)
    report.digest_after = digest(net.state_dict())
    return report


def match(
    own: Mapping[str, Tensor],
    found: Recognised,
    *,
    spec: str,
    source: str,
    arch: str,
    allow: str = "",
    resizing: Resizing | None = None,
) -> LoadReport:
    """Which tensor of a checkpoint goes where, by names and shapes alone; on the meta device too.

    Args:
        own: the network's tensors.
        resizing: what may be resampled, and to which size.

    Raises:
        MaeBenchError: a tensor is missing or unexpected and not allowed to be, or of another shape.
    """
    report = LoadReport(spec=spec, source=source, format=found.format, arch=arch)
    report.dropped, report.notes = list(found.dropped), list(found.notes)
    if resizing is not None:
        report.image_size = resizing.image_size
        fault = size_fault(resizing.net, found.encoder, source, arch, resizing.resize_patches)
        if fault:
            raise MaeBenchError(fault)
    given = found.encoder
    report.missing = [Entry(name, tuple(own[name].shape)) for name in own if name not in given]
    report.unexpected = [Entry(name, tuple(given[name].shape)) for name in given if name not in own]
    report.total_parameters = sum(tensor.numel() for tensor in own.values())
    report.loaded_parameters = sum(tensor.numel() for name, tensor in own.items() if name in given)
    _let_pass(report, allow, len(given), len(own))
    if resizing is not None and resizing.fault:
        raise MaeBenchError(resizing.fault)
    _same_shapes(own, given, report, resizing)
    for name, tensor in own.items():
        if name not in given:
            continue
        shape = tuple(tensor.shape)
        changes = [f"from {found.renamed[name]}"] if name in found.renamed else []
        if given[name].dtype != tensor.dtype:
            changes.append(f"{given[name].dtype} -> {tensor.dtype}".replace("torch.", ""))
        sizes = resizing.change(name, given[name]) if resizing is not None else ""
        if sizes:
            shape = resizing.shape(name, given[name]) if resizing is not None else shape
            report.resized.append(Entry(name, shape, ", ".join([sizes, *changes])))
        elif changes:
            report.converted.append(Entry(name, shape, ", ".join(changes)))
        else:
            report.matched.append(Entry(name, shape))
    return report


def suited(own: Mapping[str, Tensor], found: Recognised) -> Recognised:
    """A checkpoint as a network can hold it, where that leaves the function as it is.

    * Blocks with a table of relative positions each get copies of the one that they shared in BEiT's
      pretraining.
    * Biases of zeros, which the released DINOv3 models have, are left out where there is no place for them.

    Any other checkpoint stays as it is.

    Args:
        own: the network's tensors.
    """
    found = without_zero_biases(found, own)
    if SHARED_TABLE not in found.encoder or SHARED_TABLE in own:
        return found
    depth = sum(name.endswith(".attn.relative_position_bias_table") for name in own)
    encoder = expand_shared(found.encoder, depth)
    origin = found.renamed.get(SHARED_TABLE, SHARED_TABLE)
    copies = {name: origin for name in encoder if name not in found.encoder}
    renamed = {name: words for name, words in {**found.renamed, **copies}.items() if name in encoder}
    return replace(found, encoder=encoder, renamed=renamed)


# ---------------------------------------------------------------- missing and unexpected


def allowance(kind: str, names: Sequence[str]) -> str:
    """What to write behind ``allow=`` to let exactly these tensors pass.

    Args:
        kind: ``missing`` or ``unexpected``.
        names: of the tensors. A few are named, many go by a digest: ``unexpected-1a2b3c4d``.
    """
    if len(names) <= _NAMED:
        return ",".join(names)
    return f"{kind}-{hashlib.sha256(chr(0).join(sorted(names)).encode()).hexdigest()[:8]}"


def _let_pass(report: LoadReport, allow: str, given: int, own: int) -> None:
    """Move what is allowed to `allowed`; refuse the rest, with the option that would allow it."""
    words = {word.strip() for word in allow.split(",") if word.strip()}
    used: set[str] = set()
    for kind, entries in (("missing", report.missing), ("unexpected", report.unexpected)):
        names = [entry.name for entry in entries]
        whole = allowance(kind, names)
        if names and whole in words:
            used.add(whole)
            passed = set(names)
        else:
            passed = words & set(names)
            used |= passed
        report.allowed += [Entry(entry.name, entry.shape, kind) for entry in entries if entry.name in passed]
        if kind == "unexpected":
            report.unexpected = [entry for entry in entries if entry.name not in passed]
        else:
            report.missing = [entry for entry in entries if entry.name not in passed]
    if report.missing or report.unexpected:
        raise MaeBenchError(_refusal(report, given, own, words & used))
    if words - used:
        word = min(words - used)
        raise MaeBenchError(
            f"{report.spec}: allow={word} names nothing that is missing or unexpected in this checkpoint, "
            "so it is for another; leave it out"
        )


def _refusal(report: LoadReport, given: int, own: int, already: set[str]) -> str:
    kinds = (("missing", report.missing), ("unexpected", report.unexpected))
    faults = [f"{len(entries)} {word} ({_first(entries)})" for word, entries in kinds if entries]
    options = [allowance(word, [entry.name for entry in entries]) for word, entries in kinds if entries]
    return (
        f"{report.source} ({report.format}) does not fit {report.arch}: of its {given} tensors and the "
        f"model's {own}, {' and '.join(faults)}; {report.percent()} % of the model's parameters would come "
        f"from it, so it was not loaded (allow={','.join([*sorted(already), *options])} lets exactly these "
        "pass)"
    )


def _first(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries[:4]) + (", ..." if len(entries) > 4 else "")


# ---------------------------------------------------------------- shapes and values


def _same_shapes(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], report: LoadReport, resizing: Resizing | None
) -> None:
    faults = []
    for name, tensor in own.items():
        if name not in given:
            continue
        theirs, ours = given[name], tensor
        if theirs.shape != ours.shape and not (resizing is not None and resizing.allows(name, theirs, ours)):
            faults.append(f"{name} is {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        elif theirs.is_floating_point() != ours.is_floating_point():
            faults.append(f"{name} is of type {str(theirs.dtype).removeprefix('torch.')}")
    if faults:
        raise MaeBenchError(
            f"{report.source} does not fit {report.arch}: {'; '.join(faults[:4])}"
            f"{f'; and {len(faults) - 4} more' if len(faults) > 4 else ''}"
        )


def _finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "without values" if tensor.is_meta else "in a sparse layout"
            raise MaeBenchError(f"{source}: {name} is stored {kind}; save it as an ordinary tensor")
        if not bool(torch.isfinite(tensor).all()):
            raise MaeBenchError(
                f"{source}: {name} holds values that are not finite; the training behind it diverged, or the "
                "file is damaged"
            )
