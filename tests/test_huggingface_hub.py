"""``hf:OWNER/NAME``: what is fetched from the hub, and what can go wrong there."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mae_bench.backbones import huggingface_files, load_backbone
from tests.hf_models import CASES, made, refused

WEIGHTS = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    folder = tmp_path / "vit"
    made(CASES["vit"], folder)
    return folder


class Hub:
    """A hub with one repository, ``o/n``, which lies in the cache as huggingface_hub keeps it."""

    def __init__(self, folder: Path) -> None:
        self.snapshot = folder / "snapshots" / COMMIT
        self.asked: list[tuple[str, str | None]] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, name: str, file: str, *, revision: str | None = None) -> str:
        self.asked.append((file, revision))
        if file in self.errors:
            raise self.errors[file]
        if not (self.snapshot / file).exists():
            raise EntryNotFoundError(f"404: no {file} in {name}")
        return str(self.snapshot / file)


@pytest.fixture
def hub(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made_hub = Hub(tmp_path / "cache")
    shutil.copytree(vit, made_hub.snapshot)
    monkeypatch.setattr(huggingface_files, "hf_hub_download", made_hub)
    monkeypatch.chdir(tmp_path)
    return made_hub


def test_a_repository_is_of_one_commit(hub: Hub, vit: Path) -> None:
    backbone = load_backbone("hf:o/n?revision=v1")
    assert backbone.digest == load_backbone(f"hf:{vit}").digest
    assert backbone.report.source == f"o/n@{COMMIT}"
    assert hub.asked[0] == ("config.json", "v1")
    assert {revision for _, revision in hub.asked[1:]} == {COMMIT}
    assert {file for file, _ in hub.asked} == {"config.json", WEIGHTS, "preprocessor_config.json"}


def test_every_shard_is_downloaded(hub: Hub) -> None:
    model = made(CASES["vit"], hub.snapshot)
    (hub.snapshot / WEIGHTS).unlink()
    model.save_pretrained(hub.snapshot, max_shard_size="20KB")  # type: ignore[operator]
    load_backbone("hf:o/n")
    shards = {path.name for path in hub.snapshot.glob("*.safetensors")}
    assert shards <= {file for file, _ in hub.asked}


def test_an_index_cannot_name_files_elsewhere(hub: Hub) -> None:
    (hub.snapshot / WEIGHTS).unlink()
    (hub.snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}')
    refused("hf:o/n", "'../../secret' is not the name of a file beside it")
    assert not any("secret" in file for file, _ in hub.asked)


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("config.json", GatedRepoError("403", response=response(403)), "o/n is gated: accept its licence at https://huggingface.co/o/n and log in with hf auth login"),
        ("config.json", RepositoryNotFoundError("404", response=response(404)), "the Hugging Face hub has no repository o/n (if it is private, log in"),
        ("config.json", RevisionNotFoundError("404", response=response(404)), "o/n has no revision 'v1'"),
        ("config.json", HFValidationError("Repo id must\nbe"), "'o/n' cannot be the name of a repository: Repo id must"),
        ("config.json", LocalEntryNotFoundError("offline"), "config.json of o/n at revision 'v1' is not in the cache, and the Hugging Face hub cannot be reached"),
        ("model.safetensors", LocalEntryNotFoundError("offline"), f"model.safetensors of o/n at revision '{COMMIT}' is not in the cache"),
        ("preprocessor_config.json", OSError("disk full.\nreally"), f"preprocessor_config.json of o/n at revision '{COMMIT}' could not be downloaded: disk full"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_what_can_go_wrong_with_the_hub(file: str, error: Exception, message: str, hub: Hub) -> None:
    hub.errors[file] = error
    refused("hf:o/n?revision=v1", message)


def test_no_network_and_nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With huggingface_hub itself, told to stay offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    refused(
        "hf:nobody/nothing", "config.json of nobody/nothing is not in the cache, and the Hugging Face hub"
    )


@pytest.mark.parametrize("body", ["./nowhere", "a/b/c", "/tmp/no such", "vti"])
def test_neither_folder_nor_repository(body: str, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vit.parent)
    monkeypatch.setattr(huggingface_files, "hf_hub_download", _none)
    words = (
        "the Hugging Face hub has no repository vti"
        if body == "vti"
        else "is neither a folder here nor OWNER/NAME"
    )
    refused(f"hf:{body}", words)


def _none(name: str, file: str, *, revision: str | None = None) -> str:
    raise RepositoryNotFoundError("404", response=response(404))
