"""What a table of names does not say of transformers' encoders: tensors reshaped, joined or told apart.

Each function changes tensors that already have timm's names (see `mae_bench.backbones.formats.transformers`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Recognised
from mae_bench.backbones.formats.spelling import join
from mae_bench.backbones.report import Entry


def as_tables(found: Recognised) -> None:
    """Class token (D,) and position embeddings (P+N, D) as (1, 1, D) and (1, P+N, D)."""
    token, table = found.encoder.get("cls_token"), found.encoder.get("pos_embed")
    if token is not None and token.ndim == 1:
        found.encoder["cls_token"] = token[None, None]
    if table is not None and table.ndim == 2:
        found.encoder["pos_embed"] = table[None]


def as_rows(state: dict[str, Tensor]) -> None:
    """The way back of `as_tables`."""
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"][0, 0]
    state["pos_embed"] = state["pos_embed"][0]


def kernel_of_rows(found: Recognised) -> None:
    """A kernel (D, p*p*3), pixels before channels, as (D, 3, p, p); other tables as `as_tables`."""
    as_tables(found)
    kernel = found.encoder.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 2:
        side = math.isqrt(kernel.shape[1] // 3)
        if 3 * side * side == kernel.shape[1]:
            pixels = kernel.unflatten(1, (side, side, 3))
            found.encoder["patch_embed.proj.weight"] = pixels.permute(0, 3, 1, 2).contiguous()


def rows_of_kernel(state: dict[str, Tensor]) -> None:
    """The way back of `kernel_of_rows`."""
    as_rows(state)
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = kernel.permute(0, 2, 3, 1).flatten(1)


def registers(found: Recognised) -> None:
    """With registers, the class token's position goes into the class token, as timm has it."""
    encoder = found.encoder
    token, table = encoder.get("cls_token"), encoder.get("pos_embed")
    if "reg_token" not in encoder or token is None or table is None:
        return
    if token.ndim != 3 or table.ndim != 3 or token.shape[2] != table.shape[2]:
        return
    encoder["cls_token"] = token.float() + table[:, :1].float()
    encoder["pos_embed"] = table[:, 1:]
    found.renamed["cls_token"] += f" + {found.renamed['pos_embed']}"


def packed(state: dict[str, Tensor]) -> None:
    """The way back of `unpacked`: the class token has its position in it, so the table has zeros there."""
    if "reg_token" in state:
        table = state["pos_embed"]
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    for name in [name for name in state if name.endswith(".mlp.fc1.weight")]:
        module = name.removesuffix(".fc1.weight")
        if state[name].shape[0] == 2 * state[f"{module}.fc2.weight"].shape[1]:
            for part, new in (("fc1", "packed"), ("fc2", "unpacked")):
                for leaf in ("weight", "bias"):
                    state[f"{module}.{new}.{leaf}"] = state.pop(f"{module}.{part}.{leaf}")


def unpacked(found: Recognised) -> None:
    """DINOv2's SwiGLU under timm's names, then as `registers`."""
    for own in [name for name in found.encoder if ".mlp.gate." in name]:
        join(found, [own, own.replace(".mlp.gate.", ".mlp.up.")], own.replace(".mlp.gate.", ".mlp.packed."))
    for own in list(found.encoder):
        new = own.replace(".mlp.packed.", ".mlp.fc1.").replace(".mlp.unpacked.", ".mlp.fc2.")
        if new != own and new not in found.encoder:
            found.encoder[new] = found.encoder.pop(own)
            found.renamed[new] = found.renamed.pop(own)
    registers(found)


def gates(found: Recognised) -> None:
    """A gated MLP's projection up is `fc1_x` beside its gate, `fc1` of an MLP without one.

    A model without registers has a tensor of none all the same, which is dropped.
    """
    empty = found.encoder.get("reg_token")
    if empty is not None and empty.numel() == 0:
        name = found.renamed.pop("reg_token")
        found.dropped.append(Entry(name, tuple(empty.shape), "no registers"))
        del found.encoder["reg_token"]
    for own in list(found.encoder):
        module, _, leaf = own.rpartition(".mlp.fc1.")
        if module and f"{module}.mlp.fc1_g.{leaf}" in found.encoder:
            new = f"{module}.mlp.fc1_x.{leaf}"
            found.encoder[new] = found.encoder.pop(own)
            found.renamed[new] = found.renamed.pop(own)


def one_norm(found: Recognised) -> None:
    """BEiT's norm where there is no final one: the one after pooling, else that of the prediction head."""
    kept = any(name.startswith("norm.") for name in found.encoder)
    pooled = any(name.startswith("fc_norm.") for name in found.encoder)
    for own in [name for name in found.encoder if name.startswith(("fc_norm.", "layernorm."))]:
        place, leaf = own.split(".", 1)
        tensor = found.encoder[own]
        if kept or (pooled and place == "layernorm"):
            found.dropped.append(Entry(found.renamed.pop(own, own), tuple(tensor.shape), "norm of the head"))
        else:
            found.encoder[f"norm.{leaf}"] = tensor
            found.renamed[f"norm.{leaf}"] = found.renamed.pop(own, own)
        del found.encoder[own]


def undivided(state: dict[str, Tensor]) -> None:
    """The way back of `gates`."""
    for own in [name for name in state if ".mlp.fc1_x." in name]:
        state[own.replace(".mlp.fc1_x.", ".mlp.fc1.")] = state.pop(own)
