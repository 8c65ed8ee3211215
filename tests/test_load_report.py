"""What `mae-bench check --backbone` tells of a load, and what it refuses, with the option that would allow exactly that."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from typer.testing import CliRunner

from mae_bench import cli
from mae_bench.backbones import load_backbone
from mae_bench.backbones.report import Entry, LoadReport
from mae_bench.errors import MaeBenchError
from tests.colours import KNN, write_colours, write_recipe

ARCH = "arch=vit_tiny_patch16_224&img_size=32&patch_size=8&embed_dim=32&depth=2&num_heads=2"


def encoder() -> dict[str, Tensor]:
    """Tensors of a small ViT in timm's names, no two of them equal."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(state: Any, name: str = "mine.pth") -> str:
    torch.save(state, name)
    return name


def check(spec: str, *more: str) -> list[str]:
    done = CliRunner().invoke(cli.app, ["check", "--backbone", spec, *more])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def refused(spec: str) -> str:
    """The one line of error of `check`, which leaves with status 2."""
    done = CliRunner().invoke(cli.app, ["check", "--backbone", spec])
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


# ---------------------------------------------------------------- what is told


def test_all_of_a_load_is_told(workplace: Path) -> None:
    state = {**encoder(), "head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}
    state["norm.bias"] = state["norm.bias"].half()
    state["pos_embed"] = torch.randn(1, 1 + 9, 32)
    spec = f"file:{saved({'model': state, 'epoch': 3})}?{ARCH}"
    lines = check(spec, "--report", "report.json")
    assert lines[0] == spec
    told = dict(re.fullmatch(r"  (\w+) +(.*)", line).groups() for line in lines[1:-1])  # type: ignore[union-attr]
    report = json.loads(Path("report.json").read_text())
    total = report["total_parameters"]
    assert told["source"] == "mine.pth"
    assert told["format"] == "ViT classifier"
    assert told["arch"] == "vit_tiny_patch16_224"
    assert told["matched"] == "28: cls_token, patch_embed.proj.weight, patch_embed.proj.bias and 25 more"
    assert told["resized"] == "1: pos_embed (3x3 -> 4x4)"
    assert told["converted"] == "1: norm.bias (float16 -> float32)"
    assert told["dropped"] == "2: head.weight, head.bias (head)"
    assert "missing" not in told
    assert "unexpected" not in told
    assert told["coverage"] == f"{total:,} of {total:,} parameters, 100.0 %"
    assert (
        told["digest"]
        == f"sha256 {report['digest_after']} as loaded, {report['digest_before']} in the source"
    )
    assert told["input"] == "32x32 pixels, 3 channels, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert told["family"].endswith(": 2 blocks, 32 wide, patches of 8x8, a class token")
    assert told["can"] == "tokens, maps of one resolution, attention in windows, freezing of half a block"
    assert told["forward"] == "1x3x32x32 -> prefix 1x1x32, patches 1x4x4x32"
    assert lines[-1] == "load report saved in report.json"


def test_the_report_is_saved_whole(workplace: Path) -> None:
    spec = f"file:{saved(encoder())}?{ARCH}"
    check(spec, "--report", "deep/report.json")
    saved_report = json.loads(Path("deep/report.json").read_text())
    assert saved_report["schema"] == 2
    assert saved_report["spec"] == spec
    assert saved_report["coverage"] == 100
    assert len(saved_report["matched"]) == len(encoder())
    assert saved_report["matched"][0] == {"name": "cls_token", "shape": [1, 1, 32], "note": ""}
    assert saved_report["allowed"] == []
    assert saved_report["family"] != ""


def test_untrained_weights_are_told_as_such(workplace: Path) -> None:
    lines = check("random:vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=32&depth=2&num_heads=2")
    (coverage,) = [line for line in lines if line.startswith("  coverage")]
    assert re.fullmatch(r"  coverage    none of [\d,]+ parameters: drawn at random", coverage)


def test_a_hierarchical_backbone(workplace: Path) -> None:
    lines = check("random:test_convnext")
    (forward,) = [line for line in lines if line.startswith("  forward")]
    assert forward.startswith("  forward     1x3x160x160 -> ")
    assert "maps 1x24x40x40, 1x32x20x20, 1x48x10x10, 1x64x5x5" in forward
    (family,) = [line for line in lines if line.startswith("  family")]
    assert family.endswith(" blocks, maps 24 32 48 64 wide at strides 4 8 16 32")


def test_only_a_whole_load_reads_as_all() -> None:
    report = LoadReport("s", "f", "x", "a", loaded_parameters=99_999, total_parameters=100_000)
    assert "; 99.9 % of 0.1 M parameters" in report.summary()
    report.loaded_parameters = 100_000
    assert "; 100.0 % of 0.1 M parameters" in report.summary()


def test_groups_of_tensors_are_told_by_reason() -> None:
    report = LoadReport("s", "f", "x", "a")
    report.dropped = [Entry(f"decoder.{i}", (1,), "decoder") for i in range(5)] + [
        Entry("head.bias", (1,), "head")
    ]
    report.converted = [Entry(f"w{i}", (1,), f"from v{i}") for i in range(5)]
    lines = report.lines()
    assert "  dropped     6: decoder.0, decoder.1, decoder.2 and 2 more (decoder); head.bias (head)" in lines
    assert "  converted   5: w0 (from v0), w1 (from v1), w2 (from v2) and 2 more" in lines


# ---------------------------------------------------------------- what is refused outright


def test_weights_of_vit_large_for_vit_base(workplace: Path) -> None:
    with torch.device("meta"):
        large = timm.create_model("vit_large_patch16_224", num_classes=0).state_dict()
    # One stored number for each tensor, so that the file is small.
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in large.items()}
    message = refused(f"file:{saved({'model': state})}?arch=vit_base_patch16_224")
    assert "mine.pth does not fit vit_base_patch16_224: the checkpoint is 1024 wide and 24 deep" in message
    assert "(ViT-L?)" in message
    assert "768 wide and 12 deep" in message


def truncated() -> None:
    whole = Path(saved(encoder())).read_bytes()
    Path("mine.pth").write_bytes(whole[: len(whole) // 2])


def classifier_only() -> None:
    saved({"model": {"head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}})


def web_page() -> None:
    Path("mine.pth").write_text("<!DOCTYPE html><html><body>Log in to download</body></html>")


def malicious() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch ran",)

    saved({"model": encoder(), "args": Evil()})
    Path("proof").write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, "mine.pth is truncated ("),
        (classifier_only, "mine.pth holds only a classification head: its 2 tensors are head.weight, head.bias"),
        (web_page, "mine.pth is a web page saved under a checkpoint's name: "),
        (malicious, "mine.pth holds more than weights (posix.system), and unpickling that could run code, so it was "
         "not read"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_a_backbone(
    write: Callable[[], None], message: str, workplace: Path
) -> None:
    write()
    assert f"error: {message}" in refused(f"file:mine.pth?{ARCH}")
    assert not Path("ran").exists()
    if write is malicious:
        pickle.loads(Path("proof").read_bytes())
        assert Path("ran").exists(), "the pickle of this test is not malicious at all"


# ---------------------------------------------------------------- exactly what is allowed


def option_in(message: str) -> str:
    """The one option that an error offers."""
    (option,) = set(re.findall(r"allow=[\w.,-]+\w", message))
    return option


FEW = {f"projector.{i}.weight": torch.ones(2, i + 1) for i in range(2)}
MANY = {f"projector.{i}.weight": torch.ones(2, i + 1) for i in range(40)}


@pytest.mark.parametrize("extra", [FEW, MANY], ids=["few", "many"])
def test_unexpected_tensors_are_refused_until_exactly_they_are_allowed(
    extra: dict[str, Tensor], workplace: Path
) -> None:
    spec = f"file:{saved({**encoder(), **extra})}?{ARCH}"
    message = refused(spec)
    assert f"{len(extra)} unexpected (projector.0.weight, projector.1.weight" in message
    option = option_in(message)
    if extra is FEW:
        assert option == "allow=projector.0.weight,projector.1.weight"
    else:
        assert re.fullmatch(r"allow=unexpected-[0-9a-f]{8}", option)

    report = load_backbone(f"{spec}&{option}").report
    assert sorted(entry.name for entry in report.allowed) == sorted(extra)
    assert all("unexpected" in entry.note for entry in report.allowed)
    assert report.unexpected == []
    assert report.coverage == 100
    assert f"{len(extra)} allowed" in report.summary()
    assert any(
        line.startswith(f"  allowed     {len(extra)}: projector.0.weight")
        for line in check(f"{spec}&{option}")
    )

    saved({**encoder(), **extra, "one.more": torch.ones(1)})
    again = refused(f"{spec}&{option}")
    assert "one.more" in again or f"{len(extra) + 1} unexpected" in again
    assert option_in(again) != option


def test_what_is_allowed_must_be_there(workplace: Path) -> None:
    spec = f"file:{saved(encoder())}?{ARCH}&allow=projector.weight"
    assert "projector.weight" in refused(spec)


def test_missing_tensors_lower_the_coverage(workplace: Path) -> None:
    state = encoder()
    gone = state.pop("blocks.1.mlp.fc2.weight").numel()
    spec = f"file:{saved(state)}?{ARCH}"
    message = refused(spec)
    assert "1 missing (blocks.1.mlp.fc2.weight)" in message
    option = option_in(message)
    report = load_backbone(f"{spec}&{option}").report
    assert [entry.name for entry in report.allowed] == ["blocks.1.mlp.fc2.weight"]
    assert "missing" in report.allowed[0].note
    assert report.total_parameters - report.loaded_parameters == gone
    assert report.coverage < 100
    coverage = f"{report.loaded_parameters:,} of {report.total_parameters:,} parameters, {report.percent()} %"
    assert f"  coverage    {coverage}" in check(f"{spec}&{option}")
    del state["norm.weight"]
    saved(state)
    assert "norm.weight" in refused(f"{spec}&{option}")


def test_what_is_missing_and_allowed_is_drawn_from_the_seed(workplace: Path) -> None:
    state = encoder()
    del state["blocks.1.mlp.fc2.weight"]
    spec = f"file:{saved(state)}?{ARCH}&allow=blocks.1.mlp.fc2.weight"
    torch.manual_seed(1)
    first = load_backbone(spec).digest
    torch.manual_seed(2)
    assert load_backbone(spec).digest == first


# ---------------------------------------------------------------- the command


def test_check_needs_something_to_check(workplace: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check"])
    assert (done.exit_code, done.stderr) == (
        2,
        "error: say what to check: a recipe, --backbone SPEC, or both\n",
    )


def test_a_recipe_saves_the_report_too(workplace: Path) -> None:
    spec = f"file:{saved(encoder())}?{ARCH}"
    arguments = [
        "check",
        write_recipe(write_colours(workplace), KNN),
        "data.image_size=[32,32]",
        "data.evaluation.resize=32",
        "--data-root",
        str(workplace),
        "--backbone",
        spec,
        "--report",
        "r.json",
    ]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "load report saved in r.json" in done.stdout.splitlines()
    assert json.loads(Path("r.json").read_text())["digest_after"] == load_backbone(spec).digest
    assert not Path("runs").exists()


def test_a_recipe_without_backbone_has_no_report(workplace: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check", "demo/mae", "--report", "r.json"])
    assert (done.exit_code, done.stderr) == (
        2, "error: demo/mae takes no backbone, so there is no load report to save\n",
    )  # fmt: skip


def test_another_tensor_than_the_allowed_one_is_no_reason_to_load(workplace: Path) -> None:
    with pytest.raises(MaeBenchError, match="unexpected"):
        load_backbone(f"file:{saved({**encoder(), **FEW})}?{ARCH}&allow=projector.0.weight")


# ---------------------------------------------------------------- what a newcomer runs into


def test_tensors_without_values_are_one_sentence(workplace: Path) -> None:
    state = encoder()
    state["norm.weight"] = state["norm.weight"].to_sparse()
    torch.save(state, workplace / "sparse.pth")
    with pytest.raises(
        MaeBenchError, match=r"norm\.weight is stored in a sparse layout; save it as an ordinary"
    ):
        load_backbone(f"file:{workplace}/sparse.pth?{ARCH}")
    torch.save({name: tensor.to("meta") for name, tensor in encoder().items()}, workplace / "meta.pth")
    with pytest.raises(MaeBenchError, match="is stored without values"):
        load_backbone(f"file:{workplace}/meta.pth?{ARCH}")


def test_paths_in_the_arguments_of_a_training_are_harmless(workplace: Path) -> None:
    arguments = argparse.Namespace(output=Path("runs/one"), data=Path("/data"))
    torch.save({"model": encoder(), "args": arguments}, workplace / "args.pth")
    assert load_backbone(f"file:{workplace}/args.pth?{ARCH}").report.coverage == 100


def test_positions_without_the_class_token_name_the_right_way_out(workplace: Path) -> None:
    state = encoder()
    state["pos_embed"] = state["pos_embed"][:, 1:]
    torch.save(state, workplace / "patches.pth")
    with pytest.raises(
        MaeBenchError, match="no_embed_class=true if prefix tokens have no position of their own"
    ):
        load_backbone(f"file:{workplace}/patches.pth?{ARCH}")
    loaded = load_backbone(f"file:{workplace}/patches.pth?{ARCH}&no_embed_class=true")
    assert loaded.report.coverage == 100
    # Names that do not fit come first: this file is of another architecture.
    state["reg_token"] = torch.zeros(1, 4, state["pos_embed"].shape[2])
    torch.save(state, workplace / "registers.pth")
    with pytest.raises(MaeBenchError, match=r"1 unexpected \(reg_token\)"):
        load_backbone(f"file:{workplace}/registers.pth?{ARCH}")


def test_a_mean_of_bytes_is_refused(workplace: Path) -> None:
    with pytest.raises(MaeBenchError, match="mean is on a scale of 0 to 1, not 127,127,127"):
        load_backbone("random:vit_tiny_patch16_224?img_size=32&mean=127,127,127&std=50,50,50")
