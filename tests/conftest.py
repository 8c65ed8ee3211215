"""Fixtures of more than one test file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.plugins import Site, installed

# A busy machine must not fail a test; what the tests draw is the same in every run.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True, scope="session")
def _no_config_file_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may have a configuration file; they, and what they start, must not read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty folder of installed packages; write into it before the catalogue is first read."""
    with installed(tmp_path / "site") as folder:
        yield folder
