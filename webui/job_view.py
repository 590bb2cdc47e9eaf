"""A form whose job runs in a worker, the run beside it, and the bar below: what Export and GGUF have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs.progress import Progress
from engine.runs.start import start
from engine.runs.stop import ask_to_stop
from engine.words import words
from webui import live
from webui.aloud import SPEAKS
from webui.empty import nothing_yet
from webui.form import SHOW_FIRST_PROBLEM, Form, notice, problems_in, refusal, warnings_notice
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped
from webui.settings import Settings

_one_start_at_a_time = threading.Lock()


class JobView:
    """Card, log, Start and Stop of the latest run of one kind."""

    def __init__(
        self, frame: Frame, form: Form, kind: str, summary: Callable[[Progress, str], str], needs: str = ""
    ) -> None:
        """
        Args:
            summary: what is said, as HTML, of a run that is done or left a result, from progress and language.
            needs: the tab on which is made what this one takes.
        """
        self._frame, self._form, self._kind, self._summary, self._needs = frame, form, kind, summary, needs
        self.next_buttons: list[Any] = []

    def build_settings(self) -> None:
        self._settings = Settings(self._frame, self._form)

    def build_live(self) -> None:
        self._card = gr.HTML(elem_id=f"{self._kind}-status", js_on_load=None)
        self._result = gr.HTML(elem_id=f"{self._kind}-result", js_on_load=None)
        with gr.Row(elem_classes="buttons next-steps"):
            self._next_place = gr.Row(elem_classes="buttons")
        with self._frame.texts.make(gr.Accordion, {"label": "page.log.label"}, open=True):
            self._log = gr.HTML(elem_id=f"{self._kind}-log", elem_classes="log-view", js_on_load=None)

    def build_next(self, text: str, elem_id: str) -> Any:
        """A button that leads on from a finished run; of use once there is one, unless it made an adapter's file."""
        with self._next_place:
            button = self._frame.texts.make(
                gr.Button, {"value": text}, elem_id=elem_id, interactive=False, variant="primary", min_width=120
            )
        self.next_buttons.append(button)
        return button

    def build_bar(self, start_text: str) -> None:
        make = self._frame.texts.make
        with gr.Column(elem_classes="action-bar"):
            self._notice = gr.HTML(elem_id=f"{self._kind}-notice", js_on_load=SPEAKS)
            with gr.Row(elem_classes="buttons"):
                self._start = make(
                    gr.Button, {"value": start_text}, variant="primary", elem_id=f"{self._kind}-start", min_width=120
                )
                self._stop = make(
                    gr.Button, {"value": "page.buttons.stop"}, elem_id=f"{self._kind}-stop", interactive=False,
                    min_width=90,
                )  # fmt: skip

    def connect(self) -> None:
        form, language = self._form, self._frame.language
        outputs = [self._card, self._result, self._log, self._stop, *self.next_buttons]
        self._frame.panels.append(Panel(self._kind, [], outputs, self._watched))
        self._start.click(
            self._on_start, [language, *form.inputs], [self._notice, *form.inputs],
            trigger_mode="once", **FREE,
        ).then(None, js=SHOW_FIRST_PROBLEM)  # fmt: skip
        self._stop.click(self._on_stop, language, self._notice, **QUICK)
        self._settings.connect(self._notice)
        self._frame.notices.append(self._notice)

    def result(self) -> dict[str, Any]:
        """What the run on the screen left behind; empty unless it is done."""
        progress = live.look(live.chosen_run(None, self._kind))
        return progress.result if progress and progress.status == "done" else {}

    def _watched(self, language: str) -> list[Any]:
        folder = live.chosen_run(None, self._kind)
        progress = live.look(folder)
        is_done = progress is not None and progress.status == "done"
        return [
            live.card(folder, progress, language, nothing_yet(f"page.{self._kind}.no_run", language, self._needs)),
            self._summary(progress, language) if progress and (is_done or progress.result) else "",
            live.log(folder, language),
            gr.update(interactive=live.is_active(progress) and progress.status != "stopping"),
            *[gr.update(interactive=is_done and not progress.result.get("adapter")) for _ in self.next_buttons],
        ]

    def _on_start(self, language: str, *raw: Any) -> list[Any]:
        with _one_start_at_a_time:
            running = live.active_run(self._kind)
            if running:
                text = escaped(words("page.train.already_running", language, name=running.name))
                return [notice("error", text), *self._form.notes((), language)]
            try:
                job, warnings = self._form.job(raw)
                start(job, language)
            except UserError as error:
                return [refusal(error, language), *self._form.notes(problems_in(error), language)]
        live.forget_list()
        return [warnings_notice(warnings, language), *self._form.notes((), language)]

    def _on_stop(self, language: str) -> str:
        folder = live.chosen_run(None, self._kind)
        if folder is None or not live.is_active(live.look(folder)):
            return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
        ask_to_stop(folder)
        return notice("good", escaped(words("page.stopping", language)))


def facts_table(rows: list[tuple[str, Any]]) -> str:
    """Names and values, one pair a row; both are escaped here."""
    cells = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in rows)
    return f'<dl class="facts">{cells}</dl>'
