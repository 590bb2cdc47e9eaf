"""Rows of JSON: the elements of a list, read one by one from a window on the file, or one object a line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from engine.catalog import places
from engine.catalog.places import Place, Row, broken, decoded, lines_from, not_utf8, start_of, too_long
from engine.errors import UserError

CHUNK_BYTES = 2**18
HEAD_BYTES = 2**20
NEAR = 32
"""A fault so near to the end of the window, in characters, may only be a value that is cut by it."""

SPACE = re.compile(r"[ \t\r\n]*")
CONSTANT = re.compile(r'"(?:\\.|[^"\\])*"|(-?Infinity|NaN)')
LIST_OF_MAPPINGS = re.compile(r"\[\s*\{")
HALF = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)
"""Escapes in JSON text: a pair that is one character, or (the group) one half that stands alone, or any other."""

OF_A_ROW = {
    "messages", "conversations", "conversation", "tools", "history", "prompt", "chosen", "rejected", "completion",
    "instruction", "input", "output", "question", "answer", "response", "system", "text",
}  # fmt: skip
"""Names of columns: a mapping with one of these keys is a row, not what holds the rows."""

HOLDERS = {
    "data", "dataset", "examples", "instances", "items", "records", "results", "rows", "samples", "test", "train",
    "validation",
}  # fmt: skip
"""Keys under which rows are often put."""


def json_reading(path: Path) -> JsonList | JsonLines:
    """A list, or one object a line: told apart by the first character, whatever the file is called."""
    with path.open("rb") as file:
        place = start_of(path, file)
        file.seek(place.offset)
        while piece := file.read(2**16):
            if piece := piece.lstrip():
                return JsonList(path) if piece.startswith(b"[") else JsonLines(path)
    return JsonLines(path)


class Parser:
    """Python's JSON reader without its leniencies: NaN, a key that comes twice, half a character pair."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping, parse_constant=self._constant)
        self._constants: list[str] = []
        self._twice: list[str] = []

    def whole(self, text: str) -> Any:
        self._begin()
        return self._decoder.decode(text)

    def value_at(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins here, and where it ends."""
        self._begin()
        return self._decoder.raw_decode(text, start)

    def slip(self, text: str, place: Place) -> UserError | None:
        """What must not be in the value that was read last, from ``text`` at ``place``."""
        if self._constants:
            position = next(match.start(1) for match in CONSTANT.finditer(text) if match[1])
            return broken(self.path, place.behind(text, position), self._constants[0])
        if self._twice:
            facts = {"line": place.line, "column": place.column, "key": self._twice[0]}
            return UserError("dataset_key_twice", path=self.path, **facts)
        if "\\ud" in text or "\\uD" in text:
            half = next((match for match in HALF.finditer(text) if match[1]), None)
            if half:
                there = place.behind(text, half.start())
                return UserError(
                    "dataset_surrogate", path=self.path, line=there.line, column=there.column, found=half[1]
                )
        return None

    def _begin(self) -> None:
        self._constants.clear()
        self._twice.clear()

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            names = [name for name, _ in pairs]
            self._twice.append(next(name for name in names if names.count(name) > 1))
        return mapping

    def _constant(self, name: str) -> None:
        self._constants.append(name)


def fault_of(path: Path, error: Exception, text: str, place: Place) -> UserError:
    """The error for what Python's reader says of ``text``, which begins at ``place``."""
    if isinstance(error, json.JSONDecodeError):
        return broken(path, place.behind(text, error.pos), error.msg)
    detail = "nesting too deep" if isinstance(error, RecursionError) else "a number with too many digits"
    return broken(path, place, detail)


def _as_row(path: Path, value: Any, number: int) -> Row | UserError:
    if isinstance(value, dict):
        return value
    return UserError("dataset_row.no_object", dataset=path, row=number, found=type(value).__name__)


@dataclass(frozen=True)
class JsonLines:
    """One object a line."""

    path: Path

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, bytes | UserError]]:
        with self.path.open("rb") as file:
            if place is None:
                place = start_of(self.path, file)
                if fault := self._mapping(file, place):
                    yield place, fault
                    return
            for at, raw in lines_from(self.path, file, place):
                if _is_piece(raw):
                    yield at, raw

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        if isinstance(piece, UserError):
            return piece
        parser = self._parser
        try:
            text = decoded(self.path, piece.rstrip(b"\r\n"), place)  # a fault at its end lies on this line
            value = parser.whole(text)
        except UserError as error:
            return error
        except (ValueError, RecursionError) as error:
            return fault_of(self.path, error, text, place)
        return parser.slip(text, place) or _as_row(self.path, value, number)

    @cached_property
    def _parser(self) -> Parser:
        return Parser(self.path)

    def _mapping(self, file: IO[bytes], place: Place) -> UserError | None:
        """What to say of a file that is not one object a line but one mapping, perhaps with all rows inside."""
        lines = (each for each in lines_from(self.path, file, place) if _is_piece(each[1]))
        first = next(lines, None)
        if first is None:
            return None
        at, raw = first
        key, keys = None, ""
        try:
            value = None if isinstance(raw, UserError) else json.loads(raw)
            if isinstance(value, dict) and next(lines, None) is None:
                key = _key_of_rows(value)
                if key is not None and key not in HOLDERS and not _is_row(value[key][0]):
                    key = None  # a single row with such a column
        except (ValueError, RecursionError):  # spread over several lines, or simply broken
            value = None
        if value is None:
            file.seek(at.offset)
            head = file.read(HEAD_BYTES).decode("utf-8", "ignore").lstrip()
            if head.startswith("{"):
                key, keys = _head(head, is_one_line=isinstance(raw, UserError))
        if key is not None:
            return UserError("dataset_wrapped", path=self.path, key=key)
        return UserError("dataset_one_mapping", path=self.path, keys=keys) if keys else None


def _is_piece(raw: bytes | UserError) -> bool:
    return isinstance(raw, UserError) or not raw.isspace()


def _is_row(mapping: dict[str, Any]) -> bool:
    """Whether it looks like a row, and not like a turn."""
    return not OF_A_ROW.isdisjoint(mapping) and {"role", "from", "speaker"}.isdisjoint(mapping)


def _key_of_rows(mapping: dict[str, Any]) -> str | None:
    """The key under which a mapping holds rows, if it is no row itself."""
    if not OF_A_ROW.isdisjoint(mapping):
        return None
    lists = (key for key, value in mapping.items() if isinstance(value, list) and value and isinstance(value[0], dict))
    return next(lists, None)


def _head(text: str, is_one_line: bool) -> tuple[str | None, str]:
    """The key of the rows in a mapping that begins like this; else the keys of one that ends in here, as text."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    try:
        at = SPACE.match(text, text.index("{") + 1).end()
        while True:
            key, at = decoder.raw_decode(text, at)
            at = SPACE.match(text, at).end()
            at = SPACE.match(text, at + 1).end()  # behind the colon
            if LIST_OF_MAPPINGS.match(text, at):
                return _key_of_rows({**found, key: [{}]}), ""
            found[key], at = decoder.raw_decode(text, at)
            at = SPACE.match(text, at).end()
            if text[at] != ",":
                break
            at = SPACE.match(text, at + 1).end()
    except (ValueError, IndexError, TypeError, RecursionError):
        return None, ""
    is_spread = text[at] == "}" and not text[at + 1 :].strip() and "\n" in text[:at].strip() and not is_one_line
    return None, ", ".join(map(str, found)) if is_spread else ""


@dataclass(frozen=True)
class JsonList:
    """The elements of one list, however long it is."""

    path: Path

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, Any]]:
        with self.path.open("rb") as file:
            window = _Window(self.path, file, place or start_of(self.path, file))
            parser = Parser(self.path)
            try:
                if place is None:
                    window.skip_space()
                    window.advance(window.at + 1)  # behind the bracket, which is known to be there
                    if window.skip_space() == "]":
                        window.end()
                        return
                while True:
                    place = window.place
                    value, text = window.element(parser)
                    slip = parser.slip(text, place)
                    yield place, slip or value
                    if window.skip_space() != ",":
                        window.end()
                        return
                    window.advance(window.at + 1)
                    window.skip_space()
            except UserError as error:
                yield window.place, error

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        return piece if isinstance(piece, UserError) else _as_row(self.path, piece, number)


class _Window:
    """A piece of the file as text that moves on as its elements are taken."""

    def __init__(self, path: Path, file: IO[bytes], place: Place) -> None:
        self.path, self.place = path, place
        self.text, self.at = "", 0
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_ended = self._is_broken = False
        file.seek(place.offset)

    def more(self) -> None:
        """Read on: as much as is left over, so that a long element is looked at a few times only."""
        left = len(self.text) - self.at
        raw = self._file.read(max(CHUNK_BYTES, min(left, places.LIMIT_BYTES - left)))
        try:
            new = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            new = error.object[: error.start].decode("utf-8")
            self._is_ended = True
            self._is_broken = bool(raw)  # else it is the end that is missing
        self._is_ended |= not raw
        self.text, self.at = self.text[self.at :] + new, 0

    def advance(self, end: int) -> None:
        passed = self.text[self.at : end]
        size = len(passed) if passed.isascii() else len(passed.encode("utf-8"))
        self.place = self.place.behind(passed)._replace(offset=self.place.offset + size)
        self.at = end

    def skip_space(self) -> str:
        """The next character that is none; empty at the end of the file."""
        while True:
            self.advance(SPACE.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if self._is_ended:
                return ""
            self.more()

    def element(self, parser: Parser) -> tuple[Any, str]:
        """The value that begins here and its text, and the window moved behind it.

        Raises:
            UserError: it is broken, too long, or the file ends in it.
        """
        while True:
            try:
                value, end = parser.value_at(self.text, self.at)
                if end < len(self.text) or self._is_ended or isinstance(value, dict | list):
                    text = self.text[self.at : end]
                    self.advance(end)
                    return value, text
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string") or error.pos + NEAR >= len(self.text)
                if self._is_ended or not is_open:
                    raise self._fault(error, is_open) from error
            except (ValueError, RecursionError) as error:
                raise fault_of(self.path, error, "", self.place) from error
            if len(self.text) - self.at >= places.LIMIT_BYTES:
                raise too_long(self.path, self.place)
            self.more()

    def _fault(self, error: json.JSONDecodeError, is_open: bool) -> UserError:
        rest = self.text[self.at :]
        if is_open and self._is_broken:
            return not_utf8(self.path, self.place.behind(rest))
        is_cut = error.pos >= len(self.text.rstrip()) or error.msg.startswith("Unterminated")
        if is_open and is_cut and not rest.rstrip().endswith("]"):
            return self._truncated()
        return broken(self.path, self.place.behind(rest, error.pos - self.at), error.msg)

    def end(self) -> None:
        """See that the list ends here, and the file with it.

        Raises:
            UserError: it does not.
        """
        found = self.skip_space()
        if found == "]":
            self.advance(self.at + 1)
            found = self.skip_space()
            if not found and not self._is_broken:
                return
            detail = "Extra data"
        else:
            detail = "Expecting ',' delimiter"
        if found:
            raise broken(self.path, self.place, detail)
        raise not_utf8(self.path, self.place) if self._is_broken else self._truncated()

    def _truncated(self) -> UserError:
        there = self.place.behind(self.text[self.at :].rstrip())
        return UserError("dataset_truncated", path=self.path, line=there.line, column=there.column)
