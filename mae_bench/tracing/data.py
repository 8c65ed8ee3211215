"""Whether the data behind a result is still the same: its fingerprint today against the recorded one.

This module imports no torch; listing data does.
"""

from __future__ import annotations

from pathlib import Path

from mae_bench import roots, screen, settings
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result
from mae_bench.roots import Roots
from mae_bench.settings import TaskConfig
from mae_bench.tracing.configurations import adapter_of, settings_of
from mae_bench.tracing.findings import Finding

# Keys of `data` that say how images are shown to a model, not which there are.
_LOOKS = ("augment", "evaluation", "image_size", "interpolation", "cache", "workers", "max_bad_images")


def absent(config: TaskConfig, data_root: Path, *, drawn: bool = True) -> list[Path]:
    """The folders of a configuration's data that are not there; none for what is on a hub.

    Args:
        drawn: whether generated worlds count as there, since they are drawn when needed.
    """
    missing = []
    for holder, _ in roots.with_root(settings.plain(config)):
        folder = data_root / holder["root"]
        if folder.exists() or holder.get("source") == "hf":
            continue
        if drawn and Path(holder["root"]).parts[:1] == (roots.GENERATED,):
            continue
        missing.append(folder)
    return missing


class Fingerprints:
    """Fingerprints of today's data, each taken once."""

    def __init__(self, places: Roots) -> None:
        self._places = places
        self._known: dict[str, str | MaeBenchError] = {}

    def state(self, result: Result) -> tuple[list[Finding], list[str]]:
        """What changed of a result's data, and what could not be checked."""
        if result.dataset is None:
            return [], []
        try:
            config = settings_of(result.config, self._places.named)
        except MaeBenchError:
            return [], ["data: the run's configuration is not valid any more"]
        missing = absent(config, self._places.data_root, drawn=False)
        if missing:
            return [], [f"data: no data here ({missing[0]})"]
        world = self._undrawn(config)
        if world is not None:
            return [], [f"data: the generated world '{world}' is not drawn here as this code draws it"]
        if any(holder.get("source") == "hf" for holder, _ in roots.with_root(settings.plain(config))):
            return [], [f"data: {result.dataset.name} is on the Hugging Face hub"]
        try:
            now = self._of(config, result)
        except MaeBenchError as error:
            return [], [f"data: {error}"]
        then = result.dataset.fingerprint
        if now == then:
            return [], []
        said = f"data of {result.dataset.name} changed since: fingerprint {then[:12]} -> {now[:12]}"
        return [Finding("data", said, True)], []

    def _undrawn(self, config: TaskConfig) -> str | None:
        """A generated world of the data that listing would draw anew, which an audit must not."""
        from mae_bench import scenes

        for holder, _ in roots.with_root(settings.plain(config)):
            parts = Path(holder["root"]).parts
            if parts[:1] == (roots.GENERATED,) and not scenes.is_current(self._places.data_root, parts[1]):
                return str(parts[1])
        return None

    def _of(self, config: TaskConfig, result: Result) -> str:
        """The fingerprint, as `mae-bench data fingerprint` prints it.

        Raises:
            MaeBenchError: not all of the data can be opened.
        """
        values = settings.plain(config)
        stored = {name: value for name, value in values.get("data", {}).items() if name not in _LOOKS}
        lister = adapter_of(result.config).survey
        key = settings.digest_of([lister.__module__, lister.__qualname__, stored, values.get("sets")])
        if key not in self._known:
            self._known[key] = self._taken(config, result)
        found = self._known[key]
        if isinstance(found, MaeBenchError):
            raise found
        return found

    def _taken(self, config: TaskConfig, result: Result) -> str | MaeBenchError:
        from mae_bench import datacheck

        name = result.dataset.name if result.dataset is not None else result.recipe
        screen.say(f"listing the data of {name}")
        try:
            adapter = adapter_of(result.config)(config)
            return datacheck.fingerprint_of(adapter.survey(self._places.data_root), name).digest
        except MaeBenchError as error:
            return error
