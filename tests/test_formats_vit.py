"""Published checkpoint formats of plain ViTs: told by their keys, and read as the networks that wrote them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mae_bench.backbones import load_backbone
from mae_bench.backbones.formats import FORMATS, Recognised, recognise, suggest
from mae_bench.backbones.formats.suggestion import shapes_alone
from mae_bench.backbones.weights import CheckpointInfo, read_checkpoint
from mae_bench.errors import MaeBenchError
from tests.beit_and_eva import CHECKPOINTS
from tests.closed_form import fill, numbers

WIDTH, DEPTH, PATCHES = 32, 2, 16  # images of 32 pixels in patches of 8
Shapes = dict[str, tuple[int, ...]]


# ---------------------------------------------------------------- tables of keys and shapes


def affine(name: str, *shape: int) -> Shapes:
    """A linear layer's (outputs, inputs), a convolution's or a norm's weight and bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_norm(name: str, width: int, learned: bool = True) -> Shapes:
    counts: Shapes = {
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }
    return {**(affine(name, width) if learned else {}), **counts}


def numbered(name: str, depth: int, one: Callable[[str], Shapes]) -> Shapes:
    return {key: shape for index in range(depth) for key, shape in one(f"{name}.{index}").items()}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def block(name: str, width: int = WIDTH, scaled: bool = False) -> Shapes:
    """timm's block, which is also MAE's, DINO's and I-JEPA's."""
    scale: Shapes = {f"{name}.ls1.gamma": (width,), f"{name}.ls2.gamma": (width,)} if scaled else {}
    return {
        **affine(f"{name}.norm1", width),
        **affine(f"{name}.norm2", width),
        **affine(f"{name}.attn.qkv", 3 * width, width),
        **affine(f"{name}.attn.proj", width, width),
        **affine(f"{name}.mlp.fc1", 4 * width, width),
        **affine(f"{name}.mlp.fc2", width, 4 * width),
        **scale,
    }


def vit(prefix: str = "", *, token: bool = True, norm: str = "norm", scaled: bool = False) -> Shapes:
    """A ViT in timm's names."""
    tokens: Shapes = {"cls_token": (1, 1, WIDTH)} if token else {}
    return under(
        prefix,
        {
            **tokens,
            "pos_embed": (1, PATCHES + token, WIDTH),
            **affine("patch_embed.proj", WIDTH, 3, 8, 8),
            **numbered("blocks", DEPTH, lambda name: block(name, scaled=scaled)),
            **(affine(norm, WIDTH) if norm else {}),
        },
    )


def moco(prefix: str = "") -> Shapes:
    """Two encoders with projectors of three layers, and a predictor of two."""
    projector: Shapes = {
        "0.weight": (24, WIDTH),
        **batch_norm("1", 24),
        "3.weight": (24, 24),
        **batch_norm("4", 24),
        "6.weight": (12, 24),
        **batch_norm("7", 12, learned=False),
    }
    predictor: Shapes = {
        "0.weight": (24, 12),
        **batch_norm("1", 24),
        "3.weight": (12, 24),
        **batch_norm("4", 12, learned=False),
    }
    encoder = {**vit(norm="norm"), **under("head.", projector)}
    whole = {
        **under("base_encoder.", encoder),
        **under("momentum_encoder.", encoder),
        **under("predictor.", predictor),
    }
    return under(prefix, whole)


def dino_head(name: str, outputs: int = 20, second: int = 0) -> Shapes:
    """Three layers and a weight-normalised output; iBOT's has a second output, for patches."""
    layers = {**affine("mlp.0", 24, WIDTH), **affine("mlp.2", 24, 24), **affine("mlp.4", 8, 24)}
    last: Shapes = {"last_layer.weight_g": (outputs, 1), "last_layer.weight_v": (outputs, 8)}
    more: Shapes = (
        {"last_layer2.weight_g": (second, 1), "last_layer2.weight_v": (second, 8)} if second else {}
    )
    return under(f"{name}.", {**layers, **last, **more})


def dinov2(*, registers: int = 0, gated: bool = False, chunks: bool = False) -> Shapes:
    shapes = {**vit(scaled=True), "mask_token": (1, WIDTH)}
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    if gated:
        shapes = {name: shape for name, shape in shapes.items() if ".mlp." not in name}
        for index in range(DEPTH):
            shapes |= affine(f"blocks.{index}.mlp.w12", 176, WIDTH) | affine(
                f"blocks.{index}.mlp.w3", WIDTH, 88
            )
    return {name.replace("blocks.", "blocks.0.") if chunks else name: shape for name, shape in shapes.items()}


def resblock(name: str, width: int, scaled: bool = False) -> Shapes:
    """CLIP's block, in either tower."""
    scale: Shapes = {f"{name}.ls_1.gamma": (width,), f"{name}.ls_2.gamma": (width,)} if scaled else {}
    return {
        **affine(f"{name}.ln_1", width),
        **affine(f"{name}.ln_2", width),
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        **affine(f"{name}.attn.out_proj", width, width),
        **affine(f"{name}.mlp.c_fc", 4 * width, width),
        **affine(f"{name}.mlp.c_proj", width, 4 * width),
        **scale,
    }


CLIP_WIDTH = 64  # of one head: CLIP's heads are 64 wide


def clip_tower(prefix: str = "visual.", scaled: bool = False) -> Shapes:
    return under(
        prefix,
        {
            "class_embedding": (CLIP_WIDTH,),
            "positional_embedding": (PATCHES + 1, CLIP_WIDTH),
            "conv1.weight": (CLIP_WIDTH, 3, 8, 8),
            **affine("ln_pre", CLIP_WIDTH),
            **numbered("transformer.resblocks", DEPTH, lambda name: resblock(name, CLIP_WIDTH, scaled)),
            **affine("ln_post", CLIP_WIDTH),
            "proj": (CLIP_WIDTH, 16),
        },
    )


def clip_text(prefix: str = "") -> Shapes:
    own: Shapes = {
        "positional_embedding": (5, 16),
        "text_projection": (16, 16),
        "token_embedding.weight": (11, 16),
        **numbered("transformer.resblocks", DEPTH, lambda name: resblock(name, 16)),
        **affine("ln_final", 16),
    }
    return {**under(prefix, own), "logit_scale": ()}


def torchvision_vit(first: str = "mlp.0", second: str = "mlp.3") -> Shapes:
    def layer(name: str) -> Shapes:
        return {
            **affine(f"{name}.ln_1", WIDTH),
            f"{name}.self_attention.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{name}.self_attention.in_proj_bias": (3 * WIDTH,),
            **affine(f"{name}.self_attention.out_proj", WIDTH, WIDTH),
            **affine(f"{name}.ln_2", WIDTH),
            **affine(f"{name}.{first}", 4 * WIDTH, WIDTH),
            **affine(f"{name}.{second}", WIDTH, 4 * WIDTH),
        }

    layers = [layer(f"encoder.layers.encoder_layer_{index}") for index in range(DEPTH)]
    return {
        "class_token": (1, 1, WIDTH),
        **affine("conv_proj", WIDTH, 3, 8, 8),
        "encoder.pos_embedding": (1, PATCHES + 1, WIDTH),
        **{name: shape for one in layers for name, shape in one.items()},
        **affine("encoder.ln", WIDTH),
        **affine("heads.head", 5, WIDTH),
    }


def mm_vit(
    prefix: str = "backbone.",
    *,
    scaled: bool = False,
    norm: str = "ln1",
    gated: bool = False,
    torch_attention: bool = False,
) -> Shapes:
    """mmpretrain's ViT; `gated`: with DINOv2 giant's MLPs and CLIP's norm; `torch_attention`: mmseg's."""

    def layer(name: str) -> Shapes:
        scale: Shapes = {f"{name}.attn.gamma1.weight": (WIDTH,), f"{name}.ffn.gamma2.weight": (WIDTH,)}
        mlp = {
            **affine(f"{name}.ffn.layers.0.0", 4 * WIDTH, WIDTH),
            **affine(f"{name}.ffn.layers.1", WIDTH, 4 * WIDTH),
        }
        gates = {**affine(f"{name}.ffn.w12", 176, WIDTH), **affine(f"{name}.ffn.w3", WIDTH, 88)}
        packed: Shapes = {
            f"{name}.attn.attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{name}.attn.attn.in_proj_bias": (3 * WIDTH,),
        }
        attention = "attn.attn.out_proj" if torch_attention else "attn.proj"
        return {
            **affine(f"{name}.ln1", WIDTH),
            **(packed if torch_attention else affine(f"{name}.attn.qkv", 3 * WIDTH, WIDTH)),
            **affine(f"{name}.{attention}", WIDTH, WIDTH),
            **affine(f"{name}.ln2", WIDTH),
            **(gates if gated else mlp),
            **(scale if scaled else {}),
        }

    own: Shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, PATCHES + 1, WIDTH),
        **affine("patch_embed.projection", WIDTH, 3, 8, 8),
        **numbered("layers", DEPTH, layer),
        **affine(norm, WIDTH),
    }
    if gated:  # a kernel without bias
        own |= affine("pre_norm", WIDTH)
        del own["patch_embed.projection.bias"]
    return under(prefix, own)


def vitdet(*, relative: bool = True) -> Shapes:
    net = {name: shape for name, shape in vit(norm="").items() if name != "cls_token"}
    for index in range(DEPTH) if relative else ():
        net |= {f"blocks.{index}.attn.rel_pos_{axis}": (7, WIDTH // 2) for axis in "hw"}
    pyramid: Shapes = {
        **affine("simfp_1.0", WIDTH, WIDTH // 2, 2, 2),
        **affine("simfp_1.1", WIDTH // 2),
        **affine("simfp_1.3", WIDTH // 2, WIDTH // 4, 2, 2),
        "simfp_1.4.weight": (16, WIDTH // 4, 1, 1),
        **affine("simfp_1.4.norm", 16),
        "simfp_1.5.weight": (16, 16, 3, 3),
        **affine("simfp_1.5.norm", 16),
    }
    # Of a transposed convolution the bias has as many numbers as there are outputs.
    pyramid |= {"simfp_1.0.bias": (WIDTH // 2,), "simfp_1.3.bias": (WIDTH // 4,)}
    heads = {
        **affine("proposal_generator.rpn_head.conv.conv0", 16, 16, 3, 3),
        **affine("proposal_generator.rpn_head.objectness_logits", 3, 16, 1, 1),
        **affine("roi_heads.box_predictor.cls_score", 6, 16),
        **affine("roi_heads.mask_head.predictor", 5, 16, 1, 1),
    }
    return {**under("backbone.net.", net), **under("backbone.", pyramid), **heads}


def aimv2(prefix: str = "") -> Shapes:
    def layer(name: str) -> Shapes:
        return {
            f"{name}.attn.qkv.weight": (3 * WIDTH, WIDTH),
            f"{name}.attn.proj.weight": (WIDTH, WIDTH),
            f"{name}.norm_1.weight": (WIDTH,),
            f"{name}.mlp.fc1.weight": (88, WIDTH),
            f"{name}.mlp.fc2.weight": (WIDTH, 88),
            f"{name}.mlp.fc3.weight": (88, WIDTH),
            f"{name}.norm_2.weight": (WIDTH,),
        }

    own: Shapes = {
        "preprocessor.pos_embed": (1, PATCHES, WIDTH),
        **affine("preprocessor.patchifier.proj", WIDTH, 3, 8, 8),
        "preprocessor.patchifier.norm.weight": (WIDTH,),
        **numbered("trunk.blocks", DEPTH, layer),
        "trunk.post_trunk_norm.weight": (WIDTH,),
    }
    return under(prefix, own)


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """float64 values by each name's place among the sorted names."""
    return fill({name: torch.zeros(shape) for name, shape in shapes.items()})


# ---------------------------------------------------------------- the networks that wrote them
#
# The numbers are outputs of the reference networks in float64 with the weights of `filled` over all keys of the
# checkpoint and the images numbers((2, 3, 32, 32), 1000): all tokens after the final norm, unless said otherwise.
# Every table above was compared with the keys and shapes of the reference's state_dict, which were equal. Repository,
# commit, class: facebookresearch/moco-v3 c349e6e MoCo_ViT(dim=12, mlp_dim=24).base_encoder;
# facebookresearch/dino 7c446df MultiCropWrapper of VisionTransformer and DINOHead; bytedance/ibot da316d8 the
# same with iBOTHead, masked_im_modeling=True and no patch masked; facebookresearch/ijepa 52c1ae9
# VisionTransformer; facebookresearch/dinov2 b8931f7 DinoVisionTransformer(init_values=1.0) with block_chunks 0 and
# 1, 4 registers, or ffn_layer="swiglufused"; openai/CLIP d05afc4 CLIP(16, 32, 2, 64, 8, 5, 11, 16, 2, 2).visual;
# mlfoundations/open_clip 3.3.0 VisionTransformer(32, 8, 64, 2, 1, 4.0, ls_init_value=0.1, output_dim=16);
# torchvision 0.29.1 VisionTransformer(32, 8, 2, 2, 32, 128); open-mmlab/mmpretrain ee7f2e8 VisionTransformer with
# out_type "raw" or "avg_featmap", layer_scale_init_value 0 or 0.1; facebookresearch/detectron2 02b5c4e
# ViT(use_rel_pos=False) before any norm; apple/ml-aim bd9e068 AIMv2VisionEncoder(mlp_hidden_dim=88).
# All others of width 32, depth 2, 2 heads, patches of 8, images of 32.


@dataclass(frozen=True)
class Case:
    """A checkpoint as published, what it is, and what its network gives."""

    format: str
    shapes: Shapes
    numbers: tuple[list[float], list[float], float] | None = None  # first four, last three, sum of magnitudes
    arch: str = "vit_tiny_patch16_224"
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    payload: Callable[[dict[str, Tensor]], Any] = lambda state: state
    key: str | None = None
    rest: frozenset[str] = frozenset()  # in the network and not in the file
    back: bool = True  # whether it can be written
    written: Shapes | None = None  # where that is not the file's keys without the dropped ones


def ddp(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def other(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network of the same keys that must not be taken."""
    return {name: torch.full_like(tensor, 9.0) for name, tensor in state.items()}


TOKENLESS = {"class_token": False, "global_pool": "avg", "fc_norm": False}
MOCO_NUMBERS = (
    [-0.822656796, -2.521950946, 0.08000264, 0.492895834],
    [0.20004884, -2.091935936, 0.168487832],
    874.937991,
)
MOMENTUM_NUMBERS = (
    [0.309366389, 1.100775897, 0.951829117, -0.942705761],
    [-0.10844179, -0.87670951, 0.413743615],
    835.791366,
)
IBOT_NUMBERS = (
    [1.046262362, 0.985347299, 0.99104302, 0.281239631],
    [-0.278181915, -1.858212773, -1.8459813],
    882.274328,
)
DINOV2_NUMBERS = (
    [0.448949238, 0.225145813, 0.098959801, 0.309185613],
    [0.568513968, -1.943993741, 0.352301494],
    868.97128,
)
CLIP_NUMBERS = (
    [-0.058107873, -0.247329362, 0.039136567, -0.164887935],
    [-0.04767494, 0.080354412, 0.004522586],
    276.027945,
)
TORCHVISION_NUMBERS = (
    [-0.309072055, -0.095082874, 0.191895942, -0.184258828],
    [-0.147098318, 0.190382502, 0.179474932],
    153.400337,
)
MM_NUMBERS = (
    [0.429176239, 0.089908396, -0.064215824, -0.187509413],
    [0.10083116, 0.086987234, -0.247090589],
    149.933152,
)
CLIP_ARCH = {"embed_dim": CLIP_WIDTH, "num_heads": 1}
IBOT_SHAPES: Shapes = {
    **vit("backbone."),
    "backbone.masked_embed": (1, WIDTH),
    **dino_head("head", second=18),
}
SIGLIP_POOLING = {
    "attn_pool.latent": (1, 1, WIDTH),
    **affine("attn_pool.q", WIDTH, WIDTH),
    **affine("attn_pool.kv", 2 * WIDTH, WIDTH),
    **affine("attn_pool.proj", WIDTH, WIDTH),
    **affine("attn_pool.norm", WIDTH),
    **affine("attn_pool.mlp.fc1", 4 * WIDTH, WIDTH),
    **affine("attn_pool.mlp.fc2", WIDTH, 4 * WIDTH),
}
TIMM_NAMES = "ViT encoder (MAE pretraining or timm)"
IMAGES = numbers((2, 3, 32, 32), 1000)

CASES: dict[str, Case] = {
    "moco": Case(
        "MoCo v3 pretraining checkpoint",
        moco(),
        MOCO_NUMBERS,
        dropped=frozenset({"projector", "predictor", "momentum encoder"}),
        payload=lambda state: {
            "epoch": 300,
            "arch": "vit_small",
            "state_dict": ddp(state),
            "optimizer": {},
            "scaler": {},
        },
    ),
    "moco-momentum": Case(
        "MoCo v3 encoder with projector",
        moco(),
        MOMENTUM_NUMBERS,
        dropped=frozenset({"projector"}),
        payload=lambda state: {"state_dict": ddp(state), "epoch": 300},
        key="momentum_encoder",
        back=False,
    ),
    "moco-probe": Case(
        "ViT classifier",
        {**vit(), **affine("head", 5, WIDTH)},
        dropped=frozenset({"head"}),
        payload=lambda state: {"state_dict": ddp(state), "best_acc1": torch.tensor(76.7), "epoch": 90},
        back=False,
    ),
    "dino": Case(
        "DINO network with projection head",
        {**vit("backbone."), **dino_head("head")},
        (
            [0.18835035, 0.833168095, -0.225757339, 1.469929518],
            [-1.478612958, -0.969038653, 0.191212142],
            907.953157,
        ),
        dropped=frozenset({"projection head"}),
        payload=lambda state: {
            "student": ddp(other(state)),
            "teacher": state,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
            "epoch": 3,
            "args": Namespace(lr=0.1),
            "dino_loss": {"center": torch.zeros(1, 20)},
        },
        back=False,
    ),
    "ibot": Case(
        "iBOT network",
        IBOT_SHAPES,
        IBOT_NUMBERS,
        dropped=frozenset({"projection head", "mask token"}),
        payload=lambda state: {
            "student": ddp(state),
            "teacher": other(state),
            "ibot_loss": {"center2": torch.zeros(1)},
        },
        key="student",
        back=False,
    ),
    "ibot-backbone": Case(
        "iBOT network",
        {**vit(), "masked_embed": (1, WIDTH)},
        dropped=frozenset({"mask token"}),
        payload=lambda state: {"state_dict": state},
        back=False,
    ),
    "dino-backbone": Case(
        TIMM_NAMES, vit("backbone."), payload=lambda state: {"teacher": ddp(state)}, written=vit()
    ),
    "ijepa": Case(
        "ViT encoder without class token (I-JEPA, SigLIP or timm)",
        vit(token=False),
        (
            [-0.571169504, -1.489082278, 0.902591727, -0.214731444],
            [0.87818208, -0.391935163, 0.512154403],
            790.96853,
        ),
        options=TOKENLESS,
        payload=lambda state: {
            "encoder": ddp(other(state)),
            "predictor": ddp({"predictor_embed.weight": torch.zeros(4, WIDTH)}),
            "target_encoder": ddp(state),
            "opt": {},
            "scaler": None,
            "epoch": 300,
        },
    ),
    "msn": Case(
        "MSN pretraining checkpoint",
        {
            **vit(),
            **affine("fc.fc1", 24, WIDTH),
            **batch_norm("fc.bn1", 24),
            **affine("fc.fc2", 24, 24),
            **batch_norm("fc.bn2", 24),
            **affine("fc.fc3", 12, 24),
        },
        dropped=frozenset({"projector"}),
        payload=lambda state: {"encoder": ddp(other(state)), "target_encoder": ddp(state), "epoch": 800},
        back=False,
    ),
    "dinov2": Case(
        "DINOv2 (official names)",
        dinov2(),
        DINOV2_NUMBERS,
        "vit_small_patch14_dinov2",
        dropped=frozenset({"mask token"}),
        written=dinov2(),
    ),
    "dinov2-registers": Case(
        "DINOv2 (official names)",
        dinov2(registers=4),
        (
            [0.488910738, 0.342316287, -0.00363512, 0.289757562],
            [0.5679425, -1.878064221, 0.308500857],
            1072.725636,
        ),
        "vit_small_patch14_reg4_dinov2",
        dropped=frozenset({"mask token"}),
        written=dinov2(registers=4),
    ),
    "dinov2-giant": Case(
        "DINOv2 (official names)",
        dinov2(gated=True),
        (
            [0.01823665, 1.11544711, -0.243737141, -0.297914822],
            [0.718901832, -1.563414795, 0.504138872],
            866.445108,
        ),
        "vit_giant_patch14_dinov2",
        {"mlp_ratio": 5.5},
        dropped=frozenset({"mask token"}),
        written=dinov2(gated=True),
    ),
    "dinov2-chunks": Case(
        "DINOv2 (official names)",
        dinov2(chunks=True),
        DINOV2_NUMBERS,
        "vit_small_patch14_dinov2",
        dropped=frozenset({"mask token"}),
        written=dinov2(),
    ),
    "dinov2-teacher": Case(
        "DINOv2 (official names)",
        {**under("backbone.", dinov2(chunks=True)), **dino_head("dino_head"), **dino_head("ibot_head", 18)},
        None,
        "vit_small_patch14_dinov2",
        dropped=frozenset({"mask token", "projection head"}),
        payload=lambda state: {"teacher": state},
        written=dinov2(),
    ),
    "clip": Case(
        "CLIP image tower (OpenAI, open_clip)",
        {**clip_tower(), **clip_text()},
        CLIP_NUMBERS,
        "vit_base_patch16_clip_quickgelu_224",
        CLIP_ARCH,
        frozenset({"text tower", "projection", "temperature of the loss"}),
    ),
    "clip-archive": Case(
        "CLIP image tower (OpenAI, open_clip)",
        {**clip_tower(), **clip_text(), "input_resolution": (), "context_length": (), "vocab_size": ()},
        arch="vit_base_patch16_clip_quickgelu_224",
        options=CLIP_ARCH,
        dropped=frozenset(
            {
                "text tower",
                "projection",
                "temperature of the loss",
                "number that the authors keep beside the weights",
            }
        ),
    ),
    "open-clip": Case(
        "CLIP image tower (OpenAI, open_clip)",
        clip_tower("", scaled=True),
        (
            [0.028818915, 0.150938833, 0.211077261, -0.084276012],
            [-0.009075091, 0.110810838, -0.066773357],
            302.155179,
        ),
        "vit_base_patch16_clip_224",
        {**CLIP_ARCH, "init_values": 0.1},
        frozenset({"projection"}),
        written={name: shape for name, shape in clip_tower(scaled=True).items() if name != "visual.proj"},
    ),
    "open-clip-training": Case(
        "CLIP image tower (OpenAI, open_clip)",
        {**clip_tower(), **clip_text("text.")},
        arch="vit_base_patch16_clip_224",
        options=CLIP_ARCH,
        dropped=frozenset({"text tower", "projection", "temperature of the loss"}),
        payload=lambda state: {"epoch": 32, "name": "run", "state_dict": ddp(state), "optimizer": {}},
    ),
    "open-clip-siglip": Case(
        "open_clip's trunk: ViT encoder without class token (I-JEPA, SigLIP or timm)",
        {
            **under("visual.trunk.", {**vit(token=False), **SIGLIP_POOLING}),
            **clip_text("text."),
            "logit_bias": (),
        },
        options=TOKENLESS,
        dropped=frozenset({"text tower", "attention pooling", "temperature of the loss"}),
        back=False,
    ),
    "open-clip-trunk": Case(
        f"open_clip's trunk: {TIMM_NAMES}",
        {**vit("visual.trunk."), "visual.head.proj.weight": (16, WIDTH), **clip_text("text.")},
        dropped=frozenset({"text tower", "projection", "temperature of the loss"}),
        back=False,
    ),
    "torchvision": Case(
        "torchvision ViT", torchvision_vit(), TORCHVISION_NUMBERS, dropped=frozenset({"head"})
    ),
    "torchvision-old": Case(
        "torchvision ViT",
        torchvision_vit("mlp.linear_1", "mlp.linear_2"),
        dropped=frozenset({"head"}),
        written={name: shape for name, shape in torchvision_vit().items() if not name.startswith("heads.")},
    ),
    "mm": Case("OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)", mm_vit(""), MM_NUMBERS, written=mm_vit()),
    "mm-classifier": Case(
        "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)",
        {**mm_vit(), **affine("head.layers.head", 5, WIDTH)},
        dropped=frozenset({"head"}),
        payload=lambda state: {"meta": {"epoch": 3}, "state_dict": state, "message_hub": {}},
    ),
    "mm-mae": Case(
        "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)",
        {**mm_vit(), "neck.mask_token": (1, 1, 16), **affine("neck.decoder_embed", 16, WIDTH)},
        dropped=frozenset({"neck"}),
        payload=lambda state: {"state_dict": state},
    ),
    "mm-scaled": Case(
        "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)",
        mm_vit("", scaled=True),
        (
            [0.084725513, -0.064260335, -0.041309515, 0.124396487],
            [-0.079996566, -0.008819369, -0.165006357],
            139.349709,
        ),
        options={"init_values": 0.1},
        written=mm_vit(scaled=True),
    ),
    "mm-gated": Case(
        "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)",
        mm_vit(scaled=True, gated=True),
        arch="vit_giant_patch14_dinov2",
        options={"mlp_ratio": 5.5, "pre_norm": True},
    ),
    "mmseg": Case(
        "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)",
        {**mm_vit(torch_attention=True), **affine("decode_head.conv_seg", 5, WIDTH, 1, 1)},
        dropped=frozenset({"head"}),
        written=mm_vit(),
    ),
    "vitdet": Case(
        "ViTDet's backbone (detectron2)",
        vitdet(),
        options=TOKENLESS,
        dropped=frozenset({"feature pyramid", "detection head", "relative positions of the detector"}),
        payload=lambda state: {"model": state, "iteration": 7, "__author__": "someone"},
        rest=frozenset({"norm.weight", "norm.bias"}),
    ),
    "aimv2": Case(
        "AIMv2 (official names)",
        aimv2(),
        (
            [0.363646361, 0.934953375, 0.6559974, -1.094854503],
            [-0.836572145, -0.478228796, -0.325834064],
            793.63991,
        ),
        "aimv2_large_patch14_224",
        {"mlp_ratio": 2.75},
    ),
    "aimv2-lit": Case(
        "AIMv2 (official names)",
        {
            **aimv2("image_encoder."),
            "image_encoder.head.cls_token": (1, 1, WIDTH),
            "image_encoder.head.k.weight": (WIDTH, WIDTH),
            "image_encoder.head.v.weight": (WIDTH, WIDTH),
            **affine("image_encoder.head.linear", WIDTH, WIDTH),
            "text_encoder.preprocessor.text_embedding.weight": (11, 16),
            "image_projector.weight": (8, WIDTH),
            "text_projector.weight": (8, 16),
            "log_logit_scale": (),
        },
        None,
        "aimv2_large_patch14_224",
        {"mlp_ratio": 2.75},
        frozenset({"text tower", "projection", "attention pooling", "temperature of the loss"}),
        written=aimv2(),
    ),
    "mae-decoder": Case(
        "MAE pretraining checkpoint with decoder",
        {
            **vit(),
            "mask_token": (1, 1, 16),
            "decoder_pos_embed": (1, 17, 16),
            **affine("decoder_embed", 16, WIDTH),
            **numbered("decoder_blocks", 1, lambda name: block(name, 16)),
            **affine("decoder_norm", 16),
            **affine("decoder_pred", 192, 16),
        },
        dropped=frozenset({"decoder"}),
        payload=lambda state: {"model": state},
        back=False,
    ),
    "mae-encoder": Case(TIMM_NAMES, vit(), payload=lambda state: {"model": state}),
    "mae-pooled": Case(
        "average-pooled ViT (fine-tuned MAE or timm)",
        {**vit(norm="fc_norm"), **affine("head", 5, WIDTH)},
        dropped=frozenset({"head"}),
        payload=lambda state: {"model": state},
    ),
    "mae-probe": Case(
        "ViT classifier",
        {**vit(), **batch_norm("head.0", WIDTH, learned=False), **affine("head.1", 5, WIDTH)},
        dropped=frozenset({"head"}),
        payload=lambda state: {"model": state},
        back=False,
    ),
    "deit3": Case(
        "DeiT III classifier",
        {
            **{
                name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): shape
                for name, shape in vit(scaled=True).items()
            },
            **affine("head", 5, WIDTH),
        },
        options={"init_values": 1e-6},
        dropped=frozenset({"head"}),
        payload=lambda state: {"model": state},
    ),
    "timm-registers": Case(
        TIMM_NAMES,
        {**vit(scaled=True), "reg_token": (1, 2, WIDTH), "pos_embed": (1, PATCHES, WIDTH)},
        options={"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1},
    ),
}


def read(case: Case, path: Path) -> tuple[Recognised, CheckpointInfo]:
    torch.save(case.payload(filled(case.shapes)), path)
    state, info = read_checkpoint(path, case.key)
    return recognise(state, str(path)), info


def network(case: Case) -> Any:
    options = {"embed_dim": WIDTH, "num_heads": 2, **case.options}
    return timm.create_model(
        case.arch, num_classes=0, img_size=32, patch_size=8, depth=DEPTH, dynamic_img_size=True, **options
    ).double().eval()  # fmt: skip


def check(tokens: Tensor, numbers: tuple[list[float], list[float], float]) -> None:
    first, last, total = numbers
    flat = tokens.detach().flatten()
    assert flat[:4].tolist() == pytest.approx(first, abs=2e-9)
    assert flat[-3:].tolist() == pytest.approx(last, abs=2e-9)
    assert float(flat.abs().sum()) == pytest.approx(total, abs=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_published_checkpoint_is_read_whole(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found, _ = read(case, tmp_path / "weights")
    assert found.format == case.format
    assert {entry.note for entry in found.dropped} == case.dropped
    model = network(case)
    missing = model.load_state_dict(found.encoder, strict=False)
    assert (set(missing.missing_keys), missing.unexpected_keys) == (case.rest, [])
    if case.numbers is not None:
        check(model.forward_features(IMAGES), case.numbers)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_accounted_for_under_its_name_in_the_file(name: str, tmp_path: Path) -> None:
    found, info = read(CASES[name], tmp_path / "weights")
    named = {found.renamed.get(ours, ours) for ours in found.encoder}
    # Several together, or a part of one: all words but the names are ours.
    kept = {
        word
        for words in named
        for word in words.removesuffix(" without the class token's entry").split(" + ")
    }
    assert kept | {entry.name for entry in found.dropped} == set(
        read_checkpoint(info.path, CASES[name].key)[0]
    )
    assert set(found.renamed) <= set(found.encoder)


@pytest.mark.parametrize("name", CASES)
def test_exactly_one_format_claims_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.save(case.payload(filled(case.shapes)), tmp_path / "weights")
    state, _ = read_checkpoint(tmp_path / "weights", case.key)
    if any(key.startswith("visual.trunk.") for key in state):
        state = {key.removeprefix("visual.trunk."): value for key, value in state.items() if "trunk" in key}
    claims = [one.name for one in FORMATS if one.matches(state)]
    assert claims == [case.format.removeprefix("open_clip's trunk: ")]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_exactly_one_format_claims_a_relative(name: str, tmp_path: Path) -> None:
    """BEiT, data2vec, SimMIM, CAE, MaskFeat, EVA and DINOv3: none of them passes for a plain ViT of another kind."""
    torch.save({key: torch.zeros(shape) for key, shape in CHECKPOINTS[name].items()}, tmp_path / "weights")
    state, _ = read_checkpoint(tmp_path / "weights")
    (one,) = [one for one in FORMATS if one.matches(state)]
    assert one.name not in {case.format for case in CASES.values()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.back])
def test_there_and_back_again(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found, _ = read(case, tmp_path / "weights")
    (one,) = [one for one in FORMATS if one.name == case.format]
    assert one.write is not None
    written = one.write(found.encoder)
    again = recognise(written, "the same")
    assert again.format == case.format
    assert set(again.encoder) == set(found.encoder)
    for key, tensor in found.encoder.items():
        assert torch.equal(again.encoder[key], tensor), key
    left_out = {entry.name for entry in found.dropped}
    expected = case.written or {key: shape for key, shape in case.shapes.items() if key not in left_out}
    assert {key: tuple(tensor.shape) for key, tensor in written.items()} == expected


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("moco", "base_encoder.blocks.1"),
        ("dino", "backbone.blocks.1"),
        ("dinov2-teacher", "backbone.blocks.1"),
        ("clip", "visual.transformer.resblocks.1"),
        ("open-clip-trunk", "visual.trunk.blocks.1"),
        ("torchvision", "encoder.layers.encoder_layer_1"),
        ("mm-classifier", "backbone.layers.1"),
        ("vitdet", "backbone.net.blocks.1"),
        ("aimv2", "trunk.blocks.1"),
        ("deit3", "blocks.1"),
    ],
)
def test_what_a_format_does_not_know_is_never_dropped(name: str, inside: str) -> None:
    strange = {
        f"{inside}.attn.lora.weight",
        f"{inside}.ls1.extra",
        "adapter.weight",
        "head.more.deeply.weight",
    }
    if name == "mm-classifier":  # whose head is whatever lies under that name
        strange.remove("head.more.deeply.weight")
    found = recognise({**filled(CASES[name].shapes), **{key: torch.zeros(3) for key in strange}}, "x")
    assert {key.removeprefix("visual.trunk.") for key in strange} <= set(found.encoder)


def test_two_tensors_of_one_name_are_refused() -> None:
    state = {**filled(moco()), "norm.weight": torch.ones(WIDTH)}
    with pytest.raises(
        MaeBenchError,
        match=r"two tensors for norm\.weight: base_encoder\.norm\.weight and norm\.weight; keep one",
    ):
        recognise(state, "x")


def test_pooled_norms_and_the_class_tokens_position(tmp_path: Path) -> None:
    # mmpretrain's average-pooled ViT: its last norm (`ln2`) acts on the mean of the patches.
    case = Case("OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)", mm_vit("", norm="ln2"))
    found, _ = read(case, tmp_path / "a")
    assert found.renamed["norm.weight"] == "ln2.weight"
    model = network(case)
    model.load_state_dict(found.encoder)
    norm, model.norm = model.norm, torch.nn.Identity()
    check(
        norm(model.forward_features(IMAGES)[:, 1:].mean(1)),
        (
            [0.226948281, 0.099295244, 0.121022478, -0.365200491],
            [0.137146949, -0.004429102, -0.28032894],
            9.075046,
        ),
    )
    # Registers move the class token's position into the token itself.
    found, _ = read(CASES["dinov2-registers"], tmp_path / "b")
    assert found.renamed["cls_token"] == "cls_token + pos_embed"
    assert found.encoder["pos_embed"].shape == (1, PATCHES, WIDTH)


def test_vitdets_encoder_without_its_relative_positions(tmp_path: Path) -> None:
    case = Case("", vitdet(relative=False), options=TOKENLESS, payload=lambda state: {"model": state})
    found, _ = read(case, tmp_path / "a")
    assert [note for note in found.notes if "relative" in note] == []
    model = network(case)
    model.load_state_dict(found.encoder, strict=False)
    model.norm = torch.nn.Identity()
    check(
        model.forward_features(IMAGES).transpose(1, 2),
        (
            [-0.503960863, -0.272574576, 1.886674123, -0.938061283],
            [0.218807999, -0.904620186, -1.169860427],
            1067.822274,
        ),
    )
    found, _ = read(CASES["vitdet"], tmp_path / "b")
    assert any("relative positions to attention" in note for note in found.notes)
    assert any("neither class token nor final norm" in note for note in found.notes)


# ---------------------------------------------------------------- what is said


def test_the_network_taken_of_several_is_noted(tmp_path: Path) -> None:
    _, info = read(CASES["dino"], tmp_path / "dino")
    assert (info.wrapper, info.prefix) == ("teacher", "")
    assert info.notes == (
        "of several networks in the file 'teacher' was taken; another one is by key=student",
    )
    assert {"dino_loss", "optimizer", "args", "student"} <= set(info.ignored)
    _, info = read(CASES["ijepa"], tmp_path / "ijepa")
    assert (info.wrapper, info.prefix) == ("target_encoder", "module.")
    assert info.notes == (
        "of several networks in the file 'target_encoder' was taken; another one is by key=encoder",
    )
    found, _ = read(CASES["moco"], tmp_path / "moco")
    assert found.notes == [
        "of MoCo v3's encoders 'base_encoder' was taken, as its authors evaluate it; "
        "key=momentum_encoder takes the other"
    ]


def test_what_weights_do_not_show_is_noted(tmp_path: Path) -> None:
    found, _ = read(CASES["clip"], tmp_path / "clip")
    assert any("QuickGELU" in note for note in found.notes)
    small = {
        name: torch.zeros([384 if side == WIDTH else side for side in shape])
        for name, shape in moco().items()
    }
    assert any("12 heads" in note for note in recognise(small, "x").notes)


def test_a_checkpoint_for_another_class_says_for_which() -> None:
    state = {name: torch.zeros(shape, device="meta") for name, shape in moco().items()}
    with pytest.raises(
        MaeBenchError,
        match=r"^x\.pth is a MoCo v3 pretraining checkpoint; give it an arch of timm's VisionTransformer, for "
        r"example arch=vit_base_patch16_224$",
    ):
        recognise(state, "x.pth", layout="beit")
    with pytest.raises(MaeBenchError, match=r"^x is an iBOT network; give it"):
        recognise(filled(IBOT_SHAPES), "x", layout="eva")


def test_an_encoder_under_a_name_of_its_own_is_pointed_at(tmp_path: Path) -> None:
    state = {**vit("tower.inner."), "temperature": (), **affine("other.fc", 3, 3)}
    torch.save(filled(state), tmp_path / "x")
    read_state, _ = read_checkpoint(tmp_path / "x")
    with pytest.raises(
        MaeBenchError,
        match=r"holds no ViT encoder: its .* tensors are .*; there may be one by key=tower\.inner$",
    ):
        recognise(read_state, "x")
    chosen, info = read_checkpoint(tmp_path / "x", key="tower.inner")
    assert recognise(chosen, "x").format == TIMM_NAMES
    assert set(info.ignored) == {"temperature (1 tensor)", "other (2 tensors)"}


def test_layer_scale_is_never_lost(tmp_path: Path) -> None:
    torch.save(filled(dinov2()), tmp_path / "x")
    arch = "arch=vit_tiny_patch16_224&img_size=32&patch_size=8&embed_dim=32&depth=2&num_heads=2"
    with pytest.raises(MaeBenchError, match=r"4 unexpected \(blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma"):
        load_backbone(f"file:{tmp_path / 'x'}?{arch}")
    backbone = load_backbone(f"file:{tmp_path / 'x'}?{arch}&init_values=1")
    assert torch.equal(
        backbone.vit.blocks[1].ls2.gamma.double(), filled(dinov2())["blocks.1.ls2.gamma"].float().double()
    )


# ---------------------------------------------------------------- architectures that are suggested


def at_full_size(arch: str, name: str) -> dict[str, Tensor]:
    """Keys and shapes of an architecture's encoder as a format (or timm, "") has them, without numbers."""
    with shapes_alone():
        encoder = timm.create_model(arch, num_classes=0).state_dict()
    encoder = {key: tensor for key, tensor in encoder.items() if not key.startswith("attn_pool")}
    if not name:
        return encoder
    (one,) = [one for one in FORMATS if one.name == name]
    assert one.write is not None
    return one.write(encoder)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("vit_base_patch16_224", TIMM_NAMES),
        ("vit_small_patch8_224", TIMM_NAMES),
        ("vit_huge_patch14_224", TIMM_NAMES),
        ("vit_small_patch14_dinov2", "DINOv2 (official names)"),
        ("vit_base_patch14_reg4_dinov2", "DINOv2 (official names)"),
        ("vit_giant_patch14_dinov2", "DINOv2 (official names)"),
        ("vit_base_patch16_clip_224", "CLIP image tower (OpenAI, open_clip)"),
        ("vit_base_patch16_clip_384", "CLIP image tower (OpenAI, open_clip)"),
        ("vit_huge_patch14_gap_224", "ViT encoder without class token (I-JEPA, SigLIP or timm)"),
        ("vit_base_patch16_siglip_512", "ViT encoder without class token (I-JEPA, SigLIP or timm)"),
        ("deit3_base_patch16_224", "DeiT III classifier"),
        ("aimv2_large_patch14_224", "AIMv2 (official names)"),
        ("vit_base_patch16_224", "MoCo v3 pretraining checkpoint"),
        ("vit_base_patch32_224", "torchvision ViT"),
        ("vit_base_patch16_384", "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)"),
        ("beit_base_patch16_224", ""),
        ("vit_base_patch16_dinov3", ""),
        ("eva02_base_patch14_224", ""),
        ("eva02_large_patch14_448", ""),
    ],
)
def test_the_architecture_is_suggested(arch: str, name: str) -> None:
    assert suggest(at_full_size(arch, name)) == arch


def test_no_architecture_is_suggested_where_none_fits() -> None:
    assert suggest(filled(vit())) is None  # 32 wide
    assert suggest({"conv1.weight": torch.zeros(2)}) is None
    scaled = at_full_size("vit_small_patch14_dinov2", "DINOv2 (official names)")
    del scaled["blocks.3.ls1.gamma"]
    assert suggest(scaled) is None
    archive = at_full_size("vit_base_patch16_clip_224", "CLIP image tower (OpenAI, open_clip)")
    archive["input_resolution"] = torch.tensor(224)
    assert suggest(archive) == "vit_base_patch16_clip_quickgelu_224"
    trunk = {
        f"visual.trunk.{key}": tensor
        for key, tensor in at_full_size("vit_base_patch16_224", TIMM_NAMES).items()
    }
    assert suggest({**trunk, "logit_scale": torch.zeros(())}) == "vit_base_patch16_224"
