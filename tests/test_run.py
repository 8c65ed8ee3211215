"""A run's folder, what makes two runs one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mae_bench
from mae_bench.errors import MaeBenchError
from mae_bench.run import Run, folder_for, identity
from mae_bench.yamlfile import load
from tests.toy import Toy, toy_config, toy_run


@pytest.mark.parametrize(
    "changes",
    [
        {"train__micro_batch": 2},
        {"train__save_every_steps": 1},
        {"train__log_every_steps": 5},
        {"data__workers": 1},
        {"data__cache": "memory"},
        {"wandb": {"project": "other"}},
        {"notes": ["said"]},
    ],
)
def test_how_a_run_is_carried_out_is_not_its_identity(changes: dict[str, object]) -> None:
    assert identity(toy_config(**changes)) == identity(toy_config())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"backbone": "random:vit_tiny_patch16_224"},
        {"precision": "bf16"},
        {"data__root": "elsewhere"},
        {"train__steps": 13},
        {"optim__lr": 0.06},
    ],
)
def test_what_decides_the_result_is(changes: dict[str, object]) -> None:
    assert identity(toy_config(**changes)) != identity(toy_config())


def test_names_of_folders(tmp_path: Path) -> None:
    config = toy_config(backbone="file:a/b c.pth?arch=vit_base_patch16_224")
    folder = folder_for(config, tmp_path)
    assert folder.parent == tmp_path / "toy"
    assert folder.name == f"file-a-b-c.pth-arch=vit_base_patch16_224-s0-{identity(config)[:8]}"
    assert folder_for(config, tmp_path, "mine") == tmp_path / "mine"
    long = folder_for(toy_config(backbone="random:" + "x" * 300), tmp_path).name
    assert len(long) < 120
    assert long.startswith("random-x")


def test_the_settings_are_written_before_anything_else(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    written = load(run.folder / "config.yaml").values
    assert written["train"]["steps"] == 12
    assert written["optim"]["lr"] == 0.05


def named(root: Path, **changes: object) -> Run:
    adapter = Toy(toy_config(**changes))
    return Run(adapter, root / "mine", data_root=root, runs_root=root)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    first = named(tmp_path)
    first.open()
    with pytest.raises(MaeBenchError, match="another process is working on this run"):
        named(tmp_path).open()
    first.close()
    with pytest.raises(
        MaeBenchError, match=r"holds another run \(optim.lr: 0.05 there, 0.1 now\); choose another --name"
    ):
        named(tmp_path, optim__lr=0.1).open()


def test_force_sets_the_old_folder_aside(tmp_path: Path) -> None:
    first = named(tmp_path)
    first.open()
    (first.folder / "metrics.jsonl").write_text("{}\n")
    first.close()
    second = named(tmp_path, optim__lr=0.1)
    second.open(force=True)
    second.close()
    assert not (tmp_path / "mine" / "metrics.jsonl").exists()
    (aside,) = tmp_path.glob("mine.old-*")
    assert (aside / "metrics.jsonl").exists()


def test_a_result_must_be_whole_and_finite(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    with pytest.raises(MaeBenchError, match="mse is missing"):
        run.finish({})
    with pytest.raises(MaeBenchError, match="mse is not finite"):
        run.finish({"mse": float("nan")})
    assert not (run.folder / "result.json").exists()
    assert run.finish({"mse": 1.0}).metrics == {"mse": 1.0}
    assert toy_run_again(run).metrics == {"mse": 1.0}


def toy_run_again(run: Run):  # type: ignore[no-untyped-def]
    run.close()
    again = Run(Toy(toy_config()), run.folder, data_root=run.data_root, runs_root=run.runs_root)
    result = again.open()
    again.close()
    return result


def test_facts_merge_and_unknown_ones_are_the_adapters_fault(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    run.record(details={"a": 1}, notes=["first"])
    run.record(details={"b": 2}, notes=["second"])
    with pytest.raises(ValueError, match="no field"):
        run.record(detials={"c": 3})
    result = run.finish({"mse": 0.5})
    assert result.details == {"a": 1, "b": 2}
    assert result.notes == ["first", "second"]


def test_one_process_sums_and_gathers_to_itself(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    values = torch.arange(6).reshape(3, 2)
    assert torch.equal(run.gather(values), values)
    total = run.sum(values)
    total += 1
    assert torch.equal(values, torch.arange(6).reshape(3, 2)), "the caller's tensor was changed"


def test_a_run_that_did_nothing_leaves_no_folder(tmp_path: Path) -> None:
    roots = {"data_root": tmp_path / "data", "runs_root": tmp_path / "runs"}
    with pytest.raises(MaeBenchError, match="no folder images there"):
        mae_bench.run("imagenet-knn", "random:vit_tiny_patch16_224", **roots)
    assert not list((tmp_path / "runs").rglob("config.yaml"))


def test_a_run_that_won_something_keeps_it(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    run.log(1, {"loss": 1.0})
    run.leave_no_litter()
    assert (run.folder / "config.yaml").exists()
    run.close()
