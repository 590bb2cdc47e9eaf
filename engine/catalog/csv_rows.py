"""Rows of text files: the records of a csv file under the names of its first line, or the lines of a plain text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine.catalog import places
from engine.catalog.places import Place, Row, broken, decoded, lines_from, not_utf8, start_of, too_long
from engine.errors import UserError


@dataclass(frozen=True)
class TextLines:
    """A row is a line; empty ones are none."""

    path: Path

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, bytes | UserError]]:
        with self.path.open("rb") as file:
            for at, raw in lines_from(self.path, file, place or start_of(self.path, file)):
                if isinstance(raw, UserError) or raw.strip():
                    yield at, raw

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        if isinstance(piece, UserError):
            return piece
        try:
            return {"text": decoded(self.path, piece, place).rstrip("\r\n")}
        except UserError as error:
            return error


@dataclass(frozen=True)
class CsvRecords:
    """A row is a record, over several lines where its quotes say so."""

    path: Path

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, tuple[list[str], list[str]] | UserError]]:
        csv.field_size_limit(2**31 - 1)  # the standard library's limit of 131072 characters is less than a long text
        with self.path.open("rb") as file:
            start = start_of(self.path, file)
            records = _Records(self.path, file, start)
            at, header = next(records, (start, None))
            if header is None or isinstance(header, UserError):
                if header:
                    yield at, header
                return
            if len(set(header)) < len(header) or not all(header):
                yield at, broken(self.path, at, "header: " + ", ".join(header))
                return
            for at, fields in records if place is None else _Records(self.path, file, place):
                yield at, fields if isinstance(fields, UserError) else (header, fields)

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        if isinstance(piece, UserError):
            return piece
        header, fields = piece
        if len(fields) != len(header):
            facts = {"line": place.line, "found": len(fields), "expected": len(header)}
            return UserError("dataset_csv_fields", path=self.path, **facts)
        return dict(zip(header, fields, strict=True))


class _Records:
    """Records with their places, or what is wrong with one. Empty lines are none."""

    def __init__(self, path: Path, file: IO[bytes], place: Place) -> None:
        self._path, self._place = path, place
        self._lines = lines_from(path, file, place)
        self._waiting: tuple[Place, bytes | UserError] | None = None
        self._fault: UserError | None = None
        self._size = 0
        self._line = place.line
        self._is_over = False
        self._reader = csv.reader(self._texts(), strict=True)

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> tuple[Place, list[str] | UserError]:
        while True:
            self._waiting = None if self._is_over else next(self._lines, None)
            if self._waiting is None:
                raise StopIteration
            self._place, self._fault, self._size = self._waiting[0], None, 0
            try:
                fields = next(self._reader)
            except csv.Error as error:
                where = Place(0, self._line)
                detail = str(error) if self._line == self._place.line else f"{error} (row from line {self._place.line})"
                return self._place, self._fault or broken(self._path, where, detail)
            except StopIteration:  # not one line could be given to the reader: it was too long
                return self._place, self._fault or too_long(self._path, self._place)
            if self._fault or fields:
                return self._place, self._fault or fields

    def _texts(self) -> Iterator[str]:
        """The lines as csv.reader takes them: it asks for as many as a record has."""
        while True:
            if self._waiting is None:
                self._waiting = next(self._lines, None)
            if self._waiting is None:
                return
            (place, raw), self._waiting = self._waiting, None
            self._line = place.line
            self._size += places.LIMIT_BYTES + 1 if isinstance(raw, UserError) else len(raw)
            if self._size > places.LIMIT_BYTES:
                self._fault, self._is_over = too_long(self._path, self._place), True
                return
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError as error:
                there = place.behind(raw[: error.start].decode("utf-8"))
                self._fault = self._fault or not_utf8(self._path, there)
                yield raw.decode("utf-8", "replace")
