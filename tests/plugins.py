"""Pretended installed packages: modules and distribution metadata in a folder on `sys.path`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from mae_bench import registry

TOY_ADAPTER = """
    from mae_bench.adapter import Adapter, Metric
    from mae_bench.settings import TrainedConfig

    class Config(TrainedConfig):
        blocks: float = 1.0

    class Toy(Adapter[Config]):
        task = "toy"
        metrics = {"score": Metric()}
        Config = Config
        needs_backbone = False

        def run(self, run):
            return {"score": 1.0}

    class Picky(Toy):
        needs_backbone = True
"""


class Site:
    """A folder as `site-packages`, to be filled by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def module(self, name: str, source: str) -> Path:
        """Write a module; dots make packages."""
        path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source), encoding="utf-8")
        return path

    def distribution(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        metadata: Sequence[str] = (),
    ) -> None:
        """Write what pip leaves of an installed distribution: its entry points and metadata lines."""
        folder = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *metadata]
        (folder / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
        lines = []
        for group, points in entry_points.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def toy(self) -> None:
        """Install the adapters `toy` (without a backbone) and `toy.picky` (with one)."""
        self.module("toy_plugin.tasks", TOY_ADAPTER)
        self.module(
            "toy_plugin.table",
            "TASKS = {'toy': 'toy_plugin.tasks:Toy', 'toy.picky': 'toy_plugin.tasks:Picky'}",
        )
        self.distribution("toy-plugin", {registry.ADAPTER_GROUP: {"toy": "toy_plugin.table:TASKS"}})


@contextmanager
def installed(folder: Path) -> Iterator[Site]:
    """A `Site` on `sys.path`, for as long as the block lasts."""
    site = Site(folder)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    registry.forget()
    try:
        yield site
    finally:
        sys.path.remove(str(folder))
        registry.forget()
        for name in set(sys.modules) - before:
            path = getattr(sys.modules[name], "__path__", [])
            # torch.classes answers every name, with what is no list.
            places = [
                getattr(sys.modules[name], "__file__", None),
                *(path if isinstance(path, Iterable) else []),
            ]
            if any(str(place).startswith(str(folder)) for place in places):
                del sys.modules[name]
