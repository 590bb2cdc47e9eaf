"""Files of rows, as plain dictionaries with their row numbers; knows nothing of what the columns mean."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from engine.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")

Row = dict[str, Any]
NumberedRow = tuple[int, Row]
"""A row and its number, counted from 1 within its file."""


def rows_of(path: Path) -> Iterator[NumberedRow]:
    """The rows of a file, or of all files of a folder in the order of their names, numbered on.

    Everything but a JSON array is read row by row, so memory does not grow with the file.

    Raises:
        UserError: the file is missing, unreadable, broken (with line and column) or holds no row.
    """
    number = 0
    for file in files_of(path):
        for row in _rows_of_file(file):
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
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
        if not files:
            raise UserError("dataset_folder_empty", path=path, suffixes=", ".join(SUFFIXES))
        return files
    if not path.is_file():
        raise UserError("dataset_file_missing", path=path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("dataset_suffix", path=path, suffix=path.suffix, suffixes=", ".join(SUFFIXES))
    return [path]


def _rows_of_file(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".arrow"):
            yield from _arrow_rows(path)
            return
        with path.open("rb") as file:
            _refuse_utf16(path, file)
            if suffix == ".csv":
                yield from _csv_rows(path, file)
            elif suffix == ".txt":
                yield from ({"text": line} for _, line in _lines(path, file) if line.strip())
            else:
                yield from _json_rows(path, file)
    except OSError as error:
        raise UserError("file_unreadable", path=path, detail=error.strerror or error) from error


def _refuse_utf16(path: Path, file: IO[bytes]) -> None:
    start = file.read(256)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in start:
        raise UserError("dataset_utf16", path=path)
    file.seek(3 if start.startswith(b"\xef\xbb\xbf") else 0)


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        yield number, _decoded(path, line, number).rstrip("\r\n")


def _decoded(path: Path, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        raise UserError("dataset_not_utf8", path=path, line=first_line + before.count(b"\n"), column=column) from error


def _json_rows(path: Path, file: IO[bytes]) -> Iterator[Row]:
    """An array of objects, or one object a line: told apart by the first character, whatever the file is called."""
    start = file.tell()
    first = next((line.lstrip() for line in file if line.strip()), b"")
    file.seek(start)
    if first.startswith(b"["):
        content = _parsed(path, _decoded(path, file.read()))
        for number, row in enumerate(content, start=1):
            yield _row(path, number, row)
        return
    number = 0
    for line_number, line in _lines(path, file):
        if line.strip():
            number += 1
            yield _row(path, number, _parsed(path, line, line_number))


def _row(path: Path, number: int, content: Any) -> Row:
    if not isinstance(content, dict):
        raise UserError("dataset_row.no_object", dataset=path, row=number, found=type(content).__name__)
    return content


class _NotJson(ValueError):
    """NaN, Infinity: Python's reader takes them, JSON does not know them."""


def _refuse_constant(name: str) -> None:
    raise _NotJson(name)


def _parsed(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        line, column, detail = error.lineno, error.colno, error.msg
        raise UserError("dataset_line", path=path, line=first_line + line - 1, column=column, detail=detail) from error
    except _NotJson as error:
        position = next(m.start(1) for m in re.finditer(r'"(?:\\.|[^"\\])*"|(-?Infinity|NaN)', text) if m[1])
        line = first_line + text.count("\n", 0, position)
        column = position - text.rfind("\n", 0, position)
        raise UserError("dataset_line", path=path, line=line, column=column, detail=str(error)) from error
    except RecursionError as error:
        raise UserError("dataset_line", path=path, line=first_line, column=1, detail="nesting too deep") from error


def _csv_rows(path: Path, file: IO[bytes]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the standard library's limit of 131072 characters is less than a long text
    lines = (_decoded(path, line, number) for number, line in enumerate(file, start=1))
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) < len(header) or not all(header):
            raise UserError("dataset_line", path=path, line=1, column=1, detail="header: " + ", ".join(header))
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                facts = {"found": len(fields), "expected": len(header)}
                raise UserError("dataset_csv_fields", path=path, line=reader.line_num, **facts)
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError("dataset_line", path=path, line=reader.line_num, column=1, detail=str(error)) from error


def _arrow_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".parquet":
            batches = parquet.ParquetFile(path, memory_map=True).iter_batches(batch_size=256)
        else:
            batches = _ipc_batches(ipc, pyarrow.memory_map(str(path)))
        for batch in batches:
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError("dataset_arrow", path=path, detail=str(error).splitlines()[0]) from error


def _ipc_batches(ipc: Any, source: Any) -> Iterator[Any]:
    """Both shapes of an .arrow file: the stream that Hugging Face's datasets writes, and the file with a footer."""
    start = source.read(6)
    source.seek(0)
    if start == b"ARROW1":
        reader = ipc.open_file(source)
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(ipc.open_stream(source))
