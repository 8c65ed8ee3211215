"""Whether OpenMMLab's engines are here, in versions that we know; asked, and imported, before any work.

mmcv comes in two distributions that share one folder: `mmcv-lite`, which our extra installs, and `mmcv`,
which may be compiled. Either will do, and a compiled one is used as such. Both at once will do if they are
of one version: then whatever the one wrote over is what the other had. Of two versions the folder is a
mixture, and is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from downstream.openmmlab import extension
from mae_bench.errors import MaeBenchError

INSTALL = 'pip install "mae-bench[openmmlab]"'


@dataclass(frozen=True)
class _Package:
    """What is known of a package.

    Attributes:
        lowest, below: the versions we know are at least `lowest` and less than `below`; empty: any.
        distributions: names under which it may be installed, if not its own; any of them will do.
        needs: packages that it cannot be imported without.
        modules: what is imported for all that it offers to stand in mmengine's registries.
    """

    lowest: str = ""
    below: str = ""
    distributions: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


# mmsegmentation needs ftfy and regex without saying so.
_PACKAGES = {
    "six": _Package(),
    "ftfy": _Package(),
    "regex": _Package(),
    "mmengine": _Package("0.10.7", "0.11", modules=("runner", "hooks", "optim", "visualization")),
    "mmcv": _Package("2.1", "2.2", ("mmcv-lite", "mmcv", "mmcv-full"), ("mmengine",), ("ops", "transforms")),
    "mmdet": _Package(
        "3.3",
        "3.4",
        needs=("six", "mmengine", "mmcv"),
        modules=("datasets", "engine", "evaluation", "models", "visualization"),
    ),
    "mmseg": _Package(
        "1.2.2",
        "1.3",
        ("mmsegmentation",),
        needs=("ftfy", "regex", "mmengine", "mmcv"),
        modules=("datasets", "engine", "evaluation", "models", "structures", "visualization"),
    ),
}

_broken: dict[str, MaeBenchError] = {}
"""package -> why it could not be imported; a second try would stumble over what the first has registered."""


def ready(*packages: str) -> None:
    """Import engines, each of `mmdet`, `mmseg`, `mmcv` and `mmengine`, with all that they register.

    Where no compiled `mmcv` is installed, its operators are those of the bridge (see `extension`). What the
    packages warn of while they are imported concerns their authors and is not shown.

    Raises:
        MaeBenchError: a package, or one that it needs, is not installed, is of a version that we do not know,
            or cannot be imported.
    """
    wanted = _with_needs(packages)
    unfit = {name: problem for name in wanted if (problem := _unfit(name))}
    if unfit:
        raise MaeBenchError(f"{', and '.join(unfit.values())}: {_way(*unfit)}")
    extension.install()
    for name in wanted:
        if name not in _broken:
            _import(name)
        if name in _broken:
            raise _broken[name]


def _with_needs(packages: tuple[str, ...]) -> list[str]:
    """The packages and what they need, each once, what is needed first."""
    order: dict[str, None] = {}
    for name in packages:
        order |= dict.fromkeys([*_with_needs(_PACKAGES[name].needs), name])
    return list(order)


def _unfit(name: str) -> str:
    """What is wrong with a package as far as its installation tells, or an empty string."""
    found = _installed(name)
    if not found:
        # A checkout on the path is installed under no name; its version is seen when it is imported.
        named = (_PACKAGES[name].distributions or (name,))[0]
        return "" if importlib.util.find_spec(name) else f"{named} is not installed"
    if len(set(found.values())) > 1:
        return f"{_named(found)} are both installed, into one folder"
    distribution, version = next(iter(found.items()))
    return _unknown(name, distribution, version)


def _installed(name: str) -> dict[str, str]:
    """Name of the distribution -> its version, for those by which a package is installed."""
    found: dict[str, str] = {}
    for distribution in _PACKAGES[name].distributions or (name,):
        with suppress(metadata.PackageNotFoundError):
            found[distribution] = metadata.version(distribution)
    return found


def _named(found: dict[str, str]) -> str:
    return " and ".join(f"{distribution} {version}" for distribution, version in found.items())


def _unknown(name: str, distribution: str, version: str) -> str:
    """What to say of a version of a package that we do not know, or an empty string."""
    package = _PACKAGES[name]
    if not package.lowest:
        return ""
    known = f">={package.lowest},<{package.below}"
    try:
        parsed = Version(version)
    except InvalidVersion:
        return f"{distribution} has no version that can be compared ('{version}'; {known} is needed)"
    if SpecifierSet(known).contains(parsed, prereleases=True):
        return ""
    age = "old" if parsed < Version(package.lowest) else "new"
    return f"{distribution} {version} is too {age} ({known} is needed)"


def _way(*unfit: str) -> str:
    """The command that mends packages that are missing, or of a version that we do not know."""
    found = _installed("mmcv")
    # pip lays mmcv-lite over an mmcv of another name, so that has to go first.
    if "mmcv" in unfit and set(found) - {"mmcv-lite"}:
        return _anew(found)
    return INSTALL


def _anew(found: dict[str, str]) -> str:
    """The command for what pip takes for installed already."""
    return f"pip uninstall {' '.join(found)}, then {INSTALL}" if found else INSTALL


def _import(name: str) -> None:
    """Import a package whole, and note in `_broken` why that failed.

    Whatever it raises, it cannot be used and the user is told why, so every exception is caught here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            package = importlib.import_module(name)
            problem = _unknown(name, name, str(getattr(package, "__version__", "")))
            if problem:
                raise MaeBenchError(f"{problem}: {_way(name)}")
            for module in _PACKAGES[name].modules:
                importlib.import_module(f"{name}.{module}")
        except MaeBenchError as error:
            _broken[name] = error
        except Exception as error:
            _broken[name] = MaeBenchError(_sentence(name, error))
            _broken[name].__cause__ = error


def _sentence(name: str, error: Exception) -> str:
    """Why a package cannot be imported, and what to do."""
    found = _installed(name)
    which = _named(found) or name
    reason = next(iter(str(error).splitlines()), "")
    # The loader of compiled modules names only the last part.
    if name == "mmcv" and isinstance(error, ImportError) and error.name == extension.NAME.rpartition(".")[2]:
        way = f"build them for this torch, or do without: {_anew(found)}"
        return f"the compiled operators of {which} cannot be loaded ({reason}); {way}"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != name:
        return f"{which} needs the module {error.name}, which is not installed: {INSTALL}"
    return f"{which} cannot be imported ({type(error).__name__}: {reason}): {_anew(found)}"
