"""A look into a dataset before it is learned: a few rows at a time, as the conversations they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.datasets import Entry, find_entry, page_of_rows, registered, to_messages
from engine.errors import UserError
from engine.words import has_words, words
from webui.form import notice
from webui.frame import QUICK, Frame
from webui.language import escaped, marked

ROWS = 3


def dataset_names(folder: str) -> list[str]:
    """The datasets registered in a folder; none where that cannot be told (the form says why at the start)."""
    try:
        return list(registered(Path(folder or ".")))
    except UserError:
        return []


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
        entry = find_entry(Path(folder or "."), names[-1])
        rows, total = page_of_rows(entry, start, ROWS)
        if not rows and start:
            start = max(0, start - ROWS)
            rows, total = page_of_rows(entry, start, ROWS)
        shown = "".join(_row(row, entry, start + index + 1, language) for index, row in enumerate(rows))
    except UserError as error:
        return notice("error", marked(error.text(language))), 0
    facts = {"name": names[-1], "first": start + 1, "last": start + len(rows), "total": "?" if total is None else total}
    return f"<h4>{escaped(words('page.rows.heading', language, **facts))}</h4>{shown}", start


def _row(row: dict[str, Any], entry: Entry, number: int, language: str) -> str:
    """One row as the conversation that is learned; one that does not fit says why."""
    try:
        messages = to_messages(row, entry, number).messages
    except UserError as error:
        return notice("error", marked(error.text(language)))
    turns = "".join(
        f'<div class="turn {escaped(message["role"])}"><span>{escaped(_role(message["role"], language))}</span>'
        f"<p>{escaped(message.get('content') or message.get('tool_calls') or '')}</p></div>"
        for message in messages
    )
    return f'<section class="row-card" aria-label="{number}">{turns}</section>'


def _role(role: str, language: str) -> str:
    return words(f"page.roles.{role}", language) if has_words(f"page.roles.{role}") else role
