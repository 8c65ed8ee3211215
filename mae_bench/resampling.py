"""How sure a number is, and whether two differ, as far as the validation samples tell (sampling error).

All here is about models that are trained already, and asks what other samples of the same kind would have
given. What another seed of training would have given is another matter (`mae_bench.significance.welch`), and
the two are never mixed. docs/statistics.md has the formulas, their sources and what they do not say.

- `interval`: percentile bootstrap over samples (Efron 1979). Metrics that are no means may come out higher or
  lower in resamples, which hold fewer different samples, than in the samples: AP does, by as much as its
  standard error. Their draws are moved so that their mean is the number itself.
- `difference`: the same for two sides on the same samples, and the p of a paired randomisation test, which
  swaps what the two sides made of a sample. For means of right and wrong (`Hits`) all swaps are counted in
  closed form (`mae_bench.significance.swap_p`); for other metrics swaps are drawn.

N is the number of samples, R that of resamples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mae_bench import significance
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Hits, Outcomes

Floats = NDArray[np.float64]
Progress = Callable[[int], object]
"""Told how many more evaluations, each of all samples with some weights, are done."""

# Streams of random numbers of their own.
_BOOTSTRAP, _SWAPS = 0, 1
# Bytes of weights at one time.
_BYTES = 64 * 2**20
_TELL_EVERY_S = 0.5
# Share of the resamples in which a metric must exist.
_WANTED = 0.9


@dataclass(frozen=True)
class Difference:
    """One side less the other, in the metric's unit."""

    value: float
    low: float
    high: float
    error: float
    """Standard error: the standard deviation over the resamples."""
    p: float
    """Two-sided, for no difference; of this comparison alone."""
    method: str
    """What `p` is of, in words."""
    n: int
    """Number of samples."""
    differing: int | None
    """Those of them on which the sides differ; None where that cannot be said of one sample."""


class Resampling:
    """Intervals and tests with one set of resamples; what was computed of a run serves all its comparisons.

    Args:
        level: of the intervals.
        resamples: R.
        seed: decides everything that is drawn; the same for every run, so that runs are paired.
        progress: told as evaluations are done, of all there will be (`evaluations`).

    Raises:
        MaeBenchError: a level that is none, too few resamples for it, or a seed below zero.
    """

    def __init__(
        self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0, progress: Progress | None = None
    ) -> None:
        if not 0.5 <= level < 1:
            raise MaeBenchError(f"a level lies between 0.5 and 1 (0.95 is 95 %), and is not {level:g}")
        enough = math.ceil(10 / (1 - level) - 1e-9)
        if resamples < enough:
            raise MaeBenchError(
                f"{resamples} resamples are too few for an interval of level {level:g}; take {enough} or more"
            )
        if seed < 0:
            raise MaeBenchError(f"a seed is 0 or more, and not {seed}")
        self.level, self.resamples, self.seed = level, resamples, seed
        self.progress = progress
        # By identity of the outcomes, which are held here so that no others can take their place in memory.
        self._whole: dict[int, tuple[Outcomes, Mapping[str, Floats]]] = {}
        self._drawn: dict[int, tuple[Outcomes, Mapping[str, Floats]]] = {}
        self._swapped: dict[tuple[int, int], tuple[Outcomes, Outcomes, Mapping[str, Floats]]] = {}

    def score(self, runs: Sequence[Outcomes], metric: str) -> float:
        """The metric as it is, as the mean over `runs`."""
        for run in runs:
            if id(run) not in self._whole:
                self._whole[id(run)] = (run, run.score(np.ones((1, run.size))))
        return float(np.mean([self._whole[id(run)][1][metric][0] for run in runs]))

    def interval(self, runs: Sequence[Outcomes], metric: str) -> tuple[float, float]:
        """Lower and upper end of the interval of the mean over `runs`, the seeds of one cell.

        Raises:
            MaeBenchError: not all on the same samples, without the metric, or it exists in too few resamples.
        """
        _check(runs, metric)
        right = _right(runs, metric)
        if right is not None:
            return self._ends(self._resampled_means(right, len(runs)), metric)
        draws = self._bootstrap(runs, metric)
        low, high = self._ends(draws, metric, self.score(runs, metric))
        # Moved, but not below 0 where a metric never is.
        return max(low, min(0.0, float(np.nanmin(draws)))), high

    def difference(self, a: Sequence[Outcomes], b: Sequence[Outcomes], metric: str) -> Difference:
        """The mean over the runs of `a` less that over the runs of `b`.

        Raises:
            MaeBenchError: as `interval`.
        """
        size = _check([*a, *b], metric)
        right_a, right_b = _right(a, metric), _right(b, metric)
        if right_a is not None and right_b is not None:
            # Means over seeds have few values, all of them whole multiples of 1 / unit.
            unit = math.lcm(len(a), len(b))
            steps = right_a * (unit // len(a)) - right_b * (unit // len(b))
            value = 100 * float(steps.sum()) / (unit * size)
            draws = self._resampled_means(steps, unit)
            low, high = self._ends(draws, metric)
            p = significance.swap_p(steps)
            differing: int | None = int(np.count_nonzero(steps))
            method = "McNemar's test (mid-p)" if unit == 1 else "exact randomisation test (mid-p)"
        else:
            value = self.score(a, metric) - self.score(b, metric)
            draws = self._bootstrap(a, metric) - self._bootstrap(b, metric)
            low, high = self._ends(draws, metric, value)
            p = _drawn_p(value, self._swaps(a, b, metric))
            differing = None
            method = f"randomisation test ({self.resamples} draws)"
        error = float(np.nanstd(draws, ddof=1))
        return Difference(value, low, high, error, p, method, size, differing)

    def evaluations(self, comparisons: Sequence[tuple[Sequence[Outcomes], Sequence[Outcomes]]]) -> int:
        """How many evaluations the differences of these (a, b) take in all; `Hits` need none."""
        drawn = {id(run) for a, b in comparisons for run in (*a, *b) if not isinstance(run, Hits)}
        swapped = {
            (id(one), id(other))
            for a, b in comparisons
            for one, other in _pairs(a, b)
            if not isinstance(one, Hits)
        }
        return self.resamples * (len(drawn) + 2 * len(swapped))

    # ------------------------------------------------------------ the bootstrap

    def _resampled_means(self, steps: NDArray[np.int64], unit: int) -> Floats:
        """(N,) whole multiples of 1 / unit -> (R,) means of N of them drawn with replacement, in percent.

        All that counts is how often each of the few values is drawn: one multinomial draw in place of N.
        """
        lowest = int(steps.min())
        counts = np.bincount(steps - lowest)
        values = np.arange(lowest, lowest + len(counts))
        drawn = self._stream(_BOOTSTRAP).multinomial(len(steps), counts / len(steps), size=self.resamples)
        means: Floats = 100.0 * (drawn @ values) / (unit * len(steps))
        return means

    def _bootstrap(self, runs: Sequence[Outcomes], metric: str) -> Floats:
        """(R,): the mean over `runs` for samples drawn with replacement, the same ones for every run."""
        return _mean([self._bootstrap_of(run)[metric] for run in runs])

    def _bootstrap_of(self, run: Outcomes) -> Mapping[str, Floats]:
        if id(run) not in self._drawn:
            stream, size = self._stream(_BOOTSTRAP), run.size
            found = []
            for weights in self._rows(
                lambda: np.bincount(stream.integers(size, size=size), minlength=size).astype(float), 8 * size
            ):
                found.append(run.score(weights))
                self._tell(len(weights))
            self._drawn[id(run)] = (run, _joined(found))
        return self._drawn[id(run)][1]

    def _ends(self, draws: Floats, metric: str, center: float | None = None) -> tuple[float, float]:
        """Ends of the interval; the draws are moved so that their mean is `center`, if there is one."""
        kept = draws[np.isfinite(draws)]
        if len(kept) < _WANTED * len(draws):
            raise MaeBenchError(
                f"{metric} does not exist in {len(draws) - len(kept)} of {len(draws)} resamples, since few "
                "samples hold what it is measured on; it has no interval here"
            )
        if center is not None:
            kept = kept - (kept.mean() - center)
        low, high = np.quantile(kept, [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)

    # ------------------------------------------------------------ the randomisation test

    def _swaps(self, a: Sequence[Outcomes], b: Sequence[Outcomes], metric: str) -> Floats:
        """(R,): the difference after swapping, for each sample or not, what all of `a` and `b` made of it."""
        return _mean([self._swaps_of(one, other)[metric] for one, other in _pairs(a, b)])

    def _swaps_of(self, one: Outcomes, other: Outcomes) -> Mapping[str, Floats]:
        key = (id(one), id(other))
        if key not in self._swapped:
            stream, size = self._stream(_SWAPS), one.size
            pooled = one.beside(other)
            found = []
            for kept in self._rows(lambda: stream.integers(2, size=size).astype(float), 40 * size):
                first = pooled.score(np.concatenate([kept, 1 - kept], axis=1))
                second = pooled.score(np.concatenate([1 - kept, kept], axis=1))
                found.append({name: first[name] - second[name] for name in first})
                self._tell(2 * len(kept))
            self._swapped[key] = (one, other, _joined(found))
        return self._swapped[key][2]

    # ------------------------------------------------------------ drawing

    def _stream(self, which: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, which])

    def _rows(self, draw: Callable[[], Floats], bytes_a_row: int) -> Iterator[Floats]:
        """R rows of `draw`, as many at a time as memory and a word now and then allow."""
        most = max(1, _BYTES // bytes_a_row)
        done, count = 0, 1
        while done < self.resamples:
            count = min(count, most, self.resamples - done)
            began = time.monotonic()
            yield np.stack([draw() for _ in range(count)])
            done += count
            if time.monotonic() - began < _TELL_EVERY_S:
                count *= 2

    def _tell(self, evaluations: int) -> None:
        if self.progress is not None:
            self.progress(evaluations)


def interval(
    runs: Sequence[Outcomes],
    metric: str,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """See `Resampling.interval`."""
    how = Resampling(level=level, resamples=resamples, seed=seed, progress=progress)
    return how.interval(runs, metric)


def difference(
    a: Sequence[Outcomes],
    b: Sequence[Outcomes],
    metric: str,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Difference:
    """See `Resampling.difference`."""
    how = Resampling(level=level, resamples=resamples, seed=seed, progress=progress)
    return how.difference(a, b, metric)


# ---------------------------------------------------------------- runs together


def _check(runs: Sequence[Outcomes], metric: str) -> int:
    """The number of samples, which all runs must share."""
    if not runs:
        raise MaeBenchError("there are no outcomes to resample; give those of one run or more")
    if len({run.samples for run in runs}) > 1:
        sizes = ", ".join(str(run.size) for run in runs)
        raise MaeBenchError(
            f"the runs were not judged on the same samples ({sizes} of them), and only those that were can "
            "be paired; evaluate all on one set"
        )
    without = [run for run in runs if metric not in run.metrics]
    if without:
        raise MaeBenchError(
            f"the outcomes cannot give '{metric}', only {', '.join(without[0].metrics)}; choose one of these"
        )
    return runs[0].size


def _right(runs: Sequence[Outcomes], metric: str) -> NDArray[np.int64] | None:
    """(N,): how many runs have each sample right; None if the metric is no mean of right and wrong."""
    total = np.zeros(runs[0].size, dtype=np.int64)
    for run in runs:
        if not isinstance(run, Hits):
            return None
        total += run.of(metric)
    return total


def _pairs(a: Sequence[Outcomes], b: Sequence[Outcomes]) -> list[tuple[Outcomes, Outcomes]]:
    """A run of `a` with one of `b`, in a ring, so that each side's runs come equally often."""
    return [(a[i % len(a)], b[i % len(b)]) for i in range(math.lcm(len(a), len(b)))]


def _joined(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _mean(rows: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(rows, axis=0)
    return mean


def _drawn_p(value: float, draws: Floats) -> float:
    """The share of draws as far from zero as `value`, which is counted in (Phipson and Smyth 2010)."""
    kept = np.abs(draws[np.isfinite(draws)])
    # Sums in another order differ in their last digits.
    extreme = int(np.count_nonzero(kept >= abs(value) - 1e-9 * max(1.0, abs(value))))
    return (extreme + 1) / (len(kept) + 1)
