"""``runs rename`` and ``runs note``: what people say of a run, said or read in the terminal."""

from __future__ import annotations

from engine.runs.folder import Folder
from engine.runs.notes import read_notes, rename, write_note
from engine.words import words


def say(word: str, folder: Folder, texts: list[str], language: str) -> int:
    """Keep the title or the note; without a text, print what there is. Returns the exit code."""
    if not texts:
        notes = read_notes(folder)
        print(notes.title if word == "rename" else notes.note)
        return 0
    kept = (rename if word == "rename" else write_note)(folder, " ".join(texts))
    title = "title_kept" if kept else "title_gone"
    said = title if word == "rename" else "note_kept" if kept else "note_gone"
    print(words(f"run_edit.{said}", language, name=folder.name))
    return 0
