"""Which datasets there are, and their rows: ``dataset_info.json`` and the user's own files. The door to all of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.catalog.conversations import IDENTITY, Example, row_faults, to_example, to_messages, to_text
from engine.catalog.entry import MEDIA, Columns, Entry, Tags, entry_from
from engine.catalog.json_rows import fault_of
from engine.catalog.places import Place
from engine.catalog.recognise import recognise, settled
from engine.catalog.rows import SUFFIXES, NumberedRow, files_of, rows_of
from engine.errors import UserError

__all__ = [
    "IDENTITY", "Columns", "Entry", "Example", "Tags", "check_entry", "find_entry", "is_file", "path_of", "read_rows",
    "recognise", "registered", "row_faults", "settled", "to_example", "to_messages", "to_text",
]  # fmt: skip

INFO = "dataset_info.json"


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
        content = read_info(path, path.read_bytes())
    except FileNotFoundError as error:
        raise UserError("dataset_info_missing", path=path) from error
    except OSError as error:
        raise UserError("file_unreadable", path=path, detail=error.strerror) from error
    return {name: entry_from(name, value, dataset_dir) for name, value in content.items()}


def read_info(path: Path, written: bytes) -> dict[str, Any]:
    """The mapping that a ``dataset_info.json`` holds.

    Raises:
        UserError: it is not UTF-8, not JSON (with line and column), or no mapping.
    """
    try:
        content = json.loads(written.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError("file_not_utf8", path=path, detail=error) from error
    except json.JSONDecodeError as error:
        raise UserError("dataset_line", path=path, line=error.lineno, column=error.colno, detail=error.msg) from error
    except (ValueError, RecursionError) as error:
        raise fault_of(path, error, "", Place(0)) from error
    if not isinstance(content, dict):
        raise UserError("file_no_mapping", path=path)
    return content


def find_entry(dataset_dir: Path, name: str) -> Entry:
    """The dataset that a person means by ``name``: a registered name, or a path to a file whose format is recognised.

    Raises:
        UserError: no such dataset (the nearest names are offered), or it cannot be used.
    """
    path = Path(name).expanduser()
    if is_file(name):
        return recognise(path)
    entries = registered(dataset_dir)
    if name not in entries:
        if path.suffix.lower() in SUFFIXES:
            raise UserError("dataset_file_missing", path=path)
        near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
        key = "dataset_unknown_near" if near else "dataset_unknown"
        raise UserError(key, name=name, near=", ".join(near), known=", ".join(entries), folder=dataset_dir)
    check_entry(entries[name])
    return settled(entries[name])


def is_file(name: str) -> bool:
    """Whether a name is the path of a file that is there, whatever it holds."""
    path = Path(name).expanduser()
    return path.suffix.lower() in SUFFIXES and path.is_file()


def check_entry(entry: Entry) -> None:
    """See that a dataset can be read, or fetched where it lies on a hub.

    Raises:
        UserError: its registration is wrong, asks for what Lathe does not do, or its file is missing.
    """
    if entry.problem:
        raise UserError(entry.problem.key, **entry.problem.facts)
    media = [getattr(entry.columns, key) for key in MEDIA if getattr(entry.columns, key)]
    if media:
        raise UserError("dataset_media", name=entry.name, word=", ".join(media))
    if entry.is_remote:
        return
    if entry.path is None:
        unfetched = "dataset_openmind" if entry.om_hub_url else "dataset_script" if entry.script_url else None
        raise UserError(unfetched or "dataset_without_file", name=entry.name)
    part = [key for key in ("split", "subset", "folder") if getattr(entry, key) != getattr(Entry(""), key)]
    if part and entry.url is None:  # else its rows were fetched
        raise UserError("dataset_split_of_file", name=entry.name, word=", ".join(part))
    if not entry.path.exists():
        raise UserError("dataset_file_missing", path=entry.path)
    if entry.inside:
        folder = entry.inside.resolve()
        for path in (entry.path, *(files_of(entry.path) if entry.path.is_dir() else ())):
            if not path.resolve().is_relative_to(folder):
                raise UserError("dataset_outside", name=entry.name, path=path.resolve())


def path_of(entry: Entry) -> Path:
    """The file or folder of a dataset that can be read right away.

    Raises:
        UserError: as ``check_entry``; ``dataset_not_here``, its rows have yet to be fetched.
    """
    check_entry(entry)
    if entry.path is None:
        raise UserError("dataset_not_here", name=entry.name, hub=entry.url)
    return entry.path


def read_rows(entry: Entry) -> Iterator[NumberedRow]:
    """Row number, counted from 1, and row, one after the other.

    Raises:
        UserError: the file is missing, broken (``dataset_line``: path, line, column) or empty (``dataset_empty``).
    """
    return rows_of(path_of(entry))
