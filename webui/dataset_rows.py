"""Rows of a dataset as the conversations they stand for, and a small look at them beside the training form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.catalog.conversations import Example, Judged, Message, Preference, Text, to_example
from engine.catalog.datasets import Entry, registered
from engine.catalog.pages import page_of_rows
from engine.catalog.rows import Row
from engine.errors import UserError
from engine.words import has_words, words
from webui.access.allowed import allowed_entry, allowed_path
from webui.form import notice
from webui.frame import QUICK, Frame
from webui.language import escaped, marked

ROWS = 3
MOST_CHARACTERS = 20_000
"""Of one turn: a page of rows stays small enough for a phone, whatever somebody put into a row."""


def dataset_names(folder: str) -> list[str]:
    """The datasets registered in a folder; none where that cannot be told (the form says why at the start)."""
    try:
        return list(registered(allowed_path(folder)))
    except UserError:
        return []


def conversation(example: Example | Preference | Judged | Text, language: str) -> str:
    """What is learned from, as HTML: its turns one below the other; two answers side by side, a verdict as a chip."""
    if isinstance(example, Text):
        return _turn("text", example.text, language)
    turns = "".join(_message(message, language) for message in example.messages)
    tools = _turn("tools", example.tools, language) if example.tools else ""
    if isinstance(example, Preference):
        sides = "".join(
            f'<div class="side {name}">{_turn(name, content_of(message), language)}</div>'
            for name, message in (("chosen", example.chosen), ("rejected", example.rejected))
        )
        return f'{tools}{turns}<div class="sides">{sides}</div>'
    return tools + turns + (verdict(example, language) if isinstance(example, Judged) else "")


def verdict(example: Judged, language: str) -> str:
    name = "desirable" if example.is_desirable else "undesirable"
    return f'<p><span class="chip verdict {name}">{escaped(words(f"page.roles.{name}", language))}</span></p>'


def content_of(message: Message) -> str:
    """A turn's text, and below it the functions it calls."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, [message.get("content") or "", *calls]))


def row_conversation(row: Row | UserError, entry: Entry, number: int, language: str) -> str:
    """One row as the conversation that is learned; one that does not fit says why, with what it holds."""
    if isinstance(row, UserError):
        return notice("error", marked(row.text(language)))
    try:
        return conversation(to_example(row, entry, number), language)
    except UserError as error:
        held = json.dumps(row, ensure_ascii=False, default=str)
        return notice("error", marked(error.text(language))) + _turn("as_it_is", held, language)


class DatasetRows:
    """A button that opens the rows, and buttons that turn the page."""

    def __init__(self, frame: Frame, folder: Any, datasets: Any) -> None:
        self._frame, self._folder, self._datasets = frame, folder, datasets
        make = frame.texts.make
        self._open = make(gr.Button, {"value": "page.buttons.preview_rows"}, size="sm", elem_id="preview-rows")
        with gr.Column(visible=False, elem_classes="rows-panel", elem_id="rows-panel") as self._panel:
            self._rows = gr.HTML(elem_id="rows", js_on_load=None)
            with gr.Row(elem_classes="buttons"):
                self._back = make(gr.Button, {"value": "page.buttons.back"}, size="sm", min_width=80)
                self._next = make(gr.Button, {"value": "page.buttons.next"}, size="sm", min_width=80)
                self._close = make(gr.Button, {"value": "page.buttons.close"}, size="sm", min_width=80)
        self._start = gr.State(0)

    def connect(self) -> None:
        inputs = [self._frame.language, self._folder, self._datasets, self._start]
        outputs = [self._panel, self._rows, self._start]
        self._open.click(lambda *seen: _turned(*seen[:3], 0), inputs, outputs, **QUICK)
        self._back.click(lambda *seen: _turned(*seen[:3], max(0, seen[3] - ROWS)), inputs, outputs, **QUICK)
        self._next.click(lambda *seen: _turned(*seen[:3], seen[3] + ROWS), inputs, outputs, **QUICK)
        self._close.click(lambda: gr.update(visible=False), None, self._panel, **QUICK)


def _turned(language: str, folder: str, names: Sequence[str], start: int) -> list[Any]:
    return [gr.update(visible=True), *_rows(language, folder, names, start)]


def _rows(language: str, folder: str, names: Sequence[str], start: int) -> tuple[str, int]:
    """The rows from ``start`` on, of the chosen dataset that was added last; and where the page begins."""
    if not names:
        return notice("warning", escaped(words("page.rows.choose", language))), 0
    try:
        entry = allowed_entry(folder, names[-1])
        rows, total = page_of_rows(entry, start, ROWS)
        if not rows and start:
            start = max(0, start - ROWS)
            rows, total = page_of_rows(entry, start, ROWS)
    except UserError as error:
        return notice("error", marked(error.text(language))), 0
    shown = "".join(
        f'<section class="row-card" aria-label="{number}">{row_conversation(row, entry, number, language)}</section>'
        for number, row in rows
    )
    facts = {"name": names[-1], "first": start + 1, "last": start + len(rows), "total": "?" if total is None else total}
    return f"<h4>{escaped(words('page.rows.heading', language, **facts))}</h4>{shown}", start


def _message(message: Message, language: str) -> str:
    return _turn(message["role"], content_of(message), language)


def _turn(role: str, text: str, language: str) -> str:
    """One turn; of one that is enormous its beginning, and how much more there is."""
    shown = escaped(text[:MOST_CHARACTERS])
    if len(text) > MOST_CHARACTERS:
        more = words("page.rows.more_characters", language, count=f"{len(text) - MOST_CHARACTERS:,}")
        shown += f' <em class="fine">{escaped(more)}</em>'
    name = words(f"page.roles.{role}", language) if has_words(f"page.roles.{role}") else role
    return f'<div class="turn {escaped(role)}"><span>{escaped(name)}</span><p>{shown}</p></div>'
