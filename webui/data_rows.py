"""Rows of the chosen dataset by page, found by text or by number; one of them open, as the model will see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.catalog.conversations import to_example
from engine.catalog.datasets import Entry
from engine.catalog.pages import page_of_rows, search_rows
from engine.catalog.rows import Row
from engine.errors import UserError
from engine.words import words
from webui.access.allowed import allowed_entry
from webui.data_seen import SETTINGS, as_the_model_sees, settings_job
from webui.dataset_rows import row_conversation
from webui.form import notice, refusal
from webui.frame import PRIVATE, QUICK, Frame
from webui.language import escaped, marked

ROWS = 10
FIRST: dict[str, Any] = {"start": 0, "open": 1, "query": "", "after": [0], "of": None}
"""Where a visitor is: the page begins behind ``start`` rows; of a search, behind the last of the rows ``after``.
``of`` says in which folder and dataset."""

LONG = {"trigger_mode": "always_last", "concurrency_limit": None, **PRIVATE}
"""An event that may have to read a large file from its start, so it is not answered on the spot."""

ON_ROW_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-row]');
  if (button) trigger('select', {row: Number(button.dataset.row)});
});
"""
KEEP_FOCUS = "() => setTimeout(() => document.querySelector('#data-rows [data-clicked]')?.focus(), 100)"
SHOW_OPEN = """
() => setTimeout(() => {
  const row = document.querySelector('#data-rows .data-row.open');
  row?.querySelector('button').focus({preventScroll: true});
  row?.scrollIntoView({block: 'start', behavior: 'smooth'});
}, 250)
"""
"""The list is made anew by each click; the keyboard stays where it was. (The browser does not know a state.)"""


class DataRows:
    def __init__(self, frame: Frame, dataset: Any, folder: Any) -> None:
        """Args: dataset, folder: the controls that say which rows."""
        self._frame, self._dataset, self._folder = frame, dataset, folder
        self._settings: dict[str, Any] = {}

    def build(self) -> None:
        make = self._frame.texts.make
        with gr.Row(elem_classes="toolbar"):
            self._query = make(
                gr.Textbox, {"label": "page.data.search", "placeholder": "page.data.search_hint"}, max_lines=1,
                elem_id="data-search", min_width=160, scale=3,
            )  # fmt: skip
            self._number = make(
                gr.Textbox, {"label": "page.data.jump", "placeholder": "page.data.jump_hint"}, max_lines=1,
                elem_id="data-jump", min_width=90, scale=1,
            )  # fmt: skip
            with gr.Row(elem_classes="buttons turn-page"):
                self._back = make(
                    gr.Button, {"value": "page.buttons.back"}, size="sm", min_width=80, elem_id="data-back"
                )
                self._next = make(
                    gr.Button, {"value": "page.buttons.next"}, size="sm", min_width=80, elem_id="data-next"
                )
        self._list = gr.HTML(elem_id="data-rows", js_on_load=ON_ROW_CLICK)
        self.view = gr.State(FIRST)

    @property
    def opened(self) -> list[Any]:
        """What ``jump_to`` fills: the place, and the two fields that would contradict it."""
        return [self.view, self._query, self._number]

    @property
    def _asked(self) -> list[Any]:
        frame = self._frame
        return [frame.tab, frame.language, self._folder, self._dataset, self.view, *self._settings.values()]

    @property
    def _shown(self) -> list[Any]:
        return [self._list, self._back, self._next]

    def connect(self, controls: dict[str, Any]) -> None:
        """Args: controls: those of the training form, by option; some decide what the model sees."""
        self._settings = {name: controls[name] for name in SETTINGS if name in controls}
        settings, seen, shown = list(self._settings.values()), self._asked, self._shown
        at_once = {"trigger_mode": "always_last", **QUICK}
        search = {**LONG, "show_progress": "minimal"}
        gr.on(
            [self._frame.tab.change, self._frame.spoken.change, *(each.change for each in settings)],
            self._show, seen, shown, **at_once,
        )  # fmt: skip
        gr.on(
            [self._dataset.change, self._folder.change],
            _other_dataset, seen[2:5], self.opened, **QUICK,
        ).then(self._show, seen, shown, **at_once)  # fmt: skip
        self._query.submit(_searched, [self._query, self.view], self.view, **QUICK).then(
            self._show, seen, shown, **search
        )
        self._number.submit(
            _numbered, [self._number, self.view], [self.view, self._query], **QUICK
        ).then(self._show, seen, shown, **LONG).then(None, js=SHOW_OPEN)  # fmt: skip
        self._back.click(_back, self.view, self.view, **QUICK).then(self._show, seen, shown, **LONG)
        self._next.click(_next, seen[2:5], self.view, **LONG).then(self._show, seen, shown, **LONG)
        toggled = self._list.select(_toggled, self.view, self.view, **QUICK)
        toggled.then(self._show, seen, shown, **at_once).then(None, js=KEEP_FOCUS)

    def opened_by(self, event: Any, views: Any) -> None:
        """Let a click on a row's number elsewhere open it here. Args: views: the ``gr.Tabs`` that this is one of."""
        clicked = event(_clicked_elsewhere, self._asked[2:5], [*self.opened, views], **QUICK)
        clicked.then(self._show, self._asked, self._shown, **LONG).then(None, js=SHOW_OPEN)

    def _show(self, tab: str, language: str, folder: str, name: str, view: dict[str, Any], *raw: Any) -> list[Any]:
        if tab != "data":
            return [gr.skip()] * 3
        if not name:
            empty = f'<div class="empty">{escaped(words("page.data.nothing_chosen", language))}</div>'
            return [empty, gr.update(interactive=False), gr.update(interactive=False)]
        can_go_back = view["start"] > 0 or len(view["after"]) > 1
        try:
            entry = allowed_entry(folder, name)
            rows, total = _rows(entry, view)
            shown = _heading(name, rows, total, view, language) + "".join(
                self._row(entry, number, row, view, language, raw) for number, row in rows
            )
        except UserError as error:
            shown, rows, total = notice("error", marked(error.text(language))), [], None
        is_last = len(rows) < ROWS or (total is not None and not view["query"] and view["start"] + ROWS >= total)
        return [shown, gr.update(interactive=can_go_back), gr.update(interactive=not is_last)]

    def _row(
        self, entry: Entry, number: int, row: Row | UserError, view: dict[str, Any], language: str, raw: Sequence[Any]
    ) -> str:
        is_open = number == view["open"]
        clicked = " data-clicked" if number == view.get("clicked") else ""
        head = (
            f'<button type="button" data-row="{number}"{clicked} aria-expanded="{str(is_open).lower()}">'
            f"{escaped(words('page.data.row', language, row=number))}"
            f'<span class="more">{escaped(words("page.data.seen_button", language))}</span></button>'
        )
        seen = self._seen(entry, number, row, language, raw) if is_open else ""
        turns = row_conversation(row, entry, number, language)
        return (
            f'<section class="row-card data-row{" open" if is_open else ""}" aria-label="{number}">'
            f'<header>{head}</header><div class="turns">{turns}</div>{seen}</section>'
        )

    def _seen(self, entry: Entry, number: int, row: Row | UserError, language: str, raw: Sequence[Any]) -> str:
        if isinstance(row, UserError):
            return ""
        try:
            example = to_example(row, entry, number)
        except UserError:
            return ""  # the row itself says what is wrong with it
        try:
            return as_the_model_sees(settings_job(self._settings, raw, entry.name), example, language)
        except UserError as error:
            return f'<div class="seen">{refusal(error, language)}</div>'


def _other_dataset(folder: str, name: str | None, view: dict[str, Any]) -> list[Any]:
    """Begin at the first row, unless the place is one in this dataset already: a reload tells of old choices late."""
    return [gr.skip()] * 3 if view["of"] == [folder, name] else [{**FIRST, "of": [folder, name]}, "", ""]


def _clicked_elsewhere(event: gr.EventData, folder: str, name: str, view: dict[str, Any]) -> list[Any]:
    if not event.row:
        return [gr.skip()] * 4
    return [jump_to(event.row, {**view, "of": [folder, name]}), "", "", gr.Tabs(selected="browse")]


def jump_to(row: int, view: dict[str, Any]) -> dict[str, Any]:
    """The page that begins with a row, that row open; a search is over."""
    return {**FIRST, "of": view["of"], "start": max(0, row - 1), "open": row}


def _rows(entry: Entry, view: dict[str, Any]) -> tuple[list[tuple[int, Row | UserError]], int | None]:
    if view["query"]:
        return search_rows(entry, view["query"], view["after"][-1], ROWS), None
    return page_of_rows(entry, view["start"], ROWS)


def _heading(name: str, rows: list[Any], total: int | None, view: dict[str, Any], language: str) -> str:
    if view["query"]:
        key = "page.data.found" if rows else "page.data.found_none"
        text = words(key, language, count=len(rows), text=view["query"])
    elif not rows:
        text = words("page.data.no_such_row", language, total="?" if total is None else total)
    else:
        facts = {"first": rows[0][0], "last": rows[-1][0], "total": "?" if total is None else f"{total:,}"}
        text = words("page.rows.heading", language, name=name, **facts)
    return f'<h4 aria-live="polite">{escaped(text)}</h4>'


def _searched(query: str | None, view: dict[str, Any]) -> dict[str, Any]:
    text = (query or "").strip()
    return {**FIRST, "of": view["of"], "query": text, "open": None if text else 1}


def _numbered(number: str | None, view: dict[str, Any]) -> list[Any]:
    text = (number or "").strip().replace(",", "")
    return [jump_to(int(text), view), ""] if text.isdecimal() and int(text) else [view, gr.skip()]


def _next(folder: str, name: str, view: dict[str, Any]) -> dict[str, Any]:
    """The page behind this one; after a search, the matches behind the last one that is shown."""
    if not view["query"]:
        return {**view, "start": view["start"] + ROWS, "after": [0], "open": None}
    try:
        rows, _ = _rows(allowed_entry(folder, name), view)
    except UserError:
        rows = []
    return {**view, "after": [*view["after"], rows[-1][0]], "open": None} if rows else view


def _back(view: dict[str, Any]) -> dict[str, Any]:
    return {**view, "start": max(0, view["start"] - ROWS), "after": view["after"][:-1] or [0], "open": None}


def _toggled(event: gr.EventData, view: dict[str, Any]) -> dict[str, Any]:
    if not str(event.row).isdecimal():
        return view
    row = int(event.row)
    return {**view, "open": None if view["open"] == row else row, "clicked": row}
