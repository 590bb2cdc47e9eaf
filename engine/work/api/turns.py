"""Messages and tools as OpenAI's API writes them → as chat templates read them."""

from __future__ import annotations

import json
from typing import Any

from engine.work.api.errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""What a role is called by a chat template; "developer" is OpenAI's later name for "system"."""


def read_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Raises: ApiError, for a role or a content that this model cannot read."""
    return [_turn(message, f"messages.{number}") for number, message in enumerate(messages)]


def read_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Raises: ApiError, for a tool that is no function with a name."""
    for number, tool in enumerate(tools):
        function = tool.get("function")
        is_function = tool.get("type") == "function" and isinstance(function, dict)
        if not is_function or not isinstance(function.get("name"), str):
            raise ApiError("api.not_a_tool", param=f"tools.{number}")
    return [
        {"type": "function", "function": {"description": "", "parameters": {}, **tool["function"]}} for tool in tools
    ]


def _turn(message: dict[str, Any], place: str) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise ApiError("api.role", param=f"{place}.role", role=role, known=", ".join(ROLES))
    turn: dict[str, Any] = {"role": ROLES[role], "content": _text(message.get("content"), f"{place}.content")}
    calls = message.get("tool_calls") if role == "assistant" else None
    if calls:
        turn["tool_calls"] = _calls(calls, f"{place}.tool_calls")
    elif message.get("content") is None:
        raise ApiError("api.no_content", param=f"{place}.content")
    for name in ("name", "tool_call_id"):
        if isinstance(message.get(name), str):
            turn[name] = message[name]
    return turn


def _text(content: Any, place: str) -> str:
    """Parts of text are joined by line breaks, as they would be read."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ApiError("api.content", param=place, kind=type(content).__name__)
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ApiError("api.content", param=f"{place}.{number}", kind=kind)
        texts.append(part["text"])
    return "\n".join(texts)


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    """With arguments as objects, which is what chat templates write; the API has them as text."""
    read = []
    for number, call in enumerate(calls if isinstance(calls, list) else [calls]):
        try:
            function = call["function"]
            arguments = json.loads(function["arguments"] or "{}")
            if not isinstance(function["name"], str) or not isinstance(arguments, dict):
                raise TypeError("no name, or arguments that are no object")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ApiError("api.not_a_call", param=f"{place}.{number}") from error
        read.append({**call, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return read
