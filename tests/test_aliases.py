"""Backbones with a name of their own: their files, what they stand for, and that published weights fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlparse

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from mae_bench import listing, registry, resources, yamlfile
from mae_bench.backbones import aliases, architecture, capabilities, families, fitting, load_backbone, others
from mae_bench.backbones.aliases import Alias
from mae_bench.backbones.capabilities import CAPABILITIES
from mae_bench.backbones.formats import FORMATS, Recognised, recognise, recognise_hierarchical
from mae_bench.backbones.loading import parse_spec
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError
from mae_bench.validation import validate
from tests.published_keys import Size, tensors

NAMES = aliases.names()
OF_TIMM = [name for name in NAMES if aliases.load(name).file is None]
OF_A_FILE = [name for name in NAMES if aliases.load(name).file is not None]
META = torch.device("meta")


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", NAMES)
def test_every_alias_is_valid_and_says_what_it_is(name: str) -> None:
    alias, path = aliases.load(name), resources.backbones()[name]
    head = path.read_text(encoding="utf-8").split("\ntitle:")[0]
    assert len(resources.summary(path)) > 20
    assert f"--backbone {name}\n" in head
    assert alias.paper in head
    assert timm.is_model(alias.architecture)
    assert resources.root_text(path, "title") == alias.title
    if alias.url is not None:
        assert urlparse(alias.url).path.endswith((".pth", ".pth.tar", ".pyth"))


def test_every_file_is_listed() -> None:
    files = {path.stem for path in (resources.configs_dir() / "backbones").iterdir()}
    listed = listing.collect("backbones")["aliases"]
    assert {item["name"] for item in listed} == files == set(NAMES)
    assert [item["name"] for item in listed] == sorted(files)
    for item in listed:
        alias = aliases.load(item["name"])
        assert item["about"] == f"{alias.title}; {alias.licence}{'; a file' if alias.file else ''}"


def test_no_two_files_have_the_same_place() -> None:
    places = [alias.file for alias in map(aliases.load, OF_A_FILE)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", OF_TIMM)
def test_licence_and_input_are_those_of_timm(name: str) -> None:
    alias = aliases.load(name)
    tagged = alias.backbone.removeprefix("timm:")
    assert tagged in timm.list_models(pretrained=True, include_tags=True)
    cfg: Any = get_pretrained_cfg(tagged, allow_unregistered=False)
    assert (alias.licence, alias.mean, alias.std) == (cfg.license, list(cfg.mean), list(cfg.std))
    assert alias.image_size == list(cfg.input_size[1:])


# Copied by a program from collections of published numbers: MAE's Tables 3, 4, 5 and 12 (arXiv:2111.06377), ViTDet's
# Table 5 (arXiv:2203.16527), and for the others the tables and READMEs that `source` names in each file.
PUBLISHED = """
beit-v2-vit-base: finetune top1 85.5, ade20k miou 53.1
beit-v2-vit-large: finetune top1 87.3, ade20k miou 56.7
beit-vit-base-in22k: finetune top1 83.7
beit-vit-base-in22k-labels: finetune top1 85.2, ade20k miou 53.6
beit-vit-large-in22k: finetune top1 86.0
beit-vit-large-in22k-labels: finetune top1 87.4, ade20k miou 56.7
cae-vit-base: finetune top1 83.9, linear top1 70.3, coco box_ap 50.3, coco mask_ap 44.2, ade20k miou 50.3
cae-vit-large: finetune top1 86.2, linear top1 77.8, coco box_ap 54.5, coco mask_ap 47.5, ade20k miou 54.9
data2vec-vit-base: finetune top1 84.2
data2vec-vit-large: finetune top1 86.6, linear top1 77.3
deit-vit-base: finetune top1 81.8, coco box_ap 49.8, coco mask_ap 43.2, ade20k miou 46.6
dino-vit-base-16: finetune top1 82.8, linear top1 78.2, knn top1 76.1, coco box_ap 50.1, coco mask_ap 43.4, ade20k miou 46.8, ade20k-linear miou 34.5
dino-vit-base-8: linear top1 80.1, knn top1 77.4, ade20k-linear miou 31.8
dino-vit-small-16: finetune top1 81.5, linear top1 77.0, knn top1 74.5
dino-vit-small-8: linear top1 79.2, knn top1 78.6
dinov2-reg-vit-base: linear top1 84.6, knn top1 82.0
dinov2-reg-vit-giant: linear top1 87.1, knn top1 83.7
dinov2-reg-vit-large: linear top1 86.7, knn top1 83.8
dinov2-vit-base: linear top1 84.5, knn top1 82.1, ade20k-linear miou 47.3
dinov2-vit-giant: finetune top1 88.5, linear top1 86.5, knn top1 83.5, ade20k-linear miou 49.0
dinov2-vit-large: linear top1 86.3, knn top1 83.5, ade20k-linear miou 47.7
dinov2-vit-small: linear top1 81.1, knn top1 79.0, ade20k-linear miou 44.3
dinov3-vit-base: ade20k-linear miou 51.8, linear top1 84.0
dinov3-vit-large: ade20k-linear miou 54.9, linear top1 86.6
eva02-vit-base: finetune top1 88.3, coco box_ap 55.5, coco mask_ap 47.1, ade20k miou 55.3
eva02-vit-large: finetune top1 89.6, coco box_ap 59.2, coco mask_ap 50.8, ade20k miou 59.8
eva02-vit-small: finetune top1 85.8
hiera-base: finetune top1 84.5, coco box_ap 52.2, coco mask_ap 46.3
hiera-base-plus: finetune top1 85.2, coco box_ap 53.5, coco mask_ap 47.3
hiera-large: finetune top1 86.1, coco box_ap 55.0, coco mask_ap 48.6
ibot-vit-base: finetune top1 84.0, linear top1 79.5, knn top1 77.1, coco box_ap 51.2, coco mask_ap 44.2, ade20k miou 50.0, ade20k-linear miou 38.3
ibot-vit-large: finetune top1 84.8, linear top1 81.0, knn top1 78.0
ibot-vit-large-in22k: finetune top1 86.6, linear top1 82.3, knn top1 72.9, ade20k-linear miou 44.6
ibot-vit-small: finetune top1 82.3, linear top1 77.9, knn top1 75.2, coco box_ap 49.4, coco mask_ap 42.6, ade20k miou 45.4
ijepa-vit-huge-14: linear top1 79.3
ijepa-vit-huge-16-448: linear top1 81.1, finetune top1 87.1
mae-vit-base: finetune top1 83.6, linear top1 68.0, coco box_ap 50.3, coco mask_ap 44.9, ade20k miou 48.1, coco box_ap 51.6, coco mask_ap 45.9
mae-vit-huge: finetune top1 86.9, linear top1 76.6, knn top1 49.4, coco box_ap 56.7, coco mask_ap 50.1
mae-vit-huge-p14to16: coco box_ap 56.7, coco mask_ap 50.2
mae-vit-large: finetune top1 85.9, linear top1 75.8, coco box_ap 53.3, coco mask_ap 47.2, ade20k miou 53.6, coco box_ap 55.6, coco mask_ap 49.2
maskfeat-vit-base: finetune top1 84.0, linear top1 68.5
maskfeat-vit-large: finetune top1 85.7
moco-v3-vit-base: finetune top1 83.2, linear top1 76.7, coco box_ap 47.9, coco mask_ap 42.7, ade20k miou 47.3
moco-v3-vit-large-mmpretrain: finetune top1 83.7
moco-v3-vit-small: finetune top1 81.4, linear top1 73.2
msn-vit-base: finetune top1 83.4
msn-vit-large-7: linear top1 80.7, knn top1 79.2
msn-vit-small: linear top1 76.9
simmim-vit-base: finetune top1 83.8, linear top1 56.7
swin-base: coco box_ap 50.1, coco mask_ap 44.5
swin-base-in21k: coco box_ap 51.4, coco mask_ap 45.4
swin-large-in21k: coco box_ap 52.4, coco mask_ap 46.2
"""


def test_expected_numbers_are_the_published_ones() -> None:
    told = {
        name: [f"{one.metric} {one.value}" for one in aliases.load(name).expected]
        for name in NAMES
        if aliases.load(name).expected
    }
    lines = (line.split(": ") for line in PUBLISHED.strip().splitlines())
    assert told == {name: text.split(", ") for name, text in lines}


@pytest.mark.parametrize("name", NAMES)
def test_every_number_says_whose_it_is(name: str) -> None:
    for one in aliases.load(name).expected:
        assert re.match(
            r"arXiv:\d{4}\.\d{5}|[\w-]+(/[\w.-]+)?@[0-9a-f]{7}, |DMJD, |the benchmark of ", one.source
        ), one


@pytest.mark.parametrize(
    ("name", "table", "row", "column", "metric"),
    [
        ("mae-vit-base", "mae-table3", "MAE", "vit_b", "finetune top1"),
        ("mae-vit-large", "mae-table4", "MAE", "box_l", "coco box_ap"),
        ("mae-vit-base", "mae-table5", "MAE", "vit_b", "ade20k miou"),
    ],
)
def test_the_tables_say_the_same(name: str, table: str, row: str, column: str, metric: str) -> None:
    rows = yamlfile.load(resources.tables()[table]).values["published"]
    value = next(one["values"][column] for one in rows if one["name"] == row)
    assert value in [one.value for one in aliases.load(name).expected if one.metric == metric]


OF_TIMM_ALONE = {
    "title": "A", "method": "B", "paper": "arXiv:2111.06377", "architecture": "vit_base_patch16_224",
    "backbone": "timm:vit_base_patch16_224.mae", "licence": "mit", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    "image_size": [224, 224], "pretrain_data": "C",
}  # fmt: skip
WITH_A_FILE = {
    **OF_TIMM_ALONE, "backbone": "file:{file}?arch=vit_base_patch16_224", "file": "a.pth", "format": "F",
    "url": "https://example.org/a.pth",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**OF_TIMM_ALONE, "license": "mit"}, "license: unknown key; did you mean 'licence'?"),
        ({**OF_TIMM_ALONE, "mean": [0.5, 0.5]}, "mean: should have at least 3 elements, not [0.5, 0.5]"),
        ({**OF_TIMM_ALONE, "epochs": 1.5}, "epochs: should be a whole number, not 1.5"),
        ({**OF_TIMM_ALONE, "paper": "2111.06377"}, "paper: should be arXiv:NUMBER, not 2111.06377"),
        ({**OF_TIMM_ALONE, "architecture": "vit_b.mae"}, "architecture: should be a name of timm without tag, not vit_b.mae"),
        ({**OF_TIMM_ALONE, "architecture": "vit_huge_patch14_224"},
         "architecture is vit_huge_patch14_224, and backbone names vit_base_patch16_224"),
        ({**OF_TIMM_ALONE, "url": "https://example.org/a.pth"},
         "url, page, file and format belong to backbone: file:{file}?arch=NAME"),
        ({**OF_TIMM_ALONE, "backbone": "hf:a/b"}, "backbone should be timm:NAME or file:{file}?arch=NAME, not hf:a/b"),
        ({**WITH_A_FILE, "file": "../a.pth"}, "file: should be the name of a file without folders, not ../a.pth"),
        ({**WITH_A_FILE, "url": "ftp://a"}, "url: should be an address that begins with https://, not ftp://a"),
        ({**WITH_A_FILE, "page": "https://example.org"}, "a file needs file, format, and one of url and page"),
        ({key: value for key, value in WITH_A_FILE.items() if key != "format"},
         "a file needs file, format, and one of url and page"),
        ({**OF_TIMM_ALONE, "expected": [{"metric": "linear", "value": 68.0, "source": "x"}]},
         "expected.0.metric: should be 'finetune top1', 'linear top1'"),
        ({key: value for key, value in OF_TIMM_ALONE.items() if key != "licence"}, "licence: missing"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_refused(values: dict[str, Any], message: str) -> None:
    validate(Alias, OF_TIMM_ALONE)
    validate(Alias, WITH_A_FILE)
    with pytest.raises(MaeBenchError) as caught:
        validate(Alias, values)
    assert str(caught.value).startswith(message)


def test_a_fault_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yamlfile.dump({**OF_TIMM_ALONE, "licens": "mit"}), encoding="utf-8")
    with pytest.raises(MaeBenchError, match=r"a.yaml:\d+\); did you mean 'licence'"):
        aliases.read(path)


# ---------------------------------------------------------------- what a name stands for


@pytest.mark.parametrize(
    ("spec", "stands_for"),
    [
        ("mae-vit-base", "timm:vit_base_patch16_224.mae"),
        ("mae-vit-huge?patch_size=16", "timm:vit_huge_patch14_224.mae?patch_size=16"),
        ("timm:vit_base_patch16_224.mae", None),
        ("mae-vit-bas", None),
        ("runs/mae-vit-base", None),
        ("run:mae-vit-base", None),
    ],
)
def test_a_name_stands_for_a_text(spec: str, stands_for: str | None) -> None:
    assert aliases.resolve(spec) == stands_for
    assert aliases.known(spec) is (stands_for is not None)


def test_a_file_comes_with_its_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "a b.pth"
    path.touch()
    told = aliases.resolve(f"beit-vit-base-in22k?file={path}")
    assert told == f"file:{path}?arch=beit_base_patch16_224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    told = aliases.resolve(f"moco-v3-vit-small?num_heads=6&file={path}&mean=0,0,0&std=1,1,1&img_size=256")
    assert told == f"file:{path}?arch=vit_small_patch16_224&num_heads=6&mean=0,0,0&std=1,1,1&img_size=256"
    source, body, arguments = parse_spec(told, registry.backbone_sources().entries)
    assert (source, body, arguments["num_heads"]) == ("file", str(path), "6")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch.hub's checkpoints, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def refused(spec: str) -> str:
    with pytest.raises(MaeBenchError) as caught:
        aliases.resolve(spec)
    return str(caught.value)


URL = "https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"


def test_a_missing_file_is_told_with_the_ways_to_it(hub: Path) -> None:
    path = hub / "moco-v3-vit-b-300ep.pth.tar"
    assert refused("moco-v3-vit-base") == (
        f"backbone 'moco-v3-vit-base': its weights (licence: cc-by-nc-4.0) are not at {path}; "
        f"get them with: curl -L --create-dirs -o {path} {URL}; or write moco-v3-vit-base?download=true; "
        "or say where they are: moco-v3-vit-base?file=PATH"
    )
    hub.mkdir(parents=True)
    path.touch()
    assert aliases.resolve("moco-v3-vit-base").startswith(f"file:{path}?arch=vit_base_patch16_224&mean=")


def test_a_given_file_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "not here.pth"
    assert refused(f"moco-v3-vit-base?file={path}").endswith(
        f"are not at {path}; get them with: curl -L --create-dirs -o '{path}' {URL}; or write moco-v3-vit-base?download=true"
    )


def test_what_has_no_direct_link_is_fetched_by_hand(hub: Path) -> None:
    page = "https://drive.google.com/drive/folders/1wwhg7nj2GQuU9uthVuQLkEEXEjx90G7g"
    place = hub / "cae_base_1600ep.pth"
    assert refused("cae-vit-base") == (
        f"backbone 'cae-vit-base': its weights (licence: not stated) are not at {place}; get them from {page}; "
        "or say where they are: cae-vit-base?file=PATH"
    )
    assert refused("cae-vit-base?download=true") == (
        f"backbone 'cae-vit-base?download=true': there is no direct link to its weights; get them from {page} "
        f"and save them as {place}"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mae-vit-base?download=true",
            "mae-vit-base takes no 'download'; it stands for timm:vit_base_patch16_224.mae",
        ),
        (
            "mae-vit-base?file=a.pth",
            "mae-vit-base takes no 'file'; it stands for timm:vit_base_patch16_224.mae",
        ),
        ("moco-v3-vit-base?download=yes", "download should be true or false, not 'yes'"),
        ("moco-v3-vit-base?download", "arguments are key=value joined by &, not 'download'"),
        ("mae-vit-base?patch_size=8&patch_size=16", "'patch_size' is given twice"),
    ],
)
def test_wrong_arguments(spec: str, message: str) -> None:
    assert refused(spec).startswith(f"backbone '{spec}': {message}")


def published_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = aliases.load("moco-v3-vit-base").model_copy(update={"url": url})
    monkeypatch.setattr(aliases, "load", lambda name: alias)


def test_a_file_is_downloaded_once(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs.pth"
    theirs.write_bytes(b"weights")
    published_at(theirs.as_uri(), monkeypatch)
    place = hub / "moco-v3-vit-b-300ep.pth.tar"
    wanted = f"file:{place}?arch=vit_base_patch16_224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225"
    assert aliases.resolve("moco-v3-vit-base?download=true") == wanted
    assert [path.name for path in hub.iterdir()] == [place.name]
    assert place.read_bytes() == b"weights"
    theirs.unlink()
    assert aliases.resolve("moco-v3-vit-base?download=true") == wanted
    elsewhere = tmp_path / "new" / "mine.pth"
    assert "could not be downloaded" in refused(f"moco-v3-vit-base?download=true&file={elsewhere}")


def test_a_download_that_fails_leaves_nothing(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (tmp_path / "nowhere.pth").as_uri()
    published_at(url, monkeypatch)
    message = refused("moco-v3-vit-base?download=true")
    assert message.startswith(f"backbone 'moco-v3-vit-base?download=true': {url} could not be downloaded (")
    assert message.endswith(
        f"try it by hand: get them with: curl -L --create-dirs -o {hub / 'moco-v3-vit-b-300ep.pth.tar'} {url}"
    )
    assert list(hub.iterdir()) == []


def test_an_unknown_name_has_near_matches() -> None:
    with pytest.raises(
        MaeBenchError, match="there is no backbone alias 'mae-vit-bas'; did you mean 'mae-vit-base'"
    ):
        aliases.load("mae-vit-bas")


# ---------------------------------------------------------------- published weights fit


def fitted(net: nn.Module, found: Recognised, name: str, arch: str) -> LoadReport:
    """The report of matching, once nothing is missing or unexpected."""
    own = net.state_dict()
    report = fitting.match(own, fitting.suited(own, found), spec=name, source=name, arch=arch)
    assert (report.missing, report.unexpected, report.resized, report.allowed) == ([], [], [], [])
    assert (report.coverage, report.percent()) == (100.0, "100.0")
    assert len(report.matched) + len(report.converted) == len(own)
    assert families.family_of(net, arch) in {row.family for row in CAPABILITIES}
    return report


@contextmanager
def without_weights() -> Iterator[None]:
    """The meta device, and no truncating of values that are not there, which takes most of the time."""
    with META, mock.patch.object(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *_: tensor):
        yield


@cache
def built(arch: str, options: str = "{}") -> nn.Module:
    """Our network of an architecture, without weights; `options` as JSON."""
    with without_weights():
        if architecture.layout_of(arch) is not None:
            return architecture.build(arch, json.loads(options), channels=3, where=arch)
        return others.build(arch, channels=3, image_size=None, where=arch)


@cache
def of_timm(arch: str, classes: int) -> nn.Module:
    """timm's own network with its head, without weights."""
    with without_weights():
        return timm.create_model(arch, pretrained=False, num_classes=classes)


@pytest.mark.parametrize("name", OF_TIMM)
def test_weights_of_timm_fit(name: str) -> None:
    """timm's own model with its head, as its tag has it, against our network of the architecture."""
    alias = aliases.load(name)
    arch, layout = alias.architecture, architecture.layout_of(alias.architecture)
    cfg: Any = get_pretrained_cfg(alias.backbone.removeprefix("timm:"))
    state, net = of_timm(arch, cfg.num_classes).state_dict(), built(arch)
    if layout is not None:
        found = recognise(state, name, layout)
    else:
        found = recognise_hierarchical(state, net.state_dict())
    report = fitted(net, found, name, arch)
    assert {entry.note for entry in report.dropped} <= {"head", "attention pooling", "final norm"}
    assert bool(report.dropped) or cfg.num_classes == 0


# Alias -> its table of published keys, and the side of its patches.
KEYS = {
    "beit-v2-vit-base": "beit-v2", "beit-v2-vit-large": "beit-v2", "beit-vit-base": "beit-absolute",
    "beit-vit-base-in22k": "beit", "beit-vit-large-in22k": "beit", "cae-vit-base": "cae", "cae-vit-large": "cae",
    "data2vec-vit-base": "data2vec", "data2vec-vit-large": "data2vec", "ibot-vit-small": "ibot-teacher",
    "ibot-vit-base": "ibot-teacher", "ibot-vit-large": "ibot-teacher", "ibot-vit-large-in22k": "ibot-student",
    "mae-vit-huge-p14to16": "mae", "maskfeat-vit-base": "maskfeat", "maskfeat-vit-large": "maskfeat",
    "moco-v3-vit-base": "moco-v3", "moco-v3-vit-small": "moco-v3", "moco-v3-vit-large-mmpretrain": "moco-v3-mmpretrain",
    "msn-vit-small": "msn", "msn-vit-base": "msn", "msn-vit-large": "msn", "msn-vit-large-7": "msn",
    "simmim-vit-base": "simmim",
}  # fmt: skip
SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}


def payload(table: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the authors save: the tensors, and what else their files hold."""
    match table:
        case "msn":
            other = {name: torch.ones(()).expand(tensor.shape) for name, tensor in state.items()}
            return {
                "encoder": other,
                "target_encoder": state,
                "prototypes": torch.zeros(8, 256),
                "epoch": 800,
                "opt": {},
            }
        case "moco-v3":
            return {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {}, "scaler": {}}
        case "ibot-teacher" | "ibot-student":
            return {"state_dict": state}
        case "moco-v3-mmpretrain":
            return {"meta": {}, "state_dict": state}
        case "maskfeat":
            return {"epoch": 1599, "model_state": state, "optimizer_state": {}, "cfg": "TASK: ssl"}
    return {"model": state}


def test_every_file_has_a_table_of_keys() -> None:
    assert sorted(KEYS) == sorted(OF_A_FILE)


@pytest.mark.parametrize("name", OF_A_FILE)
def test_a_published_file_fits(name: str, tmp_path: Path) -> None:
    """A file with the authors' names and shapes (of one stored value each) through reading, telling and matching."""
    alias = aliases.load(name)
    size = next(SIZES[word] for word in SIZES if word in alias.architecture)
    given = re.search(r"patch_size=(\d+)", alias.backbone) or re.search(r"patch(\d+)", alias.architecture)
    assert given is not None
    patch = int(given[1])
    shapes = tensors(KEYS[name], Size(*size, patch=patch))
    path = tmp_path / str(alias.file)
    torch.save(
        payload(KEYS[name], {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}), path
    )

    spec = aliases.resolve(f"{name}?file={path}")
    _, body, arguments = parse_spec(spec, registry.backbone_sources().entries)
    state, _ = read_checkpoint(Path(body))
    (one,) = [one for one in FORMATS if one.matches(state)]
    assert one.name == alias.format, "the file's key 'format' is not what the formats are called now"

    own = {key: value for key, value in arguments.items() if key not in ("arch", "mean", "std")}
    layout = architecture.layout_of(arguments["arch"])
    net = built(arguments["arch"], json.dumps(architecture.checked_arguments(own, name)))
    found = recognise(state, name, layout)
    fitted(net, found, name, arguments["arch"])
    if one.write is not None:
        outer = "module." if all(key.startswith("module.") for key in shapes) else ""
        back = {outer + key: tuple(value.shape) for key, value in one.write(found.encoder).items()}
        assert back == {key: shapes[key] for key in back}


def test_a_backbone_is_loaded_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    torch.save({"state_dict": timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()}, path)
    backbone = load_backbone(f"ibot-vit-small?file={path}&mean=0.5,0.5,0.5&std=1,1,1")
    assert backbone.spec.startswith("ibot-vit-small?file=")
    assert (backbone.family, backbone.depth, backbone.mean, backbone.std) == (
        "ViT",
        12,
        (0.5,) * 3,
        (1.0,) * 3,
    )
    assert (len(backbone.report.matched), backbone.report.percent()) == (150, "100.0")
    assert not [note for note in backbone.report.notes if "normalised" in note]


# ---------------------------------------------------------------- what each family can do


PLAIN = {row.label: row for row in CAPABILITIES if row.layout in architecture.LAYOUTS}


@pytest.mark.parametrize("label", PLAIN)
def test_layout_and_positions_are_as_the_table_says(label: str) -> None:
    row = PLAIN[label]
    assert architecture.layout_of(row.example_arch) == row.layout
    vit: Any = built(row.example_arch)
    has = {
        "relative": any("relative_position" in name for name, _ in vit.named_parameters()),
        "rotary": getattr(vit, "rope", None) is not None,
        "absolute": vit.pos_embed is not None,
    }
    # Rotary positions may come on top of absolute ones.
    assert row.positions == next(kind for kind, there in has.items() if there)


def test_every_family_has_a_row() -> None:
    named = {family for pairs in families._BY_NAME.values() for _, family in pairs} | set(
        families._BY_CLASS.values()
    )
    assert named - {row.family for row in CAPABILITIES} == set()


def test_the_table_fits_a_terminal_and_says_what_cannot_be_done() -> None:
    text = listing.as_text("backbones")
    assert max(map(len, text.splitlines())) <= 110
    table = text.partition("\ncapabilities\n")[2]
    assert all(f"  {row.label} " in table for row in CAPABILITIES)
    assert all(row.cannot for row in CAPABILITIES if not (row.windows and row.halves and row.splits))
    assert " ".join(table.split()).count(CAPABILITIES[-1].cannot) >= 1


def test_the_table_as_json() -> None:
    content = json.loads(listing.as_json("backbones"))
    assert list(content) == ["backbones", "aliases", "capabilities", "problems"]
    assert content["capabilities"] == capabilities.rows()
    assert content["capabilities"][0]["windows"] is True
    assert "aliases" not in json.loads(listing.as_json("tables"))


def test_listing_aliases_imports_no_torch() -> None:
    code = (
        "import sys; from mae_bench import listing; from mae_bench.backbones import aliases; listing.as_text(); "
        "aliases.resolve('mae-vit-base'); sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
