"""The one door: tasks and backbone sources enter as ``name -> "module:Class"`` in a dict of strings.

A distribution publishes such a dict through an entry point of the group `mae_bench.adapters` or
`mae_bench.backbones`; this project's own come in the same way. An entry may name the extras of its
distribution that it needs, ``"my_tasks:Depth [depth]"``, and a package that no index has, with the way to get
it: ``"my_tasks:Depth [depth] + depthlab (git clone https://example.org/depthlab)"``. Only the module that
holds the dict is imported for a listing; what an entry points to is imported when it is asked for.

This module imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import invalidate_caches
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from typing import Any

from mae_bench.errors import MaeBenchError, near

ADAPTER_GROUP = "mae_bench.adapters"
BACKBONE_GROUP = "mae_bench.backbones"

_ENTRY = re.compile(
    r"(?P<module>[\w.]+):(?P<attribute>\w+)\s*(?:\[(?P<extras>[\w\s,.-]+)\])?"
    r"(?:\s*\+\s*(?P<package>\w+)\s*\((?P<way>[^()]+)\))?"
)

# Distributions that hold the same package: where one is asked for, the other in the same version will do.
_SAME_PACKAGE = {
    "mmcv": "mmcv-lite",
    "mmcv-lite": "mmcv",
    "opencv-python": "opencv-python-headless",
    "opencv-python-headless": "opencv-python",
}


@dataclass(frozen=True)
class Entry:
    """One name of a catalogue.

    Attributes:
        target: ``module:Class``.
        extras: extras of `origin` that must be installed.
        origin: the distribution that publishes the name.
        package: a package that must be there and is on no index; None: no such thing.
        way: how to get `package`.
    """

    name: str
    target: str
    extras: tuple[str, ...]
    origin: str
    package: str | None = None
    way: str = ""

    def missing(self) -> list[str]:
        """What this environment lacks of the extras' requirements (``datasets>=3.0``), and `package`."""
        needs = [need for extra in self.extras for need in _unmet(self.origin, extra)]
        absent = self.package is not None and not _importable(self.package)
        return needs + ([self.package] if self.package is not None and absent else [])

    @property
    def install(self) -> str:
        """The command that installs the extras, and the way to `package`, as far as they are missing."""
        lines = []
        if any(_unmet(self.origin, extra) for extra in self.extras):
            lines.append(f'pip install "{self.origin}[{",".join(self.extras)}]"')
        if self.package is not None and not _importable(self.package):
            lines.append(self.way)
        return ", then ".join(lines)


@dataclass
class Catalogue:
    """The names of one group.

    Attributes:
        noun: what an entry is called in messages.
        entries: name -> entry, sorted by name; names published twice are left out.
        problems: one sentence for each plug-in or name that cannot be used.
        duplicates: name published twice -> the sentence that says by whom.
    """

    noun: str
    entries: dict[str, Entry]
    problems: list[str]
    duplicates: dict[str, str]

    def entry(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            MaeBenchError: the name is unknown (with its near matches) or published twice.
        """
        if name in self.duplicates:
            raise MaeBenchError(self.duplicates[name])
        if name not in self.entries:
            if not self.entries and not self.problems:
                raise MaeBenchError(f"no {self.noun} is installed; install mae-bench (pip install .)")
            hint = near(name, self.entries) or f"; known: {', '.join(self.entries) or 'none'}"
            broken = " (not everything could be read; `mae-bench list` says why)" if self.problems else ""
            raise MaeBenchError(f"unknown {self.noun} '{name}'{hint}{broken}")
        return self.entries[name]

    def load(self, name: str) -> Any:
        """What an entry points to.

        Raises:
            MaeBenchError: the name is unknown, an extra is not installed, or the import fails.
        """
        entry = self.entry(name)
        missing = entry.missing()
        if missing:
            raise MaeBenchError(
                f"the {self.noun} '{name}' needs {', '.join(missing)}, not installed here: {entry.install}"
            )
        return self.target(name)

    def target(self, name: str) -> Any:
        """What an entry points to, whether or not its extras are installed: enough to look at a finished run.

        Raises:
            MaeBenchError: the name is unknown, or the import fails.
        """
        entry = self.entry(name)
        module, attribute = entry.target.split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            which = f"the {self.noun} '{name}' of {entry.origin}"
            raise MaeBenchError(f"{which} cannot be loaded: {_reason(error, module)}") from error


def adapters() -> Catalogue:
    """The tasks, by the name that a recipe gives under `task`."""
    return _read(ADAPTER_GROUP, "adapter")


def backbone_sources() -> Catalogue:
    """The sources of backbones, by the word before the colon of ``timm:NAME``."""
    return _read(BACKBONE_GROUP, "backbone source")


def normalise_backbone(spec: str) -> str:
    """A backbone as ``SOURCE:REST``; the bare folder of a run stands for ``run:FOLDER``, an alias for itself.

    Raises:
        MaeBenchError: there is no such source and no such folder.
    """
    from mae_bench.backbones import aliases
    from mae_bench.backbones.loading import parse_spec

    if aliases.known(spec):
        return spec
    source, body, _ = parse_spec(spec, backbone_sources().entries)
    return spec if spec.startswith(f"{source}:") else f"{source}:{Path(body)}"


def forget() -> None:
    """Read the installed plug-ins again when next asked, after a package was installed meanwhile."""
    invalidate_caches()
    _read.cache_clear()


@cache
def _read(group: str, noun: str) -> Catalogue:
    problems: list[str] = []
    published: dict[str, list[Entry]] = {}
    for point in sorted(entry_points(group=group), key=lambda p: (_distribution_of(p), p.name)):
        try:
            for entry in _entries(point):
                published.setdefault(entry.name, []).append(entry)
        except MaeBenchError as error:
            problems.append(str(error))
    entries, duplicates = {}, {}
    for name, claims in sorted(published.items()):
        if len(claims) == 1:
            entries[name] = claims[0]
        else:
            # Neither is taken, for which one it would be depends on chance.
            duplicates[name] = (
                f"the {noun} '{name}' is published by {' and by '.join(claim.origin for claim in claims)}; "
                "uninstall all but one of them, or ask the authors for another name"
            )
    return Catalogue(noun, entries, problems + list(duplicates.values()), duplicates)


def _entries(point: EntryPoint) -> list[Entry]:
    """The entries that one plug-in publishes.

    Raises:
        MaeBenchError: the plug-in cannot be imported or does not hold what it should.
    """
    origin = _distribution_of(point)
    plug_in = f"the plug-in '{point.name}' ({point.value}) of {origin}"
    try:
        published = point.load()
    except Exception as error:
        # A plug-in is a stranger's code: whatever it raises must not keep the others from being found.
        raise MaeBenchError(f"{plug_in} cannot be loaded: {_reason(error, point.module)}") from error
    if not isinstance(published, Mapping):
        raise MaeBenchError(
            f'{plug_in} should be a dict of name -> "module:Class", not {type(published).__name__}'
        )
    entries = []
    for name, text in published.items():
        match = _ENTRY.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            wanted = '"module:Class", "module:Class [extra]" or "module:Class [extra] + package (way)"'
            raise MaeBenchError(f"{plug_in}: the entry {name!r} should be {wanted}, not {text!r}")
        extras = tuple(part.strip() for part in (match["extras"] or "").split(",") if part.strip())
        target = f"{match['module']}:{match['attribute']}"
        entries.append(Entry(str(name), target, extras, origin, match["package"], match["way"] or ""))
    return entries


def _distribution_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


def _reason(error: Exception, module: str) -> str:
    """Why importing `module` failed, and from where its package came if that may be the cause.

    Under `python -m` the working directory comes first in Python's search, and a user's own folder of the
    same name hides the installed package.
    """
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    package = module.partition(".")[0]
    absent = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == package
    if package == __package__ or not (absent or isinstance(error, AttributeError)):
        return reason
    found = sys.modules.get(package)
    places = (
        [found.__file__] if found is not None and found.__file__ else list(getattr(found, "__path__", []))
    )
    if not places:
        return reason
    return (
        f"{reason} (Python found '{package}' at {places[0]}; if that is a folder of yours, it hides the "
        "installed package: rename it, or start from another folder)"
    )


def _unmet(origin: str, extra: str) -> list[str]:
    """Requirements of a distribution's extra that are not installed in a version that fits."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in distribution(origin).requires or []]
    except PackageNotFoundError:
        return [f"{origin}[{extra}]"]
    wanted = [
        need
        for need in declared
        if need.marker and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate({"extra": ""})
    ]
    if not wanted and extra not in (distribution(origin).metadata.get_all("Provides-Extra") or []):
        return [f"{origin}[{extra}] (which {origin} does not offer)"]
    return [f"{need.name}{need.specifier}" for need in wanted if not _installed(need)]


def _installed(need: Any) -> bool:
    for name in (need.name, _SAME_PACKAGE.get(need.name)):
        try:
            if name is not None and need.specifier.contains(version(name), prereleases=True):
                return True
        except PackageNotFoundError:
            continue
    return False


def _importable(package: str) -> bool:
    """Whether there is such a package; a folder of that name without modules, such as a checkout, is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
