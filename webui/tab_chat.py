"""The Chat tab: load a model, with adapters or as .gguf, and talk with it; the model lives in a worker of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.generation import Generation
from engine.options.jobs import ChatJob
from engine.runs import chat
from engine.runs.folder import Folder
from engine.words import words
from webui import live
from webui.form import Form, notice, problems_in, refusal, warnings_notice
from webui.frame import PRIVATE, QUICK, Frame, Panel
from webui.language import escaped
from webui.ollama_look import model_names
from webui.topbar import checkpoint_choices

PLAIN = ("gguf", "ollama", "system", "temperature", "top_p", "max_new_tokens", "sampling_seed")
ADVANCED = ("do_sample", "top_k", "repetition_penalty", "context_length", "enable_thinking", "infer_dtype",
            "flash_attn", "model_revision")  # fmt: skip
WIDE = ("gguf", "ollama", "system")
READY_IN_S = 600.0
FOCUS_ON_QUESTION = "() => document.querySelector('#chat-question textarea')?.focus()"


class ChatTab:
    def __init__(self, frame: Frame) -> None:
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
                self._talk = make(
                    gr.Chatbot, {"label": "page.chat.talk", "placeholder": "page.chat.placeholder"},
                    elem_id="chat-talk", height="max(320px, calc(100vh - 386px))", sanitize_html=True, allow_tags=False,
                    buttons=["copy", "copy_all"], feedback_options=None, show_label=False, layout="bubble",
                    reasoning_tags=[("<think>", "</think>")],
                )  # fmt: skip
                with gr.Row(elem_classes="say"):
                    self._question = make(
                        gr.Textbox, {"label": "page.chat.question", "placeholder": "page.chat.question_hint"},
                        lines=1, max_lines=8, show_label=False, elem_id="chat-question", scale=8, autofocus=False,
                    )  # fmt: skip
                    self._send = make(
                        gr.Button, {"value": "page.buttons.send"}, variant="primary", elem_id="chat-send", scale=1,
                        min_width=80,
                    )  # fmt: skip
                    self._stop = make(
                        gr.Button, {"value": "page.buttons.stop"}, elem_id="chat-stop", scale=1, min_width=80,
                    )  # fmt: skip
                    self._clear = make(
                        gr.Button, {"value": "page.buttons.clear"}, elem_id="chat-clear", scale=1, min_width=80,
                    )  # fmt: skip
                self._notice = gr.HTML(elem_id="chat-notice", js_on_load=None)

    def _build_settings(self) -> None:
        make = self._frame.texts.make
        with gr.Row(elem_classes="fields"):
            for name in PLAIN:
                own = {"elem_classes": "wide"} if name in WIDE else {}
                if name == "ollama":  # a box that offers what the server has
                    shows = {"label": "options.ollama.label", "info": "options.ollama.help"}
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
                self.form.add(name)

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

        button.click(fill, inputs, outputs, **QUICK).then(
            self._on_load, [self._frame.language, *self.form.inputs], [self._notice, *self.form.inputs],
            trigger_mode="once", concurrency_limit=None, **PRIVATE,
        )  # fmt: skip

    def connect(self) -> None:
        form, language = self.form, self._frame.language
        self._frame.panels.append(Panel("chat", [], [self._status, self._load, self._unload], _watched))
        form.connect_visibility()
        in_ollama = form.controls["ollama"]
        in_ollama.focus(lambda: gr.update(choices=["", *model_names()]), None, in_ollama, **QUICK)
        self._load.click(
            self._on_load, [language, *form.inputs], [self._notice, *form.inputs], trigger_mode="once",
            concurrency_limit=None, **PRIVATE,
        )  # fmt: skip
        self._unload.click(_on_unload, language, self._notice, trigger_mode="once", concurrency_limit=None, **PRIVATE)
        asked = gr.State("")
        for event in (self._send.click, self._question.submit):
            taken = event(
                _take_question, [self._question, self._talk], [self._question, self._talk, asked, self._send], **QUICK
            )
            answered = taken.then(
                self._on_question, [language, asked, self._talk, *form.inputs], [self._talk, self._notice],
                concurrency_limit=None, **PRIVATE,
            )  # fmt: skip
            answered.then(lambda: [gr.update(interactive=True)] * 2, None, [self._question, self._send], **QUICK).then(
                None, js=FOCUS_ON_QUESTION
            )
        self._stop.click(_on_stop, language, self._notice, **QUICK)
        self._clear.click(lambda: ([], ""), None, [self._talk, self._notice], **QUICK)
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

    def _on_question(
        self, request: gr.Request, language: str, question: str, talk: list[dict], *raw: Any
    ) -> Iterator[list[Any]]:
        """Stream the answer to the last question; what has arrived stays, however the answer ends."""
        if not question:
            yield [gr.skip(), gr.skip()]
            return
        folder = chat.loaded()
        if folder is None:
            yield [gr.skip(), notice("warning", escaped(words("page.chat.nothing_loaded", language)))]
            return
        text = ""
        try:
            job = self.form.job(raw).job
            messages = ([{"role": "system", "content": job.system}] if job.system else []) + spoken(talk)
            sampling = {name: getattr(job, name) for name in Generation.model_fields}
            yield [[*talk, {"role": "assistant", "content": "…"}], ""]
            chat.wait_until_ready(folder, READY_IN_S)
            for piece in chat.answer(folder, messages, request.session_hash, **sampling):
                text += piece.text
                yield [[*talk, {"role": "assistant", "content": text}], _speed(piece, language)]
        except UserError as error:
            yield [gr.skip() if text else talk, refusal(error, language)]


def spoken(talk: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A chatbot's value as plain messages: Gradio keeps a content as a list of parts, and thoughts apart."""
    messages = []
    for turn in talk:
        if (turn.get("metadata") or {}).get("title"):
            continue  # a folded thought is no part of the conversation
        content = turn["content"]
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        messages.append({"role": turn["role"], "content": content})
    return messages


def _take_question(question: str, talk: list[dict]) -> list[Any]:
    """Move what was typed into the conversation at once; until it is answered, there is no next question."""
    question = question.strip()
    if not question:
        return [gr.skip(), gr.skip(), "", gr.skip()]
    asked = [*talk, {"role": "user", "content": question}]
    return [gr.update(value="", interactive=False), asked, question, gr.update(interactive=False)]


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


def _on_stop(language: str, request: gr.Request) -> Any:
    """End this browser's answer; what has arrived stays."""
    folder = chat.loaded()
    try:
        if folder is not None:
            chat.stop_answer(folder, request.session_hash)
    except UserError as error:
        return refusal(error, language)
    return gr.skip()


def _on_unload(language: str) -> str:
    folder = chat.loaded()
    if folder is not None:
        chat.unload(folder)
    live.forget_list()
    return notice("good", escaped(words("page.chat.unloaded", language)))


def _speed(piece: Any, language: str) -> str:
    """After the last piece: how many tokens, how fast, and whether it was cut short."""
    if not piece.is_last:
        return ""
    seconds = piece.seconds or 0
    rate = piece.tokens / seconds if seconds else 0
    text = words("page.chat.speed", language, tokens=piece.tokens, seconds=f"{seconds:.1f}", rate=f"{rate:.1f}")
    if piece.finish_reason in ("length", "stopped"):
        text += " · " + words(f"page.chat.{'cut' if piece.finish_reason == 'length' else 'stopped'}", language)
    return f'<p class="fine">{escaped(text)}</p>'
