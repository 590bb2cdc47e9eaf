"""Two buttons below a run: do it again exactly, and take away a zip for a bug report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import Refused, UserError
from engine.runs.diagnostics import diagnose, file_name
from engine.runs.queue import submit
from engine.runs.repeat import repeated_job
from engine.words import words
from webui import live
from webui.form import notice, refusal
from webui.frame import FREE, Frame
from webui.language import escaped, marked
from webui.queue import queued_notice

TAKE = """
() => setTimeout(() => {
  const made = document.querySelector('#run-diagnostics-file');
  (made?.matches('a, button') ? made : made?.querySelector('a, button'))?.click();
}, 300)
"""
"""What was made for a visitor is taken at once; the zip's own button is not in sight."""


class RunActions:
    """The buttons; which run they are for is said by ``connect``."""

    def __init__(self, frame: Frame, kinds: tuple[str, ...]) -> None:
        self._frame, self._kinds = frame, kinds
        make = frame.texts.make
        with gr.Row(elem_classes="buttons run-actions") as self.row:
            self._repeat = make(gr.Button, {"value": "page.buttons.repeat"}, size="sm", elem_id="run-repeat")
            self._diagnose = make(gr.Button, {"value": "page.buttons.diagnose"}, size="sm", elem_id="run-diagnose")
            self._file = make(
                gr.DownloadButton, {"label": "page.buttons.diagnose"}, elem_id="run-diagnostics-file",
                elem_classes="out-of-sight",
            )  # fmt: skip

    def connect(self, chosen: Any, own_notice: Any, shown: Any, trains_notice: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run; shown: the one of the run that Train watches."""
        frame = self._frame
        self._repeat.click(
            self._on_repeat, [frame.language, chosen], [own_notice, shown, trains_notice, frame.tabs, frame.tab],
            trigger_mode="once", **FREE,
        )  # fmt: skip
        self._diagnose.click(
            self._on_diagnose, [frame.language, chosen], [self._file, own_notice],
            trigger_mode="once", **FREE,
        ).success(None, js=TAKE)  # fmt: skip

    def _on_repeat(self, request: gr.Request, language: str, chosen: str | None) -> list[Any]:
        skipped = [gr.skip()] * 4
        folder = live.chosen_run(chosen, *self._kinds)
        if folder is None:
            return [notice("error", escaped(words("page.runs.none", language))), *skipped]
        try:
            repeat = repeated_job(folder)
            if repeat.refusals:
                raise Refused(repeat.refusals)
            again = submit(repeat.job, language, request.session_hash)
        except UserError as error:
            return [refusal(error, language), *skipped]
        live.forget_list()
        told = [words("page.repeating", language, name=folder.name)]
        told += [problem.text(language) for problem in repeat.warnings]
        said = notice("warning" if repeat.warnings else "good", "<br>".join(map(marked, told)))
        said += queued_notice(again, language)
        return ["", None, said, gr.Tabs(selected="train"), "train"]

    def _on_diagnose(self, language: str, chosen: str | None) -> list[Any]:
        folder = live.chosen_run(chosen, *self._kinds)
        if folder is None:
            return [None, notice("error", escaped(words("page.runs.none", language)))]
        made = Path(tempfile.mkdtemp(prefix="lathe-diagnostics-")) / file_name(folder)
        try:
            diagnose(folder, made)
        except UserError as error:
            return [None, refusal(error, language)]
        return [str(made), notice("good", escaped(words("cli.diagnosed", language, path=made.name)))]
