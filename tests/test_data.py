"""Datasets and batches: the same for any number of processes, workers and micro-batches, and after any resume."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae_bench.augment import eval_transform, train_transform
from mae_bench.data import (
    ImageDataset,
    evaluation_batches,
    holdout,
    loader_processes,
    steps_per_epoch,
    train_dataset,
    training_batches,
    val_dataset,
)
from mae_bench.errors import MaeBenchError
from mae_bench.keys import HOLDOUT, ORDER, Draws, key_of, keys_of, permutation
from tests.pictures import encoded, settings, smooth, write_tree

# Fewer cores than loader processes, on some machines.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

IMAGES = 23


class Pictures:
    """A source of tensors, with some that cannot be read."""

    def __init__(self, count: int = IMAGES, channels: int = 3, broken: tuple[int, ...] = ()) -> None:
        self.classes = ["even", "odd"]
        self.count, self.channels, self.broken = count, channels, set(broken)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> torch.Tensor | bytes:
        self.reads.append(index)
        if index in self.broken:
            return b"broken"
        return torch.from_numpy(
            np.random.RandomState(index).randint(0, 256, (self.channels, 12, 10), dtype=np.uint8)
        )

    def label(self, index: int) -> int:
        return index % 2

    def name(self, index: int) -> str:
        return f"pictures/{index}"

    def fingerprint(self) -> str:
        return str(self.count)


def pictures(seed: int = 0, bad: int = 0, **options: Any) -> ImageDataset:
    return ImageDataset(
        Pictures(**options),
        train_transform(settings()),
        seed=seed,
        max_bad_images=bad,
        channels=options.get("channels", 3),
    )


def take(count: int, dataset: ImageDataset, **options: Any) -> list[dict[str, torch.Tensor]]:
    batches = training_batches(dataset, **{"batch": 8, "micro_batch": 8, "workers": 0} | options)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def joined(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def assert_equal(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    a, b = joined(first), joined(second)
    assert a.keys() == b.keys() == {"image", "label", "key", "index"}
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---------------------------------------------------------------- keys


def test_keys_are_the_same_one_by_one_and_all_at_once() -> None:
    # The constants pin the function: a change of it would change every run.
    assert [key_of(0, 0, 0), key_of(1, 2, 3), key_of(2**40, 7, 10**7, ORDER)] == KEYS
    assert keys_of(1, 2, 50, HOLDOUT).tolist() == [key_of(1, 2, index, HOLDOUT) for index in range(50)]
    everything = {key_of(s, e, i, u) for s in range(5) for e in range(5) for i in range(40) for u in range(3)}
    assert len(everything) == 3000
    assert all(0 <= key < 2**63 for key in everything)


KEYS = [1195769770526638388, 4258566918604784025, 2296174836216097053]


def test_draws_are_uniform_and_their_own_for_each_key() -> None:
    streams = np.array(
        [[draws.uniform() for _ in range(8)] for draws in map(Draws, keys_of(0, 0, 4000).tolist())]
    )
    assert abs(streams.mean(0) - 0.5).max() < 0.02
    assert abs(np.corrcoef(streams.T) - np.eye(8)).max() < 0.06
    assert np.histogram(streams, 20, (0, 1))[0].min() > 0.9 * 32000 / 20
    draws = Draws(3)
    assert {draws.below(3) for _ in range(100)} == {0, 1, 2}
    assert {tuple(draws.order(3)) for _ in range(200)} == set(itertools.permutations(range(3)))
    assert all(2 <= draws.log_uniform(2, 8) < 8 for _ in range(100))


def test_permutations_are_permutations() -> None:
    first, second = permutation(0, 0, 1000), permutation(0, 1, 1000)
    assert sorted(first.tolist()) == list(range(1000))
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


# ---------------------------------------------------------------- training order


def test_an_epoch_holds_every_image_at_most_once() -> None:
    assert steps_per_epoch(IMAGES, 8) == 2
    batches = take(6, pictures())
    epochs = [torch.cat([batches[2 * e]["index"], batches[2 * e + 1]["index"]]) for e in range(3)]
    assert all(len(epoch.unique()) == 16 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert len(torch.cat(epochs).unique()) == IMAGES  # the images left out are others each time
    batch = batches[0]
    assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (8, 3, 8, 8))
    assert batch["image"].is_contiguous()
    assert torch.equal(batch["label"], batch["index"] % 2)
    assert batch["key"].tolist() == [key_of(0, 0, int(i)) for i in batch["index"]]


def test_the_seed_decides_order_and_augmentation() -> None:
    assert_equal(take(3, pictures(seed=1), seed=1), take(3, pictures(seed=1), seed=1))
    one, other = joined(take(2, pictures(seed=1), seed=1)), joined(take(2, pictures(seed=2), seed=2))
    assert not torch.equal(one["index"], other["index"])
    assert not torch.equal(one["image"], other["image"])


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(workers: int) -> None:
    assert_equal(take(7, pictures()), take(7, pictures(), workers=workers))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_processes_and_micro_batches_cut_the_same_steps(world: int, micro_batch: int) -> None:
    whole = take(5, pictures())
    per_rank = 8 // world // micro_batch
    parts = [
        take(5 * per_rank, pictures(), rank=rank, world=world, micro_batch=micro_batch)
        for rank in range(world)
    ]
    again = [
        batch
        for step in range(5)
        for part in parts
        for batch in part[step * per_rank : (step + 1) * per_rank]
    ]
    assert all(len(batch["index"]) == micro_batch for batch in again)
    assert_equal(whole, again)


@pytest.mark.parametrize("start", [1, 2, 5, 100])
def test_starting_later_gives_the_same_steps_and_reads_nothing_before(start: int) -> None:
    dataset = pictures()
    resumed = take(2, dataset, start_step=start, micro_batch=4)
    assert len(dataset.source.reads) == 8  # type: ignore[attr-defined]
    if start < 100:
        assert_equal(take(2 * (start + 1), pictures(), micro_batch=4)[-2:], resumed)


def test_no_global_generator_moves() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]

    before = states()
    for workers in (0, 1):
        take(2, pictures(), workers=workers)
        list(evaluation_batches(pictures(), batch=5, workers=workers))
    assert states() == before


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MaeBenchError, match=r"train.batch: 24 is more than the 23 training images"):
        take(1, pictures(), batch=24)
    with pytest.raises(MaeBenchError, match="8 is not divisible by 2 processes x micro-batches of 3"):
        take(1, pictures(), world=2, micro_batch=3)


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 0), (30, 0), (1, 2), (2, 2), (3, 1)])
def test_evaluation_reads_each_image_once_and_in_order(world: int, workers: int) -> None:
    seen = [
        batch
        for rank in range(world)
        for batch in evaluation_batches(pictures(), batch=4, rank=rank, world=world, workers=workers)
    ]
    assert joined(seen)["index"].tolist() == list(range(IMAGES))
    assert max(len(batch["index"]) for batch in seen) == min(4, -(-IMAGES // world))


# ---------------------------------------------------------------- datasets


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "set" / "train", {"a": 6, "b": 5, "c": 4})
    write_tree(tmp_path / "set" / "val", {"a": 2, "b": 1, "c": 2}, first_seed=50)
    return tmp_path


def test_train_and_val_sets_of_a_recipe(tree: Path) -> None:
    train, val = train_dataset(settings(), tree, seed=4), val_dataset(settings(), tree)
    assert (len(train), len(val), train.classes) == (15, 5, ["a", "b", "c"])
    assert train.labels.tolist() == [0] * 6 + [1] * 5 + [2] * 4
    sample = val[3]
    assert {name: sample[name] for name in ("label", "index")} == {"label": 2, "index": 3}
    assert torch.equal(sample["image"], val[(9, 3)]["image"])
    assert not torch.equal(train[3]["image"], train[(1, 3)]["image"])
    plain = train_dataset(settings(), tree, augment=False)
    assert torch.equal(plain[3]["image"], plain[(1, 3)]["image"])
    assert torch.equal(plain[3]["image"], train.with_transform(eval_transform(settings()))[3]["image"])
    with pytest.raises(IndexError):
        train[15]


def test_a_subset_is_a_dataset_of_its_own(tree: Path) -> None:
    train = train_dataset(settings(), tree)
    part = train.subset([4, 14, 7])
    assert (len(part), part.labels.tolist()) == (3, [0, 2, 1])
    assert part.source.name(1) == train.source.name(14)
    assert (part[1]["index"], part[1]["label"]) == (1, 2)
    assert part.fingerprint() not in {train.fingerprint(), train.subset([4, 7, 14]).fingerprint()}
    assert part.subset([2]).source.name(0) == train.source.name(7)
    with pytest.raises(IndexError, match="indices from 0 to 15 of a dataset of 15"):
        train.subset([0, 15])


def test_holding_out_splits_once_and_for_all(tree: Path) -> None:
    train = train_dataset(settings(), tree)
    names = [train.source.name(i) for i in range(15)]

    def parts(**options: Any) -> list[list[str]]:
        return [[part.source.name(i) for i in range(len(part))] for part in holdout(train, **options)]

    rest, held = parts(fraction=0.2, seed=3)
    assert len(held) == 3
    assert sorted(rest + held) == names
    assert rest == sorted(rest)
    assert parts(count=3, seed=3) == [rest, held]
    assert parts(count=3, seed=4) != [rest, held]
    for fraction in (0.01, 0.99):
        with pytest.raises(MaeBenchError, match=r"cannot hold out (0|15) of 15 images"):
            holdout(train, fraction)


def test_images_of_other_channel_counts_go_through(tree: Path) -> None:
    batch = take(1, pictures(channels=5), workers=1)[0]
    assert batch["image"].shape == (8, 5, 8, 8)


def test_images_of_different_shapes_in_a_batch_are_named() -> None:
    dataset = ImageDataset(Pictures(), lambda image, key: image[:, : 4 + key % 2])
    with pytest.raises(
        MaeBenchError, match=r"one shape after the transform: pictures/\d+ \(3, \d, 10\), pictures/"
    ):
        take(2, dataset)


def test_a_transform_that_refuses_an_image_names_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "val", {"a": 1}, size=(6, 20))
    with pytest.raises(
        MaeBenchError, match=r"val/a/000.png: an image of 6x20 is smaller than data.image_size 8x8"
    ):
        val_dataset(settings(), tmp_path)[0]


# ---------------------------------------------------------------- unreadable images


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_run_and_is_named(tree: Path, workers: int) -> None:
    broken = tree / "set" / "train" / "b" / "002.png"
    broken.write_bytes(encoded(smooth(1))[:60])
    with pytest.raises(MaeBenchError) as caught:
        take(2, train_dataset(settings(), tree), workers=workers, batch=15, micro_batch=15)
    message = str(caught.value)
    assert message.startswith(f"unreadable image {broken}: ")
    assert "data.max_bad_images=N" in message
    assert "Traceback" not in message


def test_a_file_that_went_away_is_unreadable(tree: Path) -> None:
    train = train_dataset(settings(), tree)
    (tree / "set" / "train" / "a" / "000.png").unlink()
    with pytest.raises(MaeBenchError, match=r"unreadable image .*a/000.png: .*No such file"):
        train[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_replaced_by_the_next_and_listed(workers: int) -> None:
    dataset = pictures(broken=(4, 5, 22), bad=3)
    batch = joined(list(evaluation_batches(dataset, batch=5, workers=workers)))
    assert batch["index"].tolist() == list(range(IMAGES))
    assert batch["label"].tolist() == [0, 1, 0, 1, 0, 0, 0, *(i % 2 for i in range(7, 22)), 0]
    good = pictures()
    for index, instead in ((4, 6), (5, 6), (22, 0)):
        expected = good.transform(Pictures().read(instead), key_of(0, 0, index))  # type: ignore[arg-type]
        assert torch.equal(batch["image"][index], expected)
    assert dataset.bad_images() == [f"pictures/{i}: not an image of a known format" for i in (4, 5, 22)]
    list(evaluation_batches(dataset, batch=5, workers=workers))
    assert len(dataset.bad) == 3  # met again, counted once


@pytest.mark.parametrize("workers", [0, 2])
def test_one_unreadable_image_too_many_stops_the_run(workers: int) -> None:
    batches = evaluation_batches(pictures(broken=(4, 10, 16), bad=2), batch=5, workers=workers)
    assert joined(list(itertools.islice(batches, 3)))["index"].tolist() == list(range(15))
    with pytest.raises(MaeBenchError) as caught:
        next(batches)
    assert str(caught.value).splitlines() == [
        "more than data.max_bad_images = 2 images are unreadable:",
        *(f"  pictures/{i}: not an image of a known format" for i in (4, 10, 16)),
    ]
    with pytest.raises(MaeBenchError, match=r"more than data.max_bad_images = 2"):
        pictures(broken=(7, 8, 9), bad=2)[7]


# ---------------------------------------------------------------- images in memory


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_are_the_same_and_read_once(
    tree: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_bench.data.memory.BLOCK_BYTES", 1000)  # two images and a bit
    options = {"batch": 6, "micro_batch": 3, "workers": workers}
    plain = take(9, train_dataset(settings(), tree), **options)
    dataset = train_dataset(settings(cache="memory"), tree)
    batches = training_batches(dataset, **options)  # type: ignore[arg-type]
    for path in (tree / "set" / "train").rglob("*.png"):
        path.unlink()
    assert_equal(plain, list(itertools.islice(batches, 9)))
    batches.close()
    held = dataset.with_transform(eval_transform(settings())).subset([2, 9])
    assert len(list(evaluation_batches(held, batch=2, workers=workers))) == 1
    assert dataset.fingerprint() == held.source.base.fingerprint()  # type: ignore[attr-defined]


def test_only_what_will_be_read_is_held() -> None:
    from mae_bench.data.memory import RememberedSource

    base = Pictures()
    dataset = ImageDataset(RememberedSource(base), eval_transform(settings()))
    list(evaluation_batches(dataset, batch=4, rank=1, world=2, workers=0))
    assert sorted(base.reads) == list(range(11, 23))
    list(evaluation_batches(dataset.subset([0, 20]), batch=4, workers=0))
    assert sorted(base.reads) == [0, *range(11, 23)]


def test_unreadable_images_are_left_out_of_memory() -> None:
    from mae_bench.data.memory import RememberedSource

    dataset = ImageDataset(
        RememberedSource(Pictures(broken=(3,))), eval_transform(settings()), max_bad_images=1
    )
    batch = joined(list(evaluation_batches(dataset, batch=4, workers=0)))
    assert batch["label"].tolist()[:5] == [0, 1, 0, 0, 0]
    assert dataset.bad_images() == ["pictures/3: not an image of a known format"]


# ---------------------------------------------------------------- loader processes


def test_the_number_of_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = pictures(), pictures()
    monkeypatch.setattr(large.source, "read", lambda index: torch.zeros(3, 375, 500, dtype=torch.uint8))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(24)), raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_processes(5, large) == 5
    assert loader_processes("auto", small) == 0
    assert loader_processes("auto", large) == 1
    assert loader_processes("auto", large, world=24) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert loader_processes("auto", small) == 16
    assert loader_processes("auto", large, world=4) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # four processes on two machines
    assert loader_processes("auto", large, world=4) == 12


def test_closing_ends_the_loader_processes() -> None:
    import multiprocessing

    batches = training_batches(pictures(), batch=8, micro_batch=8, workers=2)
    next(batches)
    started = multiprocessing.active_children()
    assert len(started) >= 2
    batches.close()
    assert not set(multiprocessing.active_children()) & set(started)


def test_loader_processes_use_one_thread_each() -> None:
    class Threads(Pictures):
        def read(self, index: int) -> torch.Tensor | bytes:
            return torch.full((3, 8, 8), torch.get_num_threads(), dtype=torch.uint8)

    dataset = ImageDataset(Threads(), eval_transform(settings()))
    assert take(1, dataset, workers=1)[0]["image"].unique().tolist() == [1]


def test_a_loader_process_that_dies_is_told() -> None:
    class Deadly(Pictures):
        def read(self, index: int) -> torch.Tensor | bytes:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    dataset = ImageDataset(Deadly(), eval_transform(settings()))
    with pytest.raises(MaeBenchError, match=r"a loader process died: .* lower data.workers"):
        take(1, dataset, workers=1)


def test_datasets_survive_pickling(tree: Path) -> None:
    # Where loader processes are not forked, datasets are sent to them.
    dataset = train_dataset(settings(cache="memory"), tree)
    dataset.prepare(np.arange(15))
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[4]["image"], dataset[4]["image"])


SCRIPT = """
import itertools, signal, time
from mae_bench.data import training_batches
from tests.test_data import pictures

batches = training_batches(pictures(), batch=8, micro_batch=8, workers=2)
for _ in range(2):  # one batch from each loader process, so both are past their beginning
    next(batches)
came = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: came.append(number))
print("ready", flush=True)
while len(came) < 2:
    time.sleep(0.01)
time.sleep(0.2)
print(sum(len(batch["index"]) for batch in itertools.islice(batches, 20)), flush=True)
# No close: leaving the program must end the loader processes too.
"""


def test_signals_to_the_whole_group_leave_the_parent_in_charge() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"160\n"
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
    assert _gone(process.pid)


def _gone(group: int) -> bool:
    """Whether the last process of a group has ended."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    import multiprocessing

    yield
    assert multiprocessing.active_children() == []
