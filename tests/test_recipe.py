"""From a recipe's name and overrides to settings: names, kinds, origins, the published protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_bench import recipe, resources, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.recipe import published, resolve
from mae_bench.settings import TaskConfig, deviations
from tests.plugins import Site

TOY = """\
# A toy of base size.
#
# Cost   nothing.
task: toy
data: {name: points, root: points}
train:
  epochs: 10
  batch: 256
optim:
  lr: 0.1
"""
PICKY = TOY.replace("task: toy", "task: toy.picky")


@pytest.fixture(autouse=True)
def _catalogue(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.toy()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "configs_dir", lambda: tmp_path / "configs")
    put("pretrain/toy-base", TOY)
    put("tasks/classify", PICKY)
    put("tasks/classify-large", "extends: classify.yaml\ntrain: {epochs: 5}\n")
    put("demo/toy", "extends: ../pretrain/toy-base.yaml\ntrain: {epochs: 1}\n")
    put("demo/classify", "extends: classify\nprotocol: classify\ntrain: {epochs: 1}\n")


def put(name: str, text: str) -> Path:
    path = Path("configs") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(MaeBenchError) as caught:
        resolve(*arguments, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_names_of_each_kind() -> None:
    assert list(resources.recipes("pretrain")) == ["demo/classify", "demo/toy", "toy-base"]
    assert list(resources.recipes("tasks")) == ["classify", "classify-large", "demo/classify", "demo/toy"]
    assert list(resources.recipes()) == [
        "classify",
        "classify-large",
        "demo/classify",
        "demo/toy",
        "toy-base",
    ]


def test_a_recipe_by_name_and_by_path() -> None:
    by_name = resolve("demo/toy")
    by_path = resolve("configs/demo/toy.yaml")
    assert by_name.config == by_path.config
    assert by_name.config.recipe == "demo/toy"
    assert by_name.adapter_class.task == "toy"
    own = Path("mine.yaml")
    own.write_text(TOY, encoding="utf-8")
    assert resolve("mine.yaml").config.recipe == "mine"


def test_a_config_of_a_run_keeps_the_name_of_its_recipe() -> None:
    from mae_bench.settings import plain

    config = resolve("demo/toy", ["train.epochs=3"]).config
    Path("config.yaml").write_text(yamlfile.dump(plain(config)), encoding="utf-8")
    again = resolve("config.yaml").config
    assert again == config
    assert again.recipe == "demo/toy"


def test_unknown_names() -> None:
    tail = "(a YAML file of your own is given by its path, ending in .yaml)"
    assert (
        refusal("clasify")
        == f"unknown recipe 'clasify'; did you mean 'classify' or 'demo/classify' or 'classify-large'? {tail}"
    )
    assert refusal("zzzz") == f"unknown recipe 'zzzz'; `mae-bench list recipes` shows all {tail}"
    assert (
        refusal("demo/toi", kind="tasks")
        == f"unknown recipe 'demo/toi'; did you mean 'demo/toy' or 'demo/classify'? {tail}"
    )
    assert refusal("mine.yaml") == "mine.yaml does not exist"


def test_the_other_kind_is_told_how_to_run_it() -> None:
    task = "'classify' is a downstream task: mae-bench run --task classify --backbone ..."
    assert refusal("classify", kind="pretrain") == task
    path = "configs/tasks/classify.yaml"
    assert refusal(path, kind="pretrain") == task.replace("classify", path)
    assert refusal("demo/classify", kind="pretrain") == task.replace("classify", "demo/classify")
    assert refusal("toy-base", kind="tasks") == (
        "'toy-base' is a pretraining recipe: mae-bench pretrain --recipe toy-base"
    )
    assert resolve("toy-base", kind="pretrain").config.recipe == "toy-base"


def test_one_name_under_both_kinds_is_refused() -> None:
    put("pretrain/classify", TOY)
    assert refusal("toy-base").startswith("the recipe 'classify' stands twice: ")


def test_overrides_reach_any_depth() -> None:
    resolved = resolve(
        "toy-base",
        ["optim.betas=[0.9, 0.95]", "data.augment.erase.prob=0.5", "wandb={project: p}"],
        {"seed": 7},
    )
    config = resolved.config.model_dump()
    assert config["optim"]["betas"] == [0.9, 0.95]
    assert config["data"]["augment"]["erase"] == {"prob": 0.5, "mode": "pixel", "count": 1}
    assert config["seed"] == 7
    assert {path for path, origin in resolved.origins.items() if str(origin) == "override"} == {
        "optim.betas", "data.augment", "data.augment.erase", "data.augment.erase.prob", "wandb", "wandb.project",
        "seed",
    }  # fmt: skip


def test_a_mapping_replaces_the_one_that_was_there() -> None:
    resolved = resolve("toy-base", ["train={steps: 5, batch: 8}"])
    assert (resolved.config.train.steps, resolved.config.train.epochs) == (5, None)  # type: ignore[attr-defined]
    assert str(resolved.origins["train.steps"]) == "override"
    assert "train.epochs" not in resolved.origins


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "'train.epochs' is no override; write key.path=value, for example train.epochs=10"),
        ("--epochs=3", "'--epochs=3' is no override; write key.path=value, for example train.epochs=10"),
        ("train..epochs=3", "'train..epochs=3' is no override; write key.path=value, for example train.epochs=10"),
        ("train.epochs=", "override 'train.epochs=': no value given; write null for none and '' for empty text"),
        ("train.epochs=[1",
         "override 'train.epochs=[1': not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed=3", "seed: given twice, as 7 and as 3"),
    ],
)  # fmt: skip
def test_bad_overrides(override: str, message: str) -> None:
    assert refusal("toy-base", [override], {"seed": 7}) == message


def test_a_bare_folder_as_backbone_stands_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mae").mkdir(parents=True)
    assert resolve("classify", ["backbone=runs/mae/"]).config.backbone == "run:runs/mae"
    assert resolve("classify", [], {"backbone": "timm:x"}).config.backbone == "timm:x"
    assert refusal("classify", [], {"backbone": "tim:x"}).startswith(
        "backbone 'tim:x': there is no source 'tim'"
    )
    assert refusal("classify", ["backbone=3"]) == "backbone: should be text, not 3 (override)"


def test_the_published_protocol_is_the_recipe_without_overrides() -> None:
    config = resolve("classify", ["train.epochs=2", "seed=4"]).config
    protocol = published(config)
    assert isinstance(protocol, TaskConfig)
    assert [(d.key, d.published, d.ours) for d in deviations(config, protocol)] == [
        ("train.epochs", 10.0, 2.0)
    ]


def test_a_variation_is_compared_with_the_recipe_it_names() -> None:
    config = resolve("demo/classify").config
    protocol = published(config)
    assert isinstance(protocol, TaskConfig)
    assert protocol.recipe == "classify"
    assert [(d.key, d.published, d.ours) for d in deviations(config, protocol)] == [
        ("train.epochs", 10.0, 1.0)
    ]


def test_a_file_of_the_users_own_has_no_published_protocol() -> None:
    Path("mine.yaml").write_text(TOY, encoding="utf-8")
    assert published(resolve("mine.yaml").config) is None


def test_what_a_recipe_should_give_is_not_promised_by_one_that_extends_it() -> None:
    told = "expected: [{metric: top1, value: 83.6, source: somewhere}]\nnotes: [a choice]\n"
    put("tasks/told", PICKY + told)
    Path("mine.yaml").write_text("extends: told\ndata: {name: flowers, root: flowers}\n", encoding="utf-8")
    assert [entry.value for entry in resolve("told").config.expected] == [83.6]
    config = resolve("mine.yaml").config
    assert (config.expected, config.notes) == ([], ["a choice"])


def test_what_is_no_adapter_is_refused(site: Site) -> None:
    site.module("odd", "TASKS = {'odd': 'odd:Odd'}\nclass Odd: ...")
    site.distribution("odd-pack", {"mae_bench.adapters": {"odd": "odd:TASKS"}})
    assert (
        refusal("toy-base", ["task=odd"]) == "the adapter 'odd' of odd-pack: odd:Odd is no mae_bench Adapter"
    )


def test_describe_says_where_every_value_comes_from() -> None:
    lines = recipe.describe(resolve("demo/toy", ["optim.lr=1e-3"])).splitlines()
    told = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in lines if "#" in line}
    assert told["task: toy"] == "configs/pretrain/toy-base.yaml:4"
    assert told["recipe: demo/toy"] == "name of the file"
    assert told["epochs: 1.0"] == "configs/demo/toy.yaml:2"
    assert told["batch: 256"] == "configs/pretrain/toy-base.yaml:8"
    assert told["lr: 0.001"] == "override"
    assert told["blr: null"] == "default"
    assert told["image_size: [224, 224]"] == "default"
    assert [line for line in lines if "#" not in line] == ["data:", "  augment:", "    crop:", "  evaluation:",
                                                           "train:", "optim:"]  # fmt: skip


def test_what_describe_prints_is_the_recipe() -> None:
    resolved = resolve("demo/toy", ["notes=['a # b', off]"])
    Path("printed.yaml").write_text(recipe.describe(resolved), encoding="utf-8")
    assert resolve("printed.yaml").config == resolved.config
