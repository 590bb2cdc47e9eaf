"""The Train tab: the form of a training run, the run that is watched, and the bar that starts and stops it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.catalog.devices import devices
from engine.errors import UserError
from engine.options.command import preview
from engine.options.jobs import TrainJob
from engine.options.option import about
from engine.runs.folder import Folder
from engine.runs.launch import device_choices, has_several
from engine.runs.queue import submit
from engine.runs.stop import ask_to_stop, end_now
from engine.words import words
from webui import live
from webui.aloud import SPEAKS
from webui.curve_view import CurveView
from webui.dataset_rows import DatasetRows, dataset_names
from webui.form import SHOW_FIRST_PROBLEM, Form, notice, problems_in, refusal, warnings_notice
from webui.frame import FREE, QUICK, Frame, Panel
from webui.guide import Guide, target_of_training
from webui.language import escaped, explained
from webui.log_view import LogView
from webui.notify import notify_toggle
from webui.preflight import Preflight
from webui.presets import Presets
from webui.queue import QueuePanel, queued_notice
from webui.retry import ON_CLICK, connect_retry, with_retry
from webui.settings import Settings

SECTIONS = (
    "tuning", "data", "preference", "reinforcement", "training", "optimizers", "objective", "lora", "oft", "freeze",
    "quantization", "vocabulary", "model",
)  # fmt: skip
ELSEWHERE = {"infer_dtype"}  # no use for training here
LAST = ("output_dir",)
WIDE = ("stage", "dataset", "output_dir", "default_system")


class TrainTab:
    """Builds the tab inside the ``gr.Tab`` that is open now."""

    def __init__(self, frame: Frame, shown: Any, guide: Any) -> None:
        """Build it.

        Args:
            shown: a ``gr.State`` with the name of the run to watch, or None for the active or latest one.
            guide: a ``gr.BrowserState`` outside of the tabs: whether the guide is put away.
        """
        self._frame, self._texts, self.shown = frame, frame.texts, shown
        self.form = Form(TrainJob, frame.texts)
        self.form.adopt(frame.top.controls, owns=True)
        self._guide = Guide(frame, guide)
        with gr.Row(elem_classes="train"):
            with gr.Column(elem_classes="train-form", min_width=280):
                self._build_form()
            with gr.Column(elem_classes="train-live", min_width=280):
                self._build_live()
        self._build_bar()

    def _build_form(self) -> None:
        self._presets = Presets(self._frame, self.form)
        plain, advanced = self._levels("plain"), self._levels("advanced")
        self._settings = Settings(self._frame, self.form)
        for group, names in plain.items():
            self._section(group, names)
        found = devices()
        if has_several(found):
            self._section("devices", self._names("devices", "advanced"), {"devices": device_choices(found)})
        with self._texts.make(gr.Accordion, {"label": "page.train.advanced"}, open=False, elem_id="train-advanced"):
            for group, names in advanced.items():
                self._section(group, names)
            self.form.add_further()

    def _levels(self, level: str) -> dict[str, list[str]]:
        """Group → its options of this level that are not in the top bar."""
        found = {group: self._names(group, level) for group in SECTIONS}
        return {group: names for group, names in found.items() if names}

    def _names(self, group: str, level: str) -> list[str]:
        options = next(each for each in TrainJob.groups() if each.__name__.lower() == group)
        names = [
            name for name, field in options.model_fields.items()
            if about(field, "level") == level and name not in self.form.controls and name not in ELSEWHERE
        ]  # fmt: skip
        return sorted(names, key=lambda name: name in LAST)

    def _section(self, group: str, names: list[str], choices: dict[str, Any] | None = None) -> None:
        """Args: choices: what a drop-down offers, by option, where that is not known from its declaration."""
        with gr.Column(elem_classes="section") as section:
            self._texts.make(gr.HTML, {"value": lambda language: _heading(group, language)}, js_on_load=None)
            with gr.Row(elem_classes="fields"):
                for name in names:
                    own = {"choices": dataset_names("data")} if name in ("dataset", "eval_dataset") else {}
                    if choices and name in choices:
                        own = {"choices": choices[name]}
                    wide = {"elem_classes": "wide"} if name in WIDE else {}
                    self.form.add(name, **own, **wide)
            if "dataset" in names:
                self._rows = DatasetRows(self._frame, self.form.controls["dataset_dir"], self.form.controls["dataset"])
        self.form.section(section, names)

    def _build_live(self) -> None:
        self._preflight = Preflight(self._frame, self.form)
        self._card = gr.HTML(elem_id="train-status", js_on_load=ON_CLICK)
        notify_toggle(self._texts)
        self._queue = QueuePanel(self._frame, "train")
        self._curves = CurveView(self._frame, "train")
        self._log = LogView(self._frame, "train", is_open=True)

    def _build_bar(self) -> None:
        make = self._texts.make
        with gr.Column(elem_classes="action-bar", elem_id="train-bar"):
            self.notice = gr.HTML(elem_id="train-notice", js_on_load=SPEAKS)
            self._command = make(
                gr.Code, {"label": "page.train.command"}, language="shell", interactive=False, visible=False,
                elem_id="train-command", buttons=["copy", "download"], max_lines=16, wrap_lines=True,
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self._start = make(
                    gr.Button, {"value": "page.buttons.start"}, variant="primary", elem_id="start", min_width=90
                )  # fmt: skip
                self._stop = make(
                    gr.Button, {"value": "page.buttons.stop_and_save"}, elem_id="stop", interactive=False, min_width=90
                )  # fmt: skip
                self._stop_now = make(
                    gr.Button, {"value": "page.buttons.stop_now"}, variant="stop", elem_id="stop-now",
                    interactive=False, min_width=90,
                )  # fmt: skip
                self._preview = make(
                    gr.Button, {"value": "page.buttons.preview"}, elem_id="preview-command", min_width=90
                )  # fmt: skip
        self._is_previewed = gr.State(False)

    def opens(self, chat: Any) -> None:
        """Let the last step of the guide open what was trained."""
        chat.opened_by(self._guide.chat, target_of_training, [self.shown])

    def connect(self) -> None:
        form, language = self.form, self._frame.language
        self._frame.panels.append(Panel("train", [self.shown], [self._card, self._stop, self._stop_now], _watched))
        form.connect_visibility()
        notes = [self.notice, *form.inputs]
        gr.on(
            [self._start.click, self._guide.start.click], self._on_start, [language, *form.inputs],
            [self.shown, *notes], trigger_mode="once", **FREE,
        ).then(None, js=SHOW_FIRST_PROBLEM)  # fmt: skip
        self._stop.click(_on_stop, [language, self.shown], self.notice, **QUICK)
        self._stop_now.click(
            _on_stop_now, [language, self.shown], self.notice, trigger_mode="once", **FREE
        )  # fmt: skip
        previewed = [self._is_previewed, language, *form.inputs]
        self._preview.click(self._on_preview, previewed, [self._is_previewed, self._command, *notes], **QUICK).then(
            None, js=SHOW_FIRST_PROBLEM
        )
        gr.on(
            [each.change for each in form.inputs], self._on_change, previewed, self._command,
            trigger_mode="always_last", **QUICK,
        )  # fmt: skip
        connect_retry(self._frame, self._card, self.notice, self.shown)
        self._queue.connect(self.notice)
        self._curves.connect("train", self.shown, lambda name: live.chosen_run(name, "train"), self.notice)
        self._log.connect("train", self.shown, lambda name: live.chosen_run(name, "train"), self.notice)
        self._frame.notices.append(self.notice)
        names = [form.controls["dataset"], form.controls["eval_dataset"]]
        folder = form.controls["dataset_dir"]
        for event in (folder.change, names[0].focus):
            event(lambda path: [gr.update(choices=dataset_names(path))] * 2, folder, names, **QUICK)
        self._rows.connect()
        self._settings.connect(self.notice)
        self._preflight.connect()
        self._presets.connect()
        self._guide.connect(form, self._presets, self.shown, self.notice)

    def _on_start(self, request: gr.Request, language: str, *raw: Any) -> list[Any]:
        """Start what the form says, or queue it where the device is taken; then watch what runs."""
        try:
            job, warnings = self.form.job(raw)
            folder = submit(job, language, token=request.session_hash)
        except UserError as error:
            return [gr.skip(), refusal(error, language), *self.form.notes(problems_in(error), language)]
        live.forget_list()
        told = queued_notice(folder, language) + warnings_notice(warnings, language)
        return [None, told, *self.form.notes((), language)]

    def _on_preview(self, is_shown: bool, language: str, *raw: Any) -> list[Any]:
        """Show the command, or put it away again."""
        if is_shown:
            return [False, gr.update(visible=False), "", *self.form.notes((), language)]
        try:
            job, warnings = self.form.job(raw)
        except UserError as error:
            problems = self.form.notes(problems_in(error), language)
            return [False, gr.update(visible=False), refusal(error, language), *problems]
        shown = gr.update(value=preview(job), visible=True)
        return [True, shown, warnings_notice(warnings, language), *self.form.notes((), language)]

    def _on_change(self, is_shown: bool, language: str, *raw: Any) -> Any:
        """Keep the command true to the form for as long as it is shown."""
        if not is_shown:
            return gr.skip()
        try:
            return preview(self.form.job(raw).job)
        except UserError:
            return "# " + words("page.train.command_incomplete", language)


def _watched(language: str, shown: str | None) -> list[Any]:
    folder = live.chosen_run(shown, "train")
    progress = live.look(folder)
    is_active = live.is_active(progress)
    is_stopping = progress is not None and progress.status == "stopping"
    return [
        with_retry(
            live.card(folder, progress, language, escaped(words("guide.nothing_yet", language))),
            folder,
            progress,
            language,
        ),
        gr.update(interactive=is_active and not is_stopping),
        gr.update(interactive=is_active),
    ]


def _on_stop(language: str, shown: str | None) -> str:
    folder = _active(shown)
    if folder is None:
        return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
    ask_to_stop(folder)
    return notice("good", escaped(words("page.train.stopping", language)))


def _on_stop_now(language: str, shown: str | None) -> str:
    folder = _active(shown)
    if folder is None:
        return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
    end_now(folder)
    return notice("good", escaped(words("page.train.stopped_now", language)))


def _active(shown: str | None) -> Folder | None:
    """The run on the screen, if it is alive."""
    folder = live.chosen_run(shown, "train")
    return folder if live.is_active(live.look(folder)) else None


def _heading(group: str, language: str) -> str:
    return f"<h3>{explained(words(f'groups.{group}.label', language), language)}</h3>"
