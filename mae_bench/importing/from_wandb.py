"""Run folders from the runs of a project on Weights & Biases.

A run that mae-bench logged carries its whole `result.json`, and comes back as it was. Any other is read by
a mapping file (`mae_bench.importing.mapping`). A run's folder is ``RUNS/wandb/ENTITY/PROJECT/ID``;
`result.json` is written last, so that an import that was cut off is not taken for done.

wandb is imported only inside functions, since it is optional.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_bench import yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike, write_atomic
from mae_bench.importing import mapping as mappings
from mae_bench.importing.mapping import Foreign, RunMapping
from mae_bench.importing.records import Origin, Protocol, log_lines, plain, result_of
from mae_bench.results import CONFIG_FILE, RESULT_FILE, json_text, parse_result, scan
from mae_bench.tracking import FINAL, ID_FILE, RESULT_KEY, need_wandb, split_project

# What mae-bench's own runs log besides the numbers of their steps.
_EVALUATION = "eval/"


@dataclass
class Imported:
    """What became of each run of a project."""

    folders: list[str] = field(default_factory=list)
    """Run folders that were written."""
    present: list[str] = field(default_factory=list)
    """Those that were there already, and were left as they were."""
    skipped: list[str] = field(default_factory=list)
    """One sentence for each run that was not imported, naming it."""

    def as_text(self) -> str:
        """One line a folder, and the counts."""
        count = (
            f"{len(self.folders)} imported, {len(self.present)} there already, {len(self.skipped)} skipped"
        )
        return "\n".join([*self.folders, count])


def import_project(
    project: str,
    mapping_file: PathLike | None,
    runs_root: Path,
    *,
    force: bool = False,
    api: Any = None,
) -> Imported:
    """Import the runs of a project.

    Args:
        project: ``ENTITY/PROJECT``.
        mapping_file: None: only the runs that mae-bench logged itself.
        force: write folders of earlier imports anew.
        api: stands in for ``wandb.Api()``.

    Raises:
        MaeBenchError: a faulty mapping, no such project, nobody is logged in, or wandb does not answer.
    """
    entity, name = split_project(project)
    mapping = None if mapping_file is None else mappings.load(mapping_file)
    protocol = None if mapping is None else _protocol(mapping, mapping_file)
    known = _mirrored(runs_root)
    done = Imported()
    for run in _runs(entity, name, api):
        title = f"{run.name or run.id} ({run.id})"
        folder = (
            runs_root
            / "wandb"
            / _folder_name(run.entity or entity or "")
            / _folder_name(name)
            / _folder_name(run.id)
        )
        there = folder if (folder / RESULT_FILE).exists() else known.get(run.id)
        if there is not None and not (force and there == folder):
            done.present.append(str(there))
            continue
        try:
            _write(folder, *_content(run, f"wandb {run.entity or entity}/{name}", mapping, protocol))
        except MaeBenchError as error:
            done.skipped.append(f"{title}: {'; '.join(str(error).splitlines())}")
            continue
        done.folders.append(str(folder))
    return done


def _protocol(mapping: RunMapping, file: PathLike | None) -> Protocol:
    try:
        return Protocol.of(mapping)
    except MaeBenchError as error:
        raise MaeBenchError(f"{file}: {error}") from None


def _mirrored(runs_root: Path) -> dict[str, Path]:
    """Run of wandb -> the finished run below `runs_root` that it mirrors."""
    found = {}
    for stored in scan(runs_root).runs:
        path = stored.folder / ID_FILE
        if path.exists():
            try:
                found[str(json.loads(path.read_text(encoding="utf-8"))["id"])] = stored.folder
            except (ValueError, KeyError, TypeError):
                raise MaeBenchError(f"{path} is damaged; remove it") from None
    return found


def _folder_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-.") or "unnamed"


# ---------------------------------------------------------------- what wandb says


def _runs(entity: str | None, project: str, api: Any) -> Iterator[Any]:
    if api is None:
        need_wandb()
        import wandb

        api = _answer(project, wandb.Api)
    path = f"{entity}/{project}" if entity else project
    runs = iter(_answer(path, lambda: api.runs(path, order="+created_at", per_page=100)))
    while True:
        run = _answer(path, lambda: next(runs, None))
        if run is None:
            return
        yield run


def _answer(what: str, ask: Any) -> Any:
    """What wandb answers, with its faults in a sentence of ours."""
    try:
        return ask()
    except Exception as error:
        # wandb's own errors, those of requests, and plain ValueErrors, which differ from version to version.
        told = " ".join(str(error).split()) or type(error).__name__
        low = told.lower()
        if "could not find project" in low or "404" in low or "not found" in low:
            advice = "there is no such project, or it is not open to you"
        elif "api key" in low or "log in" in low or "authenticat" in low or "401" in low or "403" in low:
            advice = "nobody is logged in who may read it; run 'wandb login'"
        elif "429" in low or "rate limit" in low:
            advice = "wandb takes no more requests for now; try again in a few minutes"
        else:
            advice = "wandb does not answer as it should"
        raise MaeBenchError(f"{what}: {advice} ({told})") from error


def _summary(run: Any) -> dict[str, Any]:
    """The summary as a plain dict, whatever mapping wandb makes of it."""
    return dict(_unwrapped(run.summary))


def _unwrapped(value: Any) -> Any:
    return {str(key): _unwrapped(inner) for key, inner in value.items()} if hasattr(value, "items") else value


# ---------------------------------------------------------------- one run


def _content(
    run: Any, source: str, mapping: RunMapping | None, protocol: Protocol | None
) -> tuple[str, dict[str, Any], str, dict[str, Any]]:
    """Texts of `result.json`, values of `config.yaml`, text of `metrics.jsonl`, and the run's address.

    Raises:
        MaeBenchError: it does not fit, or wandb does not give it.
    """
    name = run.name or run.id
    config = dict(_answer(name, lambda: run.config))
    summary = _answer(name, lambda: _summary(run))
    if mapping is not None:
        reason = mappings.why_not(mapping.runs, name, run.state, list(run.tags or []), config)
        if reason:
            raise MaeBenchError(f"the mapping does not ask for it: {reason}")
    address = {"entity": run.entity, "project": run.project, "id": run.id, "url": run.url}
    own = summary.get(RESULT_KEY)
    if own is not None:
        result = parse_result(f"the summary's {RESULT_KEY}", str(own).encode())
        return str(own), result.config, _own_log(_history(run, name)), address
    if mapping is None or protocol is None:
        begun = "recipe" in config and "train" in config
        raise MaeBenchError(
            "it did not finish"
            if begun
            else "mae-bench did not log it; say with --mapping what its names mean"
        )
    seconds = mappings.at(summary, "_wandb.runtime") or mappings.at(summary, "_runtime")
    origin = Origin(source, run.id, str(run.created_at), float(seconds) if seconds else None)
    result = result_of(mapping, protocol, Foreign(plain(config), summary), origin)
    scales = {
        key: (ours, metric.scale)
        for ours, metric in mapping.metrics.items()
        for key in mappings.history_keys(metric)
    }
    renamed = {theirs: ours for ours, theirs in mapping.history.items()}
    text = json_text(result.model_dump(mode="json"))
    rows = [
        (step, {renamed.get(key, key): value for key, value in values.items()})
        for step, values in _history(run, name)
    ]
    return text, result.config, log_lines(rows, scales), address


def _history(run: Any, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Step and logged values of each row, without those that wandb adds."""
    rows = _answer(name, lambda: list(run.scan_history()))
    return [(int(row["_step"]), {key: row[key] for key in row if key[:1] != "_"}) for row in rows]


def _own_log(rows: list[tuple[int, dict[str, Any]]]) -> str:
    """`metrics.jsonl` of a run that mae-bench logged: of a step its training, then its evaluation."""
    kept = [(step, {key: row[key] for key in row if not key.startswith(FINAL)}) for step, row in rows]
    names = {key for _, row in kept for key in row if key.startswith(_EVALUATION)}
    return log_lines(kept, {name: (name.removeprefix(_EVALUATION), 1.0) for name in names})


def _write(folder: Path, result: str, config: dict[str, Any], log: str, address: dict[str, Any]) -> None:
    write_atomic(folder / CONFIG_FILE, yamlfile.dump(config))
    write_atomic(folder / "metrics.jsonl", log)
    write_atomic(folder / ID_FILE, json.dumps(address, indent=2) + "\n")
    write_atomic(folder / RESULT_FILE, result)
