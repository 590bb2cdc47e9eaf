"""The double click: the same jobs from the same page within a moment are one wish, not two."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from engine.options.base import Options
from engine.runs.folder import QUEUE, Folder
from engine.runs.record import write_text

MOMENT_S = 3.0
NOTES = QUEUE / "recent.json"


def seen_before(jobs: Sequence[Options], token: str | None) -> list[Folder]:
    """The runs that the first click began; empty: this is the first.

    Args:
        token: names the page; None: nothing counts as a double click.
    """
    if token is None:
        return []
    noted = _recent().get(_key(jobs, token))
    folders = [Folder(Path(path)) for path in noted["folders"]] if noted else []
    return folders if all(folder.state.is_file() for folder in folders) else []


def take_note(jobs: Sequence[Options], token: str | None, folders: Sequence[Folder]) -> None:
    if token is not None:
        note = {"time": time.time(), "folders": [str(folder.path) for folder in folders]}
        write_text(NOTES, json.dumps({**_recent(), _key(jobs, token): note}))


def _recent() -> dict[str, dict]:
    try:
        noted = json.loads(NOTES.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {key: note for key, note in noted.items() if abs(time.time() - note["time"]) < MOMENT_S}


def _key(jobs: Sequence[Options], token: str) -> str:
    said = json.dumps([token, *([job.kind, job.values()] for job in jobs)], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()
