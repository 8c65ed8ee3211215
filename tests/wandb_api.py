"""A small stand-in for ``wandb.Api``, driven by a recorded answer: the parts that an import asks for.

Attributes and their types are those of `wandb.apis.public.Run` (wandb 0.31): `id` and `state` text, `name` text
or None, `tags` a list, `created_at` an ISO time, `config` a dict without wandb's own keys, `summary` a mapping
with `items` that is no dict, `scan_history()` an iterator of dicts with ``_step``.
"""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "wandb_answer.json"


class Summary:
    """Keys and values, nested ones as the same."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def items(self) -> ItemsView[str, Any]:
        return {
            key: Summary(value) if isinstance(value, dict) else value for key, value in self._values.items()
        }.items()


class Run:
    def __init__(self, entity: str, project: str, recorded: dict[str, Any]) -> None:
        self.entity, self.project = entity, project
        self.id: str = recorded["id"]
        self.name: str | None = recorded["name"]
        self.state: str = recorded["state"]
        self.tags: list[str] = recorded["tags"]
        self.created_at: str = recorded["created_at"]
        self.config: dict[str, Any] = recorded["config"]
        self.summary = Summary(recorded["summary"])
        self.url = f"https://wandb.example/{entity}/{project}/runs/{self.id}"
        self._history = recorded["history"]

    def scan_history(self) -> Iterator[dict[str, Any]]:
        return iter(self._history)


class Api:
    """Answers with what was recorded; `failing` is raised instead of the page of runs."""

    def __init__(self, answer: dict[str, Any] | None = None, failing: Exception | None = None) -> None:
        self.answer = answer or json.loads(RECORDED.read_text(encoding="utf-8"))
        self.failing = failing

    def runs(self, path: str, order: str, per_page: int) -> Iterator[Run]:
        entity, project = path.split("/")
        if self.failing is not None:
            raise self.failing
        if path != f"{self.answer['entity']}/{self.answer['project']}":
            # As the real one, which says so when the first page is asked for.
            raise ValueError(f"Could not find project {project}")
        for recorded in self.answer["runs"]:
            yield Run(entity, project, recorded)
