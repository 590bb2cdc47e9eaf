"""What a file's columns mean: said in a sentence, and corrected by drop-downs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.entry import OPENAI_TAGS, Entry, Tags, entry_from
from engine.catalog.rows import Row
from engine.words import words
from webui.controls import NOTHING
from webui.frame import QUICK, Frame

FORMATS = {
    "alpaca": ("prompt", "query", "response", "system", "history", "tools"),
    "sharegpt": ("messages", "system", "tools"),
    "openai": ("messages", "tools"),
    "preference": ("prompt", "query", "messages", "chosen", "rejected", "system"),
    "kto": ("prompt", "query", "response", "messages", "kto_tag", "system"),
    "text": ("prompt",),
}
"""Kind of data → the roles that its columns can play."""
ROLES = tuple(dict.fromkeys(role for roles in FORMATS.values() for role in roles))
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")
ALONE = ("prompt", "query", "response")
"""Roles that there are only where no column holds a list of turns."""
WITH_TURNS = ("sharegpt", "openai", "preference", "kto")

SYNONYMS = {
    "prompt": ("instruction", "prompt", "question", "query", "user", "input", "text"),
    "response": ("output", "response", "answer", "completion", "reply", "assistant", "target"),
    "messages": ("messages", "conversations", "conversation", "dialog", "turns"),
    "chosen": ("chosen", "better"),
    "rejected": ("rejected", "worse"),
    "kto_tag": ("kto_tag", "label"),
    "system": ("system",),
    "tools": ("tools",),
}
"""Names of columns that are proposed for a role; only where nothing better is known."""


class ColumnControls:
    """A drop-down for the kind of data, one for each role, and the names of turns."""

    def __init__(self, frame: Frame) -> None:
        make = frame.texts.make
        self.format = make(
            gr.Dropdown, {"label": "page.data.format", "info": "page.data.format_help", "choices": format_choices},
            value="alpaca", elem_id="map-format", filterable=False,
        )  # fmt: skip
        with gr.Row(elem_classes="fields"):
            self.roles = {
                role: make(
                    gr.Dropdown, {"label": f"page.map.{role}"}, choices=_columns_and_none([]), value=NOTHING,
                    elem_id=f"map-{role}", min_width=120, visible=role in FORMATS["alpaca"],
                )
                for role in ROLES
            }  # fmt: skip
            self.tags = {
                tag: make(
                    gr.Dropdown, {"label": f"page.map.{tag}"}, choices=[], value=getattr(Tags(), tag),
                    allow_custom_value=True, elem_id=f"map-{tag}", min_width=120, visible=False,
                )
                for tag in TAGS
            }  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        """What ``mapped_entry`` takes after the path."""
        return [self.format, *self.roles.values(), *self.tags.values()]

    def connect(self, preview: Any, asked: list[Any], shown: Any) -> None:
        """Args: preview: called with the values of ``asked`` after each choice of a person; its result is ``shown``."""
        self.format.input(visibility, self.format, [*self.roles.values(), *self.tags.values()], **QUICK)
        gr.on([each.input for each in self.inputs], preview, asked, shown, trigger_mode="always_last", **QUICK)

    def filled(self, entry: Entry | None, columns: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
        """An update for each of ``inputs``: what was recognised, or else what the columns' names suggest."""
        kind = format_of(entry) if entry else _guessed_format(columns)
        roles = asdict(entry.columns) if entry else _guessed_roles(columns)
        tags = asdict(entry.tags if entry else OPENAI_TAGS if kind == "openai" else Tags())
        keys, names = turn_words(rows, roles.get("messages"))
        choices = {"role_tag": keys, "content_tag": keys, "user_tag": names, "assistant_tag": names}
        updates = [gr.update(value=kind)]
        for role, seen in zip(ROLES, visibility(kind), strict=False):
            value = roles.get(role) if roles.get(role) in columns else None
            updates.append(gr.update(choices=_columns_and_none(columns), value=value or NOTHING, **_of(seen)))
        for tag, seen in zip(TAGS, visibility(kind)[len(ROLES) :], strict=True):
            updates.append(gr.update(choices=choices[tag], value=tags[tag], **_of(seen)))
        return updates


def format_choices(language: str) -> list[tuple[str, str]]:
    return [(words(f"page.formats.{name}", language), name) for name in FORMATS]


def format_of(entry: Entry) -> str:
    """Which of ``FORMATS`` an entry is."""
    return entry.kind if entry.kind != "sft" else entry.formatting


def visibility(kind: str) -> list[dict[str, Any]]:
    """One update for each role and tag: whether this kind of data has it."""
    seen = [role in FORMATS[kind] for role in ROLES] + [kind in WITH_TURNS] * len(TAGS)
    return [gr.update(visible=each) for each in seen]


def mapped_entry(path: Path, kind: str, *values: str) -> Entry:
    """A file, read as the controls say; ``kind`` and ``values`` are those of ``ColumnControls.inputs``."""
    chosen = dict(zip((*ROLES, *TAGS), values, strict=True))
    columns = {role: chosen[role] or None for role in FORMATS[kind]}
    tags = {tag: chosen[tag] for tag in TAGS if chosen[tag]}
    formatting = kind if kind == "openai" else "sharegpt" if kind == "sharegpt" or columns.get("messages") else "alpaca"
    if formatting == "alpaca":
        columns, tags = {"query": None, "response": None, **columns}, {}
        columns.pop("messages", None)
    else:
        columns = {role: column for role, column in columns.items() if role not in ALONE}
    said = {"file_name": path.name, "formatting": formatting, "columns": columns, "tags": tags}
    entry = entry_from(path.name, {**said, "ranking": kind == "preference"}, path.parent)
    return replace(entry, inside=None)


def roles_in(entry: Entry) -> list[tuple[str, str]]:
    """(role, column) for each column that has one."""
    columns = asdict(entry.columns)
    unused = ("messages",) if entry.formatting == "alpaca" else ALONE
    return [(role, columns[role]) for role in FORMATS[format_of(entry)] if columns.get(role) and role not in unused]


def turn_words(rows: Sequence[Row], column: str | None) -> tuple[list[str], list[str]]:
    """The keys that turns have in the first rows, and what their speakers are called."""
    keys: dict[str, None] = {}
    names: dict[str, None] = {}
    for row in rows:
        turns = row.get(column) if column else None
        for turn in turns if isinstance(turns, list) else []:
            if isinstance(turn, dict):
                keys.update(dict.fromkeys(map(str, turn)))
                short = [value for value in turn.values() if isinstance(value, str) and 0 < len(value) <= 24]
                names.update(dict.fromkeys(short))
    return list(keys), list(names)[:20]


def _guessed_format(columns: Sequence[str]) -> str:
    roles = _guessed_roles(columns)
    if roles.get("chosen") and roles.get("rejected"):
        return "preference"
    if roles.get("messages"):
        return "sharegpt"
    return "text" if list(columns) == ["text"] else "alpaca"


def _guessed_roles(columns: Sequence[str]) -> dict[str, str]:
    by_name = {column.lower(): column for column in reversed(columns)}
    found: dict[str, str] = {}
    for role, names in SYNONYMS.items():
        near = next((by_name[name] for name in names if name in by_name), None)
        if near and near not in found.values():
            found[role] = near
    if len(columns) == 2 and not {"messages", "chosen", "rejected"} & set(found):
        first, second = columns
        if found.get("prompt") == second or found.get("response") == first:
            first, second = second, first
        return {"prompt": first, "response": second}
    return found


def _columns_and_none(columns: Sequence[str]) -> list[tuple[str, str]]:
    return [("–", NOTHING), *((column, column) for column in columns)]


def _of(update: dict[str, Any]) -> dict[str, Any]:
    return {"visible": update["visible"]}
