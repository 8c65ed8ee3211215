"""Whether the engines end at the same numbers: trainings by each with several seeds, and the seeds' spread.

    python benchmarks/engine_agreement.py --backbone run:runs/demo/mae [--task demo/coco] [--steps 200]
                                          [--seeds 3] [--data-root data] [--runs runs] [KEY.PATH=VALUE ...]

Every engine that is installed here trains a recipe of the demo from the same backbone, by its own pipeline
and loop, once for each seed; all are judged by the one judge. Printed are the mean and the standard deviation
over seeds, and how far each engine's mean lies from the recipe's own engine, in units of the two seed spreads
together. Runs that are there already are taken as they are.
"""

from __future__ import annotations

import argparse
import math
import statistics

from engines import installed

import mae_bench
from mae_bench import recipe


def lengths(task: str, steps: int) -> list[str]:
    """The recipe's schedule at another number of steps."""
    config = recipe.resolve(task).config.model_dump(mode="json")
    share = steps / config["train"]["steps"]
    milestones = [max(1, round(at * share)) for at in config["optim"]["milestones"]]
    return [f"train.steps={steps}", *([f"optim.milestones={milestones}"] if milestones else [])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--task", action="append", help="default: demo/coco and demo/ade20k")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    for task in args.task or ["demo/coco", "demo/ade20k"]:
        found: dict[str, dict[str, list[float]]] = {}
        for engine in installed(task):
            values = found.setdefault(engine, {})
            for seed in range(args.seeds):
                result = mae_bench.run(
                    task,
                    args.backbone,
                    [*lengths(task, args.steps), *args.overrides],
                    engine=engine,
                    seed=seed,
                    data_root=args.data_root,
                    runs_root=args.runs,
                )
                for metric in list(result.units)[:2]:
                    values.setdefault(metric, []).append(result.metrics[metric])
        own = next(iter(found.values()))
        for engine, values in found.items():
            for metric, numbers in values.items():
                mean, spread = statistics.mean(numbers), statistics.stdev(numbers)
                apart = mean - statistics.mean(own[metric])
                both = math.hypot(spread, statistics.stdev(own[metric]))
                shown = ", ".join(f"{number:.1f}" for number in numbers)
                print(
                    f"{task} {engine} {metric}: {mean:.1f} +- {spread:.1f} ({shown}); {apart:+.1f} from the "
                    f"recipe's own engine, {abs(apart) / both if both else 0.0:.1f} seed spreads",
                    flush=True,
                )


if __name__ == "__main__":
    main()
