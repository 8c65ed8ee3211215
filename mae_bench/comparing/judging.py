"""Every pair of sides by every metric: difference, interval, tests, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from mae_bench import outcomes, screen
from mae_bench.comparing.sides import Side, find_runs, into_sides
from mae_bench.errors import MaeBenchError, near
from mae_bench.outcomes import Outcomes
from mae_bench.resampling import Difference, Resampling
from mae_bench.results import IMPORTED_KEY, MetricRecord, StoredRun
from mae_bench.significance import SeedTest, holm, welch

# A true difference of so many standard errors is found with a power of 80 %, at the level that is asked for.
_POWER = 0.8
# What rounding may leave of a standard error that is zero.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Comparison:
    """One pair of sides by one metric."""

    a: Side
    b: Side
    metric: str
    record: MetricRecord
    values: tuple[float, float]
    """The metric of each side, the mean over its seeds."""
    difference: Difference
    """`a` less `b`, with the sampling error."""
    p: float
    """Of `difference`, corrected for all comparisons."""
    detectable: float
    """A true difference that these samples would show in four cases of five."""
    seeds: SeedTest | None
    """The seed spread, where each side has two seeds or more that differ."""
    seeds_p: float | None
    """Of `seeds`, corrected for all comparisons that have it."""
    level: float
    strict: float
    """What p of this comparison alone must not exceed if it were the smallest of all: the level over their
    number."""

    @property
    def too_few(self) -> bool:
        """Whether the sides differ on so few images that not even the clearest p could be small enough.

        Where that cannot be said of one image: whether no resample gives another difference.
        """
        if self.difference.differing is None:
            return self.difference.error < _ROUNDING
        return 0.5**self.difference.differing > self.strict

    @property
    def shown(self) -> bool:
        """Whether the trained models differ on samples like these."""
        return self.p <= 1 - self.level

    @property
    def shown_over_seeds(self) -> bool | None:
        """Whether other seeds of training would differ so too; None: the seed spread is unknown."""
        return None if self.seeds_p is None else self.seeds_p <= 1 - self.level

    @property
    def a_is_better(self) -> bool:
        return (self.difference.value > 0) == self.record.higher_is_better


@dataclass(frozen=True)
class Report:
    """All comparisons that were asked for."""

    task: str
    sides: tuple[Side, ...]
    metrics: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    level: float
    resamples: int
    seed: int


def compare(
    named: Sequence[str | os.PathLike[str]],
    runs_root: Path,
    *,
    metrics: Sequence[str] = (),
    baseline: str | os.PathLike[str] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Compare finished runs on the samples that all of them were judged on.

    Args:
        named: run folders, or folders with several runs, as they are or below `runs_root`.
        metrics: names as in `result.json`; none: the headline metric.
        baseline: the run that all others are compared with, named or not in `named`; None: all pairs.

    Raises:
        MaeBenchError: what is named is not there, not finished, or cannot be compared; it says why.
    """
    how = Resampling(level=level, resamples=resamples, seed=seed)
    if not named:
        raise MaeBenchError("name the folders of two runs or more to compare")
    runs = find_runs(named, runs_root)
    against = find_runs([baseline], runs_root) if baseline is not None else []
    there = {run.folder.resolve() for run in runs}
    sides = into_sides([*runs, *(run for run in against if run.folder.resolve() not in there)])
    reference = _baseline(sides, against)
    _one_task(sides)
    chosen = list(dict.fromkeys(metrics)) or [sides[0].result.headline]
    saved = {run.folder: _saved(run, chosen) for side in sides for run in side.runs}
    judged = {
        metric: [[_that_gives(metric, run, saved[run.folder]) for run in side.runs] for side in sides]
        for metric in chosen
    }
    for metric in chosen:
        _same_samples(sides, judged[metric], metric)
    pairs = list(_pairs(sides, reference))
    asked = [(judged[metric][i], judged[metric][j]) for metric in chosen for i, j in pairs]
    found = []
    evaluations = how.evaluations(asked)
    with screen.progress("resampling", evaluations, "evaluations") if evaluations else nullcontext() as work:
        how.progress = work.advance if work is not None else None
        for metric in chosen:
            for i, j in pairs:
                difference = how.difference(judged[metric][i], judged[metric][j], metric)
                found.append(_comparison(sides[i], sides[j], metric, difference, len(asked), level))
    return Report(
        sides[0].result.task, tuple(sides), tuple(chosen), tuple(_corrected(found)), level, resamples, seed
    )


def _pairs(sides: Sequence[Side], baseline: int | None) -> Iterator[tuple[int, int]]:
    """Each with each, or each with the baseline, which comes second."""
    if baseline is None:
        return combinations(range(len(sides)), 2)
    return ((at, baseline) for at in range(len(sides)) if at != baseline)


def _comparison(
    a: Side, b: Side, metric: str, difference: Difference, count: int, level: float
) -> Comparison:
    from scipy.special import ndtri

    strict = (1 - level) / count
    return Comparison(
        a,
        b,
        metric,
        a.result.units.get(metric) or MetricRecord(unit="", higher_is_better=True, label=metric),
        (_mean(a.values(metric)), _mean(b.values(metric))),
        difference,
        difference.p,
        float(ndtri(1 - strict / 2) + ndtri(_POWER)) * difference.error,
        test := welch(a.values(metric), b.values(metric), level),
        None if test is None else test.p,
        level,
        strict,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _corrected(comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """With p corrected: those of samples among themselves, and those of seeds among themselves."""
    of_samples = holm([comparison.difference.p for comparison in comparisons])
    tests = [comparison.seeds.p for comparison in comparisons if comparison.seeds is not None]
    of_seeds = iter(holm(tests))
    for comparison, p in zip(comparisons, of_samples, strict=True):
        yield replace(comparison, p=p, seeds_p=None if comparison.seeds is None else next(of_seeds))


# ---------------------------------------------------------------- what can be compared


def _baseline(sides: Sequence[Side], against: Sequence[StoredRun]) -> int | None:
    if len(sides) < 2:
        again = ", ".join(run.name for run in sides[0].superseded)
        raise MaeBenchError(
            f"there is nothing to compare: all that is named is {sides[0].label} with {len(sides[0].runs)} "
            f"{'seed' if len(sides[0].runs) == 1 else 'seeds'}"
            + (f" (of a seed that was run again the latest counts, and not {again})" if again else "")
            + "; name runs of another backbone or recipe too"
        )
    places = {run.folder.resolve() for run in against}
    found = [
        at
        for at, side in enumerate(sides)
        if places & {run.folder.resolve() for run in (*side.runs, *side.superseded)}
    ]
    if len(found) > 1:
        raise MaeBenchError(
            f"the baseline holds {len(found)} sides ({', '.join(sides[at].label for at in found)}); name one"
        )
    return found[0] if found else None


def _one_task(sides: Sequence[Side]) -> None:
    first = sides[0]
    for side in sides[1:]:
        if side.result.task != first.result.task:
            raise MaeBenchError(
                f"{first.runs[0].name} is of the task {first.result.task} and {side.runs[0].name} of "
                f"{side.result.task}; only runs of one task can be compared"
            )


def _saved(run: StoredRun, metrics: Sequence[str]) -> Mapping[str, Outcomes]:
    """What a run kept of its samples, by set."""
    result = run.result
    if any(entry.key == IMPORTED_KEY for entry in result.deviations):
        raise MaeBenchError(
            f"{run.name} was imported, with numbers and without what came of each image; only runs of "
            "mae-bench can be compared"
        )
    for metric in metrics:
        if metric not in result.metrics:
            raise MaeBenchError(
                f"{run.name} has no metric '{metric}'{near(metric, result.metrics)} (it has "
                f"{', '.join(result.metrics)})"
            )
    saved = outcomes.of_run(run.folder, str(result.config.get("task")))
    if not saved:
        raise MaeBenchError(
            f"{run.name} has no {outcomes.FILE}, in which a run keeps what came of each image (tasks that "
            "judge no images have none, nor do runs from before it was kept); run it again with --force"
        )
    return saved


def _that_gives(metric: str, run: StoredRun, saved: Mapping[str, Outcomes]) -> Outcomes:
    for one in saved.values():
        if metric in one.metrics:
            outcomes.check_of_one_run(run.name, run.result.metrics, metric, one)
            return one
    known = ", ".join(name for one in saved.values() for name in one.metrics)
    raise MaeBenchError(f"what {run.name} kept of each image does not give '{metric}', only {known}")


def _same_samples(sides: Sequence[Side], judged: Sequence[Sequence[Outcomes]], metric: str) -> None:
    every: list[tuple[StoredRun, Outcomes]] = [
        (run, one)
        for side, found in zip(sides, judged, strict=True)
        for run, one in zip(side.runs, found, strict=True)
    ]
    first, reference = every[0]
    for run, one in every[1:]:
        if one.samples != reference.samples:
            raise MaeBenchError(
                f"{first.name} and {run.name} were not judged on the same images by {metric}: "
                f"{_judged_on(first, reference)} and {_judged_on(run, one)}; `dataset` in each result.json "
                "says what its data was, and `mae-bench data fingerprint TASK` what the data here is"
            )


def _judged_on(run: StoredRun, found: Outcomes) -> str:
    data = run.result.dataset
    of = f" of {data.name}, data {data.fingerprint[:8]}" if data else ""
    return f"{found.size} images{of}, samples {found.samples[:8]}"
