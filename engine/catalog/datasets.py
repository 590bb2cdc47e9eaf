"""Which datasets there are, and their rows: ``dataset_info.json`` and the user's own files. The door to all of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from engine.catalog.conversations import IDENTITY, Example, to_messages, to_text
from engine.catalog.entry import OPENAI_COLUMNS, OPENAI_TAGS, SOURCES, Columns, Entry, Tags, entry_from
from engine.catalog.rows import SUFFIXES, NumberedRow, Row, rows_of
from engine.errors import UserError

__all__ = [
    "IDENTITY", "Columns", "Entry", "Example", "Tags", "check_entry", "find_entry", "page_of_rows", "read_rows",
    "registered", "to_messages", "to_text",
]  # fmt: skip

INFO = "dataset_info.json"
CACHED_SIZE_BYTES = 64 * 2**20


def registered(dataset_dir: Path) -> dict[str, Entry]:
    """The datasets of a folder by name, in the order of its ``dataset_info.json``.

    An entry that is not right has a ``problem``; the others are not held up by it.

    Raises:
        UserError: the folder or the file is missing, or the file is not JSON (with line and column).
    """
    path = dataset_dir / INFO
    if not dataset_dir.is_dir():
        raise UserError("dataset_dir_missing", path=dataset_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError("dataset_info_missing", path=path) from error
    except OSError as error:
        raise UserError("file_unreadable", path=path, detail=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UserError("file_not_utf8", path=path, detail=error) from error
    except json.JSONDecodeError as error:
        raise UserError("dataset_line", path=path, line=error.lineno, column=error.colno, detail=error.msg) from error
    if not isinstance(content, dict):
        raise UserError("file_no_mapping", path=path)
    return {name: entry_from(name, value, dataset_dir) for name, value in content.items()}


def find_entry(dataset_dir: Path, name: str) -> Entry:
    """The dataset that a person means by ``name``: a registered name, or a path to a file whose format is recognised.

    Raises:
        UserError: no such dataset (the nearest names are offered), or it cannot be used.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return recognised(path)
    entries = registered(dataset_dir)
    if name not in entries:
        if path.suffix.lower() in SUFFIXES:
            raise UserError("dataset_file_missing", path=path)
        near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
        key = "dataset_unknown_near" if near else "dataset_unknown"
        raise UserError(key, name=name, near=", ".join(near), known=", ".join(entries), folder=dataset_dir)
    check_entry(entries[name])
    return entries[name]


def check_entry(entry: Entry) -> None:
    """See that a dataset can be read at all.

    Raises:
        UserError: its registration is wrong, asks for what is not built yet, or its file is missing.
    """
    if entry.problem:
        raise UserError(entry.problem.key, **entry.problem.facts)
    source = next((key for key in SOURCES if getattr(entry, key)), None)
    media = next((key for key in ("images", "videos", "audios") if getattr(entry.columns, key)), None)
    unbuilt = source or media or ("num_samples" if entry.num_samples else None)
    if unbuilt:
        raise UserError("dataset_key_not_yet", name=entry.name, word=unbuilt)
    if entry.path is None:
        raise UserError("dataset_without_file", name=entry.name)
    if not entry.path.exists():
        raise UserError("dataset_file_missing", path=entry.path)
    if entry.inside and not entry.path.resolve().is_relative_to(entry.inside.resolve()):
        raise UserError("dataset_outside", name=entry.name, path=entry.path.resolve())


def read_rows(entry: Entry) -> Iterator[NumberedRow]:
    """Row number, counted from 1, and row; row by row where the file allows it.

    Raises:
        UserError: the file is missing, broken (``dataset_line``: path, line, column) or empty (``dataset_empty``).
    """
    check_entry(entry)
    return rows_of(entry.path)


def page_of_rows(entry: Entry, start: int, count: int) -> tuple[list[Row], int | None]:
    """``count`` rows from row ``start`` (counted from 0), and how many there are; None: unknown, the file is large."""
    check_entry(entry)
    state = entry.path.stat()
    if entry.path.is_file() and state.st_size <= CACHED_SIZE_BYTES:
        rows = _all_rows(entry.path, state.st_mtime_ns, state.st_size)
        return list(rows[start : start + count]), len(rows)
    return [row for _, row in islice(rows_of(entry.path), start, start + count)], None


@lru_cache(maxsize=2)
def _all_rows(path: Path, changed_ns: int, size_bytes: int) -> tuple[Row, ...]:
    """The rows of a file while it stays as it is: who turns pages reads it once."""
    return tuple(row for _, row in rows_of(path))


def recognised(path: Path) -> Entry:
    """An entry for a file that nobody registered, by the look of its first rows.

    Raises:
        UserError: the rows look like none of the formats.
    """
    rows = [row for _, row in islice(rows_of(path), 20)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    optional = {name: name for name in ("system", "tools", "history", "kto_tag") if name in columns}
    ranking = {"ranking": True} if {"chosen", "rejected"} <= set(columns) else {}
    if ranking:
        optional |= {"chosen": "chosen", "rejected": "rejected"}
    for name in ("messages", "conversations"):
        turn = _first_turn(rows[0].get(name))
        if "role" in turn:
            given = Columns(**{**vars(OPENAI_COLUMNS), **optional, "messages": name})
            return Entry(str(path), path, formatting="openai", columns=given, tags=OPENAI_TAGS, **ranking)
        if "from" in turn:
            return Entry(str(path), path, formatting="sharegpt", columns=Columns(messages=name, **optional), **ranking)
    for prompt, query, response in PAIRS:
        if {prompt, response} <= set(columns) or (ranking and prompt in columns):
            given = Columns(prompt=prompt, query=query, response=response, **optional)
            return Entry(str(path), path, columns=given, **ranking)
    if "text" in columns:
        return Entry(str(path), path, columns=Columns(prompt="text", query=None, response=None))
    raise UserError("dataset_unrecognised", path=path, columns=", ".join(columns))


PAIRS = (
    ("instruction", "input", "output"),
    ("prompt", None, "completion"),
    ("prompt", None, "response"),
    ("question", None, "answer"),
    ("input", None, "output"),
)
"""Columns of prompt, query and response that are recognised together."""


def _first_turn(turns: Any) -> dict[str, Any]:
    is_list = isinstance(turns, list) and turns and isinstance(turns[0], dict)
    return turns[0] if is_list else {}
