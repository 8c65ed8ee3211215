"""Several seeds with one command: ordinary runs one after the other, each in a folder of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mae_bench import screen
from mae_bench.errors import MaeBenchError
from mae_bench.results import CONFIG_FILE, RESULT_FILE, Result

if TYPE_CHECKING:
    from mae_bench.run import Run

# Metrics in the closing line.
_SHOWN = 3


def without_seed(overrides: Sequence[str]) -> list[str]:
    """The overrides but that of the seed, which every run of several gets anew."""
    return [text for text in overrides if text.partition("=")[0] != "seed"]


def one_after_the_other(
    first: Run, count: int, name: str | None, one: Callable[[int, str | None], Result]
) -> list[Result]:
    """Call `one` with each seed, from that of `first` on, and the name of its folder; close with the spread.

    Args:
        first: the run of the first seed, not opened yet; with `name` its folder holds those of all seeds.
        name: as given with ``--name``; the runs are ``NAME/sSEED``. None: `one` gets none.

    Returns:
        A result for each seed, in order; one alone where nothing depends on the seed.

    Raises:
        MaeBenchError: no seed at all, or the folder of all seeds is that of one run.
    """
    if count < 1:
        raise MaeBenchError(f"seeds: at least one is needed, not {count}")
    if name is not None and _is_run(first.folder):
        raise MaeBenchError(
            f"{first.folder} is the folder of one run, and those of several seeds would be hidden in it; "
            "choose another --name"
        )
    start = first.config.seed
    if count > 1 and not _depends_on_seed(first):
        screen.warn(
            f"{first.config.recipe} draws nothing and the weights are given, so that every seed has the same "
            f"result: it is run once, with seed {start}"
        )
        count = 1
    results = []
    for seed in range(start, start + count):
        if count > 1:
            screen.say(f"seed {seed}, {seed - start + 1} of {count}")
        results.append(one(seed, None if name is None else f"{name}/s{seed}"))
    if count > 1:
        screen.say(spread(results, [name for name in first.adapter.metrics if name in results[0].metrics]))
    return results


def _depends_on_seed(run: Run) -> bool:
    return run.adapter.seeded or (run.config.backbone or "").startswith("random:")


def spread(results: Sequence[Result], metrics: Sequence[str]) -> str:
    """Mean and sample standard deviation of the first of `metrics`: ``RECIPE: top1 83.57 ± 0.08 (...)``."""
    said = []
    for metric in metrics[:_SHOWN]:
        values = [result.metrics[metric] for result in results]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        unit = results[0].units[metric].unit if metric in results[0].units else ""
        numbers = f"{mean:.2f} ± {deviation:.2f}" if unit == "%" else f"{mean:.4g} ± {deviation:.2g}"
        said.append(f"{metric} {numbers}")
    seeds = ", ".join(str(result.seed) for result in results)
    return (
        f"{results[0].recipe}: {', '.join(said)} "
        f"(mean ± standard deviation over {len(results)} seeds: {seeds})"
    )


def not_above_others(folder: Path) -> None:
    """Refuse to make a run of a folder that holds the runs of several seeds, which it would hide from tables.

    Raises:
        MaeBenchError: there are such runs.
    """
    if _is_run(folder) or not folder.is_dir():
        return
    inside = sorted(entry.name for entry in folder.glob("s[0-9]*") if _is_run(entry))
    if inside:
        raise MaeBenchError(
            f"{folder} holds the runs of several seeds ({', '.join(inside[:3])}), which a run there would "
            "hide; choose another --name, or go on with --seeds"
        )


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists() or (folder / RESULT_FILE).exists()
