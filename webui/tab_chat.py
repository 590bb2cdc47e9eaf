"""The Chat tab: a model is loaded, with adapters or as .gguf, into a worker of its own; below, what it is used for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.options.rules_chat import tools_problem
from engine.runs import chat
from engine.runs.folder import Folder
from engine.words import words
from webui import live
from webui.aloud import SPEAKS
from webui.chat_prompts import ChatPrompts
from webui.chat_room import ChatRoom
from webui.chat_sides import ChatSides
from webui.form import Form, notice, problems_in, refusal, warnings_notice
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped, help_of, in_red, named
from webui.ollama_look import model_names
from webui.settings import Settings
from webui.topbar import checkpoint_choices

PLAIN = ("gguf", "ollama", "system", "temperature", "top_p", "max_new_tokens", "sampling_seed")
ADVANCED = ("do_sample", "top_k", "repetition_penalty", "context_length", "tools", "enable_thinking", "infer_dtype",
            "flash_attn", "model_revision")  # fmt: skip
WIDE = ("gguf", "ollama", "system", "tools")


class ChatTab:
    def __init__(self, frame: Frame, memory: Any) -> None:
        """Args: memory: a ``gr.BrowserState`` outside of the tabs, with the name of the conversation."""
        self._frame = frame
        self.form = Form(ChatJob, frame.texts, "chat-")
        self.form.adopt(frame.top.controls)
        make = frame.texts.make
        with gr.Row(elem_classes="chat"):
            with gr.Column(elem_classes="chat-settings", min_width=260):
                self._build_settings()
            with gr.Column(elem_classes="chat-room", min_width=280):
                with gr.Row(elem_classes="chat-head"):
                    self._status = gr.HTML(elem_id="chat-status", js_on_load=None)
                    self._load = make(
                        gr.Button, {"value": "page.buttons.load"}, variant="primary", elem_id="chat-load", min_width=90
                    )
                    self._unload = make(
                        gr.Button, {"value": "page.buttons.unload"}, elem_id="chat-unload", min_width=90,
                        interactive=False,
                    )  # fmt: skip
                self._notice = gr.HTML(elem_id="chat-notice", js_on_load=SPEAKS, render=False)
                self._compares = make(gr.Checkbox, {"label": "sides.label"}, elem_id="chat-compares", container=False)
                with gr.Column(elem_id="chat-single", elem_classes="chat-room") as self._single:
                    self.room = ChatRoom(frame, self.form, self._notice, memory)
                with gr.Column(elem_id="chat-double", elem_classes="chat-room", visible=False) as self._double:
                    self._sides = ChatSides(frame, self.form, self._notice)
                    self._prompts = ChatPrompts(frame, self.form, self._notice)
                self._notice.render()

    def _build_settings(self) -> None:
        make = self._frame.texts.make
        self._settings = Settings(self._frame, self.form)
        with gr.Row(elem_classes="fields"):
            for name in PLAIN:
                own = {"elem_classes": "wide"} if name in WIDE else {}
                if name == "ollama":  # a box that offers what the server has
                    shows = {"label": "options.ollama.label", "info": named("options.ollama.help", "ollama")}
                    self.form.controls[name] = make(
                        gr.Dropdown,
                        shows,
                        choices=[""],
                        value="",
                        allow_custom_value=True,
                        elem_id="chat-ollama",
                        **own,
                    )
                else:
                    self.form.add(name, **own)
        with make(gr.Accordion, {"label": "page.train.advanced"}, open=False), gr.Row(elem_classes="fields"):
            for name in ADVANCED:
                own = {"elem_classes": "wide"} if name in WIDE else {}
                self.form.add(name, **own)

    def opened_by(self, button: Any, target: Callable[..., dict[str, Any]], inputs: list[Any]) -> None:
        """Let a button elsewhere open its result here, and load it.

        Args:
            target: from the inputs' values: ``{"model": …, "adapters": […]}``, ``{"gguf": …}`` or
                ``{"ollama": …}``; empty for nothing.
        """
        top = self._frame.top
        served = [self.form.controls["gguf"], self.form.controls["ollama"]]
        outputs = [top.path, top.adapters, *served, self._frame.tabs, self._frame.tab]

        def fill(*values: Any) -> list[Any]:
            found = target(*values)
            if not found:
                return [gr.skip()] * len(outputs)
            adapters = found.get("adapters", [])
            model = found.get("model")
            shown = gr.update(value=adapters, choices=checkpoint_choices(model)) if model else gr.skip()
            served = [found.get("gguf", ""), found.get("ollama", "")]
            return [model or gr.skip(), shown, *served, gr.Tabs(selected="chat"), "chat"]

        button.click(fill, inputs, outputs, **FREE).then(
            self._on_load, [self._frame.language, *self.form.inputs], [self._notice, *self.form.inputs],
            trigger_mode="once", **FREE,
        )  # fmt: skip

    def connect(self) -> None:
        form, language = self.form, self._frame.language
        self._frame.panels.append(Panel("chat", [], [self._status, self._load, self._unload], _watched))
        form.connect_visibility()
        in_ollama = form.controls["ollama"]
        in_ollama.focus(lambda: gr.update(choices=["", *model_names()]), None, in_ollama, **QUICK)
        self._load.click(
            self._on_load, [language, *form.inputs], [self._notice, *form.inputs], trigger_mode="once",
            **FREE,
        )  # fmt: skip
        self._unload.click(_on_unload, language, self._notice, trigger_mode="once", **FREE)
        self._compares.input(
            lambda is_on: [gr.update(visible=not is_on), gr.update(visible=is_on), ""], self._compares,
            [self._single, self._double, self._notice], **QUICK,
        )  # fmt: skip
        form.controls["tools"].blur(_look_at_tools, [language, form.controls["tools"]], form.controls["tools"], **QUICK)
        self.room.connect()
        self._sides.connect()
        self._prompts.connect()
        self._settings.connect(self._notice)
        self._frame.notices.append(self._notice)

    def _on_load(self, language: str, *raw: Any) -> list[Any]:
        """Load what the form says, in place of what is loaded now."""
        try:
            job, warnings = self.form.job(raw)
            current = chat.loaded()
            if current is not None:
                chat.unload(current)
            chat.load(job, language)
        except UserError as error:
            return [refusal(error, language), *self.form.notes(problems_in(error), language)]
        live.forget_list()
        return [warnings_notice(warnings, language), *self.form.notes((), language)]


def _look_at_tools(language: str, text: str) -> dict[str, Any]:
    """Say beside the field what is wrong with it."""
    problem = tools_problem(text) if text.strip() else None
    wrong = in_red(f"⚠ {problem.text(language)}", "tools") if problem else ""
    return gr.update(info=wrong or help_of("tools", language))


def _watched(language: str) -> list[Any]:
    """What is loaded, and whether it can answer."""
    folder = chat.loaded()
    if folder is None:
        latest = live.chosen_run(None, "chat")
        progress = live.look(latest)
        if progress is not None and progress.status in ("failed", "lost"):
            card = live.card(latest, progress, language, escaped(words("page.chat.none", language)))
        else:
            card = _state("", words("page.chat.none", language))
        return [card, gr.update(interactive=True), gr.update(interactive=False)]
    return [_loaded_card(folder, language), gr.update(interactive=True), gr.update(interactive=True)]


def _loaded_card(folder: Folder, language: str) -> str:
    if not chat.is_ready(folder):
        return live.card(folder, live.look(folder), language, escaped(words("page.chat.none", language)))
    return _state("done", words("page.chat.ready", language), live.model_of(folder))


def _state(kind: str, text: str, model: str = "") -> str:
    chip = f'<span class="chip {kind}">{escaped(text)}</span>'
    return f'<div class="chat-state">{chip}<span class="run-name">{escaped(model)}</span></div>'


def _on_unload(language: str) -> str:
    folder = chat.loaded()
    if folder is not None:
        chat.unload(folder)
    live.forget_list()
    return notice("good", escaped(words("page.chat.unloaded", language)))
