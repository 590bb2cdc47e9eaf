"""The button that fills the form of the Train tab with what was asked of a run, to be changed and asked again.

All controls are set in one answer of the server, and nothing on the page sets one because another has changed: what the
form then says is what the run was asked for.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs.repeat import cloned_job
from engine.words import words
from webui import live
from webui.form import notice, refusal
from webui.frame import FREE, Frame
from webui.language import marked


class Clone:
    """Builds the button here."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._button = frame.texts.make(gr.Button, {"value": "page.buttons.clone"}, size="sm", elem_id="run-clone")

    def connect(self, chosen: Any, kinds: tuple[str, ...], own_notice: Any, train: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run; train: the Train tab, whose form is filled."""
        frame, form = self._frame, train.form

        def fill(language: str, name: str | None) -> list[Any]:
            skipped = [gr.skip()] * (len(form.inputs) + 3)
            folder = live.chosen_run(name, *kinds)
            if folder is None:
                return [notice("error", words("page.runs.none", language)), *skipped]
            try:
                updates, refused = form.filled_from(cloned_job(folder))
            except UserError as error:
                return [refusal(error, language), *skipped]
            told = [words("page.cloned", language, name=folder.name)]
            if refused:
                told.append(words("page.not_cloned", language, options=", ".join(refused)))
            said = notice("warning" if refused else "good", "<br>".join(map(marked, told)))
            return ["", said, gr.Tabs(selected="train"), "train", *updates]

        self._button.click(
            fill, [frame.language, chosen], [own_notice, train.notice, frame.tabs, frame.tab, *form.inputs],
            trigger_mode="once", **FREE,
        )  # fmt: skip
