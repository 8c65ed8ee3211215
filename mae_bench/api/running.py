"""What computes: pretraining, tasks, looking at them again, and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench import recipe, registry, roots, screen
from mae_bench import seeds as several
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike, write_atomic
from mae_bench.resources import Kind
from mae_bench.run import Run, folder_for

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone
    from mae_bench.demo import DemoReport
    from mae_bench.results import Result
    from mae_bench.suite import SuiteReport


def pretrain(
    recipe_name: str,
    overrides: Sequence[str] = (),
    *,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    seed: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> Result:
    """Pretrain an MAE by a recipe of `configs/pretrain`, or go on with an interrupted run of it.

    Args:
        recipe_name: a recipe's name, or the path of a YAML file.
        overrides: ``key.path=value`` strings.
        name: folder below `runs_root`; default: a name made from the recipe and its values.
        force: start afresh; an earlier folder is kept aside under another name.

    Returns:
        What `result.json` holds; its ``folder`` can be given to `run` as backbone.

    Raises:
        MaeBenchError: bad recipe, data or value, with what to do about it.
    """
    opened = _prepare(recipe_name, "pretrain", overrides, None, seed, data_root, runs_root, name)
    return _carry_out(opened, force)


def run(
    task: str,
    backbone: str | None = None,
    overrides: Sequence[str] = (),
    *,
    engine: str | None = None,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    seed: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> Result:
    """Run one downstream task on a backbone, or go on with an interrupted run of it.

    Args:
        task: a recipe of `configs/tasks` (``imagenet-finetune``, ``demo/imagenet-knn``), or a YAML file.
        backbone: a source and what stands after it (docs/backbones.md): ``timm:NAME``, ``hf:REPO``,
            ``torchhub:REPO:ENTRY``, ``file:PATH?arch=NAME``, ``python:MODULE:FACTORY``, ``run:FOLDER`` (or
            the folder), ``random:ARCH``; or an alias.
        engine: what trains (docs/engines.md): ``torchvision``, ``mmdet`` or ``detectron2`` for detection,
            ``native`` or ``mmseg`` for segmentation; None: as the recipe says.

    Other arguments, result and errors as for `pretrain`.
    """
    opened = _prepare(task, "tasks", overrides, backbone, seed, data_root, runs_root, name, engine)
    if opened.adapter.needs_backbone and opened.config.backbone is None:
        raise MaeBenchError(f"{task} needs a backbone: --backbone {opened.adapter.takes}")
    return _carry_out(opened, force)


def pretrain_seeds(
    recipe_name: str,
    overrides: Sequence[str] = (),
    *,
    seeds: int,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    seed: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> list[Result]:
    """`pretrain` with several seeds one after the other; arguments, results and errors as for `run_seeds`."""
    first = _prepare(recipe_name, "pretrain", overrides, None, seed, data_root, runs_root, name)
    others = several.without_seed(overrides)

    def one(seed: int, name: str | None) -> Result:
        return pretrain(
            recipe_name, others, data_root=data_root, runs_root=runs_root, seed=seed, name=name, force=force
        )

    return several.one_after_the_other(first, seeds, name, one)


def run_seeds(
    task: str,
    backbone: str | None = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int,
    engine: str | None = None,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    seed: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> list[Result]:
    """`run` with several seeds one after the other: ordinary runs, each resumed or found finished as ever.

    Args:
        seeds: how many; they are counted on from `seed`.
        seed: the first; None: the recipe's.
        name: a folder below `runs_root` for the runs of all seeds, ``sSEED``; None: the folders that `run`
            would give them.

    Other arguments as for `run`.

    Returns:
        A result for each seed, in order. One alone, with a warning, for a task that draws nothing (kNN) on
        given weights, since the others would only repeat it.

    Raises:
        MaeBenchError: as for `run`; or `name` is the folder of one run. Seeds that are done stay done.
    """
    first = _prepare(task, "tasks", overrides, backbone, seed, data_root, runs_root, name, engine)
    others = several.without_seed(overrides)

    def one(seed: int, name: str | None) -> Result:
        return run(
            task,
            backbone,
            others,
            engine=engine,
            data_root=data_root,
            runs_root=runs_root,
            seed=seed,
            name=name,
            force=force,
        )

    return several.one_after_the_other(first, seeds, name, one)


def suite(
    listed: PathLike,
    backbones: Sequence[str] = (),
    *,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    dry_run: bool = False,
    keep_going: bool = True,
) -> SuiteReport:
    """Make the runs of a list one after the other: each resumed, found finished or made, as by itself.

    Args:
        listed: a name (``paper``, ``frozen``, ...), or the path of a YAML file (docs/suite.md).
        backbones: for the entries that name none; each of them makes a run of every such entry.
        seed: the first seed of entries that name none; None: the recipe's.
        seeds: how many, counted on from there; None: one.
        dry_run: plan only.
        keep_going: after a run that failed, go on with the others.

    Returns:
        What became of each run; its ``ok`` says whether none failed.

    Raises:
        MaeBenchError: before anything starts, one line for each entry that could not run.
    """
    from mae_bench.suite import suite as carry_out

    places = roots.find(data_root, runs_root)
    return carry_out(
        listed,
        backbones,
        places,
        data_root=data_root,
        seed=seed,
        seeds=seeds,
        dry_run=dry_run,
        keep_going=keep_going,
    )


def check(
    recipe_name: str | None = None,
    backbone: str | None = None,
    overrides: Sequence[str] = (),
    *,
    engine: str | None = None,
    report: PathLike | None = None,
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
) -> list[str]:
    """Validate a recipe, its data and its backbone without training; or, without a recipe, a backbone alone.

    Args:
        backbone: as for `run`; it is loaded, and without a recipe one image goes through it.
        engine: as for `run`.
        report: file to save the whole load report in, as JSON.

    Returns:
        One line for each thing in order.

    Raises:
        MaeBenchError: the first thing that would stop the run.
    """
    if recipe_name is None:
        if engine is not None:
            raise MaeBenchError(f"--engine {engine} trains a recipe, and none is named")
        return _check_backbone(backbone, overrides, report)
    if "=" in recipe_name and not Path(recipe_name).exists():
        raise MaeBenchError(f"'{recipe_name}' sets a value of a recipe: name the recipe before it")
    import tempfile

    opened = _prepare(recipe_name, None, overrides, backbone, None, data_root, runs_root, None, engine)
    if report is not None and opened.config.backbone is None and not opened.adapter.needs_backbone:
        raise MaeBenchError(f"{recipe_name} takes no backbone, so there is no load report to save")
    planned = opened.folder
    lines = [f"recipe {opened.config.recipe}: every value is valid"]
    with tempfile.TemporaryDirectory() as scratch:
        # Looking must leave nothing behind in the runs folder.
        opened.folder = Path(scratch)
        lines += opened.adapter.check(opened)
        if report is not None:
            lines.append(_copied(opened.folder / "load_report.json", report, recipe_name))
    lines.append(f"would run in {planned}")
    return lines


def visualize(
    folder: PathLike, images: Sequence[PathLike] = (), count: int = 8, data_root: PathLike | None = None
) -> list[str]:
    """Draw pictures of a run (reconstructions, for a pretraining run); returns the paths of the PNG files.

    Args:
        images: image files; none means `count` validation images, spread evenly.
    """
    opened = _reopen(folder, data_root)
    return opened.adapter.visualize(opened, [str(image) for image in images], count)


def judge(folder: PathLike, data_root: PathLike | None = None) -> dict[str, float]:
    """Judge a finished run again from the predictions in its folder, without its model; returns the metrics.

    Nothing is written: the run's `result.json` stays as it is.

    Raises:
        MaeBenchError: the folder holds no predictions, or they do not fit the annotations.
    """
    opened = _reopen(folder, data_root)
    return opened.adapter.judge(opened)


def demo(
    data_root: PathLike | None = None,
    runs_root: PathLike | None = None,
    format: str = "terminal",
    engines: bool = False,
) -> DemoReport:
    """All of the suite in miniature, on the generated world; see `mae_bench.demo`."""
    from mae_bench.demo import demo as carry_out

    places = roots.find(data_root, runs_root)
    return carry_out(places.data_root, places.runs, format, engines)


def load_backbone(spec: str, **options: Any) -> Backbone:
    """Load a backbone by its spec; see `mae_bench.backbones.load_backbone`."""
    from mae_bench.backbones import load_backbone as load

    return load(spec, **options)


def _check_backbone(spec: str | None, overrides: Sequence[str], report: PathLike | None) -> list[str]:
    if spec is None:
        raise MaeBenchError("say what to check: a recipe, --backbone SPEC, or both")
    if overrides:
        raise MaeBenchError(f"'{overrides[0]}' sets a value of a recipe, and none is named")
    spec = registry.normalise_backbone(spec)
    from mae_bench.backbones.inspection import inspect

    lines, found = inspect(spec)
    return [*lines, *([f"load report saved in {found.save(report)}"] if report is not None else [])]


def _copied(saved: Path, report: PathLike, recipe_name: str) -> str:
    """Keep the load report that a check left in its scratch folder."""
    if not saved.exists():
        raise MaeBenchError(f"checking {recipe_name} loads no backbone, so there is no load report to save")
    return f"load report saved in {write_atomic(report, saved.read_bytes())}"


def _reopen(folder: PathLike, data_root: PathLike | None) -> Run:
    """A run as it stands in its folder, to look at."""
    path = Path(folder)
    config_file = path / "config.yaml"
    if not config_file.exists():
        raise MaeBenchError(f"{path} is not a run folder (no config.yaml in it)")
    places = roots.find(data_root)
    resolved = recipe.resolve(str(config_file), [], {}, named=places.named)
    adapter = resolved.adapter_class(resolved.config)
    adapter.ready()
    return Run(adapter, path, data_root=places.data_root, runs_root=path.parent)


def _prepare(
    name_or_path: str,
    kind: Kind | None,
    overrides: Sequence[str],
    backbone: str | None,
    seed: int | None,
    data_root: PathLike | None,
    runs_root: PathLike | None,
    name: str | None,
    engine: str | None = None,
) -> Run:
    extra: dict[str, Any] = {}
    if backbone is not None:
        extra["backbone"] = backbone
    if seed is not None:
        extra["seed"] = seed
    places = roots.find(data_root, runs_root)
    resolved = recipe.resolve(
        name_or_path, list(overrides), extra, kind=kind, engine=engine, named=places.named
    )
    if resolved.config.backbone is not None and not resolved.adapter_class.needs_backbone:
        raise MaeBenchError(f"{resolved.config.recipe} takes no --backbone: it makes one")
    recipe.published(resolved.config)  # a protocol that is not there is told now, not when the result is due
    adapter = resolved.adapter_class(resolved.config)
    adapter.ready()
    folder = folder_for(resolved.config, places.runs, name)
    return Run(adapter, folder, data_root=places.data_root, runs_root=places.runs)


def _carry_out(opened: Run, force: bool) -> Result:
    several.not_above_others(opened.folder)
    finished = opened.open(force=force)
    try:
        if finished is not None:
            screen.say(f"already finished: {opened.folder} (--force runs it afresh)")
            return finished.model_copy(update={"folder": str(opened.folder)})
        screen.say(f"{opened.config.recipe}: {opened.folder}")
        metrics = opened.adapter.run(opened)
        result: Result = opened.finish(metrics)
        headlines = [name for name in opened.adapter.metrics if name in metrics][:3]
        shown = ", ".join(f"{name} {metrics[name]:.4g}" for name in headlines)
        screen.say(f"{opened.config.recipe}: {shown} ({screen.duration(result.wall_clock_s)})")
        return result.model_copy(update={"folder": str(opened.folder)})
    except MaeBenchError:
        opened.leave_no_litter()
        raise
    finally:
        opened.close()
