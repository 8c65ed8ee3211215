"""Checkpoints: read safely, recognised by their keys, fitted exactly, and reported."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from mae_bench.backbones import Backbone, load_backbone
from mae_bench.backbones.weights import digest, read_checkpoint, save_encoder
from mae_bench.errors import MaeBenchError

# A small ViT: 32-pixel images, 8-pixel patches, width 32, two blocks of two heads.
ARCH = "arch=vit_tiny_patch16_224&img_size=32&patch_size=8&embed_dim=32&depth=2&num_heads=2"
WIDTH, DECODER = 32, 16


def block(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one transformer block, the same in every release."""
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    for layer, (outputs, inputs) in {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }.items():
        shapes |= {f"{name}.{layer}.weight": (outputs, inputs), f"{name}.{layer}.bias": (outputs,)}
    return shapes


TRUNK: dict[str, tuple[int, ...]] = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, 17, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, 8, 8),
    "patch_embed.proj.bias": (WIDTH,),
    **block("blocks.0", WIDTH),
    **block("blocks.1", WIDTH),
}
NORM = {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
FC_NORM = {"fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,)}
HEAD = {"head.weight": (5, WIDTH), "head.bias": (5,)}
MAE_DECODER: dict[str, tuple[int, ...]] = {
    "mask_token": (1, 1, DECODER),
    "decoder_embed.weight": (DECODER, WIDTH),
    "decoder_embed.bias": (DECODER,),
    "decoder_pos_embed": (1, 17, DECODER),
    **block("decoder_blocks.0", DECODER),
    "decoder_norm.weight": (DECODER,),
    "decoder_norm.bias": (DECODER,),
    "decoder_pred.weight": (192, DECODER),
    "decoder_pred.bias": (192,),
}


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Values that depend on the place alone: the i-th key in sorted order holds 0.2 sin(0.013 n^2 + i)."""
    state = {}
    for index, name in enumerate(sorted(shapes)):
        count = torch.arange(int(np.prod(shapes[name])), dtype=torch.float64)
        values = (count.square() * 0.013 + index).sin() * 0.2
        if "norm" in name and name.endswith("weight"):
            values = values + 1
        state[name] = values.reshape(shapes[name]).float()
    return state


def sample_images() -> Tensor:
    count = torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)
    return (count.square() * 0.007).cos().reshape(2, 3, 32, 32).float()


def saved(path: Path, payload: Any, **options: Any) -> Path:
    torch.save(payload, path, **options)
    return path


def load(path: Path, arch: str = ARCH, **options: Any) -> Backbone:
    return load_backbone(f"file:{path}?{arch}", **options).eval().requires_grad_(False)


def check(values: Tensor, first: Iterable[float], last: Iterable[float], total: float) -> None:
    """The first eight and last three numbers, and the sum of magnitudes, as the reference printed them."""
    torch.testing.assert_close(values.flatten()[:8], torch.tensor(list(first)), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(values.flatten()[-3:], torch.tensor(list(last)), rtol=1e-5, atol=2e-6)
    assert float(values.double().abs().sum()) == pytest.approx(total, rel=2e-6)


# ---------------------------------------------------------------- the official MAE formats
#
# The numbers come from running facebookresearch/mae (commit efb2a80) on CPU in fp32: its
# MaskedAutoencoderViT.forward_encoder with mask_ratio 0, its tokens put back in order, and its
# models_vit.VisionTransformer.forward_features with and without global_pool; both of the size above
# (decoder one block of width 16, two heads), with the weights of `filled` over all keys of the respective
# state_dict, on `sample_images`.


def test_official_pretraining_checkpoint_with_decoder(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", {"model": filled({**TRUNK, **NORM, **MAE_DECODER})})
    backbone = load(file)
    prefix, patches = backbone.tokens(sample_images())
    check(
        prefix,
        [-1.3870958, -0.5166252, -0.1026456, -0.9915867, 0.0191941, -1.0843266, 1.6412083, -0.8756903],
        [0.0779839, -0.8784233, -0.1274187],
        51.2118,
    )
    check(
        patches,
        [-2.6848018, 0.3521072, 1.1179502, 1.3019292, 0.2611305, -0.0380504, 0.0748887, 0.8466564],
        [-0.2257412, -0.435242, -0.0721516],
        832.7326,
    )
    report = backbone.report
    assert report.format == "MAE pretraining checkpoint with decoder"
    assert {entry.name for entry in report.dropped} == set(MAE_DECODER)
    assert {entry.name for entry in report.matched} == {*TRUNK, *NORM}
    assert report.coverage == 100
    assert report.digest_before == report.digest_after == backbone.digest


def test_official_pretraining_checkpoint_without_decoder(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", {"model": filled({**TRUNK, **NORM})})
    backbone = load(file)
    prefix, patches = backbone.tokens(sample_images())
    check(
        prefix,
        [-1.069441, 0.7223521, -0.6205159, -0.9187187, -0.5456749, -1.0264102, 1.4576231, -2.0481961],
        [-0.2752429, -1.1697687, -1.4814317],
        60.6143,
    )
    check(
        patches,
        [-1.4121946, -0.052672, -0.9572014, -0.7281053, -0.5016326, 0.0284262, 1.0791986, -0.5183719],
        [-0.3769458, 0.8138527, 0.5217276],
        896.1179,
    )
    assert backbone.report.format == "ViT encoder (MAE pretraining or timm)"
    assert backbone.report.dropped == backbone.report.converted == backbone.report.resized == []
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert any("ImageNet's mean" in note for note in backbone.report.notes)


def test_official_fine_tuned_checkpoint_pooled(tmp_path: Path) -> None:
    state = filled({**TRUNK, **FC_NORM, **HEAD})
    backbone = load(saved(tmp_path / "x", {"model": state}))
    pooled = backbone.trunk(sample_images(), backbone.depth)[:, 1:].mean(1)
    check(
        backbone.vit.norm(pooled),
        [-2.0973809, -0.7165263, 0.705837, -1.4181129, 0.8893471, -1.7587777, 0.4368537, -1.3880577],
        [-0.463861, -1.2928717, 0.2394928],
        57.9104,
    )
    report = backbone.report
    assert report.format == "average-pooled ViT (fine-tuned MAE or timm)"
    assert [(e.name, e.note) for e in report.converted] == [
        ("norm.weight", "from fc_norm.weight"),
        ("norm.bias", "from fc_norm.bias"),
    ]
    assert {entry.name for entry in report.dropped} == set(HEAD)
    assert "2 converted (norm)" in report.summary()
    assert "2 dropped (head)" in report.summary()


def test_official_fine_tuned_checkpoint_with_class_token(tmp_path: Path) -> None:
    state = filled({**TRUNK, **NORM, **HEAD})
    backbone = load(saved(tmp_path / "x", {"model": state, "epoch": 3, "optimizer": {}}))
    check(
        backbone.tokens(sample_images())[0],
        [-1.4157184, -1.8232869, -0.2457958, -1.1111217, 0.8926423, -1.4927433, -0.2915626, 0.1294472],
        [0.2603004, -0.4354054, 0.6086693],
        51.1537,
    )
    assert backbone.report.format == "ViT classifier"
    assert "not read: epoch, optimizer" in backbone.report.notes


def test_linear_probe_head_is_dropped(tmp_path: Path) -> None:
    head = {
        "head.0.running_mean": torch.zeros(WIDTH),
        "head.0.running_var": torch.ones(WIDTH),
        "head.0.num_batches_tracked": torch.tensor(7),
        "head.1.weight": torch.zeros(5, WIDTH),
        "head.1.bias": torch.zeros(5),
    }
    report = load(saved(tmp_path / "x", {"model": {**filled({**TRUNK, **NORM}), **head}})).report
    assert {entry.name for entry in report.dropped} == set(head)


# ---------------------------------------------------------------- containers


def encoder() -> dict[str, Tensor]:
    return filled({**TRUNK, **NORM})


@pytest.mark.parametrize(
    ("payload", "wrapper", "prefix"),
    [
        (lambda state: state, "", ""),
        (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, name="a")}, "model", ""),
        (lambda state: {"state_dict": state, "epoch": 3, "best": np.float64(83.1)}, "state_dict", ""),
        (lambda state: {"model": {f"module.{k}": v for k, v in state.items()}}, "model", "module."),
        (
            lambda state: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
            "state_dict",
            "_orig_mod.module.",
        ),
        (lambda state: {"model": {"state_dict": state}}, "model.state_dict", ""),
        (lambda state: {k: torch.nn.Parameter(v) for k, v in state.items()}, "", ""),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_prefixes(
    tmp_path: Path, payload: Callable[[Any], Any], wrapper: str, prefix: str, zipped: bool
) -> None:
    file = saved(tmp_path / "any.name", payload(encoder()), _use_new_zipfile_serialization=zipped)
    state, info = read_checkpoint(file)
    assert (info.container, info.wrapper, info.prefix) == ("torch", wrapper, prefix)
    assert digest(state) == digest(encoder())


# ---------------------------------------------------------------- one network of several


def named(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def wrong() -> dict[str, Tensor]:
    """A network that must not be taken."""
    return {name: torch.full_like(tensor, 9.0) for name, tensor in encoder().items()}


def taken(path: Path, payload: Any, key: str | None = None) -> Any:
    """Where the right network lay, once that is what was read."""
    state, info = read_checkpoint(saved(path, payload), key)
    assert digest(state) == digest(encoder())
    return info


@pytest.mark.parametrize(
    "wrapper",
    [
        *("model", "state_dict", "network", "net", "module", "backbone", "encoder", "params"),
        *("model_state_dict", "teacher", "student", "target_encoder", "model_ema", "state_dict_ema"),
        *("ema", "ema_state_dict", "ema_model", "params_ema"),
    ],
)
def test_every_wrapper_alone(tmp_path: Path, wrapper: str) -> None:
    info = taken(tmp_path / "x", {wrapper: encoder(), "epoch": 3, "center": torch.zeros(1)})
    assert (info.wrapper, info.ignored, info.notes) == (wrapper, ("epoch", "center"), ())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("teacher", "student"),
        ("target_encoder", "encoder"),
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("params", "params_ema"),
        ("network", "ema"),
    ],
)
def test_of_two_networks_the_rule_takes_one_and_the_key_either(
    tmp_path: Path, first: str, second: str
) -> None:
    info = taken(tmp_path / "x", {second: wrong(), first: encoder(), "epoch": 3})
    assert (info.wrapper, info.ignored) == (first, (second, "epoch"))
    assert info.notes == (
        f"of several networks in the file '{first}' was taken; another one is by key={second}",
    )
    info = taken(tmp_path / "y", {first: wrong(), second: encoder()}, key=second)
    assert (info.wrapper, info.notes) == (second, ())


def test_networks_that_no_rule_puts_in_order(tmp_path: Path) -> None:
    payload = {"model": wrong(), "teacher": encoder(), "student": wrong()}
    with pytest.raises(
        MaeBenchError, match=r"under 'model' and 'teacher' and 'student'; say which are meant"
    ):
        read_checkpoint(saved(tmp_path / "x", payload))
    taken(tmp_path / "y", payload, key="teacher")


def test_keys_lead_through_wrappers_and_names(tmp_path: Path) -> None:
    nested = {
        "model": {"teacher": named(wrong(), "module."), "student": named(encoder(), "module.")},
        "epoch": 1,
    }
    info = taken(tmp_path / "a", nested, key="model.student")
    assert (info.wrapper, info.prefix) == ("model.student", "module.")
    assert taken(tmp_path / "b", nested, key="student").wrapper == "model.student"
    flat = {"state_dict": {**named(wrong(), "module.base."), **named(encoder(), "module.momentum.net.")}}
    info = taken(tmp_path / "c", flat, key="momentum")
    assert (info.wrapper, info.prefix) == ("state_dict", "module.momentum.net.")
    assert info.ignored == (f"base ({len(encoder())} tensors)",)
    for key in ("state_dict.momentum.net", "state_dict.module.momentum"):
        assert taken(tmp_path / "d", flat, key=key).prefix == "module.momentum.net."
    whole = {"state_dict": named(encoder(), "backbone.")}
    assert taken(tmp_path / "e", whole, key="backbone").prefix == "backbone."


def test_a_payload_that_holds_itself_ends(tmp_path: Path) -> None:
    payload: dict[str, Any] = {"epoch": 3}
    payload["model"] = payload
    with pytest.raises(MaeBenchError, match="holds no weights; its entries are 'epoch', 'model'"):
        read_checkpoint(saved(tmp_path / "x", payload))
    payload["model"] = {"model": payload, "state_dict": encoder()}
    with pytest.raises(MaeBenchError, match="both 'model' and 'state_dict'"):
        read_checkpoint(saved(tmp_path / "y", payload))


def test_a_torch_file_with_another_ending(tmp_path: Path) -> None:
    info = taken(tmp_path / "model.safetensors", {"model": encoder()})
    assert (info.container, info.wrapper) == ("torch", "model")


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", {"teacher": encoder(), "student": encoder()})
    with pytest.raises(
        MaeBenchError,
        match=r"holds no network called 'techer'; did you mean 'teacher'; there is 'teacher', 'student', 'blocks'",
    ):
        read_checkpoint(file, key="techer")
    with pytest.raises(
        MaeBenchError, match=r"no network called 'ema'; there is 'model', 'cls_token', 'pos_embed'"
    ):
        read_checkpoint(
            saved(tmp_path / "y", {"model": {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1)}}),
            key="ema",
        )


@pytest.mark.parametrize("tower", ["model", "net", "network", "backbone", "encoder"])
def test_a_lightning_module(tmp_path: Path, tower: str) -> None:
    state = {
        **named(encoder(), f"{tower}."),
        "criterion.weight": torch.ones(5),
        "head.weight": torch.ones(5, WIDTH),
    }
    payload = {
        "epoch": 9,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "callbacks": {"EMA": {"weights": wrong()}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(1)}}}],
        "hyper_parameters": {"lr": 0.1},
    }
    info = taken(tmp_path / "x", payload)
    assert (info.wrapper, info.prefix) == ("state_dict", f"{tower}.")
    assert {"callbacks", "optimizer_states", "criterion (1 tensor)", "head (1 tensor)"} <= set(info.ignored)
    # Elsewhere a network beside others is left for the formats, which know what may be beside it.
    state_dict, info = read_checkpoint(saved(tmp_path / "y", {"state_dict": state}))
    assert set(state_dict) == set(state)
    assert info.prefix == ""


def test_names_within_wrapping_modules(tmp_path: Path) -> None:
    inner = {
        name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module."): tensor
        for name, tensor in encoder().items()
    }
    info = taken(tmp_path / "fsdp", {"model": named(inner, "_fsdp_wrapped_module.module.")})
    assert info.prefix == "_fsdp_wrapped_module.module."
    compiled = {
        name.replace("blocks.0.attn.", "blocks.0.attn._orig_mod."): tensor
        for name, tensor in encoder().items()
    }
    taken(tmp_path / "compiled", compiled)
    averaged = {"n_averaged": torch.tensor(7), **named(encoder(), "module.")}
    assert taken(tmp_path / "averaged", averaged).ignored == ("n_averaged",)
    wrapper = {
        "initted": torch.tensor(True),
        "step": torch.tensor(3),
        **named(encoder(), "ema_model."),
        **named(wrong(), "online_model."),
    }
    info = taken(tmp_path / "ema", wrapper)
    assert info.prefix == "ema_model."
    assert info.notes == (
        "of several networks in the file 'ema_model' was taken; another one is by key=online_model",
    )
    twice = {**encoder(), "_orig_mod.cls_token": torch.zeros(1)}
    with pytest.raises(MaeBenchError, match="two tensors of one name"):
        read_checkpoint(saved(tmp_path / "twice", twice))


def test_teacher_and_student_in_one_flat_network(tmp_path: Path) -> None:
    state = {
        **named(wrong(), "student.backbone."),
        **named(encoder(), "teacher.backbone."),
        "loss.center": torch.zeros(1, 3),
    }
    info = taken(tmp_path / "x", {"model": state})
    assert info.prefix == "teacher.backbone."
    assert info.notes == (
        "of several networks in the file 'teacher' was taken; another one is by key=student",
    )
    assert "loss (1 tensor)" in info.ignored
    assert taken(tmp_path / "y", {"model": state}, key="teacher").notes == ()


# ---------------------------------------------------------------- several files


def sharded(folder: Path, *, torch_files: bool = False) -> Path:
    """The encoder in two files beside an index, as the Hugging Face hub has it."""
    folder.mkdir(parents=True)
    end, names = ("bin" if torch_files else "safetensors"), list(encoder())
    weight_map = {}
    for number, part in enumerate((names[:7], names[7:]), start=1):
        file = f"{'pytorch_model' if torch_files else 'model'}-0000{number}-of-00002.{end}"
        tensors = {name: encoder()[name] for name in part}
        if torch_files:
            torch.save(tensors, folder / file)
        else:
            safetensors.torch.save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{'pytorch_model' if torch_files else 'model'}.{end}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("torch_files", [False, True])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_shards_are_put_together(tmp_path: Path, torch_files: bool, whole_folder: bool) -> None:
    index = sharded(tmp_path / "model", torch_files=torch_files)
    state, info = read_checkpoint(index.parent if whole_folder else index)
    assert digest(state) == digest(encoder())
    assert (info.container, info.path) == ("shards", index)


def test_a_folder_with_one_file_of_weights(tmp_path: Path) -> None:
    safetensors.torch.save_file(encoder(), tmp_path / "model.safetensors")
    assert digest(read_checkpoint(tmp_path)[0]) == digest(encoder())
    safetensors.torch.save_file(encoder(), tmp_path / "other.safetensors")
    with pytest.raises(MaeBenchError, match=r"holds 2 files without an index \(model\.safetensors, other"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.yaml").write_text("task: mae\n")
    with pytest.raises(MaeBenchError, match=r"folder of a run, not a checkpoint; it is loaded with run:"):
        read_checkpoint(tmp_path)


def test_shards_that_are_not_whole(tmp_path: Path) -> None:
    index = sharded(tmp_path / "missing")
    (index.parent / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MaeBenchError, match=r"1 of 2 files of weights are not there \(model-00002-of-00002"):
        read_checkpoint(index.parent)
    index.unlink()
    with pytest.raises(MaeBenchError, match=r"holds model-00001-of-00002\.safetensors without its index"):
        read_checkpoint(index.parent)

    index = sharded(tmp_path / "swapped")
    first, second = sorted(index.parent.glob("*.safetensors"))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(
        MaeBenchError, match=r"00001-of-00002\.safetensors (lacks|holds) .*, which by model\.safe"
    ):
        read_checkpoint(index)
    first.write_bytes(held[: len(held) // 2])
    with pytest.raises(MaeBenchError, match=r"00001-of-00002\.safetensors is a damaged or truncated"):
        read_checkpoint(index)

    index = sharded(tmp_path / "more")
    entries = json.loads(index.read_text())
    del entries["weight_map"]["cls_token"]
    index.write_text(json.dumps(entries))
    with pytest.raises(MaeBenchError, match=r"holds cls_token, which by .* is nowhere"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    "place", ["../outside.safetensors", "/etc/passwd", "..", "sub/inside.safetensors", ""]
)
def test_an_index_names_files_beside_it_and_no_others(tmp_path: Path, place: str) -> None:
    safetensors.torch.save_file(encoder(), tmp_path / "outside.safetensors")
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": dict.fromkeys(encoder(), place)}))
    with pytest.raises(MaeBenchError, match="is not the name of a file beside it, so it was not read"):
        read_checkpoint(index)


def test_an_index_leads_to_no_other_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors.index.json"}})
    )
    with pytest.raises(MaeBenchError, match="is not a checkpoint: it begins with"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize(
    "content",
    [
        '{"model_type": "vit"}',
        "[1, 2]",
        '{"error": "Repository not found"',
        '{"weight_map": "model.bin"}',
        '{"weight_map": {"a": 1}}',
    ],
)
def test_json_that_is_no_index(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text(content)
    with pytest.raises(MaeBenchError, match=r"is JSON or text, not weights|does not say which file"):
        read_checkpoint(path)


def test_a_distributed_checkpoint_is_called_one(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(MaeBenchError, match="distributed checkpoint; put it into one file with python -m"):
        read_checkpoint(tmp_path)


# ---------------------------------------------------------------- TorchScript


class Tower(torch.nn.Module):
    """Parameters, a buffer, a number that is kept as a tensor, a view and modules within modules."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
        self.turned = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x)


def scripted(path: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call TorchScript deprecated
        module = torch.jit.script(Tower().half())
        torch.jit.save(module, str(path))
    return module


def test_an_archive_of_torchscript_is_read_without_its_code(tmp_path: Path) -> None:
    module = scripted(tmp_path / "x.pt")
    state, info = read_checkpoint(tmp_path / "x.pt")
    assert info.container == "torchscript"
    assert digest(state) == digest(module.state_dict())


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """The same archive with other contents."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize("kind", ["torch", "torchscript"])
def test_a_zip_whose_pickle_calls_the_system_does_not_run(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "x.pt", tmp_path / "marker"
    saved(path, encoder()) if kind == "torch" else scripted(path)
    evil = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    rewritten(path, lambda name, content: evil if name.endswith("/data.pkl") else content)
    with pytest.raises(MaeBenchError, match=r"holds more than weights \(posix\.system\)"):
        read_checkpoint(path)
    assert not marker.exists()
    pickle.loads(evil)
    assert marker.exists(), "the pickle of this test is not malicious at all"


def test_a_damaged_archive_of_torchscript(tmp_path: Path) -> None:
    scripted(tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    rewritten(tmp_path / "x.pt", lambda name, content: content[:-2] if name.endswith("/data/0") else content)
    with pytest.raises(MaeBenchError, match=r"cannot be read as a TorchScript archive \(.* bytes\)"):
        read_checkpoint(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(whole)
    rewritten(
        tmp_path / "x.pt", lambda name, content: content[:40] if name.endswith("/data.pkl") else content
    )
    with pytest.raises(MaeBenchError, match="cannot be read as a TorchScript archive"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("torch_files", [True, False])
def test_a_malicious_shard_does_not_run(tmp_path: Path, torch_files: bool) -> None:
    index, marker = sharded(tmp_path / "model", torch_files=torch_files), tmp_path / "marker"
    last = sorted(index.parent.glob("*-of-*"))[-1]
    torch.save({**torch.load(last), "more": Evil(marker)} if torch_files else {"more": Evil(marker)}, last)
    with pytest.raises(
        MaeBenchError, match=r"00002-of-00002.* holds more than weights \((posix|nt)\.system\)"
    ):
        read_checkpoint(index)
    assert not marker.exists()


def test_safetensors_are_told_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    safetensors.torch.save_file(encoder(), path, {"made": "here"})
    state, info = read_checkpoint(path)
    assert (info.container, info.metadata) == ("safetensors", {"made": "here"})
    assert digest(state) == digest(encoder())
    assert load(path).report.coverage == 100


def test_half_precision_is_converted_and_said(tmp_path: Path) -> None:
    backbone = load(saved(tmp_path / "x", {name: tensor.half() for name, tensor in encoder().items()}))
    assert backbone.vit.norm.weight.dtype == torch.float32
    assert {entry.note for entry in backbone.report.converted} == {"float16 -> float32"}
    assert backbone.report.matched == []
    assert backbone.report.coverage == 100
    assert backbone.report.digest_before != backbone.report.digest_after


class Evil:
    """Runs a command when it is unpickled by an ordinary unpickler."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    payload = {"model": encoder(), "extra": Evil(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"extra": Evil(marker)}))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(MaeBenchError, match=r"holds more than weights \((posix|nt)\.system\)"):
        load(path)
    assert not marker.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists(), "the pickle of this test is not malicious at all"


def truncated(whole: bytes, kept: float) -> bytes:
    return whole[: int(len(whole) * kept)]


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(tmp_path: Path, how: str, kept: float) -> None:
    path = tmp_path / "x"
    if how == "safetensors":
        safetensors.torch.save_file(encoder(), path)
    else:
        torch.save({"model": encoder()}, path, _use_new_zipfile_serialization=how == "zip")
    path.write_bytes(truncated(path.read_bytes(), kept))
    with pytest.raises(MaeBenchError, match=r"truncated.* bytes are there") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n<!DOCTYPE html>\n<html><head>", "is a web page saved under a checkpoint's name"),
        (b"<html>Sign in</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00rest", "compressed archive; unpack it"),
        (b"hello, I am a text file", "not a checkpoint: it begins with b'hello, I am a te'"),
        (b"\x80\x02garbage", "cannot be read as a torch checkpoint"),
        (os.urandom(3) + b"\x01" * 600, "is not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(MaeBenchError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    saved(tmp_path / "model.pth", encoder())
    with pytest.raises(MaeBenchError, match=r"no such file; did you mean 'model\.pth'"):
        load(tmp_path / "modle.pth")
    with pytest.raises(MaeBenchError, match="is a folder, not a checkpoint file; one of our runs"):
        load(tmp_path)
    with pytest.raises(
        MaeBenchError, match=r"say which architecture it is, a name of timm's, for example file:.*arch="
    ):
        load_backbone(f"file:{tmp_path / 'model.pth'}")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not named weights"),
        ([1, 2], "holds a list, not named weights"),
        ({"epoch": 3}, "holds no weights; its entries are 'epoch'"),
        ({"first_try": {"a": torch.zeros(1)}}, "tensors under 'first_try', chosen by key=NAME"),
        ({"teacher": {"a": torch.zeros(1)}}, "holds no ViT encoder: its 1 tensors are a"),
        (
            {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}},
            "both 'model' and 'state_dict'; say which are meant: key=model or key=state_dict",
        ),
        (HEAD, "holds no weights"),
    ],
)
def test_what_holds_no_weights(tmp_path: Path, payload: Any, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        load(saved(tmp_path / "x", payload))


# ---------------------------------------------------------------- fitting


def test_a_classifier_alone(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="holds only a classification head: its 2 tensors are head"):
        load(saved(tmp_path / "x", filled(HEAD)))


def test_another_network(tmp_path: Path) -> None:
    state = {"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}
    with pytest.raises(MaeBenchError, match=r"holds no ViT encoder: its 2 tensors are conv1\.weight, layer1"):
        load(saved(tmp_path / "x", state))


def test_one_tensor_missing_or_too_many(tmp_path: Path) -> None:
    state = encoder()
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(
        MaeBenchError, match=r"1 missing \(blocks\.1\.attn\.qkv\.bias\); 99\.\d % of the model's"
    ):
        load(saved(tmp_path / "x", state))
    state = {**encoder(), "blocks.0.ls1.gamma": torch.ones(WIDTH)}
    with pytest.raises(MaeBenchError, match=r"1 unexpected \(blocks\.0\.ls1\.gamma\); 100\.0 %"):
        load(saved(tmp_path / "y", state))
    # A mask token without a decoder is another method's, and no MAE checkpoint.
    state = {**encoder(), "mask_token": torch.ones(1, WIDTH)}
    with pytest.raises(MaeBenchError, match=r"1 unexpected \(mask_token\)"):
        load(saved(tmp_path / "z", state))
    # Decoder keys that no MAE release has are not waved through for their name.
    state = filled({**TRUNK, **NORM, **MAE_DECODER, "decoder_blocks.0.attn.extra": (3,)})
    with pytest.raises(MaeBenchError, match=r"1 unexpected \(decoder_blocks\.0\.attn\.extra\)"):
        load(saved(tmp_path / "w", state))


def test_many_differences_are_counted(tmp_path: Path) -> None:
    state = {name.replace("blocks.", "layers."): tensor for name, tensor in encoder().items()}
    state["patch_embed.proj.weight"] = state.pop("patch_embed.proj.weight").flatten(1)
    with pytest.raises(
        MaeBenchError, match=r"24 missing \(blocks.*, \.\.\.\) and 24 unexpected \(layers.*, \.\.\.\)"
    ):
        load(saved(tmp_path / "x", state))


def test_weights_of_another_size_of_model(tmp_path: Path) -> None:
    large = {
        "patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16),
        "blocks.23.norm1.bias": torch.zeros(1024),
    }
    with pytest.raises(
        MaeBenchError,
        match=r"the checkpoint is 1024 wide and 24 deep with 16x16 patches of 3 channels \(ViT-L\?\), "
        r"vit_base_patch16_224 is 768 wide and 12 deep",
    ):
        load(saved(tmp_path / "x", large), "arch=vit_base_patch16_224")


def test_shapes_that_differ_and_integers(tmp_path: Path) -> None:
    state = {**encoder(), "blocks.0.mlp.fc1.weight": torch.zeros(64, WIDTH)}
    with pytest.raises(MaeBenchError, match=r"blocks\.0\.mlp\.fc1\.weight is \(64, 32\), not \(128, 32\)"):
        load(saved(tmp_path / "x", state))
    state = {**encoder(), "norm.bias": torch.zeros(WIDTH, dtype=torch.int8)}
    with pytest.raises(MaeBenchError, match=r"norm\.bias is of type int8"):
        load(saved(tmp_path / "y", state))
    with pytest.raises(MaeBenchError, match="weights take 3 image channels, and the task gives 1"):
        load(saved(tmp_path / "z", encoder()), channels=1)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = encoder()
    state["blocks.1.norm2.bias"][3] = float("nan")
    with pytest.raises(MaeBenchError, match=r"blocks\.1\.norm2\.bias holds values that are not finite"):
        load(saved(tmp_path / "x", state))


def test_positions_of_another_grid_are_resized_and_reported(tmp_path: Path) -> None:
    state = {**encoder(), "pos_embed": torch.randn(1, 26, WIDTH)}
    backbone = load(saved(tmp_path / "x", state))
    (entry,) = backbone.report.resized
    assert (entry.name, entry.shape, entry.note) == ("pos_embed", (1, 17, WIDTH), "5x5 -> 4x4")
    assert "1 resized (pos_embed: 5x5 -> 4x4)" in backbone.report.summary()
    assert torch.equal(backbone.vit.pos_embed[:, 0], state["pos_embed"][:, 0])
    assert backbone.report.digest_before == digest(state) != backbone.report.digest_after
    # Straight from the file's grid to the one asked for, not by way of the architecture's.
    wide = load(tmp_path / "x", image_size=(40, 40))
    assert torch.equal(wide.vit.pos_embed, state["pos_embed"])
    assert wide.report.resized == []
    assert wide.image_size == (40, 40)


def test_positions_of_no_square_grid(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", {**encoder(), "pos_embed": torch.randn(1, 16, WIDTH)})
    with pytest.raises(MaeBenchError, match=r"16 entries, of which 1 .*; 15 are no square grid.*img_size="):
        load(file)
    backbone = load(file, ARCH.replace("img_size=32", "img_size=24x40"), image_size=(32, 32))
    assert backbone.report.resized[0].note == "3x5 -> 4x4"


def test_timm_formats_with_their_own_parts(tmp_path: Path) -> None:
    spec = "vit_tiny_patch16_224&img_size=32&patch_size=8&embed_dim=32&depth=2&num_heads=2"
    for more in (
        "",
        "&class_token=false",
        "&reg_tokens=2",
        "&init_values=0.1",
        "&no_embed_class=true",
        "&pre_norm=true",
    ):
        original = load_backbone(f"random:{(spec + more).replace('&', '?', 1)}").eval()
        file = saved(tmp_path / "x", {"state_dict": original.vit.state_dict()})
        loaded = load(file, f"arch={spec}{more}")
        assert loaded.digest == original.digest
        images = sample_images()
        torch.testing.assert_close(loaded.tokens(images), original.tokens(images), rtol=0, atol=0)


def test_normalisation_comes_from_the_spec_the_tag_or_imagenet(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", encoder())
    given = load(file, f"{ARCH}&mean=0.1,0.2,0.3&std=1,2,3")
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    tagged = load(file, ARCH.replace("224", "224.augreg_in21k", 1))
    assert (tagged.mean, tagged.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(MaeBenchError, match=r"Invalid pretrained tag \(nonsense\).*or give mean"):
        load(file, ARCH.replace("224", "224.nonsense", 1))


def test_digest_depends_on_names_types_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    variants: list[dict[str, Tensor]] = [
        state,
        {"c": state["a"], "b": state["b"]},
        {**state, "a": state["a"].reshape(2, 3)},
        {**state, "a": state["a"] + 1},
        {**state, "b": torch.zeros(2, dtype=torch.int32)},
        {**state, "b": torch.zeros(2, dtype=torch.bfloat16)},
        {**state, "d": torch.tensor(1.0)},
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert digest({"b": state["b"], "a": state["a"].clone()}) == digest(state)
    assert digest({"a": torch.arange(12.0)[::2]}) == digest({"a": torch.arange(12.0)[::2].contiguous()})


# ---------------------------------------------------------------- run:

FACTS: dict[str, Any] = {
    "arch": "vit_tiny_patch16_224",
    "image_size": (16, 24),
    "channels": 2,
    "mean": (0.4, 0.5),
    "std": (0.2, 0.25),
    "model_args": {"patch_size": (4, 8), "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False},
    "pretraining": {"task": "mae", "epochs": 3, "images_seen": 1000},
}


def finished_run(folder: Path) -> tuple[Path, Backbone]:
    original = load_backbone(
        "random:vit_tiny_patch16_224",
        channels=2,
        model_args={**FACTS["model_args"], "img_size": FACTS["image_size"]},
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: mae\n")
    (folder / "result.json").write_text("{}\n")
    save_encoder(folder / "encoder.safetensors", original.vit.state_dict(), FACTS)
    return folder, original


def test_a_run_gives_back_what_it_exported(tmp_path: Path) -> None:
    folder, original = finished_run(tmp_path / "runs" / "a")
    for spec in (f"run:{folder}", str(folder)):
        backbone = load_backbone(spec)
        assert backbone.spec == f"run:{folder}"
        assert backbone.digest == original.digest
        assert (backbone.image_size, backbone.patch_size) == ((16, 24), (4, 8))
        assert (backbone.mean, backbone.std) == ((0.4, 0.5), (0.2, 0.25))
        assert backbone.pretraining == FACTS["pretraining"]
        assert backbone.model_args == FACTS["model_args"]
        assert backbone.report.coverage == 100
        images = torch.randn(2, 2, 16, 24)
        torch.testing.assert_close(backbone.eval().tokens(images), original.eval().tokens(images))
    resized = load_backbone(str(folder), image_size=(16, 40))
    assert resized.report.resized[0].note == "4x3 -> 4x5"
    assert (
        json.loads(resized.report.save(tmp_path / "r.json").read_text())["resized"][0]["note"] == "4x3 -> 4x5"
    )


def test_a_run_has_an_untrained_twin(tmp_path: Path) -> None:
    folder, original = finished_run(tmp_path / "a")
    twin, other = load_backbone(f"random:{folder}"), load_backbone(f"random:{folder}?seed=1")
    shapes = {name: tuple(value.shape) for name, value in original.vit.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in twin.vit.state_dict().items()} == shapes
    assert (twin.mean, twin.std, twin.image_size) == (FACTS["mean"], FACTS["std"], (16, 24))
    assert twin.pretraining is None
    # It is drawn as `random:ARCH` is: the encoder of the run was drawn so too, from seed 0.
    assert twin.digest == original.digest
    assert other.digest != twin.digest


def test_runs_that_cannot_be_loaded(tmp_path: Path) -> None:
    folder, _ = finished_run(tmp_path / "runs" / "first")
    with pytest.raises(MaeBenchError, match=r"no such folder as .*runs/frist; did you mean 'first'"):
        load_backbone(f"run:{tmp_path / 'runs' / 'frist'}")
    with pytest.raises(
        MaeBenchError, match=r"not a run folder \(no config\.yaml in it\); there is one in .*/runs/first"
    ):
        load_backbone(str(tmp_path / "runs"))
    with pytest.raises(MaeBenchError, match="takes no 'depth'"):
        load_backbone(f"run:{folder}?depth=1")
    with pytest.raises(MaeBenchError, match="weights take 2 image channels, and the task gives 3"):
        load_backbone(f"run:{folder}", channels=3)
    encoder_file = folder / "encoder.safetensors"
    state, info = read_checkpoint(encoder_file)
    header = {key: value for key, value in info.metadata.items() if key != "arch"}
    safetensors.torch.save_file(state, encoder_file, header)
    with pytest.raises(MaeBenchError, match="header does not describe the encoder"):
        load_backbone(str(folder))
    encoder_file.unlink()
    with pytest.raises(MaeBenchError, match="only pretraining runs leave an encoder"):
        load_backbone(str(folder))
    (folder / "result.json").unlink()
    with pytest.raises(
        MaeBenchError, match=r"has not finished .* resume it with mae-bench pretrain --recipe .*/config"
    ):
        load_backbone(str(folder))


def test_exports_are_checked_when_written(tmp_path: Path) -> None:
    state = encoder()
    with pytest.raises(ValueError, match="must hold exactly"):
        save_encoder(tmp_path / "x", state, {**FACTS, "more": 1})
    with pytest.raises(MaeBenchError, match="unknown argument 'dpth'; did you mean 'depth'"):
        save_encoder(tmp_path / "x", state, {**FACTS, "model_args": {"dpth": 1}})
    assert list(tmp_path.iterdir()) == []
