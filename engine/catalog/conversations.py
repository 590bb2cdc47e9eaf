"""A row of a dataset → the messages of a conversation. No row is mended in silence: what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from engine.catalog.entry import Entry
from engine.errors import UserError

Message = dict[str, Any]

IDENTITY = {"name": "Lathe", "author": "the Lathe team"}
"""What ``{{name}}`` and ``{{author}}`` stand for unless somebody says otherwise."""


@dataclass(frozen=True)
class Example:
    """A conversation to learn from.

    Args:
        messages: turns ``{"role", "content"}`` with role system, user, assistant or tool; an assistant's turn that
            calls functions has ``"tool_calls"``, as chat templates expect them: a list of
            ``{"type": "function", "function": {"name", "arguments": {…}}}``.
        tools: definitions of the functions that may be called, a JSON list as text.
    """

    messages: tuple[Message, ...]
    tools: str | None = None


def to_messages(
    row: dict[str, Any], entry: Entry, number: int | None = None, replacements: Mapping[str, str] = IDENTITY
) -> Example:
    """Read a row as its dataset's entry says.

    Args:
        number: the row's number, for the error.
        replacements: what ``{{placeholders}}`` stand for, in a dataset that has any.

    Raises:
        UserError: ``dataset_row.…``, the row does not fit; ``dataset_ranking``, it holds preferences.
    """
    if entry.is_preference:
        raise UserError("dataset_ranking", dataset=entry.name)
    reader = _Reader(row, entry, number)
    messages = reader.alpaca() if entry.formatting == "alpaca" else reader.turns()
    if entry.placeholders:
        messages = [{**message, "content": _replaced(message["content"], replacements)} for message in messages]
    return Example(tuple(messages), reader.tools())


def to_text(row: dict[str, Any], entry: Entry, number: int | None = None) -> str:
    """The plain text of a row, for pre-training.

    Raises:
        UserError: ``dataset_row.…``, there is no text where the entry says.
    """
    reader = _Reader(row, entry, number)
    reader.need(entry.columns.prompt)
    return reader.text(entry.columns.prompt)


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    for name, value in replacements.items():
        text = text.replace("{{" + name + "}}", value)
    return text


class _Reader:
    """One row, its entry, and how to say what is wrong with it."""

    def __init__(self, row: dict[str, Any], entry: Entry, number: int | None) -> None:
        self.row, self.entry, self.number = row, entry, number

    def alpaca(self) -> list[Message]:
        columns = self.entry.columns
        if columns.query not in self.row or not self.row[columns.query]:
            self.need(columns.prompt)
        self.need(columns.response)
        parts = [self.text(columns.prompt), self.text(columns.query)]
        return [
            *self.system(),
            *self.history(),
            {"role": "user", "content": "\n".join(part for part in parts if part)},
            {"role": "assistant", "content": self.text(columns.response)},
        ]

    def system(self) -> list[Message]:
        text = self.text(self.entry.columns.system)
        return [{"role": "system", "content": text}] if text else []

    def history(self) -> Iterable[Message]:
        """Earlier turns of an alpaca row: pairs of question and answer."""
        column = self.entry.columns.history
        pairs = self.row.get(column) or []
        if isinstance(pairs, str):
            pairs = self.json(pairs, column)
        for pair in pairs if isinstance(pairs, list) else [pairs]:
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                self.refuse("dataset_row.history", column=column)
            yield {"role": "user", "content": pair[0]}
            yield {"role": "assistant", "content": pair[1]}

    def turns(self) -> list[Message]:
        column = self.entry.columns.messages
        self.need(column)
        turns = self.row[column]
        if isinstance(turns, str):
            turns = self.json(turns, column)
        if not isinstance(turns, list) or not turns:
            self.refuse("dataset_row.no_turns", column=column)
        messages = [self.message(turn, position) for position, turn in enumerate(turns, start=1)]
        if messages[0]["role"] != "system":
            messages = [*self.system(), *messages]
        self.check_order(messages)
        return messages

    def message(self, turn: Any, position: int) -> Message:
        tags = self.entry.tags
        if not isinstance(turn, dict) or tags.role_tag not in turn:
            self.refuse("dataset_row.no_role", turn=position, role_tag=tags.role_tag)
        speaker = turn[tags.role_tag]
        content = self.content(turn.get(tags.content_tag), turn, position)
        if speaker == tags.function_tag:
            return {"role": "assistant", "content": "", "tool_calls": self.calls(content, position)}
        roles = {
            tags.user_tag: "user",
            tags.assistant_tag: "assistant",
            tags.observation_tag: "tool",
            tags.system_tag: "system",
        }
        if not isinstance(speaker, str) or speaker not in roles:
            self.refuse("dataset_row.unknown_role", turn=position, role=speaker, roles=", ".join(roles))
        message = {"role": roles[speaker], "content": content}
        if turn.get("tool_calls"):
            message["tool_calls"] = self.calls(turn["tool_calls"], position)
        return message

    def content(self, content: Any, turn: dict[str, Any], position: int) -> str:
        """A turn's text; OpenAI also allows a list of parts, and no content beside tool calls."""
        if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
            content = "".join(str(part["text"]) for part in content)
        if content is None and turn.get("tool_calls"):
            return ""
        if not isinstance(content, str):
            self.refuse("dataset_row.no_text", turn=position, content_tag=self.entry.tags.content_tag)
        return content

    def calls(self, content: Any, position: int) -> list[dict[str, Any]]:
        """Function calls in the shape of chat templates, from JSON text or from OpenAI's list."""
        if isinstance(content, str):
            content = self.json(content, self.entry.tags.function_tag)
        calls = []
        for call in content if isinstance(content, list) else [content]:
            function = call.get("function", call) if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                self.refuse("dataset_row.function_call", turn=position)
            arguments = function.get("arguments", {})
            if isinstance(arguments, str):
                arguments = self.json(arguments, "arguments")
            calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
        return calls

    def check_order(self, messages: list[Message]) -> None:
        """System first if at all, then user (or tools' results) and assistant in turn, an assistant last."""
        before = "system"
        follows = {
            "system": ("user",),
            "user": ("assistant",),
            "assistant": ("user", "tool"),
            "tool": ("tool", "assistant"),
        }
        for position, message in enumerate(messages, start=1):
            role = message["role"]
            if role not in follows[before] and not (role == "system" and position == 1):
                self.refuse("dataset_row.order", turn=position, role=role, before=before)
            before = role
        if before != "assistant":
            self.refuse("dataset_row.no_answer", role=before)

    def tools(self) -> str | None:
        tools = self.row.get(self.entry.columns.tools) if self.entry.columns.tools else None
        if not tools:
            return None
        if not isinstance(tools, str):
            return json.dumps(tools, ensure_ascii=False)
        self.json(tools, self.entry.columns.tools)
        return tools

    def need(self, column: str | None) -> None:
        if column is None:
            raise UserError("dataset_without_answers", dataset=self.entry.name)
        if self.row.get(column) is None:
            self.refuse("dataset_row.column_missing", column=column, columns=", ".join(map(str, self.row)))

    def text(self, column: str | None) -> str:
        value = self.row.get(column) if column else None
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse("dataset_row.not_text", column=column, found=type(value).__name__)
        return value

    def json(self, text: str, column: str | None) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            self.refuse("dataset_row.not_json", column=column)

    def refuse(self, key: str, **facts: Any) -> NoReturn:
        raise UserError(key, dataset=self.entry.name, row=self.number or "?", **facts)
