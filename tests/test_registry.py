"""The door: plug-ins of pretended packages, and what is said when one is broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mae_bench import registry
from mae_bench.adapter import Adapter
from mae_bench.errors import MaeBenchError
from mae_bench.registry import ADAPTER_GROUP, BACKBONE_GROUP, adapters, backbone_sources, normalise_backbone
from tests.launch import ROOT
from tests.plugins import Site


def refusal(name: str) -> str:
    with pytest.raises(MaeBenchError) as caught:
        adapters().load(name)
    return str(caught.value)


def test_a_strangers_adapter_comes_in(site: Site) -> None:
    site.toy()
    entry = adapters().entry("toy")
    assert (entry.target, entry.origin, entry.extras) == ("toy_plugin.tasks:Toy", "toy-plugin", ())
    assert "toy_plugin.tasks" not in sys.modules, "listing must not import what an entry points to"
    assert issubclass(adapters().load("toy"), Adapter)


def test_our_own_come_by_the_same_door() -> None:
    registry.forget()
    assert {entry.origin for entry in adapters().entries.values()} == {"mae-bench"}
    assert {
        "imagenet.finetune",
        "imagenet.linear",
        "imagenet.partial",
        "imagenet.knn",
        "imagenet.scratch",
    } <= set(adapters().entries)
    assert {"timm", "hf", "torchhub", "file", "run", "python", "random"} == set(backbone_sources().entries)


def test_every_published_name_loads() -> None:
    registry.forget()
    for name, entry in adapters().entries.items():
        if not entry.missing():
            assert issubclass(adapters().load(name), Adapter)
    for name in backbone_sources().entries:
        assert callable(backbone_sources().load(name))


def test_a_name_published_twice_names_both_and_spoils_no_other(site: Site) -> None:
    site.toy()
    site.module("other", "TASKS = {'toy': 'other:Toy', 'other': 'other:Toy'}\nclass Toy: ...")
    site.distribution("other-toy", {ADAPTER_GROUP: {"x": "other:TASKS"}})
    message = (
        "the adapter 'toy' is published by other-toy and by toy-plugin; "
        "uninstall all but one of them, or ask the authors for another name"
    )
    assert message in adapters().problems
    assert refusal("toy") == message
    assert "toy" not in adapters().entries
    assert adapters().load("other").__name__ == "Toy"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import absent_module_x",
            "cannot be loaded: ModuleNotFoundError: No module named 'absent_module_x'",
        ),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("TASKS = ['toy']", 'should be a dict of name -> "module:Class", not list'),
        (
            "TASKS = {'a': 3}",
            """: the entry 'a' should be "module:Class", "module:Class [extra]" or "module:Class [extra] + package (way)", not 3""",
        ),
        (
            "TASKS = {'a': 'm.C'}",
            """: the entry 'a' should be "module:Class", "module:Class [extra]" or "module:Class [extra] + package (way)", not 'm.C'""",
        ),
    ],
)
def test_a_broken_plug_in_is_named_and_does_not_stop_the_others(site: Site, source: str, reason: str) -> None:
    site.toy()
    site.module("broken_tasks", source)
    site.distribution("broken-pack", {ADAPTER_GROUP: {"sick": "broken_tasks:TASKS"}})
    told = [problem for problem in adapters().problems if "broken-pack" in problem]
    gap = "" if reason.startswith(":") else " "
    assert told == [f"the plug-in 'sick' (broken_tasks:TASKS) of broken-pack{gap}{reason}"]
    assert adapters().load("toy").task == "toy"
    assert refusal("toi").endswith("(not everything could be read; `mae-bench list` says why)")


def test_an_unknown_name_answers_with_near_ones(site: Site) -> None:
    site.toy()
    assert refusal("toy.pickey").startswith("unknown adapter 'toy.pickey'; did you mean 'toy.picky'?")
    assert refusal("zzz").startswith(
        "unknown adapter 'zzz'; known: detection.detectron2, detection.mmdet, detection.torchvision, "
    )


def test_a_package_hidden_by_a_folder_of_the_user_is_told_by_path(site: Site) -> None:
    hiding = site.module("hidden_pack.__init__", "X = 1")
    site.distribution("hidden-pack", {ADAPTER_GROUP: {"hidden": "hidden_pack:ADAPTERS"}})
    told = [problem for problem in adapters().problems if "hidden-pack" in problem]
    assert told == [
        "the plug-in 'hidden' (hidden_pack:ADAPTERS) of hidden-pack cannot be loaded: AttributeError: module "
        f"'hidden_pack' has no attribute 'ADAPTERS' (Python found 'hidden_pack' at {hiding}; if that is a folder "
        "of yours, it hides the installed package: rename it, or start from another folder)"
    ]


def test_a_hidden_package_is_told_when_an_entry_is_loaded(site: Site) -> None:
    site.module("plain_table", "TASKS = {'t': 'hidden_pack.tasks:T'}")
    hiding = site.module("hidden_pack.__init__", "X = 1")
    site.distribution("hidden-pack", {ADAPTER_GROUP: {"hidden": "plain_table:TASKS"}})
    assert refusal("t") == (
        "the adapter 't' of hidden-pack cannot be loaded: ModuleNotFoundError: No module named 'hidden_pack.tasks' "
        f"(Python found 'hidden_pack' at {hiding}; if that is a folder of yours, it hides the installed package: "
        "rename it, or start from another folder)"
    )


EXTRAS = [
    "Provides-Extra: good",
    "Provides-Extra: engine",
    "Requires-Dist: pydantic",
    'Requires-Dist: pydantic>=2; extra == "good"',
    'Requires-Dist: absent-engine>=3; extra == "engine"',
    'Requires-Dist: pydantic>=99; extra == "engine"',
]


def test_extras_that_are_missing_are_told_with_the_line_that_installs_them(site: Site) -> None:
    site.module("toy_plugin.tasks", "class T: ...")
    site.module(
        "toy_plugin.table",
        "T = 'toy_plugin.tasks:T'\nTASKS = {'a': T + ' [good]', 'b': T + ' [good, engine]', 'c': T + '[typo]'}",
    )
    site.distribution("toy-plugin", {ADAPTER_GROUP: {"toy": "toy_plugin.table:TASKS"}}, EXTRAS)
    catalogue = adapters()
    assert catalogue.entries["a"].missing() == []
    assert catalogue.load("a").__name__ == "T"
    assert catalogue.entries["b"].missing() == ["absent-engine>=3", "pydantic>=99"]
    assert refusal("b") == (
        "the adapter 'b' needs absent-engine>=3, pydantic>=99, not installed here: "
        'pip install "toy-plugin[good,engine]"'
    )
    assert catalogue.entries["c"].missing() == ["toy-plugin[typo] (which toy-plugin does not offer)"]


def test_backbone_sources_have_their_own_group(site: Site) -> None:
    site.module("zoo", "SOURCES = {'zoo': 'zoo:load'}\ndef load(request): ...")
    site.distribution("zoo-pack", {BACKBONE_GROUP: {"zoo": "zoo:SOURCES"}})
    assert backbone_sources().entry("zoo").origin == "zoo-pack"
    assert "zoo" not in adapters().entries
    assert normalise_backbone("zoo:leopard?spots=3") == "zoo:leopard?spots=3"


def test_a_folder_stands_for_a_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    assert normalise_backbone(f"{folder}/") == f"run:{folder}"
    assert normalise_backbone(f"run:{folder}") == f"run:{folder}"
    with pytest.raises(MaeBenchError, match="there is no source 'tim'; did you mean 'timm'"):
        normalise_backbone("tim:vit_base_patch16_224")


def test_listing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from mae_bench import registry\n"
        "registry.adapters(); registry.backbone_sources(); registry.normalise_backbone('timm:x')\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pandas', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
