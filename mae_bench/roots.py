"""Where data lies on this machine: `--data-root`, or the user's one configuration file.

    # ~/.config/mae-bench/config.yaml
    data_root: ~/datasets               # folder below which datasets are looked for
    runs: /scratch/runs                 # folder that holds the runs
    roots:                              # a recipe's root -> the folder that stands for it
      imagenet: /big/ILSVRC2012
      coco: /big/coco2017

``--data-root DIR`` alone counts where it is given: then neither `data_root` nor `roots` of the file do.
`runs` and ``--runs`` are a matter of their own. This module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from mae_bench import settings, validation, yamlfile
from mae_bench.settings import Settings
from mae_bench.validation import Origin

C = TypeVar("C", bound=Settings)

DATA_ROOT = "data"
RUNS = "runs"
GENERATED = "generated"
"""First folder of the roots that are drawn below the data root, whatever the file says."""


def _absolute(text: str) -> str:
    """A folder as the file gives it, with the home folder put in."""
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        raise ValueError(f"should be an absolute path, or begin with ~/, not '{text}'")
    return path


def _drawn_elsewhere(roots: dict[str, str]) -> dict[str, str]:
    for name in roots:
        if PurePosixPath(name).parts[:1] == (GENERATED,):
            raise ValueError(f"'{name}' is drawn below the data root and has no folder of its own")
    return roots


def _none_or_some(roots: Any) -> Any:
    """`roots:` whose every line is a comment names none."""
    return {} if roots is None else roots


Folder = Annotated[str, AfterValidator(_absolute)]


class UserConfig(Settings):
    """The user's configuration file."""

    data_root: Folder | None = None
    runs: Folder | None = None
    roots: Annotated[dict[str, Folder], BeforeValidator(_none_or_some), AfterValidator(_drawn_elsewhere)] = (
        Field(default_factory=dict)
    )
    """`data.root` of recipes, or its leading folders, and the folder of this machine that stands for it."""


@dataclass(frozen=True)
class Placed:
    """The folder that stands for a root, and where that was written."""

    folder: Path
    origin: Origin


@dataclass(frozen=True)
class Roots:
    """Where to look.

    Attributes:
        data_root: folder that a root which is no absolute path lies below.
        runs: folder that holds the runs.
        named: root -> what stands for it.
        file: the user's file, where it counts.
    """

    data_root: Path
    runs: Path
    named: Mapping[str, Placed] = field(default_factory=dict)
    file: Path | None = None


def config_file() -> Path:
    """The user's configuration file, whether it is there or not; see XDG's base directories."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.config"))
    return folder / "mae-bench" / "config.yaml"


def find(
    data_root: str | os.PathLike[str] | None = None, runs: str | os.PathLike[str] | None = None
) -> Roots:
    """Where data and runs lie: what is given counts; else what the user's file says; else ./data and ./runs.

    Raises:
        MaeBenchError: the file is not as it should be, with path and line.
    """
    path = config_file()
    here = path.exists()
    document = yamlfile.load(path) if here and not _says_nothing(path) else yamlfile.Document({}, {}, path)
    user = validation.validate(UserConfig, document.values, document.origins)
    own = data_root is None
    return Roots(
        Path(user.data_root or DATA_ROOT) if data_root is None else Path(data_root),
        Path(user.runs or RUNS) if runs is None else Path(runs),
        {
            str(PurePosixPath(name)): Placed(Path(folder), document.origins[f"roots.{name}"])
            for name, folder in user.roots.items()
            if own
        },
        path if here and own else None,
    )


def _says_nothing(path: Path) -> bool:
    """Whether all lines of a file are empty or comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False  # reading it as YAML tells what is wrong
    return all(not line.strip() or line.lstrip().startswith("#") for line in lines)


def placed(root: str, named: Mapping[str, Placed]) -> Placed | None:
    """What stands for a root, or for the most of its leading folders; None: nothing does."""
    parts = PurePosixPath(root).parts
    for end in range(len(parts), 0, -1):
        found = named.get(str(PurePosixPath(*parts[:end])))
        if found is not None:
            return Placed(found.folder.joinpath(*parts[end:]), found.origin)
    return None


def put(config: C, origins: dict[str, Origin], named: Mapping[str, Placed]) -> C:
    """The settings with every root that is named in the file replaced by its folder; `origins` says so.

    A root is the value of any key called `root`, at any depth: ``data.root``, ``sets.a.root``.
    """
    values = settings.plain(config)
    changed = False
    for holder, path in list(with_root(values)):
        found = placed(holder["root"], named)
        if found is not None:
            holder["root"] = str(found.folder)
            origins[path] = found.origin
            changed = True
    return validation.validate(type(config), values, origins) if changed else config


def with_root(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Every mapping that has a root, with the dotted path of it."""
    for key, value in values.items():
        if isinstance(value, dict):
            if isinstance(value.get("root"), str):
                yield value, f"{prefix}{key}.root"
            yield from with_root(value, f"{prefix}{key}.")
