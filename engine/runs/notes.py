"""What people say of a run: a title, and a note. No worker reads or writes it; the folder's name stays what it is."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, replace

from filelock import FileLock

from engine.errors import UserError
from engine.runs.folder import Folder, folders_with_notes
from engine.runs.record import write_text

MOST_IN_TITLE = 120
MOST_IN_NOTE = 10_000


@dataclass(frozen=True)
class Notes:
    """Both are empty where nobody said anything."""

    title: str = ""
    note: str = ""


def read_notes(folder: Folder) -> Notes:
    if not folder.may_have_notes:
        return Notes()
    try:
        content = json.loads(folder.notes.read_text(encoding="utf-8"))
        return Notes(str(content.get("title") or ""), str(content.get("note") or ""))
    except (OSError, ValueError, AttributeError):
        return Notes()  # nobody said anything, the run was deleted meanwhile, or somebody edited it by hand


def rename(folder: Folder, title: str) -> str:
    """Give a run a title that is shown beside its name; an empty one takes the title away. Returns it as it is kept.

    Raises:
        UserError: it is too long or has several lines; the run is gone, or its folder cannot be written to.
    """
    title = title.strip()
    if len(title) > MOST_IN_TITLE:
        raise UserError("notes.title_long", length=len(title), most=MOST_IN_TITLE)
    _refuse_controls(title, "")
    _change(folder, title=title)
    return title


def write_note(folder: Folder, note: str) -> str:
    """Keep a text about a run, of one line or several; an empty one takes the note away. Returns it as it is kept.

    Raises:
        UserError: it is too long; the run is gone, or its folder cannot be written to.
    """
    note = note.replace("\r\n", "\n").strip()
    if len(note) > MOST_IN_NOTE:
        raise UserError("notes.note_long", length=len(note), most=MOST_IN_NOTE)
    _refuse_controls(note, "\n\t")
    _change(folder, note=note)
    return note


def titled(title: str) -> list[Folder]:
    """The runs that have exactly this title."""
    return [folder for folder in folders_with_notes() if title and read_notes(folder).title == title]


def _refuse_controls(text: str, allowed: str) -> None:
    """A line break in a title, or what would command a terminal that prints it, is no text."""
    if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") and each not in allowed for each in text):
        raise UserError("notes.controls")


def _change(folder: Folder, **said: str) -> None:
    """Of two people who say something at once, neither undoes what the other said of another thing."""
    if not folder.state.is_file():
        raise UserError("run_unknown", name=folder.name)
    folder = Folder(folder.path)  # whatever was known of its notes before
    try:
        with FileLock(folder.notes_lock):
            notes = replace(read_notes(folder), **said)
            if notes == Notes():
                folder.notes.unlink(missing_ok=True)
            else:
                write_text(folder.notes, json.dumps(vars(notes), ensure_ascii=False, indent=1))
    except OSError as error:
        raise UserError("notes.not_written", name=folder.name, detail=error.strerror or error) from error
