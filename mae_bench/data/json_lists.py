"""A JSON object whose lists are longer than one wants to hold, read element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, NoReturn, TextIO

from mae_bench.errors import MaeBenchError

# Characters read at once. What is not told apart from a value that goes on in the next piece is within MARGIN
# characters of the end: no number and no escape sequence is as long.
WHITESPACE = " \t\n\r"
PIECE = 1 << 20
MARGIN = 1024


def read_lists(path: Path, takers: Mapping[str, Callable[[Any], None]]) -> set[str]:
    """Give each element of some lists of a JSON object to the function under the list's name, in order.

    At no time is more in memory than about a megabyte of the text, or a single element where that is larger.

    Args:
        takers: key of the object -> what to do with each element of the list there. Other keys are passed
            over.

    Returns:
        the object's keys.

    Raises:
        MaeBenchError: no such file, not UTF-8, not JSON or cut off, not an object, a key that is given twice,
            something else than a list where one should be; and whatever the functions raise.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return _read(_Text(file, path), takers)
    except FileNotFoundError:
        raise MaeBenchError(f"{path}: no such file") from None
    except OSError as error:
        raise MaeBenchError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MaeBenchError(
            f"{path}: not JSON: not a UTF-8 text; unpack it first if it is an archive"
        ) from error


def _read(text: _Text, takers: Mapping[str, Callable[[Any], None]]) -> set[str]:
    if text.peek() not in ("", "{"):
        raise MaeBenchError(f"{text.path}: the JSON is not an object with {', '.join(takers)}")
    text.take("{")
    keys: set[str] = set()
    if text.peek() == "}":
        text.take("}")
    else:
        while True:
            if text.peek() != '"':
                text.fail("a key in double quotes is missing")
            key = text.value()
            if key in keys:
                raise MaeBenchError(f"{text.path}: the JSON object has '{key}' twice")
            keys.add(key)
            text.take(":")
            if key in takers:
                _read_list(text, key, takers[key])
            else:
                text.value()
            if text.take(",}") == "}":
                break
    if text.peek():
        text.fail("something follows the end of the object")
    return keys


def _read_list(text: _Text, key: str, taker: Callable[[Any], None]) -> None:
    if text.peek() not in ("", "["):
        raise MaeBenchError(f"{text.path}: '{key}' is not a list")
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        taker(text.value())
        if text.take(",]") == "]":
            return


class _Text:
    """The text of a file from a place on that moves forward."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.path = path
        self._file = file
        self._buffer = ""
        self._at = 0
        self._dropped = 0
        self._decode = JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no white space; an empty string at the end."""
        while True:
            if self._at == len(self._buffer) and not self._more():
                return ""
            found = self._buffer[self._at]
            if found not in WHITESPACE:
                return found
            self._at += 1

    def take(self, expected: str) -> str:
        """Step over the next character, which must be one of these."""
        found = self.peek()
        if not found or found not in expected:
            self.fail(f"{' or '.join(repr(one) for one in expected)} is missing")
        self._at += 1
        return found

    def value(self) -> Any:
        """Step over the next value and return it."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - MARGIN
                distance = error.pos - self._at
                if open_end and self._more():
                    continue
                self._at += distance
                self.fail(error.msg, cut_off=error.msg.startswith("Unterminated"))
            except RecursionError:
                self.fail("values are nested too deeply")
            length = end - self._at
            # A number may go on in the next piece.
            if end < len(self._buffer) or not self._more():
                self._at += length
                return value

    def fail(self, reason: str, cut_off: bool = False) -> NoReturn:
        """Raise the error that the text is no JSON at this place."""
        if cut_off or not self.peek():
            raise MaeBenchError(f"{self.path}: not JSON: it ends in the middle; copy or download it again")
        place = self._dropped + self._at
        raise MaeBenchError(f"{self.path}: not JSON: {reason}, at character {place} of the file")

    def _more(self) -> bool:
        """Read on, at least as much again as is left; whether there was anything."""
        kept = self._buffer[self._at :]
        piece = self._file.read(max(PIECE, len(kept)))
        self._dropped += self._at
        self._buffer, self._at = kept + piece, 0
        return bool(piece)
