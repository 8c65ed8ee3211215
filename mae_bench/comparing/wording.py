"""What a comparison says, in plain words, and what it does not say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mae_bench import departures
from mae_bench.comparing.judging import Comparison, Report
from mae_bench.comparing.sides import Side, settings_apart
from mae_bench.results import Result

_MINUS = "\N{MINUS SIGN}"
# Settings of one side that a remark names.
_FEW = 8
_SHORT = 8


def verdict(comparison: Comparison, count: int) -> str:
    """One pair: who is better by how much, and how sure that is; or what could not have been seen.

    Args:
        count: comparisons that p is corrected for.
    """
    return _of_samples(comparison, count) + _of_seeds(comparison)


def remarks(report: Report) -> Iterator[str]:
    """What holds for the whole table: what is meant, what is not known, what is not alike."""
    yield (
        f"Intervals of {percent(report.level)} and p are about the sampling error: these trained models, on "
        f"other images of the same kind. p by {_methods(report)}; intervals by {report.resamples} resamples "
        f"of the images (seed {report.seed}), each for its own comparison."
    )
    count = len(report.comparisons)
    if count > 1:
        yield f"p corrected: by Holm's method over all {count} comparisons of this table."
    yield from _seed_remarks(report)
    yield from _fairness(report.sides)
    left_out = [run.name for side in report.sides for run in side.superseded]
    if left_out:
        yield f"Where a seed was run again the latest run counts; not counted: {', '.join(left_out)}."


# ---------------------------------------------------------------- sentences


def _of_samples(comparison: Comparison, count: int) -> str:
    found, digits = comparison.difference, decimals(comparison)
    name = f" in {label(comparison)}"
    sure = p_words(comparison.p) + (f" after correction for {count} comparisons" if count > 1 else "")
    images = f"these {found.n:,} images"
    if comparison.shown:
        better, worse = comparison.a, comparison.b
        if not comparison.a_is_better:
            better, worse = worse, better
        low, high = _toward(comparison, found.low, found.high)
        return (
            f"{better.label} is better than {worse.label}{name} by {points(found.value, comparison)} "
            f"({percent(comparison.level)} interval {signed(low, digits)} to {signed(high, digits)}) on "
            f"{images}; {sure}."
        )
    text = (
        f"No difference shown between {comparison.a.label} and {comparison.b.label}{name}: "
        f"{signed(found.value, digits, plus=True)}{unit_after(comparison)} ({percent(comparison.level)} "
        f"interval {signed(found.low, digits)} to {signed(found.high, digits)}) on {images}; {sure}"
    )
    if found.differing == 0:
        return f"{text}; no image tells them apart."
    if comparison.too_few and found.differing is None:
        return f"{text}; no resample of the images gives another difference, so that its error is unknown."
    if comparison.too_few:
        few = "1 image" if found.differing == 1 else f"{found.differing} images"
        return f"{text}; they differ on {few} alone, too few for any test."
    return f"{text}; these images can tell apart about {points(comparison.detectable, comparison)}."


def _toward(comparison: Comparison, low: float, high: float) -> tuple[float, float]:
    """The ends of an interval as of a difference above zero, where one is shown: ``better by 1 to 2``."""
    return (-high, -low) if comparison.shown and comparison.difference.value < 0 else (low, high)


def _of_seeds(comparison: Comparison) -> str:
    seeds = comparison.seeds
    if seeds is None or comparison.seeds_p is None:
        return ""
    digits = decimals(comparison)
    low, high = _toward(comparison, seeds.low, seeds.high)
    spread = (
        f"{len(comparison.a.runs)} and {len(comparison.b.runs)} seeds, {percent(comparison.level)} interval "
        f"{signed(low, digits)} to {signed(high, digits)}, {p_words(comparison.seeds_p)}"
    )
    if comparison.shown and comparison.shown_over_seeds:
        return f" It holds over seeds of training too ({spread})."
    if comparison.shown:
        return (
            " That is so of these trained models; the seed spread is too large to say it of the training, "
            f"and other seeds may turn it ({spread})."
        )
    if comparison.shown_over_seeds:
        return f" Over seeds of training one is shown, on just these images ({spread})."
    return f" Nor is one over seeds of training ({spread})."


def _seed_remarks(report: Report) -> Iterator[str]:
    alone = [side for side in report.sides if len(side.runs) == 1]
    if alone:
        whose = "Every side is" if len(alone) == len(report.sides) else f"{_listed(alone)}: each is"
        yield (
            f"{whose} one run, so that the seed spread is unknown: the tests speak of these trained models "
            "alone, on images like these, and not of what another seed of training would give."
        )
    if any(comparison.seeds is not None for comparison in report.comparisons):
        yield (
            "Over seeds: Welch's t test and its interval for the means over seeds, on just these images. The "
            "seed spread is another matter than the sampling error, and neither stands for the other; the "
            "seeds are those of the task, not of the pretraining behind the weights."
        )
    same = [
        side
        for side in report.sides
        if len(side.runs) > 1 and all(len(set(side.values(metric))) == 1 for metric in report.metrics)
    ]
    if same:
        yield f"{_listed(same)}: every seed gives the same number, so that there is no seed spread."


def _fairness(sides: Sequence[Side]) -> Iterator[str]:
    by_recipe: dict[str, list[Side]] = {}
    by_data: dict[str, list[Side]] = {}
    for side in sides:
        by_recipe.setdefault(side.result.recipe_hash, []).append(side)
        by_data.setdefault(side.result.dataset.fingerprint if side.result.dataset else "", []).append(side)
    if len(by_recipe) > 1:
        groups = list(by_recipe.values())
        words = settings_apart([group[0] for group in groups])
        said = [
            f"{_cut(few) or group[0].result.recipe}: {_listed(group)}"
            for group, few in zip(groups, words, strict=True)
        ]
        yield (
            f"The recipes differ ({'; '.join(said)}); a comparison of backbones is fair only where the "
            "recipes agree."
        )
    if len(by_data) > 1:
        said = [f"{_data(group[0].result)}: {_listed(group)}" for group in by_data.values()]
        yield f"The data differs, though the images judged do not ({'; '.join(said)})."


def _cut(words: Sequence[str]) -> str:
    return ", ".join(words[:_FEW]) + (" and more" if len(words) > _FEW else "")


def _data(result: Result) -> str:
    if result.dataset is None:
        return "no data recorded"
    images = result.dataset.train_images
    count = "an unknown number of" if images is None else f"{images:,}"
    return (
        f"{count} training images of {departures.dataset(result.dataset.name)}, fingerprint "
        f"{result.dataset.fingerprint[:_SHORT]}"
    )


def _listed(sides: Sequence[Side]) -> str:
    return ", ".join(f"'{side.label}'" for side in sides)


def _methods(report: Report) -> str:
    return " and ".join(dict.fromkeys(one.difference.method for one in report.comparisons))


# ---------------------------------------------------------------- numbers


def label(comparison: Comparison) -> str:
    """What the metric is called."""
    return comparison.record.label or comparison.metric


def decimals(comparison: Comparison) -> int:
    """Digits behind the point, so that the sampling error has one or two that count."""
    error = comparison.difference.error
    return 1 if error <= 0 else max(1, min(6, math.ceil(-math.log10(error))))


def signed(value: float, digits: int, *, plus: bool = False) -> str:
    """A number with a true minus sign; zero has no sign."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (_MINUS if value < 0 else "+" if plus else "") + text


def points(value: float, comparison: Comparison) -> str:
    """``1.2 points``; at least one of the last digit, where it is not zero."""
    digits = decimals(comparison)
    shown = max(abs(value), 10**-digits) if value else 0.0
    return f"{shown:.{digits}f}{unit_after(comparison)}"


def unit_after(comparison: Comparison) -> str:
    """`` points`` for per cent, of which a difference is not per cent."""
    unit = comparison.record.unit
    return " points" if unit == "%" else f" {unit}" if unit else ""


def percent(level: float) -> str:
    """``95 %``."""
    return f"{100 * level:g} %"


def p_words(p: float) -> str:
    """``p = 0.012``, ``p < 0.0001``."""
    number = p_number(p)
    return f"p {number}" if number.startswith("<") else f"p = {number}"


def p_number(p: float) -> str:
    """Two digits that count, down to ``< 0.0001``."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.{2 if p >= 0.095 else 3 if p >= 0.01 else 4}f}"
