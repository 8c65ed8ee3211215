"""``torchhub:``: a repository's own code builds the module; its tensors are recognised, or its surface is taken."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import torch

from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError

# A ViT with the names of facebookresearch/dino's, which are also timm's: 384 wide, one block for speed.
HUBCONF = '''\
dependencies = ["torch"]

import torch
from torch import nn
from utils import width_of


class Named(nn.Module):
    """Nothing but parameters of given names."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            place = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place._modules[part]
            place.register_parameter(last, nn.Parameter(torch.randn(shape) * 0.02))


def _vit(width, depth):
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for index in range(depth):
        block = f"blocks.{index}"
        shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        for layer, (outputs, inputs) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {f"{block}.{layer}.weight": (outputs, inputs), f"{block}.{layer}.bias": (outputs,)}
    return Named(shapes)


def vit_tiny(pretrained=True, depth=12):
    return _vit(width_of("tiny"), depth)


class Surface(nn.Module):
    patch_size, embed_dim, img_size = 8, 12, 32

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 12, 8, 8)
        self.blocks = nn.ModuleList([nn.Linear(12, 12)])

    def embed(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


def small():
    return Surface()


def unknown():
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def number():
    return 3


def fails(pretrained=True):
    raise KeyError("no such weights")


def offline():
    from urllib.error import URLError
    raise URLError("Name or service not known")
'''


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a hubconf.py and a module of its own; torch.hub's own folder is elsewhere and empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF, encoding="utf-8")
    (folder / "utils.py").write_text(
        "def width_of(size):\n    return {'tiny': 192}[size]\n", encoding="utf-8"
    )
    return folder


def told(spec: str, **options: Any) -> str:
    with pytest.raises(MaeBenchError) as caught:
        load_backbone(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{spec}: ")
    return message.removeprefix(f"{spec}: ")


# ---------------------------------------------------------------- what is taken


def test_tensors_are_recognised_and_fitted(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"torchhub:{repo}:vit_tiny"
    backbone = load_backbone(spec, image_size=(64, 48)).eval()
    assert f"{spec}: runs the code of {repo} on this machine" in capsys.readouterr().err
    assert (backbone.arch, backbone.depth, backbone.width) == ("vit_tiny_patch16_224", 12, 192)
    report = backbone.report
    assert (report.coverage, report.missing, report.unexpected) == (100.0, [], [])
    assert [entry.note for entry in report.resized] == ["14x14 -> 4x3"]
    assert report.source == f"torch.hub {repo}, vit_tiny"
    assert backbone.tokens(torch.randn(1, 3, 64, 48))[1].shape == (1, 4, 3, 192)


def test_the_architecture_may_be_given(repo: Path) -> None:
    backbone = load_backbone(f"torchhub:{repo}:vit_tiny?arch=deit_tiny_patch16_224&pretrained=false")
    assert backbone.arch == "deit_tiny_patch16_224"
    with pytest.raises(MaeBenchError, match="does not fit vit_small_patch16_224"):
        load_backbone(f"torchhub:{repo}:vit_tiny?arch=vit_small_patch16_224")


@pytest.mark.parametrize(
    ("heads", "note"),
    [
        (3, "the module that they came from gives the same class token (to "),
        (6, "vit_tiny_patch16_224 does not give what the module gives that the weights came from"),
    ],
)
def test_the_outputs_are_compared_too(
    heads: int, note: str, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tensors do not show the number of heads."""
    (repo / "hubconf.py").write_text(
        "import timm\nfrom torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, heads):\n"
        "        super().__init__()\n"
        "        inner = timm.create_model('vit_tiny_patch16_224', num_classes=0, num_heads=heads)\n"
        "        for name, part in inner.named_children():\n            self.add_module(name, part)\n"
        "        self.cls_token, self.pos_embed = inner.cls_token, inner.pos_embed\n"
        "        self.__dict__['inner'] = inner\n"
        "    def forward(self, images):\n        return self.inner.forward_features(images)[:, 0]\n"
        "def mine(heads):\n    return Mine(heads)\n",
        encoding="utf-8",
    )
    report = load_backbone(f"torchhub:{repo}:mine?heads={heads}").report
    assert report.coverage == 100
    assert report.notes[-1].startswith(note)
    assert ("warning: " in capsys.readouterr().err) == (heads == 6)


def test_a_module_with_the_small_surface(repo: Path) -> None:
    backbone = load_backbone(f"torchhub:{repo}:small")
    assert (backbone.width, backbone.depth, backbone.image_size) == (12, 1, (32, 32))
    assert backbone.report.format == "as the factory made them"


def test_two_repositories_do_not_share_modules(repo: Path, tmp_path: Path) -> None:
    load_backbone(f"torchhub:{repo}:small")
    assert "utils" not in sys.modules
    other = tmp_path / "other"
    other.mkdir()
    (other / "hubconf.py").write_text(HUBCONF.replace("width_of", "other_width"), encoding="utf-8")
    (other / "utils.py").write_text("other_width = None\n", encoding="utf-8")
    assert load_backbone(f"torchhub:{other}:small").width == 12


# ---------------------------------------------------------------- trust


def stand_in(monkeypatch: pytest.MonkeyPatch, repo: Path) -> list[dict[str, Any]]:
    """Let torch.hub 'download' the folder, and note how it was asked."""
    asked: list[dict[str, Any]] = []
    load = torch.hub.load

    def local(place: str, entry: str, **options: Any) -> Any:
        asked.append({"place": place, "entry": entry, **options})
        kept = {k: v for k, v in options.items() if k not in ("source", "trust_repo", "verbose")}
        return load(str(repo), entry, source="local", **kept)

    monkeypatch.setattr(torch.hub, "load", local)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # whatever asked there would fail
    return asked


def test_a_repository_must_be_trusted_by_word(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(monkeypatch, repo)
    spec = "torchhub:someone/vits:v1:small"
    assert told(spec) == (
        "this downloads code of someone/vits:v1 and runs it on this machine; if you trust it, write "
        "torchhub:someone/vits:v1:small?trust=true"
    )
    assert told("torchhub:someone/vits:small?arch=x").endswith(
        "write torchhub:someone/vits:small?arch=x&trust=true"
    )
    assert told(f"{spec}?trust=yes") == "trust should be true or false, not 'yes'"
    assert asked == []
    assert load_backbone(f"{spec}?trust=true").width == 12
    assert asked == [
        {
            "place": "someone/vits:v1",
            "entry": "small",
            "source": "github",
            "trust_repo": True,
            "verbose": False,
        }
    ]


@pytest.mark.parametrize("how", ["listed", "downloaded"])
def test_what_torch_hub_trusts_needs_no_word(how: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(monkeypatch, repo)
    hub = Path(torch.hub.get_dir())
    hub.mkdir()
    if how == "listed":
        (hub / "trusted_list").write_text("other_one\nsomeone_vits\n")
    else:
        (hub / "someone_vits_main").mkdir()
    assert load_backbone("torchhub:someone/vits:small").width == 12
    assert len(asked) == 1
    assert "trust=true" in told("torchhub:someone/vit:small")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("vit_tiny", "say which entry of which repository it is, torchhub:OWNER/NAME:ENTRY"),
        ("nobody:vit_tiny", "say which entry of which repository it is"),
        ("{repo}/..:x", "the folder {repo}/.. has no hubconf.py"),
        ("{repo}:vit_tny", "{repo} has no entry 'vit_tny'; did you mean 'vit_tiny'?"),
        ("{repo}:zzz", "{repo} has no entry 'zzz'; there are nn, width_of, Named, vit_tiny, Surface, small, unknown, "
         "number"),
        ("{repo}:number", "number returned an int; it should return a torch.nn.Module"),
        ("{repo}:fails", "fails of {repo} raised KeyError: 'no such weights' (hubconf.py, line {line})"),
        ("{repo}:fails?pretraned=false", "fails of {repo} raised TypeError: fails() got an unexpected keyword argument "
         "'pretraned'"),
        ("{repo}:offline", "{repo} or its weights could not be downloaded (Name or service not known); without a "
         "network, copy the repository here and use torchhub:FOLDER:ENTRY, or its checkpoint with file:PATH?arch=NAME"),
        ("{repo}:unknown", "unknown returned a Sequential, "),
    ],
)  # fmt: skip
def test_what_cannot_be_had(body: str, message: str, repo: Path) -> None:
    line = 1 + HUBCONF.splitlines().index('    raise KeyError("no such weights")')
    assert told("torchhub:" + body.format(repo=repo)).startswith(message.format(repo=repo, line=line))


def test_missing_packages_are_named(repo: Path) -> None:
    (repo / "hubconf.py").write_text(
        'dependencies = ["torch", "no_such_package_x", "nor_this"]\ndef f(): ...\n'
    )
    assert told(f"torchhub:{repo}:f") == (
        f"the code of {repo} needs no_such_package_x, nor_this; pip install no_such_package_x nor_this"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError("timed out"), "a/b or its weights could not be downloaded (timed out); without a network, copy"),
        (RuntimeError("It looks like there is no internet connection and the repo could not be found"),
         "a/b or its weights could not be downloaded (no connection); without a network, copy"),
        (HTTPError("https://github.com/a/b/zipball/main", 404, "Not Found", {}, None),  # type: ignore[arg-type]
         "https://github.com/a/b/zipball/main answered 404 Not Found; is a/b spelt right, and are its weights still "
         "there?"),
    ],
)  # fmt: skip
def test_without_a_network(
    error: Exception, message: str, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load", fail)
    assert told("torchhub:a/b:c?trust=true").startswith(message)
