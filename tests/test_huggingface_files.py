"""``hf:FOLDER``: its files, config and image processor, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from tests.hf_models import CASES, MEAN, STD, made, refused, write_processor
from tests.test_house import SOURCES, offences

WEIGHTS = "model.safetensors"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    folder = tmp_path / "vit"
    made(CASES["vit"], folder)
    return folder


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


# ---------------------------------------------------------------- folders


def test_shards_are_the_same_weights(vit: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    made(CASES["vit"], sharded).save_pretrained(sharded, max_shard_size="20KB")  # type: ignore[operator]
    (sharded / WEIGHTS).unlink()
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert load_backbone(f"hf:{sharded}").digest == load_backbone(f"hf:{vit}").digest
    next(sharded.glob("*00002-of*")).unlink()
    refused(f"hf:{sharded}", "files of weights are not there (model-00002-of-")


def test_the_older_file_of_torch(vit: Path) -> None:
    digest = load_backbone(f"hf:{vit}").digest
    state = load_file(vit / WEIGHTS)
    torch.save(state, vit / "pytorch_model.bin")
    (vit / WEIGHTS).unlink()
    assert load_backbone(f"hf:{vit}").digest == digest
    names = list(state)
    for number, part in enumerate((names[:9], names[9:]), 1):
        torch.save({name: state[name] for name in part}, vit / f"pytorch_model-0000{number}-of-00002.bin")
    places = {name: f"pytorch_model-0000{1 if name in names[:9] else 2}-of-00002.bin" for name in names}
    (vit / "pytorch_model.bin").unlink()
    (vit / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert load_backbone(f"hf:{vit}").digest == digest


def test_weights_of_half_precision(vit: Path) -> None:
    reweigh(vit, lambda state: {name: tensor.half() for name, tensor in state.items()})
    backbone = load_backbone(f"hf:{vit}")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert all(entry.note.endswith("float16 -> float32") for entry in backbone.report.converted)


def test_registers_of_half_precision(tmp_path: Path) -> None:
    """The class token and its position are added in fp32, as transformers does once it has cast them."""
    made(CASES["dinov2_with_registers"], tmp_path)
    reweigh(tmp_path, lambda state: {name: tensor.half() for name, tensor in state.items()})
    state = load_file(tmp_path / WEIGHTS)
    wanted = state["embeddings.cls_token"].float() + state["embeddings.position_embeddings"][:, :1].float()
    assert torch.equal(load_backbone(f"hf:{tmp_path}").vit.cls_token, wanted)


@pytest.mark.parametrize(
    ("case", "extra"),
    [
        ("clip", {"vision_model.embeddings.position_ids": (1, 17), "text_model.embeddings.position_ids": (1, 77)}),
        ("beit-classifier", {"beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index": (17, 17)}),
        ("vit_mae", {"decoder.decoder_layers.0.attention.attention.query.weight": (16, 16)}),
        ("beit-classifier", {"decode_head.classifier.weight": (9, 24, 1, 1), "auxiliary_head.convs.0.conv.weight": (9, 24, 3, 3), "fpn1.0.weight": (24, 24, 2, 2)}),
    ],
)  # fmt: skip
def test_what_older_files_hold_besides(case: str, extra: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    made(CASES[case], tmp_path)
    digest = load_backbone(f"hf:{tmp_path}").digest
    reweigh(tmp_path, lambda state: {**state, **{name: torch.zeros(shape) for name, shape in extra.items()}})
    backbone = load_backbone(f"hf:{tmp_path}")
    assert backbone.digest == digest
    assert set(extra) <= {entry.name for entry in backbone.report.dropped}


def test_a_tower_within_another_config(tmp_path: Path) -> None:
    """Where a file still has `vision_config_dict`, it wins, as in transformers."""
    made(CASES["clip"], tmp_path)
    digest = load_backbone(f"hf:{tmp_path}").digest
    right = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    configure(tmp_path, vision_config={**right, "num_attention_heads": 4}, vision_config_dict=right)
    backbone = load_backbone(f"hf:{tmp_path}")
    assert backbone.digest == digest
    assert backbone.model_args["num_heads"] == 2


def test_the_file_alone_with_an_architecture(vit: Path) -> None:
    sizes = "embed_dim=24&depth=3&num_heads=2&mlp_ratio=2.2&patch_size=8&img_size=32"
    backbone = load_backbone(f"file:{vit / WEIGHTS}?arch=vit_base_patch16_224&{sizes}")
    assert backbone.digest == load_backbone(f"hf:{vit}").digest
    assert backbone.report.format == "Hugging Face ViT (transformers)"


def test_transformers_is_not_needed() -> None:
    assert offences(SOURCES, {"transformers"}) == []


# ---------------------------------------------------------------- what is wrong with a folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit_hybrd"}, "the model type 'vit_hybrd' is not known"),
        ({"model_type": "moonvit", "auto_map": {"AutoModel": "x.Y"}}, "is not known (code that comes with a model is never run)"),
        ({"model_type": "moonvit"}, "; known are vit, deit, vit_mae, vit_msn, ijepa, dinov2, dinov2_with_registers, dinov3_vit, beit, data2vec-vision, clip, clip_vision_model, siglip, siglip_vision_model, siglip2, siglip2_vision_model; any other can be loaded with python:PACKAGE.MODULE:FACTORY"),
        ({"model_type": "swin"}, "'swin' is no plain ViT, and hf: loads those alone; timm has such networks, for example timm:swin_base_patch4_window7_224.ms_in22k"),
        ({"model_type": "absent"}, "has no model_type, so it does not describe a model of transformers"),
        ({"architecture": "vit_base_patch16_224"}, "describes a model of timm; load it with timm:hf-hub:OWNER/NAME"),
        ({"hidden_size": "24"}, "hidden_size should be a whole number from 1 on, not '24'"),
        ({"hidden_size": True}, "hidden_size should be a whole number from 1 on, not True"),
        ({"layer_norm_eps": -1}, "layer_norm_eps should be a number from 0 on, not -1"),
        ({"qkv_bias": 1}, "qkv_bias should be true or false, not 1"),
        ({"image_size": [32]}, "image_size should be a side or [height, width], not [32]"),
        ({"hidden_act": "mish"}, "the activation 'mish' is not known here, only gelu,"),
        ({"num_attention_heads": 5}, "timm's heads share hidden_size evenly, which 5 heads of 24 do not"),
        ({"head_dim": 16}, "timm's heads share hidden_size evenly, which 2 heads of 16 of 24 do not"),
        ({"hidden_size": 48}, "the checkpoint is 24 wide and 3 deep with 8x8 patches of 3 channels"),
        ({"num_hidden_layers": 2}, "the checkpoint is 24 wide and 3 deep"),
        ({"intermediate_size": 96}, "blocks.0.mlp.fc1.weight is (52, 24), not (96, 24)"),
        ({"qkv_bias": False}, "3 unexpected (blocks.0.attn.qkv.bias,"),
        ({"model_type": "siglip_vision_model"}, "does not hold the one encoder that config.json describes (Hugging Face SigLIP vision tower"),
        ({"model_type": "ijepa"}, "1 unexpected (cls_token)"),
        ({"model_type": "deit"}, "1 missing (reg_token)"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit(change: dict[str, Any], message: str, vit: Path) -> None:
    configure(vit, **change)
    refused(f"hf:{vit}", message)


def test_biases_that_timm_lacks(tmp_path: Path) -> None:
    made(CASES["dinov3_vit"], tmp_path, key_bias=True)
    refused(f"hf:{tmp_path}", "key_bias is true, which the class Eva of timm cannot have")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json, so it is no model of transformers"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds a list, not the keys of a model"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no weights of torch (model.safetensors, "),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-99]), "model.safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "nothing beside its weights says how images are normalised"),
        (lambda folder: write_processor(folder, image_mean=None), "image_mean is None, not 3 numbers; give mean= and std="),
        (lambda folder: write_processor(folder, image_mean=[0.5]), "image_mean is [0.5], not 3 numbers"),
        (lambda folder: write_processor(folder, image_std=[0.5, 0, 1]), "image_std is [0.5, 0.0, 1.0], which should be above 0"),
        (lambda folder: write_processor(folder, rescale_factor=1 / 127.5), "does not bring pixels to a scale of 0 to 1; give mean= and std="),
        (lambda folder: reweigh(folder, lambda state: dict(list(state.items())[:-1])), "1 missing (norm.weight)"),
        (lambda folder: reweigh(folder, lambda state: {k: v for k, v in state.items() if not k.endswith("layer.1.attention.attention.key.weight")}), "1 missing (blocks.1.attn.qkv.weight) and 2 unexpected (vit.encoder.layer.1.attention.attention.query.weight,"),
        (lambda folder: reweigh(folder, lambda state: {**state, "adapter.weight": torch.zeros(1)}), "1 unexpected (adapter.weight)"),
        (lambda folder: reweigh(folder, lambda state: {**state, "vit.layers.0.layernorm_before.weight": torch.zeros(24)}), "1 unexpected (vit.layers.0.layernorm_before.weight)"),
        (lambda folder: reweigh(folder, lambda state: {"classifier.weight": state["classifier.weight"]}), "does not hold the one encoder"),
        (lambda folder: reweigh(folder, lambda state: {**state, "vit.layernorm.weight": torch.full((24,), torch.nan)}), "norm.weight holds values that are not finite"),
    ],
)  # fmt: skip
def test_a_damaged_folder(damage: Callable[[Path], None], message: str, vit: Path) -> None:
    damage(vit)
    refused(f"hf:{vit}", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("revision=main", "a revision is of a repository on the hub"),
        ("depth=2", "hf: takes no 'depth'; the model's config.json settles that"),
        ("mean=0.5,0.5,0.5", "give mean and std together"),
        ("patch_sze=16", "unknown argument 'patch_sze'; did you mean 'patch_size'?"),
    ],
)
def test_arguments_that_do_not_go(arguments: str, message: str, vit: Path) -> None:
    refused(f"hf:{vit}?{arguments}", message)


def test_channels_are_those_of_the_weights(vit: Path) -> None:
    with pytest.raises(MaeBenchError, match="its weights take 3 image channels, and the task gives 4"):
        load_backbone(f"hf:{vit}", channels=4)


def test_weights_that_are_missing_pass_only_by_name(vit: Path) -> None:
    reweigh(
        vit, lambda state: {name: tensor for name, tensor in state.items() if name != "vit.layernorm.bias"}
    )
    refused(f"hf:{vit}", "allow=norm.bias")
    assert [entry.name for entry in load_backbone(f"hf:{vit}?allow=norm.bias").report.allowed] == [
        "norm.bias"
    ]


# ---------------------------------------------------------------- images


def test_the_normalisation_is_that_of_the_image_processor(vit: Path) -> None:
    backbone = load_backbone(f"hf:{vit}")
    assert (backbone.mean, backbone.std) == (tuple(MEAN), tuple(STD))
    assert "mean and std are those of preprocessor_config.json" in backbone.report.notes


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"image_mean": 0.5, "image_std": 0.25}, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ],
)
def test_other_image_processors(
    values: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...], vit: Path
) -> None:
    write_processor(vit, **values)
    backbone = load_backbone(f"hf:{vit}")
    assert (backbone.mean, backbone.std) == (mean, std)


def test_an_image_processor_beside_a_tokenizer(vit: Path) -> None:
    values = json.loads((vit / "preprocessor_config.json").read_text())
    (vit / "preprocessor_config.json").unlink()
    (vit / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    backbone = load_backbone(f"hf:{vit}")
    assert backbone.mean == tuple(MEAN)
    assert "mean and std are those of processor_config.json" in backbone.report.notes


def test_mean_and_std_as_given(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    backbone = load_backbone(f"hf:{vit}?mean=0.1,0.2,0.3&std=1,2,3")
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert any(note.startswith("mean and std are as given") for note in backbone.report.notes)


def test_images_of_another_size_are_noted(vit: Path) -> None:
    write_processor(
        vit, do_center_crop=True, crop_size={"height": 24, "width": 24}, size={"shortest_edge": 28}
    )
    notes = load_backbone(f"hf:{vit}").report.notes
    assert "its image processor gives 24x24 pixels; its positions stand for 32x32" in notes
    write_processor(vit, size=32)
    assert not any("gives" in note for note in load_backbone(f"hf:{vit}").report.notes)


def test_another_patch_size_and_image_size(vit: Path) -> None:
    backbone = load_backbone(f"hf:{vit}?patch_size=12&img_size=36x60")
    assert backbone.patch_size == (12, 12)
    assert backbone.image_size == (36, 60)
    notes = {entry.name: entry.note for entry in backbone.report.resized}
    assert notes["patch_embed.proj.weight"].startswith("patches 8x8 -> 12x12")
    assert notes["pos_embed"].startswith("4x4 -> 3x5")
    assert backbone.tokens(torch.zeros(1, 3, 36, 60))[1].shape == (1, 3, 5, 24)
