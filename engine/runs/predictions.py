"""The answers of an evaluation as its folder has them: read, narrowed down, sorted, and laid beside another one's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.runs.folder import Folder

Line = dict[str, Any]
RIGHT = ("pattern_match", "exact_match", "json_triple_f1", "json_item_f1", "json_field_f1")
"""Scores by which an answer is right when one of them is full."""
FULL = 100.0


def predictions(folder: Folder) -> tuple[Line, ...]:
    """The lines written so far; a torn last one is left out. Read again only when the file has changed."""
    try:
        found = folder.predictions.stat()
    except OSError:
        return ()  # none yet, or deleted meanwhile
    return _read(folder.predictions, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, changed_ns: int, size: int) -> tuple[Line, ...]:
    found = []
    try:
        for written in path.read_bytes().split(b"\n"):
            try:
                line = json.loads(written)
            except ValueError:
                continue
            if isinstance(line, dict) and "index" in line:
                found.append(line)
    except OSError:
        return ()
    return tuple(found)


def score_names(lines: Iterable[Line]) -> list[str]:
    """All scores that any of these answers has, in the order in which they were found."""
    return list(dict.fromkeys(name for line in lines for name in line.get("scores") or {}))


def is_right(line: Line) -> bool:
    """Whether one of the scores says that the answer is the wanted one."""
    scores = line.get("scores") or {}
    return any(scores.get(name) == FULL for name in RIGHT)


def narrowed(lines: Iterable[Line], text: str = "", wrong_only: bool = False) -> list[Line]:
    """Those with every word of ``text`` in prompt, answer or label; upper and lower case are one."""
    sought = text.casefold().split()
    return [
        line for line in lines
        if not (wrong_only and is_right(line)) and all(word in _text_of(line) for word in sought)
    ]  # fmt: skip


def sorted_by(lines: Iterable[Line], column: str, is_reversed: bool) -> list[Line]:
    """By "row" (the order of the data) or by a score; answers without it come last, equal ones in the data's order."""
    in_order = sorted(lines, key=lambda line: line["index"])
    if column == "row":
        return in_order[::-1] if is_reversed else in_order
    known = [line for line in in_order if column in line["scores"]]
    unknown = [line for line in in_order if column not in line["scores"]]
    return sorted(known, key=lambda line: line["scores"][column], reverse=is_reversed) + unknown


def by_row(lines: Sequence[Line]) -> dict[tuple[str, int], Line]:
    """The lines by where their rows are from, so that another evaluation's can be found."""
    return {(line["dataset"], line["row"]): line for line in lines}


def _text_of(line: Line) -> str:
    return " ".join(str(line.get(name) or "") for name in ("prompt", "predict", "label")).casefold()
