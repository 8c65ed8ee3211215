"""The values of a Hugging Face ``config.json``, each checked when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_bench.errors import MaeBenchError


class Values:
    """A config, with what transformers takes where it leaves something out.

    Every method raises a MaeBenchError, naming file and key, where the value is of another kind.

    Attributes:
        where: the file, for messages.
        left_out: keys that were asked for and are not in the config.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.left_out: list[str] = []
        self._given, self._defaults = given, defaults

    def get(self, key: str) -> Any:
        """A value as it is; None if neither the config nor transformers has one."""
        if self._given.get(key) is not None or key not in self._defaults:
            return self._given.get(key)
        if key not in self.left_out:
            self.left_out.append(key)
        return self._defaults[key]

    def count(self, key: str, least: int = 1) -> int:
        """A whole number from `least` on."""
        value = self.get(key)
        if type(value) is not int or value < least:
            raise MaeBenchError(
                f"{self.where}: {key} should be a whole number from {least} on, not {value!r}"
            )
        return value

    def number(self, key: str) -> float:
        """A number from 0 on."""
        value = self.get(key)
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            raise MaeBenchError(f"{self.where}: {key} should be a number from 0 on, not {value!r}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise MaeBenchError(f"{self.where}: {key} should be true or false, not {value!r}")
        return value

    def pair(self, key: str) -> tuple[int, int]:
        """(height, width) of a side or a pair."""
        value = self.get(key)
        sides = list(value) if isinstance(value, list | tuple) else [value, value]
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise MaeBenchError(f"{self.where}: {key} should be a side or [height, width], not {value!r}")
        return sides[0], sides[1]

    def require(self, wanted: Mapping[str, bool], whose: str) -> None:
        """Refuse other values of these flags, which timm's architecture (`whose`) cannot have."""
        for key, value in wanted.items():
            if self.flag(key) is not value:
                raise MaeBenchError(
                    f"{self.where}: {key} is {str(not value).lower()}, which {whose} of timm cannot have; a "
                    "module of your own can be loaded with python:PACKAGE.MODULE:FACTORY"
                )
