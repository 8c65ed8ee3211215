"""Names and shapes of published checkpoints, as the authors' classes have them.

Each table was made by building the class that is named, at the sizes that are published, and reading its
`state_dict`. A line stands for a module or a tensor:

* ``wb 3D D``: a weight of that shape, and a bias of its first side.
* ``bn D``: a batch norm: weight, bias, running mean and variance, and a count.
* ``stats D``: a batch norm without weight and bias.
* ``1 N D``: a tensor of that shape.

D is the width, A the number of heads, N the number of patches and one, P the side of a patch; ``{L}`` stands for
every block, ``{2}`` for two of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """What the letters stand for."""

    width: int
    depth: int
    heads: int
    patch: int = 16


def tensors(table: str, size: Size) -> Shapes:
    """Name -> shape of every tensor of a table."""
    letters = {"D": size.width, "A": size.heads, "N": 1 + (224 // size.patch) ** 2, "P": size.patch}
    found: Shapes = {}
    for line in TABLES[table].strip().splitlines():
        name, _, text = line.partition(":")
        kind, sides = re.fullmatch(r"(wb|bn|stats|) ?(.*)", text.strip()).groups()  # type: ignore[union-attr]
        shape = tuple(_side(side, letters) for side in sides.split())
        repeated = re.search(r"\{(\w+)\}", name)
        count = 1 if repeated is None else size.depth if repeated[1] == "L" else int(repeated[1])
        for number in range(count):
            whole = re.sub(r"\{\w+\}", str(number), name)
            found |= {f"{whole}{leaf}": inner for leaf, inner in _leaves(kind, shape).items()}
    return found


def _side(text: str, letters: dict[str, int]) -> int:
    match = re.fullmatch(r"(\d*)([A-Z]?)", text)
    assert match is not None, text
    return int(match[1] or 1) * letters.get(match[2], 1)


def _leaves(kind: str, shape: tuple[int, ...]) -> Shapes:
    statistics = {".running_mean": shape, ".running_var": shape, ".num_batches_tracked": ()}
    match kind:
        case "wb":
            return {".weight": shape, ".bias": shape[:1]}
        case "bn":
            return {".weight": shape, ".bias": shape, **statistics}
        case "stats":
            return dict(statistics)
    return {"": shape}


TABLES = {
    # facebookresearch/mae@efb2a80: models_mae.MaskedAutoencoderViT without decoder and mask token, as the releases
    # for fine-tuning have it.
    "mae": """
cls_token: 1 1 D
pos_embed: 1 N D
patch_embed.proj: wb D 3 P P
blocks.{L}.norm1: wb D
blocks.{L}.attn.qkv: wb 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
""",
    # facebookresearch/moco-v3@c349e6e: moco.builder.MoCo_ViT(vits.vit_base, dim=256, mlp_dim=4096), in DistributedDataParallel.
    "moco-v3": """
module.base_encoder.cls_token: 1 1 D
module.base_encoder.pos_embed: 1 N D
module.base_encoder.patch_embed.proj: wb D 3 16 16
module.base_encoder.blocks.{L}.norm1: wb D
module.base_encoder.blocks.{L}.attn.qkv: wb 3D D
module.base_encoder.blocks.{L}.attn.proj: wb D D
module.base_encoder.blocks.{L}.norm2: wb D
module.base_encoder.blocks.{L}.mlp.fc1: wb 4D D
module.base_encoder.blocks.{L}.mlp.fc2: wb D 4D
module.base_encoder.norm: wb D
module.base_encoder.head.0.weight: 4096 D
module.base_encoder.head.1: bn 4096
module.base_encoder.head.3.weight: 4096 4096
module.base_encoder.head.4: bn 4096
module.base_encoder.head.6.weight: 256 4096
module.base_encoder.head.7: stats 256
module.momentum_encoder.cls_token: 1 1 D
module.momentum_encoder.pos_embed: 1 N D
module.momentum_encoder.patch_embed.proj: wb D 3 16 16
module.momentum_encoder.blocks.{L}.norm1: wb D
module.momentum_encoder.blocks.{L}.attn.qkv: wb 3D D
module.momentum_encoder.blocks.{L}.attn.proj: wb D D
module.momentum_encoder.blocks.{L}.norm2: wb D
module.momentum_encoder.blocks.{L}.mlp.fc1: wb 4D D
module.momentum_encoder.blocks.{L}.mlp.fc2: wb D 4D
module.momentum_encoder.norm: wb D
module.momentum_encoder.head.0.weight: 4096 D
module.momentum_encoder.head.1: bn 4096
module.momentum_encoder.head.3.weight: 4096 4096
module.momentum_encoder.head.4: bn 4096
module.momentum_encoder.head.6.weight: 256 4096
module.momentum_encoder.head.7: stats 256
module.predictor.0.weight: 4096 256
module.predictor.1: bn 4096
module.predictor.3.weight: 256 4096
module.predictor.4: stats 256
""",
    # open-mmlab/mmpretrain@ee7f2e8: the model of configs/mocov3/mocov3_vit-large-p16_64xb64-amp-coslr-300e_in1k.py.
    "moco-v3-mmpretrain": """
backbone.cls_token: 1 1 D
backbone.pos_embed: 1 N D
backbone.patch_embed.projection: wb D 3 16 16
backbone.layers.{L}.ln1: wb D
backbone.layers.{L}.attn.qkv: wb 3D D
backbone.layers.{L}.attn.proj: wb D D
backbone.layers.{L}.ln2: wb D
backbone.layers.{L}.ffn.layers.0.0: wb 4D D
backbone.layers.{L}.ffn.layers.1: wb D 4D
backbone.ln1: wb D
neck.fc0.weight: 4D D
neck.bn0: bn 4D
neck.fc1.weight: 4D 4D
neck.bn1: bn 4D
neck.fc2.weight: 256 4D
neck.bn2: stats 256
head.predictor.fc0.weight: 4D 256
head.predictor.bn0: bn 4D
head.predictor.fc1.weight: 256 4D
head.predictor.bn1: stats 256
momentum_encoder.steps:
momentum_encoder.module.0.cls_token: 1 1 D
momentum_encoder.module.0.pos_embed: 1 N D
momentum_encoder.module.0.patch_embed.projection: wb D 3 16 16
momentum_encoder.module.0.layers.{L}.ln1: wb D
momentum_encoder.module.0.layers.{L}.attn.qkv: wb 3D D
momentum_encoder.module.0.layers.{L}.attn.proj: wb D D
momentum_encoder.module.0.layers.{L}.ln2: wb D
momentum_encoder.module.0.layers.{L}.ffn.layers.0.0: wb 4D D
momentum_encoder.module.0.layers.{L}.ffn.layers.1: wb D 4D
momentum_encoder.module.0.ln1: wb D
momentum_encoder.module.1.fc0.weight: 4D D
momentum_encoder.module.1.bn0: bn 4D
momentum_encoder.module.1.fc1.weight: 4D 4D
momentum_encoder.module.1.bn1: bn 4D
momentum_encoder.module.1.fc2.weight: 256 4D
momentum_encoder.module.1.bn2: stats 256
""",
    # microsoft/unilm@768a3c8: beit/modeling_pretrain.py: VisionTransformerForMaskedImageModeling(vocab_size=8192, use_shared_rel_pos_bias=True, use_abs_pos_emb=False, init_values=0.1).
    "beit": """
cls_token: 1 1 D
mask_token: 1 1 D
patch_embed.proj: wb D 3 16 16
rel_pos_bias.relative_position_bias_table: 732 A
rel_pos_bias.relative_position_index: N N
blocks.{L}.gamma_1: D
blocks.{L}.gamma_2: D
blocks.{L}.norm1: wb D
blocks.{L}.attn.q_bias: D
blocks.{L}.attn.v_bias: D
blocks.{L}.attn.qkv.weight: 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
lm_head: wb 8192 D
""",
    # microsoft/unilm@768a3c8: the same with use_shared_rel_pos_bias=False, use_abs_pos_emb=True, init_values=0.
    "beit-absolute": """
cls_token: 1 1 D
mask_token: 1 1 D
pos_embed: 1 N D
patch_embed.proj: wb D 3 16 16
blocks.{L}.norm1: wb D
blocks.{L}.attn.q_bias: D
blocks.{L}.attn.v_bias: D
blocks.{L}.attn.qkv.weight: 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
lm_head: wb 8192 D
""",
    # microsoft/unilm@768a3c8: beit2/modeling_pretrain.py: VisionTransformerForMaskedImageModelingCLS(vocab_size=8192, use_shared_rel_pos_bias=True, init_values=0.1, head_layers=2, shared_lm_head=True).
    "beit-v2": """
cls_token: 1 1 D
mask_token: 1 1 D
patch_embed.proj: wb D 3 16 16
rel_pos_bias.relative_position_bias_table: 732 A
rel_pos_bias.relative_position_index: N N
blocks.{L}.gamma_1: D
blocks.{L}.gamma_2: D
blocks.{L}.norm1: wb D
blocks.{L}.attn.q_bias: D
blocks.{L}.attn.v_bias: D
blocks.{L}.attn.qkv.weight: 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
lm_head: wb 8192 D
cls_pt_layers.{2}.gamma_1: D
cls_pt_layers.{2}.gamma_2: D
cls_pt_layers.{2}.norm1: wb D
cls_pt_layers.{2}.attn.q_bias: D
cls_pt_layers.{2}.attn.v_bias: D
cls_pt_layers.{2}.attn.qkv.weight: 3D D
cls_pt_layers.{2}.attn.proj: wb D D
cls_pt_layers.{2}.norm2: wb D
cls_pt_layers.{2}.mlp.fc1: wb 4D D
cls_pt_layers.{2}.mlp.fc2: wb D 4D
""",
    # bytedance/ibot@da316d8: models.vision_transformer.vit_base(return_all_tokens=True); extract_backbone_weights.py removes "backbone.".
    "ibot-teacher": """
cls_token: 1 1 D
pos_embed: 1 N D
patch_embed.proj: wb D 3 16 16
blocks.{L}.norm1: wb D
blocks.{L}.attn.qkv: wb 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
""",
    # bytedance/ibot@da316d8: the same with masked_im_modeling=True.
    "ibot-student": """
cls_token: 1 1 D
pos_embed: 1 N D
masked_embed: 1 D
patch_embed.proj: wb D 3 16 16
blocks.{L}.norm1: wb D
blocks.{L}.attn.qkv: wb 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
""",
    # facebookresearch/data2vec_vision@af9a363: beit/modeling_cyclical.py: VisionTransformerForCyclicalTraining(use_shared_rel_pos_bias=True, use_abs_pos_emb=False, init_values=0.1).
    "data2vec": """
cls_token: 1 1 D
mask_token: 1 1 D
patch_embed.proj: wb D 3 16 16
rel_pos_bias.relative_position_bias_table: 732 A
rel_pos_bias.relative_position_index: N N
blocks.{L}.gamma_1: D
blocks.{L}.gamma_2: D
blocks.{L}.norm1: wb D
blocks.{L}.attn.q_bias: D
blocks.{L}.attn.v_bias: D
blocks.{L}.attn.qkv.weight: 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
norm: wb D
lm_head: wb D D
""",
    # lxtGH/CAE@d725971: models/modeling_cae.py: VisionTransformerForMaskedImageModeling(vocab_size=8192, regressor_depth=4, decoder_depth=4, decoder_num_classes=8192, init_values=0.1).
    "cae": """
mask_token: 1 1 D
encoder.cls_token: 1 1 D
encoder.pos_embed: 1 N D
encoder.patch_embed.proj: wb D 3 16 16
encoder.blocks.{L}.gamma_1: D
encoder.blocks.{L}.gamma_2: D
encoder.blocks.{L}.norm1: wb D
encoder.blocks.{L}.attn.q_bias: D
encoder.blocks.{L}.attn.v_bias: D
encoder.blocks.{L}.attn.qkv.weight: 3D D
encoder.blocks.{L}.attn.proj: wb D D
encoder.blocks.{L}.norm2: wb D
encoder.blocks.{L}.mlp.fc1: wb 4D D
encoder.blocks.{L}.mlp.fc2: wb D 4D
encoder.norm: wb D
teacher.cls_token: 1 1 D
teacher.pos_embed: 1 N D
teacher.patch_embed.proj: wb D 3 16 16
teacher.blocks.{L}.gamma_1: D
teacher.blocks.{L}.gamma_2: D
teacher.blocks.{L}.norm1: wb D
teacher.blocks.{L}.attn.q_bias: D
teacher.blocks.{L}.attn.v_bias: D
teacher.blocks.{L}.attn.qkv.weight: 3D D
teacher.blocks.{L}.attn.proj: wb D D
teacher.blocks.{L}.norm2: wb D
teacher.blocks.{L}.mlp.fc1: wb 4D D
teacher.blocks.{L}.mlp.fc2: wb D 4D
teacher.norm: wb D
pretext_neck.regressor_blocks.{4}.gamma_1_cross: D
pretext_neck.regressor_blocks.{4}.gamma_2_cross: D
pretext_neck.regressor_blocks.{4}.norm1_q: wb D
pretext_neck.regressor_blocks.{4}.norm1_k: wb D
pretext_neck.regressor_blocks.{4}.norm1_v: wb D
pretext_neck.regressor_blocks.{4}.norm2_cross: wb D
pretext_neck.regressor_blocks.{4}.cross_attn.q_bias: D
pretext_neck.regressor_blocks.{4}.cross_attn.v_bias: D
pretext_neck.regressor_blocks.{4}.cross_attn.q.weight: D D
pretext_neck.regressor_blocks.{4}.cross_attn.k.weight: D D
pretext_neck.regressor_blocks.{4}.cross_attn.v.weight: D D
pretext_neck.regressor_blocks.{4}.cross_attn.proj: wb D D
pretext_neck.regressor_blocks.{4}.mlp_cross.fc1: wb 4D D
pretext_neck.regressor_blocks.{4}.mlp_cross.fc2: wb D 4D
pretext_neck.decoder_blocks.{4}.gamma_1: D
pretext_neck.decoder_blocks.{4}.gamma_2: D
pretext_neck.decoder_blocks.{4}.norm1: wb D
pretext_neck.decoder_blocks.{4}.attn.q_bias: D
pretext_neck.decoder_blocks.{4}.attn.v_bias: D
pretext_neck.decoder_blocks.{4}.attn.qkv.weight: 3D D
pretext_neck.decoder_blocks.{4}.attn.proj: wb D D
pretext_neck.decoder_blocks.{4}.norm2: wb D
pretext_neck.decoder_blocks.{4}.mlp.fc1: wb 4D D
pretext_neck.decoder_blocks.{4}.mlp.fc2: wb D 4D
pretext_neck.norm: wb D
pretext_neck.norm2: wb D
pretext_neck.head: wb 8192 D
""",
    # microsoft/SimMIM@d3e29bc: models/simmim.py: SimMIM(VisionTransformerForSimMIM(use_shared_rel_pos_bias=True, init_values=0.1), 16).
    "simmim": """
encoder.cls_token: 1 1 D
encoder.mask_token: 1 1 D
encoder.patch_embed.proj: wb D 3 16 16
encoder.rel_pos_bias.relative_position_bias_table: 732 12
encoder.rel_pos_bias.relative_position_index: N N
encoder.blocks.{L}.gamma_1: D
encoder.blocks.{L}.gamma_2: D
encoder.blocks.{L}.norm1: wb D
encoder.blocks.{L}.attn.q_bias: D
encoder.blocks.{L}.attn.v_bias: D
encoder.blocks.{L}.attn.qkv.weight: 3D D
encoder.blocks.{L}.attn.proj: wb D D
encoder.blocks.{L}.norm2: wb D
encoder.blocks.{L}.mlp.fc1: wb 4D D
encoder.blocks.{L}.mlp.fc2: wb D 4D
encoder.norm: wb D
decoder.0: wb D D 1 1
""",
    # facebookresearch/SlowFast@287ec00: slowfast.models.masked.MaskMViT with configs/masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml.
    "maskfeat": """
cls_token: 1 1 D
pos_embed: 1 N D
mask_token: 1 1 D
patch_embed.proj: wb D 3 16 16
blocks.{L}.norm1: wb D
blocks.{L}.attn.qkv: wb 3D D
blocks.{L}.attn.proj: wb D D
blocks.{L}.norm2: wb D
blocks.{L}.mlp.fc1: wb 4D D
blocks.{L}.mlp.fc2: wb D 4D
hogs.0.weight_x: 3 1 3 3
hogs.0.weight_y: 3 1 3 3
pred_head.transforms.0.0: wb D
pred_head.projections.0: wb 108 D
""",
    # facebookresearch/msn@4388dc1: src.msn_train.init_model(deit_base, use_bn=True, hidden_dim=2048, output_dim=256), in DistributedDataParallel.
    "msn": """
module.cls_token: 1 1 D
module.pos_embed: 1 N D
module.patch_embed.proj: wb D 3 P P
module.blocks.{L}.norm1: wb D
module.blocks.{L}.attn.qkv: wb 3D D
module.blocks.{L}.attn.proj: wb D D
module.blocks.{L}.norm2: wb D
module.blocks.{L}.mlp.fc1: wb 4D D
module.blocks.{L}.mlp.fc2: wb D 4D
module.norm: wb D
module.fc.fc1: wb 2048 D
module.fc.bn1: bn 2048
module.fc.fc2: wb 2048 2048
module.fc.bn2: bn 2048
module.fc.fc3: wb 256 2048
""",
}
"""Table -> its lines."""
