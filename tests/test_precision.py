"""What `auto` precision means, and the attention that goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from mae_bench import precision
from mae_bench.errors import MaeBenchError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", "bf16"), ("fpu amx_bf16", "bf16"), ("fpu avx2", "fp32")],
)
def test_auto_on_a_cpu(flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "Path", lambda _: info)
    assert precision.resolve("auto", CPU) == expected


def test_auto_where_nothing_is_known_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "missing")
    assert precision.resolve("auto", CPU) == "fp32"


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")])
def test_auto_on_a_gpu(capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.resolve("auto", torch.device("cuda")) == expected


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(MaeBenchError, match="fp16 needs a CUDA device, this is cpu"):
        precision.resolve("fp16", CPU)


def test_autocast_computes_in_the_precision() -> None:
    matrix = torch.ones(4, 4)
    with precision.autocast("bf16", CPU):
        assert (matrix @ matrix).dtype is torch.bfloat16
    with precision.autocast("fp32", CPU):
        assert (matrix @ matrix).dtype is torch.float32


def test_attention_is_plain_for_bf16_on_a_cpu_and_computes_the_same() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    images = torch.randn(2, 3, 32, 32)
    found = {}
    for name in ("fp32", "bf16"):
        precision.suit_attention(vit, CPU, name)
        assert {block.attn.fused_attn for block in vit.blocks} == {name == "fp32"}
        found[name] = vit(images)
    torch.testing.assert_close(found["fp32"], found["bf16"], rtol=1e-4, atol=1e-5)
    precision.suit_attention(vit, torch.device("cuda"), "bf16")
    assert all(block.attn.fused_attn for block in vit.blocks)
