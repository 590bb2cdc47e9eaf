"""The pieces of one row: texts, turns, function calls, tools. Every fault is noted, and reading goes on behind it."""

from __future__ import annotations

import json
import re
from typing import Any

from engine.catalog.entry import Entry
from engine.errors import UserError

Message = dict[str, Any]

FOLLOWS = {
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Who may speak after whom."""

UNREADABLE = object()
"""In place of a value whose JSON text could not be read; the fault has been noted."""

UNKNOWN = "?"
"""Role of a turn that could not be read: what follows it is not held against it."""

VERDICTS = {"true": True, "1": True, "false": False, "0": False}
"""How a csv file writes a yes or no."""

THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Reader:
    """One row, its entry, and all that is found to be wrong with it.

    Keys of a turn that say nothing about what is learned (``name``, ``id`` …) are not read.
    """

    def __init__(self, row: dict[str, Any], entry: Entry, number: int | None) -> None:
        self.row, self.entry, self.number = row, entry, number
        self.faults: list[UserError] = []
        self._turns_before = 0  # of the row's own; 1: a system column was put in front

    def fault(self, key: str, **facts: Any) -> None:
        self.faults.append(UserError(key, dataset=self.entry.name, row=self.number or "?", **facts))

    def column(self, role: str) -> str | None:
        """The column that plays a role. A ranking's two answers are found under their own names, if not said else."""
        return getattr(self.entry.columns, role) or (role if role in ("chosen", "rejected") else None)

    # ---- texts

    def text(self, column: str | None) -> str:
        value = self.row.get(column) if column else None
        if value is None:
            return ""
        if not isinstance(value, str):
            self.fault("dataset_row.not_text", column=column, found=type(value).__name__)
            return ""
        return value

    def needed_text(self, column: str | None) -> str:
        return self.text(column) if self.has(column) else ""

    def has(self, column: str | None, role: str = "prompt") -> bool:
        """Whether there is a value in a column that must have one."""
        if column is not None and self.row.get(column) is not None:
            return True
        names = ", ".join(map(str, self.row))
        self.fault("dataset_row.column_missing", column=role if column is None else column, columns=names)
        return False

    def json(self, text: str, column: str | None) -> Any:
        """What a JSON text stands for; ``UNREADABLE``, and a fault, where it is none."""
        try:
            value = json.loads(text, parse_constant=_refuse)
            json.dumps(value, ensure_ascii=False).encode()  # half a character pair ("\ud800") is no text
            return value
        except (ValueError, RecursionError):
            self.fault("dataset_row.not_json", column=column)
            return UNREADABLE

    # ---- rows in columns

    def alpaca(self) -> list[Message]:
        columns = self.entry.columns
        messages = self.prompt()
        answer = self.text(columns.response) if self.has(columns.response, "response") else ""
        return [*messages, {"role": "assistant", "content": answer}]

    def prompt(self, is_needed: bool = True) -> list[Message]:
        """The turns before the answer."""
        columns = self.entry.columns
        if self.entry.formatting != "alpaca":
            is_there = columns.messages is not None and self.row.get(columns.messages) is not None
            return self.conversation() if is_there or is_needed else []
        if is_needed and not self.row.get(columns.query):
            self.has(columns.prompt)
        parts = [part for part in (self.text(columns.prompt), self.text(columns.query)) if part]
        if not parts and not is_needed:
            return []
        return [*self.system(), *self.history(), {"role": "user", "content": "\n".join(parts)}]

    def system(self) -> list[Message]:
        text = self.text(self.entry.columns.system)
        return [{"role": "system", "content": text}] if text else []

    def history(self) -> list[Message]:
        """Earlier turns of an alpaca row: pairs of question and answer."""
        column = self.entry.columns.history
        pairs = self.row.get(column) or []
        if isinstance(pairs, str):
            pairs = self.json(pairs, column)
        if pairs is None or pairs is UNREADABLE:
            return []
        if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            self.fault("dataset_row.history", column=column)
            return []
        return [message for pair in pairs for message in _from_pair(pair)]

    def verdict(self) -> bool:
        column = self.entry.columns.kto_tag
        value = self.row.get(column)
        if isinstance(value, str):
            value = VERDICTS.get(value.strip().lower(), value)
        if value not in (True, False) or isinstance(value, float):
            self.fault("dataset_row.kto_tag", column=column, found=value)
        return bool(value)

    # ---- rows of turns

    def conversation(self) -> list[Message]:
        column = self.entry.columns.messages
        if not self.has(column, "messages"):
            return []
        turns = self.row[column]
        if isinstance(turns, str):
            turns = self.json(turns, column)
            if turns is UNREADABLE:
                return []
        messages = self.turns(turns, column)
        if not messages:
            return []
        system = self.system()
        if messages[0]["role"] == "system":
            if system and system[0]["content"].strip() != messages[0]["content"].strip():
                self.fault("dataset_row.two_systems", column=self.entry.columns.system)
            return messages
        self._turns_before = len(system)
        return [*system, *messages]

    def turns(self, turns: Any, column: str | None) -> list[Message]:
        if not isinstance(turns, list) or not turns:
            self.fault("dataset_row.no_turns", column=column)
            return []
        return [message for number, turn in enumerate(turns, start=1) for message in self.turn(turn, number)]

    def turn(self, turn: Any, number: int) -> list[Message]:
        """One turn, or both of a pair: ``[question, answer]``, ``{"human": question, "gpt": answer}``."""
        tags = self.entry.tags
        if _is_pair(turn):
            return _from_pair(turn)
        if not isinstance(turn, dict) or tags.role_tag not in turn:
            pair = [turn.get(tags.user_tag), turn.get(tags.assistant_tag)] if isinstance(turn, dict) else None
            if _is_pair(pair):
                return _from_pair(pair)
            self.fault("dataset_row.no_role", turn=number, role_tag=tags.role_tag)
            return [{"role": UNKNOWN, "content": ""}]
        return [self.message(turn, turn[tags.role_tag], number)]

    def message(self, turn: dict[str, Any], speaker: Any, number: int) -> Message:
        tags = self.entry.tags
        if speaker in (tags.function_tag, tags.assistant_tag) and turn.get("weight", 1) not in (1, None):
            self.fault("dataset_row.weight", turn=number, weight=turn["weight"])
        if speaker == tags.function_tag:
            return self.call_turn(turn, number)
        roles = {
            tags.user_tag: "user",
            tags.assistant_tag: "assistant",
            tags.observation_tag: "tool",
            tags.system_tag: "system",
        }
        role = roles.get(speaker, UNKNOWN) if isinstance(speaker, str) else UNKNOWN
        if role == UNKNOWN:
            self.fault(
                "dataset_row.unknown_role", turn=number, role=speaker, roles=", ".join([*roles, tags.function_tag])
            )
        called = turn.get("tool_calls") or turn.get("function_call")
        message = {"role": role, "content": self.content(turn, number, may_be_empty=bool(called))}
        if called:
            if role not in ("assistant", UNKNOWN):
                self.fault("dataset_row.function_call", turn=number)
            message["tool_calls"] = self.calls(called, number)
        return message

    def content(self, turn: dict[str, Any], number: int, may_be_empty: bool) -> str:
        """A turn's text, with the thought that led to it in front.

        OpenAI also allows a list of parts, no content beside calls, and the thought apart as ``reasoning_content``.
        """
        content = turn.get(self.entry.tags.content_tag)
        if isinstance(content, list) and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
        ):
            content = "".join(part["text"] for part in content)
        if content is None and may_be_empty:
            content = ""
        thought = turn.get("reasoning_content") or ""
        if not isinstance(content, str) or not isinstance(thought, str):
            self.fault("dataset_row.no_text", turn=number, content_tag=self.entry.tags.content_tag)
            return ""
        thought = thought.strip("\n")
        return f"<think>\n{thought}\n</think>\n\n{content}" if thought else content

    def call_turn(self, turn: dict[str, Any], number: int) -> Message:
        """A turn that is nothing but calls, perhaps behind the thought that led to them."""
        called = turn.get(self.entry.tags.content_tag)
        thought = ""
        if isinstance(called, str):
            if begin := THOUGHT.match(called):
                thought, called = begin[0], called[begin.end() :]
        elif not isinstance(called, dict | list):
            self.fault("dataset_row.no_text", turn=number, content_tag=self.entry.tags.content_tag)
            return {"role": "assistant", "content": ""}
        return {"role": "assistant", "content": thought, "tool_calls": self.calls(called, number)}

    def calls(self, content: Any, number: int) -> list[dict[str, Any]]:
        """Function calls in the shape of chat templates, from JSON text or from OpenAI's list."""
        if isinstance(content, str):
            content = self.json(content, self.entry.tags.function_tag)
            if content is UNREADABLE:
                return []
        if content == []:
            self.fault("dataset_row.function_call", turn=number)
        calls = []
        for call in content if isinstance(content, list) else [content]:
            function = _named_function(call)
            if function is None:
                self.fault("dataset_row.function_call", turn=number)
                continue
            arguments = function.get("arguments")
            if arguments is None:
                arguments = {}
            elif isinstance(arguments, str):
                arguments = self.json(arguments, "arguments")
            if isinstance(arguments, dict):
                calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
            elif arguments is not UNREADABLE:
                self.fault("dataset_row.function_call", turn=number)
        return calls

    def answers(self, role: str) -> list[Message]:
        """What a ranking's column holds: a text, one turn, or a conversation."""
        column = self.column(role)
        if not self.has(column):
            return []
        value = self.row[column]
        if isinstance(value, str):
            return [{"role": "assistant", "content": value}]
        return self.turns([value] if isinstance(value, dict) else value, column)

    def check_order(self, messages: list[Message]) -> None:
        """System first if at all, then user (or tools' results) and assistant in turn, an assistant last."""
        if not messages:
            return
        before = "system"
        for position, message in enumerate(messages, start=1):
            role = message["role"]
            is_first = role == "system" and position == 1
            if UNKNOWN not in (role, before) and role not in FOLLOWS[before] and not is_first:
                self.fault("dataset_row.order", turn=position - self._turns_before, role=role, before=before)
            before = role
        if before not in ("assistant", UNKNOWN):
            self.fault("dataset_row.no_answer", role=before)

    def tools(self) -> str | None:
        """Definitions of tools as a JSON list in text; a single one may stand without its list."""
        column = self.entry.columns.tools
        given = self.row.get(column) if column else None
        tools = given
        if isinstance(given, str):
            tools = self.json(given, column) if given.strip() else None
        if tools is None or tools is UNREADABLE or tools == []:
            return None
        listed = [tools] if isinstance(tools, dict) else tools
        if not isinstance(listed, list) or None in map(_named_function, listed):
            self.fault("dataset_row.tools", column=column)
            return None
        is_as_given = isinstance(given, str) and listed is tools
        return given if is_as_given else json.dumps(listed, ensure_ascii=False)


def _named_function(value: Any) -> dict[str, Any] | None:
    """The function that a call or the definition of a tool names: bare, or wrapped in "function"."""
    function = value.get("function", value) if isinstance(value, dict) else None
    return function if isinstance(function, dict) and isinstance(function.get("name"), str) else None


def _is_pair(turn: Any) -> bool:
    return isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn)


def _from_pair(pair: Any) -> list[Message]:
    return [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]


def _refuse(name: str) -> None:
    """NaN, Infinity: Python's reader takes them, JSON does not know them."""
    raise ValueError(name)
