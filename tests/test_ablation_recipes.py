"""What MAE's ablations vary: their settings, mask tokens in the encoder, PCA as the target, and the facts on record."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mae_bench
from mae_bench import recipe, scenes, settings
from mae_bench.augment import train_transform
from mae_bench.errors import MaeBenchError
from mae_bench.pretrain import facts, masking
from mae_bench.pretrain.export import load_run, official_state
from mae_bench.pretrain.model import from_config
from mae_bench.pretrain.principal import PrincipalComponents
from mae_bench.pretrain.targets import patchify, unpatchify
from mae_bench.pretrain.task import MAEConfig
from mae_bench.results import read_result
from mae_bench.tables import make_table
from mae_bench.tables.layouts import Layout, load_layout
from tests.closed_form import numbers
from tests.launch import ROOT
from tests.pictures import settings as image_settings
from tests.sample_runs import store
from tests.test_mae_model import images, noise, tiny
from tests.test_mae_task import config, write_recipe

# ---------------------------------------------------------------- recipes

# Made before mask tokens could be in the encoder and PCA coefficients the target: a hash that changes would
# part runs from those that were made before.
HASHES = {
    "mae-vit-base": "8a9c7008c6e39f781642853ca2cc596cda1384f97546227ad79b75d04731e726",
    "mae-vit-large": "25d060d4d9c562f9995c8df2edf75cc92e2c66e39325169421e65a3c6daa04e8",
    "mae-cifar10-vit-tiny": "0d91c461f1928170ed4b8d75a249518a9aa3be577fd4dbe5ca5f17d71f12e7ff",
}


@pytest.mark.parametrize("name", HASHES)
def test_hashes_of_recipes_are_those_from_before(name: str) -> None:
    assert settings.recipe_hash(recipe.resolve(name).config) == HASHES[name]


def test_another_setting_is_another_recipe() -> None:
    known = {settings.recipe_hash(recipe.resolve("mae-vit-large-ablation").config)}
    for override in ("mask_token=encoder", "pca={}", "pca={coefficients: 48}"):
        known.add(settings.recipe_hash(recipe.resolve("mae-vit-large-ablation", [override]).config))
    assert len(known) == 4


def test_the_recipe_of_the_ablations_is_that_of_the_release_on_raw_pixels() -> None:
    ours, theirs = (
        settings.flatten(settings.plain(recipe.resolve(name).config))
        for name in ("mae-vit-large-ablation", "mae-vit-large")
    )
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing == {"norm_pix", "recipe", "expected", "notes"}
    assert ours["norm_pix"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pca": {}, "norm_pix": True}, "give norm_pix=false"),
        (
            {"pca": {"coefficients": 49}, "norm_pix": False, "export_official": False},
            "a patch has 48 values, so not 49",
        ),
        ({"pca": {}, "norm_pix": False}, "give export_official=false"),
        ({"mask_token": "encoder"}, "give export_official=false"),
        ({"mask_token": "both"}, "mask_token: should be"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        from_config(config(**changes))


# ---------------------------------------------------------------- the commands of the page

PAGE = ROOT / "docs" / "ablations.md"
# Section of the page -> its table.
SECTIONS = {f"Table 1{letter}": f"mae-table1{letter}" for letter in "abcdef"} | {
    "Table 2": "mae-table2",
    "Figure 5": "mae-fig5",
    "Figure 7": "mae-fig7",
}
# No recipe gives what it needs.
WITHOUT = {"mae-table1d": {"dVAE token"}}


def commands(section: str) -> Iterator[MAEConfig]:
    """The settings of every pretraining in a section of the page."""
    text = PAGE.read_text().split(f"\n## {section}:")[1].split("\n## ")[0]
    for line in re.findall(r"^mae-bench (pretrain .*)$", text, flags=re.MULTILINE):
        _, option, name, *overrides = shlex.split(line)
        assert option == "--recipe"
        found = recipe.resolve(name, overrides, kind="pretrain").config
        assert isinstance(found, MAEConfig)
        yield found


def finished(root: Path, config: MAEConfig) -> None:
    """Made-up runs on what a pretraining by `config` would leave: 84 fine-tuned, 72 probed."""
    known = {
        **facts.recipe_facts(config),
        "epochs": config.train.epochs,
        "wall_clock_h": 1.0,
        "device": "x",
        "processes": 1,
    }
    size = "huge" if "huge" in config.model.arch else "large"
    number = len(list(root.glob("*")))
    backbone = {
        "spec": f"run:{number}",
        "arch": config.model.arch,
        "digest": f"{number:064d}",
        "pretraining": known,
    }
    for task, value in (("imagenet-finetune", 84.0), ("imagenet-linear", 72.0)):
        name = f"{task}-{size}"
        store(root, f"{number}-{name}", value, task=task, recipe=name, protocol=name, backbone=backbone)


def without_row(layout: Layout) -> set[str]:
    return WITHOUT.get(layout.id, set())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_published_number_has_its_command(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counting takes seconds for the largest of them, and has its own test.
    monkeypatch.setattr(facts, "relative_flops", lambda _: 1.0)
    layout = load_layout(SECTIONS[section])
    for one in commands(section):
        finished(tmp_path, one)
    ours = [row for row in make_table(layout.id, tmp_path).rows if row.ours]
    cells = [cell for row in ours for key, cell in row.cells.items() if key in ("ft", "lin") or "_" in key]
    assert {cell.departures for cell in cells} == {""}
    if layout.figure is not None:
        (row,), (published,) = ours, layout.published
        assert row.cells.keys() == published.values.keys()
    elif layout.id == "mae-table2":
        assert len(ours) == len(layout.published)
    else:
        expected = {f"ours: {row.name}" for row in layout.published} - {
            f"ours: {name}" for name in without_row(layout)
        }
        assert {row.label for row in ours} == expected


# ---------------------------------------------------------------- mask tokens in the encoder

WITH_TOKENS: dict[str, Any] = {"mask_token": "encoder", "norm_pix": False}


@pytest.mark.parametrize("arguments", [{}, {"class_token": False}, {"reg_tokens": 2}, {"pre_norm": True}])
def test_the_encoder_sees_a_mask_token_at_every_hidden_place(arguments: dict[str, Any]) -> None:
    model = tiny(arguments=arguments, **WITH_TOKENS)
    vit, prefix = model.encoder, model.encoder.num_prefix_tokens
    visible, hidden = masking.split(noise(), model.kept)
    # As a ViT would do it: embed all patches, put the mask token in the places that are hidden, go on as ever.
    embedded = vit.patch_embed(images())
    where = torch.zeros(3, 16, dtype=torch.bool).scatter(1, hidden, True)
    assert model.mask_token is not None
    tokens = vit._pos_embed(torch.where(where[..., None], model.mask_token, embedded))
    encoded = vit.norm(vit.blocks(vit.norm_pre(tokens)))
    order = torch.cat([visible, hidden], dim=1)[..., None].expand(-1, -1, 24)
    expected = torch.cat([encoded[:, :prefix], encoded[:, prefix:].gather(1, order)], dim=1)
    torch.testing.assert_close(model.encode(images(), noise=noise()), expected)
    # The decoder works on all of these, with its own positions.
    decoder = model.decoder
    predicted = decoder.pred(decoder.norm(decoder.blocks(decoder.embed(encoded) + decoder.pos_embed)))[
        :, prefix:
    ]
    found = model.reconstruct(images(), noise=noise())
    torch.testing.assert_close(found.prediction, predicted)
    squares = (predicted - patchify(images(), (4, 6))).square().mean(-1)
    torch.testing.assert_close(model(images(), noise=noise()), (squares * where).sum() / where.sum())


def test_hidden_pixels_are_not_seen_by_an_encoder_with_mask_tokens() -> None:
    model = tiny(**WITH_TOKENS)
    before = images()
    hidden = model.reconstruct(before, noise=noise()).hidden
    where = unpatchify(hidden[..., None].expand(-1, -1, 72), (4, 6), (4, 4))
    after = torch.where(where, before.flip(0) + 5, before)
    assert torch.equal(model.encode(after, noise=noise()), model.encode(before, noise=noise()))


def test_there_is_one_mask_token_and_it_learns() -> None:
    model = tiny(**WITH_TOKENS)
    assert model.decoder.mask_token is None
    model(images(), noise=noise()).backward()
    without = {name for name, param in model.named_parameters() if param.grad is None}
    assert without == {"encoder.pos_embed", "decoder.pos_embed"}
    assert model.mask_token is not None
    assert model.mask_token.std().item() == pytest.approx(0.02, rel=0.5)
    assert "mask_token" not in model.encoder.state_dict()
    with pytest.raises(MaeBenchError, match="mask tokens in the decoder"):
        official_state(model)


def test_other_weights_are_drawn_alike_with_and_without_mask_tokens_in_the_encoder() -> None:
    ours, plain = tiny(**WITH_TOKENS).state_dict(), tiny(norm_pix=False).state_dict()
    shared = ours.keys() & plain.keys()
    assert plain.keys() - shared == {"decoder.mask_token"}
    assert all(torch.equal(ours[name], plain[name]) for name in shared if "blocks" in name)


def test_flops_of_mask_tokens_are_those_of_the_paper() -> None:
    # 3.3 in Table 1c; ours counts multiplications of the forward pass alone.
    overridden = recipe.resolve("mae-vit-large-ablation", ["mask_token=encoder"]).config
    assert isinstance(overridden, MAEConfig)
    assert facts.relative_flops(overridden) == pytest.approx(3.3, abs=0.1)


# ---------------------------------------------------------------- PCA


def filled(patches: Tensor, count: int) -> PrincipalComponents:
    made = PrincipalComponents(patches.shape[1], count).double()
    made.set(patches.sum(0), patches.T @ patches, len(patches))
    return made


def test_components_are_those_of_the_singular_values() -> None:
    patches = numbers((500, 12), 3) @ numbers((12, 12), 4) + numbers((12,), 5)
    made = filled(patches, 5)
    centred = patches - patches.mean(0)
    _, _, right = torch.linalg.svd(centred, full_matrices=False)
    found = made(patches)
    torch.testing.assert_close(found.abs(), (centred @ right[:5].T).abs())
    spread = found.var(0)
    assert torch.equal(spread.argsort(descending=True), torch.arange(5))
    assert (made.components.gather(0, made.components.abs().argmax(0, keepdim=True)) > 0).all()
    # With all components nothing is lost, with some the least possible.
    torch.testing.assert_close(filled(patches, 12).undo(filled(patches, 12)(patches)), patches)
    lost = (made.undo(found) - patches).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(centred)[5:].square().sum())


def test_components_never_found_spoil_the_loss_at_once() -> None:
    assert tiny(norm_pix=False, pca=5)(images(), noise=noise()).isnan()


def test_the_loss_is_of_the_coefficients() -> None:
    model = tiny(norm_pix=False, pca=5)
    patches = patchify(2 * numbers((40, 3, 16, 24), 9), (4, 6)).flatten(0, 1)
    assert model.pca is not None
    model.pca.set(patches.sum(0), patches.T @ patches, len(patches))
    found = model.reconstruct(images(), noise=noise())
    assert found.prediction.shape == (3, 16, 5)
    wanted = (patchify(images(), (4, 6)) - patches.mean(0)) @ model.pca.components
    squares = (found.prediction - wanted).square().mean(-1)
    torch.testing.assert_close(
        model(images(), noise=noise()), (squares * found.hidden).sum() / found.hidden.sum()
    )
    painted = found.prediction @ model.pca.components.T + patches.mean(0)
    torch.testing.assert_close(found.images, unpatchify(painted, (4, 6), (4, 4)))


def test_autocast_leaves_the_target_exact() -> None:
    made = filled(numbers((50, 12), 3), 4).float()
    patches = numbers((2, 3, 12), 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside, back = made(patches), made.undo(made(patches))
    assert torch.equal(inside, made(patches))
    assert torch.equal(back, made.undo(inside))


# ---------------------------------------------------------------- augmentation


def test_a_crop_of_fixed_size() -> None:
    data = image_settings(
        evaluation={"resize": 12}, augment={"crop": {"kind": "fixed"}, "flip": 0.0}, image_size=[10, 10]
    )
    transform = train_transform(data)
    image = (torch.arange(24 * 36) % 251).view(1, 24, 36).expand(3, -1, -1).to(torch.uint8)
    whole = train_transform(data).centre.resized(image)  # type: ignore[attr-defined]
    assert whole.shape == (3, 12, 18)
    windows = [whole[:, top : top + 10, left : left + 10] for top in range(3) for left in range(9)]
    places = set()
    for key in range(300):
        cut = transform(image, key)
        places.add(next(i for i, window in enumerate(windows) if torch.equal(window, cut)))
    assert places == set(range(27))


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"crop": {"kind": "center"}, "flip": 0.0}, "none"),
        ({"crop": {"kind": "center"}, "flip": 0.5}, "flip"),
        ({"crop": {"kind": "fixed"}}, "crop, fixed size"),
        ({}, "crop, rand size"),
        ({"flip": 0.0}, "crop, rand size, no flip"),
        ({"color_jitter": 0.4}, "crop, rand size + color jit"),
        ({"crop": {"kind": "center"}, "flip": 0.0, "color_jitter": 0.4}, "color jit"),
    ],
)
def test_augmentation_in_words(augment: dict[str, Any], words: str) -> None:
    assert facts.augmentation(config(data__augment=augment)) == words


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    scenes.ensure(root, "tiny")
    return root


def test_a_run_keeps_its_components_and_its_facts(world: Path, tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path, norm_pix=False, pca={"coefficients": 6, "images": 50}, export_official=False, train__steps=8
    )
    mae_bench.pretrain(str(path), data_root=world, runs_root=tmp_path, name="run")
    resolved = recipe.resolve(str(path)).config
    assert isinstance(resolved, MAEConfig)
    model = load_run(resolved, tmp_path / "run")
    assert model.pca is not None
    components = model.pca.components
    torch.testing.assert_close(components.T @ components, torch.eye(6), atol=1e-5, rtol=0)
    found = mae_bench.load_backbone(f"run:{tmp_path / 'run'}").pretraining
    assert found is not None
    taken = read_result(tmp_path / "run" / "result.json").wall_clock_s
    assert 0 < found["wall_clock_h"] <= taken / 3600 + 1e-4
    assert found["images_per_s"] > 0
    assert (found["device"], found["processes"]) != ("", 0)
    expected = {
        "decoder_depth": 1,
        "decoder_width": 16,
        "mask_token": "decoder",
        "target": "PCA, 6 coefficients",
        "augmentation": "flip",
        "masking": "random",
        "mask_ratio": 0.75,
        "epochs": 1.6,
        "relative_flops": 1.0,
        "protocol": "tiny-mae",
        "departs": None,
    }
    assert {key: found[key] for key in expected} == expected


def test_facts_say_in_which_settings_a_run_departs() -> None:
    resolved = recipe.resolve(
        "mae-vit-large-ablation", ["decoder.depth=4", "train.batch=2048", "seed=3"]
    ).config
    assert isinstance(resolved, MAEConfig)
    found = facts.recipe_facts(resolved)
    assert (found["protocol"], found["departs"]) == (
        "mae-vit-large-ablation",
        ["decoder.depth", "train.batch"],
    )
