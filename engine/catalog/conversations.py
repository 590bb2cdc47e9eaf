"""A row of a dataset → what is learned from it. No row is mended in silence: what does not fit is refused.

The pieces of a row, its turns, calls and tools, are read in ``engine.catalog.turns``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.catalog.entry import Entry
from engine.catalog.turns import UNKNOWN, Message, Reader
from engine.errors import UserError

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


@dataclass(frozen=True)
class Preference:
    """A prompt with a better and a worse answer.

    Args:
        messages: the turns up to the answer; the last one is of the user or a tool.
        chosen, rejected: one turn of the assistant each.
        tools: as in ``Example``.
    """

    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: str | None = None


@dataclass(frozen=True)
class Judged:
    """A conversation whose last turn, the assistant's, is to be made more likely or less."""

    messages: tuple[Message, ...]
    is_desirable: bool
    tools: str | None = None


@dataclass(frozen=True)
class Text:
    """Plain text to go on with, for pre-training."""

    text: str


Row = dict[str, Any]


def to_example(
    row: Row, entry: Entry, number: int | None = None, replacements: Mapping[str, str] = IDENTITY
) -> Example | Preference | Judged | Text:
    """Read a row as its dataset's entry says; ``entry.kind`` decides what comes out.

    Args:
        number: the row's number, for the error.
        replacements: what ``{{placeholders}}`` stand for, in a dataset that has any.

    Raises:
        UserError: ``dataset_row.…``, the row does not fit. It is the first of ``row_faults``.
    """
    reader = Reader(row, entry, number)
    found = _read(reader, entry)
    if reader.faults:
        raise reader.faults[0]
    return _filled(found, replacements) if entry.placeholders else found


def row_faults(row: Row, entry: Entry, number: int | None = None) -> list[UserError]:
    """All that keeps a row from being learned, not only the first fault; nothing: it fits."""
    reader = Reader(row, entry, number)
    _read(reader, entry)
    return reader.faults


def to_messages(
    row: Row, entry: Entry, number: int | None = None, replacements: Mapping[str, str] = IDENTITY
) -> Example:
    """A row as a conversation to learn from.

    Raises:
        UserError: ``dataset_row.…``, the row does not fit; ``dataset_ranking``, the dataset holds preferences;
            ``dataset_without_answers``, it holds plain text.
    """
    if entry.is_preference:
        raise UserError("dataset_ranking", dataset=entry.name)
    if entry.kind == "text":
        raise UserError("dataset_without_answers", dataset=entry.name)
    return to_example(row, entry, number, replacements)


def to_text(row: Row, entry: Entry, number: int | None = None) -> str:
    """The plain text of a row, for pre-training.

    Raises:
        UserError: ``dataset_row.…``, there is no text where the entry says.
    """
    reader = Reader(row, entry, number)
    text = reader.needed_text(entry.columns.prompt)
    if reader.faults:
        raise reader.faults[0]
    return text


def _read(reader: Reader, entry: Entry) -> Example | Preference | Judged | Text:
    """What can be read of a row; what cannot is noted in ``reader.faults``."""
    if entry.kind == "text":
        return Text(reader.needed_text(entry.columns.prompt))
    if entry.kind == "preference":
        return _preference(reader)
    messages = reader.alpaca() if entry.formatting == "alpaca" else reader.conversation()
    reader.check_order(messages)
    tools = reader.tools()
    if entry.kind == "kto":
        return Judged(tuple(messages), reader.verdict(), tools)
    return Example(tuple(messages), tools)


def _preference(reader: Reader) -> Preference:
    """The prompt, and two answers to it.

    The answers are texts, single turns, or whole conversations: then the prompt is what both begin with. Where the
    row has a prompt of its own as well, it must be the same.
    """
    chosen, rejected = reader.answers("chosen"), reader.answers("rejected")
    most = min(len(chosen), len(rejected)) - 1
    shared = next((index for index in range(most) if chosen[index] != rejected[index]), max(most, 0))
    longest = max(len(chosen), len(rejected))
    prompt = reader.prompt(is_needed=longest < 2)
    if shared:
        begin = chosen[:shared]
        system = [message for message in prompt if message["role"] == "system"] or reader.system()
        own = [message for message in prompt if message["role"] != "system"]
        has_system = begin[0]["role"] == "system"
        if own != begin[len(begin) - len(own) :] or (has_system and system and system[0] != begin[0]):
            reader.fault("dataset_row.pair_prompt", chosen=reader.column("chosen"))
        prompt = begin if has_system else [*system, *begin]
    if chosen and rejected and longest > shared + 1:
        reader.fault("dataset_row.pair_turns", chosen=reader.column("chosen"), rejected=reader.column("rejected"))
        return Preference(tuple(prompt), chosen[-1], rejected[-1], reader.tools())
    answers = []
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[-1]["role"] not in ("assistant", UNKNOWN):
            reader.fault("dataset_row.pair_role", column=reader.column(name), role=turns[-1]["role"])
        answers.append(turns[-1] if turns else {"role": "assistant", "content": ""})
    if prompt:
        reader.check_order([*prompt, {"role": "assistant"}])
    return Preference(tuple(prompt), *answers, tools=reader.tools())


def _filled(example: Any, replacements: Mapping[str, str]) -> Any:
    """An example with the assistant's name and maker in place of ``{{name}}`` and ``{{author}}``."""

    def replaced(text: str) -> str:
        for name, value in replacements.items():
            text = text.replace("{{" + name + "}}", value)
        return text

    def said(message: Message) -> Message:
        return {**message, "content": replaced(message["content"])}

    if isinstance(example, Text):
        return Text(replaced(example.text))
    messages = tuple(said(message) for message in example.messages)
    if isinstance(example, Preference):
        return Preference(messages, said(example.chosen), said(example.rejected), example.tools)
    if isinstance(example, Judged):
        return Judged(messages, example.is_desirable, example.tools)
    return Example(messages, example.tools)
