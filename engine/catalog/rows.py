"""Files of rows, as plain dictionaries with their row numbers; knows nothing of what the columns mean.

A file is read row by row, so memory does not grow with it, and one row has a limit. How, is said for each kind of
file in ``json_rows``, ``csv_rows`` and ``arrow_rows``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.catalog.arrow_rows import ArrowRows
from engine.catalog.csv_rows import CsvRecords, TextLines
from engine.catalog.json_rows import json_reading
from engine.catalog.places import Place, Reading, Row
from engine.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")
NOT_ROWS = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files beside the rows in a dataset folder and in one that Hugging Face's datasets has saved."""

NumberedRow = tuple[int, Row]
"""A row and its number, counted from 1 within its dataset."""


def rows_of(path: Path) -> Iterator[NumberedRow]:
    """The rows of a file, or of all files of a folder in the order of their names, numbered on.

    Raises:
        UserError: the file is missing, unreadable, broken (with line and column) or holds no row.
    """
    for number, row in rows_and_faults(path):
        if isinstance(row, UserError):
            raise row
        yield number, row


def rows_and_faults(path: Path) -> Iterator[tuple[int, Row | UserError]]:
    """As ``rows_of``, but a broken row is given out as its fault and keeps its number.

    Reading goes on behind a broken line of jsonl, csv and text, and behind a value that is no row in a JSON list; it
    ends where it cannot be told any more where the next row begins.

    Raises:
        UserError: there is no such file, or it holds nothing at all.
    """
    number = 0
    for file in files_of(path):
        for _, row in places_and_rows(file, number):
            number += 1
            yield number, row
    if not number:
        raise UserError("dataset_empty", path=path)


def files_of(path: Path) -> list[Path]:
    """The data files that a path stands for.

    Raises:
        UserError: there is none, or it is of a kind that is not read.
    """
    if path.is_dir():
        found = (each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.name not in NOT_ROWS)
        files = sorted(each for each in found if each.is_file() and not each.name.startswith("."))
        if not files:
            raise UserError("dataset_folder_empty", path=path, suffixes=", ".join(SUFFIXES))
        return files
    if not path.is_file():
        raise UserError("dataset_file_missing", path=path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("dataset_suffix", path=path, suffix=path.suffix, suffixes=", ".join(SUFFIXES))
    return [path]


def reading_of(path: Path) -> Reading:
    """How the rows of one file are read, by its name and, for JSON, its first character.

    Raises:
        UserError: it is no text, though its name says so.
        OSError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        return ArrowRows(path)
    if suffix == ".csv":
        return CsvRecords(path)
    return TextLines(path) if suffix == ".txt" else json_reading(path)


def places_and_rows(path: Path, before: int = 0, place: Place | None = None) -> Iterator[tuple[Place, Row | UserError]]:
    """The rows of one file with their places, from a place that was given out before or from the start.

    Args:
        before: number of the row before the first one.
    """
    at = place or Place(0)
    try:
        reading = reading_of(path)
        for number, (at, piece) in enumerate(reading.pieces(place), start=before + 1):
            yield at, reading.parse(at, piece, number)
    except UserError as error:
        yield at, error
    except OSError as error:
        yield at, UserError("file_unreadable", path=path, detail=error.strerror or error)
