"""The audit of tables: what every cell of ours stands on, what changed since, and what is missing.

This module imports no torch; listing data does.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mae_bench import recipe, resources, screen, settings, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import FILE as OUTCOMES
from mae_bench.results import CONFIG_FILE, IMPORTED_KEY, NOT_RECORDED, StoredRun, scan
from mae_bench.roots import Roots
from mae_bench.run import folder_for
from mae_bench.runlist import Entry
from mae_bench.tables.layouts import Layout, list_tables, load_layout
from mae_bench.tables.rows import OurRow, lookup, our_rows
from mae_bench.tracing import provenance, recipes, weights
from mae_bench.tracing.candidates import made_up, record
from mae_bench.tracing.configurations import adapter_of, settings_of
from mae_bench.tracing.data import Fingerprints
from mae_bench.tracing.findings import Audit, CellAudit, Finding, RunAudit, TableAudit
from mae_bench.tracing.gaps import GapFinder, seed_hints

# Characters of a digest that are shown.
_SHORT = 12
_LIBRARIES = ("torch", "torchvision", "timm", "numpy")


def audit(tables: Sequence[str], places: Roots, option: str | None = None) -> Audit:
    """Audit tables with all runs below the runs folder.

    Args:
        tables: names, or paths of layouts; none: all tables that come with mae-bench.
        option: what ``--runs`` must say in the commands that are named; None: nothing.

    Raises:
        MaeBenchError: no such table, or a faulty layout.
    """
    layouts = [load_layout(name) for name in tables or list_tables()]
    recipes.today.cache_clear()
    tree = scan(places.runs)
    unfinished = list(_unfinished(places.runs, tree.unfinished))
    auditor = _Auditor(places, tree.runs)
    found = []
    for layout in layouts:
        rows = our_rows(layout, tree.runs).rows if layout.ours else []
        cells = [
            CellAudit(
                row.label,
                column,
                tuple(run.name for run in group.runs),
                tuple(run.name for run in group.superseded),
            )
            for row in rows
            for column, group in row.groups.items()
        ]
        for run in _each(rows):
            auditor.look_at(run)
        found.append(
            TableAudit(
                layout.id,
                layout.title,
                tuple(cells),
                tuple(GapFinder(layout, rows, tree.runs, option).gaps()),
                tuple(seed_hints(rows)),
                tuple(_resuming(layout, unfinished, places.runs)),
            )
        )
    redo = [entry for audited in auditor.seen.values() for entry in auditor.redo(audited)]
    code = {provenance.VERSION: metadata.version("mae-bench"), **provenance.code()}
    return Audit(os.fspath(places.runs), tuple(found), auditor.seen, tuple(redo), tuple(tree.problems), code)


def _each(rows: Iterable[OurRow]) -> Iterator[StoredRun]:
    runs = {run.name: run for row in rows for group in row.groups.values() for run in group.runs}
    return iter(runs.values())


class _Auditor:
    """Looks at runs, each once, and at the classifiers that they evaluate."""

    def __init__(self, places: Roots, runs: Sequence[StoredRun]) -> None:
        self.seen: dict[str, RunAudit] = {}
        self._places = places
        self._fingerprints = Fingerprints(places)
        self._runs = {run.name: run for run in runs}
        self._by_folder = {run.folder.resolve(): run for run in runs}
        self._asked_for: dict[str, tuple[str, ...]] = {}

    def look_at(self, run: StoredRun) -> RunAudit:
        """Audit a run."""
        if run.name in self.seen:
            return self.seen[run.name]
        result = run.result
        findings: list[Finding] = []
        unchecked: list[str] = []
        if any(entry.key == IMPORTED_KEY for entry in result.deviations):
            unchecked.append("recipe, weights and data: the run was imported from elsewhere")
        else:
            of_recipe = recipes.state(result)
            self._asked_for[run.name] = of_recipe.asked_for
            of_weights = weights.state(result, run.folder, self._places.runs)
            of_data = self._fingerprints.state(result)
            findings += [*of_recipe.findings, *of_weights.findings, *of_data[0]]
            unchecked += [*of_recipe.unchecked, *of_weights.unchecked, *of_data[1]]
            findings += self._of_those_before(run)
        findings += _code(result.versions)
        if not (run.folder / OUTCOMES).is_file():
            said = f"no {OUTCOMES}: its number has no interval and is not compared sample by sample"
            findings.append(Finding("outcomes", said))
        ordered = sorted(findings, key=lambda finding: not finding.stale)
        found = RunAudit(run.name, _stands_on(run), tuple(ordered), tuple(unchecked))
        self.seen[run.name] = found
        return found

    def _of_those_before(self, run: StoredRun) -> Iterator[Finding]:
        """What became of the run that left the weights: a stale classifier makes its evaluation stale too."""
        classifier = self._before(run, "details.classifier.run")
        if classifier is not None and self.look_at(classifier).stale:
            yield Finding("weights", f"the classifier's run is stale itself: {classifier.name}", True)
        backbone = run.result.backbone
        if classifier is None and backbone is not None and backbone.spec.startswith("run:"):
            pretraining = self._at(Path(backbone.spec.removeprefix("run:").partition("?")[0]))
            for finding in recipes.state(pretraining.result).findings if pretraining is not None else ():
                yield Finding("recipe", f"of the pretraining: {finding.text}")

    def _before(self, run: StoredRun, path: str) -> StoredRun | None:
        named = lookup(run.result, path)
        return self._at(Path(str(named))) if named is not None else None

    def _at(self, path: Path) -> StoredRun | None:
        folder = weights.here(path, self._places.runs)
        return self._by_folder.get(folder.resolve()) if folder is not None else None

    def redo(self, audited: RunAudit) -> Iterator[Entry]:
        """What brings a stale run up to date; nothing for a recipe that is not of the catalogue."""
        run = self._runs[audited.name]
        result = run.result
        if not audited.stale or result.recipe not in resources.recipes():
            return
        why = "; ".join(finding.text for finding in audited.findings if finding.stale)
        how: dict[str, Any] = {
            "seed": int(result.config.get("seed", result.seed)),
            "overrides": list(self._asked_for.get(run.name, ())),
            "replaces": result.finished,
            "name": self._name(run),
            "reason": f"stale, {run.name}: {why}",
        }
        if result.recipe in resources.recipes("pretrain") and result.config.get("backbone") is None:
            yield Entry(recipe=result.recipe, **how)
            return
        how |= {"task": result.recipe, "engine": _engine(result.recipe, result.config)}
        classifier = self._before(run, "details.classifier.run")
        if classifier is not None and self.look_at(classifier).stale:
            spec = classifier.result.config.get("backbone")
            first = list(self.redo(self.look_at(classifier)))
            if first:
                # Its folder may be another one then, so the classifier is named by the run that makes it.
                yield from first
                named = how | {"seed": first[-1].seed, "name": None, "replaces": None}
                yield Entry(**named, after=first[-1].what, backbone=spec)
            return
        yield Entry(**how, backbone=result.config.get("backbone"))

    def _name(self, run: StoredRun) -> str | None:
        """The run's ``--name``, if it has one of its own."""
        try:
            made = folder_for(settings_of(run.result.config), self._places.runs)
        except MaeBenchError:
            return None
        # A recipe that changed gives another digest at the end, and is the same name all the same.
        same = made.parent == run.folder.parent and made.name[:-8] == run.folder.name[:-8]
        return None if same else run.name


def _stands_on(run: StoredRun) -> dict[str, str]:
    """What a run stands on, in words."""
    result, versions = run.result, run.result.versions
    source = versions.get(provenance.SOURCE, NOT_RECORDED)
    code = f"mae-bench {versions.get(provenance.VERSION, NOT_RECORDED)}, source {source}"
    if provenance.COMMIT in versions:
        code += f", commit {_short_commit(versions[provenance.COMMIT])}"
    found = {"recipe": f"{result.recipe} {result.recipe_hash[:_SHORT]}", "code": code}
    if result.backbone is not None:
        found["weights"] = f"{result.backbone.spec} {result.backbone.digest[:_SHORT]}"
    classifier = lookup(result, "details.classifier.run")
    if classifier is not None:
        found["classifier"] = f"{classifier} {str(lookup(result, 'details.classifier.digest'))[:_SHORT]}"
    if result.dataset is not None:
        found["data"] = f"{result.dataset.name} {result.dataset.fingerprint[:_SHORT]}"
    found["seed"] = str(result.seed)
    found["finished"] = result.finished
    return found


def _short_commit(commit: str) -> str:
    return commit[:_SHORT] + (provenance.CHANGED if commit.endswith(provenance.CHANGED) else "")


def _code(then: Mapping[str, str]) -> Iterator[Finding]:
    """How the code differs from that of the run: stale only with another major or minor version."""
    now = {name: metadata.version(name) for name in (provenance.VERSION, *_LIBRARIES)} | provenance.code()
    old, new = then.get(provenance.VERSION), now[provenance.VERSION]
    if old is not None and old.split(".")[:2] != new.split(".")[:2]:
        yield Finding("code", f"mae-bench {old} -> {new}", True)
    names = [provenance.SOURCE, provenance.COMMIT, *_LIBRARIES]
    names += [provenance.VERSION] if old is not None and old.split(".")[:2] == new.split(".")[:2] else []
    changed = [
        f"{name} {_short_commit(then[name])} -> {_short_commit(now[name])}"
        for name in names
        if name in then and name in now and then[name] != now[name]
    ]
    if changed:
        yield Finding("code", ", ".join(changed))


def _engine(name: str, config: Mapping[str, Any]) -> str | None:
    """What ``--engine`` must say for the run of a recipe; None: nothing."""
    task = str(config.get("task"))
    try:
        own = recipe.resolve(name).config.task
    except MaeBenchError:
        return None
    return next((engine for engine, adapter in recipe.engines(own).items() if adapter == task != own), None)


# ---------------------------------------------------------------- runs without a result


def _unfinished(root: Path, names: Iterable[str]) -> Iterator[StoredRun]:
    """Runs that were begun, as if they had finished: as far as their settings tell where they would stand."""
    for name in names:
        folder = root / name
        try:
            config = settings_of(yamlfile.load(folder / CONFIG_FILE).values)
            adapter = adapter_of(settings.plain(config))
            published = recipe.published(config)
        except MaeBenchError as error:
            screen.warn(f"{folder}: not looked at, {' '.join(str(error).splitlines())}")
            continue
        report = weights.load_report(folder) or {}
        spec = config.backbone or ""
        arch = str(report.get("arch") or spec.partition(":")[2].partition(".")[0].partition("?")[0])
        like = record(spec, arch) if spec else None
        yield StoredRun(folder, name, made_up(config, adapter, published, like, config.seed))


def _resuming(layout: Layout, runs: Sequence[StoredRun], root: Path) -> Iterator[str]:
    """The unfinished runs that would stand in a table, each with the command that goes on with it."""
    for run in runs:
        if our_rows(layout, [run]).rows:
            verb = ["run", "--task"] if run.result.backbone is not None else ["pretrain", "--recipe"]
            where = [str(run.folder / CONFIG_FILE), "--runs", str(root), "--name", run.name]
            yield f"{run.name}: {shlex.join(['mae-bench', *verb, *where])}"
