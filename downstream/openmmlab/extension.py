"""`mmcv._ext`, the compiled half of mmcv, offered over torchvision where nothing compiled is installed.

mmcv's Python files ask for the module `mmcv._ext` when they are imported, and mmdet and mmseg import them
all. `mmcv-lite` does not have it. `install` puts a finder behind Python's own, so that a compiled module,
wherever Python finds one, is always the one that is used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

NAME = "mmcv._ext"


class _Bridge(Loader):
    """Fills the module with the operators of `downstream.openmmlab.operators`."""

    def exec_module(self, module: ModuleType) -> None:
        from downstream.openmmlab.operators import OPERATORS, lacking

        vars(module).update(OPERATORS)
        vars(module)["__getattr__"] = lacking  # PEP 562: asked for every name that is not in the table


class _Finder(MetaPathFinder):
    """Finds `mmcv._ext` and nothing else; the last finder, so it is asked only if no other finds it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Bridge(), origin=__name__) if fullname == NAME else None


def install() -> None:
    """Let `import mmcv._ext` succeed where no compiled `mmcv` is installed; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def bridged() -> bool:
    """Whether mmcv's operators are the bridge's; False where they are compiled, or there is no mmcv."""
    if NAME in sys.modules:
        spec = sys.modules[NAME].__spec__
        return spec is not None and isinstance(spec.loader, _Bridge)
    package = find_spec("mmcv")
    if package is None or package.submodule_search_locations is None:
        return False
    return PathFinder.find_spec(NAME, list(package.submodule_search_locations)) is None
