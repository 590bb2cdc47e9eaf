"""Where a row begins in its file, and the limits of one row; what all readers of rows share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from engine.errors import UserError

Row = dict[str, Any]
LIMIT_BYTES = 64 * 2**20
"""The longest row. What has no line break or bracket for longer is a broken file, and would fill the memory."""

BOM = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """A point in a file: bytes before it, its line and its column in characters, both counted from 1.

    In an Arrow file, ``offset`` is the number of rows before it.
    """

    offset: int
    line: int = 1
    column: int = 1

    def behind(self, text: str, end: int | None = None) -> Place:
        """The place behind ``text[:end]``, if the text begins here; its offset only holds for ASCII."""
        end = len(text) if end is None else end
        breaks = text.count("\n", 0, end)
        column = end - text.rfind("\n", 0, end) if breaks else self.column + end
        return Place(self.offset + end, self.line + breaks, column)


class Reading(Protocol):
    """How the rows of one file are found and read."""

    path: Path

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, Any]]:
        """Places and raw rows, from a place that was given out before or from the start.

        A piece may be a UserError already: what is there is no row. Nothing is parsed that need not be.
        """

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        """The row that a piece stands for, or what is wrong with it."""


def start_of(path: Path, file: IO[bytes]) -> Place:
    """Where the text of a file begins, behind a byte order mark.

    Raises:
        UserError: it is UTF-16 or no text at all.
    """
    file.seek(0)
    start = file.read(256)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in start:
        raise UserError("dataset_utf16", path=path)
    return Place(len(BOM) if start.startswith(BOM) else 0)


def lines_from(path: Path, file: IO[bytes], place: Place) -> Iterator[tuple[Place, bytes | UserError]]:
    """Lines with their places; of one that is too long only the place is kept."""
    file.seek(place.offset)
    while raw := file.readline(LIMIT_BYTES + 1):
        size = len(raw)
        if size > LIMIT_BYTES:
            is_end = raw.endswith(b"\n")
            raw = b""
            while not is_end and (rest := file.readline(2**20)):
                size += len(rest)
                is_end = rest.endswith(b"\n")
        yield place, raw or too_long(path, place)
        place = Place(place.offset + size, place.line + 1)


def too_long(path: Path, place: Place) -> UserError:
    facts = {"line": place.line, "column": place.column, "limit": LIMIT_BYTES // 2**20}
    return UserError("dataset_row_too_long", path=path, **facts)


def decoded(path: Path, raw: bytes, place: Place) -> str:
    """One line's text.

    Raises:
        UserError: it is not UTF-8, with the place of the first byte that is not.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, place.behind(raw[: error.start].decode("utf-8"))) from error


def not_utf8(path: Path, place: Place) -> UserError:
    return UserError("dataset_not_utf8", path=path, line=place.line, column=place.column)


def broken(path: Path, place: Place, detail: object) -> UserError:
    return UserError("dataset_line", path=path, line=place.line, column=place.column, detail=detail)
