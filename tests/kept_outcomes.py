"""What a finished run must have kept of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mae_bench import outcomes
from mae_bench.outcomes import Outcomes
from mae_bench.results import read_result


def kept(folder: Path) -> Mapping[str, Outcomes]:
    """The outcomes in a run's folder, found as tables find them."""
    return outcomes.of_run(folder, read_result(folder).config["task"])


def assert_kept(folder: Path, *without: str) -> None:
    """Every metric of the run but those `without` can be computed from what it kept, and is the run's own."""
    metrics = read_result(folder).metrics
    computed: dict[str, float] = {}
    for one in kept(folder).values():
        assert not computed.keys() & set(one.metrics)
        computed |= outcomes.own(one)
    assert set(computed) == set(metrics) - set(without)
    for name, value in computed.items():
        assert value == pytest.approx(metrics[name], abs=1e-9), name
