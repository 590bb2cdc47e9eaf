"""What a deletion does, in sentences, for the terminal and the page alike."""

from __future__ import annotations

from engine.catalog.devices import memory_text
from engine.runs.delete import Freed
from engine.words import words

MOST_NAMES = 12


def asked(act: str, shown: Freed, language: str) -> list[str]:
    """What would happen, the first line in short.

    Args:
        act: "delete" or "discard".
    """
    name = shown.folder.name
    if shown.comes_back:
        return [words("run_edit.comes_back", language, name=name)]
    key = "run_edit.would_delete" if act == "delete" else "run_edit.would_discard"
    lines = [words(key, language, name=name, size=size_text(shown.size_bytes), files=shown.files)]
    if shown.checkpoints:
        names, count = _listed(shown.checkpoints), len(shown.checkpoints)
        lines.append(words("run_edit.checkpoints", language, count=count, names=names))
    if shown.stays:
        lines.append(words("run_edit.stays", language, folder=shown.folder.path, names=_listed(shown.stays)))
    if shown.needed_by:
        lines.append(words("run_edit.needed_by", language, names=_listed(shown.needed_by)))
    return lines


def done(gone: Freed, language: str) -> list[str]:
    """What has happened."""
    size = size_text(gone.size_bytes)
    lines = [words("run_edit.deleted", language, name=gone.folder.name, size=size)]
    if gone.stays:
        lines.append(words("run_edit.stays", language, folder=gone.folder.path, names=_listed(gone.stays)))
    return lines


def size_text(size_bytes: int) -> str:
    return memory_text(size_bytes) if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
