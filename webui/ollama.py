"""Below a converted model: the Ollama server, a model made there from the .gguf file, and its models to be removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.modelfile import create_commands, suggested_name
from engine.catalog.ollama import ollama_host, remove
from engine.errors import UserError
from engine.options.jobs import OllamaJob
from engine.runs.progress import Progress
from engine.runs.start import start
from engine.runs.stop import ask_to_stop
from engine.words import words
from webui import live
from webui.aloud import SPEAKS
from webui.form import Form, notice, problems_in, refusal
from webui.frame import FREE, PRIVATE, QUICK, Frame, Panel
from webui.job_view import JobView
from webui.language import escaped, marked
from webui.ollama_look import known, look_again, model_names

KIND = "ollama"


class OllamaView:
    """One section of the GGUF tab; what is sent is the result of the tab's latest conversion."""

    def __init__(self, frame: Frame, conversion: JobView) -> None:
        self._frame, self._conversion = frame, conversion
        make = frame.texts.make
        self.form = Form(OllamaJob, frame.texts, "ollama-")
        with gr.Column(elem_classes="section", elem_id="ollama"):
            self._status = gr.HTML(elem_id="ollama-status", js_on_load=None)
            self._commands = make(
                gr.Code, {"label": "ollama.by_hand"}, language="shell", interactive=False, elem_id="ollama-commands",
                buttons=["copy"], lines=2, max_lines=4, wrap_lines=True, visible=False,
            )  # fmt: skip
            with gr.Row(elem_classes="fields"):
                self.form.add("ollama")
                self.form.add("overwrite")
            with gr.Row(elem_classes="buttons"):
                self._create = self._button("ollama.create", "create", variant="primary")
                self._stop = self._button("page.buttons.stop", "stop")
                self._to_chat = self._button("page.buttons.open_in_chat", "open-chat")
            self._notice = gr.HTML(elem_id="ollama-notice", js_on_load=SPEAKS)
            self._card = gr.HTML(elem_id="ollama-run", js_on_load=None)
            with gr.Row(elem_classes="fields"):
                self._model = make(
                    gr.Dropdown, {"label": "ollama.models"}, choices=[], value=None, elem_id="ollama-model"
                )
            with gr.Row(elem_classes="buttons"):
                self._remove = self._button("ollama.remove", "remove")
                self._for_good = self._button(
                    "ollama.remove_for_good", "remove-for-good", visible=False, variant="stop"
                )
                self._keep = self._button("ollama.keep", "keep", visible=False)

    def _button(self, text: str, name: str, **properties: Any) -> Any:
        return self._frame.texts.make(
            gr.Button, {"value": text}, elem_id=f"ollama-{name}", min_width=90, size="sm", **properties
        )

    def opens(self, chat: Any) -> None:
        chat.opened_by(self._to_chat, _chat_target, [])

    def connect(self) -> None:
        form, language = self.form, self._frame.language
        shown = [self._status, self._commands, self._card, self._create, self._stop, self._to_chat, self._model,
                 self._remove, form.controls["ollama"]]  # fmt: skip
        self._frame.panels.append(Panel("gguf", [], shown, self._watched))
        self._create.click(
            self._on_create, [language, *form.inputs], [self._notice, *form.inputs], trigger_mode="once",
            **FREE,
        )  # fmt: skip
        self._stop.click(_on_stop, language, self._notice, **QUICK)
        asked = [self._notice, self._for_good, self._keep]
        self._remove.click(_on_ask, [language, self._model], asked, **QUICK)
        self._keep.click(lambda: ["", *_hidden()], None, asked, **QUICK)
        self._for_good.click(
            _on_remove, [language, self._model], [*asked, self._model], trigger_mode="once", concurrency_limit=None,
            **PRIVATE,
        )  # fmt: skip
        self._frame.notices.append(self._notice)

    def _watched(self, language: str) -> list[Any]:
        seen, file, modelfile = known(), self._file(), self._conversion.result().get("modelfile")
        run = live.chosen_run(None, KIND)
        progress = live.look(run)
        is_active, is_done = live.is_active(progress), progress is not None and progress.status == "done"
        card = live.card(run, progress, language, "") + (_summary(progress, language) if is_done else "") if run else ""
        by_hand = create_commands(suggested_name(file), modelfile) if seen.error and file and modelfile else ""
        return [
            _status(file, language), gr.update(value=by_hand, visible=bool(by_hand)), card,
            gr.update(interactive=bool(file and seen.server) and not is_active),
            gr.update(interactive=is_active and progress.status != "stopping"), gr.update(interactive=is_done),
            gr.update(choices=model_names()), gr.update(interactive=bool(model_names())),
            gr.update(placeholder=suggested_name(file) if file else ""),
        ]  # fmt: skip

    def _file(self) -> str | None:
        """The latest conversion's file; that of an adapter alone is no model."""
        result = self._conversion.result()
        return None if result.get("adapter") else result.get("outfile")

    def _on_create(self, language: str, *raw: Any) -> list[Any]:
        """Make the model; a box that was left empty means the name that stands in it in grey."""
        file = self._file()
        running = live.active_run(KIND)
        if not file or running:
            text = words("page.train.already_running", language, name=running.name) if running else ""
            return [notice("error", escaped(text or words("ollama.no_file", language))), *self.form.notes((), language)]
        try:
            name = self.form.values(raw)["ollama"] or suggested_name(file)
            job, _ = self.form.job(raw, ollama=name, gguf=str(file))
            start(job, language)
        except UserError as error:
            return [refusal(error, language), *self.form.notes(problems_in(error), language)]
        live.forget_list()
        return ["", *self.form.notes((), language)]


def _status(file: str | None, language: str) -> str:
    """Whether a server answers, and what would be sent to it."""
    seen = known()
    heading = f"<h3>{escaped(words('ollama.heading', language))}</h3>"
    if seen.error:
        return heading + notice("warning", marked(seen.error.text(language)))
    if seen.server is None:
        return heading + f'<p class="fine">{escaped(words("ollama.looking", language, host=ollama_host()))}</p>'
    lines = [words("ollama.answers", language, version=seen.server.version, host=seen.server.host)]
    if not seen.server.models:
        lines.append(words("ollama.none", language))
    lines.append(
        words("ollama.will_send", language, file=Path(file).name) if file else words("ollama.no_file", language)
    )
    return heading + f'<p class="fine">{escaped(" ".join(lines))}</p>'


def _summary(progress: Progress, language: str) -> str:
    result = progress.result
    text = words("ollama.done", language, name=result.get("ollama", ""), host=result.get("host", ""))
    if result.get("sent") is False:
        text += " " + words("ollama.had_it", language)
    return notice("good", escaped(text))


def _chat_target() -> dict[str, Any]:
    progress = live.look(live.chosen_run(None, KIND))
    is_done = progress is not None and progress.status == "done"
    return {"ollama": progress.result["ollama"]} if is_done else {}


def _on_stop(language: str) -> str:
    folder = live.chosen_run(None, KIND)
    if folder is None or not live.is_active(live.look(folder)):
        return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
    ask_to_stop(folder)
    return notice("good", escaped(words("page.stopping", language)))


def _on_ask(language: str, name: str | None) -> list[Any]:
    if not name:
        return [notice("warning", escaped(words("ollama.choose", language))), *_hidden()]
    text = escaped(words("ollama.would_remove", language, name=name))
    return [notice("warning", text), gr.update(visible=True), gr.update(visible=True)]


def _on_remove(language: str, name: str | None) -> list[Any]:
    if not name:
        return [*_on_ask(language, name), gr.skip()]
    try:
        remove(name)
        said = notice("good", escaped(words("ollama.removed", language, name=name, host=ollama_host())))
    except UserError as error:
        said = refusal(error, language)
    look_again()
    return [said, *_hidden(), gr.update(value=None, choices=model_names())]


def _hidden() -> list[Any]:
    return [gr.update(visible=False), gr.update(visible=False)]
