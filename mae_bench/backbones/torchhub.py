"""``torchhub:REPO:ENTRY``: a backbone that a repository's own code builds and fills, by torch.hub.

That code runs here, so a repository that torch.hub has not been told to trust needs ``trust=true``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import torch
from torch import nn

from mae_bench import screen
from mae_bench.backbones.calling import drawing_from, keywords, kind_of, raised
from mae_bench.backbones.loading import Request
from mae_bench.backbones.own_backbone import Made, taken, translated
from mae_bench.backbones.own_module import has_surface
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError, near

_MINE = ("trust", "arch", "allow", "mean", "std")


def from_torchhub(request: Request) -> Backbone:
    """``torchhub:OWNER/NAME:ENTRY``, ``torchhub:OWNER/NAME:REF:ENTRY`` or ``torchhub:FOLDER:ENTRY``.

    The module's tensors are recognised by their names and fitted into timm's architecture (``arch``, or what
    they tell of it); a module with the small surface of `mae_bench.backbones.own_module` is taken as it is.
    Other arguments than ours are the entry's, read as YAML values.

    Raises:
        MaeBenchError: the repository is not trusted, cannot be had, has no such entry, its code raises, or
            what it builds is neither in a known format nor of a known surface.
    """
    repo = _repository(request)
    mine = {name: text for name, text in request.arguments.items() if name in _MINE}
    arguments = keywords({k: v for k, v in request.arguments.items() if k not in _MINE}, request.spec)
    _trusted(repo, mine.get("trust", "false"), request.spec)
    screen.say(f"{request.spec}: runs the code of {repo.name} on this machine")
    with drawing_from(request.seed), _modules_of_its_own(repo):
        net = _built(repo, arguments, request.spec)
        if not isinstance(net, nn.Module):
            raise MaeBenchError(
                f"{request.spec}: {repo.entry} returned {kind_of(net)}; it should return a torch.nn.Module"
            )
        made = Made(
            net,
            source=f"torch.hub {repo.name}, {repo.entry}",
            what=f"{request.spec}: {repo.entry} returned {kind_of(net)}",
            folder=repo.folder or Path(torch.hub.get_dir()),
            model_args=arguments,
        )
        if "arch" not in mine and (has_surface(net) or type(net).__module__.startswith("timm.")):
            return taken(made, request, mine)
        return translated(made, request, mine)


@dataclass(frozen=True)
class _Repository:
    """What the text names.

    Attributes:
        name: a folder, or ``OWNER/NAME`` with or without ``:REF``.
        entry: a function of its ``hubconf.py``.
        folder: where it lies, if it is a folder of this machine.
    """

    name: str
    entry: str
    folder: Path | None

    @property
    def copies(self) -> list[Path]:
        """Where torch.hub keeps what it downloaded of it."""
        if self.folder is not None:
            return [self.folder]
        name, _, ref = self.name.partition(":")
        beginning = f"{name.replace('/', '_')}_"
        hub = Path(torch.hub.get_dir())
        refs = [ref.replace("/", "_")] if ref else ["main", "master"]
        return [hub / f"{beginning}{each}" for each in refs if (hub / f"{beginning}{each}").is_dir()]


def _repository(request: Request) -> _Repository:
    name, _, entry = request.body.rpartition(":")
    folder = Path(name).expanduser()
    if name and entry.isidentifier():
        if folder.is_dir():
            if not (folder / "hubconf.py").is_file():
                raise MaeBenchError(f"{request.spec}: the folder {name} has no hubconf.py")
            return _Repository(name, entry, folder.resolve())
        if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", name) and not name.startswith((".", "/")):
            return _Repository(name, entry, None)
    raise MaeBenchError(
        f"{request.spec}: say which entry of which repository it is, torchhub:OWNER/NAME:ENTRY (of a branch "
        "or tag OWNER/NAME:REF:ENTRY), or torchhub:FOLDER:ENTRY for a folder with a hubconf.py"
    )


def _trusted(repo: _Repository, trust: str, spec: str) -> None:
    """Refuse a repository that is neither on this machine by the user's doing nor trusted by word."""
    if trust not in ("true", "false"):
        raise MaeBenchError(f"{spec}: trust should be true or false, not '{trust}'")
    if repo.folder is not None or trust == "true" or repo.copies:
        return
    listed = Path(torch.hub.get_dir()) / "trusted_list"
    name = repo.name.partition(":")[0].replace("/", "_")
    if not listed.is_file() or name not in listed.read_text(encoding="utf-8").split():
        joined = "&" if "?" in spec else "?"
        raise MaeBenchError(
            f"{spec}: this downloads code of {repo.name} and runs it on this machine; if you trust it, write "
            f"{spec}{joined}trust=true"
        )


@contextmanager
def _modules_of_its_own(repo: _Repository) -> Iterator[None]:
    """Forget the repository's modules afterwards: others' have modules of the same names (``utils``)."""
    before = set(sys.modules)
    try:
        yield
    finally:
        home = repo.folder or Path(torch.hub.get_dir())
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(home):
                del sys.modules[name]


def _built(repo: _Repository, arguments: dict[str, Any], spec: str) -> Any:
    """What the entry returns."""
    source, place = ("github", repo.name) if repo.folder is None else ("local", str(repo.folder))
    try:
        with redirect_stdout(sys.stderr):  # torch.hub prints there what it downloads
            # Trust was settled before; otherwise torch.hub would ask on standard input.
            return torch.hub.load(
                place, repo.entry, source=source, trust_repo=True, verbose=False, **arguments
            )
    except HTTPError as error:
        raise MaeBenchError(
            f"{spec}: {error.url} answered {error.code} {error.reason}; is {repo.name} spelt right, and are "
            "its weights still there?"
        ) from error
    except (URLError, ConnectionError, TimeoutError) as error:
        raise _unreachable(repo, getattr(error, "reason", error), spec) from error
    except Exception as error:  # Foreign code raises anything.
        text = str(error)
        if isinstance(error, RuntimeError) and "no internet connection" in text:
            raise _unreachable(repo, "no connection", spec) from error
        if isinstance(error, RuntimeError) and text.startswith("Cannot find callable"):
            there = _entries(repo)
            hint = near(repo.entry, there) or (f"; there are {', '.join(there[:8])}" if there else "")
            raise MaeBenchError(f"{spec}: {repo.name} has no entry '{repo.entry}'{hint}") from error
        if isinstance(error, RuntimeError) and text.startswith("Missing dependencies: "):
            wanted = text.removeprefix("Missing dependencies: ")
            raise MaeBenchError(
                f"{spec}: the code of {repo.name} needs {wanted}; pip install {wanted.replace(',', '')}"
            ) from error
        home = repo.folder or Path(torch.hub.get_dir())
        raise MaeBenchError(f"{spec}: {repo.entry} of {repo.name} raised {raised(error, home)}") from error


def _unreachable(repo: _Repository, reason: object, spec: str) -> MaeBenchError:
    return MaeBenchError(
        f"{spec}: {repo.name} or its weights could not be downloaded ({reason}); without a network, copy the "
        "repository here and use torchhub:FOLDER:ENTRY, or its checkpoint with file:PATH?arch=NAME"
    )


def _entries(repo: _Repository) -> list[str]:
    """What a hubconf.py offers, read without running it."""
    names: list[str] = []
    for folder in repo.copies[:1]:
        tree = ast.parse((folder / "hubconf.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.ImportFrom):
                names += [alias.asname or alias.name for alias in node.names]
            elif isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if re.fullmatch(r"[a-zA-Z]\w*", name) and name != "dependencies"]
