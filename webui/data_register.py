"""A visitor's own file: dragged in, recognised or mapped by hand, shown, registered under a name; and taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from engine.catalog.entry import SOURCES, Entry, description_of
from engine.catalog.pages import page_of_rows
from engine.catalog.recognise import columns_of, recognise, unused_columns
from engine.catalog.register import NAME_LENGTH, Registration, add_file, is_name, register, undo
from engine.catalog.rows import Row
from engine.errors import UserError
from engine.words import words
from webui.access.allowed import allowed_path
from webui.aloud import SPEAKS
from webui.data_columns import ColumnControls, format_of, mapped_entry, roles_in
from webui.dataset_rows import dataset_names, row_conversation
from webui.form import notice
from webui.frame import FREE, QUICK, Frame
from webui.language import escaped, marked

PREVIEW_ROWS = 2
LONGEST_NAME = 60


class DataRegister:
    def __init__(self, frame: Frame, folder: Any) -> None:
        """Args: folder: the control of the dataset folder, where files are registered."""
        self._frame, self._folder = frame, folder
        make = frame.texts.make
        self._upload = make(gr.File, {"label": "page.data.upload"}, elem_id="data-upload", height=150)
        self._path = gr.State(None)
        self._done = gr.State(None)
        self._notice = gr.HTML(elem_id="data-upload-notice", js_on_load=SPEAKS)
        with gr.Column(visible=False, elem_id="data-file", elem_classes="data-file") as self._details:
            self._preview = gr.HTML(elem_id="data-preview", js_on_load=None)
            with make(
                gr.Accordion, {"label": "page.data.columns"}, open=False, elem_id="data-columns"
            ) as self._mapping:
                self._columns = ColumnControls(frame)
            self._name = make(
                gr.Textbox, {"label": "page.data.name", "info": "page.data.name_help"}, max_lines=1, max_length=200,
                elem_id="data-name",
            )  # fmt: skip
            self._register = make(
                gr.Button, {"value": "page.data.register"}, variant="primary", elem_id="data-register", min_width=120
            )
        self._undo = make(gr.Button, {"value": "page.data.undo"}, visible=False, size="sm", elem_id="data-undo")

    def connect(self, dataset: Any, others: list[Any]) -> None:
        """Args: dataset: the drop-down that a new dataset is chosen in; others: drop-downs that have to know it."""
        language = self._frame.language
        details = [self._notice, self._details, self._preview, self._mapping, *self._columns.inputs, self._name]
        self._upload.upload(
            self._on_upload, [language, self._folder, self._upload], [self._path, *details, self._undo],
            trigger_mode="once", **FREE,
        )  # fmt: skip
        self._upload.clear(
            lambda: [None, "", gr.update(visible=False)], None, [self._path, self._notice, self._details], **QUICK
        )
        mapped = [language, self._path, *self._columns.inputs]
        self._columns.connect(self._preview_again, mapped, self._preview)
        self._frame.spoken.change(self._preview_again, mapped, self._preview, **QUICK)
        lists = [dataset, *others]
        self._register.click(
            self._on_register, [language, self._folder, self._path, self._name, *self._columns.inputs],
            [self._notice, self._done, self._undo, self._details, self._upload, *lists],
            trigger_mode="once", **FREE,
        )  # fmt: skip
        self._undo.click(
            self._on_undo, [language, self._folder, dataset, self._done],
            [self._notice, self._done, self._undo, *lists], trigger_mode="once", **QUICK,
        )  # fmt: skip
        self._others = len(others)
        self._frame.notices.append(self._notice)

    def _on_upload(self, language: str, folder: str, path: str | None) -> list[Any]:
        """Say what a file is and show its first rows; open the drop-downs where that is not clear."""
        unchanged = [gr.skip()] * (len(self._columns.inputs) + 1)
        if not path:
            return [None, "", gr.update(visible=False), "", gr.skip(), *unchanged, gr.skip()]
        try:
            columns, entry, refused = columns_of(Path(path)), None, ""
            try:
                entry = recognise(Path(path))
            except UserError as error:
                if error.key != "dataset_unrecognised":
                    raise
                refused = notice("warning", marked(words("page.data.not_recognised", language)))
            rows = _first_rows(entry or Entry(path, Path(path)))
        except UserError as error:
            told = notice("error", marked(_without_folder(error.text(language), path)))
            return [None, told, gr.update(visible=False), "", gr.skip(), *unchanged, gr.update(visible=False)]
        filled = self._columns.filled(entry, columns, _rows_alone(rows))
        if entry is None:
            shown = self._preview_again(language, path, *[update["value"] for update in filled])
        else:
            shown = _preview(entry, language, rows)
        return [
            path, refused, gr.update(visible=True), shown, gr.update(open=entry is None), *filled,
            proposed_name(path, dataset_names(folder)), gr.update(visible=False),
        ]  # fmt: skip

    def _on_register(self, language: str, folder: str, path: str | None, name: str, *mapped: str) -> list[Any]:
        """Copy the file into the dataset folder and register it; all lists know the name at once."""
        unchanged = [gr.skip()] * (5 + self._others)
        if not path:
            return [notice("warning", escaped(words("page.data.no_file", language))), *unchanged]
        name = (name or "").strip()
        try:
            done = register_copy(allowed_path(folder), self._entry(Path(path), list(mapped)), Path(path), name)
        except UserError as error:
            return [notice("error", marked(error.text(language))), *unchanged]
        names = dataset_names(folder)
        told = notice("good", escaped(words("page.data.registered", language, name=name)))
        chosen = gr.update(choices=names, value=name)
        others = [gr.update(choices=names)] * self._others
        return [told, done, gr.update(visible=True), gr.update(visible=False), None, chosen, *others]

    def _preview_again(self, language: str, path: str | None, *mapped: str) -> str:
        """The first rows as the drop-downs would have them read."""
        if not path:
            return ""
        try:
            entry = self._entry(Path(path), list(mapped))
            if not roles_in(entry):
                return f'<p class="fine">{escaped(words("page.data.map_first", language))}</p>'
            return _preview(entry, language, _first_rows(entry))
        except UserError as error:
            return notice("error", marked(_without_folder(error.text(language), path)))

    def _entry(self, path: Path, mapped: list[str]) -> Entry:
        """What the drop-downs say; as long as nobody touched them, all that was recognised, which may be more."""
        try:
            entry = recognise(path)
        except UserError:
            return mapped_entry(path, *mapped)
        filled = self._columns.filled(entry, columns_of(path), _rows_alone(_first_rows(entry)))
        return entry if mapped == [each["value"] for each in filled] else mapped_entry(path, *mapped)

    def _on_undo(self, language: str, folder: str, chosen: str, done: Registered | None) -> list[Any]:
        if done is None:
            return [gr.skip()] * (4 + self._others)
        try:
            undo(done.registration)
        except UserError as error:
            return [notice("error", marked(error.text(language))), *[gr.skip()] * (3 + self._others)]
        done.copy.unlink(missing_ok=True)
        names = dataset_names(folder)
        value = {} if chosen in names else {"value": names[0] if names else None}
        told = notice("good", escaped(words("page.data.undone", language)))
        lists = [gr.update(choices=names, **value), *[gr.update(choices=names)] * self._others]
        return [told, None, gr.update(visible=False), *lists]


def proposed_name(path: str, taken: list[str]) -> str:
    """A short name from a file's name, of letters, digits, "-" and "_"; with a number where it is taken."""
    stem = re.sub(r"[^\w\-]+", "_", Path(path).stem)[:LONGEST_NAME].strip("_-") or "dataset"
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name


class Registered(NamedTuple):
    """A dataset that was made here, so that it can be undone."""

    registration: Registration
    copy: Path


def register_copy(place: Path, entry: Entry, source: Path, name: str) -> Registered:
    """Put a copy of a file into the dataset folder, to be read as an entry says; both, or neither.

    Raises:
        UserError: the name is taken or not possible, or the folder cannot be written.
    """
    if not is_name(name):
        raise UserError("dataset_name", name=name, length=NAME_LENGTH)
    target = add_file(place, source, name + source.suffix)
    here = dict.fromkeys((*SOURCES, "subset", "folder", "num_samples"))
    try:
        described = description_of(replace(entry, name=name, path=target, inside=place, split="train", **here))
        return Registered(register(place, name, described), target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _first_rows(entry: Entry) -> list[tuple[int, Row | UserError]]:
    return page_of_rows(entry, 0, PREVIEW_ROWS)[0]


def _rows_alone(rows: list[tuple[int, Row | UserError]]) -> list[Row]:
    return [row for _, row in rows if isinstance(row, dict)]


def _preview(entry: Entry, language: str, rows: list[tuple[int, Row | UserError]]) -> str:
    said = escaped(words(f"page.data.is.{format_of(entry)}", language))
    there = {column for _, row in rows if isinstance(row, dict) for column in row}
    roles = "".join(
        f"<li><code>{escaped(column)}</code> → {escaped(words(f'page.map.{role}', language))}</li>"
        for role, column in roles_in(entry)
        if column in there
    )
    shown = "".join(
        f'<section class="row-card" aria-label="{number}">'
        f"{_without_folder(row_conversation(row, entry, number, language), str(entry.path))}</section>"
        for number, row in rows
    )
    return f'<div class="is"><p>{said}</p><ul>{roles}</ul>{left_out(entry, language)}</div>{shown}'


def left_out(entry: Entry, language: str) -> str:
    """A line that names the columns with text from which nothing is learned; empty where there is none."""
    unused = ", ".join(unused_columns(entry.path, entry))
    return f'<p class="fine">{escaped(words("page.data.unused", language, columns=unused))}</p>' if unused else ""


def _without_folder(text: str, path: str) -> str:
    """The visitor knows the file by its name; where an upload is kept for the moment says nothing to anybody."""
    return text.replace(path, Path(path).name).replace(escaped(path), escaped(Path(path).name))
