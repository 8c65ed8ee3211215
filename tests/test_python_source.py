"""``python:``: a user's own module or factory, tried out, and told in one sentence what is wrong with it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from tests.plugins import Site

SOURCE = '''\
import timm
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.mlp(self.norm(x)) + x.mean(1, keepdim=True)


class Net(nn.Module):
    """A plain network with one class token, at any size."""

    def __init__(self, width=16, depth=2, patch=8, channels=3):
        super().__init__()
        self.patch_size, self.embed_dim, self.in_chans, self.img_size = patch, width, channels, 32
        self.num_prefix_tokens, self.has_class_token = 1, True
        self.mean, self.std = [0.5] * channels, [0.25] * channels
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, width, 4, 4))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def patches(self, images):
        x = self.proj(images)
        return x + F.interpolate(self.position, x.shape[2:], mode="bilinear")

    def embed(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], 1)


class Around(nn.Module):
    """A model that was there before, with the surface put around it."""

    def __init__(self):
        super().__init__()
        self.model = Net(depth=3)
        self.patch_size, self.embed_dim, self.img_size = 8, 16, 32
        self.num_prefix_tokens, self.blocks, self.norm = 1, self.model.blocks, self.model.norm
        self.embed = self.model.embed


class Boxed(nn.Module):
    """All of it lies in a part whose name is taken for a wrapper when a file is read."""

    patch_size, embed_dim, img_size, num_prefix_tokens = 8, 16, 32, 1

    def __init__(self):
        super().__init__()
        self.backbone = Net()

    blocks = property(lambda self: self.backbone.blocks)
    norm = property(lambda self: self.backbone.norm)

    def embed(self, images):
        return self.backbone.embed(images)


class Cone(nn.Module):
    """A hierarchical network of four convolutions."""

    def __init__(self):
        super().__init__()
        self.widths, self.strides, self.img_size = (8, 12, 16, 24), [4, 8, 16, 32], (64, 96)
        inputs, steps = (3, 8, 12, 16), (4, 2, 2, 2)
        self.blocks = nn.ModuleList(nn.Conv2d(i, o, s, s) for i, o, s in zip(inputs, self.widths, steps))

    def pyramid(self, images):
        maps, x = [], images
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


def net(width=16, depth=2):
    return Net(width, depth)


def spectral():
    return Net(channels=5)


def cone():
    return Cone()


def of_timm(width=24):
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=2)


def half():
    return Net().half()


def nothing():
    return {"a": 1}


def raises(depth=1):
    raise ValueError(f"depth {depth} is too small\\nthe rest")


def leaves():
    raise SystemExit(3)


def needs(path):
    return Net()


answer = 42


def changed(**attributes):
    made = Net()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def colourless():
    made = Net()
    del made.mean, made.std
    return made


def dark():
    return changed(std=[0, 1, 1])


def half_coloured():
    made = Net()
    del made.std
    return made


def without(name):
    made = Net()
    delattr(made, name)
    return made


def bare():
    return nn.Linear(3, 3)


class Headless(Net):
    def embed(self, images):
        return super().embed(images)[:, 1:]


class Columns(Net):
    def embed(self, images):
        x = self.patches(images).transpose(2, 3).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], 1)


class Last(Net):
    def embed(self, images):
        return super().embed(images).roll(-1, dims=1)


class Square(Net):
    def embed(self, images):
        side = images.shape[-1] // 8
        return super().embed(images).unflatten(1, (1 + side * side, 1)).flatten(1, 2)


class Pair(Net):
    def embed(self, images):
        return super().embed(images), None


class Cut(Net):
    @torch.no_grad()
    def embed(self, images):
        return super().embed(images)


class Shrinking(Block):
    def forward(self, x):
        return x[:, 1:]


def shrinking():
    made = Net()
    made.blocks[1] = Shrinking(16)
    return made


def infinite():
    made = Net()
    made.blocks[0].mlp.weight.data.fill_(float("inf"))
    return made


def detached():
    made = Net().requires_grad_(False)
    made.embed = torch.no_grad()(made.embed)
    made.blocks = nn.ModuleList(nn.Identity() for _ in range(2))
    made.norm = nn.Identity()
    return made


def flat_cone():
    made = Cone()
    made.strides = [4, 8, 16, 16]
    return made


def wide_cone():
    made = Cone()
    made.widths = (8, 12, 16, 25)
    return made


def three_maps():
    made = Cone()
    whole = made.pyramid
    made.pyramid = lambda images: whole(images)[:3]
    return made


def unregistered():
    made = Cone()
    made.__dict__["layers"] = [nn.Conv2d(3, 8, 4, 4)]
    del made.blocks
    made.blocks = made.layers
    return made
'''


@pytest.fixture
def workplace(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``nets.py`` and the package ``lab`` in it; `site` forgets their modules."""
    folder = site.folder
    site.module("nets", SOURCE)
    site.module(
        "lab.models.vits",
        "from lab.sizes import WIDTH\nfrom nets import Net\ndef small(): return Net(WIDTH)\n",
    )
    for package in ("lab", "lab.models"):
        site.module(f"{package}.__init__", "")
    site.module("lab.sizes", "WIDTH = 24\n")
    site.module("broken", "import nets\nx = nets.missing\n")
    site.module("unfinished", "def f(:\n")
    site.module("thirsty", "import no_such_package_anywhere\n")
    monkeypatch.chdir(folder)
    return folder


def told(spec: str, **options: object) -> str:
    with pytest.raises(MaeBenchError) as caught:
        load_backbone(spec, **options)  # type: ignore[call-overload]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{spec}: ")
    return message.removeprefix(f"{spec}: ")


# ---------------------------------------------------------------- what is taken


def test_a_plain_module_becomes_a_backbone(workplace: Path) -> None:
    backbone = load_backbone("python:nets:net?width=24&depth=3").eval()
    assert (backbone.width, backbone.depth, backbone.patch_size, backbone.channels) == (24, 3, (8, 8), 3)
    assert (backbone.prefix_tokens, backbone.has_class_token, backbone.image_size) == (1, True, (32, 32))
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.25,) * 3)
    assert backbone.arch == "Net"
    images = torch.randn(2, 3, 48, 32)
    prefix, patches = backbone.tokens(images)
    assert (prefix.shape, patches.shape) == ((2, 1, 24), (2, 6, 4, 24))
    import nets

    twin = nets.Net(24, 3).eval()
    twin.load_state_dict(backbone.vit.state_dict())
    x = twin.embed(images)
    for block in twin.blocks:
        x = block(x)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], 1), twin.norm(x))


def test_its_weights_are_said_to_be_the_factorys_own(workplace: Path) -> None:
    report = load_backbone("python:nets:net").report
    assert report.format == "as the factory made them"
    assert len(report.matched) == 14
    assert (
        report.loaded_parameters
        == report.total_parameters
        == sum(int(np.prod(entry.shape)) for entry in report.matched)
    )
    assert report.digest_before == report.digest_after
    assert report.source == "net of nets.py"
    assert report.summary().startswith(
        "python:nets:net: weights as the factory made them, 0.0 M parameters, sha256 "
    )


def test_what_the_factory_draws_follows_from_the_seed_alone(workplace: Path) -> None:
    torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = load_backbone("python:nets:net").digest
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(8)
    assert load_backbone("python:nets:net").digest == first
    assert load_backbone("python:nets:net", seed=1).digest != first


def test_a_file_and_a_package_are_named_too(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_backbone("python:lab.models.vits:small").width == 24
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "json.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("python:elsewhere/json.py:net?width=8").width == 8
    import json

    assert hasattr(json, "dumps")


def test_the_code_is_part_of_what_it_was_built_with(workplace: Path) -> None:
    before = load_backbone("python:nets.py:net?depth=1").model_args
    assert before["depth"] == 1
    (workplace / "nets.py").write_text(SOURCE.replace("x.mean(1, keepdim=True)", "x.amax(1, keepdim=True)"))
    after = load_backbone("python:nets.py:net?depth=1").model_args
    assert before["code"] != after["code"]


def test_other_channels_and_the_tasks_channels(workplace: Path) -> None:
    backbone = load_backbone("python:nets:spectral", channels=5)
    assert backbone.tokens(torch.randn(1, 5, 32, 32))[1].shape == (1, 4, 4, 16)
    assert (
        told("python:nets:spectral", channels=3) == "its weights take 5 image channels, and the task gives 3"
    )


def test_normalisation_may_be_given(workplace: Path) -> None:
    assert load_backbone("python:nets:net?mean=0,0,0&std=1,1,1").std == (1.0,) * 3
    backbone = load_backbone("python:nets:colourless")
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert any("ImageNet's mean and std" in note for note in backbone.report.notes)


def test_without_a_size_of_its_own_it_is_224_or_near(workplace: Path) -> None:
    assert load_backbone("python:nets:changed?img_size=null").image_size == (224, 224)
    assert load_backbone("python:nets:net", image_size=(64, 96)).image_size == (64, 96)
    with pytest.raises(MaeBenchError, match="60x64 pixels cannot be cut into patches of 8x8"):
        load_backbone("python:nets:net", image_size=(60, 64))


def test_half_precision_is_raised(workplace: Path) -> None:
    backbone = load_backbone("python:nets:half")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert {entry.note for entry in backbone.report.converted} == {"float16 -> float32"}
    assert backbone.report.digest_before != backbone.report.digest_after


def test_a_model_of_timm_is_taken_as_its_family(workplace: Path) -> None:
    backbone = load_backbone("python:nets:of_timm?width=48", image_size=(64, 32))
    plain = load_backbone(
        "random:vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=48&depth=2&num_heads=2"
    )
    assert backbone.family == plain.family
    assert backbone.image_size == (64, 32)
    assert [entry.name for entry in backbone.report.resized] == ["pos_embed"]
    assert {entry.name for entry in backbone.report.dropped} == {"head.weight", "head.bias"}
    assert backbone.halves
    assert backbone.tokens(torch.randn(1, 3, 64, 32))[1].shape == (1, 8, 4, 48)


def test_a_hierarchical_module(workplace: Path) -> None:
    backbone = load_backbone("python:nets:cone")
    assert backbone.hierarchical
    assert (backbone.widths, backbone.strides, backbone.depth) == ((8, 12, 16, 24), (4, 8, 16, 32), 4)
    maps = backbone.pyramid(torch.randn(1, 3, 96, 64))
    assert [tuple(level.shape[1:]) for level in maps] == [(8, 24, 16), (12, 12, 8), (16, 6, 4), (24, 3, 2)]


def test_parameters_that_nothing_trains_are_noted(workplace: Path) -> None:
    (workplace / "idle.py").write_text(
        "from nets import Net\nfrom torch import nn\n"
        "def f():\n    net = Net()\n    net.head = nn.Linear(16, 5)\n    return net\n"
    )
    (note,) = [n for n in load_backbone("python:idle:f").report.notes if "gradient" in n]
    assert note == "no gradient reaches head.weight, head.bias, so nothing would train them"


@pytest.mark.parametrize("factory", ["net", "Around", "cone", "of_timm"])
def test_layers_hold_every_parameter_once_in_depth_order(factory: str, workplace: Path) -> None:
    backbone = load_backbone(f"python:nets:{factory}")
    layers = backbone.layer_names()
    names = [name for layer in layers for name in layer]
    assert sorted(names) == sorted(name for name, _ in backbone.named_parameters())
    assert len(layers) == backbone.depth + 2
    assert all(layers[1 : backbone.depth + 1])
    for number, layer in enumerate(layers[1:-1]):
        assert all(f"blocks.{number}." in name for name in layer)


def test_a_model_with_the_surface_around_it_is_counted_and_frozen_once(workplace: Path) -> None:
    backbone = load_backbone("python:nets:Around")
    whole = sum(parameter.numel() for parameter in backbone.parameters())
    assert backbone.report.total_parameters == backbone.report.loaded_parameters == whole
    backbone.freeze(2)
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained == [name for layer in backbone.layer_names()[3:] for name in layer]
    backbone.train()
    training = {name for name, module in backbone.vit.model.named_modules() if module.training}
    assert training == {"", "blocks", "norm", *(f"blocks.2{part}" for part in ("", ".norm", ".mlp"))}
    backbone.freeze("all")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(MaeBenchError, match="none of which can be halved"):
        backbone.freeze(0.5)


def test_stochastic_depth_drops_blocks_whole(workplace: Path) -> None:
    backbone = load_backbone("python:nets:net?depth=3", drop_path=0.5)
    images = torch.randn(64, 3, 32, 32)
    torch.testing.assert_close(
        backbone.eval().trunk(images, 3), load_backbone("python:nets:net?depth=3").trunk(images, 3)
    )
    backbone.train()
    before = backbone.trunk(images, 2)
    after = backbone.block(2, before, None)
    dropped = (after == before).flatten(1).all(1)
    assert 16 < int(dropped.sum()) < 48
    whole = before + 2 * (backbone.vit.blocks[2](before) - before)
    torch.testing.assert_close(after[~dropped], whole[~dropped])
    backbone.freeze("all")
    backbone.train()
    torch.testing.assert_close(backbone.block(2, before, None), backbone.vit.blocks[2](before))
    with pytest.raises(MaeBenchError, match="its blocks have no stochastic depth"):
        load_backbone("python:nets:cone", drop_path=0.1)


def test_the_final_norm_can_be_taken_away(workplace: Path) -> None:
    backbone = load_backbone("python:nets:net").eval()
    images = torch.randn(1, 3, 32, 32)
    backbone.remove_norm()
    torch.testing.assert_close(
        backbone.tokens(images)[1].flatten(1, 2), backbone.trunk(images, backbone.depth)[:, 1:]
    )


# ---------------------------------------------------------------- weights


def test_weights_of_a_file_are_accounted_for(workplace: Path) -> None:
    other = load_backbone("python:nets:net", seed=5)
    torch.save({"model": other.vit.state_dict(), "epoch": 3}, "mine.pth")
    backbone = load_backbone("python:nets:net?weights=mine.pth")
    assert backbone.digest == other.digest
    report = backbone.report
    assert (report.coverage, len(report.matched), report.source) == (100.0, 14, "mine.pth")
    assert report.format != "as the factory made them"


def test_names_that_look_like_a_wrapper_are_found_again(workplace: Path) -> None:
    other = load_backbone("python:nets:Boxed", seed=5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in other.vit.state_dict().items()}}, "mine.pth")
    assert load_backbone("python:nets:Boxed?weights=mine.pth").digest == other.digest


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("norm.weight"), "1 missing (norm.weight)"),
        (lambda s: s.update(extra=torch.zeros(2)), "1 unexpected (extra)"),
        (lambda s: s.update({"norm.weight": torch.zeros(17)}), "norm.weight is (17,), not (16,)"),
        (lambda s: s["norm.weight"].fill_(float("nan")), "norm.weight holds values that are not finite"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(edit: object, message: str, workplace: Path) -> None:
    state = {k: v.clone() for k, v in load_backbone("python:nets:net").vit.state_dict().items()}
    edit(state)  # type: ignore[operator]
    safetensors.torch.save_file(state, "mine.safetensors")
    with pytest.raises(MaeBenchError) as caught:
        load_backbone("python:nets:net?weights=mine.safetensors")
    assert message in str(caught.value)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("nets", "say which function of which module builds it, python:package.module:function or "
         "python:path/to/file.py:function"),
        ("nts:net", "there is no module 'nts', neither in {folder} nor installed; did you mean 'nets'?"),
        ("lab.modles.vits:small", "there is no module 'lab.modles.vits', neither in {folder} nor installed; did you "
         "mean "),
        ("lab/net.py:small", "there is no file lab/net.py"),
        ("net.py:net", "there is no file net.py; did you mean 'nets.py'"),
        ("nets:nett", "nets has no function 'nett'; did you mean 'net' or "),
        ("nets:answer", "answer of nets is an int, not a function"),
        ("nets:nothing", "nothing returned a dict; it should return a torch.nn.Module"),
        ("nets:leaves", "leaves raised SystemExit: 3 (nets.py, line "),
        ("nets:raises?depth=7", "raises raised ValueError: depth 7 is too small (nets.py, line {line})"),
        ("nets:net?widht=3", "net takes no argument 'widht'; did you mean 'width'?"),
        ("nets:needs", "needs: missing a required argument: 'path'; it takes path"),
        ("nets:net?width=wide", "net raised TypeError: "),
        ("broken:f", "importing broken raised AttributeError: module 'nets' has no attribute 'missing' "
         "(broken.py, line 2)"),
        ("unfinished:f", "importing unfinished raised SyntaxError: invalid syntax (unfinished.py, line 1)"),
        ("thirsty:f", "importing thirsty raised ModuleNotFoundError: No module named 'no_such_package_anywhere' "
         "(thirsty.py, line 1)"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_raises(body: str, message: str, workplace: Path) -> None:
    line = 1 + SOURCE.splitlines().index('    raise ValueError(f"depth {depth} is too small\\nthe rest")')
    assert told(f"python:{body}").startswith(message.format(folder=workplace, line=line))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("bare", "bare returned a Linear, which has neither the plain surface (patch_size, embed_dim, blocks, embed) "
         "nor the hierarchical one (pyramid, widths, strides), and is no model of timm's"),
        ("without?name=embed_dim", "without returned a Net, which lacks embed_dim of the plain surface"),
        ("without?name=blocks", "without returned a Net, which lacks blocks of the plain surface"),
        ("changed?patch_size=8.5", "changed returned a Net, which has patch_size = 8.5; it should be a number of "
         "pixels, or a pair of them: height and width"),
        ("changed?embed_dim=0", "changed returned a Net, which has embed_dim = 0; it should be a whole number from 1 on"),
        ("changed?num_prefix_tokens=0", "changed returned a Net, which has has_class_token = True; it should be "
         "False, since num_prefix_tokens is 0"),
        ("changed?has_class_token=yes", "changed returned a Net, which has has_class_token = 'yes'; it should be True "
         "or False"),
        ("changed?blocks=null&embed_dim=16", "changed returned a Net, which has blocks = None; it should be a "
         "torch.nn.ModuleList of one block or more, in their order"),
        ("changed?img_size=33", "changed returned a Net, which has img_size = 33; it should be a multiple of 8x8 pixels"),
        ("dark", "dark returned a Net, which has std = [0, 1, 1]; it should be 3 numbers above 0, one a channel"),
        ("half_coloured", "half_coloured returned a Net, which has mean alone; it should have mean and std"),
        ("net?mean=0,0,0", "give mean and std together"),
        ("changed?embed_dim=24", "changed returned a Net: embed gives (1, 17, 16) for images (1, 3, 32, 32); it should "
         "be (1, 17, 24): 1 prefix token and 4x4 patches of 8x8, 24 wide"),
        ("Headless", "Headless returned a Headless: embed gives (1, 16, 16) for images (1, 3, 32, 32); it should be "
         "(1, 17, 16): 1 prefix token and 4x4 patches of 8x8, 16 wide"),
        ("Columns", "Columns returned a Columns: embed gives the patches column by column; they should go row by row"),
        ("Last", "Last returned a Last: embed gives the prefix tokens behind the patches; they should come first"),
        ("Square", "Square returned a Square: embed raised RuntimeError: "),
        ("Pair", "Pair returned a Pair: embed gives a tuple, not a tensor"),
        ("shrinking", "shrinking returned a Net: blocks[1] makes (1, 16, 16) of tokens (1, 17, 16); the shape should "
         "stay"),
        ("infinite", "infinite returned a Net, whose blocks.0.mlp.weight holds values that are not finite"),
        ("detached", "detached returned a Net: its output carries no gradient; is a part of it under no_grad or "
         "detach?"),
        ("flat_cone", "flat_cone returned a Cone, which has strides = [4, 8, 16, 16]; it should be 4 numbers of pixels, "
         "from the finest map to the coarsest"),
        ("wide_cone", "wide_cone returned a Cone: pyramid's map 3 is (1, 24, 2, 3) for images (1, 3, 64, 96); by "
         "widths and strides it should be (1, 25, 2, 3)"),
        ("three_maps", "three_maps returned a Cone: pyramid gives 3 maps; it should be 4 maps"),
        ("unregistered", "unregistered returned a Cone, which has blocks = a list; it should be a list of modules that "
         "are registered in it"),
    ],
)  # fmt: skip
def test_a_surface_that_does_not_hold(body: str, message: str, workplace: Path) -> None:
    assert told(f"python:nets:{body}").startswith(message)


def test_an_embedding_without_gradient_is_noted(workplace: Path) -> None:
    (note,) = [n for n in load_backbone("python:nets:Cut").report.notes if "gradient" in n]
    assert note == "no gradient reaches cls, position, proj.weight and 1 more, so nothing would train them"
