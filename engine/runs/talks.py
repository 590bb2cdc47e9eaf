"""Conversations that outlive the browser in which they are held: a file each, under a name that only it knows.

The worker writes one while it answers; the page reads it when it is opened again, and changes it between answers.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.runs.chat import Piece
from engine.runs.folder import TALKS
from engine.runs.record import write_text

MOST = 200
"""More conversations are not kept; the oldest go."""
SILENT_S = 15.0
"""An answer of which nothing was written for so long is given no more, where no worker is there to give it."""


@dataclass(frozen=True)
class Answer:
    """What has been said of an answer. Args: piece: the last one; error: ``key`` and ``facts`` of why it ended."""

    text: str
    piece: Piece | None = None
    error: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        return self.error is not None or (self.piece is not None and self.piece.is_last)


@dataclass(frozen=True)
class Talk:
    """Args: messages: turns with ``role`` and ``content``; answer: to the last of them, if it was asked for."""

    messages: list[dict[str, Any]]
    answer: Answer | None = None

    def whole(self) -> list[dict[str, Any]]:
        """The turns with what has been said of the answer."""
        said = self.answer.text if self.answer else ""
        return [*self.messages, {"role": "assistant", "content": said}] if said else list(self.messages)


def new_name() -> str:
    return secrets.token_hex(16)


def check_name(name: Any) -> str:
    """Raises: ValueError, for what :func:`new_name` never gives: it may come from a browser, and is part of a path."""
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-f]{32}", name):
        raise ValueError("not the name of a conversation")
    return name


def write_talk(name: str, talk: Talk) -> None:
    TALKS.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(_path(name), json.dumps(asdict(talk), ensure_ascii=False))
    if talk.answer is None or talk.answer.is_over:
        _thin_out()


def read_talk(name: str) -> Talk | None:
    """None: there is no such conversation, or none that can be read."""
    try:
        content = json.loads(_path(name).read_text(encoding="utf-8"))
        answer = content["answer"]
        if answer is not None:
            answer = Answer(answer["text"], Piece(**answer["piece"]) if answer["piece"] else None, answer["error"])
        return Talk(content["messages"], answer)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_silent(name: str) -> bool:
    """Whether nothing of it was written for so long that its worker must be busy with others, or gone."""
    try:
        return time.time() - _path(name).stat().st_mtime > SILENT_S
    except OSError:
        return True


def forget_talk(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return TALKS / f"{check_name(name)}.json"


def _thin_out() -> None:
    written = []
    for path in TALKS.glob("*.json"):
        try:
            written.append((path.stat().st_mtime, path))
        except OSError:
            continue  # somebody else has just forgotten it
    for _, path in sorted(written)[:-MOST]:
        path.unlink(missing_ok=True)
