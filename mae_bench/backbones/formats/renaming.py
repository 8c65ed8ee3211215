"""Names of a checkpoint as names of an encoder: what is left behind and why, and what is called otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.report import Entry
from mae_bench.errors import MaeBenchError


@dataclass(frozen=True)
class Naming:
    """How the names of a format become timm's.

    Attributes:
        prefix: what stands before the encoder's names.
        dropped: pattern of whole names in the file -> why those are left behind.
        renamed: pattern of whole names without prefix -> what they are called, as in `re.sub`; the first
            that matches counts.
    """

    prefix: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    def read(self, state: State, words: str) -> Recognised:
        """The encoder under its new names; what no pattern knows keeps its name and stays.

        Args:
            words: what the format is.

        Raises:
            MaeBenchError: two tensors of the file would have the same name.
        """
        found = Recognised(words, {})
        for name, tensor in state.items():
            reason = next((why for pattern, why in self.dropped.items() if re.fullmatch(pattern, name)), None)
            if reason is not None:
                found.dropped.append(Entry(name, tuple(tensor.shape), reason))
                continue
            new = self._renamed(name.removeprefix(self.prefix))
            if new in found.encoder:
                raise MaeBenchError(
                    f"the checkpoint ({words}) holds two tensors for {new}: "
                    f"{found.renamed.get(new, new)} and {name}; keep one of them"
                )
            found.encoder[new] = tensor
            if new != name:
                found.renamed[new] = name
        return found

    def _renamed(self, name: str) -> str:
        for pattern, new in self.renamed.items():
            match = re.fullmatch(pattern, name)
            if match:
                return match.expand(new)
        return name


def rename(found: Recognised, old: str, new: str) -> None:
    """Let a tensor of the encoder be called `new`, and remember what the file calls it."""
    found.encoder[new] = found.encoder.pop(old)
    found.renamed[new] = found.renamed.pop(old, old)


def norm_from_fc_norm(found: Recognised) -> Recognised:
    """Where the norm was trained after pooling, let it be the final norm of the tokens (in place)."""
    if not any(name.startswith("norm.") for name in found.encoder):
        for name in [name for name in found.encoder if name.startswith("fc_norm.")]:
            rename(found, name, name.removeprefix("fc_"))
    return found


def in_vit_names(found: Recognised) -> Recognised:
    """BEiT's blocks without relative positions as those of timm's VisionTransformer, in place and exactly.

    BEiT gives queries and values a bias and keys none: together they are ``qkv.bias`` with zeros between.
    Its ``gamma_1`` and ``gamma_2`` are timm's ``ls1.gamma`` and ``ls2.gamma``.
    """
    for name in list(found.encoder):
        scale = re.fullmatch(r"(blocks\.\d+)\.gamma_([12])", name)
        if scale:
            rename(found, name, f"{scale[1]}.ls{scale[2]}.gamma")
        block = re.fullmatch(r"(blocks\.\d+\.attn)\.q_bias", name)
        if block and f"{block[1]}.v_bias" in found.encoder:
            parts = (name, f"{block[1]}.v_bias")
            queries, values = (found.encoder.pop(part) for part in parts)
            found.encoder[f"{block[1]}.qkv.bias"] = torch.cat([queries, torch.zeros_like(values), values])
            found.renamed[f"{block[1]}.qkv.bias"] = " + ".join(
                found.renamed.pop(part, part) for part in parts
            )
    return found
