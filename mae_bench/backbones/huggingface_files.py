"""The files of a model of Hugging Face transformers: in a folder, or downloaded from the hub.

Only config, image processor and weights are fetched. Code that comes with a model is neither fetched nor run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mae_bench.backbones.hub import hub_in_silence
from mae_bench.errors import MaeBenchError, near

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files of weights, the one that is taken first."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files lie.

    Attributes:
        name: the folder, or ``OWNER/NAME@COMMIT``.
        config: ``config.json``.
        processor: what says how images are prepared; None where there is no such file.
        weights: the file of weights, or the index of several beside it.
    """

    name: str
    config: Path
    processor: Path | None
    weights: Path


def find(body: str, revision: str | None, spec: str) -> ModelFiles:
    """A model's files, from a folder or the hub.

    Args:
        body: a folder, or ``OWNER/NAME``.
        revision: branch, tag or commit on the hub; None for its main branch.
        spec: the backbone's text, for messages.

    Raises:
        MaeBenchError: no such folder or repository, no access to it, or files are missing.
    """
    folder = Path(body).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise MaeBenchError(f"{spec}: a revision is of a repository on the hub, and {folder} is a folder")
        return _chosen(str(folder), lambda file: folder / file if (folder / file).is_file() else None, spec)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", body):
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise MaeBenchError(
            f"{spec}: '{body}' is neither a folder here nor OWNER/NAME on the Hugging Face hub"
            f"{near(folder.name, beside)}"
        )
    config = _download(body, CONFIG, revision, spec)
    # A file of the cache lies in a folder that is named after the commit, of which all the others are to be.
    commit = config.parent.name if config and re.fullmatch(r"[0-9a-f]{40}", config.parent.name) else revision
    return _chosen(
        f"{body}@{commit}" if commit else body, lambda file: _download(body, file, commit, spec), spec
    )


def read_json(file: Path, spec: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        MaeBenchError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MaeBenchError(f"{spec}: {file} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise MaeBenchError(f"{spec}: {file} holds a {type(value).__name__}, not the keys of a model")
    return value


def _chosen(name: str, get: Callable[[str], Path | None], spec: str) -> ModelFiles:
    """The files of a model, each got by its name; `get` gives None for one that is not there."""
    config = get(CONFIG)
    if config is None:
        raise MaeBenchError(
            f"{spec}: {name} holds no {CONFIG}, so it is no model of transformers; timm's own are loaded "
            "with timm:hf-hub:OWNER/NAME, a file of weights with file:PATH?arch=NAME"
        )
    weights = next((path for path in map(get, WEIGHTS) if path is not None), None)
    if weights is None:
        raise MaeBenchError(f"{spec}: {name} holds no weights of torch ({', '.join(WEIGHTS)})")
    if weights.suffix == ".json":
        for file in _named_in(weights):
            get(file)
    return ModelFiles(
        name=name,
        config=config,
        processor=next((path for path in map(get, PROCESSORS) if path is not None), None),
        weights=weights,
    )


def _named_in(index: Path) -> list[str]:
    """The files beside an index that it names; reading the weights says what is wrong with an index."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted({file for file in files if isinstance(file, str) and Path(file).name == file})


def _download(name: str, file: str, revision: str | None, spec: str) -> Path | None:
    """A file of a repository, from the cache if it is there; None where the repository has no such file."""
    page = f"https://huggingface.co/{name}"
    at = f" at revision '{revision}'" if revision else ""
    try:
        with hub_in_silence():
            return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise MaeBenchError(
            f"{spec}: {file} of {name}{at} is not in the cache, and the Hugging Face hub cannot be reached; "
            "with a network elsewhere, download the repository there and give its folder: hf:FOLDER"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise MaeBenchError(
            f"{spec}: {name} is gated: accept its licence at {page} and log in with hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise MaeBenchError(
            f"{spec}: the Hugging Face hub has no repository {name} (if it is private, log in with hf auth "
            f"login), and there is no such folder here"
        ) from error
    except RevisionNotFoundError as error:
        raise MaeBenchError(f"{spec}: {name} has no revision '{revision}'; see {page}") from error
    except HFValidationError as error:
        raise MaeBenchError(f"{spec}: '{name}' cannot be the name of a repository: {_line(error)}") from error
    except Exception as error:  # Whatever the network, the hub or its client raises.
        raise MaeBenchError(
            f"{spec}: {file} of {name}{at} could not be downloaded: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
