"""Backbones with a name of their own: ``--backbone mae-vit-base``, from configs/backbones/mae-vit-base.yaml.

A file holds the text that the name stands for, who made the weights, under which licence, what their input
should look like, and what others measured with them. Weights that timm does not have lie in files of their
authors: in the folder where torch.hub keeps what it downloads, or where ``file=PATH`` says.

This module imports no torch, unless an alias stands for a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mae_bench import resources, yamlfile
from mae_bench.backbones.loading import arguments_of
from mae_bench.errors import MaeBenchError, near
from mae_bench.settings import Count, Positive, Settings
from mae_bench.validation import validate

PLACE = "{file}"
"""Stands in the text of an alias where the path of its file goes."""

_MINE = ("file", "download")  # arguments that are the alias's own; others go to what it stands for

Metric = Literal[
    "finetune top1",
    "linear top1",
    "knn top1",
    "coco box_ap",
    "coco mask_ap",
    "ade20k miou",
    "ade20k-linear miou",
]


def _like(pattern: str, words: str) -> AfterValidator:
    """Text of a certain form, which messages give in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {words}, not {text}")
        return text

    return AfterValidator(check)


Link = Annotated[str, _like(r"https://\S+", "an address that begins with https://")]
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class Published(Settings):
    """What others measured with these weights; their protocols differ, so `source` says whose it is."""

    metric: Metric
    value: Positive
    source: str


class Alias(Settings):
    """A backbone that has a name of its own."""

    title: str
    method: str
    paper: Annotated[str, _like(r"arXiv:\d{4}\.\d{5}", "arXiv:NUMBER")]
    architecture: Annotated[str, _like(r"\w+", "a name of timm without tag")]
    backbone: str
    """The text it stands for: ``timm:NAME``, or ``file:{file}?arch=NAME``."""
    format: str | None = None
    """The format of its file, as `mae_bench.backbones.formats` calls it."""
    url: Link | None = None
    """Where the authors publish the file itself."""
    page: Link | None = None
    """Where they publish it if there is no direct link to the file."""
    file: Annotated[str, _like(r"[\w.-]+", "the name of a file without folders")] | None = None
    """Its name here; several authors call theirs ``checkpoint.pth``."""
    licence: str
    mean: Channels
    std: Channels
    image_size: Annotated[list[Count], Field(min_length=2, max_length=2)]
    """Height and width in pixels of the images it was trained on."""
    pretrain_data: str
    epochs: Count | None = None
    """Length of pretraining; null: not told in epochs."""
    expected: list[Published] = Field([])
    notes: list[str] = Field([])

    @model_validator(mode="after")
    def _one_origin(self) -> Alias:
        of_a_file = (self.file, self.format, self.url or self.page)
        if self.backbone.startswith("timm:"):
            named = self.backbone.removeprefix("timm:").partition("?")[0].partition(".")[0]
            if any((*of_a_file, self.page)):
                raise ValueError("url, page, file and format belong to backbone: file:{file}?arch=NAME")
        elif self.backbone.startswith(f"file:{PLACE}?arch="):
            named = self.backbone.removeprefix(f"file:{PLACE}?arch=").partition("&")[0]
            if not all(of_a_file) or (self.url and self.page):
                raise ValueError("a file needs file, format, and one of url and page")
        else:
            raise ValueError(f"backbone should be timm:NAME or file:{PLACE}?arch=NAME, not {self.backbone}")
        if named != self.architecture:
            raise ValueError(f"architecture is {self.architecture}, and backbone names {named}")
        return self


def names() -> list[str]:
    """The names of all aliases, sorted."""
    return list(resources.backbones())


def known(spec: str) -> bool:
    """Whether a backbone's text, its arguments aside, is the name of an alias."""
    return spec.partition("?")[0] in resources.backbones()


def load(name: str) -> Alias:
    """The alias of a name.

    Raises:
        MaeBenchError: there is none (with near matches), or its file is not valid.
    """
    paths = resources.backbones()
    if name not in paths:
        hint = near(name, paths) or "; `mae-bench list backbones` shows all"
        raise MaeBenchError(f"there is no backbone alias '{name}'{hint}")
    return read(paths[name])


@cache
def read(path: Path) -> Alias:
    """The alias that a file holds.

    Raises:
        MaeBenchError: the file is missing or not valid: one line for each fault, with its key and line.
    """
    document = yamlfile.load(path)
    return validate(Alias, document.values, document.origins)


def resolve(spec: str) -> str | None:
    """What an alias stands for, as the text of a backbone; None if `spec` is no alias.

    Arguments behind the name are handed on and win over the alias's own: ``mae-vit-huge?patch_size=16``. Of
    an alias of a file, ``file=PATH`` says where it is, and ``download=true`` gets it if it is not there yet.

    Raises:
        MaeBenchError: arguments not of the form ``key=value&key=value``, or the file is missing and was not
            to be downloaded, or could not be.
    """
    if not known(spec):
        return None
    name, _, query = spec.partition("?")
    alias = load(name)
    given = arguments_of(query, spec) if query else {}
    if alias.file is None:
        wrong = [key for key in _MINE if key in given]
        if wrong:
            raise MaeBenchError(
                f"backbone '{spec}': {name} takes no '{wrong[0]}'; it stands for {alias.backbone}, and timm "
                "gets the weights of that by itself"
            )
        return _with(alias.backbone, given)
    path = _file_of(name, alias, given, spec)
    own = {"mean": _joined(alias.mean), "std": _joined(alias.std)}
    others = {key: value for key, value in given.items() if key not in _MINE}
    return _with(alias.backbone, {**own, **others}).replace(PLACE, str(path), 1)


def fetching(alias: Alias, path: Path) -> str:
    """In words, how to get the file of an alias to `path`."""
    if alias.url is None:
        return f"get them from {alias.page}"
    return f"get them with: curl -L --create-dirs -o {shlex.quote(str(path))} {shlex.quote(alias.url)}"


def _file_of(name: str, alias: Alias, given: Mapping[str, str], spec: str) -> Path:
    """Where the file of an alias is, once it is there."""
    wanted = given.get("download", "false")
    if wanted not in ("true", "false"):
        raise MaeBenchError(f"backbone '{spec}': download should be true or false, not '{wanted}'")
    path = Path(given["file"]).expanduser() if "file" in given else _cache_folder() / str(alias.file)
    if path.is_file():
        return path
    if wanted == "true":
        _download(alias, path, spec)
        return path
    ways = [fetching(alias, path)]
    ways += [f"write {name}?download=true"] if alias.url else []
    ways += [] if "file" in given else [f"say where they are: {name}?file=PATH"]
    raise MaeBenchError(
        f"backbone '{spec}': its weights (licence: {alias.licence}) are not at {path}; {'; or '.join(ways)}"
    )


def _cache_folder() -> Path:
    """Where torch.hub keeps checkpoints."""
    from torch.hub import get_dir

    return Path(get_dir()) / "checkpoints"


def _download(alias: Alias, path: Path, spec: str) -> None:
    """Get the file of an alias, whole or not at all."""
    if alias.url is None:
        raise MaeBenchError(
            f"backbone '{spec}': there is no direct link to its weights; {fetching(alias, path)} and save "
            f"them as {path}"
        )
    from torch.hub import download_url_to_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Downloads beside `path` and renames; an OSError stands for everything urllib raises too.
        download_url_to_file(alias.url, str(path), progress=True)
    except OSError as error:
        raise MaeBenchError(
            f"backbone '{spec}': {alias.url} could not be downloaded ({str(error) or type(error).__name__}); "
            f"try it by hand: {fetching(alias, path)}"
        ) from error


def _with(text: str, given: Mapping[str, str]) -> str:
    """A backbone's text with further arguments, which win over its own."""
    body, _, query = text.partition("?")
    merged = {**(arguments_of(query, text) if query else {}), **given}
    return "?".join(
        [body, *(["&".join(f"{key}={value}" for key, value in merged.items())] if merged else [])]
    )


def _joined(values: list[float]) -> str:
    return ",".join(str(value) for value in values)
