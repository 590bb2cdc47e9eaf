"""``runs delete`` and ``runs stop --discard``: what would go is said first, and somebody has to agree."""

from __future__ import annotations

import sys

from engine.errors import UserError
from engine.runs.delete import Freed, delete, discard, freed, refuse_in_use
from engine.runs.delete_words import asked, done
from engine.runs.folder import Folder
from engine.words import words
from terminal.names import find


def delete_them(arguments: list[str], language: str) -> int:
    """Delete the runs that are named. Returns the exit code: 1 if nobody agreed."""
    names = [name for name in arguments if not name.startswith("--")]
    unknown = [word for word in arguments if word.startswith("--") and word != "--yes"]
    if unknown:
        raise UserError("unexpected_word", word=unknown[0])
    if not names:
        raise UserError("run_name_missing", command="delete")
    folders = list({folder.path.resolve(): folder for folder in map(find, names)}.values())
    for folder in folders:
        refuse_in_use(folder)
    shown = [freed(folder) for folder in folders]
    for each in shown:
        print("\n".join(asked("delete", each, language)))
    if not _is_agreed("--yes" in arguments, language):
        return 1
    for each in shown:
        print("\n".join(done(delete(each.folder, each), language)))
    return 0


def discard_it(folder: Folder, is_sure: bool, language: str) -> int:
    """End a run and delete what it left. Returns the exit code: 1 if nobody agreed."""
    shown: Freed = freed(folder)
    print("\n".join(asked("discard", shown, language)))
    if not _is_agreed(is_sure, language):
        return 1
    gone = discard(folder, shown)
    told = done(gone, language) if gone else [words("run_edit.came_back", language, name=folder.name)]
    print("\n".join(told))
    return 0


def _is_agreed(is_sure: bool, language: str) -> bool:
    """Ask, if there is anybody to ask.

    Raises:
        UserError: there is nobody, and ``--yes`` was not said.
    """
    if is_sure:
        return True
    if not sys.stdin.isatty():
        raise UserError("delete.needs_yes")
    print(words("run_edit.agree", language), end=" ", flush=True)
    is_agreed = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not is_agreed:
        print(words("run_edit.kept", language))
    return is_agreed
