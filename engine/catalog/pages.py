"""Turning the pages of a dataset: where every few rows begin is noted once for each version of its files.

Then a page costs the reading of a few rows, wherever it lies. The notes grow as far as somebody has looked.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from engine.catalog.arrow_rows import ArrowRows
from engine.catalog.datasets import path_of
from engine.catalog.entry import Entry
from engine.catalog.places import Place, Row
from engine.catalog.rows import NumberedRow, files_of, places_and_rows, reading_of
from engine.errors import UserError

NOTED_ROWS = 64
NOTED_BYTES = 2**20
"""A place is noted after so many rows, or so many bytes of them: what a page reads in vain at most."""

AHEAD_BYTES = 8 * 2**20
"""How far beyond its end a page looks, so that the number of rows of a small file is known at once."""

KEPT = 16
"""Datasets whose places are kept at a time."""


def page_of_rows(entry: Entry, start: int, count: int) -> tuple[list[tuple[int, Row | UserError]], int | None]:
    """``count`` rows from row ``start`` (counted from 0) with their numbers, and how many there are.

    A broken row is given out as its fault. The number of rows is None as long as the end was not seen.

    Raises:
        UserError: the dataset cannot be read, or holds nothing at all.
    """
    path = path_of(entry)
    index = _index_of(path)
    total = index.known_to(start + count)
    if total == 0:
        raise UserError("dataset_empty", path=path)
    return list(islice(index.rows_from(start), count)), total


def search_rows(entry: Entry, text: str, after_row: int, count: int) -> list[NumberedRow]:
    """The first ``count`` rows behind row number ``after_row`` in which a text stands, in whatever case.

    Raises:
        UserError: the dataset cannot be read.
    """
    wanted = text.casefold()
    index = _index_of(path_of(entry))
    index.known_to(after_row)
    rows = ((number, row) for number, row in index.rows_from(after_row) if isinstance(row, dict))
    return list(islice(((number, row) for number, row in rows if _contains(row, wanted)), count))


def _contains(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return wanted in value.casefold()
    if isinstance(value, dict):
        return any(_contains(each, wanted) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_contains(each, wanted) for each in value)
    return value is not None and wanted in str(value).casefold()


class _FileIndex:
    """Places in one file. ``count`` rows are known; all of them, if ``is_complete``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.is_complete = False
        self._numbers = [0]
        self._places: list[Place | None] = [None]
        self._resume: tuple[int, Place | None] = (0, None)

    def extend(self, wanted: int, ahead: int) -> int:
        """Look on until more than ``wanted`` rows are known, and ``ahead`` bytes further, or until the file ends.

        Returns:
            How many of these bytes are left.
        """
        if self.is_complete or (wanted < self.count and ahead <= 0):
            return ahead
        try:
            reading = reading_of(self.path)
            if isinstance(reading, ArrowRows):
                self.count, self.is_complete = reading.count, True
                return ahead
            return self._scan(reading.pieces(self._resume[1]), wanted, ahead)
        except (UserError, OSError):  # one row, which says why
            self.count, self.is_complete = self._resume[0] + 1, True
            return ahead

    def _scan(self, pieces: Iterator[tuple[Place, Any]], wanted: int, ahead: int) -> int:
        limit = None
        noted = self._places[-1]
        for number, (place, piece) in enumerate(pieces, start=self._resume[0]):
            self.count = number + 1
            if self.count > wanted and limit is None:
                limit = place.offset + ahead
            if isinstance(piece, UserError):  # perhaps nothing can be read from here on
                continue
            self._resume = (number, place)
            if noted is None or place.offset - noted.offset >= NOTED_BYTES or number - self._numbers[-1] >= NOTED_ROWS:
                if number > self._numbers[-1]:
                    self._numbers.append(number)
                    self._places.append(place)
                noted = place
            if limit is not None and place.offset > limit:
                return 0
        self.is_complete = True
        return 0 if limit is None else max(0, limit - (self._resume[1] or Place(0)).offset)

    def rows_from(self, start: int) -> Iterator[tuple[int, Row | UserError]]:
        """Rows with their numbers in this file, from the row behind ``start`` others."""
        is_arrow = self.path.suffix.lower() in (".parquet", ".arrow")
        if is_arrow:
            before, place = start, Place(start)
        else:
            position = bisect_right(self._numbers, start) - 1
            before, place = self._numbers[position], self._places[position]
        rows = enumerate((row for _, row in places_and_rows(self.path, before, place)), start=before + 1)
        return islice(rows, start - before, None)


class _Index:
    """Places in all files of a dataset."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [_FileIndex(path) for path in paths]
        self._lock = threading.Lock()

    def known_to(self, wanted: int) -> int | None:
        """Look on until ``wanted`` rows are known, and how many there are, if that is known then."""
        with self._lock:
            total, ahead = 0, AHEAD_BYTES
            for file in self._files:
                ahead = file.extend(wanted - total, ahead)
                total += file.count
                if not file.is_complete:
                    return None
            return total

    def rows_from(self, start: int) -> Iterator[tuple[int, Row | UserError]]:
        """Rows with their numbers, from the row behind ``start`` others."""
        before = 0
        for file in self._files:
            first = max(0, start - before)
            with self._lock:
                file.extend(first, 0)
                rows = file.rows_from(first)
            number = 0
            if first < file.count:
                for number, row in rows:
                    yield before + number, row
            before += max(file.count, number)


_indexes: OrderedDict[tuple[Any, ...], _Index] = OrderedDict()
_indexes_lock = threading.Lock()


def _index_of(path: Path) -> _Index:
    """The places that were noted for this version of the files."""
    files = files_of(path)
    states = [file.stat() for file in files]
    version = tuple((str(file), state.st_mtime_ns, state.st_size) for file, state in zip(files, states, strict=True))
    with _indexes_lock:
        index = _indexes.pop(version, None) or _Index(files)
        _indexes[version] = index
        while len(_indexes) > KEPT:
            _indexes.popitem(last=False)
    return index
