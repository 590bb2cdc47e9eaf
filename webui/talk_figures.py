"""What is said below an answer: how long, how fast, and how much of the context is used."""

from __future__ import annotations

from typing import Any

from engine.runs.chat import Piece
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.words import words
from webui.form import notice
from webui.language import escaped


def context_of(folder: Folder) -> int | None:
    """How many tokens the loaded model can hold; None: it does not say."""
    return (read_state(folder).result or {}).get("context_length")


def figures(piece: Piece, context: int | None, max_new_tokens: int, language: str) -> str:
    """Args: piece: the last one of the answer; max_new_tokens: that the next answer may have."""
    facts: dict[str, Any] = {"prompt": piece.prompt_tokens, "tokens": piece.tokens, "seconds": f"{piece.seconds:.1f}"}
    facts["rate"] = f"{piece.tokens / piece.seconds:.1f}" if piece.seconds else "–"
    text = escaped(words("talk.speed", language, **facts))
    if piece.finish_reason in ("length", "stopped"):
        text += " · " + escaped(words(f"page.chat.{'cut' if piece.finish_reason == 'length' else 'stopped'}", language))
    said = f'<p class="fine">{text}</p>'
    if not context:
        return said
    used = piece.prompt_tokens + piece.tokens
    filled = words("talk.context", language, used=used, context=context)
    said += f'<p class="fine context"><meter value="{used}" max="{context}"></meter> {escaped(filled)}</p>'
    room = context - used
    if room < min(max_new_tokens, context // 8):
        said += notice("warning", escaped(words("talk.nearly_full", language, room=max(room, 0))))
    return said
