"""``python:MODULE:FACTORY``: a backbone that a user's own code builds.

What the factory returns is one of timm's models, which is taken as the family that it is, or any module with
the small surface of `mae_bench.backbones.own_module`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mae_bench import yamlfile
from mae_bench.backbones.calling import called, drawing_from, importing_from, keywords, kind_of, raised
from mae_bench.backbones.loading import Request
from mae_bench.backbones.own_backbone import RESERVED, Made, taken
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError, near


def from_python(request: Request) -> Backbone:
    """``python:package.module:factory?key=value`` or ``python:path/to/file.py:factory?key=value``.

    The module is looked for in the current directory first. The factory is called with the arguments as
    keywords, read as YAML values; what it draws at random is drawn from the request's seed. Arguments of ours
    are ``weights`` (a checkpoint file with exactly the module's names), ``allow``, ``key``, ``mean`` and
    ``std``.

    Raises:
        MaeBenchError: there is no such module or factory, either raises, what comes back is no backbone, or
            the weights do not fit it.
    """
    named = _named(request)
    mine = {name: text for name, text in request.arguments.items() if name in RESERVED}
    arguments = keywords({k: v for k, v in request.arguments.items() if k not in RESERVED}, request.spec)
    arguments |= request.model_args
    with importing_from(named.folder), drawing_from(request.seed):
        module = named.module(request.spec)
        factory = _factory(module, named, request.spec)
        net = called(factory, arguments, named.factory, named.folder, request.spec)
        if not isinstance(net, nn.Module):
            raise MaeBenchError(
                f"{request.spec}: {named.factory} returned {kind_of(net)}; it should return a torch.nn.Module"
            )
        code = _code(module, named)
        made = Made(
            net,
            source=f"{named.factory} of {code.shown}",
            what=f"{request.spec}: {named.factory} returned {kind_of(net)}",
            folder=named.folder,
            model_args={**arguments, "code": code.digest[:16]},
        )
        return taken(made, request, mine)


@dataclass(frozen=True)
class _Named:
    """What the text names: a module, or a file of one, and a factory in it."""

    target: str
    factory: str
    file: Path | None
    folder: Path

    def module(self, spec: str) -> ModuleType:
        """The module, imported."""
        return _import_name(self, spec) if self.file is None else _import_file(self, self.file, spec)


def _named(request: Request) -> _Named:
    target, colon, factory = request.body.rpartition(":")
    if not (colon and target and factory.isidentifier()):
        raise MaeBenchError(
            f"{request.spec}: say which function of which module builds it, python:package.module:function "
            "or python:path/to/file.py:function"
        )
    if not (target.endswith(".py") or "/" in target or "\\" in target):
        return _Named(target, factory, None, Path.cwd())
    file = Path(target).expanduser().resolve()
    if not file.is_file():
        beside = [entry.name for entry in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise MaeBenchError(f"{request.spec}: there is no file {target}{near(file.name, beside)}")
    return _Named(target, factory, file, file.parent)


def _import_name(named: _Named, spec: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(named.target)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{named.target}.".startswith(f"{error.name}."):
            raise MaeBenchError(
                f"{spec}: there is no module '{named.target}', neither in {named.folder} nor installed"
                f"{near(named.target, _modules_in(named.folder))}"
            ) from error
        raise _not_imported(named, error, spec) from error
    except Exception as error:  # Foreign code raises anything.
        raise _not_imported(named, error, spec) from error


def _import_file(named: _Named, file: Path, spec: str) -> ModuleType:
    # A name of its own, so that no module of the same name is taken for it or replaced by it.
    name = f"_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise MaeBenchError(f"{spec}: {named.target} is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:  # Foreign code raises anything.
        del sys.modules[name]
        raise _not_imported(named, error, spec) from error
    return module


def _not_imported(named: _Named, error: Exception, spec: str) -> MaeBenchError:
    return MaeBenchError(f"{spec}: importing {named.target} raised {raised(error, named.folder)}")


def _modules_in(folder: Path) -> list[str]:
    """Dotted names of what lies in a folder and one level below."""
    files = [*folder.glob("*.py"), *folder.glob("*/*.py")]
    names = [".".join(file.relative_to(folder).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def _factory(module: ModuleType, named: _Named, spec: str) -> Callable[..., Any]:
    found = getattr(module, named.factory, None)
    if callable(found):
        return found
    if found is not None:
        raise MaeBenchError(f"{spec}: {named.factory} of {named.target} is {kind_of(found)}, not a function")
    there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    hint = near(named.factory, there) or (f"; there are {', '.join(there[:6])}" if there else "")
    raise MaeBenchError(f"{spec}: {named.target} has no function '{named.factory}'{hint}")


@dataclass(frozen=True)
class _Code:
    """Which code built a backbone: where it lies, and SHA-256 of it."""

    shown: str
    digest: str


def _code(module: ModuleType, named: _Named) -> _Code:
    """The file of a module, or all modules imported of its package."""
    top = named.target.partition(".")[0]
    names = [name for name in sorted(sys.modules) if name == top or name.startswith(f"{top}.")]
    modules: Mapping[str, Any] = (
        {name: sys.modules[name] for name in names} if named.file is None else {top: module}
    )
    total = hashlib.sha256()
    for name, part in modules.items():
        file = getattr(part, "__file__", None)
        if file is not None and Path(file).is_file():
            total.update(f"{name}\0".encode() + Path(file).read_bytes())
    file = getattr(module, "__file__", None)
    return _Code(yamlfile.shown(Path(file)) if file else named.target, total.hexdigest())
