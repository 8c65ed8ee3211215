"""Plain pickles of arrays: read to the last bit, and nothing in them runs."""

from __future__ import annotations

import builtins
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "columns_first": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    "strided": np.arange(20, dtype=np.float32)[::3],
    "big_endian": np.array([1.5, -2.25], dtype=">f4"),
    "half": np.array([0.1, 65504.0], dtype=np.float16),
    "whole": np.array([2**40, -1], dtype=np.int64),
    "truth": np.array([True, False]),
    "none": np.zeros((0, 3), dtype=np.float32),
    "alone": np.array(2.5, dtype=np.float32),
}


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_read_to_the_last_bit(tmp_path: Path, protocol: int) -> None:
    payload = {"model": ARRAYS, "__author__": "someone", "accuracy": np.float64(0.5), "iteration": 7}
    state, info = read_checkpoint(written(tmp_path / "model.pkl", payload, protocol))
    assert list(state) == list(ARRAYS)
    for name, array in ARRAYS.items():
        want = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        assert state[name].dtype == want.dtype, name
        assert torch.equal(state[name], want), name
        assert state[name].is_contiguous()
    assert (info.container, info.wrapper) == ("pickle", "model")
    assert {"__author__", "accuracy", "iteration"} <= set(info.ignored)


def test_the_module_names_of_older_numpy_are_known(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pkl", {"model": {"w": ARRAYS["strided"]}}, protocol=2)
    newer, older = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert newer in path.read_bytes() or older in path.read_bytes()
    for name in (newer, older):
        path.write_bytes(path.read_bytes().replace(newer, name).replace(older, name))
        state, _ = read_checkpoint(path)
        assert np.array_equal(state["w"].numpy(), ARRAYS["strided"])


def test_a_state_dict_with_its_metadata(tmp_path: Path) -> None:
    ordered: OrderedDict[str, Any] = OrderedDict(module_a=ARRAYS["matrix"])
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    state, _ = read_checkpoint(written(tmp_path / "x.pkl", {"state_dict": ordered}))
    assert np.array_equal(state["module_a"].numpy(), ARRAYS["matrix"])


class Call:
    """Calls a function when it is unpickled by an ordinary unpickler."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_in_a_pickle_runs(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "marker", tmp_path / "zoo.pkl"
    evil = [
        Call(os.system, f"touch {marker}"),
        Call(builtins.exec, f"open({str(marker)!r}, 'w')"),
        Call(np.save, str(marker), np.zeros(1)),
        Call(np.load, str(path), None, True),
    ]
    for one in evil:
        with pytest.raises(
            MaeBenchError, match=r"zoo\.pkl holds more than weights \(.+\), and unpickling"
        ) as caught:
            read_checkpoint(written(path, {"model": {"w": ARRAYS["matrix"]}, "x": one}, protocol))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("marker*"))
    pickle.loads(pickle.dumps({"x": evil[0]}, protocol=protocol))
    assert marker.exists(), "the pickle of this test is not malicious at all"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{"a": 1}], dtype=object), "of type 'O8'"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), "array of records"),
        (np.array(["text"]), "of type 'U4'"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "."),
        (np.ma.masked_array([1.0], [True]), "holds more than weights"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, array: Any, reason: str) -> None:
    with pytest.raises(MaeBenchError, match=reason):
        read_checkpoint(written(tmp_path / "x.pkl", {"model": {"w": array}}))


def test_an_array_must_have_as_many_bytes_as_its_shape_says(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pkl", {"model": {"w": np.zeros((3, 250), np.float32)}}, protocol=3)
    before = path.read_bytes()
    assert before.count(b"K\x03K\xfa") == 1  # the shape: two one-byte numbers
    path.write_bytes(before.replace(b"K\x03K\xfa", b"K\x04K\xfa"))
    with pytest.raises(MaeBenchError, match=r"shape \(4, 250\) with 3000 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_one_sentence(tmp_path: Path, kept: float, protocol: int) -> None:
    path = written(tmp_path / "zoo.pkl", {"model": {"w": np.ones(500, np.float32)}}, protocol)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(
        MaeBenchError, match=r"zoo\.pkl cannot be read .*truncated.* bytes are there"
    ) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_web_page_saved_as_a_pickle_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>")
    with pytest.raises(MaeBenchError, match=r"model_final\.pkl is a web page saved under"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_damaged_pickle_is_read_or_refused_in_one_sentence(tmp_path: Path, protocol: int) -> None:
    draw, path, refusals = random.Random(protocol), tmp_path / "zoo.pkl", []
    whole = pickle.dumps({"model": {"w": ARRAYS["matrix"], "v": ARRAYS["strided"]}, "x": (1, [2])}, protocol)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5))):
            damaged[draw.randrange(2, len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except MaeBenchError as error:
            refusals.append(str(error))
    assert len(refusals) > 75
    assert all(str(path) in message and "\n" not in message for message in refusals)
