"""The format of a file that nobody registered, by the look of its first rows; what is not sure, the person says.

The names of the columns and most of the values decide. A value that does not fit is a fault of its row only.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.entry import OPENAI_COLUMNS, OPENAI_TAGS, Columns, Entry, Tags
from engine.catalog.places import Row
from engine.catalog.rows import rows_and_faults
from engine.errors import UserError

LOOKED_AT = 20

PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("instruction", "context", "response"),
    ("instruction", "input", "answer"),
    ("prompt", "input", "completion"),
    ("prompt", "input", "response"),
    ("prompt", "input", "output"),
    ("prompt", "input", "answer"),
    ("question", "context", "answer"),
    ("question", None, "response"),
    ("question", None, "output"),
    ("query", None, "response"),
    ("query", None, "answer"),
    ("problem", None, "solution"),
    ("input", None, "output"),
)
"""Columns of prompt, query and response that are recognised together, the first that are there; the query may be
missing."""

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "turns", "chat")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
TEXTS = ("text", "content")
SYSTEMS = ("system", "system_prompt")
ROLES, CONTENTS = ("role", "from", "speaker"), ("content", "value", "text")
USERS = ("user", "human", "prompter", "User", "Human", "question", "input")
ASSISTANTS = ("assistant", "gpt", "model", "bot", "chatgpt", "Assistant", "answer", "output")
SYSTEM_ROLES, TOOL_ROLES = ("system",), ("tool", "observation", "function_response", "tool_response", "function")
CALL_ROLES = ("function_call", "tool_call")

ABOUT_A_ROW = {
    "author", "category", "created", "dataset", "date", "domain", "file", "format", "hash", "id", "idx", "index",
    "label", "lang", "language", "level", "license", "link", "meta", "metadata", "model", "name", "origin", "path",
    "source", "split", "subset", "tag", "tags", "task", "time", "timestamp", "title", "topic", "type", "url", "uuid",
    "version",
}  # fmt: skip
"""Words in the names of columns that say something about a row, and are not there to be learned."""


def recognise(path: Path) -> Entry:
    """An entry for a file that nobody registered.

    Raises:
        UserError: the rows look like none of the formats (``dataset_unrecognised``), or none can be read.
    """
    look = _Look.at(path)
    entry = _ranking(look) or _turns(look) or _pairs(look)
    if entry:
        return entry
    text = next((name for name in TEXTS if look.has(name, str)), None)
    if text:
        return Entry(str(path), path, columns=Columns(prompt=text, query=None, response=None))
    raise UserError("dataset_unrecognised", path=path, columns=", ".join(map(str, look.columns)))


def columns_of(path: Path) -> list[str]:
    """The names of the columns in the first rows of a file, in the order in which they come.

    Raises:
        UserError: not one row can be read.
    """
    return list(dict.fromkeys(name for row in _first_rows(path) for name in row))


def unused_columns(path: Path, entry: Entry) -> list[str]:
    """Columns with text in the first rows that an entry leaves out, but for what only says where a row comes from.

    Raises:
        UserError: not one row can be read.
    """
    look = _Look.at(path)
    used = _used(entry)
    return [
        name
        for name in look.columns
        if name not in used
        and ABOUT_A_ROW.isdisjoint(re.split(r"[\W_]+", str(name).lower()))
        and any(isinstance(row.get(name), str) and row[name].strip() for row in look.rows)
    ]


def _used(entry: Entry) -> set[str | None]:
    """The columns that are read of a row of this kind."""
    columns = entry.columns
    if entry.kind == "text":
        return {columns.prompt}
    asked = {columns.prompt, columns.query, columns.history} if entry.formatting == "alpaca" else {columns.messages}
    if entry.kind == "preference":
        asked |= {columns.chosen or "chosen", columns.rejected or "rejected"}
    elif entry.formatting == "alpaca":
        asked.add(columns.response)
    return asked | {columns.system, columns.tools, columns.kto_tag}


def settled(entry: Entry) -> Entry:
    """The entry, with what only a look at its rows can tell.

    An entry that names no column but ``prompt`` is one of plain text, unless the rows have the ``output`` that is the
    documented default of the response.
    """
    if not entry.only_prompt or entry.path is None:
        return entry
    plain = Columns()
    try:
        has_answers = plain.response in columns_of(entry.path)
    except UserError:  # told by whoever reads the rows
        return entry
    if not has_answers or entry.columns.prompt == plain.response:
        return entry
    columns = dataclasses.replace(entry.columns, query=plain.query, response=plain.response)
    return dataclasses.replace(entry, columns=columns, only_prompt=False)


def _first_rows(path: Path) -> list[Row]:
    found = [row for _, row in islice(rows_and_faults(path), LOOKED_AT)]
    rows = [row for row in found if isinstance(row, dict)]
    if not rows:
        raise found[0]
    return rows


class _Look(NamedTuple):
    """The first rows of a file, all their columns, and those that most rows have."""

    path: Path
    rows: list[Row]
    columns: list[str]
    usual: list[str]

    @classmethod
    def at(cls, path: Path) -> _Look:
        rows = _first_rows(path)
        counts = Counter(name for row in rows for name in row)
        return cls(path, rows, list(counts), [name for name in counts if 2 * counts[name] >= len(rows)])

    def has(self, column: str, kind: type) -> bool:
        """Whether it is a usual column, and most of its values are of a kind."""
        return column in self.usual and self.holds(column, kind)

    def holds(self, column: str, kind: type) -> bool:
        values = [row[column] for row in self.rows if row.get(column) is not None]
        fitting = sum(isinstance(value, kind) for value in values)
        return fitting > 0 and 2 * fitting >= len(values)

    def has_text(self, column: str) -> bool:
        """Whether it is a usual column, and at least one of its values is a text."""
        return column in self.usual and any(isinstance(row.get(column), str) for row in self.rows)

    def entry(self, **further: Any) -> Entry:
        return Entry(str(self.path), self.path, **further)


class _Speakers(NamedTuple):
    """What the turns of a column look like."""

    tags: Tags
    is_openai: bool


def _ranking(look: _Look) -> Entry | None:
    """Two answers to one prompt: texts, single turns or whole conversations."""
    if not {"chosen", "rejected"} <= set(look.usual):
        return None
    optional = {**_optional(look, kto=()), "chosen": "chosen", "rejected": "rejected"}
    talks = [name for name in (*CONVERSATIONS, "prompt") if _speakers(look, name)]
    shapes = Counter(filter(None, (_shape(row.get("chosen")) for row in look.rows))).most_common(1)
    shape = shapes[0][0] if shapes else "text"
    if shape == "conversation":  # the prompt is what both begin with
        talk, speakers = None, _speakers(look, "chosen")
    elif shape == "turn":
        talk, speakers = next(iter(talks), None), _speakers(look, "chosen")
        if not talk and speakers:
            entry = _prompted(look, optional)
            return dataclasses.replace(entry, tags=speakers.tags) if entry else None
    else:
        talk = next(iter(talks), None)
        speakers = _speakers(look, talk) if talk else None
        if not speakers:
            return _prompted(look, optional)
    return _talk(look, talk, speakers, optional, ranking=True) if speakers else None


def _shape(answer: Any) -> str | None:
    """What one answer of a ranking is."""
    if isinstance(answer, list) and len(answer) > 1:
        return "conversation"
    if isinstance(answer, list | dict):
        return "turn"
    return "text" if isinstance(answer, str) else None


def _prompted(look: _Look, optional: dict[str, str]) -> Entry | None:
    prompt = next((name for name in PROMPTS if look.has(name, str)), None)
    if prompt is None:
        return None
    query = "input" if prompt == "instruction" else None
    return look.entry(ranking=True, columns=Columns(prompt=prompt, query=query, **optional))


def _turns(look: _Look) -> Entry | None:
    """A column of turns, whatever their keys and speakers are called."""
    for name in CONVERSATIONS:
        speakers = _speakers(look, name)
        if speakers:
            return _talk(look, name, speakers, _optional(look, kto=("kto_tag", "label")))
    return None


def _talk(
    look: _Look, messages: str | None, speakers: _Speakers, optional: dict[str, str], ranking: bool = False
) -> Entry:
    plain = OPENAI_COLUMNS if speakers.is_openai else Columns()
    columns = dataclasses.replace(plain, messages=messages, **{k: v for k, v in optional.items() if k != "history"})
    formatting = "openai" if speakers.is_openai else "sharegpt"
    return look.entry(formatting=formatting, ranking=ranking, columns=columns, tags=speakers.tags)


def _pairs(look: _Look) -> Entry | None:
    """The first pair of columns that there is. Where its values are odd, no lesser one is taken in its place."""
    for prompt, query, response in PAIRS:
        if not look.has_text(prompt) or not look.has_text(response):
            continue
        if not look.holds(prompt, str) or not look.holds(response, str):
            return None
        kto = ("kto_tag", "label") if response == "completion" else ("kto_tag",)
        if query not in look.columns:
            query = query if query == Columns().query and prompt == Columns().prompt else None
        elif not look.holds(query, str) and any(row.get(query) is not None for row in look.rows):
            query = None
        given = Columns(prompt=prompt, query=query, response=response, **_optional(look, kto))
        return look.entry(columns=given)
    return None


def _optional(look: _Look, kto: Iterable[str]) -> dict[str, str]:
    """Columns that may stand beside the others: system, tools, history and the verdict on an answer."""
    found = {name: name for name in ("tools", "history") if name in look.columns}
    system = next((name for name in SYSTEMS if look.holds(name, str)), None)
    found |= {"system": system} if system else {}
    verdicts = [name for name in kto if look.holds(name, bool) or (name == "kto_tag" and name in look.columns)]
    return found | ({"kto_tag": verdicts[0]} if verdicts else {})


def _speakers(look: _Look, column: str) -> _Speakers | None:
    """How a column says who speaks; None: it holds no turns."""
    if not look.has(column, list | dict):
        return None
    turns = []
    for row in look.rows:
        value = row.get(column)
        turns += value if isinstance(value, list) else [value] if isinstance(value, dict) else []
    mappings = [turn for turn in turns if isinstance(turn, dict)]
    pairs = sum(isinstance(turn, list) and len(turn) == 2 for turn in turns)
    if pairs and 2 * pairs >= len(turns):
        return _Speakers(Tags(), False)
    if not mappings or 2 * len(mappings) < len(turns):
        return None
    keys = Counter(key for turn in mappings for key in turn)
    role = _commonest(ROLES, keys)
    if role is None or 2 * keys[role] < len(mappings):  # a turn may be both question and answer
        user, assistant = _commonest(USERS, keys), _commonest(ASSISTANTS, keys)
        return _Speakers(Tags(user_tag=user, assistant_tag=assistant), False) if user and assistant else None
    is_openai = role == "role" and "content" in keys
    plain = OPENAI_TAGS if is_openai else Tags()
    said = Counter(turn[role] for turn in mappings if isinstance(turn.get(role), str))
    given = {
        "role_tag": role,
        "content_tag": _commonest(CONTENTS, keys),
        "user_tag": _commonest(USERS, said),
        "assistant_tag": _commonest(ASSISTANTS, said),
        "system_tag": _commonest(SYSTEM_ROLES, said),
        "observation_tag": _commonest(TOOL_ROLES, said),
        "function_tag": _commonest(CALL_ROLES, said),
    }
    return _Speakers(dataclasses.replace(plain, **{key: value for key, value in given.items() if value}), is_openai)


def _commonest(names: Iterable[str], counts: Counter[str]) -> str | None:
    """Of these names the one that comes most often, of equals the first; None: none of them comes."""
    found = max(names, key=lambda name: counts[name])
    return found if counts[found] else None
