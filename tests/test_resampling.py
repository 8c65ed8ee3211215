"""Intervals and tests over samples: against numbers of others, and over many simulated benchmarks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mae_bench import resampling
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Hits, Weights
from mae_bench.resampling import Resampling, difference, interval
from mae_bench.significance import holm, mcnemar_p, swap_p, welch
from tests.simulated import Distinct, Overlap, backbones, overlaps, truth

LEVEL = 0.05
# Where p is looked at alone, which needs no resamples for hits.
ONLY_P: dict[str, Any] = {"level": 0.5, "resamples": 20}


def near_level(rejections: int, tries: int, level: float = LEVEL) -> bool:
    """Whether a share of rejections is the level within three standard deviations of a binomial."""
    return abs(rejections / tries - level) < 3 * math.sqrt(level * (1 - level) / tries)


def hits(right: list[int], samples: str = "same", metric: str = "top1") -> Hits:
    return Hits(samples, {metric: np.array(right, dtype=bool)})


# ---------------------------------------------------------------- p values against others'


@pytest.mark.parametrize(
    ("b", "c", "expected"),
    [
        # Twice P(X <= 1) less P(X = 1) for X of 8 fair coins: (2 * 9 - 8) / 256, as in the worked example of
        # Fagerland, Lydersen and Laake 2013 (children's airways before and after transplantation).
        (1, 7, 10 / 256),
        (7, 1, 10 / 256),
        # As many on both sides: 1 less half of P(X = 2) = 6 / 16.
        (2, 2, 1 - 3 / 16),
        (0, 1, 0.5),
        (0, 5, 1 / 32),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_mid_p_by_hand(b: int, c: int, expected: float) -> None:
    assert mcnemar_p(b, c) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("b", "c"), [(3, 11), (40, 61), (1000, 1100), (5000, 4000)])
def test_mcnemars_mid_p_is_scipys_exact_test_less_what_was_observed(b: int, c: int) -> None:
    exact = stats.binomtest(b, b + c).pvalue
    assert mcnemar_p(b, c) == pytest.approx(exact - stats.binom.pmf(b, b + c, 0.5), rel=1e-9)
    steps = np.array([1] * b + [-1] * c + [0] * 7)
    assert swap_p(steps) == mcnemar_p(b, c)


@pytest.mark.parametrize(
    "steps", [[3, -1, 2, 2, 0, 1, -2, 1, 3, 1], [6, 4, -3, -2, 6, 1, 5], [2, 2, -2, 4], [1, -1, 2, -2]]
)
def test_the_transform_counts_every_way_of_swapping(steps: list[int]) -> None:
    sums = [
        abs(sum(s * step for s, step in zip(signs, steps, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(steps))
    ]
    observed = abs(sum(steps))
    expected = np.mean([(value > observed) + 0.5 * (value == observed) for value in sums])
    assert swap_p(np.array(steps)) == pytest.approx(expected, abs=1e-12)


def test_the_transform_agrees_with_the_normal_law_on_many_samples() -> None:
    stream = np.random.default_rng(1)
    steps = stream.integers(-3, 4, 50_000)
    for shift in (0, 200, 900, 1500):
        shifted = np.concatenate([steps, np.full(shift, 1)])
        z = abs(shifted.sum()) / math.sqrt((shifted**2).sum())
        assert swap_p(shifted) == pytest.approx(2 * stats.norm.sf(z), rel=0.02)


def test_what_is_beyond_the_transform_has_a_bound() -> None:
    steps = np.concatenate([np.full(300, 1), np.full(50, 2)])
    assert 0 < swap_p(steps) < 1e-60
    # Where the bound takes over it is above the tail, and by no more than a hundred times.
    for ones in range(140, 175):
        around = np.concatenate([np.full(ones, 1), np.full(100, -1), np.full(200, 2), np.full(140, -2)])
        z = abs(around.sum()) / math.sqrt((around**2).sum())
        assert 0.9 * 2 * stats.norm.sf(z) < swap_p(around) < 100 * 2 * stats.norm.sf(z)


def test_nothing_differs() -> None:
    found = difference([hits([1, 0, 1])], [hits([1, 0, 1])], "top1")
    assert (found.value, found.low, found.high, found.p, found.differing) == (0, 0, 0, 1, 0)


def test_welch_by_hand() -> None:
    """Means 82 and 80, variances 1 and 4: t = 2 / sqrt(1/3 + 4/3), df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2)."""
    found = welch([81.0, 82.0, 83.0], [78.0, 80.0, 82.0], 0.95)
    assert found is not None
    error, freedom = math.sqrt(5 / 3), (25 / 9) / (17 / 18)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, freedom), rel=1e-12)
    reach = stats.t.ppf(0.975, freedom) * error
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [([80.0], [70.0, 71.0]), ([80.0, 80.0], [70.0, 70.0, 70.0])])
def test_no_seed_spread_no_test_over_seeds(a: list[float], b: list[float]) -> None:
    assert welch(a, b, 0.95) is None


def test_holm_by_hand() -> None:
    """Smallest times 4, next times 3, ...; never below an earlier one, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# ---------------------------------------------------------------- the bootstrap


def test_the_interval_of_one_run_is_that_of_the_binomial() -> None:
    """N draws with replacement from 1,000 hits in 1,250 are a binomial of N = 1,250 and p = 0.8."""
    run = hits([1] * 1000 + [0] * 250)
    expected = 100 * stats.binom.ppf([0.025, 0.975], 1250, 0.8) / 1250
    assert interval([run], "top1", resamples=20_000) == pytest.approx(tuple(expected), abs=0.09)


def test_seeds_share_their_resamples() -> None:
    """Two equal seeds know no more than one; resamples of their own would narrow the interval."""
    run = hits([1] * 60 + [0] * 40)
    assert interval([run, run], "top1") == interval([run], "top1")
    ratio = overlaps(np.random.default_rng(0), 40, [0.3])[0]
    assert interval([ratio, ratio], "miou") == interval([ratio], "miou")


def test_what_resampling_does_to_a_metric_is_taken_off() -> None:
    """A resample of N = 400 has 63.2 % of the samples, give or take 1.6 %: about the number itself."""
    run = Distinct(400)
    low, high = interval([run], "distinct")
    deviation = 100 * math.sqrt((math.exp(-1) - 2 * math.exp(-2)) / 400)
    assert (low, high) == pytest.approx((100 - 1.96 * deviation, 100 + 1.96 * deviation), abs=0.5)
    found = difference([run], [Distinct(400)], "distinct")
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_an_interval_that_is_moved_stays_above_zero() -> None:
    """One of 40 images shows an object, and is found; in a third of the resamples nothing is."""
    ones = np.ones((40, 1))
    shared = np.zeros((40, 1))
    shared[0] = 1

    class Squared(Overlap):
        def score(self, weights: Weights) -> dict[str, np.ndarray[Any, Any]]:
            return {"miou": super().score(weights)["miou"] ** 2}

    low, high = interval([Squared(shared, ones)], "miou")
    assert low == 0
    assert high > 100 * (1 / 40) ** 2


def test_counting_values_draws_from_the_same_law_as_drawing_images() -> None:
    """The shortcut for hits against the general way, by hiding that they are hits."""
    [a], [b] = backbones(np.random.default_rng(5), 400, [0.5, 0.1], [1, 1])

    class Plain(Overlap):
        metrics = ("miou",)

    def plain(run: Hits) -> Plain:
        right = run.of("top1").astype(float)[:, None]
        return Plain(right, np.ones_like(right))

    quick = difference([a], [b], "top1", resamples=4000)
    slow = difference([plain(a)], [plain(b)], "miou", resamples=4000)
    assert slow.value == pytest.approx(quick.value)
    assert (slow.low, slow.high, slow.error) == pytest.approx((quick.low, quick.high, quick.error), abs=0.25)
    assert slow.p == pytest.approx(quick.p, abs=0.03)
    assert slow.n == quick.n == 400


@pytest.mark.parametrize("memory", [1, 100_000, 64 * 2**20])
def test_memory_decides_nothing_and_neither_do_earlier_comparisons(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = overlaps(np.random.default_rng(2), 50, [0.4, 0.3, 0.0])
    expected = difference([a], [b], "miou", resamples=200)
    monkeypatch.setattr(resampling, "_BYTES", memory)
    shared = Resampling(resamples=200)
    shared.difference([c], [b], "miou")
    found = shared.difference([a], [b], "miou")
    for name in ("value", "low", "high", "error", "p"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_the_seed_decides() -> None:
    a, b = overlaps(np.random.default_rng(2), 50, [0.4, 0.3])
    assert difference([a], [b], "miou", seed=1) == difference([a], [b], "miou", seed=1)
    assert difference([a], [b], "miou", seed=1) != difference([a], [b], "miou", seed=2)


def test_no_evaluation_is_done_twice_and_progress_tells_all_of_them() -> None:
    a, b, c = overlaps(np.random.default_rng(2), 50, [0.4, 0.3, 0.1])
    told: list[int] = []
    how = Resampling(resamples=200, progress=told.append)
    pairs = [([a], [b]), ([a], [c]), ([b], [c]), ([a, b], [c])]
    for one, other in pairs:
        how.difference(one, other, "miou")
    # Three bootstraps; three pairs, swapped both ways: the seeds of the last meet c, as before.
    assert sum(told) == how.evaluations(pairs) == 200 * (3 + 2 * 3)
    assert a.calls == b.calls == c.calls == 200 + 1
    [right] = backbones(np.random.default_rng(0), 30, [0.1], [1])
    assert how.evaluations([(right, right)]) == 0


def test_seeds_swap_together() -> None:
    """Unequal numbers of seeds in the general way, against the exact test of the same hits."""
    three, two = backbones(np.random.default_rng(8), 300, [0.4, 0.1], [3, 2])

    def plain(runs: list[Hits]) -> list[Overlap]:
        return [Overlap(run.of("top1").astype(float)[:, None], np.ones((run.size, 1))) for run in runs]

    exact = difference(three, two, "top1")
    drawn = difference(plain(three), plain(two), "miou", resamples=3000)
    assert drawn.value == pytest.approx(exact.value)
    assert drawn.p == pytest.approx(exact.p, abs=0.02)
    assert 0.001 < exact.p < 0.5


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([], "top1"), "no outcomes"),
        (lambda: difference([hits([1, 0])], [hits([1, 0, 1], "others")], "top1"), r"not judged on the same samples \(2, 3 of them\)"),
        (lambda: interval([hits([1, 0])], "top5"), "cannot give 'top5', only top1"),
        (lambda: Resampling(level=95), "between 0.5 and 1"),
        (lambda: Resampling(resamples=100), "100 resamples are too few .* take 200 or more"),
        (lambda: Resampling(seed=-1), "0 or more"),
        (lambda: interval([Overlap(np.eye(3)[:, :1], np.eye(3)[:, :1])], "miou"), "does not exist in .* of 1000 resamples"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_said(call: Callable[[], object], message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        call()


# ---------------------------------------------------------------- many simulated benchmarks


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (2, 3)])
def test_equal_backbones_are_told_apart_as_rarely_as_the_level_says(seeds: tuple[int, int]) -> None:
    """2,000 benchmarks of 300 new images, on which both are right alike often, and mostly on the same ones."""
    stream = np.random.default_rng(10)
    pairs = (backbones(stream, 300, [1.0, 1.0], seeds) for _ in range(2000))
    assert near_level(sum(difference(a, b, "top1", **ONLY_P).p <= LEVEL for a, b in pairs), 2000)


def test_the_mid_p_value_keeps_the_level_where_the_exact_test_falls_short() -> None:
    """All tables there can be: 100 images, of which each differs with probability 0.1 or 0.3.

    Shares of false alarms: 4.1 % and 4.5 % for the mid-p value, 2.2 % and 3.1 % for the exact test.
    """
    for chance, mid, exact in ((0.1, 0.0412, 0.0220), (0.3, 0.0450, 0.0307)):
        shares = np.zeros(2)
        for count in range(101):
            b = np.arange(count + 1)
            here = stats.binom.pmf(count, 100, chance) * stats.binom.pmf(b, count, 0.5)
            p = np.array([mcnemar_p(int(x), count - int(x)) for x in b])
            whole = np.minimum(1, 2 * stats.binom.cdf(np.minimum(b, count - b), count, 0.5))
            shares += [here[p <= LEVEL].sum(), here[whole <= LEVEL].sum()]
        assert shares == pytest.approx([mid, exact], abs=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """600 benchmarks: accuracy of one cell of two seeds, and the difference of two backbones."""
    stream = np.random.default_rng(11)
    wanted = truth(1.5) - truth(1.0)
    cells = differences = 0
    for _ in range(600):
        a, b = backbones(stream, 500, [1.5, 1.0], [2, 1])
        low, high = interval(a, "top1", resamples=400)
        cells += low <= truth(1.5) <= high
        found = difference(a, b, "top1", resamples=400)
        differences += found.low <= wanted <= found.high
    # Few images and resamples cost a percentile interval half a percent of its level.
    assert 0.925 < cells / 600 < 0.975
    assert 0.925 < differences / 600 < 0.975


def test_holm_keeps_the_level_of_the_family() -> None:
    """1,200 tables of three equal backbones: in few is any pair told apart; without correction in many."""
    stream = np.random.default_rng(12)
    corrected = bare = 0
    for _ in range(1200):
        runs = backbones(stream, 300, [1.0, 1.0, 1.0], [1, 1, 1])
        p = [difference(a, b, "top1", **ONLY_P).p for a, b in itertools.combinations(runs, 2)]
        corrected += min(holm(p)) <= LEVEL
        bare += min(p) <= LEVEL
    assert 0.025 < corrected / 1200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1200)
    assert bare / 1200 > 0.09


def test_true_differences_are_found_and_only_those() -> None:
    """300 tables of three backbones on 2,000 images, two alike and one 6 points better."""
    stream = np.random.default_rng(13)
    found = false = 0
    for _ in range(300):
        better, one, other = backbones(stream, 2000, [1.4, 1.0, 1.0], [1, 1, 1])
        p = holm(
            [difference(a, b, "top1", **ONLY_P).p for a, b in ((better, one), (better, other), (one, other))]
        )
        found += p[0] <= LEVEL and p[1] <= LEVEL
        false += p[2] <= LEVEL
    assert found / 300 > 0.95
    assert false / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_a_ratio_of_sums_is_tested_at_its_level_and_with_power() -> None:
    """A stand-in for mean IoU: 300 benchmarks of equal backbones, 60 of different ones, 60 images each.

    With 39 draws p is a multiple of 1 / 40, so that 0.05 is a level it can have.
    """
    stream = np.random.default_rng(14)
    rejections = powerful = 0
    for number in range(300):
        a, b = overlaps(stream, 60, [0.3, 0.3])
        rejections += difference([a], [b], "miou", level=0.7, resamples=39, seed=number).p <= LEVEL
    assert near_level(rejections, 300)
    for number in range(60):
        a, b = overlaps(stream, 60, [0.5, 0.1])
        powerful += difference([a], [b], "miou", level=0.7, resamples=39, seed=number).p <= LEVEL
    assert powerful > 50


def test_the_interval_of_a_ratio_of_sums_holds_the_truth_as_often_as_it_says() -> None:
    """200 benchmarks of equal backbones on 60 images, intervals of 90 %."""
    stream = np.random.default_rng(15)
    covered = 0
    for number in range(200):
        a, b = overlaps(stream, 60, [0.3, 0.3])
        found = difference([a], [b], "miou", level=0.9, resamples=100, seed=number)
        covered += found.low <= 0 <= found.high
    assert 0.83 < covered / 200 < 0.95
