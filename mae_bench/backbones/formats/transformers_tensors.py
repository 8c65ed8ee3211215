"""What a table of names does not say of transformers' encoders: tensors reshaped, left out or told apart.

Each function changes tensors that already have timm's names (see `mae_bench.backbones.formats.transformers`).
"""

from __future__ import annotations

import math

from torch import Tensor

from mae_bench.backbones.formats.clip import as_rows, as_tables
from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.formats.names import rename
from mae_bench.backbones.report import Entry

_KERNEL = "patch_embed.proj.weight"


def kernel_of_rows(found: Recognised) -> None:
    """A kernel (D, p*p*3), pixels before channels, as (D, 3, p, p); other tables as `as_tables`."""
    as_tables(found)
    kernel = found.encoder.get(_KERNEL)
    if kernel is not None and kernel.ndim == 2:
        side = math.isqrt(kernel.shape[1] // 3)
        if 3 * side * side == kernel.shape[1]:
            pixels = kernel.unflatten(1, (side, side, 3))
            found.encoder[_KERNEL] = pixels.permute(0, 3, 1, 2).contiguous()


def rows_of_kernel(encoder: State) -> dict[str, Tensor]:
    """The way back of `kernel_of_rows`."""
    return {**as_rows(encoder), _KERNEL: encoder[_KERNEL].permute(0, 2, 3, 1).flatten(1)}


def gates(found: Recognised) -> None:
    """A gated MLP's projection up is `fc1_x` beside its gate, `fc1` of an MLP without one.

    A model without registers has a tensor of none all the same, which is dropped.
    """
    empty = found.encoder.get("reg_token")
    if empty is not None and empty.numel() == 0:
        _drop(found, "reg_token", "no registers")
    for own in list(found.encoder):
        module, _, leaf = own.rpartition(".mlp.fc1.")
        if module and f"{module}.mlp.fc1_g.{leaf}" in found.encoder:
            rename(found, own, f"{module}.mlp.fc1_x.{leaf}")


def one_norm(found: Recognised) -> None:
    """BEiT's norm where there is no final one: the one after pooling, else that of the prediction head."""
    kept = any(name.startswith("norm.") for name in found.encoder)
    pooled = any(name.startswith("fc_norm.") for name in found.encoder)
    for own in [name for name in found.encoder if name.startswith(("fc_norm.", "layernorm."))]:
        place, leaf = own.split(".", 1)
        if kept or (pooled and place == "layernorm"):
            _drop(found, own, "norm of the head")
        else:
            rename(found, own, f"norm.{leaf}")


def _drop(found: Recognised, own: str, reason: str) -> None:
    tensor = found.encoder.pop(own)
    found.dropped.append(Entry(found.renamed.pop(own, own), tuple(tensor.shape), reason))
