"""Side by side: one question, two answers of one resident model, and which of them is better.

Each question stands alone, so that neither side sees what the other has said.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.generation import Generation
from engine.options.jobs import ChatJob
from engine.runs import chat
from engine.runs.card import renew_card
from engine.runs.read import read_job
from engine.runs.sides import BASE, base_of, side_name
from engine.runs.votes import Round, cast
from engine.words import words
from webui.access.turns import ANSWERS
from webui.chat_room import READY_IN_S
from webui.form import Form, notice, refusal
from webui.frame import FREE, QUICK, Frame
from webui.language import escaped
from webui.talk import WAITING, shown, told
from webui.topbar import checkpoint_choices

CHOICES = ("left", "tie", "bad", "right")
PLACES = ("left", "right")


class ChatSides:
    def __init__(self, frame: Frame, form: Form, notice_box: Any) -> None:
        self._frame, self._form, self._notice = frame, form, notice_box
        make = frame.texts.make
        with gr.Row(elem_classes="buttons sides-chosen"):
            self._chosen = [
                make(
                    gr.Dropdown, {"label": f"sides.{place}", "choices": base_alone}, value=BASE,
                    elem_id=f"side-{place}", min_width=160,
                )
                for place in PLACES
            ]  # fmt: skip
            self._blind = make(
                gr.Checkbox, {"label": "sides.blind", "info": "sides.blind_help"}, elem_id="side-blind", min_width=160
            )
        with gr.Row(elem_classes="sides-answers"):
            self._names, self._talks = [], []
            for place in PLACES:
                with gr.Column(min_width=240):
                    self._names.append(gr.HTML(elem_id=f"side-{place}-name", js_on_load=None))
                    self._talks.append(
                        make(
                            gr.Chatbot, {"label": f"sides.{place}", "placeholder": "sides.placeholder"},
                            elem_id=f"side-{place}-talk", height="max(240px, calc(100vh - 560px))", show_label=False,
                            sanitize_html=True, allow_tags=False, buttons=["copy"], feedback_options=None,
                            layout="bubble", group_consecutive_messages=False,
                        )
                    )  # fmt: skip
        with gr.Row(elem_classes="buttons votes"):
            self._votes = [
                make(
                    gr.Button, {"value": f"sides.vote_{choice}"}, elem_id=f"vote-{choice}", size="sm", min_width=80,
                    interactive=False,
                )
                for choice in CHOICES
            ]  # fmt: skip
        with gr.Row(elem_classes="say"):
            self._question = make(
                gr.Textbox, {"label": "page.chat.question", "placeholder": "sides.question_hint"}, lines=1, max_lines=8,
                show_label=False, elem_id="side-question", scale=8, autofocus=False,
            )  # fmt: skip
            self._send = make(
                gr.Button, {"value": "page.buttons.send"}, variant="primary", elem_id="side-send", scale=1, min_width=80
            )
            self._stop = make(gr.Button, {"value": "page.buttons.stop"}, elem_id="side-stop", scale=1, min_width=80)

    def connect(self) -> None:
        language, said = self._frame.language, self._notice
        self._round, self._answer_id = gr.State(None), gr.State("")
        for place in self._chosen:
            place.focus(_choices, [language, place], place, **QUICK)
        outputs = [
            *self._talks, *self._names, *self._votes, self._round, self._answer_id, said, self._question, self._send,
        ]  # fmt: skip
        for event in (self._send.click, self._question.submit):
            event(
                self._on_question, [language, self._question, *self._chosen, self._blind, *self._form.inputs], outputs,
                trigger_mode="once", **FREE,
            )  # fmt: skip
        self._stop.click(stop_answer, [language, self._answer_id], said, **QUICK)
        for choice, button in zip(CHOICES, self._votes, strict=True):
            button.click(
                lambda language, given, choice=choice: _on_vote(language, given, choice), [language, self._round],
                [*self._names, *self._votes, self._round, said], trigger_mode="once", **QUICK,
            )  # fmt: skip

    def _on_question(
        self, request: gr.Request, language: str, question: str, left: str, right: str, is_blind: bool, *raw: Any
    ) -> Iterator[dict[Any, Any]]:
        """Stream one answer after the other, with the same seed; then let it be said which is better."""
        question = question.strip()
        if not question:
            yield {self._notice: gr.skip()}
            return
        sides = random.sample((left, right), 2) if is_blind else [left, right]
        answer_id = secrets.token_hex(8)
        yield {
            **{talk: [{"role": "user", "content": question}] for talk in self._talks},
            **{name: _heading(language, place, None if is_blind else side)
               for name, place, side in zip(self._names, PLACES, sides, strict=True)},
            **dict.fromkeys(self._votes, gr.update(interactive=False)),
            self._round: None, self._answer_id: answer_id, self._notice: "",
            self._question: gr.update(value="", interactive=False), self._send: gr.update(interactive=False),
        }  # fmt: skip
        free = {self._question: gr.update(interactive=True), self._send: gr.update(interactive=True)}
        try:
            with ANSWERS.taken(request):
                yield from self._answered(language, question, (sides[0], sides[1]), is_blind, answer_id, raw)
            yield free
        except UserError as error:
            yield {**free, self._question: gr.update(value=question, interactive=True),
                   self._notice: refusal(error, language)}  # fmt: skip
        except Exception:
            yield free
            raise

    def _answered(
        self, language: str, question: str, sides: tuple[str, str], is_blind: bool, answer_id: str, raw: tuple
    ) -> Iterator[dict[Any, Any]]:
        """Raises: UserError."""
        folder = chat.loaded()
        if folder is None:
            raise UserError("chat.ended")
        refuse_strangers(sides, language)
        job = self._form.job(raw).job
        asked = asked_of(job)
        turns = [{"role": "user", "content": question}]
        messages = ([{"role": "system", "content": job.system}] if job.system else []) + turns
        chat.wait_until_ready(folder, READY_IN_S)
        answers = []
        for talk, side in zip(self._talks, sides, strict=True):
            yield {talk: shown([*turns, {"role": "assistant", "content": WAITING}], language)}
            for text, piece in told(chat.answer(folder, messages, answer_id, side=side, system=job.system, **asked)):
                said = [*turns, {"role": "assistant", "content": text}]
                yield {talk: shown(said, language, not piece.is_last)}
            if piece.finish_reason == "stopped":
                yield {self._notice: f'<p class="fine">{escaped(words("page.chat.stopped", language))}</p>'}
                return
            answers.append(text)
        given = Round(question, job.system, asked, sides, (answers[0], answers[1]), is_blind)
        note = escaped(words("sides.seed", language, seed=asked["sampling_seed"]))
        yield {
            **dict.fromkeys(self._votes, gr.update(interactive=True)), self._round: asdict(given),
            self._notice: f'<p class="fine">{note}</p>',
        }  # fmt: skip


def asked_of(job: ChatJob) -> dict[str, Any]:
    """How answers that are compared are sampled: as the form says, with one seed for all."""
    asked = {each: getattr(job, each) for each in (*Generation.model_fields, "tools", "enable_thinking")}
    if asked["sampling_seed"] is None:
        asked["sampling_seed"] = secrets.randbelow(2**31)
    return asked


def _on_vote(language: str, given: dict[str, Any] | None, choice: str) -> list[Any]:
    """Keep the vote with the runs concerned, and say who was who."""
    if given is None:
        return [gr.skip()] * (2 + len(CHOICES) + 2)
    of_round = Round(**{**given, "sides": tuple(given["sides"]), "answers": tuple(given["answers"])})
    names = [_heading(language, place, side) for place, side in zip(PLACES, of_round.sides, strict=True)]
    folders = cast(choice, of_round)
    for folder in folders:
        renew_card(folder)
    kept = ", ".join(folder.name for folder in folders)
    text = words("sides.kept", language, runs=kept) if folders else words("sides.not_kept", language)
    said = notice("good" if folders else "warning", escaped(text))
    return [*names, *[gr.update(interactive=False)] * len(CHOICES), None, said]


def stop_answer(language: str, answer_id: str) -> Any:
    folder = chat.loaded()
    try:
        if folder is not None and answer_id:
            chat.stop_answer(folder, answer_id)
    except UserError as error:
        return refusal(error, language)
    return gr.skip()


def _choices(language: str, value: str) -> Any:
    return gr.update(choices=side_choices(language), value=value)


def side_choices(language: str) -> list[tuple[str, str]]:
    """The base that is loaded, and every adapter of finished runs and their checkpoints that was trained beside it."""
    folder = chat.loaded()
    job = read_job(folder) if folder is not None else None
    found = base_alone(language)
    if job is None or job.gguf or job.ollama:
        return found
    adapters = [(name, path) for name, path in checkpoint_choices(job.model_name_or_path)
                if base_of(path) == job.model_name_or_path]  # fmt: skip
    known = {path for _, path in adapters}
    return found + adapters + [(side_name(path), path) for path in job.adapters if path not in known]


def refuse_strangers(sides: Iterable[str], language: str) -> None:
    """Raises: UserError, if one of the sides is none of those that the page offers: a folder that a visitor made up."""
    known = {value for _, value in side_choices(language)}
    for side in sides:
        if side not in known:
            raise UserError("chat.no_such_side", name=side)


def base_alone(language: str) -> list[tuple[str, str]]:
    return [(words("sides.base", language), BASE)]


def _heading(language: str, place: str, side: str | None) -> str:
    """Which answer is whose. Args: side: None: nobody shall know."""
    name = words(f"sides.{place}", language)
    who = "" if side is None else words("sides.base", language) if side == BASE else side_name(side)
    return f'<p class="side-name"><b>{escaped(name)}</b> <span class="run-name">{escaped(who)}</span></p>'
