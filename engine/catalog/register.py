"""New datasets: a file into the dataset folder, an entry into its ``dataset_info.json``, and both undone again.

Only the text of the one entry is touched. All else in ``dataset_info.json`` stays as somebody wrote it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.datasets import INFO, check_entry, read_info
from engine.catalog.entry import entry_from
from engine.catalog.rows import NOT_ROWS, SUFFIXES
from engine.errors import UserError

SPACE = re.compile(r"[ \t\r\n]*")
NAME_LENGTH = 100
FILE_NAME_BYTES = 200


@dataclass(frozen=True)
class Registration:
    """What was done, so that it can be undone.

    Args:
        before: the entry of that name as it was written before; None: there was none.
        after: the entry as it is written now.
        is_new_file: whether there was no dataset_info.json before.
    """

    dataset_dir: Path
    name: str
    before: str | None
    after: str
    is_new_file: bool = False


def register(dataset_dir: Path, name: str, description: dict[str, Any], replace: bool = False) -> Registration:
    """Write an entry into ``dataset_info.json``; the file is made where there is none.

    Args:
        description: as ``dataset_info.json`` has it (``entry.description_of``).
        replace: put it in the place of an entry of the same name.

    Raises:
        UserError: the name is taken or not possible, the dataset could not be read, or ``dataset_info.json`` is broken
            (then it is left as it is).
    """
    if not dataset_dir.is_dir():
        raise UserError("dataset_dir_missing", path=dataset_dir)
    if not is_name(name):
        raise UserError("dataset_name", name=name, length=NAME_LENGTH)
    check_entry(entry_from(name, description, dataset_dir))
    with _taken(dataset_dir) as info:
        text = info.text
        member = info.members.get(name)
        if member and not replace:
            raise UserError("dataset_name_taken", name=name, path=info.path)
        after = _written(description, info)
        if member:
            text = text[: member.start] + after + text[member.end :]
        elif info.members:
            last = list(info.all_members)[-1]
            text = f"{text[: last.end]},{info.newline}{info.indent}{_quoted(name)}: {after}{text[last.end :]}"
        else:
            head, tail = text[: text.index("{") + 1], text[text.rindex("}") :]
            text = f"{head}{info.newline}{info.indent}{_quoted(name)}: {after}{info.newline}{tail}"
        _write(info, text)
        before = info.text[member.start : member.end] if member else None
        return Registration(dataset_dir, name, before, after, info.is_new)


def undo(registration: Registration) -> None:
    """Put the entry back as it was, or take it out if there was none.

    Raises:
        UserError: somebody has changed the entry since (``dataset_changed``).
    """
    with _taken(registration.dataset_dir) as info:
        member = info.members.get(registration.name)
        if member is None or info.text[member.start : member.end] != registration.after:
            raise UserError("dataset_changed", name=registration.name, path=info.path)
        text = info.text
        if registration.before is not None:
            _write(info, text[: member.start] + registration.before + text[member.end :])
            return
        if registration.is_new_file and len(info.all_members) == 1:
            info.path.unlink()
            return
        position = info.all_members.index(member)
        if position:
            text = text[: info.all_members[position - 1].end] + text[member.end :]
        elif len(info.all_members) > 1:
            text = text[: member.key] + text[info.all_members[1].key :]
        else:
            text = text[: text.index("{") + 1] + text[text.rindex("}") :]
        _write(info, text)


def unregister(dataset_dir: Path, name: str) -> None:
    """Take an entry out of ``dataset_info.json``; its file stays.

    Raises:
        UserError: there is no such entry, or ``dataset_info.json`` is broken.
    """
    with _taken(dataset_dir) as info:
        member = info.members.get(name)
        if member is None:
            raise UserError("dataset_unknown", name=name, known=", ".join(info.members), folder=dataset_dir)
        written = info.text[member.start : member.end]
    undo(Registration(dataset_dir, name, None, written))


def is_name(name: str) -> bool:
    """Whether a dataset may be called so: letters of any language, digits, space, full stop, underscore and dash."""
    return (
        0 < len(name) <= NAME_LENGTH
        and name == name.strip()
        and not name.startswith((".", "-"))
        and all(each in " ._-" or unicodedata.category(each)[0] in "LNM" for each in name)
    )


def add_file(dataset_dir: Path, source: Path, name: str) -> Path:
    """Copy a file into the dataset folder, under its name or one like it that is free.

    The copy appears as a whole or not at all.

    Args:
        name: what the file is called where it comes from; folders in it are left out.

    Raises:
        UserError: it is of a kind that is not read, or cannot be read or written.
    """
    if not dataset_dir.is_dir():
        raise UserError("dataset_dir_missing", path=dataset_dir)
    stem, suffix = _safe(name)
    if suffix.lower() not in SUFFIXES:
        raise UserError("dataset_suffix", path=name, suffix=suffix, suffixes=", ".join(SUFFIXES))
    try:
        with source.open("rb") as read:
            target = _reserved(dataset_dir, stem, suffix)
            try:
                handle, temporary = tempfile.mkstemp(dir=dataset_dir, prefix=".", suffix=".tmp")
                try:
                    with open(handle, "wb") as write:
                        shutil.copyfileobj(read, write, 2**20)
                    os.chmod(temporary, target.stat().st_mode)
                    os.replace(temporary, target)
                except BaseException:
                    os.unlink(temporary)
                    raise
            except BaseException:
                target.unlink()
                raise
    except OSError as error:
        raise UserError("file_not_copied", path=name, folder=dataset_dir, detail=error.strerror or error) from error
    return target


def _reserved(folder: Path, stem: str, suffix: str) -> Path:
    """An empty file under a name that was free; nobody else can take it any more."""
    for number in count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
        try:
            if path.name not in NOT_ROWS:
                path.open("xb").close()
                return path
        except FileExistsError:
            continue
    raise AssertionError


def _safe(name: str) -> tuple[str, str]:
    """A name for a file that is no path and no trouble in a shell, in two parts: before the suffix, and the suffix."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1])
    name = "".join("_" if each in '<>:"|?*' or not each.isprintable() else each for each in name).strip().lstrip(".-")
    path = Path(name)
    stem = path.stem
    while len(stem.encode()) > FILE_NAME_BYTES:
        stem = stem[:-1]
    return stem.strip() or "dataset", path.suffix


# ---- dataset_info.json as text


class _Member(NamedTuple):
    """Where an entry is written: its key begins, its value begins and ends."""

    key: int
    start: int
    end: int


class _Info(NamedTuple):
    path: Path
    text: str
    all_members: list[_Member]
    members: dict[str, _Member]
    is_new: bool = False

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    @property
    def indent(self) -> str:
        first = self.all_members[0].key if self.all_members else 0
        found = self.text[:first].rpartition("\n")[2] if "\n" in self.text[:first] else ""
        return found if found and found.isspace() else "  "


@contextmanager
def _taken(dataset_dir: Path) -> Iterator[_Info]:
    """The file as it is, while nobody else can change it through here."""
    if not dataset_dir.is_dir():
        raise UserError("dataset_dir_missing", path=dataset_dir)
    path = (dataset_dir / INFO).resolve()  # a link stays one
    try:
        with (dataset_dir / f".{INFO}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield _read(path)
    except OSError as error:
        raise UserError("file_not_written", path=path, detail=error.strerror or error) from error


def _read(path: Path) -> _Info:
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return _Info(path, "{\n}\n", [], {}, is_new=True)
    read_info(path, written)
    text = written.decode("utf-8")
    named = list(_members(text))
    return _Info(path, text, [member for _, member in named], dict(named))


def _members(text: str) -> Iterator[tuple[str, _Member]]:
    """The entries of a mapping that is known to be JSON."""
    decoder = json.JSONDecoder()
    at = SPACE.match(text, text.index("{") + 1).end()
    while text[at] != "}":
        key = at
        name, at = decoder.raw_decode(text, at)
        start = SPACE.match(text, text.index(":", at) + 1).end()
        _, end = decoder.raw_decode(text, start)
        yield name, _Member(key, start, end)
        at = SPACE.match(text, end).end()
        if text[at] == ",":
            at = SPACE.match(text, at + 1).end()


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _written(description: dict[str, Any], info: _Info) -> str:
    text = json.dumps(description, ensure_ascii=False, indent=info.indent)
    return text.replace("\n", info.newline + info.indent)


def _write(info: _Info, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=info.path.parent, prefix=f".{INFO}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        mode = info.path.stat().st_mode & 0o777 if info.path.exists() else 0o644
        os.chmod(temporary, mode)
        os.replace(temporary, info.path)
    except BaseException:
        os.unlink(temporary)
        raise
