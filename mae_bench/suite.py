"""A suite: the runs of a list, one after the other in one process, each as if it had been started by itself.

First everything is planned, so that a mistake in the last entry is told before the first one starts; then
each run is resumed, found finished or made. One that fails is named, and the others go on. This module
imports no torch; the runs do.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mae_bench import api, recipe, registry, resources, screen, settings
from mae_bench.adapter import Adapter
from mae_bench.backbones import aliases
from mae_bench.errors import MaeBenchError
from mae_bench.results import RESULT_FILE, read_result
from mae_bench.roots import Roots
from mae_bench.run import folder_for
from mae_bench.runlist import Entry, Listed, read
from mae_bench.settings import TaskConfig
from mae_bench.stopping import InterruptedRunError
from mae_bench.tracing.data import absent

State = Literal["done", "found finished", "failed", "not tried"]


@dataclass(frozen=True, eq=False)
class Step:
    """One run of a suite.

    Attributes:
        backbone: as it was asked for; of a run that goes on from another, that of the other.
        seed: as ``--seed`` is to say it; None: the recipe's.
        parent: the run whose folder is the backbone.
        folder: where the run lives.
    """

    entry: Entry
    backbone: str | None
    seed: int | None
    parent: Step | None
    config: TaskConfig
    adapter: type[Adapter[Any]]
    folder: Path

    @property
    def title(self) -> str:
        """As a person is told of it: task, backbone, seed, overrides."""
        words = [self.entry.what]
        if self.parent is not None:
            words.append(f"after {self.parent.entry.what}")
        words += [self.backbone] if self.backbone is not None else []
        return ", ".join([*words, f"seed {self.config.seed}", *self.entry.overrides])

    @property
    def finished(self) -> bool:
        """Whether there is a result, and not one that the entry wants replaced."""
        return (self.folder / RESULT_FILE).is_file() and not self.replaced

    @property
    def replaced(self) -> bool:
        """Whether the result that is there is the one that the entry wants replaced."""
        if self.entry.replaces is None or not (self.folder / RESULT_FILE).is_file():
            return False
        return read_result(self.folder).finished == self.entry.replaces


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    step: Step
    state: State
    seconds: float = 0.0
    reason: str = ""
    """Of one that failed, or was not tried."""


@dataclass(frozen=True)
class SuiteReport:
    """What a suite did, or with ``--dry-run`` would do."""

    outcomes: list[Outcome] = field(default_factory=list)
    planned: list[Step] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(outcome.state in ("done", "found finished") for outcome in self.outcomes)

    def as_text(self) -> str:
        """A line for each run, and the counts."""
        if not self.outcomes:
            return plan_text(self.planned)
        rows = [
            (outcome.state, screen.duration(outcome.seconds) if outcome.seconds else "", outcome.step.title)
            for outcome in self.outcomes
        ]
        states, times = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = []
        for (state, seconds, title), outcome in zip(rows, self.outcomes, strict=True):
            lines.append(f"{state:<{states}}  {seconds:>{times}}  {title}")
            if outcome.reason:
                lines.append(f"{'':<{states}}  {'':>{times}}  {outcome.reason}")
        counts = {state: sum(row[0] == state for row in rows) for state, *_ in rows}
        return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in counts.items())])


def suite(
    listed: str | os.PathLike[str],
    backbones: Sequence[str],
    places: Roots,
    *,
    data_root: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    dry_run: bool = False,
    keep_going: bool = True,
) -> SuiteReport:
    """Plan a list of runs and carry it out; see `mae_bench.api.suite`.

    Args:
        data_root: as given by the user, to be handed on to the runs; None: not given.
    """
    steps = plan(read(listed), backbones, places, seed=seed, seeds=seeds)
    if dry_run:
        return SuiteReport(planned=steps)
    screen.say(plan_text(steps))
    outcomes: list[Outcome] = []
    for number, step in enumerate(steps, start=1):
        done = {outcome.step.folder: outcome for outcome in outcomes}
        before = done[step.parent.folder] if step.parent is not None else None
        stopped = not keep_going and any(outcome.state == "failed" for outcome in outcomes)
        if stopped:
            outcomes.append(Outcome(step, "not tried", reason="a run before it failed"))
        elif before is not None and before.state not in ("done", "found finished"):
            outcomes.append(Outcome(step, "not tried", reason=f"{before.step.entry.what} has no result"))
        else:
            screen.say(f"{number} of {len(steps)}: {step.title}")
            outcomes.append(_carried_out(step, places, data_root))
    return SuiteReport(outcomes, steps)


def plan_text(steps: Sequence[Step]) -> str:
    """The plan for a person: what is done already, what was begun, what is to do."""
    lines = [f"{_begun(step):<8}  {step.title}" for step in steps]
    left = sum(not step.finished for step in steps)
    return "\n".join([*lines, f"{len(steps)} runs, {left} to do"])


def _begun(step: Step) -> str:
    if step.replaced:
        return "again"
    if step.finished:
        return "done"
    return "begun" if step.folder.is_dir() else "to do"


# ---------------------------------------------------------------- planning


def plan(
    listed: Listed,
    backbones: Sequence[str],
    places: Roots,
    *,
    seed: int | None = None,
    seeds: int | None = None,
) -> list[Step]:
    """The runs of a list, each resolved and looked at as far as that goes without weights and images.

    Args:
        backbones: for the entries that name none.
        seed: for the entries that name none.
        seeds: how many, counted on from there.

    Raises:
        MaeBenchError: one line for each entry that could not run.
    """
    planner = _Planner(backbones, places, seed, seeds)
    faults: list[str] = []
    for i, (entry, origin) in enumerate(zip(listed.entries, listed.origins, strict=True)):
        try:
            planner.add(entry)
        except MaeBenchError as error:
            faults += [f"runs.{i} ({entry.what}): {line} ({origin})" for line in str(error).splitlines()]
    unused = [] if planner.used else list(backbones)
    if unused and not faults:
        faults.append(f"--backbone {unused[0]}: every run of the list names its own")
    if faults:
        raise MaeBenchError("\n".join(dict.fromkeys(faults)))
    return list(planner.steps.values())


class _Planner:
    """Turns entries into steps, in order."""

    def __init__(self, backbones: Sequence[str], places: Roots, seed: int | None, seeds: int | None) -> None:
        self.steps: dict[Path, Step] = {}
        self.used = False
        self._of: dict[str, list[Step]] = {}
        self._backbones, self._places = list(dict.fromkeys(backbones)), places
        self._seed, self._seeds = seed, seeds

    def add(self, entry: Entry) -> None:
        """The steps of one entry.

        Raises:
            MaeBenchError: one of them could not run.
        """
        mine = self._of.setdefault(entry.what, [])
        made = self._after(entry) if entry.after is not None else self._by_itself(entry)
        for step in made:
            there = self.steps.setdefault(step.folder, step)
            if settings.identity_values(there.config) != settings.identity_values(step.config):
                both = f"{there.title}; {step.title}"
                raise MaeBenchError(f"name: {step.folder} would hold several runs ({both}); leave name out")
            mine.append(there)

    def _after(self, entry: Entry) -> list[Step]:
        earlier = self._of.get(str(entry.after), [])
        parents = [
            step
            for step in earlier
            if entry.backbone in (None, step.backbone) and entry.seed in (None, step.config.seed)
        ]
        # Where there is none at all, the earlier entry is at fault itself, and named.
        if earlier and not parents:
            asked = [entry.backbone or "", "" if entry.seed is None else f"seed {entry.seed}"]
            said = ", ".join(filter(None, asked))
            raise MaeBenchError(f"after: no run of {entry.after} before it is with {said}")
        return [
            self._step(entry, parent.backbone, parent.config.seed, parent)
            for parent in dict.fromkeys(parents)
        ]

    def _by_itself(self, entry: Entry) -> list[Step]:
        needs = entry.task is not None and entry.backbone is None and self._needs_backbone(entry)
        if needs and not self._backbones:
            raise MaeBenchError("it needs a backbone: give --backbone SPEC, or backbone in the list")
        self.used = self.used or needs
        backbones: list[str | None] = [*self._backbones] if needs else [entry.backbone]
        made = []
        for backbone in backbones:
            first = self._step(entry, backbone, entry.seed if entry.seed is not None else self._seed, None)
            made.append(first)
            drawn = first.adapter.seeded or (first.config.backbone or "").startswith("random:")
            several = self._seeds if self._seeds is not None and entry.seed is None and drawn else 1
            start = first.config.seed
            made += [self._step(entry, backbone, seed, None) for seed in range(start + 1, start + several)]
        return made

    def _needs_backbone(self, entry: Entry) -> bool:
        resolved = recipe.resolve(entry.what, entry.overrides, kind="tasks", engine=entry.engine)
        return resolved.adapter_class.needs_backbone and resolved.config.backbone is None

    def _step(self, entry: Entry, backbone: str | None, seed: int | None, parent: Step | None) -> Step:
        """One run, resolved as `run` and `pretrain` do it, and looked at.

        Raises:
            MaeBenchError: it could not run.
        """
        spec = f"run:{parent.folder}" if parent is not None else backbone
        extra = {key: value for key, value in (("backbone", spec), ("seed", seed)) if value is not None}
        kind: resources.Kind = "tasks" if entry.task is not None else "pretrain"
        resolved = recipe.resolve(
            entry.what, entry.overrides, extra, kind=kind, engine=entry.engine, named=self._places.named
        )
        config, adapter = resolved.config, resolved.adapter_class
        if adapter.needs_backbone and config.backbone is None:
            raise MaeBenchError(f"it needs a backbone: {adapter.takes}")
        if config.backbone is not None and not adapter.needs_backbone:
            raise MaeBenchError("it takes no backbone")
        recipe.published(config)
        adapter(config).ready()
        folder = folder_for(config, self._places.runs, entry.name)
        step = Step(entry, backbone, seed, parent, config, adapter, folder)
        if not step.finished:
            self._look(step)
        return step

    def _look(self, step: Step) -> None:
        """What a run that is still to be made needs, as far as names of files tell."""
        missing = absent(step.config, self._places.data_root)
        if missing:
            hint = f"`mae-bench data where {step.entry.what}` tells how to obtain it"
            raise MaeBenchError(f"there is no data in {missing[0]}; {hint}")
        spec = step.config.backbone
        if spec is None or step.parent is not None:
            return
        if step.adapter.takes == "random:ARCH" and not spec.startswith("random:"):
            raise MaeBenchError(f"it trains from scratch and takes random:ARCH, not {spec}")
        spec = aliases.resolve(spec) or spec
        source, _, rest = spec.partition(":")
        path = Path(rest.rpartition("?")[0] or rest).expanduser()
        if source in ("run", "file") and not path.exists():
            raise MaeBenchError(f"backbone {spec}: there is no {path}")
        if source not in registry.backbone_sources().entries:
            raise MaeBenchError(f"backbone {spec}: there is no such source")


# ---------------------------------------------------------------- carrying out


def _carried_out(step: Step, places: Roots, data_root: str | os.PathLike[str] | None) -> Outcome:
    """Make one run; its failure becomes its outcome, being asked to stop does not."""
    began = time.monotonic()
    found = step.finished
    how: dict[str, Any] = {"data_root": data_root, "runs_root": places.runs, "seed": step.seed}
    how |= {"name": step.entry.name, "force": step.replaced}
    try:
        if step.entry.recipe is not None:
            api.pretrain(step.entry.recipe, step.entry.overrides, **how)
        else:
            spec = f"run:{step.parent.folder}" if step.parent is not None else step.backbone
            api.run(step.entry.what, spec, step.entry.overrides, engine=step.entry.engine, **how)
    except InterruptedRunError:
        raise
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise  # the other processes may wait in the middle of this run, and cannot be led on to the next
        if not isinstance(error, MaeBenchError):
            traceback.print_exc()
        reason = " ".join(str(error).splitlines()) or type(error).__name__
        screen.warn(f"{step.title} failed: {reason}")
        return Outcome(step, "failed", time.monotonic() - began, reason)
    return Outcome(step, "found finished" if found else "done", time.monotonic() - began)
