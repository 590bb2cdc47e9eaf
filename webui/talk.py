"""A conversation as the page shows it ⇄ plain turns ⇄ a file that training can take. Knows no event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from engine.catalog.reasoning import joined, parted
from engine.errors import UserError
from engine.runs.chat import Piece
from engine.words import words

Turn = dict[str, Any]
WAITING = "…"
INTERVAL_S = 0.04
ROLES = ("system", "user", "assistant", "tool")
OF_A_TOOL = {"id": "tool"}
"""What a chatbot, which knows two roles, keeps of a message that a tool gave."""


def shown(messages: list[Turn], language: str, is_going_on: bool = False) -> list[Turn]:
    """Turns as a chatbot takes them: a thought is a message of its own, which is folded once it has ended.

    Args:
        is_going_on: whether more of the last answer is to come.
    """
    found: list[Turn] = []
    for number, turn in enumerate(messages):
        if turn["role"] != "assistant":
            mark = {"metadata": OF_A_TOOL} if turn["role"] == "tool" else {}
            found.append({"role": "user", "content": turn["content"], **mark})
            continue
        thought, answer, is_thinking = parted(turn["content"])
        if thought is not None:
            is_pending = is_thinking and is_going_on and number == len(messages) - 1
            title = words("talk.thinking" if is_pending else "talk.thought", language)
            about = {"title": title, "status": "pending" if is_pending else "done"}
            found.append({"role": "assistant", "content": thought or WAITING, "metadata": about})
        if answer or thought is None:
            found.append({"role": "assistant", "content": answer})
    return found


def told(pieces: Iterator[Piece]) -> Iterator[tuple[str, Piece]]:
    """All that has been said so far, with the latest piece: as often as an eye can follow, and at the end."""
    text, at = "", 0.0
    for piece in pieces:
        text += piece.text
        if piece.is_last or time.monotonic() - at > INTERVAL_S:
            at = time.monotonic()
            yield text, piece


def spoken(talk: list[Turn]) -> list[Turn]:
    """The turns behind a chatbot's value: Gradio keeps a content as a list of parts, and thoughts apart."""
    messages: list[Turn] = []
    thought = None
    for turn in talk:
        content = text_of(turn["content"])
        if (turn.get("metadata") or {}).get("title"):
            thought = content
            continue
        if turn["role"] == "assistant":
            content = joined(thought, content)
        elif thought is not None:
            messages.append({"role": "assistant", "content": joined(thought, "")})  # it was stopped in mid-thought
        is_tool = (turn.get("metadata") or {}).get("id") == OF_A_TOOL["id"]
        messages.append({"role": "tool" if is_tool else turn["role"], "content": content})
        thought = None
    return [*messages, {"role": "assistant", "content": joined(thought, "")}] if thought is not None else messages


def text_of(content: Any) -> str:
    """The text of a message's content, or of what was typed over it."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in parts if part)


def question_before(talk: list[Turn], index: int) -> int:
    """Where the question stands that a message at ``index`` is, or answers; -1: there is none."""
    return next((at for at in range(min(index, len(talk) - 1), -1, -1) if talk[at]["role"] == "user"), -1)


def to_file(messages: list[Turn], tools: str | None) -> str:
    """A conversation as one row of a dataset: JSON with ``messages``, thoughts apart, and ``tools``."""
    turns = []
    for turn in messages:
        thought, answer, _ = parted(turn["content"]) if turn["role"] == "assistant" else (None, turn["content"], False)
        turns.append({"role": turn["role"], "content": answer, **({"reasoning_content": thought} if thought else {})})
    row = {"messages": turns, **({"tools": tools} if tools and tools.strip() else {})}
    return json.dumps([row], ensure_ascii=False, indent=1) + "\n"


def from_file(text: str) -> tuple[list[Turn], str | None]:
    """The first conversation in a file, JSON or JSON Lines, and its tools.

    Raises:
        UserError: there is none in it.
    """
    try:
        content = json.loads(text)
    except ValueError:
        content = _first_line(text)
    if isinstance(content, list) and content and isinstance(content[0], dict) and "messages" in content[0]:
        content = content[0]
    row = content if isinstance(content, dict) else {"messages": content}
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise UserError("talk.no_messages")
    tools = row.get("tools")
    tools = tools if isinstance(tools, str) or tools is None else json.dumps(tools, ensure_ascii=False, indent=1)
    return [_turn(turn, number) for number, turn in enumerate(turns, start=1)], tools


def _first_line(text: str) -> Any:
    try:
        return json.loads(next((line for line in text.split("\n") if line.strip()), ""))
    except ValueError as error:
        raise UserError("talk.not_json", detail=error) from error


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        raise UserError("talk.wrong_turn", turn=number)
    thought = turn.get("reasoning_content")
    text = joined(thought, turn["content"]) if isinstance(thought, str) and thought else turn["content"]
    return {"role": turn["role"], "content": text}
