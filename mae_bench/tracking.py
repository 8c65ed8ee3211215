"""Weights & Biases as a mirror of what a run records, and of tables; never the record itself.

Whatever befalls the mirror (no network, nobody logged in, a full quota) is one warning, and the run goes on:
`metrics.jsonl` and `result.json` hold everything. How to use it: docs/wandb.md.

wandb is imported only inside functions, since it is optional.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae_bench import screen, settings
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike, write_atomic
from mae_bench.results import json_text
from mae_bench.settings import TaskConfig

if TYPE_CHECKING:
    from mae_bench.results import Result
    from mae_bench.tables import Table

ID_FILE = "wandb.json"
"""Beside a run's result: which run of wandb mirrors it, for going on after an interruption."""
RESULT_KEY = "mae-bench/result"
"""Key of the summary under which the whole `result.json` stands, as text; `import wandb` reads it back."""
FINAL = "final/"
"""What the keys of the final metrics begin with."""
PICTURES = 8

# Seconds that an unattended run waits: for somebody to log in, and for its last data to be taken.
_LOGIN_TIMEOUT = 60
_FINISH_TIMEOUT = 600


def need_wandb() -> None:
    """Raise a `MaeBenchError` with what to install unless wandb is there."""
    if find_spec("wandb") is None:
        raise MaeBenchError("wandb is asked for but not installed: pip install 'mae-bench[wandb]'")


class Mirror:
    """The run of wandb that mirrors one of ours; it begins with the first thing that there is to say."""

    def __init__(self, folder: Path, config: TaskConfig) -> None:
        self._folder, self._config = folder, config
        self._run: Any = None
        self._lost = False

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send numbers of one step; ``{"eval": {"top1": 1.0}}`` as ``eval/top1``."""
        flat = {key.replace(".", "/"): value for key, value in settings.flatten(values).items()}
        self._tell(lambda run: run.log(flat, step=step))

    def finish(self, result: Result, draw: Callable[[], Sequence[str]]) -> None:
        """Send final metrics, provenance, the numbers of each class and pictures, and end the run.

        Args:
            draw: makes the pictures and returns the paths of their files.
        """
        self._tell(lambda run: run.summary.update(summary_of(result)))
        classes = class_table(result)
        if classes is not None:
            self._tell(lambda run: run.log({"per_class": _wandb_table(*classes)}))
        files = [] if self._lost else self._drawn(draw)
        if files:
            self._tell(lambda run: run.log(_images(files)))
        self.close()

    def _drawn(self, draw: Callable[[], Sequence[str]]) -> Sequence[str]:
        try:
            return draw()
        except Exception as error:
            # The result is there already; a picture less is no reason to fail.
            screen.warn(f"no pictures for wandb: {_words(error)}")
            return []

    def close(self, *, failed: bool = False) -> None:
        """End the run of wandb, as a failed one if ours did not get to its end; it can still go on."""
        if self._run is None:
            return
        run, self._run = self._run, None
        try:
            run.finish(exit_code=int(failed))
        except Exception as error:
            self._warn(error)

    def _tell(self, act: Callable[[Any], Any]) -> None:
        if self._lost:
            return
        try:
            if self._run is None:
                self._run = self._begin()
            act(self._run)
        except Exception as error:
            # Of whatever kind: hours of training must not end because of their mirror.
            self._lost = True
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        screen.warn(
            f"wandb fails, so this run is mirrored no further: {_words(error)}; nothing is lost, "
            f"{self._folder / 'metrics.jsonl'} remains the record"
        )

    def _begin(self) -> Any:
        asked = self._config.wandb
        assert asked is not None
        path = self._folder / ID_FILE
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        online = asked.mode == "online"
        run = _start(
            project=asked.project,
            entity=asked.entity,
            mode=asked.mode,
            folder=self._folder,
            name=f"{self._config.recipe}/{self._folder.name}",
            job_type=self._config.task,
            id=known.get("id") or secrets.token_hex(8),
            # Without a server there is nothing to ask whether a run of this id is there.
            resume="allow" if online else None,
            config=settings.plain(self._config),
        )
        told = {"entity": run.entity or None, "project": run.project, "id": run.id}
        told["url"] = run.url if online else None
        write_atomic(path, json.dumps(told, indent=2) + "\n")
        return run


def _start(*, folder: Path, mode: Literal["online", "offline"], **options: Any) -> Any:
    import wandb

    own: dict[str, Any] = {"login_timeout": _LOGIN_TIMEOUT}
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):  # since 0.24
        own["finish_timeout"] = _FINISH_TIMEOUT
    # A run that somebody else has open in this process, as in a notebook, is left alone.
    return wandb.init(dir=str(folder), mode=mode, reinit="create_new", settings=own, **options)


# ---------------------------------------------------------------- what is sent of a result


def summary_of(result: Result) -> dict[str, Any]:
    """Final metrics as ``final/NAME``, what they rest on as ``provenance/NAME``, the whole result as text."""
    backbone, dataset = result.backbone, result.dataset
    provenance = {
        "recipe": result.recipe,
        "recipe_hash": result.recipe_hash,
        "protocol": result.protocol,
        "deviations": len(result.deviations),
        "backbone": backbone.spec if backbone else None,
        "weights": backbone.digest if backbone else None,
        "dataset": dataset.name if dataset else None,
        "data": dataset.fingerprint if dataset else None,
        "seed": result.seed,
        "selection": result.selection,
        **{f"version/{name}": version for name, version in result.versions.items()},
    }
    return {
        **{FINAL + name: value for name, value in result.metrics.items()},
        **{f"provenance/{name}": value for name, value in provenance.items() if value is not None},
        # To the byte what the file holds, so that an import of it is known for a copy.
        RESULT_KEY: json_text(result.model_dump(mode="json")),
    }


def class_table(result: Result) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of the scores of each class, if the task has such; a class without one has None."""
    per_class = result.details.get("per_class")
    if not isinstance(per_class, Mapping) or not all(isinstance(one, Mapping) for one in per_class.values()):
        return None
    scores = list(dict.fromkeys(name for one in per_class.values() for name in one))
    rows = [[name, *(one.get(score) for score in scores)] for name, one in per_class.items()]
    return ["class", *scores], rows


def _images(files: Sequence[str]) -> dict[str, Any]:
    import wandb

    return {f"pictures/{Path(file).stem}": wandb.Image(file) for file in files}


def _wandb_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    import wandb

    # Optional: a cell may be empty. Mixed types are not needed: a column holds numbers or text.
    return wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=False)


# ---------------------------------------------------------------- tables


def push_table(
    table: Table,
    project: str,
    mode: Literal["online", "offline"] = "online",
    *,
    folder: PathLike = ".",
) -> str:
    """Send a finished table to wandb as a run of its own, of the job type "table".

    It holds the table as people read it (key `table`, text, one row a row) and as numbers (key `cells`, one
    row for each filled cell), and the caption, footnotes and sources in its notes.

    Args:
        project: ``ENTITY/PROJECT``, or ``PROJECT`` of whoever is logged in.
        folder: the runs root; wandb's files lie in its `.cache`, where nobody takes them for runs.

    Returns:
        The address of the run; offline the folder to send with ``wandb sync``.

    Raises:
        MaeBenchError: wandb is not installed, nobody is logged in, or it cannot be reached.
    """
    need_wandb()
    from mae_bench.render import as_data

    entity, name = split_project(project)
    data = as_data(table)
    try:
        run = _start(
            project=name,
            entity=entity,
            mode=mode,
            folder=_made(Path(folder) / ".cache"),
            name=data["id"],
            job_type="table",
            notes=_remarks(data),
            config={"table": data["id"], "title": data["title"]},
        )
        run.log({"table": _wandb_table(*_as_read(data)), "cells": _wandb_table(*_as_numbers(data))})
        place = str(run.url if mode == "online" else Path(run.dir).parent)
        run.finish()
    except Exception as error:
        raise MaeBenchError(f"wandb did not take the table for {project}: {_words(error)}") from error
    return place


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _words(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def split_project(project: str) -> tuple[str | None, str]:
    """``ENTITY/PROJECT`` or ``PROJECT`` as (entity or None, project).

    Raises:
        MaeBenchError: it is neither.
    """
    entity, slash, name = project.rpartition("/")
    if not name or "/" in entity or (slash and not entity):
        raise MaeBenchError(f"'{project}' is no project of wandb: write ENTITY/PROJECT")
    return entity or None, name


def _as_read(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table in text, its columns told apart even where two have one label."""
    heads = [data["row_label"] or "row", *(fact["label"] for fact in data["facts"])]
    heads += [
        f"{column['label']} ({column['unit']})" if column["unit"] else column["label"]
        for column in data["columns"]
    ]
    rows = []
    for row in data["rows"]:
        cells = [row["cells"].get(column["key"]) for column in data["columns"]]
        words = [row["label"], *(row["facts"].get(fact["key"], "") for fact in data["facts"])]
        rows.append([str(word) for word in (*words, *(cell["text"] if cell else "" for cell in cells))])
    return _told_apart(heads), rows


_CELL = ("value", "std", "n", "departures", "source", "recipe_hash")


def _as_numbers(data: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows = []
    for row in data["rows"]:
        for column in data["columns"]:
            cell = row["cells"].get(column["key"])
            if cell is None or cell["value"] is None:
                continue
            told = [
                float(cell[key]) if key == "std" and cell[key] is not None else cell[key] for key in _CELL
            ]
            about = [row["label"], bool(row["ours"]), column["label"], column["unit"] or ""]
            rows.append([*about, *told, " ".join(cell["runs"])])
    return ["row", "ours", "column", "unit", *_CELL, "runs"], rows


def _told_apart(heads: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    told = []
    for head in heads:
        seen[head] = seen.get(head, 0) + 1
        told.append(head if seen[head] == 1 else f"{head} [{seen[head]}]")
    return told


def _remarks(data: Mapping[str, Any]) -> str:
    notes = [f"{number}: {text}" for number, text in enumerate(data["footnotes"], start=1)]
    lines = [data["title"], data["caption"], *notes, data["spread"], data["ranking"], *data["remarks"]]
    return "\n\n".join(line for line in lines if line)
