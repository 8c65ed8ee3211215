"""The configuration that a result carries, as settings again.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_bench import registry, roots, validation
from mae_bench.adapter import Adapter
from mae_bench.errors import MaeBenchError
from mae_bench.roots import Placed
from mae_bench.settings import TaskConfig


def adapter_of(config: Mapping[str, Any]) -> type[Adapter[Any]]:
    """The adapter of a recorded configuration, whether or not its engine is installed here.

    Raises:
        MaeBenchError: there is none of that name, or it cannot be imported.
    """
    loaded = registry.adapters().target(str(config.get("task")))
    if not (isinstance(loaded, type) and issubclass(loaded, Adapter)):
        raise MaeBenchError(f"'{config.get('task')}' is no mae_bench Adapter")
    return loaded


def settings_of(config: Mapping[str, Any], named: Mapping[str, Placed] | None = None) -> TaskConfig:
    """A recorded configuration as the settings of its adapter; keys that came later have their defaults.

    Args:
        named: folders of this machine that stand for roots (`mae_bench.roots`); None: roots stay as written.

    Raises:
        MaeBenchError: it is not valid any more, one line for each fault.
    """
    built = validation.validate(adapter_of(config).Config, config)
    return roots.put(built, {}, named) if named else built
